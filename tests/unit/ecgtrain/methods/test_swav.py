from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from ecgstore import ConfigError
from ecgtrain.backbones.layers.features import Features
from ecgtrain.methods import Moment, WindowBatch, swav
from ecgtrain.views.distortions import Negation
from ecgtrain.views.draw import Draw
from ecgtrain.views.normalise import Millivolts, normalise

SMALL = {"n_prototypes": 12, "hidden_width": 16, "embedding_width": 8, "n_views": 3, "queue_batches": 2}


class Flat(nn.Module):
    """The smallest backbone: a linear map of the window."""

    n_leads, width, pooled_width = 2, 10, 10

    def __init__(self, n_samples=16):
        super().__init__()
        self.map = nn.Linear(2 * n_samples, 10)

    def forward(self, x_blt):
        pooled = self.map(x_blt.flatten(1)).tanh()
        return Features(pooled[:, None], pooled)


def objective(seed=0, **settings):
    torch.manual_seed(seed)
    return swav.build(swav.Settings(**{**SMALL, **settings}), Flat())


def batch(n=8, seed=0):
    x = torch.randn(n, 2, 16, generator=torch.Generator().manual_seed(seed))
    mv = Millivolts(x, torch.ones_like(x, dtype=torch.bool))
    return WindowBatch(mv, torch.arange(n) + 100 * seed, 100.0, partial(normalise, mode="none"), Draw(1))


def views(made, **settings):
    return swav.views(swav.Settings(**{**SMALL, **settings}), made)


def sinkhorn_in_plain_words(scores, epsilon, n_iterations):
    """Algorithm 1 of the paper, on Q of prototypes by windows, number by number."""
    q = np.array([[math.exp(s / epsilon) for s in column] for column in scores.T])
    n_k, n_b = q.shape
    q /= q.sum()
    for _ in range(n_iterations):
        for k in range(n_k):
            q[k] /= sum(q[k]) * n_k
        for b in range(n_b):
            q[:, b] /= sum(q[:, b]) * n_b
    return (q * n_b).T


def test_codes_are_the_papers():
    scores = torch.rand(7, 5, dtype=torch.float64) * 2 - 1
    codes = swav.sinkhorn(scores, 0.05, 3)
    assert np.allclose(codes, sinkhorn_in_plain_words(scores.numpy(), 0.05, 3), rtol=1e-9)
    assert torch.allclose(codes.sum(dim=1), torch.ones(7, dtype=torch.float64))
    # Transposed, windows would be spread and prototypes would not.
    assert not np.allclose(swav.sinkhorn(scores.T, 0.05, 3).T, codes)


def test_prototypes_are_used_alike_and_large_scores_do_no_harm():
    scores = torch.randn(64, 8, dtype=torch.float64).clamp(-1, 1)
    codes = swav.sinkhorn(scores, 0.5, 3)
    assert torch.allclose(codes.sum(dim=0), torch.full((8,), 8.0, dtype=torch.float64), rtol=1e-2)
    assert swav.sinkhorn(torch.tensor([[1000.0, -1000.0], [-1000.0, 1000.0]]), 0.05, 3).tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("repo_compat", [False, True])
def test_the_loss_is_the_published_one(repo_compat):
    made = objective(repo_compat=repo_compat).double()
    its = swav.Views(views(batch()).x_vblt.double())
    # As published, all views pass at once; else each by itself.
    together = [its.x_vblt.flatten(0, 1)] if repo_compat else its.x_vblt
    passed = [made.projector(made.backbone(x).pooled_bd).detach().numpy() for x in together]
    z = [np.array([row / math.sqrt(sum(row**2)) for row in p]) for p in np.concatenate(passed).reshape(3, 8, -1)]
    c = made.prototypes.weight.detach().numpy()
    assert np.allclose((c**2).sum(axis=1), 1)
    codes = [sinkhorn_in_plain_words(z[u] @ c.T, 0.05, 3) for u in (0, 1)]
    total = 0.0
    for u in (0, 1):
        for v in range(3):
            if v != u:
                for i in range(8):
                    scores = [sum(z[v][i] * one) / 0.1 for one in c]
                    log_sum = math.log(sum(math.exp(s) for s in scores))
                    total -= sum(codes[u][i][k] * (scores[k] - log_sum) for k in range(12)) / 8
    total /= 2 * (3 if repo_compat else 2)
    terms = made(its)
    assert terms.total.item() == pytest.approx(total, rel=1e-9)
    # No gradient goes through codes: those of the scores alone.
    terms.total.backward()
    assert made.prototypes.weight.grad.abs().sum() > 0


