"""The command line of the data house. The only file here that prints.

Exit status: 0 done, 1 an error that the message explains, 2 wrong usage, 3 done but more records were left
out than allowed, 130 interrupted.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from ecgstore import __version__
from ecgstore.errors import EcgError

if TYPE_CHECKING:
    from ecgstore.ingest import IngestReport, IngestSettings
    from ecgstore.store import Store

F = TypeVar("F", bound=Callable[..., Any])

EXIT_ERROR, EXIT_REJECTED, EXIT_INTERRUPTED = 1, 3, 130
#: Seconds between two lines of progress where there is no terminal to draw on.
LINE_EVERY_S = 5.0

STORE = click.argument("store", type=click.Path(path_type=Path))
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line on stdout.")


def plain_errors(command: F) -> F:
    """Turn errors raised on purpose into one line on stderr and an exit status; bugs keep their traceback."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except EcgError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(EXIT_ERROR)
        except KeyboardInterrupt:
            click.echo("interrupted; run the same command again to go on where it stopped", err=True)
            sys.exit(EXIT_INTERRUPTED)
        except BrokenPipeError:  # the reader, such as `head`, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    return cast(F, wrapped)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "ECGSTORE"})
@click.version_option(__version__, prog_name="ecgstore")
def main() -> None:
    """Raw WFDB folders to a sealed, verified, shareable Zarr store of ECGs."""


@main.command()
@click.argument("src", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--source",
    metavar="NAME",
    help="Kind of folder: ptbxl, wfdb_folder, synthetic … Default: what it looks like.",
)
@click.option("--labels", type=click.Path(path_type=Path), help="Table of labels (CSV) for a plain WFDB folder.")
@click.option("--fs", "fs_hz", type=float, metavar="HZ", help="Sampling rate of the store. Default: 100.")
@click.option("--bandpass", nargs=2, type=float, metavar="LO HI", help="Butterworth band-pass, zero phase, in Hz.")
@click.option("--notch", type=float, metavar="HZ", help="Notch filter at the mains frequency, zero phase.")
@click.option(
    "--extra-leads",
    type=click.Choice(["refuse", "drop"]),
    help="What to do with a signal that is not a known lead.",
)
@click.option("--workers", type=click.IntRange(1), default=None, help="Threads. Default: one per core.")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="YAML file of settings; flags override it.",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set any setting, such as source.rate_hz=100.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Also accept a store that is finished already. (An unfinished one always goes on.)",
)
@click.option("--overwrite", is_flag=True, help="Replace a sealed store, once the new one is sealed.")
@click.option(
    "--max-rejected",
    type=click.FloatRange(0, 1),
    metavar="F",
    help="Fail if a larger share is left out. Default: 0.01.",
)
@AS_JSON
@plain_errors
def ingest(
    src: Path, out: Path, workers: int | None, resume: bool, overwrite: bool, as_json: bool, **flags: Any
) -> None:
    """Make the store OUT from the WFDB folder SRC.

    Records that can't be used are left out, with their reason in rejected.parquet; the others go on. Killed
    at any moment, the same command goes on where it stopped and ends with the same store.
    """
    if resume and overwrite:
        raise click.UsageError("--resume and --overwrite exclude each other")
    from ecgstore.ingest import ingest_folder

    settings = _ingest_settings(flags)
    with _progress({"scan": "reading headers", "shards": "writing shards", "seal": "sealing"}) as progress:
        report = ingest_folder(
            src,
            out,
            settings,
            workers=workers or os.cpu_count() or 1,
            resume=resume,
            overwrite=overwrite,
            progress=progress,
        )
    _say_ingested(report, as_json)
    if report.rejected_fraction > settings.max_rejected:
        click.echo(
            f"error: {report.rejected} of {report.records + report.rejected} records were left out, more than "
            f"--max-rejected {settings.max_rejected:g} allows; the other {report.records} are in {out}; "
            f"reasons: {_counts(report.reasons)} (see `ecgstore info {out}`)",
            err=True,
        )
        sys.exit(EXIT_REJECTED)


@main.command()
@STORE
@AS_JSON
@plain_errors
def info(store: Path, as_json: bool) -> None:
    """Say what a store holds: records, leads, recipe, statements, what was left out, terms of use."""
    from ecgstore.store import open_store

    about = _about(open_store(store))
    if as_json:
        click.echo(json.dumps(about))
    else:
        _print_about(about)


@main.command()
@STORE
@click.option("--deep", is_flag=True, help="Read every byte: hash each object, decode each shard, check each record.")
@AS_JSON
@plain_errors
def verify(store: Path, deep: bool, as_json: bool) -> None:
    """Check that a store is whole: exit status 0 if it is, 1 with one line per problem if not."""
    from ecgstore.store import open_store

    opened = open_store(store)
    began = time.perf_counter()
    with _progress({"verify": "verifying"}) as progress:
        problems = opened.verify(deep=deep, progress=functools.partial(progress, "verify"))
    seconds = time.perf_counter() - began
    for problem in problems:
        click.echo(f"error: {problem}", err=True)
    kind = "deep" if deep else "quick"
    if as_json:
        answer = {"path": str(store), "ok": not problems, "check": kind, "problems": problems}
        click.echo(json.dumps(answer | {"fingerprint": opened.fingerprint, "seconds": round(seconds, 3)}))
    elif not problems:
        click.echo(
            f"{store}: {opened.n_records} records, {kind} check passed in {seconds:.1f} s, {opened.fingerprint[:16]}…"
        )
    if problems:
        click.echo(f"error: {store} is damaged: {len(problems)} problems", err=True)
        sys.exit(EXIT_ERROR)


