from __future__ import annotations

import numpy as np
import pytest

from ecgstore import ConfigError
from ecgtrain.plan import batch_plan, epoch_order, evaluation_tiles, steps_per_epoch


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


def test_a_million_records_are_planned_quickly() -> None:
    lengths_n = np.full(1_000_000, 1000)
    for step in range(200):  # one sort of the epoch, then slices
        batch_plan(lengths_n, window_samples=250, seed=0, step=step, batch_size=256)
