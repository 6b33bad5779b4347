"""Curves as they stand in a report, which may come from anywhere."""

from __future__ import annotations

import pytest

from ecgstore import ConfigError
from ecgtrain.evaluation.curve_results import curve_of
from ecgtrain.reporting.asked_over import part, sentences


def content(**more):
    def point(question, x, score, **of):
        span = {"value": score, "low": score - 0.01, "high": score + 0.01}
        return {"told": f"{x:g}", "x": x, "question": question, "pretraining": "cpc", "score": span, **of}

    points = [point("tuned", x, 0.7 + x / 10) for x in (0.1, 1.0)] + [point("scratch", x, 0.6) for x in (0.1, 1.0)]
    about = {"name": "labels", "kind": "label_efficiency", "task": "t", "metric": "macro_auroc", "axis": "Share"}
    return {**about, "reference": "scratch", "points": points, **more}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"value": 0.25, "low": 0.1, "high": None}, "with 25 % of them (95 % interval 10 % to never)"),
        ({"value": 0.1, "low": 0.1, "high": 0.1}, "with 10 % or fewer"),
        ({"value": None, "low": None, "high": None}, "does not reach what scratch reaches with all labels"),
    ],
)
def test_how_many_labels_are_enough_is_one_sentence(found, said):
    (told,) = sentences(curve_of(content(reached={"tuned cpc": found}), "here"))
    assert said in told


def test_what_noise_costs_is_one_sentence():
    lost = {"value": 0.05, "low": 0.02, "high": 0.08}
    whole = content(kind="noise_robustness")
    for point in whole["points"]:
        if point["question"] == "tuned":
            point |= {"change": {"value": -0.1, "low": -0.12, "high": -0.08}, "change_against": lost}
    (told,) = sentences(curve_of(whole, "here"))
    assert "changes by −0.100" in told
    assert "less than scratch" in told


def test_it_is_drawn_and_written_as_it_was_read():
    curve = curve_of(content(), "here")
    assert curve_of(curve.as_json(), "here") == curve
    assert "<svg" in part(curve, 0, {})["picture"]
    assert curve.as_table().num_rows == 4


@pytest.mark.parametrize(
    "wrong",
    [
        {"points": []},
        {"points": content()["points"][:3]},
        {"points": content()["points"] * 300},
        {"points": [{**content()["points"][0], "x": 0}]},
        {"points": [{**content()["points"][0], "x": None}]},
        {"points": [{**content()["points"][0], "score": 3}]},
        {"kind": None},
        {"seeds": [-1]},
        {"more": 1},
    ],
)
def test_what_is_no_curve_is_one_line(wrong):
    with pytest.raises(ConfigError, match="curve result") as caught:
        curve_of(content(**wrong), "here")
    assert "\n" not in str(caught.value)
