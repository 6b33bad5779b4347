"""The synthetic source: real WFDB files, the same bytes for a seed, and signals that show what is stated."""

from __future__ import annotations

import csv
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from ecgstore.errors import ConfigError, SourceError
from ecgstore.record import LEADS_12, Listing, RecordRef
from ecgstore.sources import synthetic
from ecgstore.sources.synthetic import Settings, Simulation, is_here, list_records, simulate

FS_HZ = 500


class Cohort(NamedTuple):
    root: Path
    listing: Listing

    def stating(self, code: str, *, without: tuple[str, ...] = ()) -> list[RecordRef]:
        return [
            ref
            for ref in self.listing.records
            if code in codes_of(ref) and not set(without) & set(codes_of(ref))
        ]


def codes_of(ref: RecordRef) -> list[str]:
    return [statement.code for statement in ref.statements]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    root = tmp_path_factory.mktemp("synthetic") / "cohort"
    simulate(root, Simulation(n_records=500, seed=7))
    return Cohort(root, list_records(root, Settings()))


def signal_mv(ref: RecordRef) -> npt.NDArray[np.float64]:
    counts = np.fromfile(ref.path.with_suffix(".dat"), "<i2").reshape(-1, len(LEADS_12))
    return counts.T / 1000


def tree(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def beats(signal_mv_lt: npt.NDArray[np.float64], share: float = 0.45) -> npt.NDArray[np.int64]:
    """Samples of the steepest part of each QRS complex."""
    from scipy.signal import find_peaks

    speed = np.convolve(np.linalg.norm(np.gradient(signal_mv_lt, axis=1), axis=0), np.ones(25) / 25, "same")
    found, _ = find_peaks(speed, height=share * np.quantile(speed, 0.99), distance=140)
    return np.asarray(found)


def median_beat(signal_mv_lt: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """From 160 ms before to 300 ms after the middle of QRS, 0 mV just before QRS."""
    n_samples = signal_mv_lt.shape[1]
    cuts = [signal_mv_lt[:, at - 80 : at + 150] for at in beats(signal_mv_lt) if 80 < at < n_samples - 150]
    beat = np.median(cuts, axis=0)
    return np.asarray(beat - np.median(beat[:, 20:35], axis=1, keepdims=True))


def qrs_ms(ref: RecordRef) -> float:
    """Time, within 80 ms before and 120 ms after its middle, for which the median beat moves fast."""
    beat = median_beat(signal_mv(ref))
    speed = np.convolve(np.linalg.norm(np.gradient(beat, axis=1), axis=0), np.ones(7) / 7, "same")[40:140]
    return float(np.count_nonzero(speed > 0.12 * speed.max())) / FS_HZ * 1000


def test_wfdb_reads_every_number_of_a_record(cohort: Cohort) -> None:
    import wfdb

    ref = cohort.listing.records[0]
    assert ref.path == cohort.root / "records" / "00000" / "00001"
    record = wfdb.rdrecord(str(ref.path), physical=False)
    assert tuple(record.sig_name) == LEADS_12
    assert (record.fs, record.sig_len) == (FS_HZ, 5000)
    assert record.fmt == ["16"] * 12
    assert record.adc_gain == [1000.0] * 12
    assert record.units == ["mV"] * 12
    assert record.checksum == record.calc_checksum()
    assert record.init_value == record.d_signal[0].tolist()
    np.testing.assert_array_equal(record.d_signal.T, np.rint(signal_mv(ref) * 1000))


def test_a_thousand_records_to_a_folder(tmp_path: Path) -> None:
    assert synthetic._base(tmp_path, 999) == tmp_path / "records" / "00000" / "00999"
    assert synthetic._base(tmp_path, 21837) == tmp_path / "records" / "21000" / "21837"


def test_same_seed_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    settings = Simulation(n_records=20, seed=3, duration_s=4)
    simulate(tmp_path / "a", settings)
    simulate(tmp_path / "b", settings)
    simulate(tmp_path / "c", settings.model_copy(update={"seed": 4}))
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    signals = [{h for name, h in tree(tmp_path / side).items() if name.endswith(".dat")} for side in "ac"]
    assert len(signals[0]) == 20
    assert not signals[0] & signals[1]


def test_a_record_does_not_depend_on_how_many_follow(tmp_path: Path) -> None:
    simulate(tmp_path / "few", Simulation(n_records=15, duration_s=4))
    simulate(tmp_path / "many", Simulation(n_records=40, duration_s=4))
    few, many = tree(tmp_path / "few"), tree(tmp_path / "many")
    records = [name for name in few if name.startswith("records")]
    assert len(records) == 30
    assert all(few[name] == many[name] for name in records)
    lines = [(tmp_path / side / "labels.csv").read_text().splitlines() for side in ("few", "many")]
    assert lines[1][:16] == lines[0]


def test_leads_obey_einthoven_and_goldberger_to_the_count(cohort: Cohort) -> None:
    for ref in cohort.listing.records[:20]:
        one, two, three, avr, avl, avf = np.rint(signal_mv(ref)[:6] * 1000)
        assert np.abs(three - (two - one)).max() <= 1
        assert np.abs(avr + (one + two) / 2).max() <= 1
        assert np.abs(avl - (one - two / 2)).max() <= 1
        assert np.abs(avf - (two - one / 2)).max() <= 1


def test_the_projection_undoes_the_inverse_dower_matrix() -> None:
    inverse = np.array(
        [
            [0.156, -0.009, -0.172, -0.073, 0.122, 0.231, 0.239, 0.193],
            [-0.227, 0.886, 0.057, -0.019, -0.106, -0.022, 0.040, 0.048],
            [0.021, 0.102, -0.228, -0.310, -0.245, -0.063, 0.054, 0.108],
        ]
    )
    np.testing.assert_allclose(synthetic.DOWER, np.linalg.pinv(inverse), atol=0.01)


def test_amplitudes_are_those_of_people(cohort: Cohort) -> None:
    normal = cohort.stating("NORM")
    r_of_ii_mv = [median_beat(signal_mv(ref))[1].max() for ref in normal]
    t_of_v4_mv = [median_beat(signal_mv(ref))[9, 120:].max() for ref in normal]
    assert 0.5 < np.median(r_of_ii_mv) < 1.5
    assert 0.15 < np.median(t_of_v4_mv) < 0.8
    assert 70 < np.median([qrs_ms(ref) for ref in normal]) < 105


def test_bundle_branch_blocks_are_broad_and_end_where_they_should(cohort: Cohort) -> None:
    normal = [qrs_ms(ref) for ref in cohort.stating("NORM")]
    left, right = cohort.stating("CLBBB"), cohort.stating("CRBBB", without=("PVC",))
    for blocked in (left, right):
        assert len(blocked) >= 8
        assert np.median([qrs_ms(ref) for ref in blocked]) > np.quantile(normal, 0.9)
    v1, v6 = LEADS_12.index("V1"), LEADS_12.index("V6")
    area_left = np.mean([median_beat(signal_mv(ref))[:, 50:140].mean(axis=1) for ref in left], axis=0)
    late_right = np.mean([median_beat(signal_mv(ref))[:, 85:110].mean(axis=1) for ref in right], axis=0)
    assert area_left[v1] < -0.1 < 0.1 < area_left[v6]
    assert late_right[v6] < -0.05 < 0.05 < late_right[v1]


def test_inferior_infarctions_raise_st_over_the_inferior_leads(cohort: Cohort) -> None:
    def st_mv(refs: list[RecordRef]) -> npt.NDArray[np.float64]:
        levels = [median_beat(signal_mv(ref))[:, 112:125].mean(axis=1) for ref in refs]
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
    def sokolow_mv(ref: RecordRef) -> float:
        beat = median_beat(signal_mv(ref))
        return float(-beat[6].min() + max(beat[10].max(), beat[11].max()))

    normal = [sokolow_mv(ref) for ref in cohort.stating("NORM")]
    large = [sokolow_mv(ref) for ref in cohort.stating("LVH", without=("AMI", "ASMI", "CRBBB"))]
    assert np.median(large) > 1.2 * np.median(normal)


def test_fibrillation_is_irregular_and_rates_are_as_stated(cohort: Cohort) -> None:
    def rr_s(ref: RecordRef) -> npt.NDArray[np.float64]:
        return np.diff(beats(signal_mv(ref))) / FS_HZ

    def irregularity(refs: list[RecordRef]) -> list[float]:
        return [float(rr_s(ref).std() / rr_s(ref).mean()) for ref in refs]

    fibrillating = cohort.stating("AFIB", without=("PVC",))
    sinus = cohort.stating("SR", without=("PVC", "CLBBB"))
    assert len(fibrillating) >= 10
    assert np.median(irregularity(sinus)) < 0.06
    assert np.quantile(irregularity(fibrillating), 0.2) > np.quantile(irregularity(sinus), 0.8)
    slow = [60 / np.median(rr_s(ref)) for ref in cohort.stating("SBRAD", without=("PVC",))]
    fast = [60 / np.median(rr_s(ref)) for ref in cohort.stating("STACH", without=("PVC",))]
    assert np.median(slow) < 60 < 100 < np.median(fast)


def test_fibrillation_has_no_p_wave(cohort: Cohort) -> None:
    def p_of_ii_mv(refs: list[RecordRef]) -> float:
        return float(np.ptp(np.mean([median_beat(signal_mv(ref))[1, :36] for ref in refs], axis=0)))

    assert p_of_ii_mv(cohort.stating("SR", without=("1AVB", "PVC"))) > 0.04
    assert p_of_ii_mv(cohort.stating("AFIB", without=("PVC",))) < 0.02


def test_ectopic_beats_come_early_and_before_a_pause(cohort: Cohort) -> None:
    def early_then_late(ref: RecordRef) -> bool:
        # A broad beat is slower than the others, so a lower share of the fastest counts.
        rr = np.diff(beats(signal_mv(ref), share=0.3))
        rr = rr / np.median(rr)
        return bool(np.any((rr[:-1] < 0.88) & (rr[1:] > 1.1)))

    ectopic = cohort.stating("PVC", without=("AFIB", "CLBBB"))
    assert len(ectopic) >= 10
    assert np.mean([early_then_late(ref) for ref in ectopic]) > 0.7
    assert np.mean([early_then_late(ref) for ref in cohort.stating("NORM")]) < 0.15


def test_statements_are_one_rhythm_and_normal_or_not(cohort: Cohort) -> None:
    superclass = {code: name for name, codes in synthetic.DIAGNOSES.items() for code in codes}
    counts = dict.fromkeys(["NORM", *synthetic.DIAGNOSES], 0)
    for ref in cohort.listing.records:
        codes = codes_of(ref)
        assert set(codes) <= set(synthetic.VOCABULARY)
        assert len(set(codes) & set(synthetic.RHYTHMS)) == 1
        classes = {superclass[code] for code in codes if code in superclass}
        assert ("NORM" in codes) != bool(classes)
        for name in classes or {"NORM"}:
            counts[name] += 1
    shares = {name: count / len(cohort.listing.records) for name, count in counts.items()}
    assert 0.35 < shares.pop("NORM") < 0.5
    assert all(0.08 < share < 0.32 for share in shares.values()), shares


def test_patients_keep_fold_and_heart_between_visits(cohort: Cohort) -> None:
    visits: dict[str | None, list[RecordRef]] = {}
    for ref in cohort.listing.records:
        visits.setdefault(ref.patient_id, []).append(ref)
    twice = [refs for refs in visits.values() if len(refs) == 2]
    assert len(twice) > 30
    assert all(first.fold == second.fold and first.sex == second.sex for first, second in twice)
    assert {ref.fold for ref in cohort.listing.records} == set(range(1, 11))

    steady = [refs for refs in twice if "NORM" in codes_of(refs[0])]
    own = [np.abs(median_beat(signal_mv(a)) - median_beat(signal_mv(b))).mean() for a, b in steady]
    other = [
        np.abs(median_beat(signal_mv(a)) - median_beat(signal_mv(b))).mean()
        for (a, _), (_, b) in zip(steady, [*steady[1:], steady[0]], strict=True)
    ]
    assert np.median(own) < 0.5 * np.median(other)


def test_listing_says_who_and_what(cohort: Cohort) -> None:
    listing = cohort.listing
    assert [ref.record_id for ref in listing.records] == [f"{n:05d}" for n in range(1, 501)]
    assert listing.rejected == ()
    assert listing.terms.licence == "CC0-1.0"
    assert listing.terms.redistributable
    assert listing.vocabulary == {"scp_ecg": synthetic.VOCABULARY}
    with (cohort.root / "labels.csv").open(newline="") as file:
        line = next(csv.DictReader(file))
    first = listing.records[0]
    assert (first.patient_id, str(first.fold), first.sex) == (line["patient_id"], line["fold"], line["sex"])
    assert first.age_years == float(line["age_years"])
    assert ";".join(codes_of(first)) == line["scp_ecg"]
    assert {(s.system, s.likelihood) for s in first.statements} == {("scp_ecg", 100.0)}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    simulate(tmp_path / "small", Simulation(n_records=4, duration_s=2))
    return tmp_path / "small"


def test_missing_headers_and_double_lines_are_rejected_by_name(small: Path) -> None:
    (small / "records" / "00000" / "00002.hea").unlink()
    labels = small / "labels.csv"
    lines = labels.read_text().splitlines()
    labels.write_text("\n".join([*lines, lines[1]]) + "\n")
    listing = list_records(small, Settings())
    assert [ref.record_id for ref in listing.records] == ["00001", "00003", "00004"]
    assert [(r.record_id, r.reason) for r in listing.rejected] == [
        ("00002", "missing_header"),
        ("00001", "duplicate_id"),
    ]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("record_id,", "id,", 1),
        lambda text: text.replace("female", "f").replace("male", "m"),
        lambda text: text.replace("00003,", "../../etc/passwd,", 1),
        lambda text: text + "00009,00009\n",
    ],
)
def test_labels_that_make_no_sense_are_an_error_with_a_line(
    small: Path, damage: Callable[[str], str]
) -> None:
    labels = small / "labels.csv"
    labels.write_text(damage(labels.read_text()))
    with pytest.raises(SourceError, match=r"labels\.csv, line \d"):
        list_records(small, Settings())


