"""The samples of whole records."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ecgstore import kernel
from ecgstore.errors import RecordError
from ecgstore.wfdb_io.files import beside, crc32_of, fill, open_file, said_file, why
from ecgstore.wfdb_io.header import NOT_RECORDED, Header
from ecgstore.wfdb_io.pieces import PieceReader
from ecgstore.wfdb_io.scale import (
    INVALID_16,
    agree,
    compare_checksums,
    plain_scale,
    scale_of,
    stated_checksums,
    uncalibrated,
)
from ecgstore.wfdb_io.segments import read_header


@dataclass(frozen=True, slots=True, eq=False)
class RawSignal:
    """Samples as recorded: ``signal_mv_lt`` float32 (signals, samples) in mV, NaN = not recorded.

    A signal that isn't a voltage, or has no usable gain, is NaN throughout. ``source_crc32`` is over the bytes of
    the signal files, in the header's order.
    """

    signal_mv_lt: npt.NDArray[np.float32]
    source_crc32: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class NativeCounts:
    """Samples as the converter gave them: ``counts_lt`` int16 (signals, samples), -32768 = not recorded.

    mV = (count - ``baseline_l``) / ``gain_per_mv_l``; the gain is NaN for a signal that isn't a voltage, or isn't
    calibrated.
    """

    counts_lt: npt.NDArray[np.int16]
    gain_per_mv_l: npt.NDArray[np.float64]
    baseline_l: npt.NDArray[np.int32]
    source_crc32: int
    warnings: tuple[str, ...] = ()


def read_signal(path: Path, header: Header, record_id: str) -> RawSignal:
    """Read all samples of the record at ``path`` (without suffix), in the header's signal order.

    Raises RecordError: missing_signal, truncated, bad_checksum, bad_signal, no_samples.
    """
    (outcome,) = read_signals([(path, header, record_id)])
    if isinstance(outcome, RecordError):
        raise outcome
    return outcome


def read_signals(records: Sequence[tuple[Path, Header, str]]) -> list[RawSignal | RecordError]:
    """:func:`read_signal` for several records; one that can't be read gives its error instead.

    Plain records of one shape are decoded together: what a record costs is not arithmetic but calls, each of
    which lets go of the interpreter and must win it back from the other threads.
    """
    outcomes: list[RawSignal | RecordError | None] = [None] * len(records)
    alike: dict[tuple[int, int], list[int]] = {}
    for i, (path, header, record_id) in enumerate(records):
        if header.plain:
            alike.setdefault((header.n_samples, len(header.lead_names)), []).append(i)
            continue
        try:
            reader = PieceReader(path, header, record_id)
            signal_mv_lt = reader.read(0, header.n_samples)
            outcomes[i] = RawSignal(signal_mv_lt, *reader.finish())
        except RecordError as error:
            outcomes[i] = error
    for indices in alike.values():
        for i, outcome in zip(indices, _read_plain([records[i] for i in indices]), strict=True):
            outcomes[i] = outcome
    return [outcome for outcome in outcomes if outcome is not None]


def read_native_counts(path: Path, header: Header, record_id: str) -> NativeCounts:
    """Read all samples as the converter gave them, and what makes millivolts of them.

    Raises RecordError: what :func:`read_signal` raises; not_16_bit where a voltage has counts beyond ±32767;
    bad_gain where the segments of a record have different gains, so that its counts have no common meaning.
    """
    reader = PieceReader(path, header, record_id)
    counts_lt = reader.read_counts(0, header.n_samples)
    source_crc32, warnings = reader.finish()
    return replace(native_counts(counts_lt, header, record_id), source_crc32=source_crc32, warnings=warnings)


def native_counts(counts_lt: npt.NDArray[np.int32], header: Header, record_id: str) -> NativeCounts:
    """Counts of a record or a piece of it, as :meth:`PieceReader.read_counts` gives them, with what makes mV of them.

    Raises RecordError: not_16_bit, bad_gain, as :func:`read_native_counts` does.
    """
    gain_per_mv_l, baseline_l = _native_scale(header, record_id)
    unknown = uncalibrated(header)
    out_lt = np.empty(counts_lt.shape, dtype=np.int16)
    for row, counts_t in enumerate(counts_lt):
        is_out_t = (counts_t <= INVALID_16) | (counts_t > -INVALID_16 - 1)
        if is_out_t.any():
            is_voltage = row in unknown or not math.isnan(gain_per_mv_l[row])
            if is_voltage and (is_out_t & (counts_t != NOT_RECORDED)).any():
                detail = f"signal {row}: {counts_t[is_out_t & (counts_t != NOT_RECORDED)][0]}"
                raise RecordError(record_id, "not_16_bit", detail)
            counts_t = np.where(is_out_t, INVALID_16, counts_t)
        out_lt[row] = counts_t
    return NativeCounts(out_lt, np.array(gain_per_mv_l), np.array(baseline_l, dtype=np.int32), source_crc32=0)


def read_counts(path: Path) -> tuple[npt.NDArray[np.float32], float, tuple[str, ...]]:
    """Read a record's counts whatever its units and gains: float32 (signals, samples), NaN = not recorded; the
    rate in Hz; the signals' names. For noise, which has a shape but no millivolts.

    Raises RecordError as :func:`read_header` and :func:`read_signal` do.
    """
    header = read_header(path, path.name)
    reader = PieceReader(path, header, path.name)
    counts_lt = reader.read_counts(0, header.n_samples)
    reader.finish()
    counts_or_nan_lt = counts_lt.astype(np.float32)
    counts_or_nan_lt[counts_lt == NOT_RECORDED] = np.nan
    return counts_or_nan_lt, header.fs_hz, header.lead_names


def _native_scale(header: Header, record_id: str) -> tuple[list[float], list[int]]:
    """Counts per mV and baselines, which all segments must share; a signal that is in none keeps the layout's."""
    own = scale_of(header.layout)
    scales = list(zip(own.gain_per_mv, own.baselines, strict=True))
    seen: set[int] = set()
    unknown = uncalibrated(header) if header.segments else frozenset()
    for segment in header.segments:
        for row, its_row in enumerate(segment.rows):
            if its_row < 0 or segment.header is None:
                continue
            its = scale_of(segment.header.layout)
            found = its.gain_per_mv[its_row], its.baselines[its_row]
            both_unusable = math.isnan(found[0]) and math.isnan(scales[row][0])
            alike = both_unusable and (row not in unknown or found[1] == scales[row][1])
            if row in seen and found != scales[row] and not alike:
                detail = f"signal {row}: gain or baseline differs between segments"
                raise RecordError(record_id, "bad_gain", detail)
            scales[row] = found
            seen.add(row)
    return [gain_per_mv for gain_per_mv, _ in scales], [baseline for _, baseline in scales]


