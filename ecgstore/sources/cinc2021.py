"""PhysioNet/Computing in Cardiology Challenge 2021 (Reyna et al., CinC 2021): its eight public databases.

Two layouts are understood, whole or in part: the one that PhysioNet publishes, ``training/<database>/gN/*.hea``
with a ``.mat`` beside each, and the flat folders of the original downloads, ``WFDB_PTBXL`` and its like.

The headers hold age, sex and diagnoses as comments, in several spellings. What this file does with the traps:

* ``Dx`` may be absent, empty, or text where codes belong; what is not a SNOMED CT identifier states nothing.
* The challenge names no patients, so ``patient_id`` is None and folds can only be drawn by record.
* Two gains are wrong in headers of 2020 that still go round; see :data:`WRONG_GAINS` and ``correct_gain``.

``Rx``, ``Hx``, ``Sx`` and dates are never read into a store.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ecgstore import settings
from ecgstore.record import Listing, RecordRef, Terms
from ecgstore.sources._challenge import described, listing, year

TERMS = Terms(
    name="cinc2021",
    version="1.0.3",
    licence="CC-BY-4.0",
    redistributable=True,
    doi="10.13026/34va-7q14",
    citation="Reyna et al., Will Two Do? Varying Dimensions in Electrocardiography: The PhysioNet/Computing in "
    "Cardiology Challenge 2021, Computing in Cardiology 48:1-4 (2021)",
)
#: The identifiers of patients are published with the records: hashing them with a secret would hide nobody.
PATIENT_IDS_ARE_PUBLIC = True


class Settings(settings.Settings):
    """Options of the challenge of 2021."""

    name: Literal["cinc2021"] = "cinc2021"
    #: Correct the millivolts of records whose header states a gain of WRONG_GAINS.
    correct_gain: bool = False


def is_here(root: Path) -> bool:
    """Whether ``root`` looks like this challenge: its databases' folders or record ids, ``.mat`` files, ``Dx``."""
    return year(root) == 2021


def list_records(root: Path, settings: Settings) -> Listing:
    """List every record below ``root``, database by database, without opening a header.

    Raises SourceError where there is none.
    """
    return listing(root, TERMS)


def describe(ref: RecordRef, comments: tuple[str, ...], settings: Settings, gains: tuple[float, ...] = ()) -> RecordRef:
    """Add what the header says of a record: age, sex, SNOMED CT codes, and a correction of its millivolts.

    ``comments`` are the header's comment lines, ``gains`` its counts per millivolt, one per signal.
    """
    return described(ref, comments, gains if settings.correct_gain else ())
