"""The rows of a commit: read once it is known that they are no larger than those of the tables, and compared with them.

A commit may come from anybody, and whoever withdraws, merges or appends goes by what its rows say.
"""

from __future__ import annotations

import functools
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ecgstore.storage import batches, tables
from ecgstore.storage.validate import refuse

#: Of each column of each batch, which Arrow pads; and what a commit says in other words than the tables do.
_ROOM_BYTES = 1 << 20
#: How many times as much as the tables hold of its records.
_TIMES = 2
_OTHER = "a commit doesn't say of its records what the tables say"


class Tabled(Protocol):
    """What is asked of a :class:`ecgstore.storage.store.Store`."""

    @property
    def n_records(self) -> int: ...
    @property
    def shard_samples(self) -> int: ...
    @property
    def attributes(self) -> dict[str, Any]: ...
    @property
    def records(self) -> pa.Table: ...
    @property
    def lead_quality(self) -> pa.Table: ...
    @property
    def beats(self) -> pa.Table: ...
    @property
    def spans(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]: ...


class Rows:
    """What the tables of a store say of the records of each commit."""

    def __init__(self, store: Tabled) -> None:
        self._store = store

    def of_commit(self, content: bytes, first_shard: int, next_shard: int, where: object) -> pa.Table:
        """The rows of the commit with these bytes: of the records that begin in the shards from ``first_shard`` on.

        ``next_shard`` is the first one of another commit. What else it says has been checked. Raises StoreFormatError
        where the rows are not those of the tables, before anything is unpacked that is much larger than they are.
        """
        size = self._store.shard_samples
        places = [first_shard * size, next_shard * size]
        first, end = (int(row) for row in np.searchsorted(self._store.spans[0], places))
        records, beats = self._records.slice(first, end - first), self._beats_of(first, end)
        self._check_size(content, records, beats, where)
        try:
            written, _ = tables.from_arrow(content)
            written.validate(full=True)
        except (pa.ArrowException, OSError, ValueError, KeyError, MemoryError, OverflowError, RecursionError) as error:
            refuse("a commit can't be read", where, got=" ".join(str(error).split())[:160])
        if not _is_same(written, "record_id", records["record_id"]):
            refuse("a commit is not of the records that begin in its shards", where)
        leads = self._leads.slice(first, end - first)
        said = {name: records[name] for name, _ in tables.WRITTEN if name in records.column_names}
        said |= {f"leads.{name}": leads[name] for name in leads.column_names}
        for name, column in said.items():
            if name in written.column_names and not _is_same(written, name, column):
                refuse(_OTHER, where, got=name)
        _check_beats(written, beats, first, where)
        return written

    @functools.cached_property
    def _records(self) -> pa.Table:
        return self._store.records

    @functools.cached_property
    def _leads(self) -> pa.Table:
        return self._store.lead_quality

    @functools.cached_property
    def _beats(self) -> tuple[pa.Table, npt.NDArray[np.int64]]:
        table = self._store.beats
        return table, tables.numbers(table["row"]) if table.num_columns else np.empty(0, np.int64)

    def _beats_of(self, first: int, end: int) -> pa.Table:
        table, row_b = self._beats
        begin, stop = (int(at) for at in np.searchsorted(row_b, [first, end]))
        return table.slice(begin, stop - begin)

    def _check_size(self, content: bytes, records: pa.Table, beats: pa.Table, where: object) -> None:
        try:
            found = batches.size_of(content)
        except ValueError as error:
            refuse("a commit can't be read", where, got=str(error))
        if found.n_rows != len(records):
            refuse("a commit is not of the records that begin in its shards", where, len(records), found.n_rows)
        schema = tables.leads_schema(len(self._store.attributes["leads"]))
        of_leads = sum(field.type.list_size * field.type.value_type.bit_width // 8 for field in schema)
        most = _TIMES * (records.nbytes + beats.nbytes + len(records) * of_leads) + _ROOM_BYTES
        if found.n_bytes > most:
            refuse("a commit is too large in memory", where, f"{most} bytes at most, by the tables", found.n_bytes)


def _is_same(written: pa.Table, name: str, column: pa.ChunkedArray) -> bool:
    its = written[name]
    return bool(its.type == column.type and its.equals(column))


def _check_beats(written: pa.Table, beats: pa.Table, first: int, where: object) -> None:
    for name in beats.column_names:
        if f"beats.{name}" in written.column_names:
            lists = written[f"beats.{name}"].combine_chunks()
            if lists.type != pa.list_(tables.BEATS_SCHEMA.field(name).type):
                refuse(_OTHER, where, got=f"beats.{name}")
            row = tables.numbers(pa.chunked_array([lists.value_parent_indices()])) + first
            if not np.array_equal(row, tables.numbers(beats["row"])) or not _is_flat(lists, beats[name]):
                refuse(_OTHER, where, got=f"beats.{name}")


def _is_flat(lists: pa.Array, column: pa.ChunkedArray) -> bool:
    return bool(pa.chunked_array([lists.flatten()]).equals(column))
