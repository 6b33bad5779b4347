from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ecgstore import NOT_RECORDED, open_store
from ecgtrain.errors import PassportError
from ecgtrain.features import pool
from ecgtrain.views import Draw, Millivolts, Normalisation, crop, normalise, shuffle_time, to_mv


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


def test_pooling():
    tokens_bsd = torch.tensor([[[1.0, -5.0], [3.0, 1.0], [2.0, 1.0]]])
    assert pool(tokens_bsd, "mean").tolist() == [[2.0, -1.0]]
    assert pool(tokens_bsd, "max").tolist() == [[3.0, 1.0]]
    assert pool(tokens_bsd, "last").tolist() == [[2.0, 1.0]]
    assert pool(tokens_bsd, "mean_max_last").tolist() == [[2.0, -1.0, 3.0, 1.0, 2.0, 1.0]]
