"""Virtual patients as a source: the same bytes for a seed, a truth that holds, beats and statements in a store."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ecgstore.errors import ConfigError, SourceError
from ecgstore.simulate import ventricles
from ecgstore.sources import _simulated, synthetic, synthetic_vt
from ecgstore.sources.synthetic_vt import Settings, Simulation, is_here, list_records, simulate
from ecgstore.vocabularies.origin_sites import origin_sites

SMALL = Simulation(n_records=8, seed=3, duration_s=5, origins_per_patient=3, scars=0.6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("vt") / "vt"
    simulate(root, SMALL)
    return root


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def tree(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_wfdb_reads_records_and_their_beats(folder: Path) -> None:
    import wfdb

    for number, row in enumerate(rows(folder / "labels.csv"), start=1):
        at = str(_simulated.base(folder, number))
        record, beats = wfdb.rdrecord(at, physical=False), wfdb.rdann(at, "atr")
        assert (record.fs, record.sig_len, record.checksum) == (500, 2500, record.calc_checksum())
        one, two, three = record.d_signal.T[:3]
        np.testing.assert_array_equal(three, two - one)
        assert set(beats.symbol) == {"N", "V"}
        assert beats.symbol.count("V") == int(row["n_ectopic"])
        assert (np.diff(beats.sample) > 0).all()
        assert 0 <= beats.sample[0] < beats.sample[-1] < 2500


def test_annotations_far_apart_are_written_too(tmp_path: Path, write_record: Callable[..., Path]) -> None:
    import wfdb

    write_record(tmp_path, "r1")
    samples, symbols = [3, 1026, 2050, 200_000], ["N", "V", "N", "V"]
    _simulated.write_beats(tmp_path / "r1", samples, symbols)
    found = wfdb.rdann(str(tmp_path / "r1"), "atr")
    assert found.sample.tolist() == samples
    assert found.symbol == symbols


def test_same_seed_same_bytes_and_another_seed_others(folder: Path, tmp_path: Path) -> None:
    simulate(tmp_path / "again", SMALL)
    assert tree(tmp_path / "again") == tree(folder)
    simulate(tmp_path / "other", SMALL.model_copy(update={"seed": 4, "n_records": 2}))
    signals = [{h for name, h in tree(root).items() if name.endswith(".dat")} for root in (folder, tmp_path / "other")]
    assert not signals[0] & signals[1]


def test_a_record_does_not_depend_on_how_many_follow(folder: Path, tmp_path: Path) -> None:
    simulate(tmp_path / "few", SMALL.model_copy(update={"n_records": 4}))
    few, many = tree(tmp_path / "few"), tree(folder)
    records = [name for name in few if name.startswith("records")]
    assert len(records) == 12
    assert all(few[name] == many[name] for name in records)
    assert rows(tmp_path / "few" / "labels.csv") == rows(folder / "labels.csv")[:4]


def test_the_truth_of_each_record_is_a_point_of_the_heart(folder: Path) -> None:
    points = pq.ParquetFile(folder / "heart_points.parquet").read().to_pylist()
    scales = {row["patient_id"]: row for row in rows(folder / "patients.csv")}
    regions = {one.site: one.region for one in origin_sites()}
    for row in rows(folder / "labels.csv"):
        point = points[int(row["point"])]
        assert (row["vt_site"], row["layer"]) == (point["site"], point["layer"])
        assert row["vt_region"] == point["region"] == regions[row["vt_site"]]
        assert row["aha17"] == str(point["aha17"] or "")
        for axis in "xyz":
            reference_mm = point[f"{axis}_mm"]
            assert float(row[f"{axis}_reference_mm"]) == pytest.approx(reference_mm, abs=0.006)
            scale = float(scales[row["patient_id"]][f"scale_{axis}"])
            assert float(row[f"{axis}_mm"]) == pytest.approx(scale * reference_mm, abs=0.02)
        assert 80 < float(row["qrs_ms"]) < 300


def test_the_heart_that_is_written_gives_the_ways_that_it_has(folder: Path) -> None:
    """Points and edges are enough for geodesic errors, without this package."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import dijkstra

    points = pq.ParquetFile(folder / "heart_points.parquet").read()
    xyz_mm = np.stack([points.column(f"{axis}_mm").to_numpy() for axis in "xyz"], axis=1)
    edges = pq.ParquetFile(folder / "heart_edges.parquet").read()
    one, other = edges.column("point").to_numpy(), edges.column("neighbour").to_numpy()
    assert (one < other).all()
    lengths_mm = np.linalg.norm(xyz_mm[one] - xyz_mm[other], axis=1)
    graph = csr_array((lengths_mm, (one, other)), shape=(len(xyz_mm), len(xyz_mm)))
    found_mm = dijkstra(graph, directed=False, indices=11)
    np.testing.assert_allclose(found_mm, ventricles.distances_mm(ventricles.reference_heart(), 11))


