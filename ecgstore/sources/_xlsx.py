"""The first sheet of an Excel file (.xlsx) as a table of texts, for sources that are published so.

Such a file is a zip of XML. It comes from elsewhere: sizes are bounded before anything is unpacked, XML with
definitions of its own is refused, and nothing in it is computed.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

from ecgstore.errors import SourceError
from ecgstore.sources._tables import MAX_COLUMNS, Table
from ecgstore.storage.plain import open_plain

#: No table of labels is larger, unpacked.
MAX_BYTES = 16_000_000
_MAX_ROWS = 1_000_000
_PLACE = re.compile(r"([A-Z]{1,3})([0-9]{1,7})")
_RELATION = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"


def open_sheet(path: Path) -> Table:
    """The first sheet of the file; its first row names the columns. Raises SourceError where it is no such file."""
    try:
        with open_plain(path) as file, zipfile.ZipFile(file) as archive:
            rows = dict(_rows(_part(archive, _first_sheet(archive)), _texts(archive)))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, ElementTree.ParseError, NotImplementedError) as error:
        raise SourceError(
            "the table is no Excel file (.xlsx) that can be read",
            where=path,
            got=type(error).__name__,
            fix="save its sheet as CSV UTF-8 beside it",
        ) from None
    if not rows:
        raise SourceError("the table is empty", where=path)
    first = min(rows)
    width = max(rows[first], default=-1) + 1
    names = tuple(rows[first].get(at, "").strip() for at in range(width))

    def cells() -> Iterator[tuple[int, Sequence[str]]]:
        for line in sorted(rows):
            if line > first:
                if any(at >= width for at in rows[line]):
                    raise SourceError(
                        f"row {line} has cells beyond the columns that the header names",
                        where=path,
                        expected=width,
                        got=max(rows[line]) + 1,
                        fix="name the column, or empty the cell",
                    )
                yield line, [rows[line].get(at, "") for at in range(width)]

    return Table(path, names, "row", cells)


def _part(archive: zipfile.ZipFile, name: str) -> ElementTree.Element:
    """One XML file of the archive."""
    about = archive.getinfo(name)
    if about.file_size > MAX_BYTES:
        raise ValueError("too large")
    with archive.open(about) as file:
        content = file.read(MAX_BYTES + 1)
    # What an XML defines by itself can grow without bounds; Excel writes none of it.
    if len(content) > MAX_BYTES or b"<!" in content.replace(b"<!--", b""):
        raise ValueError("definitions")
    return ElementTree.fromstring(content)


def _first_sheet(archive: zipfile.ZipFile) -> str:
    book, links = _part(archive, "xl/workbook.xml"), _part(archive, "xl/_rels/workbook.xml.rels")
    sheet = next(one for one in book.iter() if _tag(one) == "sheet")
    target = next(one.get("Target", "") for one in links if one.get("Id") == sheet.get(_RELATION))
    return target.lstrip("/") if target.startswith("/") else f"xl/{target}"


def _texts(archive: zipfile.ZipFile) -> list[str]:
    """The texts that cells refer to by number."""
    if "xl/sharedStrings.xml" not in archive.namelist():
        return []
    return [_text(one) for one in _part(archive, "xl/sharedStrings.xml") if _tag(one) == "si"]


def _rows(sheet: ElementTree.Element, texts: Sequence[str]) -> Iterator[tuple[int, dict[int, str]]]:
    """Row number and cells by column, without what is empty."""
    for number, row in enumerate((one for one in sheet.iter() if _tag(one) == "row"), start=1):
        if number > _MAX_ROWS:
            raise ValueError("too many rows")
        line, found = int(row.get("r", number)), {}
        for at, cell in enumerate(one for one in row if _tag(one) == "c"):
            place = _PLACE.fullmatch(cell.get("r", ""))
            column = _column(place[1]) if place else at
            if column >= MAX_COLUMNS:
                raise ValueError("too many columns")
            if text := _value(cell, texts):
                found[column] = text
        yield line, found


def _value(cell: ElementTree.Element, texts: Sequence[str]) -> str:
    kind = cell.get("t", "n")
    if kind == "inlineStr":
        return _text(cell)
    value = next((one.text or "" for one in cell if _tag(one) == "v"), "")
    if kind == "s" and value:
        return texts[int(value)]
    return "" if kind == "e" else value


def _text(element: ElementTree.Element) -> str:
    return "".join(one.text or "" for one in element.iter() if _tag(one) == "t")


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _column(letters: str) -> int:
    number = 0
    for letter in letters:
        number = 26 * number + ord(letter) - ord("A") + 1
    return number - 1
