"""Noise: spectra, laws, strengths, and that it depends on nothing but its names."""

from __future__ import annotations

import math

import numpy as np
import pytest
from quickly import quickly

from ecgstore.errors import ConfigError, SourceError
from ecgstore.record import LEADS_12
from ecgstore.settings import parse
from ecgstore.signals import noise
from ecgstore.signals.noise import NoiseSettings, draw_of, mix_of
from ecgstore.signals.recorded_noise import Recording, load_bank

SYNTHETIC = ("wander", "powerline", "muscle", "shift", "motion", "physiological")
FS_HZ = 500.0
ONE_LEAD = mix_of(("II",), "leads")


@pytest.fixture(scope="module")
def signal_mv_lt() -> np.ndarray:
    """Ten seconds of twelve leads: a sharp beat a second, of another height in each lead, on an offset."""
    t = np.arange(5000) / FS_HZ
    beats_t = np.exp(-0.5 * (((t + 0.5) % 1 - 0.5) / 0.012) ** 2)
    return (np.outer(np.linspace(0.4, 1.5, 12), beats_t) + 0.3).astype(np.float32)


def added(noisy: noise.Noisy, signal_mv_lt: np.ndarray) -> np.ndarray:
    return noisy.signal_mv_lt.astype(np.float64) - np.rint(signal_mv_lt.astype(np.float64) * 1000) / 1000


def share(trace_t: np.ndarray, fs_hz: float, low_hz: float, high_hz: float) -> float:
    """Share of the power in a band."""
    power = np.abs(np.fft.rfft(trace_t * np.hanning(trace_t.size))) ** 2
    freqs_hz = np.fft.rfftfreq(trace_t.size, 1 / fs_hz)
    return float(power[(freqs_hz >= low_hz) & (freqs_hz <= high_hz)].sum() / power.sum())


# --- generators ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fs_hz", [100.0, 333.3, 500.0])
def test_wander_is_the_formula(fs_hz):
    draw = draw_of(3, "r", "wander")
    random = draw("")
    a, phi = random.uniform(0, 1, 50), random.uniform(0, 2 * np.pi, 50)
    t = np.arange(2000) / fs_hz
    expected = 0.2 * sum(a[k - 1] * np.cos(2 * np.pi * k * 0.01 * t + phi[k - 1]) for k in range(1, 51))
    found = noise.baseline_wander(2000, fs_hz, ONE_LEAD, draw, 0.2, lead_gain="common")
    assert np.abs(found[0] - expected).max() < 1e-5


def test_wander_stays_below_half_a_hertz_and_has_no_offset():
    trace_t = noise.baseline_wander(20_000, 100.0, ONE_LEAD, draw_of(0, "r", "wander"))[0]
    assert share(trace_t, 100.0, 0, 0.52) > 0.999
    assert abs(trace_t[:10_000].mean()) < 1e-4  # whole turns of every tone
    with_offset = noise.baseline_wander(20_000, 100.0, ONE_LEAD, draw_of(0, "r", "wander"), first=0)[0]
    assert abs(with_offset[:10_000].mean()) > 1e-3


def test_mains_are_lines_and_fold_nowhere():
    trace_t = noise.powerline(5000, FS_HZ, ONE_LEAD, draw_of(0, "r", "powerline"), mains_hz=50)[0]
    lines = sum(share(trace_t, FS_HZ, f - 0.3, f + 0.3) for f in (50, 100, 150))
    assert lines > 0.999
    assert share(trace_t, FS_HZ, 49.7, 50.3) > 0.01
    # At 240 Hz the second and third harmonic of 60 Hz are at and above half the rate.
    trace_t = noise.powerline(2400, 240.0, ONE_LEAD, draw_of(0, "r", "powerline"), mains_hz=60)[0]
    assert share(trace_t, 240.0, 59.5, 60.5) > 0.999
    assert not noise.powerline(1000, 100.0, ONE_LEAD, draw_of(0, "r", "powerline")).any()


def test_published_mains_at_100_hz_alternate_on_an_offset():
    trace_t = noise.powerline(1000, 100.0, ONE_LEAD, draw_of(0, "r", "powerline"), aliased=True)[0]
    assert np.allclose(trace_t[::2], trace_t[0], atol=1e-5)
    assert np.allclose(trace_t[1::2], trace_t[1], atol=1e-5)
    assert trace_t[0] != trace_t[1]


