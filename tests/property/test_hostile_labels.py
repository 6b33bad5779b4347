"""Tables of labels from anybody: read, or refused in one line; never a traceback, a hang or a lack of memory."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import pytest
from hostile_texts import CSV, hostile_csv, hostile_parquet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from watched import refuse_long

from ecgstore.errors import SourceError, visible
from ecgstore.sources._labels import by_record, read_labels

#: What takes so long was led astray; no other time is judged here.
pytestmark = pytest.mark.timeout(600)


def try_table(path: Path) -> bool:
    """Read a table of labels; whether it was not refused."""
    try:
        labels = read_labels(path)
        said, strangers = by_record(labels, ["r0", "r1", "r2"])
    except SourceError as error:
        refuse_long(error)
        return False
    for label in said.values():
        assert label.fold is None or 0 <= label.fold <= 999
        assert label.age_years is None or 0 <= label.age_years <= 120
        assert label.sex in (None, "female", "male")
        assert all(0 < len(one.code) <= 64 for one in label.statements)
    assert all(text.isprintable() for one in strangers for text in (visible(one.record_id), one.detail))
    return True


def try_seed(name: str, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        made = hostile_parquet if name.endswith("parquet") else hostile_csv
        path.write_bytes(made(random.Random(seed)))
        try_table(path)


NAMES = st.sampled_from(["labels.csv", "labels.csv", "labels.parquet"])


@settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(NAMES, st.integers(0, 2**32 - 1))
def test_a_hostile_table_is_read_or_refused(name, seed):
    try_seed(name, seed)


@pytest.mark.slow
@pytest.mark.timeout(6 * 3600)
@settings(max_examples=6000, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(NAMES, st.integers(0, 2**32 - 1))
def test_a_hundred_times_as_many(name, seed):
    try_seed(name, seed)


def test_the_good_table_is_good(tmp_path):
    (tmp_path / "labels.csv").write_text(CSV)
    assert try_table(tmp_path / "labels.csv")
