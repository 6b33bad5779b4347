"""Verbs that look at stores: info, verify, records, report, plot, overlap, scrub-check."""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ecgstore.cli.printing import AS_JSON, EXIT_ERROR, STORE, in_words, plain_errors, progress_bars, say, say_json
from ecgstore.errors import ConfigError, IntegrityError

if TYPE_CHECKING:
    from ecgstore.storage.store import Store

#: Columns that `ecgstore records` lists unless told otherwise.
MOST_USED = ["record_id", "patient_key", "source", "n_samples", "fold", "age_years", "sex", "lead_states"]
MOST_USED += ["suspects", "warnings"]


@click.command(short_help="Find patients and signals that recur")
@STORE
@click.argument("other", type=click.Path(), required=False)
@click.option("--folds", metavar="1,2", help="Folds of STORE to compare. Default: all.")
@click.option("--with-folds", metavar="3,4", help="Folds of OTHER (or of STORE itself) to compare them with.")
@click.option("--max-bits", type=click.IntRange(0, 6), default=6, show_default=True, help="Of 64 in the signatures.")
@click.option("--min-correlation", type=click.FloatRange(0, 1), default=0.98, show_default=True, help="Of the signals.")
@click.option(
    "--shifted/--no-shifted",
    default=True,
    show_default=True,
    help="Look for recordings too that begin later, are cut or lack leads; that reads every sample.",
)
@AS_JSON
@plain_errors
def overlap(
    store: str,
    other: str | None,
    folds: str | None,
    with_folds: str | None,
    max_bits: int,
    min_correlation: float,
    shifted: bool,
    as_json: bool,
) -> None:
    """Say which patients and which recordings two selections share: what a model must not see on both sides.

    Without OTHER, STORE is compared with itself: its duplicates, or what --folds and --with-folds share.
    """
    from ecgstore.look import overlap as overlaps
    from ecgstore.storage.store import open_store

    if other is None and (folds is None) != (with_folds is None):
        raise click.UsageError("without OTHER, --folds and --with-folds go together: which folds, and with which")
    a = open_store(store)
    b = a if other is None else open_store(other)
    with progress_bars({"beats": "comparing beats"}) as progress:
        how: dict[str, Any] = {"max_bits": max_bits, "min_correlation": min_correlation, "shifted": shifted}
        how["progress"] = functools.partial(progress, "beats")
        if other is None and with_folds is None:
            found = overlaps.duplicates(a, **how)
        else:
            rows_a, rows_b = _rows(a, folds, "--folds"), _rows(b, with_folds, "--with-folds")
            found = overlaps.find_overlap(a, rows_a, b, rows_b, **how)
    ids_a, ids_b = a.column("record_id"), b.column("record_id")
    near = [(ids_a[one], ids_b[two], round(alike, 4)) for one, two, alike in found.near]
    exact = [(ids_a[one], ids_b[two]) for one, two in found.exact]
    parts = [(ids_a[one], ids_b[two], round(alike, 4), lag_s) for one, two, alike, lag_s in found.shifted]
    if as_json:
        patients = None if found.patients is None else list(found.patients)
        say_json({"patients": patients, "exact": exact, "near": near, "shifted": parts, "note": found.note})
        return
    if found.note:
        say(f"note: {found.note}")
    if found.patients:
        say(f"{len(found.patients)} patients in both: {' '.join(found.patients[:5])}{' …' * (len(found.patients) > 5)}")
    for one, two in exact:
        say("the same samples", one, two)
    for one, two, alike in near:
        say(f"nearly the same, correlation {alike:.4f}", one, two)
    for one, two, alike, lag_s in parts:
        say(f"the same stretch, {lag_s:+.2f} s, correlation {alike:.4f}", one, two)
    if not found:
        say("nothing in common")


def _rows(store: Store, folds: str | None, option: str) -> Any:
    """The rows of the folds that were asked for; None where all are meant."""
    if folds is None:
        return None
    rows = store.select(folds=numbers(folds, option))
    if not len(rows):
        there = ", ".join(str(fold) for fold in sorted(set(store.column("fold").tolist()) - {-1})) or "none"
        raise ConfigError(f"no record is in the folds of {option}", where=store.path, expected=there, got=folds)
    return rows


