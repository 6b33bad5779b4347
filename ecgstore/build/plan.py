"""From a listing and the headers to a frozen, hashed plan: which record goes where, before a sample is read.

A plan is a pure function of its inputs, so the store comes out byte-identical for any number of workers and
after any number of kills. Records stand one behind the other along the time axis of one (leads, samples)
array. A record never straddles a shard unless it is longer than one; such a record starts on a shard
boundary, and so does the record behind it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from ecgstore.errors import ConfigError, RecordError
from ecgstore.record import LEADS_12, Listing, RecordRef, Rejection
from ecgstore.settings import Settings
from ecgstore.signals import conditioning
from ecgstore.signals.conditioning import Filter
from ecgstore.signals.leads import Arranged, ExtraLeads, arrange
from ecgstore.signals.names import MODIFIED_LEADS, OTHER_LEADS, stored_names
from ecgstore.signals.noise import NoiseSettings
from ecgstore.sources._reader import OwnReader, reader_of
from ecgstore.storage import layout
from ecgstore.wfdb_io.annotations import annotation_crc32
from ecgstore.wfdb_io.header import Header, own_rates_hz
from ecgstore.wfdb_io.parse import MAX_VALUES
from ecgstore.wfdb_io.scale import (
    CALIBRATION_OPTION,
    assume_gain,
    gains,
    refuse_unusable,
    uncalibrated,
    voltages,
)

#: No sample becomes more than this many: what was recorded so slowly is no ECG, and would fill the disk.
MOST_UPSAMPLED = 100
#: More leads than this in one store mean that the names of its signals are not names of leads.
MAX_LEADS = 64

#: Adds to a reference what the header's comments and gains (per mV) say of the record.
Describe = Callable[[RecordRef, tuple[str, ...], tuple[float, ...]], RecordRef]


class Recipe(Settings):
    """What is done to every record on its way into a store. Its hash travels with store and model."""

    #: The rate of the store, for all records; they are resampled to it. None keeps each record's own.
    fs_hz: float | None = Field(100.0, ge=1, le=20_000)
    #: The order of the leads in the store.
    leads: tuple[str, ...] = LEADS_12
    #: What to do with a record that has a signal that is not a known lead.
    extra_leads: ExtraLeads = "refuse"
    #: What to do with a record that uses a signal without a gain: ``refuse`` it, or take so many counts per mV for it,
    #: ``assume=200``, say, which is written down with the record. A gain that is stated always counts. A raw store
    #: refuses none of them: it keeps the counts, and no gain.
    uncalibrated: str = "refuse"
    #: Zero-phase filters, in their order; see docs/conditioning.md.
    filters: tuple[Filter, ...] = ()
    #: Noise that is added after filtering, for experiments on robustness.
    noise: NoiseSettings | None = None
    #: ``microvolt``: one count is 1 µV everywhere. ``adc``: the source's own counts, with gain and baseline per lead.
    encoding: Literal["microvolt", "adc"] = "microvolt"

    @model_validator(mode="after")
    def _known_leads(self) -> Recipe:
        known = (*LEADS_12, *sorted(OTHER_LEADS), *sorted(MODIFIED_LEADS))
        unknown = [lead for lead in self.leads if lead not in known]
        if unknown or not self.leads or len(set(self.leads)) != len(self.leads):
            raise ValueError(f"leads must be different names out of {' '.join(known)}")
        return self

    @field_validator("uncalibrated")
    @classmethod
    def _refused_or_assumed(cls, text: str) -> str:
        match = re.fullmatch(r"assume=(\d{1,9}(?:\.\d{1,9})?)", text)
        if text != "refuse" and not (match and float(match[1]) > 0):
            raise ValueError("refuse, or assume= and counts per mV above 0, such as assume=200")
        return text

    @model_serializer(mode="wrap")
    def _without_defaults_of_later(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Recipes of before this setting, and their hashes, stay what they were.
        content: dict[str, Any] = dump(self)
        if self.uncalibrated == "refuse":
            content.pop("uncalibrated", None)
        return content

    @property
    def assumed_gain_per_mv(self) -> float | None:
        """Counts per mV for signals without a gain; None where they are refused."""
        return None if self.uncalibrated == "refuse" else float(self.uncalibrated.removeprefix("assume="))

    @model_validator(mode="after")
    def _raw_is_untouched(self) -> Recipe:
        if self.encoding == "adc" and (self.filters or self.noise or self.fs_hz is not None):
            raise ValueError("a raw store (encoding adc) takes no filter, noise or rate: it keeps what was recorded")
        return self

    @property
    def sha256(self) -> str:
        """Hash of the recipe, for the preprocessing passport."""
        return _sha256(self.model_dump(mode="json"))


class Storage(Settings):
    """How a store keeps what the recipe made; no sample depends on it."""

    #: ``blosc`` (zstd, bitshuffle) is read by every Zarr implementation; ``pcodec`` is smaller, for archives.
    codec: Literal["blosc", "pcodec"] = "blosc"
    #: ``full`` adds a heart rate and a signal-quality index by neurokit2; slow.
    quality: Literal["basic", "full"] = "basic"
    #: How quality is measured. Stores that lack the word took ``hf_noise_mv`` from every n-th sample, so that it hung
    #: on the source's rate: what was measured so and what is measured now never stand in one column.
    measures: Literal[2] = 2


@dataclass(frozen=True, slots=True)
class Planned:
    """One record and its place: ``start`` and ``n_samples`` are in samples of the store."""

    ref: RecordRef
    header: Header
    start: int
    n_samples: int
    #: CRC-32 of the files that its annotations come from; 0 without one.
    annotation_crc32: int = 0


@dataclass(frozen=True, slots=True)
class Task:
    """Shards ``first_shard`` .. ``first_shard + n_shards - 1`` and the records in them: one unit of work."""

    first_shard: int
    n_shards: int
    records: tuple[Planned, ...]

    @property
    def n_records(self) -> int:
        """Records that have a place in these shards."""
        return len(self.records)


@dataclass(frozen=True, slots=True)
class Stretch:
    """A task by its place in the files of a plan (:mod:`ecgstore.build.planned`): what travels in its stead."""

    first_shard: int
    n_shards: int
    n_records: int
    #: A file of the plan, and which of its row groups.
    file: str
    group: int
    #: :func:`task_sha256` of the task.
    sha256: str
    #: SHA-256 of the file.
    file_sha256: str


@dataclass(frozen=True, slots=True)
class Work:
    """All that a task must know besides its records; the same for every task of a plan."""

    recipe: Recipe
    storage: Storage
    #: The store's leads: the recipe's, and behind them those that ``extra_leads: keep`` found.
    leads: tuple[str, ...]
    shard_samples: int
    #: Folder of the recorded noise, where the recipe asks for one; the recipe holds the hash of what is in it.
    noise_bank: Path | None = None
    #: Whether ids of records are hashes, so that no reason may name a file.
    hides_names: bool = False
    #: The reader that the source brings; None where records are WFDB records.
    reader: OwnReader | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything about a store that is known before a sample is read."""

    work: Work
    source: Settings
    listing: Listing
    tasks: tuple[Task, ...]
    rejected: tuple[Rejection, ...]
    total_samples: int
    vocabulary: Mapping[str, tuple[str, ...]]
    sha256: str
    #: Site ("" for none) → coding system → codes, where absence means "no" at some sites only; else empty.
    vocabulary_by_site: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    #: Attributes of the root that the version before had: who has withdrawn, and by which steps it was made.
    inherited: Mapping[str, Any] = field(default_factory=dict)
    #: The tasks of a plan that was read back, which has no ``tasks``: their records stand in its files.
    stretches: tuple[Stretch, ...] = ()
    #: Whether any record is one that wfdb reads.
    needs_wfdb: bool = False

    @property
    def units(self) -> tuple[Task, ...] | tuple[Stretch, ...]:
        """The tasks, or their places in the plan's files."""
        return self.stretches or self.tasks

    @property
    def n_records(self) -> int:
        """Records that have a place in the plan."""
        return sum(unit.n_records for unit in self.units)


