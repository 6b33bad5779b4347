"""The plan of training for any number of records, any batch size, any world."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecgtrain.data.plan import (
    BatchPlan,
    Records,
    Stream,
    batch_plan,
    epoch_counts,
    evaluation_plans,
    evaluation_tiles,
    steps_per_epoch,
    whole_weights,
)

SIZES = st.tuples(st.integers(1, 60), st.integers(1, 60)).map(sorted)  # batch size, records
SEEDS = st.integers(0, 2**63 - 1)
WINDOW = 50


def lengths(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(WINDOW // 2, 4 * WINDOW, n)


def plan(n: int, batch_size: int, seed: int, step: int, rank: int = 0, world: int = 1) -> BatchPlan:
    return batch_plan(
        lengths(n),
        window_samples=WINDOW,
        seed=seed,
        step=step,
        batch_size=batch_size,
        rank=rank,
        world=world,
    )


def content(made: BatchPlan) -> list[tuple[int, int, int]]:
    return list(zip(made.sample_numbers.tolist(), made.rows.tolist(), made.offsets.tolist(), strict=True))


@given(SIZES, SEEDS, st.integers(0, 200), st.sampled_from([1, 2, 3, 8]))
def test_the_ranks_slices_in_order_are_the_global_batch(sizes: list[int], seed: int, step: int, world: int) -> None:
    batch_size, n = sizes
    whole = plan(n, batch_size, seed, step)
    slices = [plan(n, batch_size, seed, step, rank, world) for rank in range(world)]
    assert [window for part in slices for window in content(part)] == content(whole)
    assert len(whole.rows) == batch_size
    counts = [len(part.rows) for part in slices]
    assert max(counts) - min(counts) <= 1


@given(SIZES, SEEDS, st.integers(0, 5))
def test_an_epoch_shows_every_record_once_but_for_the_dropped_remainder(
    sizes: list[int], seed: int, epoch: int
) -> None:
    batch_size, n = sizes
    steps = steps_per_epoch(n, batch_size)
    batches = [plan(n, batch_size, seed, epoch * steps + step) for step in range(steps)]
    rows = np.concatenate([batch.rows for batch in batches])
    assert {batch.epoch for batch in batches} == {epoch}
    assert len(set(rows.tolist())) == len(rows) == n - n % batch_size
    assert plan(n, batch_size, seed, (epoch + 1) * steps).epoch == epoch + 1


@given(SIZES, SEEDS, st.integers(0, 100))
def test_windows_lie_inside_their_records(sizes: list[int], seed: int, step: int) -> None:
    batch_size, n = sizes
    made = plan(n, batch_size, seed, step)
    length_b = lengths(n)[made.rows]
    assert (made.offsets >= 0).all()
    assert (made.offsets + WINDOW <= np.maximum(length_b, WINDOW)).all()


@given(SIZES, SEEDS)
def test_sample_numbers_never_come_twice_in_a_run(sizes: list[int], seed: int) -> None:
    batch_size, n = sizes
    steps = 3 * steps_per_epoch(n, batch_size)
    numbers = np.concatenate([plan(n, batch_size, seed, step).sample_numbers for step in range(steps)])
    assert len(set(numbers.tolist())) == len(numbers)


@given(st.integers(1, 40), SEEDS, st.integers(0, 100))
def test_a_windows_place_does_not_hang_on_the_batch_size(n: int, seed: int, epoch: int) -> None:
    one_by_one = [window for place in range(n) for window in content(plan(n, 1, seed, epoch * n + place))]
    assert one_by_one == content(plan(n, n, seed, epoch))


@given(st.integers(0, 3000), st.integers(1, 600), st.integers(1, 300))
def test_tiles_are_all_whole_windows_at_multiples_of_the_stride(n_samples: int, window: int, stride: int) -> None:
    offsets = evaluation_tiles(n_samples, window, stride)
    expected = [o for o in range(0, n_samples, stride) if o + window <= n_samples] or [0]
    assert offsets.tolist() == expected


@given(st.lists(st.integers(1, 400), max_size=20), st.integers(1, 50))
def test_evaluation_covers_every_tile_once_and_in_order(samples: list[int], batch_size: int) -> None:
    plans = list(
        evaluation_plans(
            np.array(samples, dtype=np.int64), window_samples=100, stride_samples=40, batch_size=batch_size
        )
    )
    seen = [(row, offset) for made in plans for _, row, offset in content(made)]
    assert seen == [(row, o) for row, n in enumerate(samples) for o in evaluation_tiles(n, 100, 40).tolist()]
    assert all(len(made.rows) == batch_size for made in plans[:-1])
    assert [n for made in plans for n in made.sample_numbers] == list(range(len(seen)))


@pytest.mark.parametrize("seed", [0, 1, 2**62])
def test_seeds_and_epochs_differ(seed: int) -> None:
    first, again = plan(50, 50, seed, 0), plan(50, 50, seed, 0)
    assert content(first) == content(again)
    others = [plan(50, 50, seed + 1, 0), plan(50, 50, seed, 1)]
    for other in others:
        assert (first.rows != other.rows).mean() > 0.8
        assert (first.offsets != other.offsets).mean() > 0.8


# --- weights and streams: the same promises -----------------------------------------------------------------


@st.composite
def records(draw: st.DrawFn) -> Records:
    """Records of any lengths; perhaps weighted, with another number of windows, and streamed."""
    n = draw(st.integers(1, 40))
    weights_n = n_windows = stream = None
    if draw(st.booleans()):
        n_windows = draw(st.none() | st.integers(n, 3 * n))
        floats = draw(st.lists(st.floats(0.01, 100), min_size=n, max_size=n))
        weights_n = whole_weights(np.array(floats), n_windows or n)
    if draw(st.booleans()):
        unit_n = np.unique(draw(st.lists(st.integers(0, 9), min_size=n, max_size=n)), return_inverse=True)[1]
        stream = Stream(unit_n.astype(np.int64), draw(st.integers(1, 4)), draw(st.integers(8, 12)))
    return Records(lengths(n), weights_n, n_windows, stream)


def planned(its: Records, batch_size: int, seed: int, step: int, rank: int = 0, world: int = 1) -> BatchPlan:
    return batch_plan(its, window_samples=WINDOW, seed=seed, step=step, batch_size=batch_size, rank=rank, world=world)


def windows_of(its: Records) -> int:
    """Windows of an epoch or pass."""
    return its.windows_per_epoch * (1 if its.stream is None else its.stream.draws)


@given(records(), SEEDS, st.data())
def test_world_and_accumulation_never_change_the_batch(its: Records, seed: int, data: st.DataObject) -> None:
    batch_size = data.draw(st.integers(1, windows_of(its)))
    step = data.draw(st.integers(0, 50))
    whole = content(planned(its, batch_size, seed, step))
    assert len(whole) == batch_size
    for world in (2, 3, 8):
        slices = [content(planned(its, batch_size, seed, step, rank, world)) for rank in range(world)]
        assert [window for part in slices for window in part] == whole
        for rank, part in enumerate(slices):
            micro = [content(planned(its, batch_size, seed, step, 4 * rank + i, 4 * world)) for i in range(4)]
            assert [window for one in micro for window in one] == part


@given(records(), SEEDS, st.integers(0, 3), st.integers(1, 7))
def test_an_epoch_or_pass_counts_out_and_no_window_comes_twice(
    its: Records, seed: int, epoch: int, batch_size: int
) -> None:
    n = windows_of(its)
    batch_size = min(batch_size, n)
    steps = steps_per_epoch(n, batch_size)
    batches = [planned(its, batch_size, seed, epoch * steps + step) for step in range(steps)]
    assert {batch.epoch for batch in batches} == {epoch}
    rows = np.concatenate([batch.rows for batch in batches])
    offsets = np.concatenate([batch.offsets for batch in batches])
    counts_n = epoch_counts(its, seed, epoch)
    seen_n = np.bincount(rows, minlength=len(its))
    assert counts_n.sum() == n
    assert (seen_n <= counts_n).all()
    assert seen_n.sum() == n - n % batch_size
    enough = (its.lengths_n - WINDOW + 1 >= counts_n)[rows]
    unique = set(zip(rows[enough].tolist(), offsets[enough].tolist(), strict=True))
    assert len(unique) == np.count_nonzero(enough)
    numbers = np.concatenate([batch.sample_numbers for batch in batches])
    assert numbers.tolist() == list(range(epoch * n, epoch * n + len(numbers)))


@given(records(), SEEDS, st.integers(0, 40))
def test_any_step_can_be_the_first(its: Records, seed: int, step: int) -> None:
    batch_size = min(4, windows_of(its))
    for before in range(step):
        planned(its, batch_size, seed, before)
    fresh = Records(its.lengths_n, its.weights_n, its.n_windows, its.stream)  # nothing is remembered of it
    assert content(planned(its, batch_size, seed, step)) == content(planned(fresh, batch_size, seed, step))


@given(records(), SEEDS, st.integers(0, 3))
def test_windows_of_any_records_lie_inside(its: Records, seed: int, epoch: int) -> None:
    n = windows_of(its)
    made = planned(its, n, seed, epoch)
    assert (made.offsets >= 0).all()
    assert (made.offsets + WINDOW <= np.maximum(its.lengths_n[made.rows], WINDOW)).all()


@given(records().filter(lambda its: its.stream is not None), SEEDS)
def test_a_stream_mixes_few_units_at_a_time(its: Records, seed: int) -> None:
    assert its.stream is not None
    units = its.stream.unit_n[planned(its, windows_of(its), seed, 0).rows]
    last = {unit: place for place, unit in enumerate(units.tolist())}
    first = {unit: place for place, unit in reversed(list(enumerate(units.tolist())))}
    for place in range(len(units)):
        assert sum(first[unit] <= place <= last[unit] for unit in first) <= its.stream.pool_units
