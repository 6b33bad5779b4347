from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ecgstore import ConfigError
from ecgstore.inner import parse
from ecgtrain.backbones import build_backbone, vit1d
from ecgtrain.backbones.layers.transformer import RowDecoder, Shape, Split

SMALL = vit1d.Settings(width=12, depth=2, heads=3, patch_samples=10)
WEIMANN = vit1d.Settings(
    size="small", depth=8, patch_samples=25, joint_leads=True, patch_norm=False, sep=False, registers=1, bias=False
)


def small(**settings):
    made = build_backbone(parse(vit1d.Settings, SMALL.model_dump() | settings), n_leads=3, seed=0).double().eval()
    with torch.no_grad():
        # Fresh weights are so small, and so many of them 0 or 1, that mistakes would not be seen.
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return made


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def windows(n=2, n_samples=60, seed=0):
    return torch.randn(n, 3, n_samples, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- the same in plain words ----------------------------------------------------------------------------------


def plain_norm(x, norm):
    scaled = (x - x.mean()) / math.sqrt(x.var() + 1e-6)
    return scaled * norm.weight.detach().numpy() + norm.bias.detach().numpy()


def plain_linear(x, linear):
    return linear.weight.detach().numpy() @ x + linear.bias.detach().numpy()


def plain_time(place, width):
    half = width // 2
    angles = [place / 10_000 ** (i / half) for i in range(half)]
    return np.array([math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles])


def plain_attention(tokens, block, n_heads, may_look):
    width = len(tokens[0])
    size = width // n_heads
    q, k, v = (
        np.array([plain_linear(token, block.qkv) for token in tokens])[:, i * width :][:, :width] for i in range(3)
    )
    out = np.zeros((len(tokens), width))
    for i in range(len(tokens)):
        for head in range(n_heads):
            part = slice(head * size, (head + 1) * size)
            looked_at = [j for j in range(len(tokens)) if may_look(i, j)]
            weights = np.array([math.exp(q[i, part] @ k[j, part] / math.sqrt(size)) for j in looked_at])
            out[i, part] = sum(w * v[j, part] for w, j in zip(weights / weights.sum(), looked_at, strict=True))
    return [plain_linear(one, block.out) for one in out]


def gelu(x):
    return np.array([0.5 * one * (1 + math.erf(one / math.sqrt(2))) for one in x])


def plain_tokens(made, x_lt, patch=10, n_heads=3, keep=None, cross=False):
    """Tokens of one window, with separators and codes, one block and token after the other."""
    width, n_leads = made.width, len(x_lt)
    n_patches = math.ceil(x_lt.shape[1] / patch)
    tokens, places = [], []
    for lead in range(n_leads):
        code = made.lead_code[lead].detach().numpy()
        for place in (0, n_patches + 1):
            tokens.append(made.sep[0].detach().numpy() + plain_time(place, width) + code)
            places.append((lead, place))
    for number in range(n_leads * n_patches) if keep is None else keep:
        lead, place = divmod(number, n_patches)
        cut = np.zeros(patch)
        there = x_lt[lead, place * patch : (place + 1) * patch]
        cut[: len(there)] = there
        before, linear, after = made.embedding
        embedded = plain_norm(plain_linear(plain_norm(cut, before), linear), after)
        tokens.append(embedded + plain_time(place + 1, width) + made.lead_code[lead].detach().numpy())
        places.append((lead, place + 1))

    def may_look(i, j):
        return not cross or places[i][0] == places[j][0] or places[i][1] == places[j][1]

    for block in made.transformer.blocks:
        seen = plain_attention([plain_norm(token, block.norm1) for token in tokens], block, n_heads, may_look)
        tokens = [token + one for token, one in zip(tokens, seen, strict=True)]
        fed = [plain_linear(gelu(plain_linear(plain_norm(t, block.norm2), block.widen)), block.narrow) for t in tokens]
        tokens = [token + one for token, one in zip(tokens, fed, strict=True)]
    return np.array([plain_norm(token, made.transformer.norm) for token in tokens[2 * n_leads :]])


@pytest.mark.parametrize("attention", ["all", "cross"])
@pytest.mark.parametrize("n_samples", [60, 53])
def test_tokens_are_those_of_the_formula(attention, n_samples):
    made, x_blt = small(attention=attention), windows(2, n_samples)
    tokens, pooled = made(x_blt)
    expected = np.stack([plain_tokens(made, x_lt.numpy(), cross=attention == "cross") for x_lt in x_blt])
    assert np.allclose(tokens.detach(), expected, atol=1e-5)  # codes of time are float32
    assert torch.equal(pooled, tokens.mean(1))
    assert tokens.shape == (2, 18, 12) == (2, made.n_tokens(n_samples), made.width)


@pytest.mark.parametrize("attention", ["all", "cross"])
def test_tokens_left_out_are_as_if_never_there(attention):
    made, x_blt = small(attention=attention), windows()
    keep_bk = torch.tensor([[0, 3, 7, 12, 13], [5, 6, 11, 16, 17]])
    kept = made.encode_tokens(made.embed_patches(x_blt), keep_bk)
    for x_lt, keep, got in zip(x_blt.numpy(), keep_bk.tolist(), kept.detach().numpy(), strict=True):
        assert np.allclose(got, plain_tokens(made, x_lt, keep=keep, cross=attention == "cross"), atol=1e-5)
    changed = x_blt.clone()
    changed[0, 0, 10:20] *= torch.linspace(-1, 1, 10)  # token 1 of the first window
    assert torch.equal(made.encode_tokens(made.embed_patches(changed), keep_bk), kept)
    changed[0, 0, 30:40] *= torch.linspace(-1, 1, 10)  # token 3
    assert not torch.allclose(made.encode_tokens(made.embed_patches(changed), keep_bk), kept)


def test_patch_norm_takes_a_patchs_height_and_size_away():
    x_blt = windows()
    for patch_norm in (True, False):
        made = small(patch_norm=patch_norm)
        same = torch.allclose(made(3 * x_blt + 1).tokens_bsd, made(x_blt).tokens_bsd, atol=1e-4)
        assert same == patch_norm


def test_all_tokens_kept_is_none_left_out():
    made, x_blt = small(registers=2), windows()
    tokens_bsd = made.embed_patches(x_blt)
    everything = torch.arange(18).expand(2, -1)
    assert torch.allclose(made.encode_tokens(tokens_bsd, everything), made(x_blt).tokens_bsd)


def test_cross_attention_reaches_a_tokens_own_lead_and_instant_only():
    made = small(attention="cross", depth=1)
    tokens_bsd = made.embed_patches(windows()).detach().requires_grad_()
    made.encode_tokens(tokens_bsd)[0, 8].sum().backward()  # lead 1, instant 2
    reached = {divmod(n, 6) for n in tokens_bsd.grad[0].abs().sum(1).nonzero().flatten().tolist()}
    assert reached == {(1, instant) for instant in range(6)} | {(lead, 2) for lead in range(3)}


def test_separators_and_registers_are_looked_at_and_left_out_of_the_features():
    for settings, parameter in (({}, "sep"), ({"sep": False, "registers": 2, "attention": "cross"}, "registers")):
        made = small(**settings)
        tokens = made(windows()).tokens_bsd
        assert tokens.shape == (2, 18, 12)
        with torch.no_grad():
            getattr(made, parameter).normal_(std=5.0)
        assert not torch.allclose(made(windows()).tokens_bsd, tokens)


def test_patches_of_all_leads_together():
    made = small(joint_leads=True)
    x_blt = windows(2, 55)
    patches = made.patches(x_blt)
    assert patches.shape == (2, 1, 6, 30)
    assert torch.equal(patches[1, 0, 2], torch.cat([x_blt[1, lead, 20:30] for lead in range(3)]))
    assert torch.equal(patches[0, 0, 5, 15:20], torch.zeros(5, dtype=torch.float64))
    assert made(x_blt).tokens_bsd.shape == (2, 6, 12) == (2, made.n_tokens(55), 12)


def test_published_sizes():
    with torch.device("meta"):  # no numbers, only their shapes
        weimann, base = (vit1d.build(settings, 12) for settings in (WEIMANN, vit1d.Settings()))
    # As counted by the published code of Weimann & Conrad for ViT-S.
    assert count(weimann) == 14_277_888
    assert count(base.transformer) == 12 * (12 * 768**2 + 13 * 768) + 2 * 768  # ViT-B
    # LayerNorm, Linear, LayerNorm; twelve codes of leads and one separator.
    assert count(base) - count(base.transformer) == 2 * 75 + 76 * 768 + 2 * 768 + 12 * 768 + 768
    assert (base.width, base.pooled_width, base.n_tokens(2250)) == (768, 768, 12 * 30)
    assert vit1d.Settings(size="tiny").shape == (192, 12, 3)
    assert vit1d.Settings(size="small", heads=4).shape == (384, 12, 4)


def test_fresh_weights_are_small_and_those_that_add_up_are_smaller():
    made = build_backbone(vit1d.Settings(size="tiny", depth=8), n_leads=12, seed=0)
    block = made.transformer.blocks[3]
    cut = 0.8796  # of a normal variable that is cut off at two
    assert block.widen.weight.std().item() == pytest.approx(0.02 * cut, rel=0.02)
    assert block.out.weight.std().item() == pytest.approx(0.02 * cut / 4, rel=0.02)
    assert block.narrow.weight.std().item() == pytest.approx(0.02 * cut / 4, rel=0.02)
    assert block.qkv.bias.abs().max() == 0


def test_blocks_are_skipped_in_training_only_and_the_later_the_oftener():
    torch.manual_seed(0)
    made = small(drop_path=0.5, depth=3)
    blocks = made.transformer.blocks
    assert [block._drop_path for block in blocks] == [0.0, 0.25, 0.5]
    x_blt = windows()
    assert torch.equal(made(x_blt).tokens_bsd, made(x_blt).tokens_bsd)
    made.train()
    skipped = blocks[2]._sometimes(torch.ones(4000, 2, 3, dtype=torch.float64))
    assert set(skipped.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(skipped, skipped[:, :1, :1].expand_as(skipped))
    assert skipped.mean().item() == pytest.approx(1, abs=0.06)


def test_layer_groups_hold_every_parameter_once_from_the_output_down():
    made = small(registers=1)
    groups = made.layer_groups()
    held = [id(parameter) for group in groups for parameter in group]
    assert sorted(held) == sorted(id(parameter) for parameter in made.parameters())
    assert len(groups) == 3
    assert id(made.transformer.norm.weight) in {id(p) for p in groups[0]}
    assert id(made.lead_code) in {id(p) for p in groups[-1]}


def test_every_parameter_learns():
    made = small(registers=2, attention="cross")
    made(windows()).pooled_bd.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in made.parameters())


# --- rows of seen and hidden ----------------------------------------------------------------------------------


HIDDEN = torch.tensor([[[1, 0, 1, 0], [0, 1, 1, 0]], [[0, 0, 1, 1], [1, 1, 0, 0]]], dtype=torch.bool)


def test_a_split_tells_what_is_seen_and_hidden():
    split = Split.of(HIDDEN, 2)
    assert split.seen_brs.tolist() == [[[1, 3], [0, 3]], [[0, 1], [2, 3]]]
    assert split.hidden_brs.tolist() == [[[0, 2], [1, 2]], [[2, 3], [0, 1]]]
    assert split.keep_bk().tolist() == [[1, 3, 4, 7], [0, 1, 6, 7]]
    assert split.n_patches == 4


def plain_decoder(made, tokens, seen, hidden, n_patches, n_heads):
    """What is said of one row: tokens put in their places, one block after the other."""
    width = len(made.hidden)
    row = [made.hidden.detach().numpy()] * n_patches
    for place, token in zip(seen, tokens, strict=True):
        row[place] = plain_linear(token, made.entry)
    row = [token + plain_time(place + 1, width) for place, token in enumerate(row)]
    for block in made.transformer.blocks:
        normed = [plain_norm(token, block.norm1) for token in row]
        row = [t + s for t, s in zip(row, plain_attention(normed, block, n_heads, lambda i, j: True), strict=True)]
        row = [t + plain_linear(gelu(plain_linear(plain_norm(t, block.norm2), block.widen)), block.narrow) for t in row]
    return np.array([plain_linear(plain_norm(row[place], made.transformer.norm), made.exit) for place in hidden])


def test_the_decoder_fills_in_one_row_at_a_time():
    torch.manual_seed(0)
    made = RowDecoder(Shape(8, 2, 2), n_in=5, n_out=7).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    split = Split.of(HIDDEN, 2)
    tokens_bkd = torch.randn(2, 4, 5, dtype=torch.float64)
    said = made(tokens_bkd, split).detach().numpy()
    assert said.shape == (2, 2, 2, 7)
    for b in range(2):
        for row in range(2):
            tokens = tokens_bkd[b, 2 * row : 2 * row + 2].numpy()
            seen, hidden = split.seen_brs[b, row].tolist(), split.hidden_brs[b, row].tolist()
            assert np.allclose(said[b, row], plain_decoder(made, tokens, seen, hidden, 4, 2), atol=1e-5)


def test_bfloat16_runs():
    made = build_backbone(SMALL, n_leads=3, seed=0)
    x_blt = windows().float()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = made(x_blt).pooled_bd
    assert torch.allclose(rounded.float(), made(x_blt).pooled_bd, atol=0.05)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ConfigError, match="width must be even and a multiple of heads, not 384 of 5"):
        parse(vit1d.Settings, {"size": "small", "heads": 5})
