"""Augmentations that add noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ecgtrain.views.base import Base, between, keep_recorded, whole_part
from ecgtrain.views.draw import Draw
from ecgtrain.views.normalise import Bounds, Millivolts

#: Recorded noise by kind: float32 (signals, samples) of unit RMS, at the store's rate, on the batch's device.
Banks = Mapping[str, Tensor]

WANDER_TONES, WANDER_STEP_HZ = 50, 0.01
SHIFTS_PER_S, SHIFT_S, SHIFT_SPREAD_S = 0.3, 3.0, 0.6


class GaussianNoise(Base):
    """White noise of a fixed strength. Source: B, code: 0.005 mV by its script, 0.01 by its class."""

    name: Literal["gaussian_noise"] = "gaussian_noise"
    #: Standard deviation in mV.
    sigma_mv: float = Field(0.005, ge=0)


def gaussian_noise(
    mv: Millivolts, draw: Draw, sample_numbers_b: Tensor, settings: GaussianNoise, fs_hz: float
) -> Millivolts:
    """sigma x N(0, 1), independent for each sample and lead."""
    return _added(mv, _white(mv.x_blt, draw, sample_numbers_b).mul_(settings.sigma_mv))


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
    #: Frequency of the mains.
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
        gain_b1 = between(draw.fork(2).uniform(sample_numbers_b, 1), settings.rms_mv)
    else:
        assert settings.snr_db is not None
        asked_b1 = between(draw.fork(2).uniform(sample_numbers_b, 1), settings.snr_db)
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
        return whole_part(where_bc1 * (n_recorded - n_samples + 1)) + time_t
    there_and_back = max(1, 2 * n_recorded - 2)
    at_bct = (whole_part(where_bc1 * there_and_back) + time_t) % there_and_back
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
    return keep_recorded(mv.x_blt + noise_blt, mv.recorded_blt)
