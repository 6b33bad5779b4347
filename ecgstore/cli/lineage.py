"""Verbs that make something out of sealed stores: withdraw, subset, merge, export."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from ecgstore.cli.look import numbers
from ecgstore.cli.make import WORKERS, secret_of_the_environment
from ecgstore.cli.printing import AS_JSON, PHASES, STORE, bytes_bar, plain_errors, progress_bars, say, say_json
from ecgstore.cli.sharing import HARMLESS, PRIVATE

OUT = click.argument("out", type=click.Path(path_type=Path))
OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace a sealed store, once the new one is sealed.")


@click.command(short_help="Make a store without some patients")
@STORE
@OUT
@click.option(
    "--patient",
    "patients",
    multiple=True,
    metavar="KEY",
    help="A patient, with all records: patient_key in the store, or the identifier in the source.",
)
@click.option("--record", "records", multiple=True, metavar="ID", help="One record.")
@click.option(
    "--list",
    "listed",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A text file with one a line, such as: patient P-17, or: record ward1/a0001.",
)
@click.option("--skip-unknown", is_flag=True, help="Pass over patients and records that are not in STORE.")
@click.option(
    "--push",
    "url",
    metavar="URL[@TAG]",
    help="A share: push OUT there, and take back STORE and the versions that hold who withdraws.",
)
@PRIVATE
@HARMLESS
@OVERWRITE
@AS_JSON
@plain_errors
def withdraw(
    store: str,
    out: Path,
    patients: tuple[str, ...],
    records: tuple[str, ...],
    listed: Path | None,
    skip_unknown: bool,
    url: str | None,
    private_target: bool,
    findings_are_harmless: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Make OUT from STORE without some patients or records: no sample and no id of theirs is left in it.

    Shards that hold none of them are those of STORE. OUT may be STORE itself, with --overwrite. A store that grows
    later (`ecgstore ingest --append`) doesn't take them back.

    With --push, OUT is pushed under the tag (or `main`), as by `ecgstore push`, and takes the place of STORE and of
    every version there that holds them: tags move to it, and the old versions are removed. Interrupted, the same
    command goes on.
    """
    from ecgstore.lineage.withdraw import read_list, withdraw_records
    from ecgstore.storage.store import open_store

    if url is None and (private_target or findings_are_harmless):
        raise click.UsageError("--private-target and --findings-are-harmless are for --push")
    of_list = ((), ()) if listed is None else read_list(listed)
    how: dict[str, Any] = {
        "patients": [*patients, *of_list[0]],
        "records": [*records, *of_list[1]],
        "secret_key": secret_of_the_environment(),
        "skip_unknown": skip_unknown,
        "overwrite": overwrite,
    }
    carried = None
    pushing: Callable[[int, int], None] | None = None
    with ExitStack() as bars:
        progress = bars.enter_context(progress_bars(PHASES))

        def on_its_way(done: int, total: int) -> None:
            nonlocal pushing
            if pushing is None:  # a terminal has one display at a time
                bars.close()
                pushing = bars.enter_context(bytes_bar("pushing", silent=as_json)) or (lambda *_: None)
            pushing(done, total)

        if url is None:
            report = withdraw_records(open_store(store), out, progress=progress, **how)
        else:
            from ecgstore.sharing import withdraw_and_push

            carried = withdraw_and_push(
                open_store(store),
                out,
                url,
                private_target=private_target,
                findings_are_harmless=findings_are_harmless,
                progress=progress,
                bytes_progress=on_its_way,
                **how,
            )
            report = carried.made
    if as_json:
        answer = dataclasses.asdict(report)
        if carried is not None:
            answer |= {name: its for name, its in dataclasses.asdict(carried).items() if name != "made"}
        say_json(answer)
        return
    say(
        f"{report.path}: {report.records} records; {report.withdrawn_records} were withdrawn, "
        f"{report.withdrawn_patients} patients with all of theirs"
    )
    if report.withdrawn_rejected:
        say(f"  {report.withdrawn_rejected} rows of records that had been left out went too")
    if report.unknown:
        say(f"  {report.unknown} of those named are not in the store")
    say(f"  {report.shards_written} shards written, {report.shards_kept} kept as they were")
    if carried is not None:
        gone = carried.taken_back
        tags = sorted({carried.pushed.tag or "", *gone.tags})
        say(f"  {url}: {', '.join(tags)} means it; {len(gone.fingerprints)} versions taken back")
        say(f"  {gone.objects_removed} objects of theirs removed there")
    say("  what this can't reach:")
    for one in (*report.beyond_reach, *(() if carried is None else carried.still_there)):
        say(f"    {one}")
    say(f"  fingerprint {report.fingerprint}")


