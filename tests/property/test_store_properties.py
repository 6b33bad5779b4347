from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ecgstore import LEADS_12
from ecgstore.build.plan import place
from ecgstore.signals.conditioning import n_resampled
from ecgstore.signals.leads import harmonise
from ecgstore.storage import layout
from ecgstore.wfdb_io.parse import parse_plain

MV = st.floats(-30, 30, width=32)


@given(hnp.arrays(np.float32, (3, 20), elements=MV | st.just(np.float32(np.nan))))
def test_millivolts_survive_as_counts_to_half_a_microvolt(signal_mv_lt):
    counts, n_clipped_l = layout.mv_to_counts(signal_mv_lt)
    assert not n_clipped_l.any()
    back = layout.counts_to_mv(counts)
    np.testing.assert_array_equal(np.isnan(back), np.isnan(signal_mv_lt))
    # Half a count, and float32's own step at 30 mV.
    assert np.nanmax(np.abs(back - signal_mv_lt), initial=0) <= 0.0005 + 4e-6


@given(hnp.arrays(np.int16, 50, elements=st.integers(-32767, 32767)))
def test_counts_are_exact_both_ways(counts):
    again, _ = layout.mv_to_counts(layout.counts_to_mv(counts[None]))
    np.testing.assert_array_equal(again[0], counts)


@given(hnp.arrays(np.float32, (8, 10), elements=MV), st.permutations(range(8)))
def test_lead_algebra_holds_for_any_order_of_signals(signal, order):
    names = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
    out = harmonise(signal[list(order)], [names[i] for i in order], record_id="r")
    lead = dict(zip(LEADS_12, out.signal_mv_lt, strict=True))
    np.testing.assert_allclose(lead["aVR"] + lead["aVL"] + lead["aVF"], 0, atol=2e-5)
    np.testing.assert_allclose(lead["I"] + lead["III"] - lead["II"], 0, atol=2e-5)


@given(st.lists(st.integers(1, 5000), max_size=60), st.sampled_from([1000, 2000]))
def test_any_lengths_are_placed_without_overlap_or_straddling(lengths, shard):
    starts = place(lengths, shard)
    end = 0
    for start, length in zip(starts, lengths, strict=True):
        assert start >= end
        end = start + length
        if length <= shard:
            assert start // shard == (end - 1) // shard
        else:
            assert start % shard == 0


@given(st.integers(1, 10**7), st.sampled_from([100.0, 128.0, 250.0, 257.0, 360.0, 500.0, 1000.0]))
def test_resampling_to_the_same_rate_keeps_the_length(n_samples, fs_hz):
    assert n_resampled(n_samples, fs_hz, fs_hz) == n_samples


@settings(max_examples=300)
@given(st.text(max_size=200) | st.text(alphabet="r1 6500\n./+-x:#()mV0", max_size=200))
def test_no_text_breaks_the_header_parser(text):
    header = parse_plain(text)
    assert header is None or header.n_samples > 0
