"""A lower rate before the transform: nothing folds back, and what is kept comes out as it was."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ecgstore.kernel import plain
from ecgstore.signals import conditioning, decimation
from ecgstore.signals.filters import bandpass

RATES = [(500.0, 61.0, 3), (1000.0, 61.0, 5), (360.0, 61.0, 2), (400.0, 61.0, 2), (2000.0, 61.0, 8), (1000.0, 125.0, 3)]


@pytest.mark.parametrize(("fs_hz", "highest_hz", "factor"), RATES)
def test_the_filter_keeps_100_db_of_what_folds_back_out(fs_hz, highest_hz, factor):
    found = decimation.decimation(fs_hz, highest_hz)
    assert found.factor == factor
    taps = np.array([*found.half, *found.half[-2::-1]])
    response = np.abs(np.fft.rfft(taps, 1 << 16))
    at_hz = np.fft.rfftfreq(1 << 16, 1 / fs_hz)
    assert response[0] == pytest.approx(1.0, abs=1e-6)
    # Taps of float32 add 1e-7 or so to the 1e-5 of the design.
    assert response[at_hz >= fs_hz / factor - highest_hz].max() < 1.02e-5
    assert response[at_hz <= highest_hz].min() > 1 / 21
    undone = decimation.undo(found, at_hz[at_hz <= highest_hz] / fs_hz)
    np.testing.assert_allclose(undone * response[at_hz <= highest_hz], factor, rtol=1e-5)


@pytest.mark.parametrize(("fs_hz", "highest_hz"), [(500.0, 250.0), (250.0, 61.0), (500.0, math.inf), (100.0, 50.0)])
def test_nothing_is_left_out_where_all_is_wanted(fs_hz, highest_hz):
    assert decimation.decimation(fs_hz, highest_hz) == decimation.NONE


@pytest.mark.parametrize(("fs_hz", "highest_hz", "factor"), RATES)
def test_the_lower_spectrum_comes_out_as_it_was(fs_hz, highest_hz, factor):
    found = decimation.decimation(fs_hz, highest_hz)
    n = factor * 1500
    signal_lt = np.random.default_rng(3).standard_normal((2, n)).astype(np.float32)
    lower_lm, _ = plain.decimate([signal_lt], 0, n, factor, found.half)
    wanted_lf = np.fft.rfft(signal_lt.astype(np.float64))
    bins = np.arange(int(highest_hz * n / fs_hz) + 1)
    found_lf = np.fft.rfft(lower_lm.astype(np.float64))[:, bins] * decimation.undo(found, bins / n)
    # White noise is the worst there is: all that folds back is as strong as what is kept.
    size = np.sqrt(np.mean(np.abs(wanted_lf) ** 2))
    assert np.abs(found_lf - wanted_lf[:, bins]).max() < 1e-3 * size


@pytest.mark.parametrize("fs_hz", [500.0, 1000.0, 360.0, 2000.0])
def test_conditioning_gives_what_the_whole_spectrum_gives(fs_hz, monkeypatch):
    random = np.random.default_rng(5)
    signal_lt = random.standard_normal((3, int(10 * fs_hz))).astype(np.float32)
    signal_lt[1, 700:720] = np.nan
    arguments = (
        [signal_lt],
        fs_hz,
        100.0,
        (bandpass.Settings(low_hz=0.5, high_hz=40.0),),
        ((0.0, 0.5), (49.0, 51.0)),
        (20.0, 50.0),
    )
    found = conditioning.condition_alike(*arguments)
    monkeypatch.setattr(conditioning, "decimation", lambda fs_hz, highest_hz: decimation.NONE)
    wanted = conditioning.condition_alike(*arguments)
    # Noise of 1 mV up to half the rate; the rest of an ECG is far below it.
    np.testing.assert_allclose(found.signal_mv_lt, wanted.signal_mv_lt, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found.band_power_mv2_lb, wanted.band_power_mv2_lb, rtol=2e-3)
    power, wanted_power = found.envelope.power_mv2_lp, wanted.envelope.power_mv2_lp
    np.testing.assert_allclose(power, wanted_power, rtol=0, atol=1e-3 * float(np.nanmax(wanted_power)))


def test_what_is_told_does_not_change_what_comes_out():
    signal_lt = np.random.default_rng(1).standard_normal((2, 5000)).astype(np.float32)
    plainly = conditioning.condition(signal_lt, 500.0, 100.0)
    for bands_hz in (((0.0, 0.5),), ((100.0, math.inf),), ((0.0, 61.0),), ((0.0, 90.0),)):
        told = conditioning.condition_alike([signal_lt], 500.0, 100.0, (), bands_hz)
        np.testing.assert_array_equal(told.signal_mv_lt, plainly)
