"""A part of a store: the same samples, statements and quality; the parent is named, and who asks wrongly is told."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from ecgstore import ConfigError, IngestSettings, ingest_folder, open_store, subset_store, withdraw_records
from ecgstore.cli import main
from ecgstore.look.scrub import scrub_check
from ecgstore.storage import layout, tables

BANDPASS = ({"name": "bandpass", "low_hz": 0.5, "high_hz": 40.0},)


def test_the_records_that_were_asked_for_are_the_parents(mini_store: Path, tmp_path: Path) -> None:
    parent = open_store(mini_store)
    asked = {"where": "age_years > 40", "codes": ["scp_ecg:NORM,IMI"], "folds": [1, 2, 5]}
    report = subset_store(parent, tmp_path / "part.ecg", **asked)
    part = open_store(tmp_path / "part.ecg")
    assert part.verify(deep=True) == []
    states = parent.statement_matrix(["NORM", "IMI"], "scp_ecg").any(axis=1)
    rows = [row for row in parent.select(folds=[1, 2, 5], where="age_years > 40") if states[row]]
    assert part.column("record_id").tolist() == [parent.id_of(int(row)) for row in rows]
    assert 0 < report.records < parent.n_records
    for name in set(parent.records.column_names) - {"start", "shard"}:
        assert part.records[name].equals(parent.records[name].take(rows)), name
    for record_id in part.column("record_id"):
        one, other = parent.read(record_id), part.read(record_id)
        np.testing.assert_array_equal(one.signal_mv_lt, other.signal_mv_lt)
        assert one.statements == other.statements
    assert part.lead_quality.equals(parent.lead_quality.take(rows))
    assert part.recipe_sha256 == parent.recipe_sha256
    step = {"made_by": "subset", "parents": [parent.fingerprint], **asked, "records": report.records}
    assert part.attributes["lineage"] == [step]
    # All of the parent's records, so the commits say what the parent's say.
    again = subset_store(parent, tmp_path / "all.ecg", where="n_samples > 0")
    assert (again.records, again.rejected) == (parent.n_records, 0)
    for commit in (mini_store / "commits").iterdir():
        one, about = tables.from_arrow(commit.read_bytes())
        other, copied = tables.from_arrow((tmp_path / "all.ecg" / "commits" / commit.name).read_bytes())
        assert one.equals(other)
        assert about["sums"] == copied["sums"]


def test_fewer_leads_are_what_an_ingest_of_them_makes(mini: Path, mini_store: Path, tmp_path: Path) -> None:
    leads = ("V2", "I", "II")
    subset_store(open_store(mini_store), tmp_path / "part.ecg", leads=leads)
    ingest_folder(mini, tmp_path / "ingested.ecg", IngestSettings(fs_hz=100, filters=BANDPASS, leads=leads))
    part, ingested = open_store(tmp_path / "part.ecg"), open_store(tmp_path / "ingested.ecg")
    assert part.verify(deep=True) == []
    assert (part.leads, part.recipe, part.recipe_sha256) == (leads, ingested.recipe, ingested.recipe_sha256)
    assert part.attributes["statistics"] == ingested.attributes["statistics"]
    same = ["record_id", "crc32", "lead_states", "n_not_recorded", "n_clipped", "einthoven_mv", *layout.MEASURES]
    for name in same:
        assert part.records[name].equals(ingested.records[name]), name
    assert part.lead_quality.equals(ingested.lead_quality)


def test_a_raw_store_keeps_its_gains(mini: Path, tmp_path: Path) -> None:
    ingest_folder(mini, tmp_path / "raw.ecg", IngestSettings(profile="raw"))
    raw = open_store(tmp_path / "raw.ecg")
    subset_store(raw, tmp_path / "part.ecg", leads=["V6", "I"], folds=[1])
    part = open_store(tmp_path / "part.ecg")
    assert part.verify(deep=True) == []
    record_id = part.id_of(0)
    np.testing.assert_array_equal(
        part.read(record_id).signal_mv_lt, raw.read(record_id, leads=["V6", "I"]).signal_mv_lt
    )


def test_annotations_come_along(annotated: Path, tmp_path: Path) -> None:
    store = open_store(annotated)
    subset_store(store, tmp_path / "part.ecg", where="record_id == 'second-record'")
    part = open_store(tmp_path / "part.ecg")
    assert part.verify(deep=True) == []
    assert part.read_beats("second-record") == store.read_beats("second-record")
    # The condition names a record; once that is withdrawn, it is told no more.
    subset_store(store, tmp_path / "both.ecg", where="record_id in ('first-record', 'second-record')")
    withdraw_records(open_store(tmp_path / "both.ecg"), tmp_path / "v2.ecg", records=["first-record"])
    root = (tmp_path / "v2.ecg" / "zarr.json").read_text()
    assert "first-record" not in root
    assert "named somebody who has withdrawn" in root


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({}, "nothing says which part"),
        ({"where": "age_years > 200"}, "no record meets"),
        ({"where": "agee_years > 2"}, "did you mean age_years"),
        ({"codes": ["scp_ecg:"]}, "SYSTEM:CODE,CODE"),
        ({"codes": ["NORMM"]}, "did you mean NORM"),
        ({"codes": ["scp:NORM"]}, "did you mean scp_ecg"),
        ({"codes": ["scp_ecg:NORMM"]}, "did you mean NORM"),
        ({"leads": ["I", "I"]}, "named twice"),
        ({"leads": ["V77"]}, "no lead 'V77'"),
    ],
)
def test_what_can_t_be_done_is_said(mini_store: Path, tmp_path: Path, asked: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        subset_store(open_store(mini_store), tmp_path / "part.ecg", **asked)
    assert not (tmp_path / "part.ecg").exists()


def test_what_lineage_says_names_nobody_unless_the_condition_does(mini_store: Path, tmp_path: Path) -> None:
    store = open_store(mini_store)
    subset_store(store, tmp_path / "part.ecg", where="age_years >= 18 and mains_mv < 0.5 and sex == 'female'")
    part = open_store(tmp_path / "part.ecg")
    withdraw_records(part, tmp_path / "v2.ecg", records=part.column("record_id")[:9].tolist())
    assert scrub_check(open_store(tmp_path / "v2.ecg")) == scrub_check(store)
    subset_store(store, tmp_path / "dated.ecg", where="record_id != '1999-12-31'")
    found = set(scrub_check(open_store(tmp_path / "dated.ecg"))) - set(scrub_check(store))
    assert {(one.where, one.kind) for one in found} == {("attributes.lineage.where", "date")}


def test_a_subset_does_not_grow_from_a_folder(mini: Path, mini_store: Path, tmp_path: Path) -> None:
    out = tmp_path / "part.ecg"
    done = CliRunner().invoke(main, ["subset", str(mini_store), str(out), "--fold", "1", "--json"])
    assert (done.exit_code, '"of_records": 53' in done.stdout) == (0, True)
    with pytest.raises(ConfigError, match="can't grow from a folder"):
        ingest_folder(mini, out, IngestSettings(fs_hz=100, filters=BANDPASS), append=True)


def test_a_fold_without_a_record_is_named(mini_store: Path, tmp_path: Path) -> None:
    out = tmp_path / "part.ecg"
    done = CliRunner().invoke(main, ["subset", str(mini_store), str(out), "--folds", "1,99,98"])
    assert done.exit_code != 0
    assert "no record is in folds 98, 99" in done.output
    assert "expected some of 1, 2, 3, 4, 5, 6, 7, 8, got 1, 99, 98" in done.output
    assert not out.exists()
