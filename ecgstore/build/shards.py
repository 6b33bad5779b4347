"""One shard: the unit of work, of failure, of atomicity, of verification and of sharing.

A shard has exactly one writer, which opens the array afresh and writes all of it in one assignment: two
writers in one Zarr v3 shard lose data without a word (zarr-developers/zarr-python#3682). It is written,
read back, compared and hashed; then its commit record is published, and only that makes it count.
"""

from __future__ import annotations

import functools
import itertools
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ecgstore.build.plan import Planned, Task, Work, task_sha256
from ecgstore.errors import IntegrityError, RecordError, StoreError
from ecgstore.record import LeadState, Rejection
from ecgstore.signals import conditioning, leads, noise, quality
from ecgstore.signals.recorded_noise import load_bank
from ecgstore.storage import layout, publish, tables
from ecgstore.storage.array import open_array
from ecgstore.storage.layout import MEASURES
from ecgstore.storage.manifest import ObjectHash, hash_object
from ecgstore.wfdb_io.annotations import read_beats
from ecgstore.wfdb_io.pieces import PieceReader
from ecgstore.wfdb_io.samples import NativeCounts, read_native_counts, read_signals

V = TypeVar("V")

#: Records conditioned together, and the bound on their samples (15 MB of float32 for twelve leads).
BATCH = 16
BATCH_SAMPLES = 320_000
#: A record with more values than this is read and conditioned piece by piece (80 MB of float32).
LONG_VALUES = 20_000_000


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
    """The outcome of one task: objects written, records in them, records left out, sums by fold.

    ``rows`` are the columns of ``tables.commit_schema``, one value per record written, but for the measures of
    quality, which stand in ``judged``.
    """

    task_sha256: str
    n_leads: int
    objects: dict[str, ObjectHash] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    judged: list[quality.Quality] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)
    sums: dict[str, Sums] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Committed:
    """A commit as it is read back: its records as one table of ``tables.commit_schema``."""

    objects: Mapping[str, ObjectHash]
    written: pa.Table
    rejected: tuple[Rejection, ...]
    sums: Mapping[str, Sums]


def write(root: Path, task: Task, work: Work) -> None:
    """Do one task from raw files to commit record. A bad record is left out with its reason; the rest goes on.

    Raises StoreError where the disk refuses, IntegrityError where what was read back is not what was written.
    """
    commit = Commit(task_sha256(task, work), len(work.leads))
    size = work.shard_samples
    if task.n_shards > 1 and _is_long(task.records[0], work):
        _write_long(root, task.records[0], work, commit)
    else:
        counts_lt = _task_counts(task, work, commit)
        for i in range(task.n_shards):
            part_lt = counts_lt[:, i * size : (i + 1) * size]
            commit.objects |= write_counts(root, task.first_shard + i, part_lt, size)
    # Not flushed to the disk one by one: a commit names the hash of its shard, so after a power cut whatever
    # did not reach the disk is found out and done again. The seal flushes everything before it counts.
    publish.write_bytes(root / layout.commit_object(task.first_shard), _dump(commit), durable=False)


def _task_counts(task: Task, work: Work, commit: Commit) -> npt.NDArray[np.int16]:
    """All shards of a task, (leads, samples), with every record that can be read in its place."""
    start = task.first_shard * work.shard_samples
    counts_lt = np.full((len(work.leads), task.n_shards * work.shard_samples), layout.NOT_RECORDED, dtype=np.int16)
    for batch in _batches(task.records, work):
        if _is_long(batch[0], work):
            _long_counts(batch[0], work, commit, counts_lt[:, batch[0].start - start :][:, : batch[0].n_samples])
            continue
        for record, counts_of_lt in _batch_counts(batch, work, commit):
            counts_lt[:, record.start - start : record.start - start + record.n_samples] = counts_of_lt
    return counts_lt


