"""A record on ECG paper, true to scale: 25 mm/s and 10 mm/mV unless asked otherwise.

The whole page is one axes whose unit is the millimetre, so a millimetre of the drawing is a millimetre of
the PDF, of the SVG, and of the PNG at its stated resolution. pyplot and its global state are never touched.
"""

from __future__ import annotations

import io
import os
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ecgstore.errors import ConfigError, nearest, need, visible
from ecgstore.look.facts import st_warning
from ecgstore.look.layouts import (
    CLASSIC_S,
    FOOT_MM,
    GUTTER_MM,
    MARGIN_MM,
    MOST_S,
    Layout,
    Scale,
    Seen,
    Strip,
    layout_of,
)
from ecgstore.look.parts import lasts_s
from ecgstore.record import LeadState, Record, Statement
from ecgstore.storage import asked, disk
from ecgstore.storage.outside import refuse_within_store
from ecgstore.vocabularies.titles import title_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ecgstore.storage.store import Store

MM_PER_INCH = 25.4
DPI = 200
#: Of pictures in a page: 1,480 pixels of width for twelve leads, and as many shades as paper and ink need.
_PNG_DPI, _PNG_COLOURS = 130, 32
#: Formats by suffix, each with what keeps the date of writing out of the file.
UNDATED: dict[str, dict[str, str | None]] = {
    "png": {"Software": None},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}

#: Codes and characters that are written above or below the traces: more than any record states.
_MOST_CODES, _MOST_CHARACTERS = 40, 2000
TITLE_MM, LINE_MM, PULSE_MM = 8.0, 4.6, 5.0

PAPER, MINOR, MAJOR = "#fffaf9", "#fae0de", "#f1b0ad"
INK, TEXT, FAINT, GAP = "#101216", "#24262c", "#6c6e76", "#8d8f98"
#: Ids and codes are no formulae, whatever dollars stand in them.
_PLAIN: dict[str, Any] = {"parse_math": False}
STATE_WORDS = {LeadState.DERIVED: "derived", LeadState.ABSENT: "absent", LeadState.BAD: "bad"}


