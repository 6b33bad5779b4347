"""The only reader of stores in this house: decoded to int16, then windows by the million.

There are four ways, behind one :class:`Feed`; ``auto`` takes the first that the selection fits into, and says so:

    device     in the device's memory, windows gathered there
    resident   in this process' memory
    memmap     in a file that all processes of the node share, and that the next run finds again
    stream     a pool of decoded shards, each used for several windows per record

The first three give the same windows at the same steps. A shard is decoded once, whole. Its records are laid one
after the other in one int16 buffer, and a batch is a single fancy index into a view of all its windows: about the
speed of a plain memory copy, on one thread, with nothing but int16 crossing to the device. One thread of this
process prepares the next two batches meanwhile.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Generator, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ecgstore import ConfigError, Store
from ecgtrain.data import cache as caches
from ecgtrain.data.cache import Part, Source, WindowCache, machine_memory_bytes
from ecgtrain.data.opening import Opening, Way, Windows
from ecgtrain.data.plan import BatchPlan, Int64, Records, Stream, rarity_weights, whole_weights
from ecgtrain.data.settings import Feeding
from ecgtrain.errors import ProtocolError

__all__ = [
    "Batch",
    "Feed",
    "Part",
    "WindowCache",
    "Windows",
    "machine_memory_bytes",
    "open_feed",
    "open_feed_of",
]

#: Batches prepared ahead of the one in use.
_AHEAD = 2

log = logging.getLogger(__name__)

#: Everything at its default.
PLAIN = Feeding()


class Batch(NamedTuple):
    """``counts_blt``: int16 on the feed's device, of 1 µV, -32768 where not recorded; time-major in memory.

    ``sample_numbers_b`` (int64, same device) are the plan's; ``rows_b`` are the *store's* row numbers. Of
    several stores, the rows of each follow on those of the one before. ``step`` is the plan's.
    """

    counts_blt: Tensor
    sample_numbers_b: Tensor
    rows_b: Int64
    step: int = 0


class Feed:
    """Batches of int16 windows on ``device``, from the selected records of one store or several.

    ``rows_n`` are the row numbers of the records in ``cache``, those of a second store counted on from the first;
    ``description`` says which way of feeding was picked, and why. ``way`` is its name.
    """

    def __init__(
        self,
        cache: Windows,
        rows_n: Int64,
        *,
        device: torch.device | str = "cpu",
        records: Records | None = None,
        way: Way = "resident",
        where: str = "in memory",
        because: str = "",
        left_out: Sequence[str] = (),
        parts: Sequence[Part] = (),
    ) -> None:
        self.cache = cache
        self.rows_n = rows_n
        self.device = torch.device(device)
        self.records = Records(cache.lengths_n) if records is None else records
        self.way, self._left_out = way, tuple(left_out)
        self._parts = parts
        size = f"{cache.n_bytes / 1e9:.1f} GB" if cache.n_bytes >= 1e9 else f"{cache.n_bytes / 1e6:,.0f} MB"
        self.description = f"feed: {way} ({size} int16 {where} for {len(rows_n):,} records)"
        self.description += f", because {because}" if because else ""

    @property
    def n_records(self) -> int:
        """Windows of one epoch: as many as there are records, unless the settings say ``windows: length``."""
        return self.records.windows_per_epoch

    @property
    def left_out(self) -> tuple[str, ...]:
        """Ids of records that were selected but can't be read: in a stream, those found so far."""
        return (*self._left_out, *self.record_ids(self.rows_n[self.cache.lost()]))

    def record_ids(self, rows: Iterable[int]) -> list[str]:
        """Names of the records at a batch's ``rows``; empty if the feed wasn't opened from stores."""
        found = np.asarray(list(rows), dtype=np.int64)
        names = np.empty(len(found), dtype=object)
        for base, part in _bases(self._parts):
            its = (base <= found) & (found < base + part.store.n_records)
            names[its] = part.store.column("record_id")[found[its] - base]
        return [str(name) for name in names if name is not None]

    @property
    def window_samples(self) -> int:
        """Samples of a window."""
        return self.cache.window_samples

    def identity(self) -> dict[str, Any]:
        """What the plan hangs on besides settings and store; empty in the plainest case.

        Equal on all ranks of a run, and in a run and its resumption.
        """
        found: dict[str, Any] = {}
        if (stream := self.records.stream) is not None:
            found["feed"] = f"stream, {stream.pool_units} shards at a time, {stream.draws} draws of each"
        if self._left_out:
            found["feed.records_left_out"] = len(self._left_out)
        return found

    def batch(self, plan: BatchPlan) -> Batch:
        """The batch that ``plan`` asks for. On a GPU it travels from pinned memory, without waiting."""
        plan = self.cache.mend(plan)
        counts = self.cache.windows(plan.rows, plan.offsets)
        counts_btl = counts if isinstance(counts, Tensor) else self._travel(torch.from_numpy(counts))
        sample_numbers_b = self._travel(torch.from_numpy(plan.sample_numbers))
        return Batch(counts_btl.transpose(1, 2), sample_numbers_b, self.rows_n[plan.rows], plan.step)

    def _travel(self, tensor: Tensor) -> Tensor:
        if self.device.type != "cuda":
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def batches(self, plans: Iterable[BatchPlan]) -> Generator[Batch, None, None]:
        """The batches of ``plans`` in order, prepared ahead by one thread.

        Whatever the thread raises is raised here. Closing the generator ends the thread.
        """
        ready: queue.SimpleQueue[Batch | BaseException | None] = queue.SimpleQueue()
        room: queue.SimpleQueue[None] = queue.SimpleQueue()  # as many items as batches may still be handed over
        closed = threading.Event()

        def prepare() -> None:
            try:
                for plan in self.cache.ready(plans):
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
    feeding: Feeding = PLAIN,
) -> Feed:
    """Feed windows of ``window_samples`` from the records at ``rows`` of ``store``, as int16 of 1 µV on ``device``.

    ``leads`` (default: the store's) are taken by name, in this order. ``short_records``: those shorter than a window
    are padded with "not recorded" (``pad``), or refused. ``memory_bytes`` bounds what is held in memory; by default a
    share of this machine's. ``feeding`` says which way to take, which windows to draw, and what to do about records
    that can't be read. ``Feed.batches(plans)`` gives ``counts_blt``, int16 (batch, leads, samples), -32768 where not
    recorded.

    Raises ProtocolError if no record is selected or the store is raw; ConfigError if a lead is unknown, if windows
    are longer than the longest record, if some record is too short, or if the selection doesn't fit the way that was
    asked for; IntegrityError if nothing can be read, or, with ``feeding.strict``, anything can't.
    """
    return open_feed_of(
        [Part(store, rows)],
        window_samples=window_samples,
        leads=leads,
        short_records=short_records,
        device=device,
        memory_bytes=memory_bytes,
        feeding=feeding,
    )