@dataclass(frozen=True, slots=True)
class Scanned:
    """A record whose header was read and found usable."""

    ref: RecordRef
    header: Header


@dataclass(frozen=True, slots=True)
class Occupied:
    """Where the records of a sealed store stand, for a plan that makes its next version."""

    shard_samples: int
    total_samples: int
    #: Record id → (start, number of samples).
    places: Mapping[str, tuple[int, int]]


def scan(
    ref: RecordRef, header: Header, comments: tuple[str, ...], recipe: Recipe, describe: Describe | None = None
) -> Scanned | Rejection:
    """Tell from its header whether a record can be used; one that can't is said with its reason."""
    try:
        found = arrange(header.lead_names, _wanted(header, recipe), recipe.extra_leads, ref.record_id)
        usable = header
        if recipe.assumed_gain_per_mv is not None:
            usable = assume_gain(header, found.used, recipe.assumed_gain_per_mv)
        if recipe.encoding == "adc":
            _refuse_unkeepable(usable, found, recipe, ref.record_id)
        refuse_unusable(usable, found.used, ref.record_id, keeps_uncalibrated=recipe.encoding == "adc")
        usable = _checked_rate(usable, recipe, ref.record_id)
    except RecordError as error:
        return Rejection(error.record_id, error.reason, error.detail)
    return Scanned(ref if describe is None else describe(ref, comments, gains(header)), usable)


