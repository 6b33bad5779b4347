"""One shard: the unit of work, of failure, of atomicity, of verification and of sharing.

A shard has exactly one writer, which opens the array afresh and writes all of it in one assignment: two
writers in one Zarr v3 shard lose data without a word (zarr-developers/zarr-python#3682). It is written,
read back, compared and hashed; then its commit record is published, and only that makes it count.
"""

from __future__ import annotations

import itertools
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from ecgstore import conditioning, layout, leads, publish, wfdb_io
from ecgstore.errors import IntegrityError, RecordError, StoreError
from ecgstore.manifest import ObjectHash, hash_object
from ecgstore.plan import Planned, Recipe, Task
from ecgstore.record import LeadState, Rejection

#: Records conditioned together, and the bound on their samples (15 MB of float32 for twelve leads).
BATCH = 16
BATCH_SAMPLES = 320_000


@dataclass(frozen=True, slots=True)
class Written:
    """What is known of a record once its samples stand in the store."""

    record_id: str
    lead_states: str
    n_clipped: int
    n_not_recorded: int
    crc32: int
    source_crc32: int
    warnings: str


@dataclass(slots=True)
class Sums:
    """Exact sums over the recorded counts of some records, per lead; Python integers never overflow."""

    n: list[int]
    total: list[int]
    squares: list[int]

    @classmethod
    def zero(cls, n_leads: int) -> Sums:
        """The sums over nothing."""
        return cls([0] * n_leads, [0] * n_leads, [0] * n_leads)

    def add(self, other: Sums) -> None:
        """Add the sums over other records."""
        for mine, theirs in ((self.n, other.n), (self.total, other.total), (self.squares, other.squares)):
            mine[:] = [a + b for a, b in zip(mine, theirs, strict=True)]


@dataclass(slots=True)
class Commit:
    """The outcome of one task: objects written, records in them, records left out, sums by fold."""

    plan_sha256: str
    first_shard: int
    objects: dict[str, ObjectHash] = field(default_factory=dict)
    written: list[Written] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)
    sums: dict[str, Sums] = field(default_factory=dict)


