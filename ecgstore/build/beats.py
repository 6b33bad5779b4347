"""Sealed store → sealed store of beats: of each record the mean of its ectopic beats, cut around the QRS complex.

The new store has the parent's statements, folds, patients, lead states and quality; its records are as long as a beat.
A record in which no ectopic beat is found is left out and written down. As in an ingest a shard is the unit of work and
of resuming, and the outcome is the same for any number of workers. Why a store: docs/adr/0025.
"""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from ecgstore.build import building, commits, schedule, shards
from ecgstore.build.commits import Commit, Committed
from ecgstore.build.construct import Job, Progress, Wish, construct
from ecgstore.build.schedule import Workers
from ecgstore.build.seal import rejected, seal_commits, software, sums_of
from ecgstore.build.shards import create_array
from ecgstore.build.sums import Sums, by_fold, fold_name, statistics, tally
from ecgstore.errors import ConfigError, IntegrityError, SourceError
from ecgstore.record import LeadState, Rejection
from ecgstore.settings import Settings
from ecgstore.signals import ectopic
from ecgstore.storage import layout, manifest, tables
from ecgstore.storage.manifest import ObjectHash
from ecgstore.storage.store import Store, open_store
from ecgstore.vocabularies.vocabulary import aami_class

NO_BEAT = "no_ectopic_beat"
#: What a commit says of each record that it holds.
_WRITTEN = pa.schema(
    [
        ("record_id", pa.string()),
        ("n_clipped", pa.int64()),
        ("n_not_recorded", pa.int64()),
        ("n_beats", pa.int64()),
        ("crc32", pa.int64()),
    ]
)
#: The largest number that an annotation of a store holds.
_MOST_NUM = 32767


class BeatSettings(Settings):
    """What is cut.

    ``beats``: ``auto`` finds the ectopic beats (:mod:`ecgstore.signals.ectopic`); ``annotated`` takes those that the
    store's annotations call ventricular (AAMI's class V). ``before_s`` and ``after_s``: how much of the signal, from
    the middle of the QRS complex.
    """

    beats: Literal["auto", "annotated"] = "auto"
    before_s: float = Field(default=0.3, ge=0.1, le=2)
    after_s: float = Field(default=0.3, ge=0.1, le=2)


@dataclass(frozen=True, slots=True)
class BeatsReport:
    """What was done. ``beats``: how many were averaged, over all records."""

    path: str
    parent: str
    records: int
    rejected: int
    beats: int
    seconds: float
    fingerprint: str
    n_shards: int
    n_shards_resumed: int


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """One shard and the parent's rows whose beats have a place in it."""

    first_shard: int
    rows: npt.NDArray[np.int64]

    @property
    def n_records(self) -> int:
        """Each is written or rejected."""
        return len(self.rows)


class _Plan(NamedTuple):
    parent: Store
    settings: BeatSettings
    shard_samples: int
    tasks: Sequence[_Task]
    sha256: str


class _Work(NamedTuple):
    """What a task must know, in whatever process it is done."""

    parent: str
    fingerprint: str
    settings: BeatSettings
    shard_samples: int
    sha256: str


