"""What is said of a record in a store: its row, its quality, its sums. The last step of the pipeline.

Ordinary records come several at a time, a long one in pieces; both end in :func:`describe`. What is judged is the
recording as it was read, and what is counted is what is stored, each sample once.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ecgstore.build.pipeline import Conditioned, Harmonised, Quantised, steps_mv, store_hz
from ecgstore.build.plan import Planned, Work
from ecgstore.build.sums import Sums, Tally, by_fold, fold_name, tally
from ecgstore.record import Beat, LeadState, Rejection
from ecgstore.signals import quality
from ecgstore.signals.conditioning import Envelope
from ecgstore.signals.noise import Noisy
from ecgstore.signals.quality import Quality
from ecgstore.storage import layout, tables
from ecgstore.storage.arrow import column, table
from ecgstore.storage.layout import MEASURES
from ecgstore.wfdb_io.annotations import read_beats

#: Fields of an annotation that always say something.
_OF_BEATS = ("symbol", "subtype", "channel", "num")


@dataclass(frozen=True, slots=True)
class Stored:
    """What the counts of a whole record tell: the samples as they stand in the store."""

    #: As :func:`final_states` has them.
    states: Sequence[LeadState]
    tally: Tally
    #: Values that were clipped in all; and, per lead, those of the recording, noise apart.
    n_clipped: int
    n_clipped_l: npt.NDArray[np.int64]
    crc32: int
    signature: int
    noisy: Noisy | None = None


class Full(NamedTuple):
    """What ``quality: full`` adds; None where it was not asked for."""

    heart_rate_bpm: float | None = None
    sqi: float | None = None


@dataclass(frozen=True, slots=True)
class Described:
    """One record that is written. ``row`` has the columns of ``tables.commit_schema`` but those of quality."""

    row: dict[str, Any]
    judged: Quality
    sums: Sums
    fold: str


def describe_all(
    harmonised: Sequence[Harmonised], conditioned: Conditioned, quantised: Quantised, work: Work
) -> list[Described | Rejection]:
    """:func:`describe` for whole records of one shape, in their order."""
    n, counts_lt = len(harmonised), quantised.counts_lt
    tallies = tally(counts_lt).split(n)
    clipped_rl = quantised.n_clipped_l.reshape(n, len(work.leads))
    states = [final_states(*of_one, work) for of_one in zip(harmonised, tallies, clipped_rl, strict=True)]
    judged = judge(harmonised, states, conditioned.band_power_mv2_lb, conditioned.envelope, work)
    counts_rlt = counts_lt.reshape(n, len(work.leads), -1)
    signatures = quality.signatures(counts_rlt, store_hz(harmonised[0].record, work), work.leads)
    described: list[Described | Rejection] = []
    for i, one in enumerate(harmonised):
        crc32 = layout.crc32_of_counts(counts_rlt[i], work.shard_samples)
        noisy = conditioned.noisy[i] if conditioned.noisy else None
        n_clipped = quantised.n_clipped_r[i]
        stored = Stored(states[i], tallies[i], n_clipped, clipped_rl[i], crc32, signatures[i], noisy)
        described.append(describe(one, judged[i], full(one, work), stored, work))
    return described


def judge(
    harmonised: Sequence[Harmonised],
    states: Sequence[Sequence[LeadState]],
    band_power_mv2_lb: npt.NDArray[np.float32],
    envelope: Envelope,
    work: Work,
) -> list[Quality]:
    """The quality of records, or of pieces of them, of one shape."""
    signals_mv_lt = [one.signal_mv_lt for one in harmonised]
    fs_hz, steps_mv_rl = harmonised[0].record.header.fs_hz, [steps_mv(one.record, work) for one in harmonised]
    states = [_calibrated(one, its) for one, its in zip(harmonised, states, strict=True)]
    return quality.judge(signals_mv_lt, states, fs_hz, band_power_mv2_lb, envelope, work.leads, steps_mv_rl)


def _calibrated(harmonised: Harmonised, states: Sequence[LeadState]) -> Sequence[LeadState]:
    """The states of leads for whoever measures millivolts: a lead that has none can't be told from one not there."""
    if harmonised.native is None:
        return states
    is_unknown_l = np.isnan(harmonised.native.gain_per_mv_l)
    return [LeadState.ABSENT if unknown else state for state, unknown in zip(states, is_unknown_l, strict=True)]


def full(harmonised: Harmonised, work: Work) -> Full:
    """Heart rate and signal quality by neurokit2, where the store is to have them."""
    if work.storage.quality != "full":
        return Full()
    return Full(*quality.full(harmonised.signal_mv_lt, work.leads, harmonised.record.header.fs_hz))


def final_states(
    read: Harmonised, counted: Tally, n_clipped_l: npt.NDArray[np.int64], work: Work
) -> tuple[LeadState, ...]:
    """A lead that never changes is bad, however it came to be, and so is one that is derived from such a lead.

    So is one of which the store's range cuts off most; leads that were derived before that are not.
    """
    flat_l, cut_l = counted.is_flat_l, _most_is_clipped(counted, n_clipped_l)
    # Of most records every lead is there, and moves.
    if not (any(flat_l) or any(cut_l) or LeadState.BAD in read.states):
        return read.states
    states, are_dead = list(read.states), []
    for i, (lead, flat) in enumerate(zip(work.leads, flat_l, strict=True)):
        if states[i] is not LeadState.ABSENT and (flat or cut_l[i]):
            states[i] = LeadState.BAD
        are_dead.append(lead in read.derived_from and states[i] is LeadState.BAD and not cut_l[i])
    if not any(are_dead):
        return tuple(states)
    return tuple(LeadState.BAD if state is LeadState.DERIVED else state for state in states)