class Normed(Flat):
    """The same with BatchNorm."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(10)

    def forward(self, x_blt):
        pooled = self.norm(super().forward(x_blt).pooled_bd)
        return Features(pooled[:, None], pooled)


@pytest.mark.parametrize(
    ("backbone", "training", "repo_compat", "n_passes"),
    [(Normed, True, False, 3), (Normed, True, True, 1), (Normed, False, False, 1), (Flat, True, False, 1)],
)
def test_views_pass_at_once_where_that_is_the_same_or_published(backbone, training, repo_compat, n_passes):
    torch.manual_seed(0)
    made = swav.build(swav.Settings(**{**SMALL, "repo_compat": repo_compat}), backbone()).double().train(training)
    its = swav.Views(views(batch()).x_vblt.double())
    asked = []
    made.backbone.register_forward_hook(lambda *_: asked.append(1))
    terms = made(its)
    assert len(asked) == n_passes
    one_by_one = torch.stack([made.backbone(x).pooled_bd for x in its.x_vblt])
    # What differs is whose statistics BatchNorm takes, and that is the published code's own.
    assert torch.allclose(terms.features_vbd, one_by_one, rtol=1e-9) is not repo_compat


def test_chance_is_the_loss_of_prototypes_that_are_all_alike():
    made = objective()
    made.prototypes.weight.data[:] = made.prototypes.weight.data[0]
    assert made(views(batch())).total.item() == pytest.approx(math.log(12), rel=1e-4)
    assert made.chance["swav"] == pytest.approx(math.log(12))
    assert swav.build(swav.Settings(), Flat()).chance["swav"] == pytest.approx(8.006, abs=1e-3)


def step(made, number, seed=None, n_steps=40, per_epoch=4):
    moment = Moment(number, n_steps, per_epoch)
    optimiser = torch.optim.SGD(made.parameters(), lr=0.1)
    terms = made(views(batch(seed=number if seed is None else seed)))
    terms.total.backward()
    made.before_step(moment)
    optimiser.step()
    made.after_step(moment)
    optimiser.zero_grad()
    return terms


def test_prototypes_rest_for_an_epoch_and_keep_unit_length():
    made = objective()
    first = made.prototypes.weight.detach().clone()
    for number in range(4):
        step(made, number)
        assert torch.allclose(made.prototypes.weight, first, atol=1e-6)
    step(made, 4)
    assert not torch.allclose(made.prototypes.weight, first, atol=1e-4)
    assert torch.allclose(made.prototypes.weight.norm(dim=1), torch.ones(12))


def test_the_queue_fills_from_its_epoch_on_and_is_coded_along_when_full():
    made = objective(queue_from_epoch=1.0)
    made.check(16, 8, 100.0)
    for number in range(4):
        step(made, number)
    assert int(made.n_queued) == 0
    step(made, 4)
    assert int(made.n_queued) == 8
    newest = made.queue_vnd[:, :8].clone()
    step(made, 5)
    assert int(made.n_queued) == 16
    assert torch.equal(made.queue_vnd[:, 8:], newest)
    with_queue = made(views(batch(seed=9))).total
    made.n_queued.zero_()
    made._n_known = None
    assert made(views(batch(seed=9))).total.item() != pytest.approx(with_queue.item(), abs=1e-6)


def test_the_queue_goes_through_a_checkpoint():
    made = objective(queue_from_epoch=0.0)
    made.check(16, 8, 100.0)
    for number in range(3):
        step(made, number)
    other = objective(queue_from_epoch=0.0)
    other.check(16, 8, 100.0)
    other(views(batch()))  # it has looked at its own, empty queue
    other.load_state_dict(made.state_dict())
    one, two = (step(its, 3).total.item() for its in (made, other))
    assert one == two
    assert torch.equal(made.queue_vnd, other.queue_vnd)


def test_validation_leaves_queue_and_prototypes_alone():
    made = objective(queue_from_epoch=0.0)
    made.check(16, 8, 100.0)
    step(made, 0)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    made.eval()
    made(views(batch(seed=5)))
    made.train()
    made.after_step(Moment(1, 40, 4))
    after = made.state_dict()
    assert torch.equal(after["queue_vnd"], before["queue_vnd"])
    assert torch.equal(after["n_queued"], before["n_queued"])


def test_all_views_are_made_by_draws_of_their_own():
    its = views(batch(), n_views=6).x_vblt
    assert its.shape == (6, 8, 2, 16)
    assert len({view.numpy().tobytes() for view in its}) == 6
    same = views(batch(), n_views=2, augmentations=(Negation(),)).x_vblt
    assert torch.equal(same[0], -batch().mv.x_blt)


@pytest.mark.learning
def test_it_learns_and_uses_many_prototypes(seed):
    made = objective(seed, n_prototypes=4)
    # Four kinds of windows: views of one kind must come to the same prototypes.
    kinds = torch.randn(4, 2, 16, generator=torch.Generator().manual_seed(seed + 80)) * 2
    optimiser = torch.optim.Adam(made.parameters(), lr=5e-3)
    for number in range(80):
        generator = torch.Generator().manual_seed(seed + number)
        x = kinds[torch.arange(32) % 4] + 0.3 * torch.randn(3, 32, 2, 16, generator=generator)
        terms = made(swav.Views(x))
        terms.total.backward()
        optimiser.step()
        optimiser.zero_grad()
        made.after_step(Moment(number, 80, 10))
    parts = {name: value.item() for name, value in terms.parts.items()}
    assert parts["swav"] < 0.4 * math.log(4)
    assert parts["agreement"] > 0.6  # chance 0.25
    assert parts["usage_nats"] > 0.6 * math.log(4)


def test_a_batch_of_one_is_refused():
    with pytest.raises(ConfigError, match="expected a batch of at least 2 windows, got 1"):
        objective().check(16, 1, 100.0)


def test_collapse_shows():
    made = objective()
    for weight in made.parameters():
        weight.requires_grad_(False)
    alike = torch.ones(3, 8, 2, 16)
    parts = {name: value.item() for name, value in made.eval()(swav.Views(alike)).parts.items()}
    assert parts["usage_nats"] == pytest.approx(0, abs=1e-6)
    assert parts["agreement"] == 1
    assert parts["code_nats"] == pytest.approx(math.log(12), abs=1e-3)
