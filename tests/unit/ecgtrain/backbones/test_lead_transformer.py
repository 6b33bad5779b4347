from __future__ import annotations

import math

import pytest
import torch

from ecgstore import ConfigError
from ecgstore.inner import parse
from ecgtrain.backbones import build_backbone, lead_transformer
from ecgtrain.backbones.layers.transformer import time_code

SMALL = lead_transformer.Settings(width=16, depth=2, heads=2, strides=(5, 2))


def small(n_leads=12, seed=0):
    made = build_backbone(SMALL, n_leads, seed=seed)
    return shaken(made.double())


def shaken(module):
    """Fresh weights are so small, and so many of them 0 or 1, that mistakes would not be seen."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return module


def windows(n=2, n_leads=12, n_samples=100, seed=0):
    return torch.randn(n, n_leads, n_samples, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_defaults_are_the_documented_network():
    made = build_backbone(lead_transformer.Settings(), n_leads=12, seed=0)
    assert (made.n_leads, made.width, made.pooled_width, made.patch_samples) == (12, 256, 512, 20)
    network = 64 * 15 + 2 * 64
    for n_in, n_out in ((64, 128), (128, 256)):
        network += 7 * n_in * n_out + 7 * n_out**2 + n_in * n_out + 3 * 2 * n_out
    blocks = 4 * (12 * 256**2 + 13 * 256) + 2 * 256
    assert count(made) == network + blocks == 4_064_064
    assert count(made.decoder(original_order=False)) == 257 * 20
    assert count(made.decoder(original_order=True)) == 257 * 20 + 12 * 256 + 257 * 512 + 512 == 140_308
    assert count(made.lead_head()) == 257 * 12


@pytest.mark.parametrize(("n_samples", "n_patches"), [(1, 1), (10, 1), (11, 2), (105, 11)])
@pytest.mark.parametrize("n_leads", [1, 5, 12])
def test_any_length_and_any_number_of_leads(n_samples, n_patches, n_leads):
    made = small()
    tokens_bsd, pooled_bd = features = made(windows(3, n_leads, n_samples))
    assert tokens_bsd.shape == (3, n_leads * n_patches, 16)
    assert made.n_tokens(n_samples) == 12 * n_patches
    assert torch.equal(pooled_bd, torch.cat([tokens_bsd.mean(1), tokens_bsd.amax(1)], dim=1))
    original, shuffled = (made.decoder(original_order=order).double() for order in (True, False))
    assert original(features, n_samples).shape == (3, 12, n_samples)  # all leads, from those that are there
    assert shuffled(features, n_samples).shape == (3, n_leads, n_samples)
    assert made.lead_head().double()(features, n_samples).shape == (3, n_leads, 12)


@pytest.mark.parametrize("training", [True, False])
def test_leads_that_change_places_change_nothing_else(training):
    made = small().train(training)
    heads = {
        "original": shaken(made.decoder(original_order=True).double()),
        "shuffled": shaken(made.decoder(original_order=False).double()),
        "lead": shaken(made.lead_head().double()),
    }
    x_blt = windows(2, 12, 105)
    order_l = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    straight, moved = made(x_blt), made(x_blt[:, order_l])
    by_lead = [features.tokens_bsd.view(2, 12, 11, 16) for features in (straight, moved)]
    assert torch.allclose(by_lead[0][:, order_l], by_lead[1], atol=1e-9)
    assert torch.allclose(straight.pooled_bd, moved.pooled_bd, atol=1e-9)
    assert not made.places_known
    said = {name: [head(features, 105) for features in (straight, moved)] for name, head in heads.items()}
    # What is asked for in the original order comes in it, wherever leads stood; all else where they stand.
    assert torch.allclose(*said["original"], atol=1e-9)
    assert not torch.allclose(said["original"][0][:, 0], said["original"][0][:, 1], atol=1e-3)
    for name in ("shuffled", "lead"):
        assert torch.allclose(said[name][0][:, order_l], said[name][1], atol=1e-9)
        assert not torch.allclose(*said[name], atol=1e-3)


def test_a_lead_is_seen_by_the_others_only_through_the_transformer():
    made = small().eval()
    x_blt = windows(1)
    changed = x_blt.clone()
    changed[:, 3] += windows(1, 1)[:, 0]
    before, after = (made.lead_network(x.flatten(0, 1)[:, None]) for x in (x_blt, changed))
    assert torch.equal(before[[0, 1, 2, 4]], after[[0, 1, 2, 4]])
    assert not torch.allclose(before[3], after[3])
    tokens = [made(x).tokens_bsd.view(12, 10, 16) for x in (x_blt, changed)]
    assert not torch.allclose(tokens[0][0], tokens[1][0])


def test_tokens_know_their_time():
    made = small().eval()
    same_blt = torch.ones(1, 2, 400, dtype=torch.float64)
    tokens_lsd = made(same_blt).tokens_bsd.view(2, 40, 16)
    # Far from both ends all patches look alike; only the code of time tells them apart.
    assert torch.allclose(tokens_lsd[0], tokens_lsd[1], atol=1e-9)
    assert not torch.allclose(tokens_lsd[0, 15], tokens_lsd[0, 25], atol=1e-3)
    rows = made.lead_network(same_blt.view(2, 1, 400)).transpose(1, 2) + time_code(torch.arange(40), 16)
    assert torch.allclose(made.transformer(rows.reshape(1, 80, 16)).view(2, 40, 16), tokens_lsd, atol=1e-9)


def test_what_is_asked_for_is_sought_among_the_leads_of_its_instant():
    made = small(n_leads=3).eval().requires_grad_(False)
    decoder = shaken(made.decoder(original_order=True).double()).requires_grad_(False)
    features = made(windows(2, 3, 40))
    tokens_blsd, seeker = features.tokens_bsd.view(2, 3, 4, 16), decoder.seeker
    said_blt = decoder(features, 40)
    for b in range(2):
        for s in range(4):
            both = tokens_blsd[b, :, s] @ seeker.keys_values.weight.T + seeker.keys_values.bias
            for j in range(3):
                found = []
                for part in (slice(0, 8), slice(8, 16)):
                    keys, values = both[:, :16][:, part], both[:, 16:][:, part]
                    weights = [math.exp(key @ seeker.queries[j, part] / math.sqrt(8)) for key in keys]
                    found.append(sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights))
                token = torch.cat(found) + seeker.queries[j]
                token = (token - token.mean()) / (token.var(unbiased=False) + 1e-5).sqrt()
                token = token * seeker.norm.weight + seeker.norm.bias
                expected = decoder.exit.weight @ token + decoder.exit.bias
                assert torch.allclose(said_blt[b, j, 10 * s : 10 * s + 10], expected, atol=1e-9)


@pytest.mark.parametrize("original_order", [True, False])
def test_what_was_filled_up_is_cut_off_at_the_end(original_order):
    made = small().eval()
    decoder = made.decoder(original_order=original_order).double()
    features = made(windows(n_samples=105))
    assert torch.equal(decoder(features, 105), decoder(features, 110)[..., :105])


def test_weights_do_not_hang_on_the_leads():
    one, other = (build_backbone(SMALL, n_leads, seed=0).state_dict() for n_leads in (2, 12))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(
        one["lead_network.0.0.weight"], build_backbone(SMALL, 2, seed=1).state_dict()["lead_network.0.0.weight"]
    )


def test_layers_are_grouped_from_the_output_down():
    made = small()
    groups = made.layer_groups()
    assert len(groups) == 3
    assert groups[0][-1] is made.transformer.norm.bias
    assert groups[-1][0] is made.lead_network[0][0].weight
    assert {id(one) for group in groups for one in group} == {id(one) for one in made.parameters()}
    assert sum(map(len, groups)) == len(list(made.parameters()))


def test_unfit_settings_are_refused():
    with pytest.raises(ConfigError, match="multiple of heads"):
        parse(lead_transformer.Settings, {"width": 100, "heads": 8})
    with pytest.raises(ConfigError, match="width 36 can't be halved 3 times"):
        parse(lead_transformer.Settings, {"width": 36, "heads": 2, "strides": [5, 2, 2, 1]})
