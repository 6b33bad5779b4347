"""Ids of records: as the source has them, their last part, or hashed; never with a patient's identifier in them."""

from __future__ import annotations

import pytest

from ecgstore import IngestSettings, ingest_folder, open_store
from ecgstore.errors import ConfigError
from ecgstore.sources import wfdb_folder
from ecgstore.sources._labels import names_patient

KEY = "a secret of many letters"


def ingest(root, out, *, patient_key=KEY, **settings):
    source = wfdb_folder.Settings(labels="labels.csv")
    settings = IngestSettings(source=source, fs_hz=100, filters=(), patient_key=patient_key, max_rejected=1, **settings)
    ingest_folder(root, out, settings)
    return open_store(out)


@pytest.fixture
def root(tmp_path, write_record):
    root = tmp_path / "src"
    for ward, name in (("MRN-77", "a"), ("MRN-78", "b")):
        write_record(root / ward, name)
    (root / "labels.csv").write_text("record_id,patient_id\nMRN-77/a,MRN-77\nMRN-78/b,MRN-78\n")
    return root


def test_ids_that_hold_their_patient_are_refused_and_not_shown(root, tmp_path):
    for key in (KEY, "public"):
        with pytest.raises(ConfigError, match=r"2 of 2 record ids.*--record-ids hashed") as refused:
            ingest(root, tmp_path / "o.ecg", patient_key=key)
        assert "MRN" not in str(refused.value)
    assert not (tmp_path / "o.ecg").exists()


def test_the_last_part_will_do_where_only_folders_tell(root, tmp_path):
    store = ingest(root, tmp_path / "o.ecg", record_ids="stem")
    assert store.column("record_id").tolist() == ["a", "b"]
    assert store.attributes["record_ids"] == "stem"


def test_one_path_of_thousands_of_letters_leaves_out_its_record_and_not_the_store(root, tmp_path, write_record):
    write_record(root.joinpath(*["ü" * 100] * 6), "far")
    with (root / "labels.csv").open("a") as labels:
        labels.write(f"{'x' * 5000},9\n")
    store = ingest(root, tmp_path / "o.ecg", record_ids="stem")
    assert store.column("record_id").tolist() == ["a", "b", "far"]
    (root / "labels.csv").write_text(f"record_id,fold\nMRN-77/a,1\n{'x' * 5000},1\n")
    store = ingest(root, tmp_path / "p.ecg")
    assert store.column("record_id").tolist() == ["MRN-77/a", "MRN-78/b"]
    stranger, far = store.rejected.to_pylist()
    assert (stranger["record_id"], stranger["reason"]) == ("x" * 200 + "…", "missing_header")
    assert (far["record_id"][-1], far["reason"]) == ("…", "too_large")
    assert "an id of 1209 bytes; the limit is 1024: --record-ids stem or hashed" in far["detail"]
    assert store.verify(deep=True) == []


def test_last_parts_that_are_not_unique_are_refused(root, tmp_path, write_record):
    write_record(root / "MRN-79", "a")
    with pytest.raises(ConfigError, match="1 of 3 records have the last part"):
        ingest(root, tmp_path / "o.ecg", record_ids="stem")


def test_hashed_ids_name_nobody_anywhere_in_the_store(root, tmp_path, write_record):
    write_record(root / "MRN-80", "c")
    (root / "MRN-80" / "c.dat").unlink()
    with (root / "labels.csv").open("a") as file:
        file.write("MRN-80/c,MRN-80\nMRN-99/z,MRN-99\n")
    store = ingest(root, tmp_path / "o.ecg", record_ids="hashed")
    ids = [*store.column("record_id").tolist(), *store.rejected["record_id"].to_pylist()]
    assert len(set(ids)) == 4
    assert all(len(one) == 16 and int(one, 16) >= 0 for one in ids)
    assert store.rejected["reason"].to_pylist().count("missing_header") == 1
    assert set(store.rejected["detail"].to_pylist()) == {""}
    held = b"".join(path.read_bytes() for path in (tmp_path / "o.ecg").rglob("*") if path.is_file())
    assert b"MRN" not in held
    assert b"c.dat" not in held


def test_hashes_need_a_secret_and_stay_with_it(root, tmp_path):
    with pytest.raises(ConfigError, match="hashed record ids need a secret key"):
        ingest(root, tmp_path / "o.ecg", patient_key="public", record_ids="hashed")
    one = ingest(root, tmp_path / "one.ecg", record_ids="hashed").column("record_id").tolist()
    other = (
        ingest(root, tmp_path / "other.ecg", patient_key=f"{KEY}!", record_ids="hashed").column("record_id").tolist()
    )
    assert not set(one) & set(other)


def test_a_row_that_names_no_record_but_its_patient_is_rejected_by_its_line(root, tmp_path):
    with (root / "labels.csv").open("a") as file:
        file.write("MRN-99/z,MRN-99\n")
    store = ingest(root, tmp_path / "o.ecg", record_ids="stem")
    assert store.rejected["record_id"].to_pylist() == ["line 4 of the labels"]


@pytest.mark.parametrize(
    ("record_id", "patient_id", "is_named"),
    [
        ("ward/MRN-77/a", "MRN-77", True),
        ("mrn-77_visit2", "MRN-77", True),
        ("MRN-771", "MRN-77", False),
        ("p1000/p10000032/s4/4", "10000032", True),
        ("00123", "123", True),
        ("1230", "123", False),
        ("r1", "1", False),
        ("ward/1", "1", True),
        ("ward/10", "1", False),
        ("a", None, False),
        ("müller_7", "Müller", True),
        ("0", "0", True),
        ("10", "0", False),
    ],
)
def test_what_names_a_patient(record_id, patient_id, is_named):
    assert names_patient(record_id, patient_id) is is_named
