"""Filtering and resampling of a record, in as few passes over its spectrum as can be: mostly one.

Linear zero-phase filters are curves over frequency: their product and the crop (or zero-padding) of the
spectrum to the new rate cost one forward and one inverse real FFT. A filter that is no curve is a stage: it
acts in time, between two passes. Edges are extended by odd reflection, long enough for a 0.5 Hz high-pass to
die out. Gaps (NaN) are bridged before, and are gaps again after. Long records go in pieces with a halo.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import lru_cache, partial
from typing import Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, SerializeAsAny

from ecgstore import kernel
from ecgstore.errors import ConfigError
from ecgstore.rooms import occupant
from ecgstore.settings import Settings, parse
from ecgstore.signals import transforms
from ecgstore.signals.decimation import Decimation, decimation, undo
from ecgstore.signals.gaps import Gaps, Missing, bridge, mark_missing, there_in

#: Odd reflection at both ends, in seconds: scipy's default for ``sosfiltfilt`` is wrong by tens of µV at 0.5 Hz.
PADDING_S = 4.0
#: No more than this for slow filters: edges below 0.04 Hz then lose some of their accuracy on short records.
MOST_PADDING_S = 50.0
#: Resampling cuts the spectrum at half the lower rate. A sharp cut rings as 1/t on what lies there, mains at 50 Hz
#: say; over these last Hz it falls as a squared sine instead, and the ringing as 1/t³.
CUT_HZ = 0.5
#: The spectrum is told up to here at least, whatever the new rate: mains of 60 Hz is looked for.
LEAST_HZ = 61.0
#: Least halo of a piece, in seconds: by then the cut has rung out, whatever the filters.
LEAST_HALO_S = 10.0
#: By how much the ratio of two odd rates may be off at the end of a record, in output samples, where a fraction of a
#: small denominator can do it. The denominator, on which time and memory hang, is no larger than the record's samples,
#: but between these two: a rate so near to a simple one that it needs more is taken for that one.
_RATIO_ERROR_SAMPLES = 1e-4
_LEAST_DENOMINATOR, _MOST_DENOMINATOR = 10_000, 200_000
#: Longer curves (float32: 4 MB) are made anew each time instead of being kept.
_KEPT_CURVE = 1 << 20

Signal = npt.NDArray[np.float32]
Bands = tuple[tuple[float, float], ...]
#: Curves that act together, or one stage.
_Pass = tuple[Settings, ...] | Settings


def _parse_filter(value: Any) -> Any:
    if isinstance(value, Settings):
        return value
    if not isinstance(value, dict) or "name" not in value:
        raise ValueError("a filter is a mapping with its name, such as {name: notch, freq_hz: 50}")
    try:
        return parse(occupant("ecgstore.signals.filters", value["name"]).Settings, value)
    except ConfigError as error:
        raise ValueError(str(error)) from None


#: A filter's settings, told apart by ``name``, which is the name of its file in ``ecgstore/filters``.
Filter = Annotated[SerializeAsAny[Settings], BeforeValidator(_parse_filter)]


class Envelope(NamedTuple):
    """How strong a band of a signal is from moment to moment, before any filter."""

    #: float32 (leads of all records, points) in mV²; NaN where nothing was recorded.
    power_mv2_lp: Signal
    #: White noise of a density of 1 mV²/Hz has this mean power in it, in mV²; less where half the rate ends the band.
    width_hz: float


class Conditioned(NamedTuple):
    """Conditioned signals, and what the spectrum computed for them tells besides."""

    #: float32 (leads of all records, output samples) in mV, NaN where nothing was recorded.
    signal_mv_lt: Signal
    #: float32 (leads of all records, bands) in mV²; None where no bands were asked for.
    band_power_mv2_lb: Signal | None
    #: None where no band was asked for.
    envelope: Envelope | None = None


# Thousands of records share a handful of lengths and rates.
@lru_cache(maxsize=4096)
def n_resampled(n_samples: int, fs_hz: float, target_hz: float) -> int:
    """Number of samples after resampling ``n_samples`` from ``fs_hz`` to ``target_hz``: rounded, at least 1."""
    return max(1, round(n_samples * _ratio(n_samples, fs_hz, target_hz)))


@lru_cache(maxsize=4096)
def slip_s(n_samples: int, fs_hz: float, target_hz: float) -> float:
    """By how much later than :func:`condition` has it the end of a record was recorded, in seconds.

    It is below 1e-4 output samples but for rates that are almost simple, such as 249.999872 Hz: at 100 Hz 44 ms in
    24 h. There it is below one output sample in records of up to 200,000 samples, and 2.5 millionths of the time in
    longer ones. Output samples then come at :func:`true_hz`, not at ``target_hz``.
    """
    return float(n_samples * (1 / Fraction(fs_hz) - _ratio(n_samples, fs_hz, target_hz) / Fraction(target_hz)))


@lru_cache(maxsize=4096)
def true_hz(n_samples: int, fs_hz: float, target_hz: float) -> float:
    """The rate at which output samples stand to the source's own clock."""
    return float(Fraction(fs_hz) * _ratio(n_samples, fs_hz, target_hz))


