"""The command line of the training house, verb by verb. Only this wing prints.

Exit status: 0 done, 1 an error that the message explains, 2 wrong usage, 75 stopped before the end and to be resumed
(a signal, or the time limit), 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from ecgstore import EcgError, __version__
from ecgstore.inner import PlainUsage, completion_of, keep_freed_memory, names_or_files, visible
from ecgtrain.cli import hand_over
from ecgtrain.cli.examples import add_examples
from ecgtrain.cli.printing import (
    AS_JSON,
    DEVICE,
    EXIT_ERROR,
    EXIT_INTERRUPTED,
    EXIT_STOPPED,
    device_of,
    folds_of,
    progress_bar,
    say,
    say_json,
)
from ecgtrain.errors import StoppedError

if TYPE_CHECKING:
    from ecgtrain.evaluation.results import Result
    from ecgtrain.reporting.contents import Report
    from ecgtrain.scoring.bootstrap import Interval

#: What the extra `train` brings; help and lists of recipes do without.
_FOR_TRAINING = frozenset({"torch", "safetensors", "sklearn", "matplotlib", "jinja2"})


def _recipes(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[Any]:
    """What completes the name of a recipe."""
    from ecgtrain.recipes import shipped

    return names_or_files(shipped(), incomplete)


RECIPE = click.argument("recipe", shell_complete=_recipes)
SET = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Set any setting: data.store=ptbxl.ecg."
)


class PlainErrors(PlainUsage):
    """Errors raised on purpose become one line on stderr and an exit status; bugs keep their traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EcgError as error:
            stopped = isinstance(error, StoppedError)
            say(f"{'stopped' if stopped else 'error'}: {error}", err=True)
            sys.exit(EXIT_STOPPED if stopped else EXIT_ERROR)
        except ModuleNotFoundError as error:
            if str(error.name).partition(".")[0] not in _FOR_TRAINING:
                raise  # a bug, or code of the user's own
            click.echo(f'error: {error.name} is not installed; pip install "ecgstore[train]"', err=True)
            sys.exit(EXIT_ERROR)
        except KeyboardInterrupt:
            goes_on = ctx.invoked_subcommand == "run"
            more = "; run the same command with --resume to go on from the last checkpoint" if goes_on else ""
            say(f"interrupted{more}", err=True)
            sys.exit(EXIT_INTERRUPTED)


@click.group(
    cls=PlainErrors, context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "ECGTRAIN"}
)
@click.version_option(__version__, prog_name="ecgtrain")
def main() -> None:
    """Pretrain on ECGs without labels; fit and judge heads; report with intervals and nulls."""
    # OpenMP threads spin while they wait for each other. Where anything else wants the cores, a recurrent
    # network then runs at a twentieth of its speed (measured: 3 to 9 windows/s); a short spin runs as fast on
    # free cores and keeps half of it on busy ones. Must be set before torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    keep_freed_memory()


OWN_FILES = click.option(
    "--own-file",
    "own_files",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE.py",
    help="Code of your own (a task, a protocol) that may be run (repeatable). What a run names is never run unasked; a "
    "recipe that you wrote may name it itself.",
)


@main.command(short_help="Do all that a recipe says")
@RECIPE
@click.option("--out", type=click.Path(path_type=Path), help="Run directory. Default: runs/NAME, by the recipe's name.")
@SET
@click.option("--resume", is_flag=True, help="Go on from the last whole checkpoint, or start if there is none.")
@click.option(
    "--time-limit",
    metavar="TIME",
    help="Stop before this time is over (3h, 90m, 1-12:00:00), with a checkpoint and exit status 75.",
)
@click.option("--strict", is_flag=True, help="Stop at a record that can't be read, instead of going on without it.")
@OWN_FILES
@DEVICE
@AS_JSON
def run(
    recipe: str,
    out: Path | None,
    overrides: tuple[str, ...],
    resume: bool,
    time_limit: str | None,
    strict: bool,
    own_files: tuple[Path, ...],
    device: str,
    as_json: bool,
) -> None:
    """Do all that RECIPE says: pretrain, probe, write report.json and report.html into the run directory.

    RECIPE is a YAML file, or the name of one that comes with ecgtrain, such as small/cpc (see `ecgtrain recipes`).

    SIGTERM, SIGUSR1 and the time limit end pretraining after a checkpoint, and questions with what is answered by then,
    with exit status 75: run the same command with --resume to go on. Under torchrun, all processes pretrain together
    and the first one probes.
    """
    from ecgtrain import config

    settings = config.load(recipe, (*overrides, *(["data.strict=true"] if strict else [])), own_files)
    run_dir = out or Path("runs") / settings.name
    from ecgtrain.run import run as run_recipe
    from ecgtrain.training.files import plain
    from ecgtrain.training.stopping import seconds, told_to_stop

    limit_s, began_s = None if time_limit is None else seconds(time_limit), time.monotonic()

    def until() -> AbstractContextManager[Callable[[], str | None]]:
        return told_to_stop(None if limit_s is None else max(limit_s - (time.monotonic() - began_s), 0.0))

    with progress_bar() as (progress, tell):
        report = run_recipe(
            settings, run_dir, device=device_of(device), resume=resume, progress=progress, say=tell, until=until
        )
    if report is None:  # another rank says it
        return
    if as_json:
        answer = {"path": str(run_dir), "report": str(run_dir / "report.html"), "results": _brief(report)}
        if report.asked_over:
            answer["asked_over"] = plain([curve.as_json() for curve in report.asked_over])
        say_json(answer)
    else:
        if report.results:
            _print_results(report.results)
        _print_curves(report)
        _print_caveats(report)
        say(f"report: {run_dir / 'report.html'}")


