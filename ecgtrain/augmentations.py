"""Augmentations: batched, on the batch's device, in millivolts before any normalisation.

Each has frozen settings, which a recipe holds by ``name``, and a function; :func:`apply` finds the function by the
settings, :func:`chain` applies several in turn. Millivolts go in and come out: ``x_blt`` float32 (batch, leads,
samples) of mV, and ``recorded_blt``, bool. What was not recorded stays 0, and nothing is added to it. What an
augmentation takes away (time_out, lead_dropout) is from then on "not recorded", so that it is 0 after any
normalisation too.

Every random number is drawn by global sample number, so that it does not matter how a batch is divided among
ranks; nothing waits for the device, and no Python loop runs over windows. Times are in seconds or in shares of the
window, amplitudes in mV. docs/views.md shows all of them on a real record.

Sources. B: Mehari & Strodthoff, Comput. Biol. Med. 141:105114 (2022), by its method section and published code.
C: Liu et al., Appl. Soft Comput. 172:112871 (2025). Where B's code differs from its formula, the formula is the
default, and the code is an option.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor

from ecgstore import ConfigError, Settings, parse
from ecgtrain.views import Bounds, Draw, Millivolts, Shares, at_times

#: Recorded noise by kind: float32 (signals, samples) of unit RMS, at the store's rate, on the batch's device.
Banks = Mapping[str, Tensor]


class Base(Settings):
    """What all augmentations have: a name, and the share of windows that they are applied to."""

    name: str
    probability: float = Field(1.0, ge=0, le=1)


# --- other times ----------------------------------------------------------------------------------------------


class RandomResizedCrop(Base):
    """A crop, stretched at random over the window: cropping, slowing down and a local time warp in one.

    Source: B, augmentations of SimCLR, BYOL and SwAV; as its code does it.
    """

    name: Literal["random_resized_crop"] = "random_resized_crop"
    #: Length of the crop as a share of what comes out: uniform between these.
    share: Shares = (0.5, 1.0)
    #: Samples that come out; as many as come in by default. With fewer, the crop is cut from the whole window.
    n_samples: int | None = Field(None, ge=4)

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.n_samples is not None and self.probability < 1:
            raise ValueError("a window that is left as it is would have another length: leave out probability")
        return self


def random_resized_crop(
    mv: Millivolts, draw: Draw, sample_numbers_b: Tensor, settings: RandomResizedCrop, fs_hz: float
) -> Millivolts:
    """r ~ U(share): int(r T) samples in a row, at random places of T.

    The first and the last sample come to the ends, the others, in their order, to a random subset of the places
    between; what is in the gaps is interpolated linearly, all leads alike.
    """
    n_in = mv.x_blt.shape[2]
    n_out = settings.n_samples or n_in
    unit_b2 = draw.fork(0).uniform(sample_numbers_b, 2)
    n_kept_b1 = _whole(_between(unit_b2[:, :1], settings.share) * n_out).clamp(2, n_out)
    start_b1 = _whole(unit_b2[:, 1:] * (n_in - n_kept_b1 + 1))
    inner = draw.fork(1).subset(sample_numbers_b, n_out - 2, n_kept_b1 - 2)
    placed = torch.nn.functional.pad(inner, (1, 1), value=True)
    rank = placed.cumsum(dim=1) - 1
    time_t = torch.arange(n_out, device=inner.device)
    # Where each sample of the crop has come to. What holds none is written to a place that nobody reads.
    place = rank.new_zeros(len(rank), n_out + 1)
    place.scatter_(1, rank.masked_fill(~placed, n_out), time_t.expand_as(rank))
    before = place.gather(1, rank)
    after = place.gather(1, (rank + 1).clamp_max(n_out - 1).minimum(n_kept_b1 - 1))
    weight = (time_t - before).to(torch.float32) / (after - before).clamp_min(1)
    return at_times(mv, start_b1 + rank, weight)


class FourierCrop(Base):
    """A crop, stretched evenly to the whole window by a Fourier series.

    Source: C, augmentations.
    """

    name: Literal["fourier_crop"] = "fourier_crop"
    #: Length of the crop as a share of the window: uniform between these.
    share: Shares = (0.5, 1.0)


def fourier_crop(
    mv: Millivolts, draw: Draw, sample_numbers_b: Tensor, settings: FourierCrop, fs_hz: float
) -> Millivolts:
    """r ~ U(share): n = int(r T) samples in a row become T, as ``scipy.signal.resample`` does it.

    Each window has a Fourier transform of its own length n. Bluestein's way (IEEE Trans. AU-18:451, 1970) makes
    it a convolution, for which all windows have one length: mk = (m² + k² - (k - m)²) / 2.
    """
    n_samples = mv.x_blt.shape[2]
    unit_b2 = draw.uniform(sample_numbers_b, 2)
    n_b1 = _whole(_between(unit_b2[:, :1], settings.share) * n_samples).clamp_min(2)
    start_b1 = _whole(unit_b2[:, 1:] * (n_samples - n_b1 + 1))
    time_t = torch.arange(n_samples, device=n_b1.device)
    cut_b1t = (start_b1 + time_t).clamp_max(n_samples - 1)[:, None, :].expand_as(mv.x_blt)
    crop_blt = mv.x_blt.gather(2, cut_b1t).masked_fill_((time_t >= n_b1)[:, None, :], 0.0)

    # Whole turns are taken out while the numbers are whole: float32 holds the rest exactly enough.
    angle_bt = (time_t.square() % (2 * n_b1)).to(torch.float64) * (math.pi / n_b1)
    chirp_bt = torch.polar(torch.ones_like(angle_bt), angle_bt).to(torch.complex64)
    n_freqs = n_samples // 2 + 1
    n_fft = 1 << (n_samples + n_freqs - 1).bit_length()
    kernel = torch.nn.functional.pad(chirp_bt[:, :n_freqs], (0, n_fft - n_freqs))
    kernel[:, n_fft - n_samples + 1 :] = chirp_bt[:, 1:].flip(1)
    transform = torch.fft.fft(crop_blt * chirp_bt.conj()[:, None], n=n_fft) * torch.fft.fft(kernel)[:, None]
    spectrum_blf = torch.fft.ifft(transform)[..., :n_freqs] * chirp_bt.conj()[:, None, :n_freqs]

    freq_f = torch.arange(n_freqs, device=n_b1.device)
    # The highest frequency of an even n stands for two, of which a longer signal has each half.
    gain_bf = (2 * freq_f <= n_b1).to(torch.float32) * (1 - 0.5 * ((2 * freq_f == n_b1) & (n_b1 < n_samples)))
    gain_bf *= n_samples / n_b1.to(torch.float32)
    stretched_blt = torch.fft.irfft(spectrum_blf * gain_bf[:, None], n=n_samples)

    steps_bt = time_t * n_b1
    below_bt = steps_bt // n_samples
    above_bt = (below_bt + (steps_bt % n_samples > 0)).minimum(n_b1 - 1)
    both_bt = torch.stack([below_bt, above_bt]) + start_b1
    below_blt, above_blt = (mv.recorded_blt.gather(2, at_bt[:, None].expand_as(mv.x_blt)) for at_bt in both_bt)
    return _kept(stretched_blt, below_blt & above_blt)


class TimeWarp(Base):
    """Time runs at a changing speed: a random walk.

    Source: B, code; not among the augmentations of its published runs. Read as: the signal is looked up at the
    new times.
    """

    name: Literal["time_warp"] = "time_warp"
    #: Added to the walk's speed, which is at least 0, in its own steps: the larger, the milder the warp.
    epsilon: float = Field(10.0, gt=0)


def time_warp(mv: Millivolts, draw: Draw, sample_numbers_b: Tensor, settings: TimeWarp, fs_hz: float) -> Millivolts:
    """Speed = cumsum N(0, 1), less its minimum, plus epsilon; times = its cumsum, from 0 to T - 1."""
    n_samples = mv.x_blt.shape[2]
    walk_bt = draw.normal(sample_numbers_b, n_samples).to(torch.float64).cumsum(dim=1)
    speed_bt = walk_bt - walk_bt.amin(dim=1, keepdim=True) + settings.epsilon
    way_bt = speed_bt.cumsum(dim=1) - speed_bt[:, :1]
    times_bt = way_bt * ((n_samples - 1) / way_bt[:, -1:])
    below_bt = times_bt.floor().clamp_max(n_samples - 1)
    weight_bt = (times_bt - below_bt).masked_fill_(below_bt == n_samples - 1, 0.0)
    return at_times(mv, below_bt.to(torch.int64), weight_bt.to(torch.float32).clamp_max_(1 - 2.0**-24))


class DynamicTimeWarp(Base):
    """Some short stretches are squeezed, those beside them stretched.

    Source: B, code; not among the augmentations of its published runs. There the radius is 10 samples at 100 Hz.
    """

    name: Literal["dynamic_time_warp"] = "dynamic_time_warp"
    warps: int = Field(3, ge=1, le=100)
    #: Half the length that a stretch is squeezed to, in seconds; as long is each flank before it is stretched.
    radius_s: float = Field(0.1, gt=0)
    #: By how much it is squeezed, and its flanks stretched.
    step: int = Field(2, ge=2)


def dynamic_time_warp(
    mv: Millivolts, draw: Draw, sample_numbers_b: Tensor, settings: DynamicTimeWarp, fs_hz: float
) -> Millivolts:
    """``warps`` times: about a centre, ±(step x radius) comes into ±radius, both flanks fill what gets free."""
    n_samples = mv.x_blt.shape[2]
    radius = round(settings.radius_s * fs_hz)
    margin = (settings.step + 1) * radius
    # The published range of centres ends two samples before it must.
    centres = draw.integers(sample_numbers_b, settings.warps, n_samples - 2 * margin - 2).add_(margin)
    time_t = torch.arange(n_samples, device=centres.device)
    for warp in range(settings.warps):
        centre_b1 = centres[:, warp : warp + 1]
        away_bt = time_t - centre_b1
        far_bt = away_bt.abs()
        # In steps of 1 / step sample: ahead of the centre as far as behind it.
        flank_bt = (settings.step - 1) * margin + far_bt
        moved_bt = torch.where(far_bt <= radius, far_bt * settings.step**2, flank_bt)
        steps_bt = torch.where(far_bt >= margin, far_bt * settings.step, moved_bt) * away_bt.sign()
        below_bt = steps_bt.div(settings.step, rounding_mode="floor")
        weight_bt = (steps_bt - below_bt * settings.step).to(torch.float32) / settings.step
        mv = at_times(mv, centre_b1 + below_bt, weight_bt)
    return mv


class DownSample(Base):
    """Some samples are forgotten and interpolated from those beside them.

    Source: B, code; not among the augmentations of its published runs. Its tensor version takes a wrong number;
    this is the number that was meant.
    """

    name: Literal["down_sample"] = "down_sample"
    #: Share of the samples that are forgotten; the first and the last never are.
    share: float = Field(0.2, ge=0, le=1)


def down_sample(mv: Millivolts, draw: Draw, sample_numbers_b: Tensor, settings: DownSample, fs_hz: float) -> Millivolts:
    """int(share x T) samples, drawn without replacement, become what linear interpolation makes of the others."""
    x_blt, recorded_blt = mv
    n_samples = x_blt.shape[2]
    n_kept = max(0, n_samples - 2 - int(settings.share * n_samples))
    sizes_b1 = torch.full_like(sample_numbers_b, n_kept)[:, None]
    inner = draw.subset(sample_numbers_b, n_samples - 2, sizes_b1)
    kept_bt = torch.nn.functional.pad(inner, (1, 1), value=True)
    time_t = torch.arange(n_samples, device=kept_bt.device).expand_as(kept_bt)
    before_bt = time_t.masked_fill(~kept_bt, 0).cummax(dim=1).values
    after_bt = time_t.masked_fill(~kept_bt, n_samples - 1).flip(1).cummin(dim=1).values.flip(1)
    weight_b1t = ((time_t - before_bt).to(torch.float32) / (after_bt - before_bt).clamp_min(1))[:, None]
    index_before, index_after = before_bt[:, None].expand_as(x_blt), after_bt[:, None].expand_as(x_blt)
    earlier_blt = x_blt.gather(2, index_before)
    between_blt = (x_blt.gather(2, index_after) - earlier_blt).mul_(weight_b1t).add_(earlier_blt)
    both_blt = recorded_blt.gather(2, index_before) & recorded_blt.gather(2, index_after)
    return _kept(between_blt, both_blt)


class Permutation(Base):
    """The window is divided into segments, which change places.

    Source: Um et al., Proc. ICMI 2017, 216-220, with segments of equal length; for ECGs Sarkar & Etemad, IEEE
    Trans. Affect. Comput. 13(3):1541 (2022).
    """

    name: Literal["permutation"] = "permutation"
    n_segments: int = Field(4, ge=2)


def permutation(
    mv: Millivolts, draw: Draw, sample_numbers_b: Tensor, settings: Permutation, fs_hz: float
) -> Millivolts:
    """Segment i is [floor(i T / n), floor((i + 1) T / n)); all orders of the n segments are alike."""
    n_samples, n = mv.x_blt.shape[2], settings.n_segments
    order_bs = draw.words(sample_numbers_b, n).argsort(dim=1, stable=True)
    bounds_s = torch.arange(n + 1, device=order_bs.device) * n_samples // n
    length_bs = (bounds_s[1:] - bounds_s[:-1])[order_bs]
    end_bs = length_bs.cumsum(dim=1)
    time_t = torch.arange(n_samples, device=order_bs.device)
    segment_bt = (time_t[None, :, None] >= end_bs[:, None, :]).sum(dim=2)
    shift_bs = bounds_s[:-1][order_bs] - (end_bs - length_bs)
    source_blt = (time_t + shift_bs.gather(1, segment_bt))[:, None].expand_as(mv.x_blt)
    return Millivolts(mv.x_blt.gather(2, source_blt), mv.recorded_blt.gather(2, source_blt))


class TimeReversal(Base):
    """The window runs backwards. Source: Zhang, Geng & Hong, arXiv 2202.12458 (2022), temporal flip."""

    name: Literal["time_reversal"] = "time_reversal"


def time_reversal(
    mv: Millivolts, draw: Draw, sample_numbers_b: Tensor, settings: TimeReversal, fs_hz: float
) -> Millivolts:
    """x[t] becomes x[T - 1 - t]."""
    return Millivolts(mv.x_blt.flip(2), mv.recorded_blt.flip(2))


# --- something is taken away ----------------------------------------------------------------------------------


class TimeOut(Base):
    """A stretch of time is silenced on all leads.

    Source: B, augmentations of SimCLR, BYOL and SwAV: share 0.2 to 0.4. C has 0 to 0.5.
    """

    name: Literal["time_out"] = "time_out"
    #: Length of the stretch as a share of the window: uniform between these.
    share: Shares = (0.2, 0.4)


def time_out(mv: Millivolts, draw: Draw, sample_numbers_b: Tensor, settings: TimeOut, fs_hz: float) -> Millivolts:
    """r ~ U(share): int(r T) samples in a row, anywhere in the window, become 0 and count as not recorded."""
    n_samples = mv.x_blt.shape[2]
    unit_b2 = draw.uniform(sample_numbers_b, 2)
    n_b1 = _whole(_between(unit_b2[:, :1], settings.share) * n_samples)
    start_b1 = _whole(unit_b2[:, 1:] * (n_samples - n_b1 + 1))
    time_t = torch.arange(n_samples, device=n_b1.device)
    left_b1t = ((time_t < start_b1) | (time_t >= start_b1 + n_b1))[:, None]
    return Millivolts(mv.x_blt * left_b1t, mv.recorded_blt & left_b1t)


class LeadDropout(Base):
    """Some leads are taken away.

    Source: Oh, Chung, Kwon, Hong & Choi, Proc. CHIL 2022 (PMLR 174:338-353), random lead masking.
    """

    name: Literal["lead_dropout"] = "lead_dropout"
    #: Probability for each lead. One that was recorded always stays.
    share: float = Field(0.5, ge=0, le=1)


def lead_dropout(
    mv: Millivolts, draw: Draw, sample_numbers_b: Tensor, settings: LeadDropout, fs_hz: float
) -> Millivolts:
    """A lead with u < share, u ~ U(0, 1), becomes 0 and counts as not recorded, unless its u is the largest."""
    unit_bl = draw.uniform(sample_numbers_b, mv.x_blt.shape[1])
    unit_bl = unit_bl.masked_fill(~mv.recorded_blt.any(dim=2), -1.0)
    left_bl1 = ((unit_bl >= settings.share) | (unit_bl == unit_bl.amax(dim=1, keepdim=True)))[..., None]
    return Millivolts(mv.x_blt * left_bl1, mv.recorded_blt & left_bl1)


# --- other amplitudes -----------------------------------------------------------------------------------------


class GaussianBlur(Base):
    """Source: B, code (convolution with 0.1, 0.2, 0.4, 0.2, 0.1, in samples); not in its published runs."""

    name: Literal["gaussian_blur"] = "gaussian_blur"


def gaussian_blur(
    mv: Millivolts, draw: Draw, sample_numbers_b: Tensor, settings: GaussianBlur, fs_hz: float
) -> Millivolts:
    """0.4 x[t] + 0.2 (x[t - 1] + x[t + 1]) + 0.1 (x[t - 2] + x[t + 2]), with 0 beyond the ends."""
    wide_blt = torch.nn.functional.pad(mv.x_blt, (2, 2))
    n = mv.x_blt.shape[2]
    blurred_blt = mv.x_blt * 0.4
    for weight, near in ((0.2, 1), (0.1, 2)):
        pair_blt = wide_blt[..., 2 - near : 2 - near + n] + wide_blt[..., 2 + near : 2 + near + n]
        blurred_blt.add_(pair_blt.mul_(weight))
    return _kept(blurred_blt, mv.recorded_blt)


class LeadScaling(Base):
    """Each lead gets a gain of its own. Source: B, code (there ChannelResize); not in its published runs."""

    name: Literal["lead_scaling"] = "lead_scaling"
    #: The gain: log-uniform between these.
    gain: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.5, 2.0)

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.gain[0] > self.gain[1]:
            raise ValueError("the lower gain must not be above the upper one")
        return self


def lead_scaling(
    mv: Millivolts, draw: Draw, sample_numbers_b: Tensor, settings: LeadScaling, fs_hz: float
) -> Millivolts:
    """exp(U(ln a, ln b)) for each lead."""
    low, high = (math.log(gain) for gain in settings.gain)
    gain_bl1 = draw.uniform(sample_numbers_b, mv.x_blt.shape[1], low, high).exp_()[..., None]
    return Millivolts(mv.x_blt * gain_bl1, mv.recorded_blt)


class Negation(Base):
    """The signal upside down. Source: B, code; also the spatial flip of Zhang, Geng & Hong, arXiv 2202.12458."""

    name: Literal["negation"] = "negation"


def negation(mv: Millivolts, draw: Draw, sample_numbers_b: Tensor, settings: Negation, fs_hz: float) -> Millivolts:
    """x becomes -x."""
    return Millivolts(-mv.x_blt, mv.recorded_blt)


# --- noise, in mV ---------------------------------------------------------------------------------------------


class GaussianNoise(Base):
    """White noise of a fixed strength. Source: B, code: 0.005 mV by its script, 0.01 by its class."""

    name: Literal["gaussian_noise"] = "gaussian_noise"
    sigma_mv: float = Field(0.005, ge=0)


def gaussian_noise(
    mv: Millivolts, draw: Draw, sample_numbers_b: Tensor, settings: GaussianNoise, fs_hz: float
) -> Millivolts:
    """sigma x N(0, 1), independent for each sample and lead."""
    return _added(mv, _white(mv.x_blt, draw, sample_numbers_b).mul_(settings.sigma_mv))


WANDER_TONES, WANDER_STEP_HZ = 50, 0.01


class BaselineWander(Base):
    """Slow drift, up to 0.5 Hz, as of breathing.

    Source: B, noise generators. Its tensor code has ``first_tone: 0`` (k = 0 … 49: an offset too, and nothing at
    0.5 Hz) and ``lead_gain: common``; the reference beside it in NumPy has what is the default here.
    """

    name: Literal["baseline_wander"] = "baseline_wander"
    #: Largest amplitude C in mV; each window draws C ~ U(0, max_mv).
    max_mv: float = Field(0.1, ge=0)
    #: ``random``: a gain ± N(1, 1) for each lead. ``common``: the same trace on all leads.
    lead_gain: Literal["random", "common"] = "random"
    first_tone: Literal[0, 1] = 1


def baseline_wander(
    mv: Millivolts, draw: Draw, sample_numbers_b: Tensor, settings: BaselineWander, fs_hz: float
) -> Millivolts:
    """C Σ_k a_k cos(2πk Δf t + φ_k), k = 1 … 50, Δf = 0.01 Hz, a_k ~ U(0, 1), φ_k ~ U(0, 2π)."""
    n_samples = mv.x_blt.shape[2]
    c_b1 = draw.fork(0).uniform(sample_numbers_b, 1, 0.0, settings.max_mv)
    amplitude_bk = draw.fork(1).uniform(sample_numbers_b, WANDER_TONES) * c_b1
    phase_bk = draw.fork(2).uniform(sample_numbers_b, WANDER_TONES, 0.0, math.tau)
    in_phase_bk, across_bk = amplitude_bk * phase_bk.cos(), amplitude_bk * phase_bk.sin()
    tone_k = torch.arange(settings.first_tone, settings.first_tone + WANDER_TONES, device=c_b1.device)
    cos_kt, sin_kt = _tones(tone_k, WANDER_STEP_HZ, n_samples, fs_hz)
    # Tone by tone: how a product of matrices adds up depends on how many windows there are.
    trace_bt = torch.zeros_like(c_b1).expand(-1, n_samples).clone()
    for k in range(WANDER_TONES):
        trace_bt.add_(in_phase_bk[:, k : k + 1] * cos_kt[k]).sub_(across_bk[:, k : k + 1] * sin_kt[k])
    if settings.lead_gain == "common":
        return _added(mv, trace_bt[:, None])
    return _added(mv, trace_bt[:, None] * _gains(draw.fork(3), sample_numbers_b, mv.x_blt.shape[1]))


HARMONICS = 3


class Powerline(Base):
    """Mains hum with harmonics.

    Source: B, noise generators. Its code multiplies by C twice (``squared``), and lets harmonics above half the
    rate fold down (``aliased``): at 100 Hz an alternation of neighbouring samples and an offset, no hum.
    """

    name: Literal["powerline"] = "powerline"
    #: Largest amplitude C in mV; each window draws C ~ U(0, max_mv).
    max_mv: float = Field(0.2, ge=0)
    mains_hz: float = Field(50.0, gt=0)
    squared: bool = False
    aliased: bool = False


def powerline(mv: Millivolts, draw: Draw, sample_numbers_b: Tensor, settings: Powerline, fs_hz: float) -> Millivolts:
    """C Σ_k a_k cos(2πk f t + φ), k = 1 … 3, a_k ~ U(0, 1), one φ ~ U(0, 2π); a gain U(-1, 1) for each lead.

    Harmonics at or above half the rate are left out.
    """
    n_leads, n_samples = mv.x_blt.shape[1:]
    c_b1 = draw.fork(0).uniform(sample_numbers_b, 1, 0.0, settings.max_mv)
    c_b1 = c_b1 * c_b1 if settings.squared else c_b1
    amplitude_bk = draw.fork(1).uniform(sample_numbers_b, HARMONICS) * c_b1
    phase_b1 = draw.fork(2).uniform(sample_numbers_b, 1, 0.0, math.tau)
    cos_kt, sin_kt = _tones(torch.arange(1, HARMONICS + 1, device=c_b1.device), settings.mains_hz, n_samples, fs_hz)
    trace_bt = torch.zeros_like(c_b1).expand(-1, n_samples).clone()
    for k in range(HARMONICS):
        if settings.aliased or (k + 1) * settings.mains_hz < fs_hz / 2:
            tone_bt = cos_kt[k] * phase_b1.cos() - sin_kt[k] * phase_b1.sin()
            trace_bt.add_(tone_bt.mul_(amplitude_bk[:, k : k + 1]))
    gain_bl1 = draw.fork(3).uniform(sample_numbers_b, n_leads, -1.0, 1.0)[..., None]
    return _added(mv, trace_bt[:, None] * gain_bl1)


class Muscle(Base):
    """Muscle noise: white. Source: B, noise generators (there EM noise)."""

    name: Literal["muscle"] = "muscle"
    #: Largest standard deviation C in mV; each window draws C ~ U(0, max_mv), the same for all leads.
    max_mv: float = Field(0.5, ge=0)


def muscle(mv: Millivolts, draw: Draw, sample_numbers_b: Tensor, settings: Muscle, fs_hz: float) -> Millivolts:
    """N(0, C²), independent for each sample and lead."""
    c_b11 = draw.fork(0).uniform(sample_numbers_b, 1, 0.0, settings.max_mv)[..., None]
    return _added(mv, _white(mv.x_blt, draw.fork(1), sample_numbers_b).mul_(c_b11))


SHIFTS_PER_S, SHIFT_S, SHIFT_SPREAD_S = 0.3, 3.0, 0.6


class BaselineShift(Base):
    """Stretches in which the baseline stands elsewhere. Source: B, noise generators."""

    name: Literal["baseline_shift"] = "baseline_shift"
    #: Largest amplitude C in mV; each window draws C ~ U(0, max_mv).
    max_mv: float = Field(1.0, ge=0)


def baseline_shift(
    mv: Millivolts, draw: Draw, sample_numbers_b: Tensor, settings: BaselineShift, fs_hz: float
) -> Millivolts:
    """0 … M stretches at C a, a ~ U(-1, 1), the later overwriting; M = 0.3 per second, rounded.

    Centre uniform, length ~ N(3 s, 0.6 s), cut off at the ends; a gain ± N(1, 1) for each lead. A window shorter
    than 1.7 s has none.
    """
    n_leads, n_samples = mv.x_blt.shape[1:]
    most = round(SHIFTS_PER_S * n_samples / fs_hz)
    c_b1 = draw.fork(0).uniform(sample_numbers_b, 1, 0.0, settings.max_mv)
    number_b1 = draw.fork(1).integers(sample_numbers_b, 1, most + 1)
    centre_bm = draw.fork(2).uniform(sample_numbers_b, most, 0.0, float(n_samples))
    half_bm = draw.fork(3).normal(sample_numbers_b, most).mul_(SHIFT_SPREAD_S).add_(SHIFT_S).mul_(fs_hz / 2)
    level_bm = draw.fork(4).uniform(sample_numbers_b, most, -1.0, 1.0) * c_b1
    begin_bm, end_bm = (centre_bm - half_bm).floor(), (centre_bm + half_bm).ceil()
    time_t = torch.arange(n_samples, device=c_b1.device)
    trace_bt = torch.zeros_like(c_b1).expand(-1, n_samples)
    for m in range(most):
        one = slice(m, m + 1)
        inside_bt = (time_t >= begin_bm[:, one]) & (time_t < end_bm[:, one]) & (number_b1 > m)
        trace_bt = torch.where(inside_bt, level_bm[:, one], trace_bt)
    return _added(mv, trace_bt[:, None] * _gains(draw.fork(5), sample_numbers_b, n_leads))


RecordedKind = Literal["nstdb-bw", "nstdb-ma", "nstdb-em"]


class RecordedNoise(Base):
    """Cuts from recorded noise. Exactly one of ``rms_mv`` and ``snr_db``.

    Source of the recordings: Moody, Muldrow & Mark, Comput. Cardiol. 11:381-384 (1984): drift, muscle noise and
    electrode motion.
    """

    name: Literal["recorded_noise"] = "recorded_noise"
    kind: RecordedKind = "nstdb-ma"
    #: RMS of the recording in mV: uniform between these, drawn for each window.
    rms_mv: Bounds | None = None
    #: 10 log10 of the powers' ratio: uniform between these, drawn for each window. Powers are mean squares over
    #: all recorded samples of all leads; the signal's about each lead's mean.
    snr_db: Bounds | None = None

    @model_validator(mode="after")
    def _one_strength(self) -> Self:
        if (self.rms_mv is None) == (self.snr_db is None):
            raise ValueError("say how strong the noise is: by rms_mv or by snr_db, not by both")
        return self


def recorded_noise(
    mv: Millivolts, draw: Draw, sample_numbers_b: Tensor, settings: RecordedNoise, fs_hz: float, bank_st: Tensor
) -> Millivolts:
    """cos θ of the recording's first signal and sin θ of its last, θ ~ U(0, 2π) for each lead, centred.

    Where it is cut is drawn for each lead, but for drift once for all: breathing moves all electrodes together.
    A window longer than the recording goes back and forth through it.
    """
    n_leads, n_samples = mv.x_blt.shape[1:]
    angle_bl1 = draw.fork(0).uniform(sample_numbers_b, n_leads, 0.0, math.tau)[..., None]
    n_cuts = 1 if settings.kind == "nstdb-bw" else n_leads
    where_bc = draw.fork(1).uniform(sample_numbers_b, n_cuts)
    at_bct = _cuts(where_bc, n_samples, bank_st.shape[1])
    noise_blt = bank_st[0][at_bct] * angle_bl1.cos() + bank_st[-1][at_bct] * angle_bl1.sin()
    noise_blt = noise_blt - noise_blt.mean(dim=2, keepdim=True)
    if settings.rms_mv is not None:
        gain_b1 = _between(draw.fork(2).uniform(sample_numbers_b, 1), settings.rms_mv)
    else:
        assert settings.snr_db is not None
        asked_b1 = _between(draw.fork(2).uniform(sample_numbers_b, 1), settings.snr_db)
        signal_b1, noise_b1 = _power(mv, centre=True), _power(Millivolts(noise_blt, mv.recorded_blt), centre=False)
        ratio_b1 = signal_b1 / noise_b1.clamp_min(1e-30) * (noise_b1 > 0)
        gain_b1 = (ratio_b1 * torch.exp(asked_b1 * (-math.log(10) / 10))).sqrt_()
    return _added(mv, noise_blt * gain_b1[..., None])


def _cuts(where_bc: Tensor, n_samples: int, n_recorded: int) -> Tensor:
    """Samples of the recording, int64 (batch, cuts, samples); ``where_bc`` in [0, 1) says where each cut begins."""
    time_t = torch.arange(n_samples, device=where_bc.device)
    # Recordings have more samples than float32 tells apart.
    where_bc1 = where_bc.to(torch.float64)[..., None]
    if n_samples <= n_recorded:
        return _whole(where_bc1 * (n_recorded - n_samples + 1)) + time_t
    there_and_back = max(1, 2 * n_recorded - 2)
    at_bct = (_whole(where_bc1 * there_and_back) + time_t) % there_and_back
    return torch.where(at_bct < n_recorded, at_bct, there_and_back - at_bct)


def _power(mv: Millivolts, *, centre: bool) -> Tensor:
    """Mean square over all recorded samples of all leads, (batch, 1); 0 where nothing was recorded."""
    n_bl = mv.recorded_blt.sum(dim=2)
    # In one layout, because the order in which a sum is taken follows it.
    x_blt = mv.x_blt.masked_fill(~mv.recorded_blt, 0.0).contiguous()
    squares_bl = x_blt.square().sum(dim=2)
    if centre:
        squares_bl = squares_bl - x_blt.sum(dim=2).square() / n_bl.clamp_min(1)
    return squares_bl.clamp_min_(0.0).sum(dim=1, keepdim=True) / n_bl.sum(dim=1, keepdim=True).clamp_min(1)


# --- what they share ------------------------------------------------------------------------------------------


def _whole(x: Tensor) -> Tensor:
    """The whole part of what is not negative."""
    return x.to(torch.int64)


def _between(unit: Tensor, bounds: tuple[float, float]) -> Tensor:
    return unit * (bounds[1] - bounds[0]) + bounds[0]


def _white(x_blt: Tensor, draw: Draw, sample_numbers_b: Tensor) -> Tensor:
    n_leads, n_samples = x_blt.shape[1:]
    return draw.normal(sample_numbers_b, n_leads * n_samples).view(x_blt.shape)


def _gains(draw: Draw, sample_numbers_b: Tensor, n_leads: int) -> Tensor:
    """± N(1, 1) for each lead, (batch, leads, 1)."""
    negative_bl = draw.fork(0).uniform(sample_numbers_b, n_leads) < 0.5
    gain_bl = draw.fork(1).normal(sample_numbers_b, n_leads).add_(1.0)
    return torch.where(negative_bl, -gain_bl, gain_bl)[..., None]


def _tones(tone_k: Tensor, step_hz: float, n_samples: int, fs_hz: float) -> tuple[Tensor, Tensor]:
    """cos and sin of 2πk Δf t, float32 (tones, samples)."""
    time_t = torch.arange(n_samples, device=tone_k.device, dtype=torch.float64)
    angle_kt = (tone_k[:, None] * (math.tau * step_hz / fs_hz)) * time_t
    return angle_kt.cos().to(torch.float32), angle_kt.sin().to(torch.float32)


def _added(mv: Millivolts, noise_blt: Tensor) -> Millivolts:
    return _kept(mv.x_blt + noise_blt, mv.recorded_blt)


def _kept(x_blt: Tensor, recorded_blt: Tensor) -> Millivolts:
    return Millivolts(x_blt.masked_fill_(~recorded_blt, 0.0), recorded_blt)


# --- one after the other --------------------------------------------------------------------------------------

#: All but recorded noise, which takes its recording too.
_FUNCTIONS: Mapping[type[Base], Callable[[Millivolts, Draw, Tensor, Any, float], Millivolts]] = {
    RandomResizedCrop: random_resized_crop,
    FourierCrop: fourier_crop,
    TimeWarp: time_warp,
    DynamicTimeWarp: dynamic_time_warp,
    DownSample: down_sample,
    Permutation: permutation,
    TimeReversal: time_reversal,
    TimeOut: time_out,
    LeadDropout: lead_dropout,
    GaussianBlur: gaussian_blur,
    LeadScaling: lead_scaling,
    Negation: negation,
    GaussianNoise: gaussian_noise,
    BaselineWander: baseline_wander,
    Powerline: powerline,
    Muscle: muscle,
    BaselineShift: baseline_shift,
}
_WITH_RECORDING: tuple[type[Base], ...] = (RecordedNoise,)

#: Settings of every augmentation, by name.
AUGMENTATIONS: Mapping[str, type[Base]] = {
    str(kind.model_fields["name"].default): kind for kind in (*_FUNCTIONS, *_WITH_RECORDING)
}


def _by_name(content: Any) -> Any:
    """Parse by the settings that are named, so that an error is about these alone."""
    if isinstance(content, Base):
        return content
    if isinstance(content, str):
        content = {"name": content}
    if not isinstance(content, Mapping) or "name" not in content:
        raise ConfigError("an augmentation must be a name, or a mapping with a name", got=repr(content))
    name = str(content["name"])
    if name not in AUGMENTATIONS:
        near = difflib.get_close_matches(name, AUGMENTATIONS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(AUGMENTATIONS)}"
        raise ConfigError(f"unknown augmentation {name}", fix=hint)
    return parse(AUGMENTATIONS[name], content)


#: What a recipe holds: a name, or a mapping with a name and settings.
Augmentation = Annotated[
    RandomResizedCrop
    | FourierCrop
    | TimeWarp
    | DynamicTimeWarp
    | DownSample
    | Permutation
    | TimeReversal
    | TimeOut
    | LeadDropout
    | GaussianBlur
    | LeadScaling
    | Negation
    | GaussianNoise
    | BaselineWander
    | Powerline
    | Muscle
    | BaselineShift
    | RecordedNoise,
    Field(discriminator="name"),
    BeforeValidator(_by_name),
]

#: B's views for SimCLR, BYOL and SwAV.
CROP_AND_TIME_OUT: tuple[Augmentation, ...] = (RandomResizedCrop(), TimeOut())
#: C's views.
FOURIER_CROP_AND_TIME_OUT: tuple[Augmentation, ...] = (FourierCrop(), TimeOut(share=(0.0, 0.5)))
#: B's physiological noise, in its order and strength; powerline needs a rate above 100 Hz.
PHYSIOLOGICAL: tuple[Augmentation, ...] = (BaselineWander(), Powerline(), Muscle(), BaselineShift())
#: The same as B's code does it.
PHYSIOLOGICAL_AS_PUBLISHED: tuple[Augmentation, ...] = (
    BaselineWander(lead_gain="common", first_tone=0),
    Powerline(squared=True, aliased=True),
    Muscle(),
    BaselineShift(),
)


def check(settings: Sequence[Augmentation], n_samples: int, fs_hz: float, banks: Banks | None = None) -> int:
    """Refuse what can't be done to windows of ``n_samples``; return how many samples come out at the end.

    Raises ConfigError: a window too short, mains at or above half the rate, recorded noise without its recording.
    """
    for one in settings:
        n_samples = _check(one, n_samples, fs_hz, banks)
    return n_samples


def _check(settings: Augmentation, n_samples: int, fs_hz: float, banks: Banks | None) -> int:
    needed, out = 1, n_samples
    if isinstance(settings, RandomResizedCrop):
        needed, out = settings.n_samples or 4, settings.n_samples or n_samples
    elif isinstance(settings, DynamicTimeWarp):
        if round(settings.radius_s * fs_hz) < 1:
            raise ConfigError(
                "dynamic_time_warp: radius_s is less than one sample",
                expected=f"at least {1 / fs_hz:g} s",
                got=f"{settings.radius_s:g} s",
            )
        needed = 2 * (settings.step + 1) * round(settings.radius_s * fs_hz) + 3
    elif isinstance(settings, FourierCrop | TimeWarp | DownSample):
        needed = 4
    elif isinstance(settings, Permutation):
        needed = settings.n_segments
    elif isinstance(settings, Powerline) and not settings.aliased and settings.mains_hz >= fs_hz / 2:
        raise ConfigError(
            f"powerline: windows of {fs_hz:g} Hz hold nothing at {settings.mains_hz:g} Hz",
            expected=f"more than {2 * settings.mains_hz:g} Hz",
            fix="leave powerline out, or set aliased: true for what the published code does there",
        )
    elif isinstance(settings, RecordedNoise) and settings.kind not in (banks or {}):
        raise ConfigError(
            f"recorded_noise: there is no recording {settings.kind}",
            expected=f"one of {', '.join(banks)}" if banks else None,
            fix="get the recordings with `ecgstore fetch nstdb DEST` and hand them over as banks",
        )
    if n_samples < needed:
        raise ConfigError(f"the window is too short for {settings.name}", expected=f"{needed} samples", got=n_samples)
    return out


#: Whether an augmentation is applied at all must not be tied to what it draws.
_WHETHER, _WHAT = 0, 1


def apply(
    x_blt: Tensor,
    recorded_blt: Tensor,
    draw: Draw,
    sample_numbers_b: Tensor,
    settings: Augmentation,
    fs_hz: float,
    banks: Banks | None = None,
) -> Millivolts:
    """One augmentation of a batch: ``x_blt`` float32 mV (batch, leads, samples), 0 where not ``recorded_blt``.

    ``sample_numbers_b`` int64 are the global sample numbers that everything is drawn by. What comes in is left as
    it is. Raises ConfigError as :func:`check` does.
    """
    _check(settings, x_blt.shape[2], fs_hz, banks)
    before = Millivolts(x_blt, recorded_blt)
    if isinstance(settings, RecordedNoise):
        assert banks is not None
        bank_st = banks[settings.kind]
        after = recorded_noise(before, draw.fork(_WHAT), sample_numbers_b, settings, fs_hz, bank_st)
    else:
        after = _FUNCTIONS[type(settings)](before, draw.fork(_WHAT), sample_numbers_b, settings, fs_hz)
    if settings.probability == 1:
        return after
    applied_b11 = (draw.fork(_WHETHER).uniform(sample_numbers_b, 1) < settings.probability)[..., None]
    return Millivolts(
        torch.where(applied_b11, after.x_blt, x_blt), torch.where(applied_b11, after.recorded_blt, recorded_blt)
    )


def chain(
    x_blt: Tensor,
    recorded_blt: Tensor,
    draw: Draw,
    sample_numbers_b: Tensor,
    settings: Sequence[Augmentation],
    fs_hz: float,
    banks: Banks | None = None,
) -> Millivolts:
    """One augmentation after the other, as :func:`apply` does each; each has draws of its own."""
    mv = Millivolts(x_blt, recorded_blt)
    for place, one in enumerate(settings):
        mv = apply(*mv, draw.fork(place), sample_numbers_b, one, fs_hz, banks)
    return mv
