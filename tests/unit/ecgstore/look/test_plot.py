"""The ECG page: true to scale, true to the data, and honest about what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest

from ecgstore.errors import ConfigError
from ecgstore.look.facts import st_warning
from ecgstore.look.layouts import Seen, layout_of
from ecgstore.look.plot import page, plot_record
from ecgstore.record import LEADS_12, LeadState, Record, Statement

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

FS_HZ = 250.0
CELL_S = 2.5


def record(
    leads: tuple[str, ...] = LEADS_12,
    seconds: float = 10.0,
    *,
    states: tuple[LeadState, ...] = (),
    seed: int = 0,
) -> Record:
    n_samples = round(seconds * FS_HZ)
    noise = np.random.default_rng(seed).normal(0, 0.2, (len(leads), n_samples))
    return Record("r1", leads, FS_HZ, noise.astype(np.float32), lead_states=states)


def lines(drawn: Figure, gid: str) -> list[Line2D]:
    return [line for line in drawn.axes[0].get_lines() if line.get_gid() == gid]


def texts(drawn: Figure) -> list[str]:
    return [text.get_text() for text in drawn.axes[0].texts]


def xy_mm(line: Line2D) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    return np.asarray(line.get_xdata()), np.asarray(line.get_ydata())


def test_the_axes_is_in_millimetres_of_the_page() -> None:
    drawn = plot_record(record())
    axes = drawn.axes[0]
    width_mm, height_mm = drawn.get_size_inches() * 25.4
    assert axes.get_position().bounds == (0, 0, 1, 1)
    assert np.ptp(axes.get_xlim()) == pytest.approx(width_mm)
    assert np.ptp(axes.get_ylim()) == pytest.approx(height_mm)
    assert width_mm < 297
    assert height_mm < 210


@pytest.mark.parametrize(("speed", "gain"), [(25.0, 10.0), (50.0, 5.0), (12.5, 20.0)])
@pytest.mark.parametrize("seconds", [10.0, 4.0])
def test_a_second_and_a_millivolt_have_the_stated_length(speed: float, gain: float, seconds: float) -> None:
    shown = record(("II", "V2") if seconds < 10 else LEADS_12, seconds)
    drawn = plot_record(shown, speed_mm_s=speed, gain_mm_mv=gain)
    x_mm, y_mm = xy_mm(lines(drawn, "trace II")[-1])
    assert np.diff(x_mm) == pytest.approx(speed / FS_HZ)
    assert x_mm[round(FS_HZ)] - x_mm[0] == pytest.approx(speed)
    signal_mv = shown.signal_mv_lt[shown.leads.index("II")]
    assert np.diff(y_mm) == pytest.approx(np.diff(signal_mv[: y_mm.size].astype(np.float64)) * gain, abs=1e-4)
    pulse_mm = xy_mm(lines(drawn, "pulse")[0])[1]
    assert np.ptp(pulse_mm) == pytest.approx(gain)
    assert any(f"{speed:g} mm/s   ·   {gain:g} mm/mV" in text for text in texts(drawn))


def test_the_grid_is_every_millimetre_and_every_fifth_is_heavier() -> None:
    minor, major = plot_record(record()).axes[0].collections
    for grid, step_mm in ((minor, 1.0), (major, 5.0)):
        segments = np.array(grid.get_segments())  # type: ignore[attr-defined]
        upright = segments[segments[:, 0, 0] == segments[:, 1, 0]]
        level = segments[segments[:, 0, 1] == segments[:, 1, 1]]
        assert np.diff(upright[:, 0, 0]) == pytest.approx(step_mm)
        assert np.abs(np.diff(level[:, 0, 1])) == pytest.approx(step_mm)
    assert major.get_linewidth()[0] > minor.get_linewidth()[0]  # type: ignore[index]


def test_the_classic_page_draws_each_lead_in_its_quarter_and_ii_below() -> None:
    shown = record()
    drawn = plot_record(shown)
    columns = {lead: column for column, group in enumerate(np.split(np.array(LEADS_12), 4)) for lead in group.tolist()}
    for number, lead in enumerate(LEADS_12):
        x_mm, y_mm = xy_mm(lines(drawn, f"trace {lead}")[0])
        first = round(columns[lead] * CELL_S * FS_HZ)
        expected = shown.signal_mv_lt[number, first : first + x_mm.size]
        assert x_mm.size >= CELL_S * FS_HZ
        middle_mm = y_mm[0] - 10 * expected[0]
        np.testing.assert_allclose((y_mm - middle_mm) / 10, expected, atol=1e-5)
    strip = lines(drawn, "trace II")[1]
    assert xy_mm(strip)[0].size == shown.n_samples
    assert len(lines(drawn, "pulse")) == 4


def test_cells_of_a_column_share_their_time_and_the_strip_runs_below_them() -> None:
    drawn = plot_record(record())
    starts = {lead: xy_mm(lines(drawn, f"trace {lead}")[0])[0][0] for lead in LEADS_12}
    assert starts["V1"] == starts["V2"] == starts["V3"]
    assert starts["aVR"] - starts["I"] == pytest.approx(62.5)
    assert xy_mm(lines(drawn, "trace II")[1])[0][0] == starts["I"]


def test_leads_are_found_by_name_not_by_place() -> None:
    shown = record()
    mixed = tuple(reversed(LEADS_12))
    turned = Record("r1", mixed, FS_HZ, shown.signal_mv_lt[::-1].copy())
    for lead in LEADS_12:
        one, two = (xy_mm(lines(plot_record(r), f"trace {lead}")[0])[1] for r in (shown, turned))
        np.testing.assert_array_equal(one, two)


def test_other_records_come_as_rows_of_ten_seconds() -> None:
    shown = record(("MLII", "V5"), 1800.0)
    drawn = plot_record(shown, start_s=600.0)
    x_mm, y_mm = xy_mm(lines(drawn, "trace MLII")[0])
    assert np.ptp(x_mm) == pytest.approx(250)
    expected = shown.signal_mv_lt[0, 150_000 : 150_000 + x_mm.size]
    np.testing.assert_allclose(np.diff(y_mm), np.diff(expected) * 10, atol=1e-4)
    assert any("shown: 600 to 610 s of 1800 s" in text for text in texts(drawn))
    assert len(lines(drawn, "pulse")) == 2
    assert not any("shown" in text for text in texts(plot_record(record())))


@pytest.mark.parametrize("seconds", [10.0, 6.0])
def test_gaps_are_gaps_and_shaded(seconds: float) -> None:
    shown = record(seconds=seconds)
    shown.signal_mv_lt[0, 100:200] = np.nan
    drawn = plot_record(shown)
    x_mm, y_mm = xy_mm(lines(drawn, "trace I")[0])
    assert np.isnan(y_mm[100:200]).all()
    assert np.isfinite(y_mm[:100]).all()
    (patch,) = [patch for patch in drawn.axes[0].patches if patch.get_gid() == "gap"]
    box = patch.get_path().get_extents(patch.get_patch_transform())
    assert (box.x0, box.x1) == pytest.approx((x_mm[100], x_mm[200]))


def test_what_was_not_measured_says_so() -> None:
    states = [LeadState.MEASURED] * 12
    states[1], states[2], states[11] = LeadState.ABSENT, LeadState.DERIVED, LeadState.BAD
    shown = record(states=tuple(states))
    shown.signal_mv_lt[1] = np.nan
    drawn = plot_record(shown)
    labels = texts(drawn)
    assert {"II  (absent)", "III  (derived)", "V6  (bad)", "V1"} <= set(labels)
    # Without lead II the first lead with a signal is the rhythm strip.
    assert len(lines(drawn, "trace I")) == 2
    everything = Record("r1", ("II",), FS_HZ, np.full((1, 500), np.nan, np.float32))
    assert len(plot_record(everything).axes[0].patches) == 1


def test_a_lead_far_from_zero_is_moved_and_says_by_how_much() -> None:
    shown = record(("II",), 5.0)
    level = Record("r1", ("II",), FS_HZ, shown.signal_mv_lt - np.float32(3.5))
    drawn = plot_record(level)
    middle_mm = xy_mm(lines(drawn, "pulse")[0])[1].min()
    assert abs(np.median(xy_mm(lines(drawn, "trace II")[0])[1]) - middle_mm) < 0.5
    assert any("rests at −3.5" in text for text in texts(drawn))


def test_the_page_tells_what_is_known() -> None:
    known = Record(
        "00017",
        LEADS_12,
        FS_HZ,
        record().signal_mv_lt,
        age_years=61.0,
        sex="female",
        fold=6,
        statements=(Statement("CLBBB", "scp_ecg", 100.0), Statement("SR", "scp_ecg")),
    )
    words = " ".join(texts(plot_record(known, caption="band-pass 0.5–40 Hz")))
    for part in (
        "Record 00017",
        "61 years",
        "female",
        "complete left bundle branch block (CLBBB), sinus rhythm (SR)",
        "250 Hz",
        "band-pass 0.5–40 Hz",
        "10 mm/mV",
    ):
        assert part in words
    assert "Before filtering" in texts(plot_record(known, title="Before filtering"))
    unknown = " ".join(texts(plot_record(record())))
    assert "years" not in unknown
    assert "nan" not in unknown.lower()


def test_a_record_that_states_too_much_says_how_much_more() -> None:
    many = tuple(Statement(f"CODE{number}", "scp_ecg") for number in range(200_000))
    words = " ".join(texts(plot_record(Record("r", ("I",), FS_HZ, record(("I",)).signal_mv_lt, statements=many))))
    assert "CODE39 and 199960 more" in words
    long = " ".join(texts(plot_record(record(("I",)), caption="x" * 100_000)))
    assert 1000 < len(long) < 4000
    assert long.count("…") == 1


@pytest.mark.parametrize("shape", ["classic", "rows", "short"])
def test_no_text_leaves_the_page_or_covers_another(shape: str) -> None:
    leads, seconds = {"classic": (LEADS_12, 10.0), "rows": (("I", "V1"), 30.0), "short": (("I",), 1.0)}[shape]
    codes = tuple(Statement(f"CODE{number}", "scp_ecg") for number in range(45))
    crowded = Record("r" * 20, leads, FS_HZ, record(leads, seconds).signal_mv_lt, sex="male", statements=codes)
    drawn = plot_record(crowded, caption="band-pass 0.5–40 Hz, notch 50 Hz, median baseline 0.2 s and 0.6 s, " * 2)
    drawn.draw_without_rendering()
    boxes = [text.get_window_extent() for text in drawn.axes[0].texts]
    for number, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= drawn.bbox.x1
        assert box.y1 <= drawn.bbox.y1
        assert not any(box.overlaps(other) for other in boxes[:number])


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf", ".PNG"])
def test_pages_are_written_whole_and_reproducibly(tmp_path: Path, suffix: str) -> None:
    shown = record()
    page(shown, tmp_path / f"a{suffix}")
    page(shown, tmp_path / f"b{suffix}")
    a, b = (tmp_path / f"{name}{suffix}" for name in "ab")
    assert a.read_bytes() == b.read_bytes()
    assert len(a.read_bytes()) > 10_000
    assert sorted(tmp_path.iterdir()) == [a, b]


def test_a_png_has_the_size_of_the_paper(tmp_path: Path) -> None:
    page(record(), tmp_path / "page.png")
    content = (tmp_path / "page.png").read_bytes()
    width_px = int.from_bytes(content[16:20], "big")
    density = content.index(b"pHYs") + 4
    px_per_m = int.from_bytes(content[density : density + 4], "big")
    width_mm = plot_record(record()).get_size_inches()[0] * 25.4
    assert px_per_m * 0.0254 == pytest.approx(200, abs=0.1)
    assert width_px / px_per_m * 1000 == pytest.approx(width_mm, abs=0.2)


def test_nothing_global_is_left_behind(tmp_path: Path) -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    page(record(), tmp_path / "page.svg")
    assert dict(mpl.rcParams) == before


def test_what_can_not_be_drawn_is_one_clear_error(tmp_path: Path) -> None:
    shown = record()
    with pytest.raises(ConfigError, match=r"\.png, \.svg or \.pdf"):
        page(shown, tmp_path / "page.docx")
    with pytest.raises(ConfigError, match="does not exist"):
        page(shown, tmp_path / "nowhere" / "page.png")
    with pytest.raises(ConfigError, match="positive speed and gain"):
        plot_record(shown, speed_mm_s=0)
    with pytest.raises(ConfigError, match="outside the record"):
        plot_record(shown, start_s=10.0)
    with pytest.raises(ConfigError, match="no leads or no samples"):
        plot_record(Record("r1", ("II",), FS_HZ, np.zeros((1, 0), np.float32)))
    assert list(tmp_path.iterdir()) == []


def tall(height_mv: float) -> Record:
    shown = record()
    shown.signal_mv_lt[LEADS_12.index("V3"), 1500:1510] = height_mv
    return shown


@pytest.mark.parametrize("layout", ["3x4+1", "3x4", "6x2", "12x1", "rows"])
@pytest.mark.parametrize("height_mv", [0.1, 2.2, -3.0, 6.0, 40.0])
def test_no_trace_leaves_its_row(layout: str, height_mv: float) -> None:
    shown = tall(height_mv)
    drawn = plot_record(shown, layout=layout, start_s=0.0)
    seen = Seen(shown, 0.0, shown.duration_s)
    placed = layout_of(seen, layout, start_s=0.0, seconds=None, speed_mm_s=25.0, gain_mm_mv=None)
    for strip in placed.strips:
        for line in lines(drawn, f"trace {strip.lead}"):
            x_mm, y_mm = xy_mm(line)
            if (
                x_mm[0] == pytest.approx(strip.x_mm)
                and strip.y_mm - strip.below_mm <= y_mm[0] <= strip.y_mm + strip.above_mm
            ):
                assert np.nanmax(y_mm) <= strip.y_mm + strip.above_mm + 1e-6
                assert np.nanmin(y_mm) >= strip.y_mm - strip.below_mm - 1e-6
    said = " ".join(texts(drawn))
    assert ("half of the usual" in said) == placed.is_small == (placed.scale.gain_mm_mv == 5)
    assert ("taller than its row" in said) == any(strip.cut for strip in placed.strips)
    assert (height_mv < 40.0) or ("taller than its row" in said)
    if height_mv == 0.1:
        assert not placed.is_small


def test_a_gain_that_is_asked_for_stays_and_what_is_taller_is_cut() -> None:
    said = texts(plot_record(tall(6.0), gain_mm_mv=10))
    assert "V3  (cut: taller than its row)" in said
    assert any("10 mm/mV" in text for text in said)


def test_a_page_fits_a4_in_landscape() -> None:
    shown = record()
    shown.signal_mv_lt[:, 400] = 3.0
    for layout in ("3x4+1", "3x4", "6x2"):
        width_mm, height_mm = plot_record(shown, layout=layout).get_size_inches() * 25.4
        assert (width_mm <= 297, height_mm <= 210) == (True, True), layout


def test_leads_are_drawn_as_they_are_asked_for() -> None:
    drawn = plot_record(record(), leads=["V1", "II"], start_s=2.0, seconds=4.0)
    names = [line.get_gid() for line in drawn.axes[0].get_lines() if str(line.get_gid()).startswith("trace")]
    assert names == ["trace V1", "trace II"]
    x_mm, _ = xy_mm(lines(drawn, "trace II")[0])
    assert np.ptp(x_mm) == pytest.approx(4.0 * 25)
    assert "shown: 2 to 6 s of 10 s" in " ".join(texts(drawn))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"layout": "9x9"}, "3x4"),
        ({"leads": ["VX"]}, "no lead 'VX'"),
        ({"leads": ["II"], "layout": "6x2"}, "needs the twelve leads"),
        ({"seconds": 61.0}, "60 s"),
        ({"seconds": 0.0}, "60 s"),
        ({"gain_mm_mv": -1.0}, "positive"),
    ],
)
def test_what_a_page_can_not_show_is_said(how: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        plot_record(record(), **how)


@pytest.mark.parametrize(
    ("filters", "words"),
    [
        ([], ""),
        ([{"name": "notch", "freq_hz": 50}], ""),
        ([{"name": "highpass", "freq_hz": 0.05}], ""),
        ([{"name": "highpass", "freq_hz": 0.5}], "filtered 0.5 Hz and above: not for reading ST"),
        (
            [{"name": "notch"}, {"name": "bandpass", "low_hz": 0.5, "high_hz": 40}],
            "filtered 0.5–40 Hz: not for reading ST",
        ),
        ([{"name": "bandpass", "low_hz": 0.05, "high_hz": 150}], ""),
        ([{"name": "median"}], "baseline taken away: not for reading ST"),
    ],
)
def test_filters_that_move_st_are_said(filters: list[dict[str, object]], words: str) -> None:
    assert st_warning(filters).startswith(words)
    assert bool(st_warning(filters)) == bool(words)
