from __future__ import annotations

import numpy as np
import pytest
from scipy import signal as ss

from ecgstore.conditioning import condition, n_resampled
from ecgstore.filters import bandpass, notch
from ecgstore.wfdb_io import read_header, read_signal

BANDPASS = bandpass.Settings(low_hz=0.5, high_hz=40)
NOTCH = notch.Settings(freq_hz=50)


@pytest.fixture(scope="module")
def real_mv_lt(mini):
    path = next(iter(sorted(mini.rglob("*.hea")))).with_suffix("")
    return read_signal(path, read_header(path, "r"), "r").signal_mv_lt


@pytest.mark.parametrize(
    ("fs_hz", "low_hz", "high_hz", "order"), [(500, 0.5, 40, 3), (360, 0.67, 150, 2), (1000, 5, 15, 1)]
)
def test_the_band_pass_curve_is_that_of_scipy(fs_hz, low_hz, high_hz, order):
    freqs_hz = np.linspace(0, fs_hz / 2 - 0.01, 4000)
    sos = ss.butter(order, [low_hz, high_hz], "bandpass", fs=fs_hz, output="sos")
    _, response = ss.freqz_sos(sos, freqs_hz, fs=fs_hz)
    settings = bandpass.Settings(low_hz=low_hz, high_hz=high_hz, order=order)
    np.testing.assert_allclose(bandpass.gain(freqs_hz, fs_hz, settings), np.abs(response) ** 2, atol=1e-8)


def test_a_band_pass_whose_upper_edge_is_beyond_the_rate_is_a_high_pass():
    freqs_hz = np.linspace(0, 31.9, 1000)
    _, response = ss.freqz_sos(ss.butter(3, 0.5, "highpass", fs=64, output="sos"), freqs_hz, fs=64)
    np.testing.assert_allclose(bandpass.gain(freqs_hz, 64, BANDPASS), np.abs(response) ** 2, atol=1e-8)


def test_the_notch_curve_is_that_of_scipy():
    freqs_hz = np.linspace(0, 249.9, 5000)
    b, a = ss.iirnotch(50, 30, fs=500)
    _, response = ss.freqz(b, a, freqs_hz, fs=500)
    np.testing.assert_allclose(notch.gain(freqs_hz, 500, NOTCH), np.abs(response) ** 2, atol=1e-9)


def test_filtering_equals_sosfiltfilt_on_a_real_record(real_mv_lt):
    sos = ss.butter(3, [0.5, 40], "bandpass", fs=500, output="sos")
    b, a = ss.iirnotch(50, 30, fs=500)
    reference = ss.sosfiltfilt(sos, real_mv_lt.astype(float), padlen=2000)
    reference = ss.filtfilt(b, a, reference, padlen=2000)
    error_uv = (condition(real_mv_lt, 500, 500, (BANDPASS, NOTCH)) - reference) * 1000
    assert np.sqrt((error_uv**2).mean()) < 0.2
    assert np.abs(error_uv[:, 250:-250]).max() < 2


def test_resampling_equals_resample_poly_inside_a_real_record(real_mv_lt):
    sos = ss.butter(3, [0.5, 40], "bandpass", fs=500, output="sos")
    reference = ss.resample_poly(ss.sosfiltfilt(sos, real_mv_lt.astype(float), padlen=2000), 1, 5, axis=1)
    error_uv = (condition(real_mv_lt, 500, 100, (BANDPASS,)) - reference) * 1000
    assert np.sqrt((error_uv[:, 50:-50] ** 2).mean()) < 1


@pytest.mark.parametrize(
    ("fs_hz", "target_hz"), [(500, 100), (360, 100), (257, 100), (1000, 500), (100, 500), (250, 240)]
)
def test_a_sine_stays_the_same_sine_at_any_rate(fs_hz, target_hz):
    def sine(rate, n):
        return np.sin(2 * np.pi * 7 * np.arange(n) / rate + 0.3)[None].astype(np.float32)

    n_out = n_resampled(10 * fs_hz, fs_hz, target_hz)
    out = condition(sine(fs_hz, 10 * fs_hz), fs_hz, target_hz)
    assert out.shape == (1, n_out)
    np.testing.assert_allclose(
        out[:, n_out // 10 : -n_out // 10], sine(target_hz, n_out)[:, n_out // 10 : -n_out // 10], atol=2e-3
    )


def test_nothing_above_half_the_new_rate_is_folded_down():
    t = np.arange(5000) / 500
    x = np.sin(2 * np.pi * 70 * t)[None].astype(np.float32)
    assert np.abs(condition(x, 500, 100)[:, 150:-150]).max() < 2e-3


def test_gaps_neither_spread_nor_vanish(real_mv_lt):
    x = real_mv_lt.copy()
    x[0, 1000:1500] = np.nan
    x[1, 2003] = np.nan
    x[2] = np.nan
    out = condition(x, 500, 100, (BANDPASS,))
    missing = np.isnan(out)
    # Input 1000 to 1499: every output whose half step touches them, the one at 1500 included.
    assert np.flatnonzero(missing[0]).tolist() == list(range(200, 301))
    assert missing[1].sum() == 1
    assert missing[1, 401]
    assert missing[2].all()
    assert not missing[3:].any()
    # Far from the gap the filter gives what it gives without one.
    whole = condition(real_mv_lt, 500, 100, (BANDPASS,))
    assert np.abs(out[0, 600:] - whole[0, 600:]).max() < 0.02


def test_leads_stay_einthoven_after_conditioning(real_mv_lt):
    i, ii, iii = condition(real_mv_lt, 500, 100, (BANDPASS, NOTCH))[:3]
    before = np.abs(real_mv_lt[2] - (real_mv_lt[1] - real_mv_lt[0])).max()
    assert np.abs(iii - (ii - i)).max() < before + 0.002


@pytest.mark.parametrize("n_samples", [1, 2, 7, 100, 1999, 2001])
def test_records_shorter_than_the_padding(n_samples):
    x = np.random.default_rng(0).normal(size=(2, n_samples)).astype(np.float32)
    out = condition(x, 500, 100, (BANDPASS,))
    assert out.shape == (2, max(1, round(n_samples / 5)))
    assert np.isfinite(out).all()


def test_no_filter_and_no_new_rate_changes_nothing(real_mv_lt):
    np.testing.assert_array_equal(condition(real_mv_lt, 500, 500), real_mv_lt)
