from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch

from ecgstore import ConfigError
from ecgstore.inner import parse
from ecgtrain.backbones import xresnet1d
from ecgtrain.methods import WindowBatch, build_objective, simclr
from ecgtrain.views.augmentations import CROP_AND_TIME_OUT
from ecgtrain.views.draw import Draw
from ecgtrain.views.normalise import Millivolts, normalise

NETWORK = xresnet1d.Settings(depths=(1, 1), stem=(8, 8, 16), width=8)


def loss_in_plain_words(one, other, temperature, taken_off=None):
    """The equation, one view at a time: -log of the other view's share. ``taken_off``: as published, from all."""
    views_nd = [v / math.sqrt(sum(x * x for x in v)) for v in (*one, *other)]
    n, losses, found = len(one), [], []
    for i in range(2 * n):
        p = i + n if i < n else i - n
        cosine = [sum(a * b for a, b in zip(views_nd[i], views_nd[j], strict=True)) for j in range(2 * n)]
        others = [j for j in range(2 * n) if j != i]
        if taken_off is None:
            total = sum(math.exp(cosine[j] / temperature) for j in others)
        else:
            total = sum(math.exp(c / temperature) for c in cosine) - taken_off
        losses.append(-math.log(math.exp(cosine[p] / temperature) / total))
        found.append(max(others, key=lambda j: cosine[j]) == p)
    return losses, found


def projections(n=7, n_features=5, seed=0):
    """Pairs that are alike, but not so much that all are found."""
    generator = torch.Generator().manual_seed(seed)
    one, noise = torch.randn(2, n, n_features, dtype=torch.float64, generator=generator)
    return 3 * one, one + 1.2 * noise


def objective(seed=0, **settings):
    return build_objective(simclr.Settings(hidden_width=64, **settings), NETWORK, n_leads=3, seed=seed)


def windows(n, seed=0, n_samples=128):
    """Waves of one frequency per window, with amplitude and offset of each lead: windows can be told apart."""
    rng = np.random.default_rng(seed)
    angle = 2 * np.pi * (rng.uniform(0.02, 0.25, (n, 1, 1)) * np.arange(n_samples) + rng.uniform(0, 1, (n, 1, 1)))
    gain, offset = rng.standard_normal((2, n, 3, 1))
    x = gain * np.sin(angle) + offset + 0.05 * rng.standard_normal((n, 3, n_samples))
    return torch.from_numpy(x.astype(np.float32))


def make_views(x_blt, numbers=None, method=None, mode="none"):
    mv = Millivolts(x_blt, torch.ones_like(x_blt, dtype=torch.bool))
    numbers = torch.arange(len(x_blt)) if numbers is None else numbers
    batch = WindowBatch(mv, numbers, 100.0, partial(normalise, mode=mode), Draw(1))
    return simclr.views(method or simclr.Settings(), batch)


# --- the loss -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.07, 0.5, 2.0])
def test_the_loss_is_the_published_one(temperature):
    one, other = projections()
    loss_n, found_n = simclr.nt_xent(one, other, temperature)
    expected, found = loss_in_plain_words(one.numpy(), other.numpy(), temperature)
    assert np.allclose(loss_n, expected, rtol=1e-10)
    assert found_n.tolist() == found
    assert 0 < sum(found) < len(found)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
def test_repo_compat_takes_e_off_instead_of_the_view_itself(temperature):
    one, other = projections()
    loss_n, found_n = simclr.nt_xent(one, other, temperature, repo_compat=True)
    expected, found = loss_in_plain_words(one.numpy(), other.numpy(), temperature, taken_off=math.e)
    assert np.allclose(loss_n, expected, rtol=1e-10)
    assert found_n.tolist() == found


def test_at_temperature_one_half_4_67_of_the_view_itself_remain():
    one, other = projections()
    z = torch.nn.functional.normalize(torch.cat([one, other]), dim=1)
    positive = (z * z.roll(len(one), 0)).sum(1) / 0.5
    totals = [(simclr.nt_xent(one, other, 0.5, repo_compat=compat)[0] + positive).exp() for compat in (False, True)]
    assert torch.allclose(totals[1] - totals[0], torch.full((14,), math.e**2 - math.e, dtype=torch.float64))
    # At temperature 1 the constant is right, and both are one.
    losses = [simclr.nt_xent(one, other, 1.0, repo_compat=compat)[0] for compat in (False, True)]
    assert torch.allclose(*losses)


