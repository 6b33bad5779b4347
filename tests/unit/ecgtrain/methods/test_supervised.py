from __future__ import annotations

import json
import math
from functools import partial

import pytest
import torch

from ecgstore import ConfigError, open_store
from ecgstore.inner import parse
from ecgtrain import tasks
from ecgtrain.backbones import build_backbone, vgg1d
from ecgtrain.config import RunConfig
from ecgtrain.methods import WindowBatch, supervised
from ecgtrain.run import learn
from ecgtrain.views.draw import Draw
from ecgtrain.views.normalise import Millivolts, normalise


def recipe(store, **others):
    content = {
        "method": {"name": "supervised", "task": "ptbxl/superdiagnostic"},
        "backbone": {"name": "vgg1d", "alpha": 0.1},
        "folds": [1, 2, 3, 4, 5, 6],
        "validation_folds": [7],
        "window_samples": 250,
        "batch_size": 8,
        "steps": 4,
        "optimiser": {"lr": 1e-3},
        **others,
    }
    return parse(RunConfig, {"name": "tiny", "data": {"store": str(store)}, "pretrain": content})


def objective(n_targets=3, seed=0):
    backbone = build_backbone(vgg1d.Settings(alpha=0.1), 2, seed)
    return supervised.build(supervised.Settings(task="ptbxl/all"), backbone, n_targets)


def test_the_loss_is_cross_entropy_of_each_class():
    made = objective().double().eval()
    x_blt, targets = torch.randn(5, 2, 64).double(), (torch.rand(5, 3) < 0.4).float()
    terms = made(supervised.Views(x_blt, targets))
    logits = made.head(made.backbone(x_blt).pooled_bd).detach().numpy()
    total = 0.0
    for logit, target in zip(logits.ravel(), targets.numpy().ravel(), strict=True):
        p = 1 / (1 + math.exp(-logit))
        total -= math.log(p if target else 1 - p) / 15
    assert terms.total.item() == pytest.approx(total, rel=1e-5)
    shares = targets.mean(dim=0).tolist()
    entropy = [-sum(p * math.log(p) for p in (share, 1 - share) if p > 0) for share in shares]
    assert terms.parts["prevalence_nats"].item() == pytest.approx(sum(entropy) / 3, rel=1e-5)


@pytest.mark.learning
def test_it_learns_what_it_is_told_and_not_what_is_shuffled(seed):
    generator = torch.Generator().manual_seed(seed)
    targets = (torch.rand(256, 3, generator=generator) < 0.5).float()
    time = torch.arange(64) / 64
    waves = torch.stack([torch.sin(2 * math.pi * f * time) for f in (2, 5, 11)])
    x_blt = (targets @ waves)[:, None].expand(-1, 2, -1) + 0.3 * torch.randn(256, 2, 64, generator=generator)

    def held_out_nats(targets):
        made = objective(seed=seed).train()
        optimiser = torch.optim.Adam(made.parameters(), lr=5e-3)
        for step in range(40):
            rows = torch.arange(32 * step, 32 * step + 32) % 192
            made(supervised.Views(x_blt[rows], targets[rows])).total.backward()
            optimiser.step()
            optimiser.zero_grad()
        with torch.no_grad():
            return made.eval()(supervised.Views(x_blt[192:], targets[192:])).total.item()

    assert held_out_nats(targets) < 0.35
    assert held_out_nats(targets[torch.randperm(256, generator=generator)]) > 0.6


def test_a_run_learns_from_records_with_statements_only(mini_store, tmp_path):
    learn(recipe(mini_store), tmp_path / "run")
    about = json.loads((tmp_path / "run" / "export" / "config.json").read_text())
    assert about["method"]["task"] == "ptbxl/superdiagnostic"
    import pyarrow.parquet as pq

    store = open_store(mini_store)
    targets = tasks.load("ptbxl/superdiagnostic").targets(store)
    seen = pq.ParquetFile(tmp_path / "run" / "seen.parquet").read(use_threads=False).to_pylist()
    expected = targets.labelled(store.select(folds=range(1, 8)))
    assert sorted(line["record_id"] for line in seen) == sorted(store.column("record_id")[expected])


def test_targets_are_those_of_the_records(mini_store, tmp_path, monkeypatch):
    store = open_store(mini_store)
    targets = tasks.load("ptbxl/superdiagnostic").targets(store).fittable(store.select(folds=range(1, 7)))
    seen = []
    plain = supervised.views

    def views(settings, batch):
        seen.append(batch.targets_bc)
        return plain(settings, batch)

    rows = []
    from ecgtrain.data.feed import Feed

    batch_of = Feed.batch
    monkeypatch.setattr(supervised, "views", views)
    monkeypatch.setattr(Feed, "batch", lambda feed, plan: rows.append(batch_of(feed, plan)) or rows[-1])
    learn(recipe(mini_store, validation_folds=[]), tmp_path / "run")
    for batch, of_batch in zip(rows, seen, strict=False):
        assert of_batch.numpy().astype(bool).tolist() == targets.y_nc[batch.rows_b].tolist()
    assert len(seen) == 4


def test_views_are_augmented():
    x = torch.randn(4, 2, 64)
    mv = Millivolts(x, torch.ones_like(x, dtype=torch.bool))
    targets = torch.zeros(4, 3)
    batch = WindowBatch(mv, torch.arange(4), 100.0, partial(normalise, mode="none"), Draw(0), targets_bc=targets)
    made = supervised.views(supervised.Settings(task="a"), batch)
    assert not torch.equal(made.x_blt, x)
    assert torch.equal(supervised.views(supervised.Settings(task="a", augmentations=()), batch).x_blt, x)
    assert made.targets_bc is targets


def test_what_cannot_be_learned_is_refused(mini_store, tmp_path):
    with pytest.raises(ConfigError, match="no record shows any class"):
        objective(0)
    wrong = recipe(mini_store, method={"name": "supervised", "task": "ptbxl/superdiagnostics"})
    with pytest.raises(ConfigError, match="did you mean ptbxl/superdiagnostic"):
        learn(wrong, tmp_path / "run")
    content = recipe(mini_store).model_dump(mode="json")
    content["data"]["stores"] = [{"path": str(mini_store)}]
    two = parse(RunConfig, content)
    with pytest.raises(ConfigError, match="a supervised method learns from one store"):
        learn(two, tmp_path / "run")
