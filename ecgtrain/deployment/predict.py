"""What a trained head says of every record of a store, or of a folder of recordings: one row each, nothing left out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ecgstore import ConfigError, Store, __version__, open_shared
from ecgtrain.data.seen import learned_from, read_seen, seen_of, shared
from ecgtrain.deployment.model import Ensemble, Model
from ecgtrain.deployment.replay import LOST, ExtraLeads, Progress, replayed
from ecgtrain.errors import ProtocolError
from ecgtrain.evaluation.splits import Float64, Rows
from ecgtrain.training.files import TABLE, published

#: Why a record of a store is not predicted, besides what an ingest leaves out.
TOO_SHORT, NO_LEADS = "too_short", "no_leads"

#: What the objects of a store are called, of one that isn't whole too.
_OF_A_STORE = ("zarr.json", "manifest.json", "building.json")


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A record that was not predicted, and why: a reason of an ingest, ``too_short`` or ``no_leads``."""

    record_id: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """``table``: one row per record, as docs/how-to/predict.md describes it; ``notes``: what it should be read with."""

    table: pa.Table
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]

    @property
    def n_predicted(self) -> int:
        """Records that were predicted."""
        return int(self.table.num_rows) - len(self.left_out)


def predict(
    model: Model | Ensemble,
    recordings: str | Path,
    *,
    source: str | None = None,
    extra_leads: ExtraLeads | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> Predictions:
    """Ask ``model`` about every record of a store, of a folder of WFDB records, or about one record.

    Recordings are prepared by the model's passport first; a store must have been. ``source``: which kind of folder, as
    for an ingest. ``extra_leads``: what becomes of a recording with a signal that is no lead, ``refuse`` or ``drop``;
    by default what the passport says. ``progress`` is told the phase, how much is done, of how much.

    Raises PassportError where a store was prepared otherwise, ProtocolError where no record can be predicted, and what
    :func:`ecgtrain.deployment.replay.replayed` raises.
    """
    with _store_of(model, recordings, source, extra_leads, workers, progress) as (store, rejected):
        model.passport.refuse_other(store)
        left_out = dict(_unfit(model, store))
        rows = np.setdiff1d(np.arange(store.n_records, dtype=np.int64), np.array(list(left_out), dtype=np.int64))
        found = (*rejected, *left_out.values())
        if not len(rows):
            said = f"{found[0].record_id}: {found[0].reason} {found[0].detail}".strip() if found else "no record"
            raise ProtocolError(f"none of {len(found)} records can be predicted", where=recordings, got=said)
        tell = (
            (lambda done, total: None) if progress is None else (lambda done, total: progress("predict", done, total))
        )
        score_rc = model.score(store, rows, tell)
        table = _table(model, store, rows, score_rc, left_out, rejected)
        return Predictions(table, found, _notes(model, store, rows))


def _is_store(path: str | Path) -> bool:
    text = str(path)
    return "://" in text or text.endswith(".ecg") or any((Path(path) / name).exists() for name in _OF_A_STORE)


@contextmanager
def _store_of(
    model: Model | Ensemble,
    path: str | Path,
    source: str | None,
    extra_leads: ExtraLeads | None,
    workers: int,
    progress: Progress | None,
) -> Iterator[tuple[Store, tuple[LeftOut, ...]]]:
    if _is_store(path):
        if source is not None or extra_leads is not None:
            raise ConfigError(
                "a store is prepared already", where=path, fix="leave --source and --extra-leads out, or name a folder"
            )
        yield open_shared(path), ()
        return
    with replayed(
        model.passport, Path(path), source=source, extra_leads=extra_leads, workers=workers, progress=progress
    ) as store:
        rejected = store.rejected.to_pylist()
        yield store, tuple(LeftOut(one["record_id"], one["reason"], one["detail"] or "") for one in rejected)


def _unfit(model: Model | Ensemble, store: Store) -> Iterator[tuple[int, LeftOut]]:
    """Rows of records that the model can say nothing of."""
    needed, lengths_n, ids = model.head.window_samples, store.column("n_samples"), store.column("record_id")
    lost = _lost(model, store)
    for row in range(store.n_records):
        if lengths_n[row] < needed:
            has_s, needs_s = (n / store.fs_hz for n in (int(lengths_n[row]), needed))
            yield row, LeftOut(str(ids[row]), TOO_SHORT, f"{has_s:g} s, and the model's windows take {needs_s:g} s")
        elif len(lost[row]) == len(model.passport.leads):
            yield row, LeftOut(str(ids[row]), NO_LEADS, "none of the model's leads was recorded, or all are bad")


def _lost(model: Model | Ensemble, store: Store) -> list[tuple[str, ...]]:
    """Of each record, which of the model's leads are not there, of which the network sees zeros, or are bad."""
    places = [(lead, store.leads.index(lead)) for lead in model.passport.leads]
    states_n = store.column("lead_states").tolist()
    by_states = {its: tuple(lead for lead, place in places if its[place : place + 1] in LOST) for its in set(states_n)}
    return [by_states[its] for its in states_n]


def _table(
    model: Model | Ensemble,
    store: Store,
    rows: Rows,
    score_rc: Float64,
    left_out: dict[int, LeftOut],
    rejected: Sequence[LeftOut],
) -> pa.Table:
    """One row for each record of the store, then one for each that never came into it."""
    n, head = store.n_records + len(rejected), model.head
    why: list[LeftOut | None] = [left_out.get(row) for row in range(store.n_records)]
    why += rejected
    columns: dict[str, pa.Array] = {
        "record_id": pa.array([*map(str, store.column("record_id")), *(one.record_id for one in rejected)])
    }
    is_predicted_n = np.zeros(n, dtype=np.bool_)
    is_predicted_n[rows] = True

    def whole(values_r: Any) -> pa.Array:
        values_n = np.zeros(n, dtype=np.asarray(values_r).dtype)
        values_n[rows] = values_r
        return pa.array(values_n, mask=~is_predicted_n)

    for c, name in enumerate(head.classes):
        columns[f"{model.column}:{name}"] = whole(score_rc[:, c])
    for c, name in enumerate(head.classes):
        if name in head.thresholds:
            columns[f"said:{name}"] = whole(score_rc[:, c] >= head.thresholds[name])
    if head.kind == "exclusive":
        columns["said"] = whole(np.array(head.classes, dtype=object)[score_rc.argmax(axis=1)])
    lost: list[str | None] = [", ".join(its) for its in _lost(model, store)]
    lost += [None] * len(rejected)
    columns["leads_lost"] = pa.array(lost, pa.string())
    columns["reason"] = pa.array([None if one is None else one.reason for one in why], pa.string())
    columns["detail"] = pa.array([None if one is None else one.detail for one in why], pa.string())
    return pa.table(columns).replace_schema_metadata({"ecgtrain": json.dumps(_about(model))})


def _about(model: Model | Ensemble) -> dict[str, Any]:
    """What has spoken, for whoever finds the table years later."""
    head = model.head
    return {
        "version": __version__,
        "question": head.name,
        "protocol": head.protocol,
        "kind": head.kind,
        "classes": list(head.classes),
        "thresholds": dict(head.thresholds),
        "window_samples": head.window_samples,
        "stride_samples": head.stride_samples,
        "recipe_sha256": model.passport.recipe_sha256,
        "sha256": model.sha256,
    }


def _notes(model: Model | Ensemble, store: Store, rows: Rows) -> tuple[str, ...]:
    """What the predictions should be read with."""
    notes = []
    lost = _lost(model, store)
    n_lost = sum(bool(lost[row]) for row in rows.tolist())
    if n_lost:
        notes.append(
            f"{n_lost} of {len(rows)} records lack leads that the model takes, or have bad ones: see leads_lost"
        )
    notes += model.models[0].fitted.notes(store, rows)
    tables = [read_seen(path) for path in model.seen]
    if tables:
        again = int(shared(learned_from(tables), seen_of(store, rows, "test")).any.sum())
        if again:
            notes.append(
                f"the model has learned from {again} of {len(rows)} records, or was chosen by them: it is not to be "
                "judged by what it says of these"
            )
    return tuple(notes)


def write_predictions(predictions: Predictions, out: str | Path, *, overwrite: bool = False) -> None:
    """Write the table to ``out``, whole or not at all; raises ConfigError where something stands there,
    or its name is no Parquet file's."""
    with published(Path(out), overwrite=overwrite, suffix=TABLE) as aside:
        pq.write_table(predictions.table, aside)