def page(record: Record, path: str | Path, **how: Any) -> None:
    """Write :func:`plot_record`, which takes ``how``, to ``path`` (.png, .svg or .pdf), aside first and then by rename.

    The same record gives the same bytes. Raises ConfigError for another suffix, a folder that is not there or within a
    store, or whatever :func:`plot_record` refuses; StoreError where the disk is full; MissingExtra without matplotlib.
    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in UNDATED:
        raise ConfigError("the suffix names no picture format", where=path, expected=".png, .svg or .pdf")
    if not path.parent.is_dir():
        raise ConfigError("the folder of the picture does not exist", where=path.parent, fix="create it first")
    refuse_within_store(path)
    drawn = plot_record(record, **how)
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        # Without a salt the SVG writer names its clip paths at random.
        with need("matplotlib", "ingest").rc_context({"svg.hashsalt": "ecgstore"}), disk.saying_full(path):
            drawn.savefig(aside, format=kind, dpi=DPI, metadata=UNDATED[kind])
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def record_png(store: Store, record_id: str, *, start_s: float = 0.0, seconds: float | None = None) -> bytes:
    """The record ``record_id`` of ``store`` as an ECG page, to stand in another page: a PNG of some 50 kB.

    Of a long record ``seconds`` (10) from ``start_s`` on. At the foot stands what was done to the signals, and whether
    that leaves a reading of ST. Raises what :func:`plot_record` and ``Store.read`` raise.
    """
    need("matplotlib", "ingest")
    from PIL import Image

    record, whole_s = read_shown(store, record_id, start_s, seconds)
    filters = ", ".join(str(one["name"]) for one in store.recipe.get("filters", [])) or "no filter"
    about = about_page(store, record_id, f"as stored: {filters}")
    drawn = io.BytesIO()
    plot_record(record, start_s=start_s, seconds=seconds, whole_s=whole_s, **about).savefig(
        drawn, format="png", dpi=_PNG_DPI, metadata=UNDATED["png"]
    )
    # Paper and ink are few colours: a third of the bytes.
    small = io.BytesIO()
    with Image.open(drawn) as picture:
        flat = picture.convert("RGB").quantize(_PNG_COLOURS, dither=Image.Dither.NONE)
    flat.save(small, format="png")
    return small.getvalue()


def plot_record(
    record: Record,
    *,
    layout: str | None = None,
    leads: Sequence[str] | None = None,
    seconds: float | None = None,
    speed_mm_s: float = 25.0,
    gain_mm_mv: float | None = None,
    title: str | None = None,
    caption: str | None = None,
    heart_rate_bpm: float | None = None,
    start_s: float = 0.0,
    whole_s: float | None = None,
) -> Figure:
    """Draw ``record`` on paper: a matplotlib figure with one axes in millimetres.

    Twelve leads of about 10 s come as the classic page (``3x4+1``: 3 × 4 cells of 2.5 s above lead II as rhythm
    strip), any other record as one lead per row, up to 10 s from ``start_s``. ``layout`` (``3x4+1``, ``3x4``, ``6x2``,
    ``12x1``, ``rows``), ``leads`` and ``seconds`` (60 at most) choose otherwise, ``speed_mm_s`` the paper's speed.
    Without ``gain_mm_mv`` it is 10 mm/mV; a row grows for a tall trace, and where that is not enough the page is drawn
    at 5 mm/mV, and its foot says so. What leaves its row still is cut at its edge, and the label says that.

    What was not recorded is a gap, shaded grey. ``title`` replaces "Record <id>"; ``heart_rate_bpm`` and ``caption``
    (the filters, say) join the line at the page's foot. With ``whole_s`` ``record`` holds only what begins at
    ``start_s`` in a record of so many seconds, as :func:`read_shown` reads it.

    Raises ConfigError for a scale that isn't positive, an empty record, a layout or a lead that is not there, or a
    start outside the record; MissingExtra without matplotlib.
    """
    if not speed_mm_s > 0 or not (gain_mm_mv is None or gain_mm_mv > 0):
        got = f"{speed_mm_s} mm/s and {gain_mm_mv} mm/mV"
        raise ConfigError("an ECG page needs a positive speed and gain", got=got)
    if seconds is not None and not 0 < seconds <= MOST_S:
        raise ConfigError("a page shows another time", expected=f"up to {MOST_S:g} s", got=f"{seconds:g} s")
    if leads is not None:
        record = _only(record, asked.texts(leads, "leads", f"record {record.record_id}"))
    if record.n_samples == 0 or not record.leads:
        raise ConfigError(f"record {record.record_id} has no leads or no samples to draw")
    seen = Seen(record, start_s, whole_s) if whole_s is not None else Seen(record, 0.0, record.duration_s)
    _refuse_outside(start_s, seen.whole_s)
    need("matplotlib", "ingest")
    from matplotlib.figure import Figure

    placed = layout_of(seen, layout, start_s=start_s, seconds=seconds, speed_mm_s=speed_mm_s, gain_mm_mv=gain_mm_mv)
    about = _wrapped(_about(record, heart_rate_bpm), placed)
    foot = _wrapped(_foot(seen, placed, caption), placed)
    head_mm = TITLE_MM + LINE_MM * (len(about) + len(foot) - 1)
    height_mm = placed.height_mm + head_mm

    drawn = Figure(figsize=(placed.width_mm / MM_PER_INCH, height_mm / MM_PER_INCH), facecolor=PAPER)
    axes = drawn.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_xlim(0, placed.width_mm)
    # Rows are laid out downwards from 0, so that the text above them may be as tall as it needs.
    axes.set_ylim(-placed.height_mm - LINE_MM * (len(foot) - 1), TITLE_MM + LINE_MM * len(about))
    axes.set_axis_off()
    _draw_paper(axes, placed)
    _draw_text(axes, placed, title or f"Record {record.record_id}", about, foot)
    for y_mm in sorted({strip.y_mm for strip in placed.strips}):
        _draw_pulse(axes, y_mm, placed.scale)
    for strip in placed.strips:
        _draw_strip(axes, seen, strip, placed)
    return drawn


def _only(record: Record, leads: Sequence[str]) -> Record:
    """The record with some of its leads, in the order in which they are asked for."""
    for lead in leads:
        if lead not in record.leads:
            near = nearest(lead, record.leads)
            fix = f"did you mean {near}?" if near else f"there are {', '.join(record.leads)}"
            raise ConfigError(f"record {record.record_id} has no lead {lead!r}", fix=fix)
    at = [record.leads.index(lead) for lead in leads]
    states = tuple(record.lead_states[i] for i in at) if record.lead_states else ()
    return replace(record, leads=tuple(leads), signal_mv_lt=record.signal_mv_lt[at], lead_states=states)


def read_shown(
    store: Store, record_id: str, start_s: float = 0.0, seconds: float | None = None
) -> tuple[Record, float]:
    """What of a record a page shows that begins at ``start_s``, and how many seconds the whole record has.

    Of a long record no other part is read. Raises ConfigError for a record that is not there or a start outside it.
    """
    found = np.flatnonzero(store.column("record_id") == record_id)
    if not len(found):
        record = store.read(record_id)  # says what is wrong with the id
        return record, record.duration_s
    whole_s = lasts_s(store, int(found[0]))
    _refuse_outside(start_s, whole_s)
    stop_s = start_s + (CLASSIC_S[1] if seconds is None else min(seconds, MOST_S) + 0.5)
    return store.read(record_id, start_s=start_s, stop_s=stop_s if stop_s < whole_s else None), whole_s


def about_page(store: Store, record_id: str, filters: str) -> dict[str, Any]:
    """What :func:`plot_record` tells of a record besides itself: its rate, the filters, a warning of them."""
    rate: dict[str, Any] = {}
    if "heart_rate_bpm" in store.records.column_names:
        (row,) = np.flatnonzero(store.column("record_id") == record_id)
        rate = {"heart_rate_bpm": float(store.column("heart_rate_bpm")[row])}
    parts = (st_warning(store.recipe["filters"]), filters)
    return {**rate, "caption": "   ·   ".join(part for part in parts if part)}


def _refuse_outside(start_s: float, whole_s: float) -> None:
    if not 0 <= start_s < whole_s:
        expected = f"a start from 0 to {whole_s:g} s"
        raise ConfigError("the page starts outside the record", expected=expected, got=f"{start_s:g} s")


def _about(record: Record, heart_rate_bpm: float | None) -> str:
    """What is known of the person and stated of the record, in one line."""
    parts = []
    if heart_rate_bpm is not None and np.isfinite(heart_rate_bpm):
        parts.append(f"{heart_rate_bpm:.0f} beats/min")
    if record.age_years is not None and np.isfinite(record.age_years):
        parts.append(f"{record.age_years:.0f} years")
    if record.sex is not None:
        parts.append(record.sex)
    if record.fold is not None:
        parts.append(f"fold {record.fold}")
    if record.statements:
        codes = [_in_words(statement) for statement in record.statements[: _MOST_CODES + 1]]
        n_left = len(record.statements) - _MOST_CODES
        more = f" and {n_left} more" if n_left > 0 else ""
        parts.append(", ".join(codes[:_MOST_CODES]) + more)
    return "   ·   ".join(parts)


def _in_words(statement: Statement) -> str:
    """A statement's title with its code behind it, or the code alone."""
    title = title_of(statement.code, statement.system)
    return f"{title} ({statement.code})" if title else statement.code


