"""A store as lazy arrays of Dask and xarray: nothing is read until it is computed, shard by shard.

Only this file imports xarray. Samples come as :meth:`Store.read` gives them: in millivolts, NaN where nothing was
recorded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ecgstore.errors import need
from ecgstore.storage import layout

#: Columns of the records that stand along ``row``.
_OF_RECORDS = ("record_id", "patient_key", "source", "fold", "start", "n_samples")


class Opened(Protocol):
    """What is asked of a :class:`ecgstore.storage.store.Store`."""

    records: pa.Table
    total_samples: int

    @property
    def path(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def leads(self) -> tuple[str, ...]: ...
    @property
    def encoding(self) -> str: ...
    @property
    def shard_samples(self) -> int: ...
    @property
    def attributes(self) -> dict[str, Any]: ...
    @property
    def spans(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]: ...
    @property
    def lead_quality(self) -> pa.Table: ...
    def column(self, name: str) -> npt.NDArray[Any]: ...
    def decode(self, begin: int, end: int, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int16]: ...


def to_dask(store: Opened, counts: bool = False) -> Any:
    """See :meth:`ecgstore.Store.to_dask`."""
    dtype = np.dtype(np.int16 if counts else np.float32)
    read = _Signal(store, counts)
    return _array(read, (len(store.leads), store.total_samples), dtype, store, "counts" if counts else "mv")


def to_xarray(store: Opened, counts: bool = False) -> Any:
    """See :meth:`ecgstore.Store.to_xarray`."""
    xarray = need("xarray", "lazy")
    shape = (store.total_samples,)
    coordinates = {
        "lead": ("lead", list(store.leads)),
        "record": (
            "time",
            _array(_Row(store), shape, np.dtype(np.int64), store, "row"),
            {"long_name": "its row"},
        ),
        "time_s": (
            "time",
            _array(_Time(store), shape, np.dtype(np.float64), store, "time"),
            {"units": "s", "long_name": "seconds from the first sample of the record"},
        ),
        **{name: ("row", store.column(name)) for name in _OF_RECORDS},
    }
    unit = {"units": "count"} if counts else {"units": "mV"}
    about = {"fingerprint": store.fingerprint, "recipe_sha256": store.attributes["recipe_sha256"]}
    if store.attributes["fs_hz"] is not None:
        about["fs_hz"] = store.attributes["fs_hz"]
    return xarray.Dataset({"signal": (("lead", "time"), to_dask(store, counts), unit)}, coordinates, about)


def _array(read: _Lazy, shape: tuple[int, ...], dtype: np.dtype[Any], store: Opened, what: str) -> Any:
    array = need("dask.array", "lazy")
    chunks = (*shape[:-1], store.shard_samples)
    name = f"ecgstore-{what}-{store.fingerprint}"
    read.shape, read.dtype, read.ndim = shape, dtype, len(shape)
    meta = np.empty((0,) * len(shape), dtype)
    return array.from_array(read, chunks=chunks, name=name, asarray=False, fancy=False, meta=meta)


class _Lazy(ABC):
    """What Dask takes for an array: a shape, a type, and a part of it on demand."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    ndim: int

    def __init__(self, store: Opened) -> None:
        self._store = store

    @abstractmethod
    def _part(self, begin: int, end: int) -> npt.NDArray[Any]:
        """Samples ``begin`` up to ``end``, along the last axis."""

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        *before, last = key if isinstance(key, tuple) else (key,)
        if isinstance(last, slice):
            wanted = np.arange(self.shape[-1])[last] if last.step not in (None, 1) else None
            begin, end, _ = last.indices(self.shape[-1])
            if wanted is not None:
                begin, end = (int(wanted.min()), int(wanted.max()) + 1) if len(wanted) else (0, 0)
            part = self._part(begin, max(begin, end))
            part = part if wanted is None else part[..., wanted - begin]
        else:
            part = self._part(int(last), int(last) + 1)[..., 0]
        return part[tuple(before)] if before else part

    def _rows(self, begin: int, end: int) -> npt.NDArray[np.int64]:
        starts, ends = self._store.spans
        return np.arange(np.searchsorted(ends, begin, side="right"), np.searchsorted(starts, end, side="left"))

    def _filled(
        self, begin: int, end: int, value: float, fill: Callable[[int, npt.NDArray[np.int64]], Any]
    ) -> npt.NDArray[Any]:
        """Along time, ``fill`` of each record's row and of the samples in it; ``value`` between records."""
        starts, ends = self._store.spans
        found = np.full(end - begin, value, self.dtype)
        for row in self._rows(begin, end).tolist():
            first, last = max(int(starts[row]), begin), min(int(ends[row]), end)
            found[first - begin : last - begin] = fill(row, np.arange(first, last) - int(starts[row]))
        return found


class _Signal(_Lazy):
    def __init__(self, store: Opened, counts: bool) -> None:
        super().__init__(store)
        self._counts = counts

    def _part(self, begin: int, end: int) -> npt.NDArray[Any]:
        if begin == end:
            return np.empty((len(self._store.leads), 0), self.dtype)
        rows = self._rows(begin, end)
        counts_lt = self._store.decode(begin, end, rows)
        if self._counts:
            return counts_lt
        if self._store.encoding != "adc":
            return layout.counts_to_mv(counts_lt)
        starts, ends = self._store.spans
        signal_mv_lt = np.full(counts_lt.shape, np.nan, np.float32)
        for row in rows.tolist():
            at = slice(max(int(starts[row]) - begin, 0), int(ends[row]) - begin)
            its = self._store.lead_quality.slice(row, 1).to_pylist()[0]
            gain_l, baseline_l = (np.array(its[name], np.float64) for name in ("gain_per_mv", "baseline"))
            signal_mv_lt[:, at] = layout.adc_to_mv(counts_lt[:, at], gain_l, baseline_l)
        return signal_mv_lt


class _Row(_Lazy):
    def _part(self, begin: int, end: int) -> npt.NDArray[Any]:
        return self._filled(begin, end, -1, lambda row, samples: row)


class _Time(_Lazy):
    def _part(self, begin: int, end: int) -> npt.NDArray[Any]:
        fs_hz = self._store.attributes["fs_hz"]
        rates = self._store.column("source_fs_hz") if fs_hz is None else None
        return self._filled(begin, end, np.nan, lambda row, samples: samples / (fs_hz if rates is None else rates[row]))
