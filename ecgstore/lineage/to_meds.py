"""Sealed store → the tables of MEDS 0.4.1 (Medical Event Data Standard): who, what was stated, what was measured.

A store keeps no dates, so every event has no time: in MEDS that is what always holds of a subject. Samples and
annotations are not in it; each event names its record, by which the store has them.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ecgstore.errors import ConfigError, StoreError
from ecgstore.lineage.exporting import folder_for
from ecgstore.storage import asked, layout, tables
from ecgstore.storage.store import Store

MEDS_VERSION = "0.4.1"
RECORD_CODE, AGE_CODE, SEX_CODE = "ECG//RECORD", "ECG//AGE_YEARS", "SEX"
#: What was measured of a record, and is an event of its own where it is known.
MEASURED = (*layout.MEASURES, "heart_rate_bpm", "sqi")
_DATA = pa.schema(
    [
        ("subject_id", pa.int64()),
        ("time", pa.timestamp("us")),
        ("code", pa.string()),
        ("numeric_value", pa.float32()),
        ("record_id", pa.string()),
    ]
)
_CODES = pa.schema([("code", pa.string()), ("description", pa.string()), ("parent_codes", pa.list_(pa.string()))])
_SPLITS = pa.schema([("subject_id", pa.int64()), ("split", pa.string())])
SPLITS = ("train", "tuning", "held_out")


@dataclass(frozen=True, slots=True)
class MedsReport:
    """What was written; ``splits``: subjects by split. ``mixed``: subjects with records on several sides, in train."""

    path: str
    subjects: int
    events: int
    codes: int
    splits: dict[str, int]
    mixed: int


def export_meds(
    store: Store, out: str | Path, *, tuning: Sequence[int] | None = None, held_out: Sequence[int] | None = None
) -> MedsReport:
    """Write the folder ``out``: ``data/0.parquet`` and ``metadata/`` (codes, dataset, subject_splits).

    ``tuning`` and ``held_out``: the folds of these splits; the last but one and the last where a store has three or
    more. All other folds are ``train``; a subject of several splits is in train, and one without a fold in none. A
    record that names no patient is a subject of its own. Raises ConfigError (a fold that is none, or in both),
    StoreExists, StoreError.
    """
    out = Path(out)
    with folder_for(store, out) as folder:
        subject_n = _subjects(store)
        data = _events(store, subject_n)
        splits, n_mixed = _splits(store, subject_n, tuning, held_out)
        codes = _codes(data)
        (folder / "data").mkdir()
        (folder / "metadata").mkdir()
        (folder / "data" / "0.parquet").write_bytes(tables.to_parquet(data))
        (folder / "metadata" / "codes.parquet").write_bytes(tables.to_parquet(codes))
        (folder / "metadata" / "subject_splits.parquet").write_bytes(tables.to_parquet(splits))
        (folder / "metadata" / "dataset.json").write_text(json.dumps(_dataset(store), indent=1) + "\n")
    return MedsReport(
        path=str(out),
        subjects=len(np.unique(subject_n)),
        events=len(data),
        codes=len(codes),
        splits=dict(Counter(splits["split"].to_pylist())),
        mixed=n_mixed,
    )


def _subjects(store: Store) -> npt.NDArray[np.int64]:
    """The subject of each record: 63 bits of the patient's key, or of the hash of the id of a record without one."""
    names = [
        key or hashlib.blake2b(record_id.encode(), digest_size=8, person=b"ecgstore meds").hexdigest()
        for key, record_id in zip(store.column("patient_key"), store.column("record_id"), strict=True)
    ]
    number_of: dict[str, int] = {}
    for name in dict.fromkeys(names):
        digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
        number_of[name] = int.from_bytes(digest, "big") >> 1
    if len(set(number_of.values())) != len(number_of):
        raise StoreError("two patients would be one subject: their hashes agree in 63 bits", where=store.path)
    return np.array([number_of[name] for name in names], np.int64)


