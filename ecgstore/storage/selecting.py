"""Which records are in a fold, of a source, of a site, or meet a condition."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ecgstore.storage import asked
from ecgstore.storage.columns import Columns
from ecgstore.storage.where import columns_in, rows_where


class _Selecting(Protocol):
    """What of a store is asked here."""

    @property
    def attributes(self) -> Mapping[str, Any]: ...
    @property
    def n_records(self) -> int: ...
    @property
    def path(self) -> str: ...
    def column(self, name: str) -> npt.NDArray[Any]: ...


def selected(
    store: _Selecting,
    columns: Columns,
    folds: Iterable[int] | None,
    sources: Iterable[str] | None,
    sites: Iterable[str] | None,
    where: str,
) -> npt.NDArray[np.int64]:
    """As :meth:`ecgstore.Store.select` says; ``columns`` are those of its table of records."""
    wanted = np.ones(store.n_records, dtype=np.bool_)
    if folds is not None:
        wanted &= np.isin(store.column("fold"), asked.folds_of(folds, store.path))
    for noun, values in (("source", sources), ("site", sites)):
        if values is not None:
            its = store.column(noun)
            known = [*set(its.tolist()), *_declared(noun, store.attributes)]
            wanted &= np.isin(its, list(asked.known_texts(values, noun, known, store.path)))
    if where is not None and asked.one_text(where, "a condition", store.path):
        wanted &= rows_where(columns.table(columns_in(where, columns.names)), where)
    return np.flatnonzero(wanted)


def _declared(noun: str, attributes: Mapping[str, Any]) -> list[str]:
    """The sources, or sites, that the root of a store knows of: each may have no record by now."""
    if noun == "source":
        return [one["name"] for one in attributes["sources"]]
    return list(attributes.get("vocabulary_by_site", {}))
