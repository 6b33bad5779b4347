from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch

from ecgstore import ConfigError
from ecgstore.inner import parse
from ecgtrain.backbones import cpc_lstm, vit1d
from ecgtrain.methods import WindowBatch, build_objective, mae
from ecgtrain.views.draw import Draw
from ecgtrain.views.normalise import Millivolts, normalise

NETWORK = vit1d.Settings(width=32, depth=2, heads=4, patch_samples=10)
DECODER = mae.Decoder(width=32, depth=1)


def objective(network=NETWORK, seed=0, **settings):
    return build_objective(mae.Settings(decoder=DECODER, **settings), network, n_leads=3, seed=seed)


def make_views(x_blt, first_number=0):
    mv = Millivolts(x_blt, torch.ones_like(x_blt, dtype=torch.bool))
    numbers = torch.arange(first_number, first_number + len(x_blt))
    batch = WindowBatch(mv, numbers, 100.0, partial(normalise, mode="none"), Draw(1))
    return mae.views(mae.Settings(), batch)


def windows(n, n_samples=100, seed=0):
    """Waves of one period per window: what is hidden can be told from what is seen."""
    rng = np.random.default_rng(seed)
    time = np.arange(n_samples)
    phase = rng.uniform(0, 2 * np.pi, (n, 3, 1)) + 2 * np.pi * time / rng.uniform(15, 40, (n, 1, 1))
    return torch.from_numpy((np.sin(phase) + 0.1 * rng.standard_normal(phase.shape)).astype(np.float32))


def noise(n, seed=0):
    return torch.randn(n, 3, 100, generator=torch.Generator().manual_seed(seed))


def coins(n, seed=0):
    """A ramp up or down in each patch, independent of all others: to be known only by who sees it."""
    rng = np.random.default_rng(seed)
    signs = rng.choice([-1.0, 1.0], (n, 3, 4, 1)) * np.linspace(-1, 1, 10)
    return torch.from_numpy(signs.reshape(n, 3, 40).astype(np.float32))


def loss_in_plain_words(said, patches):
    """The equation, one window and patch at a time in float64; flat patches left out."""
    losses = []
    for window_said, window in zip(said, patches, strict=True):
        errors = []
        for row_said, row in zip(window_said, window, strict=True):
            for q, p in zip(row_said, row, strict=True):
                mean = sum(p) / len(p)
                std = math.sqrt(sum((one - mean) ** 2 for one in p) / len(p))
                if std > 1e-3:
                    errors.append(sum((a - (b - mean) / std) ** 2 for a, b in zip(q, p, strict=True)) / len(p))
        losses.append(sum(errors) / len(errors) if errors else 0.0)
    return losses


def test_the_loss_is_the_published_one():
    generator = torch.Generator().manual_seed(0)
    said, patches = (torch.randn(4, 3, 5, 8, generator=generator) for _ in range(2))
    patches *= torch.logspace(-2.5, 2, 5)[:, None]  # any size is brought to one
    patches[1, 0] = 0.7
    patches[2] = 0.0
    patches[3, 1:, 2] = -4.0
    loss_b = mae.masked_mse(said, patches)
    assert np.allclose(loss_b, loss_in_plain_words(said.double().tolist(), patches.double().tolist()), rtol=1e-4)
    assert loss_b[2] == 0


