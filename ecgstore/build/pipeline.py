"""What is done to records on their way into a store: read → harmonise → condition → quantise (→ describe).

Each step takes frozen values and returns frozen values, and knows nothing of shards or commits. Records of one shape
go through together: each NumPy call lets go of the interpreter and must win it back from the other threads, so what
counts is how many calls there are, not how long they take. A long record takes the same steps, piece by piece.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from ecgstore.build.plan import Planned, Work
from ecgstore.errors import RecordError
from ecgstore.record import UNCALIBRATED, LeadState, Rejection
from ecgstore.signals import conditioning, leads, noise, quality
from ecgstore.signals.noise import Noisy
from ecgstore.signals.recorded_noise import load_bank
from ecgstore.sources._reader import OwnPieces
from ecgstore.storage import layout
from ecgstore.wfdb_io.header import own_rates_hz
from ecgstore.wfdb_io.pieces import PieceReader
from ecgstore.wfdb_io.samples import NativeCounts, RawSignal, native_counts, read_native_counts, read_signals
from ecgstore.wfdb_io.scale import gains, uncalibrated

V = TypeVar("V")
#: What was read of a record: millivolts, or for a raw store the converter's counts.
Samples = RawSignal | NativeCounts


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """A record, or a piece of it, as its files have it: millivolts, or for a raw store the converter's counts."""

    record: Planned
    samples: Samples


@dataclass(frozen=True, slots=True, eq=False)
class Harmonised:
    """The same in the store's leads: ``signal_mv_lt`` float32 (leads, samples) in mV, one state per lead.

    ``native`` are the counts that a raw store keeps, in the order of the store; the millivolts are then made of them,
    to be judged. ``source_crc32`` is that of the files of the whole record.
    """

    record: Planned
    signal_mv_lt: npt.NDArray[np.float32]
    states: tuple[LeadState, ...]
    source_crc32: int
    warnings: tuple[str, ...]
    native: NativeCounts | None = None
    #: The two leads that the derived ones were made of, if any were.
    derived_from: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Conditioned:
    """Records at the store's rate, filtered, their leads one below the other; ``noisy`` is one per record, or empty.

    ``band_power_mv2_lb`` float32 (leads of all records, :data:`quality.BANDS_HZ`) is that before any filter, and
    ``envelope`` that of :data:`quality.NOISE_HZ` from moment to moment.
    """

    signal_mv_lt: npt.NDArray[np.float32]
    band_power_mv2_lb: npt.NDArray[np.float32]
    envelope: conditioning.Envelope
    noisy: tuple[Noisy, ...] = ()


class Quantised(NamedTuple):
    """Counts as they are stored, int16 (leads of all records, samples), and how many of each record were clipped.

    ``n_clipped_l`` are those of each lead that the recording itself has beyond the range, without what noise adds.
    """

    counts_lt: npt.NDArray[np.int16]
    n_clipped_r: tuple[int, ...]
    n_clipped_l: npt.NDArray[np.int64]


def is_raw(work: Work) -> bool:
    """Whether the store keeps the source's own counts."""
    return work.recipe.encoding == "adc"


def store_hz(record: Planned, work: Work) -> float:
    """The rate at which the store keeps a record."""
    return work.recipe.fs_hz or record.header.fs_hz


def read(records: Sequence[Planned], work: Work) -> list[Recording | Rejection]:
    """Whole records, verified, in the order given; one that can't be used is said with its reason."""
    if work.reader is not None:
        return [_read_own(record, work) for record in records]
    if is_raw(work):
        return [_read_native(record) for record in records]
    outcomes = read_signals([(one.ref.path, one.header, one.ref.record_id) for one in records])
    return [_whole(record, outcome) for record, outcome in zip(records, outcomes, strict=True)]


def pieces_of(record: Planned, work: Work) -> PieceReader | OwnPieces:
    """What reads a record piece by piece, and verifies it."""
    if work.reader is not None:
        return OwnPieces(work.reader, record.ref, record.header)
    return PieceReader(record.ref.path, record.header, record.ref.record_id)


def samples_of(pieces: PieceReader | OwnPieces, record: Planned, start: int, stop: int, work: Work) -> Samples:
    """Samples ``start`` .. ``stop`` - 1 in millivolts, or for a raw store as counts; nothing is verified yet."""
    if is_raw(work):
        return native_counts(pieces.read_counts(start, stop), record.header, record.ref.record_id)
    return RawSignal(pieces.read(start, stop), 0)


