"""Both reports in a real browser: on a phone, on paper, by keyboard, read aloud, and whatever names stand in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import CHROMIUM, barriers, chromium
from quickly import quickly

from ecgstore import open_store, record_png
from ecgstore.look import report as store_report
from ecgtrain.evaluation.curve_results import CurvePoint, CurveResult
from ecgtrain.evaluation.results import Result
from ecgtrain.reporting.contents import About, Report, RunFacts, StoreFacts
from ecgtrain.reporting.page import render
from ecgtrain.reporting.worst import Worst, Wrong
from ecgtrain.scoring.bootstrap import Interval

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt install chromium)")

HOSTILE = "\"><img src=x onerror=alert(1)>'</svg><script>alert(2)</script>$\\frac{1}{0}$"
UNFOLD = "document.querySelectorAll('details').forEach(one => { one.open = true; })"
#: A4 between its margins, in CSS pixels.
PAPER_PX = 695
SPAN = Interval(0.8, 0.7, 0.9)


def report_of(name: str, png: bytes) -> tuple[Report, list[Worst]]:
    """A report with everything that one can have; whatever has a name is called ``name``."""
    classes = [f"{name} {n}" for n in range(5)]
    curve = {"fpr": [0.0, 0.2, 1.0], "tpr": [0.0, 0.7, 1.0]}
    figures = dict.fromkeys(("sensitivity", "specificity", "ppv", "npv", "f1"), SPAN)
    counts = {"n_hits": 1, "n_misses": 1, "n_false_alarms": 1, "n_rightly_silent": 1}
    score = {"n_test": 40, "metrics": {"macro_auroc": SPAN, "accuracy": SPAN, "mae": SPAN}}
    common = {
        "protocol": "linear_probe",
        "store": f"stores/{name}",
        "n_train": 300,
        "n_test": 100,
        "by_site": {name: score, "b": score},
        "by_group": {"sex": {"female": score, "male": score, "": score}},
        "per_class": {one: {"auroc": 0.8, "auprc": 0.5, "n_positive": 30, "title": name} for one in classes},
        "roc": dict.fromkeys(classes, curve),
        "dropped_classes": {name: name},
    }
    several = {
        **common,
        "name": name,
        "task": name,
        "metrics": {"macro_auroc": SPAN, "macro_auprc": SPAN, "f_max": SPAN},
        "decisions": {one: {"threshold": 0.5, "figures": figures, **counts} for one in classes},
        "decisions_by_group": {"sex": {name: {classes[0]: {"threshold": 0.5, "figures": figures, **counts}}}},
        "reliability": {
            one: {"brier": 0.1, "mean_said": [0.1, 0.8], "share_stated": [0.2, 0.7], "n_records": [50, 50]}
            for one in classes
        },
    }
    one_of = {
        **common,
        "name": f"{name} 1",
        "task": f"{name} 1",
        "kind": "exclusive",
        "metrics": {"accuracy": SPAN, "macro_f1": SPAN},
        "confusion": {"classes": classes, "counts": [[20 if i == j else 0 for j in range(5)] for i in range(5)]},
    }
    number = {
        **{key: value for key, value in common.items() if key not in ("per_class", "roc", "dropped_classes")},
        "name": f"{name} 2",
        "task": f"{name} 2",
        "kind": "regression",
        "per_class": {},
        "unit": name,
        "metrics": {"mae": Interval(9.0, 8.0, 10.0), "r2": SPAN},
        "agreement": {"bias": 0.1, "low": -2.0, "high": 2.0, "slope": -0.3, "pairs": [[1.0, 2.0], [3.0, 3.5]]},
    }
    results = tuple(
        Result.model_validate({**content, "pretraining": pretraining, "run": name, **more})
        for content in (several, one_of, number)
        for pretraining, more in ((name, {"difference_to": {"random": {"macro_auroc": SPAN}}}), ("random", {}))
    )
    points = [
        CurvePoint(told=f"{name} {x}", x=x, question=name, pretraining=pretraining, score=SPAN, against=SPAN)
        for pretraining in (name, "random")
        for x in (0.0, 1.0)
    ]
    asked = CurveResult(
        name=name,
        kind="noise_robustness",
        task=name,
        metric="macro_auroc",
        unit=name,
        axis=name,
        reference=name,
        points=tuple(points),
        run=name,
    )
    about = About(
        name=name,
        run=RunFacts(name=name, method=name, backbone=name, device=name, n_records=9),
        store=StoreFacts(path=f"stores/{name}", leads=(name,), patients=name, recipe={name: name}),
        curves={"train": {"step": (1, 2), name[:40]: (1.0, 0.5)}},
        settings={name: name},
        environment={name: name},
    )
    wrong = Wrong(name, name, name, name, store_report.base64.b64encode(png).decode())
    worst = [Worst(name, one.name, name, (wrong, wrong._replace(picture="")), name) for one in results[::2]]
    return Report(title=name, results=results, asked_over=(asked,), caveats=(name,), runs=(about,)), worst


@pytest.fixture(scope="module")
def pages(mini_store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    store = open_store(mini_store)
    suspects = np.array(store.column("suspects"), dtype=object)
    suspects[3] = f"V1 and V2 swapped?; {HOSTILE}"
    store.records = store.records.drop_columns(["suspects"]).append_column("suspects", [suspects.tolist()])
    store_report.write(store, folder / "store.html", n_pages=3)
    png = record_png(store, store.id_of(0))
    for file, name in (("run.html", "paper_b_cpc"), ("hostile.html", HOSTILE)):
        (folder / file).write_text(render(*report_of(name, png)), encoding="utf-8")
    return {path.stem: path for path in folder.glob("*.html")}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as made:
        yield made


@pytest.fixture
def shown(browser: Any, pages: dict[str, Path]) -> Iterator[Any]:
    """Opens a page in a tab of its own, which must neither complain nor ask anybody for anything."""
    contexts, wrong = [], []

    def show(name: str, width: int, **how: Any) -> Any:
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, **how))
        tab = contexts[-1].new_page()
        tab.on("console", lambda said: wrong.append(said.text))
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        own = pages[name].as_uri()
        tab.on("request", lambda sent: None if sent.url == own or sent.url[:5] == "data:" else wrong.append(sent.url))
        tab.goto(own)
        return tab

    yield show
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.mark.parametrize(
    ("name", "width"),
    quickly(
        [(name, width) for name in ("store", "run", "hostile") for width in (1240, 390)], ("store", 1240), ("run", 390)
    ),
)
def test_a_page_is_accessible_and_fits(shown: Any, name: str, width: int) -> None:
    tab = shown(name, width)
    tab.evaluate(UNFOLD)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert barriers(tab) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", quickly(["store", "run"], "run"))
def test_dark_surroundings_leave_it_readable(shown: Any, name: str) -> None:
    assert barriers(shown(name, 1240, color_scheme="dark")) == []


@pytest.mark.parametrize("name", quickly(["store", "run", "hostile"], "run"))
def test_a_printed_page_is_cut_off_nowhere(shown: Any, name: str) -> None:
    tab = shown(name, PAPER_PX)
    tab.emulate_media(media="print")
    assert tab.evaluate("document.documentElement.scrollWidth") <= PAPER_PX
    beyond = tab.eval_on_selector_all(
        "table, figure, dl, pre", "all => all.filter(e => e.getBoundingClientRect().right > innerWidth + 1).length"
    )
    assert beyond == 0


@pytest.mark.parametrize("name", quickly(["store", "run"], "store"))
def test_what_scrolls_is_reached_and_scrolled_by_keyboard(shown: Any, name: str) -> None:
    tab = shown(name, 390)
    tab.evaluate(UNFOLD)
    n_wide = tab.evaluate("[...document.querySelectorAll('.wide')].filter(e => e.scrollWidth > e.clientWidth).length")
    reached = []
    for _ in range(200):
        tab.keyboard.press("Tab")
        found = tab.evaluate(
            """() => {
                const e = document.activeElement, wide = e.matches(".wide") && e.scrollWidth > e.clientWidth;
                return [e === document.body, wide && e.getAttribute("aria-label"), getComputedStyle(e).outlineStyle];
            }"""
        )
        if found[0]:
            break
        assert found[2] != "none", "focus is seen"
        if found[1]:
            reached.append(found[1])
            tab.keyboard.press("ArrowRight")
            tab.wait_for_function("document.activeElement.scrollLeft > 0")
    assert len(reached) == n_wide > 0
    assert all(reached)


@pytest.mark.parametrize("name", quickly(["store", "run"], "run"))
def test_it_is_read_aloud_in_order(shown: Any, name: str) -> None:
    tab = shown(name, 1240)
    levels = tab.eval_on_selector_all("h1, h2, h3, h4", "all => all.map(h => +h.tagName[1])")
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(level <= before + 1 for before, level in zip(levels, levels[1:], strict=False))
    assert tab.evaluate("document.documentElement.lang") == "en"
    for what, rule in (
        ("a table without caption", "table:not(:has(> caption))"),
        ("a head without scope", "th:not([scope])"),
        ("a picture without words", "img:not([alt]), img[alt=''], svg[role=img]:not([aria-label])"),
        ("a drawing that is neither told nor hidden", "svg:not([role=img]):not([aria-hidden])"),
    ):
        assert tab.eval_on_selector_all(rule, "all => all.map(e => e.outerHTML.slice(0, 200))") == [], what
    lost = tab.eval_on_selector_all(
        "a[href^='#']", "all => all.map(a => a.hash.slice(1)).filter(id => !document.getElementById(id))"
    )
    assert lost == []


def test_a_suspect_is_linked_to_its_page(shown: Any) -> None:
    tab = shown("store", 1240)
    tab.click("text=V1 and V2 swapped? >> xpath=ancestor::tr >> a")
    assert tab.evaluate("document.querySelector(':target img').alt").startswith("ECG page of record ")


def test_what_is_saved_from_the_page_are_the_numbers(shown: Any) -> None:
    tab = shown("run", 390)
    with tab.expect_download() as saved:
        tab.click("text=Scores (CSV)")
    assert saved.value.suggested_filename == "scores.csv"
    assert "macro_auroc" in Path(saved.value.path()).read_text(encoding="utf-8-sig")


@pytest.mark.parametrize("name", quickly(["hostile", "store"], "hostile"))
def test_hostile_names_are_text(shown: Any, name: str) -> None:
    tab = shown(name, 1240)
    assert tab.evaluate("document.scripts.length") == 0
    assert tab.evaluate("document.querySelectorAll('[onerror], img[src=x]').length") == 0
    assert HOSTILE in tab.inner_text("main")
