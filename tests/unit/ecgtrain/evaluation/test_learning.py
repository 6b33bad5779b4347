"""Networks that learn from labels: stages, what is kept, what stays frozen; and a planted signal that is found."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from quickly import quickly
from torch import nn

from ecgstore import ConfigError
from ecgstore.inner import parse
from ecgtrain.backbones import build_backbone, cpc_lstm
from ecgtrain.data.feed import Batch
from ecgtrain.data.plan import Records
from ecgtrain.errors import CheckpointError, ProtocolError
from ecgtrain.evaluation import losses
from ecgtrain.evaluation.classifier import Classifier, Head, HeadSettings, load_tuned, refuse_heads
from ecgtrain.evaluation.learning import Learning, learn
from ecgtrain.evaluation.protocols import Context, attention_probe, check, fine_tune, scratch
from ecgtrain.evaluation.splits import Split, Windows
from ecgtrain.representation.export import Trained
from ecgtrain.representation.extract import Signals
from ecgtrain.scoring.metrics import macro_auroc
from ecgtrain.views.normalise import Normalisation
from ecgtrain.views.passport import Passport

N_SAMPLES, N_LEADS = 40, 2
BACKBONE = {"encoder": {"width": 8}, "lstm_width": 8, "lstm_layers": 1}


class Drawn(Windows):
    """Windows of noise, one a record; a class shows as a wave of its own frequency in the first lead."""

    def __init__(self, y_rc, seed):
        draw = np.random.default_rng(seed)
        t = np.arange(N_SAMPLES) / N_SAMPLES
        waves_ct = np.stack([np.sin(2 * np.pi * (3 + 4 * c) * t) for c in range(y_rc.shape[1])])
        self.mv_rlt = draw.standard_normal((len(y_rc), N_LEADS, N_SAMPLES)) * 0.5
        self.mv_rlt[:, 0] += y_rc @ waves_ct

    def pooled(self):
        raise NotImplementedError

    def tokens(self, batch_size):
        raise NotImplementedError

    def signals(self, batch_size):
        x_blt = torch.tensor(self.mv_rlt, dtype=torch.float32)
        for rows in np.array_split(np.arange(len(x_blt)), -(-len(x_blt) // batch_size)):
            yield Signals(x_blt[rows], rows)

    def feed(self, rows):
        counts = torch.tensor(np.rint(self.mv_rlt[rows] * 1000), dtype=torch.int16)

        def batches(plans):
            for plan in plans:
                numbers = torch.tensor(plan.sample_numbers)
                yield Batch(counts[torch.tensor(plan.rows)], numbers, rows[plan.rows], plan.step)

        lengths = np.full(len(rows), N_SAMPLES)
        return SimpleNamespace(
            n_records=len(rows),
            records=Records(lengths),
            window_samples=N_SAMPLES,
            device=torch.device("cpu"),
            batches=batches,
        )


def split(n, seed, *, planted=True):
    """``n`` records of two classes that don't exclude each other."""
    y_rc = np.random.default_rng([seed, 1]).random((n, 2)) < 0.5
    windows = Drawn(y_rc & planted, [seed, 2])
    return Split(np.arange(n), y_rc, tuple(f"{seed}-{row}" for row in range(n)), windows)


@pytest.fixture
def context():
    settings = cpc_lstm.Settings.model_validate(BACKBONE)
    passport = Passport(
        leads=("I", "II"),
        fs_hz=100.0,
        counts_per_mv=1000,
        window_samples=N_SAMPLES,
        normalisation=Normalisation(mode="none"),
        recipe={},
        recipe_sha256="0" * 64,
        store_fingerprint="0" * 64,
    )
    return Context(("a", "b"), Trained(build_backbone(settings, N_LEADS, seed=5), passport), seed=7)


def learning(**more):
    plain = {"stages": [{"epochs": 2, "optimiser": {"lr": 1e-2}}], "batch_size": 16}
    return Learning.model_validate({**plain, **more})


