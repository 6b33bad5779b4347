from __future__ import annotations

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ecgstore.signals.conditioning import condition, condition_alike, condition_pieces, n_resampled
from ecgstore.signals.filters import bandpass, highpass, lowpass, median, notch

RATES_HZ = st.sampled_from([100.0, 125.0, 128.0, 249.89, 250.0, 257.0, 360.0, 500.0, 1000.0])
CURVES = st.lists(
    st.one_of(
        st.builds(highpass.Settings, freq_hz=st.floats(0.3, 5), order=st.integers(1, 5)),
        st.builds(lowpass.Settings, freq_hz=st.floats(15, 200), order=st.integers(1, 5)),
        st.builds(notch.Settings, freq_hz=st.sampled_from([50.0, 60.0]), harmonics=st.integers(1, 4)),
        st.builds(bandpass.Settings, low_hz=st.floats(0.3, 5), high_hz=st.floats(20, 200), order=st.integers(1, 4)),
    ),
    max_size=3,
)


def noise(n_leads, n_samples, seed=0):
    return np.random.default_rng(seed).normal(0, 0.3, (n_leads, n_samples)).astype(np.float32)


@settings(max_examples=40)
@given(RATES_HZ, RATES_HZ, st.floats(1, 40), st.floats(0, 6.28), st.floats(0.1, 5))
def test_a_sine_keeps_amplitude_and_phase_at_any_rate(fs_hz, target_hz, freq_hz, phase, amplitude_mv):
    n_in = int(10 * fs_hz)
    n_out = n_resampled(n_in, fs_hz, target_hz)
    before, after = (
        (amplitude_mv * np.sin(2 * np.pi * freq_hz * np.arange(n) / rate + phase))[None].astype(np.float32)
        for n, rate in ((n_in, fs_hz), (n_out, target_hz))
    )
    out = condition(before, fs_hz, target_hz)
    assert out.shape == (1, n_out)
    inner = slice(n_out // 5, -n_out // 5)
    np.testing.assert_allclose(out[:, inner], after[:, inner], atol=5e-3 * amplitude_mv)


@settings(max_examples=40)
@given(st.integers(1, 3000), RATES_HZ, RATES_HZ, CURVES)
def test_every_length_gives_its_length_and_no_gap(n_samples, fs_hz, target_hz, chain):
    out = condition(noise(2, n_samples), fs_hz, target_hz, tuple(chain))
    assert out.shape == (2, n_resampled(n_samples, fs_hz, target_hz))
    assert np.isfinite(out).all()


@settings(max_examples=40)
@given(CURVES, st.floats(-3, 3), RATES_HZ)
def test_curves_are_linear(chain, factor, target_hz):
    one, other = noise(1, 1500), noise(1, 1500, seed=1)
    mixed, *apart = (condition(x, 250, target_hz, tuple(chain)) for x in (one + factor * other, one, other))
    np.testing.assert_allclose(mixed, apart[0] + factor * apart[1], atol=2e-5)


@settings(max_examples=40)
@given(CURVES)
def test_curves_have_no_direction_in_time(chain):
    signal_mv_lt = noise(1, 2000)
    backwards = condition(signal_mv_lt[:, ::-1].copy(), 250, 250, tuple(chain))[:, ::-1]
    np.testing.assert_allclose(condition(signal_mv_lt, 250, 250, tuple(chain)), backwards, atol=5e-4)


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 999), st.integers(1, 300)), max_size=4),
    st.sampled_from([(250.0, 100.0), (100.0, 250.0), (360.0, 100.0), (250.0, 250.0)]),
    st.sampled_from([(), (bandpass.Settings(),), (median.Settings(),)]),
)
def test_a_gap_is_missing_where_it_was_and_nowhere_else(gaps, rates_hz, chain):
    fs_hz, target_hz = rates_hz
    signal_mv_lt = noise(2, 1000)
    for start, length in gaps:
        signal_mv_lt[0, start : start + length] = np.nan
    out = condition(signal_mv_lt, fs_hz, target_hz, chain)
    assert np.isfinite(out[1]).all()
    missing = np.flatnonzero(np.isnan(signal_mv_lt[0])) / fs_hz
    at = np.arange(out.shape[1]) / target_hz
    distance = np.abs(at[:, None] - missing).min(axis=1) if missing.size else np.full(at.size, np.inf)
    half_s = max(1 / fs_hz, 1 / target_hz) / 2
    assert np.isnan(out[0, distance < half_s * 0.999]).all()
    # Behind the last input sample, upsampled, the last one is the nearest.
    assert np.isfinite(out[0, (distance > half_s * 1.001) & (at <= 999 / fs_hz)]).all()


@settings(max_examples=30)
@given(
    st.integers(11_000, 20_000),
    st.sampled_from([(50.0, 25.0), (50.0, 20.0), (36.0, 25.0), (25.0, 50.0), (50.0, 50.0), (51.4, 20.0)]),
    st.floats(1, 200),
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 19_999), st.integers(1, 8000)), max_size=5),
    st.sampled_from([(), (highpass.Settings(),), (median.Settings(), highpass.Settings(freq_hz=1, order=2))]),
)
def test_pieces_are_the_whole_record_whatever_their_length_and_its_gaps(n_samples, rates_hz, piece_s, gaps, chain):
    fs_hz, target_hz = rates_hz
    signal_mv_lt = noise(2, n_samples)
    signal_mv_lt += np.linspace(0, 3, n_samples, dtype=np.float32)
    for lead, start, length in gaps:
        signal_mv_lt[lead, start : start + length] = np.nan
    whole = condition(signal_mv_lt, fs_hz, target_hz, chain)
    assume(len(whole[0]) > 0)
    found = list(condition_pieces(lambda a, b: signal_mv_lt[:, a:b], n_samples, fs_hz, target_hz, chain, piece_s))
    assert [first for first, _ in found] == np.cumsum([0, *(part.shape[1] for _, part in found)])[:-1].tolist()
    pieces = np.concatenate([part for _, part in found], axis=1)
    np.testing.assert_array_equal(np.isnan(pieces), np.isnan(whole))
    np.testing.assert_allclose(pieces, whole, atol=1e-3)


@settings(max_examples=40)
@given(st.floats(20, 200), st.floats(0.01, 5), st.floats(0, 6.28), st.sampled_from([360.0, 500.0, 1000.0]))
def test_the_power_of_a_sine_is_in_its_band(freq_hz, amplitude_mv, phase, fs_hz):
    assume(freq_hz < 0.48 * fs_hz)
    t = np.arange(int(10 * fs_hz)) / fs_hz
    signal_mv_lt = (amplitude_mv * np.sin(2 * np.pi * freq_hz * t + phase))[None].astype(np.float32)
    bands_hz = ((freq_hz - 1, freq_hz + 1), (freq_hz + 1, float("inf")))
    within, above = condition_alike([signal_mv_lt], fs_hz, 100, (), bands_hz).band_power_mv2_lb[0]
    assert abs(within / (amplitude_mv**2 / 2) - 1) < 0.1
    assert above < 0.02 * within
