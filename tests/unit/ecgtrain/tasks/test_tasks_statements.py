"""Codes of one's own: every code of a system is a class, or those that are named."""

from __future__ import annotations

import numpy as np
import pytest

from ecgstore import ConfigError, open_store
from ecgtrain import tasks
from ecgtrain.errors import ProtocolError
from ecgtrain.tasks import codes


def test_every_code_of_a_system_is_a_class(mini_store):
    store = open_store(mini_store)
    targets = tasks.load("codes/scp_ecg").targets(store)
    assert targets.classes == tuple(sorted(store.vocabulary("scp_ecg")))
    np.testing.assert_array_equal(targets.y_nc, store.statement_matrix(targets.classes, "scp_ecg"))
    assert len(targets.rows_with_label) == store.n_records


def test_codes_that_are_named_are_the_classes_and_absent_ones_are_dropped(mini_store):
    targets = tasks.load("codes/scp_ecg:NORM, AFBI,AFIB").targets(open_store(mini_store))
    assert (targets.task, targets.classes) == ("codes/scp_ecg:NORM, AFBI,AFIB", ("NORM", "AFIB"))
    assert targets.dropped == {"AFBI": "the store's sources never state it"}
    assert 0 < len(targets.rows_with_label) < 53


@pytest.mark.parametrize("name", ["codes", "codes/", "codes/a:", "codes/a:b,,c", "codes/a:b,b"])
def test_what_is_no_label_set_is_refused(name):
    with pytest.raises(ConfigError, match="a task reads file/label_set|unknown label set"):
        tasks.load(name)


def test_a_system_that_the_store_does_not_have_is_said(mini_store, monkeypatch):
    store = open_store(mini_store)
    with pytest.raises(ProtocolError, match=r"no code of 'diagnosis'.*it has codes of: scp_ecg"):
        codes.targets(store, "diagnosis")
    monkeypatch.setattr(codes, "MAX_CLASSES", 70)
    with pytest.raises(ConfigError, match=r"expected at most 70, got 71.*codes/scp_ecg:CODE,CODE"):
        codes.targets(store, "scp_ecg")
