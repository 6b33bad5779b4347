"""What reading a whole shard gives: its samples, and whose they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, eq=False)
class ShardSignal:
    """The decoded shard number ``shard``: piece i of it is of the record at row ``rows[i]``.

    It is ``counts_lt[:, starts[i] : starts[i] + lengths[i]]``; ``offsets[i]`` is where the piece begins inside its
    record: 0, except for a record longer than a shard. ``rows``, ``starts``, ``lengths`` and ``offsets`` are int64
    (pieces,), ``counts_lt`` int16 (leads, samples) of 1 µV; -32768 means not recorded.
    """

    shard: int
    rows: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    counts_lt: npt.NDArray[np.int16]
