"""Any folder of WFDB records, searched through all its subfolders, with an optional table of labels.

The table is CSV with a header line, or Parquet. ``record_id`` is required; ``patient_id``, ``fold``, ``age_years``,
``sex`` and ``site`` are understood; every other column is a coding system whose cells hold codes separated by
``;``. Where the table was not made for this, ``columns`` and ``statements`` say which of its columns is which, and
no other column is read. A record's id is its path below the folder, without suffix; the last part alone will do
where it is unique.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, field_validator

from ecgstore import settings
from ecgstore.errors import SourceError, nearest
from ecgstore.record import Listing, RecordRef, Rejection, Sex, Statement, Terms
from ecgstore.sources._walk import walk

TERMS = Terms(
    name="wfdb_folder",
    version="",
    licence="as agreed with whoever supplied the folder",
    redistributable=False,
)

N = TypeVar("N", int, float)

_PLAIN_COLUMNS = ("record_id", "patient_id", "fold", "age_years", "sex", "site")
_SEX: Mapping[str, Sex] = {"f": "female", "female": "female", "m": "male", "male": "male"}
#: Endings of names that mean Parquet; a table of any other name is CSV.
_PARQUET = (".parquet", ".pq")


class Settings(settings.Settings):
    """Options of a plain WFDB folder."""

    name: Literal["wfdb_folder"] = "wfdb_folder"
    #: Table of labels, CSV or Parquet; relative paths are tried below the source folder too.
    labels: Path | None = None
    #: What the table calls the columns that are understood: ours → theirs.
    columns: dict[str, str] = Field(default_factory=dict)
    #: Coding system → the table's column of its codes. None takes every column that is not understood.
    statements: dict[str, str] | None = None
    #: What stands between the codes of a cell.
    separator: str = Field(";", min_length=1)

    @field_validator("columns")
    @classmethod
    def _ours(cls, columns: dict[str, str]) -> dict[str, str]:
        for name in columns:
            if name not in _PLAIN_COLUMNS:
                near = nearest(name, _PLAIN_COLUMNS)
                hint = f"did you mean {near}?" if near else f"known: {', '.join(_PLAIN_COLUMNS)}"
                raise ValueError(f"unknown column {name!r}, {hint}")
        return columns


def list_records(root: Path, settings: Settings) -> Listing:
    """List every header below ``root`` that is not a segment of another; raises SourceError for bad labels."""
    found = walk(root)
    ids = found.stems
    paths = [root / record_id for record_id in ids]
    if settings.labels is None:
        return Listing(tuple(map(RecordRef, ids, paths)), found.rejected, TERMS, notes=found.notes)
    rows, systems = read_labels(_labels_path(root, settings.labels), settings)
    by_id = _by_any_name(ids, paths)
    rejected = [
        Rejection(row["record_id"], "missing_header", "in the labels only")
        for row in rows
        if row["record_id"] not in by_id
    ]
    labelled = {by_id[row["record_id"]]: row for row in rows if row["record_id"] in by_id}
    refs = [
        reference(record_id, path, labelled.get(path, {}), systems, settings.separator)
        for record_id, path in zip(ids, paths, strict=True)
    ]
    left_out = (*found.rejected, *rejected)
    return Listing(tuple(refs), left_out, TERMS, vocabulary(refs, systems), notes=found.notes)


def read_labels(path: Path, settings: Settings | None = None) -> tuple[list[dict[str, str]], tuple[str, ...]]:
    """Read a table of labels: its rows, by our names of columns and by coding system, and the coding systems.

    Raises SourceError where the table can't be read or has not the columns that ``settings`` name.
    """
    settings = settings or Settings()
    read = _read_parquet if path.suffix.lower() in _PARQUET else _read_csv
    names, rows = read(path, settings.separator)
    theirs = {name: name for name in _PLAIN_COLUMNS if name in names} | settings.columns
    if "record_id" not in theirs:
        raise SourceError(
            "the table of labels has no column record_id",
            where=path,
            got=", ".join(names) or "an empty file",
            fix="name the column that holds the record's path or name record_id, or say source.columns.record_id=…",
        )
    if settings.statements is None:
        used = set(theirs.values())
        codes = {name: name for name in names if name not in used}
    else:
        codes = settings.statements
    for word, wanted in (("columns", settings.columns), ("statements", settings.statements or {})):
        _require(wanted, names, word, path)
    # A coding system may be called like one of our columns, so its cells stand under a name of their own.
    picked = [(ours, name) for ours, name in theirs.items()] + [(_cell(system), name) for system, name in codes.items()]
    return [{key: row[name] for key, name in picked} for row in rows], tuple(codes)


def reference(
    record_id: str, path: Path, row: Mapping[str, str], systems: Iterable[str], separator: str = ";"
) -> RecordRef:
    """Make the reference of one record from its row of labels; cells that are empty say nothing."""
    return RecordRef(
        record_id=record_id,
        path=path,
        patient_id=row.get("patient_id") or None,
        fold=_number(row, "fold", record_id, int),
        age_years=_number(row, "age_years", record_id, float),
        sex=_SEX.get(row.get("sex", "").lower()),
        statements=tuple(
            Statement(code.strip(), system)
            for system in systems
            for code in row.get(_cell(system), "").split(separator)
            if code.strip()
        ),
        site=row.get("site") or None,
    )


def vocabulary(refs: Iterable[RecordRef], systems: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Every code that the records state, by coding system."""
    stated: dict[str, set[str]] = {system: set() for system in systems}
    for ref in refs:
        for statement in ref.statements:
            stated[statement.system].add(statement.code)
    return {system: tuple(sorted(codes)) for system, codes in stated.items()}


