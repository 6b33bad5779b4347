"""Tables that are written as their rows come: no more than one row group of each is held."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from ecgstore.storage import publish
from ecgstore.storage.arrow import table
from ecgstore.storage.tables import rows_per_group


class Growing:
    """A Parquet file that gets its rows piece by piece, with the same bytes whatever the pieces are."""

    def __init__(self, file: BinaryIO, schema: pa.Schema, name: str) -> None:
        self._writer = pq.ParquetWriter(file, schema, compression="zstd")
        self._size = rows_per_group(name)
        self._parts = [table({name: [] for name in schema.names}, schema)]
        self._n_rows = self._n_groups = 0

    def add(self, part: pa.Table) -> None:
        """The next rows, of the schema of all."""
        self._parts.append(part)
        self._n_rows += part.num_rows
        while self._n_rows >= self._size:
            self._write(self._size)

    def close(self) -> None:
        """Write what is left, and the footer."""
        if self._n_rows or not self._n_groups:
            self._write(self._n_rows)
        self.release()

    def release(self) -> None:
        """Let go of the file, before it is closed, also where the rows never came to their end."""
        self._writer.close()

    def _write(self, n_rows: int) -> None:
        held = pa.concat_tables(self._parts)
        # One piece per column: where pages end hangs on the pieces.
        self._writer.write_table(held.slice(0, n_rows).combine_chunks(), row_group_size=max(1, n_rows))
        self._parts, self._n_rows = [held.slice(n_rows)], self._n_rows - n_rows
        self._n_groups += 1


@contextlib.contextmanager
def growing(root: Path, schemas: Mapping[str, pa.Schema]) -> Iterator[dict[str, Growing]]:
    """The tables of these names in the folder ``root``, which are there once all of them are whole, or not at all."""
    with contextlib.ExitStack() as stack:
        tables: dict[str, Growing] = {}
        for name, schema in schemas.items():
            tables[name] = Growing(stack.enter_context(publish.writing(root / name)), schema, name)
            stack.callback(tables[name].release)
        yield tables
        for one in tables.values():
            one.close()
