"""PTB-XL (Wagner et al., Scientific Data 7:154, 2020): the folder as PhysioNet publishes it, whole or in part.

Traps that are met here: a likelihood of 0 means "not stated", age 300 means "over 89" (kept as 90), sex is
0 for male and 1 for female. Names, dates, heights and free-text reports are never read into a store.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from ecgstore import settings
from ecgstore.errors import SourceError
from ecgstore.record import Listing, RecordRef, Rejection, Statement, Terms
from ecgstore.sources._labels import SYSTEMS
from ecgstore.sources._tables import (
    MAX_AGE_YEARS,
    MAX_FOLD,
    Faults,
    Table,
    leaves_folder,
    number,
    open_table,
    whole,
)
from ecgstore.wfdb_io.files import find_header

TERMS = Terms(
    name="ptbxl",
    version="1.0.3",
    licence="CC-BY-4.0",
    redistributable=True,
    doi="10.13026/kfzx-aw45",
    citation="Wagner et al., PTB-XL, a large publicly available electrocardiography dataset, Sci Data 7:154 (2020)",
)
#: The identifiers of patients are published with the records: hashing them with a secret would hide nobody.
PATIENT_IDS_ARE_PUBLIC = True

SYSTEM = "scp_ecg"
_DATABASE = "ptbxl_database.csv"
_STATEMENTS = "scp_statements.csv"
_COLUMNS = ("ecg_id", "patient_id", "age", "sex", "scp_codes", "strat_fold", "filename_lr", "filename_hr")
#: PTB-XL's code for "over 89 years", and what a store says instead.
_OVER_89, OVER_89_YEARS = 300.0, 90.0
_MAX_ID = 10**9
_CODE = SYSTEMS[SYSTEM][1]


class Settings(settings.Settings):
    """Options of PTB-XL."""

    name: Literal["ptbxl"] = "ptbxl"
    #: Which of the two published copies of each record to read: 500 (original) or 100 Hz (downsampled by the authors).
    rate_hz: Literal[500, 100] = 500


def is_here(root: Path) -> bool:
    """Whether ``root`` looks like PTB-XL."""
    return (root / _DATABASE).is_file()


def list_records(root: Path, settings: Settings) -> Listing:
    """List the records in the order of ``ptbxl_database.csv``; rows whose header is absent are rejected one by one.

    Raises SourceError where a table is absent, has lost its columns or holds what can't be, or where no row has its
    files.
    """
    column = "filename_hr" if settings.rate_hz == 500 else "filename_lr"
    refs: list[RecordRef] = []
    rejected: list[Rejection] = []
    table = _table(root / _DATABASE)
    faults = table.faults()
    for line, cells in table.cells(_COLUMNS):
        row = dict(zip(_COLUMNS, cells, strict=True))
        below = row[column]
        ref = _reference(root / below, row, faults, line)
        if not below or leaves_folder(below):
            rejected.append(Rejection(ref.record_id, "unsafe_path", f"line {line} of {_DATABASE}"))
        elif find_header(ref.path):
            refs.append(ref)
        else:
            rejected.append(Rejection(ref.record_id, "missing_header", f"{below}.hea"))
    faults.refuse(fix="download the table again")
    if not refs:
        other = 100 if settings.rate_hz == 500 else 500
        raise SourceError(
            f"none of the {len(rejected)} records of {_DATABASE} has its {settings.rate_hz} Hz files",
            where=root,
            fix=f"download them, or read the {other} Hz files with --set source.rate_hz={other}",
        )
    codes = tuple(sorted(code for _, (code,) in _table(root / _STATEMENTS).cells(("",)) if code))
    return Listing(tuple(refs), tuple(rejected), TERMS, {SYSTEM: codes})


def _reference(path: Path, row: Mapping[str, str], faults: Faults, line: int) -> RecordRef:
    """The record of one row; what its cells can't be is added to ``faults``."""

    def bounded(column: str, low: int, high: int) -> int | None:
        value = whole(row[column], low, high) if row[column] else None
        if row[column] and value is None:
            faults.add(f"column {column} is no whole number from {low} to {high}", line)
        return value

    ecg_id = bounded("ecg_id", 0, _MAX_ID)
    if not row["ecg_id"]:
        faults.add("column ecg_id is empty", line)
    patient_id, sex = bounded("patient_id", 0, _MAX_ID), bounded("sex", 0, 1)
    return RecordRef(
        record_id=str(ecg_id),
        path=path,
        patient_id=None if patient_id is None else str(patient_id),
        fold=bounded("strat_fold", 0, MAX_FOLD),
        age_years=_age_years(row["age"], faults, line),
        sex=None if sex is None else ("male", "female")[sex],
        statements=_statements(row["scp_codes"], faults, line),
    )


def _age_years(text: str, faults: Faults, line: int) -> float | None:
    age_years = number(text, 0, _OVER_89) if text else None
    if age_years == _OVER_89:
        return OVER_89_YEARS
    if text and (age_years is None or age_years > MAX_AGE_YEARS):
        faults.add(f"column age is no number from 0 to {MAX_AGE_YEARS}, nor {_OVER_89:g}", line)
    return age_years


def _statements(text: str, faults: Faults, line: int) -> tuple[Statement, ...]:
    try:
        # A Python dictionary of codes without quotes in them: as JSON it is read ten times as fast.
        codes = json.loads(text.replace("'", '"'), object_pairs_hook=tuple)
        pairs = [(str(code), float(likelihood)) for code, likelihood in codes]
        if not all(0 <= likelihood <= 100 for _, likelihood in pairs):
            raise ValueError("a likelihood is in percent")
        if len({code for code, _ in pairs}) < len(pairs) or isinstance(codes, list):
            raise ValueError("a code has one likelihood")
    except (ValueError, TypeError, RecursionError):
        faults.add("column scp_codes is no mapping of codes to percent", line)
        return ()
    if not all(_CODE.fullmatch(code) for code, _ in pairs):
        faults.add("column scp_codes holds other things than codes", line)
    return tuple(Statement(code, SYSTEM, likelihood or None) for code, likelihood in pairs)


def _table(path: Path) -> Table:
    if not path.exists():
        raise SourceError(
            f"{path.name} is not there",
            where=path.parent,
            fix="is this the folder that PhysioNet publishes as PTB-XL?",
        )
    return open_table(path)
