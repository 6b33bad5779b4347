"""The nouns of the data house: a record, what is said of it, and where it comes from.

A *harmonised* record promises: leads in the order of :data:`LEADS_12` (or a stated subset), float32
millivolts of shape (leads, samples), NaN where nothing was recorded, and a :class:`LeadState` per lead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

#: The twelve standard leads in clinical order.
LEADS_12: tuple[str, ...] = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")

Sex = Literal["female", "male"]

#: How a warning begins of leads of a raw store whose counts make no millivolts; behind a colon it names them.
UNCALIBRATED = "not calibrated, so that only counts are known"


class LeadState(StrEnum):
    """How a lead of a record came to be. The letter is what ``records.parquet`` holds, one per lead.

    ``MEASURED``: recorded. ``DERIVED``: computed from two other limb leads. ``ABSENT``: not there, all NaN. ``BAD``:
    it never changes, or most of it is cut off, or it was derived from such a lead.
    """

    MEASURED = "m"
    DERIVED = "d"
    ABSENT = "a"
    BAD = "b"


@dataclass(frozen=True, slots=True)
class Statement:
    """A coded assertion about a record, as its source states it: ``code`` of the coding ``system``, as ``scp_ecg``.

    ``likelihood`` is in percent; None where the source states the code without one.
    """

    code: str
    system: str
    likelihood: float | None = None


@dataclass(frozen=True, slots=True)
class RecordRef:
    """One record of a source before any of its files is read.

    ``record_id`` names it in the store. ``fold`` is what the source states, None for none, and so are
    ``age_years``, ``sex`` (``female``, ``male``) and ``statements``. ``path`` is the header's path without
    ``.hea``. ``patient_id`` is the source's own identifier: it is hashed before anything is stored. ``site`` is
    where it was recorded, or which of a source's databases it is from. ``annotators`` are the suffixes of WFDB
    annotation files that are stored with the record, such as ``atr``; ``keeps_text`` says that their notes are kept
    even where they are free text. ``mv_factor`` corrects millivolts whose header is known to be wrong; 1 leaves
    them alone. A source with a reader of its own has ``path`` as it likes, with its suffix, and in ``inside`` what
    else finds the record, such as the name of a data set of an HDF5 file.
    """

    record_id: str
    path: Path
    patient_id: str | None = None
    fold: int | None = None
    age_years: float | None = None
    sex: Sex | None = None
    statements: tuple[Statement, ...] = ()
    site: str | None = None
    annotators: tuple[str, ...] = ()
    mv_factor: float = 1.0
    keeps_text: bool = False
    inside: str = ""


@dataclass(frozen=True, slots=True)
class Beat:
    """One annotation of a record: ``time_s`` from its first sample, and the annotation's WFDB ``symbol``.

    ``note`` is the text beside it, such as the rhythm that begins there (``(AFIB``); ``subtype``, ``channel`` and
    ``num`` are the numbers that WFDB knows by these names (``channel`` is its ``chan``). ``annotator`` is the suffix
    of the file that it stands in; empty in stores that don't say it.
    """

    time_s: float
    symbol: str
    note: str = ""
    subtype: int = 0
    channel: int = 0
    num: int = 0
    annotator: str = ""


@dataclass(frozen=True, slots=True)
class Rejection:
    """A record that was left out. ``reason`` is a key of :data:`ecgstore.errors.REASONS`, ``detail`` says more.

    ``record_id`` is what the source calls it.
    """

    record_id: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a source is and under which terms it may be used.

    ``name`` and ``version`` of the data set, ``licence`` as its SPDX name or in words, ``doi`` and ``citation`` where
    it has any. Unless ``redistributable``, a store that holds its records is not pushed into a share.
    """

    name: str
    version: str
    licence: str
    redistributable: bool
    doi: str = ""
    citation: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """All a source knows: its ``records`` in a fixed order, what it left out (``rejected``), its ``terms``.

    ``vocabulary`` maps a coding system to every code that the source ever states, so that "absent" can be
    told from "never looked for". ``is_published`` is False where that is no list of the source's own, but what its
    records happen to state: then a code means something only at the sites that state it. ``notes`` are sentences on
    what a user must hear of: what was passed over.
    """

    records: tuple[RecordRef, ...]
    rejected: tuple[Rejection, ...]
    terms: Terms
    vocabulary: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    is_published: bool = True
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One recording in physical units: ``signal_mv_lt`` is float32 (leads, samples), NaN = not recorded.

    ``record_id`` names it. A store gives ``patient_key``, the hash that it has in the place of ``patient_id``. Who
    makes a record, for :func:`ecgstore.write_records`, says ``patient_id``: it is hashed before anything is stored.

    ``leads`` name the rows of the signal, ``lead_states`` say how each came to be; ``fs_hz`` is samples per second.
    What the source doesn't state is None: ``fold``, ``age_years``, ``sex``, ``site``. ``statements`` are its codes,
    and ``warnings`` what a reader must know of its samples, a sentence each.
    """

    record_id: str
    leads: tuple[str, ...]
    fs_hz: float
    signal_mv_lt: npt.NDArray[np.float32]
    lead_states: tuple[LeadState, ...] = ()
    patient_key: str | None = None
    fold: int | None = None
    age_years: float | None = None
    sex: Sex | None = None
    statements: tuple[Statement, ...] = ()
    warnings: tuple[str, ...] = ()
    patient_id: str | None = field(default=None, repr=False)
    site: str | None = None

    @property
    def n_samples(self) -> int:
        """Number of samples per lead."""
        return int(self.signal_mv_lt.shape[1])

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.n_samples / self.fs_hz

    @property
    def uncalibrated(self) -> tuple[str, ...]:
        """Leads of a raw store that were recorded without a gain, and are NaN here."""
        said = (text.partition(": ") for text in self.warnings)
        return next((tuple(leads.split(", ")) for words, _, leads in said if words == UNCALIBRATED), ())
