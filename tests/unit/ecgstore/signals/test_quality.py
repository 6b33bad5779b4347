"""Measures on made signals with known answers; suspicions on real records that were spoilt on purpose."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import scipy.signal

from ecgstore.record import LEADS_12, LeadState
from ecgstore.signals import quality, stretches
from ecgstore.signals.conditioning import condition, condition_alike
from ecgstore.storage.layout import MEASURES, NOT_RECORDED, mv_to_counts

FS = 500.0
M, D, A = LeadState.MEASURED, LeadState.DERIVED, LeadState.ABSENT
ALL_MEASURED = (M,) * 12


@pytest.fixture(scope="module")
def real(request: pytest.FixtureRequest) -> list[np.ndarray]:
    """The bundled records as float32 mV, (12, 5000) at 500 Hz."""
    folder = Path(__file__).parents[3] / "data" / "ptbxl_mini" / "records500"
    files = sorted(folder.rglob("*.dat"))
    return [np.fromfile(file, "<i2").reshape(-1, 12).T.astype(np.float32) / 1000 for file in files]


def judge(signal_lt, states=None, fs_hz=FS, leads=LEADS_12, power=None, steps=None):
    signal_lt = np.asarray(signal_lt, dtype=np.float32)
    states = states or (M,) * len(signal_lt)
    power = np.zeros((len(signal_lt), len(quality.BANDS_HZ))) if power is None else power
    steps = None if steps is None else [steps]
    return quality.judge([signal_lt], [states], fs_hz, power, envelope([signal_lt], fs_hz), leads, steps)[0]


def envelope(signals, fs_hz=FS):
    return condition_alike(signals, fs_hz, fs_hz, envelope_hz=quality.NOISE_HZ).envelope


def one_lead(signal_t, **more):
    """A record of one lead."""
    return judge(np.asarray(signal_t)[None], leads=("II",), **more)


def beats(n=5000, fs_hz=FS):
    """A pulse train: narrow peaks of 1 mV each second on a slow wave."""
    t = np.arange(n) / fs_hz
    return np.exp(-(((t % 1.0) - 0.5) ** 2) / (2 * 0.012**2)) + 0.1 * np.sin(2 * np.pi * 1.3 * t)


# --- measures ---------------------------------------------------------------------------------------------------


def test_a_flat_stretch_counts_with_its_share_of_the_record() -> None:
    signal_t = beats()
    signal_t[1000:1500] = signal_t[1000]
    assert one_lead(signal_t).per_lead["flat_fraction"][0] == pytest.approx(0.1, abs=0.004)


def test_a_stretch_shorter_than_a_fifth_of_a_second_is_not_flat() -> None:
    signal_t = beats()
    signal_t[1000:1090] = signal_t[1000]
    assert one_lead(signal_t).per_lead["flat_fraction"] == (0.0,)


def test_a_constant_lead_is_flat_and_not_clipped() -> None:
    found = one_lead(np.full(5000, 0.3)).per_lead
    assert found["flat_fraction"] == (1.0,)
    assert found["clipped_fraction"] == (0.0,)
    assert found["range_mv"] == (0.0,)


@pytest.mark.parametrize("sign", [1, -1])
def test_cut_off_peaks_are_clipped_and_whole_ones_are_not(sign: int) -> None:
    signal_t = sign * beats()
    cut_t = np.clip(signal_t, -0.5, 0.5)
    expected = np.mean(np.abs(cut_t) == 0.5)
    assert expected > 0.02
    assert one_lead(cut_t).per_lead["clipped_fraction"][0] == pytest.approx(expected, rel=0.01)
    assert one_lead(signal_t).per_lead["clipped_fraction"] == (0.0,)


def test_a_round_top_on_coarse_steps_is_not_clipped() -> None:
    signal_t = np.round(np.sin(2 * np.pi * 0.3 * np.arange(5000) / FS), 2)
    assert (signal_t == signal_t.max()).sum() > 100
    assert one_lead(signal_t).per_lead["clipped_fraction"] == (0.0,)


@pytest.mark.parametrize("sign", [1, -1])
def test_an_amplifier_that_drifts_into_saturation_is_seen(sign: int) -> None:
    """A wander of 6 mV that a rail at 2 mV cuts off: it comes and goes slowly, without a step."""
    t = np.arange(5000) / FS
    cut_t = np.minimum(6.0 * np.sin(2 * np.pi * 0.2 * t) + 0.01 * np.sin(2 * np.pi * 3 * t), 2.0)
    expected = np.mean(cut_t == 2.0)
    assert expected > 0.3
    assert one_lead(sign * cut_t).per_lead["clipped_fraction"][0] == pytest.approx(expected, rel=0.01)


def test_a_lead_that_is_saturated_for_most_of_the_time_is_seen() -> None:
    t = np.arange(10_000) / FS
    cut_t = np.minimum(8.0 * np.sin(2 * np.pi * t / 20), -1.0)
    assert np.mean(cut_t == -1.0) > 0.5
    assert one_lead(cut_t).per_lead["clipped_fraction"][0] == pytest.approx(np.mean(cut_t == -1.0), rel=0.05)


def test_a_constant_isoelectric_line_is_not_saturated() -> None:
    """A recorder makes small changes constant, and all waves of the lead point upwards."""
    t = np.arange(5000) / FS
    signal_t = np.maximum(np.exp(-(((t % 1.0) - 0.5) ** 2) / (2 * 0.06**2)) - 0.02, 0.0)
    assert np.mean(signal_t == 0.0) > 0.5
    assert one_lead(signal_t).per_lead["clipped_fraction"] == (0.0,)


def test_a_small_lead_on_coarse_steps_is_not_saturated() -> None:
    """A wave of seven steps stays for long on its highest one."""
    step_mv = 0.1
    signal_t = np.round(0.3 * np.sin(2 * np.pi * 0.3 * np.arange(5000) / FS) / step_mv) * step_mv
    found = [one_lead(signal_t, steps=steps).per_lead["clipped_fraction"][0] for steps in (None, [step_mv])]
    assert (found[0] > 0.2, found[1]) == (True, 0.0)


def test_rounding_to_coarse_steps_is_no_reason_to_doubt_the_limb_leads(real: list[np.ndarray]) -> None:
    step_mv = 0.2
    for signal_lt in real[:10]:
        i, ii = 4 * signal_lt[0], 4 * signal_lt[1]
        limb_lt = np.stack([np.round(lead / step_mv) * step_mv for lead in (i, ii, ii - i)])
        doubted, known = (
            judge(limb_lt, leads=("I", "II", "III"), steps=steps).suspects for steps in (None, [step_mv] * 3)
        )
        assert doubted == ("limb leads don't add up: III",)
        assert known == ()
        limb_lt[2] = np.round(3 * (ii - i) / step_mv) * step_mv
        assert doubted[-1] in judge(limb_lt, leads=("I", "II", "III"), steps=[step_mv] * 3).suspects


def test_missing_samples_are_counted_and_the_rest_is_still_judged() -> None:
    signal_t = beats()
    whole = one_lead(signal_t).per_lead
    signal_t[2000:3000] = np.nan
    found = one_lead(signal_t).per_lead
    assert found["missing_fraction"] == (0.2,)
    assert found["range_mv"] == whole["range_mv"]
    assert found["hf_noise_mv"][0] == pytest.approx(whole["hf_noise_mv"][0], rel=0.3)


def test_a_lead_without_any_sample_is_all_missing_and_an_absent_one_is_unknown() -> None:
    signal_lt = np.stack([beats(), np.full(5000, np.nan), np.full(5000, np.nan)])
    found = judge(signal_lt, (M, M, A), leads=("I", "V1", "V2")).per_lead
    assert found["missing_fraction"][:2] == (0.0, 1.0)
    assert all(math.isnan(values[2]) for values in found.values())
    assert all(math.isnan(found[name][1]) for name in MEASURES if name != "missing_fraction")


@pytest.mark.parametrize("noise_mv", [0.01, 0.1])
@pytest.mark.parametrize("fs_hz", [80.0, 100.0, 250.0, 500.0, 1000.0])
def test_white_noise_has_the_size_of_what_lies_below_50_hz_and_beats_have_next_to_none(fs_hz, noise_mv) -> None:
    rng = np.random.default_rng(1)
    signal_t = beats(int(40 * fs_hz), fs_hz)
    noisy_t = signal_t + noise_mv * math.sqrt(fs_hz / 100) * rng.standard_normal(signal_t.size)
    assert one_lead(noisy_t, fs_hz=fs_hz).per_lead["hf_noise_mv"][0] == pytest.approx(noise_mv, rel=0.2)
    assert one_lead(signal_t, fs_hz=fs_hz).per_lead["hf_noise_mv"][0] < 0.002


@pytest.fixture(scope="module")
def muscle() -> np.ndarray:
    """20 s of noise at 1000 Hz whose density rises to 25 Hz and falls slowly from 60 Hz on, as a muscle's does."""
    freqs_hz = np.fft.rfftfreq(20_000, 1e-3)
    shape_f = np.minimum(freqs_hz / 25, 1) / (1 + (freqs_hz / 60) ** 2)
    noise_t = np.fft.irfft(shape_f * np.fft.rfft(np.random.default_rng(0).standard_normal(20_000)))
    return 0.02 * noise_t / noise_t.std()


