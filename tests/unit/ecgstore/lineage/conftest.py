"""Small stores of several shards, with patients, statements and ids that are long enough to be looked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from lineage_records import LEADS, SECRET, record

from ecgstore import IngestSettings, ingest_folder, write_records


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    def made(name: str, indices: range, *, settings: dict[str, object] | None = None, **how: object) -> Path:
        out = tmp_path_factory.mktemp("lineage") / name
        said = {
            "leads": how.get("leads", LEADS),
            "filters": (),
            "fs_hz": 100.0,
            "patient_key": SECRET,
            **(settings or {}),
        }
        write_records(out, [record(i, **how) for i in indices], IngestSettings(**said))
        return out

    return made


@pytest.fixture(scope="session")
def ward(make: Callable[..., Path]) -> Path:
    """Eight records of four patients, three to a shard."""
    return make("ward.ecg", range(8))


@pytest.fixture
def annotated(tmp_path: Path, write_record: Callable[..., Path]) -> Path:
    """Two records of a folder, each with four annotations."""
    import wfdb

    for name in ("first-record", "second-record"):
        write_record(tmp_path / "annotated", name)
        notes = ["(AFIB", "", "", ""]
        samples = np.array([10, 500, 1500, 4990])
        wfdb.wrann(name, "atr", samples, ["+", "N", "V", "N"], aux_note=notes, write_dir=str(tmp_path / "annotated"))
    settings = IngestSettings(source={"name": "wfdb_folder", "annotators": ["atr"]}, fs_hz=100.0, filters=())
    ingest_folder(tmp_path / "annotated", tmp_path / "annotated.ecg", settings)
    return tmp_path / "annotated.ecg"