def test_a_synthetic_folder_is_known_by_its_readme(small: Path, mini: Path) -> None:
    assert is_here(small)
    assert not is_here(mini)
    (small / "README.txt").write_text("Synthetic dreams")
    assert not is_here(small)
    (small / "README.txt").unlink()
    assert not is_here(small)


def test_a_folder_without_labels_is_no_synthetic_source(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="ecgstore simulate"):
        list_records(tmp_path, Settings())


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(tmp_path / "out", Simulation(n_records=10, duration_s=2), progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_every_record_and_an_empty_folder_is_welcome(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    simulate(
        tmp_path,
        Simulation(n_records=3, duration_s=2),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert len(list_records(tmp_path, Settings()).records) == 3
    assert "CC0" in (tmp_path / "README.txt").read_text()


def test_a_folder_with_anything_in_it_is_refused_untouched(small: Path) -> None:
    before = tree(small)
    with pytest.raises(ConfigError, match="already something"):
        simulate(small, Simulation(n_records=1))
    assert tree(small) == before
    shutil.rmtree(small)
    small.write_text("a file")
    with pytest.raises(ConfigError, match="already something"):
        simulate(small, Simulation(n_records=1))


def test_other_rates_and_lengths(tmp_path: Path) -> None:
    simulate(tmp_path / "slow", Simulation(n_records=2, fs_hz=100, duration_s=7.5))
    header = (tmp_path / "slow" / "records" / "00000" / "00001.hea").read_text()
    assert header.startswith("00001 12 100 750\n")


def test_neurokit_makes_normal_records_with_consistent_leads(tmp_path: Path) -> None:
    settings = Simulation(n_records=2, generator="neurokit")
    simulate(tmp_path / "a", settings)
    simulate(tmp_path / "b", settings)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    for ref in list_records(tmp_path / "a", Settings()).records:
        assert codes_of(ref)[0] == "NORM"
        one, two, three = np.rint(signal_mv(ref)[:3] * 1000)
        assert np.abs(three - (two - one)).max() <= 1
        assert np.ptp(two) > 300


@pytest.mark.parametrize("change", [{"fs_hz": 100}, {"duration_s": 2.5}])
def test_neurokit_refuses_what_it_can_not_do(tmp_path: Path, change: dict[str, float]) -> None:
    settings = Simulation.model_validate({"n_records": 1, "generator": "neurokit", **change})
    with pytest.raises(ConfigError, match="neurokit generator"):
        simulate(tmp_path / "out", settings)
    assert list(tmp_path.iterdir()) == []
