from __future__ import annotations

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from ecgstore import ConfigError
from ecgstore.inner import parse
from ecgtrain import config
from ecgtrain.backbones import build_backbone, conv_reconstructor, cpc_lstm, lead_transformer
from ecgtrain.backbones.layers.features import Features
from ecgtrain.data.plan import batch_plan
from ecgtrain.methods import WindowBatch, build_objective, stj
from ecgtrain.views import normalise as its_normalise
from ecgtrain.views.draw import Draw
from ecgtrain.views.masking import LeadPermutation, Masked, Permuted, SpanMask, mask_spans, permute_leads
from ecgtrain.views.normalise import Millivolts

CONV = conv_reconstructor.Settings(width=4)
TRANSFORMER = lead_transformer.Settings(width=16, depth=1, heads=2, strides=(4, 4))
SPAN = SpanMask(span_s=(0.04, 0.10))
ANY = LeadPermutation(probability=1, order="any")


def settings(**changes):
    return stj.Settings(**({"span": SPAN} | changes))


def objective(network=TRANSFORMER, n_leads=12, seed=0, **changes):
    return build_objective(settings(**changes), network, n_leads=n_leads, seed=seed)


def windows(n, seed=0, n_samples=96, n_leads=12):
    """Leads of one loop: three harmonics each, in shares by which leads can be told apart; and noise."""
    rng = np.random.default_rng(seed)
    phase = rng.uniform(0, 2 * np.pi, (n, 1, 1)) + 2 * np.pi * np.arange(n_samples) / rng.uniform(28, 36, (n, 1, 1))
    share = 2 * np.pi * np.arange(n_leads)[:, None] / n_leads
    x_blt = np.cos(share) * np.sin(phase) + np.sin(share) * np.sin(2 * phase + 1) + 0.4 * np.cos(3 * phase)
    return torch.from_numpy((x_blt + 0.1 * rng.standard_normal(x_blt.shape)).astype(np.float32))


def make_views(method, x_blt, first_number=0, recorded_blt=None, mode="none"):
    recorded_blt = torch.ones_like(x_blt, dtype=torch.bool) if recorded_blt is None else recorded_blt
    numbers = torch.arange(first_number, first_number + len(x_blt))
    normalise = partial(its_normalise.normalise, mode=mode)
    return stj.views(method, WindowBatch(Millivolts(x_blt, recorded_blt), numbers, 100.0, normalise, Draw(1)))


def holey(n=6):
    """Windows with absent leads, a flat one, gaps, and one with nothing at all; and what was recorded."""
    x_blt = windows(n) + 3.0
    recorded_blt = torch.ones_like(x_blt, dtype=torch.bool)
    recorded_blt[1, 2] = False
    recorded_blt[2, :, 70:] = False
    recorded_blt[3, 4, :50] = False
    recorded_blt[4] = False
    x_blt[5, 7] = 1.5
    return x_blt * recorded_blt, recorded_blt


# --- the loss -------------------------------------------------------------------------------------------------


def loss_in_plain_words(said, logits, shown, method):
    """All of the equation in float64, one sample after the other; means over windows."""
    total = 0.0
    for b in range(len(said)):
        n_leads, n_samples = said[b].shape
        there = [(j, t) for j in range(n_leads) for t in range(n_samples) if shown.counts_blt[b, j, t]]
        target = shown.target_blt[b].double().numpy()
        means = {j: np.mean([target[place] for place in there if place[0] == j]) for j in {j for j, _ in there}}
        v = np.mean([(target[j, t] - means[j]) ** 2 for j, t in there]) if there else 1.0
        for weight, hidden in ((method.masked_weight, True), (method.visible_weight, False)):
            errors = [(said[b][p] - target[p]) ** 2 for p in there if bool(shown.hidden_blt[b][p]) == hidden]
            total += weight * np.mean(errors) / v if errors else 0.0
        nats = []
        for i in range(n_leads):
            if shown.named_bl[b, i]:
                shares = [math.exp(one) for one in logits[b][i]]
                nats.append(-math.log(shares[shown.lead_bl[b, i]] / sum(shares)))
        total += method.lead_weight * np.mean(nats) / math.log(n_leads) if nats else 0.0
    return total / len(said)


