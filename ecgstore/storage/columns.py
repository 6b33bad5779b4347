"""The table of records, column by column: of a million records nobody needs all that is said of them.

What is small is unpacked as a whole. What is large stays packed in memory, as it was sealed; a column is unpacked and
checked when it is first asked for, and of what is asked about one record only its row group is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ecgstore.storage import layout, validate_tables
from ecgstore.storage.arrow import column
from ecgstore.storage.blocks import Blocks

#: So many ids are looked for in a large column one by one, before all of them are put into a dictionary.
_FEW_LOOKUPS = 32
#: In fewer ids than this a dictionary is made at once.
_FEW_IDS = 20_000


#: Raises StoreFormatError where a column holds what the format doesn't know; is told where the table stands.
Check = Callable[[pa.Table, object], None]


class Columns(Protocol):
    """What is asked of either kind."""

    @property
    def names(self) -> Sequence[str]:
        """Of all columns, in their order."""

    @property
    def n_rows(self) -> int:
        """Of every column."""

    def table(self, names: Sequence[str]) -> pa.Table:
        """These columns, in the order of the table."""

    def about(self, row: int, names: Sequence[str]) -> dict[str, Any]:
        """What these columns, those of them that are there, say of one row."""


class Whole:
    """A table that is unpacked already."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self.names, self.n_rows = table.column_names, table.num_rows
        self._selected: dict[Sequence[str], dict[str, pa.Array]] = {}

    def table(self, names: Sequence[str]) -> pa.Table:
        return self._table if list(names) == self.names else self._table.select(list(names))

    def about(self, row: int, names: Sequence[str]) -> dict[str, Any]:
        if (asked := tuple(names)) not in self._selected:
            self._selected[asked] = _in_one_piece(self.table([name for name in self.names if name in asked]))
        return {name: its[row].as_py() for name, its in self._selected[asked].items()}


class Packed:
    """A table in the bytes of its Parquet file, or in those of them that were fetched. May be used by several threads.

    ``check`` is shown the columns that are read together, and refuses what the format doesn't know. The footer of
    ``file`` was checked.
    """

    def __init__(self, file: validate_tables.BoundedFile, check: Check, where: object) -> None:
        self._file, self._check, self._where = file, check, where
        self.names = list(file.schema_arrow.names)
        self.n_rows = int(file.metadata.num_rows)
        self._ends = np.cumsum([group.n_rows for group in file.groups], dtype=np.int64)
        self._columns: dict[str, pa.ChunkedArray] = {}
        self._groups: dict[tuple[int, Sequence[str]], dict[str, pa.Array]] = {}
        self._text_bytes = 0
        self._lock = threading.Lock()

    def table(self, names: Sequence[str]) -> pa.Table:
        with self._lock:
            if new := [name for name in names if name not in self._columns]:
                # Whole columns take the place of pieces.
                self._groups.clear()
                its = self._read(new, None)
                self._columns |= {name: its[name] for name in its.column_names}
            return pa.table({name: self._columns[name] for name in self.names if name in names})

    def about(self, row: int, names: Sequence[str]) -> dict[str, Any]:
        group = int(np.searchsorted(self._ends, row, side="right"))
        with self._lock:
            its = self._groups.get((group, tuple(names)))
            if its is None:
                asked = [name for name in self.names if name in names]
                if all(name in self._columns for name in asked):
                    return {name: self._columns[name][row].as_py() for name in asked}
                its = self._groups[group, tuple(names)] = _in_one_piece(self._read(asked, group))
        place = row - int(self._ends[group - 1]) if group else row
        return {name: values[place].as_py() for name, values in its.items()}

    def _read(self, names: Sequence[str], group: int | None) -> pa.Table:
        def read() -> pa.Table:
            self._file.have_here(names, group)
            if group is None:
                return self._file.read(list(names), use_threads=False)
            return self._file.read_row_group(group, list(names), use_threads=False)

        table = validate_tables.plain_errors(read, self._where)
        self._check(table, self._where)
        weighed = [field.name for field in table.schema if pa.types.is_dictionary(field.type)]
        table = validate_tables.plain_texts(table, self._where, self._text_bytes)
        self._text_bytes += sum(table[name].nbytes for name in weighed)
        return table


def _in_one_piece(table: pa.Table) -> dict[str, pa.Array]:
    """Each column as one array: one row of it is turned into Python five times as fast as one of a table."""
    columns = zip(table.column_names, table.combine_chunks().columns, strict=True)
    return {name: its.chunk(0) if its.num_chunks else column([], its.type) for name, its in columns}


def packed(content: bytes | Blocks, *, version: int, where: object, check: Check) -> Packed:
    """The table of records in these bytes, of which only the places of the records are unpacked and checked.

    Raises StoreFormatError.
    """
    columns = Packed(validate_tables.open_table(content, layout.RECORDS, 1, version, where), check, where)
    columns.table(validate_tables.PLACES)
    return columns


class Ids:
    """Which row has which id."""

    def __init__(self, ids: pa.ChunkedArray) -> None:
        self._ids = ids
        self._n_asked = 0
        self._row_of: dict[str, int] | None = None

    def row_of(self, record_id: str) -> int | None:
        """The row of an id; None where there is none."""
        self._n_asked += 1
        if self._row_of is None:
            if len(self._ids) > _FEW_IDS and self._n_asked <= _FEW_LOOKUPS:
                return self._look_through(record_id)
            self._row_of = {one: row for row, one in enumerate(self._ids.to_pylist())}
        return self._row_of.get(record_id)

    def _look_through(self, record_id: str) -> int | None:
        try:
            row = pc.index(self._ids, column([record_id], pa.string())[0]).as_py()
        except (pa.ArrowException, UnicodeError):  # no Unicode
            return None
        return None if row < 0 else row