def test_its_gradient_is_that_of_the_formula():
    generator = torch.Generator().manual_seed(0)
    said = torch.randn(2, 2, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    patches = torch.randn(2, 2, 3, 4, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda q: mae.masked_mse(q, patches), said)


def test_saying_nothing_costs_one_whatever_the_signal():
    made = objective()
    assert made.chance == {"masked_mse": 1.0}
    with torch.no_grad():
        made.decoder.exit.weight.zero_()
    for x_blt in (windows(8), 0.01 * noise(8), noise(8) + 50.0):
        assert made(make_views(x_blt)).parts["masked_mse"].item() == pytest.approx(1, abs=1e-4)
    assert objective()(make_views(noise(64))).total.item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("ratio", "n_patches", "n_hidden"), [(0.75, 30, 23), (0.75, 20, 15), (0.9, 10, 9), (0.6, 10, 6), (0.5, 7, 4)]
)
def test_as_many_patches_are_hidden_of_each_lead(ratio, n_patches, n_hidden):
    assert mae.Settings(mask_ratio=ratio).n_hidden(n_patches) == n_hidden
    split = mae.draw_split(Draw(3), torch.arange(50), 12, n_patches, n_hidden)
    assert split.hidden_brs.shape == (50, 12, n_hidden)
    both = torch.cat([split.seen_brs, split.hidden_brs], dim=2).sort(dim=2).values
    assert torch.equal(both, torch.arange(n_patches).expand(50, 12, -1))
    assert (split.seen_brs.diff(dim=2) > 0).all()


def test_leads_are_masked_by_themselves_and_all_places_alike_often():
    split = mae.draw_split(Draw(3), torch.arange(4000), 3, 10, 4)
    hidden = torch.zeros(4000, 3, 10).scatter_(2, split.hidden_brs, 1.0)
    assert (hidden.mean(0) - 0.4).abs().max() < 5 * math.sqrt(0.24 / 4000)
    together = (hidden[:, 0] * hidden[:, 1]).mean(0)
    assert (together - 0.16).abs().max() < 5 * math.sqrt(0.16 / 4000)
    assert not torch.equal(split.hidden_brs[0], split.hidden_brs[1])


def test_masks_hang_on_the_sample_number_and_nothing_else():
    numbers = torch.tensor([4, 17, 90])
    drawn = mae.draw_split(Draw(3), numbers, 3, 10, 4).hidden_brs
    assert torch.equal(mae.draw_split(Draw(3), numbers[1:2], 3, 10, 4).hidden_brs[0], drawn[1])
    assert not torch.equal(mae.draw_split(Draw(4), numbers, 3, 10, 4).hidden_brs, drawn)


def test_half_a_batch_costs_what_its_windows_cost_in_the_whole():
    made, x_blt = objective().eval(), windows(6)
    x_blt[1, 2] = 0.0
    x_blt[4, :2] = 0.0
    whole = made(make_views(x_blt)).total
    halves = [made(make_views(x_blt[part : part + 3], part)).total for part in (0, 3)]
    assert whole.item() == pytest.approx(sum(half.item() for half in halves) / 2, rel=1e-5)


def test_a_lead_that_is_absent_does_not_count():
    made = objective().eval()
    with torch.no_grad():
        made.decoder.exit.weight.zero_()
        made.decoder.exit.bias.fill_(2.0)  # costs 1 + 4 where a patch has a shape, 4 where it has none
    x_blt = windows(4)
    x_blt[:, 1] = 0.0
    assert made(make_views(x_blt)).total.item() == pytest.approx(5, rel=1e-4)
    assert made(make_views(torch.zeros(4, 3, 100))).total.item() == 0


def hidden_is_seen(made):
    """Whether what is said changes with what is hidden."""
    x_blt = windows(2)
    split = mae.draw_split(Draw(1), torch.arange(2), 3, 10, 8)
    hidden = torch.zeros(2, 3, 10).scatter_(2, split.hidden_brs, 1.0).repeat_interleave(10, dim=2).bool()
    said, changed = (
        made.decoder(made.backbone.encode_tokens(made.backbone.embed_patches(x), split.keep_bk()), split)
        for x in (x_blt, torch.where(hidden, noise(2), x_blt))
    )
    return not torch.equal(said, changed)


def test_what_is_hidden_is_not_seen(monkeypatch):
    made = objective().eval()
    assert not hidden_is_seen(made)
    encode = made.backbone.encode_tokens

    def hides_too_late(tokens_bsd, keep_bk):
        return encode(tokens_bsd).take_along_dim(keep_bk[..., None], dim=1)

    monkeypatch.setattr(made.backbone, "encode_tokens", hides_too_late)
    assert hidden_is_seen(made)


