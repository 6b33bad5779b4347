from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ecgtrain.backbones import build_backbone, conv_reconstructor

SMALL = conv_reconstructor.Settings(width=4)


def small(n_leads=3, seed=0):
    return build_backbone(SMALL, n_leads, seed=seed).double()


def windows(n=2, n_samples=100, n_leads=3, seed=0):
    return torch.randn(n, n_leads, n_samples, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def conv(n_in, n_out, kernel):
    return n_in * n_out * kernel + 2 * n_out  # with its BatchNorm


def test_the_defaults_are_the_documented_network():
    made = build_backbone(conv_reconstructor.Settings(), n_leads=12, seed=0)
    assert (made.n_leads, made.width, made.pooled_width) == (12, 512, 1024)
    expected = conv(12, 64, 15) + 4 * conv(64, 64, 7)
    for n_in, n_out in ((64, 128), (128, 256), (256, 512)):
        expected += conv(n_in, n_out, 7) + 3 * conv(n_out, n_out, 7) + conv(n_in, n_out, 1)
    assert count(made) == expected == 8_737_408
    decoder = made.decoder(original_order=True)
    up = sum(conv(*sizes, 4) for sizes in ((512, 256), (256, 128), (128, 64), (64, 64)))
    assert count(decoder) == up + 64 * 12 * 7 + 12 == 710_924
    assert count(made.lead_head()) == 1024 * 512 + 512 + 512 * 144 + 144 == 598_672


@pytest.mark.parametrize(("n_samples", "n_tokens"), [(1, 1), (16, 1), (17, 2), (250, 16), (333, 21), (1000, 63)])
def test_any_length_goes_in_and_comes_back(n_samples, n_tokens):
    made = small()
    tokens_bsd, pooled_bd = features = made(windows(n_samples=n_samples))
    assert tokens_bsd.shape == (2, n_tokens, 32)
    assert made.n_tokens(n_samples) == n_tokens
    assert torch.equal(pooled_bd, torch.cat([tokens_bsd.mean(1), tokens_bsd.amax(1)], dim=1))
    assert made.decoder(original_order=False).double()(features, n_samples).shape == (2, 3, n_samples)
    assert made.lead_head().double()(features, n_samples).shape == (2, 3, 3)


def plain_norm(x, norm):
    mean, variance = x.mean((0, 2), keepdim=True), x.var((0, 2), unbiased=False, keepdim=True)
    return norm.weight[:, None] * (x - mean) / (variance + 1e-5).sqrt() + norm.bias[:, None]


def plain_block(x, block, stride):
    inner = F.relu(plain_norm(F.conv1d(F.pad(x, (3, 3)), block.conv1.weight, stride=stride), block.norm1))
    inner = plain_norm(F.conv1d(F.pad(inner, (3, 3)), block.conv2.weight), block.norm2)
    beside = x
    if len(list(block.shortcut.parameters())):
        beside = plain_norm(F.conv1d(x[..., ::stride], block.shortcut[0].weight), block.shortcut[1])
    return F.relu(inner + beside)


def test_it_computes_what_it_says():
    made = small()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    x = F.pad(windows(), (0, 12))
    x = F.relu(plain_norm(F.conv1d(F.pad(x, (7, 7)), made.stem[0].weight, stride=2), made.stem[1]))
    for stage, stride in zip(made.stages, (1, 2, 2, 2), strict=True):
        x = plain_block(plain_block(x, stage[0], stride), stage[1], 1)
    assert torch.allclose(made(windows()).tokens_bsd, x.transpose(1, 2), atol=1e-10)


def test_a_sample_is_restored_from_those_around_it():
    """As far to one side as to the other, to within a token."""
    made = small().eval()
    decoder = made.decoder(original_order=True).double().eval()
    x_blt = windows(1, 2000).requires_grad_()
    decoder(made(x_blt), 2000)[0, :, 1000].sum().backward()
    seen = x_blt.grad[0].abs().sum(0).nonzero().flatten()
    first, last = 1000 - int(seen.min()), int(seen.max()) - 1000
    # 325 samples to each side in the encoder: the stem's 7, then four blocks of two; the decoder looks a bit further.
    assert abs(first - last) <= 16
    assert 325 < (first + last) / 2 < 325 + 32


def test_what_was_filled_up_is_cut_off_at_the_end():
    made = small().eval()
    decoder = made.decoder(original_order=True).double().eval()
    features = made(windows(n_samples=100))
    assert torch.equal(decoder(features, 100), decoder(features, 112)[..., :100])


def test_a_place_is_known_by_its_weights():
    made = small().eval()
    x_blt = windows()
    assert made.places_known
    assert not torch.allclose(made(x_blt).pooled_bd, made(x_blt.flip(1)).pooled_bd)


def test_layers_are_grouped_from_the_output_down():
    made = small()
    groups = made.layer_groups()
    assert groups[0][0] is made.stages[3][0].conv1.weight
    assert groups[-1][0] is made.stem[0].weight
    assert len(groups) == 5
    assert {id(one) for group in groups for one in group} == {id(one) for one in made.parameters()}


def test_what_is_made_for_pretraining_is_no_part_of_the_backbone():
    made = small()
    before = set(made.state_dict())
    made.decoder(original_order=True)
    made.lead_head()
    assert set(made.state_dict()) == before
    assert not any("decoder" in name or "head" in name for name in before)


def test_weights_hang_on_the_seed():
    one, again, other = (small(seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["stem.0.weight"], other["stem.0.weight"])
