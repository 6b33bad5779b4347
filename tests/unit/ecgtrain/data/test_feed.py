from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from ecgstore import NOT_RECORDED, ConfigError, IngestSettings, ingest_folder, open_store
from ecgtrain.data.changed import open_changed_feed
from ecgtrain.data.feed import Feed, WindowCache, open_feed
from ecgtrain.data.plan import batch_plan, evaluation_plans
from ecgtrain.data.settings import Feeding
from ecgtrain.errors import ProtocolError

ROOT = str(Path(__file__).parents[4])


@pytest.fixture(scope="module")
def store(mini_store):
    return open_store(mini_store)


@pytest.fixture
def ragged(tmp_path, write_record):
    """Records of 3 to 7 s in two leads, and one longer than the largest shard."""
    rng = np.random.default_rng(0)
    for i, n_samples in enumerate([300, 450, 700, 300, 1_300_000]):
        counts_tl = rng.integers(-999, 1000, (n_samples, 2)).astype("<i2")
        write_record(tmp_path / "wfdb", f"r{i}", counts_tl, ("I", "II"), fs="100")
    settings = IngestSettings(fs_hz=100, leads=("I", "II"), filters=())
    ingest_folder(tmp_path / "wfdb", tmp_path / "ragged.ecg", settings, workers=1)
    return open_store(tmp_path / "ragged.ecg")


def whole(store, row):
    signal_mv_lt = store.read(store.column("record_id")[row]).signal_mv_lt
    return np.where(np.isnan(signal_mv_lt), NOT_RECORDED, np.rint(signal_mv_lt * 1000)).astype(np.int16)


def plans(feed, n=12, batch_size=8):
    return [
        batch_plan(feed.records, window_samples=feed.window_samples, seed=1, step=step, batch_size=batch_size)
        for step in range(n)
    ]


def test_windows_are_those_of_the_record(store):
    rows = store.select(folds=[1, 2, 3, 4])
    feed = open_feed(store, rows, window_samples=250)
    for plan in plans(feed, n=2):
        batch = feed.batch(plan)
        assert batch.counts_blt.dtype == torch.int16
        assert batch.counts_blt.shape == (8, 12, 250)
        assert batch.rows_b.tolist() == rows[plan.rows].tolist()
        assert batch.sample_numbers_b.tolist() == plan.sample_numbers.tolist()
        for window_lt, row, offset in zip(batch.counts_blt.numpy(), batch.rows_b, plan.offsets, strict=True):
            assert (window_lt == whole(store, row)[:, offset : offset + 250]).all()


def test_ragged_records_and_records_over_several_shards(ragged):
    feed = open_feed(ragged, np.arange(5), window_samples=300)
    assert ragged.n_shards > 1
    signals = [whole(ragged, row) for row in range(5)]
    for plan in evaluation_plans(feed.records, window_samples=300, stride_samples=300, batch_size=256):
        batch = feed.batch(plan)
        for window_lt, row, offset in zip(batch.counts_blt.numpy(), batch.rows_b, plan.offsets, strict=True):
            assert (window_lt == signals[row][:, offset : offset + 300]).all()


def test_a_record_over_several_shards_is_changed_whole(ragged):
    asked = []

    def reverse(name, mv_lt):
        asked.append((name, mv_lt.shape))
        return mv_lt[:, ::-1]

    changed = open_changed_feed(ragged, np.array([4, 0]), reverse, window_samples=300, leads=("II", "I"))
    names = ragged.column("record_id")
    assert sorted(asked) == [(names[0], (2, 300)), (names[4], (2, 1_300_000))]
    reversed_of = {row: whole(ragged, row)[::-1, ::-1] for row in (0, 4)}
    for plan in evaluation_plans(changed.records, window_samples=300, stride_samples=300, batch_size=256):
        batch = changed.batch(plan)
        for window_lt, row, offset in zip(batch.counts_blt.numpy(), batch.rows_b, plan.offsets, strict=True):
            assert (window_lt == reversed_of[row][:, offset : offset + 300]).all()


def test_a_short_record_is_refused_or_padded(ragged):
    with pytest.raises(ConfigError, match="2 of 5 records are shorter than a window.*the first is r0.*got 300"):
        open_feed(ragged, np.arange(5), window_samples=400)
    feed = open_feed(ragged, np.arange(5), window_samples=400, short_records="pad")
    plan = batch_plan(feed.records, window_samples=400, seed=0, step=0, batch_size=5)
    counts_blt = feed.batch(plan).counts_blt[plan.rows.tolist().index(3)].numpy()
    assert (counts_blt[:, :300] == whole(ragged, 3)).all()
    assert (counts_blt[:, 300:] == NOT_RECORDED).all()


