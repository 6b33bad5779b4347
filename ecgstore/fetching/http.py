"""One polite HTTP client: few connections, retries that wait, limits on all that a server may send."""

from __future__ import annotations

import contextlib
import email.utils
import random
import re
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit

import ecgstore
from ecgstore.errors import SourceError, need
from ecgstore.fetching import heads
from ecgstore.fetching.checksums import SUMS

CONNECT_TIMEOUT_S = 20.0
READ_TIMEOUT_S = 60.0
#: How long a body is waited for that nobody wants.
DRAIN_S = 5.0
#: Requests for one file that may fail in a row, and the pause behind the first of them; it doubles each time.
ATTEMPTS = 5
BACKOFF_S = 1.0
MAX_BACKOFF_S = 60.0
#: A server that wants a longer pause than this is left in peace: the fetch ends and says so.
MAX_RETRY_AFTER_S = 300.0
#: Limits where the server does not say how long something is.
MAX_LIST_BYTES = 512 << 20
#: Within each minute a server has to send so many bytes per second at least.
SLOWEST_BYTES_PER_S, MINUTE_S = 1024, 60.0

_BLOCK = 32 << 10
_MAX_REDIRECTS = 5
_PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class Final(Exception):
    """This file can't be had, and asking again would not help."""


class Passing(Exception):
    """This time it failed; the next time it may not."""

    def __init__(self, reason: str, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class Stopped(Exception):
    """The fetch is being ended by somebody else."""


def span_of(response: Any, have: int) -> tuple[int | None, int | None]:
    """First byte of what a response brings (None: nothing of use), and the length of the whole file if said."""
    if response.headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
        raise Final("the server packs what it was asked to send as it is")
    if response.status_code == 206:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if match is None or int(match[1]) != have:
            return None, None
        return have, None if match[3] == "*" else int(match[3])
    if response.status_code == 416:
        return None, None
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


class Http:
    """Requests as they should be made to a public archive: one kept connection per thread, pauses, no passwords."""

    def __init__(self) -> None:
        self._requests: Any = need("requests", "fetch")
        self._urllib3_error: Any = need("urllib3.exceptions", "fetch").HTTPError
        self._own = threading.local()
        self._lock = threading.Lock()
        self._not_before = 0.0
        self.stop = threading.Event()
        self.n_bytes = 0

    @contextlib.contextmanager
    def get(self, url: str, headers: Mapping[str, str], method: str = "GET") -> Iterator[Any]:
        """The response to one request (200, 206 or 416), its body unread; raise _Final, _Passing or _Stopped."""
        self._wait_turn()
        try:
            with self._follow(method, url, headers) as response:
                self._judge(response)
                yield response
        except self._requests.exceptions.SSLError as error:
            raise Final(f"the server can't prove who it is: {_first(error)}") from None
        except (self._requests.exceptions.InvalidURL, self._requests.exceptions.InvalidSchema) as error:
            raise Final(f"the address can't be used: {_first(error)}") from None
        except (self._requests.exceptions.RequestException, self._urllib3_error) as error:
            self.refuse_stopped()
            raise Passing(f"no answer, or half of one: {_first(error)}") from None

    def blocks(self, response: Any) -> Iterator[bytes]:
        """The body as it comes; raise _Stopped as soon as the fetch ends, _Passing where it comes too slowly."""
        minute, n_bytes = time.monotonic(), 0
        while block := _some_of(response):
            self.refuse_stopped()
            with self._lock:
                self.n_bytes += len(block)
            yield block
            n_bytes += len(block)
            if (now := time.monotonic()) - minute >= MINUTE_S:
                if n_bytes < SLOWEST_BYTES_PER_S * MINUTE_S:
                    raise Passing(f"the server sends less than {SLOWEST_BYTES_PER_S} bytes per second")
                minute, n_bytes = now, 0

    def length(self, url: str) -> int | None:
        """What the server says a file's length is; None if it doesn't."""
        try:
            with self.get(url, {}, "HEAD") as response:
                _drain(response)
                return span_of(response, 0)[1]
        except (Final, Passing):
            return None

    def pause(self, failures: int, retry_after_s: float) -> None:
        """Wait before asking again: as long as the server says, or twice as long each time, give or take a half."""
        if retry_after_s > MAX_RETRY_AFTER_S:
            raise SourceError(
                f"the server asks for {retry_after_s:.0f} s of peace",
                fix="run the same command again later to go on",
            )
        if retry_after_s > 0:
            with self._lock:  # meant for everybody, not only for the one who was told
                self._not_before = max(self._not_before, time.monotonic() + retry_after_s)
            return
        # Jitter keeps those who failed together from coming back together; it is no part of any result.
        longest = min(MAX_BACKOFF_S, BACKOFF_S * 2 ** (failures - 1))
        self._sleep(longest * random.uniform(0.5, 1.0))

    def refuse_stopped(self) -> None:
        """Raise _Stopped if the fetch is being ended."""
        if self.stop.is_set():
            raise Stopped

    def hang_up(self) -> None:
        """Close this thread's connection."""
        session = self._own.__dict__.pop("session", None)
        if session is not None:
            session.close()

    def close(self) -> None:
        """End everything; threads that hang find out before they touch a file."""
        self.stop.set()
        self.hang_up()

    def _wait_turn(self) -> None:
        while (seconds := self._not_before - time.monotonic()) > 0:
            self._sleep(seconds)
        self.refuse_stopped()

    def _sleep(self, seconds: float) -> None:
        if self.stop.wait(seconds):
            raise Stopped

    def _session(self) -> Any:
        session = getattr(self._own, "session", None)
        if session is None:
            session = self._own.session = heads.session()
            session.headers.update(
                {
                    "User-Agent": f"ecgstore/{ecgstore.__version__} python-requests/{self._requests.__version__}",
                    "Accept-Encoding": "identity",
                }
            )
            # Proxies of the environment are used, passwords of ~/.netrc are not.
            session.auth = lambda request: request
        return session

    @contextlib.contextmanager
    def _follow(self, method: str, url: str, headers: Mapping[str, str]) -> Iterator[Any]:
        for _ in range(_MAX_REDIRECTS + 1):
            response = self._session().request(
                method,
                url,
                headers=dict(headers),
                stream=True,
                allow_redirects=False,
                timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S),
            )
            with response:
                if not response.is_redirect:
                    yield response
                    return
                _drain(response)
                target = urljoin(url, response.headers["Location"])
            if _origin(target) != _origin(url):
                raise Final(f"the server sends us on to {target!a}, another place: refused; name it if you trust it")
            url = target
        raise Final("the server sends us on and on")

    def _judge(self, response: Any) -> None:
        status = response.status_code
        if status in (200, 206, 416):
            return
        _drain(response)
        reason = f"the server answers {status} {response.reason or ''}".rstrip()
        if status in _PASSING_STATUS:
            raise Passing(reason, _retry_after_s(response.headers.get("Retry-After", ""), time.time()))
        raise Final(reason)