def _most_is_clipped(counted: Tally, n_clipped_l: npt.NDArray[np.int64]) -> list[bool]:
    if not n_clipped_l.any():
        return [False] * len(n_clipped_l)
    return [2 * clipped > n > 0 for clipped, n in zip(n_clipped_l.tolist(), counted.sums.n, strict=True)]


def describe(read: Harmonised, judged: Quality, full: Full, stored: Stored, work: Work) -> Described | Rejection:
    """Put together what became of a record, however it was read; one without any sample is left out.

    Of ``read`` all is taken but its samples: of a long record they are those of one piece.
    """
    record, sums = read.record, stored.tally.sums
    if not any(sums.n):
        return Rejection(record.ref.record_id, "no_samples", "nothing was recorded in the wanted leads")
    judged = quality.with_clipped(judged, stored.n_clipped_l / record.n_samples)
    n_present = len(stored.states) - stored.states.count(LeadState.ABSENT)
    beats, beat_warnings = _beats(record, work)
    native, noisy = read.native, stored.noisy
    row = {
        "record_id": record.ref.record_id,
        "lead_states": "".join(stored.states),
        "n_clipped": stored.n_clipped,
        # An absent lead is said by its state; only samples missing in leads that are there are counted.
        "n_not_recorded": n_present * record.n_samples - sum(sums.n),
        "einthoven_mv": judged.einthoven_mv,
        "suspects": "; ".join(judged.suspects),
        "signature": stored.signature,
        "heart_rate_bpm": full.heart_rate_bpm,
        "sqi": full.sqi,
        "noise_rms_mv": None if noisy is None else noisy.noise_rms_mv,
        "snr_db": None if noisy is None else noisy.snr_db,
        "source_crc32": read.source_crc32,
        "crc32": stored.crc32,
        "warnings": "; ".join([*read.warnings, *beat_warnings, *_clipped(stored, work)]),
        "leads.gain_per_mv": None if native is None else native.gain_per_mv_l.tolist(),
        "leads.baseline": None if native is None else native.baseline_l.tolist(),
        "beats.sample": [sample for sample, _ in beats],
        **{f"beats.{name}": [getattr(beat, name) or None for _, beat in beats] for name in ("note", "annotator")},
        **{f"beats.{name}": [getattr(beat, name) for _, beat in beats] for name in _OF_BEATS},
    }
    return Described(row, judged, sums, fold_name(record.ref.fold))


def _clipped(stored: Stored, work: Work) -> tuple[str, ...]:
    if not stored.n_clipped:
        return ()
    limit_mv = layout.MAX_COUNT / layout.COUNTS_PER_MV
    warning = f"{stored.n_clipped} samples beyond ±{limit_mv} mV were clipped"
    leads = [lead for lead, n in zip(work.leads, stored.n_clipped_l.tolist(), strict=True) if n]
    if leads:
        warning += f" in {', '.join(leads)}: a high-pass filter or --profile raw keeps their waveform"
    if any(most := _most_is_clipped(stored.tally, stored.n_clipped_l)):
        warning += f", most of {', '.join(itertools.compress(work.leads, most))} is lost here and counts as bad"
    return (warning,)


def _beats(record: Planned, work: Work) -> tuple[list[tuple[int, Beat]], tuple[str, ...]]:
    """The record's annotations with their sample in the store; those outside the record are left out.

    They stand in the order of their file; those of several annotators in the order of time.
    """
    ref, header = record.ref, record.header
    fs_hz, last = store_hz(record, work), record.n_samples - 1
    found: list[tuple[int, Beat]] = []
    said: list[str] = []
    for annotator in ref.annotators:
        beats, warnings = read_beats(ref.path, annotator, ref.record_id, ref.keeps_text)
        inside = [beat for beat in beats if 0 <= beat.time_s < header.n_samples / header.fs_hz]
        found += [(min(round(beat.time_s * fs_hz), last), beat) for beat in inside]
        said += warnings
    if len(ref.annotators) > 1:
        found.sort(key=lambda one: one[0])
    return found, tuple(said)


def sums_of(described: Sequence[Described]) -> dict[str, Sums]:
    """Sums by fold."""
    return by_fold((one.fold, one.sums) for one in described)


def to_table(described: Sequence[Described], n_leads: int) -> pa.Table:
    """Records as one table of ``tables.commit_schema``, in their order."""
    schema = tables.commit_schema(n_leads, annotated=any(one.row["beats.sample"] for one in described))
    # Per measure (records,) and (records, leads). A number that isn't one is written as not stated.
    shape = (len(described), len(MEASURES), n_leads)
    measured_rml = np.array([one.judged.measured_ml for one in described], dtype=np.float32).reshape(shape)
    worst_rm = np.array([one.judged.worst_m for one in described], dtype=np.float32).reshape(shape[:2])
    columns: dict[str, Any] = {}
    for m, name in enumerate(MEASURES):
        columns[name] = column(worst_rm[:, m], pa.float32(), nan_is_null=True)
        flat = column(measured_rml[:, m].reshape(-1), pa.float32(), nan_is_null=True)
        columns[f"leads.{name}"] = pa.FixedSizeListArray.from_arrays(flat, n_leads)
    for field in schema:
        if field.name not in columns:
            columns[field.name] = [one.row[field.name] for one in described]
    return table(columns, schema, nan_is_null=True)
