"""Codes of one's own, one class of several, a number, a challenge, a site left out: from a folder to a page."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner

from ecgstore import ConfigError, EcgError, IngestSettings, ingest_folder, open_store, rooms
from ecgstore.inner import parse
from ecgtrain import cli, config, tasks
from ecgtrain.config import RunConfig
from ecgtrain.evaluation.judge import refuse_unanswerable
from ecgtrain.evaluation.questions import questions
from ecgtrain.reporting.report import read_report
from ecgtrain.run import evaluate_store, run

N = 96
RHYTHMS = ("SR", "AF", "VT")
SNOMED = {"SR": "426783006", "AF": "164889003", "VT": "17338001"}
CODES = {"kind": "statements", "system": "rhythm", "codes": ["SR", "AF"]}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Three rhythms of their own frequency, an age that the amplitude tells, two sites; every fifth has no rhythm."""
    folder = tmp_path_factory.mktemp("folder")
    draw = np.random.default_rng(0)
    rows = ["record_id,patient_id,site,age,rhythm,snomed_ct"]
    t_s = np.arange(500) / 100
    for i in range(N):
        of, age = RHYTHMS[i % 3], 30 + (i * 7) % 50
        wave = np.sin(2 * np.pi * (1.1, 3.7, 9.0)[i % 3] * t_s + draw.uniform(0, 6))
        mv_tl = (0.2 + 0.02 * (age - 30)) * wave[:, None] * draw.uniform(0.8, 1.2, 2)
        counts = np.rint(1000 * (mv_tl + 0.15 * draw.standard_normal((500, 2)))).astype("<i2")
        counts.tofile(folder / f"r{i:02}.dat")
        lines = [f"r{i:02} 2 100 500"]
        for j, lead in enumerate(("I", "II")):
            total = int(counts[:, j].astype(np.int64).sum()) % 65536
            lines.append(f"r{i:02}.dat 16 1000.0(0)/mV 16 0 {counts[0, j]} {total} 0 {lead}")
        (folder / f"r{i:02}.hea").write_text("\n".join(lines) + "\n")
        stated = (of, SNOMED[of]) if i % 5 else ("", SNOMED[of])
        rows.append(f"r{i:02},p{i},{'north' if i % 2 else 'south'},{age},{stated[0]},{stated[1]}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    out = tmp_path_factory.mktemp("store") / "own.ecg"
    source = {
        "name": "wfdb_folder",
        "labels": str(folder / "labels.csv"),
        "statements": {"rhythm": "rhythm", "snomed_ct": "snomed_ct"},
    }
    settings = IngestSettings(source=source, fs_hz=100, leads=("I", "II"), folds=8, patient_key="public")
    ingest_folder(folder, out, settings)
    return out


def recipe(store, *tasks, **question):
    common = {
        "train_folds": [1, 2, 3, 4],
        "validation_folds": [5, 6],
        "test_folds": [7, 8],
        "window_samples": 250,
        "stride_samples": 250,
        "settings": {"penalties": [1.0, 0.01]},
        **question,
    }
    pretrain = {
        "method": {"name": "cpc", "steps_ahead": 3, "n_negatives": 8},
        "backbone": {"name": "cpc_lstm", "encoder": {"width": 16}, "lstm_width": 16, "lstm_layers": 1},
        "folds": [1, 2, 3, 4],
        "window_samples": 250,
        "batch_size": 8,
        "steps": 2,
    }
    downstream = [{"name": f"q{i}", "task": task, **common} for i, task in enumerate(tasks)]
    return {"name": "own", "data": {"store": str(store)}, "pretrain": pretrain, "downstream": downstream}


def made(store, *tasks, **question):
    return parse(RunConfig, recipe(store, *tasks, **question))


@pytest.fixture(scope="module")
def finished(store, tmp_path_factory):
    place = tmp_path_factory.mktemp("runs") / "run"
    one_of = {"kind": "statements", "system": "rhythm", "exclusive": True}
    number = {"kind": "regression", "column": "age_years"}
    run(made(store, CODES, one_of, number, "cinc/2020", nulls=["random"]), place)
    return place


def test_every_kind_has_its_scores_its_pictures_and_its_null(finished):
    several, one_of, number, challenge = read_report(finished).results[::2]
    assert set(several.metrics) == {"macro_auroc", "macro_auprc", "f_max"}
    of_one = {"accuracy", "balanced_accuracy", "macro_f1", "macro_auroc", "macro_auprc", "brier"}
    assert (one_of.kind, set(one_of.metrics)) == ("exclusive", of_one)
    assert set(one_of.decisions) == set(one_of.confusion.classes)
    assert sum(one.n_hits for one in one_of.decisions.values()) / one_of.n_test == one_of.metrics["accuracy"].value
    assert sum(map(sum, one_of.confusion.counts)) == one_of.n_test
    right = sum(row[i] for i, row in enumerate(one_of.confusion.counts)) / one_of.n_test
    assert right == pytest.approx(one_of.metrics["accuracy"].value)
    assert 0.2 < one_of.of_a_constant < 0.6
    assert (number.unit, set(number.metrics)) == ("years", {"mae", "r2"})
    assert len(number.agreement.pairs) == number.n_test
    assert number.of_a_constant > 5
    assert "challenge_score" in challenge.metrics
    assert set(challenge.thresholds) == set(challenge.per_class)
    for result in (several, one_of, number, challenge):
        assert set(result.by_site) == {"north", "south"}
        assert sum(site.n_test for site in result.by_site.values()) == result.n_test
        assert result.compared_by in result.difference_to["random"]
        assert math.isfinite(result.score.value)
    page = (finished / "report.html").read_text()
    for words in (
        "Confusion of CPC, on own.ecg",
        "Agreement of predicted",
        "By site",
        "MAE, years",
        "reaches an accuracy of",
    ):
        assert words in page, words
    predictions = pq.ParquetFile(finished / "downstream/q2/cpc/predictions.parquet").read(use_threads=False)
    assert {"predicted:age_years", "stated:age_years"} <= set(predictions.column_names)


def test_heads_of_every_kind_give_the_same_elsewhere(finished, store):
    before = read_report(finished).results
    after = evaluate_store(finished, str(store), folds=[7, 8]).results
    for one, other in zip(before, after, strict=True):
        assert (one.task, one.kind, one.n_test) == (other.task, other.kind, other.n_test)
        assert one.pretraining == other.pretraining
        for name, interval in one.metrics.items():
            assert other.metrics[name] == pytest.approx(interval, abs=1e-5), name
        assert other.thresholds == one.thresholds
        assert set(other.difference_to) == set(one.difference_to)


def test_terminal_and_merged_report_say_what_a_macro_score_is_the_mean_of(finished, tmp_path):
    said = CliRunner().invoke(cli.main, ["report", str(finished), "--out", str(tmp_path / "out")])
    assert said.exit_code == 0, said.output
    assert "3 of 24" in said.output
    assert "21 of 24 classes are left out: QAb, AFL, TAb" in said.output
    assert "SB, " in said.output or ", SB." in said.output, "all of them are named"
    assert "accuracy 0." in said.output


@pytest.mark.slow
def test_a_site_left_out_is_judged_alone_and_learned_from_by_nobody(store, tmp_path):
    every = {"kind": "statements", "system": "rhythm"}
    asked = made(store, every, leave_out_site="each", test_folds=[1, 2, 3, 4, 5, 6, 7, 8], allow_overlap=True)
    assert [one.name for one in questions(asked)] == ["q0.north", "q0.south"]
    found = run(asked, tmp_path / "run").results
    assert [one.left_out_site for one in found] == ["north", "south"]
    sites = open_store(store).column("site")
    for one in found:
        place = tmp_path / "run" / "downstream" / one.name / "cpc"
        rows = pq.ParquetFile(place / "predictions.parquet").read(use_threads=False)["row"].to_numpy()
        assert set(sites[rows]) == {one.left_out_site}
        seen = pq.ParquetFile(place / "seen.parquet").read(use_threads=False)
        assert one.left_out_site not in seen["site"].to_pylist()
        assert any("pretraining saw other records of" in text for text in one.caveats)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"task": {**CODES, "codes": ["SR", "AFF"]}}, "could state the code 'AFF'.*did you mean AF"),
        ({"task": {**CODES, "codes": ["SR", "AF"]}, "test_folds": [77]}, "no record is in the test folds.*has 1, 2"),
        ({"task": {"kind": "regression", "column": "sex"}}, "can't be predicted as a number"),
        ({"leave_out_site": "nord"}, "no record is of the site 'nord'.*did you mean north"),
        ({"protocol": "linear_prob"}, "unknown protocol"),
    ],
)
def test_what_has_no_answer_is_one_line_before_any_training(store, change, said):
    content = recipe(store, CODES)
    content["downstream"][0].update(change)
    with pytest.raises(EcgError, match=said) as caught:
        refuse_unanswerable(parse(RunConfig, content))
    assert len(str(caught.value).splitlines()) == 1


