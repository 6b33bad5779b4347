"""MIT-BIH Arrhythmia Database (Moody and Mark, IEEE Eng Med Biol 20(3):45-50, 2001), with its beats.

A folder of ``NNN.hea``, ``NNN.dat`` and ``NNN.atr``, whole or in part. Each record is two leads of half an hour,
most often MLII and V1. MLII is a modified lead and not II: a store keeps it only if its recipe names it.

Records 201 and 202 are of the same man; all others are one record per person. Folds are the split of de Chazal
et al. (IEEE Trans Biomed Eng 51:1196-1206, 2004): 1 is DS1, for training, 2 is DS2, for testing. The four records
with paced beats are in neither. The split is called inter-patient, but 201 is in DS1 and 202 in DS2.

Medication and remarks in the headers are never read into a store.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Literal

from ecgstore import settings
from ecgstore.errors import SourceError
from ecgstore.record import Listing, RecordRef, Sex, Terms
from ecgstore.sources._walk import stems_in
from ecgstore.wfdb_io.files import find_header

TERMS = Terms(
    name="mitdb",
    version="1.0.0",
    licence="ODC-By-1.0",
    redistributable=True,
    doi="10.13026/C2F305",
    citation="Moody and Mark, The impact of the MIT-BIH Arrhythmia Database, IEEE Eng Med Biol 20(3):45-50 (2001)",
)
#: The identifiers of patients are published with the records: hashing them with a secret would hide nobody.
PATIENT_IDS_ARE_PUBLIC = True

ANNOTATOR = "atr"
#: Of the split of de Chazal et al.: fold 1, fold 2, and the records with paced beats (ANSI/AAMI EC57).
DS1 = (101, 106, 108, 109, 112, 114, 115, 116, 118, 119, 122, 124, 201, 203, 205, 207, 208, 209, 215, 220, 223, 230)
DS2 = (100, 103, 105, 111, 113, 117, 121, 123, 200, 202, 210, 212, 213, 214, 219, 221, 222, 228, 231, 232, 233, 234)
PACED = (102, 104, 107, 217)
#: Record → fold, of all 48 records.
FOLDS = {str(n): fold for names, fold in ((DS1, 1), (DS2, 2), (PACED, None)) for n in names}
#: Record → the record whose name stands for the same person.
_SAME_PERSON = {"202": "201"}

_AGE_SEX = re.compile(r"(-?\d+|\?)\s+([MF?])\b")
_SEX: dict[str, Sex] = {"F": "female", "M": "male"}


class Settings(settings.Settings):
    """Options of the MIT-BIH Arrhythmia Database."""

    name: Literal["mitdb"] = "mitdb"
    #: Keep the notes of annotations that name no rhythm, too: they are free text.
    allow_text: bool = False


def is_here(root: Path) -> bool:
    """Whether ``root`` holds records of this database, each with its beats, and no others."""
    names = set(stems_in(root))
    return bool(names) and names <= FOLDS.keys() and all(_annotators(root / name) for name in names)


def list_records(root: Path, settings: Settings) -> Listing:
    """List the records that are there, by number; raises SourceError where none of the 48 is."""
    names = [name for name in sorted(FOLDS) if find_header(root / name)]
    if not names:
        raise SourceError(
            "none of the 48 records is there",
            where=root,
            expected="100.hea … 234.hea",
            fix="is this the folder that PhysioNet publishes as mitdb?",
        )
    return Listing(tuple(_reference(root, name, settings.allow_text) for name in names), (), TERMS)


def describe(ref: RecordRef, comments: tuple[str, ...], settings: Settings, gains: tuple[float, ...] = ()) -> RecordRef:
    """Add age and sex from the first comment line, such as ``69 M 1085 1629 x1``; -1 and ? say nothing."""
    match = _AGE_SEX.match(comments[0]) if comments else None
    if match is None:
        return ref
    age_years = None if match[1] in ("-1", "?") else float(match[1])
    return replace(ref, age_years=age_years, sex=_SEX.get(match[2]))


def _reference(root: Path, name: str, keeps_text: bool) -> RecordRef:
    return RecordRef(
        record_id=name,
        path=root / name,
        patient_id=_SAME_PERSON.get(name, name),
        fold=FOLDS[name],
        annotators=_annotators(root / name),
        keeps_text=keeps_text,
    )


def _annotators(path: Path) -> tuple[str, ...]:
    """The suffix of the record's beats, as it is spelt."""
    return tuple(one for one in (ANNOTATOR, ANNOTATOR.upper()) if Path(f"{path}.{one}").is_file())[:1]
