"""Records that are changed as they are read, for whoever asks what such a change would cost: noise, lost leads."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from ecgstore import Store
from ecgstore.inner import counts_to_mv, mv_to_counts
from ecgtrain.data.cache import Part, Piece, Source, WindowCache
from ecgtrain.data.feed import Feed
from ecgtrain.data.plan import Int64

#: Of a record: its id and its signal in mV, float32 (leads of the store, samples), NaN where not recorded; returns the
#: same shape. It may write into what it is given.
Change = Callable[[str, npt.NDArray[np.float32]], npt.NDArray[np.float32]]


def open_changed_feed(
    store: Store,
    rows: Int64,
    change: Change,
    *,
    window_samples: int,
    leads: Sequence[str],
    device: torch.device | str = "cpu",
) -> Feed:
    """Windows of the records at ``rows``, each changed whole, all of its leads at once, before any window is cut.

    They are held in memory, and in whole microvolts as those of a store are. Short records are padded. Raises
    IntegrityError where one can't be read.
    """
    rows = np.asarray(rows, dtype=np.int64)
    source = Source(store, rows, list(range(len(store.leads))), edge_samples=0, first_place=0)
    lengths_n = source.lengths[rows]
    cache = WindowCache(len(leads), lengths_n, window_samples)
    lead_index = [store.leads.index(lead) for lead in leads]
    names = store.column("record_id")[rows]
    parts: dict[int, list[Piece]] = defaultdict(list)

    def put_all(pieces: Iterable[Piece]) -> None:
        for piece in pieces:
            place = piece[0]
            # A record that is longer than a shard comes in several: it is changed once all are there.
            its = parts[place]
            its.append(piece)
            if sum(counts_lt.shape[1] for _, _, counts_lt in its) < lengths_n[place]:
                continue
            whole_lt = np.concatenate([part[2] for part in sorted(its, key=lambda part: part[1])], axis=1)
            del parts[place]
            changed_lt = change(str(names[place]), counts_to_mv(whole_lt))
            cache.put(place, 0, mv_to_counts(changed_lt).counts_lt[lead_index])

    for shard in source.shards():
        put_all(source.pieces(shard))
    return Feed(cache, rows, device=device, parts=[Part(store, rows)])
