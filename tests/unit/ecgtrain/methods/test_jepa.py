from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch

from ecgstore import ConfigError
from ecgstore.inner import parse
from ecgtrain.backbones import cpc_lstm, vit1d
from ecgtrain.backbones.layers.transformer import Split, pick
from ecgtrain.methods import Moment, WindowBatch, build_objective, jepa
from ecgtrain.views import normalise as its_normalise
from ecgtrain.views.draw import Draw
from ecgtrain.views.normalise import Millivolts

NETWORK = vit1d.Settings(width=32, depth=2, heads=4, patch_samples=10)
PREDICTOR = jepa.Predictor(width=32, depth=1, heads=4)


def objective(network=NETWORK, seed=0, **settings):
    return build_objective(jepa.Settings(predictor=PREDICTOR, **settings), network, n_leads=3, seed=seed)


def make_views(x_blt, first_number=0, step=0, recorded_blt=None):
    mv = Millivolts(x_blt, torch.ones_like(x_blt, dtype=torch.bool) if recorded_blt is None else recorded_blt)
    numbers = torch.arange(first_number, first_number + len(x_blt))
    batch = WindowBatch(mv, numbers, 100.0, partial(its_normalise.normalise, mode="none"), Draw(1), step)
    return jepa.views(jepa.Settings(), batch)


def windows(n, seed=0):
    rng = np.random.default_rng(seed)
    time = np.arange(100)
    phase = rng.uniform(0, 2 * np.pi, (n, 3, 1)) + 2 * np.pi * time / rng.uniform(15, 40, (n, 1, 1))
    return torch.from_numpy((np.sin(phase) + 0.1 * rng.standard_normal(phase.shape)).astype(np.float32))


# --- masks ----------------------------------------------------------------------------------------------------


def hidden(n=200, step=0, n_patches=50, first_number=0, **settings):
    numbers = torch.arange(first_number, first_number + n)
    return jepa.draw_hidden(jepa.Settings(**settings), Draw(3), numbers, step, n_patches)


MASKINGS = [
    {},
    {"masking": "blocks"},
    {"masking": "spans", "ratio": (0.75, 0.85), "min_span": 10},
    {"masking": "spans", "min_span": 2},
    {"repo_compat": True},
    {"masking": "blocks", "repo_compat": True},
]


@pytest.mark.parametrize("settings", MASKINGS)
def test_as_many_patches_are_hidden_of_all_windows_and_on_all_ranks(settings):
    counts = set()
    for step in range(30):
        mask_bs, n_hidden = hidden(20, step, **settings)
        assert (mask_bs.sum(1) == n_hidden).all()
        counts.add(n_hidden)
        # Another rank has other windows of the batch, and must come to tokens as many.
        assert hidden(20, step, first_number=20, **settings)[1] == n_hidden
    assert len(counts) > 3


@pytest.mark.parametrize("settings", MASKINGS)
def test_masks_hang_on_step_and_sample_number_and_nothing_else(settings):
    whole = hidden(20, 7, **settings)[0]
    assert torch.equal(hidden(5, 7, first_number=11, **settings)[0], whole[11:16])
    alike = (whole == whole[:1]).all()
    assert alike == (settings.get("masking") == "blocks" or settings.get("repo_compat", False))


def test_random_masks_hide_the_published_share_anywhere():
    drawn = [hidden(200, step, first_number=200 * step) for step in range(200)]
    counts = np.array([n_hidden for _, n_hidden in drawn])
    assert counts.min() == 30  # of 50: int(U(0.6, 0.7) x 50)
    assert counts.max() == 34
    assert (np.bincount(counts - 30) > 20).all()
    often = torch.cat([mask_bs for mask_bs, _ in drawn]).float().mean(0)
    assert (often - counts.mean() / 50).abs().max() < 0.02


def runs(mask_s):
    """Lengths of the stretches that are hidden."""
    return [len(run) for run in "".join("x" if one else " " for one in mask_s.tolist()).split()]


