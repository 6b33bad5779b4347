"""The verb that cuts beats out of a store: beats."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import click

from ecgstore.cli.make import WORKERS
from ecgstore.cli.printing import AS_JSON, STORE, plain_errors, progress_bars, say, say_json


@click.command(short_help="Make a store of mean ectopic beats")
@STORE
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--beats",
    type=click.Choice(["auto", "annotated"]),
    default="auto",
    show_default=True,
    help="Which beats: those that are found to be ectopic, or those that the store's annotations call ventricular.",
)
@click.option(
    "--before",
    "before_s",
    type=float,
    default=0.3,
    show_default=True,
    metavar="S",
    help="Seconds before the middle of the QRS complex.",
)
@click.option("--after", "after_s", type=float, default=0.3, show_default=True, metavar="S", help="Seconds after it.")
@WORKERS
@click.option("--processes", is_flag=True, help="Workers are processes, not threads.")
@click.option("--overwrite", is_flag=True, help="Replace a sealed store, once the new one is sealed.")
@AS_JSON
@plain_errors
def beats(
    store: str, out: Path, workers: int | None, processes: bool, overwrite: bool, as_json: bool, **flags: Any
) -> None:
    """Make OUT from STORE: of each record the mean of its ectopic beats, to ask where they begin.

    Folds, patients and statements are those of STORE. Records without an ectopic beat are left out and written down.
    """
    from ecgstore.build.beats import BeatSettings, beats_store
    from ecgstore.build.schedule import Workers
    from ecgstore.settings import parse
    from ecgstore.storage.store import open_store

    settings = parse(BeatSettings, flags, where="the command line")
    with progress_bars({"shards": "cutting beats", "seal": "sealing"}) as progress:
        crew = Workers(n=workers or os.cpu_count() or 1, processes=processes)
        report = beats_store(open_store(store), out, settings, workers=crew, overwrite=overwrite, progress=progress)
    if as_json:
        say_json(dataclasses.asdict(report))
        return
    say(f"{report.path}: {report.records} records, the means of {report.beats} beats, in {report.seconds:.1f} s")
    if report.rejected:
        see = f"ecgstore records {report.path} --rejected"
        say(f"  {report.rejected} records have no ectopic beat and were left out ({see})")
    say(f"  fingerprint {report.fingerprint}")


VERBS = (beats,)
