"""What a GPU needs, held on a processor: draws before the forward, networks as one graph each, half precision."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from quickly import quickly

from ecgstore import ConfigError
from ecgstore.inner import occupant, occupants, parse
from ecgtrain.backbones import cpc_lstm, lead_transformer, s4, vgg1d, vit1d, xresnet1d
from ecgtrain.backbones.layers.encoder import Encoder
from ecgtrain.config import Training
from ecgtrain.methods import Objective, WindowBatch, build_objective, cpc, jepa, mae
from ecgtrain.training.step import compiled, refuse_graphs, tensor_float
from ecgtrain.views.draw import Draw
from ecgtrain.views.normalise import Millivolts, normalise

ENCODER = Encoder(width=16)
VIT = vit1d.Settings(patch_samples=25, width=32, depth=1, heads=2)
BACKBONES: list[tuple[ModuleType, Any]] = [
    (cpc_lstm, cpc_lstm.Settings(encoder=ENCODER, lstm_width=16, lstm_layers=1)),
    (s4, s4.Settings(encoder=ENCODER, width=16, layers=1, dropout=0.0)),
    (vgg1d, vgg1d.Settings()),
    (vit1d, VIT),
    (xresnet1d, xresnet1d.Settings()),
]
METHODS: list[tuple[ModuleType, Any, Any]] = [
    (cpc, cpc.Settings(), BACKBONES[0][1]),
    (mae, mae.Settings(decoder=mae.Decoder(width=32, depth=1, heads=4)), VIT),
    (jepa, jepa.Settings(predictor=jepa.Predictor(width=32, depth=1, heads=4)), VIT),
]


COMPILED = Training(batch_size=4, steps=1, compile=True)
SHALLOW = xresnet1d.Settings(depths=(1,), stem=(4, 4, 8), width=4)
#: Each method over a small network: settings besides its name, and the backbone's.
EVERY: dict[str, tuple[dict[str, Any], Any]] = {
    "byol": ({}, SHALLOW),
    "cpc": ({}, BACKBONES[0][1]),
    "cpc over s4": ({"name": "cpc"}, BACKBONES[1][1]),
    "jepa": ({"predictor": {"width": 32, "depth": 1, "heads": 4}}, VIT),
    "lcd": ({"width": 16}, vgg1d.Settings()),
    "mae": ({"decoder": {"width": 32, "depth": 1, "heads": 4}}, VIT),
    "simclr": ({}, SHALLOW),
    "stj": ({}, lead_transformer.Settings(width=16, depth=1, heads=2)),
    "supervised": ({"task": "ptbxl/superdiagnostic"}, SHALLOW),
    "swav": ({"n_views": 3, "n_prototypes": 8}, SHALLOW),
}


@pytest.fixture(autouse=True)
def _nothing_was_compiled() -> None:
    """What one test made torch take for a size that varies is no concern of the next."""
    torch._dynamo.reset()


def batch(n: int = 4, n_samples: int = 250, step: int = 0) -> WindowBatch:
    x_blt = torch.from_numpy(np.random.default_rng(step).standard_normal((n, 12, n_samples)).astype(np.float32))
    mv = Millivolts(x_blt, torch.ones_like(x_blt, dtype=torch.bool))
    numbers_b, targets_bc = torch.arange(n) + n * step, (x_blt[:, :3, 0] > 0).float()
    return WindowBatch(mv, numbers_b, 100.0, partial(normalise, mode="none"), Draw(1), step, targets_bc)


def objective_of(name: str) -> tuple[Objective, Callable[[int], Any]]:
    """A method over its small network, and what makes the views of a step."""
    content, backbone = EVERY[name]
    content = {"name": name, **content}
    room = occupant("ecgtrain.methods", content["name"])
    settings = parse(room.Settings, content)
    objective = build_objective(settings, backbone, 12, 0, *([3] if name == "supervised" else [])).train()
    objective.check(250, 4, 100.0)
    return objective, lambda step: objective.drawn(room.views(settings, batch(step=step)))


def step_of(network: Any, objective: Objective, views: Any) -> list[torch.Tensor]:
    """The loss of one step, and the gradients that there are."""
    objective.zero_grad(set_to_none=True)
    total = network(views).total
    total.backward()
    return [total.detach(), *(one.grad.clone() for one in objective.parameters() if one.grad is not None)]


@pytest.mark.parametrize(("method", "settings", "backbone"), METHODS, ids=lambda one: getattr(one, "__name__", ""))
def test_what_is_drawn_before_the_forward_is_what_the_forward_draws(method: Any, settings: Any, backbone: Any) -> None:
    objective = build_objective(settings, backbone, n_leads=12, seed=0).eval()
    views = method.views(settings, batch())
    drawn = objective.drawn(views)
    assert drawn != views
    assert torch.equal(objective(drawn).total, objective(views).total)


def test_every_method_is_here() -> None:
    assert {content.get("name", name) for name, (content, _) in EVERY.items()} == set(occupants("ecgtrain.methods"))


@pytest.mark.parametrize("name", quickly(sorted(EVERY), "mae"))
def test_every_method_is_one_graph_once_its_views_are_drawn(name: str) -> None:
    objective, views_of = objective_of(name)
    views = views_of(0)
    before = {key: value.clone() for key, value in objective.state_dict().items()}
    expected = step_of(objective, objective, views)
    objective.load_state_dict(before)
    # A recurrent layer is in no graph unless asked for; training compiles what is around it.
    with torch._dynamo.config.patch(allow_rnn=True):
        found = step_of(torch.compile(objective, fullgraph=True, backend="eager"), objective, views)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * expected[1].abs().max().item() + 1e-6)


# torch's own, on the way to a graph of which an input is no weight.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("name", quickly(sorted(EVERY), "cpc", "mae"))
def test_no_network_is_compiled_at_every_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def count(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Callable[..., Any]:
        made.append(step)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=count, fullgraph=True))
    objective, views_of = objective_of(name)
    network = compiled(objective, COMPILED)
    step = 0
    for step in range(6):
        network(views_of(step)).total.backward()
    assert 0 in made
    # Sizes that vary are found to do so after two steps; no other thing that is drawn is in a graph.
    assert max(made) <= 2
    assert network._forwards  # it has not gone on without


def test_cuda_graphs_are_asked_for_where_shapes_are_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(torch, "compile", lambda forward, **how: asked.append(how) or forward)
    objective, _ = objective_of("mae")
    with_graphs = COMPILED.model_copy(update={"cuda_graphs": True})
    for training in (COMPILED, with_graphs):
        refuse_graphs(objective, training)
        compiled(objective, training)
    n = len(objective.networks())
    assert asked == [{}] * n + [{"mode": "reduce-overhead"}] * n
    assert compiled(objective, COMPILED.model_copy(update={"compile": False})) is objective
    varying, _ = objective_of("jepa")
    refuse_graphs(varying, COMPILED)
    with pytest.raises(ConfigError, match="Jepa gives its networks batches of other shapes from step to step"):
        refuse_graphs(varying, with_graphs)


@torch.no_grad()
@pytest.mark.parametrize(
    ("room", "settings"), quickly(BACKBONES, BACKBONES[0], BACKBONES[1]), ids=lambda one: getattr(one, "__name__", "")
)
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
    torch.testing.assert_close(compiled(objective, COMPILED)(views).total, expected)
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


def test_half_precision_costs_a_loss_of_the_usual_size_less_than_a_thousandth() -> None:
    """As CPC's network has them at first and when it has learned: scores of some tenths, then of some nats."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(8, 112, 128, generator=generator).relu()
    negatives = cpc.draw_negatives(Draw(0), torch.arange(8), 112, 12, 128)
    for scale in (0.003, 0.02):
        predicted = scale * torch.randn(8, 100, 128, generator=generator)
        exact, half = (
            cpc.info_nce(predicted.to(dtype), latents.to(dtype), negatives, 12)[0].mean().item()
            for dtype in (torch.float32, torch.bfloat16)
        )
        assert half == pytest.approx(exact, rel=1e-3)
        # Scores that are rounded themselves are further off where they are large; these are not.
        assert half != exact


