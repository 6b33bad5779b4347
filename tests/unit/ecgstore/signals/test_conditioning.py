from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from scipy import signal as ss

from ecgstore import kernel
from ecgstore.errors import ConfigError
from ecgstore.signals import filters, transforms
from ecgstore.signals.conditioning import condition, condition_alike, condition_pieces, n_resampled
from ecgstore.signals.filters import bandpass, highpass, lowpass, median, neurokit, notch
from ecgstore.wfdb_io.samples import read_signal
from ecgstore.wfdb_io.segments import read_header

BANDPASS = bandpass.Settings(low_hz=0.5, high_hz=40)
NOTCH = notch.Settings(freq_hz=50)


@pytest.fixture(scope="module")
def real_mv_lt(mini):
    path = next(iter(sorted(mini.rglob("*.hea")))).with_suffix("")
    return read_signal(path, read_header(path, "r"), "r").signal_mv_lt


def filtered(signal_mv_lt, *sections):
    """Forwards and backwards at 16 times the rate, where a digital filter is the analogue one; 500 Hz in and out."""
    extended = np.pad(signal_mv_lt.astype(float), ((0, 0), (2000, 2000)), mode="reflect", reflect_type="odd")
    fine = ss.resample(extended, 16 * extended.shape[1], axis=1)
    for sos in sections:
        fine = ss.sosfiltfilt(sos, fine)
    return fine[:, ::16][:, 2000:-2000]


SOS_BANDPASS = ss.butter(3, [0.5, 40], "bandpass", fs=8000, output="sos")
SOS_NOTCH = ss.tf2sos(*ss.iirnotch(50, 30, fs=8000))


def test_filtering_equals_sosfiltfilt_on_a_real_record(real_mv_lt):
    reference = filtered(real_mv_lt[:4], SOS_BANDPASS, SOS_NOTCH)
    error_uv = (condition(real_mv_lt[:4], 500, 500, (BANDPASS, NOTCH)) - reference) * 1000
    assert np.sqrt((error_uv**2).mean()) < 0.3
    assert np.abs(error_uv[:, 250:-250]).max() < 2


def test_resampling_equals_resample_poly_inside_a_real_record(real_mv_lt):
    reference = ss.resample_poly(filtered(real_mv_lt[:4], SOS_BANDPASS), 1, 5, axis=1)
    error_uv = (condition(real_mv_lt[:4], 500, 100, (BANDPASS,)) - reference) * 1000
    assert np.sqrt((error_uv[:, 50:-50] ** 2).mean()) < 1


@pytest.mark.parametrize(
    ("fs_hz", "target_hz"),
    [(500, 100), (360, 100), (257, 100), (1000, 500), (100, 500), (250, 240), (360, 250), (1000, 100), (249.89, 100)],
)
def test_a_sine_stays_the_same_sine_at_any_rate(fs_hz, target_hz):
    def sine(rate, n):
        return np.sin(2 * np.pi * 7 * np.arange(n) / rate + 0.3)[None].astype(np.float32)

    n_in = int(10 * fs_hz)
    n_out = n_resampled(n_in, fs_hz, target_hz)
    out = condition(sine(fs_hz, n_in), fs_hz, target_hz)
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


def test_leads_that_are_absent_cost_nothing_and_change_nothing(real_mv_lt, monkeypatch):
    bands_hz, envelope_hz = ((0.0, 0.5), (49.0, 51.0)), (20.0, 50.0)
    there = [1, 4, 7]
    few_lt = np.full_like(real_mv_lt, np.nan)
    few_lt[there] = real_mv_lt[there]
    few_lt[4, 100:110] = np.nan
    alone = condition_alike([few_lt[there]], 500, 100, (BANDPASS,), bands_hz, envelope_hz)
    transformed, really = [], transforms.rfft
    monkeypatch.setattr(transforms, "rfft", lambda x: [transformed.append(len(x)), really(x)][1])
    among = condition_alike([few_lt], 500, 100, (BANDPASS,), bands_hz, envelope_hz)
    assert set(transformed) == {3}
    absent = [lead for lead in range(12) if lead not in there]
    for all_l, its_l in (
        (among.signal_mv_lt, alone.signal_mv_lt),
        (among.band_power_mv2_lb, alone.band_power_mv2_lb),
        (among.envelope.power_mv2_lp, alone.envelope.power_mv2_lp),
    ):
        np.testing.assert_array_equal(all_l[there], its_l)
    assert np.isnan(among.signal_mv_lt[absent]).all()
    assert np.isnan(among.envelope.power_mv2_lp[absent]).all()
    assert not among.band_power_mv2_lb[absent].any()
    (_, piece_lt), *others = condition_pieces(lambda a, b: few_lt[:, a:b], 5000, 500, 100, (BANDPASS,))
    assert not others
    np.testing.assert_array_equal(piece_lt, among.signal_mv_lt)
    assert set(transformed) == {3}