def _foot(seen: Seen, layout: Layout, caption: str | None) -> str:
    """Scale, sampling rate, what the caller adds, and which part of the record is on the page."""
    start_s, stop_s = layout.shown_s
    gain = f"{layout.scale.gain_mm_mv:g} mm/mV" + (" (half of the usual, for tall waves)" if layout.is_small else "")
    parts = [f"{layout.scale.speed_mm_s:g} mm/s", gain, f"{seen.record.fs_hz:g} Hz"]
    if caption:
        parts.append(caption)
    if stop_s - start_s < seen.whole_s - 0.5 / seen.record.fs_hz:
        parts.append(f"shown: {start_s:g} to {stop_s:g} s of {seen.whole_s:g} s")
    return "   ·   ".join(parts)


def _wrapped(text: str, layout: Layout) -> list[str]:
    """Lines that fit on the page; a capital of the small type is about 2 mm wide."""
    text = visible(text[: _MOST_CHARACTERS + 1])
    shown = text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 1]}…"
    return textwrap.wrap(shown, width=int((layout.width_mm - 2 * MARGIN_MM) / 2.0))


def _draw_paper(axes: Axes, layout: Layout) -> None:
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


def _draw_text(axes: Axes, layout: Layout, title: str, about: list[str], foot: list[str]) -> None:
    top_mm = LINE_MM * len(about)
    style: dict[str, Any] = {**_PLAIN, "color": TEXT, "va": "baseline"}
    axes.text(MARGIN_MM, top_mm + 2.6, visible(title), fontsize=12, fontweight="bold", **style)
    for line, text in enumerate(about):
        y_mm = top_mm - LINE_MM * (line + 1) + 2.2
        axes.text(MARGIN_MM, y_mm, text, fontsize=8.5, **style)
    for line, text in enumerate(foot):
        y_mm = FOOT_MM - layout.height_mm - 4.8 - LINE_MM * line
        axes.text(MARGIN_MM, y_mm, text, fontsize=8.5, **{**style, "color": FAINT})


