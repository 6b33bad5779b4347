from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from ecgstore import ConfigError
from ecgtrain.backbones import cpc_lstm
from ecgtrain.backbones.layers.encoder import Encoder
from ecgtrain.methods import WindowBatch, build_objective, cpc
from ecgtrain.views.draw import Draw
from ecgtrain.views.normalise import Millivolts, normalise

NETWORK = cpc_lstm.Settings(encoder=Encoder(width=16), lstm_width=16, lstm_layers=1)


def loss_in_plain_words(predicted, latents, negatives, ahead):
    """The equation, one term at a time in float64: -log of the positive's share."""
    loss = np.zeros(negatives.shape[:2])
    for b in range(negatives.shape[0]):
        for t in range(negatives.shape[1]):
            positive = math.exp(predicted[b, t] @ latents[b, t + ahead])
            others = sum(math.exp(predicted[b, t] @ latents[b, j]) for j in negatives[b, t])
            loss[b, t] = -math.log(positive / (positive + others))
    return loss


def objective(seed=0, **settings):
    return build_objective(cpc.Settings(**settings), NETWORK, n_leads=3, seed=seed)


def windows(n, seed=0, n_samples=100):
    """Waves of one period per window and lead, with noise: what comes next can be told from them."""
    rng = np.random.default_rng(seed)
    time = np.arange(n_samples)
    phase = rng.uniform(0, 2 * np.pi, (n, 3, 1)) + 2 * np.pi * time / rng.uniform(25, 60, (n, 1, 1))
    return torch.from_numpy((np.sin(phase) + 0.1 * rng.standard_normal(phase.shape)).astype(np.float32))


def make_views(method, x_blt, first_number=0):
    mv = Millivolts(x_blt, torch.ones_like(x_blt, dtype=torch.bool))
    numbers = torch.arange(first_number, first_number + len(x_blt))
    return cpc.views(method, WindowBatch(mv, numbers, 100.0, partial(normalise, mode="none"), Draw(1)))


@pytest.mark.parametrize("ahead", [1, 5])
def test_the_loss_is_the_published_one(ahead):
    generator = torch.Generator().manual_seed(0)
    predicted = torch.randn(3, 20 - ahead, 8, generator=generator)
    latents = torch.randn(3, 20, 8, generator=generator)
    negatives = cpc.draw_negatives(Draw(0), torch.arange(3), 20, ahead, 9)
    loss_bs, hit_bs = cpc.info_nce(predicted, latents, negatives, ahead)
    expected = loss_in_plain_words(predicted.double().numpy(), latents.double().numpy(), negatives.numpy(), ahead)
    assert np.allclose(loss_bs, expected, rtol=1e-5, atol=1e-6)
    # The positive ranks first exactly where it beats each negative.
    scores = torch.bmm(predicted, latents.transpose(1, 2))
    best = scores.gather(2, negatives).amax(2)
    assert torch.equal(hit_bs, scores.diagonal(ahead, 1, 2)[:, : 20 - ahead] > best)
    assert 0 < hit_bs.float().mean() < 0.5


def test_the_sum_over_terms_of_the_batch_mean_is_minimised():
    x_blt = windows(4)
    summed, averaged = objective(reduction="sum"), objective(reduction="mean")
    total, parts, _ = summed(make_views(cpc.Settings(), x_blt))
    mean = averaged(make_views(cpc.Settings(), x_blt)).total
    assert total.item() == pytest.approx((100 - 12) * mean.item(), rel=1e-5)
    assert parts["per_term_nats"].item() == pytest.approx(mean.item(), rel=1e-5)


@pytest.mark.parametrize(("n_latents", "ahead"), [(20, 12), (7, 1), (13, 12)])
def test_negatives_are_any_other_latent_of_the_window_alike_often(n_latents, ahead):
    n = 6000
    drawn = cpc.draw_negatives(Draw(5), torch.arange(3), n_latents, ahead, n).numpy()
    assert drawn.shape == (3, n_latents - ahead, n)
    for t in range(n_latents - ahead):
        counts = np.bincount(drawn[:, t].ravel(), minlength=n_latents)
        assert counts[t + ahead] == 0
        others = np.delete(counts, t + ahead)
        expected = 3 * n / (n_latents - 1)
        assert len(others) == n_latents - 1
        assert (np.abs(others - expected) < 5 * math.sqrt(expected)).all()


def test_negatives_are_drawn_anew_for_each_term_and_window_but_hang_on_nothing_else():
    numbers = torch.tensor([4, 17, 90])
    drawn = cpc.draw_negatives(Draw(5), numbers, 40, 12, 16)
    assert not torch.equal(drawn[0, 0], drawn[0, 1])
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.equal(cpc.draw_negatives(Draw(5), numbers[1:2], 40, 12, 16)[0], drawn[1])