def test_muscle_is_white_and_gaussian():
    trace_t = noise.muscle(100_000, FS_HZ, ONE_LEAD, draw_of(0, "r", "muscle"), 0.3)[0].astype(np.float64)
    assert trace_t.std() == pytest.approx(0.3, rel=0.02)
    assert np.mean(trace_t**4) / trace_t.var() ** 2 == pytest.approx(3, abs=0.1)
    assert share(trace_t, FS_HZ, 0, 125) == pytest.approx(0.5, abs=0.02)


def test_shifts_are_steps_of_the_stated_number_length_and_height():
    numbers, lengths, heights = [], [], []
    for i in range(400):
        trace_t = noise.baseline_shift(1000, 100.0, mix_of(("II",), "leads"), draw_of(0, f"r{i}", "shift"))[0]
        edges = np.flatnonzero(np.diff(trace_t))
        numbers.append(edges.size)
        if edges.size == 2 and trace_t[0] == trace_t[-1] == 0:
            lengths.append((edges[1] - edges[0]) / 100)
            heights.append(abs(trace_t[edges[1]]))
    assert max(numbers) <= 6  # at most round(0.3 / s · 10 s) = 3 stretches
    assert 0.15 < numbers.count(0) / 400 < 0.4  # none in a quarter of the draws
    assert np.mean(lengths) == pytest.approx(3, abs=0.3)
    assert np.std(heights) > 0.3
    assert noise.baseline_shift(50, 100.0, ONE_LEAD, draw_of(0, "r", "shift")).any() == 0
    assert noise.baseline_shift(50, 100.0, ONE_LEAD, draw_of(0, "r", "shift"), at_least=1).any()


def test_motion_lies_where_the_qrs_does():
    trace_t = noise.electrode_motion(100_000, 250.0, ONE_LEAD, draw_of(0, "r", "motion"))[0]
    assert share(trace_t, 250.0, 0.5, 10) > 0.85
    assert share(trace_t, 250.0, 40, 125) < 0.005
    assert noise.electrode_motion(500, 250.0, ONE_LEAD, draw_of(0, "r", "motion")).any()


# --- leads --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SYNTHETIC)
def test_limb_leads_keep_their_laws(kind, signal_mv_lt):
    noisy = noise.add_noise(signal_mv_lt, FS_HZ, "r", NoiseSettings(kind=kind, snr_db=0))
    i, ii, iii, avr, avl, avf = added(noisy, signal_mv_lt)[:6]
    assert np.abs(i).max() > 0.01
    for residual in (iii - ii + i, avr + (i + ii) / 2, avl - i + ii / 2, avf - ii + i / 2):
        assert np.abs(residual).max() < 0.0021  # rounding to 1 µV, of up to three leads
    own = noise.add_noise(signal_mv_lt, FS_HZ, "r", NoiseSettings(kind=kind, snr_db=0, origin="leads"))
    i, ii, iii = added(own, signal_mv_lt)[:3]
    assert np.abs(iii - ii + i).max() > 0.01


@pytest.mark.parametrize("kind", SYNTHETIC)
@pytest.mark.parametrize("origin", ["electrodes", "leads"])
def test_a_lead_gets_the_same_noise_whatever_leads_stand_beside_it(kind, origin):
    settings = NoiseSettings(kind=kind, snr_db=0, origin=origin)
    whole = noise.generate(500, FS_HZ, "r", settings)
    part = noise.generate(500, FS_HZ, "r", settings, leads=("V5", "II"))
    assert np.array_equal(part, whole[[LEADS_12.index("V5"), LEADS_12.index("II")]])
    other = noise.generate(500, FS_HZ, "r", settings, leads=("MLII", "II"))
    assert np.array_equal(other[1], whole[1])
    assert not np.array_equal(other[0], other[1])


def test_electrodes_give_the_power_that_leads_would_have():
    for kind in ("muscle", "wander"):
        power = [
            np.mean([np.mean(noise.generate(200, 100.0, f"{i}", of) ** 2) for i in range(300)])
            for of in (NoiseSettings(kind=kind, snr_db=0, origin=origin) for origin in ("electrodes", "leads"))
        ]
        assert power[0] == pytest.approx(power[1], rel=0.15), kind


