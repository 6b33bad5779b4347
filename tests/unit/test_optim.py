from __future__ import annotations

import math

import pytest
import torch

from ecgstore import ConfigError, parse
from ecgtrain import optim


def rates(n_steps, **settings):
    made = optim.Settings(lr=1.0, **settings)
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
    optimiser = optim.build(optim.Settings(lr=0.1, weight_decay=0.5), [weight])
    weight.grad = torch.tensor([3.0, -0.1])
    optimiser.step()
    assert torch.allclose(weight.detach(), torch.tensor([2.0, -4.0]) * (1 - 0.05) - 0.1 * torch.tensor([1.0, -1.0]))


def test_frozen_parameters_are_left_out():
    frozen, free = torch.nn.Parameter(torch.ones(2), requires_grad=False), torch.nn.Parameter(torch.ones(3))
    assert optim.build(optim.Settings(), [frozen, free]).param_groups[0]["params"] == [free]


def test_groups_keep_their_share_of_the_rate():
    one, other = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(1))
    optimiser = torch.optim.SGD([{"params": [one]}, {"params": [other], "lr_factor": 0.1}], lr=1.0)
    optim.set_learning_rate(optimiser, 0.5)
    assert [group["lr"] for group in optimiser.param_groups] == [0.5, 0.05]


@pytest.mark.parametrize(("max_norm", "after"), [(None, 5.0), (10.0, 5.0), (1.0, 1.0)])
def test_clipping(max_norm, after):
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    weights[0].grad, weights[1].grad = torch.tensor([3.0]), torch.tensor([4.0])
    assert optim.clip(weights, max_norm).item() == pytest.approx(5.0)
    assert math.hypot(*(weight.grad.item() for weight in weights)) == pytest.approx(after, rel=1e-5)


def test_wrong_settings_are_refused():
    with pytest.raises(ConfigError, match="name"):
        parse(optim.Settings, {"name": "sgd"})
    with pytest.raises(ConfigError, match="lr"):
        parse(optim.Settings, {"lr": 0})
