"""Recordings that begin later, are cut or lack leads are found by their beats; different ones are not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ecgstore import IngestSettings, ingest_folder, open_store
from ecgstore.look import overlap, shifted
from ecgstore.look.parts import Part
from ecgstore.record import Record
from ecgstore.signals import landmarks
from ecgstore.storage.store import Store


@pytest.fixture(scope="module")
def store(mini_store: Path) -> Store:
    return open_store(mini_store)


@pytest.fixture(scope="module")
def records(store: Store) -> list[Record]:
    return [store.read(record_id) for record_id in store.column("record_id")]


@pytest.fixture(scope="module")
def copies(store: Store) -> set[tuple[int, int]]:
    """Pairs that are the same recording, or one and the same record."""
    groups = [*overlap.exact_duplicates(store), *((row,) for row in range(store.n_records))]
    return {(i, j) for group in groups for i in group for j in group}


def part(record: Record, begin_s: float, end_s: float, leads: tuple[str, ...]) -> Record:
    at = [record.leads.index(lead) for lead in leads]
    begin, end = round(begin_s * record.fs_hz), round(end_s * record.fs_hz)
    states = tuple(record.lead_states[i] for i in at)
    return replace(record, leads=leads, signal_mv_lt=record.signal_mv_lt[at, begin:end], lead_states=states)


def found_among(records: list[Record], parts: list[Record]) -> list[tuple[int, int, float, float]]:
    ours, theirs = (
        shifted.marks_of(
            (shifted.Piece(row, 0.0, one.signal_mv_lt, one.fs_hz) for row, one in enumerate(side)), side[0].leads
        )
        for side in (records, parts)
    )
    candidates = shifted.candidates(ours, theirs, is_one=False)
    return shifted.alike(candidates, Shelf(records), Shelf(parts), overlap.MIN_CORRELATION)


class Shelf:
    """Reads records that are in no store."""

    def __init__(self, records: list[Record]) -> None:
        self.records = records

    def lasts_s(self, row: int) -> float:
        return self.records[row].duration_s

    def read(self, row: int, start_s: float, stop_s: float) -> Part:
        return Part(self.records[row], 0.0, self.lasts_s(row))


@pytest.mark.parametrize("leads", [None, ("I", "II", "V2"), ("V1", "V3", "V6")], ids=["all", "I II V2", "V1 V3 V6"])
@pytest.mark.parametrize("begin_s", [0.0, 1.234, 5.0])
def test_five_seconds_of_any_record_are_found_where_they_are(store, records, copies, leads, begin_s):
    parts = [part(record, begin_s, begin_s + 5, leads or store.leads) for record in records]
    pairs = found_among(records, parts)
    assert {(i, j) for i, j, *_ in pairs} <= copies
    assert len({i for i, j, *_ in pairs if i == j}) >= 0.95 * len(records)
    assert all(lag_s == pytest.approx(begin_s, abs=0.015) for *_, lag_s in pairs)


def test_another_rate_another_filter_a_shift_and_few_leads_at_once(mini, records, copies, tmp_path):
    settings = IngestSettings(fs_hz=257, filters=({"name": "highpass", "freq_hz": 0.05},))
    ingest_folder(mini, tmp_path / "other.ecg", settings, workers=1)
    other = open_store(tmp_path / "other.ecg")
    parts = [part(other.read(one.record_id), 2.5, 9.5, ("I", "II", "V5")) for one in records]
    pairs = found_among(records, parts)
    assert {(i, j) for i, j, *_ in pairs} <= copies
    assert len({i for i, j, *_ in pairs if i == j}) >= 0.95 * len(records)


def test_the_other_records_of_the_corpus_are_no_parts_of_one_another(store):
    found = overlap.duplicates(store)
    assert found.shifted == ()
    assert {(i, j) for i, j in found.exact} == {
        (i, j) for group in overlap.exact_duplicates(store) for i in group for j in group if i < j
    }


@pytest.fixture(scope="module")
def cut(mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of two records of the bundled corpus that begin 3 s later, made of files as another archive has them."""
    import wfdb

    folder = tmp_path_factory.mktemp("later")
    for path in sorted(mini.rglob("*.hea"))[:2]:
        whole = wfdb.rdrecord(str(path.with_suffix("")), physical=False)
        wfdb.wrsamp(
            f"later{path.stem.replace('_', '')}",
            fs=whole.fs,
            units=whole.units,
            sig_name=whole.sig_name,
            d_signal=whole.d_signal[3 * whole.fs :],
            fmt=whole.fmt,
            adc_gain=whole.adc_gain,
            baseline=whole.baseline,
            write_dir=str(folder),
        )
    out = tmp_path_factory.mktemp("stores") / "later.ecg"
    ingest_folder(folder, out, IngestSettings(fs_hz=100, filters=()), workers=1)
    return open_store(out)


def test_records_that_begin_later_in_another_store_are_found(store, cut):
    found = overlap.find_overlap(store, None, cut, None)
    assert {j for _, j, *_ in found.shifted} == {0, 1}
    assert all(lag_s == pytest.approx(3.0, abs=0.015) and alike >= 0.98 for *_, alike, lag_s in found.shifted)
    assert overlap.find_overlap(store, None, cut, None, shifted=False).shifted == ()


def test_a_lead_without_beats_has_no_landmarks():
    flat = np.zeros((3, 1000), dtype=np.float32)
    flat[1] = np.nan
    flat[2] = np.linspace(0, 5, 1000)
    for change_s in landmarks.changes(flat, 100.0):
        assert len(landmarks.landmarks(change_s).steps) == 0
    assert landmarks.changes(np.zeros((2, 1)), 100.0).shape == (2, 0)


def test_many_records_of_one_signal_meet_only_some_of_each_other(records):
    same = [records[0]] * 150
    marks = shifted.marks_of(
        (shifted.Piece(row, 0.0, one.signal_mv_lt, one.fs_hz) for row, one in enumerate(same)), same[0].leads
    )
    pairs = shifted.candidates(marks, marks, is_one=True)
    assert {one.row_b for one in pairs} == set(range(1, 150))
    assert len(pairs) < 150 * 64
