"""A pipe in the place of a file is one line, wherever a file is read: it would be waited for without end."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from ecgstore import ConfigError, IngestSettings, SourceError, ingest_folder
from ecgstore.build import commits
from ecgstore.build.settings import detect_source
from ecgstore.fetching.checksums import load_sums
from ecgstore.sources import synthetic
from ecgstore.storage import layout
from ecgstore.storage.plain import open_plain, open_text


@pytest.fixture
def folder(tmp_path, write_record):
    """One record, and a place for what stands beside it."""
    write_record(tmp_path / "src")
    return tmp_path / "src"


def pipe(path):
    os.mkfifo(path)
    return path


def test_a_file_is_read_and_nothing_else_is(tmp_path):
    (tmp_path / "file").write_bytes("\ufeffé\r\n".encode())
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with open_text(tmp_path / "link", encoding="utf-8-sig", newline="") as file:
        assert file.read() == "é\r\n"
    with pytest.raises(OSError, match="symbolic"):
        open_plain(tmp_path / "link", follow_links=False)
    for odd in (pipe(tmp_path / "pipe"), tmp_path, "/dev/zero"):
        with pytest.raises(OSError, match="not a plain file"):
            open_plain(odd)
    with pytest.raises(FileNotFoundError):
        open_plain(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["labels.csv", "labels.parquet"])
def test_a_pipe_for_a_table_of_labels(folder, tmp_path, name):
    settings = IngestSettings(source={"name": "wfdb_folder", "labels": str(pipe(tmp_path / name))})
    with pytest.raises(SourceError, match="the table can't be read.*not a plain file"):
        ingest_folder(folder, tmp_path / "out.ecg", settings)


def test_a_pipe_for_a_list_of_checksums(folder):
    pipe(folder / "SHA256SUMS.txt")
    with pytest.raises(SourceError, match="checksums can't be read.*not a plain file"):
        load_sums(folder)


def test_a_pipe_for_a_table_of_scanned_headers(folder, tmp_path):
    table = pipe(tmp_path / "scan.parquet")
    with pytest.raises(ConfigError, match="not a table of scanned headers.*not a plain file"):
        ingest_folder(folder, tmp_path / "out.ecg", IngestSettings(), scan_table=table)


@pytest.mark.parametrize("name", ["README.txt", "record_list.csv", "ptbxl_database.csv"])
def test_pipes_where_a_source_would_look_which_kind_of_folder_it_is(folder, name):
    pipe(folder / name)
    assert detect_source(folder).model_dump()["name"] == "wfdb_folder"


def test_a_pipe_for_the_labels_of_a_synthetic_folder(tmp_path):
    synthetic.simulate(tmp_path / "src", synthetic.Simulation(n_records=1, duration_s=2))
    (tmp_path / "src" / "labels.csv").unlink()
    pipe(tmp_path / "src" / "labels.csv")
    with pytest.raises(SourceError, match="labels of a synthetic folder can't be read.*not a plain file"):
        synthetic.list_records(tmp_path / "src", synthetic.Settings())


def test_a_pipe_for_the_commit_of_a_shard_is_work_that_is_left(tmp_path):
    task = SimpleNamespace(first_shard=0)
    path = tmp_path / layout.commit_object(0)
    path.parent.mkdir()
    pipe(path)
    assert commits.load(tmp_path, task, "0" * 64) is None
