from __future__ import annotations

import copy
import json
import math
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import said_by_ranks

from ecgstore import ConfigError
from ecgstore.inner import parse
from ecgtrain.backbones import xresnet1d
from ecgtrain.config import Optimiser
from ecgtrain.methods import Moment, WindowBatch, build_objective, byol
from ecgtrain.training import optim
from ecgtrain.views.augmentations import CROP_AND_TIME_OUT
from ecgtrain.views.draw import Draw
from ecgtrain.views.normalise import Millivolts, normalise

ROOT = Path(__file__).parents[4]
NETWORK = xresnet1d.Settings(depths=(1, 1), stem=(8, 8, 16), width=8)


def loss_in_plain_words(predicted, targets):
    """Of each window: twice the cosine of what was predicted and what is, over both directions, negative."""

    def cosine(a, b):
        return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))

    return [
        -2 * cosine(predicted[0][i], targets[1][i]) - 2 * cosine(predicted[1][i], targets[0][i])
        for i in range(len(targets[0]))
    ]


def objective(seed=0, **settings):
    return build_objective(byol.Settings(hidden_width=64, **settings), NETWORK, n_leads=3, seed=seed)


def windows(n, seed=0, n_samples=128):
    """Waves of one frequency per window, with amplitude and offset of each lead: windows can be told apart."""
    rng = np.random.default_rng(seed)
    angle = 2 * np.pi * (rng.uniform(0.02, 0.25, (n, 1, 1)) * np.arange(n_samples) + rng.uniform(0, 1, (n, 1, 1)))
    gain, offset = rng.standard_normal((2, n, 3, 1))
    x = gain * np.sin(angle) + offset + 0.05 * rng.standard_normal((n, 3, n_samples))
    return torch.from_numpy(x.astype(np.float32))


def make_views(x_blt, first_number=0):
    mv = Millivolts(x_blt, torch.ones_like(x_blt, dtype=torch.bool))
    numbers = torch.arange(first_number, first_number + len(x_blt))
    batch = WindowBatch(mv, numbers, 100.0, partial(normalise, mode="none"), Draw(1))
    return byol.views(byol.Settings(), batch)


