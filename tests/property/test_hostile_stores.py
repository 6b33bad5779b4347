"""A store from a stranger: refused in one line, or right; it never breaks a command."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hostile_stores import forge
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecgstore import EcgError, Store, cli, open_store

pytestmark = pytest.mark.timeout(1800)
SEEDS = st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=2)


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


def run_commands(root: Path) -> None:
    for words in (["info"], ["info", "--json"], ["records"], ["records", "--rejected"], ["verify", "--deep"]):
        done = CliRunner().invoke(cli.main, [words[0], str(root), *words[1:]])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
        assert "Traceback" not in done.output
        assert not set(done.output) & {"\x1b", "\x07", "\u202e", "\x9b"}


def try_forged(version: int, seeds: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = forge(version, Path(folder) / "forged.ecg", seeds)
        read_everything(root)
        run_commands(root)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
@given(st.sampled_from([1, 2]), SEEDS)
def test_a_forged_store_is_refused_or_right(version: int, seeds: list[int]) -> None:
    try_forged(version, seeds)


@pytest.mark.slow
@settings(max_examples=6000, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(st.sampled_from([1, 2]), SEEDS)
def test_a_hundred_times_as_many(version: int, seeds: list[int]) -> None:
    try_forged(version, seeds)


@pytest.mark.parametrize("version", [1, 2])
def test_an_unchanged_store_passes_all_of_it(version: int, tmp_path: Path) -> None:
    root = forge(version, tmp_path / "good.ecg", [])
    assert read_everything(root)
    run_commands(root)
