"""Points of a curve: none stands in the file of another, nor is taken for it."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from ecgtrain.config.curves import LabelEfficiency, Transfer
from ecgtrain.evaluation import curves
from ecgtrain.evaluation.curves import _Drawing, _file_name, _keep, _kept
from ecgtrain.evaluation.scored import Judged

DRAWING = _Drawing(SimpleNamespace(seed=7), None, None, "cpu", False)


def shares(*fractions):
    return DRAWING.places(LabelEfficiency(kind="label_efficiency", fractions=fractions), None)


def stores(monkeypatch, *paths, folds=None):
    found = {path: SimpleNamespace(fingerprint=f"sha256 of {path}") for path in paths}
    monkeypatch.setattr(curves, "_stores", lambda curve, config: found)
    monkeypatch.setattr(curves, "_others", lambda curve, question, config: list(found.items())[1:])
    return DRAWING.places(Transfer(kind="transfer", stores=paths, folds=folds), None)


def names(places, question="probe", pretraining="cpc", draw=0):
    return {_file_name(question, pretraining, place, draw).lower() for place in places}


def test_shares_that_read_alike_to_three_digits_are_two_points():
    found = shares(0.1001, 0.1002, 0.1, 1.0, 1e-5)
    assert [place.told for place in found] == ["0.001 %", "10 %", "10.01 %", "10.02 %", "100 %"]
    assert [place.setting for place in found] == [{"fraction": x} for x in (1e-5, 0.1, 0.1001, 0.1002, 1.0)]
    assert len(names(found)) == 5


def test_each_store_has_a_file_whatever_it_is_called(monkeypatch):
    paths = ("a/b.ecg", "a-b.ecg", "c/b.ecg", "A/b.ecg", "https://e.org/b.ecg", f"{'long/' * 100}b.ecg")
    found = stores(monkeypatch, *paths)
    assert len(names(found)) == len({place.told for place in found}) == len(paths)
    assert max(map(len, names(found))) < 100
    # A point holds whatever other stores a later recipe names, and of other records it is another.
    assert names(stores(monkeypatch, "home.ecg", *paths)) >= names(found[1:])
    assert not names(stores(monkeypatch, *paths, folds=[1])[1:]) & names(found)


def test_a_name_with_dots_is_not_taken_for_two(monkeypatch):
    (place,) = shares(0.5)
    assert names([place], "probe.cpc", "random") != names([place], "probe", "cpc.random")
    assert names([place], draw=1) != names([place], draw=0)


@pytest.mark.parametrize("other", [{"fraction": 0.1002}, {"fraction": 0.1001, "more": 1}])
def test_a_point_of_another_setting_is_not_taken_for_this_one(tmp_path, other):
    y_rc, rows = np.array([[1.0], [0.0]]), np.array([3, 5])
    judged = Judged(y_rc, np.array([[0.7], [0.2]]), rows, np.array([0, 1]), ("AF",), "multilabel")
    test = SimpleNamespace(row_r=rows, y_rc=y_rc, patient_r=judged.patient_r)
    targets = SimpleNamespace(kind="multilabel", places=())
    put = SimpleNamespace(classes=("AF",), test=test, targets=targets)
    path = tmp_path / "points" / "one.parquet"
    said = json.dumps({"curve": {"at": {"fraction": 0.1001}}})
    _keep(path, said, judged)
    assert np.array_equal(_kept(path, said, put).score_rc, judged.score_rc)
    assert _kept(path, json.dumps({"curve": {"at": other}}), put) is None


def test_what_identifies_a_point_is_its_setting_and_no_rounded_name(monkeypatch):
    monkeypatch.setattr(curves, "asked_of", lambda question, seed: {"seed": seed})
    curve = LabelEfficiency(kind="label_efficiency")
    put = SimpleNamespace(store=SimpleNamespace(fingerprint="f"))
    said = [json.loads(DRAWING.identity(curve, put, None, "r", place, 2)) for place in shares(0.1001, 0.1002)]
    assert [one["curve"] for one in said] == [
        {"kind": "label_efficiency", "at": {"fraction": fraction}, "draw": 2} for fraction in (0.1001, 0.1002)
    ]
