"""The verbs on tables beside a store: sidecar add, list, remove."""

from __future__ import annotations

from pathlib import Path

import click

from ecgstore.cli.printing import AS_JSON, STORE, plain_errors, say, say_json


@click.group(short_help="Keep tables beside a store")
def sidecar() -> None:
    """Keep columns, annotations or folds beside a sealed store, by record id; `store.sidecar(name)` reads them."""


@sidecar.command(short_help="Keep a table beside a store")
@STORE
@click.argument("table", type=click.Path(path_type=Path))
@click.option("--name", metavar="NAME", help="What it is called. Default: the name of the file.")
@click.option("--overwrite", is_flag=True, help="Replace a table that is there.")
@AS_JSON
@plain_errors
def add(store: str, table: Path, name: str | None, overwrite: bool, as_json: bool) -> None:
    """Keep TABLE (Parquet or CSV, with a column record_id) beside STORE, which itself stays as it is.

    One row per record makes columns, several make annotations. A split table of STORE stays one.
    """
    from ecgstore.storage.sidecars import add_sidecar
    from ecgstore.storage.store import open_store

    added = add_sidecar(open_store(store), table, name, overwrite=overwrite)
    if as_json:
        say_json(added._asdict())
        return
    say(f"{added.name}: {added.kind}, {added.rows} rows, columns {' '.join(added.columns)}")


@sidecar.command(name="list", short_help="List the tables beside a store")
@STORE
@AS_JSON
@plain_errors
def list_(store: str, as_json: bool) -> None:
    """List the tables beside STORE, those too that can't be used with it, and why."""
    from ecgstore.storage.sidecars import list_sidecars
    from ecgstore.storage.store import open_store

    found = list_sidecars(open_store(store))
    if as_json:
        say_json({"path": store, "sidecars": [one._asdict() for one in found]})
        return
    say("name", "kind", "rows", "columns", "problem")
    for one in found:
        say(one.name, one.kind, one.rows, ",".join(one.columns), one.problem)


@sidecar.command(short_help="Remove a table from beside a store")
@STORE
@click.argument("name")
@AS_JSON
@plain_errors
def remove(store: str, name: str, as_json: bool) -> None:
    """Remove the table NAME from beside STORE, which itself stays as it is."""
    from ecgstore.storage.sidecars import remove_sidecar
    from ecgstore.storage.store import open_store

    path = remove_sidecar(open_store(store), name)
    say_json({"removed": str(path)}) if as_json else say(f"removed {path}")


VERBS = (sidecar,)
