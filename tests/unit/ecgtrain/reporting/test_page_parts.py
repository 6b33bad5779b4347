"""Parts of the page: the summary that it begins with, curves in squares, and downloads that stand inside it."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
import math
import re
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve, roc_curve

from ecgtrain.evaluation.results import Result, RocCurve
from ecgtrain.reporting import summary
from ecgtrain.reporting.caveats import groups
from ecgtrain.reporting.contents import About, Report, RunFacts, StoreFacts
from ecgtrain.reporting.downloads import downloads
from ecgtrain.reporting.page import render
from ecgtrain.reporting.squares import MOST_SQUARES, all_squares, precision_recall
from ecgtrain.scoring.bootstrap import Interval
from ecgtrain.training.files import plain

FEW = {"fpr": [0.0, 0.5, 1.0], "tpr": [0.0, 0.75, 1.0]}


def result(**more: Any) -> Result:
    made = {
        "name": "q",
        "task": "ptbxl/superdiagnostic",
        "protocol": "linear_probe",
        "pretraining": "cpc",
        "store": "stores/ptbxl.ecg",
        "n_train": 100,
        "n_test": 80,
        "metrics": {"macro_auroc": Interval(0.8, 0.7, 0.9)},
        "per_class": {"MI": {"auroc": 0.8, "auprc": 0.6, "n_positive": 20, "title": "myocardial infarction"}},
        "roc": {"MI": FEW},
        **more,
    }
    return Result.model_validate(made)


def lines(*results: Result) -> list[summary.Line]:
    return summary.lines(groups(results), ["only"])


def whole(*results: Result) -> Report:
    about = About(run=RunFacts(name="cpc-run"), store=StoreFacts(path="stores/ptbxl.ecg"))
    return Report(results=results, runs=(about,))


def test_precision_and_recall_follow_from_a_roc_curve() -> None:
    draw = np.random.default_rng(0)
    y = draw.random(200) < 0.2
    score = draw.normal(size=200) + y
    fpr, tpr, _ = roc_curve(y, score, drop_intermediate=False)
    recall, precision = precision_recall(RocCurve(fpr=tuple(fpr), tpr=tuple(tpr)), int(y.sum()), int((~y).sum()))
    known_precision, known_recall, _ = precision_recall_curve(y, score)
    drawn = set(zip(recall.round(6), precision.round(6), strict=True))
    # All but the point that scikit-learn adds where nothing is said.
    for point in zip(known_recall[:-1].round(6), known_precision[:-1].round(6), strict=True):
        assert point in drawn
    assert precision.min() >= 0
    assert precision.max() <= 1


def test_there_is_a_square_for_each_class_and_kind_of_curve() -> None:
    trusted = {"MI": {"brier": 0.1, "mean_said": [0.2, 0.9], "share_stated": [0.1, None], "n_records": [4, 4]}}
    parts = all_squares([result(reliability=trusted), result(pretraining="random")], ["CPC", "Untrained"], ["#1", "#2"])
    assert [part.heading for part in parts] == ["ROC curves", "Precision and recall", "Reliability"]
    roc, precision, reliability = (part.squares[0] for part in parts)
    assert [line.path for line in roc.lines] == ["M22 176L110 44L198 0"] * 2
    assert [line.colour for line in roc.lines] == ["#2", "#1"], "the first lies above its null"
    assert precision.guide == "M22 132L198 132", "20 of 80 are positive"
    assert reliability.lines[0].dots == [(57.2, 158.4)], "a bin of which nothing is known is no point"
    assert roc.told == "MI: CPC AUROC 0.800, Untrained AUROC 0.800"
    assert reliability.told == "MI: CPC Brier score 0.100"


def test_the_classes_with_most_positives_are_drawn() -> None:
    names = [f"c{n}" for n in range(MOST_SQUARES + 3)]
    classes = {name: {"auroc": 0.8, "auprc": 0.6, "n_positive": n + 1} for n, name in enumerate(names)}
    (roc, _) = all_squares([result(per_class=classes, roc=dict.fromkeys(names, FEW))], ["CPC"], ["#1"])
    assert [square.name for square in roc.squares] == names[3:]
    assert roc.n_left_out == 3


def test_the_summary_has_a_line_for_each_answer_with_its_null() -> None:
    difference = {"random": {"macro_auroc": Interval(0.1, 0.02, 0.18)}}
    null = result(pretraining="random", metrics={"macro_auroc": Interval(0.7, 0.6, 0.8)})
    (line,) = lines(result(difference_to=difference), null)
    assert (line.run, line.question, line.label) == ("only", "ptbxl/superdiagnostic", "CPC")
    assert line.about == "linear probe · ptbxl.ecg · 80 test records"
    assert line.beside == ("untrained network", (0.7, 0.6, 0.8))
    assert line.verdict == "better"


@pytest.mark.parametrize(
    ("span", "metric", "said"),
    [
        ((0.1, 0.02, 0.18), "macro_auroc", "better"),
        ((-0.1, -0.18, -0.02), "macro_auroc", "worse"),
        ((0.1, -0.02, 0.18), "macro_auroc", "can't be told apart"),
        ((-3.0, -4.0, -2.0), "mae", "better"),
        ((0.1, math.nan, math.nan), "macro_auroc", ""),
    ],
)
def test_a_difference_is_called_by_its_interval(span: tuple[float, float, float], metric: str, said: str) -> None:
    kind = {"kind": "regression", "unit": "years"} if metric == "mae" else {}
    scored = result(
        metrics={metric: Interval(9.0, 8.0, 10.0)}, difference_to={"random": {metric: Interval(*span)}}, **kind
    )
    assert lines(scored)[0].verdict == said


def test_without_a_null_a_constant_stands_beside() -> None:
    one = result(kind="regression", unit="years", metrics={"mae": Interval(0.0, 0.0, 0.0)}, of_a_constant=13.5)
    (line,) = lines(one)
    assert line.beside is not None
    assert (line.beside.name, line.beside.score.value) == ("always the median", 13.5)
    assert line.scale == (0.0, 1.0, 220, 6), "an error of nothing has a scale too"
    assert "always the median" in render(whole(one))


def test_every_heading_names_run_and_store() -> None:
    page = render(whole(result(difference_to={"random": {"macro_auroc": Interval(0.1, 0.02, 0.18)}})))
    headings = [" ".join(re.sub("<[^>]+>", "", one).split()) for one in re.findall(r"<h[23].*?</h[23]>", page)]
    told = [one for one in headings if one not in ("Summary", "The run")]
    assert len(told) > 4
    assert all("cpc-run" in one and "ptbxl.ecg" in one for one in told), told
    assert page.index(">Summary</h2>") < page.index("Results: ")


def test_downloads_hold_the_numbers_and_no_formula() -> None:
    hostile = "=HYPERLINK(1)"
    classes = {hostile: {"auroc": 0.8, "auprc": None, "n_positive": 20}}
    difference = {"random": {"macro_auroc": Interval(0.1, 0.02, 0.18)}}
    made = whole(result(per_class=classes, roc={}, difference_to=difference))
    links = {one.name: one.address for one in downloads(made)}
    assert list(links) == ["scores.csv", "classes.csv", "report.json"]
    held = {name: base64.b64decode(address.partition("base64,")[2]) for name, address in links.items()}
    score, change = csv.DictReader(io.StringIO(held["scores.csv"].decode("utf-8-sig")))
    assert (score["metric"], score["minus"], score["value"], score["high"]) == ("macro_auroc", "", "0.8", "0.9")
    assert (change["minus"], change["value"], change["low"]) == ("random", "0.1", "0.02")
    (one,) = csv.DictReader(io.StringIO(held["classes.csv"].decode("utf-8-sig")))
    assert (one["class"], one["auprc"], one["n_positive"]) == (f"'{hostile}", "", "20")
    assert json.loads(held["report.json"]) == plain(made.as_json())
    page = html.unescape(render(made))
    assert all(address in page for address in links.values())


def test_a_confusion_is_a_table() -> None:
    counts = {"classes": ["<b>", "AF"], "counts": [[3, 1], [0, 0]]}
    page = render(whole(result(kind="exclusive", metrics={"accuracy": Interval(0.7, 0.6, 0.8)}, confusion=counts)))
    assert re.search(r'class="right" style="background:color-mix\(in srgb, #0060a8 45%, #fff\)">3</td>', page)
    assert '<th scope="row">&lt;b&gt;</th>' in page
    assert "<b>" not in page


def test_seeds_together_are_held_against_one_of_them_and_share_its_colour() -> None:
    def scored(value: float, **more: Any) -> Result:
        return result(metrics={"macro_auroc": Interval(value, value - 0.05, value + 0.05)}, run="r", **more)

    def by(value: float) -> dict[str, Interval]:
        return {"macro_auroc": Interval(value, value - 0.01, value + 0.01)}

    one = scored(0.82, seeds=[1, 2], difference_to={"random": by(0.02)})
    untrained = scored(0.80, seeds=[1, 2], pretraining="random")
    other = scored(0.85, seeds=[1, 2], name="tuned", protocol="linear_probe")
    # As reports have them: against its seeds, and against all untrained networks together, which have no line.
    together = scored(0.86, ensemble_of=[1, 2], difference_to={"one seed": by(0.04), "random": by(-0.01)})
    tuned = scored(0.88, name="tuned", ensemble_of=[1, 2], difference_to={"one seed": by(0.03), "q": by(0.02)})
    found = {line.score.value: line for line in lines(one, untrained, other, together, tuned)}
    assert sorted(found) == [0.82, 0.85, 0.86, 0.88]
    for value, of_one in ((0.86, 0.82), (0.88, 0.85)):
        line = found[value]
        assert line.beside is not None
        assert line.difference is not None
        assert (line.beside.name, line.beside.score.value) == ("one seed", of_one)
        assert line.difference.value == pytest.approx(value - of_one)
        assert (line.is_together, line.colour) == (True, found[of_one].colour)
    assert found[0.82].colour != found[0.85].colour
    page = render(whole(one, untrained, other, together, tuned))
    assert page.count('stroke-dasharray="5 2.5"') == 2 * 2, "ROC, and precision and recall, of both answers together"