@pytest.mark.parametrize("repo_compat", [False, True])
def test_its_gradient_is_that_of_the_loss(repo_compat):
    one, other = (x[:3].requires_grad_() for x in projections(n_features=4))

    def loss(one, other):
        return simclr.nt_xent(one, other, 0.5, repo_compat=repo_compat)[0].mean()

    assert torch.autograd.gradcheck(loss, (one, other))


@pytest.mark.parametrize("repo_compat", [False, True])
def test_small_temperatures_do_not_overflow(repo_compat):
    one, other = (x.float().requires_grad_() for x in projections())
    loss_n, _ = simclr.nt_xent(one, other, 0.005, repo_compat=repo_compat)
    loss_n.mean().backward()
    assert torch.isfinite(loss_n).all()
    assert torch.isfinite(one.grad).all()


def test_every_window_finds_its_own_other_view():
    one, _ = projections()
    _, found = simclr.nt_xent(one, one * 2, 0.5)
    assert found.all()
    _, crossed = simclr.nt_xent(one, one.roll(1, 0), 0.5)
    assert not crossed.any()


@pytest.mark.parametrize("repo_compat", [False, True])
@pytest.mark.parametrize("n", [2, 64])
def test_the_same_of_all_windows_scores_chance(n, repo_compat):
    made = objective(repo_compat=repo_compat)
    made.check(window_samples=128, batch_size=n, fs_hz=100.0)
    same = torch.ones(n, 4, dtype=torch.float64)
    loss_n, _ = simclr.nt_xent(same, same, 0.5, repo_compat=repo_compat)
    assert loss_n.mean().item() == pytest.approx(made.chance["nt_xent"], rel=1e-10)


@pytest.mark.parametrize(("batch_size", "nats"), [(4096, 9.0108), (128, 5.5413), (64, 4.8442)])
def test_chance_is_that_of_the_whole_batch(batch_size, nats):
    made = objective()
    assert made.chance == {}  # nobody has said how large the batch is
    made.check(window_samples=250, batch_size=batch_size, fs_hz=100.0)
    assert made.chance["nt_xent"] == pytest.approx(nats, abs=1e-4)
    assert made.chance["retrieval"] == pytest.approx(1 / (2 * batch_size - 1))


# --- the views ------------------------------------------------------------------------------------------------


def test_two_views_of_a_window_differ_and_hang_on_its_number_alone():
    assert simclr.Settings().augmentations == CROP_AND_TIME_OUT
    x_blt, numbers = windows(6), torch.tensor([4, 17, 90, 3, 8, 1])
    whole = make_views(x_blt, numbers)
    assert whole.one_blt.shape == x_blt.shape
    assert not torch.equal(whole.one_blt, whole.other_blt)
    part = make_views(x_blt[2:4], numbers[2:4])
    assert torch.equal(part.one_blt, whole.one_blt[2:4])
    assert torch.equal(part.other_blt, whole.other_blt[2:4])


def test_views_are_normalised_after_they_are_augmented():
    method = parse(simclr.Settings, {"augmentations": [{"name": "lead_scaling", "gain": [2, 3]}]})
    for x_blt in make_views(windows(4), method=method, mode="record"):
        assert torch.allclose(x_blt.std((1, 2), correction=0), torch.ones(4), atol=1e-4)


def test_a_recipe_names_augmentations():
    content = {"augmentations": ["random_resized_crop", {"name": "muscle", "max_mv": 0.2}], "temperature": 0.1}
    method = parse(simclr.Settings, content)
    assert [one.name for one in method.augmentations] == ["random_resized_crop", "muscle"]
    with pytest.raises(ConfigError, match="muscle"):
        parse(simclr.Settings, {"augmentations": ["mucsle"]})
    with pytest.raises(ConfigError):
        parse(simclr.Settings, {"temperature": 0})


# --- the objective --------------------------------------------------------------------------------------------


def test_the_published_objective_has_1_16_million_parameters():
    made = build_objective(simclr.Settings(), xresnet1d.Settings(), n_leads=12, seed=0)
    assert sum(p.numel() for p in made.projector.parameters()) == 512 * 512 + 512 + 512 * 16 + 16
    assert sum(p.numel() for p in made.parameters()) == 1_157_296
    assert not any(isinstance(module, torch.nn.BatchNorm1d) for module in made.projector)


