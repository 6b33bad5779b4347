from __future__ import annotations

from pathlib import Path

import pytest

import ecgstore
from ecgstore.build.folds import draw_folds
from ecgstore.build.ingest import ingest_folder
from ecgstore.build.settings import IngestSettings
from ecgstore.errors import ConfigError
from ecgstore.record import Listing, RecordRef
from ecgstore.sources.wfdb_folder import TERMS


def listing(*pairs, **of_all):
    return Listing(tuple(RecordRef(name, Path(name), patient, **of_all) for name, patient in pairs), (), TERMS)


def folds(listed, n=10, key="key"):
    return {ref.record_id: ref.fold for ref in draw_folds(listed, n, key).records}


def test_all_records_of_a_patient_have_one_fold_that_stays_when_others_come():
    pairs = [(f"r{k}", f"P{k // 3}") for k in range(300)]
    drawn = folds(listing(*pairs))
    assert all(len({drawn[f"r{3 * p + k}"] for k in range(3)}) == 1 for p in range(100))
    assert set(drawn.values()) == set(range(1, 11))
    assert folds(listing(*pairs[::7])) == {name: drawn[name] for name, _ in pairs[::7]}
    assert folds(listing(*pairs), key="another") != drawn


def test_what_was_drawn_is_said_and_records_without_a_patient_are_drawn_by_their_id():
    assert draw_folds(listing(("a", "P1")), 5, "key").notes == ("folds 1 to 5 were drawn by patient",)
    made = draw_folds(listing(("P1", None), ("b", None), ("c", "P1")), 1000, "key")
    assert "2 records name no patient and were drawn one by one" in made.notes[0]
    assert made.records[0].fold != made.records[2].fold  # an id is no patient, though it is the same word


def test_folds_of_the_source_are_never_drawn_over(mini, tmp_path):
    with pytest.raises(ConfigError, match="states folds itself, of 53 of 53 records; leave --folds out"):
        ingest_folder(mini, tmp_path / "out.ecg", IngestSettings(folds=10))


def test_a_store_grows_only_with_the_folds_it_was_made_with(tmp_path, write_record):
    write_record(tmp_path / "src", "r1")
    out, settings = tmp_path / "out.ecg", IngestSettings(filters=(), folds=5)
    ingest_folder(tmp_path / "src", out, settings)
    store = ecgstore.open_store(out)
    assert store.attributes["folds_drawn"] == 5
    write_record(tmp_path / "src", "r2")
    with pytest.raises(ConfigError, match="expected --folds 5, got none"):
        ingest_folder(tmp_path / "src", out, IngestSettings(filters=()), append=True)
    ingest_folder(tmp_path / "src", out, settings, append=True)
    grown = ecgstore.open_store(out)
    assert grown.column("fold")[0] == store.column("fold")[0]
    assert grown.column("fold")[1] >= 1
