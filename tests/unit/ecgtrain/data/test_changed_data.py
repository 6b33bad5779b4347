"""Data that change behind a run: a cache on the disk, the store itself."""

from __future__ import annotations

import shutil

import pytest

from ecgstore import StoreReplaced, open_store
from ecgtrain.data import cache
from ecgtrain.data.feed import open_feed
from ecgtrain.data.plan import batch_plan
from ecgtrain.data.settings import Feeding


def test_a_flipped_bit_in_an_entry_is_found_and_the_entry_filled_again(tmp_path, caplog):
    def make(counts_tl, filled):
        counts_tl[:] = 9
        return {}

    def again():
        return (cache.open_entry(tmp_path, "k", (1000, 2), {}, make).counts_tl == 9).all()

    assert again()
    with (tmp_path / "k" / "counts.i16").open("r+b") as file:
        file.seek(1001)
        file.write(b"\x80")
    assert again()
    assert "is not what was filled; it is filled again" in caplog.text
    caplog.clear()
    assert again()
    assert not caplog.text


def test_a_damaged_entry_that_others_use_is_not_used(tmp_path):
    def make(counts_tl, filled):
        counts_tl[:] = 9
        return {}

    held = cache.open_entry(tmp_path, "k", (1000, 2), {}, make)
    with (tmp_path / "k" / "counts.i16").open("r+b") as file:
        file.write(b"\x80")
    with pytest.raises(cache.NoRoom, match="is damaged, and in use"):
        cache.open_entry(tmp_path, "k", (1000, 2), {}, make)
    assert held.counts_tl.shape == (1000, 2)


def test_a_folder_into_which_everybody_may_write_is_not_used(tmp_path):
    tmp_path.chmod(0o777)
    with pytest.raises(cache.NoRoom, match="everybody may write into it: chmod o-w"):
        cache.open_entry(tmp_path, "k", (1, 1), {}, lambda *_: {})


@pytest.mark.parametrize("way", ["resident", "stream"])
def test_feeding_stops_where_the_store_is_replaced(mini_store, tmp_path, way):
    """Its shards are no damaged ones, of which a run would leave out the records."""
    shutil.copytree(mini_store, tmp_path / "out.ecg")
    store = open_store(tmp_path / "out.ecg")

    def opened(way):
        return open_feed(store, store.select(), window_samples=300, feeding=Feeding(feed=way))

    def stream():
        plan = batch_plan(streamed.records, window_samples=300, seed=1, step=0, batch_size=16)
        return list(streamed.batches([plan]))

    streamed = opened("stream")
    shutil.rmtree(tmp_path / "out.ecg")
    with pytest.raises(StoreReplaced):
        stream() if way == "stream" else opened("resident")
