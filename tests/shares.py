"""What tests of shares need: tiny sealed stores, a server that speaks as S3 does, and one before it that lies."""

from __future__ import annotations

import http.client
import itertools
import logging
import os
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from local_server import LocalServer, QuietHandler

from ecgstore.sharing.delivery import Delivered, OpenedSource, deliver
from ecgstore.sharing.folder import FolderTarget
from ecgstore.storage import layout, manifest

SMALL = (layout.ROOT, layout.SIGNAL_JSON, layout.RECORDS, layout.STATEMENTS, layout.REJECTED)


def sealed(root: Path, shards: Sequence[bytes] = (b"one", b"two", b"three"), note: str = "") -> Path:
    """A folder that is sealed as a store is. Its objects are no tables: who moves stores doesn't look into them."""
    contents = {name: f"{name} {note}".encode() for name in SMALL}
    contents |= {layout.shard_object(i): content for i, content in enumerate(shards)}
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    manifest.seal(root, {name: manifest.hash_object(root / name) for name in contents}, "0" * 64)
    return root


def fingerprint(store: Path) -> str:
    return manifest.load(store).fingerprint


def bring(store: Path, target: Any, tag: str = "main") -> Delivered:
    """Push without a look at terms, for which it would have to be a real store."""
    if isinstance(target, Path):
        target = FolderTarget(target)
    return deliver(OpenedSource(*manifest.open_sealed(store), str(store)), target, tag)


def contents(root: Path) -> dict[str, bytes]:
    """Everything below a folder."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


#: All servers of a process show the same buckets.
_NUMBERS = itertools.count(1)


class S3:
    """moto's server, and the environment that leads there. Buckets are made by their name."""

    def __init__(self) -> None:
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        self.address = "http://{}:{}".format(*self._server.get_host_and_port())

    def bucket(self) -> str:
        """The address of a new and empty bucket."""
        name = f"bucket-{next(_NUMBERS)}"
        urllib.request.urlopen(urllib.request.Request(f"{self.address}/{name}", method="PUT")).close()
        return f"s3://{name}"

    def stop(self) -> None:
        self._server.stop()


class Between(LocalServer):
    """Stands between us and a server; ``fault`` says for each request what is done to it.

    It is called with method, path and headers, and answers None (pass on), a number (answer so, and pass nothing on),
    or one of ``lost`` (pass on, and hang up without an answer), ``cut`` (half of the body), ``short`` (the head says
    that it is shorter), ``strip`` (without its condition).
    """

    def __init__(self, behind: str) -> None:
        super().__init__(_Between)
        self.behind = urlsplit(behind)
        self.fault: Callable[[str, str, Mapping[str, str]], int | str | None] = lambda *_: None
        self.asked: list[tuple[str, str]] = []
        #: moto looks whether there is an object, and writes it, in two steps: who tests races lets one in at a time.
        self.one_at_a_time = threading.Lock()


class _Between(QuietHandler):
    server: Between
    disable_nagle_algorithm = True

    def _pass_on(self) -> None:
        body = self.rfile.read(n_bytes := int(self.headers.get("Content-Length", 0)))
        if len(body) < n_bytes:  # killed while it sent
            self.close_connection = True
            return None
        self.server.asked.append((self.command, self.path))
        headers = dict(self.headers.items())
        fault = self.server.fault(self.command, self.path, headers)
        if isinstance(fault, int):
            return self._answer(fault, {}, b"<Error><Code>Tried</Code></Error>")
        if fault == "strip":
            headers = {name: value for name, value in headers.items() if name.lower() != "if-none-match"}
        with self.server.one_at_a_time:
            behind = http.client.HTTPConnection(self.server.behind.netloc)
            behind.request(self.command, self.path, body, headers)
            answer = behind.getresponse()
            content = answer.read()
            behind.close()
        self.close_connection = fault is not None and fault != "strip"
        if fault == "lost":
            return None
        named = {name: value for name, value in answer.getheaders() if name.lower() not in _OF_THE_LINE}
        if fault == "short":
            content = content[: len(content) // 2]
        return self._answer(answer.status, named, content, len(content) // 2 if fault == "cut" else None)

    def _answer(self, status: int, headers: Mapping[str, str], content: bytes, n_sent: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        is_head = self.command == "HEAD"
        self.send_header("Content-Length", headers.get("Content-Length", "0") if is_head else str(len(content)))
        self.end_headers()
        if not is_head:
            self.wfile.write(content[:n_sent])

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _pass_on


_OF_THE_LINE = {"content-length", "connection", "transfer-encoding", "server", "date"}


class Times:
    """A fault that happens so many times to requests of a method whose path fits."""

    def __init__(self, kind: int | str, method: str, part: str, n: int = 1) -> None:
        self.kind, self.method, self.part, self.left = kind, method, part, n
        self._lock = threading.Lock()

    def __call__(self, method: str, path: str, headers: Mapping[str, str]) -> int | str | None:
        with self._lock:
            if method == self.method and self.part in path and self.left > 0:
                self.left -= 1
                return self.kind
        return None


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    server = S3()
    yield server
    server.stop()


@pytest.fixture
def at_s3(s3: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    """The server, and the environment of somebody who may write there; nothing waits for long."""
    from ecgstore.sharing import bucket, target

    lead_to(s3.address, monkeypatch)
    monkeypatch.setattr(target, "WAITS_S", (0.01, 0.01))
    monkeypatch.setattr(bucket, "RETRIES", 1)
    monkeypatch.setattr(bucket, "BACKOFF_S", 0.01)
    return s3


@pytest.fixture
def between(at_s3: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[Between]:
    """One that lies, before the server."""
    server = Between(at_s3.address)
    lead_to(server.address, monkeypatch)
    yield server
    server.shutdown()
    server.server_close()


def lead_to(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    known = {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "REGION": "us-east-1", "ENDPOINT_URL": address}
    known |= {"CONFIG_FILE": os.devnull, "SHARED_CREDENTIALS_FILE": os.devnull}  # not those of whoever runs the tests
    for name, value in known.items():
        monkeypatch.setenv(f"AWS_{name}", value)


class Killed(BaseException):
    """Nothing catches it but what catches everything."""


class Dying:
    """Counts whatever changes the file system, and ends it all at the n-th, before or after it is done."""

    def __init__(self, n: int, *, after: bool) -> None:
        self.n, self.after, self.count = n, after, 0
        self._lock = threading.Lock()

    def __enter__(self) -> Dying:
        self._patch = pytest.MonkeyPatch()
        for owner, name in ((os, "fsync"), (os, "link"), (Path, "replace"), (Path, "rename"), (Path, "unlink")):
            self._patch.setattr(owner, name, self._counted(getattr(owner, name)))
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.undo()

    def _counted(self, do: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            with self._lock:
                self.count += 1
                is_over, is_now = self.count > self.n, self.count == self.n
            if is_over or (is_now and not self.after):  # the dead do no more
                raise Killed
            result = do(*args, **options)
            if is_now:
                raise Killed
            return result

        return counted
