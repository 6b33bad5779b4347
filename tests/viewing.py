"""A served page of `ecgstore view`, to ask as a browser would."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode

from ecgstore.look.view.server import OWN_HEADER, Serving
from ecgstore.look.view.view import View


class Page:
    """One server that runs in a thread; asked with the token unless told otherwise."""

    def __init__(self, serving: Serving) -> None:
        self.port, self.token, self.address = serving.port, serving.token, serving.address

    def ask(
        self, path: str, *, method: str = "GET", body: Any = None, headers: dict[str, str] | None = None, **asked: Any
    ) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers of an answer."""
        sent = {"cookie": f"ecgstore_view_{self.port}={self.token}", **(headers or {})}
        if method != "GET" and OWN_HEADER not in sent:
            sent[OWN_HEADER] = "1"
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            line.request(method, f"{path}?{urlencode(asked, doseq=True)}" if asked else path, content, sent)
            answer = line.getresponse()
            return answer.status, answer.read(), dict(answer.getheaders())
        finally:
            line.close()

    def json(self, path: str, **asked: Any) -> Any:
        """What a request that is understood is answered."""
        status, content, _ = self.ask(path, **asked)
        assert status == 200, content
        return json.loads(content)

    def refused(self, path: str, **asked: Any) -> str:
        """The one line that a request is refused with."""
        status, content, _ = self.ask(path, **asked)
        assert status == 400, (status, content)
        return str(json.loads(content)["error"])


@contextmanager
def served(view: View) -> Iterator[Page]:
    """The page of ``view``, as long as it is looked at."""
    serving = Serving(view)
    thread = threading.Thread(target=serving.run, daemon=True)
    thread.start()
    try:
        yield Page(serving)
    finally:
        serving.stop()
        thread.join(30)
