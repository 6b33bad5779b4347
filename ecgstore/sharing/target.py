"""What is needed of a place where a share stands, and what holds for all such places.

A place is believed in nothing that can be tried: that it creates an object only once is proved by the marker each time
something is to be written, and a create that failed is read back, for the answer may have been lost on its way.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeVar

from ecgstore.errors import IntegrityError, StoreError, StoreFormatError, StoreNotFound, StoreUnreachable
from ecgstore.sharing import notes
from ecgstore.storage.manifest import ObjectHash

T = TypeVar("T")
R = TypeVar("R")

#: Called with bytes done and bytes in all.
Progress = Callable[[int, int], None]

#: Objects that are on their way at once.
AT_ONCE = 8
#: Bytes that are read at a time.
BLOCK = 4 << 20
#: Seconds to wait before each new try of what can be done twice.
WAITS_S = (0.2, 1.0, 4.0)


@dataclass(frozen=True, slots=True)
class Listed:
    """What a place says of an object; ``etag`` is its MD5 on many servers, and never there on a file system."""

    size: int
    etag: str | None
    modified: datetime | None


class Target(Protocol):
    """A place. Names are relative to the share, with ``/``. All raise StoreError where the place refuses."""

    @property
    def where(self) -> str:
        """What it is called in messages."""

    @property
    def can_list(self) -> bool:
        """Whether one can ask what is there."""

    def read_part(self, name: str, begin: int, end: int) -> bytes:
        """The bytes from ``begin`` up to ``end``, fewer where the object ends; raises FileNotFoundError."""

    def blocks(self, name: str, size: int) -> Iterator[bytes]:
        """An object piece by piece; stops soon beyond ``size`` bytes; raises FileNotFoundError."""

    def listed(self, prefix: str) -> dict[str, Listed]:
        """All objects below a folder."""

    def folders(self, prefix: str) -> list[str]:
        """Names of the folders in a folder, sorted."""


class Writable(Target, Protocol):
    """A place that can be written to."""

    def try_create(self, name: str, content: bytes) -> bool:
        """Write an object where there is none: False where there is one. Raises StoreUnreachable if unsure."""

    def put(self, name: str, content: bytes) -> None:
        """Write an object, whatever was there."""

    def send(self, name: str, blocks: Callable[[], Iterator[bytes]], size: int) -> None:
        """The same from ``blocks``, which may be called again; one that raises leaves the object as it was."""

    def copy(self, old: str, new: str, stated: ObjectHash) -> bool:
        """Make ``new`` what ``old`` is, without sending it; False where that can't be done."""

    def holds(self, name: str, listed: Listed, stated: ObjectHash, blocks: Callable[[], Iterator[bytes]]) -> bool:
        """Whether an object is certainly the one that is stated, of which these are the ``blocks``."""

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects; those that are not there are passed over."""

    def clear(self, prefix: str) -> int:
        """Remove whatever stands below a folder, what a killed push was writing too; how many objects there were."""

    def flush(self, prefix: str) -> None:
        """Return once all below a folder would outlive a power cut."""


def read_note(target: Target, name: str) -> bytes:
    """One of the small objects; raises FileNotFoundError, StoreFormatError where it is too large."""
    return read_bounded(target, name, notes.MOST_BYTES)


def read_bounded(target: Target, name: str, most_bytes: int) -> bytes:
    """An object of ``most_bytes`` at most; raises FileNotFoundError, StoreFormatError where it is larger."""
    content = target.read_part(name, 0, most_bytes + 1)
    if len(content) > most_bytes:
        raise StoreFormatError(
            "an object of the share is too large", where=at(target, name), expected=f"{most_bytes} bytes at most"
        )
    return content


def at(target: Target, name: str) -> str:
    """Where an object stands, in words."""
    return f"{target.where}/{name}"


def create(target: Writable, name: str, content: bytes) -> bool:
    """Write an object where there is none, and say whether it is ours that stands there now.

    ``content`` has a nonce in it, so an object of ours is known again: an answer that was lost is no refusal, nor is
    a refusal (409) a proof that anything stands there.
    """
    for wait_s in (*WAITS_S, None):
        failure: StoreError | None = None
        try:
            if target.try_create(name, content):
                return True
        except StoreUnreachable as error:
            failure = error
        with contextlib.suppress(FileNotFoundError):
            return target.read_part(name, 0, len(content) + 1) == content
        if wait_s is None:
            raise failure or StoreUnreachable(
                "the place neither creates an object nor has it", where=at(target, name), fix="try again later"
            )
        time.sleep(wait_s)
    raise AssertionError("the last try returns or raises")


def prove(target: Writable) -> None:
    """Put the marker there, and raise StoreError where a second one isn't refused: two writers would both win."""
    name, ours = notes.MARKER, notes.marker()
    is_new = create(target, name, ours)
    before = read_note(target, name)
    notes.parse_marker(before, at(target, name))
    if not is_new and before != ours:
        return  # refused, and nothing was overwritten: that is the proof
    is_accepted = False
    with contextlib.suppress(StoreUnreachable):
        is_accepted = target.try_create(name, notes.marker())
    if is_accepted or read_note(target, name) != before:
        raise StoreError(
            "this place writes over objects that it was told to create only once, so two teams could write over each "
            "other's tags",
            where=target.where,
            fix="share on a server that knows `If-None-Match: *`, such as AWS S3, Ceph or MinIO, or in a folder",
        )


