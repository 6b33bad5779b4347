"""Sealed store → sealed sibling with noise on the same records, for robustness sets.

The sibling has the parent's records in the parent's places, with the parent's statements, folds and lead
states; only the samples differ, and what is said of them. Its columns of quality are the parent's: they judge
the recording as it came. A shard is the unit of work and of resuming, as in an ingest, and the outcome is the
same for any number of workers and after any number of kills.
"""

from __future__ import annotations

import hashlib
import json
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ecgstore.build import building, shards
from ecgstore.build.seal import root_metadata, software
from ecgstore.build.shards import Sums
from ecgstore.errors import ConfigError, IntegrityError, StoreExists
from ecgstore.signals import noise
from ecgstore.signals.noise import NoiseSettings, Noisy
from ecgstore.signals.recorded_noise import NSTDB_TERMS, RECORDED, Bank
from ecgstore.storage import layout, manifest, publish, tables
from ecgstore.storage.array import create_array
from ecgstore.storage.manifest import ObjectHash
from ecgstore.storage.store import Store

#: Called with (phase, done, total); phases are "shards" and "seal".
Progress = Callable[[str, int, int], None]

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


@dataclass(frozen=True, slots=True)
class _Commit:
    written: pa.Table
    objects: Mapping[str, ObjectHash]
    sums: Mapping[str, Sums]


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """All that a task must know; ``identity`` is the hash of everything that its outcome depends on."""

    store: Store
    settings: NoiseSettings
    bank: Bank | None
    identity: str