def create_array(root: Path, recipe: Recipe, total_samples: int, shard_samples: int) -> None:
    """Write the metadata of the signal array; its samples come shard by shard."""
    n_leads = len(recipe.leads)
    zarr.create_array(
        store=str(root / layout.SIGNAL),
        shape=(n_leads, total_samples),
        chunks=(n_leads, layout.CHUNK_SAMPLES),
        shards=(n_leads, shard_samples),
        dtype=np.int16,
        compressors=(BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle", typesize=2), Crc32cCodec()),
        fill_value=int(layout.NOT_RECORDED),
        dimension_names=("lead", "time"),
        overwrite=False,
    )


def write(root: Path, task: Task, recipe: Recipe, shard_samples: int, plan_sha256: str) -> Commit:
    """Do one task from raw files to commit record. A bad record is left out with its reason; the rest goes on.

    Raises StoreError where the disk refuses, IntegrityError where what was read back is not what was written.
    """
    commit = Commit(plan_sha256, task.first_shard)
    start, n_samples = task.first_shard * shard_samples, task.n_shards * shard_samples
    counts_lt = np.full((len(recipe.leads), n_samples), layout.NOT_RECORDED, dtype=np.int16)
    for batch in _batches(task.records):
        for record, counts_of_lt, written, sums in _batch_counts(batch, recipe, commit.rejected):
            counts_lt[:, record.start - start : record.start - start + record.n_samples] = counts_of_lt
            commit.written.append(written)
            fold = "" if record.ref.fold is None else str(record.ref.fold)
            commit.sums.setdefault(fold, Sums.zero(len(recipe.leads))).add(sums)
    for shard in range(task.n_shards):
        part_lt = counts_lt[:, shard * shard_samples : (shard + 1) * shard_samples]
        _write_one(root, task.first_shard + shard, part_lt, shard_samples, commit)
    # Not flushed to the disk one by one: a commit names the hash of its shard, so after a power cut whatever
    # did not reach the disk is found out and done again. The seal flushes everything before it counts.
    publish.write_bytes(root / layout.commit_object(task.first_shard), _dump(commit), durable=False)
    return commit


def load_commit(root: Path, first_shard: int, plan_sha256: str) -> Commit | None:
    """Return the commit of a task if it is of this plan and its objects are whole; None where work is left."""
    try:
        commit = _parse((root / layout.commit_object(first_shard)).read_bytes())
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    if commit.plan_sha256 != plan_sha256 or commit.first_shard != first_shard:
        return None
    for name, stated in commit.objects.items():
        if not (root / name).is_file() or hash_object(root / name) != stated:
            return None
    return commit


def _batches(records: Sequence[Planned]) -> Iterator[list[Planned]]:
    """Neighbours of one shape, up to BATCH together.

    Threads scale by it: each NumPy call lets go of the interpreter and must win it back, so what counts is how
    many calls there are, not how long they take.
    """
    for _, group in itertools.groupby(records, key=lambda record: (record.header.n_samples, record.header.fs_hz)):
        alike = list(group)
        size = max(1, min(BATCH, BATCH_SAMPLES // max(1, alike[0].header.n_samples)))
        yield from (alike[i : i + size] for i in range(0, len(alike), size))


def _batch_counts(
    records: Sequence[Planned], recipe: Recipe, rejected: list[Rejection]
) -> Iterator[tuple[Planned, npt.NDArray[np.int16], Written, Sums]]:
    """The way of some records of one shape: raw files → mV → leads → conditioning → counts."""
    read = list(_read(records, recipe, rejected))
    if not read:
        return
    n_leads, header = len(recipe.leads), read[0].record.header
    signals_mv_lt = [one.harmonised.signal_mv_lt for one in read]
    conditioned_mv_lt = conditioning.condition_alike(signals_mv_lt, header.fs_hz, recipe.fs_hz, recipe.filters)
    # From here on "l" runs over the leads of all records of the batch.
    counts_lt, n_clipped_l = layout.mv_to_counts(conditioned_mv_lt)
    n_recorded_l, total_l, squares_l, is_flat_l = _lead_sums(counts_lt)
    for i, one in enumerate(read):
        its = slice(i * n_leads, (i + 1) * n_leads)
        if not any(n_recorded_l[its]):
            detail = "nothing was recorded in the wanted leads"
            rejected.append(Rejection(one.record.ref.record_id, "no_samples", detail))
            continue
        states = [
            LeadState.BAD if is_flat and state is not LeadState.ABSENT else state
            for state, is_flat in zip(one.harmonised.states, is_flat_l[its], strict=True)
        ]
        warnings = [*one.raw.warnings, *one.harmonised.warnings]
        n_clipped = int(n_clipped_l[its].sum())
        if n_clipped:
            limit_mv = layout.MAX_COUNT / layout.COUNTS_PER_MV
            warnings.append(f"{n_clipped} samples beyond ±{limit_mv} mV were clipped")
        n_present = sum(state is not LeadState.ABSENT for state in states)
        written = Written(
            record_id=one.record.ref.record_id,
            lead_states="".join(states),
            n_clipped=n_clipped,
            # An absent lead is said by its state; only samples missing in leads that are there are counted.
            n_not_recorded=n_present * one.record.n_samples - sum(n_recorded_l[its]),
            crc32=zlib.crc32(counts_lt[its].data),
            source_crc32=one.raw.source_crc32,
            warnings="; ".join(warnings),
        )
        yield one.record, counts_lt[its], written, Sums(n_recorded_l[its], total_l[its], squares_l[its])


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    record: Planned
    raw: wfdb_io.RawSignal
    harmonised: leads.Harmonised


def _read(records: Sequence[Planned], recipe: Recipe, rejected: list[Rejection]) -> Iterator[_Read]:
    outcomes = wfdb_io.read_signals([(one.ref.path, one.header, one.ref.record_id) for one in records])
    for record, raw in zip(records, outcomes, strict=True):
        record_id, header = record.ref.record_id, record.header
        try:
            if isinstance(raw, RecordError):
                raise raw
            harmonised = leads.harmonise(
                raw.signal_mv_lt, header.lead_names, record_id=record_id, wanted=recipe.leads, extra=recipe.extra_leads
            )
            if harmonised.signal_mv_lt.shape[1] != header.n_samples:
                detail = f"{harmonised.signal_mv_lt.shape[1]} of {header.n_samples} samples"
                raise RecordError(record_id, "truncated", detail)
        except RecordError as error:
            rejected.append(Rejection(record_id, error.reason, error.detail))
        else:
            yield _Read(record, raw, harmonised)


def _lead_sums(counts_lt: npt.NDArray[np.int16]) -> tuple[list[int], list[int], list[int], list[bool]]:
    """Per lead: recorded samples, their exact sum and sum of squares, and whether they never change."""
    lowest_l, highest_l = counts_lt.min(axis=1), counts_lt.max(axis=1)
    wide_lt = counts_lt.astype(np.int64)
    n_l = np.full(len(counts_lt), counts_lt.shape[1])
    if (lowest_l == layout.NOT_RECORDED).any():
        recorded_lt = counts_lt != layout.NOT_RECORDED
        n_l = np.count_nonzero(recorded_lt, axis=1)
        lowest_l = np.where(recorded_lt, counts_lt, layout.MAX_COUNT).min(axis=1)
        wide_lt *= recorded_lt
    squares_l = np.einsum("lt,lt->l", wide_lt, wide_lt)
    return n_l.tolist(), wide_lt.sum(axis=1).tolist(), squares_l.tolist(), (lowest_l >= highest_l).tolist()


def _write_one(root: Path, shard: int, part_lt: npt.NDArray[np.int16], shard_samples: int, commit: Commit) -> None:
    name = layout.shard_object(shard)
    try:
        # What a killed task left here is not to be merged with: zarr would read it, torn as it may be.
        (root / name).unlink(missing_ok=True)
        array = zarr.open_array(str(root / layout.SIGNAL), mode="r+")
        begin = shard * shard_samples
        end = min(begin + shard_samples, array.shape[1])
        array[:, begin:end] = part_lt[:, : end - begin]
        read_lt = np.asarray(array[:, begin:end])
        if (root / name).exists():  # a shard without a single recorded sample has no object
            commit.objects[name] = hash_object(root / name)
    except OSError as error:
        raise StoreError("a shard could not be written", where=root / name, got=error.strerror or str(error)) from error
    if not np.array_equal(read_lt, part_lt[:, : end - begin]):
        raise IntegrityError("a shard read back differs from what was written: is the disk sound?", where=root / name)


def _dump(commit: Commit) -> bytes:
    columns = Written.__dataclass_fields__
    content = {
        "plan_sha256": commit.plan_sha256,
        "first_shard": commit.first_shard,
        "objects": {name: [found.size, found.sha256] for name, found in sorted(commit.objects.items())},
        "written": {column: [getattr(one, column) for one in commit.written] for column in columns},
        "rejected": [[one.record_id, one.reason, one.detail] for one in commit.rejected],
        "sums": {fold: [sums.n, sums.total, sums.squares] for fold, sums in sorted(commit.sums.items())},
    }
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"


def _parse(content: bytes) -> Commit:
    parts: dict[str, Any] = json.loads(content)
    return Commit(
        plan_sha256=parts["plan_sha256"],
        first_shard=parts["first_shard"],
        objects={name: ObjectHash(*found) for name, found in parts["objects"].items()},
        written=list(_rows(parts["written"])),
        rejected=[Rejection(*one) for one in parts["rejected"]],
        sums={fold: Sums(*lists) for fold, lists in parts["sums"].items()},
    )


def _rows(columns: dict[str, list[Any]]) -> Iterator[Written]:
    names = list(Written.__dataclass_fields__)
    for values in zip(*(columns[name] for name in names), strict=True):
        yield Written(**dict(zip(names, values, strict=True)))
