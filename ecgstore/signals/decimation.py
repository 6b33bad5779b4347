"""A lower rate before the transform, where only the lower end of the spectrum is wanted.

Most of the cost of conditioning is the transform of samples whose spectrum is thrown away again: 500 Hz on the way to
100 Hz. A short filter takes every third sample without letting anything fold back onto what is kept; its own curve,
which is known exactly, is divided out of the spectrum afterwards. The filter is a Dolph-Chebyshev window: of all
filters of its length the one whose side lobes, all of one height, begin lowest (C. L. Dolph, Proc. IRE 34, 1946).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

#: What folds back is damped by this factor (100 dB).
_FOLDED = 1e5
#: What is kept is damped by no more than this (26 dB): whatever error there is grows by it as the curve is divided out.
_KEPT = 20.0
#: Larger steps gain little, and longer filters than so many taps for each sample that is left out cost it again.
_MOST, _MOST_ORDER = 8, 6

Signal = npt.NDArray[np.float32]


class Decimation(NamedTuple):
    """Every ``factor``-th sample, behind a symmetric filter of which ``half`` holds the first half and the middle."""

    factor: int
    half: tuple[float, ...]


#: Nothing is left out.
NONE = Decimation(1, (1.0,))


@lru_cache(maxsize=256)
def decimation(fs_hz: float, highest_hz: float) -> Decimation:
    """The largest step down from ``fs_hz`` that leaves the spectrum up to ``highest_hz`` as it is."""
    for factor in range(_MOST, 1, -1):
        stop_hz = fs_hz / factor - highest_hz
        # The main lobe must be over where what folds back onto the highest frequency begins.
        if not highest_hz < stop_hz < fs_hz / 2:
            continue
        order = math.acosh(_FOLDED) / math.acosh(1 / math.cos(math.pi * stop_hz / fs_hz))
        order = 2 * math.ceil(order / 2)
        kept = _response(np.array([highest_hz / fs_hz]), order)[0]
        if order <= _MOST_ORDER * factor and 1 / kept <= _KEPT:
            return Decimation(factor, _half(order))
    return NONE


def _response(cycles: npt.NDArray[np.float64], order: int) -> npt.NDArray[np.float64]:
    """The filter's curve at frequencies in cycles per sample, 1 at 0: T(scale · cos(π · cycles)) of an even order."""
    scale = math.cosh(math.acosh(_FOLDED) / order)
    of_order = [0.0] * order + [1.0]
    return np.asarray(np.polynomial.chebyshev.chebval(scale * np.cos(np.pi * cycles), of_order) / _FOLDED)


def _half(order: int) -> tuple[float, ...]:
    n = order + 1
    response = _response(np.arange(n) / n, order)
    k = np.arange(n)
    # The inverse transform of a real, even curve; by hand, so that every machine has the same taps.
    taps = [math.fsum(response * np.cos(2 * np.pi * k * j / n)) / n for j in range(order // 2, -1, -1)]
    return tuple(float(np.float32(tap)) for tap in taps)


def undo(which: Decimation, cycles: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """What brings the spectrum of every ``factor``-th sample back to that of all; ``cycles`` per sample of all."""
    # Of the taps as they are, rounded to float32: what is divided out is what acted.
    curve = np.full(cycles.shape, which.half[-1])
    for distance, tap in enumerate(reversed(which.half[:-1]), start=1):
        curve += 2 * tap * np.cos(2 * np.pi * distance * cycles)
    undone: npt.NDArray[np.float32] = (which.factor / curve).astype(np.float32)
    undone.setflags(write=False)
    return undone
