"""Further ways to read a store, each in a file of its own that is imported when it is first gone."""

from __future__ import annotations

from typing import Any, cast

import pyarrow as pa


class Ways:
    """What :class:`ecgstore.Store` offers besides its own tables and samples."""

    def sidecar(self, name: str) -> pa.Table:
        """The sidecar table ``name`` that is kept beside this store, in the order of the records.

        Columns and folds have one row per record, null where the table says nothing of it; annotations have a row each,
        with ``row``, the record's number, in front. Raises ConfigError where there is none, or it is for another store.
        """
        from ecgstore.storage.sidecar_tables import read_sidecar

        return read_sidecar(cast(Any, self), name)