def read_list(http: Http, url: str) -> bytes:
    """``SHA256SUMS.txt`` of a set; everything else is checked against it, it by https alone."""
    failures = 0
    while True:
        try:
            with http.get(url + SUMS, {}) as response:
                total = span_of(response, 0)[1]
                content = bytearray()
                for block in http.blocks(response):
                    content += block
                    if len(content) > MAX_LIST_BYTES:
                        raise Final(f"the list is longer than {MAX_LIST_BYTES >> 20} MiB")
            if total is not None and len(content) < total:
                raise Passing("the connection ended early")
            return bytes(content)
        except Passing as error:
            failures += 1
            if failures >= ATTEMPTS:
                raise SourceError(
                    "the list of files can't be had",
                    where=url + SUMS,
                    got=f"{error} ({failures} times)",
                    fix="try again later; behind a proxy, set HTTPS_PROXY; a mirror is named with --base-url",
                ) from None
            http.pause(failures, error.retry_after_s)
        except Final as error:
            raise SourceError(
                "the list of files can't be had",
                where=url + SUMS,
                got=str(error),
                fix="check name and version. A set that asks for a login, or for terms to be signed, is not fetched: "
                "sign them on its page and download it as said there",
            ) from None


def _origin(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port; a port that can't be is none."""
    parts = urlsplit(url)
    try:
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        port = None
    return parts.scheme, parts.hostname, port


def _some_of(response: Any) -> bytes:
    """What has come by now: waiting for a whole block would let a server send byte by byte for hours."""
    some = getattr(response.raw, "read1", None)
    return bytes(response.raw.read(_BLOCK, decode_content=False) if some is None else some(_BLOCK, False))


def _drain(response: Any) -> None:
    """Read a short body that nobody wants, if it comes soon, so that the connection can be used again."""
    n_bytes, until = 0, time.monotonic() + DRAIN_S
    while n_bytes < _BLOCK and time.monotonic() < until and (block := _some_of(response)):
        n_bytes += len(block)


def _retry_after_s(text: str, now_s: float) -> float:
    """Seconds of a Retry-After header, a number or a date; 0 where there is none (RFC 9110, 10.2.3).

    ``now_s`` are those since 1970.
    """
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - now_s)
    except (TypeError, ValueError):
        return 0.0


def _first(error: BaseException) -> str:
    """One short line out of the nested messages of a network error."""
    lines = str(error).split("\n")
    text = re.sub(r"<[^>]* object at 0x[0-9a-f]+>:? ?", "", lines[0]) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."
