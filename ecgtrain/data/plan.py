"""Which window stands at which step: pure functions of (records, seed, step), never remembered.

Everything random comes from the counter-based generator Philox, keyed by (seed, epoch). So a run resumed at
step s, or spread over any number of ranks, sees exactly the windows that it would have seen otherwise.

One epoch shows every record once, in an order of its own, cut at a random place. An epoch has
``n_records // batch_size`` steps: the remainder is dropped, and it is another one each epoch. A batch never
spans two epochs.

:class:`Records` says where that is too simple. With *weights*, an epoch has as many windows as before, but a
record comes more or less often: in proportion to its weight, and over the epochs as evenly as whole numbers
allow. A record that comes c times in one epoch is cut once in each c-th of its places, so no window comes twice
unless the record has fewer than c places. With a *stream*, windows come shard by shard: see :class:`Stream`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ecgstore import ConfigError

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]

#: Separate Philox streams: the order of an epoch must not be tied to its crops.
_ORDER, _CROP, _COUNT, _UNITS, _POOL_ORDER, _POOL_CROP = range(6)
#: Most draws of a decoded shard; bounds the integer arithmetic of weights.
MAX_DRAWS = 64
#: Weighted records are counted in integers below this.
_EXACT = 2**62
#: The golden ratio's fraction of 2**64: its multiples fall into the largest gaps that are left.
_GOLDEN = 0x9E3779B97F4A7C15
#: Samples of one lead that are looked at together: 100 MB of twelve leads, int16.
_PIECE_SAMPLES = 4_000_000


@dataclass(frozen=True, slots=True, eq=False)
class BatchPlan:
    """The windows of one batch, or one rank's slice of it; ``b`` windows.

    ``sample_numbers`` number every window of the whole run once and for all ranks alike: augmentations draw
    by them. ``rows`` index the selected records (not the store), ``offsets`` are first samples of windows.
    ``epoch`` is the epoch that the step lies in; in a stream, the pass.
    """

    step: int
    epoch: int
    sample_numbers: Int64
    rows: Int64
    offsets: Int64


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """How windows come from shards of which only a few are decoded at a time.

    ``unit_n``: the unit, 0 and up, that each record lies in: a shard, or several that share a long record.
    A *pass* takes the units in an order of its own, ``pool_units`` at a time. From each pool come ``draws``
    windows per record, in random order, and then the next pool's. So a pass shows every record ``draws`` times,
    each time at another place, and has as many windows as ``draws`` epochs.
    """

    unit_n: Int64
    pool_units: int
    draws: int


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """What a plan knows of the selected records.

    ``lengths_n``: the samples of each. ``weights_n``: how often each comes, relative to the others; positive
    whole numbers (see :func:`whole_weights`), or None for all alike. ``windows_per_epoch``: windows in one
    epoch; by default as many as there are records. ``stream``: set where shards are decoded as they are needed.
    """

    lengths_n: Int64
    weights_n: Int64 | None = None
    n_windows: int | None = None
    stream: Stream | None = None

    def __len__(self) -> int:
        return len(self.lengths_n)

    @property
    def windows_per_epoch(self) -> int:
        """Windows in one epoch, before the remainder of the last batch is dropped."""
        return len(self.lengths_n) if self.n_windows is None else self.n_windows


def _philox(seed: int, epoch: int, stream: int, n: int, part: int = 0) -> UInt64:
    """``n`` words, word i whatever n is. Raw words, because NumPy keeps only those stable for ever."""
    key = np.array([seed, epoch], dtype=np.uint64)
    counter = np.array([0, part, 0, stream], dtype=np.uint64)
    return np.random.Philox(key=key, counter=counter).random_raw(n)


def _permutation(words: UInt64) -> Int64:
    return np.argsort(words, kind="stable").astype(np.int64, copy=False)


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, n_records: int) -> Int64:
    """The order of one epoch: a permutation of ``0 … n_records-1``, read-only."""
    order = _permutation(_philox(seed, epoch, _ORDER, n_records))
    order.setflags(write=False)
    return order


@lru_cache(maxsize=4)
def _epoch_crops(seed: int, epoch: int, n_records: int) -> UInt64:
    return _philox(seed, epoch, _CROP, n_records)


def steps_per_epoch(n_records: int, batch_size: int) -> int:
    """Whole batches in one epoch of ``n_records`` windows; raises ConfigError if there isn't one."""
    if n_records < batch_size:
        raise ConfigError(
            "fewer records than one batch",
            expected=f"{batch_size} records or more",
            got=n_records,
            fix="lower batch_size or select more folds",
        )
    return n_records // batch_size


