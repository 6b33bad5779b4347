"""A store from a stranger: refused in one line, or right; it never breaks a command."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_stores import GOLDEN, KINDS, forge, is_as_before
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from verdicts import REFUSED, RIGHT, judge_store
from watched import prepared

from ecgstore import EcgError, Store, open_store

#: What takes so long was led astray; no other time is judged here.
pytestmark = pytest.mark.timeout(3600)


def read_everything(root: Path) -> bool:
    """Read a store in every way there is; whether it passes for whole."""
    try:
        store = open_store(root)
        passed = store.verify() == []
        passed = passed and store.verify(deep=True) == []
    except EcgError:
        return False
    for record_id in store.column("record_id").tolist():
        try:
            record = store.read(record_id)
            part = store.read(record_id, stop_s=1 / record.fs_hz, leads=store.leads[:1])
            assert np.array_equal(part.signal_mv_lt, record.signal_mv_lt[:1, :1], equal_nan=True)
            store.read_beats(record_id)
        except EcgError:
            assert not passed
    if passed:
        assert_sound(store)
    return passed


def assert_sound(store: Store) -> None:
    """What is true of every store that a deep check passes."""
    ids = store.column("record_id").tolist()
    assert len(set(ids)) == len(ids)
    for record_id in ids:
        record = store.read(record_id)
        assert record.signal_mv_lt.shape[0] == len(store.leads) == len(record.lead_states)
        assert record.fs_hz > 0
        assert record.fold is None or record.fold >= 0
    if store.encoding == "microvolt":
        store.statistics()
    store.select(where="age_years > 3")


def try_forged(version: int, kinds: list[str], seed: int, is_sealed: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        watch = prepared(Path(folder))
        root = forge(version, Path(folder) / "forged.ecg", kinds, seed, is_sealed=is_sealed)
        is_changed = not is_sealed and not is_as_before(root, GOLDEN / f"v{version}.ecg")
        assert judge_store(root, watch, is_changed=is_changed, whole=False) in (REFUSED, RIGHT)
        read_everything(root)


#: Those of which one takes a second to forge are left to the slow session, and to plain tests.
LIGHT = [kind for kind in KINDS if kind not in ("ten thousand row groups", "a bomb of a table")]


def forged(kinds: list[str]) -> Callable[[Any], Any]:
    return given(
        st.sampled_from([1, 2]),
        st.lists(st.sampled_from(kinds), min_size=1, max_size=2),
        st.integers(0, 2**32 - 1),
        st.booleans(),
    )


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
@forged(LIGHT)
def test_a_forged_store_is_refused_or_right(version: int, kinds: list[str], seed: int, is_sealed: bool) -> None:
    try_forged(version, kinds, seed, is_sealed)


@pytest.mark.slow
@pytest.mark.timeout(6 * 3600)
@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@forged(list(KINDS))
def test_a_hundred_times_as_many(version: int, kinds: list[str], seed: int, is_sealed: bool) -> None:
    try_forged(version, kinds, seed, is_sealed)


@pytest.mark.parametrize("version", [1, 2])
def test_an_unchanged_store_passes_all_of_it(version: int, tmp_path: Path) -> None:
    watch = prepared(tmp_path)
    root = forge(version, tmp_path / "good.ecg")
    assert judge_store(root, watch, is_changed=False, whole=False) == RIGHT
    assert read_everything(root)


@pytest.mark.parametrize("kind", ["samples", "bits flipped", "cells", "rows", "another file's bytes"])
def test_a_change_without_a_seal_is_found(kind: str, tmp_path: Path) -> None:
    root = forge(2, tmp_path / "forged.ecg", [kind], seed=1, is_sealed=False)
    assert not is_as_before(root, GOLDEN / "v2.ecg")
    assert judge_store(root, prepared(tmp_path), is_changed=True, whole=False) == REFUSED
