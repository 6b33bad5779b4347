from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
from scipy import ndimage
from scipy import signal as ss

from ecgstore.errors import ConfigError
from ecgstore.rooms import occupant, occupants
from ecgstore.settings import parse
from ecgstore.signals.conditioning import condition
from ecgstore.signals.filters import bandpass, highpass, lowpass, median, neurokit, notch
from ecgstore.wfdb_io.samples import read_signal
from ecgstore.wfdb_io.segments import read_header

NAMES = occupants("ecgstore.signals.filters")


@pytest.fixture(scope="module")
def real_mv_lt(mini):
    path = next(iter(sorted(mini.rglob("*.hea")))).with_suffix("")
    return read_signal(path, read_header(path, "r"), "r").signal_mv_lt


@pytest.mark.parametrize("name", NAMES)
def test_every_file_of_the_room_is_either_a_curve_or_a_stage(name, real_mv_lt):
    file = occupant("ecgstore.signals.filters", name)
    settings = file.Settings()
    assert settings.name == name
    assert hasattr(file, "gain") != hasattr(file, "stage")
    assert list(inspect.signature(file.reach_s).parameters) == ["settings"]
    if hasattr(file, "gain"):
        gain = file.gain(np.linspace(0, 250, 1001), 500, settings)
        assert gain.shape == (1001,)
        assert np.isfinite(gain).all()
        assert (gain >= 0).all()
        assert (gain <= 1 + 1e-12).all()
    else:
        before = real_mv_lt[:2].copy()
        out = file.stage(before, 500, settings)
        assert (out.shape, out.dtype) == (before.shape, np.float32)
        assert np.isfinite(out).all()
        np.testing.assert_array_equal(before, real_mv_lt[:2])


def analogue(freqs_hz, order, edges_hz, kind):
    """Squared amplitude response of scipy's analogue Butterworth filter."""
    zeros, poles, gain = ss.butter(order, 2 * np.pi * np.asarray(edges_hz), kind, analog=True, output="zpk")
    return np.abs(ss.freqs_zpk(zeros, poles, gain, 2 * np.pi * freqs_hz)[1]) ** 2


@pytest.mark.parametrize(("freq_hz", "order"), [(0.05, 1), (0.5, 3), (0.67, 5), (5, 10), (150, 1), (40, 3)])
def test_the_high_and_low_pass_curves_are_those_of_scipy(freq_hz, order):
    freqs_hz = np.linspace(0, 250, 4000)
    for file, kind in ((highpass, "highpass"), (lowpass, "lowpass")):
        curve = file.gain(freqs_hz, 500, file.Settings(freq_hz=freq_hz, order=order))
        np.testing.assert_allclose(curve, analogue(freqs_hz, order, freq_hz, kind), atol=1e-9)


@pytest.mark.parametrize(("low_hz", "high_hz", "order"), [(0.5, 40, 3), (0.67, 150, 2), (5, 15, 1), (0.05, 150, 1)])
def test_the_band_pass_curve_is_that_of_scipy(low_hz, high_hz, order):
    freqs_hz = np.linspace(0, 250, 4000)
    curve = bandpass.gain(freqs_hz, 500, bandpass.Settings(low_hz=low_hz, high_hz=high_hz, order=order))
    np.testing.assert_allclose(curve, analogue(freqs_hz, order, [low_hz, high_hz], "bandpass"), atol=1e-9)


def test_a_notch_and_its_harmonics_are_second_order_sections_of_one_quality():
    freqs_hz = np.linspace(0, 250, 5001)
    expected = np.ones_like(freqs_hz)
    for centre in 2 * np.pi * 60 * np.arange(1, 11):
        _, response = ss.freqs([1, 0, centre**2], [1, centre / 30, centre**2], 2 * np.pi * freqs_hz)
        expected *= np.abs(response) ** 2
    curve = notch.gain(freqs_hz, 500, notch.Settings(freq_hz=60, harmonics=10))
    np.testing.assert_allclose(curve, expected, atol=1e-9)
    one = notch.gain(freqs_hz, 500, notch.Settings(freq_hz=60))
    assert curve[3600] < 1e-9 < 0.99 < one[3600]
    # One pass loses 3 dB at 60 ± 1 Hz, the halves of 60 / 30, and so both lose half of the amplitude.
    np.testing.assert_allclose(notch.gain(np.array([59.0, 61.0]), 500, notch.Settings(freq_hz=60)), 0.5, atol=0.01)


