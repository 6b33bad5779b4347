from __future__ import annotations

import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ecgstore import ConfigError
from ecgstore.inner import parse
from ecgtrain.backbones import build_backbone, xresnet1d

SMALL = xresnet1d.Settings(depths=(1, 2, 1), stem=(4, 6, 8), width=4)
SMALL_WIDE = SMALL.model_copy(update={"layout": "wide"})


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def count_in_plain_words(n_leads, stem, widths, depths):
    """Weights of every convolution, and two per channel for its BatchNorm, layer by layer."""
    total, n_in = n_leads * stem[0] * 5 + stem[0] + 2 * stem[0], stem[0]  # only the first has a bias
    for n_out in stem[1:]:
        total, n_in = total + n_in * n_out * 5 + 2 * n_out, n_out
    for width, depth in zip(widths, depths, strict=True):
        for _ in range(depth):
            total += n_in * width + 2 * width + width * width * 5 + 2 * width + width * 4 * width + 2 * 4 * width
            if n_in != 4 * width:
                total += n_in * 4 * width + 2 * 4 * width
            n_in = 4 * width
    return total


@pytest.mark.parametrize(
    ("settings", "n_leads", "widths"),
    [
        (xresnet1d.Settings(), 12, (64, 64, 64, 64)),
        (xresnet1d.Settings(layout="wide"), 12, (64, 128, 256, 512)),
        (xresnet1d.Settings(widen=1.5), 8, (96, 96, 96, 96)),
        (xresnet1d.Settings(depths=(3, 4, 23, 3), width=16), 1, (16, 16, 16, 16)),
        (SMALL, 3, (4, 4, 4)),
        (SMALL_WIDE, 3, (4, 8, 16)),
    ],
)
def test_the_number_of_parameters_is_that_of_the_layers(settings, n_leads, widths):
    made = build_backbone(settings, n_leads, seed=0)
    assert settings.widths() == widths
    assert count(made) == count_in_plain_words(n_leads, settings.stem, widths, settings.depths)
    assert (made.n_leads, made.width, made.pooled_width) == (n_leads, 4 * widths[-1], 8 * widths[-1])


def test_the_defaults_are_the_published_network():
    made = build_backbone(xresnet1d.Settings(), n_leads=12, seed=0)
    assert count(made) == 886_432
    assert made.pooled_width == 512
    assert [len(stage) for stage in made.stages] == [3, 4, 6, 3]
    lengths = []
    watched = [made.stem[0], *made.stages]
    for module in watched:
        module.register_forward_hook(lambda _, __, y_btc: lengths.append(y_btc.shape[1]))
    tokens_bsd, pooled_bd = made(torch.randn(2, 12, 250))
    assert lengths == [125, 63, 32, 16, 8]
    assert tokens_bsd.shape == (2, 8, 256)
    assert pooled_bd.shape == (2, 512)


def reference(state, x, depths):
    """The published network, one operation of torch after the other on (batch, channels, samples)."""

    def layer(x, name, stride=1):
        weight, bias = state[f"{name}.conv.weight"], state.get(f"{name}.conv.bias")
        y = F.conv1d(x, weight, bias, stride=stride, padding=weight.shape[2] // 2)
        return F.batch_norm(y, None, None, state[f"{name}.norm.weight"], state[f"{name}.norm.bias"], training=True)

    for i in range(3):
        x = layer(x, f"stem.{i}", stride=2 if i == 0 else 1).relu()
    x = F.max_pool1d(x, 3, 2, padding=1)
    for stage, depth in enumerate(depths):
        for block in range(depth):
            name, stride = f"stages.{stage}.{block}", 2 if stage > 0 and block == 0 else 1
            y = layer(x, f"{name}.layers.0").relu()
            y = layer(y, f"{name}.layers.1", stride).relu()
            y = layer(y, f"{name}.layers.2")
            if stride == 2:
                x = F.avg_pool1d(x, 2, ceil_mode=True)
            if f"{name}.shortcut.conv.weight" in state:
                x = layer(x, f"{name}.shortcut")
            x = (x + y).relu()
    return x.transpose(1, 2), torch.cat([x.amax(2), x.mean(2)], dim=1)


@pytest.mark.parametrize("settings", [SMALL, SMALL_WIDE, xresnet1d.Settings()])
@pytest.mark.parametrize("n_samples", [64, 97])
def test_it_is_the_plain_network_of_the_paper_and_so_is_its_gradient(settings, n_samples):
    made = build_backbone(settings, n_leads=3, seed=0).double()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in made.named_parameters():
        if "norm" in name:  # the last of a block begin at 0, and would hide what is before them
            nn.init.normal_(parameter, 0.5, 0.2, generator=generator)
    x_blt = torch.randn(4, 3, n_samples, dtype=torch.float64, generator=generator)
    state = dict(made.named_parameters())
    tokens, pooled = reference(state, x_blt, settings.depths)
    features = made(x_blt)
    assert torch.allclose(features.tokens_bsd, tokens, rtol=1e-9, atol=1e-9)
    assert torch.allclose(features.pooled_bd, pooled, rtol=1e-9, atol=1e-9)
    ask = torch.randn(pooled.shape, dtype=torch.float64, generator=generator)
    expected, got = (torch.autograd.grad((y * ask).sum(), [*state.values()]) for y in (pooled, features.pooled_bd))
    assert all(torch.allclose(a, b, rtol=1e-6, atol=1e-8) for a, b in zip(expected, got, strict=True))


def test_fresh_weights_follow_the_published_laws():
    made = build_backbone(xresnet1d.Settings(), n_leads=12, seed=0)
    first, *others = [module for module in made.modules() if isinstance(module, nn.Conv1d)]
    assert len(others) == 2 + 16 * 3 + 1  # stem, blocks, the one shortcut whose channels differ
    for conv in others:
        assert conv.bias is None
        fan_in = conv.in_channels * conv.kernel_size[0]
        assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.05)
        kurtosis = ((conv.weight / conv.weight.std()) ** 4).mean().item()
        assert kurtosis == pytest.approx(3.0, abs=0.35)  # normal; uniform would be 1.8
    bound = 1 / math.sqrt(12 * 5)
    assert first.weight.abs().max() <= bound
    assert 0 < first.bias.abs().max() <= bound
    zero = [name for name, p in made.named_parameters() if name.endswith("norm.weight") and (p == 0).all()]
    assert zero == [f"stages.{s}.{b}.layers.2.norm.weight" for s, n in enumerate((3, 4, 6, 3)) for b in range(n)]
    ones = [p for name, p in made.named_parameters() if name.endswith("norm.weight") and name not in zero]
    assert all((p == 1).all() for p in ones)
    assert all((p == 0).all() for name, p in made.named_parameters() if name.endswith("norm.bias"))