def _checked_rate(header: Header, recipe: Recipe, record_id: str) -> Header:
    """The header, with a warning where resampling lets time slip by a sample or more.

    Raises RecordError too_large where the record would become too long.
    """
    target_hz, n_out = recipe.fs_hz or header.fs_hz, n_stored(header, recipe)
    if target_hz > MOST_UPSAMPLED * header.fs_hz or n_out * len(recipe.leads) > MAX_VALUES:
        raise RecordError(
            record_id,
            "too_large",
            f"{header.n_samples} samples at {header.fs_hz:g} Hz become {n_out} at {target_hz:g} Hz; the limits are "
            f"{MOST_UPSAMPLED} for one, and {MAX_VALUES} values in all",
        )
    rates = header.n_samples, header.fs_hz, target_hz
    late_s = conditioning.slip_s(*rates)
    if abs(late_s) * target_hz < 1:
        return header
    warning = f"the true rate is {conditioning.true_hz(*rates):.9g} Hz: the record's end stands {late_s:.3g} s early"
    return replace(header, warnings=(*header.warnings, warning))


def _refuse_unkeepable(header: Header, found: Arranged, recipe: Recipe, record_id: str) -> None:
    """Refuse what a raw store can't keep as it was recorded. Raises RecordError: no_leads, mixed_rates, bad_gain."""
    rows = [found.places[lead][0] for lead in _wanted(header, recipe) if lead in found.places]
    if not rows:
        raise RecordError(record_id, "no_leads", "a raw store derives no lead, and none wanted was recorded")
    rates_hz = own_rates_hz(header)
    slow = [row for row in rows if rates_hz[row] < header.fs_hz]
    if slow:
        detail = (
            f"signal {slow[0]} at {rates_hz[slow[0]]:g} Hz, the record at {header.fs_hz:g} Hz; another profile takes it"
        )
        raise RecordError(record_id, "mixed_rates", detail)
    # The sign of a lead is kept in that of its gain.
    unknown = uncalibrated(header)
    for lead, (row, sign) in found.places.items():
        if sign < 0 and row in unknown and lead in _wanted(header, recipe):
            detail = f"signal {row} is turned and states no gain, so that its sign can't be kept; {CALIBRATION_OPTION}"
            raise RecordError(record_id, "bad_gain", detail)


def _wanted(header: Header, recipe: Recipe) -> tuple[str, ...]:
    """The recipe's leads and, where others are kept, every other voltage of this record."""
    if recipe.extra_leads != "keep":
        return recipe.leads
    names = zip(stored_names(header.lead_names), voltages(header), strict=True)
    own = (name for name, is_voltage in names if is_voltage)
    return (*recipe.leads, *(lead for lead in own if lead not in recipe.leads))


