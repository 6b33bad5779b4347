"""A split table: folds that stand beside a sealed store, for it alone; docs/splits.md is its contract.

One row per record of the store, ``record_id`` and ``fold`` (null: in no fold). What the folds are of stands in the
file's metadata, as JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from ecgstore.errors import ConfigError, StoreError, StoreExists
from ecgstore.settings import Settings
from ecgstore.storage import layout, tables, validate_tables
from ecgstore.storage.beside import about_of
from ecgstore.storage.limits import limits
from ecgstore.storage.outside import refuse_within_store
from ecgstore.storage.plain import open_plain
from ecgstore.storage.publish import write_bytes
from ecgstore.storage.statistics import LeadStatistics
from ecgstore.storage.store import Store
from ecgstore.storage.validate import refuse

#: The key of the metadata in the file.
ABOUT = layout.SPLIT_KEY
#: Raised whenever something of the table changes.
VERSION = 1
MAX_FOLDS = 1000
_ABOUT_BYTES = 1 << 20

Folds = npt.NDArray[np.int16]


class SplitSettings(Settings):
    """How folds were drawn. ``stratify``: a coding system, ``SYSTEM:CODE,CODE``, or a column; ``site``: a fold for each
    site, where neither ``folds`` nor ``stratify`` says anything.
    """

    by: Literal["patient"] = "patient"
    folds: Annotated[int, Field(ge=2, le=MAX_FOLDS)] | None = 10
    stratify: Annotated[str, Field(min_length=1, max_length=10_000)] | None = None
    site: bool = False
    seed: NonNegativeInt = Field(default=0, lt=2**63)

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.site and (self.folds is not None or self.stratify is not None):
            raise ValueError("a fold for each site leaves no choice of folds or of what to stratify by")
        if not self.site and self.folds is None:
            raise ValueError("the number of folds must be given")
        return self


class _About(Settings):
    format: Literal["ecgstore split"]
    version: PositiveInt
    store_fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    settings: SplitSettings
    names: dict[str, Annotated[str, Field(max_length=10_000)]] = Field(default_factory=dict, max_length=MAX_FOLDS)
    notes: tuple[Annotated[str, Field(max_length=10_000)], ...] = Field(default=(), max_length=1000)


@dataclass(frozen=True, eq=False)
class Split:
    """Folds of the records of one store. ``fold_n``: int16 (records,) in the order of ``record_ids``, -1 for none.

    ``store_fingerprint``: of that store. ``settings``: how they were drawn (``by``, ``folds``, ``stratify``, ``site``,
    ``seed``). ``names``: what folds are called, where each is of a site. ``notes``: what the folds must be read with.
    """

    store_fingerprint: str
    record_ids: tuple[str, ...]
    fold_n: Folds
    settings: SplitSettings
    names: Mapping[int, str]
    notes: tuple[str, ...] = ()

    @property
    def folds(self) -> list[int]:
        """The folds that have records, ascending."""
        return [int(fold) for fold in np.unique(self.fold_n) if fold >= 0]

    @property
    def sha256(self) -> str:
        """Identifies which record of which store is in which fold, however the file is packed."""
        digest = hashlib.sha256(f"ecgstore split {VERSION} {self.store_fingerprint}\n".encode())
        for record_id, fold in sorted(zip(self.record_ids, self.fold_n.tolist(), strict=True)):
            digest.update(f"{json.dumps(record_id)}\t{fold}\n".encode())
        return digest.hexdigest()

    def to_bytes(self) -> bytes:
        """The file: the same bytes for the same split and version of Arrow."""
        about = {
            "format": "ecgstore split",
            "version": VERSION,
            "store_fingerprint": self.store_fingerprint,
            "settings": self.settings.model_dump(mode="json"),
            "names": {str(fold): name for fold, name in sorted(self.names.items())},
            "notes": list(self.notes),
        }
        fold = pa.array(self.fold_n, pa.int16(), mask=self.fold_n < 0)
        table = pa.table([pa.array(self.record_ids, pa.string()), fold], schema=tables.SPLIT_SCHEMA)
        return tables.to_parquet(table.replace_schema_metadata({ABOUT: json.dumps(about, sort_keys=True).encode()}))

    def write(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the table to ``path``, wholly or not at all.

        Raises StoreExists where something stands there and ``overwrite`` is not set, ConfigError within a store.
        """
        path = Path(path)
        refuse_within_store(path)
        there = StoreExists("there is already such a file", where=path, fix="choose another, or say --overwrite")
        if os.path.lexists(path) and not overwrite:
            raise there
        try:
            write_bytes(path, self.to_bytes(), replace=overwrite)
        except FileExistsError:  # somebody else's, of just now
            raise there from None
        except OSError as error:
            raise StoreError("the table can't be written", where=path, got=error.strerror or str(error)) from error


