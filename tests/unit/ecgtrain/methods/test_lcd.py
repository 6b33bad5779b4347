from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from ecgstore import ConfigError
from ecgtrain.backbones import vgg1d
from ecgtrain.methods import Moment, WindowBatch, build_objective, lcd
from ecgtrain.views.draw import Draw
from ecgtrain.views.normalise import Millivolts, normalise

N_LEADS = 4


def objective(seed=0, n_leads=N_LEADS, backbone=None, **settings):
    method = lcd.Settings(**{"width": 32, **settings})
    return build_objective(method, backbone or vgg1d.Settings(alpha=0.05), n_leads, seed)


def batch(n=16, n_samples=64, step=0, seed=0):
    """Waves whose period and phase belong to the window, and whose height to the lead."""
    rng = np.random.default_rng(seed)
    period = rng.uniform(12, 40, (n, 1, 1))
    phase = rng.uniform(0, 2 * np.pi, (n, 1, 1)) + 2 * np.pi * np.arange(n_samples) / period
    x = np.sin(phase) * np.linspace(0.5, 2, N_LEADS)[None, :, None] + 0.1 * rng.standard_normal((n, N_LEADS, n_samples))
    mv = Millivolts(torch.from_numpy(x.astype(np.float32)), torch.ones(n, N_LEADS, n_samples, dtype=torch.bool))
    return WindowBatch(mv, torch.arange(n), 100.0, partial(normalise, mode="record"), Draw(3), step)


def loss_in_plain_words(g1, g2, z, h1, h2, gamma, weight, divisor=None):
    """The equations, one window and one pair of features at a time in float64."""
    n, d = h1.shape[0], 2 * h1.shape[1]

    def distance(p, q):
        return 2 - 2 * sum(a * b for a, b in zip(p, q, strict=True)) / (math.sqrt(sum(p**2)) * math.sqrt(sum(q**2)))

    intra = sum(distance(p, q) for p, q in zip(g1, z, strict=True)) / n
    inter = sum(distance(p, q) for p, q in zip(g2, z, strict=True)) / n
    both = np.concatenate([h1, h2], axis=1)
    columns = []
    for j in range(d):
        mean = sum(both[:, j]) / n
        variance = sum((both[:, j] - mean) ** 2) / n
        columns.append((both[:, j] - mean) / math.sqrt(variance + 1e-5))
    spread, off = 0.0, 0.0
    for i in range(d):
        for j in range(d):
            c = sum(columns[i] * columns[j]) / (divisor or n)
            spread += (c - 1) ** 2 if i == j else weight * c**2
            off += 0 if i == j else abs(c)
    return intra + inter + gamma * spread, intra, inter, spread, off / (d * (d - 1))


def heads_of(made, views):
    """What the equations speak of, computed part by part by the network's own layers."""
    h1 = made.projector(made.backbone.encode_lead(views.first_b1t[:, 0], views.a))
    h2 = made.projector(made.backbone.encode_lead(views.other_lead_b1t[:, 0], views.b))
    z = made.target_projector(made.target_backbone.encode_lead(views.target_b1t[:, 0], views.a))
    return made.predictor(h1), made.predictor(h2), z, h1, h2


@pytest.mark.parametrize("repo_compat", [False, True])
def test_the_loss_is_the_published_one(repo_compat):
    made = objective(repo_compat=repo_compat).double().train()
    with torch.no_grad():  # so that target and network differ
        for parameter in made.target_backbone.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    made.check(64, 24, 100.0)
    views = lcd.views(lcd.Settings(), batch(n=12))
    views = views._replace(**{name: getattr(views, name).double() for name in views._fields[:3]})
    parts = [one.detach().numpy() for one in heads_of(made, views)]
    total, intra, inter, spread, off = loss_in_plain_words(*parts, 0.005, 0.0051, 24 if repo_compat else None)
    terms = made(views)
    # The loss itself is computed in float32.
    assert terms.total.item() == pytest.approx(total, rel=1e-5)
    found = {name: value.item() for name, value in terms.parts.items()}
    expected = {"intra": intra, "inter": inter, "decorrelation": spread, "off_diagonal": off}
    assert found == pytest.approx(expected, rel=1e-4)