@pytest.mark.parametrize("fs_hz", [100, 128, 250, 257, 360, 500, 977])
@pytest.mark.parametrize("gap_s", [0, 2])
def test_one_noise_reads_alike_at_every_rate(muscle, fs_hz: int, gap_s: int) -> None:
    whole, sampled_t = one_lead(muscle, fs_hz=1000), scipy.signal.resample(muscle, 20 * fs_hz)
    sampled_t[3 * fs_hz : (3 + gap_s) * fs_hz] = np.nan
    (found_mv,) = one_lead(sampled_t, fs_hz=fs_hz).per_lead["hf_noise_mv"]
    assert found_mv == pytest.approx(whole.per_lead["hf_noise_mv"][0], rel=0.15 if gap_s else 0.05)


def test_noise_of_a_record_too_slow_for_half_of_the_band_can_not_be_told() -> None:
    noise_t = 0.1 * np.random.default_rng(0).standard_normal(1400)
    assert one_lead(noise_t, fs_hz=70).per_lead["hf_noise_mv"][0] > 0.05
    for fs_hz in (30, 40, 69):
        assert math.isnan(one_lead(noise_t, fs_hz=fs_hz).per_lead["hf_noise_mv"][0])


def test_band_powers_become_root_mean_squares_and_the_larger_mains_counts() -> None:
    found = one_lead(beats(), power=np.array([[0.04, 0.0001, 0.0009]])).per_lead
    assert found["baseline_mv"] == (0.2,)
    assert found["mains_mv"] == (0.03,)


