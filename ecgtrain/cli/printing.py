"""What all verbs share: text that a terminal can't obey, JSON, options, progress.

Names of records and files come from elsewhere. So nothing is printed but by :func:`say` and :func:`say_json`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import click

from ecgstore.inner import visible

if TYPE_CHECKING:
    import torch

EXIT_ERROR, EXIT_STOPPED, EXIT_INTERRUPTED = 1, 75, 130
#: Seconds between two lines of progress where there is no terminal to draw on.
LINE_EVERY_S = 5.0

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line on stdout.")
DEVICE = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to compute; auto takes a GPU if there is one.",
)


def say(line: object, *, err: bool = False) -> None:
    """Print one line; what a terminal would obey or hide stands there as an escape."""
    click.echo(visible(line), err=err)


def say_json(answer: object) -> None:
    """Print ``answer`` as one line of JSON."""
    # JSON escapes all but DEL.
    click.echo(json.dumps(answer).replace("\x7f", "\\u007f"))


def device_of(name: str) -> torch.device:
    """The device that ``--device`` names; raises ConfigError where there is none."""
    from ecgstore import ConfigError
    from ecgstore.inner import need

    torch_module = need("torch", "train")
    has_gpu = bool(torch_module.cuda.is_available())
    if name == "cuda" and not has_gpu:
        raise ConfigError("there is no GPU that torch can use", fix="use --device cpu, or install torch for your GPU")
    chosen: torch.device = torch_module.device("cuda" if name != "cpu" and has_gpu else "cpu")
    return chosen


def folds_of(text: str | None) -> list[int] | Literal["all"] | None:
    """The folds that an option names, such as 8,9; None where nothing was said."""
    if text is None or text == "all":
        return None if text is None else "all"
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list of whole numbers", param_hint="--folds") from None


@contextmanager
def progress_bar() -> Iterator[tuple[Callable[[int, int, Mapping[str, float]], None], Callable[[str], None]]]:
    """A bar on a terminal; elsewhere, as in a SLURM log, a plain line every few seconds. On stderr."""
    if not sys.stderr.isatty():
        yield _lines(), lambda line: say(line, err=True)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        before = 0

        def update(done: int, total: int, values: Mapping[str, float]) -> None:
            nonlocal before
            bar = bars.task_ids[0] if bars.task_ids else bars.add_task("training", total=total)
            if done < before:  # another network
                bars.reset(bar, total=total)
            before = done
            bars.update(bar, completed=done, total=total, description=f"training  {_shown(values)}".rstrip())

        yield update, lambda line: bars.console.print(visible(line), highlight=False, markup=False, emoji=False)


def _lines() -> Callable[[int, int, Mapping[str, float]], None]:
    last = time.monotonic()
    first: tuple[int, float] | None = None
    before = 0

    def update(done: int, total: int, values: Mapping[str, float]) -> None:
        nonlocal last, first, before
        now = time.monotonic()
        if first is None or done < before:  # another network
            first = (done, now)
        before = done
        if now - last >= LINE_EVERY_S or done == total:
            last = now
            what = "training: step" if values else "step"  # of a curve, or of a protocol that trains
            said = (f"{what} {done} of {total}", _shown(values), _left(first, done, total, now))
            say("  ".join(filter(None, said)), err=True)

    return update


def _left(first: tuple[int, float], done: int, total: int, now: float) -> str:
    """How long it will take, by the steps taken since ``first`` (step, time)."""
    if done in (first[0], total):
        return ""
    left_s = (now - first[1]) / (done - first[0]) * (total - done)
    return f"{left_s:.0f} s left" if left_s < 120 else f"{left_s / 60:.0f} min left"


def _shown(values: Mapping[str, float]) -> str:
    """The few figures worth a place in the progress line."""
    parts = [f"{name} {value:.3f}" for name, value in values.items() if name not in _NOT_SHOWN]
    if "windows_per_s" in values:
        parts.append(f"{values['windows_per_s']:.0f} windows/s")
    if "waiting" in values:
        parts.append(f"{100 * values['waiting']:.0f} % waiting")
    return "  ".join(parts)


_NOT_SHOWN = frozenset({"loss", "gradient_norm", "alignment", "uniformity", "windows_per_s", "waiting"})


@contextmanager
def phases_bar(words: Mapping[str, str]) -> Iterator[Callable[[str, int, int], None]]:
    """Progress of work in phases, told as (phase, done, total), each under its word of ``words``; on stderr.

    A bar on a terminal; elsewhere a line every few seconds, and none for what is done sooner.
    """
    if not sys.stderr.isatty():
        last = time.monotonic()

        def line(phase: str, done: int, total: int) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= LINE_EVERY_S:
                last = now
                say(f"{words.get(phase, phase)}: {done} of {total}", err=True)

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        shown: dict[str, Any] = {}

        def update(phase: str, done: int, total: int) -> None:
            if phase not in shown:
                shown[phase] = bars.add_task(words.get(phase, phase), total=total)
            bars.update(shown[phase], completed=done, total=total)

        yield update
