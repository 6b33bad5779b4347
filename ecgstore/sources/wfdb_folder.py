"""Any folder of WFDB records, searched through all its subfolders, with an optional table of labels.

The table is CSV with a header line, or Parquet; :mod:`ecgstore.sources._labels` says which of its columns are read.
A record's id is its path below the folder, without suffix; in the table the last part alone will do where it is
unique.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from ecgstore import settings
from ecgstore.errors import nearest
from ecgstore.record import Listing, RecordRef, Terms
from ecgstore.sources._labels import ALIASES, Label, by_record, read_labels, system_of
from ecgstore.sources._walk import walk

TERMS = Terms(
    name="wfdb_folder",
    version="",
    licence="as agreed with whoever supplied the folder",
    redistributable=False,
)


class Settings(settings.Settings):
    """Options of a plain WFDB folder."""

    name: Literal["wfdb_folder"] = "wfdb_folder"
    #: Table of labels, CSV or Parquet; relative paths are tried below the source folder too.
    labels: Path | None = None
    #: What the table calls the columns that are understood: ours → theirs.
    columns: dict[str, str] = Field(default_factory=dict)
    #: Coding system → the table's column of its codes; or a list of such columns. No other column is a statement. None
    #: takes the columns that are called like a known coding system.
    statements: dict[str, str] | None = None
    #: What stands between the codes of a cell.
    separator: str = Field(";", min_length=1)
    #: Store columns of statements and sites even where they seem to hold texts, dates or identifiers.
    allow_text: bool = False

    @field_validator("columns")
    @classmethod
    def _ours(cls, columns: dict[str, str]) -> dict[str, str]:
        for name in columns:
            if name not in ALIASES:
                near = nearest(name, ALIASES)
                hint = f"did you mean {near}?" if near else f"known: {', '.join(ALIASES)}"
                raise ValueError(f"unknown column {name!r}, {hint}")
        return columns

    @field_validator("statements", mode="before")
    @classmethod
    def _by_system(cls, statements: Any) -> Any:
        """A list of columns, each ``column`` or ``system=column``, by the systems that they hold."""
        if not isinstance(statements, list | tuple):
            return statements
        by_system: dict[str, str] = {}
        for item in statements:
            system, equals, column = (part.strip() for part in str(item).partition("="))
            system, column = (system, column) if equals else (system_of(system) or system, system)
            if not (system and column):
                raise ValueError("a column of statements has no name")
            if system in by_system:
                raise ValueError(f"two columns of statements are of the system {system}")
            by_system[system] = column
        return by_system


def list_records(root: Path, settings: Settings) -> Listing:
    """List every header below ``root`` that is not a segment of another; raises SourceError for bad labels."""
    found = walk(root)
    ids = found.stems
    paths = [root / record_id for record_id in ids]
    if settings.labels is None:
        return Listing(tuple(map(RecordRef, ids, paths)), found.rejected, TERMS, notes=found.notes)
    labels = read_labels(
        _labels_path(root, settings.labels),
        settings.columns,
        settings.statements,
        settings.separator,
        allow_text=settings.allow_text,
    )
    said, strangers = by_record(labels, ids)
    refs = [reference(record_id, path, said.get(record_id)) for record_id, path in zip(ids, paths, strict=True)]
    unlabelled = len(ids) - len(said)
    notes = (f"{unlabelled} of {len(ids)} records have no row in the table of labels",) if unlabelled else ()
    left_out = (*found.rejected, *strangers)
    stated = vocabulary(refs, labels.systems)
    return Listing(tuple(refs), left_out, TERMS, stated, notes=(*found.notes, *labels.notes, *notes))


def reference(record_id: str, path: Path, label: Label | None) -> RecordRef:
    """The reference of one record, with what its row of labels says."""
    if label is None:
        return RecordRef(record_id, path)
    return RecordRef(
        record_id=record_id,
        path=path,
        patient_id=label.patient_id,
        fold=label.fold,
        age_years=label.age_years,
        sex=label.sex,
        statements=label.statements,
        site=label.site,
    )


def vocabulary(refs: Iterable[RecordRef], systems: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Every code that the records state, by coding system."""
    stated: dict[str, set[str]] = {system: set() for system in systems}
    for ref in refs:
        for statement in ref.statements:
            stated[statement.system].add(statement.code)
    return {system: tuple(sorted(codes)) for system, codes in stated.items()}


def _labels_path(root: Path, labels: Path) -> Path:
    below = root / labels
    return below if not labels.exists() and below.exists() else labels