def open_feed_of(
    parts: Sequence[Part],
    *,
    window_samples: int,
    leads: Sequence[str] | None = None,
    short_records: Literal["pad", "refuse"] = "refuse",
    device: torch.device | str = "cpu",
    memory_bytes: int | None = None,
    feeding: Feeding = PLAIN,
) -> Feed:
    """Feed windows of ``window_samples`` from the selected records of one store or several.

    ``leads`` (default: the first store's) are taken by name, in this order, from every store. ``memory_bytes``
    bounds what is held in memory; by default :data:`MEMORY_SHARE` of this machine's. ``feeding`` says which way to
    take, which windows to draw, and what to do about records that can't be read.

    Raises ProtocolError if no record is selected or a store is raw; ConfigError if a lead is unknown, if windows
    are longer than the longest record, if some record is shorter than a window and ``short_records`` is
    ``refuse``, or if the selection doesn't fit the way that was asked for; IntegrityError if nothing can be read,
    or, with ``feeding.strict``, anything can't.
    """
    kept = [part for part in parts if len(part.rows)]
    for part in parts:
        if part.store.encoding != "microvolt":
            raise ProtocolError(
                "a raw store can't be trained on: its counts have gains and rates of their own",
                where=part.store.path,
                fix="ingest the recordings with --profile train",
            )
    if not kept:
        where = ", ".join(part.store.path for part in parts)
        raise ProtocolError("no record is selected", where=where, fix="choose other folds or another store")
    for part in parts:
        if not len(part.rows):
            log.warning("no record of %s is selected", part.store.path)
    sources, lengths_n = _sources(kept, leads, feeding.edge_s, window_samples, short_records)
    opening = Opening(sources, lengths_n, window_samples, torch.device(device), memory_bytes, feeding)
    cache, way, where, because, lost = opening.open()

    rows_n = np.concatenate([base + np.asarray(part.rows, np.int64) for base, part in _bases(parts) if len(part.rows)])
    weights = _weights(kept, lengths_n, window_samples, feeding)
    n_windows = int(_tiles(lengths_n, window_samples).sum()) if feeding.windows == "length" else None
    if len(lost):
        rows_n, lengths_n = np.delete(rows_n, lost), np.delete(lengths_n, lost)
        weights = None if weights is None else np.delete(weights, lost)
        n_windows = None if n_windows is None else int(_tiles(lengths_n, window_samples).sum())
    records = Records(
        lengths_n,
        None if weights is None else whole_weights(weights, n_windows or len(lengths_n)),
        n_windows,
        Stream(opening.unit_n, feeding.pool_shards, feeding.draws) if way == "stream" else None,
    )
    feed = Feed(
        cache,
        rows_n,
        device=device,
        records=records,
        way=way,
        where=where,
        because=because,
        left_out=caches.ids_of(sources, lost.tolist()),
        parts=parts,
    )
    log.info("%s", feed.description)
    return feed


def _bases(parts: Sequence[Part]) -> list[tuple[int, Part]]:
    """Where the row numbers of each part's store begin."""
    ends = np.cumsum([0, *(part.store.n_records for part in parts)])
    return [(int(base), part) for base, part in zip(ends, parts, strict=False)]