def make_plan(
    listing: Listing,
    scanned: Iterable[Scanned | Rejection],
    recipe: Recipe,
    source: Settings,
    root: Path,
    *,
    storage: Storage | None = None,
    patient_key: str = "",
    noise_bank: Path | None = None,
    occupied: Occupied | None = None,
    hides_names: bool = False,
    inherited: Mapping[str, Any] | None = None,
) -> Plan:
    """Give every scanned record its place, in the order of the listing.

    ``patient_key``, the secret that patients will be hashed with, takes part in the plan's hash alone; with
    ``hides_names``, what is left out has a reason and no detail, which could name a file. With
    ``occupied``, records of the version before keep their places, and new ones stand behind them.

    Raises ConfigError where ``extra_leads: keep`` finds more than MAX_LEADS leads.
    """
    storage = storage or Storage()
    scanned = list(scanned)
    rejected = [*listing.rejected, *(item for item in scanned if isinstance(item, Rejection))]
    usable, again = _first_of_each(item for item in scanned if isinstance(item, Scanned))
    rejected += [Rejection(record_id, "duplicate_id", "kept the first") for record_id in again]
    if hides_names:
        rejected = [replace(one, detail="") for one in rejected]
    leads = _leads((item.header for item in usable), recipe)
    lengths = [n_stored(item.header, recipe) for item in usable]
    if occupied is None:
        shard_samples = layout.shard_samples(sum(lengths), max(lengths, default=0))
        starts = place(lengths, shard_samples)
    else:
        shard_samples = occupied.shard_samples
        starts = _place_behind([item.ref.record_id for item in usable], lengths, occupied)
    planned = sorted(
        (
            Planned(item.ref, item.header, start, n, annotation_crc32(item.ref.path, item.ref.annotators))
            for item, start, n in zip(usable, starts, lengths, strict=True)
        ),
        key=lambda record: record.start,
    )
    vocabulary = _vocabulary(listing, planned)
    about = [layout.FORMAT_VERSION, public(source), recipe.sha256, storage.model_dump(), leads, shard_samples]
    digest = hashlib.sha256(_sha256([*about, patient_key, sorted(vocabulary.items())]).encode())
    for record in planned:
        digest.update(_identity(record, root))
    for rejection in rejected:
        digest.update(f"{rejection.record_id}\t{rejection.reason}\n".encode())
    if inherited:
        digest.update(_sha256(inherited).encode())
    reader = reader_of(source)
    return Plan(
        work=Work(recipe, storage, leads, shard_samples, noise_bank, hides_names, reader),
        source=source,
        listing=listing,
        tasks=tuple(_tasks(planned, shard_samples)),
        rejected=tuple(rejected),
        total_samples=max((record.start + record.n_samples for record in planned), default=0),
        vocabulary=vocabulary,
        sha256=digest.hexdigest(),
        vocabulary_by_site=_vocabulary_by_site(listing, planned),
        inherited=inherited or {},
        needs_wfdb=reader is None and any(not record.header.plain for record in planned),
    )


def task_sha256(task: Task, work: Work) -> str:
    """Identifies what a task makes: equal for two plans if its shards would come out the same."""
    about = [layout.FORMAT_VERSION, work.recipe.sha256, work.storage.model_dump(), work.leads, work.shard_samples]
    digest = hashlib.sha256(_sha256([*about, task.first_shard, task.n_shards]).encode())
    for record in task.records:
        ref, header = record.ref, record.header
        parts = (ref.record_id, ref.fold, _annotators(ref), record.annotation_crc32, ref.mv_factor)
        digest.update(repr((*parts, header.sha256, record.start, record.n_samples)).encode())
    return digest.hexdigest()


def public(source: Settings) -> dict[str, Any]:
    """A source's settings without the paths in them: what may stand in a store."""
    return {name: value for name, value in source.model_dump().items() if not isinstance(value, Path)}


def _first_of_each(scanned: Iterable[Scanned]) -> tuple[list[Scanned], list[str]]:
    first: dict[str, Scanned] = {}
    again: list[str] = []
    for item in scanned:
        if item.ref.record_id in first:
            again.append(item.ref.record_id)
        else:
            first[item.ref.record_id] = item
    return list(first.values()), again


def _leads(headers: Iterable[Header], recipe: Recipe) -> tuple[str, ...]:
    if recipe.extra_leads != "keep":
        return recipe.leads
    kept = {lead for header in headers for lead in _wanted(header, recipe)} - set(recipe.leads)
    if len(recipe.leads) + len(kept) > MAX_LEADS:
        raise ConfigError(
            "the records have too many different signal names to keep them all as leads",
            expected=f"at most {MAX_LEADS}",
            got=f"{len(recipe.leads) + len(kept)}, such as {', '.join(sorted(kept)[:5])}",
            fix="choose --extra-leads drop",
        )
    return (*recipe.leads, *sorted(kept))


