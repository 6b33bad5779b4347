"""Virtual patients with ventricular beats of known origin: a WFDB folder with the truth beside it.

Here patients and origins are drawn and the folder is written and listed; what hearts do is
:mod:`ecgstore.simulate.ectopy`'s. docs/simulate-vt.md says what stands in which file.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import Field

import ecgstore.settings
from ecgstore.record import Listing, RecordRef, Statement, Terms
from ecgstore.simulate import ectopy, ventricles
from ecgstore.sources._simulated import (
    LABELS,
    README,
    about_record,
    base,
    draws,
    listed,
    new_folder,
    within,
    write_beats,
    write_record,
    wrote,
)
from ecgstore.sources._tables import number
from ecgstore.storage import tables
from ecgstore.vocabularies.origin_sites import aha_segments, origin_sites

TERMS = Terms(
    name="synthetic_vt",
    version="1",
    licence="CC0-1.0",
    redistributable=True,
    citation="Simulated by ecgstore; not recorded from anybody.",
)
#: The identifiers of patients are published with the records: hashing them with a secret would hide nobody.
PATIENT_IDS_ARE_PUBLIC = True
#: Where ectopic beats begin: its site, its region of four, its segments of the left ventricle, and its place, as three
#: codes such as x=-12 in whole mm: in the heart of the patient, and the same place in the reference heart.
SITE, REGION, AHA, PLACE, REFERENCE = "vt_site", "vt_region", "aha17", "vt_place_mm", "vt_reference_mm"
AXES, FARTHEST_MM = ("x", "y", "z"), 120
VOCABULARY: dict[str, tuple[str, ...]] = {
    SITE: tuple(one.site for one in origin_sites()),
    REGION: ("RVOT", "LVOT", "RV", "LV"),
    AHA: tuple(str(one.segment) for one in aha_segments()),
    **dict.fromkeys(
        (PLACE, REFERENCE),
        tuple(f"{axis}={mm}" for axis in AXES for mm in range(-FARTHEST_MM, FARTHEST_MM + 1)),
    ),
}
COLUMNS = (
    *("record_id", "patient_id", "fold", "age_years", "sex", SITE, REGION, AHA, "layer", "point"),
    *("x_mm", "y_mm", "z_mm", "x_reference_mm", "y_reference_mm", "z_reference_mm", "n_ectopic", "qrs_ms"),
)
PATIENTS, POINTS, EDGES = "patients.csv", "heart_points.parquet", "heart_edges.parquet"
PATIENT_COLUMNS = (
    *("patient_id", "scale_x", "scale_y", "scale_z", "yaw_deg", "pitch_deg", "roll_deg", "base_x_mm", "base_y_mm"),
    *("base_z_mm", "chest_mm", "muscle_speed", "endocardium_speed", "purkinje_speed", "gain", "apd_s", "rate_bpm"),
    *("scar_point", "scar_radius_mm", "scar_is_transmural", "scar_aha17"),
)
TITLE = "Synthetic 12-lead ECGs with ventricular beats of known origin"
ABOUT = """{title}
=============================================================

Computed by `ecgstore simulate --kind vt` ({settings}).
No person was recorded: hearts, chests, signals, ages and sexes are all drawn from a random generator.

records/             WFDB records, format 16, 1000 counts per mV, {fs_hz} Hz; .atr holds beats, N sinus and V ectopic
labels.csv           one line per record: where its ectopic beats begin
patients.csv         one line per patient: heart, chest, speeds, scar
heart_points.parquet the points of the reference heart: x_mm, y_mm, z_mm, wall, layer, site, region, aha17
heart_edges.parquet  which points are neighbours

A patient's heart is the reference heart times scale_x, scale_y, scale_z. Axes, in mm: the origin is the centre of the
mitral ring, x to the lateral wall, y to the anterior wall, z from base to apex. x_mm in labels.csv is in the patient's
own heart, x_reference_mm in the reference heart.