class Saying(nn.Module):
    """A decoder or a head that says the same whatever it is shown."""

    def __init__(self, what):
        super().__init__()
        self.what = nn.Parameter(what)

    def forward(self, features, n_samples):
        return self.what


@pytest.mark.parametrize("target_order", ["original", "shuffled"])
@pytest.mark.parametrize("all_leads", [True, False])
def test_the_loss_is_that_of_the_equation(target_order, all_leads):
    method = settings(
        target_order=target_order,
        span=SPAN.model_copy(update={"all_leads": all_leads}),
        masked_weight=0.7,
        visible_weight=0.3,
        lead_weight=1.9,
    )
    x_blt, recorded_blt = holey()
    shown = make_views(method, x_blt, recorded_blt=recorded_blt)
    generator = torch.Generator().manual_seed(0)
    said, logits = torch.randn(6, 12, 96, generator=generator) + 3, torch.randn(6, 12, 12, generator=generator)
    made = build_objective(method, CONV, n_leads=12, seed=0)
    made.decoder, made.lead_head = Saying(said), Saying(logits)
    expected = loss_in_plain_words(said.double().numpy(), logits.double().numpy(), shown, method)
    assert made(shown).total.item() == pytest.approx(expected, rel=1e-5)


def test_its_gradient_is_that_of_the_formula():
    x_blt, recorded_blt = holey()
    shown = make_views(settings(), x_blt[:, :, :20].double(), recorded_blt=recorded_blt[:, :, :20])
    said = torch.randn(6, 12, 20, dtype=torch.float64, requires_grad=True)
    logits = torch.randn(6, 12, 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda y: stj.restoration_errors(y, *shown[1:4]), said, fast_mode=True)
    assert torch.autograd.gradcheck(lambda one: stj.lead_nats(one, *shown[4:6]), logits, fast_mode=True)


def test_saying_nothing_costs_one_whatever_the_signal():
    for x_blt in (windows(64), 0.01 * windows(64), 20 * windows(64) + 50):
        shown = make_views(settings(), x_blt)
        mean_blt = x_blt.mean(2, keepdim=True).expand_as(x_blt)
        errors = stj.restoration_errors(mean_blt, *shown[1:4])
        hidden_b = shown.hidden_blt.float().mean((1, 2))
        together_b = hidden_b * errors.masked_b + (1 - hidden_b) * errors.visible_b
        assert torch.allclose(together_b, torch.ones(64), atol=1e-3)
        assert errors.masked_b.mean().item() == pytest.approx(1, abs=0.1)
        nats_b = stj.lead_nats(torch.zeros(64, 12, 12), shown.lead_bl, shown.named_bl)
        assert torch.allclose(nats_b / math.log(12), torch.ones(64))


def test_half_a_batch_costs_what_its_windows_cost_in_the_whole():
    made, (x_blt, recorded_blt) = objective().eval(), holey()
    whole = made(make_views(settings(), x_blt, 0, recorded_blt)).total
    halves = [made(make_views(settings(), x_blt[h : h + 3], h, recorded_blt[h : h + 3])).total for h in (0, 3)]
    assert whole.item() == pytest.approx(sum(half.item() for half in halves) / 2, rel=1e-5)


@pytest.mark.parametrize("target_order", ["original", "shuffled"])
@pytest.mark.parametrize("mode", ["none", "record"])
def test_absent_and_flat_leads_do_not_count(target_order, mode):
    x_blt, recorded_blt = holey()
    shown = make_views(settings(target_order=target_order, permutation=ANY), x_blt, 0, recorded_blt, mode)
    absent = {(1, 2), (5, 7), *((4, lead) for lead in range(12))}
    for b in range(6):
        for i in range(12):
            lead = int(shown.lead_bl[b, i])
            assert bool(shown.named_bl[b, i]) == ((b, lead) not in absent)
            stands = i if target_order == "shuffled" else lead
            counted_t = shown.counts_blt[b, stands]
            assert torch.equal(counted_t, recorded_blt[b, lead] & torch.tensor((b, lead) not in absent))
    generator = torch.Generator().manual_seed(0)
    said = torch.randn(6, 12, 96, generator=generator)
    wild = torch.where(shown.counts_blt, said, 1e6)
    errors, same = (stj.restoration_errors(y, *shown[1:4]) for y in (said, wild))
    assert torch.equal(torch.stack(errors), torch.stack(same))
    assert errors.masked_b[4] == errors.visible_b[4] == 0