def test_a_recurrent_layer_is_float32_under_bfloat16() -> None:
    network = cpc_lstm.build(BACKBONES[0][1], 12)
    latents = torch.randn(2, 20, network.encoder(torch.zeros(1, 250, 12)).shape[2])
    with torch.autocast("cpu", torch.bfloat16):
        found = network.context(latents.bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, network.context(latents.bfloat16().float()))


@pytest.mark.parametrize("layers", [1, 3])
def test_layers_one_by_one_are_the_stack(layers: int) -> None:
    stack = torch.nn.LSTM(5, 7, layers, batch_first=True, dtype=torch.float64)
    x_bsd = torch.randn(4, 9, 5, dtype=torch.float64, requires_grad=True)
    found, expected = cpc_lstm.layer_by_layer(stack, x_bsd), stack(x_bsd)[0]
    torch.testing.assert_close(found, expected)
    weigh = torch.randn_like(expected)
    of = [
        torch.autograd.grad((out * weigh).sum(), [x_bsd, *stack.parameters()], retain_graph=True)
        for out in (found, expected)
    ]
    for its, theirs in zip(*of, strict=True):
        torch.testing.assert_close(its, theirs)


def test_a_processor_multiplies_as_it_did() -> None:
    before = torch.get_float32_matmul_precision()
    with tensor_float(torch.device("cpu")):
        assert torch.get_float32_matmul_precision() == before
    with tensor_float(torch.device("cuda")):
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before