def batch_plan(
    records: Records | Int64,
    *,
    window_samples: int,
    seed: int,
    step: int,
    batch_size: int,
    rank: int = 0,
    world: int = 1,
) -> BatchPlan:
    """Rank ``rank``'s slice of the global batch of ``batch_size`` windows at ``step``.

    ``records`` may be just the samples of each selected record. The ranks' slices, in order, are the global
    batch; they differ by one window at most. Where a rank takes its slice in ``a`` parts, to add up their
    gradients, part i is the slice of rank ``rank * a + i`` in a world of ``world * a``: the parts, in order, are
    the slice. A record shorter than the window is cut at offset 0.
    """
    if not isinstance(records, Records):
        records = Records(records)
    draws = 1 if records.stream is None else records.stream.draws
    n = records.windows_per_epoch * draws
    epoch, step_in_epoch = divmod(step, steps_per_epoch(n, batch_size))
    first = step_in_epoch * batch_size
    begin, end = first + batch_size * rank // world, first + batch_size * (rank + 1) // world
    if records.stream is None:
        rows, offsets = _from_memory(records, window_samples, seed, epoch, begin, end)
    else:
        rows, offsets = _from_stream(records, records.stream, window_samples, seed, epoch, begin, end)
    return BatchPlan(step, epoch, epoch * n + np.arange(begin, end, dtype=np.int64), rows, offsets)


def _from_memory(
    records: Records, window_samples: int, seed: int, epoch: int, begin: int, end: int
) -> tuple[Int64, Int64]:
    n = records.windows_per_epoch
    order, crops = epoch_order(seed, epoch, n)[begin:end], _epoch_crops(seed, epoch, n)[begin:end]
    if records.weights_n is None and n == len(records):
        return order, _offsets(records.lengths_n[order], window_samples, crops)
    drawn = _drawn(records, seed, epoch)
    rows = drawn.rows[order]
    return rows, _offsets(records.lengths_n[rows], window_samples, crops, drawn.turn[order], drawn.turns[order])


def _offsets(
    lengths_b: Int64, window_samples: int, crops: UInt64, turn: Int64 | int = 0, turns: Int64 | int = 1
) -> Int64:
    """First samples of windows: uniform over the places of turn ``turn`` of ``turns``."""
    places = np.maximum(lengths_b - window_samples, 0) + 1
    low: Int64 = np.floor_divide(places * turn, turns, dtype=np.int64)
    high: Int64 = np.floor_divide(places * (turn + 1), turns, dtype=np.int64)
    width = np.maximum(high - low, 1).astype(np.uint64)
    return np.asarray(low + (crops % width).astype(np.int64))


# --- weights ------------------------------------------------------------------------------------------------


class _Drawn(NamedTuple):
    """The windows of an epoch before they are put in order: record, and which of its turns of how many."""

    rows: Int64
    turn: Int64
    turns: Int64


def whole_weights(weights_n: npt.NDArray[np.float64], n_windows: int) -> Int64:
    """Positive weights as whole numbers in the same proportions (to 1 in 2**20 or better below 10**9 windows)."""
    most = _EXACT // (4 * MAX_DRAWS * n_windows)
    return np.asarray(np.maximum(np.rint(weights_n / weights_n.sum() * most), 1), dtype=np.int64)


def rarity_weights(groups_n: Int64, strength: float) -> npt.NDArray[np.float64]:
    """Weights by which groups of records come alike: one over the size of a record's group, to ``strength``.

    1 gives every group the same number of windows; 0.5 a number that goes with the square root of its size.
    """
    sizes = np.bincount(groups_n)[groups_n]
    return np.asarray(np.power(sizes, -strength, dtype=np.float64))