def augment_store(
    store: Store,
    out: str | Path,
    settings: NoiseSettings,
    *,
    bank: Bank | None = None,
    workers: int = 1,
    resume: bool = True,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> AugmentReport:
    """Make the store ``out``: the records of ``store`` with noise. ``bank`` is needed for recorded noise alone.

    An unfinished store of the same parent and settings is finished; ``resume`` also accepts one that is already
    sealed. ``overwrite`` replaces a sealed store once the new one is sealed. A record without a signal keeps its
    samples, and says so in its warnings.

    Raises ConfigError (noise that such records can't have, a recording that is absent, a raw or a noisy parent),
    StoreExists, StoreError (the disk refuses), IntegrityError (the parent is damaged, or the disk forgets).
    """
    began = time.perf_counter()
    out = Path(out)
    _refuse(store, out)
    settings = noise.with_bank(settings, bank)
    noise.check(settings, store.fs_hz, bank)
    work = _Work(store, settings, bank, _identity(store, settings))
    tasks = _tasks(store)
    is_sealed = (out / layout.MANIFEST).exists()
    resumed = len(tasks)
    if is_sealed and not overwrite:
        fingerprint = _accept_sealed(out, work, resume)
    else:
        # The old store stays whole and readable until the new one is sealed.
        root = building.beside(out) if is_sealed else out
        with building.plain_disk_errors(root):
            resumed, fingerprint = _build(root, work, tasks, workers, progress)
            if is_sealed:
                building.swap(root, out)
    return _report(out, work, fingerprint, len(tasks), resumed, time.perf_counter() - began)


def _refuse(store: Store, out: Path) -> None:
    if store.encoding != "microvolt":
        raise ConfigError(
            "noise is in millivolts, and a raw store holds its source's own counts",
            where=store.path,
            fix="ingest the source without `--profile raw`",
        )
    if "noise" in store.attributes or store.recipe.get("noise"):
        raise ConfigError("the store has noise on it already", where=store.path, fix="add noise to the clean store")
    parent, child = Path(store.path).resolve(), out.resolve()
    if parent == child or parent.is_relative_to(child) or child.is_relative_to(parent):
        raise ConfigError(
            "the output and the store must not contain each other", where=out, fix="choose another output"
        )


def _identity(store: Store, settings: NoiseSettings) -> str:
    about = ["augment", layout.FORMAT_VERSION, store.fingerprint, settings.model_dump(mode="json")]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _tasks(store: Store) -> list[_Task]:
    """Every shard in which records begin, with the shards that only a long record's rest is in."""
    size = store.shard_samples
    starts, lengths = store.column("start"), store.column("n_samples")
    firsts = starts // size
    tasks = []
    for first in np.unique(firsts):
        rows = np.flatnonzero(firsts == first)
        last = (int((starts[rows] + lengths[rows]).max()) - 1) // size
        tasks.append(_Task(int(first), last - int(first) + 1, rows))
    return tasks


def _accept_sealed(out: Path, work: _Work, resume: bool) -> str:
    sealed = manifest.load(out)
    if resume and sealed.plan_sha256 == work.identity:
        return sealed.fingerprint
    different = ", of another parent or with other noise" if resume else ""
    raise StoreExists(
        f"a sealed store is there already{different}",
        where=out,
        fix="choose another output, or replace it with --overwrite",
    )


def _build(root: Path, work: _Work, tasks: Sequence[_Task], workers: int, progress: Progress | None) -> tuple[int, str]:
    """Do what is left, and seal; returns the shards found done, and the fingerprint."""
    store = work.store
    total_samples = int((store.column("start") + store.column("n_samples")).max())
    about = {"parent": store.fingerprint, "noise": work.settings.model_dump(mode="json")}

    def create() -> None:
        create_array(root, store.storage["codec"], len(store.leads), total_samples, store.shard_samples)

    building.begin(root, work.identity, about, create)
    with building.locked(root):
        building.remove_leftovers(root)
        with ThreadPoolExecutor(workers) as pool:
            found = pool.map(lambda task: _load_commit(root, task, work), tasks)
            commits = {task.first_shard: one for task, one in zip(tasks, found, strict=True) if one is not None}
        resumed = len(commits)
        for first_shard, commit in _run(root, [t for t in tasks if t.first_shard not in commits], work, workers):
            if progress is not None and len(commits) == resumed:
                progress("shards", resumed, len(tasks))
            commits[first_shard] = commit
            if progress is not None:
                progress("shards", len(commits), len(tasks))
        if progress is not None:
            progress("seal", 0, 1)
        sealed = _seal(root, work, [commits[task.first_shard] for task in tasks], tasks)
        if progress is not None:
            progress("seal", 1, 1)
    building.release(root)
    return resumed, sealed.fingerprint


# --- the work -----------------------------------------------------------------------------------------------


def _run(root: Path, tasks: Sequence[_Task], work: _Work, workers: int) -> Iterator[tuple[int, _Commit]]:
    store = work.store
    # What all threads need is made once here: the recording at the store's rate, the columns of the table.
    noise.generate(1, store.fs_hz, "", work.settings, work.bank, leads=store.leads)
    pool = ThreadPoolExecutor(workers)
    try:
        doing = {pool.submit(_do, root, task, work): task for task in tasks}
        for future in as_completed(doing):
            yield doing[future].first_shard, future.result()
    finally:
        # After an error the shards that were not begun yet are left for the next time.
        pool.shutdown(cancel_futures=True)


def _do(root: Path, task: _Task, work: _Work) -> _Commit:
    """One task, from the parent's shards to its commit."""
    store, size = work.store, work.store.shard_samples
    first = task.first_shard * size
    counts_lt = np.full((len(store.leads), task.n_shards * size), layout.NOT_RECORDED, dtype=np.int16)
    for shard in range(task.first_shard, task.first_shard + task.n_shards):
        read_lt = store.read_shard(shard).counts_lt
        counts_lt[:, shard * size - first : shard * size - first + read_lt.shape[1]] = read_lt
    records = store.records.take(task.rows).select(["record_id", "start", "n_samples", "fold", "n_clipped", "warnings"])
    rows: list[dict[str, Any]] = []
    sums: dict[str, Sums] = {}
    for record in records.to_pylist():
        begin, end = record["start"] - first, record["start"] - first + record["n_samples"]
        noisy = noise.add(
            layout.counts_to_mv(counts_lt[:, begin:end]),
            store.fs_hz,
            record["record_id"],
            work.settings,
            work.bank,
            leads=store.leads,
        )
        noisy_lt = layout.mv_to_counts(noisy.signal_mv_lt).counts_lt
        counts_lt[:, begin:end] = noisy_lt
        rows.append(_row(record, noisy, _crc32(noisy_lt, record["start"], size)))
        fold = "" if record["fold"] is None else str(record["fold"])
        sums.setdefault(fold, Sums.zero(len(store.leads))).add(_sums(noisy_lt))
    objects: dict[str, ObjectHash] = {}
    for i in range(task.n_shards):
        part_lt = counts_lt[:, i * size : (i + 1) * size]
        objects |= shards.write_counts(root, task.first_shard + i, part_lt, size)
    # From pandas: an SNR that is none is written as not stated.
    columns = {
        field.name: pa.array([row[field.name] for row in rows], field.type, from_pandas=True) for field in WRITTEN
    }
    commit = _Commit(pa.table(columns, schema=WRITTEN), objects, sums)
    publish.write_bytes(root / layout.commit_object(task.first_shard), _dump(commit, work), durable=False)
    return commit


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


def _crc32(counts_lt: npt.NDArray[np.int16], start: int, size: int) -> int:
    """As the format defines it: lead after lead within each shard, shard after shard."""
    crc32, begin = 0, 0
    while begin < counts_lt.shape[1]:
        end = min(counts_lt.shape[1], ((start + begin) // size + 1) * size - start)
        crc32 = zlib.crc32(np.ascontiguousarray(counts_lt[:, begin:end]).data, crc32)
        begin = end
    return crc32


def _sums(counts_lt: npt.NDArray[np.int16]) -> Sums:
    recorded_lt = counts_lt != layout.NOT_RECORDED
    wide_lt = counts_lt.astype(np.int64) * recorded_lt
    squares_l = np.einsum("lt,lt->l", wide_lt, wide_lt)
    return Sums(recorded_lt.sum(axis=1).tolist(), wide_lt.sum(axis=1).tolist(), squares_l.tolist())


def _dump(commit: _Commit, work: _Work) -> bytes:
    about = {
        "task_sha256": work.identity,
        "objects": {name: [found.size, found.sha256] for name, found in sorted(commit.objects.items())},
        "rejected": [],
        "sums": {fold: [part.n, part.total, part.squares] for fold, part in sorted(commit.sums.items())},
    }
    return tables.to_arrow(commit.written, about)


def _load_commit(root: Path, task: _Task, work: _Work) -> _Commit | None:
    """The commit of a task if it is of this very work and its objects are whole; None where work is left."""
    try:
        written, about = tables.from_arrow((root / layout.commit_object(task.first_shard)).read_bytes())
        objects = {name: ObjectHash(*found) for name, found in about["objects"].items()}
        commit = _Commit(written, objects, {fold: Sums(*lists) for fold, lists in about["sums"].items()})
        if about["task_sha256"] != work.identity or len(written) != len(task.rows):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    whole = all((root / name).is_file() and manifest.hash_object(root / name) == objects[name] for name in objects)
    return commit if whole else None


# --- the seal -----------------------------------------------------------------------------------------------


def _seal(root: Path, work: _Work, commits: Sequence[_Commit], tasks: Sequence[_Task]) -> manifest.Manifest:
    store = work.store
    # Tasks go by shard; the parent's rows need not.
    order = np.argsort(np.concatenate([task.rows for task in tasks]))
    written = pa.concat_tables([commit.written for commit in commits]).take(order)
    sums: dict[str, Sums] = {}
    for commit in commits:
        for fold, part in commit.sums.items():
            sums.setdefault(fold, Sums.zero(len(store.leads))).add(part)
    small = {
        layout.RECORDS: tables.to_parquet(_records(store.records, written)),
        layout.STATEMENTS: tables.to_parquet(store.statements),
        layout.REJECTED: tables.to_parquet(store.rejected),
        layout.ROOT: root_metadata(_attributes(work, sums)),
    }
    for name, table in ((layout.LEADS, store.lead_quality), (layout.BEATS, store.beats)):
        if table.num_columns:  # a parent of format 1 has none
            small[name] = tables.to_parquet(table)
    names = [f"{layout.SIGNAL}/zarr.json", *(layout.commit_object(task.first_shard) for task in tasks)]
    objects = {name: manifest.hash_object(root / name) for name in names}
    for commit in commits:
        objects |= commit.objects
    return building.seal(root, small, objects, work.identity)


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


def _attributes(work: _Work, sums: Mapping[str, Sums]) -> dict[str, Any]:
    store = work.store
    sources = list(store.attributes["sources"])
    if work.settings.kind in RECORDED:
        # Somebody else's recording is in these samples now.
        sources.append(asdict(NSTDB_TERMS))
    return {
        **store.attributes,
        "format_version": layout.FORMAT_VERSION,
        "storage": store.storage,
        "plan_sha256": work.identity,
        "sources": sources,
        "statistics": {
            fold: {"n": part.n, "sum_counts": part.total, "sum_squared_counts": part.squares}
            for fold, part in sorted(sums.items())
        },
        "software": software(),
        "noise": work.settings.model_dump(mode="json"),
        "parent": store.fingerprint,
    }


def _report(out: Path, work: _Work, fingerprint: str, n_shards: int, resumed: int, seconds: float) -> AugmentReport:
    records = tables.from_parquet((out / layout.RECORDS).read_bytes())
    rms_mv, snr_db = (np.asarray(records[name].to_numpy(), dtype=np.float64) for name in ("noise_rms_mv", "snr_db"))
    stated = ~np.isnan(snr_db)
    return AugmentReport(
        path=str(out),
        parent=work.store.fingerprint,
        records=records.num_rows,
        unchanged=int(np.count_nonzero(rms_mv == 0)),
        noise_rms_mv=float(np.median(rms_mv[stated])) if stated.any() else float("nan"),
        snr_db=float(np.median(snr_db[stated])) if stated.any() else float("nan"),
        seconds=seconds,
        fingerprint=fingerprint,
        n_shards=n_shards,
        n_shards_resumed=resumed,
        warnings=sum(bool(text) for text in records["warnings"].to_pylist()),
    )
