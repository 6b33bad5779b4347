"""Pairs of records that share a stretch of signal: one begins later, is cut, or lacks leads that the other has.

Pairs that share landmarks at one distance in time are candidates (see :mod:`ecgstore.signals.landmarks`); their signals
are then laid over one another and compared. All leads are looked at, each for itself, so that two or three leads that
both records have will do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ecgstore.look.parts import Reader
from ecgstore.record import Record
from ecgstore.signals import landmarks
from ecgstore.signals.landmarks import N_BITS, STEP_S
from ecgstore.storage import layout
from ecgstore.storage.store import Store

#: Records are compared where they share at least this much …
MIN_SHARED_S = 4.0
#: … and are then this much alike. Two recordings of one patient with a steady rhythm come near: 0.989 over 5 s in
#: three leads.
MIN_CORRELATION = 0.99

#: Of each landmark also the three neighbours are looked up that differ in the two bits of which it is least sure.
_UNSURE_BITS = 2
#: Of more landmarks than this with the same bits in the same lead, a landmark meets the first ones only.
_MOST_ALIKE = 64
# Lags of candidates are counted in bins of 30 ms; the best lag is then looked for around.
_LAG_STEPS = 3
#: A candidate shares this part of the landmarks of the record that has fewer, and at least two.
_LEAST_SHARE = 0.1
#: Read before and behind what two records share: lags are looked for around, and changes begin a little later.
_ASIDE_S = 1.0

Rows = npt.NDArray[np.int64]


class Marks(NamedTuple):
    """The landmarks of many records in one lead: row, step and sides of each."""

    rows: Rows
    steps: npt.NDArray[np.int64]
    sides: npt.NDArray[np.float32]


class Piece(NamedTuple):
    """A stretch of one record: ``begin_s`` is where in the record it begins; ``signal_lt`` has NaN for gaps."""

    row: int
    begin_s: float
    signal_lt: npt.NDArray[np.float32]
    fs_hz: float


class Candidate(NamedTuple):
    """Rows of two records, and how many steps of 10 ms later than in the second the same happens in the first."""

    row_a: int
    row_b: int
    lag_steps: int


def marks(store: Store, rows: Rows, progress: Callable[[int, int], None] | None = None) -> dict[str, Marks]:
    """The landmarks of ``rows``, by lead. Reads every shard that holds one of them, and says so to ``progress``."""
    return marks_of(_pieces(store, rows, progress or (lambda done, total: None)), store.leads)


def marks_of(pieces: Iterable[Piece], leads: Sequence[str]) -> dict[str, Marks]:
    """The landmarks of pieces of records, by lead; a lead without any is left out."""
    found: dict[str, list[Marks]] = {}
    for row, begin_s, signal_lt, fs_hz in pieces:
        for lead, change_s in zip(leads, landmarks.changes(signal_lt, fs_hz), strict=True):
            steps, sides = landmarks.landmarks(change_s)
            if len(steps):
                rows = np.full(len(steps), row, dtype=np.int64)
                found.setdefault(lead, []).append(Marks(rows, steps + round(begin_s / STEP_S), sides))
    return {lead: Marks(*map(np.concatenate, zip(*its, strict=True))) for lead, its in found.items()}


def candidates(a: dict[str, Marks], b: dict[str, Marks], *, is_one: bool) -> list[Candidate]:
    """Pairs that share landmarks at one lag, each with its best lag; ``is_one``: both sides are the same selection."""
    hits = [_hits(a[lead], b[lead]) for lead in sorted(a.keys() & b.keys())]
    hits_n3 = np.concatenate(hits) if hits else np.empty((0, 3), dtype=np.int64)
    hits_n3 = hits_n3[hits_n3[:, 0] < hits_n3[:, 1]] if is_one else hits_n3
    binned_n3, n_shared = _counted(hits_n3)
    fewer = np.minimum(*(_counts(side, binned_n3[:, k]) for k, side in enumerate((a, b))))
    enough = n_shared >= np.maximum(2, np.ceil(_LEAST_SHARE * fewer))
    best: dict[tuple[int, int], tuple[int, int]] = {}
    for (row_a, row_b, lag), n in zip(binned_n3[enough].tolist(), n_shared[enough].tolist(), strict=True):
        best[row_a, row_b] = max(best.get((row_a, row_b), (0, 0)), (n, lag))
    return [Candidate(*rows, lag * _LAG_STEPS) for rows, (_, lag) in sorted(best.items())]


def correlation_at(a: Record, b: Record, lag_steps: int) -> tuple[float, float]:
    """How much alike two records are where they overlap, and at which lag in seconds ``a`` is later than ``b``.

    The best of the lags around ``lag_steps``; the correlation of :func:`ecgstore.signals.landmarks.changes` in all
    leads of both. (NaN, NaN) where less than 4 s are shared, or nothing changes in them.
    """
    leads = [lead for lead in a.leads if lead in b.leads]
    in_a, in_b = (
        landmarks.changes(record.signal_mv_lt[[record.leads.index(lead) for lead in leads]], record.fs_hz)
        for record in (a, b)
    )
    lags = np.arange(lag_steps - 2 * _LAG_STEPS, lag_steps + 2 * _LAG_STEPS + 1)
    alike_n = np.array([_alike_at(in_a, in_b, int(lag)) for lag in lags])
    if np.isnan(alike_n).all():
        return np.nan, np.nan
    best = int(np.nanargmax(alike_n))
    around_3 = alike_n[max(0, best - 1) : best + 2]
    height, aside = (alike_n[best], 0.0) if len(around_3) < 3 or np.isnan(around_3).any() else _summit(around_3)
    return float(height), float((lags[best] + aside) * STEP_S)


def _compared(one: Candidate, of_a: Reader, of_b: Reader) -> tuple[float, float]:
    """As :func:`correlation_at`, of the seconds that two records can share: the rest of the longer one is not read."""
    lag_s = one.lag_steps * STEP_S
    begin_s = max(0.0, lag_s) - _ASIDE_S
    end_s = min(of_a.lasts_s(one.row_a), of_b.lasts_s(one.row_b) + lag_s) + _ASIDE_S
    a, b = of_a.read(one.row_a, begin_s, end_s), of_b.read(one.row_b, begin_s - lag_s, end_s - lag_s)
    aside_s = a.start_s - b.start_s
    similarity, found_s = correlation_at(a.record, b.record, round((lag_s - aside_s) / STEP_S))
    return similarity, found_s + aside_s


def _alike_at(in_a: landmarks.Change, in_b: landmarks.Change, lag: int) -> float:
    """The correlation of two records where they overlap at one lag; NaN where that is too little."""
    one, other = in_a[:, max(0, lag) :], in_b[:, max(0, -lag) :]
    n = min(one.shape[1], other.shape[1])
    if n * STEP_S < MIN_SHARED_S:
        return np.nan
    one, other = one[:, :n].astype(np.float64), other[:, :n].astype(np.float64)
    # A lead that only one of them has recorded tells nothing.
    is_known = one.any(axis=1) & other.any(axis=1)
    one, other = one[is_known], other[is_known]
    size = np.sqrt(np.square(one).sum() * np.square(other).sum())
    return float((one * other).sum() / size) if size > 0 else np.nan


def _summit(around_3: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Height and place, in steps, of the parabola through three values: a copy may begin between two steps."""
    low, middle, high = around_3.tolist()
    bend = low - 2 * middle + high
    if bend >= 0:
        return middle, 0.0
    aside = (low - high) / (2 * bend)
    return min(1.0, middle - (low - high) * aside / 4), aside


