"""Patients' keys: asked for where identifiers are not public, checked for length, told apart between stores."""

from __future__ import annotations

import re

import pytest

from ecgstore import IngestSettings, ingest_folder, open_store
from ecgstore.build.patients import ids_are_public, key_check, patient_hash, patients_in_words
from ecgstore.build.survey import survey
from ecgstore.errors import ConfigError
from ecgstore.look.overlap import find_overlap
from ecgstore.settings import parse
from ecgstore.sources import wfdb_folder

KEY = "a secret of many letters"


@pytest.fixture
def root(tmp_path, write_record):
    root = tmp_path / "src"
    write_record(root, "x1")
    write_record(root, "x2")
    (root / "labels.csv").write_text("record_id,patient_id\nx1,17\nx2,18\n")
    return root


def ingest(root, out, **settings):
    source = wfdb_folder.Settings(labels="labels.csv")
    ingest_folder(root, out, IngestSettings(source=source, fs_hz=100, filters=(), **settings))
    return open_store(out)


def test_a_folder_that_names_patients_asks_for_a_key(root, tmp_path):
    with pytest.raises(ConfigError, match=r"ECGSTORE_PATIENT_KEY.*--patient-key public"):
        ingest(root, tmp_path / "o.ecg")
    assert not (tmp_path / "o.ecg").exists()


def test_the_key_is_asked_for_before_any_header_is_read(root, tmp_path):
    for header in root.glob("*.hea"):
        header.write_text("no header\n")
    with pytest.raises(ConfigError, match="ECGSTORE_PATIENT_KEY"):
        ingest(root, tmp_path / "o.ecg")


@pytest.mark.parametrize(
    ("labels", "settings", "said"),
    [
        ("x1,17\nx2,18\n", {}, "set ECGSTORE_PATIENT_KEY to a secret.*or say --patient-key public"),
        ("x1,x1\nx2,18\n", {"patient_key": KEY}, "1 of 2 record ids contain.*--record-ids hashed"),
        ("x1,17\nx2,18\n", {"patient_key": KEY}, None),
        ("x1,17\nx2,18\n", {"patient_key": "public"}, None),
        ("x1,x1\nx2,18\n", {"patient_key": KEY, "record_ids": "hashed"}, None),
        ("x1,\nx2,\n", {}, None),
    ],
)
def test_a_scan_says_what_an_ingest_would_ask_for(root, labels, settings, said):
    (root / "labels.csv").write_text(f"record_id,patient_id\n{labels}")
    source = wfdb_folder.Settings(labels="labels.csv")
    found = survey(root, IngestSettings(source=source, fs_hz=100, filters=(), **settings))
    asked = [note for note in found.notes if note.startswith("an ingest would be refused: ")]
    assert (found.records, len(asked)) == (2, said is not None)
    assert said is None or re.search(said, asked[0])


def test_patients_that_a_source_finds_in_headers_need_a_key_too(tmp_path, write_record):
    header = write_record(tmp_path / "src", "x1").with_suffix(".hea")
    header.write_text(header.read_text() + "# MRN 17\n")
    own = tmp_path / "ward.py"
    own.write_text(WARD)
    with pytest.raises(ConfigError, match="ECGSTORE_PATIENT_KEY"):
        ingest_folder(tmp_path / "src", tmp_path / "o.ecg", IngestSettings(source=str(own), filters=()))


WARD = """
from dataclasses import replace
from ecgstore import Listing, RecordRef, Terms
from ecgstore import Settings as Base

TERMS = Terms(name="ptbxl", version="1", licence="ours", redistributable=False)

class Settings(Base):
    pass

def list_records(root, settings):
    return Listing((RecordRef("x1", root / "x1"),), (), TERMS)

def describe(ref, comments, settings, gains=()):
    return replace(ref, patient_id=comments[0].split()[1])
"""


def test_a_folder_without_patients_asks_for_none(root, tmp_path):
    (root / "labels.csv").write_text("record_id,fold\nx1,1\n")
    store = ingest(root, tmp_path / "o.ecg")
    assert set(store.column("patient_key")) == {""}
    assert patients_in_words(store) == "not named"


