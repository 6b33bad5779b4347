"""Mean and standard deviation per lead of some records of a store, where the store's own sums are of others too."""

from __future__ import annotations

import logging

import numpy as np

from ecgstore import COUNTS_PER_MV, NOT_RECORDED, IntegrityError, LeadStatistics, Store
from ecgtrain.data.plan import Int64

log = logging.getLogger(__name__)


def statistics_of(store: Store, rows: Int64, strict: bool = False) -> LeadStatistics:
    """Over all recorded samples of the records at ``rows``, in mV per lead; a lead without any sample has NaN.

    Reads the shards that hold them, one at a time, and adds up integers: the same on any machine. Unless ``strict``,
    a shard that can't be read is left out, as it is of training; raises IntegrityError otherwise.
    """
    size, wanted = store.shard_samples, set(rows.tolist())
    starts, lengths = store.column("start")[rows], store.column("n_samples")[rows]
    shards = {shard for begin, n in zip(starts, lengths, strict=True) for shard in _shards(int(begin), int(n), size)}
    n_leads = len(store.leads)
    # Python's integers never overflow.
    sums: list[list[int]] = [[0] * n_leads for _ in range(3)]
    for shard in sorted(shards):
        try:
            signal = store.read_shard(shard)
        except IntegrityError as error:
            if strict:
                raise
            log.warning("normalised without a shard that can't be read: %s", error)
            continue
        for row, start, length in zip(signal.rows.tolist(), signal.starts, signal.lengths, strict=True):
            if row in wanted:
                _add(sums, signal.counts_lt[:, start : start + length].astype(np.int64))
    n_l, mean_l, std_l = (np.full(n_leads, np.nan) for _ in range(3))
    for lead, (n, total, squares) in enumerate(zip(*sums, strict=True)):
        n_l[lead] = n
        if n:
            mean_l[lead], std_l[lead] = total / n, ((squares * n - total * total) / n**2) ** 0.5
    return LeadStatistics(mean_l / COUNTS_PER_MV, std_l / COUNTS_PER_MV, n_l.astype(np.int64))


def _shards(begin: int, n_samples: int, size: int) -> range:
    return range(begin // size, (begin + max(n_samples, 1) - 1) // size + 1)


def _add(sums: list[list[int]], counts_lt: np.ndarray) -> None:
    recorded_lt = counts_lt != NOT_RECORDED
    counts_lt *= recorded_lt
    squares_l = np.einsum("lt,lt->l", counts_lt, counts_lt)
    for its, found_l in zip(sums, (recorded_lt.sum(axis=1), counts_lt.sum(axis=1), squares_l), strict=True):
        its[:] = [one + other for one, other in zip(its, found_l.tolist(), strict=True)]