def _events(store: Store, subject_n: npt.NDArray[np.int64]) -> pa.Table:
    """All events, by subject, and in the order of the store within one."""
    rows: list[Any] = []
    codes: list[Any] = []
    values: list[Any] = []

    def add(at: Any, code: Any, value: Any) -> None:
        rows.append(np.asarray(at, np.int64))
        codes.append(pa.array([code] * len(at) if isinstance(code, str) else code, pa.string()))
        values.append(pa.array(value, pa.float32(), from_pandas=True))

    every = np.arange(store.n_records)
    add(every, RECORD_CODE, np.full(len(every), np.nan))
    sex_n = store.column("sex")
    for sex in ("female", "male"):
        at = np.flatnonzero(sex_n == sex)
        add(at, f"{SEX_CODE}//{sex}", np.full(len(at), np.nan))
    for name, code in ((("age_years"), AGE_CODE), *((one, f"ECG//{one}") for one in MEASURED)):
        if name in store.records.column_names:
            value_n = np.asarray(store.column(name), np.float64)
            at = np.flatnonzero(~np.isnan(value_n))
            add(at, code, value_n[at])
    said = store.statements
    pairs = zip(said["system"].to_pylist(), said["code"].to_pylist(), strict=True)
    named = [f"{system}//{code}" for system, code in pairs]
    add(said["row"].to_numpy(), named, said["likelihood"].to_numpy())
    row_e = np.concatenate(rows)
    order = np.lexsort((row_e, subject_n[row_e]))
    table = pa.table(
        {
            "subject_id": pa.array(subject_n[row_e]),
            "time": pa.nulls(len(row_e), pa.timestamp("us")),
            "code": pa.concat_arrays(codes),
            "numeric_value": pa.concat_arrays(values),
            "record_id": store.records["record_id"].combine_chunks().take(pa.array(row_e)),
        },
        schema=_DATA,
    )
    return table.take(pa.array(order)).combine_chunks()


def _codes(data: pa.Table) -> pa.Table:
    told = {
        RECORD_CODE: "a recording; record_id names it in the store",
        AGE_CODE: "age at the recording, in years",
        f"{SEX_CODE}//female": "female, as the source states",
        f"{SEX_CODE}//male": "male, as the source states",
        **{f"ECG//{name}": f"{name}, measured on the recording before any filter" for name in MEASURED},
    }
    found = sorted(data["code"].unique().to_pylist())
    columns = [found, [told.get(code, "a statement of the source: coding system and code") for code in found]]
    return pa.table([*columns, [[] for _ in found]], schema=_CODES)


def _splits(
    store: Store,
    subject_n: npt.NDArray[np.int64],
    tuning: Sequence[int] | None,
    held_out: Sequence[int] | None,
) -> tuple[pa.Table, int]:
    fold_n = store.column("fold")
    folds = sorted(set(fold_n.tolist()) - {-1})
    chosen = {
        "tuning": asked.folds_of(tuning, store.path) if tuning is not None else folds[-2:-1] if len(folds) > 2 else [],
        "held_out": asked.folds_of(held_out, store.path)
        if held_out is not None
        else folds[-1:]
        if len(folds) > 2
        else [],
    }
    for name, its in chosen.items():
        if unknown := sorted(set(its) - set(folds)):
            raise ConfigError(
                f"no record is in fold {unknown[0]}, which {name} shall be",
                where=store.path,
                expected=", ".join(map(str, folds)) or "a store with folds",
            )
    if both := sorted(set(chosen["tuning"]) & set(chosen["held_out"])):
        raise ConfigError(f"fold {both[0]} can't be tuning and held_out", where=store.path)
    split_of = {fold: next((name for name, its in chosen.items() if fold in its), "train") for fold in folds}
    sides: dict[int, set[str]] = {}
    for subject, fold in zip(subject_n.tolist(), fold_n.tolist(), strict=True):
        if fold >= 0:
            sides.setdefault(subject, set()).add(split_of[fold])
    ordered = sorted(sides.items())
    told = [next(iter(its)) if len(its) == 1 else "train" for _, its in ordered]
    return pa.table([[one for one, _ in ordered], told], schema=_SPLITS), sum(len(its) > 1 for its in sides.values())


def _dataset(store: Store) -> dict[str, Any]:
    from ecgstore import __version__

    return {
        "dataset_name": Path(store.path.rstrip("/")).name,
        "dataset_version": store.fingerprint,
        "etl_name": "ecgstore export --meds",
        "etl_version": __version__,
        "meds_version": MEDS_VERSION,
        "license": ", ".join(dict.fromkeys(terms.licence for terms in store.terms if terms.licence)) or "not stated",
        "table_names": [],
        "extension_columns": ["record_id"],
    }