def test_leads_are_taken_by_name_in_the_order_asked_for(store):
    rows = np.array([5, 3])
    both = open_feed(store, rows, window_samples=1000), open_feed(store, rows, window_samples=1000, leads=("V5", "II"))
    plan = next(evaluation_plans(both[0].records, window_samples=1000, stride_samples=1000, batch_size=2))
    everything, two = (feed.batch(plan).counts_blt for feed in both)
    assert (two[:, 0] == everything[:, store.leads.index("V5")]).all()
    assert (two[:, 1] == everything[:, store.leads.index("II")]).all()
    with pytest.raises(ConfigError, match="no lead V9.*I, II"):
        open_feed(store, rows, window_samples=250, leads=("V9",))


def test_impossible_selections_are_refused(store):
    with pytest.raises(ProtocolError, match="no record is selected"):
        open_feed(store, np.array([], dtype=np.int64), window_samples=250)
    with pytest.raises(ConfigError, match="longer than the longest record.*expected 1000 samples"):
        open_feed(store, np.arange(3), window_samples=1001, short_records="pad")
    resident = Feeding(feed="resident")
    with pytest.raises(ConfigError, match="don't fit in memory"):
        open_feed(store, np.arange(3), window_samples=250, memory_bytes=3 * 12 * 1000 * 2 - 1, feeding=resident)
    open_feed(store, np.arange(3), window_samples=250, memory_bytes=3 * 12 * 1000 * 2, feeding=resident)


def test_the_feed_says_what_it_picked(store):
    feed = open_feed(store, np.arange(3), window_samples=250)
    assert feed.description.startswith("feed: resident (0 MB int16 in memory for 3 records), because")


def test_prefetched_batches_are_the_planned_ones_in_order(store):
    feed = open_feed(store, np.arange(40), window_samples=250)
    made = list(feed.batches(plans(feed)))
    assert len(made) == 12
    for batch, plan in zip(made, plans(feed), strict=True):
        assert torch.equal(batch.counts_blt, feed.batch(plan).counts_blt)


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "ecgtrain-feed"]


def test_the_thread_runs_ahead_by_a_few_batches_only_and_ends_with_the_generator(store):
    feed = open_feed(store, np.arange(40), window_samples=250)
    asked = []

    def endless():
        step = 0
        while True:
            asked.append(step)
            yield plans(feed, n=1)[0]
            step += 1

    batches = feed.batches(endless())
    next(batches)
    time.sleep(0.2)
    assert len(asked) <= 4
    assert len(threads()) == 1
    batches.close()
    assert threads() == []


def test_what_the_thread_raises_is_raised_here(store):
    feed = open_feed(store, np.arange(40), window_samples=250)

    def broken():
        yield plans(feed, n=1)[0]
        raise RuntimeError("no more plans")

    batches = feed.batches(broken())
    next(batches)
    with pytest.raises(RuntimeError, match="no more plans"):
        next(batches)
    assert threads() == []


def test_a_cache_can_be_filled_without_a_store():
    cache = WindowCache(2, np.array([5, 3]), window_samples=4)
    cache.put(0, 0, np.arange(10, dtype=np.int16).reshape(2, 5))
    cache.put(1, 0, np.full((2, 3), 7, dtype=np.int16))
    feed = Feed(cache, np.array([8, 9]))
    assert feed.n_records == 2
    windows = cache.windows(np.array([1, 0]), np.array([0, 1]))
    assert windows.transpose(0, 2, 1).tolist() == [[[7, 7, 7, -32768]] * 2, [[1, 2, 3, 4], [6, 7, 8, 9]]]


@pytest.mark.slow
def test_the_benchmark_runs():
    command = [
        sys.executable,
        f"{ROOT}/benchmarks/feed.py",
        "--records",
        "40",
        "--repeats",
        "1",
        "--seconds",
        "0.01",
        "--json",
    ]
    made = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": ROOT})
    (line,) = made.stdout.splitlines()
    assert [result["shape"] for result in json.loads(line)["results"]] == ["12x250", "12x2500"]


@pytest.mark.gpu
def test_batches_travel_to_the_gpu(store):
    feed = open_feed(store, np.arange(40), window_samples=250)
    on_gpu = open_feed(store, np.arange(40), window_samples=250, device="cuda")
    for batch, there in zip(feed.batches(plans(feed)), on_gpu.batches(plans(feed)), strict=True):
        assert there.counts_blt.device.type == "cuda"
        assert torch.equal(there.counts_blt.cpu(), batch.counts_blt)


def test_a_raw_store_is_refused(mini, tmp_path):
    ingest_folder(mini, tmp_path / "raw.ecg", IngestSettings(profile="raw"))
    store = open_store(tmp_path / "raw.ecg")
    with pytest.raises(ProtocolError, match="raw store can't be trained on.*--profile train"):
        open_feed(store, store.select(), window_samples=250)
