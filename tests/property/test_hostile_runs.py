"""A run from anybody: refused in one line, or right; nothing of it is run, and nothing outside of it is touched."""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path

import pytest
from hostile_runs import KINDS, change, make_run, reseal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from verdicts import REFUSED, RIGHT, judge_run
from watched import prepared, refuse_long, watching

from ecgstore import EcgError
from ecgtrain.data.seen import read_seen
from ecgtrain.evaluation.heads import load_head
from ecgtrain.reporting.report import merge, read_report
from ecgtrain.representation.export import load_backbone
from ecgtrain.training.checkpoint import last, load_trainer, load_weights
from ecgtrain.training.files import refuse_strange_files
from ecgtrain.training.log import read_metrics

#: What takes so long was led astray; no other time is judged here.
pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="module")
def good(mini_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(mini_store, tmp_path_factory.mktemp("good") / "run")


def read_everything(root: Path) -> None:
    """Read each part of a run by itself: what one refuses doesn't hide the next. Links out end it, as everywhere."""
    try:
        refuse_strange_files(root)
    except EcgError:
        return

    def head() -> None:
        load_head(root / "downstream/q/cpc", load_backbone(root))

    def trainer() -> None:
        if (whole := last(root / "checkpoints")) is not None:
            load_weights(whole)
            load_trainer(whole)

    def tables() -> None:
        read_seen(root / "seen.parquet")
        read_seen(root / "downstream/q/cpc/seen.parquet")

    for read in (head, trainer, tables, lambda: merge([read_report(root)]), lambda: read_metrics(root)):
        try:
            read()
        except EcgError as error:
            refuse_long(error)


def try_forged(good: Path, kinds: list[str], seed: int, is_sealed: bool, store: Path | None = None) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        watch = prepared(folder)
        root = folder / "run"
        shutil.copytree(good, root)
        rng = random.Random(seed)
        for kind in kinds:
            change(root, kind, rng)
        if is_sealed:
            reseal(root)
        with watching(watch, root):
            read_everything(root)
        assert watch.did == []
        if store is not None:
            assert judge_run(root, watch, store, good=good, is_sealed=is_sealed) in (REFUSED, RIGHT)


KIND_LISTS = st.lists(st.sampled_from(list(KINDS)), min_size=1, max_size=2)
SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
@given(KIND_LISTS, SEEDS, st.booleans())
def test_a_forged_run_is_refused_or_right(good: Path, kinds: list[str], seed: int, is_sealed: bool) -> None:
    try_forged(good, kinds, seed, is_sealed)


@pytest.mark.slow
@pytest.mark.timeout(6 * 3600)
@settings(max_examples=2500, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(KIND_LISTS, SEEDS, st.booleans())
def test_a_hundred_times_as_many(good: Path, mini_store: Path, kinds: list[str], seed: int, is_sealed: bool) -> None:
    try_forged(good, kinds, seed, is_sealed, mini_store)
