"""What follows from scores: groups, decisions, reliability."""

from __future__ import annotations

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
        store(site=["A", None, ""], sex=["female", "male", None], age_years=[17.9, 18.0, np.nan]), np.array([0, 1, 2])
    )
    assert found["site"].tolist() == ["A", "", ""]
    assert found["sex"].tolist() == ["female", "male", ""]
    assert found["age"].tolist() == ["below 18", "18 to 39", ""]
    ages = [0, 39.9, 40, 64.9, 65, 79.9, 80, 150]
    found = groups_of(store(site=[""] * 8, sex=[""] * 8, age_years=ages), np.arange(8))
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
    parts = scores([judged()], {}, "", 0, {"a": 0.5, "b": 0.4})
    about = {"name": "q", "task": "t", "protocol": "p", "pretraining": "cpc", "store": "s", "n_train": 1, "n_test": 60}
    result = Result(**about, **parts)
    assert result_of(plain(result.as_json()), "here") == result


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