def beats_store(
    store: Store,
    out: str | Path,
    settings: BeatSettings | None = None,
    *,
    workers: int | Workers = 1,
    resume: bool = True,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> BeatsReport:
    """Make the store ``out``: of each record of ``store`` its mean ectopic beat.

    An unfinished store of the same parent and settings is finished; ``resume`` also accepts one that is already
    sealed. ``overwrite`` replaces a sealed store once the new one is sealed. In ``out``, each record has one annotation
    at the middle of its beat, whose ``num`` says of how many beats it is the mean.

    Raises ConfigError (a raw parent, one of beats, one without annotations where these are asked for), SourceError
    where no record has an ectopic beat, StoreExists, StoreError (the disk refuses), IntegrityError (the parent is
    damaged, or the disk forgets).
    """
    began = time.perf_counter()
    settings, out = settings or BeatSettings(), Path(out)
    _refuse(store, settings)
    building.prepare(out, store.path)
    made = _plan(store, settings)
    crew = workers if isinstance(workers, Workers) else Workers(n=workers)
    outcome = construct(_job(made), out, Wish(resume and not overwrite, overwrite), crew, None, progress)
    its = open_store(out)
    return BeatsReport(
        path=str(out),
        parent=store.fingerprint,
        records=its.n_records,
        rejected=its.rejected.num_rows - store.rejected.num_rows,
        beats=int(pc.sum(its.beats["num"]).as_py() or 0),
        seconds=time.perf_counter() - began,
        fingerprint=outcome.fingerprint,
        n_shards=len(made.tasks),
        n_shards_resumed=outcome.n_found,
    )


def _refuse(store: Store, settings: BeatSettings) -> None:
    if store.encoding != "microvolt":
        raise ConfigError(
            "beats are averaged in millivolts, and a raw store holds its source's own counts",
            where=store.path,
            fix="ingest the source without `--profile raw`",
        )
    if "beats" in store.attributes:
        raise ConfigError("the store is one of beats already", where=store.path, fix="cut beats from its parent")
    if settings.beats == "annotated" and not _symbols(store):
        raise ConfigError(
            "the store has no annotated ventricular beats",
            where=store.path,
            expected="beats of AAMI's class V, such as V or E",
            fix="ingest with --annotators, or take --beats auto",
        )


def _symbols(store: Store) -> list[str]:
    """The symbols of ventricular beats that the store's annotations use."""
    table = store.beats
    found = pc.unique(table["symbol"]).to_pylist() if table.num_rows else []
    return [symbol for symbol in found if aami_class(symbol) == "V"]


def _lengths(settings: BeatSettings, fs_hz: float) -> tuple[int, int]:
    return round(settings.before_s * fs_hz), round(settings.after_s * fs_hz)


def _plan(store: Store, settings: BeatSettings) -> _Plan:
    """A place for each record of the parent; of one that is left out it stays empty, as in an ingest."""
    length = sum(_lengths(settings, store.fs_hz))
    size = layout.shard_samples(store.n_records * length, length)
    rows = np.arange(store.n_records)
    tasks = [
        _Task(shard, rows[begin : begin + size // length])
        for shard, begin in enumerate(range(0, len(rows), size // length))
    ]
    about = ["beats", layout.FORMAT_VERSION, store.fingerprint, settings.model_dump(mode="json")]
    return _Plan(store, settings, size, tasks, hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest())


def _start(made: _Plan | _Work, fs_hz: float, row: int) -> int:
    """Where the beat of the parent's ``row`` begins."""
    length = sum(_lengths(made.settings, fs_hz))
    shard, place = divmod(row, made.shard_samples // length)
    return shard * made.shard_samples + place * length


def _job(made: _Plan) -> Job:
    store = made.parent
    length = sum(_lengths(made.settings, store.fs_hz))
    total_samples = _start(made, store.fs_hz, store.n_records - 1) + length
    work = _Work(store.path, store.fingerprint, made.settings, made.shard_samples, made.sha256)
    return Job(
        plan_sha256=made.sha256,
        tasks=made.tasks,
        task_sha256=lambda task: made.sha256,
        do=functools.partial(_write, work),
        ready=functools.partial(schedule.prepare, with_wfdb=False),
        create_array=lambda root: create_array(
            root, store.storage["codec"], len(store.leads), total_samples, made.shard_samples
        ),
        about={"parent": store.fingerprint, "beats": made.settings.model_dump(mode="json")},
        seal=lambda root, done: _seal(root, made, done),
        otherwise="of another parent or with beats cut otherwise",
        instead="choose another output, or replace it with --overwrite",
    )


# --- the work -----------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def _parent(path: str, fingerprint: str) -> Store:
    store = open_store(path)
    if store.fingerprint != fingerprint:
        raise IntegrityError("the parent was replaced meanwhile", where=path)
    return store


def _write(work: _Work, root: Path, task: _Task) -> None:
    """One task, from the parent's shards to its commit."""
    store = _parent(work.parent, work.fingerprint)
    n_before, n_after = _lengths(work.settings, store.fs_hz)
    counts_lt = np.full((len(store.leads), work.shard_samples), layout.NOT_RECORDED, dtype=np.int16)
    written: list[dict[str, Any]] = []
    left_out: list[Rejection] = []
    sums: list[tuple[str, Sums]] = []
    about = store.records.take(task.rows).select(["record_id", "fold", "lead_states"]).to_pylist()
    marks = _marks(store, task.rows) if work.settings.beats == "annotated" else None
    for row, record, signal_lt in zip(task.rows.tolist(), about, _signals(store, task.rows), strict=True):
        middles = (
            ectopic.ectopic_beats(signal_lt, store.fs_hz)
            if marks is None
            else ectopic.commonest_form(signal_lt, store.fs_hz, marks.get(row, np.empty(0, np.int64)))
        )
        if not len(middles):
            left_out.append(Rejection(record["record_id"], NO_BEAT, f"beats: {work.settings.beats}"))
            continue
        mean_lt, n_beats = ectopic.average(signal_lt, store.fs_hz, middles, n_before, n_after)
        quantised = layout.mv_to_counts(mean_lt)
        begin = _start(work, store.fs_hz, row) - task.first_shard * work.shard_samples
        counts_lt[:, begin : begin + n_before + n_after] = quantised.counts_lt
        tallied = tally(quantised.counts_lt).sums
        # As in an ingest: an absent lead is said by its state, and its samples are not counted as missing.
        n_present = len(store.leads) - record["lead_states"].count(LeadState.ABSENT)
        written.append(
            {
                "record_id": record["record_id"],
                "n_clipped": int(quantised.n_clipped_l.sum()),
                "n_not_recorded": n_present * (n_before + n_after) - sum(tallied.n),
                "n_beats": n_beats,
                "crc32": layout.crc32_of_counts(quantised.counts_lt, work.shard_samples),
            }
        )
        sums.append((fold_name(record["fold"]), tallied))
    objects: dict[str, ObjectHash] = shards.write_counts(root, task.first_shard, counts_lt, work.shard_samples)
    commit = Commit(objects, pa.Table.from_pylist(written, schema=_WRITTEN), tuple(left_out), by_fold(sums))
    commits.write(root, task.first_shard, commit, work.sha256)


def _signals(store: Store, rows: npt.NDArray[np.int64]) -> Any:
    """The records at ``rows`` in mV, one after the other; a shard is decoded once for all of its records."""
    size, starts, lengths = store.shard_samples, store.column("start"), store.column("n_samples")
    shard_of = functools.lru_cache(maxsize=2)(lambda shard: store.read_shard(shard).counts_lt)
    for row in rows.tolist():
        begin, end = int(starts[row]), int(starts[row] + lengths[row])
        parts = [
            shard_of(shard)[:, max(begin - shard * size, 0) : end - shard * size]
            for shard in range(begin // size, (end - 1) // size + 1)
        ]
        yield layout.counts_to_mv(np.concatenate(parts, axis=1))


def _marks(store: Store, rows: npt.NDArray[np.int64]) -> dict[int, npt.NDArray[np.int64]]:
    """Samples of the ventricular beats that are annotated in the records at ``rows``, by row."""
    table = store.beats
    chosen = table.filter(pc.is_in(table["symbol"], value_set=pa.array(_symbols(store), pa.string())))
    row_b, sample_b = chosen["row"].to_numpy(), chosen["sample"].to_numpy()
    return {row: np.unique(sample_b[row_b == row]) for row in np.intersect1d(row_b, rows).tolist()}


# --- the seal -----------------------------------------------------------------------------------------------


def _seal(root: Path, made: _Plan, done: Sequence[Committed]) -> manifest.Manifest:
    store = made.parent
    written = pa.concat_tables([commit.written for commit in done])
    left_out = [one for commit in done for one in commit.rejected]
    if not written.num_rows:
        raise SourceError(
            "no record has an ectopic beat", where=store.path, got=f"{len(left_out)} records", fix="see docs/beats.md"
        )
    before = [Rejection(**one) for one in store.rejected.to_pylist()]
    kept_n = np.isin(store.column("record_id"), written["record_id"].to_pylist())
    rows = np.flatnonzero(kept_n)
    small = {
        layout.RECORDS: _records(made, rows, written),
        layout.STATEMENTS: tables.renumbered(store.statements, kept_n),
        layout.BEATS: _annotations(made, written),
        layout.REJECTED: rejected([*before, *left_out]),
    }
    if store.lead_quality.num_columns:  # a parent of format 1 has none
        small[layout.LEADS] = store.lead_quality.take(rows)
    attributes = {
        **store.attributes,
        "format_version": layout.FORMAT_VERSION,
        "storage": store.storage,
        "shard_samples": made.shard_samples,
        "plan_sha256": made.sha256,
        "statistics": statistics(sums_of(done)),
        "software": software(),
        "beats": made.settings.model_dump(mode="json"),
        "parent": store.fingerprint,
    }
    return seal_commits(root, small, attributes, done, made.sha256)


def _records(made: _Plan, rows: npt.NDArray[np.int64], written: pa.Table) -> pa.Table:
    """The parent's table with other places, lengths and samples; a column that a parent of format 1 lacks is null."""
    parent, fs_hz = made.parent.records.take(rows), made.parent.fs_hz
    starts = np.array([_start(made, fs_hz, row) for row in rows.tolist()], np.int64)
    its = {
        **{name: written[name] for name in ("n_clipped", "n_not_recorded", "crc32")},
        "start": pa.array(starts),
        "n_samples": pa.array(np.full(len(rows), sum(_lengths(made.settings, fs_hz)), np.int64)),
        "shard": pa.array((starts // made.shard_samples).astype(np.int32)),
    }
    if not written["record_id"].equals(parent["record_id"]):
        raise IntegrityError("the commits are not of the parent's records")
    columns = {}
    for field in tables.RECORDS_SCHEMA:
        column = its.get(field.name, parent[field.name] if field.name in parent.column_names else None)
        columns[field.name] = pa.nulls(len(rows), field.type) if column is None else column.cast(field.type)
    return pa.table(columns, schema=tables.RECORDS_SCHEMA)


def _annotations(made: _Plan, written: pa.Table) -> pa.Table:
    """One ventricular beat per record, at its middle, with the number of beats that it is the mean of."""
    n, (n_before, _) = written.num_rows, _lengths(made.settings, made.parent.fs_hz)
    columns = {
        "row": np.arange(n),
        "sample": np.full(n, n_before),
        "symbol": ["V"] * n,
        "annotator": [made.settings.beats] * n,
        "note": [""] * n,
        "subtype": np.zeros(n),
        "channel": np.zeros(n),
        "num": np.minimum(written["n_beats"].to_numpy(), _MOST_NUM),
    }
    return pa.table({field.name: pa.array(columns[field.name]).cast(field.type) for field in tables.BEATS_SCHEMA})
