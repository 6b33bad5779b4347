from __future__ import annotations

import json
import mmap
import os
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from quickly import quickly
from torch import nn

from ecgstore.inner import parse
from ecgtrain.config import RunConfig
from ecgtrain.data.feed import Feed
from ecgtrain.training import bench, log, loop
from ecgtrain.training.layout import METRICS
from ecgtrain.training.prepare import open_windows, prepare

CPU = torch.device("cpu")


def recipe(store, *, data=None, **pretraining):
    content = {
        "method": {"name": "cpc", "steps_ahead": 3, "n_negatives": 8},
        "backbone": {"name": "cpc_lstm", "encoder": {"width": 6}, "lstm_width": 5, "lstm_layers": 2},
        "folds": [1, 2, 3, 4, 5, 6],
        "window_samples": 100,
        "batch_size": 8,
        "epochs": 7,
        **pretraining,
    }
    return parse(RunConfig, {"name": "tiny", "data": {"store": str(store), **(data or {})}, "pretrain": content})


def prepared(config):
    made = prepare(config, CPU)
    return made, open_windows(config, made.parts, made.passport, CPU)


def step_of(config):
    made, feed = prepared(config)
    plans = bench._plans(feed, config)
    parts = [feed.batch(next(plans)) for _ in range(config.pretrain.accumulate)]
    return bench._Step(config, made, parts, feed.n_records, CPU)


@pytest.fixture(scope="module")
def result(mini_store):
    said = []
    found = bench.bench(recipe(mini_store), seconds=0.15, say=said.append)
    assert said[0].startswith("feed: resident")
    return found


def leaves(content, path=()):
    for key, value in content.items():
        yield from leaves(value, (*path, key)) if isinstance(value, dict) else [(".".join((*path, key)), value)]


def test_every_part_is_measured_against_what_the_machine_can_do(result):
    json.dumps(result, allow_nan=False)
    for part in ("feed", "views", "step", "loop"):
        assert result[part]["windows_per_s"] > 0
        assert result[part]["spread"] >= 0
    assert result["batch"] == [8, 12, 100]
    assert 0 < result["feed"]["of_copy"] < 5
    assert result["feed"]["copy"] == "by one thread"
    assert 0 < result["step"]["of_ceiling"] < 1
    assert "product of two float32 matrices" in result["step"]["ceiling"]
    assert 0 < result["loop"]["of_step"] < 3
    assert 0 <= result["loop"]["waiting"] <= 1
    assert result["peak_memory_bytes"] > 1e8
    assert result["machine"]["device"] == "cpu"


def test_figures_agree_with_each_other(result):
    feed, step, whole = (result[name] for name in ("feed", "step", "whole_recipe"))
    assert feed["bytes_per_s"] == pytest.approx(feed["windows_per_s"] * 12 * 100 * 2)
    assert feed["of_copy"] == pytest.approx(feed["bytes_per_s"] / feed["copy_bytes_per_s"])
    assert step["windows_per_s"] == pytest.approx(8 * step["steps_per_s"])
    assert step["of_ceiling"] == pytest.approx(step["flop_per_step"] * step["steps_per_s"] / step["ceiling_flop_per_s"])
    per_epoch = whole["steps"] // 7
    assert (whole["epochs"], whole["steps"]) == (7, 7 * per_epoch)
    assert whole["seconds_per_epoch"] == pytest.approx(8 * per_epoch / result["loop"]["windows_per_s"])
    assert whole["hours"] == pytest.approx(7 * whole["seconds_per_epoch"] / 3600)


def test_all_keys_are_there(result):
    names = {name for name, _ in leaves(result) if not name.startswith("machine.")}
    assert names == {
        *("recipe", "batch", "accumulate", "precision", "compile", "parameters", "turns", "peak_memory_bytes"),
        *(f"feed.{name}" for name in ("way", "windows_per_s", "bytes_per_s", "of_copy", "spread")),
        *("feed.copy", "feed.copy_bytes_per_s", "views.windows_per_s", "views.spread"),
        *(f"step.{name}" for name in ("windows_per_s", "steps_per_s", "flop_per_step", "flop_per_s", "spread")),
        *(f"step.{name}" for name in ("flop_by_formula", "flop_not_counted", "processor_s")),
        *(f"step.{name}" for name in ("ceiling", "ceiling_flop_per_s", "of_ceiling")),
        *(f"loop.{name}" for name in ("windows_per_s", "waiting", "of_step", "steps_per_turn", "spread")),
        *(f"whole_recipe.{name}" for name in ("steps", "epochs", "seconds_per_epoch", "hours")),
    }


def test_the_table_names_them_all(result):
    text = " ".join(cell for row in bench.table(result) for cell in row)
    for word in ("feed alone (resident)", "views alone", "step alone", "GFLOP", "the loop", "waiting", "7.0 epochs"):
        assert word in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.5, "0.5 s"), (150, "2.5 minutes"), (9000, "2.5 hours"), (2e5, "2.3 days")]
)
def test_durations_are_told_in_units_that_suit(seconds, text):
    assert bench._duration(seconds) == text


@pytest.mark.parametrize(
    "how",
    quickly(
        [{"data": {"feed": "stream"}}, {"accumulate": 3}, {"precision": "bfloat16"}, {"precision": "float16"}],
        {"data": {"feed": "stream"}},
    ),
    ids=["stream", "accumulate", "bfloat16", "float16"],
)
def test_a_recipe_is_measured_as_it_is(mini_store, how):
    found = bench.bench(recipe(mini_store, **how), seconds=0.01)
    assert found["batch"] == [8, 12, 100]
    assert all(value > 0 for name, value in leaves(found) if name.endswith("windows_per_s"))


