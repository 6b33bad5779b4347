"""The loops of ``loops.c`` in NumPy, for machines without a compiler; the same to the bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

NOT_RECORDED, MAX_COUNT, COUNTS_PER_MV = -32768, 32767, 1000
#: How many sums there are side by side.
_N_LANES = 32

Signal = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int16]


def decode(
    counts_rtl: Counts, mv_per_count_rl: Signal, offset_mv_rl: Signal
) -> tuple[Signal, npt.NDArray[np.uint16], npt.NDArray[np.int64]]:
    n_records, n_samples, n_leads = counts_rtl.shape
    offset_mv_rl = np.asarray(offset_mv_rl, dtype=np.float32)
    # To take away 0.0 changes nothing, but to take away -0.0 makes 0.0 of -0.0.
    is_offset_r = ((offset_mv_rl != 0) | np.signbit(offset_mv_rl)).any(axis=1)
    signal_mv_rlt = np.empty((n_records, n_leads, n_samples), dtype=np.float32)
    sum_rl = np.empty((n_records, n_leads), dtype=np.uint16)
    n_recorded_r = np.full(n_records, n_leads * n_samples)
    # Record after record, so that each comes into the processor's cache once.
    for r, signal_mv_lt in enumerate(signal_mv_rlt):
        counts_lt = np.ascontiguousarray(counts_rtl[r].T)
        # Unsigned 16-bit arithmetic wraps around just as the checksum does.
        counts_lt.view(np.uint16).sum(axis=1, dtype=np.uint16, out=sum_rl[r])
        np.multiply(counts_lt, mv_per_count_rl[r][:, None], dtype=np.float32, out=signal_mv_lt)
        if is_offset_r[r]:
            signal_mv_lt -= offset_mv_rl[r][:, None]
        if counts_lt.min() == NOT_RECORDED:
            missing_lt = counts_lt == NOT_RECORDED
            signal_mv_lt[missing_lt] = np.nan
            n_recorded_r[r] -= np.count_nonzero(missing_lt)
    return signal_mv_rlt, sum_rl, n_recorded_r


def decimate(
    signals_lt: Sequence[Signal], left: int, n_padded: int, factor: int, half: Sequence[float]
) -> tuple[Signal, Signal]:
    if factor == 1:
        extended_lt = _extended(signals_lt, left, n_padded)
        return extended_lt, extended_lt[:, 0] - extended_lt[:, -1]
    n_leads = sum(map(len, signals_lt))
    out_lm, jump_l = np.zeros((n_leads, n_padded // factor), dtype=np.float32), np.empty(n_leads, dtype=np.float32)
    done = 0
    # Signal after signal, so that what a tap is multiplied with is still in the processor's cache.
    for signal_lt in signals_lt:
        extended_lt = _extended([signal_lt], left, n_padded)
        its = slice(done, done := done + len(signal_lt))
        jump_l[its] = extended_lt[:, 0] - extended_lt[:, -1]
        _weigh(extended_lt, factor, half, out_lm[its])
    return out_lm, jump_l


def _weigh(extended_lt: Signal, factor: int, half: Sequence[float], out_lm: Signal) -> None:
    """Add to ``out_lm`` every ``factor``-th sample of a circle behind a filter."""
    n, n_out, reach = extended_lt.shape[1], out_lm.shape[1], len(half) - 1
    round_lt = np.concatenate([extended_lt[:, n - reach :], extended_lt, extended_lt[:, :reach]], axis=1)
    # One array for each place within a step, so that what a tap is multiplied with lies side by side.
    places = [np.ascontiguousarray(round_lt[:, place::factor]) for place in range(factor)]
    at = [places[k % factor][:, k // factor : k // factor + n_out] for k in range(2 * reach + 1)]
    weighed_lm = np.empty(out_lm.shape, dtype=np.float32)
    for k, tap in enumerate(half):
        if k < reach:
            np.add(at[k], at[2 * reach - k], out=weighed_lm)
            np.multiply(weighed_lm, np.float32(tap), out=weighed_lm)
        else:
            np.multiply(at[k], np.float32(tap), out=weighed_lm)
        np.add(out_lm, weighed_lm, out=out_lm)


def _extended(signals_lt: Sequence[Signal], left: int, n_padded: int) -> Signal:
    """Reflect each lead about its end points, again and again where a record is shorter than the padding."""
    n = signals_lt[0].shape[1]
    padded_lt = np.empty((sum(map(len, signals_lt)), n_padded), dtype=np.float32)
    inner_lt = padded_lt[:, left : left + n]
    np.concatenate(signals_lt, axis=0, out=inner_lt)
    if n == 1:
        padded_lt[:] = inner_lt
        return padded_lt
    # Infinite samples are gaps, which show themselves in the spectrum.
    with np.errstate(invalid="ignore"):
        begin, end = left, left + n
        while begin > 0:
            k = min(begin, n - 1)
            mirrored_lt = padded_lt[:, begin + k : begin : -1]
            np.subtract(2 * padded_lt[:, begin : begin + 1], mirrored_lt, out=padded_lt[:, begin - k : begin])
            begin -= k
        while end < n_padded:
            k = min(n_padded - end, n - 1)
            mirrored_lt = padded_lt[:, end - 1 - k : end - 1][:, ::-1]
            np.subtract(2 * padded_lt[:, end - 1 : end], mirrored_lt, out=padded_lt[:, end : end + k])
            end += k
    return padded_lt


def quantise(signal_mv_lt: Signal) -> tuple[Counts, npt.NDArray[np.int64]]:
    scaled_lt = signal_mv_lt * np.float32(COUNTS_PER_MV)
    np.rint(scaled_lt, out=scaled_lt)
    # fmax passes over NaN; most records are whole and small, and need none of the slow steps.
    n_clipped_l = np.zeros(len(scaled_lt), dtype=np.int64)
    if scaled_lt.size and max(np.fmax.reduce(scaled_lt, axis=None), -np.fmin.reduce(scaled_lt, axis=None)) > MAX_COUNT:
        n_clipped_l = np.count_nonzero(np.abs(scaled_lt) > MAX_COUNT, axis=1)
        np.clip(scaled_lt, -MAX_COUNT, MAX_COUNT, out=scaled_lt)
    missing_lt = np.isnan(scaled_lt)
    if missing_lt.any():
        scaled_lt[missing_lt] = NOT_RECORDED
    return scaled_lt.astype(np.int16), n_clipped_l


def tally(counts_lt: Counts) -> tuple[npt.NDArray[Any], ...]:
    lowest_l, highest_l = counts_lt.min(axis=1), counts_lt.max(axis=1)
    wide_lt = counts_lt.astype(np.int64)
    n_l = np.full(len(counts_lt), counts_lt.shape[1])
    if (lowest_l == NOT_RECORDED).any():
        recorded_lt = counts_lt != NOT_RECORDED
        n_l = np.count_nonzero(recorded_lt, axis=1)
        # What is not recorded is the lowest number there is, so it is in no one's way at the top.
        lowest_l = np.where(recorded_lt, counts_lt, MAX_COUNT).min(axis=1)
        wide_lt *= recorded_lt
    return n_l, wide_lt.sum(axis=1), np.einsum("lt,lt->l", wide_lt, wide_lt), lowest_l, highest_l


def look(signals_lt: Sequence[Signal], step: int, least: int) -> tuple[npt.NDArray[Any], ...]:
    n_leads, n = sum(map(len, signals_lt)), signals_lt[0].shape[1]
    grid_lg = np.empty((n_leads, -(-n // step)), dtype=np.float32)
    lowest_l, highest_l = np.empty((2, n_leads), dtype=np.float32)
    n_missing_l = np.zeros(n_leads, dtype=np.int64)
    done = 0
    # Signal after signal, so that each comes into the processor's cache once.
    for signal_lt in signals_lt:
        its = slice(done, done := done + len(signal_lt))
        grid_lg[its] = signal_lt[:, ::step]
        np.fmin.reduce(signal_lt, axis=1, out=lowest_l[its])
        np.fmax.reduce(signal_lt, axis=1, out=highest_l[its])
        n_missing_l[its] = np.count_nonzero(np.isnan(signal_lt), axis=1)
    # There is one zero only: which of the two is met first would hang on the order.
    lowest_l += np.float32(0)
    highest_l += np.float32(0)
    n_lowest_l, n_highest_l = (np.count_nonzero(grid_lg == end_l[:, None], axis=1) for end_l in (lowest_l, highest_l))
    return grid_lg, lowest_l, highest_l, n_missing_l, _n_flat(grid_lg, least), n_lowest_l, n_highest_l


def _n_flat(grid_lg: Signal, least: int) -> npt.NDArray[np.int64]:
    """How many values of each lead stand in runs of at least ``least`` equal ones."""
    n_flat_l = np.zeros(len(grid_lg), dtype=np.int64)
    # A run holds four of every least / 4 values: few leads need more than that look.
    coarse_lg = grid_lg[:, :: max(1, least // 4)]
    n_same_l = np.count_nonzero(coarse_lg[:, 1:] == coarse_lg[:, :-1], axis=1)
    for lead in np.flatnonzero(n_same_l >= min(3, least - 1)).tolist():
        grid_g = grid_lg[lead]
        begins = np.flatnonzero(grid_g[1:] != grid_g[:-1]) + 1
        lengths = np.diff(begins, prepend=0, append=len(grid_g))
        n_flat_l[lead] = lengths[lengths >= least].sum()
    return n_flat_l


def residual(signals_lt: Sequence[Signal], three: Sequence[int]) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    first, second, third = three
    total_r, n_recorded_r = np.empty(len(signals_lt)), np.empty(len(signals_lt), dtype=np.int64)
    for r, signal_lt in enumerate(signals_lt):
        with np.errstate(invalid="ignore", over="ignore"):
            left_t = (signal_lt[second] - signal_lt[first] - signal_lt[third]).astype(np.float64)
        is_there_t = ~np.isnan(left_t)
        # Every so many squares go to one sum, row after row, and the sums are added in their order.
        lanes = np.zeros((-(-len(left_t) // _N_LANES), _N_LANES))
        np.square(left_t, out=lanes.reshape(-1)[: len(left_t)], where=is_there_t)
        total_r[r] = sum(np.add.reduce(lanes, axis=0).tolist(), 0.0)
        n_recorded_r[r] = np.count_nonzero(is_there_t)
    return total_r, n_recorded_r
