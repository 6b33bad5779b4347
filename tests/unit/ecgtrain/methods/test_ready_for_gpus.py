"""What a GPU needs, held on a processor: draws before the forward, networks as one graph each, half precision."""

from __future__ import annotations

from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from ecgtrain.backbones import cpc_lstm, s4, vgg1d, vit1d, xresnet1d
from ecgtrain.backbones.layers.encoder import Encoder
from ecgtrain.methods import WindowBatch, build_objective, cpc, jepa, mae
from ecgtrain.training.step import compiled, tensor_float
from ecgtrain.views.draw import Draw
from ecgtrain.views.normalise import Millivolts, normalise

ENCODER = Encoder(width=16)
VIT = vit1d.Settings(patch_samples=25, width=32, depth=1, heads=2)
BACKBONES: list[tuple[ModuleType, Any]] = [
    (cpc_lstm, cpc_lstm.Settings(encoder=ENCODER, lstm_width=16, lstm_layers=1)),
    (s4, s4.Settings(encoder=ENCODER, width=16, layers=1)),
    (vgg1d, vgg1d.Settings()),
    (vit1d, VIT),
    (xresnet1d, xresnet1d.Settings()),
]
METHODS: list[tuple[ModuleType, Any, Any]] = [
    (cpc, cpc.Settings(), BACKBONES[0][1]),
    (mae, mae.Settings(decoder=mae.Decoder(width=32, depth=1, heads=4)), VIT),
    (jepa, jepa.Settings(predictor=jepa.Predictor(width=32, depth=1, heads=4)), VIT),
]


def batch(n: int = 4, n_samples: int = 250) -> WindowBatch:
    x_blt = torch.from_numpy(np.random.default_rng(0).standard_normal((n, 12, n_samples)).astype(np.float32))
    mv = Millivolts(x_blt, torch.ones_like(x_blt, dtype=torch.bool))
    return WindowBatch(mv, torch.arange(n), 100.0, partial(normalise, mode="none"), Draw(1))


@pytest.mark.parametrize(("method", "settings", "backbone"), METHODS, ids=lambda one: getattr(one, "__name__", ""))
def test_what_is_drawn_before_the_forward_is_what_the_forward_draws(method: Any, settings: Any, backbone: Any) -> None:
    objective = build_objective(settings, backbone, n_leads=12, seed=0).eval()
    views = method.views(settings, batch())
    drawn = objective.drawn(views)
    assert drawn != views
    assert torch.equal(objective(drawn).total, objective(views).total)


@torch.no_grad()
@pytest.mark.parametrize(("room", "settings"), BACKBONES, ids=lambda one: getattr(one, "__name__", ""))
def test_each_network_is_one_graph(room: Any, settings: Any) -> None:
    torch.manual_seed(0)
    network = room.build(settings, 12).eval()
    x_blt = batch(2).mv.x_blt
    expected = network(x_blt).pooled_bd
    for part in network.networks():
        part.forward = torch.compile(part.forward, fullgraph=True, backend="eager")
    torch.testing.assert_close(network(x_blt).pooled_bd, expected)


@torch.no_grad()
def test_a_compiled_objective_leaves_its_networks_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager", fullgraph=True))
    method, settings, backbone = METHODS[1]
    objective = build_objective(settings, backbone, n_leads=12, seed=0).eval()
    views = objective.drawn(method.views(settings, batch()))
    names = list(objective.state_dict())
    expected = objective(views).total
    torch.testing.assert_close(compiled(objective)(views).total, expected)
    assert list(objective.state_dict()) == names
    assert all("forward" not in vars(part) for part in objective.modules())


def test_in_half_precision_only_the_factors_are_rounded() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted = torch.randn(8, 30, 64, generator=generator)
    latents = torch.randn(8, 42, 64, generator=generator)
    negatives = cpc.draw_negatives(Draw(0), torch.arange(8), 42, 12, 32)
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        of_p, of_l = (x.bfloat16().to(dtype).requires_grad_() for x in (predicted, latents))
        loss_bs, hit_bs = cpc.info_nce(of_p, of_l, negatives, 12)
        assert loss_bs.dtype == torch.float32
        loss_bs.mean().backward()
        found[dtype] = loss_bs.detach(), hit_bs, of_p.grad, of_l.grad
    (loss, hit, *gradients), (half, half_hit, *half_gradients) = found.values()
    torch.testing.assert_close(half, loss, rtol=1e-5, atol=1e-5)
    assert torch.equal(hit, half_hit)
    for one, other in zip(gradients, half_gradients, strict=True):
        # The gradient is rounded to bfloat16 on its way, and as it is given back.
        torch.testing.assert_close(other.float(), one, rtol=0.03, atol=0.03 * one.abs().max().item())
    exact = cpc.info_nce(predicted, latents, negatives, 12)[0]
    assert abs(half.mean() / exact.mean() - 1) < 1e-2


def test_a_recurrent_layer_is_float32_under_bfloat16() -> None:
    network = cpc_lstm.build(BACKBONES[0][1], 12)
    latents = torch.randn(2, 20, network.encoder(torch.zeros(1, 250, 12)).shape[2])
    with torch.autocast("cpu", torch.bfloat16):
        found = network.context(latents.bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, network.context(latents.bfloat16().float()))


def test_a_processor_multiplies_as_it_did() -> None:
    before = torch.get_float32_matmul_precision()
    with tensor_float(torch.device("cpu")):
        assert torch.get_float32_matmul_precision() == before
    with tensor_float(torch.device("cuda")):
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before
