"""How long a store on another machine takes: a web server on this one, which answers each request so much later.

What is timed is the first opening, the first record and the next ones, each in seconds, in requests and in bytes that
came. Packages are imported before. Each round begins with a fresh store.

    python benchmarks/afar.py STORE                30 ms for each answer
    python benchmarks/afar.py STORE --delay-ms 100

The last line on stdout is one JSON object.
"""

from __future__ import annotations

import json
import re
import statistics
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import click

from ecgstore import Store, open_store

T = TypeVar("T")


class Server(ThreadingHTTPServer):
    """A folder behind HTTP, whose answers come late."""

    daemon_threads = True

    def __init__(self, folder: Path, delay_s: float) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.delay_s, self.n_asked, self.n_bytes = folder, delay_s, 0, 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        """Where the folder is."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """Ranges of files, over connections that stay."""

    server: Server
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""

    def do_HEAD(self) -> None:
        """As GET, without the body."""
        self._answer(with_body=False)

    def do_GET(self) -> None:
        """The part of a file that was asked for."""
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        self.server.n_asked += 1
        time.sleep(self.server.delay_s)
        path = self.server.folder / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        size, asked = path.stat().st_size, re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        begin, end = (int(asked[1]), min(int(asked[2]) + 1, size)) if asked else (0, size)
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{size}")
        self.send_header("Content-Length", str(end - begin))
        self.end_headers()
        if with_body:
            with path.open("rb") as file:
                file.seek(begin)
                self.server.n_bytes += self.wfile.write(file.read(end - begin))


@click.command(help=__doc__.partition("\n\n")[0])
@click.argument("store", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--delay-ms", default=30.0, show_default=True, help="Until an answer begins.")
@click.option("--rounds", default=5, show_default=True)
def main(store: Path, delay_ms: float, rounds: int) -> None:
    """Print medians over the rounds."""
    server = Server(store, delay_ms / 1000)
    names = [str(name) for name in open_store(store).column("record_id")]
    _round(Server(store, 0.0), names)  # imports
    rows = [_round(server, names) for _ in range(rounds)]
    found = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    for what in ("open", "first record", "next record", "another chunk"):
        n_asked, kilobytes = found[f"{what}, requests"], found[f"{what}, bytes"] / 1e3
        click.echo(f"{what:<14} {found[f'{what}, s']:.3f} s   {n_asked:.0f} requests   {kilobytes:,.0f} kB")
    click.echo(json.dumps({"delay_ms": delay_ms, "rounds": rounds, **found}))


def _round(server: Server, names: list[str]) -> dict[str, float]:
    found: dict[str, float] = {}

    def timed(what: str, do: Callable[[], T]) -> T:
        before, began = (server.n_asked, server.n_bytes), time.perf_counter()
        made = do()
        found[f"{what}, s"] = time.perf_counter() - began
        found[f"{what}, requests"], found[f"{what}, bytes"] = server.n_asked - before[0], server.n_bytes - before[1]
        return made

    store: Store = timed("open", lambda: open_store(server.address))
    timed("first record", lambda: store.read(names[0]))
    timed("next record", lambda: store.read(names[1]))
    timed("another chunk", lambda: store.read(names[-1]))
    return found


if __name__ == "__main__":
    main()
