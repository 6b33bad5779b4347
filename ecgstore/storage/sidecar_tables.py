"""Reading sidecar tables: what is kept beside a sealed store, for it alone; docs/format.md is the contract.

A sidecar is input, as a store is: bounded, and checked before it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, PositiveInt

from ecgstore.errors import ConfigError, nearest
from ecgstore.settings import Settings
from ecgstore.storage import layout, validate_tables
from ecgstore.storage.beside import CARD, about_of, files_beside, folder_beside
from ecgstore.storage.limits import FIX, limits
from ecgstore.storage.plain import open_plain
from ecgstore.storage.validate import parse_json, refuse

#: The key of the metadata in the file.
ABOUT = b"ecgstore_sidecar"
#: Raised whenever something of the table changes.
VERSION = 1
MOST_COLUMNS, MOST_NAME = 1000, 200
_ABOUT_BYTES = 1 << 16

Kind = Literal["columns", "annotations", "split"]


class Opened(Protocol):
    """What is asked of a :class:`ecgstore.storage.store.Store`."""

    records: pa.Table

    @property
    def path(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def n_records(self) -> int: ...
    @property
    def attributes(self) -> dict[str, Any]: ...


class _About(Settings):
    format: Literal["ecgstore sidecar"]
    version: PositiveInt
    store_fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def read_sidecar(store: Opened, name: str) -> pa.Table:
    """The table ``name`` beside ``store``, in the order of its records.

    Columns and folds: one row per record of the store, null where the table has none. Annotations: as many rows as
    there are, ``row`` (the record's number) in front. Raises ConfigError where there is no such table, or it is for
    another store, and StoreFormatError in one line where it isn't as docs/format.md says.
    """
    return read_beside(store, path_of(store, name))[1]


def path_of(store: Opened, name: str) -> Path:
    """Where the table ``name`` stands; raises ConfigError where there is none."""
    there = {path.stem: path for path in files_beside(store.path) if path.name != CARD}
    if name not in there:
        near = nearest(name, there)
        known = f"there are {', '.join(sorted(there))}" if there else "add one with `ecgstore sidecar add`"
        fix = f"did you mean {near}?" if near else known
        raise ConfigError(f"no sidecar {name[:80]!r}", where=folder_beside(store.path), fix=fix)
    return there[name]


def read_beside(store: Opened, path: Path) -> tuple[Kind, pa.Table]:
    """The kind of a table, and its rows as :func:`read_sidecar` gives them."""
    content = content_of(path, follow_links=False)
    table = parse_sidecar(content, path)
    metadata: Mapping[bytes, bytes] = table.schema.metadata or {}
    is_split = layout.SPLIT_KEY in metadata and ABOUT not in metadata
    _refuse_other(store, _split_of(metadata, path) if is_split else _about(metadata, path).store_fingerprint, path)
    at = rows_of(store, table, path)
    plain = table.replace_schema_metadata()
    if len(np.unique(at)) == len(at):
        to = np.full(store.n_records, -1, np.int64)
        to[at] = np.arange(len(at))
        taken = plain.drop_columns(["record_id"]).take(pa.array(to, pa.int64(), mask=to < 0))
        return "split" if is_split else "columns", taken.add_column(0, "record_id", store.records["record_id"])
    order = np.argsort(at, kind="stable")
    return "annotations", plain.take(pa.array(order)).add_column(0, "row", pa.array(at[order], pa.int64()))


def content_of(path: Path, *, follow_links: bool) -> bytes:
    """The bytes of a table of bounded size; raises ConfigError, StoreFormatError."""
    most = limits().table_bytes
    try:
        with open_plain(path, follow_links=follow_links) as file:
            content = file.read(most + 1)
    except FileNotFoundError:
        raise ConfigError("there is no such table", where=path) from None
    except OSError as error:
        raise ConfigError("the table can't be read", where=path, got=error.strerror or str(error)) from None
    if len(content) > most:
        refuse("this is too large to be a sidecar", path, f"{most} bytes at most", fix=FIX)
    return content


def parse_sidecar(content: bytes, path: object) -> pa.Table:
    """The table of a sidecar's bytes; raises StoreFormatError."""
    if content[:4] != b"PAR1":
        refuse("this is no sidecar", path, "a Parquet file")
    table = validate_tables.parse_bounded(content, lambda file: _check(file, path), path)
    return validate_tables.plain_texts(table, path)


def _check(file: validate_tables.BoundedFile, path: object) -> None:
    validate_tables.check_size(file, 1, path)
    refuse_columns(file.schema_arrow, path)
    validate_tables.check_width(file, path)


def refuse_columns(schema: pa.Schema, path: object) -> None:
    """Raise StoreFormatError where a table has columns that a sidecar can't have."""
    if "record_id" not in schema.names or schema.field("record_id").type != pa.string():
        refuse("a sidecar needs a column of texts that says of which record each row is", path, "record_id")
    if not 2 <= len(schema) <= MOST_COLUMNS:
        refuse("a sidecar has another number of columns", path, f"2 to {MOST_COLUMNS}", len(schema))
    for field in schema:
        if not 0 < len(field.name) <= MOST_NAME:
            refuse("a name of a column is too long, or empty", path, f"1 to {MOST_NAME} letters", field.name)
        if field.name == "row":
            refuse("a column of a sidecar can't be called row: rows are found by record_id", path)
        if not _is_plain(field.type):
            refuse(
                f"column {field.name} has a type that a sidecar can't have",
                path,
                "numbers, texts, true or false",
                str(field.type),
            )


def _is_plain(kind: pa.DataType) -> bool:
    types = pa.types
    is_number = types.is_integer(kind) or types.is_float32(kind) or types.is_float64(kind)
    return bool(is_number or types.is_boolean(kind) or kind == pa.string())


def _about(metadata: Mapping[bytes, bytes], path: object) -> _About:
    return about_of(metadata, ABOUT, _About, kind="sidecar", version=VERSION, most=_ABOUT_BYTES, path=path)


def _split_of(metadata: Mapping[bytes, bytes], path: object) -> object:
    """The fingerprint of the store that a split table is for; the rest of it is checked by whoever takes its folds."""
    return parse_json(metadata[layout.SPLIT_KEY], path, 16 * _ABOUT_BYTES).get("store_fingerprint")


def _refuse_other(store: Opened, fingerprint: object, path: object) -> None:
    # A store that `ecgstore augment` made has the records of its parent.
    if fingerprint not in (store.fingerprint, store.attributes.get("parent")):
        raise ConfigError(
            "the sidecar is for another store, or for this one before it changed",
            where=f"{path}, for {store.path}",
            expected=f"{store.fingerprint[:16]}…",
            got=f"{str(fingerprint)[:16]}…",
            fix="add it again",
        )


def rows_of(store: Opened, table: pa.Table, path: object) -> Any:
    """The store's rows that the rows of the table are of."""
    ids = table["record_id"]
    if ids.null_count:
        raise ConfigError("a row of the table names no record", where=path)
    at = pc.index_in(ids, value_set=store.records["record_id"].combine_chunks())
    if at.null_count:
        unknown = ids.filter(pc.is_null(at))
        raise ConfigError(
            f"{len(unknown)} rows of the table are of records that the store doesn't hold",
            where=f"{path}, for {store.path}",
            got=repr(unknown[0].as_py())[:100],
            fix="leave them out",
        )
    return at.to_numpy().astype(np.int64)