# --- what it depends on -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SYNTHETIC)
def test_it_depends_on_seed_record_and_kind_alone(kind):
    settings = NoiseSettings(kind=kind, snr_db=0)
    once = noise.generate(500, FS_HZ, "a", settings)
    noise.generate(700, FS_HZ, "b", settings)
    assert np.array_equal(noise.generate(500, FS_HZ, "a", settings), once)
    assert not np.array_equal(noise.generate(500, FS_HZ, "b", settings), once)
    assert not np.array_equal(noise.generate(500, FS_HZ, "a", NoiseSettings(kind=kind, snr_db=0, seed=1)), once)


def test_a_sweep_scales_one_and_the_same_noise(signal_mv_lt):
    loud, soft = (
        added(noise.add_noise(signal_mv_lt, FS_HZ, "r", NoiseSettings(kind="motion", snr_db=db)), signal_mv_lt)
        for db in (-6, 6)
    )
    assert np.abs(loud / 10 ** (12 / 20) - soft).max() < 0.002


def test_physiological_is_the_sum_of_the_four():
    parts = [noise.generate(500, FS_HZ, "r", NoiseSettings(kind=kind, level=3)) for kind in noise.GENERATORS]
    whole = noise.generate(500, FS_HZ, "r", NoiseSettings(kind="physiological", level=3))
    assert np.allclose(sum(parts), whole, atol=1e-6)
    assert all(np.abs(part).max() > 0 for part in parts[:3])


def test_draws_are_those_of_the_first_release():
    """Stores of one seed must come out alike for years; NumPy keeps Philox's stream, and this the keys."""
    assert draw_of(7, "record/1", "muscle")("LA").integers(0, 2**32, 3).tolist() == [3833938922, 2932823471, 2547386790]


# --- strength -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SYNTHETIC)
@pytest.mark.parametrize("snr_db", [24.0, 0.0, -6.0])
@pytest.mark.parametrize("power", ["record", "qrs"])
def test_the_snr_is_the_one_asked_for(kind, snr_db, power, signal_mv_lt):
    noisy = noise.add_noise(signal_mv_lt, FS_HZ, "r", NoiseSettings(kind=kind, snr_db=snr_db, power=power))
    noise_power = np.mean(added(noisy, signal_mv_lt) ** 2)
    heights = np.linspace(0.4, 1.5, 12)
    signal_power = (
        np.mean(signal_mv_lt.astype(np.float64).var(axis=1)) if power == "record" else np.mean(heights**2) / 8
    )
    by_hand_db = 10 * math.log10(signal_power / noise_power)
    assert noisy.snr_db == pytest.approx(snr_db, abs=0.1)
    assert noisy.snr_db == pytest.approx(by_hand_db, abs=0.01 if power == "record" else 0.1)
    assert noisy.noise_rms_mv == pytest.approx(noise_power**0.5, rel=1e-4)
    assert (noisy.warning, noisy.n_clipped) == ("", 0)


def test_the_snr_of_each_lead(signal_mv_lt):
    settings = NoiseSettings(kind="muscle", snr_db=3, power="lead", origin="leads")
    noisy = noise.add_noise(signal_mv_lt, FS_HZ, "r", settings)
    each_db = 10 * np.log10(signal_mv_lt.var(axis=1) / np.mean(added(noisy, signal_mv_lt) ** 2, axis=1))
    assert each_db == pytest.approx(np.full(12, 3.0), abs=0.1)


def test_noise_near_the_step_of_a_microvolt():
    small_lt = np.tile(np.float32(0.004) * (np.arange(1000) % 50 == 0), (2, 1)).astype(np.float32)
    noisy = noise.add_noise(small_lt, 100.0, "r", NoiseSettings(kind="muscle", snr_db=0), leads=("I", "II"))
    assert noisy.snr_db == pytest.approx(0, abs=0.1)
    noisy = noise.add_noise(small_lt, 100.0, "r", NoiseSettings(kind="muscle", snr_db=40), leads=("I", "II"))
    assert "because of the store's step of 1 µV" in noisy.warning


