"""Twelve-lead ECGs with known statements: a WFDB folder to try everything on, without a download.

Here people are drawn and the folder is written and listed; what their hearts do is :mod:`ecgstore.simulate.dipole`'s.
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

import ecgstore.settings
from ecgstore.errors import ConfigError, need
from ecgstore.record import Listing, RecordRef, Sex, Statement, Terms
from ecgstore.simulate import dipole
from ecgstore.sources._simulated import (
    LABELS,
    README,
    about_record,
    base,
    draws,
    listed,
    new_folder,
    write_record,
    wrote,
)

TERMS = Terms(
    name="synthetic",
    version="1",
    licence="CC0-1.0",
    redistributable=True,
    citation="Simulated by ecgstore; not recorded from anybody.",
)
#: The identifiers of patients are published with the records: hashing them with a secret would hide nobody.
PATIENT_IDS_ARE_PUBLIC = True
SYSTEM = "scp_ecg"
COLUMNS = ("record_id", "patient_id", "fold", "age_years", "sex", "scp_ecg")
TITLE = "Synthetic 12-lead ECGs"
ABOUT = """{title}
======================

Computed by `ecgstore simulate` ({settings}).
No person was recorded: signals, ages, sexes and statements are all drawn from a random generator.

records/   WFDB records, format 16, 1000 counts per mV, {fs_hz} Hz
labels.csv one line per record; scp_ecg holds SCP-ECG codes separated by semicolons

To the extent possible under law, this folder is dedicated to the public domain (CC0 1.0):
https://creativecommons.org/publicdomain/zero/1.0/
"""


class Settings(ecgstore.settings.Settings):
    """A folder that ``ecgstore simulate`` wrote has no options."""

    name: Literal["synthetic"] = "synthetic"


class Simulation(ecgstore.settings.Settings):
    """What ``ecgstore simulate`` writes. The same settings always give the same bytes."""

    n_records: int = Field(default=2000, ge=1, le=99_999)
    seed: int = Field(default=0, ge=0, lt=2**63)
    fs_hz: int = Field(default=500, ge=100, le=4000)
    duration_s: float = Field(default=10.0, ge=2.0, le=3600.0)
    generator: Literal["dipole", "neurokit"] = "dipole"


def simulate(out: Path, settings: Simulation, *, progress: Callable[[int, int], None] | None = None) -> None:
    """Write a folder of WFDB records, ``labels.csv`` and a README to ``out``, aside first and then by rename.

    Patient p draws from Philox keyed by (seed, p), so a record depends on the seed and its own number, not
    on how many others are written. ``progress`` is called with (done, total) after each record.

    Raises ConfigError if ``out`` holds anything already or the generator can't make what is asked for;
    MissingExtra if it is not installed.
    """
    make = _generator(settings)
    with new_folder(out) as folder:
        described = f"generator {settings.generator}, seed {settings.seed}, {settings.n_records} records"
        about = ABOUT.format(title=TITLE, settings=described, fs_hz=settings.fs_hz)
        (folder / README).write_text(about, encoding="utf-8", newline="\n")
        with (folder / LABELS).open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(COLUMNS)
            for number, person, visit in _visits(settings):
                codes, signal_mv_lt = make(person, visit)
                at = base(folder, number)
                write_record(at, signal_mv_lt, settings.fs_hz)
                about_person = (f"{person.number:05d}", person.fold, person.patient.age_years, person.patient.sex)
                rows.writerow((at.name, *about_person, ";".join(codes)))
                if progress is not None:
                    progress(number, settings.n_records)


def is_here(root: Path) -> bool:
    """Whether ``root`` is a folder that :func:`simulate` wrote; its README says so."""
    return wrote(root, TITLE)


def list_records(root: Path, settings: Settings) -> Listing:
    """List a folder written by :func:`simulate`: ids, patients, folds and statements of ``labels.csv``.

    Raises SourceError if ``labels.csv`` is not there or a line of it can't be understood. A line without
    its header file is rejected, not fatal.
    """
    records, rejected = listed(Path(root), _ref, COLUMNS)
    return Listing(records, rejected, TERMS, {SYSTEM: VOCABULARY})


def _ref(root: Path, line: dict[str, str]) -> RecordRef:
    return RecordRef(
        **about_record(root, line),
        statements=tuple(Statement(code, SYSTEM, 100.0) for code in line["scp_ecg"].split(";")),
    )


# ── Who there is ─────────────────────────────────────────────────────────────────────────────────────────


#: What may be stated, by PTB-XL superclass, with its share among the patients of that class.
DIAGNOSES: dict[str, dict[str, float]] = {
    "MI": {"IMI": 0.45, "ASMI": 0.35, "AMI": 0.20},
    "STTC": {"NDT": 0.40, "ISC_": 0.35, "NST_": 0.25},
    "CD": {"LAFB": 0.25, "IRBBB": 0.20, "CRBBB": 0.20, "CLBBB": 0.15, "1AVB": 0.20},
    "HYP": {"LVH": 0.85, "RVH": 0.15},
}
SUPERCLASS_WEIGHTS = {"MI": 0.29, "STTC": 0.29, "CD": 0.26, "HYP": 0.16}
NORMAL_SHARE, AFIB_SHARE, PVC_SHARE = 0.42, 0.12, 0.12
RHYTHMS = ("SR", "SBRAD", "STACH", "AFIB")
VOCABULARY: tuple[str, ...] = tuple(
    sorted({"NORM", "PVC", *RHYTHMS, *(code for codes in DIAGNOSES.values() for code in codes)})
)


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody in the cohort; what is stated of them is the same at every visit."""

    number: int
    fold: int
    n_visits: int
    patient: dipole.Patient


