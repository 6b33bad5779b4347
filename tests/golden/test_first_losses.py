"""The first loss of every small recipe on the bundled records: what a change of code must leave as it is.

Views, weights and losses are the same on any machine but for rounding, so one step's loss is compared closely. Later
ones are not: rounding grows with every step, on each processor in its own way.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ecgtrain import config
from ecgtrain.data.plan import batch_plan
from ecgtrain.recipes import shipped
from ecgtrain.training.prepare import open_windows, prepare

GOLDEN = json.loads((Path(__file__).parent / "first_losses.json").read_text(encoding="utf-8"))


def first_loss(name, store):
    """Every part of the loss of step 0, on eight windows, by name; counts of hits aside, which rounding can turn."""
    run = config.load(name, [f"data.store={store}", "pretrain.batch_size=8", "pretrain.online_probe=null"])
    made = prepare(run, "cpu")
    feed = open_windows(run, made.parts, made.passport, "cpu")
    plan = batch_plan(feed.records, window_samples=feed.window_samples, seed=run.seed, step=0, batch_size=8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # dropout
        terms = made.objective.train()(made.make_views(feed.batch(plan), False))
    counted = ("accuracy", "retrieval")
    parts = {name: value for name, value in terms.parts.items() if not name.endswith(counted)}
    return {name: value.item() for name, value in {"loss": terms.total, **parts}.items()}


def test_every_small_recipe_has_a_golden_loss():
    assert set(GOLDEN) == {name for name in shipped() if name.startswith("small/")}


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_the_first_loss_is_what_it_was(name, mini_store):
    assert first_loss(name, mini_store) == pytest.approx(GOLDEN[name], rel=1e-4, abs=1e-6)
