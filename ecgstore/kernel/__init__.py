"""The loops of an ingest that cost most, compiled where a compiler was there at the installation, else in NumPy.

Both ways give the same bits, so a store doesn't say which it was. ``ECGSTORE_KERNEL=numpy`` takes NumPy all the same,
``ECGSTORE_KERNEL=compiled`` raises ConfigError where nothing compiled can be used.

Letters: l lead, t sample as recorded, m sample of a lower rate.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from ecgstore.errors import ConfigError
from ecgstore.kernel import plain

__all__ = ["NAME", "decimate", "decode", "look", "quantise", "residual", "tally"]

Signal = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int16]


def _chosen() -> ModuleType:
    wanted = os.environ.get("ECGSTORE_KERNEL", "")
    if wanted == "numpy":
        return plain
    if wanted not in ("", "compiled"):
        fix = "leave it out for the loops that are there"
        raise ConfigError("no such loops", where="ECGSTORE_KERNEL", expected="compiled or numpy", got=wanted, fix=fix)
    try:
        from ecgstore.kernel import compiled
    except OSError as error:
        if wanted != "compiled":
            return plain
        raise ConfigError(
            "there are no compiled loops that can be used",
            where="ECGSTORE_KERNEL=compiled",
            got=str(error),
            fix="install ecgstore again where a C compiler is, or leave the variable out for the same in NumPy",
        ) from None
    return compiled


_loops = _chosen()

#: ``compiled`` or ``numpy``.
NAME = "numpy" if _loops is plain else "compiled"


def decode(
    counts_rtl: Counts, mv_per_count_rl: Signal, offset_mv_rl: Signal
) -> tuple[Signal, npt.NDArray[np.uint16], npt.NDArray[np.int64]]:
    """Interleaved counts, int16 (records, samples, leads), to millivolts: count · ``mv_per_count_rl`` − offset.

    Returns float32 (records, leads, samples), NaN where the count is −32768; the sum of each lead's counts modulo 2¹⁶,
    uint16 (records, leads); and how many samples of each record were recorded.
    """
    found: tuple[Signal, npt.NDArray[np.uint16], npt.NDArray[np.int64]]
    found = _loops.decode(counts_rtl, mv_per_count_rl, offset_mv_rl)
    return found


def decimate(
    signals_lt: Sequence[Signal], left: int, n_padded: int, factor: int = 1, half: Sequence[float] = (1.0,)
) -> tuple[Signal, Signal]:
    """Signals of one length, extended at both ends, and of that every ``factor``-th sample behind a filter.

    Each lead is reflected about its end points to ``n_padded`` samples, of which ``left`` are in front, and taken for a
    circle. ``half`` are the first taps of a symmetric filter and its middle one; 2 · len(half) − 1 taps in all.
    Returns float32 (leads of all signals, n_padded / factor), and per lead the step from the end of the extended
    signal to its beginning.
    """
    found: tuple[Signal, Signal] = _loops.decimate(signals_lt, left, n_padded, factor, half)
    return found


def quantise(signal_mv_lt: Signal) -> tuple[Counts, npt.NDArray[np.int64]]:
    """Millivolts (leads, samples) to counts of 1 µV, int16: to nearest, ties to even; NaN becomes −32768.

    What is beyond ±32.767 mV is clipped: per lead, so many samples.
    """
    found: tuple[Counts, npt.NDArray[np.int64]] = _loops.quantise(signal_mv_lt)
    return found


def tally(counts_lt: Counts) -> tuple[npt.NDArray[Any], ...]:
    """Per lead of int16 (leads, samples): how many are recorded, their sum and sum of squares, the lowest and highest.

    Where nothing is recorded (−32768 throughout), the lowest is 32767 and the highest −32768.
    """
    found: tuple[npt.NDArray[Any], ...] = _loops.tally(counts_lt)
    return found


def look(signals_lt: Sequence[Signal], step: int, least: int) -> tuple[npt.NDArray[Any], ...]:
    """One look at every sample of signals of one length, float32 (leads, samples), NaN where nothing was recorded.

    Returns every ``step``-th sample as a grid (leads of all signals, points); and per lead the lowest and the highest
    sample (NaN where there is none), how many samples are NaN, how many points of the grid stand in runs of at least
    ``least`` equal ones, and how many at the lowest and at the highest value.
    """
    seen: tuple[npt.NDArray[Any], ...] = _loops.look(signals_lt, step, least)
    return seen


def residual(signals_lt: Sequence[Signal], three: Sequence[int]) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Per record the sum of the squares of second − first − third over those samples that all three have.

    ``three`` are the rows of these leads in signals of one shape, float32 (leads, samples). Differences are taken in
    float32, squares and their sum in float64. Returns the sums, and from how many samples they are.
    """
    found: tuple[npt.NDArray[Any], npt.NDArray[np.int64]] = _loops.residual(signals_lt, three)
    return found