@main.command(short_help="Judge a run's heads on another store")
@click.argument("run_dir", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--store", "store_path", required=True, metavar="STORE", help="The store to judge on.")
@click.option(
    "--split",
    type=click.Path(path_type=Path),
    metavar="TABLE.parquet",
    help="Take the folds of this table of `ecgstore split` in the place of the store's own.",
)
@click.option(
    "--folds", metavar="1,2,…", help="Only these folds; `all` for every record. Default: the run's test folds."
)
@click.option("--name", "names", multiple=True, help="Only the head of this downstream entry (repeatable).")
@click.option("--allow-overlap", is_flag=True, help="Judge on patients seen in training too; the result says so.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for report.json and report.html.")
@OWN_FILES
@DEVICE
@AS_JSON
def evaluate(
    run_dir: Path,
    store_path: str,
    split: Path | None,
    folds: str | None,
    names: tuple[str, ...],
    allow_overlap: bool,
    out: Path | None,
    own_files: tuple[Path, ...],
    device: str,
    as_json: bool,
) -> None:
    """Apply the trained heads of RUN to another store, without fitting anything."""
    from ecgtrain.run import evaluate_store

    report = evaluate_store(
        run_dir,
        store_path,
        split=split,
        folds=folds_of(folds),
        names=names,
        allow_overlap=allow_overlap,
        own_files=own_files,
        out=out,
        device=device_of(device),
    )
    if as_json:
        say_json({"run": str(run_dir), "store": store_path, "results": _brief(report)})
    else:
        _print_results(report.results)
        _print_caveats(report)
        if out is not None:
            say(f"report: {out / 'report.html'}")


@main.command(short_help="Put runs side by side on one page")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("report"), show_default=True, help="Folder to write."
)
@click.option(
    "--withdrawn",
    multiple=True,
    type=click.Path(),
    metavar="STORE",
    help="A store that `ecgstore withdraw` made: say which runs have seen what was withdrawn. Default: the runs' own.",
)
@click.option(
    "--pages",
    type=click.IntRange(min=0),
    metavar="N",
    help="Draw N of the records that runs are most wrong about. Default: 6, none of what may not be passed on.",
)
@AS_JSON
def report(runs: tuple[Path, ...], out: Path, withdrawn: tuple[str, ...], pages: int | None, as_json: bool) -> None:
    """Put the results of several RUNS side by side: report.json and report.html in one folder."""
    from ecgtrain.run import merge_reports

    merged = merge_reports(runs, out, withdrawn, pages)
    if as_json:
        say_json({"report": str(out / "report.html"), "results": _brief(merged)})
    else:
        _print_results(merged.results)
        _print_curves(merged)
        _print_caveats(merged)
        say(f"report: {out / 'report.html'}")


