"""Where a store stands: a folder, or an address that fsspec understands (s3://, https://, memory://).

Only this file knows of universal_pathlib. A place that isn't on a file system can be out of reach for a while: reading
is tried again, and what stays out of reach is never taken for damage.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, cast

from ecgstore.errors import (
    ConfigError,
    EcgError,
    MissingExtra,
    StoreError,
    StoreUnreachable,
    need,
    visible,
    without_secrets,
)
from ecgstore.storage import web

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds to wait before each new try.
RETRY_WAITS_S = (0.5, 2.0, 8.0)

#: Of the answers between 400 and 499, those that may be another one the next time.
_PASSING = (408, 425, 429)

#: Their servers tell no one what is in a folder.
_WITHOUT_LISTING = ("http", "https")


class Place(Protocol):
    """What reading a store needs of a path: a pathlib.Path, or a path of universal_pathlib."""

    def __truediv__(self, name: str) -> Place: ...
    def read_bytes(self) -> bytes: ...
    def open(self, mode: Literal["rb"]) -> BufferedReader: ...
    def exists(self) -> bool: ...
    def stat(self) -> Any: ...
    def rglob(self, pattern: str) -> Iterator[Any]: ...


def place(address: str | Path) -> Place:
    """The place called ``address``; raises MissingExtra, or ConfigError for a kind of address that is not known."""
    text = str(address).removeprefix("file://")
    if "://" not in text:
        return cast(Place, Path(text).expanduser())
    paths = need("upath", "remote")
    try:
        root = paths.UPath(text.rstrip("/"), **_options(text))
        _ = root.fs  # a protocol's package is imported no earlier
    except ImportError as error:
        fix = 'pip install "ecgstore[s3]"' if text.startswith("s3:") else " ".join(str(error).split())
        raise MissingExtra("what reads such addresses is not installed", where=text, fix=fix) from error
    except ValueError as error:
        raise ConfigError("no such kind of address", where=text, fix=f"{error}") from None
    return cast(Place, root)


def _options(text: str) -> dict[str, Any]:
    return {"client_kwargs": web.client_options()} if text.startswith(_WITHOUT_LISTING) else {}


def is_remote(root: Place) -> bool:
    """Whether ``root`` is reached over something other than a file system."""
    return not isinstance(root, Path)


def can_list(root: Place) -> bool:
    """Whether one can ask what files there are."""
    return not str(root).startswith(tuple(f"{kind}://" for kind in _WITHOUT_LISTING))


def refuse_whole_files_only(root: Place, name: str) -> None:
    """Raise StoreError where the server answers a request for a part of a file, that it has, with the whole file."""
    if can_list(root):
        return
    try:
        read_part(root, name, 0, 2)
    except FileNotFoundError:
        raise StoreUnreachable(
            "the server gives a file, but no part of it, or the store has just gone",
            where=root,
            got=f"not found: {name}",
            fix="open it again; if that doesn't help, copy the store first",
        ) from None


def read_part(root: Place, name: str, begin: int, end: int) -> bytes:
    """The bytes of a file from ``begin`` up to ``end``, fewer where it ends; raises FileNotFoundError, StoreError."""
    if isinstance(root, Path):
        with (root / name).open("rb") as file:
            file.seek(begin)
            return file.read(end - begin)
    path = cast(Any, root / name)
    options = {} if can_list(root) else {"timeout": web.longest_s(end - begin)}
    part = bytes(patiently(root, lambda: path.fs.cat_file(path.path, start=begin, end=end, **options)))
    if len(part) > end - begin:
        raise StoreError(
            "the server gives whole files only",
            where=root,
            expected="answers to HTTP range requests",
            fix="copy the store first",
        )
    return part


def size_of(root: Place, name: str) -> int | None:
    """Bytes of the file ``name``; None where there is none."""
    try:
        found = patiently(root, (root / name).stat)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return int(found.st_size)


def patiently(root: Place, read: Callable[[], T]) -> T:
    """What ``read`` gives. If ``root`` isn't on a file system and it fails, it is tried again.

    Raises StoreUnreachable where the network is at fault, and otherwise what ``read`` raises.
    """
    for wait_s in (*RETRY_WAITS_S, None) if is_remote(root) else (None,):
        try:
            return read()
        except EcgError:
            raise
        except Exception as error:
            if isinstance(error.__cause__, EcgError):  # fsspec says "not found" of it
                raise error.__cause__ from None
            if _is_missing(error) or not is_remote(root):
                raise
            if _is_circle(error):
                raise StoreUnreachable(
                    "the server sends us on and on, and nowhere is the file",
                    where=root,
                    fix="open the address in a browser: where that goes in a circle too, its server is set up wrongly",
                ) from error
            if wait_s is None or _is_refused(error):
                if not _is_of_the_network(error):
                    raise
                raise StoreUnreachable(
                    "the store can't be reached",
                    where=root,
                    got=_in_words(error),
                    fix="check address, network and rights",
                ) from error
            log.warning("%s: %s; trying again in %g s", visible(without_secrets(root)), _in_words(error), wait_s)
            time.sleep(wait_s)
    raise AssertionError("the last try returns or raises")


def _is_missing(error: Exception) -> bool:
    # fsspec says "not found" of whatever goes wrong while it asks an HTTP server for a file's size.
    if not isinstance(error, FileNotFoundError):
        return False
    cause = error.__cause__
    return cause is None or isinstance(cause, FileNotFoundError) or getattr(cause, "status", None) in (404, 410)


def _is_refused(error: Exception) -> bool:
    """Whether a server has understood what it was asked for, and won't give it: asking again is no use."""
    for one in (error, error.__cause__):
        status = getattr(one, "status", None)
        if isinstance(status, int) and 400 <= status < 500 and status not in _PASSING:
            return True
    return False


def _is_circle(error: Exception) -> bool:
    return any(type(one).__name__ == "TooManyRedirects" for one in (error, error.__cause__))


def _is_of_the_network(error: Exception) -> bool:
    package = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError) or package in {"aiohttp", "botocore", "aiobotocore"}


def _in_words(error: Exception) -> str:
    why = error.__cause__ if isinstance(error, FileNotFoundError) and error.__cause__ is not None else error
    return visible(without_secrets(" ".join(str(why).split()))[:160]) or type(why).__name__
