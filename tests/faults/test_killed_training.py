"""SIGKILL to a training process, again and again: it goes on to the very weights of a run that nobody killed."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from processes import DIES_AT_A_NAME, Started

from ecgstore.inner import parse
from ecgtrain import config
from ecgtrain.config import RunConfig
from ecgtrain.run import learn
from ecgtrain.training import checkpoint

ROOT = Path(__file__).parents[2]
TRAIN = f"""{DIES_AT_A_NAME}
from ecgtrain import config
from ecgtrain.run import learn
learn(config.load(sys.argv[1]), sys.argv[2], resume=True)
"""


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
                "checkpoint_every_steps": 1,
            },
        },
    )
    path.write_text(config.dump(made))
    return path


@pytest.mark.slow
def test_a_training_killed_again_and_again_ends_with_the_same_weights(mini_store, tmp_path):
    recipe_path = recipe(mini_store, tmp_path / "recipe.yaml")
    learn(config.load(recipe_path), tmp_path / "whole")
    # A checkpoint at every step: each time one is whole, and has not got its name yet.
    for n, last in ((7, "step-00000006"), (35, "step-00000040")):
        ended = Started(TRAIN, recipe_path, tmp_path / "killed", "*/checkpoints/step-*", n).wait()
        assert ended.status == -signal.SIGKILL, ended.errors
        assert max((tmp_path / "killed" / "checkpoints").glob("step-*[0-9]")).name == last
    learn(config.load(recipe_path), tmp_path / "killed", resume=True)
    one, other = (checkpoint.load_weights(tmp_path / name / "export") for name in ("whole", "killed"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    steps = [path.name for path in sorted((tmp_path / "killed" / "checkpoints").iterdir())]
    assert steps == ["step-00000059", "step-00000060"]
