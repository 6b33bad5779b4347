from __future__ import annotations

import json
import logging
import os
from typing import ClassVar

import pytest

from ecgstore import ConfigError
from ecgstore.inner import parse
from ecgtrain.config import Training
from ecgtrain.training import trackers
from ecgtrain.training.files import refuse_strange_files
from ecgtrain.training.log import Metrics
from ecgtrain.training.trackers import Tracked

pytestmark = pytest.mark.filterwarnings("default")  # what these packages warn of is none of ours

SETTINGS = {"seed": 1, "pretrain.batch_size": 64, "pretrain.method": {"name": "cpc", "steps_ahead": 3}}


class Interrupted(Exception):
    pass


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """As on a machine where nobody has set anything; and what is set on the way is taken back."""
    for name in list(os.environ):
        if name.startswith(("MLFLOW_", "WANDB_")):
            monkeypatch.delenv(name)
    for name in ("MLFLOW_ALLOW_FILE_STORE", "MLFLOW_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))


def written(run_dir, names, steps, *, first_step=0, is_killed=False):
    run_dir.mkdir(exist_ok=True)
    try:
        with Metrics(Tracked(run_dir, "own", SETTINGS, first_step), names) as metrics:
            for step in steps:
                metrics.write(step, "train", {"loss": 1 / step, "windows_per_s": 100.0})
                metrics.write(step, "validation", {"loss": 2 / step})
            if is_killed:
                raise Interrupted
    except Interrupted:
        pass


def mlflow_run(run_dir):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=(run_dir / "mlflow").absolute().as_uri())
    (found,) = client.search_runs([client.get_experiment_by_name("ecgtrain").experiment_id])
    return client, found


def test_mlflow_is_told_all_in_files_of_the_run(tmp_path):
    pytest.importorskip("mlflow")
    written(tmp_path / "run", ["mlflow"], [1, 2, 3])
    client, run = mlflow_run(tmp_path / "run")
    assert (run.info.run_name, run.info.status) == ("own", "FINISHED")
    assert run.data.params["pretrain.batch_size"] == "64"
    for name, factor in (("train/loss", 1), ("validation/loss", 2)):
        told = client.get_metric_history(run.info.run_id, name)
        assert [(one.step, one.value) for one in told] == [(step, factor / step) for step in (1, 2, 3)]


def test_a_resumed_run_is_the_same_run_of_mlflow_with_each_step_once(tmp_path):
    pytest.importorskip("mlflow")
    run_dir = tmp_path / "run"
    written(run_dir, ["mlflow"], [1, 2, 3], is_killed=True)
    assert mlflow_run(run_dir)[1].info.status == "KILLED"
    written(run_dir, ["mlflow"], [3, 4], first_step=2)
    client, run = mlflow_run(run_dir)
    assert run.info.status == "FINISHED"
    assert [one.step for one in client.get_metric_history(run.info.run_id, "train/loss")] == [1, 2, 3, 4]


def test_mlflow_goes_where_its_own_variable_says(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    written(tmp_path / "run", ["mlflow"], [1], is_killed=True)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "elsewhere").as_uri())
    written(tmp_path / "run", ["mlflow"], [1, 2])
    assert list((tmp_path / "elsewhere").rglob("params/seed"))
    assert mlflow_run(tmp_path / "run")[1].info.status == "KILLED"


@pytest.mark.slow
def test_wandb_is_told_all_in_files_of_the_run_and_a_resumed_one_has_the_same_id(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    run_dir = tmp_path / "run"
    try:
        written(run_dir, ["wandb"], [1, 2, 3], is_killed=True)
        kept = json.loads((run_dir / "trackers.json").read_text())["wandb"]["id"]
        written(run_dir, ["wandb"], [3, 4], first_step=2)
    finally:
        wandb.teardown()
    files = sorted((run_dir / "wandb").glob("offline-run-*/*.wandb"))
    assert [path.name for path in files] == [f"run-{kept}.wandb"] * len(files)
    assert files
    for name in (b"train/loss", b"validation/loss", b"windows_per_s", b"steps_ahead"):
        assert name in files[0].read_bytes()
    # A run from elsewhere is searched for links, and what names this machine has no place in it.
    refuse_strange_files(run_dir)
    assert not list(run_dir.rglob("wandb-metadata.json"))
    assert not list(run_dir.rglob("requirements.txt"))


def test_what_a_run_from_elsewhere_calls_itself_is_no_path(tmp_path):
    pytest.importorskip("mlflow")
    for number, content in enumerate(['{"mlflow": {"place": "", "id": "../../../etc"}}', "[1]", '{"mlflow": 3}', "{"]):
        run_dir = tmp_path / str(number)
        run_dir.mkdir()
        (run_dir / "trackers.json").write_text(content)
        written(run_dir, ["mlflow"], [1])
        assert mlflow_run(run_dir)[1].info.status == "FINISHED"


@pytest.mark.parametrize("when", ["opened", "written to", "closed"])
def test_a_tracker_that_fails_is_said_once_and_left_out(tmp_path, monkeypatch, caplog, when):
    class Failing:
        def __init__(self, run):
            self.happens("opened")

        def write(self, step, split, values):
            self.happens("written to")

        def close(self, is_whole):
            self.happens("closed")

        def happens(self, now):
            if now == when:
                raise RuntimeError(f"no place left\nwhile it was {now}")

    class Listening(Failing):
        heard: ClassVar[list[str]] = []

        def happens(self, now):
            self.heard.append(now)

    monkeypatch.setitem(trackers._KINDS, "mlflow", Failing)
    monkeypatch.setitem(trackers._KINDS, "wandb", Listening)
    written(tmp_path / "run", ["mlflow", "wandb"], [1, 2])
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 4
    (said,) = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    assert said.startswith("MLflow ")
    assert said.endswith(f": no place left while it was {when}")
    assert Listening.heard == ["opened", *["written to"] * 4, "closed"]


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_one_that_is_not_installed_says_the_command_that_installs_it(tmp_path, monkeypatch, caplog, name):
    def absent(run):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setitem(trackers._KINDS, name, absent)
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    written(tmp_path / "run", [name], [1, 2])
    (said,) = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    assert said.endswith(f'is not installed and is left out: pip install "ecgstore[{name}]"')


def test_only_known_trackers_can_be_named():
    settings = {"batch_size": 8, "steps": 1}
    assert parse(Training, settings).trackers == ("tensorboard",)
    assert parse(Training, settings | {"trackers": []}).trackers == ()
    with pytest.raises(ConfigError, match="trackers"):
        parse(Training, settings | {"trackers": ["aim"]})