def disturbed(made):
    """Every weight elsewhere, also those that begin at 0 and hide what is before them."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return made


# --- the loss -------------------------------------------------------------------------------------------------


def test_the_loss_is_the_published_one():
    generator = torch.Generator().manual_seed(0)
    predicted, targets = torch.randn(2, 2, 9, 5, dtype=torch.float64, generator=generator)
    loss_b = byol.symmetric_loss(tuple(predicted), tuple(targets))
    assert np.allclose(loss_b, loss_in_plain_words(predicted.numpy(), targets.numpy()), rtol=1e-12)
    assert loss_b.abs().max() < 4


def test_the_loss_lies_between_minus_4_and_4_and_knows_no_length():
    one, other = torch.randn(2, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(byol.symmetric_loss((one, other), (3 * other, 0.1 * one)), torch.tensor(-4.0).double())
    assert torch.allclose(byol.symmetric_loss((one, other), (-other, -one)), torch.tensor(4.0).double())
    # Unrelated directions score 0, which is called chance.
    a, b = torch.randn(2, 2, 20_000, 16, generator=torch.Generator().manual_seed(0))
    assert byol.symmetric_loss(tuple(a), tuple(b)).mean().item() == pytest.approx(0.0, abs=0.02)
    assert objective().chance == {"byol": 0.0}


def test_its_gradient_is_that_of_the_loss():
    x = torch.randn(4, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: byol.symmetric_loss((x[0], x[1]), (x[2], x[3])), x)


def test_spread_is_none_where_all_are_the_same_and_one_where_they_cancel_out():
    same = torch.randn(1, 16).expand(32, -1) * torch.rand(32, 1).add(0.1)
    assert byol.spread(same).item() == pytest.approx(0.0, abs=1e-3)
    assert byol.spread(torch.cat([torch.eye(16), -torch.eye(16)])).item() == pytest.approx(1.0, abs=1e-6)
    # The root of the mean square over features of their spread, times the root of their number.
    z = torch.nn.functional.normalize(torch.randn(50, 8) + 0.5)
    assert byol.spread(3 * z).item() == pytest.approx(math.sqrt(8 * z.var(0, correction=0).mean().item()), rel=1e-5)


# --- the views ------------------------------------------------------------------------------------------------


def test_two_views_of_a_window_differ_and_hang_on_its_number_alone():
    assert byol.Settings().augmentations == CROP_AND_TIME_OUT
    x_blt = windows(6)
    whole, part = make_views(x_blt, 10), make_views(x_blt[2:4], 12)
    assert not torch.equal(whole.one_blt, whole.other_blt)
    assert torch.equal(part.one_blt, whole.one_blt[2:4])
    assert torch.equal(part.other_blt, whole.other_blt[2:4])


# --- the objective --------------------------------------------------------------------------------------------


def test_the_published_objective_learns_1_18_million_parameters():
    made = build_objective(byol.Settings(), xresnet1d.Settings(), n_leads=12, seed=0)
    assert sum(p.numel() for p in made.projector.parameters()) == 512 * 512 + 2 * 512 + 512 * 16 + 16
    assert sum(p.numel() for p in made.predictor.parameters()) == 16 * 512 + 2 * 512 + 512 * 16 + 16
    assert sum(p.numel() for p in made.parameters() if p.requires_grad) == 1_175_232
    assert sum(p.numel() for p in made.target.parameters()) == 886_432 + 271_376


def test_the_objective_compares_predictions_with_the_target_of_the_other_view():
    made, pair = disturbed(objective()), make_views(windows(8))
    pooled = [made.backbone(x_blt).pooled_bd for x_blt in pair]
    predicted = [made.predictor(made.projector(x_bd)) for x_bd in pooled]
    targets = [made.target.projector(made.target.backbone(x_blt).pooled_bd) for x_blt in pair]
    expected = np.mean(loss_in_plain_words(*([x.detach().double().numpy() for x in xs] for xs in (predicted, targets))))
    total, parts, features_vbd = made(pair)
    assert total.item() == pytest.approx(expected, rel=1e-4)
    assert parts["byol"].item() == total.item()
    assert features_vbd.shape == (2, 8, made.backbone.pooled_width)
    assert not features_vbd.requires_grad
    # Neither the same view nor both at once: BatchNorm takes the statistics of each view by itself.
    same_view = byol.symmetric_loss(tuple(predicted), tuple(reversed(targets))).mean().item()
    together = made.predictor(made.projector(made.backbone(torch.cat(pair)).pooled_bd)).chunk(2)
    assert abs(same_view - expected) > 1e-3
    assert abs(byol.symmetric_loss(together, tuple(targets)).mean().item() - expected) > 1e-4


def test_no_gradient_reaches_the_target_and_no_optimiser_has_it():
    made, pair = disturbed(objective()), make_views(windows(8))
    made(pair).total.backward()
    of_target = {id(p) for p in made.target.parameters()}
    assert all(p.grad is None for p in made.target.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in made.parameters() if id(p) not in of_target)
    optimiser = optim.build(Optimiser(), [made.parameters()])
    held = {id(p) for group in optimiser.param_groups for p in group["params"]}
    assert not held & of_target
    assert held | of_target == {id(p) for p in made.parameters()}
    # Nor through it, to what comes before.
    assert not made.target(pair.one_blt.clone().requires_grad_()).requires_grad


def test_the_target_begins_as_a_copy_of_the_network():
    made = objective()
    for mine, its in ((made.backbone, made.target.backbone), (made.projector, made.target.projector)):
        mine, its = mine.state_dict(), its.state_dict()
        assert mine.keys() == its.keys()
        assert all(torch.equal(mine[name], its[name]) for name in mine)
        assert not {value.data_ptr() for value in mine.values()} & {value.data_ptr() for value in its.values()}


@pytest.mark.parametrize(("step", "tau"), [(0, 0.996), (500, 0.998), (250, 0.99658579), (999, 0.99999999)])
def test_tau_rises_by_half_a_cosine(step, tau):
    assert byol.share_kept(0.996, Moment(step, 1000, 10)) == pytest.approx(tau, abs=1e-8)


def moved(repo_compat, step):
    """(name, first target, network, new target) of all parameters, after the network was put elsewhere."""
    made = objective(tau_first=0.9, repo_compat=repo_compat)
    first = copy.deepcopy(made.target)
    disturbed(made)
    before = copy.deepcopy(made.state_dict())
    made.after_step(Moment(step, 100, 10))
    network = {name: p for name, p in made.state_dict().items() if not name.startswith("target.")}
    assert all(torch.equal(before[name], value) for name, value in network.items())
    targets = dict(made.target.named_parameters())
    return [(name, p, network[name], targets[name]) for name, p in first.named_parameters()]


@pytest.mark.parametrize("step", [0, 30, 99])
def test_all_parameters_of_the_target_move_towards_the_network(step):
    tau = 1 - 0.1 * (math.cos(math.pi * step / 100) + 1) / 2
    for _, first, network, now in moved(repo_compat=False, step=step):
        expected = tau * first.double() + (1 - tau) * network.double()
        assert torch.allclose(now.double(), expected, rtol=1e-5, atol=1e-7)


def test_repo_compat_leaves_the_targets_biases_where_they_began():
    stays = {name: torch.equal(first, now) for name, first, _, now in moved(repo_compat=True, step=0)}
    assert stays == {name: "weight" not in name for name in stays}
    assert stays["backbone.stem.0.conv.bias"]
    assert stays["projector.1.bias"]
    assert not stays["projector.1.weight"]
    assert not any(torch.equal(first, now) for _, first, _, now in moved(repo_compat=False, step=0))


def test_the_targets_batchnorm_takes_the_batchs_statistics_in_training_and_remembers_them_for_evaluation():
    made, x_blt = objective(), windows(16)
    before = copy.deepcopy(made.target.state_dict())
    in_training = made.target(x_blt)
    # Of the batch: it does not matter how large the signals are when BatchNorm first sees them.
    expected = copy.deepcopy(made.target.backbone).train()(x_blt).pooled_bd
    assert torch.allclose(in_training, made.target.projector(expected), atol=1e-5)
    changed = {name for name, value in made.target.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if "running_" in name or "num_batches" in name}
    made.eval()
    assert not made.target.training
    in_evaluation = made.target(x_blt)
    assert not torch.allclose(in_evaluation, in_training, atol=1e-2)
    assert torch.allclose(made.target(x_blt[:1]), in_evaluation[:1], atol=1e-5)
    # After a step, what is remembered is still the target's own.
    remembered = {name: b.clone() for name, b in made.target.named_buffers()}
    made.after_step(Moment(0, 10, 10))
    assert all(torch.equal(b, remembered[name]) for name, b in made.target.named_buffers())


def train(made, n_steps, seed=0, n_samples=128):
    optimiser = torch.optim.Adam([p for p in made.parameters() if p.requires_grad], lr=2e-2)
    x_blt = windows(512, seed, n_samples)
    for step in range(n_steps):
        part = torch.arange(64 * step, 64 * step + 64) % 512
        optimiser.zero_grad()
        made(make_views(x_blt[part], 64 * step)).total.backward()
        optimiser.step()
        made.after_step(Moment(step, n_steps, 8))


def test_a_resumed_run_goes_on_with_the_same_target():
    whole = objective(tau_first=0.5)
    train(whole, 4)
    begun = objective(tau_first=0.5)
    # The same four steps, stopped after two.
    optimiser = torch.optim.Adam([p for p in begun.parameters() if p.requires_grad], lr=2e-2)
    x_blt = windows(512)
    for step in range(4):
        if step == 2:
            weights, moments = copy.deepcopy(begun.state_dict()), copy.deepcopy(optimiser.state_dict())
            begun = objective(seed=9, tau_first=0.5)
            begun.load_state_dict(weights)
            optimiser = torch.optim.Adam([p for p in begun.parameters() if p.requires_grad], lr=2e-2)
            optimiser.load_state_dict(moments)
        optimiser.zero_grad()
        begun(make_views(x_blt[64 * step : 64 * step + 64], 64 * step)).total.backward()
        optimiser.step()
        begun.after_step(Moment(step, 4, 8))
    ours, theirs = whole.state_dict(), begun.state_dict()
    assert any(name.startswith("target.projector.") for name in ours)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_what_is_exported_holds_no_target():
    names = objective().backbone.state_dict().keys()
    assert names == build_objective(byol.Settings(), NETWORK, n_leads=3, seed=0).target.backbone.state_dict().keys()
    assert not any("target" in name or "predictor" in name for name in names)


@pytest.mark.parametrize("control", ["none", "no_predictor", "no_stop_gradient"])
def test_controls_leave_out_what_they_say(control):
    made, pair = disturbed(objective(control=control)), make_views(windows(8))
    assert (made.target is None) == (control == "no_stop_gradient")
    assert (sum(p.numel() for p in made.predictor.parameters()) == 0) == (control == "no_predictor")
    projected = [made.projector(made.backbone(x_blt).pooled_bd) for x_blt in pair]
    targets = projected if made.target is None else [made.target(x_blt) for x_blt in pair]
    loss = byol.symmetric_loss(tuple(map(made.predictor, projected)), tuple(targets)).mean()
    total = made(pair).total
    assert total.item() == pytest.approx(loss.item(), rel=1e-5)
    weight = made.projector[0].weight
    got, whole = (torch.autograd.grad(y, weight, retain_graph=True)[0] for y in (total, loss))
    assert torch.allclose(got, whole, atol=1e-6)
    # Only without stopping it there is a gradient through the targets.
    cut = [target_bd.detach() for target_bd in targets]
    one_sided = torch.autograd.grad(
        byol.symmetric_loss(tuple(map(made.predictor, projected)), tuple(cut)).mean(), weight
    )
    assert torch.allclose(got, one_sided[0], atol=1e-6) == (control != "no_stop_gradient")


@lru_cache
def after_training(control, seed):
    """Loss and spread of the projections on held-out waves; spread before training."""
    # A target that follows at once: without a predictor, the collapse takes a few steps and not hundreds.
    made = objective(seed, tau_first=0.05, control=control)
    held_out = make_views(windows(128, seed + 1, n_samples=64), 10**6)
    with torch.no_grad():
        at_first = copy.deepcopy(made)(held_out).parts["embedding_spread"].item()
    train(made, 60, seed, n_samples=64)
    with torch.no_grad():
        terms = made(held_out)
    return terms.total.item(), terms.parts["embedding_spread"].item(), at_first


@pytest.mark.slow
@pytest.mark.learning
def test_it_learns_without_collapse(seed):
    loss, apart, _ = after_training("none", seed)
    assert loss < -3.2
    assert apart > 0.7  # of 1


@pytest.mark.learning
@pytest.mark.slow
@pytest.mark.parametrize("control", ["no_predictor", "no_stop_gradient"])
def test_without_predictor_or_with_gradient_into_the_targets_it_collapses(seed, control):
    """The loss is lower than that of what has learned something: it says nothing."""
    loss, apart, at_first = after_training(control, seed)
    healthy_loss, healthy_apart, _ = after_training("none", seed)
    assert 4 + loss < 0.5 * (4 + healthy_loss)
    assert apart < 0.5 * at_first
    assert apart < 0.5 * healthy_apart


def test_it_says_what_it_needs_of_a_run():
    made = objective()
    assert made.wants_sync_batchnorm
    assert not made.compares_windows
    with pytest.raises(ConfigError, match="at least 2 windows, got 1"):
        made.check(window_samples=250, batch_size=1, fs_hz=100.0)
    made.check(window_samples=250, batch_size=2, fs_hz=100.0)
    with pytest.raises(ConfigError):
        parse(byol.Settings, {"tau_first": 1.0})
    with pytest.raises(ConfigError, match="no_target"):
        parse(byol.Settings, {"control": "no_target"})


def test_bfloat16_networks_keep_the_loss_in_float32():
    made, pair = objective(), make_views(windows(32))
    exact = made(pair)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = made(pair)
    assert rounded.total.dtype == torch.float32
    assert rounded.total.item() == pytest.approx(exact.total.item(), abs=0.1)


# --- two ranks ------------------------------------------------------------------------------------------------

STEPS = """
import json, torch
from ecgtrain import distributed
from ecgtrain.backbones import xresnet1d
from ecgtrain.methods import Moment, build_objective, byol