def test_a_named_class_must_be_there_on_every_side_and_patients_be_several(store):
    opened = open_store(store)
    from ecgtrain.evaluation.questions import refuse_impossible, sides, targets_of

    question = made(store, CODES).downstream[0]
    targets, rows = targets_of(question, opened), sides(question, opened)
    refuse_impossible(question, targets, rows, opened)
    for side in ("train", "validation", "test"):
        for kept in (0, 1):
            only = rows[side][targets.y_nc[rows[side], 1] == bool(kept)]
            # Among records of AF alone none is of SR, which is told first.
            of = "SR" if kept else "AF"
            with pytest.raises(EcgError, match=f"the class {of} has no positive record in the {side} folds"):
                refuse_impossible(question, targets, {**rows, side: only}, opened)
    lost = replace(targets, rows_with_label=rows["test"][:0], caveats=("their site never states AF",))
    with pytest.raises(EcgError, match=r"no record of the train folds has a label.*their site never states AF"):
        refuse_impossible(question, lost, rows, opened)
    number = made(store, {"kind": "regression", "column": "age_years"}).downstream[0]
    with pytest.raises(EcgError, match="test folds have labelled records of one patient alone"):
        refuse_impossible(number, targets_of(number, opened), {**rows, "test": rows["test"][:1]}, opened)