def test_a_fresh_block_is_its_shortcut():
    made = build_backbone(SMALL, n_leads=3, seed=0)
    x_btc = torch.rand(4, 11, 16)
    halved = torch.cat([(x_btc[:, 0:10:2] + x_btc[:, 1:10:2]) / 2, x_btc[:, 10:]], dim=1)
    assert torch.allclose(made.stages[1][0](x_btc), halved)
    assert torch.equal(made.stages[1][1](x_btc), x_btc)


@pytest.mark.parametrize("n_leads", [1, 2, 8, 15])
@pytest.mark.parametrize("n_samples", [32, 33, 63, 64, 250, 1000])
def test_any_leads_and_any_window_of_32_samples_or_more(n_leads, n_samples):
    settings = SMALL.model_copy(update={"depths": (1, 1, 1, 1)})
    made = build_backbone(settings, n_leads, seed=0)
    tokens_bsd, pooled_bd = made(torch.randn(2, n_leads, n_samples))
    assert tokens_bsd.shape == (2, made.n_tokens(n_samples), 16)
    assert pooled_bd.shape == (2, 32)
    assert torch.isfinite(pooled_bd).all()
    assert made.eval()(torch.randn(1, n_leads, n_samples)).pooled_bd.shape == (1, 32)


def test_shorter_windows_are_refused():
    made = build_backbone(xresnet1d.Settings(), n_leads=12, seed=0)
    with pytest.raises(ConfigError, match="too short for xresnet1d; expected at least 32 samples, got 31"):
        made(torch.randn(2, 12, 31))


def test_features_hang_on_neither_memory_layout_nor_neighbours_in_evaluation():
    made = build_backbone(SMALL, n_leads=3, seed=0).eval()
    x_blt = torch.randn(5, 3, 100)
    pooled_bd = made(x_blt).pooled_bd
    assert torch.allclose(made(x_blt.transpose(1, 2).contiguous().transpose(1, 2)).pooled_bd, pooled_bd, atol=1e-6)
    assert torch.allclose(made(x_blt[3:4]).pooled_bd, pooled_bd[3:4], atol=1e-6)


def test_the_input_is_left_as_it_is():
    made = build_backbone(SMALL, n_leads=3, seed=0)
    x_blt = torch.randn(2, 3, 64)
    before = x_blt.clone()
    made(x_blt).pooled_bd.sum().backward()
    assert torch.equal(x_blt, before)


def test_layer_groups_go_from_the_last_stage_to_the_stem():
    made = build_backbone(SMALL, n_leads=3, seed=0)
    names = {id(parameter): name for name, parameter in made.named_parameters()}
    groups = made.layer_groups()
    tops = [{re.match(r"stages\.\d|stem", names[id(p)])[0] for p in group} for group in groups]
    assert tops == [{"stages.2"}, {"stages.1"}, {"stages.0"}, {"stem"}]
    assert sorted(names) == sorted(id(p) for group in groups for p in group)


def test_it_runs_in_bfloat16():
    made = build_backbone(SMALL, n_leads=3, seed=0)
    x_blt = torch.randn(8, 3, 100)
    exact = made(x_blt).pooled_bd
    with torch.autocast("cpu", torch.bfloat16):
        rounded = made(x_blt).pooled_bd
    assert (rounded.float() - exact).abs().max() < 0.1
    assert exact.std() > 0.3


def test_weights_hang_on_the_seed_and_draw_from_nobody():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    one = build_backbone(SMALL, 3, seed=1).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    again, other = (build_backbone(SMALL, 3, seed=seed).state_dict() for seed in (1, 2))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["stem.1.conv.weight"], other["stem.1.conv.weight"])


def test_unknown_settings_are_refused():
    with pytest.raises(ConfigError, match="width"):
        parse(xresnet1d.Settings, {"widht": 32})
    with pytest.raises(ConfigError):
        parse(xresnet1d.Settings, {"depths": []})
