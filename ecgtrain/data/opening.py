"""Which way a selection is fed: on the device, in memory, from a file shared on the node, or as a stream."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ecgstore import NOT_RECORDED, ConfigError, IntegrityError
from ecgtrain.data import cache as caches
from ecgtrain.data.cache import NoRoom, Piece, Source, WindowCache, machine_memory_bytes
from ecgtrain.data.plan import BatchPlan, Int64
from ecgtrain.data.settings import Feeding
from ecgtrain.data.stream import ShardPool, units_of

log = logging.getLogger(__name__)

#: The largest share of the machine's memory that windows may take, and of the device's that is free.
MEMORY_SHARE, DEVICE_SHARE = 0.6, 0.7
#: Below this, all processes of the node together, decoding again costs a second or two: no file is kept.
RESIDENT_BYTES = 2**30
#: Bytes that cross to the device at a time while its cache is filled.
_CROSS_BYTES = 2**26

Way = Literal["resident", "device", "memmap", "stream"]


class Windows(Protocol):
    """Where windows come from: what the four ways have in common."""

    lengths_n: Int64
    window_samples: int

    @property
    def n_bytes(self) -> int:
        """Memory that the counts take."""

    def windows(self, rows: Int64, offsets: Int64) -> npt.NDArray[np.int16] | Tensor:
        """Int16 (batch, window, leads): that of record ``rows[i]`` from its sample ``offsets[i]`` on."""

    def ready(self, plans: Iterable[BatchPlan]) -> Iterable[BatchPlan]:
        """The plans, each when its windows can be had."""

    def mend(self, plan: BatchPlan) -> BatchPlan:
        """The plan without records that can't be read."""

    def lost(self) -> Int64:
        """Places of the records that were found to be unreadable since this was opened."""


class DeviceCache:
    """Like :class:`WindowCache`, in the memory of ``device``: windows are gathered there, and never cross."""

    def __init__(self, n_leads: int, lengths_n: Int64, window_samples: int, device: torch.device | str) -> None:
        self.lengths_n = np.asarray(lengths_n, dtype=np.int64)
        self.window_samples = window_samples
        pitch_n = np.maximum(self.lengths_n, window_samples)
        self._start_n = np.cumsum(pitch_n) - pitch_n
        self._device = torch.device(device)
        shape = (int(pitch_n.sum()), n_leads)
        self._counts_tl = torch.full(shape, int(NOT_RECORDED), dtype=torch.int16, device=self._device)
        # Every window of the buffer as one row.
        n_windows = shape[0] - window_samples + 1
        self._windows = self._counts_tl.as_strided((n_windows, window_samples * n_leads), (n_leads, 1))
        self._lock = threading.Lock()

    @property
    def n_bytes(self) -> int:
        """Size of the buffer."""
        return self._counts_tl.numel() * self._counts_tl.element_size()

    def put_all(self, pieces: Iterable[Piece]) -> None:
        """Write all pieces of a shard: those that lie side by side cross together."""
        run: list[npt.NDArray[np.int16]] = []
        begin = end = 0

        def cross() -> None:
            counts_tl = np.ascontiguousarray(np.concatenate(run, axis=1).T)
            with self._lock:
                self._counts_tl[begin:end] = torch.from_numpy(counts_tl).to(self._device)
            run.clear()

        for row, offset, counts_lt in sorted(pieces, key=lambda piece: piece[:2]):
            start = int(self._start_n[row]) + offset
            if run and (start != end or 2 * (end - begin) * self._counts_tl.shape[1] > _CROSS_BYTES):
                cross()
            begin = begin if run else start
            run.append(counts_lt)
            end = start + counts_lt.shape[1]
        if run:
            cross()

    def leave_out(self, places: Int64) -> None:
        """Forget the records at ``places``: those after them move up."""
        self.lengths_n, self._start_n = np.delete(self.lengths_n, places), np.delete(self._start_n, places)

    def windows(self, rows: Int64, offsets: Int64) -> Tensor:
        """Gather windows on the device: int16 (batch, window, leads)."""
        starts_b = torch.from_numpy(self._start_n[rows] + offsets).to(self._device, non_blocking=True)
        return self._windows[starts_b].view(len(rows), self.window_samples, -1)

    def ready(self, plans: Iterable[BatchPlan]) -> Iterable[BatchPlan]:
        """The plans, each when its windows can be had: here, at once."""
        return plans

    def mend(self, plan: BatchPlan) -> BatchPlan:
        """The plan without records that can't be read: here, as it is."""
        return plan

    def lost(self) -> Int64:
        """Places of the records that were found to be unreadable since this was opened: here, none."""
        return np.empty(0, dtype=np.int64)