@pytest.mark.parametrize(
    "settings",
    [
        (bandpass.Settings(),),
        (bandpass.Settings(low_hz=0.05, high_hz=150, order=1),),
        (highpass.Settings(), lowpass.Settings()),
        (notch.Settings(freq_hz=60, q=5, harmonics=3),),
    ],
    ids=repr,
)
def test_the_rate_of_a_source_leaves_no_mark_on_what_passes(settings):
    """Two sites that record with different rates get the same band, whether it ends below half of these or not."""
    tones_hz = np.array([1.0, 20.0, 35.0, 44.0])
    gains = []
    for fs_hz in (100, 128, 200, 250, 257, 360, 500, 977, 1000):
        t = np.arange(30 * fs_hz) / fs_hz
        out = condition(np.sin(2 * np.pi * tones_hz[:, None] * t).astype(np.float32), fs_hz, 100, settings)
        inner_lt, angle_lt = out[:, 800:2200], 2 * np.pi * tones_hz[:, None] * np.arange(800, 2200) / 100
        gains.append(2 * np.abs((inner_lt * np.exp(1j * angle_lt)).mean(axis=1)))
    np.testing.assert_allclose(gains, np.tile(gains[-1], (len(gains), 1)), rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def analogue_mv_t():
    """40 s of tones of 1 mV each, sampled at any rate; a recorder has none above half of it."""
    tones_hz = (0.7, 1.3, 5, 12, 20, 35, 40, 44, 48, 49.3, 49.6, 49.9, 52, 60, 63, 75, 120, 180)
    phases = np.random.default_rng(0).uniform(0, 2 * np.pi, len(tones_hz))

    def sampled(fs_hz):
        t = np.arange(40 * fs_hz) / fs_hz
        kept = [np.sin(2 * np.pi * f * t + phase) for f, phase in zip(tones_hz, phases, strict=True) if f < fs_hz / 2]
        return np.sum(kept, axis=0, keepdims=True).astype(np.float32)

    return sampled


@pytest.mark.parametrize("fs_hz", [100, 128, 250, 257, 500])
@pytest.mark.parametrize("mains", [(), (notch.Settings(freq_hz=50),)], ids=["band", "band and notch"])
def test_one_analogue_signal_becomes_one_stored_signal_whatever_rate_it_was_recorded_at(analogue_mv_t, fs_hz, mains):
    """Sample by sample within 1 µV of tones of 1 mV, up to both sides of the cut at 50 Hz; 10 s off the edges."""
    settings = (bandpass.Settings(low_hz=0.5, high_hz=40), *mains)
    at_1000 = condition(analogue_mv_t(1000), 1000, 100, settings)
    difference_mv = condition(analogue_mv_t(fs_hz), fs_hz, 100, settings) - at_1000
    assert np.abs(at_1000[0, 1000:3000]).max() > 1
    assert np.abs(difference_mv[0, 1000:3000]).max() < 1e-3


def test_where_filters_act_a_record_ends_below_half_the_stores_rate_whether_it_was_resampled_or_not():
    settings = (bandpass.Settings(low_hz=0.05, high_hz=150, order=1),)
    left = {}
    for fs_hz in (100, 500):
        t = np.arange(60 * fs_hz) / fs_hz
        hum = np.sin(2 * np.pi * 49.95 * t)[None].astype(np.float32)
        left[fs_hz] = np.abs(condition(hum, fs_hz, 100, settings)[0, 2000:4000]).max()
    assert max(left.values()) < 0.03
    # Where nothing acts, nothing is touched.
    t = np.arange(1000) / 100
    hum = np.sin(2 * np.pi * 49.95 * t + 1)[None].astype(np.float32)
    np.testing.assert_array_equal(condition(hum, 100, 100), hum)


EXTREMES = (1e-308, 1e-9, 0.5, 50.0, 1e9, 1e307)


def test_no_setting_makes_a_gain_that_is_none():
    """A curve is between 0 and 1 whatever is asked of it: one NaN in it would be all of a record."""
    freqs_hz = np.concatenate([[0.0, 50.0, 150.0], np.geomspace(1e-6, 5e4, 50)])
    curves = [(file, {"freq_hz": hz, "order": n}) for file in (highpass, lowpass) for hz in EXTREMES for n in (1, 10)]
    curves += [(notch, {"freq_hz": hz, "q": q, "harmonics": 3}) for hz in EXTREMES for q in EXTREMES]
    curves += [
        (bandpass, {"low_hz": low, "high_hz": high, "order": n})
        for i, low in enumerate(EXTREMES)
        for high in EXTREMES[i + 1 :]
        for n in (1, 10)
    ]
    for file, content in curves:
        gain = file.gain(freqs_hz, 500, file.Settings(**content))
        assert ((gain >= 0) & (gain <= 1)).all(), (file.__name__, content)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize(
    ("file", "name"), [(bandpass, "high_hz"), (highpass, "freq_hz"), (lowpass, "freq_hz"), (notch, "q")]
)
def test_a_frequency_is_a_finite_number(file, name, value):
    with pytest.raises(ConfigError, match=f"setting {name}.*finite"):
        parse(file.Settings, {name: value})


def test_harmonics_take_a_comb_of_mains_away_and_leave_the_rest():
    t = np.arange(5000) / 500
    ecg = 0.5 * np.sin(2 * np.pi * 7 * t)
    hum = sum(0.1 / k * np.sin(2 * np.pi * 50 * k * t + k) for k in (1, 2, 3, 4))
    signal_mv_lt = (ecg + hum)[None].astype(np.float32)
    left_uv = {}
    for harmonics in (1, 4):
        out = condition(signal_mv_lt, 500, 500, (notch.Settings(freq_hz=50, harmonics=harmonics),))
        left_uv[harmonics] = 1000 * np.sqrt(np.mean((out[0] - ecg)[1000:-1000] ** 2))
    assert left_uv[1] == pytest.approx(1000 * np.sqrt(0.05**2 + 0.0333**2 + 0.025**2) / np.sqrt(2), rel=0.02)
    assert left_uv[4] < 1


def test_a_high_pass_equals_sosfiltfilt(real_mv_lt):
    """Far below half the rate a digital filter is the analogue one."""
    sos = ss.butter(3, 0.5, "highpass", fs=500, output="sos")
    reference = ss.sosfiltfilt(sos, real_mv_lt.astype(float), padlen=2000)
    error_uv = (condition(real_mv_lt, 500, 500, (highpass.Settings(freq_hz=0.5),)) - reference) * 1000
    assert np.sqrt((error_uv**2).mean()) < 0.2
    assert np.abs(error_uv[:, 250:-250]).max() < 2


def test_a_low_pass_equals_sosfiltfilt_at_a_high_rate(real_mv_lt):
    sos = ss.butter(4, 40, "lowpass", fs=8000, output="sos")
    extended = np.pad(real_mv_lt[:3].astype(float), ((0, 0), (2000, 2000)), mode="reflect", reflect_type="odd")
    fine = ss.resample(extended, 16 * extended.shape[1], axis=1)
    reference = ss.sosfiltfilt(sos, fine)[:, ::16][:, 2000:-2000]
    error_uv = (condition(real_mv_lt[:3], 500, 500, (lowpass.Settings(freq_hz=40, order=4),)) - reference) * 1000
    assert np.sqrt((error_uv**2).mean()) < 0.2
    assert np.abs(error_uv[:, 250:-250]).max() < 2


@pytest.mark.parametrize(
    "settings",
    [
        highpass.Settings(freq_hz=0.5),
        highpass.Settings(freq_hz=0.05),
        highpass.Settings(freq_hz=0.5, order=8),
        lowpass.Settings(freq_hz=0.5),
        bandpass.Settings(),
        bandpass.Settings(low_hz=0.5, high_hz=0.7, order=2),
        notch.Settings(),
        notch.Settings(q=100, harmonics=3),
    ],
    ids=repr,
)
def test_what_a_curve_states_as_its_reach_is_where_its_response_has_died_out(settings):
    file = occupant("ecgstore.signals.filters", settings.name)
    n = 1 << 18
    response = np.fft.irfft(file.gain(np.arange(n // 2 + 1) * (250 / n), 250, settings), n)[: n // 2]
    # The most that a signal of amplitude 1 does here from further away than t, on one side.
    tail = np.abs(response)[::-1].cumsum()[::-1]
    at = math.ceil(file.reach_s(settings) * 250)
    assert tail[at] < 3e-5
    assert tail[at // 2] > 3e-4


def test_the_median_baseline_is_that_of_two_medians(real_mv_lt):
    expected = real_mv_lt - np.stack(
        [ndimage.median_filter(ndimage.median_filter(lead, 101), 301) for lead in real_mv_lt]
    )
    np.testing.assert_allclose(median.stage(real_mv_lt, 500, median.Settings()), expected, atol=1e-7)


def test_the_median_takes_a_wandering_baseline_and_leaves_the_beats():
    t = np.arange(5000) / 500
    beats = sum(np.exp(-(((t - at) / 0.012) ** 2) / 2) for at in np.arange(0.4, 10, 0.8))
    drift = 0.8 * np.sin(2 * np.pi * 0.15 * t)
    out = median.stage((beats + drift)[None].astype(np.float32), 500, median.Settings())
    assert np.abs(out[0] - beats)[200:-200].max() < 0.06
    assert np.abs(out[0] - beats).max() < 0.15


@pytest.mark.parametrize("n_samples", [1, 2, 50, 301])
@pytest.mark.parametrize("settings", [median.Settings(), neurokit.Settings(), neurokit.Settings(method="biosppy")])
def test_stages_take_records_of_any_length(n_samples, settings):
    signal_mv_lt = np.random.default_rng(0).normal(size=(2, n_samples)).astype(np.float32)
    out = condition(signal_mv_lt, 250, 125, (settings,))
    assert out.shape == (2, max(1, round(n_samples / 2)))
    assert np.isfinite(out).all()


@pytest.mark.parametrize("method", sorted(neurokit.HIGHEST_HZ))
def test_a_neurokit_stage_equals_the_direct_call(method, real_mv_lt):
    nk = pytest.importorskip("neurokit2")
    settings = neurokit.Settings(method=method)
    out = condition(real_mv_lt[:2], 500, 500, (settings,))
    for lead in range(2):
        direct = nk.ecg_clean(real_mv_lt[lead].astype(float), sampling_rate=500, method=method)
        np.testing.assert_allclose(out[lead], direct, atol=1e-6)
    assert np.abs(out - real_mv_lt[:2]).max() > 0.01


def test_the_powerline_setting_reaches_neurokit(real_mv_lt):
    nk = pytest.importorskip("neurokit2")
    lead = real_mv_lt[:1]
    out = neurokit.stage(lead, 500, neurokit.Settings(powerline_hz=60))
    direct = nk.ecg_clean(lead[0].astype(float), sampling_rate=500, method="neurokit", powerline=60)
    np.testing.assert_allclose(out[0], direct, atol=1e-6)
    assert np.abs(out - neurokit.stage(lead, 500, neurokit.Settings())).max() > 1e-3
    with pytest.raises(ValueError, match="has no powerline_hz"):
        neurokit.Settings(method="vg", powerline_hz=60)


def test_the_curve_equals_neurokits_butterworth_filter(real_mv_lt):
    nk = pytest.importorskip("neurokit2")
    lead = real_mv_lt[1].astype(float)
    reference = nk.signal_filter(lead, sampling_rate=500, lowcut=0.5, highcut=40, method="butterworth", order=3)
    out = condition(real_mv_lt[1:2], 500, 500, (bandpass.Settings(low_hz=0.5, high_hz=40, order=3),))
    # neurokit2 takes scipy's short padding: far from the edges the two are one filter.
    error_uv = 1000 * (out[0] - reference)[1500:-1500]
    assert np.sqrt((error_uv**2).mean()) < 5


def test_a_rate_too_low_for_a_method_is_refused_in_one_line():
    signal_mv_lt = np.zeros((1, 800), np.float32)
    with pytest.raises(ConfigError, match=r"engzeemod2012 can't clean.*more than 104 Hz, got 80 Hz"):
        condition(signal_mv_lt, 80, 80, (neurokit.Settings(method="engzeemod2012"),))