def test_a_patients_records_have_different_sites_and_one_fold(folder: Path) -> None:
    labels = rows(folder / "labels.csv")
    by_patient: dict[str, list[dict[str, str]]] = {}
    for row in labels:
        by_patient.setdefault(row["patient_id"], []).append(row)
    assert [len(some) for some in by_patient.values()] == [3, 3, 2]
    for some in by_patient.values():
        assert len({row["vt_site"] for row in some}) == len(some)
        assert len({(row["fold"], row["sex"], row["age_years"]) for row in some}) == 1
    assert [row["patient_id"] for row in rows(folder / "patients.csv")] == list(by_patient)


def test_origins_are_drawn_from_every_site_and_never_in_a_scar() -> None:
    settings = Simulation(n_records=160, origins_per_patient=20, scars=1.0)
    sites, n_border = set(), 0
    for truth in synthetic_vt.truths(settings):
        heart = truth.made.heart
        assert not truth.made.blocked[truth.origin]
        sites.add(str(heart.site[truth.origin]))
        scar = truth.patient.scar
        assert scar is not None
        away_mm = np.linalg.norm(heart.xyz_mm[truth.origin] - heart.xyz_mm[scar.point])
        n_border += bool(away_mm < scar.radius_mm + synthetic_vt.BORDER_MM)
    assert sites == {one.site for one in origin_sites()}
    assert n_border > 20


def test_listing_says_where_beats_begin(folder: Path) -> None:
    listing = list_records(folder, Settings())
    assert [ref.record_id for ref in listing.records] == [f"{n:05d}" for n in range(1, 9)]
    assert listing.terms.licence == "CC0-1.0"
    assert set(listing.vocabulary) == {"vt_site", "vt_region", "aha17", "vt_place_mm", "vt_reference_mm"}
    for ref, row in zip(listing.records, rows(folder / "labels.csv"), strict=True):
        assert ref.annotators == ("atr",)
        said = {system: [s.code for s in ref.statements if s.system == system] for system in listing.vocabulary}
        assert said["vt_site"] == [row["vt_site"]]
        assert said["vt_region"] == [row["vt_region"]]
        assert said["aha17"] == row["aha17"].split()
        assert [code[:2] for code in said["vt_place_mm"]] == ["x=", "y=", "z="]
        for code, axis in zip(said["vt_place_mm"], "xyz", strict=True):
            assert float(code[2:]) == pytest.approx(float(row[f"{axis}_mm"]), abs=0.5001)


def test_a_store_holds_beats_and_truth(folder: Path, tmp_path: Path) -> None:
    from ecgstore import IngestSettings, ingest_folder, open_store

    report = ingest_folder(folder, tmp_path / "vt.ecg", IngestSettings(fs_hz=100, filters=()))
    assert (report.records, report.rejected, report.warnings) == (8, 0, 0)
    store = open_store(tmp_path / "vt.ecg")
    assert store.terms[0].name == "synthetic_vt"
    n_sites = store.statement_matrix([one.site for one in origin_sites()], "vt_site").sum(axis=1)
    np.testing.assert_array_equal(n_sites, 1)
    for row in rows(folder / "labels.csv"):
        beats = store.read_beats(row["record_id"])
        assert sum(beat.symbol == "V" for beat in beats) == int(row["n_ectopic"])


def test_folders_are_told_apart(folder: Path, tmp_path: Path) -> None:
    assert is_here(folder)
    assert not synthetic.is_here(folder)
    synthetic.simulate(tmp_path / "plain", synthetic.Simulation(n_records=1, duration_s=2))
    assert not is_here(tmp_path / "plain")


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("vt_site", "site", 1),
        lambda text: text.replace(",RV", ",somewhere").replace(",LV", ",somewhere"),
        lambda text: text.replace("cardium,", "cardium,9,").replace("midwall,", "midwall,9,"),
        lambda text: re.sub(r"(\d),(-?\d+\.\d\d),", r"\1,5000,", text, count=1),
        lambda text: "\n".join([*text.splitlines()[:2], "../../etc/passwd" + text.splitlines()[2][5:]]),
    ],
)
def test_labels_that_make_no_sense_are_an_error_with_a_line(tmp_path: Path, damage: Callable[[str], str]) -> None:
    simulate(tmp_path / "vt", SMALL.model_copy(update={"n_records": 2}))
    labels = tmp_path / "vt" / "labels.csv"
    labels.write_text(damage(labels.read_text()))
    with pytest.raises(SourceError, match=r"labels\.csv, line \d"):
        list_records(tmp_path / "vt", Settings())


def test_nothing_is_left_of_an_interrupted_write_and_nothing_is_overwritten(folder: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        assert total == 8
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(tmp_path / "out", SMALL, progress=stop)
    assert list(tmp_path.iterdir()) == []
    before = tree(folder)
    with pytest.raises(ConfigError, match="already something"):
        simulate(folder, SMALL)
    assert tree(folder) == before
