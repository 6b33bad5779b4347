"""Filtering and resampling of a record in one pass over its spectrum.

Linear zero-phase filters are curves over frequency: their product and the crop (or zero-padding) of the
spectrum to the new rate cost one forward and one inverse real FFT. Edges are extended by odd reflection,
long enough for a 0.5 Hz high-pass to die out. Gaps (NaN) are bridged before, and are gaps again after.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from types import ModuleType
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, SerializeAsAny

from ecgstore.errors import ConfigError, need
from ecgstore.rooms import occupant
from ecgstore.settings import Settings, parse

#: Odd reflection at both ends, in seconds: scipy's default for ``sosfiltfilt`` is wrong by tens of µV at 0.5 Hz.
PADDING_S = 4.0


def _parse_filter(value: Any) -> Any:
    if isinstance(value, Settings):
        return value
    if not isinstance(value, dict) or "name" not in value:
        raise ValueError("a filter is a mapping with its name, such as {name: notch, freq_hz: 50}")
    try:
        return parse(occupant("ecgstore.filters", value["name"]).Settings, value)
    except ConfigError as error:
        raise ValueError(str(error)) from None


#: A filter's settings, told apart by ``name``, which is the name of its file in ``ecgstore/filters``.
Filter = Annotated[SerializeAsAny[Settings], BeforeValidator(_parse_filter)]


def n_resampled(n_samples: int, fs_hz: float, target_hz: float) -> int:
    """Number of samples after resampling ``n_samples`` from ``fs_hz`` to ``target_hz``: rounded, at least 1."""
    return max(1, round(n_samples * Fraction(target_hz) / Fraction(fs_hz)))


def condition(
    signal_mv_lt: npt.NDArray[np.float32], fs_hz: float, target_hz: float, filters: Sequence[Settings] = ()
) -> npt.NDArray[np.float32]:
    """Filter (leads, samples) and bring it to ``target_hz``; returns float32 (leads, resampled samples) in mV.

    Output sample j stands at time ``j / target_hz``. It is NaN where any input sample within half an
    output step is NaN, so that a gap neither spreads nor vanishes; a lead without any sample stays NaN.
    """
    return condition_alike([signal_mv_lt], fs_hz, target_hz, filters)


def condition_alike(
    signals_mv_lt: Sequence[npt.NDArray[np.float32]], fs_hz: float, target_hz: float, filters: Sequence[Settings] = ()
) -> npt.NDArray[np.float32]:
    """:func:`condition` for several records of one shape at once; their leads come out one below the other.

    Filters act lead by lead, so this changes no value; it saves calls, and copies.
    """
    n_in = signals_mv_lt[0].shape[1]
    n_out = n_resampled(n_in, fs_hz, target_hz)
    if not filters and fs_hz == target_hz:
        return np.concatenate(signals_mv_lt)
    missing_lt = None
    # One minimum per record tells whether anything is missing: it is NaN if anything is.
    if any(np.isnan(signal_lt.min()) for signal_lt in signals_mv_lt):
        whole_lt = np.concatenate(signals_mv_lt)
        missing_lt = ~np.isfinite(whole_lt)
        signals_mv_lt = [_bridge(whole_lt, missing_lt)]
    ratio = Fraction(target_hz).limit_denominator(100_000) / Fraction(fs_hz).limit_denominator(100_000)
    # The transform's length must be a whole number of output samples, and so must the padding in front.
    step = ratio.denominator
    left = step * max(1, round(PADDING_S * fs_hz / step))
    fft = need("scipy.fft", "ingest")
    n_fft = step * int(fft.next_fast_len(-(-(n_in + 2 * left) // step), real=True))
    padded_lt = _odd_extension(signals_mv_lt, left, n_fft - n_in - left)
    spectrum_lf = fft.rfft(padded_lt, axis=1, overwrite_x=True)
    out_lt = _apply(fft, spectrum_lf, n_fft, fs_hz, ratio, tuple(filters))
    first = left * ratio.numerator // step
    # The copy lets go of the padding.
    out_lt = out_lt[:, first : first + n_out].copy()
    if missing_lt is not None:
        out_lt[_missing_after(missing_lt, n_out, fs_hz / target_hz)] = np.nan
    return out_lt


def _apply(
    fft: ModuleType,
    spectrum_lf: npt.NDArray[np.complex64],
    n_fft: int,
    fs_hz: float,
    ratio: Fraction,
    filters: tuple[Settings, ...],
) -> npt.NDArray[np.float32]:
    n_fft_out = n_fft * ratio.numerator // ratio.denominator
    kept = min(n_fft, n_fft_out) // 2 + 1
    cropped_lf = spectrum_lf[:, :kept] * _curve(n_fft, fs_hz, ratio, filters)[:kept]
    if n_fft_out > n_fft and n_fft % 2 == 0:
        # The bin at half the old rate stands for both of its signs; upsampled, they are two bins.
        cropped_lf[:, -1] *= 0.5
    # irfft fills the missing high bins with zeros.
    out: npt.NDArray[np.float32] = fft.irfft(cropped_lf, n=n_fft_out, axis=1, overwrite_x=True)
    return out


@lru_cache(maxsize=64)
def _curve(n_fft: int, fs_hz: float, ratio: Fraction, filters: tuple[Settings, ...]) -> npt.NDArray[np.float32]:
    """Product of the filters' curves and of the change in level that the change of length brings."""
    freqs_hz = np.arange(n_fft // 2 + 1) * (fs_hz / n_fft)
    product = np.full(freqs_hz.shape, float(ratio))
    for filter_settings in filters:
        module = occupant("ecgstore.filters", filter_settings.name)  # type: ignore[attr-defined]
        product *= module.gain(freqs_hz, fs_hz, filter_settings)
    if ratio < 1:
        # Half the new rate can't be told from its own alias: nothing at or above it is kept.
        product[freqs_hz >= fs_hz * float(ratio) / 2] = 0.0
    curve = product.astype(np.float32)
    curve.setflags(write=False)
    return curve


def _odd_extension(signals_lt: Sequence[npt.NDArray[np.float32]], left: int, right: int) -> npt.NDArray[np.float32]:
    """Reflect each lead about its end points, again and again where a record is shorter than the padding."""
    n = signals_lt[0].shape[1]
    padded_lt = np.empty((sum(map(len, signals_lt)), left + n + right), dtype=np.float32)
    row = 0
    for signal_lt in signals_lt:
        part_lt = padded_lt[row : row + len(signal_lt)]
        row += len(signal_lt)
        if n > max(left, right):
            part_lt[:, left : left + n] = signal_lt
            np.subtract(2 * signal_lt[:, :1], signal_lt[:, left:0:-1], out=part_lt[:, :left])
            np.subtract(2 * signal_lt[:, -1:], signal_lt[:, -2 : -2 - right : -1], out=part_lt[:, left + n :])
        elif n == 1:
            part_lt[:] = signal_lt
        else:
            part_lt[:] = np.pad(signal_lt, ((0, 0), (left, right)), mode="reflect", reflect_type="odd")
    return padded_lt


def _bridge(signal_lt: npt.NDArray[np.float32], missing_lt: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    bridged_lt = signal_lt.copy()
    t = np.arange(signal_lt.shape[1])
    for lead_t, missing_t in zip(bridged_lt, missing_lt, strict=True):
        if missing_t.all():
            lead_t[:] = 0.0
        elif missing_t.any():
            lead_t[missing_t] = np.interp(t[missing_t], t[~missing_t], lead_t[~missing_t])
    return bridged_lt


def _missing_after(missing_lt: npt.NDArray[np.bool_], n_out: int, samples_per_output: float) -> npt.NDArray[np.bool_]:
    """Which output samples have a missing input sample within half an output step (or nearest, if upsampled)."""
    n_in = missing_lt.shape[1]
    centre = np.arange(n_out) * samples_per_output
    half = max(samples_per_output, 1.0) / 2
    first = np.clip(np.ceil(centre - half).astype(np.int64), 0, n_in - 1)
    last = np.clip(np.ceil(centre + half).astype(np.int64), first + 1, n_in)
    # A running count of missing samples answers "any in [first, last)" for all outputs at once.
    count_lt = np.zeros((missing_lt.shape[0], n_in + 1), dtype=np.int64)
    np.cumsum(missing_lt, axis=1, out=count_lt[:, 1:])
    return np.asarray(count_lt[:, last] > count_lt[:, first])
