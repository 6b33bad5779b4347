from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ecgstore import ConfigError
from ecgstore.inner import parse
from ecgtrain.backbones import build_backbone, cpc_lstm
from ecgtrain.backbones.layers.encoder import Encoder

STRIDED = Encoder(width=8, kernels=(10, 4, 4, 4), strides=(2, 2, 2, 2))


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_defaults_are_the_published_network():
    made = build_backbone(cpc_lstm.Settings(), n_leads=12, seed=0)
    assert count(made.encoder) == 796_672
    assert count(made.lstm) == 4_202_496
    assert (made.width, made.latent_width, made.pooled_width, made.n_leads) == (512, 512, 1536, 12)


@pytest.mark.parametrize("encoder", [Encoder(width=8), STRIDED])
@pytest.mark.parametrize("n_samples", [250, 333])
def test_shapes(encoder, n_samples):
    made = build_backbone(cpc_lstm.Settings(encoder=encoder, lstm_width=6), n_leads=3, seed=0)
    x_blt = torch.randn(2, 3, n_samples)
    latents = made.encode(x_blt)
    assert latents.shape == (2, made.n_tokens(n_samples), 8)
    features = made(x_blt)
    assert features.tokens_bsd.shape == (2, made.n_tokens(n_samples), 6)
    assert features.pooled_bd.shape == (2, 18)


def test_pooled_is_mean_max_last():
    made = build_backbone(cpc_lstm.Settings(encoder=Encoder(width=8), lstm_width=6), 3, seed=0).eval()
    tokens, pooled = made(torch.randn(2, 3, 50))
    expected = torch.cat([tokens.mean(1), tokens.amax(1), tokens[:, -1]], dim=1)
    assert torch.equal(pooled, expected)


def test_the_fc_encoder_is_a_convolution_of_kernel_one():
    made = build_backbone(cpc_lstm.Settings(encoder=Encoder(width=8)), n_leads=3, seed=0)
    x_blt = torch.randn(4, 3, 50)
    expected = x_blt
    for layer in made.encoder:
        y = F.conv1d(expected, layer.conv.weight)
        mean, std = y.mean((0, 2), keepdim=True), (y.var((0, 2), unbiased=False, keepdim=True) + 1e-5).sqrt()
        expected = F.relu((y - mean) / std)
    assert torch.allclose(made.encode(x_blt), expected.transpose(1, 2), atol=1e-5)


@pytest.mark.parametrize(
    ("encoder", "stride", "field"), [(Encoder(width=8), 1, 1), (STRIDED, 16, 10 + 3 * (2 + 4 + 8))]
)
def test_a_latent_sees_its_own_receptive_field_only(encoder, stride, field):
    made = build_backbone(cpc_lstm.Settings(encoder=encoder), n_leads=3, seed=0).eval()
    # Drawn from a generator: of eight channels behind four rectifiers, all are silent now and then.
    x_blt = torch.randn(1, 3, 400, generator=torch.Generator().manual_seed(0)).requires_grad_()
    made.encode(x_blt)[0, 5].sum().backward()
    seen = x_blt.grad[0].abs().sum(0).nonzero().flatten()
    assert seen.min() >= 5 * stride
    assert seen.max() < 5 * stride + field


def test_a_window_shorter_than_the_receptive_field_is_refused():
    made = build_backbone(cpc_lstm.Settings(encoder=STRIDED), n_leads=3, seed=0)
    assert made.encode(torch.randn(2, 3, 52)).shape[1] == 1
    with pytest.raises(ConfigError, match="shorter than the encoder's receptive field; got 51 samples"):
        made.encode(torch.randn(2, 3, 51))


def test_kernels_and_strides_come_in_pairs():
    with pytest.raises(ConfigError, match="4 kernels but 1 strides"):
        parse(cpc_lstm.Settings, {"encoder": {"strides": [2]}})


def test_weights_hang_on_the_seed_and_draw_from_nobody():
    settings = cpc_lstm.Settings(encoder=Encoder(width=8), lstm_width=6)
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    one = build_backbone(settings, 3, seed=1).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(7)
    again, other = (build_backbone(settings, 3, seed=seed).state_dict() for seed in (1, 2))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["lstm.weight_ih_l0"], other["lstm.weight_ih_l0"])