@main.command()
@STORE
@click.option("--rejected", is_flag=True, help="List the records that were left out, with their reasons.")
@click.option("--head", type=click.IntRange(1), default=None, metavar="N", help="Only the first N.")
@AS_JSON
@plain_errors
def records(store: Path, rejected: bool, head: int | None, as_json: bool) -> None:
    """List the records of a store, one per line, tab-separated; with --json one JSON array."""
    from ecgstore.store import open_store

    opened = open_store(store)
    wanted = [
        "record_id",
        "patient_key",
        "source",
        "n_samples",
        "fold",
        "age_years",
        "sex",
        "lead_states",
        "warnings",
    ]
    table = opened.rejected if rejected else opened.records.select(wanted)
    rows = (table if head is None else table.slice(0, head)).to_pylist()
    if as_json:
        click.echo(json.dumps(rows))
        return
    click.echo("\t".join(table.column_names))
    for row in rows:
        click.echo("\t".join("" if value is None else str(value) for value in row.values()))


@main.command()
@STORE
@click.argument("record_id")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Picture to write: .png, .svg or .pdf.")
@plain_errors
def plot(store: Path, record_id: str, out: Path) -> None:
    """Draw a record as a page of ECG paper: 25 mm/s, 10 mm/mV, true to scale."""
    from ecgstore.plot import page
    from ecgstore.store import open_store

    opened = open_store(store)
    page(opened.read(record_id), out, caption=", ".join(_filter_words(one) for one in opened.recipe["filters"]))
    click.echo(out)


@main.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--records", "n_records", type=click.IntRange(1), default=2000, show_default=True, help="How many.")
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Same seed, same folder to the byte."
)
@click.option("--fs", "fs_hz", type=float, default=500.0, show_default=True, metavar="HZ", help="Sampling rate.")
@click.option(
    "--duration",
    "duration_s",
    type=float,
    default=10.0,
    show_default=True,
    metavar="S",
    help="Seconds per record.",
)
@click.option(
    "--generator",
    type=click.Choice(["dipole", "neurokit"]),
    default="dipole",
    show_default=True,
    help="Our heart-dipole model, or neurokit2's simulator (slow, sinus rhythm only).",
)
@plain_errors
def simulate(out: Path, n_records: int, seed: int, fs_hz: float, duration_s: float, generator: str) -> None:
    """Write a WFDB folder of synthetic 12-lead ECGs with known statements (PTB-XL's SCP-ECG codes)."""
    from ecgstore.settings import parse
    from ecgstore.sources import synthetic

    content = {"n_records": n_records, "seed": seed, "fs_hz": fs_hz, "duration_s": duration_s, "generator": generator}
    settings = parse(synthetic.Simulation, content)
    with _progress({"simulate": "simulating"}) as progress:
        synthetic.simulate(out, settings, progress=functools.partial(progress, "simulate"))
    click.echo(f"{n_records} records in {out}; next: ecgstore ingest {out} {out}.ecg")


# --- what is behind the verbs -------------------------------------------------------------------------------


def _ingest_settings(flags: dict[str, Any]) -> IngestSettings:
    """Defaults, then the --config file, then --set, then the flags that were given."""
    from ecgstore.ingest import IngestSettings
    from ecgstore.settings import override, parse, read_yaml

    config = flags["config"]
    content = override(read_yaml(config) if config else {}, flags["overrides"])
    for name in ("source", "fs_hz", "extra_leads", "max_rejected"):
        if flags[name] is not None:
            content[name] = flags[name]
    if flags["labels"] is not None:
        source = content.get("source") or "wfdb_folder"
        content["source"] = (source if isinstance(source, dict) else {"name": source}) | {
            "labels": str(flags["labels"])
        }
    elif isinstance(content.get("source"), dict) and "name" not in content["source"]:
        raise click.UsageError("name the source too: --source ptbxl or --set source.name=ptbxl")
    if flags["bandpass"] or flags["notch"]:
        content["filters"] = []
        if flags["bandpass"]:
            low_hz, high_hz = flags["bandpass"]
            content["filters"].append({"name": "bandpass", "low_hz": low_hz, "high_hz": high_hz})
        if flags["notch"]:
            content["filters"].append({"name": "notch", "freq_hz": flags["notch"]})
    if "ECGSTORE_PATIENT_KEY" in os.environ:
        content["patient_key"] = os.environ["ECGSTORE_PATIENT_KEY"]
    return parse(IngestSettings, content, where=config or "the command line")


