"""What all verbs share: text that a terminal can't obey, errors as one line, JSON, progress, words for counts.

Ids, codes and names of files come from elsewhere. So nothing is printed but by :func:`say` and :func:`say_json`.
"""

from __future__ import annotations

import functools
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import click

from ecgstore.errors import EcgError, visible
from ecgstore.terminal import EXIT_INTERRUPTED

F = TypeVar("F", bound=Callable[..., Any])

EXIT_ERROR, EXIT_REJECTED = 1, 3
#: As a shell says it.
EXIT_TERMINATED = 128 + signal.SIGTERM
#: Seconds between two lines of progress where there is no terminal to draw on.
LINE_EVERY_S = 5.0

#: A folder or an address; a Path would make one slash of the two in s3://.
STORE = click.argument("store", type=click.Path())
PHASES = {
    "verify": "checking files",
    "scan": "reading headers",
    "shards": "writing shards",
    "seal": "sealing",
}
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line on stdout.")


def say(*cells: object, err: bool = False, label: str = "") -> None:
    """Print one line, its cells apart by tabs, under a ``label`` if there is one.

    Whatever a terminal would obey or hide stands there as an escape, see :func:`ecgstore.errors.visible`.
    """
    line = "\t".join(visible(cell) for cell in cells)
    click.echo(f"{click.style(f'{label:<12}', bold=True)} {line}" if label else line, err=err)


def plain_errors(command: F) -> F:
    """Turn errors raised on purpose into one line on stderr and an exit status; bugs keep their traceback."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except EcgError as error:
            say(f"error: {error}", err=True)
            sys.exit(EXIT_ERROR)
        except KeyboardInterrupt:
            say("interrupted; run the same command again to go on where it stopped", err=True)
            sys.exit(EXIT_INTERRUPTED)
        except SystemExit as ended:
            if ended.code == EXIT_TERMINATED:
                say("told to end (SIGTERM); run the same command again to go on where it stopped", err=True)
            raise
        except BrokenPipeError:  # the reader, such as `head`, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except OSError as error:  # a file or folder that can't be read or written, not a bug
            from ecgstore.storage import disk

            where = f"; in {error.filename}" if error.filename is not None else ""
            refused = f"the file system refuses: {error.strerror or error}{where}"
            full = f"{disk.FULL}{where}; {disk.MAKE_ROOM}"
            say(f"error: {full if disk.is_full(error) else refused}", err=True)
            sys.exit(EXIT_ERROR)

    return cast(F, wrapped)


def say_json(answer: Any) -> None:
    """One line of JSON; what JSON has no word for (nan, infinity) becomes null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    # JSON escapes all but DEL.
    click.echo(json.dumps(plain(answer), default=str, allow_nan=False).replace("\x7f", "\\u007f"))


def in_words(counts: Any) -> str:
    return ", ".join(f"{name} × {count}" for name, count in counts.items())


@contextmanager
def progress_bars(phases: dict[str, str]) -> Iterator[Callable[[str, int, int], None]]:
    """A bar per phase on a terminal; elsewhere, as in a SLURM log, a plain line every few seconds. On stderr."""
    if not sys.stderr.isatty():
        yield _lines(phases)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:<16}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def update(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(phases[phase], total=total)
            bars.update(tasks[phase], completed=done, total=total)

        yield update


@contextmanager
def bytes_bar(label: str, *, silent: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Bytes with rate and time left: a bar on a terminal, else nothing."""
    if silent or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task(label, total=None)
        yield lambda done, total: bars.update(bar, completed=done, total=total)


def _lines(phases: dict[str, str]) -> Callable[[str, int, int], None]:
    last = time.monotonic()

    def update(phase: str, done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_EVERY_S:
            last = time.monotonic()
            say(f"{phases[phase]}: {done} of {total}", err=True)

    return update