OWN = """
import numpy as np
import ecgstore
from ecgtrain.tasks import Targets
DESCRIPTION = "Whether a record's number can be divided."
class Settings(ecgstore.Settings):
    by: int = 2
def targets(store, settings):
    y_nc = (np.arange(store.n_records) % settings.by == 0)[:, None]
    return Targets("own", ("divisible",), y_nc, np.arange(store.n_records))
"""


def test_a_task_file_beside_its_recipe_is_kept_and_named_to_be_judged_later(store, tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    content = recipe(store, {"kind": "mine.py", "by": 3})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    place = tmp_path / "run"
    result = run(config.load(tmp_path / "recipe.yaml"), place).results[0]
    assert result.task == "mine.py: by 3"
    head = json.loads((place / "downstream/q0/cpc/head.json").read_text())
    assert head["task"] == {"kind": "mine.py", "by": 3}
    copy = place / "own" / "mine.py"
    assert copy.read_bytes() == (tmp_path / "mine.py").read_bytes()
    # The original is gone or changed: the run's copy answers, where it is named.
    (tmp_path / "mine.py").write_text("raise SystemExit('this was run')\n")
    assert evaluate_store(place, str(store), own_files=[copy]).results[0].task == "mine.py: by 3"
    with pytest.raises(EcgError, match="the task file is not what it was when it was named"):
        tasks.load({"kind": str(tmp_path / "mine.py")})


def test_a_received_runs_own_copy_is_not_run_unasked(store, tmp_path, monkeypatch):
    (tmp_path / "notes.py").write_text(OWN.replace("DESCRIPTION =", "seen = 1\nDESCRIPTION ="))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe(store, {"kind": "notes.py"})))
    place = tmp_path / "run"
    run(config.load(tmp_path / "recipe.yaml"), place)
    trap = tmp_path / "ran"
    for path in (place / "own" / "notes.py", tmp_path / "notes.py"):
        path.write_text(f"open({str(trap)!r}, 'w').close()\n")
    about = place / "downstream/q0/cpc/head.json"
    content = json.loads(about.read_text())
    content["own_files"] = {"notes.py": "0" * 64}
    about.write_text(json.dumps(content))
    monkeypatch.setattr(rooms, "_NAMED", {})  # as in a new process
    with pytest.raises(EcgError, match="not run unless you name it yourself.*--own-file"):
        evaluate_store(place, str(store))
    with pytest.raises(EcgError, match="not the one that the head was fitted with"):
        evaluate_store(place, str(store), own_files=[place / "own" / "notes.py"])
    monkeypatch.setattr(rooms, "_NAMED", {})
    with pytest.raises(ConfigError, match=r"names a task file.*--own-file"):
        config.load(place / "config.yaml")
    assert not trap.exists()


def test_numbers_of_leads_stand_for_the_challenges_subsets(store):
    data = recipe(store)["data"]
    assert [len(parse(config.Data, {**data, "leads": n}).leads) for n in (12, 6, 4, 3, 2)] == [12, 6, 4, 3, 2]
    assert parse(config.Data, {**data, "leads": 4}).leads == ("I", "II", "III", "V2")
    for wrong in (5, True, []):
        with pytest.raises(ConfigError, match="leads"):
            parse(config.Data, {**data, "leads": wrong})


def test_answers_without_a_site_are_compared_site_by_site(store):
    content = recipe(store, CODES, CODES, leave_out_site="each")
    content["downstream"][1]["compare_to"] = ["q0"]
    assert [one.compare_to for one in questions(parse(RunConfig, content))] == [(), (), ("q0.north",), ("q0.south",)]
    content["downstream"][0]["leave_out_site"] = "north"
    with pytest.raises(ConfigError, match="can't be compared to q0: leave_out_site differs"):
        parse(RunConfig, content)
