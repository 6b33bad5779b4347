"""Who withdraws is gone: from samples, tables and commits, and doesn't come back when the store grows."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import numcodecs
import numpy as np
import pytest
from click.testing import CliRunner
from hostile_stores import reseal
from lineage_records import SECRET, record

from ecgstore import (
    ConfigError,
    IngestSettings,
    IntegrityError,
    StoreExists,
    StoreFormatError,
    StoreIncomplete,
    ingest_folder,
    open_store,
)
from ecgstore.cli import main
from ecgstore.lineage.withdraw import withdraw_records
from ecgstore.storage import layout, tables

BANDPASS = ({"name": "bandpass", "low_hz": 0.5, "high_hz": 40.0},)
PATIENT = "ward/rec-patient-001"


def texts_of(store: Path) -> str:
    """All that the objects of a store say, decoded where they are packed."""
    said = []
    for path in sorted(store.rglob("*")):
        if path.is_file():
            said += [path.name, path.read_bytes().decode("latin-1")]
            if path.suffix == ".parquet":
                said.append(json.dumps(tables.from_parquet(path.read_bytes()).to_pylist(), default=str))
            elif path.suffix == ".arrow":
                table, about = tables.from_arrow(path.read_bytes())
                said += [json.dumps(table.to_pylist(), default=str), json.dumps(about)]
    return "\n".join(said)


def chunks_of(store: Path) -> bytes:
    """The samples of every chunk of every shard, those behind the end of the signal too."""
    sharding = json.loads((store / "signal" / "zarr.json").read_text())
    n_chunks = sharding["chunk_grid"]["configuration"]["chunk_shape"][1] // layout.CHUNK_SAMPLES
    found = []
    for path in sorted((store / "signal" / "c" / "0").iterdir()):
        content = path.read_bytes()
        index = struct.unpack(f"<{2 * n_chunks}Q", content[-16 * n_chunks - 4 : -4])
        for offset, length in zip(index[::2], index[1::2], strict=True):
            if offset != 2**64 - 1:
                found.append(numcodecs.Blosc().decode(content[offset : offset + length - 4]))
    return b"".join(map(bytes, found))


def test_no_id_and_no_sample_is_left_anywhere(ward: Path, tmp_path: Path) -> None:
    before = open_store(ward)
    key = before.column("patient_key")[2]
    report = withdraw_records(
        before, tmp_path / "v2.ecg", patients=[PATIENT], records=["ward/rec-0007"], secret_key=SECRET
    )
    after = open_store(tmp_path / "v2.ecg")
    assert after.verify(deep=True) == []
    assert (report.records, report.withdrawn_records, report.withdrawn_patients) == (5, 3, 1)
    ids = ["ward/rec-0002", "ward/rec-0003", "ward/rec-0007"]
    assert sorted(set(before.column("record_id")) - set(after.column("record_id"))) == ids
    there, gone = texts_of(ward), texts_of(tmp_path / "v2.ecg")
    for name in [*ids, key, PATIENT, "RARE2", "RARE3", "RARE7"]:
        assert (name in there) is (name != PATIENT)
        assert name not in gone
    old, new = chunks_of(ward), chunks_of(tmp_path / "v2.ecg")
    for i in (2, 3, 7):
        for lead_t in layout.mv_to_counts(record(i).signal_mv_lt).counts_lt:
            for begin in range(0, len(lead_t), 1000):
                assert lead_t[begin : begin + 12].tobytes() in old
                assert lead_t[begin : begin + 12].tobytes() not in new


def test_what_stays_is_what_it_was(ward: Path, tmp_path: Path) -> None:
    before = open_store(ward)
    report = withdraw_records(before, tmp_path / "v2.ecg", records=["ward/rec-0000"])
    after = open_store(tmp_path / "v2.ecg")
    assert (report.shards_written, report.shards_kept) == (1, before.n_shards - 1)
    for shard in range(1, before.n_shards):
        for name in (layout.shard_object(shard), layout.commit_object(shard)):
            assert (ward / name).read_bytes() == (tmp_path / "v2.ecg" / name).read_bytes()
    for record_id in after.column("record_id"):
        one, other = before.read(record_id), after.read(record_id)
        np.testing.assert_array_equal(one.signal_mv_lt, other.signal_mv_lt)
        assert (one.patient_key, one.statements, one.lead_states) == (
            other.patient_key,
            other.statements,
            other.lead_states,
        )
    # The other record of the patient stays; the sums are those of what is left.
    assert before.column("patient_key")[0] in after.column("patient_key")
    for folds in (None, [1], [2]):
        rows = after.select(folds=folds)
        counts_lt = np.concatenate([after.read(after.id_of(int(row))).signal_mv_lt for row in rows], axis=1)
        np.testing.assert_allclose(after.statistics(folds).mean_mv_l, counts_lt.mean(axis=1), atol=1e-6)
        assert after.statistics(folds).n_l.tolist() == [counts_lt.shape[1]] * 3
    assert after.attributes["lineage"] == [
        {"made_by": "withdraw", "parents": [before.fingerprint], "records": 1, "patients": 0}
    ]
    again = withdraw_records(before, tmp_path / "again.ecg", records=["ward/rec-0000"])
    assert again.fingerprint == report.fingerprint


def test_a_record_of_several_shards_and_a_whole_fold(make, tmp_path: Path) -> None:
    store = open_store(make("long.ecg", range(2), n_samples=1_300_000, leads=("I",)))
    assert store.n_shards == 4
    withdraw_records(store, tmp_path / "v2.ecg", records=["ward/rec-0001"])
    after = open_store(tmp_path / "v2.ecg")
    assert (after.verify(deep=True), after.n_records, after.total_samples) == ([], 1, 1_300_000)


def test_a_fold_without_records_has_no_sums(ward: Path, tmp_path: Path) -> None:
    store = open_store(ward)
    patients = sorted(
        {key for key, fold in zip(store.column("patient_key"), store.column("fold"), strict=True) if fold == 3}
    )
    withdraw_records(store, tmp_path / "v2.ecg", patients=patients)
    assert set(open_store(tmp_path / "v2.ecg").attributes["statistics"]) == {"1", "2"}


def test_who_withdrew_does_not_come_back(mini: Path, mini_store: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "ptbxl", tmp_path / "ptbxl.ecg"
    shutil.copytree(mini, source)
    shutil.copytree(mini_store, out)
    settings = IngestSettings(fs_hz=100, filters=BANDPASS)
    before = open_store(out)
    withdraw_records(before, out, patients=[before.column("patient_key")[0]], records=[before.id_of(5)], overwrite=True)
    there = open_store(out)
    for how in ({"append": True}, {"overwrite": True}):
        report = ingest_folder(source, out, settings, **how)
        grown = open_store(out)
        assert grown.verify(deep=True) == []
        assert grown.column("record_id").tolist() == there.column("record_id").tolist()
        assert grown.attributes["withdrawn"] == there.attributes["withdrawn"]
        assert any("passed over" in note for note in report.notes)


def test_a_patient_is_named_by_key_or_by_identifier(ward: Path, tmp_path: Path) -> None:
    store = open_store(ward)
    key = store.column("patient_key")[2]
    by_key = withdraw_records(store, tmp_path / "a.ecg", patients=[key])
    by_id = withdraw_records(store, tmp_path / "b.ecg", patients=[PATIENT], secret_key=SECRET)
    assert by_key.fingerprint == by_id.fingerprint


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"patients": ["nobody"], "secret_key": SECRET}, "no patient 'nobody'"),
        ({"patients": ["nobody"]}, "set ECGSTORE_PATIENT_KEY"),
        ({"patients": ["nobody"], "secret_key": "another secret of sixteen"}, "another secret key"),
        ({"records": ["ward/rec-0099"]}, "did you mean ward/rec-000"),
        ({}, "nobody is named"),
        ({"records": [f"ward/rec-{i:04d}" for i in range(8)]}, "no record would be left"),
        ({"records": ["nothing"], "skip_unknown": True}, "none of those who are named"),
    ],
)
def test_what_can_t_be_done_is_said(ward: Path, tmp_path: Path, how: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        withdraw_records(open_store(ward), tmp_path / "v2.ecg", **how)
    assert not (tmp_path / "v2.ecg").exists()


def test_a_damaged_store_is_refused_and_stays_as_it_is(ward: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.ecg"
    shutil.copytree(ward, damaged)
    store = open_store(damaged)
    path = damaged / layout.shard_object(1)
    path.write_bytes(b"\0" + path.read_bytes()[1:])
    with pytest.raises(IntegrityError):
        withdraw_records(store, tmp_path / "v2.ecg", records=["ward/rec-0000"])
    assert not (tmp_path / "v2.ecg" / layout.MANIFEST).exists()


def test_what_was_broken_off_is_finished_by_the_same_command(ward: Path, tmp_path: Path) -> None:
    broken = tmp_path / "ward.ecg"
    shutil.copytree(ward, broken)
    store, last = open_store(broken), broken / layout.commit_object(2)
    content = last.read_bytes()
    last.write_bytes(content[:-1])
    with pytest.raises(IntegrityError):  # once the shards are there, and no seal
        withdraw_records(store, tmp_path / "v2.ecg", records=["ward/rec-0000"])
    with pytest.raises(StoreIncomplete):
        open_store(tmp_path / "v2.ecg")
    last.write_bytes(content)
    report = withdraw_records(open_store(broken), tmp_path / "v2.ecg", records=["ward/rec-0000"])
    whole = withdraw_records(open_store(ward), tmp_path / "whole.ecg", records=["ward/rec-0000"])
    assert report.fingerprint == whole.fingerprint
    assert open_store(ward).verify(deep=True) == []  # whose shards are linked, and never written


def test_an_output_that_is_there_stays(ward: Path, tmp_path: Path) -> None:
    store = open_store(ward)
    first = withdraw_records(store, tmp_path / "v2.ecg", records=["ward/rec-0000"])
    with pytest.raises(StoreExists):
        withdraw_records(store, tmp_path / "v2.ecg", records=["ward/rec-0001"])
    with pytest.raises(ConfigError, match="contain each other"):
        withdraw_records(store, ward, records=["ward/rec-0001"])
    assert open_store(tmp_path / "v2.ecg").fingerprint == first.fingerprint


def test_the_command_says_what_it_can_t_reach(ward: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"# who opted out\n\npatient {PATIENT}\nrecord ward/rec-0007\nrecord nothing\n")
    command = ["withdraw", str(ward), str(tmp_path / "v2.ecg"), "--list", str(tmp_path / "list.txt")]
    refused = CliRunner(env={"ECGSTORE_PATIENT_KEY": SECRET}).invoke(main, command)
    assert (refused.exit_code, "no record 'nothing'" in refused.stderr) == (1, True)
    done = CliRunner(env={"ECGSTORE_PATIENT_KEY": SECRET}).invoke(main, [*command, "--skip-unknown"])
    assert done.exit_code == 0, done.output
    assert "5 records; 3 were withdrawn, 1 patients" in done.stdout
    assert "copies of the store that others have pulled" in done.stdout
    (tmp_path / "list.txt").write_text("P-17\n")
    wrong = CliRunner().invoke(main, command)
    assert (wrong.exit_code, "line 1" in wrong.stderr) == (1, True)


def test_annotations_go_with_their_record(annotated: Path, tmp_path: Path) -> None:
    store = open_store(annotated)
    withdraw_records(store, tmp_path / "v2.ecg", records=["first-record"])
    after = open_store(tmp_path / "v2.ecg")
    assert after.verify(deep=True) == []
    assert after.read_beats("second-record") == store.read_beats("second-record")
    assert (store.beats.num_rows, after.beats.num_rows) == (8, 4)
    assert "first-record" in texts_of(annotated)
    assert "first-record" not in texts_of(tmp_path / "v2.ecg")


@pytest.mark.parametrize("wrong", [{"": [["1"] * 12] * 3}, {"": [[1] * 11] * 3}, {"": [[1] * 12] * 2}, {"": 1}, []])
def test_commits_whose_sums_are_none_are_refused(ward: Path, tmp_path: Path, wrong: object) -> None:
    """By what `verify` finds them by."""
    broken = shutil.copytree(ward, tmp_path / "broken.ecg")
    path = next(broken.glob("commits/*.arrow"))
    written, about = tables.from_arrow(path.read_bytes())
    path.write_bytes(tables.to_arrow(written, {**about, "sums": wrong}))
    reseal(broken)
    assert any("has no sums of its samples" in problem for problem in open_store(broken).verify())
    with pytest.raises(StoreFormatError, match="a commit is not as a store has it.*sums are no numbers"):
        withdraw_records(open_store(broken), tmp_path / "v2.ecg", records=["ward/rec-0000"])
