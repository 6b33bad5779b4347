"""A server on this machine for a test's own handler."""

from __future__ import annotations

import http.server
import socketserver
import threading


class LocalServer(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """Serves from when it is made, until the test process ends or it is shut down."""

    daemon_threads = True

    def __init__(self, handler: type[http.server.BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def handle_error(self, *_: object) -> None:
        """Who hangs up does what is wanted here."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class QuietHandler(http.server.BaseHTTPRequestHandler):
    """Keeps connections open, and prints nothing."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass
