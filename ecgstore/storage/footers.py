"""The footer of a Parquet file as far as sizes go, read here because Arrow ends the process over a forged one.

Where a column's description contradicts itself or claims to be encrypted, whoever asks Arrow for it gets no exception
but the end of the process. So what is needed of it is read here, in Thrift's compact protocol: each value takes a byte
at least, so that no claim of a length makes it long. Numbers of fields are those of parquet.thrift.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

_MAGIC = b"PAR1"
#: Types of Thrift's compact protocol.
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)
_NUMBERS = (_I16, _I32, _I64)
#: Structs within structs; those of Parquet are some six deep.
_DEEPEST = 24
#: A number of 64 bits takes ten bytes.
_LONGEST = 10
_BYTE_ARRAY, _DICTIONARIES = 6, (2, 8)


class Column(NamedTuple):
    """A column within a group of rows: how many values, nulls (where that is stated), and bytes when unpacked.

    As it stands in the file it takes ``n_packed`` bytes from ``begin`` on.
    """

    name: str
    n_values: int
    n_nulls: int | None
    n_bytes: int
    begin: int
    n_packed: int
    is_text: bool
    has_dictionary: bool


class Group(NamedTuple):
    """A group of rows: its columns, its bytes when unpacked, and how many rows."""

    columns: list[Column]
    n_bytes: int
    n_rows: int


def groups_of(content: bytes) -> list[Group]:
    """The groups of rows of a file; raises ValueError where its footer makes no sense."""
    n_bytes = int.from_bytes(content[-8:-4], "little")
    if content[-4:] != _MAGIC or n_bytes > len(content) - 12:
        raise ValueError("no Parquet file, or a part of one")
    reader, groups = _Reader(content[len(content) - 8 - n_bytes : -8]), list[Group]()
    try:
        for number, kind in reader.fields():
            if (number, kind) == (4, _LIST):
                groups = [_group(reader) for _ in range(reader.length(_STRUCT))]
            else:
                reader.skip(kind)
    except IndexError:
        raise ValueError("the footer ends early") from None
    return groups


def _group(reader: _Reader) -> Group:
    columns, n_bytes, n_rows = list[Column](), 0, 0
    for number, kind in reader.fields():
        if (number, kind) == (1, _LIST):
            columns = [_column(reader) for _ in range(reader.length(_STRUCT))]
        elif number == 2 and kind in _NUMBERS:
            n_bytes = reader.number()
        elif number == 3 and kind in _NUMBERS:
            n_rows = reader.number()
        else:
            reader.skip(kind)
    return Group(columns, n_bytes, n_rows)


def _column(reader: _Reader) -> Column:
    found = None
    for number, kind in reader.fields():
        if (number, kind) == (3, _STRUCT):
            found = _description(reader)
        elif number in (8, 9):
            raise ValueError("a column is encrypted")
        else:
            reader.skip(kind)
    if found is None:
        raise ValueError("a column is not described")
    return found


def _description(reader: _Reader) -> Column:
    of_type = n_values = n_bytes = -1
    n_packed, places = 0, list[int]()
    name, n_nulls = "", None
    encodings: list[int] = []
    for number, kind in reader.fields():
        if number == 1 and kind in _NUMBERS:
            of_type = reader.number()
        elif (number, kind) == (2, _LIST):
            encodings = [reader.number() for _ in range(reader.length(_I32))]
        elif (number, kind) == (3, _LIST):
            name = ".".join(reader.text() for _ in range(reader.length(_BINARY)))
        elif number == 5 and kind in _NUMBERS:
            n_values = reader.number()
        elif number == 6 and kind in _NUMBERS:
            n_bytes = reader.number()
        elif number == 7 and kind in _NUMBERS:
            n_packed = reader.number()
        elif number in (9, 11) and kind in _NUMBERS:  # of the values and of the list that they are indices into
            places.append(reader.number())
        elif (number, kind) == (12, _STRUCT):
            n_nulls = _nulls(reader)
        else:
            reader.skip(kind)
    if n_values < 0 or n_bytes < 0:
        raise ValueError(f"the column {name[:80]} has no size")
    is_text = of_type == _BYTE_ARRAY
    has_dictionary = any(one in _DICTIONARIES for one in encodings)
    begin = min(filter(None, places), default=0)
    return Column(name, n_values, n_nulls, n_bytes, begin, n_packed, is_text, has_dictionary)


def _nulls(reader: _Reader) -> int | None:
    found = None
    for number, kind in reader.fields():
        if number == 3 and kind in _NUMBERS:
            found = reader.number()
        else:
            reader.skip(kind)
    return found


class _Reader:
    """Values one after the other; raises IndexError at the end, ValueError for what can't be."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at, self._depth = content, 0, 0

    def fields(self) -> Iterator[tuple[int, int]]:
        """Number and type of each field of a struct; whoever gets one reads it or skips it."""
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ValueError("the footer has structs within structs without end")
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self.number()
            yield number, head & 0x0F
        self._depth -= 1

    def number(self) -> int:
        """A whole number."""
        n = self._unsigned()
        return n >> 1 ^ -(n & 1)

    def text(self) -> str:
        """A text."""
        return self._bytes(self._unsigned()).decode(errors="replace")

    def length(self, of_type: int) -> int:
        """Of a list, whose elements have to be of a type."""
        head = self._byte()
        if head & 0x0F != of_type:
            raise ValueError("a list of the footer holds something else")
        return head >> 4 if head >> 4 < 15 else self._unsigned()

    def skip(self, kind: int) -> None:
        """Pass a value over."""
        if kind in _NUMBERS:
            self._unsigned()
        elif kind == _BINARY:
            self._pass(self._unsigned())
        elif kind == _STRUCT:  # as by fields(), in half of the time
            self._depth += 1
            if self._depth > _DEEPEST:
                raise ValueError("the footer has structs within structs without end")
            while head := self._byte():
                if not head >> 4:
                    self._unsigned()
                self.skip(head & 0x0F)
            self._depth -= 1
        elif kind in (_LIST, _SET):
            head = self._byte()
            self._skip_all(head >> 4 if head >> 4 < 15 else self._unsigned(), head & 0x0F)
        elif kind == _MAP:
            if n := self._unsigned():
                kinds = self._byte()
                self._skip_all(n, kinds >> 4, kinds & 0x0F)
        elif kind == _DOUBLE:
            self._pass(8)
        elif kind == _BYTE:
            self._pass(1)
        elif kind not in (_TRUE, _FALSE):  # those stand in the type itself
            raise ValueError("the footer has a value of no known type")

    def _skip_all(self, n: int, *kinds: int) -> None:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ValueError("the footer has lists within lists without end")
        for _ in range(n):
            for kind in kinds:
                self.skip(_BYTE if kind in (_TRUE, _FALSE) else kind)
        self._depth -= 1

    def _unsigned(self) -> int:
        n = self._content[self._at]
        if n < 0x80:  # as most are
            self._at += 1
            return n
        n = 0
        for i in range(_LONGEST):
            byte = self._byte()
            n |= (byte & 0x7F) << (7 * i)
            if byte < 0x80:
                return n & (2**64 - 1)
        raise ValueError("a number of the footer is too long")

    def _byte(self) -> int:
        byte = self._content[self._at]
        self._at += 1
        return byte

    def _bytes(self, n: int) -> bytes:
        begin = self._at
        self._pass(n)
        return self._content[begin : self._at]

    def _pass(self, n: int) -> None:
        if n > len(self._content) - self._at:
            raise IndexError
        self._at += n