def _sources(
    parts: Sequence[Part], leads: Sequence[str] | None, edge_s: float, window_samples: int, short_records: str
) -> tuple[list[Source], Int64]:
    """The parts as they are decoded, and the usable samples of each record: all but its edges."""
    first = parts[0].store
    sources, lengths, n_before = [], [], 0
    for store, rows, _ in parts:
        if store.fs_hz != first.fs_hz:
            raise ConfigError(
                "stores of different rates can't be mixed",
                where=store.path,
                expected=f"{first.fs_hz:g} Hz, as {first.path} has",
                got=f"{store.fs_hz:g} Hz",
                fix="ingest them at one rate",
            )
        rows = np.asarray(rows, dtype=np.int64)
        edge = round(edge_s * store.fs_hz)
        usable = store.column("n_samples")[rows].astype(np.int64) - 2 * edge
        if usable.min() < 1:
            raise ConfigError(
                f"edge_s leaves nothing of {np.count_nonzero(usable < 1)} records",
                where=f"{store.path}, the first is {store.column('record_id')[rows[np.argmax(usable < 1)]]}",
                fix="lower edge_s, or leave short records out with where",
            )
        sources.append(Source(store, rows, _lead_index(store, first.leads if leads is None else leads), edge, n_before))
        lengths.append(usable)
        n_before += len(rows)
    _refuse_short(sources, lengths, window_samples, short_records)
    return sources, np.concatenate(lengths)


def refuse_unfeedable(
    parts: Sequence[Part],
    *,
    window_samples: int,
    leads: Sequence[str],
    short_records: Literal["pad", "refuse"],
    feeding: Feeding = PLAIN,
) -> None:
    """Refuse what :func:`open_feed_of` would refuse by the lengths and leads of records, before anything is made."""
    kept = [part for part in parts if len(part.rows)]
    if kept:
        _sources(kept, leads, feeding.edge_s, window_samples, short_records)


def _refuse_short(sources: Sequence[Source], lengths: Sequence[Int64], window_samples: int, policy: str) -> None:
    longest = max(int(its.max()) for its in lengths)
    if window_samples > longest:
        raise ConfigError(
            "windows are longer than the longest record",
            where=", ".join(source.store.path for source in sources),
            expected=f"{longest} samples at most",
            got=window_samples,
            fix="lower window_samples",
        )
    for source, lengths_n in zip(sources, lengths, strict=True):
        short = np.flatnonzero(lengths_n < window_samples)
        if len(short) and policy == "refuse":
            first = source.store.column("record_id")[source.rows[short[0]]]
            raise ConfigError(
                f"{len(short)} of {len(lengths_n)} records are shorter than a window",
                where=f"{source.store.path}, the first is {first}",
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


def _tiles(lengths_n: Int64, window_samples: int) -> Int64:
    """Windows that lie side by side in each record, one at least."""
    return np.maximum(lengths_n // window_samples, 1)


def _weights(
    parts: Sequence[Part], lengths_n: Int64, window_samples: int, feeding: Feeding
) -> npt.NDArray[np.float64] | None:
    """How often each record comes, relative to the others; None for all alike."""
    shares = [part.weight for part in parts]
    if any(share is None for share in shares) != all(share is None for share in shares):
        raise ConfigError(
            "some stores have a weight and some have none",
            where=", ".join(part.store.path for part in parts if part.weight is None),
            fix="give every store a weight (data.weight for data.store), or none of them",
        )
    if feeding.windows == "record" and feeding.balance == "none" and shares[0] is None:
        return None
    weights_n = np.ones(len(lengths_n))
    if feeding.windows == "length":
        weights_n *= _tiles(lengths_n, window_samples)
    if feeding.balance != "none":
        weights_n *= rarity_weights(_groups(parts, feeding.balance), feeding.balance_strength)
    begin = 0
    for part in parts:
        its = slice(begin, begin + len(part.rows))
        if part.weight is not None:
            weights_n[its] *= part.weight / weights_n[its].sum()
        begin = its.stop
    return weights_n


def _groups(parts: Sequence[Part], by: str) -> Int64:
    """The group of each record: its source, or the rarest of its statements (those without are one group)."""
    if by == "source":
        names = np.concatenate([part.store.column("source")[part.rows] for part in parts])
        return np.unique(names.astype(str), return_inverse=True)[1].astype(np.int64)
    stated: list[set[str]] = []
    for part in parts:
        of_row: dict[int, set[str]] = {int(row): set() for row in part.rows}
        table = part.store.statements
        for row, code, system in zip(*(table[name].to_pylist() for name in ("row", "code", "system")), strict=True):
            if row in of_row:
                of_row[row].add(f"{system} {code}")
        stated += [of_row[int(row)] for row in part.rows]
    names, counts = np.unique([name for its in stated for name in its] or [""], return_counts=True)
    commonness = dict(zip(names.tolist(), counts.tolist(), strict=True))
    rarest = [min(its, key=lambda name: (commonness[name], name), default="") for its in stated]
    return np.unique(rarest, return_inverse=True)[1].astype(np.int64)
