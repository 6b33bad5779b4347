"""Sealed store → sealed sibling with noise on the same records, for robustness sets.

The sibling has the parent's records in the parent's places, with the parent's statements, folds and lead
states; only the samples differ, and what is said of them. Its columns of quality are the parent's: they judge
the recording as it came. A shard is the unit of work and of resuming, as in an ingest, and the outcome is the
same for any number of workers and after any number of kills.
"""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ecgstore.build import building, commits, schedule, shards
from ecgstore.build.commits import Commit, Committed
from ecgstore.build.construct import Job, Outcome, Part, Progress, Wish, construct, seal_parts
from ecgstore.build.schedule import Workers
from ecgstore.build.seal import seal_commits, software, sums_of
from ecgstore.build.shards import create_array
from ecgstore.build.sums import Sums, by_fold, fold_name, statistics, tally
from ecgstore.errors import ConfigError, IntegrityError, StoreExists
from ecgstore.settings import parse
from ecgstore.signals import noise
from ecgstore.signals.noise import NoiseSettings, Noisy
from ecgstore.signals.recorded_noise import NSTDB_TERMS, RECORDED, Bank
from ecgstore.storage import layout, manifest, tables
from ecgstore.storage.manifest import ObjectHash
from ecgstore.storage.store import Store, open_store

