"""Servers whose heads of answers never end, or whose bodies nobody waits for."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from local_server import LocalServer, QuietHandler

from ecgstore.errors import SourceError
from ecgstore.fetching import fetch, heads, http

pytest.importorskip("requests")


class Handler(QuietHandler):
    """Does with each request what the first folder of its path says."""

    def do_GET(self) -> None:
        said = self.path.split("/")[1]
        try:
            self.answer(said)
        except OSError:
            self.close_connection = True

    def answer(self, said: str) -> None:
        if said == "continue":
            while True:
                self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)
        self.wfile.write(b"HTTP/1.1 404 no\r\nContent-Length: 10000\r\n")
        if said == "line":
            self.wfile.write(b"X: ")
            self.drip()
        self.wfile.write(b"\r\n")
        self.drip()

    def drip(self) -> None:
        while True:
            self.wfile.write(b"x")
            self.server.shut_down.wait(0.01)
            if self.server.shut_down.is_set():
                raise OSError


@pytest.mark.parametrize(
    ("said", "seen"),
    [
        ("continue", "the list of files can't be had.*the head of an answer doesn't end.*2 times"),
        ("line", "the list of files can't be had.*no answer, or half of one.*2 times"),
        ("body", "the list of files can't be had.*the server answers 404 no"),
    ],
)
def test_an_answer_that_does_not_end_is_given_up(
    said: str, seen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"BACKOFF_S": 0.01, "ATTEMPTS": 2, "DRAIN_S": 0.1}.items():
        monkeypatch.setattr(http, name, value)
    monkeypatch.setattr(heads, "MOST_HEAD_BYTES", 100_000)
    monkeypatch.setattr(heads, "LONGEST_S", 0.3)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = LocalServer(Handler)
    server.shut_down = threading.Event()
    try:
        with pytest.raises(SourceError, match=seen):
            fetch.fetch(f"{server.address}/{said}/1.0/", tmp_path / "set")
    finally:
        server.shut_down.set()
        server.shutdown()
        server.server_close()