@pytest.mark.parametrize("network", [CONV, TRANSFORMER])
def test_a_batch_without_any_signal_costs_nothing_and_moves_nothing(network):
    made = objective(network)
    x_blt = torch.zeros(4, 12, 96)
    terms = made(make_views(settings(), x_blt, recorded_blt=torch.zeros_like(x_blt, dtype=torch.bool), mode="record"))
    terms.total.backward()
    assert terms.total.item() == 0
    assert all(torch.isfinite(value) for value in terms.parts.values())
    assert all(p.grad is not None and (p.grad == 0).all() for p in made.parameters())


# --- the views ------------------------------------------------------------------------------------------------


def amplitudes(n):
    """Lead j swings by j + 1: it can be told at any place, by whoever looks."""
    wave = torch.where(torch.arange(96) % 2 == 0, 1.0, -1.0)
    return (torch.arange(1, 13)[:, None] * wave).expand(n, 12, 96)


def shares_told_by_looking(shown):
    """Accuracy of one who knows the leads' amplitudes: at all places, and at those with a foreign lead."""
    told_bl = shown.x_blt.abs().amax(2).round().long() - 1
    moved_bl = shown.lead_bl != torch.arange(12)
    return [stj.accuracy(told_bl, shown.lead_bl, counts).item() for counts in (shown.named_bl, moved_bl)]


def test_the_numbers_are_those_of_the_leads_that_stand_there(monkeypatch):
    assert shares_told_by_looking(make_views(settings(), amplitudes(200))) == [1, 1]

    def inverse(x_blt, *others):
        moved_blt, lead_bl = permute_leads(x_blt, *others)
        return Permuted(moved_blt, lead_bl.argsort(dim=1))

    monkeypatch.setattr(stj, "permute_leads", inverse)
    everywhere, moved = shares_told_by_looking(make_views(settings(), amplitudes(200)))
    # The wrong direction is right at most places, which is why moved ones are watched by themselves.
    assert everywhere > 0.7
    assert moved < 0.4


@pytest.mark.parametrize("target_order", ["original", "shuffled"])
@pytest.mark.parametrize("all_leads", [True, False])
def test_leads_change_places_and_are_hidden_then(target_order, all_leads):
    span = SPAN.model_copy(update={"all_leads": all_leads})
    x_blt = windows(8) + 5
    shown = make_views(settings(target_order=target_order, span=span, permutation=ANY), x_blt)
    n_hidden = 0
    for b, i in itertools.product(range(8), range(12)):
        lead = int(shown.lead_bl[b, i])
        stands = i if target_order == "shuffled" else lead
        assert torch.equal(shown.target_blt[b, stands], x_blt[b, lead])
        gone_t = shown.x_blt[b, i] == 0
        assert torch.equal(gone_t, shown.hidden_blt[b, stands])
        assert torch.equal(shown.x_blt[b, i][~gone_t], x_blt[b, lead][~gone_t])
        n_hidden += int(gone_t.sum())
    assert 0.15 < n_hidden / x_blt.numel() < 0.75
    same = (shown.hidden_blt == shown.hidden_blt[:, :1]).all()
    assert bool(same) == all_leads
    assert (shown.lead_bl != torch.arange(12)).any(dim=1).all()


def test_what_is_hidden_is_still_asked_for(monkeypatch):
    """One who hands back what it is shown pays for what is hidden; unless the target was masked as well."""
    method = settings(shuffle=False)

    def cost_of_copying():
        shown = make_views(method, windows(32))
        errors = stj.restoration_errors(shown.x_blt, *shown[1:4])
        return errors.masked_b.mean().item(), errors.visible_b.mean().item()

    masked, visible = cost_of_copying()
    assert masked == pytest.approx(1, abs=0.1)
    assert visible == 0

    def in_place(x_blt, *others):
        masked = mask_spans(x_blt, *others)
        return Masked(x_blt.copy_(masked.x_blt), masked.hidden_blt)

    monkeypatch.setattr(stj, "mask_spans", in_place)
    assert cost_of_copying() == (0, 0)