class _Opened(NamedTuple):
    cache: Windows
    way: Way
    where: str
    because: str
    lost: Int64


class Opening:
    """One selection, and the ways that it could be fed."""

    def __init__(
        self,
        sources: Sequence[Source],
        lengths_n: Int64,
        window_samples: int,
        device: torch.device,
        memory_bytes: int | None,
        feeding: Feeding,
    ) -> None:
        self.sources, self.lengths_n, self.window_samples = sources, lengths_n, window_samples
        self.device, self.feeding = device, feeding
        self.n_leads = len(sources[0].lead_index)
        self.samples = int(np.maximum(lengths_n, window_samples).sum())
        self.n_bytes = 2 * self.n_leads * self.samples
        self.allowed = int(MEMORY_SHARE * machine_memory_bytes()) if memory_bytes is None else memory_bytes
        self.unit_n = np.empty(0, dtype=np.int64)

    def open(self) -> _Opened:
        """Take the way that was asked for, or the first that the selection fits."""
        asked = self.feeding.feed
        if asked == "device":
            return self._on_device(f"data.feed asks for it; {_gb(self._device_room())} are allowed")
        if asked == "resident":
            self._refuse_large()
            return self._resident(f"data.feed asks for it; {_gb(self.allowed)} are allowed")
        if asked == "stream":
            return self._stream("data.feed asks for it")
        reasons: list[str] = []
        if asked == "auto":
            if self.device.type == "cuda":
                if self.n_bytes <= self._device_room():
                    return self._on_device(f"that is under {DEVICE_SHARE:.0%} of what is free there")
                reasons.append(f"the device has room for {_gb(self._device_room())}")
            processes = _processes_of_node()
            if self.n_bytes <= self.allowed and self.n_bytes * processes <= RESIDENT_BYTES:
                return self._resident(f"that is under {_gb(RESIDENT_BYTES)}, which is soon decoded again")
            reasons.append(f"{processes} x {_gb(self.n_bytes)} in every process are too much to decode each time")
        for folder in caches.folders(self.feeding.cache_dir):
            try:
                return self._mapped(folder, "data.feed asks for it" if asked == "memmap" else "; ".join(reasons))
            except NoRoom as full:
                log.warning("no cache is kept: %s", full)
                reasons.append(str(full))
        if self.n_bytes <= self.allowed:
            return self._resident("; ".join(reasons))
        reasons.append(f"{_gb(self.n_bytes)} are over the {_gb(self.allowed)} of memory that windows may take")
        return self._stream("; ".join(reasons))

    def _refuse_large(self) -> None:
        if self.n_bytes > self.allowed:
            raise ConfigError(
                "the selected records don't fit in memory",
                where=self.sources[0].store.path,
                expected=f"{self.allowed / 1e9:.1f} GB at most",
                got=f"{self.n_bytes / 1e9:.1f} GB",
                fix="set data.feed: auto, or select fewer folds or leads",
            )

    def _device_room(self) -> int:
        if self.device.type == "cuda":
            return int(DEVICE_SHARE * torch.cuda.mem_get_info(self.device)[0])
        return self.allowed

    def _on_device(self, because: str) -> _Opened:
        if self.n_bytes > self._device_room():
            raise ConfigError(
                "the selected records don't fit on the device",
                where=self.sources[0].store.path,
                expected=f"{self._device_room() / 1e9:.1f} GB at most",
                got=f"{self.n_bytes / 1e9:.1f} GB",
                fix="set data.feed: auto, or select fewer folds or leads",
            )
        cache = DeviceCache(self.n_leads, self.lengths_n, self.window_samples, self.device)
        lost = caches.fill(cache.put_all, self.sources, strict=self.feeding.strict)
        cache.leave_out(lost)
        return _Opened(cache, "device", f"on {self.device}", because, lost)

    def _resident(self, because: str) -> _Opened:
        cache = WindowCache(self.n_leads, self.lengths_n, self.window_samples)
        lost = caches.fill(cache.put_all, self.sources, strict=self.feeding.strict)
        cache.leave_out(lost)
        return _Opened(cache, "resident", "in memory", because, lost)

    def _mapped(self, folder: Path, because: str) -> _Opened:
        about, shape = self._entry(), (self.samples, self.n_leads)
        made = False

        def make(counts_tl: npt.NDArray[np.int16], filled: caches.Filled) -> Mapping[str, Any]:
            nonlocal made
            made = True
            log.info("filling the cache in %s: %s", folder, _gb(self.n_bytes))
            cache = WindowCache(self.n_leads, self.lengths_n, self.window_samples, counts_tl)
            lost = caches.fill(cache.put_all, self.sources, strict=self.feeding.strict, filled=filled)
            return {"left_out": lost.tolist()}

        opened = caches.open_entry(folder, caches.key_of(about), shape, self._shown(), make)
        lost = np.array(opened.about["left_out"], dtype=np.int64)
        if len(lost) and not made:
            self._say_left_out(lost, opened.folder)
        cache = WindowCache(self.n_leads, self.lengths_n, self.window_samples, opened.counts_tl, filled=True)
        cache.leave_out(lost)
        where = f"at {opened.folder}, {'just filled' if made else 'filled before'},"
        return _Opened(cache, "memmap", where, because, lost)

    def _entry(self) -> dict[str, Any]:
        """What the bytes of a cache hang on: the key of its entry."""
        return {
            "parts": [
                {
                    "fingerprint": source.store.fingerprint,
                    "rows_sha256": caches.rows_sha256(source.rows),
                    "leads": [source.store.leads[lead] for lead in source.lead_index],
                    "edge_samples": source.edge_samples,
                }
                for source in self.sources
            ],
            # Windows shape the layout only where a record is shorter than one.
            "pitch": self.window_samples if self.lengths_n.min() < self.window_samples else 0,
        }

    def _shown(self) -> dict[str, Any]:
        """What is written into an entry for people."""
        stores = [{"path": source.store.path, "n_records": len(source.rows)} for source in self.sources]
        return {"stores": stores, **self._entry()}

    def _say_left_out(self, lost: Int64, entry: Path) -> None:
        """An entry was filled from a store with bad shards: what was said then is said again."""
        fix = f"once the store is whole again, remove {entry} with `ecgtrain cache clear`"
        if self.feeding.strict:
            raise IntegrityError(f"{len(lost)} records of the cache could not be read", where=entry, fix=fix)
        caches.warn_lost(self.sources, lost.tolist(), f"they could not be read when {entry} was filled; {fix}")

    def _stream(self, because: str) -> _Opened:
        self.unit_n = units_of(self.sources)
        pool = ShardPool(
            self.sources,
            self.lengths_n,
            self.window_samples,
            unit_n=self.unit_n,
            pool_units=self.feeding.pool_shards,
            strict=self.feeding.strict,
        )
        if pool.n_bytes > self.allowed:
            raise ConfigError(
                "the pool of decoded shards doesn't fit in memory",
                where=self.sources[0].store.path,
                expected=f"{self.allowed / 1e9:.1f} GB at most",
                got=f"{pool.n_bytes / 1e9:.1f} GB for twice {self.feeding.pool_shards} shards",
                fix="lower data.pool_shards",
            )
        where = f"in a pool of twice {self.feeding.pool_shards} shards, {self.feeding.draws} draws of each,"
        return _Opened(pool, "stream", where, because, np.empty(0, dtype=np.int64))


def _processes_of_node() -> int:
    """Processes of this run on this node, as torchrun or SLURM says."""
    for name in ("LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE"):
        with suppress(KeyError, ValueError):
            return max(int(os.environ[name]), 1)
    return 1


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.0f} MB"