def test_noise_beyond_the_range_is_clipped_and_counted(signal_mv_lt):
    noisy = noise.add_noise(signal_mv_lt * 20, FS_HZ, "r", NoiseSettings(kind="muscle", snr_db=-20))
    assert noisy.n_clipped > 0
    assert np.abs(noisy.signal_mv_lt).max() == np.float32(32.767)
    beyond_lt = signal_mv_lt.copy()
    beyond_lt[0, :3] = 40
    assert noise.add_noise(beyond_lt, FS_HZ, "r", NoiseSettings(kind="wander", level=1)).n_clipped == 3


@pytest.mark.parametrize(
    ("level", "expected_mv"),
    quickly([(1, 0.23), (2, 0.44), (3, 0.79), (4, 0.90), (5, 1.16), (6, 1.46)], (1, 0.23), (3, 0.79), (6, 1.46)),
)
def test_levels_rise_as_the_paper_has_them(level, expected_mv):
    """Total RMS of the paper's generators by a Monte Carlo of its own; crops of 2.5 s at 100 Hz."""
    settings = NoiseSettings(kind="physiological", level=level, origin="published")
    power = [np.mean(noise.generate(250, 100.0, f"{i}", settings).astype(float) ** 2) for i in range(500)]
    assert np.mean(power) ** 0.5 == pytest.approx(expected_mv, rel=0.1)


def test_the_published_mains_have_the_square_of_their_amplitude():
    """C is drawn up to 0.1 mV at level 1 and to 0.5 mV at level 6: five times, or twenty-five times."""
    for origin, factor in (("leads", 5), ("published", 25)):
        soft, loud = (
            noise.generate(500, FS_HZ, "r", NoiseSettings(kind="powerline", level=level, origin=origin)).std()
            for level in (1, 6)
        )
        assert loud / soft == pytest.approx(factor, rel=1e-4)


def test_a_level_is_what_it_says_whatever_the_signal(signal_mv_lt):
    settings = NoiseSettings(kind="muscle", level=4)
    small, large = (noise.add_noise(signal_mv_lt * factor, FS_HZ, "r", settings) for factor in (0.1, 2))
    assert small.noise_rms_mv == pytest.approx(large.noise_rms_mv, rel=1e-3)
    assert large.snr_db - small.snr_db == pytest.approx(20 * math.log10(20), abs=0.05)
    none = noise.add_noise(signal_mv_lt[:, :50], FS_HZ, "r", NoiseSettings(kind="shift", level=4))
    assert (none.noise_rms_mv, none.snr_db) == (0.0, math.inf)  # no stretch fits into 0.1 s


# --- what is not there --------------------------------------------------------------------------------------


def test_gaps_and_absent_leads_stay(signal_mv_lt):
    gappy_lt = signal_mv_lt.copy()
    gappy_lt[3] = np.nan
    gappy_lt[:, 700:1900] = np.nan
    gappy_lt[5] = 0.2  # flat: nothing was measured
    noisy = noise.add_noise(gappy_lt, FS_HZ, "r", NoiseSettings(kind="physiological", snr_db=5))
    assert np.array_equal(np.isnan(noisy.signal_mv_lt), np.isnan(gappy_lt))
    assert np.array_equal(noisy.signal_mv_lt[5], gappy_lt[5])
    kept = [lead for lead in range(12) if lead not in (3, 5)]
    recorded = ~np.isnan(gappy_lt[0])
    clean = gappy_lt[kept][:, recorded].astype(np.float64)
    power = np.mean((noisy.signal_mv_lt[kept][:, recorded] - clean) ** 2)
    assert 10 * math.log10(np.mean(clean.var(axis=1)) / power) == pytest.approx(5, abs=0.1)


@pytest.mark.parametrize("value", [np.nan, 0.0, 0.7])
def test_a_record_without_a_signal_is_left_alone(value):
    dead_lt = np.full((12, 300), value, dtype=np.float32)
    noisy = noise.add_noise(dead_lt, 100.0, "r", NoiseSettings(kind="muscle", snr_db=0))
    assert np.array_equal(noisy.signal_mv_lt, dead_lt, equal_nan=True)
    assert noisy.noise_rms_mv == 0
    assert math.isnan(noisy.snr_db)
    assert "no signal" in noisy.warning


