"""What a folder is said to hold before any work, against what an ingest of it then finds."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from ecgstore.build import survey as surveys
from ecgstore.build.ingest import ingest_folder
from ecgstore.build.settings import IngestSettings
from ecgstore.build.survey import survey
from ecgstore.errors import ConfigError, SourceError
from ecgstore.storage.store import open_store


@pytest.fixture(scope="module")
def of_mini(mini):
    return survey(mini, IngestSettings())


def test_the_counts_are_those_of_the_store(of_mini, mini_store):
    store = open_store(mini_store)
    assert (of_mini.source, of_mini.records, of_mini.left_out) == ("ptbxl", store.n_records, {})
    assert of_mini.patients == len(set(store.column("patient_key")))
    assert of_mini.hours == round(store.n_records * 10 / 3600, 3)
    assert of_mini.rates_hz == {"500": 53}
    assert of_mini.lengths_s == {"10": 53}
    assert of_mini.formats == {"plain (read by NumPy)": 53}
    assert {int(fold): n for fold, n in of_mini.folds.items()} == dict(Counter(store.column("fold").tolist()))
    stated = Counter(f"{one['system']}:{one['code']}" for one in store.statements.to_pylist())
    assert of_mini.statements == dict(stated)
    assert list(of_mini.statements.values()) == sorted(of_mini.statements.values(), reverse=True)


def test_size_and_time_are_those_of_a_store(of_mini, mini, mini_store):
    samples = sum(path.stat().st_size for path in (mini_store / "signal").rglob("*") if path.is_file()) / 1e6
    assert samples < of_mini.store_megabytes < 3 * samples
    assert 0 < of_mini.seconds < 60
    raw = survey(mini, IngestSettings(profile="raw"))
    assert raw.store_megabytes > 2 * of_mini.store_megabytes
    signals = sum(path.stat().st_size for path in mini.rglob("*.dat")) / 1e6
    assert of_mini.source_megabytes == pytest.approx(signals, abs=0.06)


def test_what_is_left_out_is_counted_with_its_first_example(tmp_path, write_record):
    for name, more in (
        ("a", {}),
        ("b", {"leads": ("I", "ABP")}),
        ("c", {"leads": ("II", "RESP")}),
        ("d", {"fs": "250"}),
    ):
        write_record(tmp_path, name, **more)
    (tmp_path / "d.dat").unlink()
    found = survey(tmp_path, IngestSettings())
    assert (found.source, found.records, found.patients, found.folds) == ("wfdb_folder", 1, 0, {})
    assert found.left_out == {"unknown_lead": 2, "missing_signal": 1}
    assert found.examples["unknown_lead"].startswith("b: ")
    assert found.examples["missing_signal"].startswith("d: ")
    report = ingest_folder(tmp_path, tmp_path / "out.ecg", IngestSettings())
    assert dict(report.reasons) == found.left_out
    kept = survey(tmp_path, IngestSettings(extra_leads="drop"))
    assert kept.records == 3
    assert kept.rates_hz == {"500": 3}


def test_a_trial_of_long_records_takes_few_of_them(tmp_path, write_record, monkeypatch):
    rng = np.random.default_rng(1)
    for name in "abcd":
        write_record(tmp_path, name, (200 * rng.standard_normal((50_000, 2))).astype("<i2"), ("I", "II"))
    whole = survey(tmp_path, IngestSettings())
    monkeypatch.setattr(surveys, "TRIAL_SAMPLES", 1)
    tried = []
    monkeypatch.setattr(
        surveys.schedule, "run", lambda root, tasks, *_: tried.extend(r for t in tasks for r in t.records)
    )
    assert survey(tmp_path, IngestSettings()).records == 4
    assert [record.ref.record_id for record in tried] == ["a"]
    monkeypatch.undo()
    monkeypatch.setattr(surveys, "TRIAL_SAMPLES", 2 * 12 * 10_000)
    half = survey(tmp_path, IngestSettings())
    assert half.records == 4
    assert half.store_megabytes == pytest.approx(whole.store_megabytes, rel=0.4)  # a store has a few files besides


def test_broken_signals_do_not_end_it(tmp_path, write_record):
    for name in "ab":
        write_record(tmp_path, name)
        content = (tmp_path / f"{name}.dat").read_bytes()
        (tmp_path / f"{name}.dat").write_bytes(bytes(content[:100]) + b"\x55" * (len(content) - 100))
    found = survey(tmp_path, IngestSettings())
    assert found.records == 2
    assert found.store_megabytes is not None


def test_recorded_noise_takes_part_in_the_trial(mini, tmp_path, write_record):
    rng = np.random.default_rng(0)
    bank = tmp_path / "nstdb"
    write_record(
        bank, "bw", np.cumsum(rng.integers(-5, 6, (20_000, 2)), axis=0).astype("<i2"), ("noise1", "noise2"), fs="360"
    )
    settings = IngestSettings(noise={"kind": "nstdb-bw", "snr_db": 6}, noise_bank=bank)
    found = survey(mini, settings)
    assert (found.records, found.left_out) == (53, {})
    assert found.store_megabytes > 0.3
    with pytest.raises(ConfigError, match="recorded noise"):
        survey(mini, IngestSettings(noise={"kind": "nstdb-bw", "snr_db": 6}))


def test_the_source_is_listed_once(tmp_path, mini):
    visited = tmp_path / "visited"
    source = tmp_path / "mine.py"
    source.write_text(
        "from pathlib import Path\n"
        "from ecgstore.record import Listing, RecordRef, Terms\n"
        "from ecgstore.settings import Settings as Base\n"
        "TERMS = Terms('mine', '1', 'mine alone', False)\n"
        "class Settings(Base): pass\n"
        "def list_records(root, settings):\n"
        f"    with open({str(visited)!r}, 'a') as file: file.write('x')\n"
        "    paths = sorted(root.rglob('*.hea'))\n"
        "    return Listing(tuple(RecordRef(p.stem, p.with_suffix('')) for p in paths), (), TERMS)\n"
    )
    assert survey(mini, IngestSettings(source=str(source))).source == "mine"
    assert visited.read_text() == "x"


def test_nothing_is_kept_but_the_scan_table(tmp_path, write_record):
    write_record(tmp_path / "src")
    table = tmp_path / "scan.parquet"
    calls = []
    first = survey(tmp_path / "src", IngestSettings(), scan_table=table, progress=lambda *call: calls.append(call))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scan.parquet", "src"]
    assert sorted(path.name for path in (tmp_path / "src").iterdir()) == ["r1.dat", "r1.hea"]
    assert calls[-1] == ("scan", 1, 1)
    assert json.loads(json.dumps(first.to_dict()))["records"] == 1


def test_a_folder_without_a_usable_record_is_said(tmp_path, write_record):
    with pytest.raises(SourceError, match="the source folder is not there"):
        survey(tmp_path / "none", IngestSettings())
    with pytest.raises(SourceError, match="no WFDB record"):
        survey(tmp_path, IngestSettings())
    write_record(tmp_path, leads=("ABP",))
    with pytest.raises(SourceError, match="none of 1 records can be used.*unknown_lead"):
        survey(tmp_path, IngestSettings())
