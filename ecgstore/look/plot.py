"""A record on ECG paper, true to scale: 25 mm/s and 10 mm/mV unless asked otherwise.

The whole page is one axes whose unit is the millimetre, so a millimetre of the drawing is a millimetre of
the PDF, of the SVG, and of the PNG at its stated resolution. pyplot and its global state are never touched.
"""

from __future__ import annotations

import os
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ecgstore.errors import ConfigError, need, visible
from ecgstore.look.parts import lasts_s
from ecgstore.record import LEADS_12, LeadState, Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ecgstore.storage.store import Store

MM_PER_INCH = 25.4
DPI = 200
#: Formats by suffix, each with what keeps the date of writing out of the file.
UNDATED: dict[str, dict[str, str | None]] = {
    "png": {"Software": None},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}

#: The classic page: three rows of four cells of 2.5 s each, above one strip of 10 s.
CLASSIC: tuple[tuple[str, ...], ...] = (
    ("I", "aVR", "V1", "V4"),
    ("II", "aVL", "V2", "V5"),
    ("III", "aVF", "V3", "V6"),
)
RHYTHM_LEAD = "II"
CELL_S = 2.5
SHOWN_S = 10.0
#: A recording this close to 10 s fills the classic page.
CLASSIC_S = (9.5, 10.5)

#: Codes and characters that are written above or below the traces: more than any record states.
_MOST_CODES, _MOST_CHARACTERS = 40, 2000
MARGIN_MM = 10.0
#: Paper left of the traces for the calibration pulse, which is 5 mm wide, and after their end.
GUTTER_MM, PULSE_MM, END_MM = 15.0, 5.0, 5.0
TITLE_MM, LINE_MM, FOOT_MM = 8.0, 4.6, 10.0
#: A line of text never gets narrower than this, however short the record is.
MIN_WIDTH_MM = 120.0
#: A lead that rests further than this from 0 mV is moved to the middle of its row, and its label says so.
MAX_REST_MV = 1.0

PAPER, MINOR, MAJOR = "#fffaf9", "#fae0de", "#f1b0ad"
INK, TEXT, FAINT, GAP = "#101216", "#24262c", "#6c6e76", "#8d8f98"
#: Ids and codes are no formulae, whatever dollars stand in them.
_PLAIN: dict[str, Any] = {"parse_math": False}
STATE_WORDS = {LeadState.DERIVED: "derived", LeadState.ABSENT: "absent", LeadState.BAD: "bad"}


class Strip(NamedTuple):
    """A piece of one lead and where it stands: ``start_s`` is drawn at ``x_mm``, 0 mV at ``y_mm``."""

    lead: str
    start_s: float
    stop_s: float
    x_mm: float
    y_mm: float


@dataclass(frozen=True, slots=True)
class _Layout:
    width_mm: float
    height_mm: float
    row_mm: float
    strips: tuple[Strip, ...]
    shown_s: tuple[float, float]


@dataclass(frozen=True, slots=True)
class _Scale:
    speed_mm_s: float
    gain_mm_mv: float


@dataclass(frozen=True, slots=True)
class _Seen:
    """``record`` holds what begins at ``begin_s`` in a record of ``whole_s`` seconds."""

    record: Record
    begin_s: float
    whole_s: float

    def signal_mv_t(self, lead: int, start_s: float, stop_s: float) -> npt.NDArray[np.float32]:
        """One lead between two times of the whole record, with the sample at its end."""
        begin, first, last = (round(at_s * self.record.fs_hz) for at_s in (self.begin_s, start_s, stop_s))
        return self.record.signal_mv_lt[lead, first - begin : last + 1 - begin]