#: Person and visit to statements and (12 leads, samples) in mV.
Make = Callable[[Person, int], tuple[tuple[str, ...], npt.NDArray[np.float64]]]


PERSON, ANATOMY, FIRST_VISIT = range(3)


def _visits(settings: Simulation) -> Iterator[tuple[int, Person, int]]:
    """Record number, person and visit, for one person after the other."""
    number, person_number = 0, 0
    while True:
        person_number += 1
        person = _person(settings.seed, person_number)
        for visit in range(person.n_visits):
            number += 1
            yield number, person, visit
            if number == settings.n_records:
                return


def _person(seed: int, number: int) -> Person:
    draw = draws(seed, number, PERSON)
    fold = int(draw.integers(1, 11))
    n_visits = 2 if draw.random() < 0.15 else 1
    normal = draw.random() < NORMAL_SHARE
    diagnoses = ("NORM",) if normal else _diagnoses(draw)
    age_years = int(np.clip(draw.normal(50, 16) if normal else draw.normal(66, 13), 18, 95))
    sex: Sex = "female" if draw.random() < 0.5 else "male"
    chance = draw.random()
    if not normal and "1AVB" not in diagnoses and chance < AFIB_SHARE:
        rhythm = "AFIB"
    else:
        rhythm = str(draw.choice(RHYTHMS[:3], p=(0.87, 0.07, 0.06)))
    has_pvc = bool(not normal and draw.random() < PVC_SHARE)
    return Person(number, fold, n_visits, dipole.Patient(age_years, sex, diagnoses, rhythm, has_pvc))


def _diagnoses(draw: np.random.Generator) -> tuple[str, ...]:
    """One to three diagnoses of different superclasses; a left bundle branch block hides all others."""
    classes = list(SUPERCLASS_WEIGHTS)
    n_classes = int(draw.choice((1, 2, 3), p=(0.60, 0.33, 0.07)))
    chosen = draw.choice(classes, n_classes, replace=False, p=list(SUPERCLASS_WEIGHTS.values()))
    codes = [
        str(draw.choice(list(DIAGNOSES[name]), p=list(DIAGNOSES[name].values())))
        for name in sorted(chosen, key=classes.index)
    ]
    return ("CLBBB",) if "CLBBB" in codes else tuple(codes)


def _generator(settings: Simulation) -> Make:
    if settings.generator == "neurokit":
        return _neurokit(settings)
    return lambda person, visit: _dipole_record(settings, person, visit)


def _dipole_record(settings: Simulation, person: Person, visit: int) -> tuple[tuple[str, ...], npt.NDArray[np.float64]]:
    patient = person.patient
    anatomy = dipole.anatomy(patient, draws(settings.seed, person.number, ANATOMY))
    draw = draws(settings.seed, person.number, FIRST_VISIT + visit)
    made = dipole.visit(patient, anatomy, settings.duration_s, settings.fs_hz, draw)
    codes = (*patient.diagnoses, *(("PVC",) if made.has_pvc else ()), patient.rhythm)
    return codes, made.signal_mv_lt


def _neurokit(settings: Simulation) -> Make:
    """Normal ECGs by neurokit2's multi-lead simulator; limb leads made consistent from its I and II."""
    if settings.fs_hz != 500:
        # At 100 Hz one call of the simulator had not returned after twenty minutes.
        raise ConfigError("the neurokit generator works at 500 Hz only", got=f"fs_hz={settings.fs_hz}")
    if not settings.duration_s.is_integer():
        got = f"duration_s={settings.duration_s:g}"
        raise ConfigError("the neurokit generator makes whole seconds only", got=got)
    neurokit2 = need("neurokit2", "ingest")

    def make(person: Person, visit: int) -> tuple[tuple[str, ...], npt.NDArray[np.float64]]:
        draw = draws(settings.seed, person.number, FIRST_VISIT + visit)
        rhythm = "SR" if person.patient.rhythm == "AFIB" else person.patient.rhythm
        low_bpm, high_bpm = dipole.RATE_LIMITS_BPM[rhythm]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table = neurokit2.ecg_simulate(
                duration=int(settings.duration_s),
                sampling_rate=settings.fs_hz,
                heart_rate=float(draw.uniform(low_bpm, high_bpm)),
                method="multileads",
                random_state=int(draw.integers(2**31)),
            )
        measured_mv = np.asarray(table[list(dipole.MEASURED)], dtype=np.float64).T
        return ("NORM", rhythm), dipole.twelve_leads(measured_mv)

    return make