def test_leads_stay_einthoven_after_conditioning(real_mv_lt):
    i, ii, iii = condition(real_mv_lt, 500, 100, (BANDPASS, NOTCH))[:3]
    before = np.abs(real_mv_lt[2] - (real_mv_lt[1] - real_mv_lt[0])).max()
    assert np.abs(iii - (ii - i)).max() < before + 0.002


@pytest.mark.parametrize(("left", "right"), [(3, 4), (50, 41), (0, 9)])
def test_records_are_reflected_about_their_ends_again_and_again(left, right):
    x = np.random.default_rng(0).normal(size=(3, 11)).astype(np.float32)
    expected = np.pad(x, ((0, 0), (left, right)), mode="reflect", reflect_type="odd")
    np.testing.assert_allclose(kernel.decimate([x[:1], x[1:]], left, left + 11 + right)[0], expected, atol=1e-5)


@pytest.mark.parametrize("n_samples", [1, 2, 7, 100, 1999, 2001])
def test_records_shorter_than_the_padding(n_samples):
    x = np.random.default_rng(0).normal(size=(2, n_samples)).astype(np.float32)
    out = condition(x, 500, 100, (BANDPASS,))
    assert out.shape == (2, max(1, round(n_samples / 5)))
    assert np.isfinite(out).all()


def test_no_filter_and_no_new_rate_changes_nothing(real_mv_lt):
    np.testing.assert_array_equal(condition(real_mv_lt, 500, 500), real_mv_lt)


def test_hum_at_half_the_new_rate_goes_wherever_it_stands_exactly():
    t = np.arange(5000) / 500
    for freq_hz in (49.95, 50.0, 50.05):
        x = np.sin(2 * np.pi * freq_hz * t)[None].astype(np.float32)
        assert np.abs(condition(x, 500, 100)[:, 150:-150]).max() < 0.1


def test_a_rate_such_as_249_89_hz_needs_no_minutes_of_padding():
    from ecgstore.signals.conditioning import _frame, _ratio

    ratio = _ratio(2499, 249.89, 100)
    assert abs(float(ratio) - 100 / 249.89) * 2499 < 1e-4
    assert _frame(2499, 249.89, ratio, 4).n_fft < 30_000
    assert _ratio(2500, 499.99999, 100) == pytest.approx(0.2)
    assert _ratio(2500, 499.99999, 100).denominator == 5


def padding_s(chain, duration_s):
    from ecgstore.signals.conditioning import _padding_s

    return _padding_s(chain, duration_s)


def test_the_padding_grows_with_the_slowest_filter_and_with_the_record():
    assert padding_s((), 10) == padding_s((BANDPASS, NOTCH), 10) == 4
    assert padding_s((highpass.Settings(freq_hz=0.05),), 10) == pytest.approx(36.6, abs=0.1)
    assert padding_s((highpass.Settings(freq_hz=0.001),), 10) == 50
    # So that neither end of a long record acts on the other.
    assert padding_s((BANDPASS, NOTCH), 60) == 6
    assert padding_s((BANDPASS, NOTCH), 3600) == 10
    assert padding_s((highpass.Settings(freq_hz=0.001),), 100_000) == pytest.approx(3665, abs=1)


def test_a_diagnostic_high_pass_sees_the_reflected_record_far_beyond_its_ends(real_mv_lt):
    sos = ss.butter(3, 0.05, "highpass", fs=500, output="sos")
    far = 60_000
    extended = np.pad(real_mv_lt.astype(float), ((0, 0), (far, far)), mode="reflect", reflect_type="odd")
    reference = ss.sosfiltfilt(sos, extended)[:, far:-far]
    error_uv = 1000 * np.abs(condition(real_mv_lt, 500, 500, (highpass.Settings(freq_hz=0.05),)) - reference)
    longest_uv = 1000 * np.abs(ss.sosfiltfilt(sos, real_mv_lt.astype(float), padlen=4999) - reference)
    assert error_uv.max() < 20
    assert error_uv.max() < 0.25 * longest_uv.max()