#: What a commit says of each record; the columns of ``records.parquet`` that are not the parent's.
WRITTEN = pa.schema(
    [
        ("record_id", pa.string()),
        ("n_clipped", pa.int64()),
        ("noise_rms_mv", pa.float32()),
        ("snr_db", pa.float32()),
        ("crc32", pa.int64()),
        ("warnings", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class AugmentReport:
    """What was done. ``unchanged`` records have no signal that noise could be measured against."""

    path: str
    parent: str
    records: int
    unchanged: int
    #: Medians over the records, of what was really added; NaN where no record has any.
    noise_rms_mv: float
    snr_db: float
    seconds: float
    fingerprint: str
    n_shards: int
    n_shards_resumed: int
    warnings: int

    @property
    def records_per_s(self) -> float:
        """Records per second, all included."""
        return self.records / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """Shards ``first_shard`` … and the rows of the records that begin in them; shared with no other task."""

    first_shard: int
    n_shards: int
    rows: npt.NDArray[np.int64]

    @property
    def n_records(self) -> int:
        """Records that begin in these shards."""
        return len(self.rows)


class _Plan(NamedTuple):
    """Every shard of the parent, and the hash of all that the outcome depends on."""

    parent: Store
    settings: NoiseSettings
    tasks: Sequence[_Task]
    sha256: str


class _Work(NamedTuple):
    """What a task must know, in whatever process it is done."""

    parent: str
    fingerprint: str
    settings: NoiseSettings
    bank: Bank | None
    sha256: str


def augment_store(
    store: Store,
    out: str | Path,
    settings: NoiseSettings,
    *,
    bank: Bank | None = None,
    workers: int | Workers = 1,
    resume: bool = True,
    overwrite: bool = False,
    part: Part | None = None,
    progress: Progress | None = None,
) -> AugmentReport:
    """Make the store ``out``: the records of ``store`` with noise as ``settings`` say.

    ``bank`` is needed for recorded noise alone. An unfinished store of the same parent and settings is finished;
    ``resume`` also accepts one that is already sealed. ``overwrite`` replaces a sealed store once the new one is
    sealed. ``part`` (i, n) does the i-th of n equal shares of the tasks, counted from 1, and leaves the seal to
    :func:`ecgstore.seal_store`. A record without a signal keeps its samples, and says so in its warnings.

    Raises ConfigError (noise that such records can't have, a recording that is absent, a raw or a noisy parent),
    StoreExists, StoreError (the disk refuses), IntegrityError (the parent is damaged, or the disk forgets).
    """
    began = time.perf_counter()
    out = Path(out)
    _refuse(store)
    building.prepare(out, store.path)
    if part is not None and overwrite:
        raise ConfigError("parts and overwrite exclude each other")
    settings = noise.with_bank(settings, bank)
    noise.check_noise(settings, store.fs_hz, bank)
    made = _plan(store, settings)
    crew = workers if isinstance(workers, Workers) else Workers(n=workers)
    job = _job(made, bank)
    outcome = construct(job, out, Wish(resume and not overwrite, overwrite), crew, part, progress)
    return _report(out, made, outcome, began)


def seal_augmented(out: Path, about: Mapping[str, Any]) -> AugmentReport:
    """Seal a store whose parts were made by several calls; ``about`` is what was noted down when it was begun.

    Raises StoreIncomplete where tasks are left, StoreExists where the parent is another one now.
    """
    began = time.perf_counter()
    parent = open_store(about["parent_path"])
    made = _plan(parent, parse(NoiseSettings, about["noise"], where=out / layout.BUILDING))
    if made.sha256 != about["plan_sha256"]:
        raise StoreExists(
            "the parent is not the store that this one was begun from",
            where=out,
            expected=about["parent"],
            got=parent.fingerprint,
            fix="delete that folder and begin again",
        )
    return _report(out, made, seal_parts(_job(made, None), out), began)


def _refuse(store: Store) -> None:
    if store.encoding != "microvolt":
        raise ConfigError(
            "noise is in millivolts, and a raw store holds its source's own counts",
            where=store.path,
            fix="ingest the source without `--profile raw`",
        )
    if "noise" in store.attributes or store.recipe.get("noise"):
        raise ConfigError("the store has noise on it already", where=store.path, fix="add noise to the clean store")


def _plan(store: Store, settings: NoiseSettings) -> _Plan:
    """Every shard in which records begin, with the shards that only a long record's rest is in."""
    size = store.shard_samples
    starts, lengths = store.column("start"), store.column("n_samples")
    firsts = starts // size
    tasks = []
    for first in np.unique(firsts):
        rows = np.flatnonzero(firsts == first)
        last = (int((starts[rows] + lengths[rows]).max()) - 1) // size
        tasks.append(_Task(int(first), last - int(first) + 1, rows))
    return _Plan(store, settings, tasks, _identity(store, settings))


def _identity(store: Store, settings: NoiseSettings) -> str:
    about = ["augment", layout.FORMAT_VERSION, store.fingerprint, settings.model_dump(mode="json")]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _job(made: _Plan, bank: Bank | None) -> Job:
    """An augmentation as :func:`construct` makes it."""
    store, settings = made.parent, made.settings
    total_samples = int((store.column("start") + store.column("n_samples")).max())
    work = _Work(store.path, store.fingerprint, settings, bank, made.sha256)
    return Job(
        plan_sha256=made.sha256,
        tasks=made.tasks,
        # All that a task depends on is in the plan.
        task_sha256=lambda task: made.sha256,
        do=functools.partial(_write, work),
        ready=functools.partial(_ready, work),
        create_array=lambda root: create_array(
            root, store.storage["codec"], len(store.leads), total_samples, store.shard_samples
        ),
        about={
            "parent": store.fingerprint,
            "parent_path": str(Path(store.path).resolve()),
            "noise": settings.model_dump(mode="json"),
        },
        seal=lambda root, done: _seal(root, made, done),
        otherwise="of another parent or with other noise",
        instead="choose another output, or replace it with --overwrite",
    )


# --- the work -----------------------------------------------------------------------------------------------


def _ready(work: _Work) -> None:
    """What all tasks of a process need is made once: the recording at the store's rate, the columns of the table."""
    schedule.prepare(with_wfdb=False)
    store = _parent(work)
    noise.generate(1, store.fs_hz, "", work.settings, work.bank, leads=store.leads)


@functools.lru_cache(maxsize=1)
def _parent(work: _Work) -> Store:
    store = open_store(work.parent)
    if store.fingerprint != work.fingerprint:
        raise IntegrityError("the parent was replaced meanwhile", where=work.parent)
    return store


def _write(work: _Work, root: Path, task: _Task) -> None:
    """One task, from the parent's shards to its commit."""
    store = _parent(work)
    size, n_leads = store.shard_samples, len(store.leads)
    first = task.first_shard * size
    counts_lt = np.full((n_leads, task.n_shards * size), layout.NOT_RECORDED, dtype=np.int16)
    for shard in range(task.first_shard, task.first_shard + task.n_shards):
        read_lt = store.read_shard(shard).counts_lt
        counts_lt[:, shard * size - first : shard * size - first + read_lt.shape[1]] = read_lt
    records = store.records.take(task.rows).select(["record_id", "start", "n_samples", "fold", "n_clipped", "warnings"])
    rows: list[dict[str, Any]] = []
    sums: list[tuple[str, Sums]] = []
    for record in records.to_pylist():
        begin, end = record["start"] - first, record["start"] - first + record["n_samples"]
        noisy = noise.add_noise(
            layout.counts_to_mv(counts_lt[:, begin:end]),
            store.fs_hz,
            record["record_id"],
            work.settings,
            work.bank,
            leads=store.leads,
        )
        noisy_lt = layout.mv_to_counts(noisy.signal_mv_lt).counts_lt
        counts_lt[:, begin:end] = noisy_lt
        rows.append(_row(record, noisy, layout.crc32_of_counts(noisy_lt, size)))
        sums.append((fold_name(record["fold"]), tally(noisy_lt).sums))
    objects: dict[str, ObjectHash] = {}
    for i in range(task.n_shards):
        part_lt = counts_lt[:, i * size : (i + 1) * size]
        objects |= shards.write_counts(root, task.first_shard + i, part_lt, size)
    # From pandas: an SNR that is none is written as not stated.
    columns = {
        field.name: pa.array([row[field.name] for row in rows], field.type, from_pandas=True) for field in WRITTEN
    }
    commit = Commit(objects, pa.table(columns, schema=WRITTEN), (), by_fold(sums))
    commits.write(root, task.first_shard, commit, work.sha256)


def _row(record: Mapping[str, Any], noisy: Noisy, crc32: int) -> dict[str, Any]:
    warnings = [text for text in (record["warnings"], noisy.warning) if text]
    if noisy.n_clipped:
        limit_mv = layout.MAX_COUNT / layout.COUNTS_PER_MV
        warnings.append(f"{noisy.n_clipped} samples beyond ±{limit_mv} mV were clipped after noise was added")
    return {
        "record_id": record["record_id"],
        "n_clipped": record["n_clipped"] + noisy.n_clipped,
        "noise_rms_mv": noisy.noise_rms_mv,
        "snr_db": noisy.snr_db,
        "crc32": crc32,
        "warnings": "; ".join(warnings),
    }


# --- the seal -----------------------------------------------------------------------------------------------


def _seal(root: Path, made: _Plan, done: Sequence[Committed]) -> manifest.Manifest:
    store = made.parent
    # Tasks go by shard; the parent's rows need not.
    order = np.argsort(np.concatenate([task.rows for task in made.tasks]))
    written = pa.concat_tables([commit.written for commit in done]).take(order)
    small = {
        layout.RECORDS: _records(store.records, written),
        layout.STATEMENTS: store.statements,
        layout.REJECTED: store.rejected,
    }
    for name, table in ((layout.LEADS, store.lead_quality), (layout.BEATS, store.beats)):
        if table.num_columns:  # a parent of format 1 has none
            small[name] = table
    return seal_commits(root, small, _attributes(made, sums_of(done)), done, made.sha256)


def _records(parent: pa.Table, written: pa.Table) -> pa.Table:
    """The parent's table with what the noise changed; a column that a parent of format 1 lacks is null."""
    if not written["record_id"].equals(parent["record_id"]):
        raise IntegrityError("the commits are not of the parent's records")
    columns = {}
    for field in tables.RECORDS_SCHEMA:
        table = written if field.name in WRITTEN.names else parent
        has = field.name in table.column_names
        columns[field.name] = table[field.name].cast(field.type) if has else pa.nulls(len(parent), field.type)
    return pa.table(columns, schema=tables.RECORDS_SCHEMA)


def _attributes(made: _Plan, sums: Mapping[str, Sums]) -> dict[str, Any]:
    store = made.parent
    sources = list(store.attributes["sources"])
    if made.settings.kind in RECORDED:
        # Somebody else's recording is in these samples now.
        sources.append(asdict(NSTDB_TERMS))
    return {
        **store.attributes,
        "format_version": layout.FORMAT_VERSION,
        "storage": store.storage,
        "plan_sha256": made.sha256,
        "sources": sources,
        "statistics": statistics(sums),
        "software": software(),
        "noise": made.settings.model_dump(mode="json"),
        "parent": store.fingerprint,
    }


def _report(out: Path, made: _Plan, outcome: Outcome, began: float) -> AugmentReport:
    sealed = bool(outcome.fingerprint)
    records = tables.from_parquet((out / layout.RECORDS).read_bytes()) if sealed else made.parent.records.slice(0, 0)
    rms_mv, snr_db = (
        np.asarray(records[name].to_numpy(), dtype=np.float64) if sealed else np.empty(0)
        for name in ("noise_rms_mv", "snr_db")
    )
    stated = ~np.isnan(snr_db)
    return AugmentReport(
        path=str(out),
        parent=made.parent.fingerprint,
        records=records.num_rows,
        unchanged=int(np.count_nonzero(rms_mv == 0)),
        noise_rms_mv=float(np.median(rms_mv[stated])) if stated.any() else float("nan"),
        snr_db=float(np.median(snr_db[stated])) if stated.any() else float("nan"),
        seconds=time.perf_counter() - began,
        fingerprint=outcome.fingerprint,
        n_shards=len(made.tasks),
        n_shards_resumed=outcome.n_found,
        warnings=sum(bool(text) for text in records["warnings"].to_pylist()),
    )
