"""A store of beats: the parent's statements and folds, one mean beat per record, the same bytes however it was made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from ecgstore import ConfigError, SourceError, Workers, open_store
from ecgstore.build.beats import BeatSettings, beats_store
from ecgstore.cli import main
from ecgstore.errors import StoreExists


def test_records_statements_and_folds_are_the_parents(vt_store: Path, beat_store: Path) -> None:
    parent, beats = open_store(vt_store), open_store(beat_store)
    assert beats.verify(deep=True) == []
    ids = beats.column("record_id")
    at = np.flatnonzero(np.isin(parent.column("record_id"), ids))
    assert len(ids) > 0.9 * parent.n_records
    for name in ("record_id", "patient_key", "fold", "sex", "age_years", "lead_states", "signature", "site"):
        assert beats.records[name].equals(parent.records[name].take(at)), name
    for system in ("vt_site", "vt_reference_mm"):
        codes = sorted(parent.vocabulary(system))
        matrix = parent.statement_matrix(codes, system)[at]
        np.testing.assert_array_equal(beats.statement_matrix(codes, system), matrix)
    assert set(beats.column("n_samples").tolist()) == {120}
    assert beats.attributes["parent"] == parent.fingerprint
    assert beats.recipe == parent.recipe


def test_the_beat_stands_in_the_middle_and_keeps_einthovens_law(beat_store: Path) -> None:
    store = open_store(beat_store)
    for record_id in store.column("record_id")[:8]:
        record, (mark,) = store.read(record_id), store.read_beats(record_id)
        assert (mark.symbol, mark.time_s, mark.annotator) == ("V", 0.3, "auto")
        assert mark.num >= 1
        one, two, three = record.signal_mv_lt[:3]
        np.testing.assert_allclose(three, two - one, atol=0.0021)
        steep_t = np.square(np.diff(record.signal_mv_lt, axis=1)).sum(axis=0)
        middle = (steep_t * np.arange(len(steep_t)))[32:88].sum() / steep_t[32:88].sum()
        assert abs(middle - 60) < 8


def test_what_is_found_is_what_is_annotated(vt_store: Path, beat_store: Path, tmp_path: Path) -> None:
    report = beats_store(open_store(vt_store), tmp_path / "annotated.ecg", BeatSettings(beats="annotated"))
    annotated, auto = open_store(tmp_path / "annotated.ecg"), open_store(beat_store)
    assert (report.records, report.rejected) == (48, 0)
    for record_id in auto.column("record_id")[:10]:
        one_lt, other_lt = (store.read(record_id).signal_mv_lt for store in (annotated, auto))
        assert np.corrcoef(one_lt.ravel(), other_lt.ravel())[0, 1] > 0.98


def test_the_same_bytes_for_any_number_of_workers(vt_store: Path, beat_store: Path, tmp_path: Path) -> None:
    report = beats_store(open_store(vt_store), tmp_path / "again.ecg", workers=Workers(n=2))
    assert report.fingerprint == open_store(beat_store).fingerprint


def test_records_without_one_are_left_out_and_written_down(mini_store: Path, tmp_path: Path) -> None:
    parent = open_store(mini_store)
    report = beats_store(parent, tmp_path / "b.ecg")
    store = open_store(tmp_path / "b.ecg")
    left_out = store.rejected.to_pylist()
    assert report.records + report.rejected == parent.n_records
    assert report.rejected > report.records > 0
    assert {one["reason"] for one in left_out} == {"no_ectopic_beat"}
    assert not set(store.column("record_id")) & {one["record_id"] for one in left_out}
    row = store.statements["row"].to_numpy()
    assert set(row) <= set(range(store.n_records))
    assert store.verify(deep=True) == []


def test_what_can_not_be_cut_is_refused(beat_store: Path, mini_store: Path, vt_store: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one of beats already"):
        beats_store(open_store(beat_store), tmp_path / "x.ecg")
    with pytest.raises(ConfigError, match="no annotated ventricular beats"):
        beats_store(open_store(mini_store), tmp_path / "x.ecg", BeatSettings(beats="annotated"))
    with pytest.raises(ConfigError, match="contain each other"):
        beats_store(open_store(vt_store), vt_store / "x.ecg")
    with pytest.raises(StoreExists, match="cut otherwise"):
        beats_store(open_store(vt_store), beat_store, BeatSettings(before_s=0.2))


def test_what_is_missing_is_counted_as_in_an_ingest(vt_store: Path, tmp_path: Path) -> None:
    """A lead that is not there lacks no samples; one that is there and was not recorded lacks all of the beat's."""
    from ecgstore import LEADS_12, IngestSettings, Record, write_records

    def some() -> Iterator[Record]:
        parent = open_store(vt_store)
        for row in range(12):
            record = parent.read(parent.id_of(row))
            signal_mv_lt = record.signal_mv_lt.copy()
            if row % 2:  # half of V5, in which there may be a beat
                signal_mv_lt[LEADS_12.index("V5"), : signal_mv_lt.shape[1] // 2] = np.nan
            yield Record(f"r{row}", LEADS_12[:-1], record.fs_hz, signal_mv_lt[:-1])

    write_records(tmp_path / "p.ecg", some(), IngestSettings(fs_hz=200, filters=()))
    parent = open_store(tmp_path / "p.ecg")
    assert {states[-1] for states in parent.column("lead_states")} == {"a"}
    beats_store(parent, tmp_path / "b.ecg")
    store = open_store(tmp_path / "b.ecg")
    assert store.n_records > 6
    for record_id, said in zip(store.column("record_id"), store.column("n_not_recorded"), strict=True):
        assert said == np.isnan(store.read(record_id).signal_mv_lt[:-1]).sum()
    assert store.verify(deep=True) == []


def test_a_store_without_ectopic_beats_gives_none(tmp_path: Path) -> None:
    from ecgstore import LEADS_12, IngestSettings, Record, write_records

    flat = [Record(f"r{i}", LEADS_12, 100, np.zeros((12, 1000), np.float32) + i / 10) for i in (1, 2)]
    write_records(tmp_path / "flat.ecg", flat, IngestSettings(fs_hz=100, filters=()))
    with pytest.raises(SourceError, match="no record has an ectopic beat"):
        beats_store(open_store(tmp_path / "flat.ecg"), tmp_path / "b.ecg")
    assert not (tmp_path / "b.ecg" / "manifest.json").exists()


def test_the_command_says_what_it_did(mini_store: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "b.ecg")
    done = CliRunner().invoke(main, ["beats", str(mini_store), out, "--before", "0.2", "--after", "0.25"])
    assert done.exit_code == 0, done.output
    assert "records have no ectopic beat and were left out" in done.output
    assert set(open_store(out).column("n_samples").tolist()) == {45}
    refused = CliRunner().invoke(main, ["beats", str(mini_store), out, "--before", "9"])
    assert refused.exit_code == 1
    assert "before_s" in refused.output
