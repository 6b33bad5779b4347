"""Any folder of WFDB records, searched through all its subfolders, with an optional table of labels.

The table is CSV with a header line, or Parquet; :mod:`ecgstore.sources._labels` says which of its columns are read.
A record's id is its path below the folder, without suffix; in the table the last part alone will do where it is
unique.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ecgstore import settings
from ecgstore.errors import SourceError, nearest
from ecgstore.record import Listing, RecordRef, Terms
from ecgstore.sources._labels import ALIASES, Label, by_record, read_labels, system_of
from ecgstore.sources._walk import Found, walk
from ecgstore.wfdb_io.annotations import is_annotation_file

TERMS = Terms(
    name="wfdb_folder",
    version="",
    licence="as agreed with whoever supplied the folder",
    redistributable=False,
)

#: Files of one suffix that are looked into, to tell whether they hold annotations.
_TRIED = 3


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
    #: Annotation files to read with the records, by their suffixes, such as atr and qrs.
    annotators: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,32}$")], ...] = ()
    #: Keep what may name a person: notes of annotations that name no rhythm, and columns of statements and sites that
    #: seem to hold texts, dates or identifiers.
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

    @model_validator(mode="after")
    def _of_a_table(self) -> Settings:
        if self.labels is None and (self.columns or self.statements):
            raise ValueError("columns are named, but no table of labels; give --labels, or source.labels")
        return self


def list_records(root: Path, settings: Settings) -> Listing:
    """List every header below ``root`` that is not a segment of another; raises SourceError for bad labels."""
    found = walk(root)
    ids = found.stems
    paths = [root / record_id for record_id in ids]
    annotated, notes = _annotated(found, root, settings)
    notes = (*found.notes, *notes)
    if settings.labels is None:
        return Listing(annotated(map(RecordRef, ids, paths)), found.rejected, TERMS, notes=notes)
    labels = read_labels(
        _labels_path(root, settings.labels),
        settings.columns,
        settings.statements,
        settings.separator,
        allow_text=settings.allow_text,
    )
    said, strangers = by_record(labels, ids)
    refs = [reference(record_id, path, said.get(record_id)) for record_id, path in zip(ids, paths, strict=True)]
    notes += labels.notes
    if unlabelled := len(ids) - len(said):
        notes += (f"{unlabelled} of {len(ids)} records have no row in the table of labels",)
    left_out = (*found.rejected, *strangers)
    stated = vocabulary(refs, labels.systems)
    return Listing(annotated(refs), left_out, TERMS, stated, is_published=False, notes=notes)


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


def _annotated(
    found: Found, root: Path, settings: Settings
) -> tuple[Callable[[Iterable[RecordRef]], tuple[RecordRef, ...]], tuple[str, ...]]:
    """How records get their annotation files, and what is to be said of such files; SourceError if one isn't there."""
    by_suffix: dict[str, list[str]] = {}
    for stem, suffixes in found.beside.items():
        for suffix in suffixes:
            by_suffix.setdefault(suffix[1:].lower(), []).append(f"{stem}{suffix}")
    wanted = [one.lower() for one in settings.annotators]
    for one in wanted:
        if one not in by_suffix:
            near = nearest(one, by_suffix)
            fix = f"did you mean {near}?" if near else "leave it out of source.annotators"
            raise SourceError(f"no record has an annotation file .{one}", where=root, fix=fix)

    def annotate(refs: Iterable[RecordRef]) -> tuple[RecordRef, ...]:
        if not wanted:
            return tuple(refs)
        return tuple(replace(ref, annotators=its(ref), keeps_text=settings.allow_text) for ref in refs)

    def its(ref: RecordRef) -> tuple[str, ...]:
        there = [suffix[1:] for suffix in found.beside.get(ref.path.relative_to(root).as_posix(), ())]
        return tuple(one for annotator in wanted for one in there if one.lower() == annotator)

    notes = [
        f"{len(found.stems) - len(by_suffix[one])} of {len(found.stems)} records have no annotation file .{one}"
        for one in wanted
        if len(by_suffix[one]) < len(found.stems)
    ]
    unread = {
        one: len(files)
        for one, files in sorted(by_suffix.items())
        if one not in wanted and any(is_annotation_file(root / name) for name in files[:_TRIED])
    }
    if unread:
        counted = ", ".join(f"{n} × .{one}" for one, n in unread.items())
        notes.append(
            f"annotation files were not read: {counted}; --annotators {','.join(unread)} stores what is in them"
        )
    return annotate, tuple(notes)


def _labels_path(root: Path, labels: Path) -> Path:
    below = root / labels
    return below if not labels.exists() and below.exists() else labels
