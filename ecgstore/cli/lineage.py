"""Verbs that make a store out of sealed ones: withdraw, subset, merge."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from ecgstore.cli.make import secret_of_the_environment
from ecgstore.cli.printing import AS_JSON, PHASES, STORE, plain_errors, progress_bars, say, say_json

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
    overwrite: bool,
    as_json: bool,
) -> None:
    """Make OUT from STORE without some patients or records: no sample and no id of theirs is left in it.

    Shards that hold none of them are those of STORE. OUT may be STORE itself, with --overwrite. A store that grows
    later (`ecgstore ingest --append`) doesn't take them back.

    Example: ecgstore withdraw hospital.ecg hospital-v2.ecg --patient P-17
    """
    from ecgstore.lineage.withdraw import read_list, withdraw_records
    from ecgstore.storage.store import open_store

    of_list = ((), ()) if listed is None else read_list(listed)
    with progress_bars(PHASES) as progress:
        report = withdraw_records(
            open_store(store),
            out,
            patients=[*patients, *of_list[0]],
            records=[*records, *of_list[1]],
            secret_key=secret_of_the_environment(),
            skip_unknown=skip_unknown,
            overwrite=overwrite,
            progress=progress,
        )
    if as_json:
        say_json(dataclasses.asdict(report))
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
    say("  what this can't reach:")
    for one in report.beyond_reach:
        say(f"    {one}")
    say(f"  fingerprint {report.fingerprint}")


VERBS = (withdraw,)
