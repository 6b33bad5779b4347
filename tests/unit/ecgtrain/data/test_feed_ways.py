"""The ways of feeding: the same windows whichever is taken; caches of a node; streams; mixtures; bad shards."""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner

from ecgstore import NOT_RECORDED, ConfigError, IngestSettings, IntegrityError, ingest_folder, open_store
from ecgstore.inner import parse
from ecgtrain import cli
from ecgtrain.config import RunConfig
from ecgtrain.data import cache, feed
from ecgtrain.data.feed import Part, open_feed, open_feed_of
from ecgtrain.data.plan import batch_plan, evaluation_plans
from ecgtrain.data.settings import Data, Feeding
from ecgtrain.data.stream import units_of
from ecgtrain.errors import PassportError, ProtocolError
from ecgtrain.run import learn

ROOT = Path(__file__).parents[4]
SETTINGS = IngestSettings(fs_hz=100, leads=("I", "II"), filters=())
WINDOW = 300
#: Records, and the samples of the long one.
N, LONG = 241, 30_000


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A store of 240 records of 5 to 12 s and one of 5 min, in several shards."""
    folder = tmp_path_factory.mktemp("many")
    rng = np.random.default_rng(0)
    for i in range(N):
        n_samples = LONG if i == 40 else int(rng.integers(500, 1200))
        counts_tl = (100 * i + rng.integers(0, 100, (n_samples, 2))).astype("<i2")
        _write(folder / "wfdb", f"r{i:03d}", counts_tl)
    ingest_folder(folder / "wfdb", folder / "many.ecg", SETTINGS, workers=1)
    return folder / "many.ecg"


def _write(folder, name, counts_tl):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{name} 2 100 {len(counts_tl)}"]
    for j, lead in enumerate(("I", "II")):
        total = int(counts_tl[:, j].astype(np.int64).sum()) % 65536
        lines.append(f"{name}.dat 16 1000.0(0)/mV 16 0 {counts_tl[0, j]} {total} 0 {lead}")
    (folder / f"{name}.hea").write_text("\n".join(lines) + "\n")
    counts_tl.tofile(folder / f"{name}.dat")


@pytest.fixture
def store(many):
    return open_store(many)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ECGTRAIN_CACHE_DIR", str(tmp_path / "caches"))
    return tmp_path / "caches"


def whole(store, row):
    signal_mv_lt = store.read(store.column("record_id")[row]).signal_mv_lt
    return np.where(np.isnan(signal_mv_lt), NOT_RECORDED, np.rint(signal_mv_lt * 1000)).astype(np.int16)


def opened(store, way="auto", rows=None, window_samples=WINDOW, **settings):
    rows = store.select() if rows is None else rows
    more = {name: settings.pop(name) for name in ("leads", "short_records", "memory_bytes") if name in settings}
    return open_feed(
        store, rows, window_samples=window_samples, feeding=Feeding.model_validate({"feed": way, **settings}), **more
    )


def plans(its, n=12, batch_size=16, first=0):
    return [
        batch_plan(its.records, window_samples=its.window_samples, seed=1, step=step, batch_size=batch_size)
        for step in range(first, first + n)
    ]


def lines(caplog):
    return [record.getMessage() for record in caplog.records]


# --- the same windows --------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["resident", "device", "memmap", "stream"])
@pytest.mark.parametrize("edge_s", [0, 1])
def test_windows_are_those_of_the_record_whichever_way(store, way, edge_s):
    rows = np.flatnonzero(np.arange(N) % 3 != 1)  # not all, and with the long one
    its = opened(store, way, rows, leads=("II", "I"), edge_s=edge_s, pool_shards=1)
    assert its.way == way
    signals = {row: whole(store, row)[::-1] for row in rows}
    for plan, batch in zip(plans(its), its.batches(plans(its)), strict=True):
        assert batch.counts_blt.shape == (16, 2, WINDOW)
        for window_lt, row, offset in zip(batch.counts_blt.numpy(), batch.rows_b, plan.offsets, strict=True):
            start = 100 * edge_s + offset
            assert (window_lt == signals[row][:, start : start + WINDOW]).all()
            assert start + WINDOW <= signals[row].shape[1] - 100 * edge_s


def test_three_ways_give_the_same_batches(store):
    feeds = [opened(store, way) for way in ("resident", "device", "memmap")]
    for batches in zip(*(its.batches(plans(its)) for its in feeds), strict=True):
        for other in batches[1:]:
            assert torch.equal(other.counts_blt, batches[0].counts_blt)
            assert torch.equal(other.sample_numbers_b, batches[0].sample_numbers_b)
            assert (other.rows_b == batches[0].rows_b).all()


@pytest.mark.parametrize("way", ["resident", "device", "memmap", "stream"])
def test_a_short_record_ends_not_recorded(store, way):
    its = opened(store, way, window_samples=1000, short_records="pad")
    lengths = store.column("n_samples")
    for plan, batch in zip(plans(its, n=4), its.batches(plans(its, n=4)), strict=True):
        for window_lt, row, offset in zip(batch.counts_blt.numpy(), batch.rows_b, plan.offsets, strict=True):
            n = min(lengths[row] - offset, 1000)
            assert (window_lt[:, :n] == whole(store, row)[:, offset : offset + n]).all()
            assert (window_lt[:, n:] == NOT_RECORDED).all()


def test_edges_that_leave_nothing_are_refused(store):
    with pytest.raises(ConfigError, match="edge_s leaves nothing of .* records.*the first is r"):
        opened(store, edge_s=3)


def test_as_many_windows_as_lie_side_by_side(store):
    its = opened(store, windows="length")
    tiles = np.maximum(store.column("n_samples") // WINDOW, 1)
    assert its.n_records == tiles.sum()
    made = plans(its, n=1, batch_size=its.n_records)[0]
    assert (np.bincount(made.rows) == tiles).all()
    long = made.offsets[made.rows == 40]
    stretches = np.arange(LONG // WINDOW + 1) * (LONG - WINDOW + 1) // (LONG // WINDOW)
    assert (np.sort(long) >= stretches[:-1]).all()
    assert (np.sort(long) < stretches[1:]).all()


# --- which way ---------------------------------------------------------------------------------------------


def test_auto_goes_by_size_and_says_why(store, monkeypatch, tmp_path):
    its = opened(store)
    assert its.description.startswith("feed: resident (1 MB int16 in memory for 241 records), because that is under")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "5000")
    its = opened(store)
    assert its.description.startswith(f"feed: memmap (1 MB int16 at {tmp_path / 'caches'}/")
    assert "because 5000 x 1 MB in every process" in its.description
    monkeypatch.setenv("ECGTRAIN_CACHE_GB", "0.0001")
    its = opened(store, cache_dir=str(tmp_path / "small"))
    assert its.way == "resident"
    assert "over the limit of 0.0001 GB" in its.description
    its = opened(store, memory_bytes=700_000, cache_dir=str(tmp_path / "small"), pool_shards=1)
    assert its.way == "stream"
    assert "over the 1 MB of memory" in its.description
    with pytest.raises(ConfigError, match="pool of decoded shards doesn't fit.*lower data.pool_shards"):
        opened(store, "stream", memory_bytes=100_000)
    with pytest.raises(ConfigError, match="don't fit on the device"):
        opened(store, "device", memory_bytes=100_000)


def test_a_full_disk_is_no_end(store, caplog):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, before[1]))
    try:
        its = opened(store, "memmap")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert its.way == "resident"
    assert any("no cache is kept" in line and "can't be written" in line for line in lines(caplog))
    assert [path for path in Path(os.environ["ECGTRAIN_CACHE_DIR"]).iterdir() if path.is_dir()] == []
    assert opened(store, "memmap").way == "memmap"


def test_a_folder_that_cannot_be_one_is_no_end(store, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    assert opened(store, "memmap", cache_dir=str(tmp_path / "file")).way == "resident"
    assert any("can't be written" in line for line in lines(caplog))


def test_a_limit_that_is_no_number_is_refused(store, monkeypatch):
    monkeypatch.setenv("ECGTRAIN_CACHE_GB", "much")
    with pytest.raises(ConfigError, match="ECGTRAIN_CACHE_GB is not a number: got much|ECGTRAIN_CACHE_GB"):
        opened(store, "memmap")


# --- the cache of a node -----------------------------------------------------------------------------------


def test_an_entry_is_found_again_and_only_for_the_same_selection(store, own_cache, caplog):
    caplog.set_level(logging.INFO, "ecgtrain")

    def fills(**settings):
        caplog.clear()
        opened(store, "memmap", **settings)
        return sum("filling the cache" in line for line in lines(caplog))

    assert fills() == 1
    assert fills() == 0
    assert fills(window_samples=200) == 0, "no record is shorter: the same bytes"
    assert fills(window_samples=1000, short_records="pad") == 1
    assert fills(edge_s=0.5) == 1
    assert fills(leads=("II",)) == 1
    assert fills(rows=np.arange(40)) == 1
    assert fills(rows=np.arange(40)[::-1]) == 1
    assert fills(rows=np.arange(40), balance="source", strict=True) == 0
    assert len(cache.entries(own_cache)) == 6


def test_of_many_openers_one_fills_and_the_others_wait(tmp_path, caplog):
    caplog.set_level(logging.INFO, "ecgtrain")
    made, results = [], []

    def make(counts_tl, filled):
        made.append(1)
        filled(1, 4)
        while sum("waiting for process" in line for line in lines(caplog)) < 3:
            time.sleep(0.005)
        counts_tl[:] = 7
        return {}

    def one():
        results.append(cache.open_entry(tmp_path, "k", (10, 2), {}, make))

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]
    assert all((opened.counts_tl == 7).all() for opened in results)
    assert any(
        f"waiting for process {os.getpid()} to fill the cache" in line and "25 %" in line for line in lines(caplog)
    )


FILL = """
import sys, time
from pathlib import Path
from ecgtrain.data.cache import open_entry
def make(counts_tl, filled):
    counts_tl[:5] = 3
    print("half", flush=True)
    time.sleep(60)
