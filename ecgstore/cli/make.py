"""Verbs that make stores: ingest, seal, scan, augment."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ecgstore.cli.printing import (
    AS_JSON,
    EXIT_REJECTED,
    PHASES,
    STORE,
    F,
    in_words,
    plain_errors,
    progress_bars,
    say,
    say_json,
)

if TYPE_CHECKING:
    from ecgstore.build.augment import AugmentReport
    from ecgstore.build.ingest import IngestReport
    from ecgstore.build.schedule import Workers
    from ecgstore.build.settings import IngestSettings


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
                "--annotators",
                metavar="ATR,QRS",
                help="Annotation files of a plain WFDB folder to store, by their suffixes. Default: none; those "
                "that are there are said.",
            ),
            click.option(
                "--statements",
                metavar="COL,SYSTEM=COL",
                help="Columns of --labels that hold codes. Default: those called like a known coding system (scp_ecg, "
                "snomed_ct, icd9, icd10, minnesota, aha). All other columns are left out.",
            ),
            click.option(
                "--allow-text",
                is_flag=True,
                help="Store free text that may name a person too: notes of annotations that are no rhythm, and columns "
                "of codes that seem to hold texts, dates or identifiers.",
            ),
            click.option(
                "--folds",
                type=click.IntRange(2, 1000),
                metavar="N",
                help="Draw folds 1 to N by patient, for a folder that states none. Default: the source's own.",
            ),
            click.option(
                "--record-ids",
                type=click.Choice(["path", "stem", "hashed"]),
                help="Ids in the store: the source's own, such as the path below SRC; its last part; or hashes by the "
                "secret key of patients. Default: path.",
            ),
            click.option(
                "--profile",
                type=click.Choice(["train", "diagnostic", "raw"]),
                help="train: 100 Hz, 0.5-40 Hz. diagnostic: 500 Hz, 0.05-150 Hz. raw: the source's own counts, "
                "lossless. Default: train.",
            ),
            click.option(
                "--mains",
                "mains_hz",
                type=click.Choice(["50", "60"]),
                help="Mains where it was recorded, Hz: the notch that the profile train has with an --fs above twice "
                "it. Default: 50.",
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
            click.option(
                "--uncalibrated",
                metavar="refuse|assume=N",
                help="What to do with a record that uses a signal without a gain: refuse it, or take N counts per mV "
                "(WFDB's habit is 200), which is written down with the record. Default: refuse. A raw store keeps the "
                "counts of such a record, and no gain.",
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


SCHEDULER = click.option(
    "--scheduler",
    default="",
    metavar="TCP://HOST:PORT",
    help="A Dask scheduler that runs already; its workers must see all folders under the same paths.",
)


def crew_options(command: F) -> F:
    """The options that say who does the work: of `ingest` and of `augment`."""
    for option in reversed(
        (
            WORKERS,
            click.option("--processes", is_flag=True, help="Workers are processes, not threads."),
            SCHEDULER,
            click.option(
                "--parts",
                metavar="I/N",
                help="Do the I-th of N shares of the work, for job arrays; when all are done: ecgstore seal OUT.",
            ),
        )
    ):
        command = option(command)
    return command


@click.command(short_help="Make a store from a WFDB folder")
@click.argument("src", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@source_options
@crew_options
@click.option(
    "--resume",
    is_flag=True,
    help="Also accept a store that is finished already. (An unfinished one always goes on.)",
)
@click.option("--overwrite", is_flag=True, help="Replace a sealed store, once the new one is sealed.")
@click.option("--append", is_flag=True, help="Make a sealed store's next version; unchanged shards are used again.")
@click.option(
    "--patient-key",
    type=click.Choice(["public"]),
    help="public: ids can be guessed from the store. Without it, a folder that names patients needs a secret key of 16 "
    "characters or more in the variable ECGSTORE_PATIENT_KEY; published data sets need none.",
)
@click.option("--verify-source", is_flag=True, help="Check every file against the folder's SHA256SUMS.txt first.")
@click.option(
    "--card",
    type=click.Path(path_type=Path),
    metavar="CARD.yaml",
    help="What people know of the store: title, licence, contact, citation. Kept beside it, for `ecgstore card`.",
)
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
    card: Path | None,
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
    if processes and not scheduler:
        from ecgstore.build.processes import prepare

        prepare()  # beside the imports of this process, and the plan
    from ecgstore.build.ingest import ingest_folder
    from ecgstore.storage.beside import read_card, write_card

    said = None if card is None else read_card(card)  # before any work
    settings = _ingest_settings(flags, src)
    with progress_bars(PHASES) as progress:
        report = ingest_folder(
            src,
            out,
            settings,
            workers=_crew(workers, processes, scheduler),
            resume=resume,
            overwrite=overwrite,
            append=append,
            part=part,
            verify_source=verify_source,
            scan_table=scan_table,
            progress=progress,
        )
    if said is not None:
        write_card(out, said)
    if part is not None and not report.fingerprint:
        _say_part(report.path, parts, report.n_shards, as_json, _own_source(settings))
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


@click.command(short_help="Seal a store that was made in parts")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--source",
    "own_source",
    type=click.Path(path_type=Path),
    metavar="FILE.py",
    help="Your own source's file, where the parts were made with one. It is run, so trust it first.",
)
@AS_JSON
@plain_errors
def seal(out: Path, own_source: Path | None, as_json: bool) -> None:
    """Seal the store OUT, whose parts were made by `ecgstore ingest --parts` or `ecgstore augment --parts`."""
    from ecgstore.build.augment import AugmentReport
    from ecgstore.build.parts import seal_store

    with progress_bars(PHASES) as progress:
        key = secret_of_the_environment()
        report = seal_store(out, patient_key=key, progress=progress, own_source=own_source)
    if isinstance(report, AugmentReport):
        _say_augmented(report, as_json)
        return
    _say_ingested(report, as_json)
    _exit_if_too_few(report)


@click.command(short_help="Look at a folder before any work")
@click.argument("src", type=click.Path(path_type=Path))
@source_options
@WORKERS
@SCHEDULER
@AS_JSON
@plain_errors
def scan(src: Path, workers: int | None, scheduler: str, scan_table: Path | None, as_json: bool, **flags: Any) -> None:
    """Say what is in the WFDB folder SRC before any work: records, leads, rates, what is broken, size and time."""
    from ecgstore.build.survey import survey

    settings = _ingest_settings({**flags, "max_rejected": None}, src)
    with progress_bars(PHASES) as progress:
        crew = _crew(workers, False, scheduler)
        found = survey(src, settings, workers=crew, scan_table=scan_table, progress=progress).to_dict()
    if as_json:
        say_json(found)
    else:
        _print_survey(found)


@click.command(short_help="Make a noisy copy of a store")
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
@crew_options
@click.option("--overwrite", is_flag=True, help="Replace a sealed store, once the new one is sealed.")
@AS_JSON
@plain_errors
def augment(
    store: str,
    out: Path,
    noise_bank: Path | None,
    workers: int | None,
    processes: bool,
    scheduler: str,
    parts: str | None,
    overwrite: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Make OUT from STORE: the same records with noise, to see how robust a model is.

    The noise of a record depends on its id and the seed alone. RMS and SNR obtained stand in records.parquet.
    """
    from ecgstore.build.augment import augment_store
    from ecgstore.settings import parse
    from ecgstore.signals.noise import NoiseSettings
    from ecgstore.signals.recorded_noise import load_bank
    from ecgstore.storage.store import open_store

    if parts is not None and overwrite:
        raise click.UsageError("--parts makes a new store: it excludes --overwrite")
    part = _part(parts)
    given = {name: value for name, value in flags.items() if value is not None}
    settings = parse(NoiseSettings, given, where="the command line")
    bank = None if noise_bank is None else load_bank(noise_bank)
    with progress_bars({"shards": "adding noise", "seal": "sealing"}) as progress:
        report = augment_store(
            open_store(store),
            out,
            settings,
            bank=bank,
            workers=_crew(workers, processes, scheduler),
            overwrite=overwrite,
            part=part,
            progress=progress,
        )
    if part is not None and not report.fingerprint:
        _say_part(report.path, parts, report.n_shards, as_json)
    else:
        _say_augmented(report, as_json)


