"""Virtual patients: beats look in twelve leads as a cardiologist expects of where they begin."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import pytest

from ecgstore.record import LEADS_12
from ecgstore.simulate import dipole, ectopy, torso, ventricles
from ecgstore.simulate.ventricles import Floats

FS_HZ, N_PATIENTS = 500, 16
ONSET_S = 0.1
SITES = (
    *("RVOT_free", "RVOT_septal", "RV_mid", "LV_mid_anteroseptal", "LV_mid_anterolateral"),
    *("LV_basal_anterolateral", "LV_apex", "LV_mid_inferior", "LVOT_septal"),
)


class Beat(NamedTuple):
    """One beat without noise from 100 ms before its onset on: (12, samples) in mV, and how long it is."""

    signal_mv_lt: Floats
    qrs_s: float

    @property
    def qrs(self) -> Floats:
        first, last = round(ONSET_S * FS_HZ), round((ONSET_S + self.qrs_s) * FS_HZ)
        return self.signal_mv_lt[:, first - 6 : last + 6]

    @property
    def area(self) -> dict[str, float]:
        """Net area of the QRS complex in mV·ms by lead."""
        return dict(zip(LEADS_12, self.qrs.sum(axis=1) / FS_HZ * 1000, strict=True))

    @property
    def t_area(self) -> Floats:
        after = round((ONSET_S + self.qrs_s) * FS_HZ) + 15
        return np.asarray(self.signal_mv_lt[:, after:].sum(axis=1))


def patient(number: int, *, scars: float = 0.0, fast: bool = True) -> ectopy.Patient:
    return ectopy.draw_patient(np.random.Generator(np.random.Philox(number)), fast_endocardium=fast, scars=scars)


def middle_of(heart: ventricles.Ventricles, site: str) -> int:
    its = (heart.site == site) & (heart.layer == ventricles.ENDO)
    return ventricles.nearest_point(heart, heart.xyz_mm[its].mean(axis=0), its)


def seen(one: ectopy.Patient, made: ectopy.Model) -> Floats:
    return ectopy.transfer(one, made.heart, np.zeros((len(torso.ELECTRODES), 2)))


def beat(one: ectopy.Patient, made: ectopy.Model, weights: Floats, at_s: Floats, *, ectopic: bool) -> Beat:
    beats = ectopy.Beats(np.array([ONSET_S]), np.array([0.55 if ectopic else 0.8]), np.array([ectopic]))
    heart_mv = ectopy.ventricular_mv(one, made, weights, at_s, beats, FS_HZ, round(0.7 * FS_HZ))
    return Beat(dipole.twelve_leads(dipole.MONTAGE @ heart_mv), float(at_s[np.isfinite(at_s)].max()))


@pytest.fixture(scope="module")
def beats() -> dict[str, list[Beat]]:
    """Of each patient a sinus beat and one from the middle of each site."""
    found: dict[str, list[Beat]] = {name: [] for name in ("sinus", *SITES)}
    for number in range(N_PATIENTS):
        one = patient(number)
        made = ectopy.model(one)
        weights = seen(one, made)
        found["sinus"].append(beat(one, made, weights, made.sinus_s, ectopic=False))
        for site in SITES:
            at_s = ectopy.ectopic_activation_s(one, made, middle_of(made.heart, site))
            found[site].append(beat(one, made, weights, at_s, ectopic=True))
    return found


def share(some: list[Beat], **signs: str) -> float:
    """Of how many beats the QRS complex is positive or negative in all leads that are named."""
    return float(np.mean([all((one.area[lead] > 0) == (sign == "up") for lead, sign in signs.items()) for one in some]))


def test_right_outflow_tract_gives_left_bundle_branch_block_and_an_inferior_axis(beats: dict[str, list[Beat]]) -> None:
    both = beats["RVOT_free"] + beats["RVOT_septal"]
    assert share(both, V1="down", V6="up", II="up", III="up", aVF="up") >= 0.9
    assert share(both, aVR="down", aVL="down") >= 0.7


def test_lateral_wall_gives_right_bundle_branch_block(beats: dict[str, list[Beat]]) -> None:
    for site in ("LV_mid_anterolateral", "LV_basal_anterolateral"):
        assert share(beats[site], V1="up", V6="down", I="down") >= 0.9


def test_apex_gives_a_superior_axis_and_no_r_in_the_lateral_leads(beats: dict[str, list[Beat]]) -> None:
    assert share(beats["LV_apex"], II="down", aVF="down") >= 0.9
    assert share(beats["LV_apex"], V4="down", V5="down") >= 0.9


def test_inferior_wall_gives_a_superior_axis(beats: dict[str, list[Beat]]) -> None:
    assert share(beats["LV_mid_inferior"], II="down", III="down", aVF="down") >= 0.9


def test_v1_tells_left_from_right_and_the_septum_is_between(beats: dict[str, list[Beat]]) -> None:
    right, septum, left = (
        np.array([one.area["V1"] for one in beats[site]])
        for site in ("RV_mid", "LV_mid_anteroseptal", "LV_mid_anterolateral")
    )
    assert np.mean(right < 0) >= 0.9
    assert np.mean(left > 0) >= 0.9
    assert np.mean((right < left) & (septum < left)) >= 0.9
    assert np.median(right) < np.median(septum) < np.median(left)


def test_both_outflow_tracts_point_down_and_the_left_one_has_more_r_in_v1(beats: dict[str, list[Beat]]) -> None:
    assert share(beats["LVOT_septal"], II="up", aVF="up") >= 0.9
    left, right = ([one.area["V1"] for one in beats[site]] for site in ("LVOT_septal", "RVOT_free"))
    assert np.mean(np.array(left) > np.array(right)) >= 0.9


def test_septal_beats_are_narrower_than_those_of_free_walls(beats: dict[str, list[Beat]]) -> None:
    septal, lateral = (
        np.array([one.qrs_s for one in beats[site]]) for site in ("LV_mid_anteroseptal", "LV_mid_anterolateral")
    )
    assert np.mean(septal < lateral) >= 0.9


def test_complexes_last_as_long_as_those_of_people(beats: dict[str, list[Beat]]) -> None:
    sinus = np.array([one.qrs_s for one in beats["sinus"]])
    assert 0.08 < np.median(sinus) < 0.11
    assert np.mean(sinus < 0.12) >= 0.9
    ectopic = np.array([one.qrs_s for site in SITES for one in beats[site]])
    assert 0.12 < np.median(ectopic) < 0.2
    assert np.mean((ectopic > 0.105) & (ectopic < 0.215)) >= 0.9


def test_voltages_are_those_of_people(beats: dict[str, list[Beat]]) -> None:
    for name, some in beats.items():
        largest_mv = np.array([np.ptp(one.qrs, axis=1).max() for one in some])
        assert 0.8 < np.median(largest_mv) < 3.5, name
        assert np.mean((largest_mv > 0.5) & (largest_mv < 4)) >= 0.9, name


def test_sinus_beats_look_normal(beats: dict[str, list[Beat]]) -> None:
    assert share(beats["sinus"], I="up", II="up", V1="down", V5="up", V6="up", aVR="down") >= 0.9
    t_up = np.array([one.t_area > 0 for one in beats["sinus"]])
    assert t_up[:, [LEADS_12.index(lead) for lead in ("I", "II", "V3", "V4", "V5", "V6")]].mean(axis=0).min() >= 0.9
    r_mv = {lead: np.median([one.qrs[at].max() for one in beats["sinus"]]) for at, lead in enumerate(LEADS_12)}
    assert r_mv["V1"] < r_mv["V2"] < r_mv["V4"]


def test_t_waves_of_ectopic_beats_point_the_other_way(beats: dict[str, list[Beat]]) -> None:
    for site in SITES:
        together = [np.corrcoef(list(one.area.values()), one.t_area)[0, 1] for one in beats[site]]
        assert np.mean(np.array(together) < -0.4) >= 0.9, site


def test_a_beat_ends_where_it_began(beats: dict[str, list[Beat]]) -> None:
    """All that was excited recovers: the potential comes back to nothing."""
    for some in beats.values():
        for one in some:
            largest_mv = np.abs(one.signal_mv_lt).max()
            assert np.abs(one.signal_mv_lt[:, : round(0.07 * FS_HZ)]).max() < 1e-3 * largest_mv
            assert np.abs(one.signal_mv_lt[:, -5:]).max() < 0.02 * largest_mv


# ── Patients ─────────────────────────────────────────────────────────────────────────────────────────────


def test_the_heart_lies_in_the_chest_pointing_left_down_and_forward() -> None:
    for number in range(20):
        one = patient(number)
        turn = ectopy.axes(one)
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(turn) == pytest.approx(1)
        left, down, back = turn[2]
        assert left > 0
        assert down > 0
        assert back < 0
        lateral_back, anterior_down = turn[0, 2], turn[1, 1]
        assert lateral_back > 0
        assert anterior_down < 0
        heart = ventricles.scaled(ventricles.reference_heart(), one.scale)
        away_mm = np.linalg.norm(heart.xyz_mm @ turn + one.base_mm, axis=1)
        assert away_mm.max() < one.chest_mm - 5


def test_patients_differ_and_follow_from_their_draws() -> None:
    assert patient(3).chest_mm == patient(3).chest_mm
    assert len({patient(number).muscle_speed for number in range(10)}) == 10
    for number in range(50):
        one = patient(number)
        assert 0.4 <= one.muscle_speed <= 1
        assert one.muscle_speed < one.endocardium_speed < one.purkinje_speed * 1.1
        slow = patient(number, fast=False)
        assert slow.endocardium_speed == slow.muscle_speed


def test_scars_are_of_the_left_ventricle_and_never_beat() -> None:
    n_through = 0
    for number in range(12):
        one = patient(number, scars=1.0)
        made = ectopy.model(one)
        assert one.scar is not None
        assert 5 < made.blocked.sum() < 700
        assert (made.heart.wall[made.blocked] == ventricles.LV).all()
        n_through += bool((made.heart.layer[made.blocked] == ventricles.EPI).any())
        assert np.isinf(made.sinus_s[made.blocked]).all()
        assert np.isfinite(made.sinus_s[~made.blocked]).all()
        at_s = ectopy.ectopic_activation_s(one, made, middle_of(made.heart, "RV_mid"))
        assert (np.isinf(at_s) == made.blocked).all()
        signal_mv_lt = beat(one, made, seen(one, made), at_s, ectopic=True).signal_mv_lt
        assert np.isfinite(signal_mv_lt).all()
    assert 0 < n_through < 12


# ── Recordings ───────────────────────────────────────────────────────────────────────────────────────────


@cache
def somebody() -> tuple[ectopy.Patient, ectopy.Model]:
    return patient(7), ectopy.model(patient(7))


def record(number: int, *, fs_hz: int = FS_HZ, duration_s: float = 10.0) -> ectopy.Recording:
    one, made = somebody()
    draw = np.random.Generator(np.random.Philox(100 + number))
    return ectopy.record(one, made, middle_of(made.heart, "RVOT_free"), duration_s, fs_hz, draw)


def test_leads_obey_einthoven_and_goldberger() -> None:
    one, two, three, avr, avl, avf = record(0).signal_mv_lt[:6]
    np.testing.assert_allclose(three, two - one, atol=1e-12)
    np.testing.assert_allclose(avr, -(one + two) / 2, atol=1e-12)
    np.testing.assert_allclose(avl, one - two / 2, atol=1e-12)
    np.testing.assert_allclose(avf, two - one / 2, atol=1e-12)


@pytest.mark.parametrize(("fs_hz", "duration_s"), [(500, 10.0), (100, 5.0), (1000, 5.5)])
def test_recordings_hold_both_kinds_of_beats_where_they_say(fs_hz: int, duration_s: float) -> None:
    for number in range(4):
        made = record(number, fs_hz=fs_hz, duration_s=duration_s)
        assert made.signal_mv_lt.shape == (12, round(duration_s * fs_hz))
        assert made.beat_samples.size == made.is_ectopic.size
        assert (np.diff(made.beat_samples) > 0.3 * fs_hz).all()
        assert 0 < made.is_ectopic.sum() < made.is_ectopic.size
        assert 0 <= made.beat_samples[0] < made.beat_samples[-1] < made.signal_mv_lt.shape[1]


def test_marks_stand_on_qrs_complexes() -> None:
    for number in range(4):
        made = record(number)
        steep = np.linalg.norm(np.gradient(made.signal_mv_lt, axis=1), axis=0)
        near = [steep[max(0, at - 20) : at + 20].max() for at in made.beat_samples]
        assert min(near) > 4 * np.median(steep)


def test_recordings_follow_from_their_draws() -> None:
    np.testing.assert_array_equal(record(1).signal_mv_lt, record(1).signal_mv_lt)
    assert np.abs(record(1).signal_mv_lt - record(2).signal_mv_lt).max() > 0.1


def test_there_are_single_beats_with_pauses_and_runs() -> None:
    one = patient(5)
    runs = 0
    for number in range(40):
        beats = ectopy.draw_beats(one, 10.0, np.random.Generator(np.random.Philox(number)))
        assert (np.diff(beats.onset_s) > 0.3).all()
        assert (beats.rr_s[beats.ectopic] < 0.63).all()
        row = np.diff(np.flatnonzero(beats.ectopic)) == 1
        runs += bool(row.any())
        if not row.any():
            after = np.flatnonzero(beats.ectopic) + 1
            assert (beats.rr_s[after] > 60 / one.rate_bpm).all()
    assert 2 < runs < 25