def n_stored(header: Header, recipe: Recipe) -> int:
    """How many samples the store will have of a record."""
    return conditioning.n_resampled(header.n_samples, header.fs_hz, recipe.fs_hz or header.fs_hz)


def place(lengths: Sequence[int], shard_samples: int, cursor: int = 0) -> list[int]:
    """First samples of records one behind the other from ``cursor`` on; none straddles a shard but one longer."""
    starts = []
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


def _place_behind(record_ids: Sequence[str], lengths: Sequence[int], occupied: Occupied) -> list[int]:
    """Old places for records that stayed as long as they were; the others behind everything that was there."""
    keeps = [occupied.places.get(one, (0, -1))[1] == n for one, n in zip(record_ids, lengths, strict=True)]
    cursor, shard_samples = occupied.total_samples, occupied.shard_samples
    if any(start + n == cursor and n > shard_samples for start, n in occupied.places.values()):
        cursor = -(-cursor // shard_samples) * shard_samples
    moved = iter(place([n for n, keep in zip(lengths, keeps, strict=True) if not keep], shard_samples, cursor))
    return [
        occupied.places[record_id][0] if keep else next(moved)
        for record_id, keep in zip(record_ids, keeps, strict=True)
    ]


def _tasks(planned: Sequence[Planned], shard_samples: int) -> Iterable[Task]:
    by_first_shard: dict[int, list[Planned]] = {}
    for record in planned:
        by_first_shard.setdefault(record.start // shard_samples, []).append(record)
    for first, records in by_first_shard.items():
        last = (records[-1].start + records[-1].n_samples - 1) // shard_samples
        yield Task(first, last - first + 1, tuple(records))


def _vocabulary(listing: Listing, planned: Sequence[Planned]) -> dict[str, tuple[str, ...]]:
    """The source's own vocabulary; for a coding system without one, every code that its records state."""
    stated: dict[str, set[str]] = {}
    for record in planned:
        for statement in record.ref.statements:
            if statement.system not in listing.vocabulary:
                stated.setdefault(statement.system, set()).add(statement.code)
    return {name: tuple(sorted(codes)) for name, codes in sorted({**listing.vocabulary, **stated}.items())}


def _vocabulary_by_site(listing: Listing, planned: Sequence[Planned]) -> dict[str, dict[str, tuple[str, ...]]]:
    """What the records of each site state in the systems of which the source publishes no list.

    Empty where all records are of one site, and for sources that publish what they state: one list then says it all.
    """
    published = listing.vocabulary.keys() if listing.is_published else ()
    stated: dict[str, dict[str, set[str]]] = {}
    systems: set[str] = set()
    for record in planned:
        its = stated.setdefault(record.ref.site or "", {})
        for statement in record.ref.statements:
            if statement.system not in published:
                its.setdefault(statement.system, set()).add(statement.code)
                systems.add(statement.system)
    if len(stated) < 2 or not systems:
        return {}
    return {
        site: {system: tuple(sorted(its.get(system, ()))) for system in sorted(systems)}
        for site, its in sorted(stated.items())
    }


def _identity(record: Planned, root: Path) -> bytes:
    """All that the store will say of a record and that is known beforehand; not where the folder stands."""
    ref = record.ref
    prefix = f"{root}/"
    path = str(ref.path).removeprefix(prefix).replace("\\", "/")
    parts = (
        ref.record_id,
        path,
        ref.patient_id,
        ref.fold,
        ref.age_years,
        ref.sex,
        ref.site,
        _annotators(ref),
        record.annotation_crc32,
        ref.mv_factor,
        [(s.code, s.system, s.likelihood) for s in ref.statements],
        record.header.sha256,
        record.start,
        record.n_samples,
        # Plans of WFDB records stay what they were.
        *((ref.inside,) if ref.inside else ()),
    )
    return repr(parts).encode()


def _annotators(ref: RecordRef) -> tuple[object, ...] | None:
    """What decides on the record's annotations."""
    return (*ref.annotators, ref.keeps_text) if ref.annotators else None


def _sha256(content: Sequence[Any] | Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
