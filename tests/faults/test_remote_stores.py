"""Stores on another machine: read over HTTP and from memory as from a folder, and what happens when the line breaks."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections import Counter
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from ecgstore import (
    ConfigError,
    IngestSettings,
    IntegrityError,
    MissingExtra,
    StoreError,
    StoreNotFound,
    StoreUnreachable,
    cli,
    ingest_folder,
    open_store,
)
from ecgstore.inner import parse
from ecgstore.storage import blocks, layout, tables, web
from ecgstore.storage import place as places
from ecgstore.storage import store as stores
from ecgstore.storage.store import Store
from ecgtrain.config import RunConfig
from ecgtrain.run import learn


class Server(ThreadingHTTPServer):
    """A folder behind HTTP. ``failing`` counts answers to spoil; ``parts`` off: whole files only."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.parts, self.dead, self.silent = str(folder), True, False, threading.Event()
        self.silent.set()
        self.failing: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.asked: list[tuple[str, str]] = []
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def handle_error(self, *_):
        """A client that has gone away is what some tests are about."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(SimpleHTTPRequestHandler):
    server: Server

    def translate_path(self, path):
        return str(Path(self.server.folder, path.strip("/")))

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.asked.append(("GET", self.path.partition("mini.ecg/")[2]))
        self.server.silent.wait(20)
        path, asked = Path(self.translate_path(self.path)), self.headers.get("Range")
        spoilt = next((kind for kind, n in self.server.failing.items() if n > 0), None)
        if self.server.dead or (spoilt == "busy" and path.is_file()):
            self.server.failing["busy"] -= 1
            return self.send_error(503)
        if not path.is_file() or (spoilt == "no parts" and asked == "bytes=0-1"):
            return self.send_error(404)
        content = path.read_bytes()
        begin, end = 0, len(content)
        if asked and self.server.parts:
            first, last = re.fullmatch(r"bytes=(\d*)-(\d*)", asked).groups()
            begin = int(first) if first else len(content) - int(last)
            end = min(int(last) + 1, len(content)) if first and last else len(content)
        self.send_response(206 if asked and self.server.parts else 200)
        self.send_header("Content-Length", str(end - begin))
        if asked and self.server.parts:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(content)}")
        self.end_headers()
        if spoilt == "cut":
            self.server.failing["cut"] -= 1
            end -= (end - begin) // 2
        self.server.sent[path.name] += end - begin
        self.wfile.write(content[begin:end])
        self.close_connection = True
        return None

    def do_HEAD(self):
        self.server.asked.append(("HEAD", self.path.partition("mini.ecg/")[2]))
        if self.server.dead:
            return self.send_error(503)
        return super().do_HEAD()


@pytest.fixture
def served(mini_store, tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(places, "RETRY_WAITS_S", (0.01, 0.02, 0.03))
    shutil.copytree(mini_store, tmp_path / "www" / "mini.ecg")
    with Server(tmp_path / "www") as server:
        yield server
        server.shutdown()


def recipe(address):
    return parse(
        RunConfig,
        {
            "name": "remote",
            "data": {"store": str(address), "feed": "stream"},
            "pretrain": {
                "method": {"name": "cpc", "steps_ahead": 3, "n_negatives": 8},
                "backbone": {"name": "cpc_lstm", "encoder": {"width": 6}, "lstm_width": 5, "lstm_layers": 1},
                "folds": [1, 2, 3, 4, 5, 6],
                "window_samples": 100,
                "batch_size": 8,
                "steps": 4,
            },
        },
    )


def invoke(*arguments):
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def test_read_over_http_as_from_a_folder(served, mini_store):
    far, near = open_store(f"{served.address}/mini.ecg"), open_store(mini_store)
    assert far.fingerprint == near.fingerprint
    assert far.path == f"{served.address}/mini.ecg"
    assert far.records.equals(near.records)
    for record_id in near.column("record_id")[[0, 20, 52]]:
        assert np.array_equal(far.read(record_id).signal_mv_lt, near.read(record_id).signal_mv_lt, equal_nan=True)
    for shard in range(near.n_shards):
        assert np.array_equal(far.read_shard(shard).counts_lt, near.read_shard(shard).counts_lt)
    assert far.verify(deep=True) == []


@pytest.fixture
def in_blocks(mini, served, tmp_path, monkeypatch):
    """A store on a server whose table of records is large, five times the bundled ones: it stands in blocks."""
    monkeypatch.setattr(blocks, "LEAST_BYTES", 0)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 256)
    monkeypatch.setattr(tables, "RECORDS_PER_GROUP", 53)
    monkeypatch.setattr(stores, "PARSED_MEANWHILE_BYTES", 0)
    folder, source = Path(served.folder, "large.ecg"), tmp_path / "source"
    for copy in range(5):
        shutil.copytree(mini / "records500", source / str(copy))
    ingest_folder(source, folder, IngestSettings())
    return folder, f"{served.address}/large.ecg"


def test_of_a_large_table_only_parts_come_over_http(in_blocks, served):
    folder, address = in_blocks
    far, near = open_store(address), open_store(folder)
    one, other = far.read(near.id_of(200)), near.read(near.id_of(200))
    assert np.array_equal(one.signal_mv_lt, other.signal_mv_lt, equal_nan=True)
    assert (one.age_years, one.sex, one.fold, one.warnings) == (other.age_years, other.sex, other.fold, other.warnings)
    size = (folder / layout.RECORDS).stat().st_size
    # All of the footer, ids and places of all records, and of the rest what stands in one group of rows out of five.
    assert 0 < served.sent[layout.RECORDS] < size - 4 * 256
    assert far.records.equals(near.records)
    assert served.sent[layout.RECORDS] <= size, "a block came twice"
    assert far.verify(deep=True) == []


def test_a_large_table_of_which_a_block_was_changed_is_refused(in_blocks, served):
    folder, address = in_blocks
    path = folder / layout.RECORDS
    whole = path.read_bytes()
    ends = []
    for block in range(0, -(-len(whole) // 256), 17):
        spoilt = bytearray(whole)
        spoilt[block * 256 + 3] ^= 1
        path.write_bytes(spoilt)
        try:
            its = open_store(address)
        except IntegrityError:
            ends.append("refused when it was opened")
            continue
        with pytest.raises(IntegrityError, match="changed after the store was sealed"):
            _ = its.records
        ends.append("refused when it was asked for")
    assert set(ends) == {"refused when it was opened", "refused when it was asked for"}
    path.write_bytes(whole[:-1])
    with pytest.raises(IntegrityError):
        open_store(address)
    path.unlink()
    with pytest.raises(IntegrityError, match="missing"):
        open_store(address)


def test_a_line_that_breaks_while_blocks_come_is_borne(in_blocks, served):
    folder, address = in_blocks
    served.failing["cut"] = 3
    far = open_store(address)
    served.failing["cut"] = 2
    assert far.records.equals(open_store(folder).records)
    far = open_store(address)
    served.dead = True
    with pytest.raises(StoreUnreachable):
        _ = far.records
    served.dead = False
    assert far.records.equals(open_store(folder).records)


def test_read_from_any_place_that_fsspec_knows(mini_store):
    memory = fsspec.filesystem("memory")
    memory.put(str(mini_store), "/team/mini.ecg", recursive=True)
    try:
        far, near = open_store("memory://team/mini.ecg"), open_store(mini_store)
        assert np.array_equal(far.read_shard(0).counts_lt, near.read_shard(0).counts_lt)
        assert far.verify(deep=True) == []
        memory.pipe("/team/mini.ecg/notes.txt", b"x")
        assert far.verify() == ["notes.txt: does not belong to the store"]
    finally:
        memory.rm("/team", recursive=True)


def test_training_streams_from_it_and_learns_the_same(served, mini_store, tmp_path):
    far = learn(recipe(f"{served.address}/mini.ecg"), tmp_path / "far").backbone.state_dict()
    near = learn(recipe(mini_store), tmp_path / "near").backbone.state_dict()
    assert all(torch.equal(far[name], near[name]) for name in near)


@pytest.mark.parametrize("kind", ["busy", "cut"])
def test_a_line_that_breaks_for_a_moment_is_borne(served, mini_store, kind):
    store = open_store(f"{served.address}/mini.ecg")
    served.failing[kind] = 3
    assert np.array_equal(store.read_shard(0).counts_lt, open_store(mini_store).read_shard(0).counts_lt)
    assert served.failing[kind] <= 0


def test_what_is_out_of_reach_is_not_damaged(served, tmp_path, monkeypatch):
    address = f"{served.address}/mini.ecg"
    store = open_store(address)
    decode = Store.read_shard

    def die_first(self, shard):
        served.dead = True
        return decode(self, shard)

    served.dead = True
    with pytest.raises(StoreUnreachable, match=r"the store can't be reached; in http.*503.*check address, network"):
        store.read_shard(0)
    with pytest.raises(StoreUnreachable):
        store.verify()
    served.dead = False
    store.read_shard(0)
    store = open_store(address)  # what was read before needs no server
    served.failing["busy"] = 1000  # it says that the shard is there, but doesn't give it
    with pytest.raises(StoreUnreachable):
        store.read_shard(0)
    served.failing.clear()
    monkeypatch.setattr(Store, "read_shard", die_first)
    with pytest.raises(StoreUnreachable):
        learn(recipe(address), tmp_path / "run")
    served.shutdown()
    served.server_close()
    with pytest.raises(StoreUnreachable, match="can't be reached"):
        open_store(address)


def test_a_server_that_falls_silent_is_given_up(served, monkeypatch):
    monkeypatch.setattr(web, "SILENCE_S", 0.2)
    monkeypatch.setattr(places, "RETRY_WAITS_S", (0.01,))
    open_store(f"{served.address}/mini.ecg").read_shard(0)
    store = open_store(f"{served.address}/mini.ecg")
    served.silent.clear()
    with pytest.raises(StoreUnreachable, match="can't be reached"):
        store.read_shard(0)
    served.silent.set()


def test_damage_over_http_is_damage(served, tmp_path):
    address = f"{served.address}/mini.ecg"
    store = open_store(address)
    shard = next((tmp_path / "www/mini.ecg/signal").rglob("c/*/*"))
    content = bytearray(shard.read_bytes())
    content[100:140] = bytes(40)
    shard.write_bytes(content)
    with pytest.raises(IntegrityError, match="a shard can't be decoded"):
        store.read_shard(0)
    shard.unlink()
    with pytest.raises(IntegrityError, match="a shard is missing"):
        store.read_shard(0)
    assert [problem for problem in store.verify() if "missing" in problem] == [f"signal/c/0/{shard.name}: missing"]
    (tmp_path / "www/mini.ecg/records.parquet").write_bytes(b"x")
    with pytest.raises(IntegrityError, match="an object was changed after the store was sealed"):
        open_store(address)


def test_addresses_that_lead_nowhere(served):
    with pytest.raises(StoreNotFound, match=r"there is no store; in http"):
        open_store(f"{served.address}/other.ecg")
    with pytest.raises(ConfigError, match="no such kind of address; in gopher://x/y"):
        open_store("gopher://x/y")
    with pytest.raises(MissingExtra, match=r"what reads such addresses is not installed; in gs://b/x.ecg; .*gcsfs"):
        open_store("gs://b/x.ecg")
    served.failing["no parts"] = 10**6
    with pytest.raises(StoreUnreachable, match="no part of it.*not found: manifest.json"):
        open_store(f"{served.address}/mini.ecg")
    served.failing.clear()
    served.parts = False
    with pytest.raises(StoreError, match="the server gives whole files only.*copy the store first"):
        open_store(f"{served.address}/mini.ecg")


def test_the_commands_take_addresses(served, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    address = f"{served.address}/mini.ecg"
    assert "records      53," in invoke("info", address).output
    assert "deep check passed" in invoke("verify", "--deep", address).output
    assert invoke("report", address, "--pages", "0").output == "mini.ecg.html\n"
    gone = invoke("info", f"{served.address}/other.ecg")
    assert (gone.exit_code, gone.output.count("\n")) == (1, 1)


def test_opening_and_reading_ask_for_no_more_than_they_need(served):
    store = open_store(f"{served.address}/mini.ecg")
    opening = ["manifest.json", "manifest.json", "records.parquet", "signal/zarr.json", "zarr.json"]
    assert sorted(served.asked) == [("GET", name) for name in opening]  # one of the two looks whether parts are given
    served.asked.clear()
    names = store.column("record_id")
    store.read(names[0])
    assert {name for _, name in served.asked} == {"signal/c/0/0", "statements.parquet"}
    assert [kind for kind, _ in served.asked] == ["GET"] * len(served.asked)
    assert len(served.asked) <= 3  # the index of the shard, a chunk
    served.asked.clear()
    store.read(names[1])
    assert served.asked == []
