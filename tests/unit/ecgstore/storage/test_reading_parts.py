"""A part of a record: the same samples as in the whole, of which only the chunks concerned are decoded."""

from __future__ import annotations

import numpy as np
import pytest

from ecgstore import ConfigError, IngestSettings, IntegrityError, ingest_folder, open_store
from ecgstore.storage import layout

NAN = float("nan")


@pytest.fixture
def store(tmp_path, write_record, monkeypatch):
    monkeypatch.setattr(layout, "CHUNK_SAMPLES", 1000)
    monkeypatch.setattr(layout, "CHUNKS_PER_SHARD", (4, 2, 1))
    rng = np.random.default_rng(0)
    for name, n in (("a", 900), ("b", 17_300), ("c", 1500)):
        write_record(tmp_path / "src", name, rng.integers(-999, 999, (n, 12)).astype("<i2"), fs="100")
    ingest_folder(tmp_path / "src", tmp_path / "out.ecg", IngestSettings(fs_hz=100, filters=()))
    return open_store(tmp_path / "out.ecg")


@pytest.mark.parametrize(("start_s", "stop_s"), [(0, 0.01), (8.99, 9), (0, None), (2.5, 3.5), (0.004, 1.006)])
def test_it_is_what_the_whole_holds(store, start_s, stop_s):
    whole = store.read("a").signal_mv_lt
    part = store.read("a", start_s=start_s, stop_s=stop_s)
    last = 900 if stop_s is None else round(stop_s * 100)
    np.testing.assert_array_equal(part.signal_mv_lt, whole[:, round(start_s * 100) : last])


def test_across_shards_and_in_any_order_of_leads(store):
    whole = store.read("b")
    part = store.read("b", start_s=35, stop_s=125.5, leads=["V5", "I"])
    assert part.leads == ("V5", "I")
    assert part.lead_states == (whole.lead_states[10], whole.lead_states[0])
    np.testing.assert_array_equal(part.signal_mv_lt, whole.signal_mv_lt[[10, 0], 3500:12_550])


def test_of_a_raw_store_each_lead_has_its_own_gain(tmp_path, write_record):
    write_record(tmp_path / "src", "a", gain="200.0(7)/mV")
    ingest_folder(tmp_path / "src", tmp_path / "raw.ecg", IngestSettings(profile="raw"))
    store = open_store(tmp_path / "raw.ecg")
    whole = store.read("a").signal_mv_lt
    np.testing.assert_array_equal(
        store.read("a", start_s=1, stop_s=2, leads=["V6", "II"]).signal_mv_lt, whole[[11, 1], 500:1000]
    )


def test_only_the_chunks_concerned_are_decoded(store):
    """A damaged chunk stops whoever needs it, and no one else."""
    shard = store.column("start")[1] // store.shard_samples
    path = f"{store.path}/{layout.shard_object(shard)}"
    with open(path, "r+b") as file:  # noqa: PTH123
        file.seek(40)  # in its first chunk
        byte = file.read(1)
        file.seek(40)
        file.write(bytes([byte[0] ^ 1]))
    store.read("b", start_s=15, stop_s=20)
    with pytest.raises(IntegrityError, match="can't be decoded"):
        store.read("b", start_s=5, stop_s=20)
    with pytest.raises(IntegrityError, match="can't be decoded"):
        store.read("b")


@pytest.mark.parametrize(
    ("start_s", "stop_s"),
    [
        (-1, 2),
        (3, 3),
        (3, 2),
        (0, 9.01),
        (float("nan"), 1),
        (0, float("inf")),
        (0, float("nan")),
        (1, 1.001),
        (9, None),
    ],
)
def test_a_part_that_is_not_there_is_refused(store, start_s, stop_s):
    with pytest.raises(ConfigError, match="no such part of record a; .*within 0 to 9 s"):
        store.read("a", start_s=start_s, stop_s=stop_s)


def test_a_lead_that_is_not_there_is_refused(store):
    with pytest.raises(ConfigError, match="no lead 'V7'"):
        store.read("a", leads=["I", "V7"])


def test_a_number_is_no_id(store):
    with pytest.raises(ConfigError, match=r"a record is read by its id, which is a text; .*got 0; .*column"):
        store.read(0)


def test_records_by_their_numbers(mini_store):
    store = open_store(mini_store)
    ids = store.column("record_id")
    assert len(store) == store.n_records == 53
    assert [record.record_id for record in store.read_rows([7, 0, 7])] == [ids[7], ids[0], ids[7]]
    assert store[-1].record_id == ids[52]
    assert np.array_equal(store[3].signal_mv_lt, store.read(ids[3]).signal_mv_lt, equal_nan=True)
    assert sum(1 for _ in store) == 53
    for row in (53, -54):
        with pytest.raises(IndexError):
            store[row]
    for rows in ([0, 53], [-1]):
        with pytest.raises(ConfigError, match="expected 0 to 52"):
            store.read_rows(rows)
