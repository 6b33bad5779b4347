"""How large the rows of an Arrow IPC file are once they are unpacked, read here because pyarrow knows no limit.

A packed buffer says how long it will be, and Arrow asks for as much: thirty kilobytes can become gigabytes. So the
lengths are added up before anything is unpacked. The layout is that of Flatbuffers: a table begins with how far before
it the list of its fields stands, each of them a distance from its beginning, or 0. Numbers of fields are those of
Arrow's File.fbs and Message.fbs.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

_MARK = b"ARROW1"
#: What a file ends with: the length of its footer, and a word.
_END_BYTES = 4 + len(_MARK)
#: Before each message: this, and its length. Files of before 2019 lack it.
_CONTINUATION = 0xFFFFFFFF
_PREFIX_BYTES = 8
#: Since version 5 of the metadata the packing is said in a field of its own, and nowhere else.
_VERSION_5 = 4
_RECORD_BATCH = 3
_DICTIONARIES, _BATCHES = 2, 3
_BLOCK_BYTES, _BUFFER_BYTES = 24, 16
#: A packed buffer begins with its length when unpacked; with -1 where it isn't packed after all.
_LENGTH_BYTES = 8


class Size(NamedTuple):
    """Rows in all batches of a file, and the bytes of their columns when unpacked."""

    n_rows: int
    n_bytes: int


def size_of(content: bytes) -> Size:
    """The size of an Arrow IPC file. Raises ValueError where it is none, has dictionaries, or makes no sense."""
    try:
        return _size_of(content)
    except struct.error:
        raise ValueError("a part of an Arrow file lies outside of it") from None


def _size_of(content: bytes) -> Size:
    if content[-len(_MARK) :] != _MARK:
        raise ValueError("no Arrow file, or a part of one")
    n_footer = int.from_bytes(content[-_END_BYTES:][:4], "little")
    if n_footer > len(content) - _END_BYTES:
        raise ValueError("the footer is longer than the file")
    footer = _Table.root(content[len(content) - _END_BYTES - n_footer : len(content) - _END_BYTES])
    if footer.vector(_DICTIONARIES)[1]:
        raise ValueError("a column is packed as indices into a list")
    first, n_blocks = footer.vector(_BATCHES)
    n_rows = n_bytes = 0
    for i in range(n_blocks):
        begin, n_metadata = struct.unpack_from("<qi", footer.content, _within(first + _BLOCK_BYTES * i))
        one = _batch(content, _within(begin), n_metadata)
        n_rows, n_bytes = n_rows + one.n_rows, n_bytes + one.n_bytes
    return Size(n_rows, n_bytes)


def _batch(content: bytes, begin: int, n_metadata: int) -> Size:
    """The size of the batch whose message begins there."""
    mark, length = struct.unpack_from("<II", content, begin)
    if mark != _CONTINUATION or length != n_metadata - _PREFIX_BYTES:
        raise ValueError("a batch of rows does not begin where the footer says")
    message = _Table.root(content[begin + _PREFIX_BYTES : begin + n_metadata])
    if message.number(0, "<h") != _VERSION_5 or message.number(1, "<B") != _RECORD_BATCH:
        raise ValueError("a batch of rows is none, or of another version")
    batch = message.table(2)
    if batch is None:
        raise ValueError("a batch of rows is not described")
    is_packed = batch.table(3) is not None
    first, n_buffers = batch.vector(2)
    n_bytes = 0
    for i in range(n_buffers):
        offset, size = struct.unpack_from("<qq", batch.content, _within(first + _BUFFER_BYTES * i))
        if size and is_packed:
            (unpacked,) = struct.unpack_from("<q", content, _within(begin + n_metadata + offset))
            size = size - _LENGTH_BYTES if unpacked == -1 else unpacked
        n_bytes += _within(size)
    return Size(_within(batch.number(0, "<q")), n_bytes)


def _within(value: int) -> int:
    """A length or a place; struct would count a negative one from the end."""
    if value < 0:
        raise ValueError("a length or a place is negative")
    return value


class _Table(NamedTuple):
    """A table of Flatbuffers: where it begins, and where the list of its fields does."""

    content: bytes
    at: int
    fields: int

    @classmethod
    def root(cls, content: bytes) -> _Table:
        return cls.begun(content, struct.unpack_from("<I", content, 0)[0])

    @classmethod
    def begun(cls, content: bytes, at: int) -> _Table:
        return cls(content, at, _within(at - struct.unpack_from("<i", content, at)[0]))

    def place(self, number: int) -> int:
        """Where a field stands; 0 where it isn't stated."""
        (n_bytes,) = struct.unpack_from("<H", self.content, self.fields)
        if 4 + 2 * number + 2 > n_bytes:
            return 0
        (distance,) = struct.unpack_from("<H", self.content, self.fields + 4 + 2 * number)
        return self.at + int(distance) if distance else 0

    def number(self, number: int, form: str) -> int:
        place = self.place(number)
        return int(struct.unpack_from(form, self.content, place)[0]) if place else 0

    def table(self, number: int) -> _Table | None:
        place = self.place(number)
        return _Table.begun(self.content, place + struct.unpack_from("<I", self.content, place)[0]) if place else None

    def vector(self, number: int) -> tuple[int, int]:
        """Where the first element of a list stands, and how many there are."""
        place = self.place(number)
        if not place:
            return 0, 0
        at = place + struct.unpack_from("<I", self.content, place)[0]
        return at + 4, struct.unpack_from("<I", self.content, at)[0]
