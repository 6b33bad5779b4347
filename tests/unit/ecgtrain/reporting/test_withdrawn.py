"""A report says which runs have seen what was withdrawn since, and not who that was."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from click.testing import CliRunner

from ecgstore import open_store, withdraw_records
from ecgtrain.cli import main
from ecgtrain.data.seen import seen_of, withdrawn_since, write_seen
from ecgtrain.reporting.contents import About, Report, RunFacts, StoreFacts
from ecgtrain.reporting.report import write_report


def run_on(store: Path, folder: Path, rows: range) -> Path:
    """A run that has seen these rows, as far as a report knows it."""
    opened = open_store(store)
    about = About(run=RunFacts(name=folder.name), store=StoreFacts(path=str(store), fingerprint=opened.fingerprint))
    write_report(folder, Report(results=(), runs=(about,)))
    write_seen(folder / "seen.parquet", [seen_of(opened, np.array(rows), "train")], opened.fingerprint)
    return folder


def test_what_was_seen_and_is_withdrawn_is_told_by_a_line(mini_store: Path, tmp_path: Path) -> None:
    store = tmp_path / "ptbxl.ecg"
    shutil.copytree(mini_store, store)
    opened = open_store(store)
    has_seen = run_on(store, tmp_path / "has-seen", range(20))
    has_not = run_on(store, tmp_path / "has-not", range(20, 40))
    key = opened.column("patient_key")[3]
    withdraw_records(opened, tmp_path / "v2.ecg", patients=[key], records=[opened.id_of(5), opened.id_of(50)])

    report = ["report", str(has_seen), str(has_not), "--out", str(tmp_path / "report")]
    silent = CliRunner().invoke(main, report)
    assert "withdrawn" not in silent.stdout
    told = CliRunner().invoke(main, [*report, "--withdrawn", str(tmp_path / "v2.ecg")])
    assert told.exit_code == 0, told.output
    line = "note: has-seen has seen what was withdrawn from v2.ecg since: 2 records of 2 named patients (train: 2)."
    assert line in told.stdout
    assert "has-not has seen" not in told.stdout
    assert key not in told.stdout + (tmp_path / "report" / "report.json").read_text()

    # The successor in the place of the store that the runs name: nobody need say so.
    withdraw_records(open_store(store), store, patients=[key], overwrite=True)
    assert "from ptbxl.ecg since: 1 records" in CliRunner().invoke(main, report).stdout


def test_nothing_withdrawn_is_nothing_said(mini_store: Path) -> None:
    store = open_store(mini_store)
    assert withdrawn_since([seen_of(store, np.arange(5), "train")], store) == ""
