from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ecgstore import NOT_RECORDED, ConfigError, open_store
from ecgstore.inner import parse
from ecgtrain.backbones.layers.features import pool
from ecgtrain.errors import PassportError
from ecgtrain.views.draw import Draw
from ecgtrain.views.masking import LeadPermutation, SpanMask, mask_spans, permute_leads
from ecgtrain.views.normalise import Millivolts, Normalisation, at_times, crop, normalise, shuffle_time, to_mv


@pytest.fixture
def counts_blt():
    counts = np.random.default_rng(0).integers(-3000, 3000, (4, 3, 50)).astype(np.int16)
    counts[0, 1] = NOT_RECORDED
    counts[2, :, 40:] = NOT_RECORDED
    return torch.from_numpy(counts)


def test_millivolts_are_the_store_s(mini_store):
    store = open_store(mini_store)
    shard = store.read_shard(0)
    record = store.read(store.column("record_id")[shard.rows[0]])
    x_blt, recorded_blt = to_mv(torch.from_numpy(shard.counts_lt[None, :, : record.n_samples]))
    assert recorded_blt.all()
    assert (x_blt[0].numpy() == record.signal_mv_lt).all()


def test_what_is_not_recorded_is_zero_and_masked(counts_blt):
    x_blt, recorded_blt = to_mv(counts_blt)
    assert x_blt.dtype == torch.float32
    assert not recorded_blt[0, 1].any()
    assert (x_blt[~recorded_blt] == 0).all()
    assert recorded_blt.sum() == 4 * 3 * 50 - 50 - 30


def test_by_record_the_leads_keep_their_relative_size(counts_blt):
    mv = to_mv(counts_blt)
    x_blt = normalise(mv, "record")
    for window, recorded, before in zip(x_blt, mv.recorded_blt, mv.x_blt, strict=True):
        values = window[recorded]
        assert values.mean().abs() < 1e-5
        assert values.square().mean() == pytest.approx(1, abs=1e-4)
        assert (window[~recorded] == 0).all()
        assert window[2].std() / window[0].std() == pytest.approx(float(before[2].std() / before[0].std()), rel=0.2)


def test_by_record_and_lead_each_lead_has_a_scale_of_its_own(counts_blt):
    mv = to_mv(counts_blt)
    x_blt = normalise(mv, "record_lead")
    for window_lt, recorded_lt, before_lt in zip(x_blt, mv.recorded_blt, mv.x_blt, strict=True):
        for lead_t, recorded_t, before_t in zip(window_lt, recorded_lt, before_lt, strict=True):
            assert (lead_t[~recorded_t] == 0).all()
            if recorded_t.any():
                plain = before_t[recorded_t].double()
                plain = (plain - plain.mean()) / plain.std(correction=0)
                assert torch.allclose(lead_t[recorded_t].double(), plain, atol=1e-4)


def test_by_lead_the_training_statistics_are_used(counts_blt):
    normalisation = Normalisation(
        mode="lead", mean_mv={"I": 0.5, "II": 0.0, "V1": -1.0}, std_mv={"I": 2.0, "II": 1.0, "V1": 0.5}
    )
    mv = to_mv(counts_blt)
    x_blt = normalise(mv, "lead", normalisation.vectors(["I", "II", "V1"]))
    assert torch.allclose(x_blt[1, 0], (mv.x_blt[1, 0] - 0.5) / 2)
    assert torch.allclose(x_blt[1, 2], (mv.x_blt[1, 2] + 1) / 0.5)
    assert (x_blt[~mv.recorded_blt] == 0).all()
    swapped = normalise(
        Millivolts(mv.x_blt[:, [2, 0]], mv.recorded_blt[:, [2, 0]]), "lead", normalisation.vectors(["V1", "I"])
    )
    assert torch.equal(swapped, x_blt[:, [2, 0]])
    with pytest.raises(PassportError, match="V2"):
        normalisation.vectors(["I", "V2"])
    with pytest.raises(ValueError, match="needs the leads'"):
        normalise(mv, "lead")


