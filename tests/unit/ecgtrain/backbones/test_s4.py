from __future__ import annotations

import cmath
import math
from functools import partial

import numpy as np
import pytest
import torch

from ecgstore import ConfigError
from ecgstore.inner import parse
from ecgtrain.backbones import build_backbone, s4
from ecgtrain.backbones.layers.encoder import Encoder
from ecgtrain.methods import WindowBatch, build_objective, cpc
from ecgtrain.views.draw import Draw
from ecgtrain.views.normalise import Millivolts, normalise

SMALL = s4.Settings(encoder=Encoder(width=12), width=12, layers=2, state=4)
BOTH_WAYS = SMALL.model_copy(update={"bidirectional": True})
STRIDED = Encoder(width=12, kernels=(3, 1, 1, 1), strides=(2, 1, 1, 1))


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def state_space(width=3, state=4, *, bidirectional=False, seed=0):
    torch.manual_seed(seed)
    made = s4.StateSpace(width, state, bidirectional=bidirectional).double()
    with torch.no_grad():
        # Away from where all features begin alike.
        made.log_decay += 0.3 * torch.randn_like(made.log_decay)
        made.frequency += torch.randn_like(made.frequency)
    return made


def one_way(made, u, way):
    """The system of each feature, one state and one step of time after the other."""
    y = np.zeros_like(u)
    n_windows, width, n_tokens = u.shape
    log_dt, log_decay, frequency, c_parts = (
        p.detach().numpy() for p in (made.log_dt, made.log_decay, made.frequency, made.c)
    )
    for b in range(n_windows):
        for h in range(width):
            dt = math.exp(log_dt[h])
            for n in range(frequency.shape[1]):
                a = complex(-math.exp(log_decay[h, n]), frequency[h, n])
                c = complex(*c_parts[way, h, n])
                kept = cmath.exp(dt * a)
                x = 0j
                for t in range(n_tokens):
                    x = kept * x + (kept - 1) / a * u[b, h, t]
                    y[b, h, t] += 2 * (c * x).real
    return y