def load_commit(root: Path, task: Task, work: Work, *, hashed: bool = True) -> Committed | None:
    """Return the commit of a task if it is of this very task and its objects are whole; None where work is left.

    Without ``hashed`` the objects are trusted: only for those that were hashed a moment ago, when they were written.
    """
    try:
        written, about = tables.from_arrow((root / layout.commit_object(task.first_shard)).read_bytes())
        if about["task_sha256"] != task_sha256(task, work):
            return None
        committed = Committed(
            objects={name: ObjectHash(*found) for name, found in about["objects"].items()},
            written=written,
            rejected=tuple(Rejection(*one) for one in about["rejected"]),
            sums={fold: Sums(*lists) for fold, lists in about["sums"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    for name, stated in committed.objects.items():
        if not (root / name).is_file() or (hashed and hash_object(root / name) != stated):
            return None
    return committed


def write_counts(root: Path, shard: int, counts_lt: npt.NDArray[np.int16], shard_samples: int) -> dict[str, ObjectHash]:
    """Write one whole shard (leads, up to ``shard_samples``), read it back, and return its object's hash.

    A shard without a single recorded sample has no object, and gives an empty dictionary.
    Raises StoreError where the disk refuses, IntegrityError where what was read back is not what was written.
    """
    name = layout.shard_object(shard)
    try:
        # What a killed task left here is not to be merged with: zarr would read it, torn as it may be.
        (root / name).unlink(missing_ok=True)
        array = open_array(root, writable=True)
        begin = shard * shard_samples
        end = min(begin + shard_samples, array.shape[1])
        array[:, begin:end] = counts_lt[:, : end - begin]
        read_lt = np.asarray(array[:, begin:end])
        objects = {name: hash_object(root / name)} if (root / name).exists() else {}
    except OSError as error:
        raise StoreError("a shard could not be written", where=root / name, got=error.strerror or str(error)) from error
    if not np.array_equal(read_lt, counts_lt[:, : end - begin]):
        raise IntegrityError("a shard read back differs from what was written: is the disk sound?", where=root / name)
    return objects


# --- records of ordinary length, several at once -------------------------------------------------------------


def _batches(records: Sequence[Planned], work: Work) -> Iterator[list[Planned]]:
    """Neighbours of one shape, up to BATCH together; a long record goes alone.

    Threads scale by it: each NumPy call lets go of the interpreter and must win it back, so what counts is how
    many calls there are, not how long they take.
    """
    for _, group in itertools.groupby(records, key=lambda record: (record.header.n_samples, record.header.fs_hz)):
        alike = list(group)
        size = max(1, min(BATCH, BATCH_SAMPLES // max(1, alike[0].header.n_samples)))
        yield from (alike[i : i + size] for i in range(0, len(alike), size))


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    """One record, read and harmonised; in a raw store ``native`` are its counts, in the order of the store."""

    record: Planned
    signal_mv_lt: npt.NDArray[np.float32]
    states: tuple[LeadState, ...]
    source_crc32: int
    warnings: tuple[str, ...]
    native: NativeCounts | None = None


def _batch_counts(
    records: Sequence[Planned], work: Work, commit: Commit
) -> Iterator[tuple[Planned, npt.NDArray[np.int16]]]:
    """The way of some records of one shape: raw files → mV → leads → conditioning → counts."""
    read = list(_read_native(records, work, commit) if _is_raw(work) else _read(records, work, commit))
    if not read:
        return
    n_leads, fs_hz = len(work.leads), read[0].record.header.fs_hz
    store_hz = work.recipe.fs_hz or fs_hz
    signals_mv_lt = [one.signal_mv_lt for one in read]
    conditioned = conditioning.condition_alike(
        signals_mv_lt, fs_hz, store_hz, work.recipe.filters, bands_hz=quality.BANDS_HZ
    )
    # From here on "l" runs over the leads of all records of the batch.
    noises: list[noise.Noisy] | None = None
    if _is_raw(work):
        counts_lt = np.concatenate([one.native.counts_lt for one in read if one.native is not None])
        n_clipped_l = np.zeros(len(counts_lt), dtype=np.int64)
    elif work.recipe.noise is None:
        counts_lt, n_clipped_l = layout.mv_to_counts(conditioned.signal_mv_lt)
    else:
        noises = _noisy(read, conditioned.signal_mv_lt, store_hz, work)
        counts_lt, n_clipped_l = layout.mv_to_counts(np.concatenate([one.signal_mv_lt for one in noises]))
    found_l = _lead_sums(counts_lt)
    states = [_judged(one.states, found_l.is_flat[i * n_leads : (i + 1) * n_leads]) for i, one in enumerate(read)]
    judged = quality.judge(signals_mv_lt, states, fs_hz, _given(conditioned.band_power_mv2_lb), work.leads)
    signatures = quality.signatures(counts_lt.reshape(len(read), n_leads, -1), store_hz, work.leads)
    for i, one in enumerate(read):
        its = slice(i * n_leads, (i + 1) * n_leads)
        sums = Sums(found_l.n[its], found_l.total[its], found_l.squares[its])
        if not any(sums.n):
            detail = "nothing was recorded in the wanted leads"
            commit.rejected.append(Rejection(one.record.ref.record_id, "no_samples", detail))
            continue
        row: dict[str, Any] = {
            "n_clipped": int(n_clipped_l[its].sum()),
            "crc32": _crc32(counts_lt[its], work.shard_samples),
            "signature": signatures[i],
        }
        if noises is not None:
            row |= {"noise_rms_mv": noises[i].noise_rms_mv, "snr_db": noises[i].snr_db}
            row["n_clipped"] = noises[i].n_clipped
        _commit_one(commit, one, states[i], sums, judged[i], row, work)
        yield one.record, counts_lt[its]


def _noisy(read: Sequence[_Read], signal_mv_lt: npt.NDArray[np.float32], fs_hz: float, work: Work) -> list[noise.Noisy]:
    settings = work.recipe.noise
    if settings is None:
        return []
    bank = None if work.noise_bank is None else _bank(work.noise_bank)
    return [
        noise.add(of_one_mv_lt, fs_hz, one.record.ref.record_id, settings, bank, leads=work.leads)
        for one, of_one_mv_lt in zip(read, np.split(signal_mv_lt, len(read)), strict=True)
    ]


#: Recorded noise is read once by each process.
_bank = functools.lru_cache(maxsize=2)(load_bank)


def _commit_one(
    commit: Commit,
    read: _Read,
    states: Sequence[LeadState],
    sums: Sums,
    judged: quality.Quality,
    row: Mapping[str, Any],
    work: Work,
) -> None:
    """Note down what became of a record."""
    record, n_clipped = read.record, row["n_clipped"]
    n_present = sum(state is not LeadState.ABSENT for state in states)
    heart_rate_bpm, sqi = None, None
    if work.storage.quality == "full":
        heart_rate_bpm, sqi = quality.full(read.signal_mv_lt, work.leads, record.header.fs_hz)
    beats, beat_warnings = _beats(record, work)
    warnings = [*read.warnings, *beat_warnings]
    if n_clipped:
        limit_mv = layout.MAX_COUNT / layout.COUNTS_PER_MV
        warnings.append(f"{n_clipped} samples beyond ±{limit_mv} mV were clipped")
    native = read.native
    commit.judged.append(judged)
    commit.rows.append(
        {
            "record_id": record.ref.record_id,
            "lead_states": "".join(states),
            # An absent lead is said by its state; only samples missing in leads that are there are counted.
            "n_not_recorded": n_present * record.n_samples - sum(sums.n),
            "einthoven_mv": judged.einthoven_mv,
            "suspects": "; ".join(judged.suspects),
            "heart_rate_bpm": heart_rate_bpm,
            "sqi": sqi,
            "source_crc32": read.source_crc32,
            "warnings": "; ".join(warnings),
            **row,
            "leads.gain_per_mv": None if native is None else native.gain_per_mv_l.tolist(),
            "leads.baseline": None if native is None else native.baseline_l.tolist(),
            "beats.sample": [sample for sample, _ in beats],
            "beats.symbol": [symbol for _, symbol in beats],
        }
    )
    fold = "" if record.ref.fold is None else str(record.ref.fold)
    commit.sums.setdefault(fold, Sums.zero(commit.n_leads)).add(sums)


def _judged(states: Sequence[LeadState], is_flat: Sequence[bool]) -> tuple[LeadState, ...]:
    """A lead that never changes is bad, however it came to be."""
    return tuple(
        LeadState.BAD if flat and state is not LeadState.ABSENT else state
        for state, flat in zip(states, is_flat, strict=True)
    )


def _beats(record: Planned, work: Work) -> tuple[list[tuple[int, str]], tuple[str, ...]]:
    """The record's annotations as (sample in the store, symbol); those outside the record are left out."""
    if record.ref.annotator is None:
        return [], ()
    beats, warnings = read_beats(record.ref.path, record.ref.annotator, record.ref.record_id)
    header, fs_hz, last = record.header, work.recipe.fs_hz or record.header.fs_hz, record.n_samples - 1
    inside = [beat for beat in beats if 0 <= beat.time_s < header.n_samples / header.fs_hz]
    return [(min(round(beat.time_s * fs_hz), last), beat.symbol) for beat in inside], warnings


def _read(records: Sequence[Planned], work: Work, commit: Commit) -> Iterator[_Read]:
    outcomes = read_signals([(one.ref.path, one.header, one.ref.record_id) for one in records])
    for record, raw in zip(records, outcomes, strict=True):
        record_id, header = record.ref.record_id, record.header
        try:
            if isinstance(raw, RecordError):
                raise raw
            if raw.signal_mv_lt.shape[1] != header.n_samples:
                raise RecordError(record_id, "truncated", f"{raw.signal_mv_lt.shape[1]} of {header.n_samples} samples")
            harmonised = _harmonise(raw.signal_mv_lt, record, work)
        except RecordError as error:
            commit.rejected.append(Rejection(record_id, error.reason, error.detail))
        else:
            warnings = (*raw.warnings, *harmonised.warnings, *_corrected(record))
            yield _Read(record, harmonised.signal_mv_lt, harmonised.states, raw.source_crc32, warnings)


def _harmonise(signal_mv_lt: npt.NDArray[np.float32], record: Planned, work: Work) -> leads.Harmonised:
    if record.ref.mv_factor != 1.0:
        signal_mv_lt = signal_mv_lt * np.float32(record.ref.mv_factor)
    return leads.harmonise(
        signal_mv_lt,
        record.header.lead_names,
        record_id=record.ref.record_id,
        wanted=work.leads,
        extra=work.recipe.extra_leads,
    )


def _corrected(record: Planned) -> tuple[str, ...]:
    factor = record.ref.mv_factor
    return () if factor == 1.0 else (f"millivolts multiplied by {factor:g}, as the source's settings say",)


# --- records too long for the memory, piece by piece ---------------------------------------------------------


def _is_long(record: Planned, work: Work) -> bool:
    values = record.header.n_samples * max(len(record.header.lead_names), len(work.leads))
    # Raw counts are small, and noise is drawn for a whole record.
    return values > LONG_VALUES and not _is_raw(work) and work.recipe.noise is None


def _long_counts(record: Planned, work: Work, commit: Commit, counts_lt: npt.NDArray[np.int16]) -> None:
    """Fill ``counts_lt`` (leads, samples of the record) with a record that shares its shard with others."""
    try:
        reader = _LongReader(record, work)
        for first, piece_lt in reader.pieces():
            counts_lt[:, first : first + piece_lt.shape[1]] = piece_lt
        reader.crc32 = zlib.crc32(np.ascontiguousarray(counts_lt).data)
        reader.finish(commit)
    except RecordError as error:
        counts_lt[:] = layout.NOT_RECORDED
        commit.rejected.append(Rejection(record.ref.record_id, error.reason, error.detail))


def _write_long(root: Path, record: Planned, work: Work, commit: Commit) -> None:
    """One record of several shards; each shard is written as soon as its last sample is known."""
    try:
        reader = _LongReader(record, work)
        for shard, counts_lt in _by_shard(reader.pieces(), record, work):
            commit.objects |= write_counts(root, shard, counts_lt, work.shard_samples)
            reader.crc32 = zlib.crc32(
                np.ascontiguousarray(_recorded(counts_lt, shard, record, work)).data, reader.crc32
            )
        reader.finish(commit)
    except RecordError as error:
        # What was written of it belongs to nobody now, and the seal removes it.
        commit.objects.clear()
        commit.rejected.append(Rejection(record.ref.record_id, error.reason, error.detail))


class _LongReader:
    """Reads a record in pieces and keeps account of what must be known of all of it."""

    def __init__(self, record: Planned, work: Work) -> None:
        self.record, self.work = record, work
        self.reader = PieceReader(record.ref.path, record.header, record.ref.record_id)
        self.harmonised: leads.Harmonised | None = None
        self.judged: list[tuple[int, quality.Quality]] = []
        self.sums = Sums.zero(len(work.leads))
        self.n_clipped = 0
        self.crc32 = 0
        self.signature: int | None = None
        self.lowest_l = np.full(len(work.leads), layout.MAX_COUNT)
        self.highest_l = np.full(len(work.leads), -layout.MAX_COUNT)
        self.first_mv_lt: npt.NDArray[np.float32] | None = None

    def read(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Samples ``start`` to ``stop`` of the source, harmonised; pieces overlap by their halo."""
        fs_hz = self.record.header.fs_hz
        harmonised = _harmonise(self.reader.read(start, stop), self.record, self.work)
        signal_mv_lt = harmonised.signal_mv_lt
        bands = conditioning.condition_alike([signal_mv_lt], fs_hz, fs_hz, (), bands_hz=quality.BANDS_HZ)
        (judged,) = quality.judge(
            [signal_mv_lt], [harmonised.states], fs_hz, _given(bands.band_power_mv2_lb), self.work.leads
        )
        self.judged.append((stop - start, judged))
        if self.harmonised is None:
            self.harmonised, self.first_mv_lt = harmonised, signal_mv_lt
        return signal_mv_lt

    def pieces(self) -> Iterator[tuple[int, npt.NDArray[np.int16]]]:
        """Counts of the conditioned record with the first sample of each piece."""
        header, recipe = self.record.header, self.work.recipe
        piece_s = LONG_VALUES / header.fs_hz / max(len(header.lead_names), len(self.work.leads))
        store_hz = recipe.fs_hz or header.fs_hz
        conditioned = conditioning.condition_pieces(
            self.read, header.n_samples, header.fs_hz, store_hz, recipe.filters, piece_s
        )
        for first, signal_mv_lt in conditioned:
            counts_lt, n_clipped_l = layout.mv_to_counts(signal_mv_lt)
            found_l = _lead_sums(counts_lt)
            self.sums.add(Sums(found_l.n, found_l.total, found_l.squares))
            self.n_clipped += int(n_clipped_l.sum())
            recorded_lt = counts_lt != layout.NOT_RECORDED
            self.lowest_l = np.minimum(self.lowest_l, np.where(recorded_lt, counts_lt, layout.MAX_COUNT).min(axis=1))
            self.highest_l = np.maximum(self.highest_l, np.where(recorded_lt, counts_lt, -layout.MAX_COUNT).max(axis=1))
            if self.signature is None:
                self.signature = quality.signature(counts_lt, store_hz, self.work.leads)
            yield first, counts_lt

    def finish(self, commit: Commit) -> None:
        """Verify what was read and note the record down. Raises RecordError where a checksum is wrong."""
        source_crc32, warnings = self.reader.finish()
        harmonised, first_mv_lt = _given(self.harmonised), _given(self.first_mv_lt)
        if not any(self.sums.n):
            raise RecordError(self.record.ref.record_id, "no_samples", "nothing was recorded in the wanted leads")
        states = _judged(harmonised.states, (self.lowest_l >= self.highest_l).tolist())
        warnings = (*warnings, *harmonised.warnings, *_corrected(self.record))
        read = _Read(self.record, first_mv_lt, states, source_crc32, warnings)
        row = {"n_clipped": self.n_clipped, "crc32": self.crc32, "signature": self.signature}
        _commit_one(commit, read, states, self.sums, quality.combine(self.judged), row, self.work)


def _given(value: V | None) -> V:
    if value is None:
        raise RuntimeError("a record of no pieces")  # condition_pieces yields at least one
    return value


def _by_shard(
    pieces: Iterator[tuple[int, npt.NDArray[np.int16]]], record: Planned, work: Work
) -> Iterator[tuple[int, npt.NDArray[np.int16]]]:
    """Put pieces together to whole shards; a long record begins at the beginning of one."""
    size = work.shard_samples
    empty = functools.partial(np.full, (len(work.leads), size), layout.NOT_RECORDED, dtype=np.int16)
    buffer_lt, filled, shard = empty(), 0, record.start // size
    for _, counts_lt in pieces:
        done = 0
        while done < counts_lt.shape[1]:
            n = min(size - filled, counts_lt.shape[1] - done)
            buffer_lt[:, filled : filled + n] = counts_lt[:, done : done + n]
            done, filled = done + n, filled + n
            if filled == size:
                yield shard, buffer_lt
                buffer_lt, filled, shard = empty(), 0, shard + 1
    if filled:
        yield shard, buffer_lt


def _recorded(counts_lt: npt.NDArray[np.int16], shard: int, record: Planned, work: Work) -> npt.NDArray[np.int16]:
    """The part of a shard that is the record's."""
    begin = shard * work.shard_samples
    return counts_lt[:, : min(work.shard_samples, record.start + record.n_samples - begin)]


def _crc32(counts_lt: npt.NDArray[np.int16], shard_samples: int) -> int:
    """Of the record's counts, lead after lead within each shard, shard after shard."""
    if counts_lt.shape[1] <= shard_samples:
        return zlib.crc32(counts_lt.data)
    crc32 = 0
    for begin in range(0, counts_lt.shape[1], shard_samples):
        crc32 = zlib.crc32(np.ascontiguousarray(counts_lt[:, begin : begin + shard_samples]).data, crc32)
    return crc32


# --- raw stores: the source's own counts ---------------------------------------------------------------------


def _is_raw(work: Work) -> bool:
    return work.recipe.encoding == "adc"


def _read_native(records: Sequence[Planned], work: Work, commit: Commit) -> Iterator[_Read]:
    """Counts as they stand in the files, put into the store's order; millivolts are made of them to be judged."""
    for record in records:
        record_id, header = record.ref.record_id, record.header
        try:
            native = read_native_counts(record.ref.path, header, record_id)
            if native.counts_lt.shape[1] != header.n_samples:
                raise RecordError(record_id, "truncated", f"{native.counts_lt.shape[1]} of {header.n_samples} samples")
            places = leads.places_of(header.lead_names, work.leads, work.recipe.extra_leads, record_id)
        except RecordError as error:
            commit.rejected.append(Rejection(record_id, error.reason, error.detail))
            continue
        # A signal that no millivolts can be made from is as good as not there.
        places = [(row if row >= 0 and native.gain_per_mv_l[row] > 0 else -1, sign) for row, sign in places]
        ordered = _in_order(native, places, record.ref.mv_factor)
        states = tuple(LeadState.ABSENT if row < 0 else LeadState.MEASURED for row, _ in places)
        signal_mv_lt = layout.adc_to_mv(ordered.counts_lt, ordered.gain_per_mv_l, ordered.baseline_l)
        warnings = (*native.warnings, *_corrected(record))
        yield _Read(record, signal_mv_lt, states, native.source_crc32, warnings, ordered)


def _in_order(native: NativeCounts, places: Sequence[tuple[int, int]], mv_factor: float) -> NativeCounts:
    """The leads of ``native`` in the store's order; an inverted lead gets a negative gain, an absent one gain 1."""
    counts_lt = np.full((len(places), native.counts_lt.shape[1]), layout.NOT_RECORDED, dtype=np.int16)
    gain_per_mv_l, baseline_l = np.ones(len(places)), np.zeros(len(places), dtype=np.int32)
    for j, (row, sign) in enumerate(places):
        if row >= 0:
            counts_lt[j] = native.counts_lt[row]
            gain_per_mv_l[j] = sign * native.gain_per_mv_l[row] / mv_factor
            baseline_l[j] = native.baseline_l[row]
    return NativeCounts(counts_lt, gain_per_mv_l, baseline_l, native.source_crc32, native.warnings)


# --- sums ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _LeadSums:
    """Per lead: recorded samples, their exact sum and sum of squares, and whether they never change."""

    n: list[int]
    total: list[int]
    squares: list[int]
    is_flat: list[bool]


def _lead_sums(counts_lt: npt.NDArray[np.int16]) -> _LeadSums:
    lowest_l, highest_l = counts_lt.min(axis=1), counts_lt.max(axis=1)
    wide_lt = counts_lt.astype(np.int64)
    n_l = np.full(len(counts_lt), counts_lt.shape[1])
    if (lowest_l == layout.NOT_RECORDED).any():
        recorded_lt = counts_lt != layout.NOT_RECORDED
        n_l = np.count_nonzero(recorded_lt, axis=1)
        lowest_l = np.where(recorded_lt, counts_lt, layout.MAX_COUNT).min(axis=1)
        wide_lt *= recorded_lt
    squares_l = np.einsum("lt,lt->l", wide_lt, wide_lt)
    return _LeadSums(n_l.tolist(), wide_lt.sum(axis=1).tolist(), squares_l.tolist(), (lowest_l >= highest_l).tolist())


def _dump(commit: Commit) -> bytes:
    schema = tables.commit_schema(commit.n_leads)
    # Per measure (records,) and (records, leads). From pandas: a number that isn't one is written as not stated.
    shape = (len(commit.judged), len(MEASURES), commit.n_leads)
    measured_rml = np.array([one.measured_ml for one in commit.judged], dtype=np.float32).reshape(shape)
    worst_rm = np.array([one.worst_m for one in commit.judged], dtype=np.float32).reshape(shape[:2])
    columns: dict[str, pa.Array] = {}
    for m, name in enumerate(MEASURES):
        columns[name] = pa.array(worst_rm[:, m], from_pandas=True)
        flat = pa.array(measured_rml[:, m].reshape(-1), from_pandas=True)
        columns[f"leads.{name}"] = pa.FixedSizeListArray.from_arrays(flat, commit.n_leads)
    for column in schema:
        if column.name not in columns:
            values = [row.get(column.name) for row in commit.rows]
            columns[column.name] = pa.array(values, type=column.type, from_pandas=True)
    about = {
        "task_sha256": commit.task_sha256,
        "objects": {name: [found.size, found.sha256] for name, found in sorted(commit.objects.items())},
        "rejected": [[one.record_id, one.reason, one.detail] for one in commit.rejected],
        "sums": {fold: [sums.n, sums.total, sums.squares] for fold, sums in sorted(commit.sums.items())},
    }
    return tables.to_arrow(pa.table([columns[name] for name in schema.names], schema=schema), about)
