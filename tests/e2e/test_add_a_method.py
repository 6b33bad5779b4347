"""The page on adding a method is true: its file and its recipe, and nothing else, make a method that runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from copied_house import ROOT, block, copied

PAGE = ROOT / "docs" / "how-to" / "add-a-method.md"
#: Three steps of what the page's recipe says, with a checkpoint after each.
BRIEF = ("pretrain.steps=3", "pretrain.batch_size=8", "pretrain.log_every_steps=1")
BRIEF += ("pretrain.validate_every_steps=3", "pretrain.checkpoint_every_steps=1")
#: Long enough to learn.
LONGER = ("pretrain.steps=80", "pretrain.batch_size=16", "pretrain.log_every_steps=20", "downstream=[]")
WEIGHTS = Path("export") / "model.safetensors"


def metrics(run_dir, split):
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["split"] == split]


def run(store, out, *settings):
    sets = [word for one in (f"data.store={store}", *settings) for word in ("--set", one)]
    return ["run", "backwards.yaml", *sets, "--out", out]


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    more = {"ecgtrain/methods/backwards.py": block(PAGE, "python"), "backwards.yaml": block(PAGE, "yaml")}
    return copied(tmp_path_factory.mktemp("house"), more)


@pytest.fixture(scope="module")
def answers(house, mini_store):
    """What is said to the page's commands, by what they are to show."""
    commands = {
        "listed": ["methods", "--json"],
        "finished": run(mini_store, "run", *BRIEF),
        "misspelt": run(mini_store, "refused", *BRIEF, "pretrain.method.augmentation=[]"),
        "short": run(mini_store, "refused", *BRIEF, "pretrain.window_samples=199"),
    }
    return dict(zip(commands, house.ecgtrain(*commands.values()), strict=True))


@pytest.fixture(scope="module")
def finished(house, answers):
    """The directory of a run of three steps."""
    assert answers["finished"].status == 0, answers["finished"].error
    return house.root / "run"


def test_the_page_names_the_file_it_shows():
    assert not (ROOT / "ecgtrain" / "methods" / "backwards.py").exists(), "the page must add what isn't there"
    assert "`ecgtrain/methods/backwards.py`" in PAGE.read_text()
    assert "`backwards.yaml`" in PAGE.read_text()


def test_no_other_file_is_touched(house):
    assert house.files_changed() == ["methods/backwards.py"]


def test_it_is_listed_by_being_there(answers):
    assert answers["listed"].status == 0
    assert json.loads(answers["listed"].out)["methods"]["backwards"] == "tell whether a window runs backwards"


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


@pytest.mark.slow
def test_it_is_resumed_to_the_same_weights(house, finished, mini_store):
    """As if it had been killed in its third step."""
    torn = shutil.copytree(finished, house.root / "torn")
    for gone in ("export", "downstream", "checkpoints/step-00000003"):
        shutil.rmtree(torn / gone)
    for gone in ("report.html", "report.json"):
        (torn / gone).unlink()
    (kept,) = (torn / "checkpoints").glob("step-*")
    written_ns = (kept / "model.safetensors").stat().st_mtime_ns
    (done,) = house.ecgtrain([*run(mini_store, "torn", *BRIEF), "--resume"])
    assert done.status == 0, done.error
    assert (kept / "model.safetensors").stat().st_mtime_ns == written_ns, "it began again instead of going on"
    assert (torn / WEIGHTS).read_bytes() == (finished / WEIGHTS).read_bytes()
    assert [line["nats"] for line in metrics(torn, "train")] == [line["nats"] for line in metrics(finished, "train")]
    assert (torn / "report.html").exists()


@pytest.mark.slow
@pytest.mark.learning
def test_it_learns_what_the_page_says_it_learns(house, mini_store):
    """No proof of a method, but an answer that doesn't belong to its window would stay at chance."""
    (done,) = house.ecgtrain(run(mini_store, "longer", *LONGER, "pretrain.validation_folds=[]"))
    assert done.status == 0, done.error
    losses = [line["nats"] for line in metrics(house.root / "longer", "train")]
    assert losses[-1] < 0.4 < losses[0]
    assert metrics(house.root / "longer", "train")[-1]["accuracy"] > 0.8


@pytest.mark.parametrize(
    ("asked", "parts"),
    [
        ("misspelt", ["unknown setting", "did you mean augmentations"]),
        ("short", ["no whole heartbeat", "at least 2 s, which are 200 samples, got 199"]),
    ],
)
def test_its_settings_are_checked_as_those_of_any_method(house, answers, asked, parts):
    assert answers[asked].status == 1
    for part in parts:
        assert part in answers[asked].error.splitlines()[-1]
    assert not (house.root / "refused").exists()