def halo_s(filters: Sequence[Settings]) -> float | None:
    """How far around a piece its neighbours act on it by more than 1e-5, in seconds; None: the whole record acts.

    The sum of what the filters' files state as ``reach_s`` (a high-pass of order 3 at 0.5 Hz: 7.3 s, at 0.05 Hz:
    73 s), at least :data:`LEAST_HALO_S`.
    """
    reaches_s = _reaches_s(tuple(filters))
    known_s = [reach for reach in reaches_s if reach is not None]
    return max(LEAST_HALO_S, sum(known_s)) if len(known_s) == len(reaches_s) else None


def condition(signal_mv_lt: Signal, fs_hz: float, target_hz: float, filters: Sequence[Settings] = ()) -> Signal:
    """Filter (leads, samples) and bring it to ``target_hz``; returns float32 (leads, resampled samples) in mV.

    Filters act in the order given. Output sample j stands at time ``j / target_hz``. It is NaN where any input
    sample within half an output step is NaN, so that a gap neither spreads nor vanishes; a lead without any
    sample stays NaN. Raises ConfigError where a stage can't work at this rate.
    """
    return condition_alike([signal_mv_lt], fs_hz, target_hz, filters).signal_mv_lt


def condition_alike(
    signals_mv_lt: Sequence[Signal],
    fs_hz: float,
    target_hz: float,
    filters: Sequence[Settings] = (),
    bands_hz: Bands | None = None,
    envelope_hz: tuple[float, float] | None = None,
) -> Conditioned:
    """:func:`condition` for several records of one shape at once; their leads come out one below the other.

    Filters act lead by lead, so this changes no value; it saves calls, and copies.

    With ``bands_hz``, pairs (low, high) of which the low end is included and the high end, which may be ``inf``, is
    not, comes the mean power of each lead in each band before any filter: a sine of amplitude A gives A²/2 in the
    band that holds it. It is the power of the signal as the transform sees it: gaps bridged, edges reflected, the
    reflection's two ends faded into each other. 0 Hz never counts; a band above half the rate and a lead without
    any sample have 0. With ``envelope_hz`` comes the power of one band from moment to moment.
    """
    filters = tuple(filters)
    passes = _passes(filters, fs_hz != target_hz)
    if not passes and bands_hz is None and envelope_hz is None:
        return Conditioned(np.concatenate(signals_mv_lt), None)
    n_in = signals_mv_lt[0].shape[1]
    n_out = n_resampled(n_in, fs_hz, target_hz)
    ratio = _ratio(n_in, fs_hz, target_hz)
    framed = partial(_frame, n_in, fs_hz, ratio, _padding_s(filters, n_in / fs_hz))
    told_hz, passed_hz = _highest_told(bands_hz, envelope_hz), _highest_passed(passes, 0, fs_hz, ratio)
    # What is told must not change what comes out: one transform serves both where it has enough for the first pass.
    serves_both = told_hz <= passed_hz
    frame = framed(passed_hz if serves_both else told_hz)
    missing_lt = None
    spectrum = _transform(signals_mv_lt, frame)
    if not spectrum.is_whole:
        whole_mv_lt = np.concatenate(signals_mv_lt)
        missing_lt = ~np.isfinite(whole_mv_lt)
        is_there_l = there_in(missing_lt)
        if is_there_l.any() and not is_there_l.all():
            there = condition_alike([whole_mv_lt[is_there_l]], fs_hz, target_hz, filters, bands_hz, envelope_hz)
            return _beside_absent(there, is_there_l)
        signals_mv_lt = [bridge(whole_mv_lt, missing_lt)]
        spectrum = _transform(signals_mv_lt, frame)
    power_lb = None if bands_hz is None else _band_power(spectrum, frame, bands_hz)
    envelope = None if envelope_hz is None else _envelope(spectrum, frame, envelope_hz, missing_lt)
    out_mv_lt = _pass_through(signals_mv_lt, framed, passes, n_out, spectrum if serves_both else None)
    if missing_lt is not None:
        mark_missing(out_mv_lt, missing_lt, frame.ratio)
    return Conditioned(out_mv_lt, power_lb, envelope)