def epoch_counts(records: Records, seed: int, epoch: int) -> Int64:
    """How often each record comes in an epoch (or pass) of a run.

    Systematic sampling: records lie side by side on a line, each as long as its weight, and the epoch's windows
    are the marks of a ruler laid on it. So the counts add up to the whole, and none is off its share by one or
    more. The ruler is shifted from epoch to epoch by the golden ratio, which passes over no record for long.
    """
    n = records.windows_per_epoch * (1 if records.stream is None else records.stream.draws)
    if records.weights_n is None and n % len(records) == 0:
        return np.full(len(records), n // len(records), dtype=np.int64)
    weights_n = np.ones(len(records), dtype=np.int64) if records.weights_n is None else records.weights_n
    total = int(weights_n.sum())
    if total * (n + 1) >= _EXACT:
        raise ConfigError("the weights are too large to be counted", expected="weights made by whole_weights")
    order = _permutation(_philox(seed, 0, _COUNT, len(records)))
    # Records of one weight lie together: so do those of a group, whose windows then add up to its share.
    order = order[np.argsort(weights_n[order], kind="stable")]
    turn = (int(_philox(seed, 0, _COUNT, 1, part=1)[0]) + epoch * _GOLDEN) % 2**64
    marks = (np.cumsum(weights_n[order]) * n + total * turn // 2**64) // total
    counts_n = np.empty(len(records), dtype=np.int64)
    counts_n[order] = np.diff(marks, prepend=0)
    return counts_n


def _repeat(rows: Int64, counts: Int64) -> _Drawn:
    """Each row as often as its count, with its turns numbered."""
    first = np.repeat(np.cumsum(counts) - counts, counts)
    return _Drawn(np.repeat(rows, counts), np.arange(len(first), dtype=np.int64) - first, np.repeat(counts, counts))


@lru_cache(maxsize=2)
def _drawn(records: Records, seed: int, epoch: int) -> _Drawn:
    return _repeat(np.arange(len(records), dtype=np.int64), epoch_counts(records, seed, epoch))


# --- streams ------------------------------------------------------------------------------------------------


class _Pass(NamedTuple):
    """``counts_n``: windows of each record. Pool k has the windows from ``begins[k]`` to ``begins[k + 1]``."""

    counts_n: Int64
    units: Int64
    begins: Int64


@lru_cache(maxsize=2)
def _rows_by_unit(records: Records) -> tuple[Int64, Int64]:
    """Records unit after unit, and where each unit begins among them."""
    assert records.stream is not None
    unit_n = records.stream.unit_n
    sizes = np.bincount(unit_n)
    return np.argsort(unit_n, kind="stable"), np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


@lru_cache(maxsize=2)
def _pass(records: Records, seed: int, number: int) -> _Pass:
    assert records.stream is not None
    counts_n = epoch_counts(records, seed, number)
    n_units = int(records.stream.unit_n.max()) + 1
    units = _permutation(_philox(seed, number, _UNITS, n_units))
    per_unit = np.zeros(n_units, dtype=np.int64)
    np.add.at(per_unit, records.stream.unit_n, counts_n)
    per_pool = np.add.reduceat(per_unit[units], np.arange(0, n_units, records.stream.pool_units))
    return _Pass(counts_n, units, np.concatenate([[0], np.cumsum(per_pool)]).astype(np.int64))


@lru_cache(maxsize=4)
def _pool(records: Records, seed: int, number: int, pool: int) -> tuple[_Drawn, UInt64]:
    """The windows of one pool in their order, and the words that cut them."""
    assert records.stream is not None
    its = _pass(records, seed, number)
    by_unit, begins = _rows_by_unit(records)
    size = records.stream.pool_units
    rows = np.concatenate([by_unit[begins[u] : begins[u + 1]] for u in its.units[pool * size : (pool + 1) * size]])
    drawn = _repeat(rows, its.counts_n[rows])
    order = _permutation(_philox(seed, number, _POOL_ORDER, len(drawn.rows), part=pool))
    crops = _philox(seed, number, _POOL_CROP, len(order), part=pool)
    return _Drawn(drawn.rows[order], drawn.turn[order], drawn.turns[order]), crops


def _from_stream(
    records: Records, stream: Stream, window_samples: int, seed: int, number: int, begin: int, end: int
) -> tuple[Int64, Int64]:
    begins = _pass(records, seed, number).begins
    rows, offsets = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    pool = int(np.searchsorted(begins, begin, side="right")) - 1
    while begin < end:
        drawn, crops = _pool(records, seed, number, pool)
        part = slice(begin - begins[pool], min(end, begins[pool + 1]) - begins[pool])
        rows.append(drawn.rows[part])
        lengths_b = records.lengths_n[rows[-1]]
        offsets.append(_offsets(lengths_b, window_samples, crops[part], drawn.turn[part], drawn.turns[part]))
        begin, pool = min(end, int(begins[pool + 1])), pool + 1
    return np.concatenate(rows), np.concatenate(offsets)


# --- evaluation ---------------------------------------------------------------------------------------------


def evaluation_tiles(n_samples: int, window_samples: int, stride_samples: int) -> Int64:
    """Offsets of the windows that evaluation takes from one record: whole ones, every ``stride_samples``.

    1,000 samples in windows of 250 every 125 give 7. Samples after the last whole window are not looked at;
    a record shorter than one window gives one window, at 0.
    """
    return np.arange(0, max(n_samples - window_samples, 0) + 1, stride_samples, dtype=np.int64)


def in_pieces(rows: Int64, lengths_n: npt.NDArray[np.generic]) -> Iterator[Int64]:
    """``rows`` in pieces of a bounded number of samples, for what is too large to be looked at together."""
    piece_n = np.cumsum(lengths_n, dtype=np.int64) // _PIECE_SAMPLES
    yield from (part for part in np.split(rows, np.flatnonzero(np.diff(piece_n)) + 1) if len(part))


def evaluation_plans(
    records: Records | Int64, *, window_samples: int, stride_samples: int, batch_size: int
) -> Iterator[BatchPlan]:
    """All tiles of all records, in order, in batches of ``batch_size`` (the last may be smaller)."""
    lengths_n = records.lengths_n if isinstance(records, Records) else records
    tiles = [evaluation_tiles(int(length), window_samples, stride_samples) for length in lengths_n]
    rows = np.repeat(np.arange(len(tiles), dtype=np.int64), [len(offsets) for offsets in tiles])
    offsets = np.concatenate(tiles) if tiles else np.empty(0, dtype=np.int64)
    for step, first in enumerate(range(0, len(rows), batch_size)):
        part = slice(first, first + batch_size)
        numbers = np.arange(first, first + len(rows[part]), dtype=np.int64)
        yield BatchPlan(step, 0, numbers, rows[part], offsets[part])