def test_a_secret_leaves_its_check_in_the_store_and_public_does_not(root, tmp_path):
    secret = ingest(root, tmp_path / "s.ecg", patient_key=KEY)
    assert secret.attributes["patient_key_check"] == key_check(KEY) != patient_hash(KEY, "")
    public = ingest(root, tmp_path / "p.ecg", patient_key="public")
    assert "patient_key_check" not in public.attributes
    assert public.column("patient_key")[0] == patient_hash("wfdb_folder", "17")
    assert patients_in_words(secret) == "2, hashed with a secret key"
    assert patients_in_words(public) == "2, hashed with the source's name as key: ids can be guessed"


def test_stores_of_different_keys_are_not_compared(root, tmp_path):
    stores = [ingest(root, tmp_path / f"{key}.ecg", patient_key=f"{KEY} {key}") for key in ("a", "b", "a ")]
    apart = find_overlap(stores[0], [0], stores[1], [0])
    assert (apart.patients, apart.note) == (None, "different keys: patients can't be compared; only signals were")
    again = ingest(root, tmp_path / "again.ecg", patient_key=f"{KEY} a")
    both = find_overlap(stores[0], [0], again, [0, 1])
    assert (both.patients, both.note) == ((patient_hash(f"{KEY} a", "17"),), "")


def test_public_ids_of_two_folders_may_be_two_persons(root, tmp_path, write_record):
    one = ingest(root, tmp_path / "one.ecg", patient_key="public")
    write_record(root, "x3")
    two = ingest(root, tmp_path / "two.ecg", patient_key="public")
    assert "one id may stand for two persons" in find_overlap(one, [0], two, [0]).note


@pytest.mark.parametrize("key", ["short", "123456789012345", " " * 20, "  a short one   "])
def test_a_short_key_is_refused_and_not_shown(key):
    with pytest.raises(ConfigError, match="16 characters") as refused:
        parse(IngestSettings, {"patient_key": key})
    assert key.strip() == "" or key.strip() not in str(refused.value)


def test_a_store_grows_only_by_its_own_key(root, tmp_path, write_record):
    ingest(root, tmp_path / "o.ecg", patient_key=KEY)
    write_record(root, "x3")
    settings = {"source": wfdb_folder.Settings(labels="labels.csv"), "fs_hz": 100, "filters": ()}
    for other in ("public", f"{KEY}."):
        with pytest.raises(ConfigError, match="key of patients it was made with"):
            ingest_folder(root, tmp_path / "o.ecg", IngestSettings(**settings, patient_key=other), append=True)
    assert (
        ingest_folder(root, tmp_path / "o.ecg", IngestSettings(**settings, patient_key=KEY), append=True).records == 3
    )


def test_only_published_sources_need_no_key(tmp_path):
    public = {name for name in ("ptbxl", "cinc2020", "cinc2021", "mitdb", "synthetic") if ids_are_public(name)}
    assert len(public) == 5
    assert not any(map(ids_are_public, ("mimic_iv_ecg", "wfdb_folder", "no_such_source")))


def test_a_source_file_cannot_call_its_ids_public(root, tmp_path):
    own = tmp_path / "own.py"
    own.write_text(
        "from ecgstore.sources.ptbxl import TERMS\n"
        "from ecgstore.sources import wfdb_folder\n"
        "PATIENT_IDS_ARE_PUBLIC = True\n"
        "class Settings(wfdb_folder.Settings): pass\n"
        "def list_records(root, settings):\n"
        "    import dataclasses\n"
        "    return dataclasses.replace(wfdb_folder.list_records(root, settings), terms=TERMS)\n"
    )
    settings = parse(IngestSettings, {"source": {"name": str(own), "labels": "labels.csv"}})
    with pytest.raises(ConfigError, match="ECGSTORE_PATIENT_KEY"):
        ingest_folder(root, tmp_path / "o.ecg", settings)