def _beside_absent(there: Conditioned, is_there_l: npt.NDArray[np.bool_]) -> Conditioned:
    """What was told of the leads that are there, in the places of all: of the others nothing was recorded."""

    def spread(found_l: Signal, absent: float) -> Signal:
        all_l = np.full((len(is_there_l), *found_l.shape[1:]), absent, dtype=np.float32)
        all_l[is_there_l] = found_l
        return all_l

    power_lb, envelope = there.band_power_mv2_lb, there.envelope
    return Conditioned(
        spread(there.signal_mv_lt, np.nan),
        None if power_lb is None else spread(power_lb, 0.0),
        None if envelope is None else envelope._replace(power_mv2_lp=spread(envelope.power_mv2_lp, np.nan)),
    )


def condition_pieces(
    read_piece: Callable[[int, int], Signal],
    n_samples: int,
    fs_hz: float,
    target_hz: float,
    filters: Sequence[Settings] = (),
    piece_s: float = 300.0,
) -> Iterator[tuple[int, Signal]]:
    """:func:`condition` for a record too long to be held at once: yields (first output sample, mV) in order.

    ``read_piece(start, stop)`` gives input samples as float32 (leads, stop - start) in mV, NaN where nothing was
    recorded. Each piece is read with :func:`halo_s` on both sides and equals its part of the conditioned whole
    within 1 µV, next to gaps too: where one reaches beyond what was read, ``read_piece`` is asked on to its end.
    A piece lasts ``piece_s``, rounded so that it begins on an output sample that is an input sample as well.

    The record goes in one piece where a filter needs all of it, and where it is so short (ten halos at most) that
    its two ends act on each other in :func:`condition`. Raises ConfigError where ``piece_s`` is not above 0.
    """
    if not piece_s > 0:
        raise ConfigError("a piece must last some time", where="piece_s", expected="seconds above 0", got=piece_s)
    filters = tuple(filters)
    passes, halo = _passes(filters, fs_hz != target_hz), halo_s(filters)
    ratio = _ratio(n_samples, fs_hz, target_hz)
    # One in ``step`` input samples stands on an output sample: there pieces begin, and what is read for them.
    step = ratio.denominator
    piece = step * max(1, round(piece_s * fs_hz / step))
    if not passes:
        for start in range(0, n_samples, piece):
            yield start, np.array(read_piece(start, min(start + piece, n_samples)), dtype=np.float32)
        return
    if halo is None or _padding_s(filters, n_samples / fs_hz) < halo:
        yield 0, condition(read_piece(0, n_samples), fs_hz, target_hz, filters)
        return
    margin = step * math.ceil(halo * fs_hz / step)
    n_out = n_resampled(n_samples, fs_hz, target_hz)
    gaps = Gaps(read_piece, n_samples, piece)
    for start in range(0, n_samples, piece):
        stop = start + piece
        begin, end = max(0, start - margin), min(stop + margin, n_samples)
        # Output samples, counted from ``begin``; the record's own number of them is rounded, so it ends the last piece.
        skipped = int((start - begin) * ratio)
        wanted = (n_out if stop >= n_samples else int(stop * ratio)) - int(begin * ratio)
        if wanted <= skipped:
            return
        signal_mv_lt = np.asarray(read_piece(begin, end), dtype=np.float32)
        missing_lt = ~np.isfinite(signal_mv_lt)
        bridged_mv_lt = gaps.bridge(signal_mv_lt, missing_lt, begin, next_begin=max(0, stop - margin))
        framed = partial(_frame, end - begin, fs_hz, ratio, halo)
        out_mv_lt = _piece_passed(bridged_mv_lt, missing_lt, framed, passes, wanted)
        yield int(start * ratio), out_mv_lt[:, skipped:].copy()