# --- chains -------------------------------------------------------------------------------------------------------


def test_filters_act_in_the_order_given(real_mv_lt):
    smoothed = condition(real_mv_lt, 500, 500, (BANDPASS,))
    expected = smoothed - ndimage.median_filter(
        ndimage.median_filter(smoothed, size=101, axes=(1,)), size=301, axes=(1,)
    )
    one_way = condition(real_mv_lt, 500, 500, (BANDPASS, median.Settings()))
    np.testing.assert_allclose(one_way, expected, atol=1e-6)
    other_way = condition(real_mv_lt, 500, 500, (median.Settings(), BANDPASS))
    expected = condition(median.stage(real_mv_lt, 500, median.Settings()), 500, 500, (BANDPASS,))
    np.testing.assert_array_equal(other_way, expected)
    assert np.abs(one_way - other_way).max() > 0.01


def test_the_last_pass_brings_the_new_rate(real_mv_lt):
    stage = median.Settings()
    cleaned = median.stage(real_mv_lt, 500, stage)
    np.testing.assert_array_equal(condition(real_mv_lt, 500, 100, (stage,)), condition(cleaned, 500, 100))
    np.testing.assert_array_equal(
        condition(real_mv_lt, 500, 100, (stage, BANDPASS, NOTCH)), condition(cleaned, 500, 100, (BANDPASS, NOTCH))
    )
    # A stage between curves: the first pass keeps the rate.
    between = median.stage(condition(real_mv_lt, 500, 500, (NOTCH,)), 500, stage)
    np.testing.assert_array_equal(
        condition(real_mv_lt, 500, 100, (NOTCH, stage, BANDPASS)), condition(between, 500, 100, (BANDPASS,))
    )


def test_neighbouring_curves_make_one_curve(real_mv_lt):
    apart = condition(condition(real_mv_lt, 500, 500, (highpass.Settings(),)), 500, 500, (lowpass.Settings(),))
    together = condition(real_mv_lt, 500, 500, (highpass.Settings(), lowpass.Settings()))
    assert np.abs(apart - together)[:, 500:-500].max() < 0.001
    # High-pass and low-pass make the band-pass, but for what the edges do to each other.
    assert np.abs(together - condition(real_mv_lt, 500, 500, (BANDPASS,))).max() < 0.05


@pytest.mark.parametrize("chain", [(median.Settings(),), (BANDPASS, median.Settings()), (neurokit.Settings(),)])
def test_gaps_stay_gaps_through_stages(chain, real_mv_lt):
    x = real_mv_lt[:3].copy()
    x[0, 1000:1500] = np.nan
    x[2] = np.nan
    for target_hz in (500, 100):
        out = condition(x, 500, target_hz, chain)
        plain = condition(x, 500, target_hz, (BANDPASS,))
        np.testing.assert_array_equal(np.isnan(out), np.isnan(plain))
        assert np.isnan(out).any(axis=1).tolist() == [True, False, True]


def test_a_stage_that_changes_the_shape_is_refused(real_mv_lt, monkeypatch):
    monkeypatch.setattr(filters.median, "stage", lambda signal_mv_lt, fs_hz, settings: signal_mv_lt[:, 1:])
    with pytest.raises(ConfigError, match=r"keep the shape.*filter median.*expected \(12, 5000\), got \(12, 4999\)"):
        condition(real_mv_lt, 500, 500, (median.Settings(),))


# --- batches and by-products --------------------------------------------------------------------------------------

BANDS_HZ = ((0.0, 0.5), (49.0, 51.0), (59.0, 61.0), (100.0, float("inf")))