def epochs_that_repeat(method, n=16):
    """Share of records of which two epochs hide the same, and of which they order leads alike."""
    plans = [batch_plan(np.full(n, 96), window_samples=96, seed=0, step=step, batch_size=n) for step in (0, 1)]
    assert plans[0].epoch != plans[1].epoch
    x_blt, shown = windows(n), []
    for plan in plans:
        cut = x_blt[torch.tensor(plan.rows)]
        mv = Millivolts(cut, torch.ones_like(cut, dtype=torch.bool))
        numbers = torch.tensor(plan.sample_numbers)
        its = stj.views(method, WindowBatch(mv, numbers, 100.0, partial(its_normalise.normalise, mode="none"), Draw(1)))
        by_record = torch.tensor(plan.rows).argsort()
        shown.append((its.hidden_blt[by_record].flatten(1), its.lead_bl[by_record]))
    return [(one == other).all(dim=1).float().mean().item() for one, other in zip(*shown, strict=True)]


def test_masks_and_orders_are_drawn_anew_in_each_epoch(monkeypatch):
    method = settings(permutation=ANY)
    assert epochs_that_repeat(method) == [0, 0]
    # The same number in all epochs, as of a row: the mistake that this test is for.
    for name, right in (("mask_spans", mask_spans), ("permute_leads", permute_leads)):
        monkeypatch.setattr(
            stj, name, lambda x, draw, numbers, *rest, right=right: right(x, draw, torch.zeros_like(numbers), *rest)
        )
    assert epochs_that_repeat(method) == [1, 1]


def test_views_hang_on_the_sample_number_and_nothing_else():
    x_blt = windows(6)
    whole, part = make_views(settings(), x_blt), make_views(settings(), x_blt[4:5], 4)
    assert all(torch.equal(one[4:5], other) for one, other in zip(whole, part, strict=True))


def test_noise_can_stand_where_something_is_hidden():
    span = SPAN.model_copy(update={"fill": "noise"})
    shown = make_views(settings(span=span, shuffle=False), windows(32))
    hidden = shown.x_blt[shown.hidden_blt]
    assert (hidden != 0).all()
    assert hidden.std().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(shown.target_blt, windows(32))


# --- what it is to know nothing -------------------------------------------------------------------------------


@pytest.mark.parametrize(("order", "probability"), [("some", 0.5), ("some", 1.0), ("any", 0.8), ("any", 1.0)])
def test_a_blind_guess_is_worth_what_chance_says(order, probability):
    method = settings(permutation=LeadPermutation(order=order, probability=probability))
    made = objective(CONV, permutation=method.permutation)
    lead_bl = permute_leads(torch.zeros(40_000, 12, 1), Draw(5), torch.arange(40_000), method.permutation).lead_bl
    share_ln = torch.stack([(lead_bl == lead).double().mean(0) for lead in range(12)], dim=1)
    nats = stj.lead_nats(share_ln.log().expand(40_000, 12, 12), lead_bl, torch.ones_like(lead_bl, dtype=torch.bool))
    assert made.chance["lead_nats"] == pytest.approx(nats.mean().item(), abs=0.01)
    assert made.chance["lead_accuracy"] == pytest.approx(share_ln.amax(1).mean().item(), abs=0.01)


def test_chance_hangs_on_whether_places_are_known():
    uniform = {"lead_nats": math.log(12), "lead_accuracy": 1 / 12}
    for made in (objective(TRANSFORMER), objective(CONV, permutation=ANY), objective(CONV, control="label_shuffle")):
        assert {name: made.chance[name] for name in uniform} == pytest.approx(uniform)
    assert objective(CONV).chance == pytest.approx(
        {
            "masked_mse": 1,
            "masked_r2": 0,
            "visible_mse": 1,
            "lead_nats": 1.3030,
            "lead_accuracy": 0.5 + 0.5 * 5 / 12,
            "moved_accuracy": 1 / 11,
        },
        abs=1e-4,
    )


def six_leads(n, seed):
    return windows(n, seed, n_leads=6)


def beats(n, seed):
    """Two leads of beats that rise in a step and fall off slowly: turned either way, each place shows it."""
    rng = np.random.default_rng(seed)
    since = (rng.uniform(0, 32, (n, 1, 1)) + np.arange(64)) % 32
    x_blt = np.exp(-since / 8) * np.array([[1.0], [2.0]])
    return torch.from_numpy((x_blt + 0.05 * rng.standard_normal(x_blt.shape)).astype(np.float32))


