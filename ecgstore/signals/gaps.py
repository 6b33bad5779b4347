"""Samples that were not recorded: bridged before a filter sees them, and marked again in what comes out.

A filter spreads what it can't use; so a gap is drawn over by a straight line, and afterwards nothing counts that had a
missing sample near it. A gap thus neither spreads nor vanishes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

Signal = npt.NDArray[np.float32]
Missing = npt.NDArray[np.bool_]

#: Per lead a recorded (sample, value) outside a signal, or None.
Knots = Sequence[tuple[int, float] | None]


def bridge(signal_lt: Signal, missing_lt: Missing, before: Knots = (), after: Knots = ()) -> Signal:
    """Draw a straight line across each gap, and a level one to the edge where a record begins or ends with one.

    ``before`` and ``after`` are the recorded samples nearest to the signal, for gaps that reach beyond it. A lead
    without any sample becomes 0.
    """
    bridged_lt = signal_lt.copy()
    t = np.arange(signal_lt.shape[1])
    for lead in np.flatnonzero(missing_lt.any(axis=1)).tolist():
        missing_t = missing_lt[lead]
        if missing_t.all():
            bridged_lt[lead] = 0.0
            continue
        at, values = t[~missing_t], signal_lt[lead, ~missing_t]
        if before and (knot := before[lead]) is not None:
            at, values = np.insert(at, 0, knot[0]), np.insert(values, 0, knot[1])
        if after and (knot := after[lead]) is not None:
            at, values = np.append(at, knot[0]), np.append(values, np.float32(knot[1]))
        bridged_lt[lead, missing_t] = np.interp(t[missing_t], at, values)
    return bridged_lt


class Gaps:
    """Bridges the gaps of a record's pieces as those of the whole record; pieces must come in order."""

    def __init__(self, read_piece: Callable[[int, int], Signal], n_samples: int, chunk: int) -> None:
        self._read, self._n_samples, self._chunk = read_piece, n_samples, chunk
        #: Per lead the last recorded (sample, value) before the next piece; and the first one behind the last piece,
        #: where it had to be looked for. Sample ``n_samples``: there is none.
        self._before: dict[int, tuple[int, float]] = {}
        self._after: dict[int, tuple[int, float]] = {}

    def bridge(self, signal_lt: Signal, missing_lt: Missing, begin: int, next_begin: int) -> Signal:
        """Bridge the piece that begins with sample ``begin``; the next one will with ``next_begin``."""
        end = begin + signal_lt.shape[1]
        # A lead without any sample here has nothing that could be wrong: it is missing whatever is drawn.
        open_l = missing_lt[:, -1] & ~missing_lt.all(axis=1)
        unknown = [lead for lead in np.flatnonzero(open_l).tolist() if self._after.get(lead, (0, 0.0))[0] < end]
        self._look_ahead(unknown, end)
        leads = range(len(signal_lt))
        before = [self._knot(self._before.get(lead), begin) for lead in leads]
        after = [self._knot(self._after.get(lead), begin) if open_l[lead] else None for lead in leads]
        recorded_lt = ~missing_lt[:, : next_begin - begin]
        for lead in np.flatnonzero(recorded_lt.any(axis=1)).tolist():
            last = int(np.flatnonzero(recorded_lt[lead])[-1])
            self._before[lead] = begin + last, float(signal_lt[lead, last])
        return bridge(signal_lt, missing_lt, before, after)

    def _look_ahead(self, wanted: Sequence[int], start: int) -> None:
        for lead in wanted:
            self._after[lead] = self._n_samples, 0.0
        for at in range(start, self._n_samples, self._chunk):
            if not wanted:
                return
            signal_lt = self._read(at, min(at + self._chunk, self._n_samples))
            for lead in wanted:
                recorded = np.flatnonzero(np.isfinite(signal_lt[lead]))
                if recorded.size:
                    self._after[lead] = at + int(recorded[0]), float(signal_lt[lead, recorded[0]])
            wanted = [lead for lead in wanted if self._after[lead][0] == self._n_samples]

    def _knot(self, found: tuple[int, float] | None, begin: int) -> tuple[int, float] | None:
        return None if found is None or found[0] == self._n_samples else (found[0] - begin, found[1])


def mark_missing(out_lt: Signal, missing_lt: Missing, ratio: Fraction) -> None:
    """Make NaN what has a missing input sample within half an output step (or nearest, if upsampled)."""
    leads = np.flatnonzero(missing_lt.any(axis=1))
    if not leads.size:
        return
    n_in, n_out = missing_lt.shape[1], out_lt.shape[1]
    # Whole numbers throughout, so that a piece of a record gives what the whole record gives: output j stands at
    # input j · q / p, and half a step is q / 2p, or half an input sample if that is more.
    p, q = ratio.numerator, ratio.denominator
    centre, half = 2 * q * np.arange(n_out, dtype=np.int64), max(p, q)
    first = np.clip(-((half - centre) // (2 * p)), 0, n_in - 1)
    last = np.clip(-((-half - centre) // (2 * p)), first + 1, n_in)
    # A running count of missing samples answers "any in [first, last)" for all outputs at once.
    count_lt = np.zeros((leads.size, n_in + 1), dtype=np.int64)
    np.cumsum(missing_lt[leads], axis=1, out=count_lt[:, 1:])
    rows, columns = np.nonzero(count_lt[:, last] > count_lt[:, first])
    out_lt[leads[rows], columns] = np.nan


def there_in(missing_lt: Missing) -> npt.NDArray[np.bool_]:
    """Which leads have any sample."""
    is_there_l: npt.NDArray[np.bool_] = np.logical_not(np.all(missing_lt, axis=1))
    return is_there_l
