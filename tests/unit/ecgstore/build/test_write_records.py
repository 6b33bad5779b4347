"""Stores from arrays: what goes in comes out, and whatever is wrong is said; after an error nothing is left."""

from __future__ import annotations

import dataclasses
import json
import os

import numpy as np
import pytest

import ecgstore
from ecgstore import (
    LEADS_12,
    ConfigError,
    IngestSettings,
    LeadState,
    Record,
    SourceError,
    Statement,
    StoreExists,
    Terms,
    ingest_folder,
    open_store,
    write_records,
)

RAW = IngestSettings(profile="raw")
UNFILTERED = IngestSettings(fs_hz=500, filters=())


def signal_mv_lt(seed=0, n_leads=12, n_samples=1000):
    """Whole microvolts."""
    return np.random.default_rng(seed).integers(-2000, 2000, (n_leads, n_samples)).astype("f4") / 1000


def record(record_id="a", signal=None, **fields):
    signal = signal_mv_lt() if signal is None else signal
    return Record(record_id, **{"leads": LEADS_12, "fs_hz": 500.0, "signal_mv_lt": signal, **fields})


@pytest.mark.parametrize("settings", [RAW, UNFILTERED], ids=["raw", "unfiltered"])
def test_what_goes_in_comes_out(tmp_path, settings):
    gap = signal_mv_lt(1)
    gap[2, 10:40] = np.nan
    given = [
        record("one", statements=(Statement("AFIB", "mine", 80.0),), fold=3, age_years=np.float32(63), sex="male"),
        record("two/b", gap, site="ward 1"),
        record("drei ü", signal_mv_lt(2, 3), leads=["ii", "V1", "I"]),
    ]
    report = write_records(tmp_path / "out.ecg", iter(given), settings)
    assert (report.records, report.rejected, report.warnings) == (3, 0, 0)
    store = open_store(tmp_path / "out.ecg")
    assert store.verify(deep=True) == []
    for one in given[:2]:
        found = store.read(one.record_id)
        np.testing.assert_allclose(found.signal_mv_lt, one.signal_mv_lt, atol=1e-6)
        assert (found.fs_hz, found.statements, found.fold, found.site) == (500, one.statements, one.fold, one.site)
        assert (found.age_years, found.sex) == (one.age_years, one.sex)
    third = store.read("drei ü")
    np.testing.assert_allclose(third.signal_mv_lt[[1, 6, 0]], given[2].signal_mv_lt, atol=1e-6)
    derived = LeadState.ABSENT if settings is RAW else LeadState.DERIVED
    assert [third.lead_states[LEADS_12.index(lead)] for lead in ("I", "III", "V1", "V6")] == ["m", derived, "m", "a"]
    assert [path.name for path in tmp_path.iterdir()] == ["out.ecg"]


def test_the_same_records_make_what_their_files_make(tmp_path, write_record):
    counts_tl = np.rint(signal_mv_lt(5).T * 1000).astype("<i2")
    write_record(tmp_path / "in", "a", counts_tl)
    ingest_folder(tmp_path / "in", tmp_path / "files.ecg", IngestSettings())
    # As the reader of files has them, to the last bit: a division can end on the other side of half a count.
    given_mv_lt = counts_tl.T * np.float32(0.001)
    write_records(tmp_path / "arrays.ecg", [record("a", given_mv_lt)], workers=2)
    one, other = (open_store(tmp_path / name) for name in ("files.ecg", "arrays.ecg"))
    assert one.read("a").signal_mv_lt.tobytes() == other.read("a").signal_mv_lt.tobytes()
    assert other.attributes["sources"][0]["name"] == "arrays"


def test_the_same_arrays_make_the_same_bytes_and_others_make_others(tmp_path):
    given = [record("a"), record("b", signal_mv_lt(1))]
    fingerprints = {write_records(tmp_path / f"{i}.ecg", iter(given), workers=1 + i).fingerprint for i in range(3)}
    assert len(fingerprints) == 1
    with pytest.raises(StoreExists):
        write_records(tmp_path / "0.ecg", given)
    changed = [record("a"), record("b", signal_mv_lt(2))]
    assert write_records(tmp_path / "0.ecg", changed, overwrite=True).fingerprint not in fingerprints