def test_blocks_are_four_stretches_that_may_overlap():
    drawn = [hidden(1, step, n_patches=100, masking="blocks") for step in range(300)]
    counts = np.array([n_hidden for _, n_hidden in drawn])
    assert 17 <= counts.min() < 45
    assert 70 < counts.max() <= 88
    for mask_bs, _ in drawn:
        assert 1 <= len(runs(mask_bs[0])) <= 4
        assert min(runs(mask_bs[0])) >= 17
    often = torch.cat([mask_bs for mask_bs, _ in drawn]).float().mean(0)
    # A block of 0.2 T covers an inner place with probability 0.2 / 0.8, four of them 1 - 0.75 ** 4.
    assert often[25:75].mean().item() == pytest.approx(1 - 0.75**4, abs=0.03)
    assert often[-1] > 0
    published = torch.cat([hidden(1, s, n_patches=100, masking="blocks", repo_compat=True)[0] for s in range(300)])
    assert published[:, 0].any()
    assert not published[:, -1].any()


def test_spans_are_no_shorter_than_asked_for():
    for step in range(60):
        mask_bs, n_hidden = hidden(50, step, n_patches=60, masking="spans", ratio=(0.75, 0.85), min_span=10)
        assert 45 <= n_hidden <= 51
        lengths = [runs(mask_s) for mask_s in mask_bs]
        assert min(min(one) for one in lengths) >= 10
        assert max(len(one) for one in lengths) <= 5
    drawn = [hidden(400, s, masking="spans", min_span=5, first_number=400 * s)[0] for s in range(60)]
    often = torch.cat(drawn).float().mean(0)
    assert often[15:35].min() > 0.5
    assert (often - often.flip(0)).abs().max() < 0.02


def test_small_windows_keep_something_seen_and_something_hidden():
    for settings in MASKINGS:
        for n_patches in (5, 6) if settings.get("masking") == "blocks" else (2, 3, 5):
            for step in range(20):
                n_hidden = hidden(3, step, n_patches, **settings)[1]
                assert 0 < n_hidden < n_patches


# --- the loss -------------------------------------------------------------------------------------------------


def loss_in_plain_words(said, tokens, hidden_brs, counts_brs, normalise):
    losses = []
    for b in range(len(said)):
        errors = []
        for row in range(said.shape[1]):
            for k, place in enumerate(hidden_brs[b, row].tolist()):
                t = tokens[b, row, place]
                if normalise:
                    t = (t - t.mean()) / math.sqrt(t.var() + 1e-5)
                if counts_brs[b, row, place]:
                    errors.append(sum(abs(x - y) for x, y in zip(said[b, row, k], t, strict=True)) / len(t))
        losses.append(sum(errors) / len(errors) if errors else 0.0)
    return sum(losses) / len(losses)


@pytest.mark.parametrize("settings", [{}, {"normalise_targets": False}, {"masking": "spans", "min_span": 3}])
def test_the_loss_is_the_published_one(settings):
    made = objective(**settings)
    with torch.no_grad():
        for parameter in made.teacher.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    x_blt, recorded_blt = windows(4), torch.ones(4, 3, 100, dtype=torch.bool)
    recorded_blt[1, 0] = False
    recorded_blt[2, :, 55:] = False  # half a patch still counts
    looked_at = make_views(x_blt.masked_fill(~recorded_blt, 0.0), step=3, recorded_blt=recorded_blt)
    total, parts, features_vbd = made(looked_at)

    mask_bs, _ = jepa.draw_hidden(made._settings, looked_at.draw, torch.arange(4), 3, 10)
    places = torch.stack([one.nonzero().flatten() for one in mask_bs])[:, None].expand(-1, 3, -1)
    seen = torch.stack([(~one.repeat(3)).nonzero().flatten() for one in mask_bs])
    split = Split.of(mask_bs[:, None].expand(-1, 3, -1), places.shape[2])
    assert torch.equal(split.keep_bk(), seen)  # the same instants of every lead
    said = made.predictor(made.backbone.encode_tokens(made.backbone.embed_patches(looked_at.x_blt), seen), split)
    tokens = made.teacher(looked_at.x_blt).tokens_bsd
    counts = recorded_blt.view(4, 3, 10, 10).any(3)
    expected = loss_in_plain_words(
        said.detach().double().numpy(),
        tokens.double().numpy().reshape(4, 3, 10, 32),
        places,
        counts,
        settings.get("normalise_targets", True),
    )
    assert total.item() == pytest.approx(expected, rel=1e-5)
    assert torch.allclose(features_vbd[0], tokens.mean(1))
    assert not features_vbd.requires_grad
    assert set(parts) == {"relative_l1", "target_std"}