@pytest.mark.parametrize("kind", SYNTHETIC)
@pytest.mark.parametrize("n_samples", [250, 7])
def test_tiny_records(kind, n_samples, signal_mv_lt):
    begin = 480 if n_samples > 100 else 497
    short_lt = signal_mv_lt[:, begin : begin + n_samples]
    noisy = noise.add_noise(short_lt, FS_HZ, "r", NoiseSettings(kind=kind, snr_db=6))
    assert noisy.snr_db == pytest.approx(6, abs=0.1)
    assert noise.add_noise(
        short_lt, FS_HZ, "r", NoiseSettings(kind=kind, snr_db=6, power="qrs")
    ).snr_db == pytest.approx(6, abs=0.1)


def test_adding_before_and_after_storing_is_the_same(signal_mv_lt):
    settings = NoiseSettings(kind="physiological", snr_db=6)
    stored_lt = (np.rint(signal_mv_lt * 1000) / 1000).astype(np.float32)
    before, after = (noise.add_noise(one, FS_HZ, "r", settings) for one in (signal_mv_lt, stored_lt))
    assert np.array_equal(before.signal_mv_lt, after.signal_mv_lt)


# --- recorded noise -----------------------------------------------------------------------------------------


def test_recorded_noise_has_the_spectrum_of_its_recording(bank_folder, signal_mv_lt):
    bank = load_bank(bank_folder)
    assert {kind: one.name for kind, one in bank.recordings.items()} == {
        "nstdb-bw": "bw",
        "nstdb-ma": "ma",
        "nstdb-em": "em_from_118e00",
    }
    for kind, low_hz, high_hz in (("nstdb-bw", 0, 1), ("nstdb-ma", 19, 101), ("nstdb-em", 0.8, 8.5)):
        settings = noise.with_bank(NoiseSettings(kind=kind, snr_db=6), bank)
        noisy = noise.add_noise(signal_mv_lt, FS_HZ, "r", settings, bank)
        assert noisy.snr_db == pytest.approx(6, abs=0.1)
        noise_lt = added(noisy, signal_mv_lt)
        assert all(share(noise_t, FS_HZ, low_hz, high_hz) > 0.95 for noise_t in noise_lt)
        assert np.abs(noise_lt[2] - noise_lt[1] + noise_lt[0]).max() < 0.0021
        again = noise.add_noise(signal_mv_lt, FS_HZ, "r", settings, load_bank(bank_folder))
        assert np.array_equal(again.signal_mv_lt, noisy.signal_mv_lt)
        assert not np.array_equal(
            noise.add_noise(signal_mv_lt, FS_HZ, "s", settings, bank).signal_mv_lt, noisy.signal_mv_lt
        )
        alone = noise.generate(500, FS_HZ, "r", settings, bank, leads=("V1",))
        assert np.array_equal(alone[0], noise.generate(500, FS_HZ, "r", settings, bank)[6])


def test_a_bank_at_another_rate_keeps_its_spectrum_at_unit_size(bank_folder):
    found = load_bank(bank_folder).at_rate(100.0)
    assert sorted(found) == ["nstdb-bw", "nstdb-em", "nstdb-ma"]
    for kind, (low_hz, high_hz) in {"nstdb-bw": (0, 0.7), "nstdb-em": (0.7, 9), "nstdb-ma": (15, 50)}.items():
        assert found[kind].shape == (2, 6000)
        assert np.allclose(found[kind].std(axis=1), 1, atol=1e-4)
        assert all(share(trace_t, 100.0, low_hz, high_hz) > 0.95 for trace_t in found[kind])


def test_drift_is_no_part_of_recorded_muscle_noise_unless_asked_for(bank_folder):
    drifting = load_bank(bank_folder).recordings["nstdb-ma"]
    drift_t = (1000 * np.sin(2 * np.pi * 0.05 * np.arange(21600) / 360)).astype(np.float32)
    drifting = Recording("ma", 360.0, drifting.counts_st + drift_t, "")
    for from_hz, least, most in ((0.5, 0.0, 0.02), (0.0, 0.5, 1.0)):
        cut_t = noise.recorded(21600, 360.0, ONE_LEAD, draw_of(0, "r", "m"), drifting, from_hz=from_hz)[0]
        assert least <= share(cut_t, 360.0, 0, 0.5) <= most


