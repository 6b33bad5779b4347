"""A share behind a web server, to read: nothing can be listed or written there, and nothing is believed.

How much an answer may bring, how slow it may come and where it may send us on is :mod:`ecgstore.storage.web`'s.
"""

from __future__ import annotations

from collections.abc import Iterator

from ecgstore.sharing.target import Listed
from ecgstore.storage.place import place, read_part

#: So much is asked for at once; a server that gives whole files only serves objects up to this size.
PIECE_BYTES = 64 << 20


class WebTarget:
    """A share whose objects are files of a web server."""

    can_list = False

    def __init__(self, address: str) -> None:
        self.where = address
        self._root = place(address)

    def read_part(self, name: str, begin: int, end: int) -> bytes:
        return read_part(self._root, name, begin, end)

    def blocks(self, name: str, size: int) -> Iterator[bytes]:
        for begin in range(0, size, PIECE_BYTES):
            yield read_part(self._root, name, begin, min(begin + PIECE_BYTES, size))

    def listed(self, prefix: str) -> dict[str, Listed]:
        return {}

    def folders(self, prefix: str) -> list[str]:
        return []
