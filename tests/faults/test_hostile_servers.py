"""Servers of stores that answer what they were not asked for: refused in one line, soon, and in little memory."""

from __future__ import annotations

import gzip
import os
import re
from collections import Counter
from pathlib import Path

import pytest
from local_server import LocalServer, QuietHandler
from quickly import quickly

from ecgstore import StoreError, StoreUnreachable, open_store
from ecgstore.storage import place, web

GOLDEN = Path(__file__).parents[1] / "golden" / "v2.ecg"
TABLE, SHARD = "records.parquet", "signal/c/0/0"


class Server(LocalServer):
    """The golden store. ``fault`` is what happens to ``name``; ``asked`` counts requests, ``sent`` bytes."""

    fault = name = elsewhere = ""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.sent = 0
        super().__init__(Handler)


class Handler(QuietHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.do_GET(head=True)

    def do_GET(self, *, head: bool = False) -> None:
        name = self.path.removeprefix("/again/").removeprefix("/store/")
        self.server.asked[name] += 1
        fault = self.server.fault if name == self.server.name else ""
        if not (GOLDEN / name).is_file():
            return self.answer(404, b"", {})
        if fault == "forbidden":
            return self.answer(403, b"no", {})
        if fault == "circle":
            return self.answer(302, b"", {"Location": self.path})
        if fault == "page":
            return self.answer(200, b"<!doctype html><title>Log in</title>", {"Content-Type": "text/html"}, head)
        if fault == "nothing":
            return self.answer(204, b"", {})
        if fault in ("away", "round") and self.path.startswith("/store/"):
            to = f"/again/{name}" if fault == "round" else f"{self.server.elsewhere}/store/{name}"
            return self.answer(302, b"", {"Location": to})
        if fault == "soon":  # and then nothing, until they hang up
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.rfile.read(1)
            return None
        content = (GOLDEN / name).read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        begin, end = (int(asked[1]), min(int(asked[2]) + 1, len(content))) if asked else (0, len(content))
        stated = f"bytes {begin + (fault == 'shifted')}-{end - 1}/{len(content)}"
        if fault == "wide":
            stated = f"bytes {begin}-{end + 9}/{len(content)}"
        headers = {"Content-Range": stated} if asked and fault != "unstated" else {}
        body = content[begin:end]
        if fault == "packed":
            body, headers["Content-Encoding"] = gzip.compress(bytes(50_000_000)), "gzip"
        if fault == "endless":
            return self.flood(206 if asked else 200, headers, head)
        return self.answer(206 if asked else 200, body, headers, head)

    def answer(self, status: int, body: bytes, headers: dict[str, str], head: bool = False) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if not head:
            self.wfile.write(body)

    def flood(self, status: int, headers: dict[str, str], head: bool) -> None:
        self.send_response(status)
        for name, value in {"Connection": "close", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = True
        while not head and self.server.sent < 200_000_000:
            self.wfile.write(bytes(1 << 20))
            self.server.sent += 1 << 20


@pytest.fixture
def server(monkeypatch):
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(place, "RETRY_WAITS_S", (0.01, 0.01))
    with Server() as made:
        yield made
        made.shutdown()


def read(server: Server) -> None:
    store = open_store(f"{server.address}/store")
    store.read_shard(0)
    store.read("50", stop_s=1)
    assert store.verify(deep=True) == []


def test_a_good_server_is_read(server):
    read(server)


@pytest.mark.parametrize("name", ["manifest.json", "zarr.json", TABLE, SHARD])
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("endless", "more than it was asked for|another part of a file|whole files only|was changed after"),
        ("shifted", "another part of a file"),
        ("unstated", "another part of a file"),
        ("wide", "another part of a file|can't be reached"),
        ("packed", "packs what it was asked to send as it is"),
        ("away", "sends us on to another place"),
    ],
)
def test_what_was_not_asked_for_is_refused(server, name, fault, said):
    server.fault, server.name, server.elsewhere = fault, name, "http://127.0.0.2:9"
    with pytest.raises(StoreError, match=said):
        read(server)
    assert server.sent < 64_000_000


def test_a_redirect_to_the_same_server_is_followed(server):
    server.fault, server.name = "round", SHARD
    read(server)


def test_what_is_forbidden_is_asked_for_once(server):
    server.fault, server.name = "forbidden", TABLE
    with pytest.raises(StoreUnreachable, match="403"):
        open_store(f"{server.address}/store")
    assert server.asked[TABLE] == 1


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("circle", "the server sends us on and on.*open the address in a browser"),
        (
            "page",
            "not JSON, but a web page; in .*manifest.json; got '<!doctype html>.*Log in.*whether .* wants a login",
        ),
        ("nothing", "not JSON: it is empty; in .*manifest.json; check the address"),
    ],
)
def test_what_comes_in_the_place_of_a_store_is_said_with_what_to_do(server, fault, said):
    server.fault, server.name = fault, "manifest.json"
    with pytest.raises(StoreError, match=said) as caught:
        open_store(f"{server.address}/store")
    assert "\n" not in str(caught.value)
    if fault == "circle":  # to ask again is no use
        assert server.asked["manifest.json"] < 15


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", quickly(["manifest.json", TABLE, SHARD], SHARD))
def test_a_server_that_says_only_that_it_will_answer_is_given_up(server, monkeypatch, name):
    for bound in ("CONNECT_S", "SILENCE_S"):
        monkeypatch.setattr(web, bound, 0.2)
    server.fault, server.name = "soon", name
    with pytest.raises(StoreUnreachable):
        read(server)


def test_a_trickle_is_given_up(server, monkeypatch):
    store = open_store(f"{server.address}/store")
    monkeypatch.setattr(web, "MINUTE_S", 1e-9)  # every block is judged
    monkeypatch.setattr(web, "SLOWEST_BYTES_PER_S", 10**15)  # and none brings so much
    with pytest.raises(StoreUnreachable, match="less than 1000000000000000 bytes per second"):
        store.read_shard(0)


def test_samples_of_a_shard_from_elsewhere_are_compared_with_their_records(server, monkeypatch):
    """A shard of another store can have the same size: only its samples tell."""
    store = open_store(f"{server.address}/store")
    monkeypatch.setattr(
        store, "records", store.records.set_column(store.records.column_names.index("crc32"), "crc32", [[1, 2, 3]])
    )
    with pytest.raises(StoreError, match="is not what was written"):
        store.read_shard(0)
