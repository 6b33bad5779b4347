from __future__ import annotations

import json
import math
import time
from functools import partial

import pytest
import torch
from quickly import quickly
from torch import nn

from ecgstore import COUNTS_PER_MV, open_store
from ecgtrain.backbones import cpc_lstm
from ecgtrain.backbones.layers.encoder import Encoder
from ecgtrain.config import Training
from ecgtrain.data.feed import open_feed
from ecgtrain.errors import CheckpointError, DivergedError
from ecgtrain.methods import LossTerms, Objective, WindowBatch, build_objective, cpc
from ecgtrain.training import checkpoint, loop, trackers
from ecgtrain.training.log import Clock, Readings
from ecgtrain.views import normalise as its_normalise
from ecgtrain.views.draw import Draw
from ecgtrain.views.normalise import Normalisation, to_mv
from ecgtrain.views.passport import Passport

pytestmark = pytest.mark.learning

METHOD = cpc.Settings(steps_ahead=3, n_negatives=8)
NETWORK = cpc_lstm.Settings(encoder=Encoder(width=6), lstm_width=6, lstm_layers=1)
TRAINING = {
    "batch_size": 8,
    "steps": 20,
    "optimiser": {"lr": 1e-2, "schedule": "cosine", "warmup_steps": 3, "clip_norm": 50.0},
    "log_every_steps": 2,
    "validate_every_steps": 6,
    "checkpoint_every_steps": 4,
}


class WithDropout(cpc.Cpc):
    """CPC that also draws from torch's own generator: resuming must give that back, too."""

    def forward(self, made):
        return super().forward(made._replace(x_blt=nn.functional.dropout(made.x_blt, 0.2, self.training)))


@pytest.fixture(scope="module")
def store(mini_store):
    return open_store(mini_store)


def make_views(batch, validating):
    mv = to_mv(batch.counts_blt)
    normalise = partial(its_normalise.normalise, mode="record")
    draw = Draw(1).fork(int(validating))
    return cpc.views(METHOD, WindowBatch(mv, batch.sample_numbers_b, 100.0, normalise, draw))


def run(store, run_dir, *, objective=None, device="cpu", make_views=make_views, config=None, **others):
    """Train a tiny CPC on folds 1-6 of the bundled records, held out fold 7; returns the objective."""
    run_dir.mkdir(exist_ok=True)
    if objective is None:
        objective = build_objective(METHOD, NETWORK, 12, seed=1)
        objective.__class__ = WithDropout
    feeds = [
        open_feed(store, store.select(folds=folds), window_samples=60, device=device) for folds in (range(1, 7), (7, 8))
    ]
    passport = Passport(
        leads=store.leads,
        fs_hz=store.fs_hz,
        counts_per_mv=COUNTS_PER_MV,
        window_samples=60,
        normalisation=Normalisation(),
        recipe=store.recipe,
        recipe_sha256=store.recipe_sha256,
        store_fingerprint=store.fingerprint,
    )
    training = Training.model_validate({**TRAINING, **others.pop("training", {})})
    loop.train(
        objective,
        feeds[0],
        make_views,
        training,
        seed=1,
        run_dir=run_dir,
        config=config or {"a": 1},
        passport=passport,
        validation=feeds[1],
        **others,
    )
    return objective


def lines(run_dir, *drop):
    """The metrics without what depends on the clock."""
    made = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in {"windows_per_s", "waiting", *drop}} for line in made]


