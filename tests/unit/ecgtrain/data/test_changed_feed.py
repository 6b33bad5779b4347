"""Records changed as they are read: whole, once each, and nothing but what was asked for."""

from __future__ import annotations

import numpy as np

from ecgstore import open_store
from ecgtrain.data.changed import open_changed_feed
from ecgtrain.data.feed import open_feed
from ecgtrain.data.plan import evaluation_plans


def windows_of(feed):
    plans = evaluation_plans(feed.records, window_samples=feed.window_samples, stride_samples=250, batch_size=64)
    batches = list(feed.batches(plans))
    return np.concatenate([batch.counts_blt.numpy() for batch in batches]), np.concatenate([b.rows_b for b in batches])


def test_without_a_change_it_gives_what_any_feed_gives(mini_store):
    store, rows = open_store(mini_store), np.array([3, 4, 17])
    leads = ("V1", "II")
    plain, of_plain = windows_of(open_feed(store, rows, window_samples=250, leads=leads))
    same, of_same = windows_of(
        open_changed_feed(store, rows, lambda name, mv_lt: mv_lt, window_samples=250, leads=leads)
    )
    assert np.array_equal(plain, same)
    assert np.array_equal(of_plain, of_same)


def test_each_record_is_changed_by_its_id_and_with_all_leads_of_the_store(mini_store):
    store, rows = open_store(mini_store), np.array([5, 2])
    seen = {}

    def change(name, mv_lt):
        seen[name] = mv_lt.shape
        return mv_lt * np.float32(2 if name == store.column("record_id")[5] else 1)

    counts, of = windows_of(open_changed_feed(store, rows, change, window_samples=250, leads=("II",)))
    plain, _ = windows_of(open_feed(store, rows, window_samples=250, leads=("II",)))
    assert seen == {store.column("record_id")[row]: (12, 1000) for row in rows}
    assert np.array_equal(counts[of == 2], plain[of == 2])
    assert np.array_equal(counts[of == 5], 2 * plain[of == 5])