@pytest.mark.parametrize("n_negatives", [8, 128])
def test_a_fresh_network_scores_chance(n_negatives):
    made = objective(n_negatives=n_negatives)
    parts = made(make_views(cpc.Settings(), windows(8))).parts
    assert made.chance["per_term_nats"] == pytest.approx(math.log(n_negatives + 1))
    assert parts["per_term_nats"].item() == pytest.approx(made.chance["per_term_nats"], rel=0.02)


def test_gradients_reach_positives_and_negatives():
    latents = torch.randn(1, 6, 4, requires_grad=True)
    predicted = torch.randn(1, 1, 4, requires_grad=True)
    loss_bs, _ = cpc.info_nce(predicted, latents, torch.tensor([[[1, 3, 3]]]), ahead=5)
    loss_bs.sum().backward()
    moved = latents.grad[0].abs().sum(1) > 0
    assert moved.tolist() == [False, True, False, True, False, True]
    # Downhill is towards the positive and away from a negative.
    assert (latents.grad[0, 5] @ predicted[0, 0]) < 0 < (latents.grad[0, 3] @ predicted[0, 0])


def test_no_context_sees_what_it_is_to_predict():
    made = objective().eval()
    x_blt = windows(2)
    changed = x_blt.clone()
    changed[:, :, 60:] += 5.0
    before, after = (made.backbone.context(made.backbone.encode(x)) for x in (x_blt, changed))
    assert torch.equal(before[:, :60], after[:, :60])
    assert not torch.allclose(before[:, 60:], after[:, 60:])


def held_out_nats(seed, n_steps=100, **settings):
    made = objective(seed, n_negatives=16, steps_ahead=6, **settings)
    method = cpc.Settings(n_negatives=16, steps_ahead=6, **settings)
    optimiser = torch.optim.AdamW(made.parameters(), lr=1e-2)
    x_blt = windows(512, seed)
    for step in range(n_steps):
        part = torch.arange(16 * step, 16 * step + 16) % 512
        optimiser.zero_grad()
        made(make_views(method, x_blt[part], 16 * step)).total.backward()
        optimiser.step()
    made.eval()
    with torch.no_grad():
        return made(make_views(method, windows(128, seed + 1), 10**6)).parts["per_term_nats"].item()


@pytest.mark.learning
def test_it_learns_to_predict_and_cannot_without_temporal_order(seed):
    chance = math.log(17)
    assert held_out_nats(seed) < 0.8 * chance
    assert held_out_nats(seed, control="time_shuffle") > 0.97 * chance


def test_all_steps_averages_the_horizons():
    made = objective(all_steps=True, steps_ahead=3)
    assert len(made.projections) == 3
    x_blt = windows(2)
    latents = made.backbone.encode(x_blt)
    contexts = made.backbone.context(latents)
    draw = Draw(1).fork(0)
    totals = []
    for ahead, project in zip((1, 2, 3), made.projections, strict=True):
        negatives = cpc.draw_negatives(draw.fork(ahead), torch.arange(2), 100, ahead, 128)
        loss_bs, _ = cpc.info_nce(project(contexts[:, :-ahead]), latents, negatives, ahead)
        totals.append(loss_bs.mean(0).sum())
    total = made(make_views(cpc.Settings(), x_blt)).total
    assert total.item() == pytest.approx(torch.stack(totals).mean().item(), rel=1e-5)


def test_the_published_objective_has_5_26_million_parameters():
    made = build_objective(cpc.Settings(), cpc_lstm.Settings(), n_leads=12, seed=0)
    assert sum(p.numel() for p in made.projections.parameters()) == 512 * 512 == 262_144
    assert sum(p.numel() for p in made.parameters()) == 5_261_312


def test_the_mlp_projection_trains():
    made = objective(projection="mlp")
    made(make_views(cpc.Settings(), windows(2))).total.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in made.projections.parameters())


def test_bfloat16_networks_keep_scores_in_float32():
    made = objective()
    x_blt = windows(4)
    exact = made(make_views(cpc.Settings(), x_blt))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = made(make_views(cpc.Settings(), x_blt))
    assert rounded.total.dtype == torch.float32
    assert rounded.total.item() == pytest.approx(exact.total.item(), rel=0.01)


def test_unfit_windows_and_backbones_are_refused():
    with pytest.raises(ConfigError, match="expected more than 12 latents, got 12"):
        objective().check(window_samples=12, batch_size=2, fs_hz=100.0)
    objective().check(window_samples=13, batch_size=2, fs_hz=100.0)
    with pytest.raises(ConfigError, match="cpc needs a backbone with latents.*got Identity"):
        cpc.build(cpc.Settings(), nn.Identity())
