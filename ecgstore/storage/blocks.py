"""An object that is read in blocks, each known by a hash that the root states: a part of a large table from afar.

The hash of a whole object says nothing of its parts. So the root of a store, which the manifest seals, states the hash
of each block of the tables that are large; whoever reads a few columns fetches the blocks that they stand in.
"""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

from ecgstore.storage import validate
from ecgstore.storage.objects import Objects

#: The attribute of the root.
ATTRIBUTE = "blocks"
#: Bytes of each block but the last.
BLOCK_BYTES = 1 << 18
#: Smaller objects are read as a whole.
LEAST_BYTES = 1 << 20
#: Parts that are fetched at the same time.
AT_ONCE = 8


def of(
    attributes: Mapping[str, Any],
    name: str,
    n_bytes: int,
    read: Callable[[int, int], bytes],
    refuse: Callable[[], NoReturn],
    where: object,
) -> Blocks | None:
    """The blocks of an object, if the root of its store states their hashes in its ``attributes``.

    Raises StoreFormatError where it states another number of them than there are.
    """
    said = attributes.get(ATTRIBUTE, {"sha256": {}})
    if (sha256 := said["sha256"].get(name)) is None:
        return None
    block_bytes = int(said["block_bytes"])
    if len(sha256) != -(-n_bytes // block_bytes):
        validate.refuse("the root states hashes of other blocks", where, -(-n_bytes // block_bytes), len(sha256))
    return Blocks(read, n_bytes, block_bytes, sha256, refuse)


def stated(name: str, content: bytes | Path) -> dict[str, Any]:
    """What the root states of an object: nothing where it is small."""
    n_bytes = len(content) if isinstance(content, bytes) else content.stat().st_size
    if n_bytes < LEAST_BYTES:
        return {}
    with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
        sha256 = _hashed(iter(lambda: file.read(BLOCK_BYTES), b""))
    return {ATTRIBUTE: {"block_bytes": BLOCK_BYTES, "sha256": {name: sha256}}}


def hashes(objects: Objects, name: str, n_bytes: int, block_bytes: int) -> list[str]:
    """Those of the blocks of an object as it stands there."""
    return _hashed(objects.read(name, begin, begin + block_bytes) for begin in range(0, n_bytes, block_bytes))


def _hashed(parts: Iterable[bytes]) -> list[str]:
    return [hashlib.sha256(part).hexdigest() for part in parts]


class Blocks:
    """The bytes of an object; what was fetched is kept. May be used by several threads.

    ``read`` gives the bytes from one place up to another; ``refuse`` is called where they are not what was sealed.
    """

    def __init__(
        self,
        read: Callable[[int, int], bytes],
        n_bytes: int,
        block_bytes: int,
        sha256: Sequence[str],
        refuse: Callable[[], NoReturn],
    ) -> None:
        self._read, self._block_bytes, self._sha256, self._refuse = read, block_bytes, sha256, refuse
        self._there: dict[int, bytes] = {}
        self._lock = threading.Lock()
        self.n_bytes = n_bytes

    def __len__(self) -> int:
        return self.n_bytes

    def part(self, begin: int, end: int) -> bytes:
        """The bytes from ``begin`` up to ``end``, fewer where the object ends."""
        begin, end = max(begin, 0), min(end, self.n_bytes)
        if begin >= end:
            return b""
        self.fetch([(begin, end)])
        first = begin // self._block_bytes
        whole = b"".join(self._there[block] for block in range(first, -(-end // self._block_bytes)))
        return whole[begin - first * self._block_bytes : end - first * self._block_bytes]

    def fetch(self, parts: Iterable[tuple[int, int]]) -> None:
        """Have these parts here, those that are apart fetched at the same time: each wait costs as much as the way."""
        with self._lock:
            if not (runs := _runs(self._missing(parts))):
                return
            if len(runs) == 1:
                self._fetch(runs[0])
                return
            with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="ecgstore-blocks") as threads:
                list(threads.map(self._fetch, runs))

    def _missing(self, parts: Iterable[tuple[int, int]]) -> list[int]:
        wanted: set[int] = set()
        for begin, end in parts:
            begin, end = max(begin, 0), min(end, self.n_bytes)
            wanted.update(range(begin // self._block_bytes, -(-end // self._block_bytes)))
        return sorted(wanted - self._there.keys())

    def _fetch(self, run: range) -> None:
        begin, end = run.start * self._block_bytes, min(run.stop * self._block_bytes, self.n_bytes)
        content = self._read(begin, end)
        if len(content) != end - begin:
            self._refuse()
        for block in run:
            its = content[(block - run.start) * self._block_bytes :][: self._block_bytes]
            if hashlib.sha256(its).hexdigest() != self._sha256[block]:
                self._refuse()
            self._there[block] = its

    def file(self) -> io.RawIOBase:
        """The object as a file for whoever wants one."""
        return _File(self)


def _runs(numbers: Sequence[int]) -> list[range]:
    """Neighbours together."""
    runs: list[range] = []
    for number in numbers:
        if runs and runs[-1].stop == number:
            runs[-1] = range(runs[-1].start, number + 1)
        else:
            runs.append(range(number, number + 1))
    return runs


class _File(io.RawIOBase):
    def __init__(self, blocks: Blocks) -> None:
        self._blocks, self._at = blocks, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + (0, self._at, len(self._blocks))[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        part = self._blocks.part(self._at, self._at + len(buffer))
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)