@pytest.mark.parametrize("chain", [(), (BANDPASS, NOTCH), (median.Settings(), BANDPASS)])
@pytest.mark.parametrize("target_hz", [500, 100])
def test_neither_company_nor_bands_change_a_value(chain, target_hz, real_mv_lt):
    other = real_mv_lt[::-1].copy()
    other[3, 100:200] = np.nan
    together = condition_alike([real_mv_lt, other], 500, target_hz, chain, BANDS_HZ)
    alone = [condition(one, 500, target_hz, chain) for one in (real_mv_lt, other)]
    np.testing.assert_array_equal(together.signal_mv_lt, np.concatenate(alone))
    assert together.band_power_mv2_lb is not None
    assert together.band_power_mv2_lb.shape == (24, 4)
    powers = [condition_alike([one], 500, target_hz, chain, BANDS_HZ).band_power_mv2_lb for one in (real_mv_lt, other)]
    np.testing.assert_allclose(together.band_power_mv2_lb, np.concatenate(powers), rtol=1e-4)
    assert condition_alike([real_mv_lt], 500, target_hz, chain).band_power_mv2_lb is None


def power(signal_mv_t, bands_hz=BANDS_HZ, fs_hz=500):
    out = condition_alike([np.asarray(signal_mv_t, dtype=np.float32)[None]], fs_hz, fs_hz, (), bands_hz)
    return out.band_power_mv2_lb[0]


@pytest.mark.parametrize(("freq_hz", "band"), [(0.3, 0), (50, 1), (60.4, 2), (170, 3), (249, 3)])
def test_a_sine_has_half_its_squared_amplitude_in_its_band_alone(freq_hz, band):
    t = np.arange(10_000) / 500
    found = power(0.2 * np.sin(2 * np.pi * freq_hz * t + 0.1) + 1.5)
    assert found[band] == pytest.approx(0.02, rel=0.1)
    assert np.delete(found, band).max() < 0.02 * 0.02


def test_power_adds_up_over_bands_to_the_variance():
    noise_mv_t = np.random.default_rng(0).normal(0, 0.1, 5000)
    found = power(noise_mv_t, ((0.0, 30.0), (30.0, 100.0), (100.0, 250.0), (250.0, np.inf), (300.0, 400.0), (7.0, 7.0)))
    assert found[:4].sum() == pytest.approx(0.01, rel=0.05)
    np.testing.assert_allclose(found[:3], [0.0012, 0.0028, 0.006], rtol=0.15)
    # Of the last bin, at exactly half the rate, there is one; above it there is nothing.
    assert found[3] < 1e-5
    assert found[4] == found[5] == 0


@pytest.mark.parametrize("n_samples", [40, 41, 300])
def test_power_over_all_frequencies_is_the_variance_of_the_extended_and_closed_signal(n_samples):
    from fractions import Fraction

    from ecgstore.signals.conditioning import _frame

    x = np.random.default_rng(0).normal(size=(1, n_samples)).astype(np.float32)
    frame = _frame(n_samples, 10, Fraction(1), 4)
    closed = kernel.decimate([x], frame.left, frame.n_fft)[0][0].astype(float)
    half = (closed[0] - closed[-1]) / 4 * (1 + np.cos(np.pi * (np.arange(10) + 0.5) / 10))
    closed[:10] -= half
    closed[-10:] += half[::-1]
    assert power(x[0], ((1e-9, np.inf),), 10)[0] == pytest.approx(closed.var(), rel=1e-4)


def test_noise_is_measured_below_a_wander_and_wander_beside_an_r_peak():
    t = np.arange(5000) / 500
    noise = np.random.default_rng(0).normal(0, 0.005, 5000)
    quiet, wandering = power(noise), power(noise + 3 * np.sin(2 * np.pi * 0.07 * t + 0.5))
    assert wandering[3] == pytest.approx(quiet[3], rel=0.03)
    assert wandering[0] > 1
    # A record that begins at the height of an R peak has no wander for it.
    beats = sum(np.exp(-(((t - at) / 0.012) ** 2) / 2) for at in np.arange(0, 10, 0.8))
    assert np.sqrt(power(beats)[0]) < 0.2  # of 0.6 with the padding


def test_power_follows_a_filtered_reference_on_a_real_record(real_mv_lt):
    found = condition_alike([real_mv_lt], 500, 100, (BANDPASS,), BANDS_HZ).band_power_mv2_lb
    high = ss.sosfiltfilt(ss.butter(8, 100, "highpass", fs=500, output="sos"), real_mv_lt.astype(float))
    np.testing.assert_allclose(np.sqrt(found[:, 3]), high[:, 50:-50].std(axis=1), rtol=0.2)