def test_the_convolution_is_the_system_step_by_step():
    made = state_space()
    u = torch.randn(2, 3, 50, dtype=torch.float64)
    expected = one_way(made, u.numpy(), 0) + made.skip.detach().numpy()[:, None] * u.numpy()
    assert np.allclose(made(u).detach(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("n_tokens", [1, 2, 3, 16, 17, 24, 25])
def test_a_kernel_is_the_powers_of_its_states_however_many_tokens(n_tokens):
    made = state_space(bidirectional=True)
    a = torch.complex(-made.log_decay.exp(), made.frequency)
    dt_a = a * made.log_dt.exp()[:, None]
    held = torch.view_as_complex(made.c) * (dt_a.exp() - 1) / a
    each = [2 * (held * dt_a.exp() ** lag).sum(dim=2).real for lag in range(n_tokens)]
    assert torch.allclose(made.kernel(n_tokens), torch.stack(each, dim=2), rtol=1e-10, atol=1e-14)


def test_both_ways_adds_what_comes_after_a_token_and_not_the_token_itself():
    made = state_space(bidirectional=True)
    u = torch.randn(2, 3, 40, dtype=torch.float64).numpy()
    backwards = one_way(made, u[..., ::-1], 1)[..., ::-1]
    expected = one_way(made, u, 0) + made.skip.detach().numpy()[:, None] * u
    expected[..., :-1] += backwards[..., 1:]
    assert np.allclose(made(torch.from_numpy(u)).detach(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_gradients_are_those_of_the_formula(bidirectional):
    made = state_space(width=2, bidirectional=bidirectional)
    names, values = zip(*made.named_parameters(), strict=True)

    def output(u, *parameters):
        return torch.func.functional_call(made, dict(zip(names, parameters, strict=True)), (u,))

    u = torch.randn(2, 2, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(output, (u, *values))


def test_fresh_systems_are_s4d_lin():
    torch.manual_seed(0)
    made = s4.StateSpace(4000, 8, bidirectional=False)
    assert torch.allclose(made.log_decay.exp(), torch.full((4000, 4), 0.5))
    assert torch.equal(made.frequency, (math.pi * torch.arange(4)).expand(4000, 4))
    assert torch.view_as_complex(made.c).abs().square().mean().item() == pytest.approx(1, abs=0.03)
    dt = made.log_dt.exp()
    assert 0.001 <= dt.min() < 0.0011
    assert 0.09 < dt.max() <= 0.1
    assert dt.log10().mean().item() == pytest.approx(-2, abs=0.05)


def windows(n, n_samples=100, seed=0):
    rng = np.random.default_rng(seed)
    time = np.arange(n_samples)
    phase = rng.uniform(0, 2 * np.pi, (n, 3, 1)) + 2 * np.pi * time / rng.uniform(25, 60, (n, 1, 1))
    return torch.from_numpy((np.sin(phase) + 0.1 * rng.standard_normal(phase.shape)).astype(np.float32))


def sees_the_future(made, encoder_overlap=0):
    x_blt = windows(2).double()
    changed = x_blt.clone()
    changed[:, :, 60:] += 5.0
    before, after = (made(x).tokens_bsd for x in (x_blt, changed))
    place = made.n_tokens(60 + encoder_overlap)
    assert not torch.allclose(before[:, place:], after[:, place:])
    return not torch.allclose(before[:, :place], after[:, :place], rtol=0, atol=1e-10)


@pytest.mark.parametrize("encoder", [Encoder(width=12), STRIDED])
def test_no_token_sees_what_comes_after_it_unless_both_ways(encoder):
    for settings, sees in ((SMALL, False), (BOTH_WAYS, True)):
        made = build_backbone(settings.model_copy(update={"encoder": encoder}), 3, seed=0).double().eval()
        assert sees_the_future(made) == sees


def test_a_transform_as_short_as_the_window_would_be_caught(monkeypatch):
    made = build_backbone(SMALL, 3, seed=0).double().eval()

    def on_a_short_circle(self, u):
        n = u.shape[2]
        y = torch.fft.irfft(torch.fft.rfft(u) * torch.fft.rfft(self.kernel(n)[0]), n=n)
        return y + self.skip[:, None] * u

    monkeypatch.setattr(s4.StateSpace, "forward", on_a_short_circle)
    assert sees_the_future(made)


def test_the_defaults_have_the_published_sizes():
    made = build_backbone(s4.Settings(), n_leads=12, seed=0)
    assert count(made.encoder) == 796_672
    assert count(made.entry) == 0
    # dt, D; decay, frequency, C of 4 complex pairs; the gated map; LayerNorm.
    assert count(made.layers[0]) == 2 * 512 + (1 + 1 + 2) * 4 * 512 + (512 + 1) * 1024 + 2 * 512
    assert len(made.layers) == 4
    assert (made.width, made.latent_width, made.pooled_width, made.n_leads) == (512, 512, 512, 12)


def test_shapes_of_the_encoder_that_halves_the_rate():
    settings = SMALL.model_copy(update={"encoder": STRIDED, "width": 8})
    made = build_backbone(settings, 3, seed=0)
    tokens, pooled = made.eval()(windows(2, 240))
    assert tokens.shape == (2, 119, 8) == (2, made.n_tokens(240), made.width)
    assert torch.equal(pooled, tokens.mean(1))
    assert made.encode(windows(2, 240)).shape == (2, 119, 12)
    assert torch.allclose(made.context(made.encode(windows(2, 240))), tokens)


def test_layer_groups_hold_every_parameter_once_the_encoder_last():
    made = build_backbone(SMALL.model_copy(update={"width": 8}), 3, seed=0)
    groups = made.layer_groups()
    held = [id(parameter) for group in groups for parameter in group]
    assert sorted(held) == sorted(id(parameter) for parameter in made.parameters())
    assert {id(p) for p in groups[-1]} == {id(p) for p in made.encoder.parameters()}


def test_a_layer_adds_normalises_and_drops_features_for_all_time():
    torch.manual_seed(0)
    layer = s4.StateLayer(16, 4, 0.4, bidirectional=False)
    x_bsd = torch.randn(3, 20, 16)
    dropped = layer.dropout(torch.ones(200, 16, 7))
    assert dropped.unique().tolist() == pytest.approx([0, 1 / 0.6])
    assert torch.equal(dropped, dropped[..., :1].expand_as(dropped))
    assert (dropped[..., 0] == 0).float().mean().item() == pytest.approx(0.4, abs=0.03)
    layer.eval()
    y = torch.nn.functional.gelu(layer.states(x_bsd.transpose(1, 2))).transpose(1, 2)
    value, gate = layer.mix(y).chunk(2, dim=2)
    summed = x_bsd + value * torch.sigmoid(gate)
    expected = (summed - summed.mean(2, keepdim=True)) / (summed.var(2, unbiased=False, keepdim=True) + 1e-5).sqrt()
    assert torch.allclose(layer(x_bsd), expected, atol=1e-5)


def test_under_bfloat16_the_systems_keep_float32():
    torch.manual_seed(0)
    made = s4.StateSpace(6, 8, bidirectional=False)
    u = torch.randn(2, 6, 300).bfloat16()
    exact = made(u.float())
    with torch.autocast("cpu", torch.bfloat16):
        rounded = made(u)
    assert rounded.dtype == torch.float32
    assert torch.equal(rounded, exact)
    with torch.autocast("cpu", torch.bfloat16):
        tokens = build_backbone(SMALL, 3, seed=0)(windows(2)).tokens_bsd
    assert torch.isfinite(tokens).all()


def make_views(method, x_blt, first_number=0):
    mv = Millivolts(x_blt, torch.ones_like(x_blt, dtype=torch.bool))
    numbers = torch.arange(first_number, first_number + len(x_blt))
    return cpc.views(method, WindowBatch(mv, numbers, 100.0, partial(normalise, mode="none"), Draw(1)))


def held_out_nats(control, seed, n_steps=100):
    method = cpc.Settings(n_negatives=16, steps_ahead=6, control=control)
    made = build_objective(method, SMALL.model_copy(update={"dropout": 0.0}), n_leads=3, seed=seed)
    optimiser = torch.optim.AdamW(made.parameters(), lr=1e-2)
    x_blt = windows(512, seed=seed)
    for step in range(n_steps):
        part = torch.arange(16 * step, 16 * step + 16) % 512
        optimiser.zero_grad()
        made(make_views(method, x_blt[part], 16 * step)).total.backward()
        optimiser.step()
    made.eval()
    with torch.no_grad():
        return made(make_views(method, windows(128, seed=seed + 1), 10**6)).parts["per_term_nats"].item()


@pytest.mark.slow
@pytest.mark.learning
def test_cpc_learns_on_it_and_cannot_without_temporal_order(seed):
    chance = math.log(17)
    assert held_out_nats("none", seed) < 0.8 * chance
    assert held_out_nats("time_shuffle", seed) > 0.97 * chance


def test_cpc_refuses_a_network_that_sees_both_ways():
    with pytest.raises(ConfigError, match="cpc needs a backbone with latents and causal contexts"):
        build_objective(cpc.Settings(), BOTH_WAYS, n_leads=3, seed=0)


def test_unfit_windows_and_settings_are_refused():
    made = build_backbone(SMALL.model_copy(update={"encoder": STRIDED}), 3, seed=0)
    assert made.encode(windows(2, 3)).shape[1] == 1
    with pytest.raises(ConfigError, match="shorter than the encoder's receptive field; got 2 samples"):
        made.encode(windows(2, 2))
    with pytest.raises(ConfigError, match="state must be even"):
        parse(s4.Settings, {"state": 7})
