"""From a listing and the headers to a frozen, hashed plan: which record goes where, before a sample is read.

A plan is a pure function of its inputs, so the store comes out byte-identical for any number of workers and
after any number of kills. Records stand one behind the other along the time axis of one (leads, samples)
array. A record never straddles a shard unless it is longer than one; such a record starts on a shard
boundary, and so does the record behind it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from ecgstore import conditioning, layout, wfdb_io
from ecgstore.conditioning import Filter
from ecgstore.errors import RecordError
from ecgstore.leads import ExtraLeads, check_names
from ecgstore.record import LEADS_12, Listing, RecordRef, Rejection
from ecgstore.settings import Settings


class Recipe(Settings):
    """What is done to every record on its way into a store. Its hash travels with store and model."""

    #: The rate of the store, for all records; they are resampled to it.
    fs_hz: float = Field(100.0, gt=0, le=100_000)
    #: The order of the leads in the store.
    leads: tuple[str, ...] = LEADS_12
    #: What to do with a record that has a signal that is not a known lead.
    extra_leads: ExtraLeads = "refuse"
    filters: tuple[Filter, ...] = ()

    @model_validator(mode="after")
    def _known_leads(self) -> Recipe:
        unknown = [lead for lead in self.leads if lead not in LEADS_12]
        if unknown or not self.leads or len(set(self.leads)) != len(self.leads):
            raise ValueError(f"leads must be different names out of {' '.join(LEADS_12)}")
        return self

    @property
    def sha256(self) -> str:
        """Hash of the recipe, for the preprocessing passport."""
        return _sha256(self.model_dump(mode="json"))


@dataclass(frozen=True, slots=True)
class Planned:
    """One record and its place: ``start`` and ``n_samples`` are in samples of the store."""

    ref: RecordRef
    header: wfdb_io.Header
    start: int
    n_samples: int


@dataclass(frozen=True, slots=True)
class Task:
    """Shards ``first_shard`` .. ``first_shard + n_shards - 1`` and the records in them: one unit of work."""

    first_shard: int
    n_shards: int
    records: tuple[Planned, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything about a store that is known before a sample is read."""

    recipe: Recipe
    source: str
    listing: Listing
    tasks: tuple[Task, ...]
    rejected: tuple[Rejection, ...]
    shard_samples: int
    total_samples: int
    sha256: str

    @property
    def n_records(self) -> int:
        """Records that have a place in the plan."""
        return sum(len(task.records) for task in self.tasks)


@dataclass(frozen=True, slots=True)
class Scanned:
    """A record whose header was read and found usable."""

    ref: RecordRef
    header: wfdb_io.Header


def scan(ref: RecordRef, recipe: Recipe) -> Scanned | Rejection:
    """Read one header and tell whether the record can be used; a record that can't is said with its reason."""
    try:
        header = wfdb_io.read_header(ref.path, ref.record_id)
        check_names(header.lead_names, recipe.leads, recipe.extra_leads, ref.record_id)
    except RecordError as error:
        return Rejection(error.record_id, error.reason, error.detail)
    return Scanned(ref, header)


def make_plan(
    listing: Listing,
    scanned: Iterable[Scanned | Rejection],
    recipe: Recipe,
    source: str,
    root: Path,
    patient_key: str = "",
) -> Plan:
    """Give every scanned record its place, in the order of the listing.

    ``patient_key``, the secret that patients will be hashed with, takes part in the plan's hash alone.
    """
    scanned = list(scanned)
    rejected = [*listing.rejected, *(item for item in scanned if isinstance(item, Rejection))]
    usable: list[Scanned] = []
    seen: set[str] = set()
    for item in scanned:
        if isinstance(item, Rejection):
            continue
        if item.ref.record_id in seen:
            rejected.append(Rejection(item.ref.record_id, "duplicate_id", "kept the first"))
            continue
        seen.add(item.ref.record_id)
        usable.append(item)
    lengths = [conditioning.n_resampled(item.header.n_samples, item.header.fs_hz, recipe.fs_hz) for item in usable]
    shard_samples = layout.shard_samples(sum(lengths), max(lengths, default=0))
    starts = _place(lengths, shard_samples)
    planned = [
        Planned(item.ref, item.header, start, n_samples)
        for item, start, n_samples in zip(usable, starts, lengths, strict=True)
    ]
    digest = hashlib.sha256()
    digest.update(_sha256([layout.FORMAT_VERSION, source, recipe.sha256, shard_samples, patient_key]).encode())
    digest.update(_sha256([{"system": k, "codes": sorted(v)} for k, v in sorted(listing.vocabulary.items())]).encode())
    for record in planned:
        digest.update(_identity(record, root).encode())
    for rejection in rejected:
        digest.update(f"{rejection.record_id}\t{rejection.reason}\n".encode())
    return Plan(
        recipe=recipe,
        source=source,
        listing=listing,
        tasks=tuple(_tasks(planned, shard_samples)),
        rejected=tuple(rejected),
        shard_samples=shard_samples,
        total_samples=planned[-1].start + planned[-1].n_samples if planned else 0,
        sha256=digest.hexdigest(),
    )


def _place(lengths: Sequence[int], shard_samples: int) -> list[int]:
    starts = []
    cursor = 0
    for n_samples in lengths:
        room = shard_samples - cursor % shard_samples
        if n_samples > room and room < shard_samples:
            cursor += room
        starts.append(cursor)
        cursor += n_samples
        if n_samples > shard_samples:
            # What follows a record of several shards begins a shard of its own: tasks share no shard.
            cursor = -(-cursor // shard_samples) * shard_samples
    return starts


def _tasks(planned: Sequence[Planned], shard_samples: int) -> Iterable[Task]:
    by_first_shard: dict[int, list[Planned]] = {}
    for record in planned:
        by_first_shard.setdefault(record.start // shard_samples, []).append(record)
    for first, records in by_first_shard.items():
        last = (records[-1].start + records[-1].n_samples - 1) // shard_samples
        yield Task(first, last - first + 1, tuple(records))


def _identity(record: Planned, root: Path) -> str:
    """All that the store will say of a record and that is known beforehand; not where the folder stands."""
    ref = record.ref
    return _sha256(
        [
            ref.record_id,
            ref.path.relative_to(root).as_posix(),
            ref.patient_id,
            ref.fold,
            ref.age_years,
            ref.sex,
            [[s.code, s.system, s.likelihood] for s in ref.statements],
            record.header.sha256,
            record.start,
            record.n_samples,
        ]
    )


def _sha256(content: Sequence[Any] | Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