def state_of(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def changed(before, network):
    return {name for name, value in network.state_dict().items() if not torch.equal(before[name], value)}


# ── what is found ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.learning
@pytest.mark.parametrize("protocol", quickly([fine_tune, scratch], fine_tune))
def test_planted_waves_are_found_and_nothing_is_where_there_are_none(context, protocol):
    epochs = {"stages": [{"epochs": 12, "optimiser": {"lr": 1e-2}}], "batch_size": 32, "head": {"batchnorm": True}}
    settings = protocol.Settings.model_validate(epochs)
    test = split(200, 3)
    found = protocol.fit(split(256, 1), split(100, 2), settings, context)
    assert macro_auroc(test.y_rc, found.predict(test)) > 0.9
    null = protocol.fit(split(256, 1, planted=False), split(100, 2, planted=False), settings, context)
    silent = split(200, 3, planted=False)
    # The standard error of such a score is 0.03.
    assert abs(macro_auroc(silent.y_rc, null.predict(silent)) - 0.5) < 0.15


@pytest.mark.learning
@pytest.mark.parametrize("loss", quickly(["squared", "huber"], "squared"))
def test_a_number_is_learned_in_its_own_unit(context, loss):
    """The height of a wave, told in a unit far from 0 and 1."""

    def heights(n, seed):
        made = split(n, seed, planted=False)
        height_r = np.random.default_rng([seed, 4]).uniform(-1, 1, n)
        made.windows.mv_rlt[:, 0] += height_r[:, None] * np.sin(2 * np.pi * 3 * np.arange(N_SAMPLES) / N_SAMPLES) * 3
        return replace(made, y_rc=60 + 20 * height_r[:, None], kind="regression")

    stage = {"epochs": 12, "optimiser": {"lr": 1e-2}}
    settings = scratch.Settings.model_validate(
        {"stages": [stage], "batch_size": 32, "loss": loss, "head": {"batchnorm": True}}
    )
    context = replace(context, classes=("height",), kind="regression")
    test = heights(100, 3)
    said_rc = scratch.fit(heights(256, 1), heights(60, 2), settings, context).predict(test)
    assert np.abs(said_rc - test.y_rc).mean() < 0.5 * np.abs(test.y_rc - 60).mean()


@pytest.mark.learning
def test_classes_that_exclude_each_other_share_one_certainty(context):
    def exclusive(n, seed):
        y_rc = np.eye(3, dtype=bool)[np.random.default_rng([seed, 5]).choice(2, n)]
        made = split(n, seed)
        return replace(made, y_rc=y_rc, windows=Drawn(y_rc, [seed, 6]), kind="exclusive")

    context = replace(context, classes=("a", "b", "never"), kind="exclusive")
    stage = {"epochs": 12, "optimiser": {"lr": 1e-2}}
    settings = learning(stages=[stage], batch_size=32, class_weights="balanced", head={"batchnorm": True})
    test = exclusive(100, 3)
    made = learn(context.network(), exclusive(256, 1), exclusive(100, 2), settings, context)
    score_rc = made.predict(test)
    np.testing.assert_allclose(score_rc.sum(axis=1), 1, atol=1e-5)
    assert (score_rc[:, 2] < 0.2).all()
    assert (score_rc.argmax(axis=1) == test.y_rc.argmax(axis=1)).mean() > 0.8


# ── stages, and what is kept ──────────────────────────────────────────────────────────────────────


def test_a_stage_of_the_head_leaves_the_backbone_as_it_is(context):
    network = context.network()
    before = state_of(network)
    learn(network, split(40, 1), split(20, 2), learning(stages=[{"trains": "head", "epochs": 2}]), context)
    assert changed(before, network) == set()
    learn(network, split(40, 1), split(20, 2), learning(), context)
    assert changed(before, network) >= {"lstm.weight_ih_l0", "encoder.0.linear.weight"} & before.keys()
    assert changed(before, network)


def test_frozen_batchnorm_keeps_its_statistics_and_learns_its_weights(context):
    network = context.network()
    before = state_of(network)
    learn(network, split(40, 1), split(20, 2), learning(batchnorm="frozen"), context)
    statistics = {name for name in before if "running" in name or "tracked" in name}
    assert statistics
    assert not statistics & changed(before, network)
    learn(network, split(40, 1), split(20, 2), learning(batchnorm="trained"), context)
    assert statistics & changed(before, network)


def test_the_representation_itself_is_never_trained(context):
    before = state_of(context.trained.backbone)
    fine_tune.fit(split(40, 1), split(20, 2), fine_tune.Settings(stages=learning().stages), context)
    assert changed(before, context.trained.backbone) == set()


def test_the_epoch_that_is_best_on_validation_is_kept(context, monkeypatch):
    train, validation = split(40, 1), split(20, 2)
    said = iter([0.6, 0.9, 0.7, 0.8])
    scores = []

    def scored(kind, y_rc, score_rc):
        scores.append(score_rc)
        return next(said)

    monkeypatch.setattr("ecgtrain.evaluation.learning.kinds.merit", scored)
    made = learn(context.network(), train, validation, learning(stages=[{"epochs": 2}, {"epochs": 2}]), context)
    assert (made.chosen["stage"], made.chosen["epoch"]) == (1, 2)
    assert [row[:2] for row in made.chosen["learning_curve"]] == [[1, 1], [1, 2], [2, 1], [2, 2]]
    np.testing.assert_array_equal(made.predict(validation), scores[1])


def test_keep_last_keeps_the_last_and_needs_no_validation(context):
    one, other = (
        learn(context.network(), split(40, 1), validation, learning(keep="last"), context)
        for validation in (None, split(20, 2))
    )
    test = split(10, 3)
    np.testing.assert_array_equal(one.predict(test), other.predict(test))
    assert one.chosen["epoch"] == 2
    assert [row[3] for row in one.chosen["learning_curve"]] == [None, None]


def test_patience_ends_a_stage(context, monkeypatch):
    said = iter([0.9, 0.8, 0.7, 0.95])
    monkeypatch.setattr("ecgtrain.evaluation.learning.kinds.merit", lambda *_: next(said))
    settings = learning(stages=[{"epochs": 9}, {"epochs": 1}], patience=2)
    made = learn(context.network(), split(40, 1), split(20, 2), settings, context)
    assert [row[:2] for row in made.chosen["learning_curve"]] == [[1, 1], [1, 2], [1, 3], [2, 1]]
    assert (made.chosen["stage"], made.chosen["epoch"]) == (2, 1)


@pytest.mark.parametrize(("most_steps", "epochs"), [(None, 4), (1, 1), (7, 3), (8, 4), (100, 4)])
def test_a_stage_has_no_more_epochs_than_its_steps_allow(context, most_steps, epochs):
    """Two steps an epoch; the rate falls over those that there are."""
    stage = {"epochs": 4, "most_steps": most_steps, "optimiser": {"lr": 1e-2, "schedule": "cosine"}}
    short = {"epochs": epochs, "optimiser": {"lr": 1e-2, "schedule": "cosine"}}
    one, other = (
        learn(context.network(), split(40, 1), None, learning(stages=[its], batch_size=20, keep="last"), context)
        for its in (stage, short)
    )
    assert [row[:2] for row in one.chosen["learning_curve"]] == [[1, epoch] for epoch in range(1, epochs + 1)]
    np.testing.assert_array_equal(one.predict(split(10, 3)), other.predict(split(10, 3)))


def test_averaged_weights_lie_between_those_of_the_steps(context):
    settings = {"keep": "last", "batch_size": 40}
    # One step an epoch: after two, the average is that of the first and the second, as the decay weighs them.
    after = [
        learn(context.network(), split(40, 1), None, learning(**settings, stages=[{"epochs": n}]), context)
        for n in (1, 2)
    ]
    averaged = learn(
        context.network(), split(40, 1), None, learning(**settings, stages=[{"epochs": 2}], average=0.75), context
    )
    first, second, between = (one.network.state_dict()["head.layers.0.weight"] for one in (*after, averaged))
    torch.testing.assert_close(between, 0.75 * first + 0.25 * second)


def test_the_same_seed_gives_the_same_network_and_leaves_torchs_generator_alone(context):
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    settings = learning(head={"dropout": [0.5, 0.0]}, augmentations=[{"name": "time_out"}])
    one, other = (learn(context.network(), split(40, 1), split(20, 2), settings, context) for _ in range(2))
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)
    for name, value in one.network.state_dict().items():
        assert torch.equal(value, other.network.state_dict()[name]), name