def test_numbers_have_three_digits() -> None:
    found = one_lead(beats() * 1.23456).per_lead
    for values in found.values():
        assert float(f"{values[0]:.3g}") == values[0]


def test_einthoven_residual_is_the_planted_one_and_unknown_where_a_lead_is_derived() -> None:
    i_t, ii_t = beats(), 0.7 * beats()
    signal_lt = np.stack([i_t, ii_t, ii_t - i_t + 0.03])
    leads = ("I", "II", "III")
    assert judge(signal_lt, leads=leads).einthoven_mv == 0.03
    assert math.isnan(judge(signal_lt, (M, M, D), leads=leads).einthoven_mv)
    signal_lt[0, 100:200] = np.nan
    assert judge(signal_lt, leads=leads).einthoven_mv == 0.03
    assert math.isnan(judge(signal_lt[:2], leads=leads[:2]).einthoven_mv)


def test_the_worst_is_the_largest_of_the_leads_that_are_there() -> None:
    signal_lt = np.stack([beats(), 2 * beats(), np.full(5000, np.nan, np.float32)])
    found = judge(signal_lt, (M, M, A), leads=("I", "V1", "V2"))
    worst = dict(zip(MEASURES, found.worst_m, strict=True))
    assert worst["range_mv"] == found.per_lead["range_mv"][1] > found.per_lead["range_mv"][0]
    nothing = judge(np.full((3, 5000), np.nan, np.float32), (A, A, A), leads=("I", "V1", "V2"))
    assert np.isnan(nothing.worst_m).all()


