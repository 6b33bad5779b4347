"""Annotations of plain folders: said where they are not asked for, whole where they are, free text only on request."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner

import ecgstore
from ecgstore.build.ingest import ingest_folder
from ecgstore.build.settings import IngestSettings
from ecgstore.build.survey import survey
from ecgstore.cli import main
from ecgstore.errors import SourceError
from ecgstore.record import Beat
from ecgstore.sources import wfdb_folder
from ecgstore.wfdb_io.annotations import RHYTHMS, is_annotation_file

wfdb = pytest.importorskip("wfdb")


@pytest.fixture
def folder(tmp_path, write_record):
    """Two records, of which one has the annotations of two annotators, and files that are none."""
    root = tmp_path / "src"
    path = write_record(root, "r1")
    write_record(root, "r2")
    numbers = {"subtype": np.array([0, 2, 0]), "chan": np.array([0, 11, 0]), "num": np.array([0, 0, 5])}
    notes = ["", "(AFIB\x00", "seen by Dr. Who"]
    marks = np.array([500, 1000, 2500])
    wfdb.wrann("r1", "atr", marks, symbol=["N", "+", '"'], aux_note=notes, write_dir=str(root), **numbers)
    wfdb.wrann("r1", "qrs", np.array([505, 4000]), symbol=["N", "N"], write_dir=str(root))
    path.with_suffix(".qrs").rename(root / "r1.QRS")
    (root / "r1.txt").write_text("no annotation")
    return root


def stored(folder, out, fs_hz=100.0, **source):
    source = {"name": "wfdb_folder", **source}
    report = ingest_folder(folder, out, IngestSettings(fs_hz=fs_hz, filters=(), source=source))
    return report, ecgstore.open_store(out)


def test_files_that_were_not_read_are_said(folder, tmp_path):
    said = ("annotation files were not read: 1 × .atr, 1 × .qrs; --annotators atr,qrs stores what is in them",)
    report, store = stored(folder, tmp_path / "out.ecg")
    assert report.notes[:-1] == said
    assert "limb leads don't add up" in report.notes[-1]  # they are made of noise
    assert store.beats.column_names == ["row", "sample", "symbol"]
    assert store.beats.num_rows == 0
    assert survey(folder, IngestSettings()).notes[:-1] == said


def test_every_field_is_kept_but_free_text(folder, tmp_path):
    report, store = stored(folder, tmp_path / "out.ecg", annotators=["atr", "qrs"])
    assert report.notes[:-1] == (
        "1 of 2 records have no annotation file .atr",
        "1 of 2 records have no annotation file .qrs",
    )
    assert store.read_beats("r1") == (
        Beat(1.0, "N", annotator="atr"),
        Beat(1.01, "N", annotator="qrs"),
        Beat(2.0, "+", "(AFIB", 2, 11, annotator="atr"),
        Beat(5.0, '"', num=5, annotator="atr"),
        Beat(8.0, "N", annotator="qrs"),
    )
    assert store.read_beats("r2") == ()
    assert store.read("r1").warnings == ("1 notes of the .atr file are no rhythm and were left out",)
    assert store.verify(deep=True) == []


def test_free_text_is_kept_on_request_alone(folder, tmp_path):
    out = tmp_path / "out.ecg"
    words = ["ingest", str(folder), str(out), "--annotators", "ATR", "--allow-text", "--unfiltered", "--workers", "1"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    store = ecgstore.open_store(out)
    assert [beat.note for beat in store.read_beats("r1")] == ["", "(AFIB", "seen by Dr. Who"]
    assert store.attributes["source_settings"]["allow_text"] is True


def test_tasks_with_and_without_annotations_make_one_table(folder, tmp_path, write_record):
    write_record(folder, "a0", np.arange(39_000 * 12).reshape(-1, 12) % 50)
    _, store = stored(folder, tmp_path / "out.ecg", 500.0, annotators=["atr"])
    assert store.n_shards > 1
    assert store.beats["row"].to_pylist() == [1, 1, 1]
    assert store.beats["note"].to_pylist() == [None, "(AFIB", None]


def test_an_annotator_of_no_record_is_refused_with_the_nearest(folder):
    with pytest.raises(SourceError, match=r"no record has an annotation file \.art.*did you mean atr"):
        wfdb_folder.list_records(folder, wfdb_folder.Settings(annotators=["art"]))
    with pytest.raises(ValueError, match="annotators"):
        wfdb_folder.Settings(annotators=["../x"])


@pytest.mark.parametrize("content", [b"", b"odd", b"\0", b"\1\4\0\0more", b"\x05\xfc\0\0", b"\1\4\2\4"])
def test_a_file_of_something_else_is_no_annotation_file(tmp_path, content):
    (tmp_path / "r.xyz").write_bytes(content)
    assert not is_annotation_file(tmp_path / "r.xyz")
    assert not is_annotation_file(tmp_path)


def test_a_file_of_annotations_is_one(folder):
    assert is_annotation_file(folder / "r1.atr")
    assert is_annotation_file(folder / "r1.QRS")
    assert all(name.startswith("(") for name in RHYTHMS)