def _draw_pulse(axes: Axes, y_mm: float, scale: Scale) -> None:
    """Draw 1 mV in front of a row: the height of the pulse is the gain."""
    left_mm = MARGIN_MM + 5.0
    x_mm = [left_mm - 2.0, left_mm, left_mm, left_mm + PULSE_MM, left_mm + PULSE_MM, left_mm + PULSE_MM + 2.0]
    height_mm = [0.0, 0.0, scale.gain_mm_mv, scale.gain_mm_mv, 0.0, 0.0]
    axes.plot(x_mm, [y_mm + h for h in height_mm], color=INK, linewidth=0.8, gid="pulse", zorder=2)


def _draw_strip(axes: Axes, seen: Seen, strip: Strip, layout: Layout) -> None:
    record, scale = seen.record, layout.scale
    lead = record.leads.index(strip.lead)
    # One sample more than the cell holds, so that neighbouring cells touch.
    signal_mv_t = seen.signal_mv_t(lead, strip.start_s, strip.stop_s)
    x_mm = strip.x_mm + np.arange(signal_mv_t.size) / record.fs_hz * scale.speed_mm_s
    rest_mv = seen.rest_mv(lead, layout.shown_s)
    y_mm = strip.y_mm + (signal_mv_t - rest_mv) * scale.gain_mm_mv
    if strip.cut:
        y_mm = np.clip(y_mm, strip.y_mm - strip.below_mm, strip.y_mm + strip.above_mm)
    axes.plot(
        x_mm, y_mm, color=INK, linewidth=0.8, solid_joinstyle="round", gid=f"trace {visible(strip.lead)}", zorder=3
    )
    for begin_mm, end_mm in _gaps(signal_mv_t, x_mm):
        _draw_gap(axes, begin_mm, end_mm, strip)
    if strip.x_mm > MARGIN_MM + GUTTER_MM:
        tick_mm = [strip.y_mm - 2.5, strip.y_mm + 2.5]
        axes.plot([strip.x_mm] * 2, tick_mm, color=FAINT, linewidth=0.8, zorder=2)
    _draw_label(axes, strip, _label(record, lead, rest_mv, strip.cut))


def _gaps(signal_mv_t: npt.NDArray[np.float32], x_mm: npt.NDArray[np.float64]) -> list[tuple[float, float]]:
    """Begin and end of every run that was not recorded."""
    missing = np.concatenate([[False], ~np.isfinite(signal_mv_t), [False]])
    edges = np.flatnonzero(missing[1:] != missing[:-1])
    return [
        (float(x_mm[begin]), float(x_mm[min(end, x_mm.size - 1)]))
        for begin, end in zip(edges[::2], edges[1::2], strict=True)
    ]


def _draw_gap(axes: Axes, begin_mm: float, end_mm: float, strip: Strip) -> None:
    from matplotlib.patches import Rectangle

    height_mm = 1.4 * min(strip.above_mm, strip.below_mm)
    axes.add_patch(
        Rectangle(
            (begin_mm, strip.y_mm - height_mm / 2),
            end_mm - begin_mm,
            height_mm,
            facecolor=GAP,
            alpha=0.22,
            linewidth=0,
            gid="gap",
            zorder=1,
        )
    )


def _label(record: Record, lead: int, rest_mv: float, cut: bool = False) -> str:
    state = record.lead_states[lead] if record.lead_states else LeadState.MEASURED
    remarks = [STATE_WORDS[state]] if state in STATE_WORDS else []
    if record.leads[lead] in record.uncalibrated:
        remarks.append("not calibrated")
    if rest_mv:
        remarks.append(f"rests at {rest_mv:+.2f} mV".replace("-", "−"))
    if cut:
        remarks.append("cut: taller than its row")
    return record.leads[lead] + (f"  ({', '.join(remarks)})" if remarks else "")


def _draw_label(axes: Axes, strip: Strip, label: str) -> None:
    from matplotlib.patheffects import withStroke

    # A halo lifts the name off the grid; the trace is drawn above both, so that no wave is hidden.
    axes.text(
        strip.x_mm + 1.5,
        strip.y_mm + strip.above_mm - 2.0,
        visible(label),
        **_PLAIN,
        color=TEXT,
        fontsize=9,
        fontweight="bold",
        va="top",
        path_effects=[withStroke(linewidth=2.5, foreground=PAPER)],
        zorder=2.5,
    )
