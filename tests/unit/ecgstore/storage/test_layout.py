from __future__ import annotations

import numpy as np

from ecgstore.storage import layout


def test_quantisation_marks_gaps_and_counts_what_it_clips():
    signal = np.array([[0.0004, 0.0006, np.nan, 40.0, -40.0, 32.767]], dtype=np.float32)
    counts, n_clipped_l = layout.mv_to_counts(signal)
    assert counts.tolist() == [[0, 1, -32768, 32767, -32767, 32767]]
    assert n_clipped_l.tolist() == [2]
    back = layout.counts_to_mv(counts)
    assert np.isnan(back[0, 2])
    np.testing.assert_allclose(back[0, [0, 1, 5]], [0.0, 0.001, 32.767], atol=1e-6)


def test_small_stores_get_many_shards_and_large_ones_few():
    assert layout.shard_samples(53_000) == 40_000
    assert layout.shard_samples(2_331_000) == 240_000
    assert layout.shard_samples(10**9) == 1_280_000
    assert layout.shard_samples(10**6, longest=180_000) == 200_000
    assert layout.shard_samples(10**6, longest=10**8) == 1_280_000
