"""Sealed store → a folder of WFDB records of the same millivolts, and a table of what is said of them."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ecgstore.lineage.exporting import folder_for
from ecgstore.record import LeadState
from ecgstore.storage import layout
from ecgstore.storage.store import Store
from ecgstore.wfdb_io.write import write_annotations, write_record

Progress = Callable[[str, int, int], None]

_PART = re.compile(r"[A-Za-z0-9_-]{1,100}")
LABELS, RECORDS = "labels.csv", "RECORDS"


@dataclass(frozen=True, slots=True)
class WfdbReport:
    """What was written. ``lost_annotations`` have a symbol or suffix that WFDB doesn't know; ``lost_leads`` no gain."""

    path: str
    records: int
    renamed: int
    lost_annotations: int
    lost_leads: int


def export_wfdb(store: Store, out: str | Path, *, progress: Progress | None = None) -> WfdbReport:
    """Write every record of ``store`` to the folder ``out`` in format 16, with the annotations that the store keeps.

    A record is called by its id; where that can't be the name of a WFDB record, by ``record`` and its number. Absent
    leads are left out, and so are leads of a raw store without a gain. ``labels.csv`` has id, patient, fold, age, sex,
    site and statements, as `ecgstore ingest --labels` reads them. Raises StoreExists, StoreError, IntegrityError.
    """
    out = Path(out)
    names = _names(store)
    n_lost, n_leads, fs_hz = 0, 0, store.attributes["fs_hz"]
    with folder_for(store, out) as folder:
        for row, name in enumerate(names):
            gone, uncalibrated = _write(store, row, folder, name, fs_hz)
            n_lost, n_leads = n_lost + gone, n_leads + uncalibrated
            if progress is not None:
                progress("records", row + 1, len(names))
        _write_labels(store, folder, names)
        (folder / RECORDS).write_text("".join(f"{name}\n" for name in names))
    n_renamed = sum(name != record_id for name, record_id in zip(names, store.column("record_id"), strict=True))
    return WfdbReport(str(out), len(names), n_renamed, n_lost, n_leads)


def _names(store: Store) -> list[str]:
    """A path below the folder for each record, no two alike on any file system."""
    ids = store.column("record_id").tolist()
    taken: set[str] = set()
    names = []
    for row, record_id in enumerate(ids):
        is_name = all(_PART.fullmatch(part) for part in record_id.split("/"))
        name = record_id if is_name and record_id.casefold() not in taken else f"record-{row:07d}"
        while name.casefold() in taken:
            name += "-"
        taken.add(name.casefold())
        names.append(name)
    return names


def _write(store: Store, row: int, folder: Path, name: str, same_fs_hz: float | None) -> tuple[int, int]:
    record = store.records.slice(row, 1).to_pylist()[0]
    fs_hz = float(same_fs_hz or record["source_fs_hz"])
    begin, end = (int(ends[row]) for ends in store.spans)
    counts_lt = store.decode(begin, end, np.array([row]))
    n_leads = len(store.leads)
    gain_l, baseline_l = np.full(n_leads, float(layout.COUNTS_PER_MV)), np.zeros(n_leads, np.int64)
    if store.encoding == "adc":
        its = store.lead_quality.slice(row, 1).to_pylist()[0]
        gain_l = np.array(its["gain_per_mv"], np.float64)
        baseline_l = np.array(its["baseline"], np.int64)
    is_there_l = np.array([state != LeadState.ABSENT for state in record["lead_states"]])
    is_known_l = ~np.isnan(gain_l)
    kept = np.flatnonzero(is_there_l & is_known_l)
    place = folder / name
    place.parent.mkdir(parents=True, exist_ok=True)
    if len(kept):
        leads = [store.leads[lead] for lead in kept]
        write_record(place.parent, place.name, counts_lt[kept], fs_hz, leads, gain_l[kept], baseline_l[kept])
    n_lost = write_annotations(place.parent, place.name, store.read_beats(record["record_id"]), fs_hz)
    return n_lost, int((is_there_l & ~is_known_l).sum())


def _write_labels(store: Store, folder: Path, names: list[str]) -> None:
    systems = sorted(set(store.statements["system"].to_pylist()))
    stated: dict[int, dict[str, list[str]]] = {}
    for one in store.statements.to_pylist():
        stated.setdefault(one["row"], {}).setdefault(one["system"], []).append(one["code"])
    columns = [
        name for name in ("patient_key", "fold", "age_years", "sex", "site") if name in store.records.column_names
    ]
    head = ["record_id", *("patient_id" if name == "patient_key" else name for name in columns), *systems]
    with (folder / LABELS).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head)
        for row, (name, record) in enumerate(zip(names, store.records.select(columns).to_pylist(), strict=True)):
            its = stated.get(row, {})
            told = [
                "" if value is None else f"{value:g}" if isinstance(value, float) else value
                for value in record.values()
            ]
            writer.writerow([name, *told, *(";".join(its.get(system, ())) for system in systems)])