open_entry(Path(sys.argv[1]), "k", (10, 2), {}, make)
"""


def test_a_killed_fill_is_found_out_and_done_again(tmp_path, caplog):
    process = subprocess.Popen(
        [sys.executable, "-c", FILL, str(tmp_path)], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"half\n"
    assert [entry.state for entry in cache.entries(tmp_path)] == ["filling"]
    assert not cache.remove(cache.entries(tmp_path)[0])
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert [entry.state for entry in cache.entries(tmp_path)] == ["abandoned"]

    def make(counts_tl, filled):
        assert (counts_tl == 0).all(), "a new file"
        counts_tl[:] = 9
        return {}

    assert (cache.open_entry(tmp_path, "k", (10, 2), {}, make).counts_tl == 9).all()
    assert any("an earlier fill of the cache was killed" in line for line in lines(caplog))
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["k", "k.lock"]


def test_a_torn_entry_is_filled_again(tmp_path):
    def make(counts_tl, filled):
        counts_tl[:] = 9
        return {}

    def again():
        return (cache.open_entry(tmp_path, "k", (10, 2), {}, make).counts_tl == 9).all()

    assert again()
    with (tmp_path / "k" / "counts.i16").open("r+b") as file:
        file.truncate(39)
    assert again()
    (tmp_path / "k" / "entry.json").write_text("{")
    assert again()


def test_what_making_raises_leaves_nothing_behind(tmp_path):
    def make(counts_tl, filled):
        raise IntegrityError("bad shard")

    with pytest.raises(IntegrityError):
        cache.open_entry(tmp_path, "k", (10, 2), {}, make)
    assert [path.name for path in tmp_path.iterdir()] == ["k.lock"]


def test_the_oldest_that_nobody_uses_goes_first(tmp_path, monkeypatch):
    def make(counts_tl, filled):
        return {}

    monkeypatch.setenv("ECGTRAIN_CACHE_GB", "0.00001")  # 10 kB: two of 4 kB
    used = cache.open_entry(tmp_path, "a", (1000, 2), {}, make)
    for key, age_s in (("b", 50), ("c", 90)):
        monkeypatch.setenv("ECGTRAIN_CACHE_GB", "0.00002")
        cache.open_entry(tmp_path, key, (1000, 2), {}, make)
        os.utime(tmp_path / key / "entry.json", (time.time() - age_s,) * 2)
    os.utime(tmp_path / "a" / "entry.json", (time.time() - 999,) * 2)
    states = {entry.key: entry.state for entry in cache.entries(tmp_path)}
    assert states == {"a": "used", "b": "unused", "c": "unused"}
    monkeypatch.setenv("ECGTRAIN_CACHE_GB", "0.0000128")  # three of 4 kB and a little each
    cache.open_entry(tmp_path, "d", (1000, 2), {}, make)
    assert [entry.key for entry in cache.entries(tmp_path)] == ["a", "b", "d"]
    with pytest.raises(cache.NoRoom, match="over the limit"):
        cache.open_entry(tmp_path, "e", (10_000, 2), {}, make)
    assert len(used.counts_tl) == 1000


def test_the_verb_cache(store, own_cache):
    run = CliRunner().invoke
    assert f"no caches in {own_cache}" in run(cli.main, ["cache"]).output
    held = opened(store, "memmap")
    opened(store, "memmap", rows=np.arange(9))
    listed = run(cli.main, ["cache", "list", "--dir", str(own_cache)]).output
    assert sorted(line.split()[2] for line in listed.splitlines()) == ["unused", "used"]
    assert f"9 of {store.path}" in listed
    done = json.loads(run(cli.main, ["cache", "clear", "--json"]).output)
    assert sorted((entry["state"], entry["removed"]) for entry in done["entries"]) == [
        ("unused", True),
        ("used", False),
    ]
    assert [entry.state for entry in cache.entries(own_cache)] == ["used"]
    assert held.batch(plans(held)[0]).counts_blt.shape == (16, 2, WINDOW)
    del held
    assert [entry.state for entry in cache.entries(own_cache)] == ["unused"], "the lock goes with the feed"


# --- streams -----------------------------------------------------------------------------------------------


def test_a_pass_shows_each_record_as_often_as_was_asked_and_each_time_elsewhere(store):
    its = opened(store, "stream", pool_shards=2, draws=9)
    n = 9 * N
    made = plans(its, n=n // 16)
    rows = np.concatenate([plan.rows for plan in made])
    offsets = np.concatenate([plan.offsets for plan in made])
    counts = np.bincount(rows, minlength=N)
    assert counts.max() == 9
    assert counts.sum() == n - n % 16
    assert len(set(zip(rows.tolist(), offsets.tolist(), strict=True))) == len(rows)
    assert {plan.epoch for plan in made} == {0}
    assert plans(its, n=1, first=n // 16)[0].epoch == 1


def test_a_record_over_several_shards_is_one_unit(tmp_path):
    rng = np.random.default_rng(1)
    for i, n_samples in enumerate([400, 1_300_000, 500, 600]):
        _write(tmp_path / "wfdb", f"r{i}", rng.integers(-999, 999, (n_samples, 2)).astype("<i2"))
    ingest_folder(tmp_path / "wfdb", tmp_path / "long.ecg", SETTINGS, workers=1)
    store = open_store(tmp_path / "long.ecg")
    assert store.n_shards > 2
    its = opened(store, "stream", pool_shards=1, edge_s=0.5)
    assert its.records.stream.unit_n.tolist() == [0, 1, 2, 2]
    signals = [whole(store, row)[:, 50:] for row in range(4)]
    for plan, batch in zip(plans(its, n=4, batch_size=8), its.batches(plans(its, n=4, batch_size=8)), strict=True):
        for window_lt, row, offset in zip(batch.counts_blt.numpy(), batch.rows_b, plan.offsets, strict=True):
            assert (window_lt == signals[row][:, offset : offset + WINDOW]).all()


def test_shards_that_share_a_long_record_are_one_unit():
    spans = np.array([0, 1, 1, 3, 4]), np.array([0, 1, 3, 3, 5])
    one = SimpleNamespace(store=SimpleNamespace(n_shards=6), spans=spans)
    assert units_of([one]).tolist() == [0, 1, 1, 1, 2]
    assert units_of([one, one]).tolist() == [0, 1, 1, 1, 2, 3, 4, 4, 4, 5]


def test_the_pool_stays_small_and_each_shard_is_decoded_once_a_pass(store, monkeypatch):
    its = opened(store, "stream", pool_shards=1, draws=8)
    n_units = int(its.records.stream.unit_n.max()) + 1
    assert n_units >= 4
    decoded, sizes = Counter(), []
    really = its.cache._decode

    def decode(unit):
        decoded[unit] += 1
        return really(unit)

    monkeypatch.setattr(its.cache, "_decode", decode)
    # Servers of other tests may have threads in this process.
    others = set(threading.enumerate())
    for _ in its.batches(plans(its, n=8 * N // 16)):
        sizes.append(len(its.cache._pool))
    assert set(decoded.values()) == {1}
    assert len(decoded) == n_units
    assert max(sizes) <= 2
    assert len(set(threading.enumerate()) - others) < 20
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ecgtrain")]


def test_a_stream_goes_on_where_it_was(store):
    its, other = (opened(store, "stream", pool_shards=1) for _ in range(2))
    whole_run = list(its.batches(plans(its, n=60)))
    for batch, again in zip(whole_run[37:], other.batches(plans(other, n=23, first=37)), strict=True):
        assert torch.equal(batch.counts_blt, again.counts_blt)


def test_a_stream_can_be_left_in_the_middle(store):
    its = opened(store, "stream", pool_shards=1)
    for _ in range(3):
        batches = its.batches(plans(its, n=60))
        next(batches)
        batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ecgtrain")]
    assert len(list(its.batches(plans(its, n=60)))) == 60


def test_evaluation_from_a_stream(store):
    its, resident = opened(store, "stream", pool_shards=1), opened(store, "resident")
    for one, other in zip(
        *(
            each.batches(evaluation_plans(each.records, window_samples=WINDOW, stride_samples=150, batch_size=64))
            for each in (its, resident)
        ),
        strict=True,
    ):
        assert torch.equal(one.counts_blt, other.counts_blt)


# --- bad shards --------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(many, tmp_path):
    """The store with one bad shard; and the rows that it takes along."""
    import shutil

    copy = shutil.copytree(many, tmp_path / "damaged.ecg")
    shard = sorted((copy / "signal" / "c" / "0").iterdir(), key=lambda path: int(path.name))[0]
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 1
    shard.write_bytes(bytes(content))
    store = open_store(copy)
    with pytest.raises(IntegrityError):
        store.read_shard(0)
    starts, ends = store.column("start"), store.column("start") + store.column("n_samples")
    return store, np.flatnonzero((starts < store.shard_samples) & (ends > 0))


@pytest.mark.parametrize("way", ["resident", "device", "memmap"])
def test_a_run_goes_on_without_the_records_of_a_bad_shard_and_says_which(damaged, way, caplog):
    store, bad = damaged
    its = opened(store, way)
    good = np.setdiff1d(np.arange(N), bad)
    assert its.rows_n.tolist() == good.tolist()
    assert its.n_records == len(good) < N
    assert its.identity() == {"feed.records_left_out": len(bad)}
    assert list(its.left_out) == store.column("record_id")[bad].tolist()
    (line,) = [line for line in lines(caplog) if "can't be read" in line]
    assert f"{len(bad)} records" in line
    assert all(store.column("record_id")[row] in line for row in bad)
    for plan, batch in zip(plans(its, n=2), its.batches(plans(its, n=2)), strict=True):
        for window_lt, row, offset in zip(batch.counts_blt.numpy(), batch.rows_b, plan.offsets, strict=True):
            assert (window_lt == whole(store, row)[:, offset : offset + WINDOW]).all()
    if way == "memmap":
        caplog.clear()
        assert opened(store, way).rows_n.tolist() == good.tolist()
        assert any("could not be read when" in line and "cache clear" in line for line in lines(caplog))
        with pytest.raises(IntegrityError, match="cache clear"):
            opened(store, way, strict=True)


@pytest.mark.parametrize("way", ["resident", "device", "memmap", "stream"])
def test_strict_stops(damaged, way):
    store, _ = damaged
    with pytest.raises(IntegrityError, match="a shard can't be decoded"):
        list(opened(store, way, strict=True).batches(plans(opened(store, "resident"))))


def test_a_store_of_which_nothing_can_be_read_stops(damaged):
    store, bad = damaged
    with pytest.raises(IntegrityError, match="a shard can't be decoded"):
        opened(store, rows=bad)


def test_a_stream_takes_other_records_for_those_of_a_bad_shard(damaged, caplog):
    store, bad = damaged
    its = opened(store, "stream", pool_shards=20)
    shown = set()
    for plan, batch in zip(plans(its), its.batches(plans(its)), strict=True):
        kept = ~np.isin(plan.rows, bad)
        assert (batch.rows_b[kept] == plan.rows[kept]).all()
        assert not set(batch.rows_b.tolist()) & set(bad.tolist())
        windows = {(row, window.numpy().tobytes()) for row, window in zip(batch.rows_b, batch.counts_blt, strict=True)}
        assert len(windows) == 16, "another window, not the same one twice"
        shown |= set(batch.rows_b.tolist())
    assert len(shown) > 40
    assert list(its.left_out) == store.column("record_id")[bad].tolist()
    assert its.identity().keys() == {"feed"}, "what is found later doesn't make it another run"
    assert sum("can't be read" in line for line in lines(caplog)) == 1


# --- which records, how often ------------------------------------------------------------------------------


def test_stores_are_mixed_by_weight(store, mini_store):
    other = open_store(mini_store)
    parts = [Part(store, np.arange(60), 1.0), Part(other, np.arange(10, 50), 3.0)]
    its = open_feed_of(parts, window_samples=WINDOW, leads=("II",))
    assert its.n_records == 100
    made = [batch_plan(its.records, window_samples=WINDOW, seed=0, step=step, batch_size=100) for step in range(3)]
    for plan in made:
        assert np.count_nonzero(plan.rows >= 60) == 75
    assert np.bincount(np.concatenate([plan.rows for plan in made])).min() >= 1
    batch = its.batch(made[0])
    for window_lt, row, offset in zip(batch.counts_blt.numpy(), batch.rows_b, made[0].offsets, strict=True):
        from_store, of = (store, row) if row < N else (other, row - N)
        signal_lt = whole(from_store, of)[[from_store.leads.index("II")]]
        assert (window_lt == signal_lt[:, offset : offset + WINDOW]).all()
    streamed = open_feed_of(parts, window_samples=WINDOW, leads=("II",), feeding=Feeding(feed="stream", pool_shards=2))
    rows = np.concatenate([plan.rows for plan in plans(streamed, n=8, batch_size=100)])
    assert np.count_nonzero(rows >= 60) == 600
    assert len(list(streamed.batches(plans(streamed)))) == 12


def test_mixtures_that_make_no_sense_are_refused(store, mini_store):
    other = open_store(mini_store)
    with pytest.raises(ConfigError, match="some stores have a weight and some have none"):
        open_feed_of([Part(store, np.arange(9), 1.0), Part(other, np.arange(9))], window_samples=WINDOW)
    with pytest.raises(ConfigError, match="the store has no lead III, aVR"):
        open_feed_of([Part(other, np.arange(9)), Part(store, np.arange(9))], window_samples=WINDOW)
    with pytest.raises(ProtocolError, match="no record is selected"):
        open_feed_of([Part(store, np.arange(0)), Part(other, np.arange(0))], window_samples=WINDOW)
    with pytest.raises(ConfigError, match="give every store a weight"):
        parse(Data, {"store": "a", "stores": [{"path": "b", "weight": 2}]})


def test_statements_come_alike_or_halfway(mini_store):
    store = open_store(mini_store)
    stated = [set() for _ in range(store.n_records)]
    for row, code, system in zip(
        *(store.statements[name].to_pylist() for name in ("row", "code", "system")), strict=True
    ):
        stated[row].add(f"{system} {code}")
    common = Counter(code for its in stated for code in its)
    rarest = np.array([min(its, key=lambda code: (common[code], code)) for its in stated])
    groups, sizes = np.unique(rarest, return_counts=True)
    for strength in (1.0, 0.5):
        its = opened(store, balance="statement", balance_strength=strength)
        n = 20 * store.n_records
        made = np.concatenate([plan.rows for plan in plans(its, n=20, batch_size=store.n_records)])
        got = np.array([np.isin(made, np.flatnonzero(rarest == group)).sum() for group in groups])
        share = sizes ** (1 - strength) / (sizes ** (1 - strength)).sum()
        assert got == pytest.approx(n * share, abs=store.n_records / 10)


def recipe(store, **data):
    return parse(
        RunConfig,
        {
            "name": "tiny",
            "data": {"store": str(store), **data},
            "pretrain": {
                "method": {"name": "cpc", "steps_ahead": 3, "n_negatives": 8},
                "backbone": {"name": "cpc_lstm", "encoder": {"width": 6}, "lstm_width": 5, "lstm_layers": 1},
                "folds": [1, 2, 3, 4, 5, 6],
                "validation_folds": [7],
                "window_samples": 100,
                "batch_size": 8,
                "steps": 4,
                "checkpoint_every_steps": 2,
                "validate_every_steps": 4,
            },
        },
    )


def test_a_run_selects_by_condition_and_mixes(mini_store, tmp_path):
    store = open_store(mini_store)
    config = recipe(
        mini_store,
        where="age_years >= 40",
        weight=1,
        stores=[{"path": str(mini_store), "weight": 1, "where": "fold in (2, 7)"}],
    )
    learn(config, tmp_path / "run")
    seen = pq.ParquetFile(tmp_path / "run" / "seen.parquet").read(use_threads=False).to_pydict()
    training = [name for name, role in zip(seen["record_id"], seen["role"], strict=True) if role == "train"]
    rows = [*store.select(folds=range(1, 7), where="age_years >= 40"), *store.select(folds=[2])]
    assert training == store.column("record_id")[rows].tolist()
    checkpoints = sorted((tmp_path / "run" / "checkpoints").iterdir())
    written = json.loads((checkpoints[0] / "config.json").read_text())
    assert written["data.where"] == "age_years >= 40"
    assert written["data.stores"] == [{"weight": 1.0, "where": "fold in (2, 7)", "fingerprint": store.fingerprint}]


@pytest.mark.parametrize("way", ["stream", "memmap"])
def test_a_run_by_another_way_learns_and_cannot_be_mixed_up(mini_store, tmp_path, way):
    learn(recipe(mini_store, feed=way), tmp_path / "run")
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["feed"].startswith(f"feed: {way} (")
    (checkpoint, *_) = sorted((tmp_path / "run" / "checkpoints").iterdir())
    written = json.loads((checkpoint / "config.json").read_text())
    assert written.get("feed") == ("stream, 16 shards at a time, 8 draws of each" if way == "stream" else None)


def test_a_store_of_other_signals_is_not_mixed_in(mini_store, many, tmp_path):
    with pytest.raises(PassportError):
        learn(recipe(mini_store, stores=[{"path": str(many)}]), tmp_path / "run")


@pytest.mark.gpu
def test_the_device_holds_the_windows(store):
    rows = store.select()
    on_gpu = open_feed(store, rows, window_samples=WINDOW, device="cuda")
    assert on_gpu.way == "device"
    resident = opened(store, "resident")
    for there, here in zip(on_gpu.batches(plans(on_gpu)), resident.batches(plans(resident)), strict=True):
        assert there.counts_blt.device.type == "cuda"
        assert torch.equal(there.counts_blt.cpu(), here.counts_blt)


def test_the_feed_names_what_it_offers():
    assert all(hasattr(feed, name) for name in feed.__all__)