To the extent possible under law, this folder is dedicated to the public domain (CC0 1.0):
https://creativecommons.org/publicdomain/zero/1.0/
"""
_LAYERS, _WALLS = ("endocardium", "midwall", "epicardium"), ("LV", "RV", "RVOT")
#: How often a site is drawn, other sites: 1. Most idiopathic beats begin in an outflow tract.
_WEIGHTS = {"RVOT_septal": 3.0, "RVOT_free": 2.0, "LVOT_septal": 2.0}
#: A scar's border is so wide; in a patient with a scar, every second origin lies in it.
BORDER_MM, BORDER_SHARE = 8.0, 0.5
PATIENT, ORIGINS, FIRST_RECORD = range(3)


class Settings(ecgstore.settings.Settings):
    """A folder that ``ecgstore simulate --kind vt`` wrote has no options."""

    name: Literal["synthetic_vt"] = "synthetic_vt"


class Simulation(ecgstore.settings.Settings):
    """What ``ecgstore simulate --kind vt`` writes. The same settings always give the same bytes."""

    n_records: int = Field(default=2000, ge=1, le=99_999)
    seed: int = Field(default=0, ge=0, lt=2**63)
    fs_hz: int = Field(default=500, ge=100, le=4000)
    duration_s: float = Field(default=10.0, ge=5.0, le=3600.0)
    #: Records of one patient, each with another origin.
    origins_per_patient: int = Field(default=5, ge=1, le=20)
    #: Whether the wave of an ectopic beat is faster along the endocardium.
    fast_endocardium: bool = True
    #: Share of patients with an infarct scar, which blocks.
    scars: float = Field(default=0.3, ge=0, le=1)


class Truth(NamedTuple):
    """One record before it is simulated: its patient by number, fold, heart, and the point where beats begin."""

    number: int
    person: int
    fold: int
    patient: ectopy.Patient
    made: ectopy.Model
    origin: int
    visit: int


def simulate(out: Path, settings: Simulation, *, progress: Callable[[int, int], None] | None = None) -> None:
    """Write WFDB records with beat annotations, the truth and the reference heart to ``out``, aside first.

    Patient p draws from Philox keyed by (seed, p), so a record depends on the seed and its own number, not on how many
    others are written. ``progress`` is called with (done, total) after each record.

    Raises ConfigError if ``out`` holds anything already; MissingExtra if scipy is not installed.
    """
    with new_folder(out) as folder:
        described = f"seed {settings.seed}, {settings.n_records} records, {settings.origins_per_patient} per patient"
        about = ABOUT.format(title=TITLE, settings=described, fs_hz=settings.fs_hz)
        (folder / README).write_text(about, encoding="utf-8", newline="\n")
        _write_heart(folder)
        with (
            (folder / LABELS).open("w", encoding="utf-8", newline="") as labels,
            (folder / PATIENTS).open("w", encoding="utf-8", newline="") as patients,
        ):
            rows, people = (csv.writer(file, lineterminator="\n") for file in (labels, patients))
            rows.writerow(COLUMNS)
            people.writerow(PATIENT_COLUMNS)
            for truth in truths(settings):
                made = record(settings, truth)
                at = base(folder, truth.number)
                write_record(at, made.signal_mv_lt, settings.fs_hz)
                symbols = ["V" if is_ectopic else "N" for is_ectopic in made.is_ectopic]
                write_beats(at, made.beat_samples.tolist(), symbols)
                rows.writerow(_line(at.name, truth, made))
                if truth.visit == 0:
                    people.writerow(_person_line(truth))
                if progress is not None:
                    progress(truth.number, settings.n_records)


def truths(settings: Simulation) -> Iterator[Truth]:
    """What is true of each record, for one patient after the other."""
    number, person = 0, 0
    while True:
        person += 1
        draw = draws(settings.seed, person, PATIENT)
        fold = int(draw.integers(1, 11))
        patient = ectopy.draw_patient(draw, fast_endocardium=settings.fast_endocardium, scars=settings.scars)
        made = ectopy.model(patient)
        origins = draw_origins(patient, made, settings.origins_per_patient, draws(settings.seed, person, ORIGINS))
        for visit, origin in enumerate(origins):
            number += 1
            yield Truth(number, person, fold, patient, made, origin, visit)
            if number == settings.n_records:
                return


def record(settings: Simulation, truth: Truth) -> ectopy.Recording:
    """Simulate one record."""
    draw = draws(settings.seed, truth.person, FIRST_RECORD + truth.visit)
    return ectopy.record(truth.patient, truth.made, truth.origin, settings.duration_s, settings.fs_hz, draw)


def draw_origins(patient: ectopy.Patient, made: ectopy.Model, n: int, draw: np.random.Generator) -> list[int]:
    """``n`` points where beats begin, of ``n`` different sites; where there is a scar, some at its border."""
    heart = made.heart
    # What looks like the left ventricle's outside in the septum is the right ventricle's inside: which site it is of
    # would be a matter of taste.
    is_right_septum = (heart.wall == ventricles.LV) & (heart.layer == ventricles.EPI) & heart.is_endocardium
    healthy = ~made.blocked & ~is_right_septum
    border = np.zeros(heart.n_points, dtype=bool)
    if patient.scar is not None:
        away_mm = np.linalg.norm(heart.xyz_mm - heart.xyz_mm[patient.scar.point], axis=1)
        border = healthy & (heart.wall == ventricles.LV) & (away_mm < patient.scar.radius_mm + BORDER_MM)
    sites = [one.site for one in origin_sites()]
    weights = np.array([_WEIGHTS.get(site, 1.0) for site in sites])
    order = draw.choice(sites, len(sites), replace=False, p=weights / weights.sum())
    origins: list[int] = []
    free = {str(site) for site in order}
    for _ in range(n):
        wants_border = bool(draw.random() < BORDER_SHARE)
        among = border & np.isin(heart.site, list(free))
        if not (wants_border and among.any()):
            ready = (site for site in order if site in free and (healthy & (heart.site == site)).any())
            among = healthy & (heart.site == next(ready))
        origin = int(draw.choice(np.flatnonzero(among)))
        free.discard(str(heart.site[origin]))
        origins.append(origin)
    return origins


# ── The tables ───────────────────────────────────────────────────────────────────────────────────────────


def _line(record_id: str, truth: Truth, made: ectopy.Recording) -> tuple[Any, ...]:
    heart, at = truth.made.heart, truth.origin
    segment = int(heart.aha17[at])
    return (
        record_id,
        f"{truth.person:05d}",
        truth.fold,
        truth.patient.age_years,
        truth.patient.sex,
        heart.site[at],
        _region(str(heart.site[at])),
        segment or "",
        _LAYERS[heart.layer[at]],
        at,
        *_decimals(heart.xyz_mm[at], 2),
        *_decimals(ventricles.reference_heart().xyz_mm[at], 2),
        int(made.is_ectopic.sum()),
        round(1000 * made.qrs_s),
    )


def _person_line(truth: Truth) -> tuple[Any, ...]:
    one = truth.patient
    scar: tuple[Any, ...] = ("", "", "", "")
    if one.scar is not None:
        touched = sorted(set(truth.made.heart.aha17[truth.made.blocked].tolist()))
        scar = (one.scar.point, *_decimals([one.scar.radius_mm], 1), int(one.scar.is_transmural), _joined(touched))
    return (
        f"{truth.person:05d}",
        *_decimals([*one.scale, one.yaw_deg, one.pitch_deg, one.roll_deg, *one.base_mm, one.chest_mm], 4),
        *_decimals([one.muscle_speed, one.endocardium_speed, one.purkinje_speed, one.gain, one.apd_s], 4),
        *_decimals([one.rate_bpm], 1),
        *scar,
    )


def _decimals(numbers: Any, places: int) -> list[str]:
    """Numbers as they stand in a table; no minus before a zero."""
    return [f"{round(float(value), places) + 0.0:.{places}f}" for value in numbers]


def _joined(numbers: list[int]) -> str:
    return " ".join(map(str, numbers))


def _region(site: str) -> str:
    return next(one.region for one in origin_sites() if one.site == site)


def _write_heart(folder: Path) -> None:
    heart = ventricles.reference_heart()
    points = pa.table(
        {
            **{f"{axis}_mm": heart.xyz_mm[:, place] for place, axis in enumerate(AXES)},
            "wall": [_WALLS[wall] for wall in heart.wall],
            "layer": [_LAYERS[layer] for layer in heart.layer],
            "site": heart.site.tolist(),
            "region": [_region(site) for site in heart.site.tolist()],
            "aha17": pa.array([int(segment) or None for segment in heart.aha17], pa.int8()),
        }
    )
    once = heart.rows < heart.neighbours
    edges = pa.table(
        {
            "point": pa.array(heart.rows[once], pa.int32()),
            "neighbour": pa.array(heart.neighbours[once], pa.int32()),
        }
    )
    (folder / POINTS).write_bytes(tables.to_parquet(points))
    (folder / EDGES).write_bytes(tables.to_parquet(edges))


# ── Listing ──────────────────────────────────────────────────────────────────────────────────────────────


def is_here(root: Path) -> bool:
    """Whether ``root`` is a folder that :func:`simulate` wrote; its README says so."""
    return wrote(root, TITLE)


def list_records(root: Path, settings: Settings) -> Listing:
    """List a folder written by :func:`simulate`: ids, patients, folds, beats, and where ectopic beats begin.

    Raises SourceError if ``labels.csv`` is not there or a line of it can't be understood. A line without its header
    file is rejected, not fatal.
    """
    records, rejected = listed(Path(root), _ref, COLUMNS)
    return Listing(records, rejected, TERMS, VOCABULARY)


def _ref(root: Path, line: dict[str, str]) -> RecordRef:
    said = [(SITE, line[SITE]), (REGION, line[REGION]), *((AHA, code) for code in line[AHA].split())]
    for system, heart in ((PLACE, ""), (REFERENCE, "reference_")):
        for axis in AXES:
            mm = within(number(line[f"{axis}_{heart}mm"], -FARTHEST_MM, FARTHEST_MM))
            said.append((system, f"{axis}={round(mm)}"))
    for system, code in said:
        if code not in VOCABULARY[system]:
            raise ValueError(f"{system} {code[:40]!r}")
    return RecordRef(
        **about_record(root, line),
        statements=tuple(Statement(code, system) for system, code in said),
        annotators=("atr",),
    )
