"""Tables that come with a folder, CSV or Parquet: rows of text cells with the number of their line.

A table comes from elsewhere, so its form is checked before its content is believed: the encoding, one name per
column, as many cells in every row. What a cell holds never stands in a message; its line does.
"""

from __future__ import annotations

import math
import operator
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from ecgstore.errors import SourceError
from ecgstore.storage.cells import open_csv
from ecgstore.storage.plain import open_plain
from ecgstore.storage.tables import unpacked_bytes

#: Endings of names that mean Parquet; a table of any other name is CSV.
PARQUET = (".parquet", ".pq")
#: Cells that say nothing, in any case: what spreadsheets, R, pandas and databases write for a missing value.
MISSING = frozenset(
    {"", "na", "n/a", "#n/a", "#na", "<na>", "n.a.", "nan", "-nan", "nat", "null", "(null)", "none", "nil", "\\n"}
    | {"-", "--", "—", "–", "?", ".", "n.a", "k.a.", "#ref!", "#value!", "#div/0!", "#name?", "#num!", "#null!"}
    | {"missing", "unknown", "undefined", "not known", "not available", "not applicable", "unbekannt"}
)
#: What a fold and an age may be.
MAX_FOLD, MAX_AGE_YEARS = 999, 120
#: No table of labels is larger; a small file of Parquet can unpack to any size.
MAX_COLUMNS, MAX_PARQUET_BYTES = 10_000, 4_000_000_000
_MAX_LINES_SAID = 5
#: Of the footer of a Parquet file.
_THRIFT_BYTES, _THRIFT_ITEMS = 16 << 20, 1 << 20
#: Bits of the whole numbers that Parquet's fractions hold without rounding; 53 for all others.
_MANTISSA_BITS = {"halffloat": 11, "float": 24}