def refuse_no_share(target: Target) -> None:
    """Raise StoreNotFound where no share stands."""
    try:
        notes.parse_marker(read_note(target, notes.MARKER), at(target, notes.MARKER))
    except FileNotFoundError:
        raise StoreNotFound(
            "there is no share", where=target.where, fix="check the address; `ecgstore push` makes one"
        ) from None


class Meter:
    """Counts bytes of several threads, and reports them."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._lock, self._done, self._total, self._progress = threading.Lock(), 0, total, progress

    def add(self, n_bytes: int) -> None:
        """Report so many more."""
        with self._lock:
            self._done += n_bytes
            if self._progress is not None:
                self._progress(self._done, self._total)


def each(work: Callable[[T], R], items: Iterable[T], at_once: int = AT_ONCE) -> list[R]:
    """What ``work`` gives for every item, several at once; the first that fails ends it, and is raised."""
    with ThreadPoolExecutor(max_workers=at_once) as pool:
        try:
            begun = [pool.submit(work, item) for item in items]
            done, _ = wait(begun, return_when=FIRST_EXCEPTION)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    for one in done:
        if not one.cancelled():
            one.result()
    return [one.result() for one in begun]


def checked(blocks: Iterable[bytes], stated: ObjectHash, where: object, fix: str) -> Iterator[bytes]:
    """The blocks as they come; raises IntegrityError at their end where they are not what was sealed.

    Nothing beyond the stated size is passed on.
    """
    digest, n_bytes = hashlib.sha256(), 0
    for block in blocks:
        n_bytes += len(block)
        if n_bytes > stated.size:
            break
        digest.update(block)
        yield block
    if n_bytes != stated.size:
        got = f"more than {stated.size}" if n_bytes > stated.size else n_bytes
        raise IntegrityError("an object has not the size that was sealed", where=where, expected=stated.size, got=got)
    if digest.hexdigest() != stated.sha256:
        raise IntegrityError("an object is not the one that was sealed", where=where, fix=fix)


def patiently(do: Callable[[], T]) -> T:
    """What ``do`` gives; it is tried again where the place can't be reached, so it must do no harm twice."""
    for wait_s in WAITS_S:
        try:
            return do()
        except StoreUnreachable:
            time.sleep(wait_s)
    return do()


def in_words(error: BaseException) -> str:
    """One short line out of an error of a library."""
    text = " ".join(str(error).split())
    return (text if len(text) <= 200 else f"{text[:197]}...") or type(error).__name__
