"""The table beside a store: read back as it was written, and as input that anybody could have made."""

from __future__ import annotations

import json
import os
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecgstore import ConfigError, EcgError, StoreError, StoreExists, open_store, read_split, split_records, with_split
from ecgstore.storage.splits import ABOUT, load_split


@pytest.fixture(scope="module")
def store(mini_store):
    return open_store(mini_store)


@pytest.fixture(scope="module")
def split(store):
    return split_records(store, folds=4, stratify="scp_ecg")


@pytest.fixture
def path(split, tmp_path):
    split.write(tmp_path / "split.parquet")
    return tmp_path / "split.parquet"


def test_what_is_read_is_what_was_drawn(store, split, path):
    found = read_split(path, store)
    assert np.array_equal(found.fold_n, split.fold_n)
    assert (found.sha256, found.settings, found.notes) == (split.sha256, split.settings, split.notes)
    assert found.record_ids == tuple(store.column("record_id"))
    about = json.loads(pq.ParquetFile(path).schema_arrow.metadata[ABOUT])
    assert about["store_fingerprint"] == store.fingerprint
    assert about["settings"]["stratify"] == "scp_ecg"


def test_the_order_of_the_rows_and_the_packing_say_nothing(store, split, path):
    table = pq.ParquetFile(path).read(use_threads=False)
    pq.write_table(table.take(pa.array(range(table.num_rows - 1, -1, -1))), path, compression="none")
    found = read_split(path, store)
    assert found.sha256 == split.sha256
    assert np.array_equal(found.fold_n, split.fold_n)


def test_a_store_takes_the_folds_of_a_table(store, split, path):
    taken = with_split(store, path)
    assert np.array_equal(taken.column("fold"), split.fold_n)
    assert np.array_equal(taken.select(folds=[2]), np.flatnonzero(split.fold_n == 2))
    assert taken.fingerprint == store.fingerprint
    assert (store.split_sha256, taken.split_sha256) == (None, split.sha256)
    assert not np.array_equal(store.column("fold"), split.fold_n)
    assert np.array_equal(taken.statistics().mean_mv_l, store.statistics().mean_mv_l)
    with pytest.raises(StoreError, match="no sums by the folds of a split table"):
        taken.statistics(folds=[1])
    again = pickle.loads(pickle.dumps(taken))
    assert np.array_equal(again.column("fold"), split.fold_n)
    assert again.split_sha256 == split.sha256


def test_nothing_is_written_into_a_store_or_over_a_file_unasked(store, split, path):
    with pytest.raises(StoreExists, match="there is already such a file.*--overwrite"):
        split.write(path)
    split.write(path, overwrite=True)
    with pytest.raises(ConfigError, match="nothing may be added to a sealed store"):
        split.write(f"{store.path}/split.parquet")
    with pytest.raises(StoreError, match="the table can't be written"):
        split.write(path / "below" / "a file")


def changed(path, *, about=None, metadata=None, **columns):
    table = pq.ParquetFile(path).read(use_threads=False)
    said = json.loads(table.schema.metadata[ABOUT]) | (about or {})
    made = {name: columns.get(name, table[name]) for name in table.column_names}
    made |= {name: column for name, column in columns.items() if name not in made}
    kept = {ABOUT: json.dumps(said)} if metadata is None else metadata
    pq.write_table(pa.table({name: one for name, one in made.items() if one is not None}, metadata=kept), path)


def ids_of(path):
    return pq.ParquetFile(path).read(use_threads=False)["record_id"].to_pylist()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: {"about": {"store_fingerprint": "0" * 64}}, "for another store, or for this one before it grew"),
        (lambda p: {"about": {"store_fingerprint": "x"}}, "metadata can't be understood.*store_fingerprint"),
        (lambda p: {"about": {"version": 2}}, "version that this release can't read"),
        (lambda p: {"about": {"format": "else"}}, "can't be understood"),
        (lambda p: {"about": {"more": 1}}, "unknown setting more"),
        (lambda p: {"about": {"settings": {"folds": 1}}}, "settings.folds"),
        (lambda p: {"about": {"names": {"0": "a"}}}, "names what is no fold"),
        (lambda p: {"about": {"names": {"9" * 5000: "a"}}}, "names what is no fold"),
        (lambda p: {"metadata": {}}, "this is no split table"),
        (lambda p: {"metadata": {ABOUT: "["}}, "not JSON"),
        (lambda p: {"metadata": {ABOUT: "[" * 10_000}}, "JSON|nested"),
        (lambda p: {"fold": pa.array([0] * 53, pa.int16())}, "column fold is out of range"),
        (lambda p: {"fold": pa.array([1001] * 53, pa.int16())}, "column fold is out of range"),
        (lambda p: {"fold": pa.array([1] * 53, pa.int64())}, "column fold has a wrong type"),
        (lambda p: {"fold": None}, "lacks a column; in .*; expected fold"),
        (lambda p: {"else": pa.array([1] * 53)}, "a column that the format doesn't know"),
        (lambda p: {"record_id": pa.array(["1"] * 53)}, "records share an id"),
        (lambda p: {"record_id": pa.array([*ids_of(p)[:-1], "none"])}, "other records than the store.*no record"),
        (lambda p: {"record_id": pa.array([*ids_of(p)[:-1], None], pa.string())}, "record_id lacks a value"),
        (lambda p: {"record_id": pa.array([*ids_of(p)[:-1], "x" * 2000])}, "too long"),
    ],
)
def test_a_table_that_is_not_one_is_one_line(store, path, change, said):
    changed(path, **change(path))
    with pytest.raises(EcgError, match=said) as refused:
        read_split(path, store)
    assert "\n" not in str(refused.value)


def test_a_table_of_fewer_or_more_records_is_refused(store, path):
    table = pq.ParquetFile(path).read(use_threads=False)
    pq.write_table(table.slice(1), path)
    with pytest.raises(ConfigError, match="expected each of 53 records once, got no record"):
        read_split(path, store)
    more = pa.table({"record_id": ["more"], "fold": pa.array([1], pa.int16())}, metadata=table.schema.metadata)
    pq.write_table(pa.concat_tables([table, more]), path)
    with pytest.raises(ConfigError, match="got record more"):
        read_split(path, store)


def test_what_is_no_file_is_one_line(store, tmp_path):
    with pytest.raises(ConfigError, match="no such split table.*ecgstore split"):
        load_split(tmp_path / "none.parquet")
    with pytest.raises(ConfigError, match="can't be read"):
        load_split(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="can't be read.*not a plain file"):
        load_split(tmp_path / "pipe")
    (tmp_path / "text").write_text("record_id,fold\n1,1\n")
    with pytest.raises(EcgError, match="this is no split table"):
        load_split(tmp_path / "text")
    (tmp_path / "torn").write_bytes(b"PAR1" + bytes(100))
    with pytest.raises(EcgError, match="can't be read"):
        load_split(tmp_path / "torn")
