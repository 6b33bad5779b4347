"""A store in other formats: WFDB records of the same millivolts, and the tables of MEDS."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from ecgstore import ConfigError, IngestSettings, StoreExists, ingest_folder, open_store, subset_store
from ecgstore.cli import main
from ecgstore.lineage.to_meds import export_meds
from ecgstore.lineage.to_wfdb import export_wfdb
from ecgstore.storage import tables

wfdb = pytest.importorskip("wfdb")


def reads_the_same(store_path: Path, folder: Path) -> None:
    store = open_store(store_path)
    names = (folder / "RECORDS").read_text().split()
    for record_id, name in zip(store.column("record_id").tolist(), names, strict=True):
        one, other = store.read(record_id), wfdb.rdrecord(str(folder / name))
        there = [lead for lead, state in zip(one.leads, one.lead_states, strict=True) if state != "a"]
        assert (other.sig_name, other.fs, set(other.units)) == (there, one.fs_hz, {"mV"})
        rows = [one.leads.index(lead) for lead in there]
        np.testing.assert_allclose(other.p_signal.T, one.signal_mv_lt[rows], atol=1e-6)


def test_wfdb_reads_the_same_millivolts(mini_store: Path, tmp_path: Path) -> None:
    subset_store(open_store(mini_store), tmp_path / "few.ecg", folds=[3])
    store = open_store(tmp_path / "few.ecg")
    report = export_wfdb(store, tmp_path / "wfdb")
    assert (report.records, report.renamed) == (7, 0)
    reads_the_same(tmp_path / "few.ecg", tmp_path / "wfdb")
    # The counts are the store's own, so an ingest without a filter gives them back.
    settings = IngestSettings(source={"name": "wfdb_folder"}, fs_hz=100, filters=(), patient_key="public")
    ingest_folder(tmp_path / "wfdb", tmp_path / "back.ecg", settings)
    back = open_store(tmp_path / "back.ecg")
    ids = back.column("record_id").tolist()
    order = [ids.index(one) for one in store.column("record_id")]
    assert back.column("crc32")[order].tolist() == store.column("crc32").tolist()
    with pytest.raises(StoreExists):
        export_wfdb(store, tmp_path / "wfdb")


def test_raw_counts_keep_their_gains(tmp_path: Path, write_record) -> None:
    rng = np.random.default_rng(0)
    counts_tl = rng.integers(-30_000, 30_000, (1000, 12)).astype("<i2")
    counts_tl[5:9, 3] = -32768
    write_record(tmp_path / "src", "one", counts_tl, gain="200.5(-17)/mV")
    write_record(
        tmp_path / "src",
        "turned",
        counts_tl,
        ("-I", "II", *(f"V{i}" for i in range(1, 7)), "III", "aVR", "aVL", "aVF"),
    )
    ingest_folder(tmp_path / "src", tmp_path / "raw.ecg", IngestSettings(profile="raw", extra_leads="drop"))
    raw = open_store(tmp_path / "raw.ecg")
    assert min(raw.lead_quality["gain_per_mv"][1].as_py()) == -1000
    export_wfdb(raw, tmp_path / "wfdb")
    reads_the_same(tmp_path / "raw.ecg", tmp_path / "wfdb")


def test_annotations_are_written_too(annotated: Path, tmp_path: Path) -> None:
    store = open_store(annotated)
    report = export_wfdb(store, tmp_path / "wfdb")
    assert report.lost_annotations == 0
    read = wfdb.rdann(str(tmp_path / "wfdb" / "first-record"), "atr")
    beats = store.read_beats("first-record")
    assert read.symbol == [beat.symbol for beat in beats]
    assert read.sample.tolist() == [round(beat.time_s * 100) for beat in beats]
    assert read.aux_note[0].rstrip("\0") == "(AFIB"


def test_labels_say_what_the_store_says_and_odd_ids_are_numbered(make, tmp_path: Path) -> None:
    store = open_store(make("odd.ecg", range(3), prefix="ward ä/rec", site="north"))
    report = export_wfdb(store, tmp_path / "wfdb")
    assert report.renamed == 3
    rows = list(csv.DictReader((tmp_path / "wfdb" / "labels.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["record_id"] for row in rows] == ["record-0000000", "record-0000001", "record-0000002"]
    assert rows[1]["patient_id"] == store.column("patient_key")[1]
    assert (rows[1]["fold"], rows[1]["sex"], rows[1]["site"], rows[1]["age_years"]) == ("1", "female", "north", "41")
    assert rows[1]["diagnosis"] == "AFIB;RARE1"


def test_meds_has_its_tables(mini_store: Path, tmp_path: Path) -> None:
    store = open_store(mini_store)
    report = export_meds(store, tmp_path / "meds")
    data = tables.from_parquet((tmp_path / "meds" / "data" / "0.parquet").read_bytes())
    kinds = {"subject_id": pa.int64(), "time": pa.timestamp("us"), "code": pa.string(), "numeric_value": pa.float32()}
    assert {name: data.schema.field(name).type for name in kinds} == kinds
    subjects = data["subject_id"].to_pylist()
    assert subjects == sorted(subjects)
    assert data["time"].null_count == len(data)
    assert data["code"].null_count == 0
    assert min(subjects) >= 0
    assert len(set(subjects)) == report.subjects == len(set(store.column("patient_key")))
    events = data.to_pylist()
    first = [one for one in events if one["record_id"] == store.id_of(0)]
    said = [one for one in store.statements.to_pylist() if one["row"] == 0]
    stated = {one["code"]: one["numeric_value"] for one in first if one["code"].startswith("scp_ecg//")}
    assert stated == {f"scp_ecg//{one['code']}": one["likelihood"] for one in said}
    ages = [one["numeric_value"] for one in first if one["code"] == "ECG//AGE_YEARS"]
    assert ages == [store.column("age_years")[0]]
    codes = tables.from_parquet((tmp_path / "meds" / "metadata" / "codes.parquet").read_bytes())
    assert codes.schema.names == ["code", "description", "parent_codes"]
    assert set(codes["code"].to_pylist()) == set(data["code"].to_pylist())
    splits = tables.from_parquet((tmp_path / "meds" / "metadata" / "subject_splits.parquet").read_bytes())
    assert splits.schema.equals(pa.schema([("subject_id", pa.int64()), ("split", pa.string())]))
    split_of = dict(zip(*splits.to_pydict().values(), strict=True))
    for one in events:
        fold = int(store.column("fold")[store.column("record_id").tolist().index(one["record_id"])])
        assert split_of[one["subject_id"]] == {7: "tuning", 8: "held_out"}.get(fold, "train")
    about = json.loads((tmp_path / "meds" / "metadata" / "dataset.json").read_text())
    assert (about["meds_version"], about["dataset_version"]) == ("0.4.1", store.fingerprint)


def test_folds_of_the_splits_can_be_chosen(mini_store: Path, tmp_path: Path) -> None:
    store = open_store(mini_store)
    with pytest.raises(ConfigError, match="no record is in fold 77"):
        export_meds(store, tmp_path / "meds", tuning=[77])
    with pytest.raises(ConfigError, match="tuning and held_out"):
        export_meds(store, tmp_path / "meds", tuning=[1], held_out=[1])
    done = CliRunner().invoke(
        main,
        ["export", str(mini_store), "--meds", str(tmp_path / "meds"), "--tuning", "1", "--held-out", "2,3", "--json"],
    )
    assert (done.exit_code, json.loads(done.stdout)["meds"]["splits"]["tuning"]) == (0, 10)
