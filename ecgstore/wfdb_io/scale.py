"""From counts to millivolts, and whether counts are what their header says."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ecgstore.errors import RecordError
from ecgstore.wfdb_io.header import MV_PER_UNIT, NOT_STATED, Header, SignalLayout

#: WFDB's word for "no sample here" in format 16.
INVALID_16 = -32768
#: Millivolts per count beyond which float32 holds no millivolts.
MIN_MV_PER_COUNT, MAX_MV_PER_COUNT = 1e-30, 1e28
#: Said where a signal has no gain.
CALIBRATION_OPTION = "--uncalibrated assume=200 takes 200 counts per mV for signals without one"
#: Said of a record whose header states checksum 0 for all signals, and whose samples give others.
ALL_ZERO = "all checksums in the header are 0, taken as not stated: the samples are not verified"


def refuse_unusable(header: Header, rows: Iterable[int], record_id: str, *, keeps_uncalibrated: bool = False) -> None:
    """Refuse a record for its signals number ``rows`` if no millivolts can be made from one of them.

    ``keeps_uncalibrated``: voltages without a gain will do, because it is the counts that are kept.
    Raises RecordError: unknown_unit, bad_gain.
    """
    layout = header.layout
    if not header.segments and not _unusable(layout).intersection(rows):
        return
    # A segment may state another unit or gain than the record; it is the segment's that counts.
    parts = [(segment.header.layout, segment.rows) for segment in header.segments if segment.header is not None]
    for row in rows:
        found = [(part, its_rows[row]) for part, its_rows in parts if its_rows[row] >= 0] or [(layout, row)]
        for part, its_row in found:
            if not _is_voltage(part.units[its_row]):
                raise RecordError(record_id, "unknown_unit", f"signal {row} is not in volts")
            if part.gains[its_row] == 0:
                if keeps_uncalibrated:
                    continue
                raise RecordError(record_id, "bad_gain", f"signal {row} states no gain; {CALIBRATION_OPTION}")
            if math.isnan(scale_of(part).mv_per_count[its_row]):
                raise RecordError(record_id, "bad_gain", f"signal {row}: a gain that gives no millivolts")


def assume_gain(header: Header, rows: Iterable[int], gain_per_mv: float) -> Header:
    """The header with ``gain_per_mv`` counts per mV for those of its signals ``rows`` that are voltages without a gain.

    A warning says which they are. A gain that is stated, however wrong, stays.
    """
    rows = sorted(rows)
    assumed: set[int] = set()
    segments = []
    for segment in header.segments:
        own = segment.header
        if own is not None:
            # As for :func:`refuse_unusable`, it is the segment's gain that counts.
            found = [row for row in rows if segment.rows[row] >= 0 and _lacks_gain(own.layout, segment.rows[row])]
            assumed.update(found)
            calibrated = _with_gain(own.layout, [segment.rows[row] for row in found], gain_per_mv)
            segment = segment._replace(header=replace(own, layout=calibrated))
        segments.append(segment)
    found = [row for row in rows if _lacks_gain(header.layout, row)]
    assumed.update(found if not segments else ())
    if not assumed:
        return header
    said = ", ".join(map(str, sorted(assumed)[:8])) + (f" and {len(assumed) - 8} more" if len(assumed) > 8 else "")
    return replace(
        header,
        layout=_with_gain(header.layout, found, gain_per_mv),
        segments=tuple(segments),
        warnings=(*header.warnings, f"calibration assumed: {gain_per_mv:g} counts per mV for signal {said}"),
    )


def uncalibrated(header: Header) -> frozenset[int]:
    """Numbers of the signals that are voltages without a gain: only their counts are known."""
    own = {row for row in range(len(header.lead_names)) if _lacks_gain(header.layout, row)}
    for segment in header.segments:
        for row, its_row in enumerate(segment.rows):
            if segment.header is not None and its_row >= 0:
                (own.add if _lacks_gain(segment.header.layout, its_row) else own.discard)(row)
    return frozenset(own)


def _lacks_gain(layout: SignalLayout, row: int) -> bool:
    return _is_voltage(layout.units[row]) and layout.gains[row] == 0


def _with_gain(layout: SignalLayout, rows: Sequence[int], gain_per_mv: float) -> SignalLayout:
    its_gains = list(layout.gains)
    for row in rows:
        its_gains[row] = gain_per_mv * MV_PER_UNIT[layout.units[row].lower()]
    return replace(layout, gains=tuple(its_gains))


def voltages(header: Header) -> tuple[bool, ...]:
    """Per signal whether its unit is a voltage; its gain may be unusable all the same."""
    return tuple(map(_is_voltage, header.layout.units))


def _is_voltage(unit: str) -> bool:
    return unit.lower() in MV_PER_UNIT


def gains(header: Header) -> tuple[float, ...]:
    """Per signal the counts per mV that the header states, NaN where no millivolts can be made from it."""
    return scale_of(header.layout).gain_per_mv


@lru_cache(maxsize=4096)
def plain_scale(layout: SignalLayout) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Per signal mV per count and what is taken away then, in mV: float32, as whole records are scaled."""
    scale = scale_of(layout)
    mv_per_count_l = np.array(scale.mv_per_count, dtype=np.float32)
    offset_mv_l = np.array(scale.baselines, dtype=np.float32) * mv_per_count_l
    # A signal without millivolts has none, whatever its offset.
    return mv_per_count_l, np.nan_to_num(offset_mv_l)


