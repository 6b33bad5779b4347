"""`ecgstore view` in a real browser: what is drawn is what is stored, and nothing leaves the machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import CHROMIUM, barriers, chromium
from quickly import quickly
from viewing import Page, served

from ecgstore import LEADS_12, IngestSettings, Record, Statement, open_store, write_records
from ecgstore.look.view.view import open_view

HOSTILE = "<img src=x onerror=alert(1)>"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt install chromium)")


def pulses(record_id: str, leads: tuple[str, ...] = LEADS_12) -> Record:
    """Square pulses of 1 mV at each second, half a second long, in leads of 10 s."""
    time_s = np.arange(5000) / 500
    signal_mv_lt = np.tile((time_s % 1 >= 0.5).astype(np.float32), (len(leads), 1))
    return Record(record_id, leads, 500.0, signal_mv_lt, patient_id="p7", statements=(Statement("NORM", "scp_ecg"),))


@pytest.fixture(scope="module")
def pages(mini_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Page]]:
    folder = tmp_path_factory.mktemp("view")
    made = folder / "made.ecg"
    write_records(
        made,
        [pulses("pulses"), pulses(HOSTILE), pulses("few", ("II", "V1", "V5"))],
        IngestSettings(filters=(), fs_hz=500.0, patient_key="public"),
    )
    with (
        served(open_view(str(mini_store), notes=folder / "a.parquet")) as mini,
        served(open_view(str(made), notes=folder / "b.parquet")) as own,
    ):
        yield {"mini": mini, "made": own}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as made:
        yield made


@pytest.fixture
def tab(browser: Any) -> Iterator[Any]:
    """A tab, which must neither complain nor ask another machine."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    made = context.new_page()
    wrong: list[str] = []
    made.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
    made.on("pageerror", lambda error: wrong.append(str(error)))
    made.on("dialog", lambda dialog: wrong.append(dialog.message))
    made.on("request", lambda sent: None if "//127.0.0.1:" in sent.url else wrong.append(sent.url))
    yield made
    context.close()
    assert wrong == []


def at(page: Page, query: str) -> str:
    return f"http://127.0.0.1:{page.port}/{query}"


def test_a_reader_filters_opens_and_goes_on(pages: dict[str, Page], mini_store: Path, tab: Any) -> None:
    store = open_store(mini_store)
    tab.goto(pages["mini"].address)
    tab.wait_for_selector("#rows tbody tr")
    assert "token" not in tab.url
    tab.goto(at(pages["mini"], "?code=scp_ecg:LVH&sort=-age_years"))
    tab.wait_for_selector("#rows tbody tr")
    n_lvh = int(store.statement_matrix(["LVH"], "scp_ecg").sum())
    assert str(n_lvh) in tab.inner_text("#total")
    tab.keyboard.press("j")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#paper svg.ecg")
    assert re.search(rf"2 of {n_lvh}", tab.inner_text("#place"))
    tab.keyboard.press("j")
    tab.wait_for_selector(f"#place:has-text('3 of {n_lvh}')")
    tab.keyboard.press("Escape")
    tab.wait_for_selector("#list:not([hidden])")
    tab.keyboard.press("?")
    assert "calipers" in tab.inner_text("#help").lower()


def test_what_is_drawn_is_what_is_stored(pages: dict[str, Page], mini_store: Path, tab: Any) -> None:
    store = open_store(mini_store)
    stored = store.read("145")
    tab.goto(pages["mini"].address)
    tab.goto(at(pages["mini"], "?record=145&layout=3x4&speed=25&gain=10"))
    tab.wait_for_selector("#paper svg.ecg path.trace")
    px_per_mm = tab.evaluate("document.querySelector('#paper svg.ecg').getScreenCTM().a")
    drawn = tab.eval_on_selector_all(
        "#paper path.trace",
        "all => all.map(p => [p.dataset.lead, +p.dataset.x, +p.dataset.y, +p.dataset.from, p.getAttribute('d')])",
    )
    assert sorted(lead for lead, *_ in drawn) == sorted(LEADS_12)
    for lead, x0_mm, y0_mm, from_s, path in drawn:
        points = np.array([[float(v) for v in xy.split()] for xy in re.split("[ML]", path)[1:]])
        at_s = from_s + (points[:, 0] - x0_mm) / 25
        sample = np.round(at_s * store.fs_hz).astype(int)
        expected_mv = stored.signal_mv_lt[LEADS_12.index(lead), sample]
        found_mv = (y0_mm - points[:, 1]) / 10
        assert len(points) > 2 * store.fs_hz
        assert np.abs(found_mv - expected_mv).max() * 10 * px_per_mm < 1, lead
        assert np.abs(at_s - sample / store.fs_hz).max() * 25 * px_per_mm < 1, lead