def test_a_flat_window_stays_finite():
    flat = to_mv(torch.full((1, 2, 10), 100, dtype=torch.int16))
    nothing = to_mv(torch.full((1, 2, 10), int(NOT_RECORDED), dtype=torch.int16))
    for mv in (flat, nothing):
        assert torch.isfinite(normalise(mv, "record")).all()
        assert normalise(mv, "record").abs().max() < 1e-3
    assert torch.equal(normalise(flat, "none"), flat.x_blt)


def test_each_window_is_cut_at_its_own_offset(counts_blt):
    offsets = torch.tensor([0, 40, 7, 20])
    cut = crop(counts_blt, offsets, 10)
    rows = counts_blt.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(cut, crop(rows, offsets, 10))
    for i, offset in enumerate(offsets.tolist()):
        assert torch.equal(cut[i], counts_blt[i, :, offset : offset + 10])


def test_shuffled_time_keeps_the_samples_and_ties_the_leads(counts_blt):
    numbers = torch.arange(4)
    shuffled = shuffle_time(counts_blt, Draw(1), numbers)
    assert not torch.equal(shuffled, counts_blt)
    for before, after in zip(counts_blt, shuffled, strict=True):
        assert sorted(map(tuple, before.T.tolist())) == sorted(map(tuple, after.T.tolist()))
    assert torch.equal(shuffled[1:], shuffle_time(counts_blt[1:], Draw(1), numbers[1:]))


def test_a_draw_depends_on_the_sample_number_and_nothing_else():
    draw, numbers = Draw(3, stream=2), torch.tensor([5, 900, 2**40])
    whole = draw.words(numbers, 7)
    assert torch.equal(draw.words(numbers[1:2], 7), whole[1:2])
    assert torch.equal(draw.words(numbers, 3), whole[:, :3])
    assert torch.equal(draw.integers(numbers[2:], 9, 100), draw.integers(numbers, 9, 100)[2:])
    for other in (Draw(4, stream=2), Draw(3, stream=3), draw.fork(0), draw.fork(1)):
        assert not (other.words(numbers, 7) == whole).any()


def test_draws_are_pinned_for_ever():
    """A change of these numbers breaks the resume of every run that was started before it."""
    assert Draw(1).integers(torch.tensor([0, 1]), 4, 1000).tolist() == [
        [568, 282, 313, 980],
        [718, 955, 259, 119],
    ]