def _pieces(store: Store, rows: Rows, progress: Callable[[int, int], None]) -> Iterator[Piece]:
    fs_hz = store.attributes["fs_hz"]
    rates_hz = np.full(store.n_records, fs_hz) if fs_hz else store.column("source_fs_hz")
    wanted = np.zeros(store.n_records, dtype=np.bool_)
    wanted[rows] = True
    starts = store.column("start")[rows]
    ends = starts + store.column("n_samples")[rows]
    for shard in range(store.n_shards):
        progress(shard, store.n_shards)
        begin = shard * store.shard_samples
        if not ((starts < begin + store.shard_samples) & (ends > begin)).any():
            continue
        signal = store.read_shard(shard)
        for row, start, length, offset in zip(signal.rows, signal.starts, signal.lengths, signal.offsets, strict=True):
            if wanted[row]:
                counts_lt = signal.counts_lt[:, start : start + length]
                signal_lt = np.where(counts_lt == layout.NOT_RECORDED, np.float32("nan"), counts_lt)
                signal_lt /= layout.COUNTS_PER_MV
                rate_hz = float(rates_hz[row])
                # A raw store's counts have a gain of their own, which landmarks don't see.
                yield Piece(int(row), offset / rate_hz, signal_lt.astype(np.float32), rate_hz)
    progress(store.n_shards, store.n_shards)


