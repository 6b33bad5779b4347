"""Which window stands at which step: pure functions of (records, seed, step), never remembered.

Everything random comes from the counter-based generator Philox, keyed by (seed, epoch). So a run resumed at
step s, or spread over any number of ranks, sees exactly the windows that it would have seen otherwise.

One epoch shows every record once, in an order of its own, cut at a random place. An epoch has
``n_records // batch_size`` steps: the remainder is dropped, and it is another one each epoch. A batch never
spans two epochs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ecgstore import ConfigError

Int64 = npt.NDArray[np.int64]

#: Separate Philox streams: the order of an epoch must not be tied to its crops.
_ORDER, _CROP = 0, 1


@dataclass(frozen=True, slots=True, eq=False)
class BatchPlan:
    """The windows of one batch, or one rank's slice of it; ``b`` windows.

    ``sample_numbers`` number every window of the whole run once and for all ranks alike: augmentations draw
    by them. ``rows`` index the selected records (not the store), ``offsets`` are first samples of windows.
    """

    step: int
    epoch: int
    sample_numbers: Int64
    rows: Int64
    offsets: Int64


def _philox(seed: int, epoch: int, stream: int, n: int) -> npt.NDArray[np.uint64]:
    """``n`` words, word i whatever n is. Raw words, because NumPy keeps only those stable for ever."""
    key = np.array([seed, epoch], dtype=np.uint64)
    counter = np.array([0, 0, 0, stream], dtype=np.uint64)
    return np.random.Philox(key=key, counter=counter).random_raw(n)


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, n_records: int) -> Int64:
    """The order of one epoch: a permutation of ``0 … n_records-1``, read-only."""
    order = np.argsort(_philox(seed, epoch, _ORDER, n_records), kind="stable").astype(np.int64, copy=False)
    order.setflags(write=False)
    return order


@lru_cache(maxsize=4)
def _epoch_crops(seed: int, epoch: int, n_records: int) -> npt.NDArray[np.uint64]:
    return _philox(seed, epoch, _CROP, n_records)


def steps_per_epoch(n_records: int, batch_size: int) -> int:
    """Whole batches in one epoch; raises ConfigError if there isn't one."""
    if n_records < batch_size:
        raise ConfigError(
            "fewer records than one batch",
            expected=f"{batch_size} records or more",
            got=n_records,
            fix="lower batch_size or select more folds",
        )
    return n_records // batch_size


def batch_plan(
    lengths_n: Int64,
    *,
    window_samples: int,
    seed: int,
    step: int,
    batch_size: int,
    rank: int = 0,
    world: int = 1,
) -> BatchPlan:
    """Rank ``rank``'s slice of the global batch of ``batch_size`` windows at ``step``.

    ``lengths_n`` holds the samples of each selected record. The ranks' slices, in order, are the global
    batch; they differ by one window at most. A record shorter than the window is cut at offset 0.
    """
    n_records = len(lengths_n)
    epoch, step_in_epoch = divmod(step, steps_per_epoch(n_records, batch_size))
    first = step_in_epoch * batch_size
    position = np.arange(first + batch_size * rank // world, first + batch_size * (rank + 1) // world)
    rows = epoch_order(seed, epoch, n_records)[position]
    places = (np.maximum(lengths_n[rows] - window_samples, 0) + 1).astype(np.uint64)
    return BatchPlan(
        step=step,
        epoch=epoch,
        sample_numbers=epoch * n_records + position.astype(np.int64),
        rows=rows,
        offsets=(_epoch_crops(seed, epoch, n_records)[position] % places).astype(np.int64),
    )


def evaluation_tiles(n_samples: int, window_samples: int, stride_samples: int) -> Int64:
    """Offsets of the windows that evaluation takes from one record: whole ones, every ``stride_samples``.

    1,000 samples in windows of 250 every 125 give 7. Samples after the last whole window are not looked at;
    a record shorter than one window gives one window, at 0.
    """
    return np.arange(0, max(n_samples - window_samples, 0) + 1, stride_samples, dtype=np.int64)


def evaluation_plans(
    lengths_n: Int64, *, window_samples: int, stride_samples: int, batch_size: int
) -> Iterator[BatchPlan]:
    """All tiles of all records, in order, in batches of ``batch_size`` (the last may be smaller)."""
    tiles = [evaluation_tiles(int(length), window_samples, stride_samples) for length in lengths_n]
    rows = np.repeat(np.arange(len(tiles), dtype=np.int64), [len(offsets) for offsets in tiles])
    offsets = np.concatenate(tiles) if tiles else np.empty(0, dtype=np.int64)
    for step, first in enumerate(range(0, len(rows), batch_size)):
        part = slice(first, first + batch_size)
        numbers = np.arange(first, first + len(rows[part]), dtype=np.int64)
        yield BatchPlan(step, 0, numbers, rows[part], offsets[part])
