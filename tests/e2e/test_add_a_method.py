"""The page on adding a method is true: its file and its recipe, and nothing else, make a method that runs."""

from __future__ import annotations

import filecmp
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "add-a-method.md"
#: Three steps of what the page's recipe says, with a checkpoint after each.
BRIEF = ("pretrain.steps=3", "pretrain.batch_size=8", "pretrain.log_every_steps=1")
BRIEF += ("pretrain.validate_every_steps=3", "pretrain.checkpoint_every_steps=1")
WEIGHTS = Path("export") / "model.safetensors"


class House(NamedTuple):
    """``root``: a copy of the package with one file more, and the recipe beside it."""

    root: Path
    store: Path

    def ecgtrain(self, *arguments):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(self.root), str(ROOT)])}
        command = [sys.executable, "-m", "ecgtrain", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=self.root, env=environment)

    def run(self, out, *settings, resume=False):
        sets = [part for one in (f"data.store={self.store}", *settings) for part in ("--set", one)]
        return self.ecgtrain("run", "backwards.yaml", *sets, "--out", out, *(["--resume"] if resume else []))


def block(language):
    """The page's only block in ``language``."""
    (found,) = re.findall(rf"^```{language}\b[^\n]*\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    return found


def metrics(run_dir, split):
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["split"] == split]


@pytest.fixture(scope="module")
def house(tmp_path_factory, mini_store):
    root = tmp_path_factory.mktemp("house")
    shutil.copytree(ROOT / "ecgtrain", root / "ecgtrain", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "ecgtrain" / "methods" / "backwards.py").write_text(block("python"), encoding="utf-8")
    (root / "backwards.yaml").write_text(block("yaml"), encoding="utf-8")
    return House(root, mini_store)


@pytest.fixture(scope="module")
def finished(house):
    """The directory of a run of three steps."""
    done = house.run("run", *BRIEF)
    assert done.returncode == 0, done.stderr
    return house.root / "run"


def test_the_page_names_the_file_it_shows():
    assert not (ROOT / "ecgtrain" / "methods" / "backwards.py").exists(), "the page must add what isn't there"
    assert "`ecgtrain/methods/backwards.py`" in PAGE.read_text()
    assert "`backwards.yaml`" in PAGE.read_text()


def test_no_other_file_is_touched(house):
    def changed(found, folder=""):
        names = (*found.left_only, *found.right_only, *found.diff_files, *found.funny_files)
        deeper = (name for sub, its in found.subdirs.items() for name in changed(its, f"{folder}{sub}/"))
        return sorted([*(folder + name for name in names), *deeper])

    assert changed(filecmp.dircmp(ROOT / "ecgtrain", house.root / "ecgtrain")) == ["methods/backwards.py"]


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
