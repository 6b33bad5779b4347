"""Two processes are one: the same batches, the same loss, the same weights; and none outlives the other for long."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import ranks, said_by_ranks
from torch import nn

from ecgstore import ConfigError
from ecgstore.inner import parse
from ecgtrain import config, distributed
from ecgtrain.config import RunConfig
from ecgtrain.errors import StoppedError
from ecgtrain.run import learn

ROOT = Path(__file__).parents[3]
SETTINGS = {
    "method": {"name": "cpc", "steps_ahead": 3, "n_negatives": 8},
    "backbone": {"name": "cpc_lstm", "encoder": {"width": 8}, "lstm_width": 8, "lstm_layers": 1},
    "folds": [1, 2, 3, 4, 5, 6],
    "validation_folds": [7, 8],
    "window_samples": 200,
    "batch_size": 8,
    "steps": 12,
    "optimiser": {"lr": 3e-3, "schedule": "cosine", "clip_norm": 30.0},
    "sync_batchnorm": True,
    "log_every_steps": 1,
    "validate_every_steps": 4,
    "checkpoint_every_steps": 4,
}


def recipe(store, path, **settings):
    content = {"name": "ranks", "data": {"store": str(store)}, "pretrain": {**SETTINGS, **settings}}
    path.write_text(config.dump(parse(RunConfig, content)))
    return path


# ── what a loss is made of ────────────────────────────────────────────────────────────────────────

#: A loss over the whole batch, of a network with BatchNorm over windows and over windows and time. In float64,
#: where it makes no difference worth mentioning in which order sums are taken.
PARTS = """
import sys, torch, json
from torch import nn
from ecgtrain import distributed

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.over_time = nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4)
        self.map, self.over_batch = nn.Linear(4, 3), nn.BatchNorm1d(3, momentum=None)
        nn.init.uniform_(self.over_time.weight); nn.init.uniform_(self.over_batch.bias)
        self.double()
    def forward(self, x):
        z = self.over_batch(self.map(self.over_time(self.conv(x)).relu().mean(2)))
        z = distributed.gather(nn.functional.normalize(z))
        return (z @ z.T).exp().tril(-1).sum()