def test_any_seed_of_a_recipe_will_do(context):
    made = learn(context.network(), split(20, 1), None, learning(keep="last"), replace(context, seed=2**63 - 1))
    assert np.isfinite(made.predict(split(5, 3))).all()


def test_lower_layers_learn_at_a_tenth_of_the_rate_of_those_above(context):
    stage = {"epochs": 1, "optimiser": {"name": "adam", "lr": 1e-3, "layer_decay": 0.1, "weight_decay": 0.0}}
    network, heads = context.network(), HeadSettings()
    before = state_of(network)
    made = learn(network, split(16, 1), None, learning(keep="last", batch_size=16, stages=[stage]), context)
    fresh = Classifier(context.network(), heads, 2, context.seed).state_dict()
    # One step of Adam moves a weight by the rate, whatever its gradient.
    moved = {name: (value - fresh[name]).abs().max().item() for name, value in made.network.state_dict().items()}
    assert moved["head.layers.0.weight"] == pytest.approx(1e-3, rel=0.02)
    assert moved["backbone.lstm.weight_ih_l0"] == pytest.approx(1e-4, rel=0.02)
    in_encoder = [
        moved[f"backbone.{name}"] for name in before if name.startswith("encoder") and name.endswith("weight")
    ]
    assert max(in_encoder) == pytest.approx(1e-5, rel=0.05)


