"""What a web server may answer to whoever reads a store: the bytes that were asked for, soon, and from there.

A server is believed in nothing. Each answer is cut off where it is longer than the range that was asked for; a range
that is another one, a packed answer, a redirect to another origin and a trickle of bytes are refused.
"""

from __future__ import annotations

import functools
import re
import time
from typing import Any

from ecgstore.errors import StoreError, need

#: Seconds until a server is given up that doesn't take a connection, or stops in the middle of an answer.
CONNECT_S, SILENCE_S = 15.0, 60.0
#: Within each minute a server has to send so many bytes per second at least.
SLOWEST_BYTES_PER_S, MINUTE_S = 1024, 60.0

_BLOCK = 64 << 10
_RANGE = re.compile(r"bytes=(\d+)-(\d+)")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_REDIRECTS = (301, 302, 303, 307, 308)


class BadAnswer(StoreError):
    """A server answers what it was not asked for; asking again would not help."""


def client_options() -> dict[str, Any]:
    """What an aiohttp session is made with."""
    http = need("aiohttp", "remote")
    return {
        # The default ends every answer after five minutes, one that comes slowly and one that never comes.
        "timeout": http.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S),
        "headers": {"Accept-Encoding": "identity"},
        "auto_decompress": False,
        "response_class": _careful(http),
    }


def longest_s(n_bytes: int) -> float:
    """Seconds that an answer of ``n_bytes`` may take, with its head."""
    return CONNECT_S + SILENCE_S + n_bytes / SLOWEST_BYTES_PER_S


@functools.cache  # fsspec keeps one connection for all who ask with the same options
def _careful(http: Any) -> Any:
    import asyncio

    class Careful(http.ClientResponse):  # type: ignore[misc]
        """An answer whose body is taken in only as far as it was asked for."""

        async def start(self, connection: Any) -> Any:
            # sock_read ends with "100 Continue", behind which nothing need ever come.
            async with asyncio.timeout(CONNECT_S + SILENCE_S):
                await super().start(connection)
            try:
                _judge(self)
            except BadAnswer:
                self.close()
                raise
            return self

        async def read(self) -> bytes:
            try:
                return await _body_of(self, http)
            except BaseException:
                self.close()
                raise

    return Careful


def _judge(response: Any) -> None:
    """Raise BadAnswer where the head of an answer shows that it is not the one that was asked for."""
    where = str(response.url)
    if response.status in _REDIRECTS:
        target = response.headers.get("Location") or response.headers.get("URI") or ""
        if not _is_same_origin(response.url, target):
            raise BadAnswer("the server sends us on to another place", where=where, got=target, fix="name that address")
        return
    if response.headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
        raise BadAnswer("the server packs what it was asked to send as it is", where=where)
    asked = _RANGE.fullmatch(response.request_info.headers.get("Range", ""))
    if asked is None or response.status != 206:
        return
    given = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if given is None or given[1] != asked[1] or int(given[2]) > int(asked[2]):
        raise BadAnswer(
            "the server gives another part of a file than the one that was asked for",
            where=where,
            expected=asked[0],
            got=response.headers.get("Content-Range", "no Content-Range")[:80],
        )


def _is_same_origin(url: Any, target: str) -> bool:
    try:
        there = url.join(type(url)(target))
        return bool((there.scheme, there.host, there.port) == (url.scheme, url.host, url.port))
    except ValueError:
        return False


async def _body_of(response: Any, http: Any) -> bytes:
    """The body, of the length that the head announces; no byte more than was asked for."""
    asked = _RANGE.fullmatch(response.request_info.headers.get("Range", ""))
    most = int(asked[2]) - int(asked[1]) + 1 if asked is not None else _BLOCK
    given = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "")) if response.status == 206 else None
    body = bytearray()
    minute, so_far = time.monotonic(), 0
    while block := await response.content.read(min(_BLOCK, most + 1)):
        body += block
        if len(body) > most:
            if response.status != 206:  # a whole file, or a page about an error: no more of it than shows that
                response.close()
                return bytes(body[: most + 1])
            raise BadAnswer(
                "the server sends more than it was asked for", where=str(response.url), expected=f"{most} bytes"
            )
        if (now := time.monotonic()) - minute >= MINUTE_S:
            if len(body) - so_far < SLOWEST_BYTES_PER_S * MINUTE_S:
                raise http.ClientPayloadError(f"less than {SLOWEST_BYTES_PER_S} bytes per second")
            minute, so_far = now, len(body)
    if given is not None and len(body) != int(given[2]) - int(given[1]) + 1:
        raise http.ClientPayloadError("the answer ended early")
    return bytes(body)
