from __future__ import annotations

import numpy as np
import pytest

from ecgstore.errors import ConfigError
from ecgstore.signals.conditioning import condition, condition_pieces, halo_s
from ecgstore.signals.filters import bandpass, highpass, lowpass, median, neurokit, notch

BANDPASS, NOTCH = bandpass.Settings(low_hz=0.5, high_hz=40), notch.Settings(freq_hz=50)


def ecg_like(fs_hz, duration_s, n_leads=1, seed=0, mains_mv=0.05):
    """Beats of 1.2 mV at uneven intervals, 3 mV of drift, mains next to 50 Hz, 10 µV of noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(fs_hz * duration_s)) / fs_hz
    signal_lt = np.zeros((n_leads, t.size))
    beats = np.cumsum(rng.normal(0.8, 0.05, int(duration_s / 0.7)))
    for height_mv, width_s, delay_s in ((1.2, 0.012, 0), (-0.3, 0.012, 0.035), (0.15, 0.03, -0.16), (0.3, 0.06, 0.28)):
        for at in beats + delay_s:
            near = slice(*np.clip([(at - 0.4) * fs_hz, (at + 0.4) * fs_hz], 0, t.size).astype(int))
            signal_lt[:, near] += height_mv * np.exp(-(((t[near] - at) / width_s) ** 2) / 2)
    signal_lt *= np.linspace(1, 2, n_leads)[:, None]
    signal_lt += 2 * np.sin(2 * np.pi * 0.03 * t + np.arange(n_leads)[:, None]) + np.sin(2 * np.pi * t / 700)
    signal_lt += mains_mv * np.sin(2 * np.pi * 50.02 * t + 0.3) + rng.normal(0, 0.01, signal_lt.shape)
    return signal_lt.astype(np.float32)


def in_pieces(signal_mv_lt, fs_hz, target_hz, filters, piece_s, calls=None):
    def read(start, stop):
        assert 0 <= start < stop <= signal_mv_lt.shape[1]
        if calls is not None:
            calls.append((start, stop))
        return signal_mv_lt[:, start:stop]

    parts, at = [], 0
    for first, part_mv_lt in condition_pieces(read, signal_mv_lt.shape[1], fs_hz, target_hz, filters, piece_s):
        assert first == at
        assert part_mv_lt.dtype == np.float32
        at += part_mv_lt.shape[1]
        parts.append(part_mv_lt)
    return np.concatenate(parts, axis=1)


def worst_uv(signal_mv_lt, fs_hz, target_hz, filters, piece_s, calls=None):
    whole = condition(signal_mv_lt, fs_hz, target_hz, filters)
    pieces = in_pieces(signal_mv_lt, fs_hz, target_hz, filters, piece_s, calls)
    np.testing.assert_array_equal(np.isnan(pieces), np.isnan(whole))
    return 1000 * np.nanmax(np.abs(pieces - whole))


@pytest.mark.parametrize(
    ("fs_hz", "target_hz", "filters", "duration_s", "piece_s"),
    [
        (500, 100, (BANDPASS, NOTCH), 1800, 300),
        (360, 100, (BANDPASS, NOTCH), 600, 61),
        (257, 100, (BANDPASS, NOTCH), 600, 60),
        (249.89, 100, (BANDPASS, NOTCH), 900, 60),
        (100, 500, (BANDPASS, NOTCH), 300, 30),
        (360, 250, (NOTCH,), 300, 30),
        (1000, 100, (NOTCH, lowpass.Settings(freq_hz=30, order=10), highpass.Settings(order=10)), 300, 20),
        (500, 500, (highpass.Settings(freq_hz=0.05),), 1800, 300),
        (500, 250, (bandpass.Settings(low_hz=0.05, high_hz=150),), 1000, 100),
        (500, 100, (median.Settings(), NOTCH, BANDPASS), 150, 30),
        (250, 250, (BANDPASS, median.Settings()), 150, 30),
        (250, 100, (NOTCH, neurokit.Settings(), BANDPASS), 250, 60),
    ],
)
def test_pieces_equal_the_whole_record_within_a_microvolt(fs_hz, target_hz, filters, duration_s, piece_s):
    signal_mv_lt = ecg_like(fs_hz, duration_s)
    calls = []
    assert worst_uv(signal_mv_lt, fs_hz, target_hz, filters, piece_s, calls) < 1
    # Not by reading it all at once.
    # (Of 24989 samples at 249.89 Hz, 100 s, only one stands on an output sample.)
    slack_s = 300 if fs_hz == 249.89 else 2
    assert max(stop - start for start, stop in calls) / fs_hz <= piece_s + 2 * halo_s(filters) + slack_s < duration_s


def test_without_filter_and_new_rate_pieces_are_what_was_read():
    signal_mv_lt = ecg_like(100, 60)
    signal_mv_lt[0, 100:200] = np.nan
    np.testing.assert_array_equal(in_pieces(signal_mv_lt, 100, 100, (), 7), signal_mv_lt)


@pytest.mark.parametrize(("fs_hz", "target_hz", "seed"), [(250, 100, 0), (360, 100, 1), (100, 250, 2), (257, 100, 3)])
def test_gaps_are_those_of_the_whole_record(fs_hz, target_hz, seed):
    signal_mv_lt = ecg_like(fs_hz, 400, 5, seed)
    signal_mv_lt[0, int(58 * fs_hz) : int(121.3 * fs_hz)] = np.nan  # longer than a piece and its halo
    signal_mv_lt[0, [0, -1]] = np.nan
    signal_mv_lt[1, : 65 * fs_hz] = np.nan
    signal_mv_lt[1, 300 * fs_hz :] = np.nan  # never comes back
    signal_mv_lt[2] = np.nan
    rng = np.random.default_rng(seed)
    for lead, length_s in ((0, 1), (3, 20), (3, 1), (4, 8)):
        for at in rng.uniform(0, 390, 6):
            signal_mv_lt[lead, int(at * fs_hz) : int((at + rng.exponential(length_s)) * fs_hz)] = np.nan
    signal_mv_lt[4, 200 * fs_hz] = np.inf
    for piece_s in (60, 30):
        assert worst_uv(signal_mv_lt, fs_hz, target_hz, (BANDPASS, NOTCH), piece_s) < 1


def test_a_gap_is_looked_behind_only_once():
    signal_mv_lt = ecg_like(100, 2000, 2)
    signal_mv_lt[0, 100 * 100 : 1900 * 100] = np.nan
    signal_mv_lt[1, 1000 * 100 :] = np.nan
    calls = []
    assert worst_uv(signal_mv_lt, 100, 50, (BANDPASS,), 100, calls) < 1
    read = sum(stop - start for start, stop in calls) / signal_mv_lt.shape[1]
    assert read < 1.2 + 0.9 + 0.5  # pieces and their halos, once to the end of each gap


def test_an_absent_lead_costs_no_second_reading():
    signal_mv_lt = ecg_like(100, 1000, 2)
    signal_mv_lt[1] = np.nan
    calls = []
    in_pieces(signal_mv_lt, 100, 50, (BANDPASS,), 100, calls)
    assert sum(stop - start for start, stop in calls) < 1.25 * signal_mv_lt.shape[1]


@pytest.mark.parametrize(
    ("filters", "duration_s"),
    [((BANDPASS,), 99), ((highpass.Settings(freq_hz=0.05),), 700), ((neurokit.Settings(method="biosppy"),), 150)],
)
def test_what_can_not_be_divided_goes_in_one_piece(filters, duration_s):
    signal_mv_lt = ecg_like(100, duration_s)
    calls = []
    assert worst_uv(signal_mv_lt, 100, 50, filters, 20, calls) == 0
    assert calls == [(0, signal_mv_lt.shape[1])]


@pytest.mark.parametrize(("fs_hz", "target_hz"), [(500, 100), (100, 500), (360, 100)])
def test_hum_at_half_the_lower_rate_rings_no_further_than_the_halo(fs_hz, target_hz):
    """A sharp cut of the spectrum at 50 Hz would ring on: 15 µV at the joints, of 50 µV of hum."""
    assert worst_uv(ecg_like(fs_hz, 300), fs_hz, target_hz, (), 30) < 1


def test_a_halo_grows_with_what_the_filters_remember():
    assert halo_s(()) == halo_s((NOTCH,)) == halo_s((BANDPASS, NOTCH)) == 10
    assert halo_s((highpass.Settings(freq_hz=0.05),)) == pytest.approx(73.3, abs=0.1)
    assert halo_s((highpass.Settings(freq_hz=0.5, order=10),)) == pytest.approx(23.4, abs=0.1)
    assert halo_s((highpass.Settings(freq_hz=0.05), median.Settings())) == pytest.approx(73.7, abs=0.1)
    assert halo_s((BANDPASS, neurokit.Settings(method="elgendi2010"))) is None


@pytest.mark.parametrize("piece_s", [0, -1, float("nan")])
def test_a_piece_lasts_some_time(piece_s):
    with pytest.raises(ConfigError, match="must last some time"):
        next(condition_pieces(lambda start, stop: np.zeros((1, stop - start), np.float32), 10, 1, 1, (), piece_s))
