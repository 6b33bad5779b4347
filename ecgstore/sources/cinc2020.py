"""PhysioNet/Computing in Cardiology Challenge 2020 (Perez Alday et al., Physiol Meas 41:124003, 2020): six databases.

Folders, headers and traps are those of the challenge of 2021, which holds these databases and two more; here are
the terms of this release. Its headers are those with the wrong gains, so that ``correct_gain`` matters: PTB's
millivolts are 2,000 times too small without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ecgstore import settings
from ecgstore.record import Listing, RecordRef, Terms
from ecgstore.sources import _challenge
from ecgstore.sources._challenge import described, listing, year

#: The DOI is that of version 1.0.2; version 1.0.1, with the same records, was 10.13026/f4ab-0814.
TERMS = Terms(
    name="cinc2020",
    version="1.0.2",
    licence="CC-BY-4.0",
    redistributable=True,
    doi="10.13026/dvyd-kd57",
    citation="Perez Alday et al., Classification of 12-lead ECGs: the PhysioNet/Computing in Cardiology Challenge "
    "2020, Physiol Meas 41:124003 (2020)",
)
#: The identifiers of patients are published with the records: hashing them with a secret would hide nobody.
PATIENT_IDS_ARE_PUBLIC = True

SYSTEM = _challenge.SYSTEM


class Settings(settings.Settings):
    """Options of the challenge of 2020."""

    name: Literal["cinc2020"] = "cinc2020"
    #: Correct the millivolts of records whose header states a gain of _challenge.WRONG_GAINS.
    correct_gain: bool = False


def is_here(root: Path) -> bool:
    """Whether ``root`` looks like this challenge and not like the next; see :func:`_challenge.year`."""
    return year(root) == 2020


def list_records(root: Path, settings: Settings) -> Listing:
    """List every record below ``root``, database by database; raises SourceError where there is none."""
    return listing(root, TERMS)


def describe(ref: RecordRef, comments: tuple[str, ...], settings: Settings, gains: tuple[float, ...] = ()) -> RecordRef:
    """Add age, sex, SNOMED CT codes and a correction of the millivolts; see :func:`cinc2021.describe`."""
    return described(ref, comments, gains if settings.correct_gain else ())
