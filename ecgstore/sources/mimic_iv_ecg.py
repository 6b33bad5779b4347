"""MIMIC-IV-ECG 1.0 (Gow et al., PhysioNet 2023): 800,000 ten-second ECGs of 160,000 patients.

The folder as PhysioNet publishes it: ``record_list.csv``, ``machine_measurements.csv`` and ``files/``. The records
stand in the order of ``record_list.csv``; a record's id is its ``study_id``. Its headers list aVF before aVL,
which does no harm: leads are found by name. Age and sex stand in MIMIC-IV proper and are not looked for.

Terms: the waveforms are open access under the Open Database License, which would allow passing a store on under
the same licence. The source is marked as not redistributable all the same. Its patients are those of MIMIC-IV,
whose other modules are for credentialed users only, and subject and study identifiers link the two. Passing them
on should be decided by a person who has read both licences, not by a default.

Times of recording are never read. The lines of the ECG machine's report are free text, written by a program but
not coded by anybody, and are read only on request.
"""

from __future__ import annotations

import contextlib
import csv
import gc
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from ecgstore import settings
from ecgstore.errors import SourceError
from ecgstore.record import Listing, RecordRef, Rejection, Statement, Terms
from ecgstore.sources._tables import Table, identifier, leaves_folder, open_table
from ecgstore.storage.plain import open_text
from ecgstore.wfdb_io.files import find_header

TERMS = Terms(
    name="mimic_iv_ecg",
    version="1.0",
    licence="ODbL-1.0",
    redistributable=False,
    doi="10.13026/4nqg-sb35",
    citation="Gow et al., MIMIC-IV-ECG: Diagnostic Electrocardiogram Matched Subset (version 1.0), PhysioNet (2023)",
)

#: Lines of the machine's report, lower-cased: not a coding system, but used like one.
SYSTEM = "mimic_machine"
_RECORDS, _MEASUREMENTS = "record_list.csv", "machine_measurements.csv"
_COLUMNS = ("study_id", "subject_id", "path")


class Settings(settings.Settings):
    """Options of MIMIC-IV-ECG."""

    name: Literal["mimic_iv_ecg"] = "mimic_iv_ecg"
    #: Store each line of the machine's report as a statement of the system ``mimic_machine``.
    machine_statements: bool = False
    #: Look for each record's header while listing. The scan finds out anyway; on a network drive this takes long.
    check_files: bool = False


def is_here(root: Path) -> bool:
    """Whether ``root`` looks like MIMIC-IV-ECG."""
    try:
        with open_text(root / _RECORDS, newline="", encoding="utf-8-sig") as file:
            return set(_COLUMNS) <= set(next(csv.reader(file), ()))
    except (OSError, UnicodeDecodeError, csv.Error):
        return False


def list_records(root: Path, settings: Settings) -> Listing:
    """List the records in the order of ``record_list.csv``.

    With ``check_files``, rows whose header is absent are rejected one by one. Rows whose path leaves the folder
    always are. Raises SourceError where a table is absent, has lost its columns or has a row that is
    too short or too long.
    """
    with _no_collection():
        statements = _statements(root / _MEASUREMENTS) if settings.machine_statements else {}
        listed = list(_listed(root, settings, statements))
    refs = tuple(item for item in listed if isinstance(item, RecordRef))
    if not refs:
        raise SourceError(
            f"none of the {len(listed)} records of {_RECORDS} is there",
            where=root,
            fix="is this the folder that PhysioNet publishes as MIMIC-IV-ECG?",
        )
    return Listing(refs, tuple(item for item in listed if isinstance(item, Rejection)), TERMS)


def _listed(
    root: Path, settings: Settings, statements: Mapping[str, tuple[Statement, ...]]
) -> Iterator[RecordRef | Rejection]:
    base, table = str(root), _table(root / _RECORDS)
    faults = table.faults()
    for line, (study, subject, below) in table.cells(_COLUMNS):
        study_id, subject_id = (
            identifier(study, "study_id", line, faults),
            identifier(subject, "subject_id", line, faults),
        )
        # Paths hold the patient's identifier: a rejection says the line.
        at = f"line {line} of {_RECORDS}"
        if not study_id:
            raise SourceError(f"line {line} has no study_id", where=root / _RECORDS, fix="download the table again")
        if not below or leaves_folder(below):
            yield Rejection(study_id, "unsafe_path", at)
            continue
        path = Path(f"{base}/{below}")
        if settings.check_files and find_header(path) is None:
            yield Rejection(study_id, "missing_header", at)
            continue
        yield RecordRef(study_id, path, subject_id or None, statements=statements.get(study_id, ()))
    faults.refuse(fix="download the table again")


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Switch the garbage collector off: with 800,000 records it takes 3 of 7 seconds and finds nothing."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _statements(path: Path) -> dict[str, tuple[Statement, ...]]:
    """The lines of each study's report, each once; the same line of two studies is the same object."""
    table = _table(path)
    reports = [name for name in table.names if name.startswith("report_")]
    if not reports:
        raise SourceError("the table has no report", where=path, expected="columns report_0, report_1, …")
    made: dict[str, Statement] = {}
    stated: dict[str, tuple[Statement, ...]] = {}
    faults = table.faults()
    for line, (study, *texts) in table.cells(("study_id", *reports)):
        codes = dict.fromkeys(text.lower() for text in texts if text)
        said = tuple(made.setdefault(code, Statement(code, SYSTEM)) for code in codes)
        if stated.setdefault(identifier(study, "study_id", line, faults), said) != said:
            faults.add("another report of a study that has one", line)
    faults.refuse(fix="download the table again")
    return stated


def _table(path: Path) -> Table:
    if not path.exists():
        raise SourceError(
            f"{path.name} is not there",
            where=path.parent,
            fix="is this the folder that PhysioNet publishes as MIMIC-IV-ECG?",
        )
    return open_table(path)
