"""Where each lead of a record stands on a page of ECG paper, in millimetres."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ecgstore.errors import ConfigError
from ecgstore.record import LEADS_12, Record

#: The classic page: three rows of four cells, above one strip of the whole time.
CLASSIC: tuple[tuple[str, ...], ...] = (
    ("I", "aVR", "V1", "V4"),
    ("II", "aVL", "V2", "V5"),
    ("III", "aVF", "V3", "V6"),
)
SIX_BY_TWO: tuple[tuple[str, ...], ...] = tuple(zip(LEADS_12[:6], LEADS_12[6:], strict=True))
#: Layouts by name, each with its rows of leads and whether a rhythm strip runs below; ``rows`` is one lead per row.
GRIDS: dict[str, tuple[tuple[tuple[str, ...], ...], bool]] = {
    "3x4+1": (CLASSIC, True),
    "3x4": (CLASSIC, False),
    "6x2": (SIX_BY_TWO, False),
}
LAYOUTS = (*GRIDS, "12x1", "rows")
RHYTHM_LEAD = "II"
SHOWN_S, MOST_S = 10.0, 60.0
#: A recording this close to 10 s fills the classic page.
CLASSIC_S = (9.5, 10.5)
GAIN_MM_MV, SMALL_GAIN_MM_MV = 10.0, 5.0

MARGIN_MM = 10.0
#: Paper left of the traces for the calibration pulse, which is 5 mm wide, and after their end.
GUTTER_MM, END_MM, FOOT_MM = 15.0, 5.0, 10.0
#: A line of text never gets narrower than this, however short the record is.
MIN_WIDTH_MM = 120.0
#: A lead that rests further than this from 0 mV is moved to the middle of its row, and its label says so.
MAX_REST_MV = 1.0
#: Half a row grows to this many times its height, so that a trace stays in it; what is taller still is cut.
MOST_GROWTH = 2.0
#: What of the 210 mm of A4 landscape is left beside four lines of text.
TALLEST_MM = 185.0
#: A trace ends so far from the edge of its row.
CLEAR_MM = 1.0


class Strip(NamedTuple):
    """A piece of one lead and where it stands: ``start_s`` is drawn at ``x_mm``, 0 mV at ``y_mm``.

    ``above_mm`` and ``below_mm`` reach from there to the edges of its row; ``cut`` where its trace would leave them.
    """

    lead: str
    start_s: float
    stop_s: float
    x_mm: float
    y_mm: float
    above_mm: float
    below_mm: float
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Scale:
    """How long a second is, and how high a millivolt."""

    speed_mm_s: float
    gain_mm_mv: float


@dataclass(frozen=True, slots=True)
class Layout:
    """A page without its text."""

    width_mm: float
    height_mm: float
    strips: tuple[Strip, ...]
    shown_s: tuple[float, float]
    scale: Scale
    is_small: bool = False  # drawn at half of the usual gain, because it is too tall otherwise


@dataclass(frozen=True, slots=True)
class Seen:
    """``record`` holds what begins at ``begin_s`` in a record of ``whole_s`` seconds."""

    record: Record
    begin_s: float
    whole_s: float

    def signal_mv_t(self, lead: int, start_s: float, stop_s: float) -> npt.NDArray[np.float32]:
        """One lead between two times of the whole record, with the sample at its end."""
        begin, first, last = (round(at_s * self.record.fs_hz) for at_s in (self.begin_s, start_s, stop_s))
        return self.record.signal_mv_lt[lead, first - begin : last + 1 - begin]

    def rest_mv(self, lead: int, shown_s: tuple[float, float]) -> float:
        """The level by which a lead is moved to stay in its row: 0 unless it rests far from 0 mV."""
        signal_mv_t = self.signal_mv_t(lead, *shown_s)
        recorded_mv = signal_mv_t[np.isfinite(signal_mv_t)]
        if recorded_mv.size == 0:
            return 0.0
        median_mv = float(np.median(recorded_mv))
        return median_mv if abs(median_mv) > MAX_REST_MV else 0.0


def layout_of(
    seen: Seen,
    name: str | None,
    *,
    start_s: float,
    seconds: float | None,
    speed_mm_s: float,
    gain_mm_mv: float | None,
) -> Layout:
    """Place the leads of a record; without a ``name`` twelve leads of about 10 s come as ``3x4+1``, others as rows.

    Without a ``gain_mm_mv`` it is 10 mm/mV, or 5 where a trace would leave its row or the page A4 otherwise. Raises
    ConfigError for a layout that is not known or whose leads the record lacks.
    """
    if name is not None and name not in LAYOUTS:
        raise ConfigError("no such layout of a page", expected=" or ".join(LAYOUTS), got=repr(name))
    record = seen.record
    if name is None:
        is_classic = set(record.leads) == set(LEADS_12) and start_s == 0 and seconds in (None, SHOWN_S)
        name = "3x4+1" if is_classic and CLASSIC_S[0] <= seen.whole_s <= CLASSIC_S[1] else "rows"
    missing = [lead for lead in LEADS_12 if lead not in record.leads]
    if name != "rows" and missing:
        raise ConfigError(
            f"layout {name} needs the twelve leads", got=f"no {', '.join(missing)}", fix="take the layout rows"
        )
    shown_s = SHOWN_S if seconds is None else seconds
    stop_s = min(start_s + shown_s, seen.whole_s)
    if name in GRIDS:
        rows = _grid(record, name, start_s, shown_s)
    else:
        leads = LEADS_12 if name == "12x1" else record.leads
        rows = [[(lead, start_s, stop_s)] for lead in leads]
    half_mm_mv = 1.75 if name.startswith("3x4") else 1.25
    wide_s = shown_s if name in GRIDS else stop_s - start_s
    usual = _placed(seen, rows, (start_s, stop_s), wide_s, Scale(speed_mm_s, gain_mm_mv or GAIN_MM_MV), half_mm_mv)
    is_too_tall = name in GRIDS and usual.height_mm > TALLEST_MM
    if gain_mm_mv is not None or not (is_too_tall or any(strip.cut for strip in usual.strips)):
        return usual
    small = Scale(speed_mm_s, SMALL_GAIN_MM_MV)
    return replace(_placed(seen, rows, (start_s, stop_s), wide_s, small, 2 * half_mm_mv), is_small=True)


_Piece = tuple[str, float, float]  # lead, first and last second


def _grid(record: Record, name: str, start_s: float, shown_s: float) -> list[list[_Piece]]:
    grid, has_strip = GRIDS[name]
    cell_s = shown_s / len(grid[0])
    rows = [
        [(lead, start_s + column * cell_s, start_s + (column + 1) * cell_s) for column, lead in enumerate(leads)]
        for leads in grid
    ]
    if has_strip:
        rows.append([(_rhythm_lead(record), start_s, start_s + shown_s)])
    return rows


def _rhythm_lead(record: Record) -> str:
    """Lead II, or the first lead with a signal where II has none."""
    recorded = [
        lead
        for lead, signal_mv_t in zip(record.leads, record.signal_mv_lt, strict=True)
        if not np.isnan(signal_mv_t).all()
    ]
    return RHYTHM_LEAD if RHYTHM_LEAD in recorded or not recorded else recorded[0]


def _placed(
    seen: Seen,
    rows: Sequence[Sequence[_Piece]],
    shown_s: tuple[float, float],
    wide_s: float,
    scale: Scale,
    half_mm_mv: float,
) -> Layout:
    """Rows one below the other, each as high as its traces need, within bounds."""
    left_mm = MARGIN_MM + GUTTER_MM
    half_mm = multiple_of_5(2 * half_mm_mv * scale.gain_mm_mv) / 2
    strips: list[Strip] = []
    top_mm = 0.0
    for row in rows:
        reach_mm = [_reach_mm(seen, piece, shown_s, scale) for piece in row]
        above_mm = _half_row_mm(half_mm, max(up for up, _ in reach_mm))
        below_mm = _half_row_mm(half_mm, max(down for _, down in reach_mm))
        for (lead, start_s, stop_s), (up, down) in zip(row, reach_mm, strict=True):
            x_mm = left_mm + (start_s - shown_s[0]) * scale.speed_mm_s
            cut = up > above_mm or down > below_mm
            strips.append(Strip(lead, start_s, stop_s, x_mm, top_mm - above_mm, above_mm, below_mm, cut))
        top_mm -= above_mm + below_mm
    traces_mm = multiple_of_5(wide_s * scale.speed_mm_s)
    width_mm = max(left_mm + traces_mm + END_MM + MARGIN_MM, MIN_WIDTH_MM)
    return Layout(width_mm, FOOT_MM - top_mm, tuple(strips), shown_s, scale)


def _reach_mm(seen: Seen, piece: _Piece, shown_s: tuple[float, float], scale: Scale) -> tuple[float, float]:
    """How far a trace goes above its baseline, and below it."""
    lead = seen.record.leads.index(piece[0])
    signal_mv_t = seen.signal_mv_t(lead, piece[1], piece[2])
    found_mv = signal_mv_t[np.isfinite(signal_mv_t)] - seen.rest_mv(lead, shown_s)
    if not found_mv.size:
        return 0.0, 0.0
    return float(found_mv.max()) * scale.gain_mm_mv, -float(found_mv.min()) * scale.gain_mm_mv


def _half_row_mm(usual_mm: float, reach_mm: float) -> float:
    """From a baseline to the edge of its row: the usual height, or in steps of 5 mm what the trace needs."""
    if reach_mm <= usual_mm - CLEAR_MM:
        return usual_mm
    return min(usual_mm + multiple_of_5(reach_mm + CLEAR_MM - usual_mm), MOST_GROWTH * usual_mm)


def multiple_of_5(length_mm: float) -> float:
    """The next multiple of 5 mm, 5 at least."""
    return max(5.0 * float(np.ceil(length_mm / 5.0 - 1e-9)), 5.0)
