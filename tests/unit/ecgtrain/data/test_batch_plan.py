from __future__ import annotations

import numpy as np
import pytest

from ecgstore import ConfigError
from ecgtrain.data.plan import (
    Records,
    Stream,
    batch_plan,
    epoch_counts,
    epoch_order,
    evaluation_tiles,
    rarity_weights,
    steps_per_epoch,
    whole_weights,
)


def test_a_ten_second_record_gives_seven_windows_of_the_published_protocol() -> None:
    assert evaluation_tiles(1000, 250, 125).tolist() == [0, 125, 250, 375, 500, 625, 750]


def test_a_short_record_gives_one_tile() -> None:
    assert evaluation_tiles(200, 250, 125).tolist() == [0]
    assert evaluation_tiles(374, 250, 125).tolist() == [0]
    assert evaluation_tiles(375, 250, 125).tolist() == [0, 125]


def test_fewer_records_than_a_batch_are_refused() -> None:
    with pytest.raises(ConfigError, match="fewer records than one batch.*expected 8 records or more, got 7"):
        steps_per_epoch(7, 8)


def test_the_order_is_pinned_for_ever() -> None:
    """A change of these numbers breaks the resume of every run that was started before it."""
    assert epoch_order(1, 0, 8).tolist() == [3, 5, 2, 7, 0, 6, 1, 4]
    made = batch_plan(np.full(8, 1000), window_samples=250, seed=1, step=3, batch_size=4)
    assert made.rows.tolist() == [4, 7, 2, 1]
    assert made.offsets.tolist() == [369, 133, 498, 361]
    assert made.sample_numbers.tolist() == [12, 13, 14, 15]


def test_the_order_of_weights_is_pinned_for_ever() -> None:
    records = Records(np.full(6, 1000), np.array([1, 1, 1, 1, 4, 4]))
    assert epoch_counts(records, 1, 0).tolist() == [0, 1, 1, 0, 2, 2]
    made = batch_plan(records, window_samples=250, seed=1, step=3, batch_size=3)
    assert (made.epoch, made.rows.tolist(), made.offsets.tolist()) == (1, [5, 4, 3], [54, 50, 133])


def test_the_order_of_streams_is_pinned_for_ever() -> None:
    records = Records(np.full(6, 1000), stream=Stream(np.array([0, 0, 1, 1, 2, 2]), pool_units=2, draws=8))
    made = batch_plan(records, window_samples=250, seed=1, step=8, batch_size=5)
    assert (made.epoch, made.rows.tolist(), made.offsets.tolist()) == (0, [4, 5, 5, 4, 4], [583, 96, 492, 277, 437])
    assert made.sample_numbers.tolist() == [40, 41, 42, 43, 44]
    later = batch_plan(records, window_samples=250, seed=1, step=9, batch_size=5)
    assert (later.epoch, later.sample_numbers.tolist()) == (1, [48, 49, 50, 51, 52])


def test_records_alone_are_planned_as_their_samples_were() -> None:
    lengths_n = np.random.default_rng(0).integers(100, 900, 50)
    for step in range(12):
        one, other, alike = (
            batch_plan(records, window_samples=250, seed=4, step=step, batch_size=8)
            for records in (lengths_n, Records(lengths_n), Records(lengths_n, np.full(50, 7)))
        )
        assert one.rows.tolist() == other.rows.tolist() == alike.rows.tolist()
        assert one.offsets.tolist() == other.offsets.tolist() == alike.offsets.tolist()


def test_counts_follow_the_weights_and_pass_over_nobody_for_long() -> None:
    weights_n = np.array([1, 2, 5, 12] * 25)
    records = Records(np.full(100, 1000), weights_n)
    counts = np.array([epoch_counts(records, 3, epoch) for epoch in range(200)])
    share = 100 * weights_n / weights_n.sum()
    assert (counts.sum(axis=1) == 100).all()
    assert (np.abs(counts - share) < 1).all()
    assert counts.sum(axis=0) == pytest.approx(200 * share, abs=3)
    longest = max(np.diff(np.flatnonzero(column), prepend=-1, append=200).max() for column in counts.T[::4])
    assert longest <= 2.7 / share[0] + 2, "the longest gap of a golden ruler"


def test_groups_come_alike_to_the_window() -> None:
    groups_n = np.repeat([0, 1, 2], [70, 25, 5])
    for strength, expected in ((1.0, [1 / 3, 1 / 3, 1 / 3]), (0.5, np.sqrt([70, 25, 5]) / np.sqrt([70, 25, 5]).sum())):
        weights_n = whole_weights(rarity_weights(groups_n, strength), 100)
        counts_n = epoch_counts(Records(np.full(100, 10), weights_n), 0, 0)
        assert np.bincount(groups_n, weights=counts_n) == pytest.approx(100 * np.array(expected), abs=1)


def test_weights_that_cannot_be_counted_exactly_are_refused() -> None:
    with pytest.raises(ConfigError, match="too large to be counted"):
        epoch_counts(Records(np.full(2, 10), np.array([2**61, 1])), 0, 0)


def test_crops_are_uniform_over_all_places() -> None:
    lengths_n = np.full(40_000, 20)
    made = batch_plan(lengths_n, window_samples=11, seed=3, step=0, batch_size=40_000)
    counts = np.bincount(made.offsets, minlength=10)
    assert len(counts) == 10
    assert (np.abs(counts - 4000) < 5 * np.sqrt(4000)).all()


def test_order_and_crops_are_independent() -> None:
    made = batch_plan(np.full(5000, 2000), window_samples=1000, seed=3, step=0, batch_size=5000)
    assert abs(np.corrcoef(made.rows, made.offsets)[0, 1]) < 0.06


def test_the_order_cannot_be_changed_by_its_users() -> None:
    with pytest.raises(ValueError, match="read-only"):
        epoch_order(1, 0, 8)[0] = 5


def test_a_million_streamed_records_are_planned_quickly() -> None:
    stream = Stream(np.arange(1_000_000) // 1280, pool_units=16, draws=8)
    records = Records(np.full(1_000_000, 1000), stream=stream)
    for step in range(500, 700):  # crosses from one pool to the next, which is all that is permuted
        batch_plan(records, window_samples=250, seed=0, step=step, batch_size=256)


def test_a_million_records_are_planned_quickly() -> None:
    lengths_n = np.full(1_000_000, 1000)
    for step in range(200):  # one sort of the epoch, then slices
        batch_plan(lengths_n, window_samples=250, seed=0, step=step, batch_size=256)