def test_what_was_not_recorded_does_not_count():
    made, x_blt = objective().eval(), windows(4)
    recorded_blt = torch.zeros(4, 3, 100, dtype=torch.bool)
    assert made(make_views(x_blt, recorded_blt=recorded_blt)).total.item() == 0


def test_chance_is_saying_of_each_patch_what_is_usual_there(monkeypatch):
    """Usual with all windows, not only with the few of the batch: batches of 8 stand for 2000 windows of noise."""
    made = objective()
    assert made.chance == {"relative_l1": 1.0}
    everything_brsd = torch.randn(2000, 3, 10, 32) + torch.randn(3, 10, 32)
    usual_brsd = everything_brsd.mean(0).expand(8, -1, -1, -1)
    monkeypatch.setattr(made.predictor, "forward", lambda tokens, split: pick(usual_brsd, split.hidden_brs))
    measured = []
    for step, targets_brsd in enumerate(everything_brsd.split(8)):
        monkeypatch.setattr(made, "targets", lambda x, targets=targets_brsd: (targets, targets.mean((1, 2))))
        parts = made(make_views(windows(8), step=step)).parts
        measured.append(parts["relative_l1"].item())
        assert parts["target_std"].item() == pytest.approx(np.std(targets_brsd.numpy(), axis=0).mean(), rel=1e-5)
    assert np.mean(measured) == pytest.approx(1, abs=0.003)


def test_the_student_does_not_see_what_is_hidden():
    made, x_blt = objective().eval(), windows(2).requires_grad_()
    looked_at = make_views(x_blt, step=1)
    mask_bs, n_hidden = jepa.draw_hidden(made._settings, looked_at.draw, torch.arange(2), 1, 10)
    split = Split.of(mask_bs[:, None].expand(-1, 3, -1), n_hidden)
    made.predictor(
        made.backbone.encode_tokens(made.backbone.embed_patches(x_blt), split.keep_bk()), split
    ).sum().backward()
    reached = x_blt.grad.view(2, 3, 10, 10).abs().sum(3) > 0
    assert torch.equal(reached, ~mask_bs[:, None].expand(-1, 3, -1))
    # What is to be said is what the teacher makes of everything.
    changed = x_blt.detach().clone()
    changed[0, 0, 10:20] = torch.randn(10)
    assert not torch.allclose(made.targets(x_blt)[0][0, 2, 7], made.targets(changed)[0][0, 2, 7])


# --- teacher and student --------------------------------------------------------------------------------------


def test_the_teacher_is_a_moving_average_that_comes_to_rest():
    made = objective(momentum=(0.9, 1.0))
    student = [p.detach().clone() for p in made.backbone.parameters()]
    expected = [p.detach().double() for p in made.teacher.parameters()]
    assert all(torch.equal(s, t.float()) for s, t in zip(student, expected, strict=True))
    n_steps = 5
    for step in range(n_steps):
        with torch.no_grad():
            for parameter in made.backbone.parameters():
                parameter.add_(torch.randn_like(parameter))
        made.after_step(Moment(step, n_steps, 10))
        m = 0.9 + 0.1 * (step + 1) / n_steps
        student = [p.detach().double() for p in made.backbone.parameters()]
        expected = [m * old + (1 - m) * new for old, new in zip(expected, student, strict=True)]
    assert all(
        torch.allclose(t.double(), e, rtol=1e-5, atol=1e-6)
        for t, e in zip(made.teacher.parameters(), expected, strict=True)
    )
    assert not torch.allclose(next(made.teacher.parameters()), next(made.backbone.parameters()))


def test_the_published_momentum():
    assert jepa.Settings().momentum == (0.996, 1.0)


def test_only_the_student_learns():
    made = objective()
    made(make_views(windows(4))).total.backward()
    learns = {name.partition(".")[0] for name, p in made.named_parameters() if p.requires_grad}
    assert learns == {"backbone", "predictor"}
    for name, parameter in made.named_parameters():
        if name.startswith("teacher"):
            assert parameter.grad is None
        else:
            assert parameter.grad.abs().sum() > 0, name


def test_the_teacher_skips_no_blocks_unless_as_published():
    network = NETWORK.model_copy(update={"drop_path": 0.5})
    x_blt = windows(4)
    for repo_compat in (False, True):
        made = objective(network, repo_compat=repo_compat).train()
        torch.manual_seed(0)
        assert torch.equal(made.targets(x_blt)[0], made.targets(x_blt)[0]) != repo_compat
        assert made.backbone.training
        made.eval()
        assert torch.equal(made.targets(x_blt)[0], made.targets(x_blt)[0])