def train(made, method, n_steps, seed, make):
    optimiser = torch.optim.AdamW(made.parameters(), lr=1e-2)
    x_blt = make(512, seed)
    for step in range(n_steps):
        part = torch.arange(16 * step, 16 * step + 16) % 512
        optimiser.zero_grad()
        made(make_views(method, x_blt[part], 16 * step)).total.backward()
        optimiser.step()
    made.eval()
    with torch.no_grad():
        return made(make_views(method, make(128, seed + 1), 10**6))


@pytest.mark.slow
@pytest.mark.learning
def test_it_learns_leads_and_signal_of_held_out_windows(seed):
    method = settings(permutation=ANY)
    parts = train(objective(n_leads=6, seed=seed, permutation=ANY), method, 160, seed, six_leads).parts
    assert parts["moved_accuracy"] > 0.6  # chance 0.167
    assert parts["lead_nats"] < 0.8  # ln 6 = 1.792
    assert parts["masked_mse"] < 0.6
    assert parts["masked_mse"] < 0.8 * parts["interpolated_mse"]
    assert parts["masked_r2"] == 1 - parts["masked_mse"]


@pytest.mark.slow
@pytest.mark.learning
def test_numbers_drawn_independently_of_the_signal_are_not_learned(seed):
    changes = {"permutation": ANY, "control": "label_shuffle"}
    parts = train(objective(n_leads=6, seed=seed, **changes), settings(**changes), 140, seed, six_leads).parts
    # Of a shuffle, one place is right on average with variance 1, whatever is told: of 128 shuffles of 6, five sigma.
    assert abs(parts["lead_accuracy"] - 1 / 6) < 5 * math.sqrt(1 / 128) / 6
    assert parts["lead_nats"] > 0.98 * math.log(6)
    # The control takes the lead numbers only: signals are restored as ever, and numbers are all there, once each.
    assert parts["masked_mse"] < 0.9
    shown = make_views(settings(control="label_shuffle"), amplitudes(400))
    assert torch.equal(shown.lead_bl.sort(dim=1).values, torch.arange(12).expand(400, 12))
    assert abs(shares_told_by_looking(shown)[0] - 1 / 12) < 4 * math.sqrt(11 / 144 / 4800)


@pytest.mark.slow
@pytest.mark.learning
def test_the_convolutional_network_learns_to_restore(seed):
    method = settings(shuffle=False)
    parts = train(objective(CONV, n_leads=6, seed=seed, shuffle=False), method, 130, seed, six_leads).parts
    assert parts["masked_mse"] < 0.6


# --- ablations ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [CONV, TRANSFORMER])
@pytest.mark.parametrize(
    ("changes", "parts", "made"),
    [
        ({}, {"masked_mse", "masked_r2", "visible_mse", "lead_nats", "lead_accuracy", "moved_accuracy"}, (1, 1)),
        ({"target_order": "shuffled"}, None, (1, 1)),
        ({"shuffle": False}, {"masked_mse", "masked_r2", "visible_mse"}, (1, 0)),
        ({"lead_weight": 0}, {"masked_mse", "masked_r2", "visible_mse"}, (1, 0)),
        ({"mask": False}, {"visible_mse", "lead_nats", "lead_accuracy", "moved_accuracy"}, (1, 1)),
        ({"mask": False, "visible_weight": 0}, {"lead_nats", "lead_accuracy", "moved_accuracy"}, (0, 1)),
        ({"masked_weight": 0, "visible_weight": 0}, {"lead_nats", "lead_accuracy", "moved_accuracy"}, (0, 1)),
    ],
)
def test_each_half_can_be_left_out_with_all_that_belongs_to_it(network, changes, parts, made):
    its = objective(network, **changes)
    assert (its.decoder is not None, its.lead_head is not None) == tuple(map(bool, made))
    terms = its(make_views(settings(**changes), windows(4)))
    terms.total.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in its.parameters())
    assert set(its.chance) == set(terms.parts)
    assert parts is None or set(terms.parts) == parts
    assert terms.features_vbd.shape == (1, 4, its.backbone.pooled_width)
    assert not terms.features_vbd.requires_grad
    if changes.get("shuffle") is False:
        assert torch.equal(make_views(settings(**changes), windows(4)).target_blt, windows(4))


