"""A server of stores that answers anything: refused in one line, or the store as it is; never another."""

from __future__ import annotations

import functools
import gzip
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from local_server import LocalServer, QuietHandler
from watched import refuse_long

from ecgstore import EcgError, open_store
from ecgstore.storage import place, web

GOLDEN = Path(__file__).parents[1] / "golden" / "v2.ecg"
NAMES = ("manifest.json", "zarr.json", "records.parquet", "signal/c/0/0")
#: What takes so long was led astray; no other time is judged here.
pytestmark = pytest.mark.timeout(3600)
MOST_SENT = 20_000_000
BOMB = gzip.compress(bytes(10_000_000))


class Server(LocalServer):
    """The golden store; the answer number ``bad`` from now on, and some behind it, are made up by ``rng``."""

    def __init__(self) -> None:
        self.rng, self.bad, self.sent = random.Random(0), 0, 0
        super().__init__(Handler)

    @property
    def address(self) -> str:
        return f"{super().address}/store"


class Handler(QuietHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.bad -= 1
        path = GOLDEN / self.path.removeprefix("/store/")
        content = path.read_bytes() if path.is_file() else b""
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        begin, end = (int(asked[1]), min(int(asked[2]) + 1, len(content))) if asked else (0, len(content))
        status, body = (404, b"") if not path.is_file() else (206 if asked else 200, content[begin:end])
        headers = {"Content-Length": str(len(body))}
        if asked and status == 206:
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(content)}"
        if self.server.bad < 0 and self.server.rng.random() < 0.7:
            return self.odd(status, headers, body)
        self.answer(status, headers, body)

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        lines = [f"HTTP/1.1 {status} x", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        if self.command == "HEAD":
            body = b""
        self.server.sent += len(body)
        # In one piece: two would wait for each other.
        self.wfile.write("\r\n".join(lines).encode("latin-1", "replace") + body)

    def odd(self, status: int, headers: dict[str, str], body: bytes) -> None:
        """One of the ways in which an answer can be wrong."""
        rng = self.server.rng
        number = rng.choice(["0", "-1", "1", "", "x", "9" * 30, str(len(body) - 1), str(len(body) + 1), "1, 2", "0x10"])
        match rng.randrange(12):
            case 0:
                return self.answer(
                    rng.choice([100, 200, 204, 206, 304, 400, 403, 404, 416, 500, 503, 599, 999]), headers, body
                )
            case 1:
                self.close_connection = True
                return self.answer(status, {**headers, "Content-Length": number}, body)
            case 2:
                odd = [
                    f"bytes {number}-{number}/{number}",
                    "bytes */5",
                    "lines 0-1/2",
                    "",
                    "bytes 0-0/1",
                    "bytes 1-9/*",
                ]
                return self.answer(status, {**headers, "Content-Range": rng.choice(odd)}, body)
            case 3:
                targets = [
                    "/store/manifest.json",
                    self.path,
                    "file:///etc/hostname",
                    "ftp://x/y",
                    "http://127.0.0.2:9/x",
                ]
                targets += ["", "//", "http://[", "data:,x", "\x1b", "/../../x", "http://127.0.0.1:99999/"]
                where = {"Location": rng.choice(targets), "Content-Length": "0"}
                return self.answer(rng.choice([300, 301, 302, 303, 307, 308]), where, b"")
            case 4:
                kind = rng.choice(["gzip", "br", "deflate", "zstd", "x", "identity, gzip", "gzip, gzip"])
                packed = rng.choice([body, gzip.compress(body), BOMB])
                return self.answer(
                    status, {**headers, "Content-Encoding": kind, "Content-Length": str(len(packed))}, packed
                )
            case 5:
                chunks = [
                    b"5\r\nhello\r\n0\r\n\r\n",
                    b"fffffffff\r\n" + body,
                    b"-1\r\n",
                    b"x",
                    b"0\r\n" + b"a: b\r\n" * 50,
                ]
                del headers["Content-Length"]
                self.close_connection = True
                return self.answer(status, {**headers, "Transfer-Encoding": "chunked"}, rng.choice(chunks))
            case 6:
                self.close_connection = True
                return self.answer(status, headers, body[: rng.randrange(len(body) + 1)])
            case 7:
                broken = bytearray(body or b"x")
                broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
                return self.answer(status, headers, bytes(broken))
            case 8:
                other = (GOLDEN / rng.choice(NAMES)).read_bytes()[: len(body)].ljust(len(body), b"\x00")
                return self.answer(status, headers, other)
            case 9:
                long = rng.choice(
                    [{"X": "y" * 100_000}, {f"X{k}": "y" for k in range(2000)}, {"X\x00": "y"}, {"": "y"}]
                )
                return self.answer(status, {**headers, **long}, body)
            case 10:
                self.close_connection = True
                garbage = [
                    b"",
                    b"\x00" * 100,
                    b"HTTP/9.9 200\r\n\r\n",
                    b"SSH-2.0-x\r\n",
                    b"HTTP/1.1 \r\n\r\n",
                    b"\xff" * 9000,
                ]
                self.wfile.write(rng.choice(garbage))
                return None
            case _:
                self.close_connection = True
                del headers["Content-Length"]
                return self.answer(status, headers, body + bytes(rng.choice([1, 3_000_000])))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch, Server() as made:
        for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
            patch.delenv(name)
        patch.setattr(place, "RETRY_WAITS_S", (0.001, 0.001))
        yield made
        made.shutdown()


@functools.cache
def expected() -> tuple[object, ...]:
    return read(str(GOLDEN))


def read(address: str) -> tuple[object, ...]:
    """All that a store holds, in plain values."""
    store = open_store(address)
    problems = store.verify(deep=True)
    assert all("\n" not in problem for problem in problems)
    shard = store.read_shard(0)
    return store.fingerprint, store.records.to_pylist(), store.statements.to_pylist(), shard.counts_lt.tobytes()


def try_answers(server: Server, bad: int, seed: int) -> None:
    server.rng, server.bad, server.sent = random.Random(seed), bad, 0
    try:
        found = read(server.address)
    except EcgError as error:
        refuse_long(error)
    else:
        assert found == expected()
    assert server.sent < MOST_SENT


ANSWERS = given(st.integers(0, 25), st.integers(0, 2**32 - 1))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
@ANSWERS
def test_any_answer_is_refused_or_right(server: Server, bad: int, seed: int) -> None:
    try_answers(server, bad, seed)


@pytest.mark.slow
@pytest.mark.timeout(6 * 3600)
@settings(max_examples=2500, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@ANSWERS
def test_a_hundred_times_as_many(server: Server, bad: int, seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:  # some answers never come
        for bound in ("CONNECT_S", "SILENCE_S"):
            patch.setattr(web, bound, 0.5)
        try_answers(server, bad, seed)


def test_a_good_server_is_read(server: Server) -> None:
    server.bad = 10**9
    assert read(server.address) == expected()
