"""The command line of the data house. The only file here that prints.

Exit status: 0 done, 1 an error that the message explains, 2 wrong usage, 3 done but more records were left
out than allowed, 130 interrupted.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from ecgstore import __version__
from ecgstore.errors import ConfigError, EcgError

if TYPE_CHECKING:
    from ecgstore.ingest import IngestReport, IngestSettings
    from ecgstore.store import Store

F = TypeVar("F", bound=Callable[..., Any])

EXIT_ERROR, EXIT_REJECTED, EXIT_INTERRUPTED = 1, 3, 130
#: Seconds between two lines of progress where there is no terminal to draw on.
LINE_EVERY_S = 5.0

#: A folder or an address; a Path would make one slash of the two in s3://.
STORE = click.argument("store", type=click.Path())
#: Columns that `ecgstore records` lists unless told otherwise.
MOST_USED = ["record_id", "patient_key", "source", "n_samples", "fold", "age_years", "sex", "lead_states"]
MOST_USED += ["suspects", "warnings"]
#: What `ecgstore fetch --dry-run --json` says of the plan, besides the number of files.
FETCH_PLAN = ("url", "dest", "version", "n_records", "n_here", "about_bytes", "free_bytes")
PHASES = {
    "verify": "checking files",
    "scan": "reading headers",
    "shards": "writing shards",
    "seal": "sealing",
}
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
        except OSError as error:  # a file or folder that can't be read or written, not a bug
            where = f"; in {error.filename}" if error.filename is not None else ""
            click.echo(f"error: the file system refuses: {error.strerror or error}{where}", err=True)
            sys.exit(EXIT_ERROR)

    return cast(F, wrapped)


class PlainUsage(click.Group):
    """Wrong usage is one line on stderr as well, and says where the right one is described."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().main(*args, **{**kwargs, "standalone_mode": False})
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(error.exit_code)
        except click.UsageError as error:
            text = " ".join(error.format_message().split()).rstrip(".")
            command = error.ctx.command_path if error.ctx is not None else "ecgstore"
            click.echo(f"error: {text[:1].lower()}{text[1:]}; see `{command} --help`", err=True)
            sys.exit(error.exit_code)
        except click.Abort:
            click.echo("interrupted", err=True)
            sys.exit(EXIT_INTERRUPTED)


@click.group(cls=PlainUsage, context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "ECGSTORE"})
@click.version_option(__version__, prog_name="ecgstore")
def main() -> None:
    """Raw WFDB folders to a sealed, verified, shareable Zarr store of ECGs."""