def numbers(text: str, option: str) -> list[int]:
    """A list of whole numbers such as 1,2,3."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list of numbers such as 1,2,3", param_hint=option) from None


@click.command(name="scrub-check", short_help="Look for what names a patient")
@STORE
@AS_JSON
@plain_errors
def scrub_check(store: str, as_json: bool) -> None:
    """Look for what seems to say who a patient is: dates, long numbers, names, paths, e-mail addresses, free text.

    Exit status 1 if anything was found. What was found is counted and not shown: look at the rows that are named. It is
    a search by patterns: nothing found doesn't prove that nothing is there.
    """
    from ecgstore.look.scrub import scrub_check as look
    from ecgstore.storage.store import open_store

    opened = open_store(store)
    found = look(opened)
    if as_json:
        say_json({"path": str(store), "ok": not found, "findings": [dataclasses.asdict(one) for one in found]})
    for one in () if as_json else found:
        rows = f"; rows {', '.join(map(str, one.rows))}{' …' * (one.n > len(one.rows))}" if one.rows else ""
        say(one.where, f"seems to hold: {one.kind}", f"{one.n} times{rows}")
    if found:
        say(f"error: {store} seems to hold what identifies; places: {len(found)}", err=True)
        sys.exit(EXIT_ERROR)
    if not as_json:
        say(f"{store}: nothing found in {opened.n_records} records, ids, labels and attributes")


@click.command(short_help="Say what a store holds")
@STORE
@AS_JSON
@plain_errors
def info(store: str, as_json: bool) -> None:
    """Say what a store holds: records, leads, preparation, statements, what was left out, terms of use."""
    from ecgstore.build.patients import patients_in_words
    from ecgstore.look.facts import facts
    from ecgstore.storage.store import open_store

    opened = open_store(store)
    about = facts(opened)
    if as_json:
        say_json(about)
    else:
        _print_about(about, patients_in_words(opened))


@click.command(short_help="Check that a store is whole")
@STORE
@click.option("--deep", is_flag=True, help="Read every byte: hash each object, decode each shard, check each record.")
@click.option(
    "--fingerprint",
    metavar="EXPECTED",
    help="Refuse any store but the one with this fingerprint: all of it, or its first 32 digits or more.",
)
@AS_JSON
@plain_errors
def verify(store: str, deep: bool, fingerprint: str | None, as_json: bool) -> None:
    """Check that a store is whole: exit status 0 if it is, 1 with one line per problem if not.

    That a store is whole says nothing about who made it: anybody can seal one. With --fingerprint and --deep it is also
    the very store whose fingerprint you were told.
    """
    from ecgstore.storage.store import open_store

    expected = None if fingerprint is None else _fingerprint(fingerprint)
    opened = open_store(store)
    if expected is not None and not opened.fingerprint.startswith(expected):
        raise IntegrityError(
            "this is not the store that you expect", where=store, expected=expected, got=opened.fingerprint
        )
    began = time.perf_counter()
    with progress_bars({"verify": "verifying"}) as progress:
        problems = opened.verify(deep=deep, progress=functools.partial(progress, "verify"))
    seconds = time.perf_counter() - began
    for problem in problems:
        say(f"error: {problem}", err=True)
    kind = "deep" if deep else "quick"
    if as_json:
        answer = {"path": str(store), "ok": not problems, "check": kind, "problems": problems}
        say_json(answer | {"fingerprint": opened.fingerprint, "seconds": round(seconds, 3)})
    elif not problems:
        say(f"{store}: {opened.n_records} records, {kind} check passed in {seconds:.1f} s, {opened.fingerprint[:16]}…")
    if problems:
        say(f"error: {store} is damaged; problems: {len(problems)}", err=True)
        sys.exit(EXIT_ERROR)


def _fingerprint(text: str) -> str:
    """128 bits at least: no one can make another store that begins with them."""
    digits = text.strip().lower().removesuffix("…")
    if not 32 <= len(digits) <= 64 or set(digits) - set("0123456789abcdef"):
        raise click.BadParameter("a fingerprint has 64 hexadecimal digits; give 32 or more", param_hint="--fingerprint")
    return digits


@click.command(short_help="List the records of a store")
@STORE
@click.option("--rejected", is_flag=True, help="List the records that were left out, with their reasons.")
@click.option(
    "--where", default="", metavar="CONDITION", help="Only records such as: mains_mv < 0.05 and fold in (1, 2)"
)
@click.option(
    "--code",
    "codes",
    multiple=True,
    metavar="CODE,…",
    help="Only records that state one of these: AFIB, or scp_ecg:AFIB,AFLT. May be given several times.",
)
@click.option("--columns", metavar="A,B", help="Columns to list. Default: the most used.")
@click.option("--head", type=click.IntRange(1), default=None, metavar="N", help="Only the first N.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array of objects.")
@plain_errors
def records(
    store: str,
    rejected: bool,
    where: str,
    codes: tuple[str, ...],
    columns: str | None,
    head: int | None,
    as_json: bool,
) -> None:
    """List the records of a store, one per line, tab-separated; with --json one JSON array."""
    from ecgstore.storage.stated_codes import stating
    from ecgstore.storage.store import open_store

    if rejected and (where or columns or codes):
        raise click.UsageError("--rejected excludes --where, --code and --columns")
    opened = open_store(store)
    if rejected:
        table = opened.rejected
    else:
        rows = opened.select(where=where)
        table = opened.records.take(rows[stating(opened, codes)[rows]] if codes else rows)
        there = [name for name in MOST_USED if name in table.column_names]  # format 1 has fewer
        wanted = there if columns is None else [column.strip() for column in columns.split(",")]
        for column in wanted:
            opened.column(column)  # names the nearest if there is none
        table = table.select(wanted)
    listed = [
        {name: _short(value) for name, value in row.items()}
        for row in (table if head is None else table.slice(0, head)).to_pylist()
    ]
    if as_json:
        say_json(listed)
        return
    say(*table.column_names)
    for row in listed:
        say(*("" if value is None else value for value in row.values()))


@click.command(short_help="Write one page on a store")
@STORE
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Default: STORE with .html behind it; of an address, in this folder.",
)
@click.option("--pages", type=click.IntRange(0, 50), default=10, show_default=True, help="ECG pages in it.")
@AS_JSON
@plain_errors
def report(store: str, out: Path | None, pages: int, as_json: bool) -> None:
    """Write one HTML page on a store: counts, quality, what was left out and why, ECG pages, duplicates, provenance.

    It holds everything it needs: it opens offline, and prints.
    """
    from ecgstore.look.report import write
    from ecgstore.storage.store import open_store

    beside = Path(store).name if "://" in store else store.rstrip("/")
    opened = open_store(store)
    written = write(opened, out or Path(f"{beside}.html"), pages)
    if as_json:
        say_json({"path": str(written), "records": opened.n_records, "fingerprint": opened.fingerprint})
        return
    say(written)


@click.command(short_help="Draw a record on ECG paper")
@STORE
@click.argument("record_id")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Picture to write: .png, .svg or .pdf.")
@click.option(
    "--start", "start_s", type=float, default=0.0, metavar="SECONDS", help="Where the page begins. Default: 0."
)
@click.option("--seconds", type=float, metavar="SECONDS", help="How much of it, 60 s at most. Default: 10.")
@click.option("--leads", metavar="I,II,V1", help="Which leads, in which order. Default: all.")
@click.option(
    "--layout", metavar="NAME", help="3x4+1, 3x4, 6x2, 12x1 or rows. Default: 3x4+1 for 12 leads of 10 s, else rows."
)
@click.option("--speed", type=click.FloatRange(1, 200), default=25.0, show_default=True, help="In mm/s.")
@click.option("--gain", type=click.FloatRange(0.5, 100), help="In mm/mV. Default: 10, or 5 where waves are too tall.")
@AS_JSON
@plain_errors
def plot(
    store: str,
    record_id: str,
    out: Path,
    start_s: float,
    seconds: float | None,
    leads: str | None,
    layout: str | None,
    speed: float,
    gain: float | None,
    as_json: bool,
) -> None:
    """Draw a record as a page of ECG paper, true to scale, to print on A4 landscape; of a long one, 10 s of it.

    A row grows with its waves. The line at the foot says the scale, the filters, and where they leave no reading of ST.
    """
    from ecgstore.look.facts import filter_words
    from ecgstore.look.plot import about_page, page, read_shown
    from ecgstore.storage.store import open_store

    opened = open_store(store)
    record, whole_s = read_shown(opened, record_id, start_s, seconds)
    chosen = [lead.strip() for lead in leads.split(",")] if leads is not None else None
    # Whose response a curve has tells stores apart, and says nothing to who reads an ECG.
    filters = ", ".join(filter_words(one, without="response") for one in opened.recipe["filters"])
    page(
        record,
        out,
        layout=layout,
        leads=chosen,
        seconds=seconds,
        speed_mm_s=speed,
        gain_mm_mv=gain,
        start_s=start_s,
        whole_s=whole_s,
        **about_page(opened, record_id, filters),
    )
    if as_json:
        say_json(
            {"path": str(out), "record_id": record.record_id, "leads": chosen or list(record.leads), "start_s": start_s}
        )
        return
    say(out)


def _short(value: Any) -> Any:
    """A number as float32 holds it, without the digits that only float64 would."""
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _print_about(about: dict[str, Any], patients: str) -> None:
    from ecgstore.look.facts import filter_words

    filters = [filter_words(one) for one in about["recipe"]["filters"]]
    statements = list(about["statements"].items())
    shown = ", ".join(f"{code.partition(':')[2]} {count}" for code, count in statements[:20])
    rows = {
        "store": about["path"],
        "fingerprint": about["fingerprint"],
        "records": f"{about['records']}, {about['hours']:.2f} h",
        "patients": patients,
        "size": f"{about['megabytes']:.1f} MB in {about['shards']} shards",
        "leads": " ".join(about["leads"]),
        "rate": f"{about['fs_hz']:g} Hz" if about["fs_hz"] else "each record's own",
        "kept as": f"{about['encoding']} counts, {about['storage']['codec']}",
        "filters": ", ".join(filters) or "none",
        **_noise_row(about),
        **_lineage_rows(about),
        "std (mV)": "  ".join(f"{lead} {std:.3f}" for lead, std in about["std_mv"].items() if std == std)
        or ("raw counts" if about["encoding"] == "adc" else "none"),
        "folds": ", ".join(f"{fold}: {count}" for fold, count in about["folds"].items()),
        "statements": shown + (f" and {len(statements) - 20} more" if len(statements) > 20 else "") or "none",
        "left out": in_words(about["rejected"]) or "none",
        "warnings": in_words(about["warnings"]) or "none",
        "suspects": in_words(about["suspects"]) or "none",
    }
    for source in about["sources"]:
        share = "may be passed on" if source["redistributable"] else "not to be passed on"
        rows["source"] = " ".join(filter(None, (source["name"], source["version"], source["licence"], f"({share})")))
        rows["cite"] = " ".join(filter(None, (source["citation"], source["doi"] and f"doi:{source['doi']}"))) or "–"
    for name, value in rows.items():
        say(value, label=name)


def _lineage_rows(about: dict[str, Any]) -> dict[str, str]:
    rows = {}
    if about["lineage"]:
        step = about["lineage"][-1]
        rows["made by"] = f"{step['made_by']} of {', '.join(f'{parent[:16]}…' for parent in step['parents'])}"
    if any(about["withdrawn"].values()):
        gone = about["withdrawn"]
        rows["withdrawn"] = f"{gone['patients']} patients, {gone['records']} single records, in all versions before"
    return rows


def _noise_row(about: dict[str, Any]) -> dict[str, str]:
    noise = about["noise"]
    if noise is None:
        return {}
    strength = f"level {noise['level']}" if noise.get("snr_db") is None else f"{noise['snr_db']:g} dB"
    onto = f", on {about['parent'][:16]}…" if about["parent"] else ""
    return {"noise": f"{noise['kind']} at {strength}, seed {noise['seed']}{onto}"}


VERBS = (info, verify, records, report, plot, overlap, scrub_check)
