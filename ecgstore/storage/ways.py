"""Further ways to read a store, each in a file of its own that is imported when it is first gone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, cast

import pyarrow as pa

from ecgstore.errors import ConfigError
from ecgstore.record import Record
from ecgstore.storage import asked


class Ways:
    """What :class:`ecgstore.Store` offers besides its own tables and samples."""

    def __len__(self) -> int:
        """Number of records."""
        return int(cast(Any, self).n_records)

    def __bool__(self) -> bool:
        return True  # a store without a record is a store

    def __contains__(self, record_id: str) -> bool:
        """Whether there is a record of that id."""
        store = cast(Any, self)
        return store._ids.row_of(asked.one_text(record_id, "the id of a record", store.path)) is not None

    def __getitem__(self, row: int) -> Record:
        """The record of that number, from 0 on; raises ConfigError, an IndexError too, where there is none."""
        store = cast(Any, self)
        given: object = row
        if isinstance(given, str | slice):
            fix = f"store.read({given!r})" if isinstance(given, str) else "store.read_rows(range(...)) reads several"
            raise ConfigError("a record is had by its number", where=store.path, got=repr(given)[:80], fix=fix)
        return next(self.read_rows([asked.row_of(row, len(self), store.path, first=-len(self))]))

    def read_rows(self, rows: Iterable[int]) -> Iterator[Record]:
        """The records at ``rows`` (numbers from 0 on), one after the other, as :meth:`Store.read` reads them.

        Neighbours in the store are best read one after the other: a chunk that holds both is unpacked once. Raises
        ConfigError before the first where a number is that of no record, or a mask is given.
        """
        store = cast(Any, self)
        wanted = asked.rows_of(rows, len(self), store.path)
        return (store.read(store.id_of(row)) for row in wanted)

    def sidecar(self, name: str) -> pa.Table:
        """The sidecar table ``name`` that is kept beside this store, in the order of the records.

        Columns and folds have one row per record, null where the table says nothing of it; annotations have a row each,
        with ``row``, the record's number, in front. Raises ConfigError where there is none, or it is for another store.
        """
        from ecgstore.storage.sidecar_tables import read_sidecar

        store = cast(Any, self)
        return read_sidecar(store, asked.one_text(name, "the name of a sidecar", store.path))

    def to_dask(self, *, counts: bool = False) -> Any:
        """All samples as a lazy ``dask.array`` (leads, samples), a block per shard: float32 mV, NaN where nothing is.

        With ``counts`` int16 as they stand in the store, -32768 where nothing is. Records lie along time as ``start``
        and ``n_samples`` of :attr:`records` say. Raises MissingExtra without Dask.
        """
        from ecgstore.storage.lazy import to_dask

        return to_dask(cast(Any, self), counts)

    def to_xarray(self, *, counts: bool = False) -> Any:
        """The same as a lazy ``xarray.Dataset``: ``signal`` (lead, time) with coordinates; ``counts`` as there.

        ``lead`` is the name; ``record`` the row of the record that a sample is of, -1 between records; ``time_s`` the
        seconds from its first sample. Along ``row`` stand ``record_id``, ``patient_key``, ``source``, ``fold``,
        ``start`` and ``n_samples``. Raises MissingExtra without xarray and Dask.
        """
        from ecgstore.storage.lazy import to_xarray

        return to_xarray(cast(Any, self), counts)