def _as_it_is(value: Any) -> Any:
    return value


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


#: Flags that set the setting of their name, and how their words become its value. The others stand for several
#: settings, or for none.
SETTING_OF_FLAG: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("profile", "fs_hz", "extra_leads", "uncalibrated", "codec"), _as_it_is),
    **dict.fromkeys(("quality", "noise_bank", "max_rejected", "folds", "record_ids"), _as_it_is),
    "mains_hz": int,
    "leads": _names,
}


def _ingest_settings(flags: dict[str, Any], src: Path) -> IngestSettings:
    """Defaults, then the --config file, then --set, then the flags that were given."""
    from ecgstore.build.settings import IngestSettings
    from ecgstore.settings import override, parse, read_yaml

    config = flags["config"]
    content = override(read_yaml(config) if config else {}, flags["overrides"])
    content["source"] = _source(content.get("source"), flags, src)
    content |= {name: value_of(flags[name]) for name, value_of in SETTING_OF_FLAG.items() if flags[name] is not None}
    filters = _filters(flags)
    if filters is not None:
        content["filters"] = filters
    noise = _noise(flags)
    if noise is not None:
        content["noise"] = noise
    secret = secret_of_the_environment()
    if flags.get("patient_key") or secret:
        content["patient_key"] = flags.get("patient_key") or secret
    return parse(IngestSettings, content, where=config or "the command line")


