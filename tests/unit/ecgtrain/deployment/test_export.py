"""An export: whole, by itself, with what must be known of it."""

from __future__ import annotations

import json
import shutil

import pytest

from ecgstore import ConfigError
from ecgtrain.deployment import export
from ecgtrain.deployment.model import load_model
from ecgtrain.errors import CheckpointError, LeakageError, ProtocolError
from ecgtrain.evaluation.elsewhere import told_which
from ecgtrain.reporting.report import read_report
from ecgtrain.run import evaluate_store, export_run
from ecgtrain.training.files import plain


def left_beside(out):
    return sorted(path.name for path in out.parent.iterdir())


def test_an_export_is_a_small_run_of_one_head(exported, finished, mini_store):
    (there,) = evaluate_store(exported, str(mini_store)).results
    # The run keeps its nulls, too, and compares itself to them.
    here = evaluate_store(finished, str(mini_store), names=["q"]).results[0]
    assert set(here.difference_to) == {"random"}
    assert plain(there.as_json()) == plain(here.model_copy(update={"difference_to": {}}).as_json())
    with pytest.raises(LeakageError):
        evaluate_store(exported, str(mini_store), folds=[1])


def test_an_export_needs_nothing_else_and_names_no_place(exported, mini_store, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(exported, moved)
    assert load_model(moved).head.name == "q"
    for path in exported.rglob("*"):
        if path.is_file():
            assert str(mini_store.parent).encode() not in path.read_bytes(), path


def test_what_programs_and_people_must_know_stands_there(exported, finished):
    about = json.loads((exported / export.ABOUT).read_text())
    assert [one["name"] for one in about["classes"]] == list(load_model(exported).head.classes)
    assert about["classes"][0] == {"name": "NORM", "title": "normal ECG", "threshold": None}
    assert (about["window_samples"], about["stride_samples"], about["fs_hz"]) == (100, 500, 100.0)
    card = (exported / export.CARD).read_text()
    for part in ("not a medical device", "normal ECG", "Untrained network", "What was not tested", "CC-BY-4.0"):
        assert part in card
    results = json.loads((exported / "report.json").read_text())["results"]
    assert [result["pretraining"] for result in results] == ["cpc", "random"]
    ours = json.loads((finished / "report.json").read_text())["results"][0]
    assert results[0]["metrics"] == ours["metrics"]


def test_a_network_with_its_head_is_exported_whole(finished, tmp_path, mini_store):
    export_run(finished, tmp_path / "out", name="tuned")
    (there,) = evaluate_store(tmp_path / "out", str(mini_store)).results
    (here,) = evaluate_store(finished, str(mini_store), names=["tuned"]).results
    assert plain(there.as_json()) == plain(here.as_json())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (None, "6 trained heads.*--name age or looks or near or one or q or tuned"),
        ("qq", "no such trained head"),
        ("random", "no such"),
    ],
)
def test_the_head_must_be_told_apart(finished, tmp_path, name, said):
    with pytest.raises(CheckpointError, match=said):
        export_run(finished, tmp_path / "out", name=name)
    assert left_beside(tmp_path / "out") == []


def test_of_a_run_with_one_seed_in_its_list_that_one_is_exported(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run" / "seeds" / "3")
    assert export_run(tmp_path / "run", tmp_path / "out", name="q").head.name == "q"
    assert (tmp_path / "out" / "export").is_dir()
    assert not (tmp_path / "out" / "seeds").exists()


def test_of_several_seeds_without_a_report_none_is_exported(finished, tmp_path):
    for seed in ("3", "4"):
        shutil.copytree(finished, tmp_path / "run" / "seeds" / seed)
    with pytest.raises(CheckpointError, match="unfinished: it has no report"):
        export_run(tmp_path / "run", tmp_path / "out", name="q")


@pytest.mark.parametrize("lost", ["question.json", "result.json", "report.json", "export", "seen.parquet"])
def test_an_unfinished_run_is_refused(finished, tmp_path, lost):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    folder = run / "downstream" / "q" / "cpc"
    path = folder / lost if (folder / lost).exists() else run / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(CheckpointError) as caught:
        export_run(run, tmp_path / "out", name="q")
    assert "\n" not in str(caught.value)
    assert left_beside(tmp_path / "out") == ["run"]


def test_what_stands_there_is_left_alone(finished, exported, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="stands there already"):
        export_run(finished, tmp_path / "out", name="q")
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(CheckpointError, match="an export already"):
        export_run(exported, tmp_path / "again")


def test_nothing_is_left_of_an_export_that_failed(finished, tmp_path):
    def full(folder):
        raise OSError(28, "No space left on device")

    model = load_model(finished, "q")
    result = read_report(finished).results[0]
    with pytest.raises(ConfigError, match="No space left"):
        export.write_export(model, result, [result], tmp_path / "out", full)
    assert left_beside(tmp_path / "out") == []


def test_one_head_that_can_not_be_judged_is_told_with_the_way_out():
    with (
        pytest.raises(ProtocolError, match="the head age, one of 3, can't be judged here: no age.*--name q --name sex"),
        told_which("age", ["age", "q", "sex"]),
    ):
        raise ProtocolError("no age")
    with pytest.raises(ProtocolError, match="^no age$"), told_which("age", ["age"]):
        raise ProtocolError("no age")