def test_nothing_is_left_behind(mini_store, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.chdir(tmp_path)
    bench.bench(recipe(mini_store), seconds=0.01)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("n_parts", [1, 3])
def test_floating_point_operations_are_those_counted_by_hand(mini_store, n_parts):
    tokens, b = 100, 8
    # Forward once; backward by inputs and by weights. The first layer's inputs need no gradient.
    encoder = 2 * b * tokens * (12 * 6 * 2 + 3 * 6 * 6 * 3)
    lstm = 3 * 8 * 5 * ((6 + 5) + (5 + 5)) * b * tokens
    projection = 3 * 2 * b * (tokens - 3) * 5 * 6
    scores = 3 * 2 * b * (tokens - 3) * tokens * 6
    assert step_of(recipe(mini_store, accumulate=n_parts)).flop().total == encoder + lstm + projection + scores


@pytest.mark.parametrize(("kind", "learns"), [(nn.LSTM, True), (nn.LSTM, False), (nn.GRU, False)])
def test_recurrent_layers_are_counted_however_torch_runs_them(kind, learns):
    """2 operations per weight and token forward, 4 backward; torch itself sees the products of a GRU."""
    gates = {nn.LSTM: 4, nn.GRU: 3}[kind]
    rnn, x = kind(7, 5, 3, batch_first=True, bidirectional=True), torch.zeros(2, 11, 7, requires_grad=True)

    def run():
        with torch.set_grad_enabled(learns):
            out = rnn(x)[0]
        if learns:
            out.sum().backward()

    weights = gates * 5 * 2 * ((7 + 5) + 2 * (2 * 5 + 5))
    assert bench.count_flop(run, rnn, CPU).total == (6 if learns else 2) * weights * 2 * 11


def test_attention_is_counted():
    """Two products forward, four backward, each of tokens x tokens x features, twice an addition."""
    heads = [torch.randn(2, 3, 16, 8, requires_grad=True) for _ in range(3)]
    counted = bench.count_flop(lambda: F.scaled_dot_product_attention(*heads).sum().backward(), nn.Identity(), CPU)
    assert counted == (6 * 2 * 2 * 3 * 16 * 16 * 8, 0)


def test_a_step_does_what_the_loop_does_around_it(mini_store, monkeypatch):
    from ecgtrain.methods.cpc import Cpc

    called = []
    monkeypatch.setattr(Cpc, "before_step", lambda self, moment: called.append(("before", moment)))
    monkeypatch.setattr(Cpc, "after_step", lambda self, moment: called.append(("after", moment)))
    step_of(recipe(mini_store))(2)
    assert [name for name, _ in called] == ["before", "after"] * 2
    assert called[0][1].n_steps == 7 * called[0][1].steps_per_epoch


def test_waiting_is_seen_where_it_is(mini_store, monkeypatch):
    """By a clock that goes on only where the test lets time pass: real ones go as fast as the machine is busy."""
    config = recipe(mini_store)
    made, feed = prepared(config)
    now_s, forward = [0.0], nn.LSTM.forward
    monkeypatch.setattr(log, "time", SimpleNamespace(perf_counter=lambda: now_s[0]))

    def batches(its, plans, passing_s=0.0):
        for plan in plans:
            now_s[0] += passing_s
            yield its.batch(plan)

    monkeypatch.setattr(Feed, "batches", partial(batches, feed, passing_s=0.1))
    slow_feed = bench._loop(config, made, feed, each=2, measured=2)
    assert slow_feed.waiting == pytest.approx(1)
    assert slow_feed.windows_per_s == pytest.approx(8 / 0.1)

    def heavy(lstm, x):
        now_s[0] += 0.1
        return forward(lstm, x)

    monkeypatch.setattr(Feed, "batches", partial(batches, feed))
    monkeypatch.setattr(nn.LSTM, "forward", heavy)
    slow_step = bench._loop(config, made, feed, each=2, measured=2)
    assert slow_step.waiting == 0
    assert slow_step.windows_per_s == pytest.approx(8 / 0.1)


def test_the_loops_first_steps_dont_count(mini_store, monkeypatch):
    """Its figures are those of the lines after the first, weighted by the time that each stands for."""
    config = recipe(mini_store)
    made, feed = prepared(config)
    lines = [(1.0, 0.9), (100.0, 0.5), (400.0, 0.0)]

    def train(objective, feed, make_views, training, *, run_dir, **_):
        assert (training.steps, training.log_every_steps) == (6, 2)
        told = [{"step": 0, "split": "chance"}]
        for number, (rate, waiting) in enumerate(lines, start=1):
            told.append({"step": 2 * number, "split": "train", "windows_per_s": rate, "waiting": waiting})
        (run_dir / METRICS).write_text("".join(json.dumps(one) + "\n" for one in told))

    monkeypatch.setattr(loop, "train", train)
    found = bench._loop(config, made, feed, each=2, measured=2)
    assert found.windows_per_s == pytest.approx(32 / (16 / 100 + 16 / 400))
    assert found.waiting == pytest.approx(0.5 * 16 / 100 / (16 / 100 + 16 / 400))


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the system doesn't forget a peak")
def test_a_peak_is_forgotten_before_the_next_is_looked_for():
    bench._forget_peak(CPU)
    before = bench._peak_memory(CPU)
    with mmap.mmap(-1, 300_000_000) as big:
        big.write(bytes(1) * 300_000_000)
    high = bench._peak_memory(CPU)
    assert high - before > 250e6
    bench._forget_peak(CPU)
    assert high - bench._peak_memory(CPU) > 250e6