def secret_of_the_environment() -> str:
    """The secret key of patients, empty where none is set. Raises ConfigError where one is set that is no secret."""
    from ecgstore.build.patients import PUBLIC, refuse_short
    from ecgstore.errors import ConfigError

    key = os.environ.get("ECGSTORE_PATIENT_KEY")
    if key is None:
        return ""
    if not key.strip():
        raise ConfigError("ECGSTORE_PATIENT_KEY is set, but empty", fix="set it to your secret, or unset it")
    if key == PUBLIC:
        raise ConfigError("ECGSTORE_PATIENT_KEY holds secrets alone", fix=f"unset it, and say --patient-key {PUBLIC}")
    try:
        return refuse_short(key)
    except ValueError as error:
        raise ConfigError(f"ECGSTORE_PATIENT_KEY: {error}") from None


def _source(given: Any, flags: dict[str, Any], src: Path) -> Any:
    """The source's name, or a mapping of its settings: from --source, its options and what was set otherwise."""
    of_plain: dict[str, Any] = {
        name: value
        for name, value in (
            ("labels", flags["labels"] and str(flags["labels"])),
            ("statements", flags["statements"] and _names(flags["statements"])),
            ("annotators", flags["annotators"] and _names(flags["annotators"])),
        )
        if value
    }
    if not isinstance(given, dict) and not of_plain and not flags["allow_text"]:
        return flags["source"] or given
    settings = dict(given) if isinstance(given, dict) else {"name": given} if given else {}
    if flags["source"] is not None:
        if settings.get("name", flags["source"]) != flags["source"]:
            settings = {}  # settings of another source, from a file, mean nothing to this one
        settings["name"] = flags["source"]
    if of_plain:
        settings = {"name": "wfdb_folder"} | settings | of_plain
    if flags["allow_text"]:
        settings["allow_text"] = True
    if "name" not in settings and src.is_dir():
        from ecgstore.build.settings import detect_source

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


def _crew(workers: int | None, processes: bool, scheduler: str) -> Workers:
    from ecgstore.build.schedule import Workers

    return Workers(n=workers or os.cpu_count() or 1, processes=processes, scheduler=scheduler)


def _own_source(settings: IngestSettings) -> str | None:
    """The file of a source of the user's own, which ``seal`` runs only where it is named once more."""
    from ecgstore.build.planning import is_ours
    from ecgstore.build.settings import module_of

    module = None if settings.source is None else module_of(settings.source)
    return None if module is None or is_ours(module) else module.__file__


def _say_part(path: str, parts: str | None, n_shards: int, as_json: bool, own_source: str | None = None) -> None:
    if as_json:
        say_json({"path": path, "part": parts, "shards": n_shards})
    else:
        source = "" if own_source is None else f" --source {own_source}"
        say(f"{path}: part {parts} is done; when all are: ecgstore seal {path}{source}")


def _say_augmented(report: AugmentReport, as_json: bool) -> None:
    if as_json:
        say_json(dataclasses.asdict(report))
        return
    say(
        f"{report.path}: {report.records} records in {report.seconds:.1f} s, "
        f"median noise {report.noise_rms_mv:.3f} mV, median SNR {report.snr_db:.2f} dB"
    )
    if report.warnings:
        say(f"  {report.warnings} records carry warnings (ecgstore info {report.path})")
    say(f"  fingerprint {report.fingerprint}")


def _exit_if_too_few(report: IngestReport) -> None:
    if report.rejected_fraction > report.max_rejected:
        say(
            f"error: {report.rejected} of {report.records + report.rejected} records were left out, more than "
            f"--max-rejected {report.max_rejected:g} allows; the other {report.records} are in {report.path}; "
            f"reasons: {in_words(report.reasons)} (see `ecgstore info {report.path}`)",
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
        say(value, label=name)
    for reason, example in found["examples"].items():
        say(f"  {reason}: {example}")
    for note in found["notes"]:
        say(f"  {note}")


def _say_ingested(report: IngestReport, as_json: bool) -> None:
    if as_json:
        say_json(
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
                "notes": list(report.notes),
            }
        )
        return
    say(f"{report.path}: {report.records} records in {report.seconds:.1f} s ({report.records_per_s:.0f}/s)")
    if report.n_shards_resumed:
        say(f"  {report.n_shards_resumed} of {report.n_shards} shards were there already")
    if report.rejected:
        say(f"  {report.rejected} left out: {in_words(report.reasons)} (ecgstore records {report.path} --rejected)")
    if report.warnings:
        say(f"  {report.warnings} records carry warnings (ecgstore info {report.path})")
    for note in report.notes:
        say(f"  {note}")
    say(f"  fingerprint {report.fingerprint}")


VERBS = (ingest, seal, scan, augment)