def the_others(keep_bk, n_patches):
    """The bug of taking what is hidden for what is seen; of each lead, half is hidden."""
    gone = torch.ones(len(keep_bk), 3 * n_patches, dtype=torch.bool).scatter(1, keep_bk, False)
    return gone.nonzero()[:, 1].view(keep_bk.shape)


def held_out(make, seed, n_steps, leaks=False):
    made = objective(seed=seed, mask_ratio=0.5)
    if leaks:
        encode = made.backbone.encode_tokens
        made.backbone.encode_tokens = lambda tokens_bsd, keep_bk: encode(tokens_bsd, the_others(keep_bk, 4))
    optimiser = torch.optim.AdamW(made.parameters(), lr=3e-3)
    x_blt = make(512, seed=seed)
    for step in range(n_steps):
        part = torch.arange(16 * step, 16 * step + 16) % 512
        optimiser.zero_grad()
        made(make_views(x_blt[part], 16 * step)).total.backward()
        optimiser.step()
    made.eval()
    with torch.no_grad():
        return made(make_views(make(128, seed=seed + 1), 10**6)).parts["masked_mse"].item()


@pytest.mark.learning
def test_it_learns_waves(seed):
    assert held_out(windows, seed, 170) < 0.8


@pytest.mark.slow
@pytest.mark.learning
def test_it_cannot_learn_chance_unless_it_leaks(seed):
    assert held_out(coins, seed, 130) > 0.95
    assert held_out(coins, seed, 130, leaks=True) < 0.6


def test_every_parameter_learns_and_features_are_of_what_was_seen():
    made = objective()
    loss, parts, features_vbd = made(make_views(windows(4)))
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in made.parameters())
    assert parts["masked_mse"].item() == loss.item()
    assert features_vbd.shape == (1, 4, 32)
    assert not features_vbd.requires_grad


def test_all_leads_together_can_be_masked_in_time():
    made = objective(NETWORK.model_copy(update={"joint_leads": True}))
    assert made.decoder.exit.out_features == 30
    assert made(make_views(noise(64))).total.item() == pytest.approx(1, abs=0.06)


def test_the_decoder_has_the_published_size():
    made = build_objective(mae.Settings(), vit1d.Settings(depth=1), n_leads=12, seed=0)
    blocks = 4 * (12 * 256**2 + 13 * 256) + 2 * 256
    assert sum(p.numel() for p in made.decoder.transformer.parameters()) == blocks
    outside = (768 + 1) * 256 + 256 + (256 + 1) * 75
    assert sum(p.numel() for p in made.decoder.parameters()) == blocks + outside


def test_under_bfloat16_the_loss_is_float32():
    made = objective().eval()
    exact = made(make_views(windows(8))).total
    with torch.autocast("cpu", torch.bfloat16):
        rounded = made(make_views(windows(8))).total
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(exact.item(), rel=0.01)


def test_unfit_windows_backbones_and_settings_are_refused():
    made = objective()
    made.check(window_samples=40, batch_size=2, fs_hz=100.0)
    with pytest.raises(ConfigError, match="not a whole number of patches.*expected a multiple of 10 samples, got 105"):
        made.check(window_samples=105, batch_size=2, fs_hz=100.0)
    with pytest.raises(ConfigError, match="no patch of a lead would be seen.*got 1 of 1 hidden"):
        made.check(window_samples=10, batch_size=2, fs_hz=100.0)
    with pytest.raises(ConfigError, match="mae needs a backbone whose patches can be left out; got CpcLstm"):
        build_objective(mae.Settings(), cpc_lstm.Settings(), n_leads=3, seed=0)
    with pytest.raises(ConfigError, match="multiple of heads"):
        parse(mae.Settings, {"decoder": {"heads": 7}})