def plain_mv(counts_lt: npt.NDArray[Any], layout: SignalLayout) -> npt.NDArray[np.float32]:
    """Counts of whatever type, (signals, samples), to millivolts, to the last bit as :func:`kernel.decode` has it."""
    mv_per_count_l, offset_mv_l = plain_scale(layout)
    signal_mv_lt: npt.NDArray[np.float32] = np.multiply(counts_lt, mv_per_count_l[:, None], dtype=np.float32)
    if offset_mv_l.any():
        signal_mv_lt -= offset_mv_l[:, None]
    return signal_mv_lt


class _Scale(NamedTuple):
    """Per signal mV per count and counts per mV, NaN where there is no telling, and the count that is 0 mV."""

    mv_per_count: tuple[float, ...]
    gain_per_mv: tuple[float, ...]
    baselines: tuple[int, ...]


@lru_cache(maxsize=4096)
def scale_of(layout: SignalLayout) -> _Scale:
    mv_per_count = tuple(_mv_per_count(unit, gain) for unit, gain in zip(layout.units, layout.gains, strict=True))
    gain_per_mv = tuple(
        math.nan if math.isnan(its_mv) else gain / MV_PER_UNIT[unit.lower()]
        for its_mv, unit, gain in zip(mv_per_count, layout.units, layout.gains, strict=True)
    )
    return _Scale(mv_per_count, gain_per_mv, layout.baselines)


@lru_cache(maxsize=4096)
def _unusable(layout: SignalLayout) -> frozenset[int]:
    return frozenset(row for row, its_mv in enumerate(scale_of(layout).mv_per_count) if math.isnan(its_mv))


def _mv_per_count(unit: str, gain: float) -> float:
    mv_per_unit = MV_PER_UNIT.get(unit.lower())
    # WFDB reads gain 0 as "uncalibrated": any number of millivolts made from it would be invented.
    if mv_per_unit is None or not math.isfinite(gain) or gain <= 0:
        return math.nan
    mv_per_count = mv_per_unit / gain if gain > mv_per_unit / MAX_MV_PER_COUNT else math.inf
    return mv_per_count if MIN_MV_PER_COUNT <= mv_per_count <= MAX_MV_PER_COUNT else math.nan


def agree(stated_bl: npt.NDArray[Any], sums_bl: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Per record whether the sums of its signals are the checksums that its header states, where it states any.

    Initial values are not looked at: outside the formats of differences they mean nothing, and many headers state 0.
    """
    # Headers write the 16-bit checksum signed or unsigned, so both sides are taken modulo 2**16.
    right_bl = (stated_bl == NOT_STATED) | ((stated_bl - sums_bl.astype(np.int64)) % 65536 == 0)
    right_b: npt.NDArray[Any] = right_bl.all(axis=1)
    return right_b


def compare_checksums(header: Header, sum_l: Sequence[int], record_id: str) -> tuple[str, ...]:
    """Warnings about the checksums of one record. Raises RecordError bad_checksum where one is wrong.

    Exporters that compute none write 0 for every signal: that is taken for none, unless the samples give 0 too.
    """
    stated_l = stated_checksums(header).tolist()
    sums = [total % 65536 for total in sum_l]
    if set(stated_l) <= {0, NOT_STATED}:
        n_zero = sum(stated == 0 != total for stated, total in zip(stated_l, sums, strict=True))
        return (ALL_ZERO,) if n_zero else ()
    for row, (stated, total) in enumerate(zip(stated_l, sums, strict=True)):
        if stated != NOT_STATED and (total - stated) % 65536 != 0:
            raise RecordError(record_id, "bad_checksum", f"signal {row}: header {stated % 65536}, samples {total}")
    return ()


def stated_checksums(header: Header) -> npt.NDArray[np.int32]:
    """Per signal the checksum that the header states, NOT_STATED where it states none."""
    return np.frombuffer(header.stated, dtype=np.int32)[len(header.lead_names) :]