def source_options(command: F) -> F:
    """The options that say what a folder is and what is to be made of it: of `ingest` and of `scan`."""
    for option in reversed(
        (
            click.option(
                "--source",
                metavar="NAME",
                help="Kind of folder: ptbxl, cinc2021, mitdb, wfdb_folder …, or the path of your own source's .py "
                "file. Default: what it looks like.",
            ),
            click.option("--labels", type=click.Path(path_type=Path), help="Table of labels for a plain WFDB folder."),
            click.option(
                "--profile",
                type=click.Choice(["train", "diagnostic", "raw"]),
                help="train: 100 Hz, 0.5-40 Hz, notch. diagnostic: 500 Hz, 0.05-150 Hz. raw: the source's own counts, "
                "lossless. Default: train.",
            ),
            click.option(
                "--mains",
                "mains_hz",
                type=click.Choice(["50", "60"]),
                help="Mains where it was recorded, Hz: the notch of the profile train. Default: 50.",
            ),
            click.option("--fs", "fs_hz", type=float, metavar="HZ", help="Sampling rate of the store. Default: 100."),
            click.option(
                "--bandpass",
                nargs=2,
                type=float,
                metavar="LO HI",
                help="Butterworth band-pass, zero phase, Hz. With --notch it replaces the filters of the profile.",
            ),
            click.option(
                "--notch",
                type=float,
                metavar="HZ",
                help="Notch filter at the mains frequency, zero phase. With --bandpass it replaces the profile's.",
            ),
            click.option(
                "--filter",
                "more_filters",
                multiple=True,
                metavar="NAME[:KEY=VALUE,…]",
                help="Any filter, such as median or highpass:freq_hz=0.05; behind the two above, in the order given.",
            ),
            click.option("--unfiltered", is_flag=True, help="No filter at all."),
            click.option("--leads", metavar="I,II,V2", help="Leads of the store, in this order. Default: the twelve."),
            click.option(
                "--extra-leads",
                type=click.Choice(["refuse", "drop", "keep"]),
                help="What to do with a signal that is not a known lead: refuse the record, leave the signal out, or "
                "keep it as a lead. Default: refuse.",
            ),
            click.option("--codec", type=click.Choice(["blosc", "pcodec"]), help="Default: blosc. pcodec is smaller."),
            click.option(
                "--quality", type=click.Choice(["basic", "full"]), help="full: heart rate and signal quality too; slow."
            ),
            click.option(
                "--noise", metavar="KIND", help="Add noise, as `ecgstore augment` does; with --snr or --level."
            ),
            click.option("--snr", "snr_db", type=float, metavar="DB", help="Signal-to-noise ratio of --noise."),
            click.option("--level", type=click.IntRange(1, 6), help="Level of --noise."),
            click.option("--noise-bank", type=click.Path(path_type=Path), help="Folder of the recorded noise (NSTDB)."),
            click.option(
                "--config",
                type=click.Path(path_type=Path),
                metavar="FILE",
                help="YAML file of settings; flags override it.",
            ),
            click.option(
                "--set",
                "overrides",
                multiple=True,
                metavar="KEY=VALUE",
                help="Set any setting, such as source.rate_hz=100.",
            ),
            click.option(
                "--scan-table",
                type=click.Path(path_type=Path),
                metavar="FILE",
                help="Headers read before (Parquet): used where files did not change, and written.",
            ),
        )
    ):
        command = option(command)
    return command


WORKERS = click.option("--workers", type=click.IntRange(1), default=None, help="Default: one per core.")