def test_records_of_a_store_can_be_written_again(tmp_path):
    patients = IngestSettings(fs_hz=500, filters=(), patient_key="a long secret key")
    first = [record("a", signal_mv_lt(0, 2), leads=("I", "II"), patient_id="P1"), record("b", patient_id="P1")]
    write_records(tmp_path / "one.ecg", first, patients, terms=Terms("ward", "2", "none", False))
    store = open_store(tmp_path / "one.ecg")
    again = [store.read(one) for one in ("a", "b")]
    with pytest.raises(ConfigError, match="record 0 names its patient by patient_key"):
        write_records(tmp_path / "two.ecg", again, patients)
    again = [dataclasses.replace(one, patient_id=one.patient_key, patient_key=None) for one in again]
    write_records(tmp_path / "two.ecg", again, patients)
    other = open_store(tmp_path / "two.ecg")
    for one in ("a", "b"):
        assert other.read(one).lead_states == store.read(one).lead_states
        np.testing.assert_array_equal(other.read(one).signal_mv_lt, store.read(one).signal_mv_lt)
    assert len(set(other.column("patient_key").tolist())) == 1
    assert store.attributes["sources"][0] | {"name": "ward", "version": "2"} == store.attributes["sources"][0]


def test_patients_need_a_key_as_those_of_files_do(tmp_path):
    with pytest.raises(ConfigError, match="without a secret key"):
        write_records(tmp_path / "out.ecg", [record(patient_id="P1")])
    settings = IngestSettings(patient_key="a long secret key")
    with pytest.raises(ConfigError, match="record ids contain their patient's identifier"):
        write_records(tmp_path / "out.ecg", [record("P12345/a", patient_id="P12345")], settings)
    assert list(tmp_path.iterdir()) == []


