"""What follows from scores: groups, decisions, reliability."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from ecgtrain.evaluation.results import Result, result_of
from ecgtrain.evaluation.scored import Judged, groups_of, scores, thresholds
from ecgtrain.evaluation.splits import Split, UnreadWindows
from ecgtrain.tasks import Targets
from ecgtrain.training.files import plain


def store(**columns):
    return SimpleNamespace(column=lambda name: np.array(columns[name], dtype=object))


def test_records_are_told_apart_by_site_sex_and_band_of_age():
    found = groups_of(
        store(
            site=["A", None, ""],
            sex=["female", "male", None],
            age_years=[17.9, 18.0, np.nan],
            source=["ptbxl", "ptbxl", "own"],
        ),
        np.array([0, 1, 2]),
    )
    assert found["site"].tolist() == ["A", "", ""]
    assert found["sex"].tolist() == ["female", "male", ""]
    assert found["source"].tolist() == ["ptbxl", "ptbxl", "own"]
    assert found["age"].tolist() == ["below 18", "18 to 39", ""]
    ages = [0, 39.9, 40, 64.9, 65, 79.9, 80, 150]
    found = groups_of(store(site=[""] * 8, sex=[""] * 8, age_years=ages, source=[""] * 8), np.arange(8))
    bands = ["below 18", "18 to 39", "40 to 64", "40 to 64", "65 to 79", "65 to 79", "80 and above", "80 and above"]
    assert found["age"].tolist() == bands


def judged(n=60, seed=0):
    rng = np.random.default_rng(seed)
    y_rc = rng.random((n, 2)) < 0.4
    score_rc = np.clip(0.3 + 0.4 * y_rc + 0.1 * rng.standard_normal((n, 2)), 0, 1)
    sex_r = np.array(["female", "male"] * (n // 2), dtype=object)
    return Judged(y_rc, score_rc, np.arange(n), tuple(map(str, range(n))), ("a", "b"), groups={"sex": sex_r})


def test_decisions_are_counted_at_the_thresholds_that_are_given():
    one = judged()
    parts = scores([one], {}, "", 0, {"a": 0.5})
    assert set(parts["decisions"]) == {"a"}
    found, said_r = parts["decisions"]["a"], one.score_rc[:, 0] >= 0.5
    assert (found.n_hits, found.n_false_alarms) == ((said_r & one.y_rc[:, 0]).sum(), (said_r & ~one.y_rc[:, 0]).sum())
    assert found.figures["sensitivity"].value == pytest.approx(found.n_hits / one.y_rc[:, 0].sum())
    assert set(parts["reliability"]) == {"a", "b"}
    assert parts["reliability"]["a"].brier == pytest.approx(
        ((one.score_rc[:, 0] - one.y_rc[:, 0]) ** 2).mean(), abs=1e-6
    )
    assert sum(parts["reliability"]["a"].n_records) == 60
    assert {name: one.n_test for name, one in parts["by_group"]["sex"].items()} == {"female": 30, "male": 30}
    assert scores([one], {}, "", 0)["decisions"] == {}


def test_a_result_with_decisions_is_read_as_it_was_written():
    about = {"name": "q", "task": "t", "protocol": "p", "pretraining": "cpc", "store": "s", "n_train": 1, "n_test": 60}
    result = Result(**about, **scores([judged()], {}, "", 0, {"a": 0.5, "b": 0.4}))
    assert result_of(plain(result.as_json()), "here") == result
    written = plain(Result(**about, **scores([exclusive()], {}, "", 0)).as_json())
    assert written["decisions"]["a"]["threshold"] is None
    assert plain(result_of(written, "here").as_json()) == written


def exclusive(n=90):
    """Three classes, the third of female patients alone."""
    draw = np.random.default_rng(4)
    sex_r = np.array(["female", "male"] * (n // 2), dtype=object)
    class_r = np.where(sex_r == "female", draw.integers(0, 3, n), draw.integers(0, 2, n))
    score_rc = draw.dirichlet([1, 1, 1], n) + 0.4 * np.eye(3)[class_r]
    score_rc /= score_rc.sum(axis=1, keepdims=True)
    source_r = np.array(["big"] * (n - 8) + ["small"] * 8, dtype=object)
    names = tuple(map(str, range(n)))
    y_rc = np.eye(3, dtype=bool)[class_r]
    groups = {"sex": sex_r, "source": source_r}
    return Judged(y_rc, score_rc, np.arange(n), names, ("a", "b", "c"), "exclusive", groups=groups)


def test_the_likeliest_of_exclusive_classes_is_decided_for_and_told_by_group():
    one = exclusive()
    parts = scores([one], {}, "", 0)
    said_r, true_r = one.score_rc.argmax(axis=1), one.y_rc.argmax(axis=1)
    of_a = parts["decisions"]["a"]
    assert np.isnan(of_a.threshold)
    assert of_a.figures["sensitivity"].value == pytest.approx((said_r == 0)[true_r == 0].mean())
    assert of_a.figures["specificity"].value == pytest.approx((said_r != 0)[true_r != 0].mean())
    assert parts["metrics"]["brier"].value == pytest.approx(((one.score_rc - one.y_rc) ** 2).sum(axis=1).mean())
    assert set(parts["reliability"]) == {"a", "b", "c"}
    by = parts["decisions_by_group"]
    women = one.groups["sex"] == "female"
    assert set(by["sex"]["female"]) == {"a", "b", "c"}
    assert set(by["sex"]["male"]) == {"a", "b"}  # of the third there is none to be found
    found = by["sex"]["female"]["c"]
    assert (found.n_hits, found.n_misses) == (((said_r == 2) & (true_r == 2) & women).sum(), found.n_misses)
    assert found.n_hits + found.n_misses == ((true_r == 2) & women).sum()
    assert list(by["source"]) == ["big"]  # eight records are too few for rates


def test_decisions_by_thresholds_are_told_by_group():
    parts = scores([judged()], {}, "", 0, {"a": 0.5})
    assert {label: set(its) for label, its in parts["decisions_by_group"]["sex"].items()} == {
        "female": {"a"},
        "male": {"a"},
    }
    by = parts["decisions_by_group"]["sex"]
    assert sum(its["a"].n_hits for its in by.values()) == parts["decisions"]["a"].n_hits


def test_only_the_largest_of_many_sites_are_told_of():
    one = judged(n=1200)
    one = replace(one, groups={"site": np.array([f"s{r % 30:02}" if r > 100 else "s00" for r in range(1200)], object)})
    by = scores([one], {}, "", 0, {"a": 0.5})["decisions_by_group"]["site"]
    assert len(by) == 20
    assert "s00" in by


def test_thresholds_come_from_validation_records_alone():
    targets = Targets("t", ("a", "b"), judged().y_rc, np.arange(60))
    validation = Split.of(np.arange(60), targets, [str(i) for i in range(60)], UnreadWindows())
    fitted = SimpleNamespace(classes=("a", "b"), predict=lambda split: judged().score_rc)
    found = thresholds(targets, fitted, validation)
    assert set(found) == {"a", "b"}
    assert all(0.3 < cut < 0.7 for cut in found.values())
    assert thresholds(targets, fitted, None) == {}
    no_positive = Targets("t", ("a", "b"), judged().y_rc & [True, False], np.arange(60))
    one_sided = Split.of(np.arange(60), no_positive, [str(i) for i in range(60)], UnreadWindows())
    assert set(thresholds(no_positive, fitted, one_sided)) == {"a"}