def load_split(path: str | Path) -> Split:
    """Read a split table, whatever store it is for.

    Raises ConfigError where there is none, and StoreFormatError in one line where it isn't as docs/splits.md says.
    """
    most = limits().table_bytes
    try:
        with open_plain(path) as file:
            content = file.read(most + 1)
    except FileNotFoundError:
        raise ConfigError("there is no such split table", where=path, fix="make one with `ecgstore split`") from None
    except OSError as error:
        raise ConfigError("the split table can't be read", where=path, got=error.strerror or str(error)) from None
    if len(content) > most:
        refuse("this is too large to be a split table", path, f"{most} bytes at most")
    if content[:4] != b"PAR1":
        refuse("this is no split table", path, "a Parquet file", fix="make one with `ecgstore split`")
    table = validate_tables.parse_table(content, layout.SPLIT, 1, layout.FORMAT_VERSION, path)
    table = validate_tables.plain_texts(table, path)
    validate_tables.check_split(table, MAX_FOLDS, path)
    about = about_of(
        table.schema.metadata, ABOUT, _About, kind="split table", version=VERSION, most=_ABOUT_BYTES, path=path
    )
    fold_n = tables.numbers(table["fold"], -1)
    ids = tuple(table["record_id"].to_pylist())
    names = _names(about.names, path)
    return Split(about.store_fingerprint, ids, fold_n, about.settings, names, about.notes)


def _names(names: Mapping[str, str], where: object) -> dict[int, str]:
    found = {}
    for fold, name in names.items():
        if not (fold.isascii() and fold.isdecimal() and 1 <= int(fold[:5]) <= MAX_FOLDS and fold == str(int(fold[:5]))):
            refuse("the split table names what is no fold", where, f"1 to {MAX_FOLDS}", fold)
        found[int(fold)] = name
    return found


def read_split(path: str | Path, store: Store) -> Split:
    """Read the split table at ``path``, in the order of the records of ``store``.

    Raises ConfigError where it is for another store, or names other records, and what :func:`load_split` raises. A
    store that `ecgstore augment` made has the records of its parent, and takes the table of that.
    """
    split = load_split(path)
    mine = (store.fingerprint, store.attributes.get("parent"))
    if split.store_fingerprint not in mine:
        raise ConfigError(
            "the split table is for another store, or for this one before it grew",
            where=f"{path}, for {store.path}",
            expected=f"{store.fingerprint[:16]}…",
            got=f"{split.store_fingerprint[:16]}…",
            fix=f"make one for it: ecgstore split {store.path}",
        )
    ids = store.column("record_id").tolist()
    fold_of = dict(zip(split.record_ids, split.fold_n.tolist(), strict=True))
    missing = next((one for one in ids if one not in fold_of), None)
    if missing is not None or len(fold_of) != len(ids):
        known = set(ids)
        extra = next((one for one in split.record_ids if one not in known), None)
        raise ConfigError(
            "the split table has other records than the store",
            where=f"{path}, for {store.path}",
            expected=f"each of {len(ids)} records once",
            got=f"no record {missing}" if missing is not None else f"record {extra}",
        )
    fold_n = np.array([fold_of[one] for one in ids], dtype=np.int16)
    return Split(split.store_fingerprint, tuple(ids), fold_n, split.settings, split.names, split.notes)


def with_split(store: Store, path: str | Path) -> Store:
    """The same ``store``, whose records have the folds of the table at ``path``; raises as :func:`read_split`."""
    split = read_split(path, store)
    return _Refolded(store, split.fold_n, split.sha256)


class _Refolded(Store):
    """A store under the folds of a table. All else is the store's own, what it has read already too."""

    def __init__(self, store: Store, fold_n: Folds, split_sha256: str) -> None:
        self.__dict__.update(store.__dict__)
        self.split_sha256 = split_sha256
        self._fold_n = fold_n
        fold = pa.array(fold_n, pa.int16(), mask=fold_n < 0)
        self.records = store.records.set_column(store.records.column_names.index("fold"), "fold", fold)

    def __reduce__(self) -> tuple[Any, ...]:
        reopen, given = super().__reduce__()
        return _refold, (reopen, given, self._fold_n, self.split_sha256)

    def statistics(self, folds: Iterable[int] | None = None) -> LeadStatistics:
        """Those of all records; raises StoreError for ``folds``: the sums that a store carries are by its own."""
        if folds is not None:
            raise StoreError("the store has no sums by the folds of a split table", where=self.path)
        return super().statistics()


def _refold(reopen: Any, given: tuple[Any, ...], fold_n: Folds, split_sha256: str) -> Store:
    return _Refolded(reopen(*given), fold_n, split_sha256)