def test_a_batch_is_judged_like_its_records_one_by_one(real: list[np.ndarray]) -> None:
    rng = np.random.default_rng(0)
    signals = [signal_lt.copy() for signal_lt in real[:5]]
    signals[1][:, 100:300] = np.nan
    signals[3][4] = np.nan
    power = rng.random((60, 3))
    together = quality.judge(signals, [ALL_MEASURED] * 5, FS, power, envelope(signals))
    for r, signal_lt in enumerate(signals):
        alone = judge(signal_lt, power=power[12 * r : 12 * r + 12])
        assert repr(together[r]) == repr(alone)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 60])
def test_very_short_records_are_judged_without_a_word(n: int) -> None:
    found = judge(np.tile(np.linspace(0, 1, n, dtype=np.float32), (12, 1)))
    assert len(found.per_lead["range_mv"]) == 12


def test_stretches_are_combined_by_their_length() -> None:
    def stretch(n: int, noise_mv: float, missing: float, lowest_mv: float, *suspects: str) -> stretches.Stretch:
        values = {"hf_noise_mv": noise_mv, "missing_fraction": missing, "range_mv": 1.0, "baseline_mv": 0.3}
        measured_m = np.array([values.get(name, 0.0) for name in MEASURES])
        judged = quality.Quality(measured_m[:, None], measured_m, 0.1, suspects)
        lowest_l = np.array([lowest_mv])
        return stretches.Stretch(n, judged, lowest_l, lowest_l + 1.0, lowest_l + 0.5)

    pieces = [stretch(300, 0.1, 0.0, 0.0, "often"), stretch(100, math.nan, 1.0, 4.0, "rarely")]
    found = stretches.combine(pieces, ALL_MEASURED[:1], LEADS_12[:1])
    assert found.per_lead["hf_noise_mv"] == (0.1,)
    assert found.per_lead["missing_fraction"] == (0.25,)
    assert found.per_lead["range_mv"] == (5.0,)
    # Four samples, three at 0.5 mV and one at 4.5 mV, have a variance of 3 mV² about their mean.
    assert found.per_lead["baseline_mv"] == (1.76,)
    assert found.suspects == ("often",)
    assert found.einthoven_mv == 0.1
    assert math.isnan(stretches.combine(pieces, [LeadState.BAD], ["I"]).einthoven_mv)


def test_a_stretch_knows_its_extremes_and_its_mean() -> None:
    signal_mv_lt = np.array([[1.0, np.nan, 4.0], [np.nan] * 3, [2.0, 2.0, 2.0]], dtype=np.float32)
    found = stretches.stretch_of(signal_mv_lt, quality.Quality(np.zeros((7, 3)), np.zeros(7), 0.0, ()))
    assert found.n_samples == 3
    np.testing.assert_array_equal(found.lowest_l, [1.0, np.nan, 2.0])
    np.testing.assert_array_equal(found.highest_l, [4.0, np.nan, 2.0])
    np.testing.assert_array_equal(found.mean_l, [2.5, np.nan, 2.0])


# --- suspicions ---------------------------------------------------------------------------------------------------


def suspects(signals: list[np.ndarray]) -> list[tuple[str, ...]]:
    power = np.zeros((12 * len(signals), len(quality.BANDS_HZ)))
    return [
        found.suspects for found in quality.judge(signals, [ALL_MEASURED] * len(signals), FS, power, envelope(signals))
    ]


def from_electrodes(la_t, ra_t, ll_t, chest_lt):
    """Twelve leads by their definition from electrode potentials (chest leads given against Wilson's terminal)."""
    i_t, ii_t, iii_t = la_t - ra_t, ll_t - ra_t, ll_t - la_t
    augmented = [ra_t - (la_t + ll_t) / 2, la_t - (ra_t + ll_t) / 2, ll_t - (ra_t + la_t) / 2]
    return np.concatenate([np.stack([i_t, ii_t, iii_t, *augmented]), chest_lt]).astype(np.float32)