def _read_plain(records: Sequence[tuple[Path, Header, str]]) -> list[RawSignal | RecordError]:
    """Plain records of one shape: files → counts (samples, leads) → millivolts (leads, samples) → verified."""
    _, first, _ = records[0]
    n_signals = len(first.lead_names)
    # Zeros where a record can't be read: what is decoded all the same must be numbers.
    counts_btl = np.zeros((len(records), first.n_samples, n_signals), dtype="<i2")
    errors: list[RecordError | None] = [None] * len(records)
    source_crc32s = [0] * len(records)
    for i, (path, header, record_id) in enumerate(records):
        try:
            source_crc32s[i] = _read_plain_file(os.fspath(path), header, record_id, counts_btl[i])
        except RecordError as error:
            errors[i] = error
    scales = zip(*(plain_scale(header.layout) for _, header, _ in records), strict=True)
    signal_mv_blt, sums_bl, n_recorded_b = kernel.decode(counts_btl, *map(np.stack, scales))
    for i in np.flatnonzero(n_recorded_b == 0).tolist():
        unrecorded = RecordError(records[i][2], "no_samples", "every sample is marked as not recorded")
        errors[i] = errors[i] or unrecorded
    is_right_b = agree(np.stack([stated_checksums(header) for _, header, _ in records]), sums_bl)
    outcomes: list[RawSignal | RecordError] = []
    for i, (_, header, record_id) in enumerate(records):
        outcome: RawSignal | RecordError | None = errors[i]
        if outcome is None:
            try:
                warnings = () if is_right_b[i] else compare_checksums(header, sums_bl[i].tolist(), record_id)
                outcome = RawSignal(signal_mv_blt[i], source_crc32s[i], (*header.warnings, *warnings))
            except RecordError as error:
                outcome = error
        outcomes.append(outcome)
    return outcomes


def _read_plain_file(base: str, header: Header, record_id: str, counts_tl: npt.NDArray[np.int16]) -> int:
    """Fill ``counts_tl`` (samples, leads) from the record's one signal file; returns the file's CRC-32."""
    name, offset = header.files[0], header.layout.byte_offsets[0]
    try:
        with open_file(beside(base, name), said_file(0), record_id) as file:
            crc = crc32_of(file, offset) if offset else 0
            n_bytes = fill(file, counts_tl.reshape(-1).view(np.uint8).data)
            crc = crc32_of(file, None, zlib.crc32(counts_tl.data, crc))
    except OSError as error:
        raise RecordError(record_id, "bad_signal", f"{said_file(0)}: {why(error)}") from None
    if n_bytes < counts_tl.nbytes:
        whole = n_bytes // (2 * counts_tl.shape[1])
        raise RecordError(record_id, "truncated", f"{said_file(0)}: {whole} of {header.n_samples} samples")
    return crc
