"""Each augmentation against a slow reading of its formula in NumPy, one record at a time."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.signal
import torch

from ecgstore import ConfigError, Settings, open_store, override
from ecgstore.inner import parse
from ecgtrain.views import augmentations
from ecgtrain.views.augmentations import AUGMENTATIONS, Augmentation, apply, chain, check
from ecgtrain.views.distortions import (
    DownSample,
    DynamicTimeWarp,
    FourierCrop,
    GaussianBlur,
    LeadDropout,
    LeadScaling,
    Negation,
    Permutation,
    RandomResizedCrop,
    TimeOut,
    TimeReversal,
    TimeWarp,
)
from ecgtrain.views.draw import Draw
from ecgtrain.views.noise import BaselineShift, BaselineWander, GaussianNoise, Muscle, Powerline, RecordedNoise
from ecgtrain.views.normalise import Millivolts, to_mv

FS_HZ, N_LEADS, N_SAMPLES = 250.0, 12, 501
DRAW = Draw(7, stream=3)
NUMBERS = torch.tensor([3, 900, 2**40, 17, 18, 19, 20])

EVERY: tuple[Augmentation, ...] = (
    RandomResizedCrop(),
    RandomResizedCrop(share=(0.2, 1.0), n_samples=301),
    FourierCrop(),
    TimeWarp(),
    DynamicTimeWarp(),
    DynamicTimeWarp(warps=1, radius_s=0.048, step=3),
    DownSample(),
    DownSample(share=0.0),
    Permutation(),
    TimeReversal(),
    TimeOut(),
    LeadDropout(),
    GaussianBlur(),
    LeadScaling(),
    Negation(),
    GaussianNoise(),
    BaselineWander(),
    BaselineWander(first_tone=0, lead_gain="common"),
    Powerline(),
    Powerline(mains_hz=60.0, squared=True, aliased=True),
    Muscle(),
    BaselineShift(),
    RecordedNoise(rms_mv=(0.1, 0.3)),
    RecordedNoise(kind="nstdb-bw", snr_db=(0.0, 6.0)),
)


def title(settings):
    return f"{settings.name}-{EVERY.index(settings)}"


def signal(n_windows=7, n_samples=N_SAMPLES):
    """Something like an ECG; a lead of the first window, an end of the second and single samples are missing."""
    rng = np.random.default_rng(n_samples)
    x_blt = np.cumsum(rng.normal(0, 0.05, (n_windows, N_LEADS, n_samples)), axis=2).astype(np.float32)
    recorded_blt = np.ones(x_blt.shape, dtype=bool)
    recorded_blt[0, 4] = False
    recorded_blt[1, :, 400:] = False
    recorded_blt[2:, 3, 50::37] = False
    return Millivolts(torch.from_numpy(np.where(recorded_blt, x_blt, np.float32(0))), torch.from_numpy(recorded_blt))


def banks():
    rng = np.random.default_rng(5)
    return {
        "nstdb-ma": torch.from_numpy(rng.normal(0, 1, (2, 4000)).astype(np.float32)),
        "nstdb-bw": torch.from_numpy(rng.normal(0, 1, (2, 90)).astype(np.float32)),
    }


def done(settings, mv=None, numbers_b=NUMBERS, draw=DRAW):
    mv = mv or signal()
    return apply(*mv, draw, numbers_b, settings, FS_HZ, banks())


# --- one record at a time -------------------------------------------------------------------------------------


class One:
    """The draws of one window: what apply forks for it, as plain NumPy."""

    def __init__(self, number):
        self._number, self._draw = torch.tensor([number]), DRAW.fork(augmentations._WHAT)

    def _of(self, fork):
        return self._draw if fork is None else self._draw.fork(fork)

    def uniform(self, fork, n, low=0.0, high=1.0):
        return self._of(fork).uniform(self._number, n, low, high)[0].numpy()

    def normal(self, fork, n):
        return self._of(fork).normal(self._number, n)[0].numpy()

    def integers(self, fork, n, high):
        return self._of(fork).integers(self._number, n, high)[0].numpy()

    def words(self, fork, n):
        return self._of(fork).words(self._number, n)[0].numpy()

    def gains(self, fork):
        of = self._of(fork)
        sign = np.where(of.fork(0).uniform(self._number, N_LEADS)[0].numpy() < 0.5, -1, 1)
        return sign * (1 + of.fork(1).normal(self._number, N_LEADS)[0].numpy().astype(float))


def share_of(unit, bounds, n):
    return int(np.float32(np.float32(unit * (bounds[1] - bounds[0])) + np.float32(bounds[0])) * np.float32(n))


def start_of(unit, n):
    return int(np.float32(unit) * np.float32(n))


def subset_of(words, size):
    """The places of the smallest keys, whose lowest bits are their places."""
    mask = (1 << len(words).bit_length()) - 1
    keys = [(int(word) & ~mask) | place for place, word in enumerate(words)]
    return sorted(sorted(range(len(words)), key=keys.__getitem__)[:size])


def looked_up(x_lt, recorded_lt, times):
    """Linear interpolation by numpy.interp; unknown where an unknown sample takes part."""
    grid = np.arange(x_lt.shape[1])
    nan_lt = np.where(recorded_lt, x_lt.astype(float), np.nan)
    with np.errstate(invalid="ignore"):
        out = np.stack([np.interp(times, grid, row) for row in nan_lt])
    return np.nan_to_num(out), ~np.isnan(out)


def slow_random_resized_crop(x, rec, s, one):
    n_out = s.n_samples or x.shape[1]
    u = one.uniform(0, 2)
    kept = share_of(u[0], s.share, n_out)
    start = start_of(u[1], x.shape[1] - kept + 1)
    places = [0, *(p + 1 for p in subset_of(one.words(1, n_out - 2), kept - 2)), n_out - 1]
    assert len(places) == kept
    times = np.interp(np.arange(n_out), places, np.arange(start, start + kept))
    return looked_up(x, rec, times)


def slow_fourier_crop(x, rec, s, one):
    n = x.shape[1]
    u = one.uniform(None, 2)
    kept = share_of(u[0], s.share, n)
    start = start_of(u[1], n - kept + 1)
    out = scipy.signal.resample(x[:, start : start + kept].astype(float), n, axis=1)
    times = np.minimum(start + np.arange(n) * kept / n, start + kept - 1)
    _, known = looked_up(x, rec, times)
    return np.where(known, out, 0), known


def slow_time_warp(x, rec, s, one):
    n = x.shape[1]
    walk = np.cumsum(one.normal(None, n).astype(float))
    axis = np.cumsum(walk - walk.min() + s.epsilon)
    times = (axis - axis[0]) / (axis[-1] - axis[0]) * (n - 1)
    return looked_up(x, rec, times)


def slow_dynamic_time_warp(x, rec, s, one):
    """Sample by sample as the table of the paper's code has it: keep every 2nd, put the flanks at stride 2."""
    n, radius = x.shape[1], round(s.radius_s * FS_HZ)
    margin = (s.step + 1) * radius
    for centre in one.integers(None, s.warps, n - 2 * margin - 2) + margin:
        kept = range(-s.step * radius, s.step * radius + 1, s.step)
        anchors = {centre + k // s.step: centre + k for k in kept}
        for i in range(radius):
            anchors[centre - margin + s.step * i] = centre - margin + i
            anchors[centre + margin - s.step * i] = centre + margin - i
        anchors |= {t: t for t in range(n) if abs(t - centre) >= margin}
        places = sorted(anchors)
        times = np.interp(np.arange(n), places, [anchors[p] for p in places])
        x, rec = looked_up(x, rec, times)
    return x, rec


def slow_down_sample(x, rec, s, one):
    n = x.shape[1]
    kept = [0, *(p + 1 for p in subset_of(one.words(None, n - 2), n - 2 - int(s.share * n))), n - 1]
    assert n - len(kept) == int(s.share * n)
    nan = np.where(rec, x.astype(float), np.nan)
    with np.errstate(invalid="ignore"):
        out = np.stack([np.interp(np.arange(n), kept, row[kept]) for row in nan])
    return np.nan_to_num(out), ~np.isnan(out)


def slow_permutation(x, rec, s, one):
    n = x.shape[1]
    bounds = [i * n // s.n_segments for i in range(s.n_segments + 1)]
    order = np.argsort(one.words(None, s.n_segments), kind="stable")
    times = np.concatenate([np.arange(bounds[i], bounds[i + 1]) for i in order])
    return x[:, times], rec[:, times]


def slow_time_out(x, rec, s, one):
    u = one.uniform(None, 2)
    n = share_of(u[0], s.share, x.shape[1])
    start = start_of(u[1], x.shape[1] - n + 1)
    x, rec = x.copy(), rec.copy()
    x[:, start : start + n], rec[:, start : start + n] = 0, False
    return x, rec


def slow_lead_dropout(x, rec, s, one):
    u = np.where(rec.any(axis=1), one.uniform(None, N_LEADS), -1)
    gone = u < s.share
    gone[np.argmax(u)] = False
    return np.where(gone[:, None], 0, x), rec & ~gone[:, None]


def slow_gaussian_blur(x, rec, s, one):
    return np.stack([np.convolve(row, (0.1, 0.2, 0.4, 0.2, 0.1), mode="same") for row in x.astype(float)]), rec


def slow_lead_scaling(x, rec, s, one):
    u = one.uniform(None, N_LEADS).astype(float)
    return x * np.exp(math.log(s.gain[0]) + u * math.log(s.gain[1] / s.gain[0]))[:, None], rec


def slow_gaussian_noise(x, rec, s, one):
    return x + s.sigma_mv * one.normal(None, x.size).reshape(x.shape), rec


def slow_baseline_wander(x, rec, s, one):
    t_s = np.arange(x.shape[1]) / FS_HZ
    c, a, phi = one.uniform(0, 1, 0, s.max_mv)[0], one.uniform(1, 50), one.uniform(2, 50, 0, 2 * math.pi)
    tones = range(s.first_tone, s.first_tone + 50)
    trace = c * sum(a[i] * np.cos(2 * np.pi * k * 0.01 * t_s + phi[i]) for i, k in enumerate(tones))
    return x + trace * (np.ones((N_LEADS, 1)) if s.lead_gain == "common" else one.gains(3)[:, None]), rec


def slow_powerline(x, rec, s, one):
    t_s = np.arange(x.shape[1]) / FS_HZ
    c, a, phi = one.uniform(0, 1, 0, s.max_mv)[0], one.uniform(1, 3), one.uniform(2, 1, 0, 2 * math.pi)[0]
    c = c**2 if s.squared else c
    harmonics = [k for k in (1, 2, 3) if s.aliased or k * s.mains_hz < FS_HZ / 2]
    trace = c * sum(a[k - 1] * np.cos(2 * np.pi * k * s.mains_hz * t_s + phi) for k in harmonics)
    return x + trace * one.uniform(3, N_LEADS, -1, 1)[:, None], rec


def slow_muscle(x, rec, s, one):
    return x + one.uniform(0, 1, 0, s.max_mv)[0] * one.normal(1, x.size).reshape(x.shape), rec


def slow_baseline_shift(x, rec, s, one):
    n = x.shape[1]
    most = round(0.3 * n / FS_HZ)
    c, number = one.uniform(0, 1, 0, s.max_mv)[0], one.integers(1, 1, most + 1)[0]
    centre, length_s = one.uniform(2, most, 0, n), 3 + 0.6 * one.normal(3, most)
    level, trace = one.uniform(4, most, -1, 1), np.zeros(n)
    for i in range(number):
        begin = math.floor(centre[i] - length_s[i] * FS_HZ / 2)
        end = math.ceil(centre[i] + length_s[i] * FS_HZ / 2)
        trace[max(0, begin) : max(0, end)] = c * level[i]
    return x + trace * one.gains(5)[:, None], rec


def slow_recorded_noise(x, rec, s, one):
    wave = banks()[s.kind].numpy().astype(float)
    n, n_recorded = x.shape[1], wave.shape[1]
    noise = np.empty(x.shape)
    angle = one.uniform(0, N_LEADS, 0, 2 * math.pi)
    where = one.uniform(1, 1 if s.kind == "nstdb-bw" else N_LEADS).astype(float)
    round_trip = np.concatenate([wave, wave[:, -2:0:-1]], axis=1)
    for lead in range(N_LEADS):
        w = where[0 if s.kind == "nstdb-bw" else lead]
        if n <= n_recorded:
            begin = int(w * (n_recorded - n + 1))
            cut = wave[:, begin : begin + n]
        else:
            cut = np.tile(round_trip, 99)[:, int(w * round_trip.shape[1]) :][:, :n]
        both = np.cos(angle[lead]) * cut[0] + np.sin(angle[lead]) * cut[1]
        noise[lead] = both - both.mean()
    if s.rms_mv is not None:
        gain = one.uniform(2, 1, *s.rms_mv)[0]
    else:
        centred = np.concatenate([row[on] - row[on].mean() for row, on in zip(x, rec, strict=True) if on.any()])
        snr_db = one.uniform(2, 1, *s.snr_db)[0]
        gain = np.sqrt(np.mean(centred.astype(float) ** 2) / np.mean(noise[rec] ** 2) / 10 ** (snr_db / 10))
    return x + gain * noise, rec


def slow_time_reversal(x, rec, s, one):
    return x[:, ::-1], rec[:, ::-1]


def slow_negation(x, rec, s, one):
    return -x, rec


@pytest.mark.parametrize("settings", EVERY, ids=title)
def test_an_augmentation_is_its_formula(settings):
    slow: Callable = globals()[f"slow_{settings.name}"]
    mv = signal()
    out = done(settings, mv)
    assert out.x_blt.dtype == torch.float32
    for window, number in enumerate(NUMBERS.tolist()):
        x_lt, recorded_lt = slow(mv.x_blt[window].numpy(), mv.recorded_blt[window].numpy(), settings, One(number))
        assert (out.recorded_blt[window].numpy() == recorded_lt).all()
        np.testing.assert_allclose(out.x_blt[window].numpy(), np.where(recorded_lt, x_lt, 0), atol=2e-5, rtol=0)
    same = out.x_blt.shape == mv.x_blt.shape and torch.equal(out.x_blt, mv.x_blt)
    assert same == (settings == DownSample(share=0.0))


# --- whatever the batch ---------------------------------------------------------------------------------------


def test_every_augmentation_is_looked_at():
    assert {settings.name for settings in EVERY} == set(AUGMENTATIONS)


@pytest.mark.parametrize("settings", EVERY, ids=title)
def test_parts_of_a_batch_give_what_the_whole_gives(settings):
    numbers_b = torch.arange(37) * 5 + 2**33
    mv = signal(37)
    rows = Millivolts(*(one.transpose(1, 2).contiguous().transpose(1, 2) for one in mv))
    before = mv.x_blt.clone()
    whole = done(settings, mv, numbers_b)
    assert torch.equal(mv.x_blt, before), "what came in was changed"
    for bounds in ((0, 37), (0, 1, 37), (0, 18, 37), (*range(0, 37, 5), 37)):
        for begin, end in zip(bounds[:-1], bounds[1:], strict=True):
            for source in (mv, rows):
                part = done(settings, Millivolts(*(one[begin:end] for one in source)), numbers_b[begin:end])
                assert torch.equal(part.x_blt, whole.x_blt[begin:end])
                assert torch.equal(part.recorded_blt, whole.recorded_blt[begin:end])


@pytest.mark.parametrize("settings", EVERY, ids=title)
def test_nothing_waits_for_the_device(settings):
    """Tensors without values refuse to be read, to change shape by what they hold, and to meet those of the CPU."""
    x_blt = torch.empty(4, N_LEADS, N_SAMPLES, device="meta")
    numbers_b = torch.empty(4, dtype=torch.int64, device="meta")
    bank = {kind: torch.empty(2, 600, device="meta") for kind in banks()}
    changed = settings if getattr(settings, "n_samples", None) else settings.model_copy(update={"probability": 0.5})
    out = apply(x_blt, x_blt == x_blt, DRAW, numbers_b, changed, FS_HZ, bank)
    assert out.x_blt.device.type == out.recorded_blt.device.type == "meta"


@pytest.mark.gpu
@pytest.mark.parametrize("settings", EVERY, ids=title)
def test_a_gpu_gives_the_same(settings):
    mv = signal()
    there = apply(
        *(one.cuda() for one in mv), DRAW, NUMBERS.cuda(), settings, FS_HZ, {k: b.cuda() for k, b in banks().items()}
    )
    here = done(settings, mv)
    assert torch.equal(there.recorded_blt.cpu(), here.recorded_blt)
    assert torch.allclose(there.x_blt.cpu(), here.x_blt, atol=2e-5)


@pytest.mark.parametrize("settings", EVERY, ids=title)
def test_a_flat_or_empty_window_stays_finite(settings):
    nothing = Millivolts(torch.zeros(2, N_LEADS, N_SAMPLES), torch.zeros(2, N_LEADS, N_SAMPLES, dtype=torch.bool))
    out = done(settings, nothing, NUMBERS[:2])
    assert not out.recorded_blt.any()
    assert (out.x_blt == 0).all()
    flat = done(settings, Millivolts(nothing.x_blt, ~nothing.recorded_blt), NUMBERS[:2])
    assert torch.isfinite(flat.x_blt).all()


def test_only_some_windows_are_changed():
    numbers_b, mv = torch.arange(2000), signal(2000, 20)
    some = done(Negation(probability=0.3), mv, numbers_b)
    changed_b = (some.x_blt != mv.x_blt).any(dim=2).any(dim=1)
    assert abs(changed_b.float().mean() - 0.3) < 5 * math.sqrt(0.3 * 0.7 / 2000)
    assert torch.equal(some.x_blt[changed_b], -mv.x_blt[changed_b])
    for others in (
        done(Negation(probability=0.3), mv, numbers_b + 2000),
        done(Negation(probability=0.3), mv, numbers_b, Draw(8)),
    ):
        assert not torch.equal(changed_b, (others.x_blt != mv.x_blt).any(dim=2).any(dim=1))


# --- how it is drawn ------------------------------------------------------------------------------------------


def ramp(n_windows, n_samples=250):
    """One lead that holds its own time, so that a changed time can be read off."""
    x_blt = torch.arange(n_samples, dtype=torch.float32).expand(n_windows, 1, -1).clone()
    return Millivolts(x_blt, torch.ones(x_blt.shape, dtype=torch.bool))


def uniform(values, low, high):
    """Kolmogorov and Smirnov's distance from U(low, high) is below its 1e-6 quantile."""
    found = np.sort((np.asarray(values, dtype=float) - low) / (high - low))
    n = len(found)
    assert found[0] >= 0
    assert found[-1] <= 1
    distance = max((np.arange(1, n + 1) / n - found).max(), (found - np.arange(n) / n).max())
    assert distance < math.sqrt(math.log(2 / 1e-6) / (2 * n))
    return True


def test_the_crop_is_a_crop_a_stretch_and_a_warp():
    n = 4000
    times_bt = done(RandomResizedCrop(), ramp(n), torch.arange(n)).x_blt[:, 0].numpy()
    steps = np.diff(times_bt)
    assert (steps > 0).all()
    assert steps.max() <= 1 + 1e-4
    kept = np.rint(times_bt[:, -1] - times_bt[:, 0]) + 1
    assert uniform((kept + np.random.default_rng(0).uniform(0, 1, n)) / 250, 0.5, 1.0)
    long = kept < 240
    where = (times_bt[long, 0] + np.random.default_rng(1).uniform(0, 1, long.sum())) / (251 - kept[long])
    assert uniform(where, 0, 1)
    # The samples that are there as they were are spread evenly over the window.
    whole = (np.abs(times_bt - np.rint(times_bt)) < 1e-4)[:, 1:-1].mean(axis=0)
    assert np.ptp(whole) < 0.08
    out_of_more = done(RandomResizedCrop(n_samples=250), ramp(n, 1000), torch.arange(n)).x_blt[:, 0]
    assert out_of_more[:, -1].max() > 950
    assert out_of_more[:, 0].min() < 5


def test_time_outs_are_uniform_in_length_and_place():
    n = 4000
    out = done(TimeOut(), ramp(n), torch.arange(n)).recorded_blt[:, 0].numpy()
    length = (~out).sum(axis=1)
    jitter = np.random.default_rng(0).uniform(0, 1, (2, n))
    assert uniform((length + jitter[0]) / 250, 0.2 - 1e-6, 0.4 + 1 / 250)
    assert uniform((out.argmin(axis=1) + jitter[1]) / (251 - length), 0, 1)


def test_amplitudes_are_those_that_are_stated():
    n, numbers_b = 3000, torch.arange(3000)
    silent = Millivolts(torch.zeros(n, N_LEADS, 40), torch.ones(n, N_LEADS, 40, dtype=torch.bool))
    noise = done(Muscle(max_mv=0.6), silent, numbers_b).x_blt
    # The mean square of C N(0, 1) is E C² = 0.6² / 3.
    assert noise.square().mean() == pytest.approx(0.12, rel=0.05)
    hum = done(Powerline(max_mv=0.6), silent, numbers_b).x_blt
    # C² a² cos² gain², two harmonics below 125 Hz.
    assert hum.square().mean() == pytest.approx(0.12 * 2 / 3 / 2 / 3, rel=0.08)
    drift = done(BaselineWander(max_mv=0.6), silent, numbers_b).x_blt
    assert drift.square().mean() == pytest.approx(0.12 * 50 / 3 / 2 * 2, rel=0.1)
    gain = done(LeadScaling(), Millivolts(silent.x_blt + 1, silent.recorded_blt), numbers_b).x_blt
    assert uniform(gain[:, :, 0].log().flatten().numpy(), -math.log(2) - 1e-6, math.log(2) + 1e-6)


def test_physiological_noise_is_as_strong_as_the_paper_s():
    """0.44 mV in all on windows of 2.5 s at 100 Hz, as computed from the published code by other means."""
    n = 1500
    silent = Millivolts(torch.zeros(n, N_LEADS, 250), torch.ones(n, N_LEADS, 250, dtype=torch.bool))
    noise = chain(*silent, DRAW, torch.arange(n), augmentations.PHYSIOLOGICAL_AS_PUBLISHED, 100.0).x_blt
    assert float(noise.square().mean().sqrt()) == pytest.approx(0.44, rel=0.1)
    hum = apply(*silent, DRAW, torch.arange(n), augmentations.PHYSIOLOGICAL_AS_PUBLISHED[1], 100.0).x_blt
    # What folds down at 100 Hz is an alternation of neighbours and an offset, and nothing else.
    assert torch.allclose(hum[..., ::2], hum[..., :1], atol=1e-5)
    assert torch.allclose(hum[..., 1::2], hum[..., 1:2], atol=1e-5)


def test_shifts_come_as_often_as_stated():
    n = 3000
    silent = Millivolts(torch.zeros(n, 1, 2500), torch.ones(n, 1, 2500, dtype=torch.bool))
    shifted = done(BaselineShift(), silent, torch.arange(n)).x_blt[:, 0]
    # 10 s at 250 Hz: 0 to 3 stretches.
    assert (shifted == 0).all(dim=1).float().mean() == pytest.approx(0.25, abs=0.04)
    short = Millivolts(silent.x_blt[..., :400], silent.recorded_blt[..., :400])
    assert (done(BaselineShift(), short, torch.arange(n)).x_blt == 0).all()


def test_dropped_leads_are_as_many_as_stated_and_never_all():
    n = 3000
    mv = signal(n, 8)
    left_bl = done(LeadDropout(share=0.5), mv, torch.arange(n)).recorded_blt.any(dim=2)
    assert left_bl.float().mean() == pytest.approx(0.5, abs=0.02)
    alone_bl = done(LeadDropout(share=1.0), mv, torch.arange(n)).recorded_blt.any(dim=2)
    assert (alone_bl.sum(dim=1) == 1).sum() >= n - 1  # nothing at all was recorded in a window's last samples
    assert alone_bl[2:].float().mean(dim=0).min() > 0.05


# --- in a recipe ----------------------------------------------------------------------------------------------


class Method(Settings):
    """As a method's settings hold them."""

    augmentations: tuple[Augmentation, ...] = augmentations.CROP_AND_TIME_OUT


def test_a_recipe_holds_a_list_of_names_and_settings():
    method = parse(Method, {"augmentations": [{"name": "time_out", "share": [0, 0.5]}, "negation"]})
    assert method.augmentations == (TimeOut(share=(0, 0.5)), Negation())
    assert parse(Method, method.model_dump(mode="json")) == method
    assert parse(Method, {}).augmentations[0].name == "random_resized_crop"
    changed = override(method.model_dump(mode="json"), ["augmentations.0.share=[0.1, 0.2]"])
    assert parse(Method, changed).augmentations[0].share == (0.1, 0.2)
    assert parse(Method, {"augmentations": [one.model_dump() for one in EVERY]}).augmentations == EVERY


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"name": "time_ot"}, "did you mean time_out?"),
        ("timewarp", "did you mean time_warp?"),
        ({"name": "quux"}, "known: random_resized_crop"),
        ({"name": "time_out", "shair": 0.3}, "did you mean share?"),
        ({"share": 0.3}, "a mapping with a name"),
        ({"name": "time_out", "share": [0.4, 0.2]}, "lower bound"),
        ({"name": "time_out", "share": [0.4, 1.2]}, "less than or equal to 1"),
        ({"name": "lead_scaling", "gain": [2, 1]}, "lower gain"),
        ({"name": "recorded_noise"}, "rms_mv or by snr_db"),
        ({"name": "random_resized_crop", "n_samples": 250, "probability": 0.5}, "another length"),
    ],
)
def test_mistakes_are_one_line_that_names_the_place(content, says):
    with pytest.raises(ConfigError) as caught:
        parse(Method, {"augmentations": ["negation", content]})
    assert says in str(caught.value)
    assert "augmentations.1" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_done_is_refused_before_any_work():
    assert check(EVERY[:2], 501, FS_HZ) == 301
    for settings, n_samples, fs_hz, says in [
        (Powerline(), 250, 100.0, "more than 100 Hz"),
        (DynamicTimeWarp(), 60, 100.0, "too short for dynamic_time_warp"),
        (DynamicTimeWarp(radius_s=0.001), 600, 100.0, "less than one sample"),
        (RandomResizedCrop(n_samples=300), 250, 100.0, "too short for random_resized_crop"),
        (RecordedNoise(snr_db=(0, 6)), 250, 100.0, "no recording nstdb-ma"),
        (RecordedNoise(kind="nstdb-em", snr_db=(0, 6)), 250, 100.0, "one of nstdb-ma"),
    ]:
        given = {"nstdb-ma": banks()["nstdb-ma"]} if "one of" in says else None
        with pytest.raises(ConfigError, match=says):
            check((settings,), n_samples, fs_hz, given)
        with pytest.raises(ConfigError, match=says):
            apply(*ramp(2, n_samples), DRAW, NUMBERS[:2], settings, fs_hz, given)
    shortest = DynamicTimeWarp()
    assert apply(*ramp(2, 63), DRAW, NUMBERS[:2], shortest, 100.0).recorded_blt.all()
    for one in ("random_resized_crop", "fourier_crop", "time_warp", "down_sample"):
        assert apply(*ramp(2, 4), DRAW, NUMBERS[:2], AUGMENTATIONS[one](), 100.0).x_blt.shape[2] == 4


