"""The head of an answer is short and comes soon, or it is none.

What requests is told of time holds for each piece that comes. So a server could send "100 Continue" for ever, which
http.client passes over, or one byte of its head each minute.
"""

from __future__ import annotations

import functools
import http.client
import io
import time
from typing import Any

from ecgstore.errors import need

#: A head longer than this, with all that stands before it, is refused: http.client takes a hundred lines of 64 KiB.
MOST_HEAD_BYTES = 1 << 20
#: No head takes longer than this, in seconds.
LONGEST_S = 60.0


class _Timed(io.RawIOBase):
    """What a socket brings. Until ``end_head`` was called, it must come by ``until`` (monotonic seconds)."""

    def __init__(self, raw: Any, until: float) -> None:
        self._raw, self._until, self._left = raw, until, MOST_HEAD_BYTES
        self._is_head = True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if not self._is_head:
            return int(self._raw.readinto(buffer) or 0)
        if time.monotonic() > self._until:
            raise TimeoutError("the head of an answer doesn't end")
        if self._left <= 0:
            raise http.client.HTTPException("the head of an answer doesn't end")
        n_bytes = int(self._raw.readinto(buffer) or 0)
        self._left -= n_bytes
        return n_bytes

    def end_head(self) -> None:
        """What comes now is the body, or what another request is answered."""
        self._is_head = False

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Answer(http.client.HTTPResponse):
    """An answer whose head comes within :data:`LONGEST_S`."""

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()  # nothing has been read of it
        self._timed = _Timed(sock.makefile("rb", buffering=0), time.monotonic() + LONGEST_S)
        self.fp = io.BufferedReader(self._timed)

    def begin(self) -> None:
        super().begin()
        self._timed.end_head()


@functools.cache
def _pools() -> dict[str, Any]:
    """Pools of connections, by scheme, to servers that answer so."""
    connecting, pooling = need("urllib3.connection", "fetch"), need("urllib3.connectionpool", "fetch")
    found = {}
    for kind in ("HTTP", "HTTPS"):
        connection = type("Connection", (getattr(connecting, f"{kind}Connection"),), {"response_class": _Answer})
        pool = getattr(pooling, f"{kind}ConnectionPool")
        found[kind.lower()] = type("Pool", (pool,), {"ConnectionCls": connection})
    return found


def session() -> Any:
    """A session of requests in which no head takes longer, through a proxy of the environment as well."""
    need("requests", "fetch")
    import requests
    from requests.adapters import HTTPAdapter

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            super().init_poolmanager(*args, **kwargs)
            self.poolmanager.pool_classes_by_scheme = _pools()

        def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
            manager = super().proxy_manager_for(*args, **kwargs)
            manager.pool_classes_by_scheme = _pools()
            return manager

    made = requests.Session()
    for scheme in ("http://", "https://"):
        made.mount(scheme, Adapter())
    return made