def test_after_an_error_of_the_iterable_nothing_is_left(tmp_path):
    def given():
        yield record("a")
        yield record("b")
        assert any(tmp_path.iterdir()), "records are put aside while they come"
        raise ZeroDivisionError("the user's own")

    for overwrite in (False, True):
        with pytest.raises(ZeroDivisionError, match="the user's own"):
            write_records(tmp_path / "out.ecg", given(), overwrite=overwrite)
        assert list(tmp_path.iterdir()) == []
    write_records(tmp_path / "out.ecg", [record()])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ZeroDivisionError):
        write_records(tmp_path / "out.ecg", given(), overwrite=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_sealed_store_is_said_before_any_record_is_taken(tmp_path):
    write_records(tmp_path / "out.ecg", [record()])
    with pytest.raises(StoreExists, match="overwrite=True"):
        write_records(tmp_path / "out.ecg", (1 / 0 for _ in "a"))


#: Records that can't be used, and the reason that is written down.
LEFT_OUT = {
    "shape": (record("shape", signal_mv_lt()[:11]), "bad_signal"),
    "lies": (record("lies", signal_mv_lt().T), "bad_signal"),
    "flat": (record("flat", signal_mv_lt()[0]), "bad_signal"),
    "inf": (record("inf", np.where(signal_mv_lt() > 1.9, np.inf, 0)), "bad_signal"),
    "volts": (record("volts", signal_mv_lt().astype(float) * 1e300), "bad_signal"),
    "complex": (record("complex", signal_mv_lt() * 1j), "bad_signal"),
    "text": (record("text", np.full((12, 100), "1")), "bad_signal"),
    "ragged": (record("ragged", [[1, 2], [3]]), "bad_signal"),
    "nan": (record("nan", signal_mv_lt() * np.nan), "no_samples"),
    "empty": (record("empty", signal_mv_lt()[:, :0]), "no_samples"),
    "rate": (record("rate", fs_hz=-1), "bad_header"),
    "rate2": (record("rate2", fs_hz=float("nan")), "bad_header"),
    "names": (record("names", leads=(*LEADS_12[:11], 7)), "bad_header"),
    "unknown": (record("unknown", leads=(*LEADS_12[:11], "John Doe")), "unknown_lead"),
    "twice": (record("twice", leads=(*LEADS_12[:11], "I")), "duplicate_lead"),
    "other": (record("other", signal_mv_lt(0, 1), leads=("V7",)), "no_leads"),
    "derived": (record("derived", lead_states=(LeadState.DERIVED,) * 12), "no_leads"),
    "good": (record("good", signal_mv_lt(9)), "duplicate_id"),
}


def test_a_record_that_cant_be_used_is_left_out_with_its_reason(tmp_path):
    given = [record("good"), *(one for one, _ in LEFT_OUT.values())]
    report = write_records(tmp_path / "out.ecg", given, UNFILTERED)
    assert (report.records, report.rejected) == (1, len(LEFT_OUT))
    store = open_store(tmp_path / "out.ecg")
    found = {one["record_id"]: one["reason"] for one in store.rejected.to_pylist()}
    assert found == {name: reason for name, (_, reason) in LEFT_OUT.items()}
    assert "Doe" not in json.dumps(store.rejected.to_pylist())
    np.testing.assert_allclose(store.read("good").signal_mv_lt, signal_mv_lt(), atol=1e-6)


def test_ids_are_no_paths_whatever_stands_in_them(tmp_path):
    ids = ["../../up", "/etc/passwd", "a\nb\x1b[31m", "ü" * 100, "a/b/", "<b>", "NaN", "\u202e"]
    write_records(tmp_path / "out.ecg", [record(one) for one in ids])
    store = open_store(tmp_path / "out.ecg")
    assert store.column("record_id").tolist() == ids
    assert [path.name for path in tmp_path.iterdir()] == ["out.ecg"]
    assert store.verify(deep=True) == []


WRONG = {
    "no record": ("a string", "record 1 is no ecgstore.Record.*got str"),
    "no id": (record(""), "record 1 is wrong.*record_id"),
    "id of another kind": (record(7), "record_id: Input should be a valid string"),
    "long id": (record("x" * 1025), "1025 bytes"),
    "id that is no text": (record("\udc80"), "record_id"),
    "age": (record(age_years=-1), "age_years: Input should be greater"),
    "fold": (record(fold=1000), "fold: Input should be less"),
    "sex": (record(sex="Doe"), "sex: Input should be"),
    "statement": (record(statements=("AFIB",)), "statements.0"),
    "states": (record(lead_states=(LeadState.MEASURED,)), "1 lead_states for 12 leads"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_said_of_a_record_must_be_right(tmp_path, name):
    wrong, words = WRONG[name]
    with pytest.raises(ConfigError, match=words) as caught:
        write_records(tmp_path / "out.ecg", [record("first"), wrong])
    assert "Doe" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_nothing_usable_is_an_error_that_names_no_folder_of_ours(tmp_path):
    with pytest.raises(SourceError, match="no record was found; in the records that were given"):
        write_records(tmp_path / "out.ecg", [])
    with pytest.raises(SourceError, match="none of 1 records can be used") as caught:
        write_records(tmp_path / "out.ecg", [record(fs_hz=0)])
    assert str(tmp_path) not in str(caught.value)
    with pytest.raises(ConfigError, match="leave source out"):
        write_records(tmp_path / "out.ecg", [record()], IngestSettings(source="ptbxl"))
    with pytest.raises(ConfigError, match="the terms are wrong; got redistributable"):
        write_records(tmp_path / "out.ecg", [record()], terms=Terms("x", "1", "none", "perhaps"))
    assert list(tmp_path.iterdir()) == []


def test_folds_can_be_drawn(tmp_path):
    settings = IngestSettings(folds=2, patient_key="a long secret key")
    given = [record(f"{i}", patient_id=f"P{i % 3}") for i in range(6)]
    write_records(tmp_path / "out.ecg", given, settings)
    folds = open_store(tmp_path / "out.ecg").column("fold").tolist()
    assert folds[:3] == folds[3:]


def test_a_folder_of_arrays_from_elsewhere_is_input(tmp_path):
    """`--source arrays` can be said of any folder."""
    settings = IngestSettings(source="arrays")
    (tmp_path / "in").mkdir()
    with pytest.raises(SourceError, match="no folder of arrays"):
        ingest_folder(tmp_path / "in", tmp_path / "out.ecg", settings)
    (tmp_path / "in" / "terms.json").write_text('{"name": "x", "version": "", "licence": "", "redistributable": false}')
    place = {"fs_hz": 500, "n_samples": 1000, "leads": ["I"], "offset": 0}
    rows = [
        {"said": {"record_id": "short"}, "place": json.dumps(place | {"n_samples": 1001})},
        {"said": {"record_id": "far"}, "place": json.dumps(place | {"offset": 2**61})},
        {"said": {"record_id": "before"}, "place": json.dumps(place | {"offset": -4})},
        {"said": {"record_id": "good"}, "place": json.dumps(place)},
    ]
    (tmp_path / "in" / "records.jsonl").write_text("\n".join(map(json.dumps, rows)))
    signal_mv_lt().astype("<f4")[:1].tofile(tmp_path / "in" / "samples.f32")
    ingest_folder(tmp_path / "in", tmp_path / "out.ecg", settings)
    store = open_store(tmp_path / "out.ecg")
    assert store.column("record_id").tolist() == ["good"]
    assert sorted(store.rejected["reason"].to_pylist()) == ["bad_header", "truncated", "truncated"]
    unknown = '{"record_id": "a", "reason": "John Doe", "detail": ""}'
    for bad in (
        "{",
        "[]",
        '{"said": {}}',
        '{"said": {"record_id": 1}, "place": ""}',
        "7",
        "{}",
        "[" * 100_000,
        unknown,
    ):
        (tmp_path / "in" / "records.jsonl").write_text(bad)
        with pytest.raises(SourceError, match="no folder of arrays"):
            ingest_folder(tmp_path / "in", tmp_path / "bad.ecg", settings)
    (tmp_path / "in" / "records.jsonl").unlink()
    os.mkfifo(tmp_path / "in" / "records.jsonl")
    with pytest.raises(SourceError, match="no folder of arrays"):
        ingest_folder(tmp_path / "in", tmp_path / "bad.ecg", settings)


def test_it_is_a_public_name():
    assert "write_records" in ecgstore.__all__
    assert ecgstore.write_records is write_records
