"""Landmarks: what a lead does around each of its beats, in 32 bits that a shift or a cut of the record leaves alone.

A :func:`ecgstore.signals.quality.signature` sees a record from its first sample on and four leads at once, so a copy
that begins later has another one. A landmark is tied to a beat of one lead instead. Two records that share a stretch of
signal share the landmarks of its beats, always at the same distance in time, whatever else is in them. (That landmarks
at one distance tell a recording from a piece of it is Wang's idea: An industrial-strength audio search algorithm,
ISMIR 2003.)
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

#: Landmarks and lags are counted in steps of this.
STEP_S = 0.01
N_BITS = 32
#: A landmark looks from a little before its beat to beyond the next one or two.
BEFORE_S, SPAN_S = 0.2, 2.4

_BLOCK_STEPS = 4
_BEFORE_BLOCKS = round(BEFORE_S / STEP_S) // _BLOCK_STEPS
_SPAN_BLOCKS = round(SPAN_S / STEP_S) // _BLOCK_STEPS
#: No two beats of a lead are closer than this.
_APART_STEPS = 10
# A beat's steepest moment reaches half of what a fiftieth of the signal reaches.
_TOP_SHARE, _OF_TOP = 0.02, 0.5
# Changes of less than this, in mV, are rounding.
_LEAST_MV = 1e-3

Change = npt.NDArray[np.float32]


class Landmarks(NamedTuple):
    """Of one lead: ``steps`` (n,), where the beats are, and ``sides`` (n, 32), whose signs are the bits.

    A side that is near 0 may have the other sign in a copy.
    """

    steps: npt.NDArray[np.int64]
    sides: npt.NDArray[np.float32]


def changes(signal_lt: npt.NDArray[np.floating], fs_hz: float) -> Change:
    """Second differences of 40 ms means of (leads, samples), in steps of 10 ms whatever the rate: (leads, steps).

    They pass about 3 to 20 Hz: no drift, no mains, and nothing that the usual filters change much. What was not
    recorded (NaN) counts as 0.
    """
    signal_lt = np.nan_to_num(signal_lt, nan=0.0).astype(np.float64)
    n_samples = signal_lt.shape[1]
    if n_samples < 2:
        return np.zeros((len(signal_lt), 0), dtype=np.float32)
    sums_lt = np.zeros_like(signal_lt)
    np.cumsum((signal_lt[:, 1:] + signal_lt[:, :-1]) / (2 * fs_hz), axis=1, out=sums_lt[:, 1:])
    steps_s = np.arange(int((n_samples - 1) / fs_hz / STEP_S + 1e-9) + 1) * STEP_S
    low = np.minimum((steps_s * fs_hz + 1e-9).astype(np.int64), n_samples - 2)
    share = steps_s * fs_hz - low
    integral_ls = sums_lt[:, low] * (1 - share) + sums_lt[:, low + 1] * share
    means_ls = (integral_ls[:, _BLOCK_STEPS:] - integral_ls[:, :-_BLOCK_STEPS]) / (_BLOCK_STEPS * STEP_S)
    two = 2 * _BLOCK_STEPS
    change_ls = means_ls[:, two:] - 2 * means_ls[:, _BLOCK_STEPS:-_BLOCK_STEPS] + means_ls[:, :-two]
    return np.asarray(change_ls, dtype=np.float32)


def landmarks(change_s: Change) -> Landmarks:
    """The landmarks of one lead, from its row of :func:`changes`; none of a lead without beats."""
    steps = _beats(change_s)
    steps = steps[steps > _BEFORE_BLOCKS * _BLOCK_STEPS]
    steps = steps[steps + (_SPAN_BLOCKS - _BEFORE_BLOCKS) * _BLOCK_STEPS < len(change_s)]
    around = (np.arange(_SPAN_BLOCKS) - _BEFORE_BLOCKS) * _BLOCK_STEPS
    at_nb = steps[:, None] + around
    # A copy may begin between two steps: what is seen is taken at equal times from the beat's own summit.
    share_n = _beside(change_s, steps)[:, None]
    beside_nb = change_s[at_nb + np.where(share_n < 0, -1, 1)]
    seen_nb = change_s[at_nb] * (1 - np.abs(share_n)) + beside_nb * np.abs(share_n)
    # By its root, a QRS complex doesn't drown what tells one patient's beats from another's.
    seen_nb = np.sign(seen_nb) * np.sqrt(np.abs(seen_nb))
    size_n = np.sqrt(np.square(seen_nb).mean(axis=1, keepdims=True))
    seen_nb = np.clip(seen_nb / np.maximum(size_n, 1e-12), -4, 4)
    return Landmarks(steps.astype(np.int64), seen_nb @ _directions())


def _beside(change_s: Change, steps: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
    """Where the summit of each beat is, from -0.5 to 0.5 steps beside it: that of a parabola."""
    low_n, middle_n, high_n = (np.abs(change_s[steps + i]) for i in (-1, 0, 1))
    bend_n = low_n - 2 * middle_n + high_n
    return np.where(bend_n < 0, (low_n - high_n) / (2 * np.minimum(bend_n, -1e-12)), 0.0).astype(np.float32)


def _beats(change_s: Change) -> npt.NDArray[np.intp]:
    size_s = np.abs(change_s)
    if len(size_s) <= 2 * _APART_STEPS:
        return np.empty(0, dtype=np.intp)
    rank = int(len(size_s) * (1 - _TOP_SHARE))
    top = np.partition(size_s, rank)[rank]
    if top < _LEAST_MV:
        return np.empty(0, dtype=np.intp)
    high = np.flatnonzero(size_s > _OF_TOP * top)
    around = sliding_window_view(np.pad(size_s, _APART_STEPS), 2 * _APART_STEPS + 1)[high]
    return np.asarray(high[size_s[high] == around.max(axis=1)])


@lru_cache(maxsize=1)
def _directions() -> npt.NDArray[np.float32]:
    """±1 for every block and bit, from a hash: the same in every release of NumPy."""
    n = _SPAN_BLOCKS * N_BITS
    bits = np.unpackbits(np.frombuffer(hashlib.shake_256(b"ecgstore landmark 1").digest(n // 8), dtype=np.uint8))
    return (bits.astype(np.float32) * 2 - 1).reshape(_SPAN_BLOCKS, N_BITS)
