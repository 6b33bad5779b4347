from __future__ import annotations

import json
import time

import pytest
import torch
from torch import nn

from ecgstore import parse
from ecgtrain import bench, pretrain
from ecgtrain.config import RunConfig
from ecgtrain.feed import Feed


def recipe(store, **pretraining):
    content = {
        "method": {"name": "cpc", "steps_ahead": 3, "n_negatives": 8},
        "backbone": {"name": "cpc_lstm", "encoder": {"width": 6}, "lstm_width": 5, "lstm_layers": 2},
        "folds": [1, 2, 3, 4, 5, 6],
        "window_samples": 100,
        "batch_size": 8,
        "epochs": 7,
        **pretraining,
    }
    return parse(RunConfig, {"name": "tiny", "data": {"store": str(store)}, "pretrain": content})


@pytest.fixture(scope="module")
def result(mini_store):
    said = []
    found = bench.bench(recipe(mini_store), seconds=0.15, say=said.append)
    assert said[0].startswith("feed: resident")
    return found


def test_every_part_is_measured_against_what_the_machine_can_do(result):
    json.dumps(result)
    for part in ("feed", "views", "step", "loop"):
        assert result[part]["windows_per_s"] > 0
    assert result["batch"] == [8, 12, 100]
    assert 0 < result["feed"]["of_copy"] < 5
    assert 0 < result["step"]["of_ceiling"] < 1
    assert 0 < result["loop"]["of_step"] < 3
    assert 0 <= result["loop"]["waiting"] <= 1
    assert result["peak_memory_bytes"] > 1e8
    assert result["whole_recipe"]["epochs"] == 7
    assert result["whole_recipe"]["steps"] == 7 * (result["whole_recipe"]["steps"] // 7)
    assert result["machine"]["device"] == "cpu"


def test_the_table_names_them_all(result):
    text = " ".join(cell for row in bench.table(result) for cell in row)
    for word in ("feed alone (resident)", "views alone", "step alone", "GFLOP", "the loop", "waiting", "7.0 epochs"):
        assert word in text


def test_nothing_is_left_behind(mini_store, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.chdir(tmp_path)
    bench.bench(recipe(mini_store), seconds=0.01)
    assert list(tmp_path.iterdir()) == []


def test_floating_point_operations_are_those_counted_by_hand(mini_store):
    config = recipe(mini_store)
    made = pretrain.prepare(config, "cpu")
    feed = pretrain.open_windows(config, made.parts, made.passport, "cpu")
    step = bench._Step(config, made, feed.batch(next(bench._plans(feed, config))), torch.device("cpu"))
    tokens, b = 100, 8
    # Forward once; backward by inputs and by weights. The first layer's inputs need no gradient.
    encoder = 2 * b * tokens * (12 * 6 * 2 + 3 * 6 * 6 * 3)
    lstm = 3 * 8 * 5 * ((6 + 5) + (5 + 5)) * b * tokens
    projection = 3 * 2 * b * (tokens - 3) * 5 * 6
    scores = 3 * 2 * b * (tokens - 3) * tokens * 6
    assert step.flop() == encoder + lstm + projection + scores


def test_lstm_formula():
    """2 multiplications and additions per weight, forward; twice that backward: 6 in all."""
    lstm = nn.LSTM(7, 5, 3, batch_first=True, bias=False)
    n_weights = sum(parameter.numel() for parameter in lstm.parameters())
    assert bench._lstm_flop(lstm, torch.zeros(2, 11, 7)) == 6 * n_weights * 2 * 11


def test_waiting_is_seen_where_it_is(mini_store, monkeypatch):
    config = recipe(mini_store, steps=4, epochs=None)
    plain = Feed.batch

    def slowly(feed, plan):
        time.sleep(0.1)
        return plain(feed, plan)

    monkeypatch.setattr(Feed, "batch", slowly)
    assert bench._loop(config, 4, torch.device("cpu"))["waiting"] > 0.5
    monkeypatch.setattr(Feed, "batch", plain)
    forward = nn.LSTM.forward

    def heavy(lstm, x):
        time.sleep(0.1)
        return forward(lstm, x)

    monkeypatch.setattr(nn.LSTM, "forward", heavy)
    assert bench._loop(config, 4, torch.device("cpu"))["waiting"] < 0.2
