"""PTB-XL (Wagner et al., Scientific Data 7:154, 2020): the folder as PhysioNet publishes it, whole or in part.

Traps that are met here: a likelihood of 0 means "not stated", age 300 means "over 89" (kept as 90), sex is
0 for male and 1 for female. Names, dates, heights and free-text reports are never read into a store.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from ecgstore import settings
from ecgstore.errors import SourceError
from ecgstore.record import Listing, RecordRef, Rejection, Statement, Terms
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

    Raises SourceError where a table is absent or has lost its columns, or where no row has its files.
    """
    column = "filename_hr" if settings.rate_hz == 500 else "filename_lr"
    refs: list[RecordRef] = []
    rejected: list[Rejection] = []
    for row in _read(root / _DATABASE, _COLUMNS):
        path = root / row[column]
        record_id = str(int(float(row["ecg_id"])))
        if find_header(path):
            refs.append(_reference(record_id, path, row))
        else:
            rejected.append(Rejection(record_id, "missing_header", f"{row[column]}.hea"))
    if not refs:
        other = 100 if settings.rate_hz == 500 else 500
        raise SourceError(
            f"none of the {len(rejected)} records of {_DATABASE} has its {settings.rate_hz} Hz files",
            where=root,
            fix=f"download them, or read the {other} Hz files with --set source.rate_hz={other}",
        )
    codes = tuple(sorted(row[""] for row in _read(root / _STATEMENTS, ("",))))
    return Listing(tuple(refs), tuple(rejected), TERMS, {SYSTEM: codes})


def _reference(record_id: str, path: Path, row: Mapping[str, str]) -> RecordRef:
    age = float(row["age"]) if row["age"] else None
    return RecordRef(
        record_id=record_id,
        path=path,
        patient_id=str(int(float(row["patient_id"]))),
        fold=int(row["strat_fold"]),
        age_years=OVER_89_YEARS if age == _OVER_89 else age,
        sex=None if not row["sex"] else "female" if int(float(row["sex"])) == 1 else "male",
        statements=_statements(row["scp_codes"], record_id),
    )


def _statements(text: str, record_id: str) -> tuple[Statement, ...]:
    try:
        # A Python dictionary of codes without quotes in them: as JSON it is read ten times as fast.
        codes = json.loads(text.replace("'", '"'))
        pairs = [(str(code), float(likelihood)) for code, likelihood in codes.items()]
    except (ValueError, AttributeError, TypeError):
        raise SourceError(f"scp_codes of record {record_id} is not a mapping of codes", got=repr(text[:80])) from None
    return tuple(Statement(code, SYSTEM, likelihood or None) for code, likelihood in pairs)


def _read(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [column for column in columns if column not in (reader.fieldnames or ())]
            if missing:
                raise SourceError("columns are missing", where=path, expected=", ".join(map(repr, missing)))
            return list(reader)
    except FileNotFoundError:
        raise SourceError(
            f"{path.name} is not there",
            where=path.parent,
            fix="is this the folder that PhysioNet publishes as PTB-XL?",
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError("the table can't be read", where=path, got=str(error)) from None
