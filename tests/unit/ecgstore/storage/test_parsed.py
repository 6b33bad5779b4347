"""Tables that were found right before are not checked again; what was refused is, each time."""

from __future__ import annotations

import shutil
from collections import OrderedDict
from pathlib import Path

import pyarrow as pa
import pytest

from ecgstore import IntegrityError, open_store
from ecgstore.storage import parsed, validate_tables


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsed, "_known", OrderedDict())


def test_a_table_is_made_once() -> None:
    asked: list[bytes] = []

    def parse(content: bytes) -> pa.Table:
        asked.append(content)
        return pa.table({"n": [len(content)]})

    assert parsed.once("a", parse, b"12") is parsed.once("a", parse, b"12")
    parsed.once("b", parse, b"12")
    assert asked == [b"12", b"12"]


def test_what_is_refused_is_asked_again() -> None:
    asked: list[bytes] = []

    def refuse(content: bytes) -> pa.Table:
        asked.append(content)
        raise ValueError("wrong")

    for _ in range(2):
        with pytest.raises(ValueError, match="wrong"):
            parsed.once("a", refuse, b"")
    assert len(asked) == 2


def test_few_and_small_tables_are_kept() -> None:
    for key in range(2 * parsed.MOST_TABLES):
        parsed.once(key, lambda _: pa.table({"n": [1]}), b"")
    assert list(parsed._known) == list(range(parsed.MOST_TABLES, 2 * parsed.MOST_TABLES))
    parsed.once("large", lambda _: pa.table({"n": pa.nulls(parsed.MOST_BYTES // 8 + 1, pa.int64())}), b"")
    assert "large" not in parsed._known


def test_opening_a_store_again_checks_its_bytes_and_not_its_tables(
    mini_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_store(mini_store)
    monkeypatch.setattr(validate_tables, "check_records", None)
    assert open_store(mini_store).records is first.records

    copy = tmp_path / "copy.ecg"
    shutil.copytree(mini_store, copy)
    records = copy / "records.parquet"
    records.write_bytes(records.read_bytes()[:-1] + b"?")
    with pytest.raises(IntegrityError, match="changed after the store was sealed"):
        open_store(copy)


def test_other_limits_are_other_checks(mini_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_store(mini_store)
    monkeypatch.setenv("ECGSTORE_LIMITS_TIMES", "2")
    assert open_store(mini_store).records is not first.records