def judge(rank, world):
    network = xresnet1d.Settings(depths=(1, 1), stem=(4, 4, 4), width=2)
    settings = byol.Settings(hidden_width=8, tau_first=0.5)
    made = build_objective(settings, network, n_leads=2, seed=0).double()
    inner = distributed.replicate(distributed.synchronise_batchnorm(made), unused_parameters=False)
    optimiser = torch.optim.SGD([p for p in made.parameters() if p.requires_grad], lr=0.1)
    mine, losses = slice(6 // world * rank, 6 // world * (rank + 1)), []
    for step in range(3):
        x_vblt = torch.randn(2, 6, 2, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        x_vblt[1] += x_vblt[0]
        optimiser.zero_grad()
        terms = inner(byol.Views(*x_vblt[:, mine]))
        terms.total.backward()
        optimiser.step()
        made.after_step(Moment(step, 3, 1))
        losses.append((distributed.total(terms.total) / world).item())
    return losses, {name: value.double().flatten().tolist() for name, value in made.state_dict().items()}
"""
ON_RANKS = (
    STEPS
    + """
with distributed.ranks("cpu"):
    print(json.dumps(judge(distributed.rank(), distributed.world())))
"""
)


@pytest.mark.slow
@pytest.mark.learning
def test_two_ranks_with_half_batches_learn_what_one_with_the_whole_learns():
    namespace: dict = {}
    exec(STEPS, namespace)
    losses, weights = namespace["judge"](0, 1)
    for of_rank, its in map(json.loads, said_by_ranks(2, ON_RANKS)):
        assert of_rank == pytest.approx(losses, rel=1e-5)  # the loss itself is in float32
        assert its.keys() == weights.keys()
        assert all(its[name] == pytest.approx(weights[name], rel=1e-5, abs=1e-7) for name in weights)
