"""Ectopic beats: found among sinus beats, told from other wide or early things, and averaged upon each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ecgstore import open_store
from ecgstore.signals import ectopic

FS_HZ = 250.0


def beat(width_s: float, size_mv: float, leads: tuple[float, ...]) -> np.ndarray:
    """A wave of two humps, (leads, samples), 0.4 s long."""
    t = np.arange(-0.2, 0.2, 1 / FS_HZ)
    wave_t = np.exp(-((t / (width_s / 4)) ** 2)) - 0.4 * np.exp(-(((t - width_s / 3) / (width_s / 4)) ** 2))
    return size_mv * np.outer(leads, wave_t)


OWN, OTHER = beat(0.06, 1.0, (1.0, 0.8, -0.3)), beat(0.16, 1.5, (-0.7, 0.9, 1.0))


def strip(beats: list[tuple[float, np.ndarray]], duration_s: float = 10.0) -> np.ndarray:
    """A recording of beats whose middles are at so many seconds, with a little noise."""
    rng = np.random.default_rng(0)
    signal_lt = rng.normal(0, 0.01, (3, round(duration_s * FS_HZ)))
    for at_s, wave_lt in beats:
        begin = round(at_s * FS_HZ) - wave_lt.shape[1] // 2
        signal_lt[:, begin : begin + wave_lt.shape[1]] += wave_lt
    return signal_lt


SINUS = [(0.8 * i + 0.5, OWN) for i in range(12)]


def found_s(signal_lt: np.ndarray) -> list[float]:
    return (ectopic.ectopic_beats(signal_lt, FS_HZ) / FS_HZ).tolist()


def test_a_wide_early_beat_of_another_form_is_ectopic() -> None:
    early = [(3.3, OTHER), (6.5, OTHER)]
    kept = [one for one in SINUS if not any(0 <= one[0] - at_s < 0.9 for at_s, _ in early)]
    assert found_s(strip(kept + early)) == pytest.approx([3.3, 6.5], abs=0.03)


def test_bigeminy_has_no_two_own_beats_in_a_row() -> None:
    beats = [(1.6 * i + 0.5, OWN) for i in range(6)] + [(1.6 * i + 1.1, OTHER) for i in range(5)]
    assert found_s(strip(beats)) == pytest.approx([1.6 * i + 1.1 for i in range(5)], abs=0.03)


@pytest.mark.parametrize(
    ("beats", "why"),
    [
        (SINUS, "all are alike and narrow"),
        ([(one[0], OTHER) for one in SINUS], "all are wide, but no faster than 100 a minute: a bundle branch block"),
        ([*SINUS[:5], (4.2, OWN), *SINUS[6:]], "it is early, but looks like the others"),
        ([*SINUS[:5], (4.5, OTHER), *SINUS[6:]], "it is wide, but in time"),
        ([*SINUS[:5], (4.2, beat(0.06, 1.0, (-1.0, 0.5, 1.0))), *SINUS[6:]], "it is early, but narrow"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_ectopic_beat(beats: list[tuple[float, np.ndarray]], why: str) -> None:
    assert found_s(strip(beats)) == []


def test_a_tachycardia_from_end_to_end_is_ectopic() -> None:
    beats = [(0.45 * i + 0.5, OTHER) for i in range(20)]
    assert found_s(strip(beats)) == pytest.approx([at_s for at_s, _ in beats], abs=0.03)


def test_of_several_ectopic_forms_the_commonest_is_taken() -> None:
    third = beat(0.14, 1.4, (1.0, -0.9, 0.2))
    beats = [*SINUS[:3], (2.6, OTHER), *SINUS[4:6], (5.0, third), *SINUS[7:9], (7.4, OTHER), *SINUS[10:]]
    assert found_s(strip(beats)) == pytest.approx([2.6, 7.4], abs=0.03)


def test_flat_and_empty_signals_have_no_beats() -> None:
    for signal_lt in (np.zeros((3, 2500)), np.full((3, 2500), np.nan), np.zeros((3, 10)), np.zeros((3, 0))):
        assert found_s(signal_lt) == []


def test_a_lead_that_was_not_recorded_changes_nothing() -> None:
    signal_lt = strip([*SINUS[:5], (4.1, OTHER), *SINUS[6:]])
    with_gap_lt = np.vstack([signal_lt, np.full((1, signal_lt.shape[1]), np.nan)])
    assert found_s(with_gap_lt) == found_s(signal_lt) != []


def test_marks_anywhere_in_the_complex_find_its_middle() -> None:
    signal_lt = strip([*SINUS[:5], (4.1, OTHER), *SINUS[6:]])
    for moved_s in (-0.07, 0.0, 0.07):
        marks = np.array([round((4.1 + moved_s) * FS_HZ)])
        assert ectopic.commonest_form(signal_lt, FS_HZ, marks) / FS_HZ == pytest.approx([4.1], abs=0.03)


def test_the_average_lies_upon_its_beats_and_loses_their_noise() -> None:
    at_s = [1.0, 3.0, 5.0, 7.0]
    signal_lt = strip([(one, OTHER) for one in at_s])
    middles = np.array([round((one + moved) * FS_HZ) for one, moved in zip(at_s, (0, 0.02, -0.03, 0.01), strict=True)])
    mean_lt, n = ectopic.average(signal_lt, FS_HZ, middles, 60, 60)
    assert (mean_lt.shape, mean_lt.dtype, n) == ((3, 120), np.float32, 4)
    middle, _ = ectopic._extent(ectopic.steepness(mean_lt, FS_HZ), 60, FS_HZ)
    assert abs(middle - 60) <= 1
    best = min(
        np.abs(mean_lt[:, 10 + i : 110 + i][:, :100] - OTHER[:, :100]).max() for i in range(-9, 9) if 110 + i <= 120
    )
    assert best < 0.03


def test_a_beat_cut_off_by_an_end_counts_only_where_no_other_is_whole() -> None:
    signal_lt = strip([(0.3, OTHER), (4.0, OTHER)])
    both = np.array([75, 1000])
    _, n = ectopic.average(signal_lt, FS_HZ, both, 100, 60)
    assert n == 1
    mean_lt, n = ectopic.average(signal_lt, FS_HZ, both[:1], 100, 60)
    assert n == 1
    assert 0 < np.isnan(mean_lt[0]).sum() < 60


def test_simulated_origins_are_found_again(vt_store: Path) -> None:
    store = open_store(vt_store)
    right = wrong = missed = 0
    for record_id in store.column("record_id")[:24]:
        record = store.read(record_id)
        truth_s = np.array([one.time_s for one in store.read_beats(record_id) if one.symbol == "V"])
        its_s = np.array(found_s_at(record))
        hits = (np.abs(its_s[:, None] - truth_s) < 0.12).any(axis=1) if its_s.size else np.zeros(0, bool)
        right, wrong, missed = right + hits.sum(), wrong + (~hits).sum(), missed + max(0, len(truth_s) - hits.sum())
    assert right / (right + missed) > 0.9
    assert right / (right + wrong) > 0.97


def found_s_at(record: object) -> list[float]:
    return (ectopic.ectopic_beats(record.signal_mv_lt, record.fs_hz) / record.fs_hz).tolist()