def swapped(signal_lt, order):
    """The record as it would be with the limb electrodes at other limbs: ``order`` of (LA, RA, LL)."""
    # Potentials against RA are enough: a common one cancels, and Wilson's terminal is the same for any order.
    electrodes = [signal_lt[0], np.zeros_like(signal_lt[0]), signal_lt[1]]
    return from_electrodes(*(electrodes[k] for k in order), signal_lt[6:])


def test_real_records_are_rarely_suspected(real: list[np.ndarray]) -> None:
    assert sum(bool(texts) for texts in suspects(real)) <= 2


def test_the_electrode_model_gives_back_what_was_recorded(real: list[np.ndarray]) -> None:
    np.testing.assert_allclose(swapped(real[0], (0, 1, 2)), real[0], atol=0.002)


@pytest.mark.parametrize(
    ("order", "named"),
    [
        ((1, 0, 2), ("arm electrodes", "limb electrodes")),
        ((0, 2, 1), ("right arm and left leg electrodes", "limb electrodes")),
        ((1, 2, 0), ("limb electrodes", "arm electrodes", "right arm and left leg")),
    ],
)
def test_swapped_limb_electrodes_are_found_in_most_records(real: list[np.ndarray], order, named) -> None:
    found = suspects([swapped(signal_lt, order) for signal_lt in real])
    assert sum(any(text.startswith(named) for text in texts) for texts in found) >= 0.7 * len(real)
    assert sum(any(text.startswith(named[0]) for text in texts) for texts in found) >= 0.5 * len(real)


@pytest.mark.parametrize(("one", "other"), [("V1", "V2"), ("V2", "V3"), ("V3", "V4"), ("V1", "V3")])
def test_swapped_chest_electrodes_are_found_in_most_records(real: list[np.ndarray], one: str, other: str) -> None:
    rows = [LEADS_12.index(lead) for lead in (one, other)]
    spoilt = [signal_lt.copy() for signal_lt in real]
    for signal_lt in spoilt:
        signal_lt[rows] = signal_lt[rows[::-1]]
    found = suspects(spoilt)
    assert sum(f"{one} and {other} swapped?" in texts for texts in found) >= 0.5 * len(real)


def test_limb_leads_that_do_not_add_up_are_named(real: list[np.ndarray]) -> None:
    signal_lt = real[0].copy()
    signal_lt[[4, 5]] = signal_lt[[5, 4]]
    assert "limb leads don't add up: aVL, aVF" in suspects([signal_lt])[0]
    signal_lt = real[0].copy()
    signal_lt[2] *= -1
    assert "limb leads don't add up: III" in suspects([signal_lt])[0]


def test_a_leg_electrode_on_an_arm_leaves_a_limb_lead_without_voltage(real: list[np.ndarray]) -> None:
    i_t = real[0][0]
    noise_t = 0.002 * np.random.default_rng(0).standard_normal(i_t.size).astype(np.float32)
    # RA on the right leg: it has the potential of LL, so II is nothing but noise.
    signal_lt = from_electrodes(i_t, np.zeros_like(i_t), noise_t, real[0][6:])
    assert any(text.startswith("II is flat") for text in suspects([signal_lt])[0])


def test_voltages_that_no_heart_makes(real: list[np.ndarray]) -> None:
    small, large, spiked = 0.01 * real[0], 1000 * real[0], real[0].copy()
    spiked[7, 2000] = 30.0
    texts = [" ".join(one) for one in suspects([small, large, spiked])]
    assert "is the gain right?" in texts[0]
    assert "no lead spans more than" in texts[0]
    assert "the leads span" in texts[1]
    assert "in V2?" in texts[2]


def test_the_same_signal_under_two_names(real: list[np.ndarray]) -> None:
    signal_lt = real[0].copy()
    signal_lt[8] = 0.5 * signal_lt[7]
    assert "V2 and V3 are the same signal" in suspects([signal_lt])[0]


