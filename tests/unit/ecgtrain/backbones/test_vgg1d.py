from __future__ import annotations

import pytest
import torch

from ecgstore import ConfigError
from ecgtrain.backbones import build_backbone, vgg1d


def network(n_leads=8, seed=0, **settings):
    return build_backbone(vgg1d.Settings(**settings), n_leads, seed)


def test_the_published_encoder_has_78_216_parameters():
    assert sum(parameter.numel() for parameter in network().parameters()) == 78_216
    assert sum(parameter.numel() for parameter in network(tie_leads=False).parameters()) == 8 * 78_216


def test_features_are_those_of_the_leads_side_by_side():
    made = network().eval()
    x_blt = torch.randn(3, 8, 250)
    tokens_bld, pooled_bd = made(x_blt)
    assert tokens_bld.shape == (3, 8, 64)
    assert pooled_bd.shape == (3, made.pooled_width) == (3, 512)
    for lead in range(8):
        alone = made.encode_lead(x_blt[:, lead], lead)
        assert torch.allclose(tokens_bld[:, lead], alone, atol=1e-6)
        assert torch.allclose(pooled_bd[:, 64 * lead : 64 * (lead + 1)], alone, atol=1e-6)


def test_a_lead_is_encoded_alike_wherever_it_stands():
    made = network().eval()
    x_blt = torch.randn(2, 8, 100)
    order = torch.randperm(8)
    assert torch.allclose(made(x_blt[:, order]).tokens_bsd, made(x_blt).tokens_bsd[:, order], atol=1e-6)


def test_own_encoders_begin_alike_and_part_by_training():
    made = network(n_leads=3, tie_leads=False)
    x_b1t = torch.randn(4, 1, 64).expand(-1, 3, -1)
    tokens_bld = made(x_b1t).tokens_bsd
    assert torch.allclose(tokens_bld[:, 0], tokens_bld[:, 2], atol=1e-6)
    made(x_b1t).tokens_bsd[:, 1].sum().backward()
    got = [any(p.grad is not None and p.grad.abs().sum() > 0 for p in its.parameters()) for its in made.encoders]
    assert got == [False, True, False]


@pytest.mark.parametrize("n_samples", [32, 33, 250, 1000])
def test_any_length_from_32_samples_on(n_samples):
    assert network().eval()(torch.randn(2, 8, n_samples)).pooled_bd.shape == (2, 512)


def test_shorter_windows_are_refused():
    with pytest.raises(ConfigError, match="too short for vgg1d.*expected 32 samples or more, got 31"):
        network()(torch.randn(2, 8, 31))


def test_it_is_the_published_chain():
    kinds = [type(layer).__name__ for layer in network().encoders[0]]
    groups = " ".join(kinds).split("MaxPool1d")
    assert [group.count("Conv1d") for group in groups] == [2, 2, 3, 3, 3, 0]
    widths = [layer.out_channels for layer in network().encoders[0] if hasattr(layer, "out_channels")]
    assert widths == [8, 8, 16, 16, 32, 32, 32, 64, 64, 64, 64, 64, 64]


@pytest.mark.parametrize("tie_leads", [True, False])
def test_a_lead_is_encoded_by_the_encoder_it_has_and_averaged_over_time(tie_leads):
    made = network(n_leads=3, tie_leads=tie_leads)
    with torch.no_grad():
        for place, its in enumerate(made.encoders):
            its[0].weight.add_(0.3 * torch.randn(its[0].weight.shape, generator=torch.Generator().manual_seed(place)))
    made.eval()
    x_blt = torch.randn(2, 3, 320)
    tokens_bsd = made(x_blt).tokens_bsd
    for lead in range(3):
        before_pooling = made.encoders[0 if tie_leads else lead](x_blt[:, lead : lead + 1])
        assert before_pooling.shape == (2, 64, 10)
        expected = before_pooling.sum(dim=2) / 10
        assert torch.allclose(made.encode_lead(x_blt[:, lead], lead), expected, atol=1e-6)
        assert torch.allclose(tokens_bsd[:, lead], expected, atol=1e-6)
    assert len(made.encoders) == (1 if tie_leads else 3)


def test_channels_lie_last_inside_and_nothing_else_differs():
    encoder = network().double().encoders[0]
    x_b1t = torch.randn(3, 1, 100, dtype=torch.float64)
    for training in (True, False):
        encoder.train(training)
        plain = x_b1t
        for layer in encoder:
            plain = layer(plain)
        assert torch.allclose(encoder(x_b1t), plain, rtol=1e-10)
    assert encoder(x_b1t).stride(1) == 1