def equal(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Killed(Exception):
    pass


def killed_after(step):
    def progress(done, total, shown):
        if done == step:
            raise Killed

    return progress


@pytest.fixture(scope="module")
def straight(store, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("straight")
    return run(store, run_dir), run_dir


@pytest.mark.parametrize("killed_at", quickly([1, 4, 11, 19, 20], 11))
def test_a_killed_run_goes_on_to_the_same_weights_and_metrics_bit_for_bit(store, straight, tmp_path, killed_at):
    with pytest.raises(Killed):
        run(store, tmp_path, progress=killed_after(killed_at))
    torch.rand(17)  # whatever else was drawn meanwhile
    resumed = run(store, tmp_path, resume=True)
    whole, run_dir = straight
    assert equal(resumed, whole)
    assert lines(tmp_path) == lines(run_dir)
    trainers = [checkpoint.load_trainer(checkpoint.last(path / "checkpoints")) for path in (tmp_path, run_dir)]
    assert all(trainers[0][name] == trainers[1][name] for name in ("step", "best_loss", "stale"))


def test_a_run_killed_twice_with_a_torn_checkpoint_ends_the_same(store, straight, tmp_path):
    for step in (10, 17):
        with pytest.raises(Killed):
            run(store, tmp_path, progress=killed_after(step), resume=True)
    (tmp_path / "checkpoints/step-00000016/trainer.pt").write_bytes(b"torn")
    seen = []
    resumed = run(store, tmp_path, resume=True, progress=lambda done, total, shown: seen.append(done))
    assert seen == list(range(13, 21))
    assert equal(resumed, straight[0])
    assert lines(tmp_path) == lines(straight[1])


def test_resuming_a_finished_run_changes_nothing(store, straight, tmp_path):
    run(store, tmp_path)
    seen = []
    resumed = run(store, tmp_path, resume=True, progress=lambda *shown: seen.append(shown))
    assert seen == []
    assert equal(resumed, straight[0])
    assert lines(tmp_path) == lines(straight[1])


def test_other_settings_are_not_resumed(store, tmp_path):
    with pytest.raises(Killed):
        run(store, tmp_path, progress=killed_after(5))
    with pytest.raises(CheckpointError, match=r"other settings: a differs.*expected 2, got 1"):
        run(store, tmp_path, resume=True, config={"a": 2})
    other = build_objective(METHOD, NETWORK.model_copy(update={"lstm_width": 7}), 12, seed=1)
    with pytest.raises(CheckpointError, match="weights don't fit the network"):
        run(store, tmp_path, resume=True, objective=other)


def test_it_learns(straight):
    made = lines(straight[1])
    assert made[0] == {"step": 0, "split": "chance", "per_term_nats": pytest.approx(math.log(9)), "accuracy": 0.1111111}
    train = [line["per_term_nats"] for line in made if line["split"] == "train"]
    held_out = [line for line in made if line["split"] == "validation"]
    assert len(train) == 10
    assert [line["step"] for line in held_out] == [6, 12, 18, 20]
    assert held_out[-1]["per_term_nats"] < held_out[0]["per_term_nats"] < math.log(9)
    assert made[1]["split"] == "untrained"
    assert {"loss", "accuracy", "gradient_norm", "epoch", "learning_rate"} < made[2].keys()


def test_progress_is_told_after_every_step(store, tmp_path):
    told = []
    run(store, tmp_path, training={"steps": 3}, progress=lambda *shown: told.append(shown))
    assert [(done, total) for done, total, _ in told] == [(1, 3), (2, 3), (3, 3)]
    shown = told[-1][2]
    assert {"loss", "per_term_nats", "windows_per_s", "waiting"} <= shown.keys()
    assert 0 <= shown["waiting"] <= 1


def test_validation_leaves_no_trace_in_the_weights(store, straight, tmp_path):
    assert equal(run(store, tmp_path, training={"validate_every_steps": 1}), straight[0])


def test_validation_is_in_evaluation_mode_on_whole_records(store):
    feed = open_feed(store, store.select(folds=[7, 8]), window_samples=300)
    seen = []

    class Watching(Objective):
        def forward(self, batch):
            seen.append((self.training, torch.is_grad_enabled(), len(batch.rows_b)))
            return LossTerms(torch.tensor(float(len(seen))), {})

    objective = Watching()
    held_out = loop.validate(objective, feed, lambda batch, validating: batch, Training(batch_size=8, steps=1))
    n_windows = 3 * feed.n_records  # 1,000 samples hold three windows of 300
    assert sum(n for _, _, n in seen) == n_windows
    assert {(training, grad) for training, grad, _ in seen} == {(False, False)}
    weighted = sum((i + 1) * n for i, (_, _, n) in enumerate(seen)) / n_windows
    assert held_out == {"loss": pytest.approx(weighted)}
    assert objective.training


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_a_run_that_diverges_stops_at_once_and_says_where(store, tmp_path, poison):
    class Poisoned(cpc.Cpc):
        n = 0

        def forward(self, made):
            terms = super().forward(made)
            Poisoned.n += self.training
            if Poisoned.n == 7 and poison == "loss":
                return terms._replace(total=terms.total * float("nan"))
            if Poisoned.n == 7:  # a finite loss with an infinite gradient
                weight = next(self.parameters())
                return terms._replace(total=terms.total + (weight - weight.detach()).sum().abs().sqrt())
            return terms

    objective = build_objective(METHOD, NETWORK, 12, seed=1)
    objective.__class__ = Poisoned
    with pytest.raises(DivergedError, match=r"step 6, records \S+, .*(nan|inf)") as caught:
        run(store, tmp_path, objective=objective)
    assert caught.value.step == 6
    assert len(caught.value.record_ids) == 8
    assert set(caught.value.record_ids) <= set(store.column("record_id")[store.select(folds=range(1, 7))])
    # The weights of the step before are safe.
    assert checkpoint.last(tmp_path / "checkpoints").name == "step-00000004"
    assert all(weight.isfinite().all() for weight in objective.state_dict().values())


def test_no_step_is_taken_from_a_broken_one_on_even_if_it_is_read_late(store, straight, tmp_path, monkeypatch):
    """As on a GPU, where a step's loss is read when the next one is already under way."""

    class Late(Readings):
        def __init__(self, optimiser, lag):
            super().__init__(optimiser, 3)

    monkeypatch.setattr(loop, "Readings", Late)
    assert equal(run(store, tmp_path / "late"), straight[0])
    assert lines(tmp_path / "late") == lines(straight[1])

    class Poisoned(cpc.Cpc):
        n = 0
        weights = None

        def forward(self, made):
            Poisoned.n += self.training
            terms = super().forward(made)
            if Poisoned.n == 7:
                Poisoned.weights = {name: value.clone() for name, value in self.state_dict().items()}
                return terms._replace(total=terms.total * float("inf"))
            return terms

    objective = build_objective(METHOD, NETWORK, 12, seed=1)
    objective.__class__ = Poisoned
    with pytest.raises(DivergedError) as caught:
        run(store, tmp_path / "broken", objective=objective, training={"log_every_steps": 20})
    assert caught.value.step == 6
    assert Poisoned.n > 7  # it went on for a while
    for name, value in objective.named_parameters():
        assert torch.equal(value, Poisoned.weights[name]), name


def test_patience_ends_a_run_that_no_longer_gets_better(store, tmp_path):
    def worse_and_worse(batch, validating):
        made = make_views(batch, validating)
        if validating:
            worse_and_worse.factor *= 1.02
            return made._replace(x_blt=made.x_blt * worse_and_worse.factor)
        return made

    worse_and_worse.factor = 50.0
    settings = {"patience": 2, "steps": 200, "validate_every_steps": 3, "checkpoint_every_steps": 100}
    run(store, tmp_path, make_views=worse_and_worse, training=settings)
    assert checkpoint.last(tmp_path / "checkpoints").name == "step-00000009"
    before = lines(tmp_path)
    # Resumed, it is found to be finished.
    run(store, tmp_path, make_views=worse_and_worse, training=settings, resume=True)
    assert lines(tmp_path) == before


def test_what_cannot_be_compiled_goes_on_without(store, tmp_path, monkeypatch, caplog):
    def refuse(objective):
        def compiled(made):
            raise RuntimeError("no compiler\nanywhere")

        return compiled

    monkeypatch.setattr(torch, "compile", refuse)
    plain = run(store, tmp_path / "plain", training={"steps": 4})
    assert equal(run(store, tmp_path / "tried", training={"steps": 4, "compile": True}), plain)
    assert "torch.compile failed, training goes on without: no compiler anywhere" in caplog.text


@pytest.mark.slow
def test_float16_scales_the_loss_and_remembers_by_how_much(store, straight, tmp_path):
    half = run(store, tmp_path / "half", training={"precision": "float16"})
    assert all(weight.dtype in (torch.float32, torch.int64) for weight in half.state_dict().values())
    last, exact = lines(tmp_path / "half")[-1], lines(straight[1])[-1]
    assert last["per_term_nats"] == pytest.approx(exact["per_term_nats"], abs=0.05)
    with pytest.raises(Killed):
        run(store, tmp_path / "killed", training={"precision": "float16"}, progress=killed_after(9))
    assert checkpoint.load_trainer(checkpoint.last(tmp_path / "killed/checkpoints"))["scaler"]["scale"] > 1
    assert equal(run(store, tmp_path / "killed", training={"precision": "float16"}, resume=True), half)


def test_time_spent_on_checking_is_not_time_of_training():
    clock = Clock(batch_size=10)
    clock.tick({})
    time.sleep(0.5)
    clock.pause_over()
    clock.pause_over()
    assert 10 / 0.5 < 100 < clock.rates()["windows_per_s"]


def test_a_failing_tracker_never_stops_a_run(store, straight, tmp_path, caplog):
    (tmp_path / "tensorboard").write_text("a file where the events should go")
    assert equal(run(store, tmp_path), straight[0])
    assert lines(tmp_path) == lines(straight[1])
    assert "TensorBoard" in caplog.text


@pytest.mark.parametrize("when", ["opened", "written to", "closed"])
def test_a_run_whose_tracker_raises_is_the_same_run(store, straight, tmp_path, caplog, monkeypatch, when):
    class Failing:
        def __init__(self, run):
            torch.rand(3)  # a tracker may draw, too
            self.happens("opened")

        def write(self, step, split, values):
            self.happens("written to")

        def close(self, is_whole):
            self.happens("closed")

        def happens(self, now):
            if now == when:
                raise RuntimeError("the disk is full")

    monkeypatch.setitem(trackers._KINDS, "mlflow", Failing)
    assert equal(run(store, tmp_path, training={"trackers": ["mlflow"]}), straight[0])
    assert lines(tmp_path) == lines(straight[1])
    assert not (tmp_path / "tensorboard").exists()
    assert caplog.text.count("the disk is full") == 1


def test_the_best_weights_are_kept(store, tmp_path):
    def worse_and_worse(batch, validating):
        """Held-out windows grow with every validation, so the first one is the best."""
        made = make_views(batch, validating)
        if validating:
            worse_and_worse.factor *= 1.02
            return made._replace(x_blt=made.x_blt * worse_and_worse.factor)
        return made

    worse_and_worse.factor = 50.0
    objective = run(store, tmp_path, make_views=worse_and_worse, keep_best=True)
    held_out = [line for line in lines(tmp_path) if line["split"] == "validation"]
    best = min(held_out, key=lambda line: line["loss"])
    kept = checkpoint.last(tmp_path / "checkpoints" / "best")
    assert kept.name == f"step-{best['step']:08d}"
    assert len(list((tmp_path / "checkpoints" / "best").iterdir())) == 1
    assert best["step"] < 20
    assert not torch.equal(
        checkpoint.load_weights(kept)["projections.0.weight"], objective.state_dict()["projections.0.weight"]
    )


def test_torch_s_own_generator_is_given_back(store, tmp_path):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    run(store, tmp_path, training={"steps": 2})
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_hooks_around_a_step_hear_where_the_run_stands(store, tmp_path):
    heard = []

    class Listening(cpc.Cpc):
        def before_step(self, moment):
            assert all(parameter.grad is not None for parameter in self.parameters())
            heard.append(("before", moment.step, moment.epoch))

        def after_step(self, moment):
            heard.append(("after", moment.step, moment.progress))

    objective = build_objective(METHOD, NETWORK, 12, seed=1)
    objective.__class__ = Listening
    run(store, tmp_path, objective=objective, training={"steps": 4})
    per_epoch = len(store.select(folds=range(1, 7))) // TRAINING["batch_size"]
    assert heard[::2] == [("before", step, step / per_epoch) for step in range(4)]
    assert heard[1::2] == [("after", step, (step + 1) / 4) for step in range(4)]


def test_bfloat16_trains_float32_weights(store, straight, tmp_path):
    rounded = run(store, tmp_path, training={"precision": "bfloat16"})
    assert all(weight.dtype in (torch.float32, torch.int64) for weight in rounded.state_dict().values())
    assert not equal(rounded, straight[0])
    last, exact = lines(tmp_path)[-1], lines(straight[1])[-1]
    assert last["per_term_nats"] == pytest.approx(exact["per_term_nats"], abs=0.05)


@pytest.mark.gpu
def test_training_on_a_gpu_gives_nearly_the_same_loss(store, straight, tmp_path):
    run(store, tmp_path, device="cuda")
    there, here = lines(tmp_path)[-1], lines(straight[1])[-1]
    assert there["per_term_nats"] == pytest.approx(here["per_term_nats"], abs=0.05)