def test_a_lead_without_samples_has_no_power(real_mv_lt):
    x = real_mv_lt.copy()
    x[4] = np.nan
    x[5, 2000:2500] = np.nan
    found = condition_alike([x], 500, 500, (), BANDS_HZ)
    assert not found.band_power_mv2_lb[4].any()
    assert (found.band_power_mv2_lb[5] > 0).all()
    np.testing.assert_array_equal(found.signal_mv_lt, x)


@pytest.mark.parametrize("fs_hz", [249.999872, 250.00001, 249.9995, 499.9999, 99.99999, 360.0001])
def test_a_rate_next_to_a_simple_one_costs_as_that_does(fs_hz):
    from ecgstore.signals.conditioning import _frame, _ratio, slip_s

    n, simple_hz = round(10 * fs_hz), round(fs_hz)
    near, simple = (_frame(n, rate_hz, _ratio(n, rate_hz, 100), 4) for rate_hz in (fs_hz, simple_hz))
    assert near.n_fft == simple.n_fft
    assert n_resampled(n, fs_hz, 100) == 1000
    assert abs(slip_s(n, fs_hz, 100)) < 1e-4


@pytest.mark.parametrize("n_in", [1, 100, 2500, 39_000, 200_000, 1_000_000, 40_000_000])
@pytest.mark.parametrize(
    "fs_hz", [0.001, 0.37, 100.00001, 100.00025, 100.005, 249.999872, 257.3141, 500.00124, 999.99, 99_999.7, 1e5]
)
def test_a_transform_is_not_much_longer_than_its_record_whatever_the_rate(n_in, fs_hz):
    from ecgstore.signals.conditioning import _frame, _ratio, slip_s, true_hz

    ratio = _ratio(n_in, fs_hz, 100)
    assert ratio > 0
    assert _frame(n_in, fs_hz, ratio, 4).n_fft < 2 * n_in + 20 * fs_hz + 900_000
    # What slips is the difference between the stated rate and the true one, over the whole record.
    late_s = n_in / fs_hz * (1 - true_hz(n_in, fs_hz, 100) / 100)
    assert slip_s(n_in, fs_hz, 100) == pytest.approx(late_s, rel=1e-3, abs=1e-9 + 1e-15 * n_in / fs_hz)
    assert abs(late_s) < (0.01 if n_in <= 200_000 else 2.6e-6 * n_in / fs_hz)


def test_an_envelope_tells_when_a_band_is_strong():
    """A tone of 2 mV in the middle of the band, from 4 to 6 s; a gap from 8 to 9 s; another lead with nothing in it."""
    t = np.arange(5000) / 500
    tone_t = 2 * np.sin(2 * np.pi * 35 * t) * ((t >= 4) & (t < 6))
    signal_lt = np.stack([tone_t, np.sin(2 * np.pi * 8 * t)]).astype(np.float32)
    signal_lt[0, 4000:4500] = np.nan
    found = condition_alike([signal_lt], 500, 100, envelope_hz=(20, 50)).envelope
    power_lp = found.power_mv2_lp
    points_s = np.linspace(0, 10, power_lp.shape[1], endpoint=False)
    assert power_lp.shape[1] == pytest.approx(300, rel=0.1)
    np.testing.assert_allclose(power_lp[0, (points_s > 4.2) & (points_s < 5.8)], 2, rtol=0.01)
    quiet = (points_s < 3.8) | (points_s > 6.2) & (points_s < 7.9) | (points_s > 9.1)
    assert power_lp[0, quiet].max() < 1e-3
    assert np.isnan(power_lp[0, (points_s > 8.1) & (points_s < 8.9)]).all()
    assert np.isnan(power_lp).mean() == pytest.approx(0.05, abs=0.005)
    assert power_lp[1].max() < 1e-3
    # White noise of 1 mV²/Hz has as much as the squared gain holds: 3/8 of the band.
    assert found.width_hz == pytest.approx(30 * 3 / 8, rel=0.01)
    slow = condition_alike([signal_lt[:, ::10]], 50, 50, envelope_hz=(20, 50)).envelope
    assert 0 < slow.width_hz < 0.1
    assert condition_alike([signal_lt], 40, 40, envelope_hz=(20, 50)).envelope.power_mv2_lp.shape[0] == 2