def _cell(system: str) -> str:
    return f"statements.{system}"


def _require(wanted: Mapping[str, str], names: Iterable[str], word: str, path: Path) -> None:
    names = tuple(names)
    for ours, name in wanted.items():
        if name not in names:
            near = nearest(name, names)
            raise SourceError(
                f"the table of labels has no column {name!r}, which source.{word}.{ours} names",
                where=path,
                fix=f"did you mean {near!r}?" if near else f"it has: {', '.join(names)}",
            )


def _read_csv(path: Path, separator: str) -> tuple[tuple[str, ...], list[dict[str, str]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = [{key: (value or "").strip() for key, value in row.items() if key} for row in reader]
            return tuple(name for name in reader.fieldnames or () if name), rows
    except FileNotFoundError:
        raise SourceError("the table of labels is not there", where=path) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError("the table of labels can't be read", where=path, got=str(error)) from None


def _read_parquet(path: Path, separator: str) -> tuple[tuple[str, ...], list[dict[str, str]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Without threads: see docs/adr/0008.
        with path.open("rb") as file:
            table = pq.ParquetFile(file).read(use_threads=False)
    except FileNotFoundError:
        raise SourceError("the table of labels is not there", where=path) from None
    except (OSError, pa.ArrowException) as error:
        got = str(error).splitlines()[0]
        raise SourceError("the table of labels can't be read as Parquet", where=path, got=got) from None
    rows = [{name: _text(value, separator) for name, value in row.items()} for row in table.to_pylist()]
    return tuple(table.column_names), rows


def _text(value: Any, separator: str) -> str:
    """A Parquet value as it would stand in CSV. Whole numbers that a missing cell made floats are whole again."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list):
        return separator.join(_text(item, separator) for item in value)
    return str(value).strip()


def _number(row: Mapping[str, str], column: str, record_id: str, kind: Callable[[float], N]) -> N | None:
    text = row.get(column, "")
    if not text:
        return None
    try:
        return kind(float(text))
    except (ValueError, OverflowError):
        raise SourceError(f"column {column} of record {record_id} is not a number", got=repr(text)) from None


def _labels_path(root: Path, labels: Path) -> Path:
    below = root / labels
    return below if not labels.exists() and below.exists() else labels


def _by_any_name(ids: Iterable[str], paths: Iterable[Path]) -> dict[str, Path]:
    by_name: dict[str, Path] = {}
    ambiguous: set[str] = set()
    pairs = list(zip(ids, paths, strict=True))
    for _, path in pairs:
        (ambiguous.add if path.name in by_name else lambda _: None)(path.name)
        by_name[path.name] = path
    return {name: path for name, path in by_name.items() if name not in ambiguous} | dict(pairs)