def test_true_batch_size_leaves_the_diagonal_at_one_and_the_nominal_does_not():
    features = torch.randn(10, 6, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(lcd.correlations(features).diagonal(), torch.ones(6), atol=1e-3)
    assert torch.allclose(lcd.correlations(features, 40).diagonal(), torch.full((6,), 0.25), atol=1e-3)
    # METHODS of the paper's code: 64 records of 256 add 0.005 x 1024 x 0.75^2 = 2.88 to the loss.
    wide = torch.randn(64, 1024)
    spike = 0.005 * (lcd.correlations(wide, 256).diagonal() - 1).square().sum()
    assert spike.item() == pytest.approx(2.88, abs=0.01)


def test_correlations_are_numpys():
    features = torch.randn(50, 5, generator=torch.Generator().manual_seed(0))
    assert np.allclose(lcd.correlations(features), np.corrcoef(features.numpy().T), atol=1e-4)


def test_decorrelation_is_on_both_leads_together():
    """h1 = h2: each feature repeats another lead's, which only the cross block shows."""
    made = objective()
    views = lcd.views(lcd.Settings(), batch())
    same = views._replace(other_lead_b1t=views.first_b1t, b=views.a)
    terms, apart = made(same), made(views)
    h1 = made.projector(made.backbone.encode_lead(views.first_b1t[:, 0], views.a)).detach()
    cross = lcd.correlations(torch.cat([h1, h1], dim=1))[:32, 32:]
    assert torch.allclose(cross.diagonal(), torch.ones(32), atol=1e-3)
    assert terms.parts["decorrelation"] > apart.parts["decorrelation"]


def test_two_different_leads_are_drawn_once_for_a_step():
    pairs = [lcd.draw_leads(batch(n=4, step=step), 8) for step in range(1000)]
    assert all(a != b for a, b in pairs)
    counts = np.zeros((8, 8))
    np.add.at(counts, tuple(np.array(pairs).T), 1)
    expected = 1000 / 56
    assert (np.abs(counts[~np.eye(8, dtype=bool)] - expected) < 5 * math.sqrt(expected)).all()
    # Which windows a rank has makes no difference.
    other = batch(n=2, step=7)._replace(sample_numbers_b=torch.tensor([500, 9]))
    assert lcd.draw_leads(other, 8) == lcd.draw_leads(batch(step=7), 8)


def test_views_are_of_the_leads_that_were_drawn_and_differ():
    made = batch()
    views = lcd.views(lcd.Settings(augmentations=()), made)
    normalised = made.normalise(made.mv)
    assert torch.equal(views.first_b1t, normalised[:, views.a : views.a + 1])
    assert torch.equal(views.other_lead_b1t, normalised[:, views.b : views.b + 1])
    assert torch.equal(views.target_b1t, normalised[:, views.a : views.a + 1])
    augmented = lcd.views(lcd.Settings(), made)
    assert not torch.allclose(augmented.first_b1t, augmented.target_b1t)


def test_no_gradient_reaches_the_target_and_it_follows_slowly():
    made = objective(momentum=0.9)
    before = [parameter.clone() for parameter in made.target_backbone.parameters()]
    made(lcd.views(lcd.Settings(), batch())).total.backward()
    assert all(parameter.grad is None for parameter in made.target_backbone.parameters())
    with torch.no_grad():
        for parameter in made.backbone.parameters():
            parameter.add_(1.0)
    made.after_step(Moment(0, 10, 1))
    for old, target, mine in zip(before, made.target_backbone.parameters(), made.backbone.parameters(), strict=True):
        assert torch.allclose(target, 0.9 * old + 0.1 * mine, atol=1e-6)


def trained(seed, n_steps=40, **settings):
    made = objective(seed, **settings)
    method = lcd.Settings(**settings)
    optimiser = torch.optim.Adam([p for p in made.parameters() if p.requires_grad], lr=2e-3)
    for step in range(n_steps):
        optimiser.zero_grad()
        terms = made(lcd.views(method, batch(n=32, step=step, seed=seed + step)))
        terms.total.backward()
        optimiser.step()
        made.after_step(Moment(step, n_steps, 1))
    return made, {name: value.item() for name, value in terms.parts.items()}


@pytest.mark.slow
@pytest.mark.learning
def test_it_learns(seed):
    # More decorrelation than published, to be seen after a few steps.
    made, parts = trained(seed, gamma=0.5)
    assert parts["intra"] < 1.4  # of what has nothing in common, 2
    assert parts["inter"] < 1.4
    assert made.backbone is not made.target_backbone


@pytest.mark.slow
@pytest.mark.learning
def test_without_its_parts_it_does_not_learn(seed):
    _, parts = trained(seed, gamma=0.5)
    # Compared with its own projections, it has nothing to keep up with and nothing to lose.
    _, cheating = trained(seed, control="no_stop_gradient", gamma=0.0)
    assert cheating["intra"] < 0.5 * parts["intra"]
    # Without decorrelation, features repeat each other: 1.5 to 3.6 times as much with eight seeds. Without effect,
    # both trainings would be the same.
    _, repeating = trained(seed, gamma=0.0)
    assert repeating["off_diagonal"] > 1.15 * parts["off_diagonal"]


@pytest.mark.learning
def test_one_lead_in_place_of_two_makes_the_second_task_the_first(seed):
    _, parts = trained(seed, n_steps=2, control="same_lead")
    views = lcd.views(lcd.Settings(control="same_lead"), batch())
    assert views.a == views.b
    assert parts["inter"] == pytest.approx(parts["intra"], abs=0.25)


def test_own_encoders_for_each_lead():
    made = objective(backbone=vgg1d.Settings(alpha=0.05, tie_leads=False))
    assert made.leaves_parameters_out
    assert not objective().leaves_parameters_out
    views = lcd.views(lcd.Settings(), batch())
    made(views).total.backward()
    touched = [any(p.grad is not None for p in its.parameters()) for its in made.backbone.encoders]
    assert [lead for lead, its in enumerate(touched) if its] == sorted((views.a, views.b))


def test_what_cannot_be_learned_from_is_refused():
    with pytest.raises(ConfigError, match="expected a batch of at least 2 windows, got 1"):
        objective().check(64, 1, 100.0)
    with pytest.raises(ConfigError, match="too short for the encoder.*expected 32 samples or more, got 31"):
        objective().check(31, 8, 100.0)
    before = {name: value.clone() for name, value in objective().state_dict().items()}
    asked = objective()
    asked.check(64, 8, 100.0)
    assert all(torch.equal(value, before[name]) for name, value in asked.state_dict().items())
    with pytest.raises(ConfigError, match="expected two leads or more, got 1"):
        objective(n_leads=1)
    with pytest.raises(ConfigError, match="lcd needs a backbone that encodes one lead at a time.*vgg1d"):
        lcd.build(lcd.Settings(), nn.Identity())


# --- the target, in every part ----------------------------------------------------------------------------------


@pytest.mark.parametrize("tie_leads", [True, False])
def test_the_target_is_the_moving_average_of_encoders_and_projector_and_of_no_buffer(tie_leads):
    made = objective(backbone=vgg1d.Settings(alpha=0.05, tie_leads=tie_leads), momentum=0.9)
    made(lcd.views(lcd.Settings(), batch()))  # so that what BatchNorms remember is not what they began with
    pairs = ((made.backbone, made.target_backbone), (made.projector, made.target_projector))
    before = [{name: value.clone() for name, value in its.state_dict().items()} for _, its in pairs]
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    made.after_step(Moment(0, 10, 1))
    for (mine, its), old in zip(pairs, before, strict=True):
        parameters, network = dict(its.named_parameters()), mine.state_dict()
        assert parameters.keys() == dict(mine.named_parameters()).keys()
        for name, now in its.state_dict().items():
            expected = 0.9 * old[name] + 0.1 * network[name] if name in parameters else old[name]
            assert torch.allclose(now, expected, atol=1e-6), name
        # What the target's BatchNorms remember is of the target's own view, not of the network's.
        means = [name for name in old if name.endswith("running_mean")]
        assert any(not torch.allclose(old[name], network[name], atol=1e-4) for name in means)


def test_with_encoders_of_their_own_the_target_is_that_of_lead_a():
    made = objective(backbone=vgg1d.Settings(alpha=0.05, tie_leads=False))
    with torch.no_grad():
        for lead, its in enumerate(made.target_backbone.encoders):
            for parameter in its.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(lead)))
    views = lcd.views(lcd.Settings(), batch())
    *_, z, _, _ = heads_of(made, views)
    assert torch.allclose(made._target(views), z, atol=1e-5)
    other = made.target_projector(made.target_backbone.encode_lead(views.target_b1t[:, 0], views.b))
    assert not torch.allclose(z, other, atol=1e-2)