def _piece_passed(
    bridged_mv_lt: Signal, missing_lt: Missing, framed: Callable[[float], _Frame], passes: tuple[_Pass, ...], n_out: int
) -> Signal:
    """A piece behind all passes, NaN where its samples are missing; leads without any sample go through none."""
    is_there_l = there_in(missing_lt)
    if is_there_l.all():
        passed_mv_lt = _pass_through([bridged_mv_lt], framed, passes, n_out)
        mark_missing(passed_mv_lt, missing_lt, framed(math.inf).ratio)
        return passed_mv_lt
    out_mv_lt = np.full((len(missing_lt), n_out), np.nan, dtype=np.float32)
    if is_there_l.any():
        of_those = bridged_mv_lt[is_there_l], missing_lt[is_there_l]
        out_mv_lt[is_there_l] = _piece_passed(*of_those, framed, passes, n_out)
    return out_mv_lt


class _Frame(NamedTuple):
    """Where the samples of a record stand in the transform; each number of samples is one of output samples too."""

    n_in: int
    #: Samples of padding in front of the record.
    left: int
    n_fft: int
    fs_hz: float
    #: Output samples per input sample.
    ratio: Fraction
    #: The samples that are transformed are so many fewer.
    decimated: Decimation
    #: Bins of the spectrum that are told.
    n_bins: int