@main.command(short_help="Measure how fast a recipe trains here")
@RECIPE
@SET
@click.option("--seconds", default=5.0, show_default=True, help="Time for each measurement.")
@DEVICE
@AS_JSON
def bench(recipe: str, overrides: tuple[str, ...], seconds: float, device: str, as_json: bool) -> None:
    """Measure how fast RECIPE pretrains here: feed, views and step alone, and all together; nothing is kept."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from ecgtrain import config
    from ecgtrain.training.bench import bench as measure
    from ecgtrain.training.bench import table

    result = measure(
        config.load(recipe, overrides),
        device=device_of(device),
        seconds=seconds,
        say=lambda line: say(line, err=True),
    )
    if as_json:
        say_json(result)
        return
    rows = Table(box=None, pad_edge=False, show_header=False)
    for row in table(result):
        rows.add_row(*(Text(cell) for cell in row))
    Console(highlight=False, width=None if sys.stdout.isatty() else 120).print(rows)


@main.command(short_help="List the recipes that come with it")
@AS_JSON
def recipes(as_json: bool) -> None:
    """List the recipes that come with ecgtrain: `ecgtrain run NAME` runs one, wherever you stand."""
    from ecgtrain.recipes import about, shipped

    found = [about(name) for name in shipped()]
    if as_json:
        say_json([one._asdict() for one in found])
        return
    for one in found:
        click.echo(click.style(visible(one.name), bold=True))
        for line in (one.line, f"source: {one.source}", f"cost: {one.cost}"):
            say(f"  {line}")


@main.command(short_help="Show a recipe with every setting")
@RECIPE
@SET
@AS_JSON
def show(recipe: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Show a recipe as it would be run: what it extends, your own settings and all defaults, written out."""
    from ecgtrain import config

    made = config.load(recipe, overrides)
    if as_json:
        say_json(made.model_dump(mode="json"))
        return
    for line in config.dump(made).splitlines():
        say(line)


@main.command(short_help="Write a recipe to edit")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--from", "name", required=True, shell_complete=_recipes, help="A recipe that comes with ecgtrain, or a file."
)
@click.option("--overwrite", is_flag=True, help="Take the place of a file that stands there.")
@AS_JSON
def init(out: Path, name: str, overwrite: bool, as_json: bool) -> None:
    """Write a copy of a recipe, with its comments, into the new file OUT."""
    from ecgtrain import config
    from ecgtrain.training.files import published

    path = config.find(name)
    config.load(path)
    with published(out, overwrite=overwrite) as aside:
        aside.write_bytes(path.read_bytes())
    if as_json:
        say_json({"path": str(out), "from": str(path)})
        return
    say(f"edit {out}, then: ecgtrain run {out}")


@main.command(short_help="List methods, backbones and tasks")
@AS_JSON
def methods(as_json: bool) -> None:
    """List what there is: methods, backbones, tasks, protocols; each is one file in its folder."""
    from ecgstore.inner import descriptions

    rooms = {
        room.rpartition(".")[2]: descriptions(f"ecgtrain.{room}")
        for room in ("methods", "backbones", "tasks", "evaluation.protocols")
    }
    if as_json:
        say_json(rooms)
        return
    width = max(len(name) for found in rooms.values() for name in found)
    for room, found in rooms.items():
        click.echo(click.style(room, bold=True))
        for name, description in found.items():
            say(f"  {name:<{width}}  {description}")


@main.command(short_help="List or clear decoded records")
@click.argument("action", type=click.Choice(["list", "clear"]), default="list")
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path),
    help="Folder of caches. Default: $ECGTRAIN_CACHE_DIR, or /dev/shm and $TMPDIR or ~/.cache/ecgtrain.",
)
@AS_JSON
def cache(action: str, folder: Path | None, as_json: bool) -> None:
    """List the decoded records that this node keeps, or clear what nobody uses."""
    from datetime import datetime

    from ecgtrain.data import cache as caches

    found = [entry for place in caches.folders(folder) for entry in caches.entries(place)]
    removed = [action == "clear" and caches.remove(entry) for entry in found]
    if as_json:
        rows = [
            {"folder": str(entry.folder), "bytes": entry.n_bytes, "state": entry.state, "removed": gone}
            for entry, gone in zip(found, removed, strict=True)
        ]
        say_json({"entries": rows})
        return
    for entry, gone in zip(found, removed, strict=True):
        stores = ", ".join(f"{one['n_records']:,} of {one['path']}" for one in entry.about.get("stores", ()))
        used = datetime.fromtimestamp(entry.used_s).strftime("%Y-%m-%d %H:%M")
        state = "removed" if gone else entry.state
        say(f"{entry.n_bytes / 1e6:10,.1f} MB  {state:<9}  {used}  {entry.folder}  {stores}")
    if not found:
        say(f"no caches in {', '.join(str(place) for place in caches.folders(folder))}")


# --- what is behind the verbs -------------------------------------------------------------------------------


def _brief(report: Report) -> list[dict[str, Any]]:
    """Results without their curves: what fits on a line of JSON."""
    from ecgtrain.training.files import plain

    results: list[dict[str, Any]] = [plain(result.as_json()) for result in report.results]
    for result in results:
        for name in ("roc", "penalty_path", "learning_curve"):
            result.pop(name, None)
        result.get("agreement", {}).pop("pairs", None)
    return results


