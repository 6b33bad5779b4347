"""Windows from stores larger than memory and disk: a pool of decoded shards, each used for many windows.

What comes when is planned (:class:`ecgtrain.data.plan.Stream`). Here the plans are read some way ahead, and the
shards that they need are decoded by a few threads meanwhile, as far as the pool has room: twice the plan's, so
that the next pool is decoded while this one is used up.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ecgstore import IntegrityError, StoreReplaced
from ecgtrain.data.cache import Source, WindowCache, decoders, warn_lost
from ecgtrain.data.plan import BatchPlan, Int64

#: Most plans that are read ahead.
_MOST_AHEAD = 512


def units_of(sources: Sequence[Source]) -> Int64:
    """The unit of each record, 0 and up: its shard; shards that share a selected record are one unit."""
    units: list[Int64] = []
    n_before = 0
    for source in sources:
        first, last = source.spans
        bound = np.zeros(source.store.n_shards + 1, dtype=np.int64)
        np.add.at(bound, first + 1, 1)  # shards after the first, up to the last, belong to the one before
        np.add.at(bound, last + 1, -1)
        unit_of_shard = np.cumsum(np.cumsum(bound)[:-1] <= 0)
        found, unit_n = np.unique(unit_of_shard[first], return_inverse=True)
        units.append(n_before + unit_n.astype(np.int64))
        n_before += len(found)
    return np.concatenate(units)


class ShardPool:
    """Windows of records of which only some units are decoded at a time.

    ``unit_n``: :func:`units_of`. At most ``2 * pool_units`` units are kept, unless one batch needs more. A unit
    that can't be decoded is met in the middle of a run, when the plan stands: if not ``strict``, each window of
    its records gives way to another window of some other record of the batch.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        lengths_n: Int64,
        window_samples: int,
        *,
        unit_n: Int64,
        pool_units: int,
        strict: bool,
    ) -> None:
        self.lengths_n, self.window_samples = lengths_n, window_samples
        self._sources, self._strict, self._room = sources, strict, 2 * pool_units
        self._n_leads = len(sources[0].lead_index)
        self._unit_n = unit_n
        self._by_unit = np.argsort(unit_n, kind="stable")
        self._begins = np.concatenate([[0], np.cumsum(np.bincount(unit_n))])
        self._local_n = np.empty(len(unit_n), dtype=np.int64)
        self._local_n[self._by_unit] = np.arange(len(unit_n)) - np.repeat(self._begins[:-1], np.diff(self._begins))
        self._lost_n = np.zeros(len(unit_n), dtype=np.bool_)
        self._pool: dict[int, Future[WindowCache]] = {}  # the unit used last is the last one
        self._needed: Counter[int] = Counter()
        self._lock = threading.Lock()

    @property
    def n_bytes(self) -> int:
        """What the largest units take that can be in the pool at once."""
        pitch_n = np.maximum(self.lengths_n, self.window_samples)
        per_unit = np.bincount(self._unit_n, weights=pitch_n)
        return int(np.sort(per_unit)[-self._room :].sum()) * 2 * self._n_leads

    def windows(self, rows: Int64, offsets: Int64) -> npt.NDArray[np.int16]:
        """Copy windows out: int16 (batch, window, leads); decodes what is not in the pool."""
        counts = np.empty((len(rows), self.window_samples, self._n_leads), dtype=np.int16)
        for unit in np.unique(self._unit_n[rows]):
            its = np.flatnonzero(self._unit_n[rows] == unit)
            counts[its] = self._unit(int(unit)).windows(self._local_n[rows[its]], offsets[its])
        return counts

    def mend(self, plan: BatchPlan) -> BatchPlan:
        """The plan with windows of other records in place of those that can't be read."""
        for unit in np.unique(self._unit_n[plan.rows]):
            self._unit(int(unit))
        lost = self._lost_n[plan.rows]
        if not lost.any():
            return plan
        good = np.flatnonzero(~lost)
        if len(good) == 0:
            raise IntegrityError("no record of a batch can be read", where=f"step {plan.step}")
        bad = np.flatnonzero(lost)
        turn, which = np.divmod(np.arange(len(bad)), len(good))
        rows, offsets = plan.rows.copy(), plan.offsets.copy()
        rows[bad] = rows[good[which]]
        places = np.maximum(self.lengths_n[rows[bad]] - self.window_samples, 0) + 1
        offsets[bad] = (offsets[good[which]] + places * (turn + 1) // (turn.max() + 2)) % places
        return replace(plan, rows=rows, offsets=offsets)

    def lost(self) -> Int64:
        """Places of the records that were found to be unreadable so far."""
        with self._lock:
            return np.flatnonzero(self._lost_n)

    def ready(self, plans: Iterable[BatchPlan]) -> Generator[BatchPlan, None, None]:
        """The plans, each when its units are decoded; those of plans to come are decoded meanwhile."""
        ahead: deque[tuple[BatchPlan, list[int]]] = deque()
        coming = iter(plans)
        held: tuple[BatchPlan, list[int]] | None = None
        with ThreadPoolExecutor(decoders(), thread_name_prefix="ecgtrain-decode") as threads:
            try:
                while True:
                    while len(ahead) < _MOST_AHEAD:
                        if held is None:
                            plan = next(coming, None)
                            if plan is None:
                                break
                            held = plan, np.unique(self._unit_n[plan.rows]).tolist()
                        if ahead and not self._fetch(held[1], threads):
                            break
                        if not ahead:
                            self._fetch(held[1], threads, at_any_rate=True)
                        ahead.append(held)
                        held = None
                    if not ahead:
                        return
                    plan, units = ahead.popleft()
                    for unit in units:
                        self._unit(unit)
                    yield plan
                    self._release(units)
            finally:
                for _, units in ahead:
                    self._release(units)
                threads.shutdown(cancel_futures=True)
                with self._lock:
                    self._pool = {unit: made for unit, made in self._pool.items() if not made.cancelled()}

    def _fetch(self, units: list[int], threads: ThreadPoolExecutor, *, at_any_rate: bool = False) -> bool:
        """Begin to decode what isn't there; False if there is no room for it."""
        with self._lock:
            new = [unit for unit in units if unit not in self._pool]
            n_needed = len({*units, *(unit for unit, n in self._needed.items() if n > 0)})
            if n_needed > self._room and not at_any_rate:
                return False
            self._needed.update(units)
            self._evict(len(new))
            for unit in new:
                self._pool[unit] = threads.submit(self._decode, unit)
            return True

    def _release(self, units: list[int]) -> None:
        with self._lock:
            self._needed.subtract(units)
            self._needed += Counter()  # drops what is no longer needed

    def _evict(self, n_new: int) -> None:
        """Make room for ``n_new`` units: the one used longest ago goes first. Under the lock."""
        for unit in list(self._pool):
            if len(self._pool) + n_new <= self._room:
                return
            if self._needed[unit] <= 0:
                del self._pool[unit]

    def _unit(self, unit: int) -> WindowCache:
        with self._lock:
            made = self._pool.pop(unit, None)
            mine = made is None
            if made is None:
                made = Future()
                self._evict(1)
            self._pool[unit] = made
        if mine:
            try:
                made.set_result(self._decode(unit))
            except BaseException as error:
                made.set_exception(error)
        try:
            return made.result()
        except CancelledError:  # whoever had asked for it has gone
            with self._lock:
                if self._pool.get(unit) is made:
                    del self._pool[unit]
            return self._unit(unit)

    def _decode(self, unit: int) -> WindowCache:
        places = self._by_unit[self._begins[unit] : self._begins[unit + 1]]
        cache = WindowCache(self._n_leads, self.lengths_n[places], self.window_samples)
        source = [one for one in self._sources if one.first_place <= places[0]][-1]
        lost: set[int] = set()
        first, last = (ends[places - source.first_place] for ends in source.spans)
        why = ""
        for shard in np.unique(np.concatenate([np.arange(a, b + 1) for a, b in zip(first, last, strict=True)])):
            try:
                pieces = source.pieces(int(shard))
            except StoreReplaced:  # what is left of the old store is no reason to go on
                raise
            except IntegrityError as error:
                if self._strict:
                    raise
                why = why or str(error)
                lost |= set(source.places_in(int(shard)).tolist())
                continue
            cache.put_all((int(self._local_n[place]), offset, counts_lt) for place, offset, counts_lt in pieces)
        with self._lock:
            known = bool(self._lost_n[list(lost)].any())
            self._lost_n[list(lost)] = True
        if lost and not known:
            warn_lost([source], sorted(lost), why)
        return cache