def _read_native(record: Planned) -> Recording | Rejection:
    try:
        return _whole(record, read_native_counts(record.ref.path, record.header, record.ref.record_id))
    except RecordError as error:
        return _rejection(error, record)


def _read_own(record: Planned, work: Work) -> Recording | Rejection:
    try:
        pieces = pieces_of(record, work)
        samples = samples_of(pieces, record, 0, record.header.n_samples, work)
        source_crc32, warnings = pieces.finish()
    except RecordError as error:
        return _rejection(error, record)
    return _whole(record, replace(samples, source_crc32=source_crc32, warnings=warnings))


def _whole(record: Planned, outcome: Samples | RecordError) -> Recording | Rejection:
    if isinstance(outcome, RecordError):
        return _rejection(outcome, record)
    n_read = (outcome.counts_lt if isinstance(outcome, NativeCounts) else outcome.signal_mv_lt).shape[1]
    if n_read != record.header.n_samples:
        return Rejection(record.ref.record_id, "truncated", f"{n_read} of {record.header.n_samples} samples")
    return Recording(record, outcome)


def _rejection(error: RecordError, record: Planned) -> Rejection:
    return Rejection(record.ref.record_id, error.reason, error.detail)


def harmonise_all(read: Iterable[Recording | Rejection], work: Work) -> tuple[list[Harmonised], list[Rejection]]:
    """:func:`harmonise` what was read; beside it everything that can't be used, in the same order."""
    done: list[Harmonised] = []
    rejected: list[Rejection] = []
    for one in read:
        if isinstance(one, Rejection):
            rejected.append(one)
            continue
        try:
            done.append(harmonise(one, work))
        except RecordError as error:
            rejected.append(_rejection(error, one.record))
    return done, rejected


def harmonise(recording: Recording, work: Work, dead: Set[int] | None = None) -> Harmonised:
    """Leads by name, in the store's order. ``dead`` are the signals that never change: of a piece the whole tells.

    Raises RecordError: unknown_lead, duplicate_lead, no_leads.
    """
    record, samples = recording.record, recording.samples
    factor = record.ref.mv_factor
    corrected = () if factor == 1.0 else (f"millivolts multiplied by {factor:g}, as the source's settings say",)
    if isinstance(samples, NativeCounts):
        return _harmonise_native(record, samples, corrected, work)
    found = leads.harmonise(
        samples.signal_mv_lt if factor == 1.0 else samples.signal_mv_lt * np.float32(factor),
        record.header.lead_names,
        record_id=record.ref.record_id,
        wanted=work.leads,
        extra=work.recipe.extra_leads,
        dead=dead,
    )
    warnings = (*samples.warnings, *found.warnings, *_held(record, work), *corrected)
    states, crc32 = found.states, samples.source_crc32
    return Harmonised(record, found.signal_mv_lt, states, crc32, warnings, derived_from=found.derived_from)


def steps_mv(record: Planned, work: Work) -> list[float]:
    """The converter's steps in mV, one per lead of the store; NaN where there is none, or none that is known."""
    header = record.header
    found = leads.arrange(header.lead_names, work.leads, work.recipe.extra_leads, record.ref.record_id)
    gain_per_mv = gains(header)
    rows = [found.places.get(lead, (-1, 1))[0] for lead in work.leads]
    return [record.ref.mv_factor / gain_per_mv[row] if row >= 0 else math.nan for row in rows]


def _held(record: Planned, work: Work) -> tuple[str, ...]:
    """Says which leads were recorded at a lower rate than the record's, so that each of their values is repeated."""
    header = record.header
    if header.samples_per_frame == 1:
        return ()
    found = leads.arrange(header.lead_names, work.leads, work.recipe.extra_leads, record.ref.record_id)
    rates_hz = own_rates_hz(header)
    slow = {lead: rates_hz[row] for lead, (row, _) in found.places.items() if row in found.used}
    slow = {lead: rate_hz for lead, rate_hz in slow.items() if rate_hz < header.fs_hz}
    return tuple(f"held, because recorded at {rate_hz:g} Hz: {lead}" for lead, rate_hz in slow.items())