def test_the_backbone_is_the_encoder_and_starts_as_it_does_alone():
    for network in (CONV, TRANSFORMER):
        of_objective, alone = objective(network).backbone.state_dict(), build_backbone(network, 12, 0).state_dict()
        assert of_objective.keys() == alone.keys()
        assert all(torch.equal(of_objective[name], alone[name]) for name in alone)


def test_reversals_are_what_they_are_called():
    x_blt = windows(4)
    turned = stj.reverse(x_blt, torch.arange(4))
    for t in range(96):
        assert torch.equal(turned[0, :, t], x_blt[0, :, t])
        assert torch.equal(turned[1, :, t], x_blt[1, :, 95 - t])
        assert torch.equal(turned[2, :, t], -x_blt[2, :, t])
        assert torch.equal(turned[3, :, t], -x_blt[3, :, 95 - t])
    method = settings(pretext="ts_reverse")
    shown = make_views(method, windows(2000))
    assert (shown.reversal_b.bincount() / 2000 - 0.25).abs().max() < 4 * math.sqrt(3 / 16 / 2000)
    assert torch.equal(shown.x_blt, stj.reverse(windows(2000), shown.reversal_b))
    assert shown.counts_b.all()


def test_a_gap_that_betrays_the_direction_does_not_count():
    x_blt, recorded_blt = holey()
    shown = make_views(settings(pretext="ts_reverse"), x_blt, recorded_blt=recorded_blt)
    assert shown.counts_b.tolist() == [True, True, False, False, False, True]


@pytest.mark.slow
@pytest.mark.learning
@pytest.mark.parametrize(("control", "learns"), [("none", True), ("label_shuffle", False)])
def test_reversals_are_learned_on_any_backbone_unless_they_are_drawn_anew(seed, control, learns):
    method = settings(pretext="ts_reverse", control=control)
    encoder = cpc_lstm.Encoder(width=12, kernels=(8, 1), strides=(4, 1))
    network = cpc_lstm.Settings(encoder=encoder, lstm_width=12, lstm_layers=1) if learns else CONV
    made = build_objective(method, network, n_leads=2, seed=seed)
    assert made.chance == pytest.approx({"reversal_nats": math.log(4), "reversal_accuracy": 0.25})
    terms = train(made, method, 160 if learns else 60, seed, beats)
    assert terms.total == terms.parts["reversal_nats"]
    if learns:
        assert terms.parts["reversal_accuracy"] > 0.8
    else:
        assert abs(terms.parts["reversal_accuracy"] - 0.25) < 5 * math.sqrt(3 / 16 / 128)
        assert terms.parts["reversal_nats"] > 0.95 * math.log(4)


# --- judging --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_places", "n_leads"), [(4, 4), (3, 5)])
def test_the_best_assignment_is_the_best_of_all(n_places, n_leads):
    logits = 2 * torch.randn(20, n_places, n_leads, generator=torch.Generator().manual_seed(0))
    told_bl = stj.best_assignment(logits)
    for told, scores in zip(told_bl.tolist(), logits.double().log_softmax(2), strict=True):
        orders = itertools.permutations(range(n_leads), n_places)
        best = max(orders, key=lambda order: sum(float(scores[i, lead]) for i, lead in enumerate(order)))
        assert told == list(best)
    assert not torch.equal(told_bl, logits.argmax(2))


def test_accuracies_and_confusion():
    lead_bl = torch.tensor([[0, 1, 2], [2, 0, 1], [0, 2, 1]])
    told_bl = torch.tensor([[0, 1, 2], [2, 1, 1], [0, 2, 0]])
    named_bl = torch.tensor([[True, True, True], [True, True, True], [True, True, False]])
    assert stj.accuracy(told_bl, lead_bl, named_bl).item() == pytest.approx(7 / 8)
    assert stj.exactly(told_bl, lead_bl, named_bl).tolist() == [True, False, True]
    assert stj.confusion(told_bl, lead_bl, named_bl, 3).tolist() == [[2, 1, 0], [0, 2, 0], [0, 0, 3]]
    assert stj.accuracy(told_bl, lead_bl, torch.zeros_like(named_bl)) == 0