@click.command(short_help="Make a store of a part of another")
@STORE
@OUT
@click.option(
    "--where", default="", metavar="CONDITION", help="Records such as: mains_mv < 0.05 and site in ('A', 'B')"
)
@click.option(
    "--code",
    "codes",
    multiple=True,
    metavar="CODE,…",
    help="Records that state one of these codes; may be given several times.",
)
@click.option("--folds", "--fold", "folds", metavar="1,2", help="Records in these folds.")
@click.option("--leads", metavar="I,II,V2", help="Leads to keep, in this order. Default: all.")
@WORKERS
@click.option("--processes", is_flag=True, help="Workers are processes, not threads.")
@OVERWRITE
@AS_JSON
@plain_errors
def subset(
    store: str,
    out: Path,
    where: str,
    codes: tuple[str, ...],
    folds: str | None,
    leads: str | None,
    workers: int | None,
    processes: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Make OUT from STORE: the records that meet all that is asked for, and the leads that are named.

    Samples, quality, folds, statements and patients are those of STORE; what was left out of STORE is not in OUT.
    """
    from ecgstore.build.schedule import Workers
    from ecgstore.lineage.subset import subset_store
    from ecgstore.storage.store import open_store

    with progress_bars(PHASES) as progress:
        report = subset_store(
            open_store(store),
            out,
            where=where,
            codes=codes,
            folds=() if folds is None else numbers(folds, "--folds"),
            leads=() if leads is None else [lead.strip() for lead in leads.split(",")],
            workers=Workers(n=workers or os.cpu_count() or 1, processes=processes),
            overwrite=overwrite,
            progress=progress,
        )
    if as_json:
        say_json(dataclasses.asdict(report))
        return
    say(f"{report.path}: {report.records} of {report.of_records} records, leads {' '.join(report.leads)}")
    if report.rejected:
        say(f"  {report.rejected} left out: nothing was recorded in these leads (ecgstore records {out} --rejected)")
    say(f"  fingerprint {report.fingerprint}")


@click.command(short_help="Make one store of two")
@click.argument("one", type=click.Path())
@click.argument("other", type=click.Path())
@OUT
@WORKERS
@click.option("--processes", is_flag=True, help="Workers are processes, not threads.")
@OVERWRITE
@AS_JSON
@plain_errors
def merge(
    one: str, other: str, out: Path, workers: int | None, processes: bool, overwrite: bool, as_json: bool
) -> None:
    """Make OUT from the stores ONE and OTHER: all records of both, those of ONE first.

    Both must have been prepared in the same way, with the same leads, rate and key of patients, and no record id in
    common. Shards are taken over as they are, where both have shards of the same size.
    """
    from ecgstore.build.schedule import Workers
    from ecgstore.lineage.merge import merge_stores
    from ecgstore.storage.store import open_store

    with progress_bars(PHASES) as progress:
        crew = Workers(n=workers or os.cpu_count() or 1, processes=processes)
        stores = open_store(one), open_store(other)
        report = merge_stores(*stores, out, workers=crew, overwrite=overwrite, progress=progress)
    if as_json:
        say_json(dataclasses.asdict(report))
        return
    say(f"{report.path}: {report.records} records; {report.shards_kept} shards kept, {report.shards_written} written")
    for note in report.notes:
        say(f"  note: {note}")
    say(f"  fingerprint {report.fingerprint}")


@click.command(short_help="Write a store in another format")
@STORE
@click.option("--meds", type=click.Path(path_type=Path), metavar="OUT", help="A folder of MEDS 0.4.1.")
@click.option("--wfdb", type=click.Path(path_type=Path), metavar="OUT", help="A folder of WFDB records.")
@click.option("--tuning", metavar="9", help="Folds of the split tuning in MEDS. Default: the last but one.")
@click.option("--held-out", metavar="10", help="Folds of the split held_out in MEDS. Default: the last.")
@AS_JSON
@plain_errors
def export(
    store: str, meds: Path | None, wfdb: Path | None, tuning: str | None, held_out: str | None, as_json: bool
) -> None:
    """Write STORE in another format, into a folder that is not there yet.

    WFDB records hold the same millivolts to the count. MEDS holds statements, age, sex and measures, and no samples.
    """
    from ecgstore.storage.store import open_store

    if meds is None and wfdb is None:
        raise click.UsageError("say which format: --meds OUT or --wfdb OUT")
    opened = open_store(store)
    answer: dict[str, object] = {"store": store, "fingerprint": opened.fingerprint}
    if wfdb is not None:
        from ecgstore.lineage.to_wfdb import export_wfdb

        with progress_bars({"records": "writing records"}) as progress:
            written = export_wfdb(opened, wfdb, progress=progress)
        answer["wfdb"] = dataclasses.asdict(written)
        if not as_json:
            say(f"{written.path}: {written.records} WFDB records, {written.renamed} under another name than their id")
            if written.lost_annotations:
                say(f"  {written.lost_annotations} annotations left out: WFDB knows no such symbol or suffix")
            if written.lost_leads:
                say(f"  {written.lost_leads} leads left out: no gain is known")
    if meds is not None:
        from ecgstore.lineage.to_meds import export_meds

        folds = {
            name: None if text is None else numbers(text, f"--{name.replace('_', '-')}")
            for name, text in (("tuning", tuning), ("held_out", held_out))
        }
        made = export_meds(opened, meds, **folds)
        answer["meds"] = dataclasses.asdict(made)
        if not as_json:
            told = ", ".join(f"{name} {n}" for name, n in made.splits.items()) or "none"
            say(f"{made.path}: {made.subjects} subjects, {made.events} events, {made.codes} codes; splits: {told}")
            if made.mixed:
                say(f"  {made.mixed} subjects have records on several sides, and are in train")
    if as_json:
        say_json(answer)


VERBS = (withdraw, subset, merge, export)