def _harmonise_native(record: Planned, native: NativeCounts, corrected: tuple[str, ...], work: Work) -> Harmonised:
    found = leads.arrange(record.header.lead_names, work.leads, work.recipe.extra_leads, record.ref.record_id)
    places = [found.places.get(lead, (-1, 1)) for lead in work.leads]
    # A signal that is no voltage is as good as not there; of one without a gain the counts are kept.
    unknown = uncalibrated(record.header)
    is_kept = [row >= 0 and (row in unknown or native.gain_per_mv_l[row] > 0) for row, _ in places]
    places = [(row if kept else -1, sign) for (row, sign), kept in zip(places, is_kept, strict=True)]
    bare = [lead for lead, (row, _) in zip(work.leads, places, strict=True) if row in unknown]
    said = (f"{UNCALIBRATED}: {', '.join(bare)}",) if bare else ()
    warnings = (*native.warnings, *found.warnings, *said, *corrected)
    ordered = _in_order(native, places, record.ref.mv_factor)
    states = tuple(LeadState.ABSENT if row < 0 else LeadState.MEASURED for row, _ in places)
    signal_mv_lt = layout.adc_to_mv(ordered.counts_lt, ordered.gain_per_mv_l, ordered.baseline_l)
    return Harmonised(record, signal_mv_lt, states, native.source_crc32, warnings, ordered)


def _in_order(native: NativeCounts, places: Sequence[tuple[int, int]], mv_factor: float) -> NativeCounts:
    """The leads of ``native`` in the store's order; an inverted lead gets a negative gain, an absent one gain 1.

    A lead without a gain has NaN.
    """
    counts_lt = np.full((len(places), native.counts_lt.shape[1]), layout.NOT_RECORDED, dtype=np.int16)
    gain_per_mv_l, baseline_l = np.ones(len(places)), np.zeros(len(places), dtype=np.int32)
    for j, (row, sign) in enumerate(places):
        if row >= 0:
            counts_lt[j] = native.counts_lt[row]
            gain_per_mv_l[j] = sign * native.gain_per_mv_l[row] / mv_factor
            baseline_l[j] = native.baseline_l[row]
    return NativeCounts(counts_lt, gain_per_mv_l, baseline_l, native.source_crc32, native.warnings)


def condition(harmonised: Sequence[Harmonised], work: Work) -> Conditioned:
    """Records of one shape: filtered, brought to the store's rate, and with noise where the recipe has some."""
    record = harmonised[0].record
    signals_mv_lt, fs_hz = [one.signal_mv_lt for one in harmonised], record.header.fs_hz
    found = conditioning.condition_alike(
        signals_mv_lt, fs_hz, store_hz(record, work), work.recipe.filters, quality.BANDS_HZ, quality.NOISE_HZ
    )
    noisy = _noisy(harmonised, found.signal_mv_lt, work)
    signal_mv_lt = np.concatenate([one.signal_mv_lt for one in noisy]) if noisy else found.signal_mv_lt
    return Conditioned(signal_mv_lt, given(found.band_power_mv2_lb), given(found.envelope), noisy)


def given(value: V | None) -> V:
    """What can't be missing."""
    if value is None:
        raise RuntimeError("a value that was asked for is not there")
    return value


def _noisy(harmonised: Sequence[Harmonised], signal_mv_lt: npt.NDArray[np.float32], work: Work) -> tuple[Noisy, ...]:
    settings = work.recipe.noise
    if settings is None:
        return ()
    bank = None if work.noise_bank is None else _bank(work.noise_bank)
    fs_hz = store_hz(harmonised[0].record, work)
    return tuple(
        noise.add_noise(of_one_mv_lt, fs_hz, one.record.ref.record_id, settings, bank, leads=work.leads)
        for one, of_one_mv_lt in zip(harmonised, np.split(signal_mv_lt, len(harmonised)), strict=True)
    )


#: Recorded noise is read once by each process.
_bank = functools.lru_cache(maxsize=2)(load_bank)


def quantise(harmonised: Sequence[Harmonised], conditioned: Conditioned) -> Quantised:
    """Counts of 1 µV; in a raw store those of the source, which were never anything else."""
    n = len(harmonised)
    native = [one.native.counts_lt for one in harmonised if one.native is not None]
    if native:
        counts_lt = np.concatenate(native)
        return Quantised(counts_lt, (0,) * n, np.zeros(len(counts_lt), dtype=np.int64))
    counts_lt, n_clipped_l = layout.mv_to_counts(conditioned.signal_mv_lt)
    if conditioned.noisy:
        # What noise lifted out of the range was clipped when it was added.
        n_clipped_l = np.concatenate([np.array(one.n_clipped_l, dtype=np.int64) for one in conditioned.noisy])
        return Quantised(counts_lt, tuple(one.n_clipped for one in conditioned.noisy), n_clipped_l)
    return Quantised(counts_lt, tuple(n_clipped_l.reshape(n, -1).sum(axis=1).tolist()), n_clipped_l)
