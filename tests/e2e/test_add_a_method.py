"""The page on adding a method is true: its file and its recipe, and nothing else, make a method that runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from guides import build, guide, the_page_names_what_it_shows, touched

GUIDE = guide("add-a-method.md", "methods/backwards.py", "backwards.yaml")
#: Three steps of what the page's recipe says, with a checkpoint after each.
BRIEF = ("pretrain.steps=3", "pretrain.batch_size=8", "pretrain.log_every_steps=1")
BRIEF += ("pretrain.validate_every_steps=3", "pretrain.checkpoint_every_steps=1")
WEIGHTS = Path("export") / "model.safetensors"


def metrics(run_dir, split):
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["split"] == split]


@pytest.fixture(scope="module")
def house(tmp_path_factory, mini_store):
    return build(tmp_path_factory.mktemp("house"), GUIDE, mini_store)


@pytest.fixture(scope="module")
def finished(house):
    """The directory of a run of three steps."""
    done = house.run("run", *BRIEF)
    assert done.returncode == 0, done.stderr
    return house.root / "run"


def test_the_page_names_the_file_it_shows():
    the_page_names_what_it_shows(GUIDE)


def test_no_other_file_is_touched(house):
    assert touched(house) == ["methods/backwards.py"]


def test_it_is_listed_by_being_there(house):
    done = house.ecgtrain("methods", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["methods"]["backwards"] == "tell whether a window runs backwards"


def test_it_runs_to_a_report(finished):
    assert [line["step"] for line in metrics(finished, "train")] == [1, 2, 3]
    assert set(metrics(finished, "train")[-1]) >= {"loss", "nats", "accuracy", "feature_std", "effective_rank"}
    (validation,) = metrics(finished, "validation")
    assert validation["loss"] == validation["nats"]
    (chance,) = metrics(finished, "chance")
    assert (round(chance["nats"], 4), chance["accuracy"]) == (0.6931, 0.5)
    results = json.loads((finished / "report.json").read_text())["results"]
    assert [result["pretraining"] for result in results] == ["backwards", "random"]
    assert "backwards" in (finished / "report.html").read_text()


def test_it_is_resumed_to_the_same_weights(house, finished):
    """As if it had been killed in its third step."""
    torn = shutil.copytree(finished, house.root / "torn")
    for gone in ("export", "downstream", "checkpoints/step-00000003"):
        shutil.rmtree(torn / gone)
    for gone in ("report.html", "report.json"):
        (torn / gone).unlink()
    (kept,) = (torn / "checkpoints").glob("step-*")
    written_ns = (kept / "model.safetensors").stat().st_mtime_ns
    done = house.run("torn", *BRIEF, resume=True)
    assert done.returncode == 0, done.stderr
    assert (kept / "model.safetensors").stat().st_mtime_ns == written_ns, "it began again instead of going on"
    assert (torn / WEIGHTS).read_bytes() == (finished / WEIGHTS).read_bytes()
    assert [line["nats"] for line in metrics(torn, "train")] == [line["nats"] for line in metrics(finished, "train")]
    assert (torn / "report.html").exists()


def test_it_learns_what_the_page_says_it_learns(house):
    """No proof of a method, but an answer that doesn't belong to its window would stay at chance."""
    settings = ("pretrain.steps=80", "pretrain.batch_size=16", "pretrain.log_every_steps=20", "downstream=[]")
    done = house.run("longer", *settings, "pretrain.validation_folds=[]")
    assert done.returncode == 0, done.stderr
    losses = [line["nats"] for line in metrics(house.root / "longer", "train")]
    assert losses[-1] < 0.4 < losses[0]
    assert metrics(house.root / "longer", "train")[-1]["accuracy"] > 0.8


def test_its_settings_are_checked_as_those_of_any_method(house):
    def says(setting, *parts):
        done = house.run("refused", *BRIEF, setting)
        assert done.returncode == 1, done.stderr
        for part in parts:
            assert part in done.stderr.splitlines()[-1]

    says("pretrain.method.augmentation=[]", "unknown setting", "did you mean augmentations")
    says("pretrain.window_samples=199", "no whole heartbeat", "at least 2 s, which are 200 samples, got 199")
    assert not (house.root / "refused").exists()