def test_validation_takes_what_the_targets_batchnorms_remember():
    made = objective()
    for step in range(3):
        made(lcd.views(lcd.Settings(), batch(step=step)))
    made.eval()
    views = lcd.views(lcd.Settings(), batch())
    few = views._replace(**{name: getattr(views, name)[:2] for name in views._fields[:3]})
    assert torch.allclose(made._target(few), made._target(views)[:2], atol=1e-5)


# --- what gradients there are -----------------------------------------------------------------------------------


@pytest.mark.parametrize("control", ["none", "no_stop_gradient"])
def test_gradients_flow_into_what_is_predicted_only_in_the_control(control):
    """The gradient, by finite differences of the loss with the target's side held fast, or not."""
    made = objective(control=control, gamma=0.0).double()
    views = lcd.views(lcd.Settings(), batch(n=6))
    views = views._replace(**{name: getattr(views, name).double() for name in views._fields[:3]})
    weight = made.projector[3].weight
    found = torch.autograd.grad(made(views).total, weight)[0][0, :4]

    def loss(moved):
        """In float64: with weight [0, i] ``moved``, and what is predicted moved too or not."""

        def distance(lead_b1t, lead, z):
            predicted = made.predictor(made.projector(made.backbone.encode_lead(lead_b1t[:, 0], lead)))
            return (2 - 2 * nn.functional.cosine_similarity(predicted, z)).mean()

        def projected():
            return made.projector(made.backbone.encode_lead(views.target_b1t[:, 0], views.a))

        with torch.no_grad():
            z = made._target(views)
            i, by = moved
            weight[0, i] += by
            z = projected() if control == "no_stop_gradient" else z
            both = distance(views.first_b1t, views.a, z) + distance(views.other_lead_b1t, views.b, z)
            weight[0, i] -= by
        return both.item()

    numeric = [(loss((i, 1e-5)) - loss((i, -1e-5))) / 2e-5 for i in range(4)]
    assert np.allclose(found, numeric, rtol=1e-3, atol=1e-5)
    assert np.abs(numeric).max() > 1e-3