# ── what is refused ───────────────────────────────────────────────────────────────────────────────


def test_labels_that_teach_nothing_are_refused(context):
    same = split(20, 1)
    flat = Split(same.row_r, np.ones_like(same.y_rc), same.patient_r, same.windows)
    with pytest.raises(ProtocolError, match="no class has both a positive and a negative"):
        learn(context.network(), flat, split(20, 2), learning(), context)
    for validation in (None, replace(flat, patient_r=("",) * 20)):
        with pytest.raises(ProtocolError, match="nothing to choose the epoch by.*keep: last"):
            check(same, validation, scratch.Settings(), 0)
    settings = learning(stages=[{"epochs": 3, "optimiser": {"name": "adam", "lr": 1e30}}])
    with pytest.raises(ProtocolError, match="no number any more.*optimiser.lr"):
        learn(context.network(), same, split(20, 2), settings, context)


def test_a_loss_of_another_kind_is_refused():
    for kind, settings in (
        ("multilabel", {"loss": "huber"}),
        ("exclusive", {"loss": "bce"}),
        ("regression", {"class_weights": "balanced"}),
    ):
        with pytest.raises(ConfigError, match=kind):
            check(
                replace(split(20, 1), y_rc=split(20, 1).y_rc.astype(float), kind=kind),
                split(20, 2),
                scratch.Settings(**settings),
                0,
            )


def test_a_class_that_no_training_record_shows_gets_its_share(context):
    train = split(40, 1)
    train.y_rc[:, 1] = False
    made = learn(context.network(), train, split(20, 2), learning(), context)
    assert made.unfitted == ("b",)
    assert (made.predict(split(5, 3))[:, 1] == 0).all()


# ── heads and losses ──────────────────────────────────────────────────────────────────────────────


def kinds(head):
    return [type(layer).__name__ for layer in head.layers]


def test_heads_are_built_as_they_are_described(context):
    backbone = context.trained.backbone
    published = HeadSettings(hidden=16, dropout=(0.25, 0.5), batchnorm=True)
    assert kinds(Head(published, backbone, 2)) == [
        *("BatchNorm1d", "Dropout", "Linear", "ReLU"),
        *("BatchNorm1d", "Dropout", "Linear"),
    ]
    assert kinds(Head(HeadSettings(), backbone, 2)) == ["Linear"]
    looks = Head(HeadSettings(reads="attention", queries=3, attention_heads=5), backbone, 2)
    assert looks.layers[0].in_features == 3 * backbone.width
    assert looks.pool.attention.num_heads == 4, "the most, up to 5, that divide 8 features"