def page(
    record: Record,
    path: str | Path,
    *,
    speed_mm_s: float = 25.0,
    gain_mm_mv: float = 10.0,
    title: str | None = None,
    caption: str | None = None,
    start_s: float = 0.0,
    whole_s: float | None = None,
) -> None:
    """Write :func:`figure` to ``path`` (.png, .svg or .pdf), aside first and then by rename.

    The same record gives the same bytes. Raises ConfigError for another suffix, a folder that is not there,
    or whatever :func:`figure` refuses; MissingExtra without matplotlib.
    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in UNDATED:
        raise ConfigError("the suffix names no picture format", where=path, expected=".png, .svg or .pdf")
    if not path.parent.is_dir():
        raise ConfigError("the folder of the picture does not exist", where=path.parent, fix="create it first")
    drawn = figure(
        record,
        speed_mm_s=speed_mm_s,
        gain_mm_mv=gain_mm_mv,
        title=title,
        caption=caption,
        start_s=start_s,
        whole_s=whole_s,
    )
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        # Without a salt the SVG writer names its clip paths at random.
        with need("matplotlib", "ingest").rc_context({"svg.hashsalt": "ecgstore"}):
            drawn.savefig(aside, format=kind, dpi=DPI, metadata=UNDATED[kind])
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def figure(
    record: Record,
    *,
    speed_mm_s: float = 25.0,
    gain_mm_mv: float = 10.0,
    title: str | None = None,
    caption: str | None = None,
    start_s: float = 0.0,
    whole_s: float | None = None,
) -> Figure:
    """Draw ``record`` on paper: a matplotlib figure with one axes in millimetres.

    Twelve leads of about 10 s come as the classic page (3 × 4 cells of 2.5 s above lead II as rhythm strip),
    any other record as one lead per row, up to 10 s from ``start_s``. What was not recorded is a gap, shaded
    grey. ``title`` replaces "Record <id>"; ``caption`` (the filters, say) joins the line at the page's foot.
    With ``whole_s`` ``record`` holds only what begins at ``start_s`` in a record of so many seconds, as
    :func:`read_shown` reads it.

    Raises ConfigError for a scale that isn't positive, an empty record, or a start outside it.
    """
    if not speed_mm_s > 0 or not gain_mm_mv > 0:
        got = f"{speed_mm_s} mm/s and {gain_mm_mv} mm/mV"
        raise ConfigError("an ECG page needs a positive speed and gain", got=got)
    if record.n_samples == 0 or not record.leads:
        raise ConfigError(f"record {record.record_id} has no leads or no samples to draw")
    seen = _Seen(record, start_s, whole_s) if whole_s is not None else _Seen(record, 0.0, record.duration_s)
    _refuse_outside(start_s, seen.whole_s)
    need("matplotlib", "ingest")
    from matplotlib.figure import Figure

    scale = _Scale(speed_mm_s, gain_mm_mv)
    classic = start_s == 0 and set(record.leads) == set(LEADS_12) and CLASSIC_S[0] <= seen.whole_s <= CLASSIC_S[1]
    layout = _classic(record, scale) if classic else _rows(seen, scale, start_s)
    about = _wrapped(_about(record), layout)
    foot = _wrapped(_foot(seen, layout, scale, caption), layout)
    head_mm = TITLE_MM + LINE_MM * (len(about) + len(foot) - 1)
    height_mm = layout.height_mm + head_mm

    drawn = Figure(figsize=(layout.width_mm / MM_PER_INCH, height_mm / MM_PER_INCH), facecolor=PAPER)
    axes = drawn.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_xlim(0, layout.width_mm)
    # Rows are laid out downwards from 0, so that the text above them may be as tall as it needs.
    axes.set_ylim(-layout.height_mm - LINE_MM * (len(foot) - 1), TITLE_MM + LINE_MM * len(about))
    axes.set_axis_off()
    _draw_paper(axes, layout)
    _draw_text(axes, layout, title or f"Record {record.record_id}", about, foot)
    for y_mm in sorted({strip.y_mm for strip in layout.strips}):
        _draw_pulse(axes, y_mm, scale)
    for strip in layout.strips:
        _draw_strip(axes, seen, strip, layout, scale)
    return drawn


def read_shown(store: Store, record_id: str, start_s: float = 0.0) -> tuple[Record, float]:
    """What of a record a page shows that begins at ``start_s``, and how many seconds the whole record has.

    Of a long record no other part is read. Raises ConfigError for a record that is not there or a start outside it.
    """
    found = np.flatnonzero(store.column("record_id") == record_id)
    if not len(found):
        record = store.read(record_id)  # says what is wrong with the id
        return record, record.duration_s
    whole_s = lasts_s(store, int(found[0]))
    _refuse_outside(start_s, whole_s)
    stop_s = start_s + CLASSIC_S[1]
    return store.read(record_id, start_s=start_s, stop_s=stop_s if stop_s < whole_s else None), whole_s


def _refuse_outside(start_s: float, whole_s: float) -> None:
    if not 0 <= start_s < whole_s:
        expected = f"a start from 0 to {whole_s:g} s"
        raise ConfigError("the page starts outside the record", expected=expected, got=f"{start_s:g} s")


def _classic(record: Record, scale: _Scale) -> _Layout:
    row_mm = _multiple_of_5(3.5 * scale.gain_mm_mv)
    left_mm = MARGIN_MM + GUTTER_MM
    strips = [
        Strip(
            lead,
            column * CELL_S,
            (column + 1) * CELL_S,
            left_mm + column * CELL_S * scale.speed_mm_s,
            -(row + 0.5) * row_mm,
        )
        for row, leads in enumerate(CLASSIC)
        for column, lead in enumerate(leads)
    ]
    strips.append(Strip(_rhythm_lead(record), 0.0, SHOWN_S, left_mm, -(len(CLASSIC) + 0.5) * row_mm))
    return _Layout(
        width_mm=left_mm + _multiple_of_5(SHOWN_S * scale.speed_mm_s) + END_MM + MARGIN_MM,
        height_mm=(len(CLASSIC) + 1) * row_mm + FOOT_MM,
        row_mm=row_mm,
        strips=tuple(strips),
        shown_s=(0.0, min(SHOWN_S, record.duration_s)),
    )


def _rhythm_lead(record: Record) -> str:
    """Lead II, or the first lead with a signal where II has none."""
    recorded = [
        lead
        for lead, signal_mv_t in zip(record.leads, record.signal_mv_lt, strict=True)
        if not np.isnan(signal_mv_t).all()
    ]
    return RHYTHM_LEAD if RHYTHM_LEAD in recorded or not recorded else recorded[0]


def _rows(seen: _Seen, scale: _Scale, start_s: float) -> _Layout:
    record, row_mm = seen.record, _multiple_of_5(2.5 * scale.gain_mm_mv)
    stop_s = min(start_s + SHOWN_S, seen.whole_s)
    left_mm = MARGIN_MM + GUTTER_MM
    traces_mm = _multiple_of_5((stop_s - start_s) * scale.speed_mm_s)
    return _Layout(
        width_mm=max(left_mm + traces_mm + END_MM + MARGIN_MM, MIN_WIDTH_MM),
        height_mm=len(record.leads) * row_mm + FOOT_MM,
        row_mm=row_mm,
        strips=tuple(
            Strip(lead, start_s, stop_s, left_mm, -(row + 0.5) * row_mm) for row, lead in enumerate(record.leads)
        ),
        shown_s=(start_s, stop_s),
    )


def _multiple_of_5(length_mm: float) -> float:
    return max(5.0 * float(np.ceil(length_mm / 5.0 - 1e-9)), 5.0)


def _about(record: Record) -> str:
    """What is known of the person and stated of the record, in one line."""
    parts = []
    if record.age_years is not None and np.isfinite(record.age_years):
        parts.append(f"{record.age_years:.0f} years")
    if record.sex is not None:
        parts.append(record.sex)
    if record.fold is not None:
        parts.append(f"fold {record.fold}")
    if record.statements:
        codes = [statement.code for statement in record.statements]
        more = f" and {len(codes) - _MOST_CODES} more" if len(codes) > _MOST_CODES else ""
        parts.append(", ".join(codes[:_MOST_CODES]) + more)
    return "   ·   ".join(parts)


def _foot(seen: _Seen, layout: _Layout, scale: _Scale, caption: str | None) -> str:
    """Scale, sampling rate, what the caller adds, and which part of the record is on the page."""
    start_s, stop_s = layout.shown_s
    parts = [f"{scale.speed_mm_s:g} mm/s", f"{scale.gain_mm_mv:g} mm/mV", f"{seen.record.fs_hz:g} Hz"]
    if caption:
        parts.append(caption)
    if stop_s - start_s < seen.whole_s - 0.5 / seen.record.fs_hz:
        parts.append(f"shown: {start_s:g} to {stop_s:g} s of {seen.whole_s:g} s")
    return "   ·   ".join(parts)


def _wrapped(text: str, layout: _Layout) -> list[str]:
    """Lines that fit on the page; a capital of the small type is about 2 mm wide."""
    text = visible(text[: _MOST_CHARACTERS + 1])
    shown = text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 1]}…"
    return textwrap.wrap(shown, width=int((layout.width_mm - 2 * MARGIN_MM) / 2.0))


def _draw_paper(axes: Axes, layout: _Layout) -> None:
    """Draw lines every millimetre, and heavier ones every five, under the traces and their gutter."""
    from matplotlib.collections import LineCollection

    left_mm, right_mm = MARGIN_MM, layout.width_mm - MARGIN_MM
    bottom_mm = -(layout.height_mm - FOOT_MM)
    across_mm = np.arange(0, round(right_mm - left_mm) + 1)
    down_mm = np.arange(0, round(-bottom_mm) + 1)
    for colour, width_pt, every, z in ((MINOR, 0.35, 1, 0.1), (MAJOR, 0.6, 5, 0.2)):
        upright = [((left_mm + x, bottom_mm), (left_mm + x, 0.0)) for x in across_mm[::every]]
        level = [((left_mm, -y), (right_mm, -y)) for y in down_mm[::every]]
        axes.add_collection(
            LineCollection(upright + level, colors=colour, linewidths=width_pt, zorder=z), autolim=False
        )


def _draw_text(axes: Axes, layout: _Layout, title: str, about: list[str], foot: list[str]) -> None:
    top_mm = LINE_MM * len(about)
    style: dict[str, Any] = {**_PLAIN, "color": TEXT, "va": "baseline"}
    axes.text(MARGIN_MM, top_mm + 2.6, visible(title), fontsize=12, fontweight="bold", **style)
    for line, text in enumerate(about):
        y_mm = top_mm - LINE_MM * (line + 1) + 2.2
        axes.text(MARGIN_MM, y_mm, text, fontsize=8.5, **style)
    for line, text in enumerate(foot):
        y_mm = FOOT_MM - layout.height_mm - 4.8 - LINE_MM * line
        axes.text(MARGIN_MM, y_mm, text, fontsize=8.5, **{**style, "color": FAINT})


def _draw_pulse(axes: Axes, y_mm: float, scale: _Scale) -> None:
    """Draw 1 mV in front of a row: the height of the pulse is the gain."""
    left_mm = MARGIN_MM + 5.0
    x_mm = [left_mm - 2.0, left_mm, left_mm, left_mm + PULSE_MM, left_mm + PULSE_MM, left_mm + PULSE_MM + 2.0]
    height_mm = [0.0, 0.0, scale.gain_mm_mv, scale.gain_mm_mv, 0.0, 0.0]
    axes.plot(x_mm, [y_mm + h for h in height_mm], color=INK, linewidth=0.8, gid="pulse", zorder=2)


def _draw_strip(axes: Axes, seen: _Seen, strip: Strip, layout: _Layout, scale: _Scale) -> None:
    record, row_mm = seen.record, layout.row_mm
    lead = record.leads.index(strip.lead)
    # One sample more than the cell holds, so that neighbouring cells touch.
    signal_mv_t = seen.signal_mv_t(lead, strip.start_s, strip.stop_s)
    x_mm = strip.x_mm + np.arange(signal_mv_t.size) / record.fs_hz * scale.speed_mm_s
    rest_mv = _rest_mv(seen.signal_mv_t(lead, *layout.shown_s))
    y_mm = strip.y_mm + (signal_mv_t - rest_mv) * scale.gain_mm_mv
    axes.plot(
        x_mm, y_mm, color=INK, linewidth=0.8, solid_joinstyle="round", gid=f"trace {visible(strip.lead)}", zorder=3
    )
    for begin_mm, end_mm in _gaps(signal_mv_t, x_mm):
        _draw_gap(axes, begin_mm, end_mm, strip.y_mm, row_mm)
    if strip.x_mm > MARGIN_MM + GUTTER_MM:
        tick_mm = [strip.y_mm - 2.5, strip.y_mm + 2.5]
        axes.plot([strip.x_mm] * 2, tick_mm, color=FAINT, linewidth=0.8, zorder=2)
    _draw_label(axes, strip, row_mm, _label(record, lead, rest_mv))


def _rest_mv(signal_mv_t: npt.NDArray[np.float32]) -> float:
    """The level by which a lead is moved to stay in its row: 0 unless it rests far from 0 mV."""
    recorded_mv = signal_mv_t[np.isfinite(signal_mv_t)]
    if recorded_mv.size == 0:
        return 0.0
    median_mv = float(np.median(recorded_mv))
    return median_mv if abs(median_mv) > MAX_REST_MV else 0.0


def _gaps(signal_mv_t: npt.NDArray[np.float32], x_mm: npt.NDArray[np.float64]) -> list[tuple[float, float]]:
    """Begin and end of every run that was not recorded."""
    missing = np.concatenate([[False], ~np.isfinite(signal_mv_t), [False]])
    edges = np.flatnonzero(missing[1:] != missing[:-1])
    return [
        (float(x_mm[begin]), float(x_mm[min(end, x_mm.size - 1)]))
        for begin, end in zip(edges[::2], edges[1::2], strict=True)
    ]


def _draw_gap(axes: Axes, begin_mm: float, end_mm: float, y_mm: float, row_mm: float) -> None:
    from matplotlib.patches import Rectangle

    height_mm = row_mm * 0.7
    axes.add_patch(
        Rectangle(
            (begin_mm, y_mm - height_mm / 2),
            end_mm - begin_mm,
            height_mm,
            facecolor=GAP,
            alpha=0.22,
            linewidth=0,
            gid="gap",
            zorder=1,
        )
    )


def _label(record: Record, lead: int, rest_mv: float) -> str:
    state = record.lead_states[lead] if record.lead_states else LeadState.MEASURED
    remarks = [STATE_WORDS[state]] if state in STATE_WORDS else []
    if record.leads[lead] in record.uncalibrated:
        remarks.append("not calibrated")
    if rest_mv:
        remarks.append(f"rests at {rest_mv:+.2f} mV".replace("-", "−"))
    return record.leads[lead] + (f"  ({', '.join(remarks)})" if remarks else "")


def _draw_label(axes: Axes, strip: Strip, row_mm: float, label: str) -> None:
    from matplotlib.patheffects import withStroke

    # A halo lifts the name off the grid; the trace is drawn above both, so that no wave is hidden.
    axes.text(
        strip.x_mm + 1.5,
        strip.y_mm + 0.5 * row_mm - 2.0,
        visible(label),
        **_PLAIN,
        color=TEXT,
        fontsize=9,
        fontweight="bold",
        va="top",
        path_effects=[withStroke(linewidth=2.5, foreground=PAPER)],
        zorder=2.5,
    )