def test_the_gradient_of_the_decorrelation_is_that_of_the_loss():
    features = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: lcd.decorrelation(lcd.correlations(x), 0.0051), features)


def test_nothing_that_is_logged_carries_a_gradient():
    total, parts, features_vbd = objective()(lcd.views(lcd.Settings(), batch()))
    assert total.requires_grad
    assert not features_vbd.requires_grad
    assert not any(part.requires_grad for part in parts.values())
    assert features_vbd.shape[:2] == (2, 16)


# --- views and precision ----------------------------------------------------------------------------------------


def test_each_of_the_three_views_has_draws_of_its_own():
    """All leads made equal: then views differ by their draws alone."""
    made = batch(n=64)
    made.mv.x_blt.copy_(made.mv.x_blt[:, :1].expand_as(made.mv.x_blt))
    first, other_lead, target = lcd.views(lcd.Settings(), made)[:3]
    for one, other in ((first, other_lead), (first, target), (other_lead, target)):
        assert not torch.isclose(one, other).all(dim=2).any()


def test_views_of_a_window_hang_on_its_number_and_the_step_alone():
    whole = batch(n=8)
    half = whole._replace(mv=Millivolts(*(x[4:] for x in whole.mv)), sample_numbers_b=torch.arange(4, 8))
    for of_all, of_half in zip(lcd.views(lcd.Settings(), whole), lcd.views(lcd.Settings(), half), strict=True):
        if isinstance(of_all, torch.Tensor):
            assert torch.allclose(of_all[4:], of_half, atol=1e-5)
        else:
            assert of_all == of_half


def test_bfloat16_networks_keep_correlations_in_float32(monkeypatch):
    made, views, seen = objective(), lcd.views(lcd.Settings(), batch(n=32)), []
    exact = made(views)
    correlations = lcd.correlations
    monkeypatch.setattr(lcd, "correlations", lambda x, n: seen.append(x.dtype) or correlations(x, n))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = made(views)
    assert seen == [torch.float32]
    assert rounded.parts["off_diagonal"].dtype == rounded.total.dtype == torch.float32
    assert rounded.total.item() == pytest.approx(exact.total.item(), rel=0.05)


def test_the_published_objective_learns_901_512_parameters():
    made = build_objective(lcd.Settings(), vgg1d.Settings(), 8, 0)
    head = 512 * 512 + 512
    projector, predictor = 64 * 512 + 512 + 2 * 512 + head, head + 2 * 512 + head
    assert sum(p.numel() for p in made.projector.parameters()) == projector
    assert sum(p.numel() for p in made.predictor.parameters()) == predictor
    assert 78_216 + projector + predictor == 901_512
    assert sum(p.numel() for p in made.parameters() if p.requires_grad) == 901_512