def test_straight_lines_are_drawn_between_what_is_known():
    x_blt = windows(16)
    known_blt = torch.rand(x_blt.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    known_blt[0, 0] = False
    known_blt[1, 1, 1:] = False
    known_blt[1, 1, 0] = True
    drawn_blt = stj.interpolated(x_blt, known_blt)
    for x, known, drawn in zip(x_blt.flatten(0, 1), known_blt.flatten(0, 1), drawn_blt.flatten(0, 1), strict=True):
        places = known.nonzero().flatten().numpy()
        expected = np.interp(np.arange(96), places, x[places]) if len(places) else np.zeros(96)
        assert np.allclose(drawn, expected, atol=1e-5)
    shown = make_views(settings(), x_blt)
    lines = stj.interpolated(x_blt, ~shown.hidden_blt)
    cost = stj.restoration_errors(lines, *shown[1:4]).masked_b.mean()
    assert stj.interpolated_mse(shown) == cost


def test_lines_are_drawn_in_validation_only():
    made, shown = objective(), make_views(settings(), windows(4))
    assert "interpolated_mse" not in made(shown).parts
    assert made.eval()(shown).parts["interpolated_mse"] == stj.interpolated_mse(shown)


# --- the rest -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [CONV, TRANSFORMER])
@pytest.mark.parametrize("pretext", ["spatio_temporal", "ts_reverse"])
def test_under_bfloat16_the_loss_is_float32(network, pretext):
    method = settings(pretext=pretext)
    made = build_objective(method, network, n_leads=12, seed=0)
    shown = make_views(method, windows(16))
    exact = made(shown).total
    with torch.autocast("cpu", torch.bfloat16):
        rounded, parts, _ = made(shown)
    assert {value.dtype for value in (rounded, *parts.values())} == {torch.float32}
    assert rounded.item() == pytest.approx(exact.item(), rel=0.02)


def test_unfit_windows_leads_backbones_and_settings_are_refused():
    objective().check(window_samples=96, batch_size=2, fs_hz=100.0)
    with pytest.raises(ConfigError, match="could be hidden whole; expected more than 69 samples.*got 50"):
        build_objective(stj.Settings(), CONV, 12, 0).check(window_samples=50, batch_size=2, fs_hz=100.0)
    patches = settings(span=SpanMask(unit="patches", ratio=(0.5, 0.95)))
    with pytest.raises(ConfigError, match="could be hidden whole"):
        build_objective(patches, CONV, 12, 0).check(window_samples=40, batch_size=2, fs_hz=100.0)
    build_objective(patches, CONV, 12, 0).check(window_samples=96, batch_size=2, fs_hz=100.0)
    with pytest.raises(ConfigError, match="no order of leads to disturb; expected two leads or more, got 1"):
        objective(CONV, n_leads=1).check(window_samples=96, batch_size=2, fs_hz=100.0)
    objective(CONV, n_leads=1, shuffle=False).check(window_samples=96, batch_size=2, fs_hz=100.0)
    with pytest.raises(ConfigError, match="stj needs a backbone that restores signals and names leads; got CpcLstm"):
        build_objective(stj.Settings(), cpc_lstm.Settings(), n_leads=3, seed=0)
    for content, said in (
        ({"mask": False, "shuffle": False}, "both off"),
        ({"masked_weight": 0, "visible_weight": 0, "lead_weight": 0}, "has weight 0"),
        ({"control": "label_shuffle", "shuffle": False}, "needs lead numbers"),
        ({"mask_sync": True}, "mask_sync"),
    ):
        with pytest.raises(ConfigError, match=said):
            parse(stj.Settings, content)


def test_a_mask_never_hides_more_than_windows_are_checked_for():
    for unit in ("spans", "patches"):
        span = SpanMask(unit=unit, span_s=(0.04, 0.4))
        x_blt = torch.ones(2000, 1, 100)
        hidden_b = mask_spans(x_blt, Draw(0), torch.arange(2000), span, 100.0).hidden_blt.sum((1, 2))
        most = stj._most_hidden(span, 100, 100.0)
        assert hidden_b.max() <= most < 100
        assert hidden_b.max() > 0.7 * most


@pytest.mark.parametrize("name", ["small/stj", "paper_a_stj"])
def test_recipes_are_understood(name):
    recipe = config.load(name).pretrain
    assert recipe.normalise == "record"
    made = build_objective(recipe.method, recipe.backbone, n_leads=12, seed=0)
    made.check(recipe.window_samples, recipe.batch_size, 100.0)
    assert isinstance(made.backbone(torch.zeros(2, 12, recipe.window_samples)), Features)