def test_a_chain_does_one_after_the_other_with_draws_of_its_own():
    mv, time_out = signal(), TimeOut()
    both = chain(*mv, DRAW, NUMBERS, (time_out, time_out), FS_HZ)
    first = apply(*mv, DRAW.fork(0), NUMBERS, time_out, FS_HZ)
    assert torch.equal(both.x_blt, apply(*first, DRAW.fork(1), NUMBERS, time_out, FS_HZ).x_blt)
    assert both.recorded_blt.sum() < first.recorded_blt.sum()
    assert torch.equal(chain(*mv, DRAW, NUMBERS, (), FS_HZ).x_blt, mv.x_blt)


def test_recorded_noise_has_the_snr_that_was_asked_for(mini_store):
    store = open_store(mini_store)
    shard = store.read_shard(0)
    mv = to_mv(torch.from_numpy(np.stack([shard.counts_lt[:, i * 1000 : (i + 1) * 1000] for i in range(20)])))
    loud = RecordedNoise(snr_db=(6.0, 6.0))
    noisy = apply(*mv, DRAW, torch.arange(20), loud, store.fs_hz, banks())
    centred = mv.x_blt - mv.x_blt.mean(dim=2, keepdim=True)
    snr_db = 10 * torch.log10(centred.square().mean(dim=(1, 2)) / (noisy.x_blt - mv.x_blt).square().mean(dim=(1, 2)))
    assert torch.allclose(snr_db, torch.tensor(6.0), atol=0.01)