_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)
_WHOLE_FLOAT = re.compile(r"([+-]?\d+)\.0*", re.ASCII)
#: With a point or a plus: 4e10 may be an identifier in hexadecimal.
_ROUNDED = re.compile(r"\d([.,]\d+e\+?|e\+)\d+", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Table:
    """A table whose header was read. ``counted`` is what its rows are counted in: lines of a file, or rows."""

    path: Path
    names: tuple[str, ...]
    counted: str
    _rows: Callable[[], Iterator[tuple[int, Sequence[str]]]] = field(repr=False)

    def __post_init__(self) -> None:
        """Raise SourceError where there are too many columns, or one of them stands there twice."""
        if len(self.names) > MAX_COLUMNS:
            raise SourceError("the table has too many columns", where=self.path, expected=f"at most {MAX_COLUMNS}")
        twice = sorted({name for name in self.names if name and self.names.count(name) > 1})
        if twice:
            raise SourceError(
                "a column stands in the table twice",
                where=self.path,
                got=", ".join(twice[:5]),
                fix="remove or rename one",
            )

    def cells(self, columns: Sequence[str]) -> Iterator[tuple[int, tuple[str, ...]]]:
        """Line number and cells of ``columns``, row by row, ``""`` where one is missing; blank rows are passed over.

        Raises SourceError where a column is not there, a row has too few or too many cells or can't be read.
        """
        missing = [column for column in columns if column not in self.names]
        if missing:
            raise SourceError("columns are missing", where=self.path, expected=", ".join(map(repr, missing)))
        at = [self.names.index(column) for column in columns]
        pick = operator.itemgetter(*at) if len(at) > 1 else lambda row: tuple(row[i] for i in at)
        for line, row in self._rows():
            cells = pick(row)
            # A plain loop: a table may have a million rows, and nearly all of them need nothing.
            for cell in cells:
                if cell.lower() in MISSING or not cell.isprintable() or cell != cell.strip():
                    cells = tuple(self._clean(cell, line) for cell in cells)
                    break
            if not any(cells) and all(cell.strip().lower() in MISSING for cell in row):
                continue
            yield line, cells

    def faults(self) -> Faults:
        """A collection of what is wrong with this table's cells."""
        return Faults(self.path, self.counted)

    def _clean(self, cell: str, line: int) -> str:
        text = cell.strip()
        if not text.isprintable():
            text = " ".join(text.split())
            if not text.isprintable():
                raise SourceError(f"a control character in {self.counted} {line}", where=self.path, fix="remove it")
        return "" if text.lower() in MISSING else text


class Faults:
    """What is wrong with cells, by column and kind: all lines are said at once, and none of what stands there."""

    def __init__(self, where: Path, counted: str) -> None:
        self._where, self._counted = where, counted
        self._lines: dict[str, list[int]] = {}

    def add(self, what: str, line: int) -> None:
        """Note that ``what`` is the matter in this line."""
        self._lines.setdefault(what, []).append(line)

    def sentences(self) -> tuple[str, ...]:
        """One for each kind of fault, with its lines."""
        return tuple(f"{what} ({self._said(lines)})" for what, lines in self._lines.items())

    def refuse(self, fix: str | None = None) -> None:
        """Raise SourceError if there is any."""
        if self._lines:
            raise SourceError("; ".join(self.sentences()), where=self._where, fix=fix)

    def _said(self, lines: list[int]) -> str:
        some = ", ".join(map(str, lines[:_MAX_LINES_SAID]))
        more = len(lines) - _MAX_LINES_SAID
        return f"{self._counted}{'s' * (len(lines) > 1)} {some}" + (f" and {more} more" if more > 0 else "")


def open_table(path: Path, separator: str = ";") -> Table:
    """Read the header of a table; ``separator`` joins the items of Parquet's lists.

    Raises SourceError where it is not there or no table, or where a column stands in it twice.
    """
    return _open_parquet(path, separator) if path.suffix.lower() in PARQUET else _open_csv(path)


def number(text: str, low: float, high: float) -> float | None:
    """A finite decimal number from ``low`` to ``high``; None for anything else. A decimal comma will do."""
    if not _NUMBER.fullmatch(text):
        return None
    value = float(text.replace(",", "."))
    return value if math.isfinite(value) and low <= value <= high else None


def whole(text: str, low: int, high: int) -> int | None:
    """A whole number from ``low`` to ``high``, which may be written as ``2.0``; None for anything else."""
    value = number(text, low, high)
    return int(value) if value is not None and value.is_integer() else None


def unfloated(text: str) -> str:
    """``12345`` for ``12345.0``: a column of whole numbers with a gap in it is often written as decimal fractions."""
    match = _WHOLE_FLOAT.fullmatch(text) if "." in text else None
    return match[1] if match else text


def composed(text: str) -> str:
    """A text in the one form (NFC) of the two in which Unicode can write ``ü``: macOS names files in the other."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def note_rounded(text: str, column: str, line: int, faults: Faults) -> None:
    """Add to ``faults`` a number that is written as ``1.23457E+11``: several identifiers may have become this one."""
    if ("e" in text or "E" in text) and _ROUNDED.fullmatch(text):
        faults.add(f"column {column} holds a number that a spreadsheet or a column of fractions has rounded", line)


def identifier(text: str, column: str, line: int, faults: Faults) -> str:
    """An identifier in the one way of writing it; one that was rounded is added to ``faults``."""
    note_rounded(text, column, line, faults)
    return composed(unfloated(text))


def leaves_folder(below: str) -> bool:
    """Whether a path that should stand below a folder may lead out of it."""
    return below.startswith(("/", "\\")) or ".." in below or ":" in below[:3]


# ── CSV ──────────────────────────────────────────────────────────────────────────────────────────────────


def _open_csv(path: Path) -> Table:
    names, rows = open_csv(path, path, SourceError)
    return Table(path, tuple(names), "line", rows)


# ── Parquet ──────────────────────────────────────────────────────────────────────────────────────────────


def _open_parquet(path: Path, separator: str) -> Table:
    table = _read_parquet(path)

    def rows() -> Iterator[tuple[int, Sequence[str]]]:
        try:
            columns = [_texts(column, separator) for column in table.columns]
        except (ValueError, OverflowError, ArithmeticError) as error:  # a date that Python doesn't know, and the like
            raise _unreadable(path, error) from None
        yield from enumerate(zip(*columns, strict=True), start=1)

    names = tuple(" ".join(name.split()) for name in table.column_names)
    return Table(path, names, "row", rows)


def _read_parquet(path: Path) -> Any:
    """The whole table, once its sizes are known. Texts come as indices: few bytes can stand for gigabytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    bounds = {"thrift_string_size_limit": _THRIFT_BYTES, "thrift_container_size_limit": _THRIFT_ITEMS}
    try:
        with open_plain(path) as opened:
            about = pq.ParquetFile(opened, pre_buffer=False, **bounds).metadata
            _refuse_large(path, "columns", about.num_columns, MAX_COLUMNS)
            _refuse_large(path, "rows", about.num_rows, MAX_PARQUET_BYTES // (8 * max(about.num_columns, 1)))
            groups = [about.row_group(i) for i in range(about.num_row_groups)]
            _refuse_large(path, "bytes", sum(group.total_byte_size for group in groups), MAX_PARQUET_BYTES)
            leaves = [about.schema.column(i) for i in range(about.num_columns)]
            texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
            # Without threads: see docs/adr/0008.
            table = pq.ParquetFile(opened, read_dictionary=texts, pre_buffer=False, **bounds).read(use_threads=False)
        _refuse_large(path, "bytes in memory", unpacked_bytes(table), MAX_PARQUET_BYTES // 4)
        table.validate(full=True)  # Arrow takes any bytes for a text
        names = list(table.column_names)
    except FileNotFoundError:
        raise SourceError("the table is not there", where=path, fix="check the path") from None
    except (OSError, pa.ArrowException, ValueError, TypeError, KeyError, OverflowError, MemoryError) as error:
        raise _unreadable(path, error) from None
    return table.rename_columns(names)


def _refuse_large(path: Path, what: str, n: int, most: int) -> None:
    if n > most:
        raise SourceError("the table is too large", where=path, expected=f"at most {most} {what}", got=n)


def _unreadable(path: Path, error: Exception) -> SourceError:
    got = " ".join(str(error).split())[:160] or type(error).__name__
    return SourceError("the table can't be read as Parquet", where=path, got=got)


def _texts(column: Any, separator: str) -> list[str]:
    """The cells of a column as they would stand in CSV. Raises ValueError where bytes are no text."""
    import pyarrow as pa

    kind = column.type
    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind = kind.value_type
    exact = 2.0 ** _MANTISSA_BITS.get(str(kind), 53)
    return [_text(value, separator, exact) for value in column.to_pylist()]


def _text(value: Any, separator: str, exact: float) -> str:
    """A Parquet value as it would stand in CSV. Whole numbers that a missing cell made floats are whole again.

    Floats from ``exact`` on can't hold every whole number: they are written as what they are, rounded.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and abs(value) >= exact:
        return f"{value:.6e}"
    if isinstance(value, float | Decimal) and math.isfinite(value) and value == int(value):
        return str(int(value))
    if isinstance(value, list):
        return separator.join(_text(item, separator, exact) for item in value)
    # Programs that know no texts write them as bytes.
    return value.decode() if isinstance(value, bytes) else str(value)