@main.command()
@click.argument("src", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@source_options
@WORKERS
@click.option("--processes", is_flag=True, help="Workers are processes, not threads.")
@click.option(
    "--scheduler",
    default="",
    metavar="TCP://HOST:PORT",
    help="A Dask scheduler that runs already; its workers must see SRC and OUT under the same paths.",
)
@click.option(
    "--parts",
    metavar="I/N",
    help="Do the I-th of N shares of the work, for job arrays; when all are done: ecgstore seal OUT.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Also accept a store that is finished already. (An unfinished one always goes on.)",
)
@click.option("--overwrite", is_flag=True, help="Replace a sealed store, once the new one is sealed.")
@click.option("--append", is_flag=True, help="Make a sealed store's next version; unchanged shards are used again.")
@click.option("--verify-source", is_flag=True, help="Check every file against the folder's SHA256SUMS.txt first.")
@click.option(
    "--max-rejected",
    type=click.FloatRange(0, 1),
    metavar="F",
    help="Fail if a larger share is left out. Default: 0.01.",
)
@AS_JSON
@plain_errors
def ingest(
    src: Path,
    out: Path,
    workers: int | None,
    processes: bool,
    scheduler: str,
    parts: str | None,
    resume: bool,
    overwrite: bool,
    append: bool,
    verify_source: bool,
    scan_table: Path | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Make the store OUT from the WFDB folder SRC.

    Records that can't be used are left out, with their reason in rejected.parquet; the others go on. Killed
    at any moment, the same command goes on where it stopped and ends with the same store.
    """
    if sum((resume, overwrite, append)) > 1:
        raise click.UsageError("--resume, --overwrite and --append exclude each other")
    if parts is not None and (overwrite or append):
        raise click.UsageError("--parts makes a new store: it excludes --overwrite and --append")
    part = _part(parts)
    from ecgstore.ingest import ingest_folder
    from ecgstore.schedule import Workers

    settings = _ingest_settings(flags, src)
    with _progress(PHASES) as progress:
        report = ingest_folder(
            src,
            out,
            settings,
            workers=Workers(n=workers or os.cpu_count() or 1, processes=processes, scheduler=scheduler),
            resume=resume,
            overwrite=overwrite,
            append=append,
            part=part,
            verify_source=verify_source,
            scan_table=scan_table,
            progress=progress,
        )
    if part is not None and not report.fingerprint:
        _say_part(report, parts, as_json)
    else:
        _say_ingested(report, as_json)
    _exit_if_too_few(report)


def _part(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    number, slash, total = text.partition("/")
    if not (slash and number.isdecimal() and total.isdecimal() and 1 <= int(number) <= int(total)):
        raise click.BadParameter(f"{text!r} is not a part such as 2/8", param_hint="--parts")
    return int(number), int(total)


@main.command()
@click.argument("out", type=click.Path(path_type=Path))
@AS_JSON
@plain_errors
def seal(out: Path, as_json: bool) -> None:
    """Seal the store OUT, whose parts were made by `ecgstore ingest --parts`."""
    from ecgstore.ingest import seal_store

    with _progress(PHASES) as progress:
        report = seal_store(out, patient_key=os.environ.get("ECGSTORE_PATIENT_KEY", ""), progress=progress)
    _say_ingested(report, as_json)
    _exit_if_too_few(report)


@main.command()
@click.argument("src", type=click.Path(path_type=Path))
@source_options
@WORKERS
@AS_JSON
@plain_errors
def scan(src: Path, workers: int | None, scan_table: Path | None, as_json: bool, **flags: Any) -> None:
    """Say what is in the WFDB folder SRC before any work: records, leads, rates, what is broken, size and time."""
    from ecgstore.survey import survey

    settings = _ingest_settings({**flags, "max_rejected": None}, src)
    with _progress(PHASES) as progress:
        found = survey(
            src, settings, workers=workers or os.cpu_count() or 1, scan_table=scan_table, progress=progress
        ).to_dict()
    if as_json:
        _say_json(found)
    else:
        _print_survey(found)


@main.command()
@STORE
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--noise",
    "kind",
    required=True,
    metavar="KIND",
    help="wander, powerline, muscle, shift, motion, "
    "physiological (the first four), nstdb-bw, nstdb-ma or nstdb-em (recorded).",
)
@click.option("--snr", "snr_db", type=float, metavar="DB", help="Signal-to-noise ratio asked for.")
@click.option("--level", type=click.IntRange(1, 6), help="Or one of six levels of the drawn noises.")
@click.option(
    "--noise-bank", type=click.Path(path_type=Path), metavar="FOLDER", help="Recorded noise: the folder of NSTDB."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Another seed, other draws.")
@click.option(
    "--power", type=click.Choice(["record", "lead", "qrs"]), help="What the SNR is a ratio of. Default: record."
)
@click.option(
    "--origin", type=click.Choice(["electrodes", "leads", "published"]), help="Where noise arises. Default: electrodes."
)
@click.option("--mains", "mains_hz", type=float, metavar="HZ", help="Mains frequency of powerline. Default: 50.")
@click.option("--overwrite", is_flag=True, help="Replace a sealed store, once the new one is sealed.")
@AS_JSON
@plain_errors
def augment(store: str, out: Path, noise_bank: Path | None, overwrite: bool, as_json: bool, **flags: Any) -> None:
    """Make OUT from STORE: the same records with noise, to see how robust a model is.

    The noise of a record depends on its id and the seed alone. RMS and SNR obtained stand in records.parquet.
    """
    from ecgstore.augment import augment_store
    from ecgstore.noise import NoiseSettings, load_bank
    from ecgstore.settings import parse
    from ecgstore.store import open_store

    given = {name: value for name, value in flags.items() if value is not None}
    settings = parse(NoiseSettings, given, where="the command line")
    bank = None if noise_bank is None else load_bank(noise_bank)
    with _progress({"shards": "adding noise", "seal": "sealing"}) as progress:
        report = augment_store(open_store(store), out, settings, bank=bank, overwrite=overwrite, progress=progress)
    if as_json:
        _say_json(dataclasses.asdict(report))
        return
    click.echo(
        f"{out}: {report.records} records in {report.seconds:.1f} s, median noise {report.noise_rms_mv:.3f} mV, "
        f"median SNR {report.snr_db:.2f} dB"
    )
    if report.warnings:
        click.echo(f"  {report.warnings} records carry warnings (ecgstore info {out})")
    click.echo(f"  fingerprint {report.fingerprint}")


def _list_open_sets(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    from ecgstore.fetch import open_sets

    for name, one in open_sets().items():
        size = f"about {one.about_bytes / 1e9:.2f} GB" if one.about_bytes else "size not stated"
        click.echo(f"{name:<20} {one.title} {one.version}; {one.records or '?'} records, {size}; {one.licence}")
    context.exit()


@main.command()
@click.argument("name")
@click.argument("dest", type=click.Path(path_type=Path))
@click.option(
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_open_sets,
    help="List the sets that can be fetched by name, with licence and size.",
)
@click.option(
    "--only",
    multiple=True,
    metavar="GLOB",
    help="Only files whose path fits, such as 'records500/*'. Tables and terms of use always come along.",
)
@click.option(
    "--max-records", type=click.IntRange(1), metavar="N", help="At most so many records, spread over the set."
)
@click.option("--version", metavar="VERSION", help="Another version of a named set than the stated one.")
@click.option("--base-url", metavar="URL", help="A mirror, in the place of https://physionet.org/files/.")
@click.option("--workers", type=click.IntRange(1, 8), default=2, show_default=True, help="Connections at once.")
@click.option("--recheck", is_flag=True, help="Read files again that were verified before, and repair them.")
@click.option("--dry-run", is_flag=True, help="Say licence, number of files and size, and fetch nothing.")
@AS_JSON
@plain_errors
def fetch(name: str, dest: Path, workers: int, recheck: bool, dry_run: bool, as_json: bool, **which: Any) -> None:
    """Bring an open set of ECGs into the folder DEST, verified file by file.

    NAME is one of --list, or the address of a folder with a SHA256SUMS.txt. Interrupted at any moment, the same
    command goes on where it stopped.
    """
    from ecgstore import fetch as fetching

    which["only"] = which["only"] or None
    if dry_run:
        plan = fetching.plan_fetch(name, dest, **which)
        if as_json:
            _say_json({field: getattr(plan, field) for field in FETCH_PLAN} | {"files": len(plan.files)})
        else:
            click.echo(_fetch_words(plan))
        return
    with _progress({"fetch": "fetching"}) as progress:
        report = fetching.fetch(
            name,
            dest,
            **which,
            workers=workers,
            recheck=recheck,
            announce=lambda plan: click.echo(_fetch_words(plan), err=True),
            progress=lambda done, total, _: progress("fetch", done, total),
        )
    for path, why in report.failed.items():
        click.echo(f"error: {path}: {why}", err=True)
    if as_json:
        _say_json(dataclasses.asdict(report))
    else:
        click.echo(
            f"{dest}: {report.fetched} files fetched ({report.bytes_fetched / 1e6:.1f} MB in {report.seconds:.0f} s), "
            f"{report.kept} were there; next: ecgstore ingest {dest} {dest.name}.ecg"
        )
    if not report.ok:
        click.echo(f"error: {len(report.failed)} files are missing; run the same command again", err=True)
        sys.exit(EXIT_REJECTED)


def _fetch_words(plan: Any) -> str:
    terms = plan.terms
    what = plan.url if terms is None else f"{terms.title} {plan.version}, {terms.licence}, doi:{terms.doi}"
    size = f"about {plan.about_bytes / 1e9:.2f} GB" if plan.about_bytes else "size not known"
    hint = "" if terms is None or not terms.hint else f"; {terms.hint}"
    return f"{what}: {len(plan.files)} files ({plan.n_here} here), {size}, {plan.free_bytes / 1e9:.0f} GB free{hint}"


@main.command()
@STORE
@click.argument("other", type=click.Path(), required=False)
@click.option("--folds", metavar="1,2", help="Folds of STORE to compare. Default: all.")
@click.option("--with-folds", metavar="3,4", help="Folds of OTHER (or of STORE itself) to compare them with.")
@click.option("--max-bits", type=click.IntRange(0, 6), default=6, show_default=True, help="Of 64 in the signatures.")
@click.option("--min-correlation", type=click.FloatRange(0, 1), default=0.98, show_default=True, help="Of the signals.")
@AS_JSON
@plain_errors
def overlap(
    store: str,
    other: str | None,
    folds: str | None,
    with_folds: str | None,
    max_bits: int,
    min_correlation: float,
    as_json: bool,
) -> None:
    """Say which patients and which recordings two selections share: what a model must not see on both sides.

    Without OTHER, STORE is compared with itself: its duplicates, or what --folds and --with-folds share.
    """
    from ecgstore import overlap as overlaps
    from ecgstore.store import open_store

    if other is None and (folds is None) != (with_folds is None):
        raise click.UsageError("without OTHER, --folds and --with-folds go together: which folds, and with which")
    a = open_store(store)
    b = a if other is None else open_store(other)
    if other is None and with_folds is None:
        found = overlaps.duplicates(a, max_bits=max_bits, min_correlation=min_correlation)
    else:
        rows_a, rows_b = _rows(a, folds, "--folds"), _rows(b, with_folds, "--with-folds")
        found = overlaps.find_overlap(a, rows_a, b, rows_b, max_bits=max_bits, min_correlation=min_correlation)
    ids_a, ids_b = a.column("record_id"), b.column("record_id")
    near = [(ids_a[one], ids_b[two], round(alike, 4)) for one, two, alike in found.near]
    exact = [(ids_a[one], ids_b[two]) for one, two in found.exact]
    if as_json:
        patients = None if found.patients is None else list(found.patients)
        _say_json({"patients": patients, "exact": exact, "near": near, "note": found.note})
        return
    if found.note:
        click.echo(f"note: {found.note}")
    if found.patients:
        click.echo(
            f"{len(found.patients)} patients in both: {' '.join(found.patients[:5])}{' …' * (len(found.patients) > 5)}"
        )
    for one, two in exact:
        click.echo(f"the same samples\t{one}\t{two}")
    for one, two, alike in near:
        click.echo(f"nearly the same, correlation {alike:.4f}\t{one}\t{two}")
    if not found:
        click.echo("nothing in common")


def _rows(store: Store, folds: str | None, option: str) -> Any:
    """The rows of the folds that were asked for; None where all are meant."""
    if folds is None:
        return None
    rows = store.select(folds=_numbers(folds, option))
    if not len(rows):
        there = ", ".join(str(fold) for fold in sorted(set(store.column("fold").tolist()) - {-1})) or "none"
        raise ConfigError(f"no record is in the folds of {option}", where=store.path, expected=there, got=folds)
    return rows


def _numbers(text: str, option: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list of numbers such as 1,2,3", param_hint=option) from None


@main.command()
@STORE
@AS_JSON
@plain_errors
def info(store: str, as_json: bool) -> None:
    """Say what a store holds: records, leads, recipe, statements, what was left out, terms of use."""
    from ecgstore.store import open_store

    about = _about(open_store(store))
    if as_json:
        _say_json(about)
    else:
        _print_about(about)


@main.command()
@STORE
@click.option("--deep", is_flag=True, help="Read every byte: hash each object, decode each shard, check each record.")
@AS_JSON
@plain_errors
def verify(store: str, deep: bool, as_json: bool) -> None:
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
        _say_json(answer | {"fingerprint": opened.fingerprint, "seconds": round(seconds, 3)})
    elif not problems:
        click.echo(
            f"{store}: {opened.n_records} records, {kind} check passed in {seconds:.1f} s, {opened.fingerprint[:16]}…"
        )
    if problems:
        click.echo(f"error: {store} is damaged; problems: {len(problems)}", err=True)
        sys.exit(EXIT_ERROR)


@main.command()
@STORE
@click.option("--rejected", is_flag=True, help="List the records that were left out, with their reasons.")
@click.option(
    "--where", default="", metavar="CONDITION", help="Only records such as: mains_mv < 0.05 and fold in (1, 2)"
)
@click.option("--columns", metavar="A,B", help="Columns to list. Default: the most used.")
@click.option("--head", type=click.IntRange(1), default=None, metavar="N", help="Only the first N.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array of objects.")
@plain_errors
def records(store: str, rejected: bool, where: str, columns: str | None, head: int | None, as_json: bool) -> None:
    """List the records of a store, one per line, tab-separated; with --json one JSON array."""
    from ecgstore.store import open_store

    if rejected and (where or columns):
        raise click.UsageError("--rejected excludes --where and --columns")
    opened = open_store(store)
    if rejected:
        table = opened.rejected
    else:
        table = opened.records.take(opened.select(where=where))
        wanted = MOST_USED if columns is None else [column.strip() for column in columns.split(",")]
        for column in wanted:
            opened.column(column)  # names the nearest if there is none
        table = table.select(wanted)
    rows = [
        {name: _short(value) for name, value in row.items()}
        for row in (table if head is None else table.slice(0, head)).to_pylist()
    ]
    if as_json:
        _say_json(rows)
        return
    click.echo("\t".join(table.column_names))
    for row in rows:
        click.echo("\t".join("" if value is None else str(value) for value in row.values()))


@main.command()
@STORE
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Default: STORE with .html behind it; of an address, in this folder.",
)
@click.option("--pages", type=click.IntRange(0, 50), default=10, show_default=True, help="ECG pages in it.")
@plain_errors
def report(store: str, out: Path | None, pages: int) -> None:
    """Write one HTML page on a store: counts, quality, what was left out and why, ECG pages, duplicates, provenance.

    It holds everything it needs: it opens offline, and prints.
    """
    from ecgstore.report import write
    from ecgstore.store import open_store

    beside = Path(store).name if "://" in store else store.rstrip("/")
    click.echo(write(open_store(store), out or Path(f"{beside}.html"), pages))


@main.command()
@STORE
@click.argument("record_id")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Picture to write: .png, .svg or .pdf.")
@plain_errors
def plot(store: str, record_id: str, out: Path) -> None:
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


def _short(value: Any) -> Any:
    """A number as float32 holds it, without the digits that only float64 would."""
    return float(f"{value:.7g}") if isinstance(value, float) else value


# --- what is behind the verbs -------------------------------------------------------------------------------


def _ingest_settings(flags: dict[str, Any], src: Path) -> IngestSettings:
    """Defaults, then the --config file, then --set, then the flags that were given."""
    from ecgstore.ingest import IngestSettings
    from ecgstore.settings import override, parse, read_yaml

    config = flags["config"]
    content = override(read_yaml(config) if config else {}, flags["overrides"])
    content["source"] = _source(content.get("source"), flags, src)
    for name in ("profile", "fs_hz", "extra_leads", "codec", "quality", "noise_bank", "max_rejected"):
        if flags[name] is not None:
            content[name] = flags[name]
    if flags["mains_hz"] is not None:
        content["mains_hz"] = int(flags["mains_hz"])
    if flags["leads"] is not None:
        content["leads"] = [lead.strip() for lead in flags["leads"].split(",")]
    filters = _filters(flags)
    if filters is not None:
        content["filters"] = filters
    noise = _noise(flags)
    if noise is not None:
        content["noise"] = noise
    if "ECGSTORE_PATIENT_KEY" in os.environ:
        content["patient_key"] = os.environ["ECGSTORE_PATIENT_KEY"]
    return parse(IngestSettings, content, where=config or "the command line")


def _source(given: Any, flags: dict[str, Any], src: Path) -> Any:
    """The source's name, or a mapping of its settings: from --source, --labels and what was set otherwise."""
    wants_labels = flags["labels"] is not None
    if not isinstance(given, dict) and not wants_labels:
        return flags["source"] or given
    settings = dict(given) if isinstance(given, dict) else {"name": given} if given else {}
    if flags["source"] is not None:
        if settings.get("name", flags["source"]) != flags["source"]:
            settings = {}  # settings of another source, from a file, mean nothing to this one
        settings["name"] = flags["source"]
    if wants_labels:
        settings = {"name": "wfdb_folder"} | settings | {"labels": str(flags["labels"])}
    if "name" not in settings and src.is_dir():
        from ecgstore.ingest import detect_source

        settings["name"] = getattr(detect_source(src.resolve()), "name", None)
    return settings if "name" in settings else None


def _filters(flags: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The filters that flags ask for, which then are all; None where they ask for none."""
    asked = flags["bandpass"] or flags["notch"] or flags["more_filters"]
    if flags["unfiltered"] and asked:
        raise click.UsageError("--unfiltered excludes --bandpass, --notch and --filter")
    if not (flags["unfiltered"] or asked):
        return None
    filters = []
    if flags["bandpass"]:
        low_hz, high_hz = flags["bandpass"]
        filters.append({"name": "bandpass", "low_hz": low_hz, "high_hz": high_hz})
    if flags["notch"]:
        filters.append({"name": "notch", "freq_hz": flags["notch"]})
    return [*filters, *map(_filter, flags["more_filters"])]


def _filter(text: str) -> dict[str, Any]:
    """``highpass:freq_hz=0.05,order=2`` as the settings of a filter; values are read as YAML."""
    from ecgstore.settings import override

    name, colon, rest = text.partition(":")
    return override({"name": name}, rest.split(",") if colon else [])


def _noise(flags: dict[str, Any]) -> dict[str, Any] | None:
    if flags["noise"] is None:
        if flags["snr_db"] is not None or flags["level"] is not None:
            raise click.UsageError("--snr and --level say how strong --noise is: name its kind too")
        return None
    strength = {name: flags[name] for name in ("snr_db", "level") if flags[name] is not None}
    return {"kind": flags["noise"], **strength}


def _say_json(answer: Any) -> None:
    """One line of JSON; what JSON has no word for (nan, infinity) becomes null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    click.echo(json.dumps(plain(answer), default=str, allow_nan=False))


def _say_part(report: IngestReport, parts: str | None, as_json: bool) -> None:
    if as_json:
        _say_json({"path": report.path, "part": parts, "shards": report.n_shards})
    else:
        click.echo(f"{report.path}: part {parts} is done; when all are: ecgstore seal {report.path}")


def _exit_if_too_few(report: IngestReport) -> None:
    if report.rejected_fraction > report.max_rejected:
        click.echo(
            f"error: {report.rejected} of {report.records + report.rejected} records were left out, more than "
            f"--max-rejected {report.max_rejected:g} allows; the other {report.records} are in {report.path}; "
            f"reasons: {_counts(report.reasons)} (see `ecgstore info {report.path}`)",
            err=True,
        )
        sys.exit(EXIT_REJECTED)


def _print_survey(found: dict[str, Any]) -> None:
    def some(counts: dict[str, int], unit: str = "") -> str:
        shown = ", ".join(f"{name}{unit} × {count}" for name, count in list(counts.items())[:8])
        return shown + (f" and {len(counts) - 8} more" if len(counts) > 8 else "") or "none"

    rows = {
        "folder": f"{found['path']} (source {found['source']})",
        "records": f"{found['records']} usable, {found['patients'] or 'no'} patients named, {found['hours']:.2f} h",
        "leads": some(found["leads"]),
        "rates": some(found["rates_hz"], " Hz"),
        "lengths": some(found["lengths_s"], " s"),
        "formats": some(found["formats"]),
        "folds": some(found["folds"]),
        "sites": some(found["sites"]),
        "statements": some(found["statements"]),
        "left out": some(found["left_out"]),
        "store": f"about {found['store_megabytes']:.1f} MB from {found['source_megabytes']:.1f} MB, "
        f"in about {found['seconds']:.0f} s (by a trial of a few records)",
    }
    for name, value in rows.items():
        click.echo(f"{click.style(f'{name:<12}', bold=True)} {value}")
    for reason, example in found["examples"].items():
        click.echo(f"  {reason}: {example}")


def _say_ingested(report: IngestReport, as_json: bool) -> None:
    if as_json:
        _say_json(
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

    seconds = float((store.column("n_samples") / (store.attributes["fs_hz"] or store.column("source_fs_hz"))).sum())
    folds = Counter(int(fold) for fold in store.column("fold"))
    patients = {key for key in store.column("patient_key") if key}
    warned = Counter(part for text in store.column("warnings") for part in text.split("; ") if part)
    stated = Counter(zip(store.statements["system"].to_pylist(), store.statements["code"].to_pylist(), strict=True))
    return {
        "path": store.path,
        "fingerprint": store.fingerprint,
        "records": store.n_records,
        "patients": len(patients),
        "hours": round(seconds / 3600, 3),
        "megabytes": round(store.n_bytes / 1e6, 3),
        "shards": store.n_shards,
        "leads": list(store.leads),
        "fs_hz": store.attributes["fs_hz"],
        "recipe": store.recipe,
        "recipe_sha256": store.recipe_sha256,
        # What `ecgstore augment` added, and the fingerprint of the store that it was added to.
        "noise": store.attributes.get("noise") or store.recipe.get("noise"),
        "parent": store.attributes.get("parent"),
        "folds": {str(fold) if fold >= 0 else "none": count for fold, count in sorted(folds.items())},
        "statements": {f"{system}:{code}": count for (system, code), count in stated.most_common()},
        "encoding": store.encoding,
        "storage": store.storage,
        "std_mv": _std_mv(store),
        "suspects": dict(Counter(filter(None, _suspects(store))).most_common(10)),
        "rejected": dict(Counter(store.rejected["reason"].to_pylist())),
        "warnings": dict(warned.most_common(20)),
        "sources": [{name: getattr(terms, name) for name in type(terms).__dataclass_fields__} for terms in store.terms],
        "software": store.software,
    }


def _std_mv(store: Store) -> dict[str, float]:
    if store.encoding == "adc":
        return {}
    return {lead: round(float(std), 4) for lead, std in zip(store.leads, store.statistics().std_mv_l, strict=True)}


def _suspects(store: Store) -> list[str]:
    if "suspects" not in store.records.column_names:  # format 1
        return []
    return [part for text in store.column("suspects") for part in text.split("; ")]


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
        "rate": f"{about['fs_hz']:g} Hz" if about["fs_hz"] else "each record's own",
        "kept as": f"{about['encoding']} counts, {about['storage']['codec']}",
        "filters": ", ".join(filters) or "none",
        **_noise_row(about),
        "std (mV)": "  ".join(f"{lead} {std:.3f}" for lead, std in about["std_mv"].items() if std == std)
        or ("raw counts" if about["encoding"] == "adc" else "none"),
        "folds": ", ".join(f"{fold}: {count}" for fold, count in about["folds"].items()),
        "statements": shown + (f" and {len(statements) - 20} more" if len(statements) > 20 else "") or "none",
        "left out": _counts(about["rejected"]) or "none",
        "warnings": _counts(about["warnings"]) or "none",
        "suspects": _counts(about["suspects"]) or "none",
    }
    for source in about["sources"]:
        share = "may be passed on" if source["redistributable"] else "not to be passed on"
        rows["source"] = " ".join(filter(None, (source["name"], source["version"], source["licence"], f"({share})")))
        rows["cite"] = " ".join(filter(None, (source["citation"], source["doi"] and f"doi:{source['doi']}"))) or "–"
    for name, value in rows.items():
        click.echo(f"{click.style(f'{name:<12}', bold=True)} {value}")


def _noise_row(about: dict[str, Any]) -> dict[str, str]:
    noise = about["noise"]
    if noise is None:
        return {}
    strength = f"level {noise['level']}" if noise["snr_db"] is None else f"{noise['snr_db']:g} dB"
    onto = f", on {about['parent'][:16]}…" if about["parent"] else ""
    return {"noise": f"{noise['kind']} at {strength}, seed {noise['seed']}{onto}"}


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