def _say_ingested(report: IngestReport, as_json: bool) -> None:
    if as_json:
        click.echo(
            json.dumps(
                {
                    "records": report.records,
                    "rejected": report.rejected,
                    "seconds": round(report.seconds, 3),
                    "records_per_s": round(report.records_per_s, 1),
                    "fingerprint": report.fingerprint,
                    "path": report.path,
                    "reasons": dict(report.reasons),
                    "shards": report.n_shards,
                    "shards_resumed": report.n_shards_resumed,
                    "records_with_warnings": report.warnings,
                }
            )
        )
        return
    click.echo(f"{report.path}: {report.records} records in {report.seconds:.1f} s ({report.records_per_s:.0f}/s)")
    if report.n_shards_resumed:
        click.echo(f"  {report.n_shards_resumed} of {report.n_shards} shards were there already")
    if report.rejected:
        click.echo(
            f"  {report.rejected} left out: {_counts(report.reasons)} (ecgstore records {report.path} --rejected)"
        )
    if report.warnings:
        click.echo(f"  {report.warnings} records carry warnings (ecgstore info {report.path})")
    click.echo(f"  fingerprint {report.fingerprint}")


def _about(store: Store) -> dict[str, Any]:
    from collections import Counter

    seconds = float((store.column("n_samples") / store.fs_hz).sum())
    folds = Counter(int(fold) for fold in store.column("fold"))
    patients = {key for key in store.column("patient_key") if key}
    warned = Counter(part for text in store.column("warnings") for part in text.split("; ") if part)
    stated = Counter(zip(store.statements["system"].to_pylist(), store.statements["code"].to_pylist(), strict=True))
    statistics = store.statistics()
    return {
        "path": store.path,
        "fingerprint": store.fingerprint,
        "records": store.n_records,
        "patients": len(patients),
        "hours": round(seconds / 3600, 3),
        "megabytes": round(store.n_bytes / 1e6, 3),
        "shards": store.n_shards,
        "leads": list(store.leads),
        "fs_hz": store.fs_hz,
        "recipe": store.recipe,
        "recipe_sha256": store.recipe_sha256,
        "folds": {str(fold) if fold >= 0 else "none": count for fold, count in sorted(folds.items())},
        "statements": {f"{system}:{code}": count for (system, code), count in stated.most_common()},
        "std_mv": {lead: round(float(std), 4) for lead, std in zip(store.leads, statistics.std_mv_l, strict=True)},
        "rejected": dict(Counter(store.rejected["reason"].to_pylist())),
        "warnings": dict(warned.most_common(20)),
        "sources": [{name: getattr(terms, name) for name in type(terms).__dataclass_fields__} for terms in store.terms],
        "software": store.software,
    }


def _print_about(about: dict[str, Any]) -> None:
    filters = [_filter_words(one) for one in about["recipe"]["filters"]]
    statements = list(about["statements"].items())
    shown = ", ".join(f"{code.partition(':')[2]} {count}" for code, count in statements[:20])
    rows = {
        "store": about["path"],
        "fingerprint": about["fingerprint"],
        "records": f"{about['records']} of {about['patients']} patients, {about['hours']:.2f} h",
        "size": f"{about['megabytes']:.1f} MB in {about['shards']} shards",
        "leads": " ".join(about["leads"]),
        "rate": f"{about['fs_hz']:g} Hz",
        "filters": ", ".join(filters) or "none",
        "std (mV)": "  ".join(f"{lead} {std:.3f}" for lead, std in about["std_mv"].items()),
        "folds": ", ".join(f"{fold}: {count}" for fold, count in about["folds"].items()),
        "statements": shown + (f" and {len(statements) - 20} more" if len(statements) > 20 else "") or "none",
        "left out": _counts(about["rejected"]) or "none",
        "warnings": _counts(about["warnings"]) or "none",
    }
    for source in about["sources"]:
        share = "may be passed on" if source["redistributable"] else "not to be passed on"
        rows["source"] = " ".join(filter(None, (source["name"], source["version"], source["licence"], f"({share})")))
        rows["cite"] = " ".join(filter(None, (source["citation"], source["doi"] and f"doi:{source['doi']}"))) or "–"
    for name, value in rows.items():
        click.echo(f"{click.style(f'{name:<12}', bold=True)} {value}")


def _filter_words(settings: dict[str, Any]) -> str:
    values = ", ".join(f"{name} {value:g}" for name, value in settings.items() if name != "name")
    return f"{settings['name']} ({values})"


def _counts(counts: Any) -> str:
    return ", ".join(f"{name} × {count}" for name, count in counts.items())


@contextmanager
def _progress(phases: dict[str, str]) -> Iterator[Callable[[str, int, int], None]]:
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


def _lines(phases: dict[str, str]) -> Callable[[str, int, int], None]:
    last = time.monotonic()

    def update(phase: str, done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_EVERY_S:
            last = time.monotonic()
            click.echo(f"{phases[phase]}: {done} of {total}", err=True)

    return update


if __name__ == "__main__":
    main()
