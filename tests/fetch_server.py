"""A server as PhysioNet's is, on this machine, whose faults a test can choose."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

STEM = "records/0{}/r{}"
FILES: dict[str, bytes] = {"LICENSE.txt": b"as you like\n", "table of records.csv": b"id\n" * 50}
for i in range(12):
    FILES[f"records/0{i % 3}/r{i}.hea"] = f"r{i} 1 100 1000\n".encode()
    FILES[f"records/0{i % 3}/r{i}.dat"] = bytes((j * i) % 251 for j in range(3000))
BIG = bytes(range(256)) * 4096  # 1 MiB


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves ``files`` below /files/set/1.0/. ``faults[path]`` are what goes wrong, one per request, in turn."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = dict(FILES)
        self.faults: dict[str, list[Any]] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.times: list[float] = []
        self.clients: set[tuple[str, int]] = set()
        self.lock = threading.Lock()
        self.busy = self.most_busy = 0
        self.scheme = "http"
        self.mistakes: list[BaseException | None] = []

    @property
    def mirror(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}/files/"

    @property
    def url(self) -> str:
        return f"{self.mirror}set/1.0/"

    def list_of_sums(self) -> bytes:
        return "".join(f"{sha(content)} {name}\n" for name, content in self.files.items()).encode()

    def asked(self, name: str, method: str = "GET") -> list[dict[str, str]]:
        """Headers of the requests for one file."""
        return [headers for verb, path, headers in self.requests if (verb, path) == (method, name)]

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that went away is what is being tested; a mistake of the server's is not.
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            self.mistakes.append(error)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.busy += 1
            self.server.most_busy = max(self.server.most_busy, self.server.busy)
        try:
            self.answer()
        finally:
            with self.server.lock:
                self.server.busy -= 1

    def answer(self) -> None:
        server = self.server
        name = unquote(self.path).removeprefix("/files/").partition("/")[2].partition("/")[2]
        with server.lock:
            server.requests.append((self.command, name, dict(self.headers)))
            server.times.append(time.monotonic())
            server.clients.add(self.client_address)
            fault = server.faults[name].pop(0) if server.faults.get(name) and self.command == "GET" else None
        content = server.list_of_sums() if name == "SHA256SUMS.txt" else server.files.get(name)
        if isinstance(fault, bytes):
            content, fault = fault, None
        if content is None:
            fault = 404
        if isinstance(fault, int):
            self.reply(fault, b"no", {})
        elif isinstance(fault, tuple):
            self.reply(fault[0], b"no", fault[1])
        else:
            self.send_file(content or b"", fault)

    def reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_file(self, content: bytes, fault: str | None) -> None:
        if fault == "break off another":
            content, fault = bytes(len(content)), "break off"
        start, etag = 0, f'"{sha(content)[:16]}"'
        wanted, same = self.headers.get("Range"), self.headers.get("If-Range", etag) == etag
        if wanted and same and fault != "no ranges":
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.reply(416, b"", {"Content-Range": f"bytes */{len(content)}"})
                return
            self.send_response(206)
            shown = start + 1 if fault == "wrong range" else start
            self.send_header("Content-Range", f"bytes {shown}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("ETag", etag)
        body = content[start:]
        if fault == "packed":
            self.send_header("Content-Encoding", "gzip")
        if fault == "endless":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")
            self.close_connection = True
            return
        self.send_header("Content-Length", str(10**15 if fault == "a petabyte" else len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault in ("break off", "reset"):
            self.wfile.write(body[: len(body) // 2])
            if fault == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            return
        for first in range(0, len(body), 16 << 10):
            if fault == "slow":
                time.sleep(0.05)
            self.wfile.write(body[first : first + (16 << 10)])


@contextlib.contextmanager
def serving(server: Server) -> Iterator[Server]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        assert not server.mistakes
