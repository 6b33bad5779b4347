"""Records by row, and only the seconds of them that somebody looks at: a record may last for days."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ecgstore.record import Record
from ecgstore.storage.store import Store

#: A record of up to this many seconds is read whole, which compares its checksum, and is kept for whoever asks next.
WHOLE_S = 60.0
_KEPT_RECORDS = 256


class Part(NamedTuple):
    """``record`` holds the seconds from ``start_s`` on of a record that lasts ``whole_s``."""

    record: Record
    start_s: float
    whole_s: float


def lasts_s(store: Store, row: int) -> float:
    """How long the record in ``row`` is, in seconds."""
    starts, ends = store.spans
    return float((ends[row] - starts[row]) / _fs_hz(store, row))


class Reader:
    """Reads parts of the records of one store, and keeps short records for whoever asks next."""

    def __init__(self, store: Store) -> None:
        self._store, self._ids = store, store.column("record_id")
        fs_hz = store.attributes["fs_hz"]
        self._fs_hz_n = store.column("source_fs_hz") if fs_hz is None else np.full(store.n_records, fs_hz)
        self._whole = lru_cache(maxsize=_KEPT_RECORDS)(lambda row: store.read(str(self._ids[row])))

    def lasts_s(self, row: int) -> float:
        """See :func:`lasts_s`."""
        starts, ends = self._store.spans
        return float((ends[row] - starts[row]) / self._fs_hz_n[row])

    def read(self, row: int, start_s: float, stop_s: float) -> Part:
        """The seconds from ``start_s`` to ``stop_s`` as far as there are any, a sample at least; and maybe more."""
        whole_s, fs_hz = self.lasts_s(row), float(self._fs_hz_n[row])
        if whole_s <= WHOLE_S:
            return Part(self._whole(row), 0.0, whole_s)
        first_s = round(min(max(0.0, start_s), whole_s - 1 / fs_hz) * fs_hz) / fs_hz
        stop_s = min(max(stop_s, first_s + 1 / fs_hz), whole_s)
        return Part(self._store.read(str(self._ids[row]), start_s=first_s, stop_s=stop_s), first_s, whole_s)


def _fs_hz(store: Store, row: int) -> float:
    return float(store.attributes["fs_hz"] or store.records["source_fs_hz"][row].as_py())