def test_the_objective_is_the_loss_of_what_the_projector_makes_of_each_view_by_itself():
    made, pair = objective(), make_views(windows(8))
    expected = [made.projector(made.backbone(x_blt).pooled_bd) for x_blt in pair]
    loss_n, found_n = simclr.nt_xent(*expected, 0.5)
    total, parts, features_vbd = made(pair)
    assert total.item() == pytest.approx(loss_n.mean().item(), rel=1e-5)
    assert parts["nt_xent"].item() == total.item()
    assert parts["retrieval"].item() == pytest.approx(found_n.float().mean().item())
    assert features_vbd.shape == (2, 8, made.backbone.pooled_width)
    assert not features_vbd.requires_grad
    # Encoded together, BatchNorm would see both sets of views as one: another loss.
    together = made.projector(made.backbone(torch.cat(pair)).pooled_bd).chunk(2)
    assert abs(simclr.nt_xent(*together, 0.5)[0].mean().item() - total.item()) > 1e-4


def test_all_parameters_learn():
    made = objective()
    for parameter in made.parameters():  # the last BatchNorm of a block begins at 0, and stops what is before it
        torch.nn.init.normal_(parameter, 0.1, 0.2, generator=torch.Generator().manual_seed(0))
    made(make_views(windows(8))).total.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in made.parameters())


def test_it_says_what_it_needs_of_a_run():
    made = objective()
    assert made.compares_windows
    assert made.wants_sync_batchnorm
    with pytest.raises(ConfigError, match="at least 2 windows, got 1"):
        made.check(window_samples=250, batch_size=1, fs_hz=100.0)


def test_bfloat16_networks_keep_similarities_in_float32():
    made, pair = objective(), make_views(windows(16))
    exact = made(pair)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = made(pair)
    assert rounded.total.dtype == torch.float32
    assert rounded.total.item() == pytest.approx(exact.total.item(), rel=0.02)


def test_a_resumed_objective_is_the_same():
    made, pair = objective(), make_views(windows(8))
    made(pair)
    again = objective(seed=1)
    again.load_state_dict(made.state_dict())
    assert again.eval()(pair).total.item() == made.eval()(pair).total.item()


def trained(pair_up, seed, n_steps=45):
    """Train on waves, with ``pair_up`` saying what is taken for two views of a window; parts on held-out ones."""
    made = objective(seed)
    optimiser = torch.optim.Adam(made.parameters(), lr=3e-3)
    x_blt = windows(512, seed)
    for step in range(n_steps):
        part = torch.arange(64 * step, 64 * step + 64) % 512
        optimiser.zero_grad()
        made(pair_up(make_views(x_blt[part], 64 * step + torch.arange(64)))).total.backward()
        optimiser.step()
    made.eval()
    held_out = pair_up(make_views(windows(64, seed + 1), 10**6 + torch.arange(64)))
    with torch.no_grad():
        terms = made(held_out)
        return terms.parts, [made.projector(x_bd) for x_bd in terms.features_vbd]


@pytest.mark.learning
def test_it_learns_to_tell_windows_apart(seed):
    chance, unit = math.log(127), torch.nn.functional.normalize
    parts, projected = trained(lambda pair: pair, seed)
    one, other = (unit(x_bd) for x_bd in projected)
    assert parts["nt_xent"].item() < chance - 1.0
    assert parts["retrieval"].item() > 20 / 127
    assert (one.std(dim=0).square().mean().sqrt() * math.sqrt(16)).item() > 0.5
    # Two views of a window lie nearer to each other than views of two windows do.
    aligned, apart = (one - other).norm(dim=1).mean(), (one - other.roll(1, 0)).norm(dim=1).mean()
    assert aligned < 0.5 * apart


@pytest.mark.slow
@pytest.mark.learning
def test_it_cannot_learn_where_pairs_are_wrong(seed):
    """Negative control: views of two windows are called a pair."""
    parts, _ = trained(lambda pair: simclr.Views(pair.one_blt, pair.other_blt.roll(1, 0)), seed)
    assert parts["nt_xent"].item() > math.log(127) - 0.2
    assert parts["retrieval"].item() < 10 / 127  # chance 1 / 127
