"""SIGKILL to a training process, again and again: it goes on to the very weights of a run that nobody killed."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import torch
from processes import Started

from ecgstore.inner import parse
from ecgtrain import config
from ecgtrain.config import RunConfig
from ecgtrain.run import learn
from ecgtrain.training import checkpoint

ROOT = Path(__file__).parents[2]
TRAIN = (
    "import sys; from ecgtrain import config; from ecgtrain.run import learn;"
    "learn(config.load(sys.argv[1]), sys.argv[2], resume=True)"
)


def recipe(store, path):
    made = parse(
        RunConfig,
        {
            "name": "killed",
            "data": {"store": str(store)},
            "pretrain": {
                "method": {"name": "cpc", "steps_ahead": 3, "n_negatives": 8},
                "backbone": {"name": "cpc_lstm", "encoder": {"width": 8}, "lstm_width": 8, "lstm_layers": 1},
                "folds": [1, 2, 3, 4, 5, 6],
                "window_samples": 200,
                "batch_size": 8,
                "steps": 60,
                # A checkpoint at every step: most kills hit one that is being written.
                "checkpoint_every_steps": 1,
            },
        },
    )
    path.write_text(config.dump(made))
    return path


def newest_step(run_dir):
    found = sorted((run_dir / "checkpoints").glob("step-*"))
    return int(found[-1].name.removeprefix("step-")) if found else 0


def test_a_training_killed_again_and_again_ends_with_the_same_weights(mini_store, tmp_path):
    recipe_path = recipe(mini_store, tmp_path / "recipe.yaml")
    learn(config.load(recipe_path), tmp_path / "whole")
    for stop_at in (7, 41):
        process = Started(TRAIN, recipe_path, tmp_path / "killed")
        while newest_step(tmp_path / "killed") < stop_at and process.poll() is None:
            time.sleep(0.003)
        assert process.poll() is None, "the run ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
    learn(config.load(recipe_path), tmp_path / "killed", resume=True)
    one, other = (checkpoint.load_weights(tmp_path / name / "export") for name in ("whole", "killed"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    steps = [path.name for path in sorted((tmp_path / "killed" / "checkpoints").iterdir())]
    assert steps == ["step-00000059", "step-00000060"]
