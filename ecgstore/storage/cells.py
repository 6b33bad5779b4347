"""CSV that comes from somewhere, as rows of cells: for tables of labels and for what is kept beside a store.

Its form is checked before its content is believed: the encoding, the quotes, as many cells in every row. What a cell
holds never stands in a message; its line does.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from ecgstore.errors import EcgError
from ecgstore.storage.plain import open_plain, open_text

#: What stands between the cells; where several would do, the first that makes most columns.
_DELIMITERS = (",", ";", "\t", "|")
_EXPECTED = "CSV in UTF-8, its cells between commas, semicolons or tabs"
_FIX = "save it as CSV UTF-8"

#: Number of the first line of a row, and its cells.
Rows = Callable[[], Iterator[tuple[int, Sequence[str]]]]


def open_csv(source: Path | bytes, where: object, refusal: type[EcgError]) -> tuple[list[str], Rows]:
    """The names of the columns of a file, or of its bytes, and its rows, which are read whenever they are asked for.

    Rows have as many cells as there are names, blanks before a cell are gone, and empty lines are passed over. Raises
    ``refusal`` where there is no table, or no CSV; so do the rows.
    """
    delimiter = _delimiter(source, where, refusal)
    names = next((row for _, row in _rows(source, delimiter, where, refusal) if any(map(str.strip, row))), [])
    # A column without a name can't be asked for.
    names = [" ".join(name.split()) for name in names]

    def rows() -> Iterator[tuple[int, Sequence[str]]]:
        is_header = True
        for line, row in _rows(source, delimiter, where, refusal):
            if is_header:
                is_header = not any(cell.strip() for cell in row)
            elif len(row) == len(names):
                yield line, row
            elif any(cell.strip() for cell in row):
                raise refusal(
                    f"line {line} has not as many cells as the header",
                    where=where,
                    expected=len(names),
                    got=len(row),
                    fix="put cells with the delimiter in them between double quotes",
                )

    return names, rows


def _rows(
    source: Path | bytes, delimiter: str, where: object, refusal: type[EcgError]
) -> Iterator[tuple[int, list[str]]]:
    line = 1
    try:
        with _text_of(source) as file:
            # Strict: a quote that is never closed would swallow all rows behind it.
            reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True, strict=True)
            for row in reader:
                yield line, row
                line = reader.line_num + 1
    except FileNotFoundError:
        raise refusal("the table is not there", where=where, fix="check the path") from None
    except UnicodeDecodeError:
        raise refusal("the table is not in UTF-8", where=where, expected=_EXPECTED, fix=_FIX) from None
    except csv.Error as error:
        raise refusal(
            f"the table can't be read from line {line}", where=where, expected=_EXPECTED, got=str(error)
        ) from None
    except OSError as error:
        raise refusal("the table can't be read", where=where, got=error.strerror or type(error).__name__) from None


def _text_of(source: Path | bytes) -> TextIO:
    if isinstance(source, Path):
        return open_text(source, newline="", encoding="utf-8-sig")
    return io.TextIOWrapper(io.BytesIO(source), newline="", encoding="utf-8-sig")


def _delimiter(source: Path | bytes, where: object, refusal: type[EcgError]) -> str:
    """The delimiter that makes most columns of the header. Raises ``refusal`` for what is plainly no CSV."""
    try:
        with open_plain(source) if isinstance(source, Path) else io.BytesIO(source) as file:
            start = file.read(1 << 16)
    except OSError:
        return ","  # said by whoever reads on
    kinds = {b"PK\x03\x04": "a spreadsheet or an archive", b"\xd0\xcf\x11\xe0": "a spreadsheet", b"\x1f\x8b": "gzip"}
    kinds |= {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"PAR1": "Parquet, whose name must end in .parquet"}
    for magic, kind in kinds.items():
        if start.startswith(magic):
            raise refusal("the table is no CSV", where=where, expected=_EXPECTED, got=kind, fix=_FIX)
    if b"\0" in start:
        raise refusal("the table is no CSV", where=where, expected=_EXPECTED, got="bytes of 0", fix=_FIX)
    lines = start.decode("utf-8-sig", "replace").splitlines()
    header = next((line for line in lines if line.strip()), "")
    return max(_DELIMITERS, key=lambda one: len(next(csv.reader(io.StringIO(header), delimiter=one), [])))
