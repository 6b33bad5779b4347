"""The records that a run is most wrong about: found in its predictions, shown as ECG pages, kept out of report.json."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from ecgstore import LEADS_12, ConfigError, IngestSettings, Record, open_store, write_records
from ecgtrain.cli import main
from ecgtrain.evaluation.results import Result
from ecgtrain.reporting.contents import About, Report, RunFacts
from ecgtrain.reporting.page import render
from ecgtrain.reporting.report import write_report
from ecgtrain.reporting.worst import N_RECORDS, with_pages, worst_of
from ecgtrain.scoring.bootstrap import Interval

TWO = {
    "MI": ([True, False, False, False], [0.9, 0.2, 0.1, 0.8]),
    "CD": ([False, True, False, True], [0.1, 0.0, 0.3, 0.6]),
}


def result(**more: Any) -> Result:
    made = {
        "name": "q",
        "task": "t",
        "protocol": "linear_probe",
        "pretraining": "cpc",
        "store": "gone.ecg",
        "n_train": 9,
        "n_test": 4,
        "metrics": {"macro_auroc": Interval(0.8, 0.7, 0.9)},
        "per_class": {},
        **more,
    }
    return Result.model_validate(made)


def answered(run_dir: Path, columns: dict[str, Any], ids: list[str], of: Result, said: str = "probability") -> None:
    """What a run keeps of one answer, as far as the page reads it; ``columns``: by class what is stated and said."""
    folder = run_dir / "downstream" / of.name / of.pretraining
    folder.mkdir(parents=True)
    (folder / "head.json").write_text(json.dumps({"classes": list(columns)}))
    table = {"record_id": ids, "row": list(range(len(ids)))}
    for name, (stated, given) in columns.items():
        table |= {f"{said}:{name}": given, f"stated:{name}": stated}
    pq.write_table(pa.table(table), folder / "predictions.parquet")


def test_the_farthest_from_what_is_stated_come_first(tmp_path: Path) -> None:
    one = result()
    answered(tmp_path, TWO, ["a", "b", "c", "d"], one)
    (worst,) = worst_of(tmp_path, [one, result(pretraining="random")])
    assert [wrong.record_id for wrong in worst.records] == ["b", "d", "c", "a"]
    b, d, c, _ = worst.records
    assert b == ("b", "CD", "CD: stated, said with 0.000", "CD 0.000", "")
    assert (d.wrong, d.said) == ("MI: not stated, said with 0.800", "MI 0.800, CD 0.600")
    assert (c.stated, c.said) == ("none of the classes", "no class with 0.5 or more")


def test_a_class_is_told_in_words(tmp_path: Path) -> None:
    one = result(per_class={"MI": {"auroc": 0.5, "auprc": 0.5, "n_positive": 1, "title": "myocardial infarction"}})
    answered(tmp_path, {"MI": ([True, False], [0.0001, 0.1])}, ["a", "b"], one)
    (worst,) = worst_of(tmp_path, [one])
    assert worst.records[0].wrong == "MI (myocardial infarction): stated, said with < 0.001"


def test_of_classes_that_exclude_each_other_the_stated_one_counts(tmp_path: Path) -> None:
    one = result(kind="exclusive")
    shares = {"x": ([True, True], [0.4, 0.45]), "y": ([False, False], [0.6, 0.0]), "z": ([False, False], [0.0, 0.55])}
    answered(tmp_path, shares, ["a", "b"], one)
    (worst,) = worst_of(tmp_path, [one])
    assert [wrong.record_id for wrong in worst.records] == ["a", "b"]


def test_of_numbers_the_distance_counts(tmp_path: Path) -> None:
    one = result(kind="regression", unit="years", metrics={"mae": Interval(9.0, 8.0, 10.0)})
    n = N_RECORDS + 2
    answered(
        tmp_path, {"age": ([50.0] * n, [50.0 - i for i in range(n)])}, [f"r{i}" for i in range(n)], one, "predicted"
    )
    (worst,) = worst_of(tmp_path, [one])
    assert [wrong.record_id for wrong in worst.records] == [f"r{i}" for i in range(n - 1, 1, -1)]
    assert worst.records[0][1:4] == ("50 years", "off by −7 years", "43 years")


def test_what_is_not_known_is_not_wrong(tmp_path: Path) -> None:
    one = result()
    answered(tmp_path, {"MI": ([False, False], [np.nan, 0.1])}, ["a", "b"], one)
    (worst,) = worst_of(tmp_path, [one])
    assert [wrong.record_id for wrong in worst.records] == ["b", "a"]


@pytest.mark.parametrize("name", ["q", "../../elsewhere/downstream/q", "\0", "x" * 300])
def test_without_predictions_of_its_own_a_run_has_none(tmp_path: Path, name: str) -> None:
    answered(tmp_path / "elsewhere", TWO, ["a", "b", "c", "d"], result())
    (tmp_path / "run" / "downstream").mkdir(parents=True)
    assert not [wrong for worst in worst_of(tmp_path / "run", [result(name=name)]) for wrong in worst.records]


@pytest.mark.parametrize("file", ["predictions.parquet", "head.json"])
def test_what_cannot_be_read_is_said(tmp_path: Path, file: str) -> None:
    one = result()
    answered(tmp_path, TWO, ["a", "b", "c", "d"], one)
    (tmp_path / "downstream" / "q" / "cpc" / file).write_text("{}")
    (worst,) = worst_of(tmp_path, [one])
    assert worst.records == ()
    assert worst.note.startswith("The predictions can't be read: ")
    assert worst.note in render(Report(results=(one,)), [worst]).replace("&#39;", "'")


def test_of_several_seeds_the_first_is_shown(tmp_path: Path) -> None:
    one = result(seeds=(3, 4))
    for seed, name in ((3, "a"), (4, "b")):
        answered(tmp_path / "seeds" / str(seed), {"MI": ([True], [0.1])}, [name], one)
    (worst,) = worst_of(tmp_path, [one])
    assert worst.records[0].record_id == "a"
    assert "by the first seed" in render(Report(results=(one,)), [worst])


@pytest.fixture
def judged(mini_store: Path, tmp_path: Path) -> tuple[Path, Result]:
    """A run with predictions on records of a store."""
    store = open_store(mini_store)
    one = result(store=str(mini_store), store_fingerprint=store.fingerprint)
    answered(tmp_path / "run", TWO, store.column("record_id")[:4].tolist(), one)
    about = About(run=RunFacts(name="mine"))
    write_report(tmp_path / "run", Report(results=(one,), runs=(about,)), worst_of(tmp_path / "run", [one]))
    return tmp_path / "run", one


def test_a_report_draws_them_and_an_export_could_not_name_them(judged: tuple[Path, Result], mini_store: Path) -> None:
    run, _ = judged
    ids = open_store(mini_store).column("record_id")[:4].tolist()
    page, kept = (run / "report.html").read_text(), (run / "report.json").read_text()
    assert all(f'<th scope="row">{record_id}</th>' in page for record_id in ids)
    assert "<img" not in page
    assert "<code>ecgtrain report RUN</code> draws such records" in page
    assert not any(f'"{record_id}"' in kept for record_id in ids)
    out = run.parent / "report"
    done = CliRunner().invoke(main, ["report", str(run), "--out", str(out), "--pages", "2"])
    assert done.exit_code == 0, done.output
    drawn = (out / "report.html").read_text()
    assert drawn.count('<img alt="ECG page of record ') == 2
    assert drawn.count('<a href="#wrong-0-0-') == 2
    assert drawn.count('<figure class="page" id="wrong-0-0-') == 2
    assert not any(f'"{record_id}"' in (out / "report.json").read_text() for record_id in ids)


@pytest.mark.slow
def test_pages_go_round_the_answers(judged: tuple[Path, Result]) -> None:
    run, one = judged
    other = one.model_copy(update={"name": "other"})
    answered(run, TWO, open_store(one.store).column("record_id")[4:8].tolist(), other)
    shown = with_pages(worst_of(run, [one, other]), [one, other], 3)
    assert [sum(bool(wrong.picture) for wrong in its.records) for its in shown] == [2, 1]
    assert base64.b64decode(shown[0].records[0].picture).startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match="can't be negative"):
        with_pages([], [], -1)


def test_why_there_are_no_pages_is_said(judged: tuple[Path, Result], tmp_path: Path) -> None:
    run, one = judged

    def note(**changed: Any) -> str:
        other = one.model_copy(update=changed)
        (shown,) = with_pages(worst_of(run, [other]), [other], None)
        assert not any(wrong.picture for wrong in shown.records)
        return shown.note

    assert "the store is not at" in note(store=str(tmp_path / "none.ecg"))
    assert "is not on this machine" in note(store="s3://team/a@v1")
    assert "another store stands at" in note(store_fingerprint="cd" * 32)


def test_what_may_not_be_passed_on_is_drawn_where_somebody_asks(tmp_path: Path) -> None:
    time_s = np.arange(1000) / 100
    signal = np.tile(np.sin(6.3 * time_s).astype(np.float32), (12, 1))
    records = [Record(name, LEADS_12, 100.0, signal * k, patient_id=f"p{k}") for k, name in enumerate("abcd", start=1)]
    write_records(tmp_path / "own.ecg", records, IngestSettings(filters=(), fs_hz=100.0, patient_key="public"))
    store = open_store(tmp_path / "own.ecg")
    one = result(store=store.path, store_fingerprint=store.fingerprint)
    answered(tmp_path / "run", TWO, list("abcd"), one)
    worst = worst_of(tmp_path / "run", [one])
    (by_default,) = with_pages(worst, [one], None)
    assert not any(wrong.picture for wrong in by_default.records)
    assert "recordings of arrays may not be passed on" in by_default.note
    (asked,) = with_pages(worst, [one], 1)
    assert [bool(wrong.picture) for wrong in asked.records] == [True, False, False, False]
