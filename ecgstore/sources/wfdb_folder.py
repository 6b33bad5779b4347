"""Any folder of WFDB records, searched through all its subfolders, with an optional table of labels.

``labels.csv`` has a header line. ``record_id`` is required; ``patient_id``, ``fold``, ``age_years`` and
``sex`` are understood; every other column is a coding system whose cells hold codes separated by ``;``.
A record's id is its path below the folder, without suffix; the last part alone will do where it is unique.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal, TypeVar

from ecgstore import settings
from ecgstore.errors import SourceError
from ecgstore.record import Listing, RecordRef, Rejection, Sex, Statement, Terms

TERMS = Terms(
    name="wfdb_folder",
    version="",
    licence="as agreed with whoever supplied the folder",
    redistributable=False,
)

N = TypeVar("N", int, float)

_PLAIN_COLUMNS = ("record_id", "patient_id", "fold", "age_years", "sex")
_SEX: Mapping[str, Sex] = {"f": "female", "female": "female", "m": "male", "male": "male"}


class Settings(settings.Settings):
    """Options of a plain WFDB folder."""

    name: Literal["wfdb_folder"] = "wfdb_folder"
    #: Table of labels; relative paths are tried below the source folder too.
    labels: Path | None = None


def list_records(root: Path, settings: Settings) -> Listing:
    """List every ``.hea`` below ``root`` that is not a segment of another; raises SourceError for bad labels."""
    paths = sorted(_headers(root), key=lambda path: path.relative_to(root).as_posix())
    ids = [path.relative_to(root).as_posix() for path in paths]
    if settings.labels is None:
        return Listing(tuple(map(RecordRef, ids, paths)), (), TERMS)
    rows, systems = read_labels(_labels_path(root, settings.labels))
    by_id = _by_any_name(ids, paths)
    rejected = [
        Rejection(row["record_id"], "missing_header", "in the labels only")
        for row in rows
        if row["record_id"] not in by_id
    ]
    labelled = {by_id[row["record_id"]]: row for row in rows if row["record_id"] in by_id}
    refs = [
        reference(record_id, path, labelled.get(path, {}), systems) for record_id, path in zip(ids, paths, strict=True)
    ]
    return Listing(tuple(refs), tuple(rejected), TERMS, vocabulary(refs, systems))


def read_labels(path: Path) -> tuple[list[dict[str, str]], tuple[str, ...]]:
    """Read a table of labels: its rows, and the names of its statement columns."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = [{key: (value or "").strip() for key, value in row.items() if key} for row in reader]
            columns = tuple(reader.fieldnames or ())
    except FileNotFoundError:
        raise SourceError("the table of labels is not there", where=path) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError("the table of labels can't be read", where=path, got=str(error)) from None
    if "record_id" not in columns:
        raise SourceError(
            "the table of labels has no column record_id",
            where=path,
            got=", ".join(columns) or "an empty file",
            fix="name the column that holds the record's path or name record_id",
        )
    return rows, tuple(column for column in columns if column not in _PLAIN_COLUMNS)


def reference(record_id: str, path: Path, row: Mapping[str, str], systems: Iterable[str]) -> RecordRef:
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
            for code in row.get(system, "").split(";")
            if code.strip()
        ),
    )


def vocabulary(refs: Iterable[RecordRef], systems: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Every code that the records state, by coding system."""
    stated: dict[str, set[str]] = {system: set() for system in systems}
    for ref in refs:
        for statement in ref.statements:
            stated[statement.system].add(statement.code)
    return {system: tuple(sorted(codes)) for system, codes in stated.items()}


def _number(row: Mapping[str, str], column: str, record_id: str, kind: Callable[[float], N]) -> N | None:
    text = row.get(column, "")
    if not text:
        return None
    try:
        return kind(float(text))
    except ValueError:
        raise SourceError(f"column {column} of record {record_id} is not a number", got=repr(text)) from None


def _headers(root: Path) -> Iterable[Path]:
    """Every record's path without suffix; segments that a multi-segment header names are parts, not records."""
    for folder, subfolders, files in os.walk(root):
        subfolders.sort()
        names = sorted(name[:-4] for name in files if name.endswith(".hea"))
        parts = {part for name in names for part in _segments(Path(folder, name + ".hea"))}
        yield from (Path(folder, name) for name in names if name not in parts)


def _segments(hea: Path) -> set[str]:
    with hea.open("rb") as file:
        lines = [line.split() for line in file.read(1 << 20).decode("latin-1").splitlines()]
    lines = [fields for fields in lines if fields and not fields[0].startswith("#")]
    if not lines or "/" not in lines[0][0]:
        return set()
    return {fields[0] for fields in lines[1:]}


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