def trained(seed, n_steps, without_teacher=False):
    """What is measured on held-out windows before and after."""
    made = objective(seed=seed, momentum=(0.95, 1.0))
    if without_teacher:
        # The negative control: no moving average, and gradients through what is to be said.
        def targets(x_blt):
            tokens_bsd = made.backbone(x_blt).tokens_bsd
            scaled = torch.nn.functional.layer_norm(tokens_bsd, (32,))
            return scaled.unflatten(1, (3, -1)), tokens_bsd.mean(1)

        made.targets = targets
        made.after_step = lambda moment: None
    optimiser = torch.optim.AdamW([p for p in made.parameters() if p.requires_grad], lr=3e-3)
    x_blt, measured = windows(512, seed), []
    for step in range(n_steps + 1):
        if step in (0, n_steps):
            with torch.no_grad():
                _, parts, features_vbd = made.eval()(make_views(windows(128, seed + 1), 10**6, step=10**6))
            measured.append({k: v.item() for k, v in parts.items()} | {"spread": features_vbd[0].std(0).mean().item()})
        part = torch.arange(16 * step, 16 * step + 16) % 512
        optimiser.zero_grad()
        made.train()(make_views(x_blt[part], 16 * step, step)).total.backward()
        optimiser.step()
        made.after_step(Moment(step, n_steps + 1, 10))
    return measured


@pytest.mark.slow
@pytest.mark.learning
def test_it_learns_and_does_not_collapse(seed):
    before, after = trained(seed, 120)
    assert before["relative_l1"] > 1
    assert after["relative_l1"] < 0.95
    assert after["target_std"] > 0.4 * before["target_std"]
    assert after["spread"] > 0.2 * before["spread"]


@pytest.mark.slow
@pytest.mark.learning
def test_without_a_teacher_it_collapses(seed):
    before, after = trained(seed, 60, without_teacher=True)
    assert after["target_std"] < 0.1 * before["target_std"]
    assert after["spread"] < 0.1 * before["spread"]
    assert after["relative_l1"] > 1


# --- the rest -------------------------------------------------------------------------------------------------


def test_all_leads_together_and_attention_across_run():
    for changed in ({"joint_leads": True}, {"attention": "cross", "sep": False}, {"joint_leads": True, "registers": 1}):
        made = objective(NETWORK.model_copy(update=changed))
        made(make_views(windows(4))).total.backward()


def test_the_weights_of_the_teacher_are_kept_with_the_others():
    made, other = objective(), objective()
    with torch.no_grad():
        next(made.teacher.parameters()).add_(1.0)
    other.load_state_dict(made.state_dict())
    assert torch.equal(next(other.teacher.parameters()), next(made.teacher.parameters()))
    shared = {p.data_ptr() for p in made.teacher.parameters()} & {p.data_ptr() for p in made.backbone.parameters()}
    assert not shared


def test_under_bfloat16_the_loss_is_float32():
    made = objective().eval()
    exact = made(make_views(windows(8)))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = made(make_views(windows(8)))
    assert rounded.total.dtype == torch.float32
    assert rounded.total.item() == pytest.approx(exact.total.item(), rel=0.02)


def test_unfit_windows_backbones_and_settings_are_refused():
    objective().check(window_samples=11, batch_size=2, fs_hz=100.0)
    with pytest.raises(ConfigError, match="too few patches to hide some.*expected more than 10 samples, got 10"):
        objective().check(window_samples=10, batch_size=2, fs_hz=100.0)
    with pytest.raises(ConfigError, match="expected more than 40 samples, got 40"):
        objective(masking="blocks").check(window_samples=40, batch_size=2, fs_hz=100.0)
    with pytest.raises(ConfigError, match="jepa needs a backbone whose patches can be left out; got CpcLstm"):
        build_objective(jepa.Settings(), cpc_lstm.Settings(), n_leads=3, seed=0)
    with pytest.raises(ConfigError, match="the blocks could hide everything"):
        parse(jepa.Settings, {"masking": "blocks", "n_blocks": 5})
    with pytest.raises(ConfigError, match="lower bound must not be above"):
        parse(jepa.Settings, {"momentum": [1.0, 0.9]})