def batch(step):
    x = torch.randn(6, 2, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
    return x * torch.arange(1, 7)[:, None, None]

def judge(rank, world, network, inner):
    optimiser = torch.optim.SGD(inner.parameters(), lr=0.05, momentum=0.5)
    for step in range(4):
        optimiser.zero_grad()
        slices = [(0, 6)] if world == 1 else [(0, 3), (3, 6)]
        begin, end = slices[rank]
        network(batch(step)[begin:end]).backward()
        optimiser.step()
    return {name: value.tolist() for name, value in inner.state_dict().items()}
"""
ON_RANKS = (
    PARTS
    + """
def work():
    net = distributed.synchronise_batchnorm(Net())
    network = distributed.replicate(net, unused_parameters=False)
    return judge(distributed.rank(), distributed.world(), network, net)
with distributed.ranks("cpu"):
    assert torch.get_num_threads() >= 1
    print(json.dumps(work()))
"""
)


@pytest.mark.slow
@pytest.mark.learning
def test_a_loss_over_the_gathered_batch_with_batchnorm_is_that_of_one_process():
    namespace: dict = {}
    exec(PARTS, namespace)
    net = namespace["Net"]()
    alone = namespace["judge"](0, 1, net, net)
    for text in said_by_ranks(2, ON_RANKS):
        there = json.loads(text)
        assert there.keys() == alone.keys()
        for name, value in alone.items():
            assert np.allclose(there[name], value, rtol=1e-7, atol=1e-9), name


#: The names of the threads that the process has, where they can be read.
SAY_THREADS = """
import json
from pathlib import Path
print(json.dumps([name.read_text().strip() for name in Path("/proc/self/task").glob("*/comm")]))
"""
THREADS_AFTER = (
    PARTS
    + """
def work():
    network = distributed.replicate(Net(), unused_parameters=False)
    network.itself = [network]
    network(batch(0)).backward()
    if sys.argv[1] == "fails":
        try:
            network(batch(1)).backward()
            1 / 0
        except ZeroDivisionError:
            raise KeyError("while that was seen to")
def main():
    with distributed.ranks("cpu"):
        work()
try:
    main()
except KeyError as error:
    kept = error
"""
    + SAY_THREADS
)


@pytest.mark.parametrize("ending", ["ends", "fails"])
def test_no_thread_of_the_group_outlives_the_ranks(ending):
    # One that drops a tensor while Python ends aborts the process, with status 134 after a run that was well.
    for threads in said_by_ranks(2, THREADS_AFTER, ending):
        assert "gloo" not in threads


def test_on_one_rank_nothing_happens():
    x = torch.randn(3, 2, requires_grad=True)
    assert distributed.gather(x) is x
    assert (distributed.rank(), distributed.world()) == (0, 1)
    assert distributed.told_by_all("a") == ["a"]
    norm = nn.BatchNorm1d(2)
    assert distributed.synchronise_batchnorm(norm) is norm
    assert distributed.replicate(norm, unused_parameters=False) is norm
    distributed.refuse_different({"a": 1}, "nothing")
    with distributed.ranks("cpu") as device:
        assert device == torch.device("cpu")


# ── whole trainings ───────────────────────────────────────────────────────────────────────────────

TRAIN = """
import sys
from ecgtrain import config, distributed
from ecgtrain.run import learn
STOP_AT = int(sys.argv[3])
asked = 0
def should_stop():
    global asked
    asked += 1
    # Only one of them is told.
    return "the test says so" if asked == STOP_AT and distributed.rank() == 1 else None
with distributed.ranks("cpu"):
    learn(config.load(sys.argv[1]), sys.argv[2], resume=True, should_stop=should_stop)
"""
DYING = TRAIN.replace(
    "    return", "    if distributed.rank() == 1 and asked == 5:\n        import os; os._exit(9)\n    return"
)


def lines(run_dir, split):
    made = [json.loads(text) for text in (run_dir / "metrics.jsonl").read_text().splitlines()]
    drop = {"windows_per_s", "waiting"}
    return [
        {name: value for name, value in line.items() if name not in drop} for line in made if line["split"] == split
    ]


def the_same(run_dir, other_dir, rtol=2e-4):
    for split in ("train", "validation"):
        ours, theirs = lines(run_dir, split), lines(other_dir, split)
        assert [line["step"] for line in ours] == [line["step"] for line in theirs]
        for one, other in zip(ours, theirs, strict=True):
            for name in ("loss", "per_term_nats", "accuracy"):
                near = 2e-3 if name == "accuracy" else 1e-4  # one hit more or less
                assert one[name] == pytest.approx(other[name], rel=rtol, abs=near), (split, one["step"], name)
    one, other = (
        {name: value for name, value in torch_weights(path).items() if value.is_floating_point()}
        for path in (run_dir, other_dir)
    )
    for name, value in one.items():
        assert torch.allclose(value, other[name], rtol=1e-2, atol=2e-4), name


def torch_weights(run_dir):
    from ecgtrain.training import checkpoint

    return checkpoint.load_weights(checkpoint.last(run_dir / "checkpoints"))


@pytest.fixture(scope="module")
def alone(mini_store, tmp_path_factory):
    """The run of one process."""
    folder = tmp_path_factory.mktemp("alone")
    learn(config.load(recipe(mini_store, folder / "recipe.yaml")), folder / "run")
    return folder / "run"


def test_two_ranks_learn_what_one_process_learns(mini_store, alone, tmp_path):
    path = recipe(mini_store, tmp_path / "recipe.yaml")
    for threads in said_by_ranks(2, TRAIN + SAY_THREADS, path, tmp_path / "run", 0):
        assert "gloo" not in threads
    the_same(tmp_path / "run", alone)
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["ranks"] == 2


@pytest.mark.learning
def test_parts_of_a_batch_add_up_to_it(mini_store, tmp_path):
    """Without BatchNorm's batch statistics, which each part would have of its own."""
    frozen = {"method": {"name": "cpc", "steps_ahead": 3, "n_negatives": 8}, "steps": 6, "batch_size": 7}
    for parts in (1, 3):  # parts of 2, 2 and 3 windows
        path = recipe(mini_store, tmp_path / f"{parts}.yaml", **frozen, accumulate=parts)
        made = config.load(path)
        with evaluation_mode():
            learn(made, tmp_path / str(parts))
    the_same(tmp_path / "3", tmp_path / "1")


class evaluation_mode:
    """BatchNorm as in evaluation while training, so that windows don't touch each other."""

    def __enter__(self):
        self.forward = nn.BatchNorm1d.forward
        nn.BatchNorm1d.forward = lambda norm, x: nn.functional.batch_norm(
            x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps
        )

    def __exit__(self, *_):
        nn.BatchNorm1d.forward = self.forward


@pytest.mark.slow
def test_a_run_of_two_ranks_is_stopped_and_goes_on_as_one(mini_store, alone, tmp_path):
    path = recipe(mini_store, tmp_path / "recipe.yaml")
    answers = ranks(2, TRAIN, path, tmp_path / "run", 7)
    for (status, _, errors), reason in zip(answers, ("another rank was told to", "the test says so"), strict=True):
        assert status == 1
        assert f"StoppedError: training was stopped: {reason}" in errors
        assert "after step 7 of 12" in errors
    assert lines(tmp_path / "run", "train")[-1]["step"] == 7
    learn(config.load(path), tmp_path / "run", resume=True)
    the_same(tmp_path / "run", alone)


@pytest.mark.slow
def test_a_dead_rank_ends_the_others(mini_store, tmp_path):
    path = recipe(mini_store, tmp_path / "recipe.yaml", steps=1000)
    (survivor, _, errors), (dead, _, _) = ranks(2, DYING, path, tmp_path / "run", 0)
    assert dead == 9
    assert survivor == 1
    said = next(line for line in errors.splitlines() if "RankLostError: " in line)
    assert "another rank has ended, or is no longer heard of" in said
    assert "rank 0 of 2" in said


@pytest.mark.slow
def test_ranks_that_read_other_stores_are_told(mini_store, tmp_path):
    each = "config.load(sys.argv[1], [f'seed={distributed.rank()}'])"
    code = TRAIN.replace("config.load(sys.argv[1])", each)
    path = recipe(mini_store, tmp_path / "recipe.yaml")
    for status, _, errors in ranks(2, code, path, tmp_path / "run", 0):
        assert status == 1
        assert "the ranks of a run must agree about what they train on: seed differs" in errors
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_stop_is_a_checkpoint_and_says_how_to_go_on(mini_store, alone, tmp_path):
    path = recipe(mini_store, tmp_path / "recipe.yaml")
    asked = iter(range(100))
    with pytest.raises(StoppedError, match="after step 6 of 12; run the same command with --resume"):
        learn(config.load(path), tmp_path / "run", should_stop=lambda: "enough" if next(asked) == 5 else None)
    learn(config.load(path), tmp_path / "run", resume=True)
    for name, value in torch_weights(tmp_path / "run").items():
        assert torch.equal(value, torch_weights(alone)[name])


def test_a_loss_that_compares_windows_is_not_divided(mini_store, tmp_path, monkeypatch):
    from ecgtrain.methods import cpc

    monkeypatch.setattr(cpc.Cpc, "compares_windows", True)
    path = recipe(mini_store, tmp_path / "recipe.yaml", accumulate=2)
    with pytest.raises(ConfigError, match="Cpc compares the windows of a batch: it can't be taken in parts"):
        learn(config.load(path), tmp_path / "run")
