"""From counts to millivolts, and whether counts are what their header says."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
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


def refuse_unusable(header: Header, rows: Iterable[int], record_id: str) -> None:
    """Refuse a record for its signals number ``rows`` if no millivolts can be made from one of them.

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
            unit, gain = part.units[its_row], part.gains[its_row]
            if unit.lower() not in MV_PER_UNIT:
                raise RecordError(record_id, "unknown_unit", f"{header.lead_names[row]}: {unit}")
            if math.isnan(scale_of(part).mv_per_count[its_row]):
                raise RecordError(record_id, "bad_gain", f"{header.lead_names[row]}: {gain:g}")


def voltages(header: Header) -> tuple[bool, ...]:
    """Per signal whether its unit is a voltage; its gain may be unusable all the same."""
    return tuple(unit.lower() in MV_PER_UNIT for unit in header.layout.units)


def gains(header: Header) -> tuple[float, ...]:
    """Per signal the counts per mV that the header states, NaN where no millivolts can be made from it."""
    return scale_of(header.layout).gain_per_mv


def plain_mv(counts_blt: npt.NDArray[Any], layouts: Sequence[SignalLayout]) -> npt.NDArray[np.float32]:
    scales = [scale_of(layout) for layout in layouts]
    mv_per_count_bl1 = np.array([scale.mv_per_count for scale in scales], dtype=np.float32)[:, :, None]
    baseline_bl1 = np.array([scale.baselines for scale in scales], dtype=np.float32)[:, :, None]
    signal_mv_blt: npt.NDArray[np.float32] = np.multiply(counts_blt, mv_per_count_bl1, dtype=np.float32)
    if baseline_bl1.any():
        signal_mv_blt -= baseline_bl1 * mv_per_count_bl1
    return signal_mv_blt


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


def agree(stated_b2l: npt.NDArray[Any], initial_bl: npt.NDArray[Any], sums_bl: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Per record whether first samples and sums are those that its header states, where it states any."""
    initial_right_bl = (stated_b2l[:, 0] == NOT_STATED) | (stated_b2l[:, 0] == initial_bl)
    # Headers write the 16-bit checksum signed or unsigned, so both sides are taken modulo 2**16.
    sum_right_bl = (stated_b2l[:, 1] == NOT_STATED) | ((stated_b2l[:, 1] - sums_bl.astype(np.int64)) % 65536 == 0)
    right_b: npt.NDArray[Any] = (initial_right_bl & sum_right_bl).all(axis=1)
    return right_b


def disagreement(header: Header, initial_l: Sequence[int], sum_l: Sequence[int], record_id: str) -> RecordError | None:
    """What :func:`_agree` found wrong in one record, in words."""
    stated_2l = np.frombuffer(header.stated, dtype=np.int32).reshape(2, -1).tolist()
    for name, stated_initial, stated, initial, total in zip(
        header.lead_names, *stated_2l, initial_l, sum_l, strict=True
    ):
        if stated != NOT_STATED and (total - stated) % 65536 != 0:
            return RecordError(record_id, "bad_checksum", f"{name}: header {stated % 65536}, samples {total % 65536}")
        if stated_initial not in (NOT_STATED, initial):
            return RecordError(record_id, "bad_initial_value", f"{name}: header {stated_initial}, samples {initial}")
    return None
