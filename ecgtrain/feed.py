"""The only reader of stores in this house: decoded once to int16 in memory, then windows by the million.

A shard is decoded once, whole. Its records are laid one after the other in one int16 buffer, and a batch is a
single fancy index into a view of all its windows: about the speed of a plain memory copy, on one thread, with
nothing but int16 crossing to the device. One thread of this process prepares the next two batches meanwhile.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ecgstore import NOT_RECORDED, ConfigError, ShardSignal, Store
from ecgtrain.errors import ProtocolError
from ecgtrain.plan import BatchPlan, Int64

#: Batches prepared ahead of the one in use.
_AHEAD = 2
#: The largest share of the machine's memory that windows may take.
MEMORY_SHARE = 0.6


class Batch(NamedTuple):
    """``counts_blt``: int16 on the feed's device, of 1 µV, -32768 where not recorded; time-major in memory.

    ``sample_numbers_b`` (int64, same device) are the plan's; ``rows_b`` are the *store's* row numbers.
    """

    counts_blt: Tensor
    sample_numbers_b: Tensor
    rows_b: Int64


class WindowCache:
    """Records of any lengths in one int16 buffer of shape (time, leads), record after record.

    Time-major, so that a window is one piece of memory: copying windows out then runs at the speed of any
    copy, twice that of the same windows lead by lead. A record shorter than ``window_samples`` is laid out as
    long as one window, its end "not recorded".
    """

    def __init__(self, n_leads: int, lengths_n: Int64, window_samples: int) -> None:
        self.lengths_n = np.asarray(lengths_n, dtype=np.int64)
        self.window_samples = window_samples
        pitch_n = np.maximum(self.lengths_n, window_samples)
        self._start_n = np.cumsum(pitch_n) - pitch_n
        # Allocated, not filled: only what no record covers needs "not recorded".
        self._counts_tl = np.empty((int(pitch_n.sum()), n_leads), dtype=np.int16)
        for row in np.flatnonzero(pitch_n > self.lengths_n):
            start = self._start_n[row]
            self._counts_tl[start + self.lengths_n[row] : start + window_samples] = NOT_RECORDED
        # Every window of the buffer as one opaque item, which NumPy copies whole.
        sample_bytes = n_leads * self._counts_tl.itemsize
        self._windows: npt.NDArray[np.void] = np.ndarray(
            (len(self._counts_tl) - window_samples + 1,),
            dtype=np.dtype((np.void, window_samples * sample_bytes)),
            buffer=self._counts_tl,
            strides=(sample_bytes,),
        )

    @property
    def n_bytes(self) -> int:
        """Size of the buffer."""
        return self._counts_tl.nbytes

    def put(self, row: int, offset: int, counts_lt: npt.NDArray[np.int16]) -> None:
        """Write a piece of record ``row`` that begins at its sample ``offset``."""
        start = self._start_n[row] + offset
        self._counts_tl[start : start + counts_lt.shape[1]] = counts_lt.T

    def windows(self, rows: Int64, offsets: Int64) -> npt.NDArray[np.int16]:
        """Copy windows out: int16 (batch, window, leads), that of ``rows[i]`` from ``offsets[i]`` on."""
        counts: npt.NDArray[np.int16] = self._windows[self._start_n[rows] + offsets].view(np.int16)
        return counts.reshape(len(rows), self.window_samples, self._counts_tl.shape[1])


class Feed:
    """Batches of int16 windows on ``device``, from the selected records of one store.

    ``rows_n`` are the store's row numbers of the records in ``cache``; ``description`` says which way of
    feeding was picked, and why.
    """

    def __init__(self, cache: WindowCache, rows_n: Int64, *, device: torch.device | str = "cpu") -> None:
        self.cache = cache
        self.rows_n = rows_n
        self.device = torch.device(device)
        self.description = f"feed: resident, {cache.n_bytes / 1e6:,.0f} MB int16 in memory for {len(rows_n):,} records"

    @property
    def n_records(self) -> int:
        """Number of selected records."""
        return len(self.rows_n)

    @property
    def lengths_n(self) -> Int64:
        """Samples of each selected record: what a plan needs to know."""
        return self.cache.lengths_n

    @property
    def window_samples(self) -> int:
        """Samples of a window."""
        return self.cache.window_samples

    def batch(self, plan: BatchPlan) -> Batch:
        """The batch that ``plan`` asks for. On a GPU it travels from pinned memory, without waiting."""
        counts_btl = torch.from_numpy(self.cache.windows(plan.rows, plan.offsets))
        sample_numbers_b = torch.from_numpy(plan.sample_numbers)
        if self.device.type == "cuda":
            counts_btl = counts_btl.pin_memory().to(self.device, non_blocking=True)
            sample_numbers_b = sample_numbers_b.pin_memory().to(self.device, non_blocking=True)
        return Batch(counts_btl.transpose(1, 2), sample_numbers_b, self.rows_n[plan.rows])

    def batches(self, plans: Iterable[BatchPlan]) -> Generator[Batch, None, None]:
        """The batches of ``plans`` in order, prepared ahead by one thread.

        Whatever the thread raises is raised here. Closing the generator ends the thread.
        """
        ready: queue.SimpleQueue[Batch | BaseException | None] = queue.SimpleQueue()
        room: queue.SimpleQueue[None] = queue.SimpleQueue()  # as many items as batches may still be handed over
        closed = threading.Event()

        def prepare() -> None:
            try:
                for plan in plans:
                    batch = self.batch(plan)
                    room.get()
                    if closed.is_set():
                        return
                    ready.put(batch)
                ready.put(None)
            except BaseException as error:
                ready.put(error)

        for _ in range(_AHEAD):
            room.put(None)
        thread = threading.Thread(target=prepare, name="ecgtrain-feed", daemon=True)
        thread.start()
        try:
            while (item := ready.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                room.put(None)
                yield item
        finally:
            closed.set()
            room.put(None)
            thread.join()


def open_feed(
    store: Store,
    rows: Int64,
    *,
    window_samples: int,
    leads: Sequence[str] | None = None,
    short_records: Literal["pad", "refuse"] = "refuse",
    device: torch.device | str = "cpu",
    memory_bytes: int | None = None,
) -> Feed:
    """Decode the records at ``rows`` of ``store`` once and feed windows of ``window_samples`` from memory.

    ``leads`` (default: the store's) are taken by name, in this order. ``memory_bytes`` bounds the buffer; by
    default :data:`MEMORY_SHARE` of this machine's memory. Raises ProtocolError if no record is selected;
    ConfigError if a lead is unknown, if windows are longer than the longest record, if some record is shorter
    than a window and ``short_records`` is ``refuse``, or if the selection doesn't fit.
    """
    rows_n = np.asarray(rows, dtype=np.int64)
    if len(rows_n) == 0:
        raise ProtocolError("no record is selected", where=store.path, fix="choose other folds or another store")
    if store.encoding != "microvolt":
        raise ProtocolError(
            "a raw store can't be trained on: its counts have gains and rates of their own",
            where=store.path,
            fix="ingest the recordings with --profile train",
        )
    lengths_n = store.column("n_samples")[rows_n].astype(np.int64)
    _refuse_short(store, rows_n, lengths_n, window_samples, short_records)
    lead_index = _lead_index(store, store.leads if leads is None else leads)
    n_bytes = 2 * len(lead_index) * int(np.maximum(lengths_n, window_samples).sum())
    allowed = int(MEMORY_SHARE * machine_memory_bytes()) if memory_bytes is None else memory_bytes
    if n_bytes > allowed:
        raise ConfigError(
            "the selected records don't fit in memory",
            where=store.path,
            expected=f"{allowed / 1e9:.1f} GB at most",
            got=f"{n_bytes / 1e9:.1f} GB",
            fix="select fewer folds or leads, or a store of a lower rate",
        )
    cache = WindowCache(len(lead_index), lengths_n, window_samples)
    _fill(cache, store, rows_n, lead_index)
    feed = Feed(cache, rows_n, device=device)
    feed.description += f", because that is under {allowed / 1e9:.1f} GB"
    return feed


def _refuse_short(store: Store, rows_n: Int64, lengths_n: Int64, window_samples: int, policy: str) -> None:
    if window_samples > lengths_n.max():
        raise ConfigError(
            "windows are longer than the longest record",
            where=store.path,
            expected=f"{lengths_n.max()} samples at most",
            got=window_samples,
            fix="lower window_samples",
        )
    short = np.flatnonzero(lengths_n < window_samples)
    if len(short) and policy == "refuse":
        first = store.column("record_id")[rows_n[short[0]]]
        raise ConfigError(
            f"{len(short)} of {len(lengths_n)} records are shorter than a window",
            where=f"{store.path}, the first is {first}",
            expected=f"{window_samples} samples or more",
            got=int(lengths_n[short[0]]),
            fix="set short_records: pad, or lower window_samples",
        )


def _lead_index(store: Store, leads: Sequence[str]) -> list[int]:
    unknown = [lead for lead in leads if lead not in store.leads]
    if unknown:
        raise ConfigError(
            f"the store has no lead {', '.join(unknown)}",
            where=store.path,
            expected=f"some of {', '.join(store.leads)}",
        )
    return [store.leads.index(lead) for lead in leads]


def _fill(cache: WindowCache, store: Store, rows_n: Int64, lead_index: list[int]) -> None:
    """Decode each shard that holds a selected record once, and lay its pieces into the cache."""
    place = np.full(store.n_records, -1, dtype=np.int64)
    place[rows_n] = np.arange(len(rows_n))
    all_leads = lead_index == list(range(len(store.leads)))
    for shard in range(store.n_shards):
        signal: ShardSignal = store.read_shard(shard)
        for row, start, length, offset in zip(
            place[signal.rows].tolist(),
            signal.starts.tolist(),
            signal.lengths.tolist(),
            signal.offsets.tolist(),
            strict=True,
        ):
            if row >= 0:
                piece = signal.counts_lt[:, start : start + length]
                cache.put(row, offset, piece if all_leads else piece[lead_index])


def machine_memory_bytes() -> int:
    """Memory that this process may use: the machine's, or its container's limit where that is lower."""
    import os

    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [total]
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            limits.append(int(Path(name).read_text(encoding="ascii")))
    return min(limits)