def _frame(n_in: int, fs_hz: float, ratio: Fraction, padding_s: float, highest_hz: float = math.inf) -> _Frame:
    # The transform's length must be a whole number of output samples, and so must the padding in front.
    step, decimated = ratio.denominator, decimation(fs_hz, highest_hz)
    left = step * max(1, round(padding_s * fs_hz / step))
    unit = math.lcm(step, decimated.factor)
    n_fft = unit * transforms.next_fast_len(-(-(n_in + 2 * left) // unit), real=True)
    n_bins = n_fft // 2 + 1 if decimated.factor == 1 else math.ceil(highest_hz * n_fft / fs_hz - 1e-9) + 1
    return _Frame(n_in, left, n_fft, fs_hz, ratio, decimated, n_bins)


def _highest_told(bands_hz: Bands | None, envelope_hz: tuple[float, float] | None) -> float:
    return max((high_hz for _, high_hz in (*(bands_hz or ()), *filter(None, [envelope_hz]))), default=0.0)


def _highest_passed(passes: tuple[_Pass, ...], number: int, fs_hz: float, ratio: Fraction) -> float:
    """Up to where a pass wants the spectrum: a stage not at all, curves all of it but for the last to a lower rate."""
    if number >= len(passes) or isinstance(passes[number], Settings):
        return 0.0
    is_last = number == len(passes) - 1
    return max(LEAST_HZ, fs_hz * float(ratio) / 2) if is_last and ratio < 1 else math.inf


@lru_cache(maxsize=256)
def _ratio(n_in: int, fs_hz: float, target_hz: float) -> Fraction:
    """Output samples per input sample, as the simplest of some fractions that hold to the end of the record.

    The transform is a multiple of its denominator long: an odd rate such as 249.89 Hz, taken exactly, would need
    minutes of padding. See :func:`slip_s` for what it costs.
    """
    exact = Fraction(target_hz) / Fraction(fs_hz)
    largest, most = 1000, min(max(n_in, _LEAST_DENOMINATOR), _MOST_DENOMINATOR)
    while abs((simple := exact.limit_denominator(largest)) - exact) * n_in > _RATIO_ERROR_SAMPLES and largest < most:
        largest = min(2 * largest, most)
    # A rate too small for any of these fractions still has one.
    return simple or Fraction(1, round(1 / exact))


def _padding_s(filters: tuple[Settings, ...], duration_s: float) -> float:
    """Seconds of odd reflection at each end.

    Half of what the slowest filter reaches leaves 0.3 µV of error at 0.05 Hz; below :data:`PADDING_S` nothing is
    gained. Long records, where it costs little, get all of the halo, so that neither end acts on the other.
    """
    halo = halo_s(filters)
    slowest_s = max((reach for reach in _reaches_s(filters) if reach is not None), default=0.0)
    return max(PADDING_S, min(slowest_s / 2, MOST_PADDING_S), 0.0 if halo is None else min(halo, duration_s / 10))


@lru_cache(maxsize=64)
def _passes(filters: tuple[Settings, ...], resampled: bool) -> tuple[_Pass, ...]:
    """Neighbouring curves make one pass, each stage its own; the last pass brings the new rate."""
    passes: list[_Pass] = []
    for is_stage, group in itertools.groupby(filters, key=lambda one: hasattr(_file_of(one), "stage")):
        neighbours = tuple(group)
        passes += neighbours if is_stage else [neighbours]
    if resampled and not (passes and isinstance(passes[-1], tuple)):
        passes.append(())
    return tuple(passes)


@lru_cache(maxsize=64)
def _reaches_s(filters: tuple[Settings, ...]) -> tuple[float | None, ...]:
    files = [(_file_of(one), one) for one in filters]
    return tuple(file.reach_s(one) if hasattr(file, "reach_s") else None for file, one in files)


def _file_of(filter_settings: Settings) -> Any:
    return occupant("ecgstore.signals.filters", filter_settings.name)  # type: ignore[attr-defined]


def _pass_through(
    signals_mv_lt: Sequence[Signal],
    framed: Callable[[float], _Frame],
    passes: tuple[_Pass, ...],
    n_out: int,
    spectrum: _Spectrum | None = None,
) -> Signal:
    """Let signals without gaps go through all passes; ``spectrum`` is theirs where it is already known.

    ``framed`` gives the frame for a spectrum up to a frequency.
    """
    signal_mv_lt = None
    whole = framed(math.inf)
    for number, one in enumerate(passes):
        if isinstance(one, Settings):
            signal_mv_lt = _staged(np.concatenate(signals_mv_lt), whole.fs_hz, one)
        else:
            frame = framed(_highest_passed(passes, number, whole.fs_hz, whole.ratio))
            x_lf = (spectrum or _transform(signals_mv_lt, frame)).x_lf
            is_last = number == len(passes) - 1
            its_frame, n = (frame, n_out) if is_last else (frame._replace(ratio=Fraction(1)), frame.n_in)
            signal_mv_lt = _shaped(x_lf, its_frame, one, n)
        signals_mv_lt, spectrum = [signal_mv_lt], None
    out_mv_lt = np.concatenate(signals_mv_lt) if signal_mv_lt is None else signal_mv_lt
    return out_mv_lt[:, :n_out]


def _staged(signal_mv_lt: Signal, fs_hz: float, filter_settings: Settings) -> Signal:
    staged_mv_lt = np.asarray(_file_of(filter_settings).stage(signal_mv_lt, fs_hz, filter_settings), dtype=np.float32)
    if staged_mv_lt.shape != signal_mv_lt.shape:
        raise ConfigError(
            "a stage must keep the shape of the signal",
            where=f"filter {filter_settings.name}",  # type: ignore[attr-defined]
            expected=signal_mv_lt.shape,
            got=staged_mv_lt.shape,
        )
    return staged_mv_lt


class _Spectrum(NamedTuple):
    #: Of every so many samples where the frame decimates; what :func:`_undone` gives is still to be multiplied with it.
    x_lf: npt.NDArray[np.complex64]
    #: From each extended signal's end to its beginning.
    jump_l: npt.NDArray[np.float32]
    #: Whether no sample was missing.
    is_whole: bool


def _transform(signals_mv_lt: Sequence[Signal], frame: _Frame) -> _Spectrum:
    """The spectrum of the extended signals; empty where a sample is seen to be missing."""
    factor, half = frame.decimated.factor, frame.decimated.half
    extended_lm, jump_l = kernel.decimate(signals_mv_lt, frame.left, frame.n_fft, factor, half)
    # A few samples tell of leads that are absent altogether ...
    if not np.isfinite(extended_lm[:, :: max(1, frame.left // factor)]).all():
        return _Spectrum(np.empty((len(extended_lm), 0), np.complex64), jump_l, is_whole=False)
    x_lf = transforms.rfft(extended_lm)
    # ... and the bin at 0 Hz, which is the sum of all samples, is finite only where all of them are.
    return _Spectrum(x_lf, jump_l, is_whole=bool(np.isfinite(x_lf[:, 0]).all()))


def _undone(frame: _Frame, low: int, high: int) -> npt.NDArray[np.float32]:
    """What makes bins ``low`` to below ``high`` of a decimated signal's spectrum those of the signal."""
    if frame.decimated.factor == 1:
        return np.ones(1, dtype=np.float32)
    return undo(frame.decimated, np.arange(low, high) / frame.n_fft)


@lru_cache(maxsize=64)
def _kept_undone(frame: _Frame, low: int, high: int) -> npt.NDArray[np.float32]:
    return _undone(frame, low, high)


def _shaped(x_lf: npt.NDArray[np.complex64], frame: _Frame, filters: tuple[Settings, ...], n_out: int) -> Signal:
    """Multiply a spectrum by the filters' curves, crop it to the new rate and go back: (leads, n_out)."""
    n_fft, ratio = frame.n_fft, frame.ratio
    n_fft_out = n_fft * ratio.numerator // ratio.denominator
    kept = min(n_fft, n_fft_out) // 2 + 1
    curve = _curve if n_fft < _KEPT_CURVE else _curve.__wrapped__
    cropped_lf = x_lf[:, :kept] * curve(frame, filters)[:kept]
    # irfft fills the missing high bins with zeros.
    out_lt = transforms.irfft(cropped_lf, n_fft_out)
    first = frame.left * ratio.numerator // ratio.denominator
    # The copy lets go of the padding.
    return out_lt[:, first : first + n_out].copy()


@lru_cache(maxsize=64)
def _curve(frame: _Frame, filters: tuple[Settings, ...]) -> npt.NDArray[np.float32]:
    """Product of the filters' curves and of the change in level that the change of length brings."""
    fs_hz, ratio = frame.fs_hz, frame.ratio
    freqs_hz = np.arange(frame.n_bins) * (fs_hz / frame.n_fft)
    product = np.full(freqs_hz.shape, float(ratio))
    for filter_settings in filters:
        product *= _file_of(filter_settings).gain(freqs_hz, fs_hz, filter_settings)
    if ratio != 1 or filters:
        # Half the lower rate can't be told from its own alias: nothing at or above it is kept. Where filters act, a
        # record that has the store's rate already ends as the others do.
        half_hz = fs_hz * min(1.0, float(ratio)) / 2
        below = np.clip((half_hz - freqs_hz) / min(CUT_HZ, half_hz / 10), 0.0, 1.0)
        product *= np.sin(np.pi / 2 * below) ** 2
    curve = (product * _undone(frame, 0, frame.n_bins)).astype(np.float32)
    curve.setflags(write=False)
    return curve


def _band_power(spectrum: _Spectrum, frame: _Frame, bands_hz: Bands) -> npt.NDArray[np.float32]:
    """Mean power (leads, bands) in the square of the signal's unit; bands (low, high) in Hz."""
    n_bins = frame.n_bins
    power_lb = np.zeros((len(spectrum.x_lf), len(bands_hz)))
    for power_l, (low_hz, high_hz) in zip(power_lb.T, bands_hz, strict=True):
        low = max(1, _bin_at(low_hz, frame))
        high = min(n_bins, _bin_at(high_hz, frame)) if high_hz < frame.fs_hz else n_bins
        if low < high and low_hz <= 0:
            power_l[:] = _variance_within(spectrum, frame, high)
        elif low < high:
            power_l[:] = _sum_of_powers(spectrum, frame, low, high)
    return np.maximum(power_lb, 0.0).astype(np.float32)


def _variance_within(spectrum: _Spectrum, frame: _Frame, high: int) -> npt.NDArray[np.float64]:
    """Variance per lead, over the record alone, of what lies in the bins below ``high``.

    Reflection about an R peak lifts the padding by twice its height: over padding and all, that would be wander.
    """
    # Some points per period of the highest frequency are enough: the spectrum is cropped as for another rate.
    n_points = max(2 * high, min(8 * high, frame.n_fft))
    x_lf = spectrum.x_lf[:, :high] * _kept_undone(frame, 0, high)
    wander_lt = transforms.irfft(x_lf, n_points)
    at = np.arange(n_points) * (frame.n_fft / n_points) - frame.left
    within_lt = wander_lt[:, (at >= 0) & (at < frame.n_in)].astype(np.float64) * (n_points / frame.n_fft)
    return np.asarray(within_lt.var(axis=1)) if within_lt.shape[1] > 1 else np.zeros(len(within_lt))


def _sum_of_powers(spectrum: _Spectrum, frame: _Frame, low: int, high: int) -> npt.NDArray[np.float64]:
    """Parseval's sum of 2|X|²/n² per lead over the bins from ``low`` to below ``high``.

    The transform takes the signal for a circle. Where its ends don't meet, the jump is spread over all frequencies:
    a wander of 2 mV would look like 10 µV of noise. So X is that of the signal with its ends faded into each other,
    X + jump · U: |X|² + 2 jump Re(X U*) + jump² |U|², for which nothing need be copied.
    """
    # Real and imaginary parts side by side: sums of their products are what is wanted.
    parts_lf = (spectrum.x_lf[:, low:high] * _kept_undone(frame, low, high)).view(np.float32)
    fade_f = _fade(frame.n_fft, min(frame.left, math.ceil(frame.fs_hz)))
    jump_l = spectrum.jump_l.astype(np.float64)

    def squares(its_low: int) -> npt.NDArray[np.float64]:
        # In float64 no processor's order of summing shows in three digits.
        x_lf = parts_lf[:, 2 * (its_low - low) :].astype(np.float64)
        u_f = fade_f[2 * its_low : 2 * high].astype(np.float64)
        mixed_l = 2.0 * (x_lf @ u_f) + jump_l * (u_f @ u_f)
        return np.asarray(np.vecdot(x_lf, x_lf) + jump_l * mixed_l)

    total_l = squares(low)
    n_bins = frame.n_fft // 2 + 1
    if high == n_bins and frame.n_fft % 2 == 0:
        # The bin at half the rate has no twin of negative frequency.
        total_l -= 0.5 * squares(n_bins - 1)
    return total_l * (2.0 / frame.n_fft**2)


def _envelope(spectrum: _Spectrum, frame: _Frame, band_hz: tuple[float, float], missing_lt: Missing | None) -> Envelope:
    """The power of what a band holds, from moment to moment: half the squared size of its analytic signal.

    The band's gain is a squared sine from one end to the other, so that it doesn't ring on behind a QRS complex. Its
    bins alone, as if they began at 0 Hz, give the analytic signal at as many points (D. Gabor: Theory of communication.
    J. IEE 93, 1946).
    """
    band = _band(frame, band_hz)
    if not band.gain_f.size:
        return Envelope(np.empty((len(spectrum.x_lf), 0), dtype=np.float32), 0.0)
    shaped_lf = spectrum.x_lf[:, band.low : band.low + band.gain_f.size] * band.gain_f
    at_lp = transforms.ifft(shaped_lf, band.n_points)[:, band.within]
    power_mv2_lp = at_lp.real**2 + at_lp.imag**2
    if missing_lt is not None:
        # A point is missing where a sample within half a step of it is.
        count_lt = np.zeros((len(missing_lt), frame.n_in + 1), dtype=np.int64)
        np.cumsum(missing_lt, axis=1, out=count_lt[:, 1:])
        step = frame.n_fft / band.n_points
        at = np.arange(band.n_points)[band.within] * step - frame.left
        first = np.clip(np.ceil(at - step / 2), 0, frame.n_in - 1).astype(np.int64)
        last = np.clip(np.floor(at + step / 2) + 1, first + 1, frame.n_in).astype(np.int64)
        power_mv2_lp[count_lt[:, last] > count_lt[:, first]] = np.nan
    return Envelope(power_mv2_lp, band.width_hz)


class _Band(NamedTuple):
    """The bins of a band, from ``low`` on, and the points of its envelope: those ``within`` the record count."""

    low: int
    gain_f: npt.NDArray[np.float32]
    n_points: int
    within: slice
    width_hz: float


@lru_cache(maxsize=64)
def _band(frame: _Frame, band_hz: tuple[float, float]) -> _Band:
    low, high = _bin_at(band_hz[0], frame), min(_bin_at(band_hz[1], frame), frame.n_bins)
    bin_hz = frame.fs_hz / frame.n_fft
    share_f = (np.arange(low, high) * bin_hz - band_hz[0]) / (band_hz[1] - band_hz[0])
    gain_f = np.sin(np.pi * share_f) ** 2
    n_points = transforms.next_fast_len(max(1, high - low), real=False)
    step = frame.n_fft / n_points
    # In whole numbers, so that a point on the first sample is never lost to rounding.
    within = slice(*(-(-edge * n_points // frame.n_fft) for edge in (frame.left, frame.left + frame.n_in)))
    # As the change in length has it, and √2 because the bins of negative frequency are missing.
    scaled_f = (gain_f * (math.sqrt(2) / step) * _undone(frame, low, low + len(gain_f))).astype(np.float32)
    scaled_f.setflags(write=False)
    return _Band(low, scaled_f, n_points, within, float((gain_f**2).sum() * bin_hz))


def _bin_at(freq_hz: float, frame: _Frame) -> int:
    """The first bin at or above a frequency."""
    return math.ceil(freq_hz * frame.n_fft / frame.fs_hz - 1e-9)


@lru_cache(maxsize=64)
def _fade(n_fft: int, width: int) -> npt.NDArray[np.float32]:
    """What closes a jump of 1 from the end of a circle to its beginning: half of it on either side, as a cosine.

    Real and imaginary parts of its spectrum side by side.
    """
    half_t = 0.25 * (1.0 + np.cos(np.pi * (np.arange(width) + 0.5) / width))
    closing_t = np.zeros(n_fft)
    closing_t[:width] = -half_t
    closing_t[-width:] = half_t[::-1]
    fade_f: npt.NDArray[np.float32] = np.fft.rfft(closing_t).astype(np.complex64).view(np.float32)
    fade_f.setflags(write=False)
    return fade_f
