"""The verb that draws folds beside a store: split."""

from __future__ import annotations

from pathlib import Path

import click

from ecgstore.cli.printing import AS_JSON, STORE, plain_errors, say, say_json

_FOLDS = 10


@click.command(short_help="Draw folds by patient")
@STORE
@click.option(
    "--by",
    type=click.Choice(["patient"]),
    default="patient",
    show_default=True,
    help="Whose records stay together. A record that names no patient counts as one.",
)
@click.option("--folds", type=click.IntRange(2, 1000), default=_FOLDS, show_default=True, help="How many folds.")
@click.option(
    "--stratify",
    metavar="SYSTEM|SYSTEM:CODE,…|COLUMN",
    help="What to have alike in all folds: the codes of a coding system, some of them, or a column such as sex or "
    "age_years (numbers by fifths).",
)
@click.option("--site", is_flag=True, help="A fold for each site, to leave one site out after the other.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Another seed, other folds.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="TABLE.parquet",
    help="Default: STORE with .split.parquet behind it; of an address, in this folder.",
)
@click.option("--overwrite", is_flag=True, help="Replace a table that is there.")
@AS_JSON
@plain_errors
def split(
    store: str,
    by: str,
    folds: int,
    stratify: str | None,
    site: bool,
    seed: int,
    out: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Draw folds for the records of STORE, by patient, and write them into a table beside it.

    The store itself stays as it is. With `--set data.split=TABLE.parquet`, `ecgtrain run` takes the folds of the table
    in the place of the store's own.
    """
    from ecgstore.errors import ConfigError, StoreExists
    from ecgstore.split.draw import counts_of, split_records
    from ecgstore.storage.store import open_store

    context = click.get_current_context()
    if site and (
        stratify is not None or context.get_parameter_source("folds") is not click.core.ParameterSource.DEFAULT
    ):
        raise click.UsageError("--site makes a fold for each site: leave --folds and --stratify out")
    beside = Path(store).name if "://" in store else store.rstrip("/")
    path = out or Path(f"{beside}.split.parquet")
    if path.suffix.lower() != ".parquet":
        raise ConfigError("the table is written as Parquet", where=path, expected="a name that ends with .parquet")
    if path.exists() and not overwrite:  # said before any work
        raise StoreExists("there is already such a file", where=path, fix="choose another (--out), or say --overwrite")
    opened = open_store(store)
    made = split_records(opened, folds=folds, stratify=stratify, site=site, seed=seed)
    made.write(path, overwrite=overwrite)
    counts = counts_of(opened, made)
    if as_json:
        answer = {"path": str(path), "sha256": made.sha256, "store_fingerprint": made.store_fingerprint}
        notes = {"in_no_fold": int((made.fold_n < 0).sum()), "notes": list(made.notes)}
        say_json(answer | {"folds": [one._asdict() for one in counts]} | notes)
        return
    codes = list(counts[0].positives) if counts else []
    named = any(one.name for one in counts)
    say("fold", *(["site"] if named else []), "records", "patients", *codes)
    for one in counts:
        say(one.fold, *([one.name] if named else []), one.records, one.patients, *one.positives.values())
    for note in made.notes:
        say(f"note: {note}")
    say(f"{path}: next: ecgtrain run RECIPE --set data.store={store} --set data.split={path}")


VERBS = (split,)