def test_calipers_measure_a_millivolt_and_a_second(pages: dict[str, Page], tab: Any) -> None:
    tab.goto(pages["made"].address)
    tab.goto(at(pages["made"], "?record=pulses&layout=3x4%2B1&speed=25&gain=10"))
    tab.wait_for_selector("#paper svg.ecg path.trace")
    tab.click("#calipers")
    # From the foot of the first pulse of lead I to the top of the second: one second further, one millivolt higher.
    points = tab.eval_on_selector(
        "#paper path.trace[data-lead='I']",
        """p => {
            const to = p.ownerSVGElement.getScreenCTM(), x = +p.dataset.x, y = +p.dataset.y;
            const screen = (a, b) => { const q = new DOMPoint(a, b).matrixTransform(to); return [q.x, q.y]; };
            return [screen(x + 0.5 * 25, y), screen(x + 1.5 * 25, y - 10)];
        }""",
    )
    (x1, y1), (x2, y2) = points
    tab.mouse.move(x1, y1)
    tab.mouse.down()
    tab.mouse.move(x2, y2, steps=4)
    tab.mouse.up()
    said = tab.inner_text("#measured")
    found = re.search(r"(\d+) ms . (\d+) /min . (−?[\d.]+) mV", said)
    assert found, said
    px_per_mm = tab.evaluate("document.querySelector('#paper svg.ecg').getScreenCTM().a")
    assert abs(int(found[1]) - 1000) <= 40 / px_per_mm + 1
    assert abs(float(found[3]) - 1) <= 0.1 / px_per_mm + 0.01
    # Over several leads they measure time alone; those that stand there already aren't touched.
    tab.mouse.move(x1 - 8 * px_per_mm, y1)
    tab.mouse.down()
    tab.mouse.move(x2 + 8 * px_per_mm, y1 + 80 * px_per_mm, steps=4)
    tab.mouse.up()
    assert re.fullmatch(r"\d+ ms . \d+ /min", tab.inner_text("#measured"))


@pytest.mark.slow
def test_a_search_can_be_typed_before_anything_is_counted(pages: dict[str, Page], tab: Any) -> None:
    held: list[Any] = []
    tab.route("**/api/counts*", lambda route: held.append(route))
    tab.goto(pages["made"].address)
    tab.wait_for_selector("#rows tbody tr")
    tab.keyboard.press("/")
    tab.keyboard.type("few")
    tab.wait_for_selector("#total:has-text('1 of 3')")
    for one in held:
        one.continue_()
    tab.wait_for_selector("#find-code")
    assert tab.input_value("#words") == "few"


@pytest.mark.parametrize(("layout", "gain"), quickly([("3x4%2B1", 10), ("12x1", 20)], ("3x4%2B1", 10)))
def test_a_printed_page_is_one_a4_sheet_true_to_scale(pages: dict[str, Page], tab: Any, layout: str, gain: int) -> None:
    tab.goto(pages["made"].address)
    tab.goto(at(pages["made"], f"?record=pulses&layout={layout}&gain={gain}"))
    tab.wait_for_selector("#paper svg.ecg path.trace")
    tab.evaluate(
        """() => addEventListener("beforeprint", () => {
            const drawn = document.querySelector("svg.ecg");
            window.printed = [drawn.viewBox.baseVal.width, drawn.style.getPropertyValue("--width")];
        })"""
    )
    sheet = tab.pdf(prefer_css_page_size=True)
    assert len(re.findall(rb"/Type */Page\b", sheet)) == 1
    (size,) = re.findall(rb"/MediaBox *\[0 0 (\S+) (\S+)\]", sheet)
    assert [round(float(side) / 72 * 25.4) for side in size] == [297, 210]
    # 10 s at 25 mm/s, and the gutters; the unit of the drawing is the printed millimetre.
    assert tab.evaluate("window.printed") == [270, "270mm"]


@pytest.mark.slow
def test_leads_that_are_absent_take_no_room(pages: dict[str, Page], tab: Any) -> None:
    tab.goto(pages["made"].address)
    tab.goto(at(pages["made"], "?record=few"))
    tab.wait_for_selector("#paper svg.ecg path.trace")
    drawn = tab.eval_on_selector_all("#paper path.trace", "all => all.map(p => p.dataset.lead)")
    assert drawn == ["II", "V1", "V5"]
    assert tab.inner_text("#side").count("9 leads absent") == 1


def test_a_hostile_id_is_text(pages: dict[str, Page], tab: Any) -> None:
    tab.goto(pages["made"].address)
    tab.wait_for_selector("#rows tbody tr")
    assert HOSTILE in tab.inner_text("#rows")
    tab.click(f"#rows a:has-text('{HOSTILE}')")
    tab.wait_for_selector("#paper svg.ecg")
    assert HOSTILE in tab.inner_text("#record-id")
    assert tab.query_selector("main img") is None


@pytest.mark.slow
def test_a_note_is_kept(pages: dict[str, Page], tab: Any) -> None:
    tab.goto(pages["made"].address)
    tab.goto(at(pages["made"], "?record=pulses"))
    tab.wait_for_selector("#side button:has-text('noisy')")
    with tab.expect_response(lambda got: "/api/note" in got.url):
        tab.click("#side button:has-text('noisy')")
    assert pages["made"].json("/api/record", id="pulses")["note"]["tags"] == ["noisy"]


@pytest.mark.parametrize(
    ("width", "query", "ready"),
    quickly(
        [
            (width, *page)
            for width in (1400, 390)
            for page in (("", "#rows tbody tr"), ("?record=145", "#paper svg.ecg"))
        ],
        (390, "?record=145", "#paper svg.ecg"),
    ),
)
def test_the_page_is_accessible_and_fits(
    pages: dict[str, Page], browser: Any, query: str, ready: str, width: int
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, bypass_csp=True)
    tab = context.new_page()
    tab.goto(pages["mini"].address)
    tab.goto(at(pages["mini"], query))
    tab.wait_for_selector(ready)
    assert barriers(tab) == []
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    context.close()
