"""The heart model: signals show what is stated of a patient, and look like those of people."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from ecgstore.record import LEADS_12
from ecgstore.simulate import dipole
from ecgstore.sources import synthetic

FS_HZ = 500
Floats = npt.NDArray[np.float64]


class Visit(NamedTuple):
    """One record of the cohort; nothing is written for it."""

    person: int
    codes: tuple[str, ...]
    signal_mv_lt: Floats


class Cohort(NamedTuple):
    visits: list[Visit]

    def stating(self, code: str, *, without: tuple[str, ...] = ()) -> list[Visit]:
        return [one for one in self.visits if code in one.codes and not set(without) & set(one.codes)]


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    settings = synthetic.Simulation(n_records=500, seed=7)
    make = synthetic._generator(settings)
    return Cohort([Visit(person.number, *make(person, visit)) for _, person, visit in synthetic._visits(settings)])


def beats(signal_mv_lt: Floats, share: float = 0.45) -> npt.NDArray[np.int64]:
    """Samples of the steepest part of each QRS complex."""
    from scipy.signal import find_peaks

    speed = np.convolve(np.linalg.norm(np.gradient(signal_mv_lt, axis=1), axis=0), np.ones(25) / 25, "same")
    found, _ = find_peaks(speed, height=share * np.quantile(speed, 0.99), distance=140)
    return np.asarray(found)


def median_beat(signal_mv_lt: Floats) -> Floats:
    """From 160 ms before to 300 ms after the middle of QRS, 0 mV just before QRS."""
    n_samples = signal_mv_lt.shape[1]
    cuts = [signal_mv_lt[:, at - 80 : at + 150] for at in beats(signal_mv_lt) if 80 < at < n_samples - 150]
    beat = np.median(cuts, axis=0)
    return np.asarray(beat - np.median(beat[:, 20:35], axis=1, keepdims=True))


def qrs_ms(one: Visit) -> float:
    """Time, within 80 ms before and 120 ms after its middle, for which the median beat moves fast."""
    beat = median_beat(one.signal_mv_lt)
    speed = np.convolve(np.linalg.norm(np.gradient(beat, axis=1), axis=0), np.ones(7) / 7, "same")[40:140]
    return float(np.count_nonzero(speed > 0.12 * speed.max())) / FS_HZ * 1000


def test_the_projection_undoes_the_inverse_dower_matrix() -> None:
    inverse = np.array(
        [
            [0.156, -0.009, -0.172, -0.073, 0.122, 0.231, 0.239, 0.193],
            [-0.227, 0.886, 0.057, -0.019, -0.106, -0.022, 0.040, 0.048],
            [0.021, 0.102, -0.228, -0.310, -0.245, -0.063, 0.054, 0.108],
        ]
    )
    np.testing.assert_allclose(dipole.DOWER, np.linalg.pinv(inverse), atol=0.01)


def test_amplitudes_are_those_of_people(cohort: Cohort) -> None:
    normal = cohort.stating("NORM")
    r_of_ii_mv = [median_beat(one.signal_mv_lt)[1].max() for one in normal]
    t_of_v4_mv = [median_beat(one.signal_mv_lt)[9, 120:].max() for one in normal]
    assert 0.5 < np.median(r_of_ii_mv) < 1.5
    assert 0.15 < np.median(t_of_v4_mv) < 0.8
    assert 70 < np.median([qrs_ms(one) for one in normal]) < 105


def test_bundle_branch_blocks_are_broad_and_end_where_they_should(cohort: Cohort) -> None:
    normal = [qrs_ms(one) for one in cohort.stating("NORM")]
    left, right = cohort.stating("CLBBB"), cohort.stating("CRBBB", without=("PVC",))
    for blocked in (left, right):
        assert len(blocked) >= 8
        assert np.median([qrs_ms(one) for one in blocked]) > np.quantile(normal, 0.9)
    v1, v6 = LEADS_12.index("V1"), LEADS_12.index("V6")
    area_left = np.mean([median_beat(one.signal_mv_lt)[:, 50:140].mean(axis=1) for one in left], axis=0)
    late_right = np.mean([median_beat(one.signal_mv_lt)[:, 85:110].mean(axis=1) for one in right], axis=0)
    assert area_left[v1] < -0.1 < 0.1 < area_left[v6]
    assert late_right[v6] < -0.05 < 0.05 < late_right[v1]


def test_inferior_infarctions_raise_st_over_the_inferior_leads(cohort: Cohort) -> None:
    def st_mv(refs: list[Visit]) -> Floats:
        levels = [median_beat(one.signal_mv_lt)[:, 112:125].mean(axis=1) for one in refs]
        return np.asarray(np.mean(levels, axis=0))

    others = ("CLBBB", "CRBBB", "IRBBB", "LVH", "RVH", "PVC", "ISC_", "NST_", "AFIB")
    rise = dict(
        zip(
            LEADS_12,
            st_mv(cohort.stating("IMI", without=others)) - st_mv(cohort.stating("NORM")),
            strict=True,
        )
    )
    assert min(rise["II"], rise["III"], rise["aVF"]) > 0.06
    assert rise["aVL"] < -0.04


def test_left_hypertrophy_has_voltage(cohort: Cohort) -> None:
    def sokolow_mv(one: Visit) -> float:
        beat = median_beat(one.signal_mv_lt)
        return float(-beat[6].min() + max(beat[10].max(), beat[11].max()))

    normal = [sokolow_mv(one) for one in cohort.stating("NORM")]
    large = [sokolow_mv(one) for one in cohort.stating("LVH", without=("AMI", "ASMI", "CRBBB"))]
    assert np.median(large) > 1.2 * np.median(normal)


def test_fibrillation_is_irregular_and_rates_are_as_stated(cohort: Cohort) -> None:
    def rr_s(one: Visit) -> Floats:
        return np.diff(beats(one.signal_mv_lt)) / FS_HZ

    def irregularity(refs: list[Visit]) -> list[float]:
        return [float(rr_s(one).std() / rr_s(one).mean()) for one in refs]

    fibrillating = cohort.stating("AFIB", without=("PVC",))
    sinus = cohort.stating("SR", without=("PVC", "CLBBB"))
    assert len(fibrillating) >= 10
    assert np.median(irregularity(sinus)) < 0.06
    assert np.quantile(irregularity(fibrillating), 0.2) > np.quantile(irregularity(sinus), 0.8)
    slow = [60 / np.median(rr_s(one)) for one in cohort.stating("SBRAD", without=("PVC",))]
    fast = [60 / np.median(rr_s(one)) for one in cohort.stating("STACH", without=("PVC",))]
    assert np.median(slow) < 60 < 100 < np.median(fast)


def test_fibrillation_has_no_p_wave(cohort: Cohort) -> None:
    def p_of_ii_mv(refs: list[Visit]) -> float:
        return float(np.ptp(np.mean([median_beat(one.signal_mv_lt)[1, :36] for one in refs], axis=0)))

    assert p_of_ii_mv(cohort.stating("SR", without=("1AVB", "PVC"))) > 0.04
    assert p_of_ii_mv(cohort.stating("AFIB", without=("PVC",))) < 0.02


def test_ectopic_beats_come_early_and_before_a_pause(cohort: Cohort) -> None:
    def early_then_late(one: Visit) -> bool:
        # A broad beat is slower than the others, so a lower share of the fastest counts.
        rr = np.diff(beats(one.signal_mv_lt, share=0.3))
        rr = rr / np.median(rr)
        return bool(np.any((rr[:-1] < 0.88) & (rr[1:] > 1.1)))

    ectopic = cohort.stating("PVC", without=("AFIB", "CLBBB"))
    assert len(ectopic) >= 10
    assert np.mean([early_then_late(one) for one in ectopic]) > 0.7
    assert np.mean([early_then_late(one) for one in cohort.stating("NORM")]) < 0.15


def test_two_visits_share_a_heart(cohort: Cohort) -> None:
    visits: dict[int, list[Visit]] = {}
    for one in cohort.visits:
        visits.setdefault(one.person, []).append(one)
    steady = [
        [one.signal_mv_lt for one in pair] for pair in visits.values() if len(pair) == 2 and "NORM" in pair[0].codes
    ]
    assert len(steady) > 10
    own = [np.abs(median_beat(a) - median_beat(b)).mean() for a, b in steady]
    other = [
        np.abs(median_beat(a) - median_beat(b)).mean()
        for (a, _), (_, b) in zip(steady, [*steady[1:], steady[0]], strict=True)
    ]
    assert np.median(own) < 0.5 * np.median(other)


def test_every_diagnosis_changes_the_heart() -> None:
    def path_mv(heart: dipole.Heart) -> Floats:
        """Everything a heart is made of, in one row."""
        waves = [part.ravel() for one in (heart.p, heart.qrs, heart.t) for part in one]
        return np.concatenate([*waves, heart.st_mv, [heart.pr_s, heart.qrs_s]])

    assert set(dipole.CHANGES) == {code for codes in synthetic.DIAGNOSES.values() for code in codes}
    healthy = path_mv(dipole._normal_heart())
    for code, change in dipole.CHANGES.items():
        heart = dipole._normal_heart()
        change(heart, 0.5, np.random.Generator(np.random.Philox(1)))
        changed = path_mv(heart)
        assert changed.size != healthy.size or np.abs(changed - healthy).max() > 0.03, code


def test_a_visit_follows_from_its_draws() -> None:
    def signal_mv(seed: int) -> Floats:
        draw = np.random.Generator(np.random.Philox(seed))
        patient = dipole.Patient(60, "female", ("NORM",), "SR", has_pvc=False)
        made = dipole.visit(patient, dipole.anatomy(patient, draw), 4.0, FS_HZ, draw)
        assert not made.has_pvc
        return made.signal_mv_lt

    assert signal_mv(1).shape == (12, 4 * FS_HZ)
    np.testing.assert_array_equal(signal_mv(1), signal_mv(1))
    assert np.abs(signal_mv(1) - signal_mv(2)).max() > 0.1