def test_heads_that_were_named_must_divide_the_tokens():
    backbone = SimpleNamespace(width=16)
    settings = attention_probe.Settings
    for fits in ({}, {"head": {}}, {"head": {"attention_heads": 8}}):
        refuse_heads(parse(settings, fits), backbone, "q")
    with pytest.raises(ConfigError, match=r"width of 16.*in q, settings\.head.*expected one of 1, 2, 4, 8, 16, got 7"):
        refuse_heads(parse(settings, {"head": {"attention_heads": 7}}), backbone, "q")
    refuse_heads(parse(settings, {"head": {}}), SimpleNamespace(width=5), "q")
    with pytest.raises(ConfigError, match="did you mean attention_heads"):
        parse(settings, {"head": {"heads": 7}})


def test_attention_finds_one_token_among_many():
    """A query that looks for a direction reads the token that has it, wherever it stands."""
    backbone = SimpleNamespace(width=4, pooled_width=4)
    head = Head(HeadSettings(reads="attention", attention_heads=1), backbone, 1)
    with torch.no_grad():
        head.pool.attention.in_proj_weight.copy_(torch.eye(4).repeat(3, 1) * 10)
        head.pool.attention.out_proj.weight.copy_(torch.eye(4))
        head.pool.queries_qd.copy_(torch.tensor([[3.0, -1.0, -1.0, -1.0]]))
        tokens = torch.tensor([[[0.0, 1.0, 0.0, 0.0]] * 9 + [[1.0, 0.0, 0.0, 0.0]]])
        there = head.pool(tokens)
        elsewhere = head.pool(tokens.roll(4, dims=1))
    torch.testing.assert_close(there, elsewhere)
    assert there[0].argmax() == 0


def test_asymmetric_loss_is_that_of_its_equation():
    draw = torch.Generator().manual_seed(1)
    z, y = torch.randn(6, 3, generator=draw) * 3, (torch.rand(6, 3, generator=draw) < 0.3).float()
    expected = 0.0
    for logit, target in zip(z.flatten().tolist(), y.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-logit))
        q = max(p - 0.05, 0)
        expected -= (1 - p) * math.log(p) if target else q**4 * math.log(1 - q)
    assert losses.loss_of("multilabel", "asymmetric", z, y, None).item() == pytest.approx(expected / 18, rel=1e-5)


def test_balanced_weights_make_both_sides_equal():
    y_rc = torch.tensor([[1.0, 0.0]] * 2 + [[0.0, 0.0]] * 8)
    weight_c = losses.balancing_weights("multilabel", y_rc)
    torch.testing.assert_close(weight_c, torch.tensor([4.0, 10.0]))
    z = torch.zeros_like(y_rc)
    plain = nn.functional.binary_cross_entropy_with_logits(z, y_rc, reduction="none")[:, 0]
    weighted = losses.loss_of("multilabel", "bce", z[:, :1], y_rc[:, :1], weight_c[:1])
    assert weighted.item() == pytest.approx((4 * plain[:2].sum() + plain[2:].sum()).item() / 10)


def test_balanced_weights_of_classes_that_exclude_each_other_weigh_them_the_same():
    y_rc = torch.eye(2)[[0, 0, 0, 1]]
    weight_c = losses.balancing_weights("exclusive", y_rc)
    torch.testing.assert_close(weight_c * y_rc.sum(dim=0), torch.tensor([2.0, 2.0]))
    outputs = torch.zeros(4, 2)
    assert losses.loss_of("exclusive", "softmax", outputs, y_rc, weight_c).item() == pytest.approx(math.log(2))


def test_a_head_of_absurd_size_is_refused_before_it_is_made(context, monkeypatch):
    made = learn(context.network(), split(20, 1), None, learning(keep="last"), context)
    about = {"head": {**made.about()["head"], "reads": "attention", "queries": 256, "hidden": 65_536}}
    before = torch.nn.init.kaiming_uniform_

    def weighed(tensor, *arguments, **options):
        assert tensor.device.type == "meta", "a received head is made before it is known to fit"
        return before(tensor, *arguments, **options)

    monkeypatch.setattr(torch.nn.init, "kaiming_uniform_", weighed)
    with pytest.raises(CheckpointError, match="other arrays than its protocol"):
        load_tuned(made.arrays(), about, context)
    monkeypatch.undo()
    again = load_tuned(made.arrays(), made.about(), context)
    np.testing.assert_array_equal(again.predict(split(5, 3)), made.predict(split(5, 3)))
