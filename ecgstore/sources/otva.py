"""Origins of outflow tract arrhythmias (Zheng et al., Scientific Data 7:98, 2020): 334 patients, one CSV file each.

Traps that are met here: leads stand in alphabetical order; no unit is declared anywhere, so calibration is unknown
unless the user states one; blank sub-sites stay blank; the second folder of the set is denoised lead by lead, so that
III is no longer II - I, and is refused by its name. Sex goes with the label (75 % of the right side are women, 49 % of
the left): hold every score against ``sex_only``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from ecgstore import settings
from ecgstore.errors import RecordError, SourceError
from ecgstore.record import Listing, RecordRef, Rejection, Statement, Terms
from ecgstore.sources._reader import RecordHeader
from ecgstore.sources._tables import Faults, Table, identifier, leaves_folder, open_table
from ecgstore.sources._xlsx import open_sheet
from ecgstore.storage.plain import open_plain

TERMS = Terms(
    name="otva",
    version="1",
    licence="CC-BY-4.0",
    redistributable=True,
    doi="10.6084/m9.figshare.c.4668086",
    citation="Zheng et al., A 12-lead ECG database to identify origins of idiopathic ventricular arrhythmia containing "
    "334 patients, Sci Data 7:98 (2020)",
)
#: The identifiers of patients are published with the records: hashing them with a secret would hide nobody.
PATIENT_IDS_ARE_PUBLIC = True

FS_HZ = 2000.0
LEADS = ("aVF", "aVL", "aVR", "I", "II", "III", "V1", "V2", "V3", "V4", "V5", "V6")
RAW, DENOISED, DIAGNOSES = "PVCVTRawECGData", "PVCVTECGData", ("Diagnosis.csv", "Diagnosis.xlsx")
REGION, SITE, TYPE = "vt_region", "otva_site", "otva_type"
REGIONS, TYPES = ("RVOT", "LVOT"), ("PVC", "VT")
_COLUMNS = ("HospitalID", "Type", "LeftRight", "Sublocation", "Gender")
_SIDES = {"right": "RVOT", "r": "RVOT", "rvot": "RVOT", "left": "LVOT", "l": "LVOT", "lvot": "LVOT"}
_SEXES: Mapping[str, Literal["female", "male"]] = {"female": "female", "f": "female", "male": "male", "m": "male"}
_MAX_CODE, _MAX_LINE_BYTES = 64, 4096


class Settings(settings.Settings):
    """There is nothing to set."""

    name: Literal["otva"] = "otva"


def is_here(root: Path) -> bool:
    """Whether ``root`` looks like this set, whole or its denoised half alone."""
    return any((root / name).is_file() for name in DIAGNOSES) and any(
        (root / name).is_dir() for name in (RAW, DENOISED)
    )


def list_records(root: Path, settings: Settings) -> Listing:
    """The records in the order of the table of diagnoses; those without their file are rejected one by one.

    ``root`` is the folder that holds the table and the raw records, or that of the raw records itself, with the table
    in it or beside it. Raises SourceError for the denoised folder, and where the table is absent or holds what can't
    be.
    """
    folder = _folder(root)
    table = _table(folder)
    faults, refs, rejected = table.faults(), [], []
    for line, cells in table.cells(_COLUMNS):
        row = dict(zip(_COLUMNS, cells, strict=True))
        name = identifier(row["HospitalID"], "HospitalID", line, faults)
        if not name:
            faults.add("column HospitalID is empty", line)
        elif leaves_folder(name) or "/" in name or "\\" in name:
            rejected.append(Rejection(name, "unsafe_path", f"{table.counted} {line} of {table.path.name}"))
        elif (path := folder / f"{name}.csv").is_file():
            refs.append(_reference(name, path, row, faults, line))
        else:
            rejected.append(Rejection(name, "missing_signal", path.name))
    faults.refuse(fix="download the table again")
    if not refs:
        raise SourceError(f"none of the {len(rejected)} records of {table.path.name} is there", where=folder)
    sites = sorted({one.code for ref in refs for one in ref.statements if one.system == SITE})
    listed = {ref.path.name for ref in refs}
    others = sum(path.name not in listed for path in folder.glob("*.csv") if path.name not in DIAGNOSES)
    notes = (f"{others} files of {folder.name} stand in no row of {table.path.name}, and are passed over",)
    vocabulary = {REGION: REGIONS, SITE: tuple(sites), TYPE: TYPES}
    return Listing(tuple(refs), tuple(rejected), TERMS, vocabulary, notes=notes if others else ())


def read_header(ref: RecordRef, settings: Settings) -> RecordHeader:
    """The leads in the first line, and how many lines follow. No gain is declared, so none is stated."""
    with open_plain(ref.path) as file:
        leads = tuple(name.strip() for name in _first_line(ref, file.readline(_MAX_LINE_BYTES)).split(","))
        if sorted(leads) != sorted(LEADS):
            raise RecordError(ref.record_id, "bad_header", f"the first line must name {', '.join(LEADS)}")
        n_samples = sum(1 for line in file if line.strip())
    return RecordHeader(fs_hz=FS_HZ, n_samples=n_samples, leads=leads, gains=0.0)


def read_samples(ref: RecordRef, settings: Settings, start: int, stop: int) -> npt.NDArray[np.float64]:
    """Counts ``start`` to ``stop`` - 1 of all leads, (leads, samples)."""
    try:
        with open_plain(ref.path) as file:
            read_tl = np.loadtxt(file, delimiter=",", skiprows=1 + start, max_rows=stop - start, ndmin=2)
    except (ValueError, UnicodeDecodeError) as error:
        raise RecordError(ref.record_id, "bad_signal", f"a line is no {len(LEADS)} numbers") from error
    return np.asarray(read_tl.T)


def _first_line(ref: RecordRef, line: bytes) -> str:
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RecordError(ref.record_id, "bad_header", "the first line is no text") from None


def _folder(root: Path) -> Path:
    """The folder of raw records; raises SourceError where only the denoised ones are there."""
    raw = root / RAW
    if root.name.lower() == DENOISED.lower() or ((root / DENOISED).is_dir() and not raw.is_dir()):
        raise SourceError(
            f"{DENOISED} holds signals that were denoised lead by lead: leads no longer fit each other",
            where=root,
            fix=f"download {RAW}, and ingest the folder that holds it",
        )
    return raw if raw.is_dir() else root


def _table(folder: Path) -> Table:
    """The table of diagnoses, in the folder or beside it, as CSV or as it is published."""
    paths = [place / name for place in (folder.parent, folder) for name in DIAGNOSES]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise SourceError(f"{DIAGNOSES[1]} is not there", where=folder.parent, fix="download it into this folder")
    return open_sheet(path) if path.suffix == ".xlsx" else open_table(path)


def _reference(name: str, path: Path, row: Mapping[str, str], faults: Faults, line: int) -> RecordRef:
    """The record of one row; what its cells can't be is added to ``faults``."""

    def one_of(column: str, known: Mapping[str, str]) -> str:
        found = known.get(row[column].lower(), "")
        if row[column] and not found:
            faults.add(f"column {column} is none of {', '.join(sorted(set(known.values())))}", line)
        return found

    said = [
        (REGION, one_of("LeftRight", _SIDES)),
        (TYPE, one_of("Type", {one.lower(): one for one in TYPES})),
        (SITE, row["Sublocation"]),
    ]
    if len(row["Sublocation"]) > _MAX_CODE:
        faults.add(f"column Sublocation has more than {_MAX_CODE} letters", line)
    sex = one_of("Gender", _SEXES)
    return RecordRef(
        record_id=name,
        path=path,
        patient_id=name,
        sex=_SEXES[sex] if sex else None,
        statements=tuple(Statement(code, system) for system, code in said if code),
    )
