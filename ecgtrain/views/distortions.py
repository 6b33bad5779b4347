"""Augmentations that move, stretch, hide or scale what was recorded."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ecgtrain.views.base import Base, between, keep_recorded, whole_part
from ecgtrain.views.draw import Draw
from ecgtrain.views.normalise import Millivolts, Shares, at_times


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
    n_kept_b1 = whole_part(between(unit_b2[:, :1], settings.share) * n_out).clamp(2, n_out)
    start_b1 = whole_part(unit_b2[:, 1:] * (n_in - n_kept_b1 + 1))
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
    n_b1 = whole_part(between(unit_b2[:, :1], settings.share) * n_samples).clamp_min(2)
    start_b1 = whole_part(unit_b2[:, 1:] * (n_samples - n_b1 + 1))
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
    return keep_recorded(stretched_blt, below_blt & above_blt)


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
    #: So many stretches.
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
    return keep_recorded(between_blt, both_blt)


class Permutation(Base):
    """The window is divided into segments, which change places.

    Source: Um et al., Proc. ICMI 2017, 216-220, with segments of equal length; for ECGs Sarkar & Etemad, IEEE
    Trans. Affect. Comput. 13(3):1541 (2022).
    """

    name: Literal["permutation"] = "permutation"
    #: So many segments of equal length.
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
    n_b1 = whole_part(between(unit_b2[:, :1], settings.share) * n_samples)
    start_b1 = whole_part(unit_b2[:, 1:] * (n_samples - n_b1 + 1))
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
    return keep_recorded(blurred_blt, mv.recorded_blt)


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