def _print_results(results: Sequence[Result]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from ecgtrain.reporting.caveats import n_scored

    # One column of scores: it is called by its metric where all results have the same one.
    metrics = {result.compared_by for result in results}
    score = _METRICS[next(iter(metrics))] if len(metrics) == 1 else "score"
    rows = {
        "question": [result.name for result in results],
        "task": [result.task for result in results],
        "pretraining": [result.pretraining for result in results],
        "test records": [str(result.n_test) for result in results],
        "classes": [
            f"{n_scored(result)} of {len({*result.per_class, *result.dropped_classes})}" if result.per_class else ""
            for result in results
        ],
        score: [_scored(result, named=len(metrics) > 1) for result in results],
        "95 % interval": [f"{_number(result.score.low)} to {_number(result.score.high)}" for result in results],
        "seeds": [_seeds(result) for result in results],
        "minus the untrained": [_gain(result) for result in results],
        "minus another": [_compared(result) for result in results],
        "challenge score": [_shown_interval(result.metrics.get("challenge_score")) for result in results],
    }
    places = {
        "question": [result.name for result in results],
        "pretraining": [result.pretraining for result in results],
        **{words: [_shown_interval(result.metrics.get(name)) for result in results] for name, words in _PLACES.items()},
    }
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    for its, least in ((rows, 1), (places, 3)):
        kept = {name: cells for name, cells in its.items() if any(cells)}
        if len(kept) < least:
            continue
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in kept:
            justify: Literal["left", "right"] = "right" if name in ("test records", score) else "left"
            wraps = name in ("task", "minus another")
            table.add_column(name, justify=justify, no_wrap=not wraps, min_width=8 if wraps else None)
        for cells in zip(*kept.values(), strict=True):
            # As text, not as rich's markup: names come from files.
            table.add_row(*(Text(visible(cell)) for cell in cells))
        console.print(table)


#: What results are compared by, in words.
_METRICS = {"macro_auroc": "macro AUROC", "accuracy": "accuracy", "mae": "MAE", "distance_mm": "distance"}
#: Scores of places, which have a table of their own.
_PLACES = {
    "balanced_accuracy": "balanced accuracy",
    "adjacent_accuracy": "right or adjacent",
    "centroid_distance_mm": "regions apart, mm",
    "median_distance_mm": "median distance, mm",
    "geodesic_mm": "through muscle, mm",
}


def _seeds(result: Result) -> str:
    several = ", ".join(map(str, result.seeds or result.ensemble_of))
    return f"{several} together" if result.ensemble_of else several


def _scored(result: Result, named: bool) -> str:
    unit = f" {result.unit}" if result.unit else ""
    return (f"{_METRICS[result.compared_by]} " if named else "") + _number(result.score.value) + unit


def _gain(result: Result) -> str:
    """How much more than the strongest null, with its interval."""
    from ecgtrain.config import NULLS
    from ecgtrain.scoring.kinds import LESS_IS_BETTER

    to_nulls = [one for name, one in result.difference_to.items() if name in NULLS]
    gains = [one[result.compared_by] for one in to_nulls if result.compared_by in one]
    strongest = max if result.compared_by in LESS_IS_BETTER else min
    return "" if not gains else _shown_interval(strongest(gains, key=lambda one: one.value), "+")


def _compared(result: Result) -> str:
    """How much more than the questions it is compared to, each with its interval."""
    from ecgtrain.config import NULLS

    others = {name: one for name, one in result.difference_to.items() if name not in NULLS}
    return "; ".join(f"{name} {_shown_interval(one.get(result.compared_by), '+')}" for name, one in others.items())


def _shown_interval(found: Interval | None, sign: str = "") -> str:
    if found is None:
        return ""
    return f"{_number(found.value, sign)} [{_number(found.low, sign)}, {_number(found.high, sign)}]"


def _print_curves(report: Report) -> None:
    from ecgtrain.reporting.asked_over import sentences

    for curve in report.asked_over:
        for sentence in sentences(curve):
            say(f"{curve.name}: {sentence}")


def _print_caveats(report: Report) -> None:
    for caveat in report.caveats:
        say(f"note: {caveat}")


def _number(value: float, sign: str = "") -> str:
    return "–" if value != value else f"{value:{sign}.3f}"


for verb in hand_over.VERBS:
    main.add_command(verb)
main.add_command(completion_of("ecgtrain"))
add_examples(main)