def test_leads_that_are_not_standard_or_not_there_are_no_reason_to_suspect() -> None:
    rng = np.random.default_rng(0)
    signal_lt = rng.standard_normal((2, 5000)).astype(np.float32)
    assert judge(signal_lt, leads=("MLII", "V1")).suspects == ()
    signal_lt = np.full((12, 5000), np.nan, dtype=np.float32)
    signal_lt[1] = rng.standard_normal(5000)
    assert judge(signal_lt, (A, M, *(A,) * 10)).suspects == ()


# --- fingerprint ----------------------------------------------------------------------------------------------


def bits_apart(a: int, b: int) -> int:
    return (a ^ b).bit_count()


def test_the_signature_survives_gain_rate_noise_and_offset(real: list[np.ndarray]) -> None:
    rng = np.random.default_rng(0)
    for signal_lt in real[:12]:
        stored = {
            100.0: mv_to_counts(condition(signal_lt, FS, 100.0)).counts_lt,
            500.0: mv_to_counts(signal_lt).counts_lt,
            360.0: mv_to_counts(condition(signal_lt, FS, 360.0)).counts_lt,
        }
        first = quality.signature(stored[100.0], 100.0)
        others = [quality.signature(counts_lt, fs_hz) for fs_hz, counts_lt in stored.items()]
        others.append(quality.signature((stored[100.0] * 0.5 + 300).astype(np.int16), 100.0))
        noise_lt = 15 * rng.standard_normal(stored[100.0].shape)
        others.append(quality.signature((stored[100.0] + noise_lt).astype(np.int16), 100.0))
        assert max(bits_apart(first, other) for other in others) <= 6


def test_signatures_of_different_records_are_far_apart(real: list[np.ndarray]) -> None:
    bits = quality.signatures([mv_to_counts(signal_lt).counts_lt for signal_lt in real], FS)
    apart = [bits_apart(a, b) for i, a in enumerate(bits) for b in bits[:i]]
    # The bundled corpus holds some records twice, on purpose.
    others = [n for n in apart if n > 0]
    assert 0 < len(apart) - len(others) < 5
    assert min(others) > 10
    assert 30 < np.median(apart) < 34


def test_the_signature_never_changes_between_releases() -> None:
    # Stores hold it: another value for the same signal would part them.
    t = np.arange(1000)
    counts_lt = np.stack([np.rint(500 * np.sin(t * (j + 3) / 31) * np.cos(t / (j + 11))) for j in range(12)])
    assert quality.signature(counts_lt.astype(np.int16), 100.0) == 2187824510273880081


def test_a_record_without_change_has_no_signature_and_a_short_one_has() -> None:
    assert quality.signature(np.full((12, 1000), 7, dtype=np.int16), 100.0) == 0
    assert quality.signature(np.full((12, 1000), NOT_RECORDED), 100.0) == 0
    rng = np.random.default_rng(0)
    assert quality.signature(rng.integers(-500, 500, (12, 300)).astype(np.int16), 100.0) != 0
    assert quality.signature(rng.integers(-500, 500, (1, 4000)).astype(np.int16), 360.0, ("MLII",)) != 0
    for n in (1, 2, 5, 20):
        quality.signature(rng.integers(-500, 500, (12, n)).astype(np.int16), 100.0)


# --- slow measures ------------------------------------------------------------------------------------------------


def test_heart_rate_and_quality_of_a_real_record(real: list[np.ndarray]) -> None:
    heart_rate_bpm, sqi = quality.full(real[0], LEADS_12, FS)
    assert 40 < heart_rate_bpm < 150
    assert 0 < sqi <= 1


def test_a_signal_without_beats_gives_no_numbers_and_no_noise() -> None:
    assert all(math.isnan(value) for value in quality.full(np.zeros((12, 5000), np.float32), LEADS_12, FS))
    assert all(math.isnan(value) for value in quality.full(np.full((12, 5000), np.nan, np.float32), LEADS_12, FS))
    quality.full(np.ones((1, 20), np.float32), ("V1",), FS)
