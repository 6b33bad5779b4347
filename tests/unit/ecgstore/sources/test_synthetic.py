"""The synthetic source: real WFDB files, the same bytes for a seed, and a cohort that is what it says."""

from __future__ import annotations

import csv
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from ecgstore.errors import ConfigError, SourceError
from ecgstore.record import LEADS_12, Listing, RecordRef
from ecgstore.sources import _simulated, synthetic
from ecgstore.sources.synthetic import Settings, Simulation, is_here, list_records, simulate

FS_HZ = 500


class Cohort(NamedTuple):
    root: Path
    listing: Listing


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
    assert _simulated.base(tmp_path, 999) == tmp_path / "records" / "00000" / "00999"
    assert _simulated.base(tmp_path, 21837) == tmp_path / "records" / "21000" / "21837"


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


def test_patients_keep_fold_and_sex_between_visits(cohort: Cohort) -> None:
    visits: dict[str | None, list[RecordRef]] = {}
    for ref in cohort.listing.records:
        visits.setdefault(ref.patient_id, []).append(ref)
    twice = [refs for refs in visits.values() if len(refs) == 2]
    assert len(twice) > 30
    assert all(first.fold == second.fold and first.sex == second.sex for first, second in twice)
    assert {ref.fold for ref in cohort.listing.records} == set(range(1, 11))


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
def test_labels_that_make_no_sense_are_an_error_with_a_line(small: Path, damage: Callable[[str], str]) -> None:
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


@pytest.mark.slow
def test_neurokit_makes_normal_records_with_consistent_leads(tmp_path: Path) -> None:
    settings = Simulation(n_records=1, generator="neurokit")
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


def test_what_a_killed_process_left_is_removed_and_what_a_live_one_writes_is_not(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    dead, alive, stranger = (tmp_path / f".out.{one}.partial" for one in (gone.pid, os.getppid(), "mine"))
    for folder in (dead, alive, stranger):
        (folder / "records").mkdir(parents=True)
    simulate(tmp_path / "out", Simulation(n_records=1, duration_s=2))
    assert {path.name for path in tmp_path.iterdir()} == {"out", alive.name, stranger.name}