@pytest.mark.parametrize("high", [2, 7, 499, 1000])
def test_draws_are_uniform(high):
    n = 400_000
    counts = np.bincount(Draw(11).integers(torch.arange(400), n // 400, high).flatten().numpy(), minlength=high)
    assert len(counts) == high
    chi_squared = ((counts - n / high) ** 2 / (n / high)).sum()
    assert abs(chi_squared - (high - 1)) < 5 * math.sqrt(2 * (high - 1))


def test_neighbouring_samples_and_places_are_uncorrelated():
    drawn = Draw(0).integers(torch.arange(2000), 100, 1000).double()
    assert abs(torch.corrcoef(torch.stack([drawn[:-1].flatten(), drawn[1:].flatten()]))[0, 1]) < 0.01
    assert abs(torch.corrcoef(torch.stack([drawn[:, :-1].flatten(), drawn[:, 1:].flatten()]))[0, 1]) < 0.01


def test_real_numbers_depend_on_the_sample_number_and_nothing_else():
    draw, numbers = Draw(3, stream=2), torch.arange(57) * 3 + 2**35
    for law in (draw.uniform, draw.normal):
        whole = law(numbers, 101)
        assert whole.dtype == torch.float32
        for begin, end in ((0, 1), (5, 6), (1, 20), (20, 57)):
            assert torch.equal(law(numbers[begin:end], 101), whole[begin:end])
        assert law(numbers, 0).shape == (57, 0)
    high_b1 = torch.arange(1, 58)[:, None] * 9
    whole = draw.integers(numbers, 7, high_b1)
    for row in (0, 8, 56):
        assert torch.equal(whole[row : row + 1], draw.integers(numbers[row : row + 1], 7, 9 * (row + 1)))


def test_real_draws_are_pinned_for_ever():
    """A change of these numbers breaks the resume of every run that was started before it."""
    numbers = torch.tensor([0, 2**40])
    assert (Draw(1).uniform(numbers, 3) * 2**24).tolist() == [
        [7507387.0, 3430435.0, 5255553.0],
        [8370001.0, 4435324.0, 10338960.0],
    ]
    assert torch.allclose(
        Draw(1).normal(numbers, 3),
        torch.tensor([[-0.411587, 1.579444, 0.98047], [-0.602889, 0.568296, -0.539993]]),
        atol=2e-6,
    )


def test_real_draws_have_their_laws():
    n = 1_000_000
    unit = Draw(5).uniform(torch.arange(1000), n // 1000).double().flatten()
    assert 0 <= unit.min() < 1e-5
    assert 1 - 1e-5 < unit.max() < 1
    assert (unit.sort().values - (torch.arange(n) + 0.5) / n).abs().max() < math.sqrt(math.log(2e6) / (2 * n))
    bounded = Draw(5).uniform(torch.arange(1000), 1000, -3.0, 5.0)
    assert torch.allclose(bounded.flatten().double(), unit * 8 - 3, atol=1e-6)
    normal = Draw(5).normal(torch.arange(1000), n // 1000).double()
    expected = torch.special.ndtri((torch.arange(n).double() + 0.5) / n)
    found = torch.special.ndtr(normal.flatten().sort().values)
    assert (found - torch.special.ndtr(expected)).abs().max() < math.sqrt(math.log(2e6) / (2 * n))
    assert normal.abs().max() > 4.4
    # Both halves of a pair come from the same two numbers, and must not follow from each other.
    first, second = normal[:, :500].flatten(), normal[:, 500:].flatten()
    for one, other in ((first, second), (first.square(), second.square())):
        assert abs(torch.corrcoef(torch.stack([one, other]))[0, 1]) < 0.01


def test_subsets_have_their_size_and_are_all_alike():
    n = 6000
    sizes_b1 = torch.arange(n)[:, None] % 6
    chosen = Draw(2).subset(torch.arange(n), 5, sizes_b1)
    assert torch.equal(chosen.sum(dim=1, keepdim=True), sizes_b1)
    pairs = (chosen[sizes_b1[:, 0] == 2].long() * torch.tensor([1, 2, 4, 8, 16])).sum(dim=1)
    counts = np.unique(pairs.numpy(), return_counts=True)[1]
    assert len(counts) == 10
    assert ((counts - 100) ** 2 / 100).sum() < 40
    assert torch.equal(Draw(2).subset(torch.arange(3, 9), 5, sizes_b1[3:9]), chosen[3:9])


def test_windows_at_other_times_are_interpolated(counts_blt):
    mv = to_mv(counts_blt)
    random = np.random.default_rng(0)
    times_bt = np.sort(random.uniform(0, 49, (4, 70)), axis=1)
    times_bt[:, :2], times_bt[:, -1] = (0, 3), 49
    below_bt = np.floor(times_bt)
    weight_bt = torch.from_numpy((times_bt - below_bt).astype(np.float32))
    out = at_times(mv, torch.from_numpy(below_bt.astype(np.int64)), weight_bt)
    for window in range(4):
        for lead in range(3):
            x_t = np.where(mv.recorded_blt[window, lead], mv.x_blt[window, lead], np.nan)
            expected = np.interp(times_bt[window], np.arange(50), x_t)
            assert (out.recorded_blt[window, lead].numpy() == ~np.isnan(expected)).all()
            assert np.allclose(out.x_blt[window, lead], np.nan_to_num(expected), atol=1e-5)


NUMBERS = torch.arange(40) * 3 + 5


def ecg(n_windows=40, n_leads=12, n_samples=250):
    return torch.randn(n_windows, n_leads, n_samples, generator=torch.Generator().manual_seed(0)) + 3.0


@pytest.mark.parametrize("all_leads", [True, False])
def test_spans_are_laid_until_enough_is_hidden(all_leads):
    """Against laying them one by one."""
    settings, draw, x_blt = SpanMask(all_leads=all_leads, ratio=(0.0, 0.9)), Draw(4), ecg()
    masked = mask_spans(x_blt, draw, NUMBERS, settings, 100.0)
    assert torch.equal(masked.x_blt, torch.where(masked.hidden_blt, 0.0, x_blt))
    n_sets = 1 if all_leads else 12
    n_spans = 16 + math.ceil(-3 * math.log(1 - 0.9) * (250 + 40) / 22)
    for window in range(40):
        number = NUMBERS[window : window + 1]
        ratio = draw.fork(0).uniform(number, 1, 0.0, 0.9)[0, 0].numpy()
        length = draw.fork(1).fork(0).integers(number, n_sets * n_spans, 37)[0].view(n_sets, -1).numpy() + 4
        unit = draw.fork(1).fork(1).uniform(number, n_sets * n_spans)[0].view(n_sets, -1).numpy()
        for one in range(n_sets):
            hidden = np.zeros(250, dtype=bool)
            for n, u in zip(length[one], unit[one], strict=True):
                if hidden.sum() >= np.ceil(ratio * np.float32(250)):
                    break
                start = int(u * np.float32(250 + n - 1)) - n + 1
                hidden[max(0, start) : start + n] = True
            assert (masked.hidden_blt[window, one].numpy() == hidden).all()
        if all_leads:
            assert (masked.hidden_blt[window] == masked.hidden_blt[window, :1]).all()


def test_masks_cover_what_is_asked_for_evenly():
    numbers, x_blt = torch.arange(3000), torch.ones(3000, 1, 1000)
    hidden_bt = mask_spans(x_blt, Draw(1), numbers, SpanMask(), 100.0).hidden_blt[:, 0].float()
    asked_b = Draw(1).fork(0).uniform(numbers, 1, 0.15, 0.60)[:, 0]
    over_b = hidden_bt.mean(dim=1) - asked_b
    assert over_b.min() >= 0
    assert over_b.max() < 0.04
    assert hidden_bt.mean(dim=0).max() - hidden_bt.mean(dim=0).min() < 0.08
    assert not torch.equal(hidden_bt, mask_spans(x_blt, Draw(1), numbers + 3000, SpanMask(), 100.0).hidden_blt[:, 0])
    everything = mask_spans(x_blt[:50], Draw(1), numbers[:50], SpanMask(ratio=(0.99, 0.99)), 100.0).hidden_blt
    assert everything.float().mean() >= 0.98
    assert not mask_spans(x_blt[:50], Draw(1), numbers[:50], SpanMask(ratio=(0, 0)), 100.0).hidden_blt.any()
    tiny = mask_spans(x_blt[:50, :, :3], Draw(1), numbers[:50], SpanMask(), 100.0).hidden_blt
    assert tiny.any(dim=2).all()


@pytest.mark.parametrize("all_leads", [True, False])
def test_patches_are_whole(all_leads):
    settings = SpanMask(unit="patches", patch_s=0.04, ratio=(0.3, 0.3), all_leads=all_leads)
    hidden_blt = mask_spans(ecg(), Draw(4), NUMBERS, settings, 100.0).hidden_blt
    patches = hidden_blt[..., :248].reshape(40, 12, 62, 4)
    assert (patches == patches[..., :1]).all()
    n_hidden = patches[..., 0].sum(dim=2) + hidden_blt[..., -1]
    assert (n_hidden == math.ceil(np.float32(0.3) * 63)).all()
    assert (hidden_blt == hidden_blt[:, :1]).all() == all_leads


def test_hidden_samples_may_hold_noise():
    x_blt = ecg()
    masked = mask_spans(x_blt, Draw(4), NUMBERS, SpanMask(fill="noise", noise_std=0.5), 100.0)
    assert torch.equal(masked.x_blt[~masked.hidden_blt], x_blt[~masked.hidden_blt])
    assert masked.x_blt[masked.hidden_blt].std() == pytest.approx(0.5, rel=0.03)
    assert masked.x_blt[masked.hidden_blt].mean() == pytest.approx(0, abs=0.02)


def test_leads_change_places_and_their_numbers_go_along():
    numbers, x_blt = torch.arange(6000), ecg(6000, 12, 2)
    permuted = permute_leads(x_blt, Draw(9), numbers, LeadPermutation())
    for window in range(0, 6000, 371):
        for place, lead in enumerate(permuted.lead_bl[window].tolist()):
            assert torch.equal(permuted.x_blt[window, place], x_blt[window, lead])
    assert torch.equal(permuted.lead_bl.sort(dim=1).values, torch.arange(12).expand(6000, -1))
    n_moved_b = (permuted.lead_bl != torch.arange(12)).sum(dim=1)
    assert (n_moved_b > 0).float().mean() == pytest.approx(0.5, abs=0.03)
    # None of the m leads keeps its place, and m is uniform in 2 … 12.
    counts = np.bincount(n_moved_b[n_moved_b > 0].numpy(), minlength=13)
    assert counts[1] == 0
    expected = counts.sum() / 11
    assert ((counts[2:] - expected) ** 2 / expected).sum() < 45
    lead = permuted.lead_bl[n_moved_b > 0]
    moved_to = torch.stack([(lead == one).float().mean(dim=0) for one in range(12)])
    off_diagonal = moved_to[~torch.eye(12, dtype=torch.bool)]
    assert off_diagonal.max() - off_diagonal.min() < 0.04


def test_any_order_of_leads_may_be_asked_for():
    permuted = permute_leads(ecg(6000, 3, 1), Draw(9), torch.arange(6000), LeadPermutation(order="any", probability=1))
    _, counts = np.unique(permuted.lead_bl.numpy(), axis=0, return_counts=True)
    assert len(counts) == 6
    assert ((counts - 1000) ** 2 / 1000).sum() < 30
    with pytest.raises(ConfigError, match="two leads"):
        permute_leads(ecg(2, 1), Draw(1), torch.arange(2), LeadPermutation())
    with pytest.raises(ConfigError, match="did you mean probability"):
        parse(LeadPermutation, {"probab": 1})
    with pytest.raises(ConfigError, match="lower bound"):
        parse(SpanMask, {"ratio": [0.5, 0.2]})


def hide_and_disorder(x_blt, numbers):
    for mask in (SpanMask(), SpanMask(all_leads=False, fill="noise"), SpanMask(unit="patches", all_leads=False)):
        yield from mask_spans(x_blt, Draw(4), numbers, mask, 100.0)
    for order in ("some", "any"):
        yield from permute_leads(x_blt, Draw(4), numbers, LeadPermutation(order=order))


def test_parts_of_a_batch_are_hidden_and_disordered_as_the_whole():
    x_blt = ecg()
    for begin, end in ((0, 1), (1, 23), (23, 40)):
        parts = hide_and_disorder(x_blt[begin:end], NUMBERS[begin:end])
        for part, whole in zip(parts, hide_and_disorder(x_blt, NUMBERS), strict=True):
            assert torch.equal(part, whole[begin:end])
    # Nothing is read back: tensors without values would refuse it.
    for one in hide_and_disorder(x_blt.to("meta"), NUMBERS.to("meta")):
        assert one.device.type == "meta"


@pytest.mark.gpu
def test_a_gpu_hides_and_disorders_alike():
    for here, there in zip(
        hide_and_disorder(ecg(), NUMBERS), hide_and_disorder(ecg().cuda(), NUMBERS.cuda()), strict=True
    ):
        assert torch.allclose(here.float(), there.cpu().float(), atol=1e-5)


@pytest.mark.gpu
def test_a_gpu_draws_the_same():
    numbers = torch.arange(64)
    assert torch.equal(Draw(1).words(numbers, 9), Draw(1).words(numbers.cuda(), 9).cpu())
    assert torch.equal(Draw(1).uniform(numbers, 9), Draw(1).uniform(numbers.cuda(), 9).cpu())
    assert torch.allclose(Draw(1).normal(numbers, 9), Draw(1).normal(numbers.cuda(), 9).cpu(), atol=1e-5)


def test_pooling():
    tokens_bsd = torch.tensor([[[1.0, -5.0], [3.0, 1.0], [2.0, 1.0]]])
    assert pool(tokens_bsd, "mean").tolist() == [[2.0, -1.0]]
    assert pool(tokens_bsd, "max").tolist() == [[3.0, 1.0]]
    assert pool(tokens_bsd, "last").tolist() == [[2.0, 1.0]]
    assert pool(tokens_bsd, "mean_max_last").tolist() == [[2.0, -1.0, 3.0, 1.0, 2.0, 1.0]]