def test_a_record_longer_than_the_recording_sees_it_back_and_forth(bank_folder):
    bank = load_bank(bank_folder)
    settings = NoiseSettings(kind="nstdb-em", snr_db=6)
    long_t = noise.generate(50_000, 360.0, "r", settings, bank, leads=("I",))[0]
    assert all(part_t.std() > 0.5 * long_t.std() for part_t in long_t.reshape(10, -1))
    assert np.abs(np.diff(long_t)).max() < 0.5 * long_t.std()  # no jump where it turns


def test_without_its_recording(bank_folder, tmp_path, signal_mv_lt):
    with pytest.raises(SourceError, match=r"no recorded noise .*ecgstore fetch nstdb DEST"):
        load_bank(tmp_path)
    settings = NoiseSettings(kind="nstdb-ma", snr_db=6)
    with pytest.raises(ConfigError, match="--noise-bank"):
        noise.add_noise(signal_mv_lt, FS_HZ, "r", settings)
    bank = load_bank(bank_folder)
    named = noise.with_bank(settings, bank)
    assert named.bank_sha256 == bank.recordings["nstdb-ma"].sha256
    with pytest.raises(ConfigError, match="not the one that was used before"):
        noise.check_noise(named.model_copy(update={"bank_sha256": "0" * 64}), FS_HZ, bank)
    assert noise.with_bank(NoiseSettings(kind="muscle", snr_db=6), bank).bank_sha256 is None


# --- the power of a QRS -------------------------------------------------------------------------------------


def test_qrs_power_is_that_of_the_beats_and_not_of_waves_and_wander():
    t = np.arange(15_000) / FS_HZ
    qrs_t = np.exp(-0.5 * (((t + 0.4) % 0.8 - 0.4) / 0.012) ** 2)
    t_wave_t = 0.8 * np.exp(-0.5 * (((t + 0.1) % 0.8 - 0.4) / 0.05) ** 2)
    wander_t = 0.5 * np.sin(2 * np.pi * 0.3 * t)
    signal_lt = np.stack([1.2 * qrs_t + t_wave_t + wander_t, 0.4 * qrs_t])
    assert noise.qrs_power(signal_lt.astype(np.float32), FS_HZ) == pytest.approx([1.2**2 / 8, 0.4**2 / 8], rel=0.15)


# --- settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"kind": "muscle"}, "by snr_db or by level"),
        ({"kind": "muscle", "snr_db": 6, "level": 1}, "by snr_db or by level"),
        ({"kind": "motion", "level": 1}, "motion has no levels"),
        ({"kind": "nstdb-em", "level": 1}, "nstdb-em has no levels"),
        ({"kind": "muscle", "level": 7}, "less than or equal to 6"),
        ({"kind": "wander", "snr_db": 6, "lead_gain": "common"}, "lead_gain common needs origin leads"),
        ({"kind": "wander", "snr_db": 6, "power": "lead"}, "power lead needs origin leads"),
        ({"kind": "motion", "snr_db": 6, "origin": "published"}, "not of the paper"),
        ({"kind": "muscle", "snr_db": 6, "colour": "pink"}, "unknown setting colour"),
    ],
)
def test_contradictions_are_refused_in_one_line(content, message):
    with pytest.raises(ConfigError, match=message):
        parse(NoiseSettings, content)


def test_settings_survive_json():
    settings = NoiseSettings(kind="nstdb-em", snr_db=-6, seed=5, power="qrs")
    assert NoiseSettings.model_validate_json(settings.model_dump_json()) == settings


def test_mains_above_half_the_rate_are_refused():
    with pytest.raises(ConfigError, match="records of 100 Hz hold nothing at 50 Hz"):
        noise.check_noise(NoiseSettings(kind="powerline", snr_db=6), 100.0)
    noise.check_noise(NoiseSettings(kind="powerline", snr_db=6), 101.0)
    noise.check_noise(NoiseSettings(kind="physiological", snr_db=6), 100.0)
