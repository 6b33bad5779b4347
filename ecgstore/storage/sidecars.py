"""Keeping tables beside a sealed store: columns, annotations or folds, found by record id.

A table stands in ``STORE.sidecars/<name>.parquet``; in its metadata stands of which store its records are.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from ecgstore.errors import ConfigError, EcgError, StoreError, StoreExists
from ecgstore.storage import layout, splits, tables, validate_tables
from ecgstore.storage.beside import CARD, NAME, files_beside, folder_beside
from ecgstore.storage.cells import open_csv
from ecgstore.storage.publish import write_bytes
from ecgstore.storage.sidecar_tables import (
    ABOUT,
    VERSION,
    content_of,
    parse_sidecar,
    path_of,
    read_beside,
    refuse_columns,
    rows_of,
)
from ecgstore.storage.store import Store


class Sidecar(NamedTuple):
    """One table beside a store. ``problem`` says in words why it can't be used with it; empty where it can."""

    name: str
    kind: str
    rows: int
    columns: tuple[str, ...]
    store_fingerprint: str
    problem: str


def add_sidecar(
    store: Store, table: str | Path | pa.Table, name: str | None = None, *, overwrite: bool = False
) -> Sidecar:
    """Keep a table beside ``store``: a Parquet or CSV file, or a table, with a column ``record_id``.

    One row per record makes columns, several make annotations; a split table of the store stays one. ``name`` is that
    of the file if it isn't given. Raises ConfigError (no such table, no ``record_id``, a record that the store doesn't
    hold, a name that a sidecar can't have), StoreFormatError (a type that it can't have), StoreExists, StoreError.
    """
    name = _checked_name(Path(table).stem.lower() if name is None and not isinstance(table, pa.Table) else name)
    path = folder_beside(store.path) / f"{name}.parquet"
    there = StoreExists("there is already such a sidecar", where=path, fix="choose another --name, or say --overwrite")
    if os.path.lexists(path) and not overwrite:
        raise there
    content = _packed(store, table)
    try:
        write_bytes(path, content, replace=overwrite)
    except FileExistsError:  # somebody else's, of just now
        raise there from None
    except OSError as error:
        raise StoreError("the sidecar can't be written", where=path, got=error.strerror or str(error)) from error
    return _told(store, path)


def remove_sidecar(store: Store, name: str) -> Path:
    """Remove a table from beside ``store``. Raises ConfigError where there is none."""
    path = path_of(store, name)
    try:
        path.unlink()
    except OSError as error:
        raise StoreError("the sidecar can't be removed", where=path, got=error.strerror or str(error)) from error
    return path


def list_sidecars(store: Store) -> list[Sidecar]:
    """Every table beside ``store``, those too that can't be used with it."""
    return [_told(store, path) for path in files_beside(store.path) if path.name != CARD]


def passed_on(store: Store) -> list[Path]:
    """The card and those tables beside ``store`` that are its own: what may be sent with it.

    Tables of another store, such as the version before somebody withdrew, may name who is no longer in this one.
    """
    good = {f"{one.name}.parquet" for one in list_sidecars(store) if not one.problem}
    return [path for path in files_beside(store.path) if path.name == CARD or path.name in good]


# --- adding -----------------------------------------------------------------------------------------------------------


def _checked_name(name: str | None) -> str:
    if name is None or not NAME.fullmatch(name):
        raise ConfigError(
            "a sidecar can't be called so",
            expected="small letters, digits, _ and -, 64 at most",
            got=repr(name)[:100],
            fix="say --name",
        )
    return name


def _packed(store: Store, given: str | Path | pa.Table) -> bytes:
    """The bytes of the file that will stand beside the store."""
    if isinstance(given, pa.Table):
        table, where = given, "the table"
    else:
        content, where = content_of(Path(given), follow_links=True), str(given)
        if content[:4] == b"PAR1":
            table = validate_tables.plain_texts(
                validate_tables.parse_bounded(content, lambda file: validate_tables.check_size(file, 1, where), where),
                where,
            )
            if layout.SPLIT_KEY in (table.schema.metadata or {}):
                splits.read_split(Path(given), store)
                return content
        else:
            table = _csv(content, where)
    _refuse_twice(table.column_names, where)
    columns = {field.name: _as_plain(table[field.name]) for field in table.schema}
    made = pa.table(columns)
    if "record_id" in made.column_names:
        made = made.select(["record_id", *(name for name in made.column_names if name != "record_id")])
    refuse_columns(made.schema, where)
    rows_of(store, made, where)
    about = {"format": "ecgstore sidecar", "version": VERSION, "store_fingerprint": store.fingerprint}
    packed = tables.to_parquet(made.replace_schema_metadata({ABOUT: json.dumps(about, sort_keys=True).encode()}))
    parse_sidecar(packed, where)  # what can't be read again is told now
    return packed


def _csv(content: bytes, where: str) -> pa.Table:
    """CSV as Arrow takes it, once its form is known: Arrow alone lets an open quote swallow rows, and shows cells."""
    from pyarrow import csv as arrow_csv

    names, rows = open_csv(content, where, ConfigError)
    _refuse_twice(names, where)
    plain = io.StringIO()
    out = csv.writer(plain, lineterminator="\n")
    out.writerow(names)
    out.writerows(
        [cell.strip() if name == "record_id" else cell for name, cell in zip(names, row, strict=True)]
        for _, row in rows()
        if any(cell.strip() for cell in row)
    )
    try:
        return arrow_csv.read_csv(
            pa.BufferReader(plain.getvalue().encode()),
            read_options=arrow_csv.ReadOptions(use_threads=False),
            parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
            convert_options=arrow_csv.ConvertOptions(
                column_types={"record_id": pa.string()}, strings_can_be_null=False
            ),
        )
    except (pa.ArrowException, ValueError, OverflowError, MemoryError) as error:
        raise ConfigError(
            "this is neither a Parquet file nor a table in CSV", where=where, got=type(error).__name__
        ) from None


def _refuse_twice(names: Sequence[str], where: str) -> None:
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise ConfigError(
            "a column stands in the table twice", where=where, got=", ".join(twice[:5]), fix="remove or rename one"
        )


def _as_plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column in a type that a sidecar can have, where that loses nothing."""
    kind = column.type
    if (
        pa.types.is_null(kind)
        or pa.types.is_dictionary(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_temporal(kind)
    ):
        return column.cast(pa.string())
    return column.cast(pa.float32()) if pa.types.is_float16(kind) else column


def _told(store: Store, path: Path) -> Sidecar:
    try:
        kind, table = read_beside(store, path)
    except EcgError as error:
        return Sidecar(path.stem, "", 0, (), "", error.what)
    columns = tuple(name for name in table.column_names if name not in ("record_id", "row"))
    return Sidecar(path.stem, kind, table.num_rows, columns, store.fingerprint, "")
