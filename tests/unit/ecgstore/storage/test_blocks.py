"""An object in blocks: any part of it, each block fetched once and compared, and every store states its own hashes."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
from quickly import quickly

from ecgstore import IngestSettings, ingest_folder, merge_stores, open_store, subset_store, withdraw_records
from ecgstore.errors import EcgError, IntegrityError, StoreFormatError
from ecgstore.storage import blocks, columns, layout
from ecgstore.storage.blocks import Blocks

CONTENT = np.random.default_rng(0).bytes(10_000)
SHA256 = [hashlib.sha256(CONTENT[begin : begin + 1024]).hexdigest() for begin in range(0, len(CONTENT), 1024)]


def changed():
    raise IntegrityError("not what was sealed", where="a test")


class Elsewhere:
    """What notes down what was asked of it."""

    def __init__(self, content=CONTENT):
        self.content, self.asked, self.lock = content, [], threading.Lock()

    def read(self, begin, end):
        with self.lock:
            self.asked.append((begin, end))
        return self.content[begin:end]


def of(elsewhere):
    return Blocks(elsewhere.read, len(CONTENT), 1024, SHA256, changed)


def test_any_part_is_there_and_no_block_is_fetched_twice():
    elsewhere = Elsewhere()
    its = of(elsewhere)
    random = np.random.default_rng(1)
    for begin, end in [
        (0, 1),
        (1023, 1025),
        (9_999, 20_000),
        (5, 5),
        (0, 10_000),
        *random.integers(0, 10_000, (50, 2)),
    ]:
        assert its.part(begin, end) == CONTENT[begin:end]
    assert sum(end - begin for begin, end in elsewhere.asked) == len(CONTENT)


def test_parts_that_are_apart_are_fetched_by_themselves():
    elsewhere = Elsewhere()
    its = of(elsewhere)
    its.fetch([(0, 10), (1500, 2500), (8192, 9000), (-5, 3), (50_000, 60_000)])
    assert sorted(elsewhere.asked) == [(0, 3072), (8192, 9216)]
    assert its.part(1024, 3072) == CONTENT[1024:3072]
    assert len(elsewhere.asked) == 2


def test_threads_may_ask_at_the_same_time():
    elsewhere = Elsewhere()
    its = of(elsewhere)
    with ThreadPoolExecutor(8) as threads:
        parts = list(threads.map(lambda begin: its.part(begin, begin + 3000), range(0, 7000, 100)))
    assert parts == [CONTENT[begin : begin + 3000] for begin in range(0, 7000, 100)]
    assert sum(end - begin for begin, end in elsewhere.asked) == len(CONTENT)


@pytest.mark.parametrize("harm", ["changed", "short"])
def test_what_was_not_sealed_is_refused_and_the_rest_is_read(harm):
    spoilt = CONTENT[:5000] + bytes([CONTENT[5000] ^ 1]) + CONTENT[5001:] if harm == "changed" else CONTENT[:5000]
    its = of(Elsewhere(spoilt))
    assert its.part(0, 4096) == CONTENT[:4096]
    for _ in range(2):
        with pytest.raises(IntegrityError, match="not what was sealed"):
            its.part(4990, 5010)


def test_as_a_file_it_is_read_from_place_to_place():
    with of(Elsewhere()).file() as file:
        assert file.seek(-8, 2) == 9_992
        assert file.read(100) == CONTENT[-8:]
        assert (file.seek(100), file.read(50), file.tell()) == (100, CONTENT[100:150], 150)
        assert file.seek(-50, 1) == 100
        assert (file.readable(), file.seekable(), file.writable()) == (True, True, False)


def test_other_numbers_of_blocks_than_there_are_are_refused():
    said = {"blocks": {"block_bytes": 1024, "sha256": {"records.parquet": SHA256}}}
    read = Elsewhere().read
    assert blocks.of(said, "records.parquet", len(CONTENT), read, changed, "x") is not None
    assert blocks.of(said, "leads.parquet", len(CONTENT), read, changed, "x") is None
    assert blocks.of({}, "records.parquet", len(CONTENT), read, changed, "x") is None
    for n_bytes in (len(CONTENT) - 1024, len(CONTENT) + 1024):
        with pytest.raises(StoreFormatError, match="hashes of other blocks"):
            blocks.of(said, "records.parquet", n_bytes, read, changed, "x")


def spoilt(content, seed):
    """A table of which some bytes are others, most of them in the footer."""
    random = np.random.default_rng(seed)
    its = bytearray(content)
    n_footer = 8 + int.from_bytes(content[-8:-4], "little")
    for _ in range(random.integers(1, 4)):
        begin = len(its) - n_footer if random.random() < 0.8 else 0
        its[random.integers(begin, len(its))] = random.integers(256)
    return bytes(its[: len(its) - random.integers(0, 12)]) if random.random() < 0.1 else bytes(its)


def what_comes(content, in_blocks):
    """All columns and one row, or how they are refused."""

    def check(table, where):
        table.validate(full=True)

    if in_blocks:
        sha256 = [hashlib.sha256(content[i : i + 512]).hexdigest() for i in range(0, len(content), 512)]
        content = Blocks(lambda begin, end: whole[begin:end], len(whole := content), 512, sha256, changed)
    try:
        its = columns.packed(content, version=2, where="a table", check=check)
        return its.about(3, ["sex", "fold", "record_id"]), its.table(its.names)
    except EcgError as error:
        return type(error)
    except pa.ArrowInvalid:
        return "invalid"


@pytest.mark.parametrize("first", quickly(range(0, 4000, 200), 0))
def test_forged_tables_are_read_or_refused_in_blocks_as_in_one_piece(mini_store, first):
    content = (mini_store / layout.RECORDS).read_bytes()
    refused = 0
    for seed in range(first, first + 200):
        forged = spoilt(content, seed)
        here, afar = what_comes(forged, in_blocks=False), what_comes(forged, in_blocks=True)
        if isinstance(here, tuple):
            assert here[0] == afar[0]
            assert here[1].equals(afar[1]), seed
        else:
            assert here == afar, seed
            refused += 1
    assert 0 < refused < 200


def test_every_way_to_a_store_states_the_hashes_of_its_own_table(mini, mini_store, tmp_path, monkeypatch):
    assert blocks.ATTRIBUTE not in open_store(mini_store).attributes  # its table is small
    monkeypatch.setattr(blocks, "LEAST_BYTES", 0)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1024)
    ingest_folder(mini, tmp_path / "all.ecg", IngestSettings())
    made = open_store(tmp_path / "all.ecg")
    subset_store(made, tmp_path / "some.ecg", folds=[1, 2, 3])
    subset_store(made, tmp_path / "rest.ecg", folds=[4, 5, 6, 7, 8])
    some, rest = open_store(tmp_path / "some.ecg"), open_store(tmp_path / "rest.ecg")
    merge_stores(some, rest, tmp_path / "merged.ecg")
    withdraw_records(made, tmp_path / "less.ecg", records=[made.id_of(7)])
    stated = set()
    for name in ("all", "some", "rest", "merged", "less"):
        its = open_store(tmp_path / f"{name}.ecg")
        content = (tmp_path / f"{name}.ecg" / layout.RECORDS).read_bytes()
        expected = [hashlib.sha256(content[i : i + 1024]).hexdigest() for i in range(0, len(content), 1024)]
        assert its.attributes["blocks"] == {"block_bytes": 1024, "sha256": {layout.RECORDS: expected}}
        assert its.verify(deep=True) == []
        stated.add(tuple(expected))
    assert len(stated) == 5


def test_a_deep_check_finds_hashes_of_other_blocks(mini, tmp_path, monkeypatch):
    wrong = {"blocks": {"block_bytes": 1 << 20, "sha256": {layout.RECORDS: SHA256[:1]}}}
    monkeypatch.setattr(blocks, "stated", lambda name, content: wrong)
    ingest_folder(mini, tmp_path / "out.ecg", IngestSettings())
    its = open_store(tmp_path / "out.ecg")
    assert its.verify() == []
    assert its.verify(deep=True) == ["records.parquet: not of the blocks whose hashes the root states"]
