from __future__ import annotations

import math

import pytest
import torch

from ecgstore import ConfigError
from ecgstore.inner import parse
from ecgtrain.config import Optimiser
from ecgtrain.training import optim


def rates(n_steps, **settings):
    made = Optimiser(lr=1.0, **settings)
    return [optim.learning_rate(made, step, n_steps) for step in range(n_steps)]


def test_constant():
    assert rates(5) == [1.0] * 5


def test_warmup_rises_by_equal_steps_and_is_over_in_time():
    assert rates(8, warmup_steps=4) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0]


def test_cosine_falls_from_the_end_of_warmup_towards_zero():
    made = rates(104, schedule="cosine", warmup_steps=4)
    assert made[4] == 1.0
    assert made[54] == pytest.approx(0.5)
    assert 0 < made[-1] < 0.001
    assert all(later < earlier for earlier, later in zip(made[4:], made[5:], strict=False))


def test_a_warmup_longer_than_the_run_is_no_division_by_zero():
    assert rates(3, schedule="cosine", warmup_steps=10) == pytest.approx([0.1, 0.2, 0.3])


def test_adamw_takes_the_textbook_step():
    """Loshchilov & Hutter 2019: decay is apart from the gradient; the first step has the size of the rate."""
    weight = torch.nn.Parameter(torch.tensor([2.0, -4.0]))
    optimiser = optim.build(Optimiser(lr=0.1, weight_decay=0.5), [[weight]])
    weight.grad = torch.tensor([3.0, -0.1])
    optimiser.step()
    assert torch.allclose(weight.detach(), torch.tensor([2.0, -4.0]) * (1 - 0.05) - 0.1 * torch.tensor([1.0, -1.0]))


def test_frozen_parameters_are_left_out():
    frozen, free = torch.nn.Parameter(torch.ones(2), requires_grad=False), torch.nn.Parameter(torch.ones(3))
    assert optim.build(Optimiser(), [[frozen, free]]).param_groups[0]["params"] == [free]


def test_layers_further_down_learn_more_slowly():
    """Mehari & Strodthoff 2022, second stage of fine-tuning: head, LSTM and encoder at 1 : 0.1 : 0.01."""
    head, lstm, encoder = (torch.nn.Parameter(torch.ones(2, 2)) for _ in range(3))
    optimiser = optim.build(Optimiser(layer_decay=0.1), [[head], [lstm], [encoder]])
    optim.set_learning_rate(optimiser, 1e-4)
    assert [group["lr"] for group in optimiser.param_groups] == pytest.approx([1e-4, 1e-5, 1e-6])
    assert [group["params"] for group in optimiser.param_groups] == [[head], [lstm], [encoder]]


@pytest.mark.parametrize("name", ["adamw", "adam", "lars"])
def test_decay_can_leave_biases_and_norms_alone(name):
    weight, bias = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))
    made = Optimiser(name=name, lr=0.1, weight_decay=0.5, decay="weights")
    optimiser = optim.build(made, [[weight, bias]])
    optim.set_learning_rate(optimiser, 0.1)
    weight.grad, bias.grad = torch.zeros(2, 2), torch.zeros(2)
    optimiser.step()
    assert torch.equal(bias, torch.ones(2))
    assert (weight < 1).all()


def test_adam_adds_decay_to_the_gradient():
    """Kingma & Ba 2015 with L2: the first step has the size of the rate, whatever the decay."""
    weight = torch.nn.Parameter(torch.tensor([2.0, -4.0]))
    optimiser = optim.build(Optimiser(name="adam", lr=0.1, weight_decay=0.5), [[weight]])
    weight.grad = torch.tensor([0.0, 1.0])
    optimiser.step()
    assert torch.allclose(weight.detach(), torch.tensor([1.9, -3.9]))


def test_lars_takes_the_textbook_steps():
    """You, Gitman & Ginsburg 2017, equation 6 and algorithm 1, written out for two steps."""
    weight, bias = torch.nn.Parameter(torch.tensor([[3.0, 4.0]])), torch.nn.Parameter(torch.tensor([1.0]))
    settings = Optimiser(name="lars", weight_decay=0.1, betas=(0.9, 0.999), trust=0.02, decay="weights")
    optimiser = optim.build(settings, [[weight, bias]])
    w, v, b, u = weight.detach().double().clone(), torch.zeros(1, 2).double(), 1.0, 0.0
    for gradient, pull, lr in (((1.0, 0.0), 0.5, 0.3), ((0.0, -2.0), 0.25, 0.2)):
        weight.grad, bias.grad = torch.tensor([gradient]), torch.tensor([pull])
        optim.set_learning_rate(optimiser, lr)
        optimiser.step()
        g = torch.tensor([gradient]).double() + 0.1 * w
        v = 0.9 * v + lr * 0.02 * (w.norm() / g.norm()) * g
        w, u = w - v, 0.9 * u + lr * pull
        b -= u
        assert torch.allclose(weight.detach().double(), w, atol=1e-5)
        assert bias.item() == pytest.approx(b, rel=1e-5)


@pytest.mark.parametrize("name", ["adamw", "adam", "lars"])
def test_a_broken_step_changes_nothing(name):
    """The loop sets ``found_inf`` and doesn't wait to see it: the optimiser must hold back by itself."""
    weight = torch.nn.Parameter(torch.ones(2, 2))
    optimiser = optim.build(Optimiser(name=name, lr=0.1), [[weight]])
    optim.set_learning_rate(optimiser, 0.1)
    weight.grad = torch.ones(2, 2)
    optimiser.found_inf = torch.tensor(0.0)
    optimiser.step()
    before = weight.detach().clone()
    assert not torch.equal(before, torch.ones(2, 2))
    weight.grad = torch.full((2, 2), float("nan"))
    optimiser.found_inf = torch.tensor(1.0)
    optimiser.step()
    assert torch.equal(weight, before)
    weight.grad, optimiser.found_inf = torch.ones(2, 2), torch.tensor(0.0)
    optimiser.step()
    assert weight.isfinite().all()
    assert not torch.equal(weight, before)


@pytest.mark.parametrize(("max_norm", "after"), [(None, 5.0), (10.0, 5.0), (1.0, 1.0)])
def test_clipping(max_norm, after):
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    weights[0].grad, weights[1].grad = torch.tensor([3.0]), torch.tensor([4.0])
    assert optim.clip(weights, max_norm).item() == pytest.approx(5.0)
    assert math.hypot(*(weight.grad.item() for weight in weights)) == pytest.approx(after, rel=1e-5)


def test_wrong_settings_are_refused():
    with pytest.raises(ConfigError, match="name"):
        parse(Optimiser, {"name": "sgd"})
    with pytest.raises(ConfigError, match="lr"):
        parse(Optimiser, {"lr": 0})
