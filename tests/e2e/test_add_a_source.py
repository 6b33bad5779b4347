"""The page on adding a source is true: its files, as a reader would write them, make stores."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from ecgstore import IngestSettings, ingest_folder, open_store
from ecgstore.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "add-a-source.md"
BLOCKS = re.findall(r"^```python[^\n]*\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
WRITE, SOURCE, INGEST, HDF5, _ARRAYS = BLOCKS


def run(*words):
    done = CliRunner().invoke(main, [str(word) for word in words], prog_name="ecgstore")
    assert done.exit_code == 0, done.output
    return done.output


def test_the_folder_of_csv_files_becomes_a_store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(WRITE, {})
    Path("ward_csv.py").write_text(SOURCE)
    exec(INGEST, {})
    commands = re.findall(r"^\$ ecgstore (.+)$", PAGE.read_text(), re.M)
    assert "2000 Hz × 3" in run(*commands[0].split())
    run(*commands[2].split())
    assert open_store("ward1000.ecg").read("b").n_samples == 2000
    assert open_store("ward.ecg").attributes["sources"][0]["licence"] == "of our hospital"


def test_records_of_one_hdf5_file_become_a_store(tmp_path, monkeypatch):
    h5py = pytest.importorskip("h5py")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    counts_lt = np.random.default_rng(0).integers(-900, 900, (2, 4000)).astype("i2")
    with h5py.File("in/ecgs.h5", "w") as file:
        data = file.create_dataset("records/r1", data=counts_lt)
        data.attrs.update({"leads": ["I", "II"], "fs_hz": 500, "gain": 200})
    head = SOURCE[: SOURCE.index("def list_records")]
    Path("h5.py").write_text(f"import h5py\n{head}{HDF5}")
    ingest_folder("in", "out.ecg", IngestSettings(source="h5.py", profile="raw"))
    np.testing.assert_allclose(open_store("out.ecg").read("r1").signal_mv_lt[:2], counts_lt / 200, rtol=1e-6)
