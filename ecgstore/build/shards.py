"""One shard: the unit of work, of failure, of atomicity, of verification and of sharing.

A shard has exactly one writer, which writes all of it at once: two writers in one Zarr v3 shard lose data
without a word (zarr-developers/zarr-python#3682). It is written, read back, compared and hashed; then its
commit record is published, and only that makes it count.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ecgstore.build import commits, describe, long, pipeline
from ecgstore.build.commits import Commit
from ecgstore.build.describe import Described
from ecgstore.build.plan import Planned, Task, Work, task_sha256
from ecgstore.errors import IntegrityError, RecordError
from ecgstore.record import Rejection
from ecgstore.signals import conditioning
from ecgstore.storage import chunks, disk, layout, publish
from ecgstore.storage.chunks import Chunks, is_packed_here, pack
from ecgstore.storage.manifest import ObjectHash, hash_bytes, hash_object

#: Records conditioned together, and the bound on their values with the padding of a filter (15 MB of float32).
BATCH = 32
BATCH_VALUES = 3_840_000
_DIFFERS = "a shard read back differs from what was written: is the disk sound?"


@dataclass(frozen=True, slots=True)
class Done:
    """What a task made: shards that were written, and what became of each of its records."""

    objects: dict[str, ObjectHash]
    outcomes: list[Described | Rejection]


def create_array(root: Path, codec: str, n_leads: int, total_samples: int, shard_samples: int) -> None:
    """Write the metadata of the signal array; its samples come shard by shard.

    ``codec`` is ``blosc`` (zstd, bitshuffle) or ``pcodec``; every chunk carries a CRC-32C.
    """
    if codec == "blosc":
        chunks.create(root, n_leads, total_samples, shard_samples)
    else:
        from ecgstore.storage import array  # zarr takes a quarter of a second, and few stores need it

        array.create_array(root, codec, n_leads, total_samples, shard_samples)


def write(root: Path, task: Task, work: Work) -> None:
    """Do one task from raw files to commit record. A bad record is left out with its reason; the rest goes on.

    Raises StoreError where the disk refuses, IntegrityError where what was read back is not what was written.
    """
    is_one_long = task.n_shards > 1 and long.is_long(task.records[0], work)
    done = _write_long(root, task.records[0], work) if is_one_long else _write_records(root, task, work)
    described = [one for one in done.outcomes if isinstance(one, Described)]
    commit = Commit(
        objects=done.objects,
        written=describe.to_table(described, len(work.leads)),
        rejected=tuple(
            replace(one, detail="") if work.hides_names else one for one in done.outcomes if isinstance(one, Rejection)
        ),
        sums=describe.sums_of(described),
    )
    commits.write(root, task.first_shard, commit, task_sha256(task, work))


def _write_records(root: Path, task: Task, work: Work) -> Done:
    """All shards of a task, with every record that can be read in its place."""
    size = work.shard_samples
    start = task.first_shard * size
    counts_lt = np.full((len(work.leads), task.n_shards * size), layout.NOT_RECORDED, dtype=np.int16)
    outcomes: list[Described | Rejection] = []
    for batch in _batches(task.records, work):
        if long.is_long(batch[0], work):
            outcomes.append(_fill_long(batch[0], work, counts_lt[:, batch[0].start - start :]))
        else:
            outcomes += _fill(batch, work, counts_lt, start)
    objects: dict[str, ObjectHash] = {}
    for i in range(task.n_shards):
        objects |= write_counts(root, task.first_shard + i, counts_lt[:, i * size : (i + 1) * size], size)
    return Done(objects, outcomes)


def _batches(records: Sequence[Planned], work: Work) -> Iterator[list[Planned]]:
    """Neighbours of one shape, up to BATCH together; a long record goes alone."""
    for _, group in itertools.groupby(records, key=lambda record: _shape(record, work)):
        alike = list(group)
        n_signals = max(len(work.leads), *(len(record.header.lead_names) for record in alike))
        n_padded = alike[0].header.n_samples + math.ceil(2 * conditioning.PADDING_S * alike[0].header.fs_hz)
        is_long = any(long.is_long(record, work) for record in alike)
        size = 1 if is_long else max(1, min(BATCH, BATCH_VALUES // (n_signals * max(n_padded, alike[0].n_samples))))
        yield from (alike[i : i + size] for i in range(0, len(alike), size))


def _shape(record: Planned, work: Work) -> tuple[int, float, bool]:
    return record.header.n_samples, record.header.fs_hz, long.is_long(record, work)


def _fill(
    records: Sequence[Planned], work: Work, counts_lt: npt.NDArray[np.int16], start: int
) -> list[Described | Rejection]:
    """Take some records of one shape through the pipeline, and put their counts where they belong.

    ``counts_lt`` (leads, samples) begins with sample ``start`` of the store.
    """
    harmonised, rejected = pipeline.harmonise_all(pipeline.read(records, work), work)
    if not harmonised:
        return [*rejected]
    conditioned = pipeline.condition(harmonised, work)
    quantised = pipeline.quantise(harmonised, conditioned)
    described = describe.describe_all(harmonised, conditioned, quantised, work)
    counts_rlt = quantised.counts_lt.reshape(len(harmonised), len(work.leads), -1)
    for one, outcome, its_lt in zip(harmonised, described, counts_rlt, strict=True):
        if isinstance(outcome, Described):
            begin = one.record.start - start
            counts_lt[:, begin : begin + one.record.n_samples] = its_lt
    return [*rejected, *described]


def _fill_long(record: Planned, work: Work, counts_lt: npt.NDArray[np.int16]) -> Described | Rejection:
    """A long record that shares its shard with others; ``counts_lt`` begins with its first sample."""
    its_lt = counts_lt[:, : record.n_samples]
    try:
        reading = long.LongRecord(record, work)
        reading.fill(its_lt)
        outcome = reading.describe()
    except RecordError as error:
        outcome = Rejection(record.ref.record_id, error.reason, error.detail)
    if isinstance(outcome, Rejection):
        its_lt[:] = layout.NOT_RECORDED
    return outcome


def _write_long(root: Path, record: Planned, work: Work) -> Done:
    """One record of several shards; each shard is written as soon as its last sample is known."""
    objects: dict[str, ObjectHash] = {}
    try:
        reading = long.LongRecord(record, work)
        for shard, counts_lt in reading.by_shard():
            objects |= write_counts(root, shard, counts_lt, work.shard_samples)
        outcome = reading.describe()
    except RecordError as error:
        outcome = Rejection(record.ref.record_id, error.reason, error.detail)
    # What was written of a record that is left out belongs to nobody now, and the seal removes it.
    return Done({} if isinstance(outcome, Rejection) else objects, [outcome])


def write_counts(root: Path, shard: int, counts_lt: npt.NDArray[np.int16], shard_samples: int) -> dict[str, ObjectHash]:
    """Write one whole shard (leads, up to ``shard_samples``), read it back, and return its object's hash.

    A shard without a single recorded sample has no object, and gives an empty dictionary.
    Raises StoreError where the disk refuses, IntegrityError where what was read back is not what was written.
    """
    name = layout.shard_object(shard)
    begin = shard * shard_samples
    try:
        # What a killed task left here is not to be merged with: zarr would read it, torn as it may be.
        (root / name).unlink(missing_ok=True)
        metadata = json.loads((root / layout.SIGNAL_JSON).read_bytes())
        end = min(begin + shard_samples, metadata["shape"][1])
        recorded_lt = counts_lt[:, : end - begin]
        if is_packed_here(metadata):
            return _write_packed(root, name, metadata, begin, recorded_lt)
        from ecgstore.storage.array import open_array  # zarr takes a quarter of a second, and few stores need it

        array = open_array(root)
        array[:, begin:end] = recorded_lt
        read_lt = np.asarray(array[:, begin:end])
        objects = {name: hash_object(root / name)} if (root / name).exists() else {}
    except OSError as error:
        raise disk.refusal("a shard could not be written", root / name, error) from error
    if not np.array_equal(read_lt, recorded_lt):
        raise IntegrityError(_DIFFERS, where=root / name)
    return objects


def _write_packed(
    root: Path, name: str, metadata: Mapping[str, Any], begin: int, counts_lt: npt.NDArray[np.int16]
) -> dict[str, ObjectHash]:
    packed = pack(metadata, counts_lt)
    if not packed:
        return {}
    publish.write_bytes(root / name, packed, durable=False)
    content = (root / name).read_bytes()
    reader = Chunks(metadata, {name: len(content)}, lambda _, low, high: content[low:high])
    try:
        is_equal = np.array_equal(reader.counts(begin, begin + counts_lt.shape[1]), counts_lt)
    except (ValueError, RuntimeError) as error:  # of a checksum, of the codec
        raise IntegrityError(_DIFFERS, where=root / name) from error
    if not is_equal:
        raise IntegrityError(_DIFFERS, where=root / name)
    return {name: hash_bytes(content)}