def _hits(a: Marks, b: Marks) -> npt.NDArray[np.int64]:
    """(n, 3): row of a, row of b, and by how many steps a is later, of every two landmarks with the same bits."""
    order = np.argsort(_bits(a.sides), kind="stable")
    known = _bits(a.sides)[order]
    unsure = np.argsort(np.abs(b.sides), axis=1)[:, :_UNSURE_BITS]
    found = []
    for turned in range(1 << _UNSURE_BITS):
        asked = _bits(b.sides)
        for bit in range(_UNSURE_BITS):
            if turned >> bit & 1:
                asked = asked ^ (np.int64(1) << unsure[:, bit])
        low = np.searchsorted(known, asked, "left")
        n = np.minimum(np.searchsorted(known, asked, "right") - low, _MOST_ALIKE)
        of_b = np.repeat(np.arange(len(asked)), n)
        # Of each that is asked for, its places among the known: low, low + 1, …
        of_a = order[np.arange(len(of_b)) - np.repeat(np.cumsum(n) - n, n) + np.repeat(low, n)]
        found.append(np.stack([a.rows[of_a], b.rows[of_b], a.steps[of_a] - b.steps[of_b]], axis=1))
    return np.concatenate(found)


def _counted(hits_n3: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], Rows]:
    """Every pair of rows at every lag in bins, and how many landmarks it shares."""
    if not len(hits_n3):
        return hits_n3, np.zeros(0, dtype=np.int64)
    lags_n = np.floor_divide(hits_n3[:, 2] + _LAG_STEPS // 2, _LAG_STEPS)
    shape = (int(hits_n3[:, 0].max()) + 1, int(hits_n3[:, 1].max()) + 1, int(np.ptp(lags_n)) + 1)
    # One number each: sorted ten times faster than rows of three.
    packed, n_shared = np.unique(
        np.ravel_multi_index((hits_n3[:, 0], hits_n3[:, 1], lags_n - lags_n.min()), shape), return_counts=True
    )
    row_a, row_b, lag = np.unravel_index(packed, shape)
    return np.stack([row_a, row_b, lag + lags_n.min()], axis=1), n_shared


def _bits(sides: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    return (sides > 0).astype(np.int64) @ (np.int64(1) << np.arange(N_BITS, dtype=np.int64))


def _counts(by_lead: dict[str, Marks], rows: Rows) -> Rows:
    """How many landmarks each of ``rows`` has in all leads."""
    if not len(rows):
        return np.zeros(0, dtype=np.int64)
    all_rows = np.concatenate([its.rows for its in by_lead.values()])
    return np.bincount(all_rows, minlength=int(rows.max()) + 1)[rows]


def alike(
    found: list[Candidate], of_a: Reader, of_b: Reader, min_correlation: float
) -> list[tuple[int, int, float, float]]:
    """Those candidates that are as much alike as asked, and at least 0.99: rows, correlation, lag in seconds."""
    pairs = []
    for one in found:
        similarity, lag_s = _compared(one, of_a, of_b)
        if similarity >= max(min_correlation, MIN_CORRELATION):
            pairs.append((one.row_a, one.row_b, round(similarity, 4), round(lag_s, 2)))
    return pairs
