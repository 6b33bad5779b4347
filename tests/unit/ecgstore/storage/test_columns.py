"""Tables of records that stay packed say what unpacked ones say, and are checked as they are read."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecgstore import ConfigError, StoreFormatError, open_store
from ecgstore.storage import columns, layout, store, tables, validate_tables
from ecgstore.storage.columns import Ids, Packed, Whole

TABLE = pa.table(
    {
        "record_id": [f"r{i}" for i in range(10)],
        "start": pa.array(range(0, 1000, 100), pa.int64()),
        "sex": ["female", "male", None, "female", "male"] * 2,
        "age_years": pa.array(np.arange(10), pa.float32()),
    }
)
NAMES = ("sex", "age_years", "not there")


def pass_all(table: pa.Table, where: object) -> None:
    """Nothing is refused."""


def packed(table: pa.Table = TABLE, check: columns.Check = pass_all, rows_per_group: int = 4) -> Packed:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=rows_per_group)
    return Packed(validate_tables.BoundedFile(sink.getvalue().to_pybytes()), check, "a place")


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """No table is small."""
    monkeypatch.setattr(store, "PARSED_MEANWHILE_BYTES", 0)


def test_both_kinds_say_the_same() -> None:
    whole, its = Whole(TABLE), packed()
    assert (its.names, its.n_rows) == (whole.names, whole.n_rows)
    for row in (0, 3, 4, 7, 8, 9, 2):
        assert its.about(row, NAMES) == whole.about(row, NAMES)
        assert set(its.about(row, NAMES)) == {"sex", "age_years"}
    assert its.table(["sex", "start"]).equals(TABLE.select(["start", "sex"]))
    assert its.about(5, NAMES) == whole.about(5, NAMES)
    assert its.table(whole.names).equals(TABLE)
    assert its.about(5, NAMES) == whole.about(5, NAMES)


def test_only_what_is_asked_for_is_unpacked_and_once() -> None:
    seen: list[tuple[list[str], int]] = []
    its = packed(check=lambda table, where: seen.append((table.column_names, len(table))))
    for row in (0, 1, 9, 2):
        its.about(row, NAMES)
    assert seen == [(["sex", "age_years"], 4), (["sex", "age_years"], 2)]
    its.table(["start"])
    its.table(["start", "sex"])
    assert seen[2:] == [(["start"], 10), (["sex"], 10)]


def test_a_store_with_a_packed_table_reads_as_the_other(mini_store: Path, large: None, monkeypatch) -> None:
    its = open_store(mini_store)
    assert isinstance(its._columns, Packed)
    assert set(its._columns._columns) == set(validate_tables.PLACES)
    monkeypatch.setattr(store, "PARSED_MEANWHILE_BYTES", 1 << 20)
    other = open_store(mini_store)
    assert isinstance(other._columns, Whole)
    for record_id in other.column("record_id")[[0, 7, 52]]:
        one, two = its.read(record_id), other.read(record_id)
        np.testing.assert_array_equal(one.signal_mv_lt, two.signal_mv_lt)
        for name in ("statements", "age_years", "sex", "patient_key", "fold", "warnings", "site", "lead_states"):
            assert getattr(one, name) == getattr(two, name)
    where = "age_years > 50 and sex == 'male' or range_mv < 1"
    assert its.select(folds=[1, 2, 3], where=where).tolist() == other.select(folds=[1, 2, 3], where=where).tolist()
    assert its.select(where="1 < 2").tolist() == other.select(where="1 < 2").tolist() == list(range(53))
    for asked in ({"where": "age_yeras > 50"}, {"where": "age_years >"}, {"where": "f(age_years)"}):
        said = []
        for opened in (its, other):
            with pytest.raises(ConfigError) as refused:
                opened.select(**asked)
            said.append(str(refused.value))
        assert said[0] == said[1]
    assert its.records.equals(other.records)
    assert (its.n_records, its.id_of(3)) == (53, other.id_of(3))
    assert pickle.loads(pickle.dumps(its)).id_of(3) == other.id_of(3)


def test_a_wrong_column_of_a_large_table_is_refused_when_it_is_read() -> None:
    def check(table: pa.Table, where: object) -> None:
        validate_tables.check_records(table, where, {"leads": ["I"], "recipe": {"fs_hz": 100.0}}, 1000)

    wrong = TABLE.set_column(3, "age_years", pa.array([1.0] * 9 + [1000.0], pa.float32()))
    its = packed(wrong, check)
    its.table(["sex"])
    assert its.about(0, NAMES) == {"sex": "female", "age_years": 1.0}
    for ask in (lambda: its.about(9, NAMES), lambda: its.table(["age_years"])):
        with pytest.raises(StoreFormatError, match="a value in column age_years is out of range; in a place"):
            ask()


def test_texts_of_all_columns_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns.validate_tables, "limits", lambda: store.limits().__class__(decoded_bytes=3000))
    table = pa.table({name: ["x" * 200] * 10 for name in ("site", "warnings")})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    file = validate_tables.BoundedFile(sink.getvalue().to_pybytes(), ["site", "warnings"])
    its = Packed(file, pass_all, "a place")
    its.table(["site"])
    with pytest.raises(StoreFormatError, match="a table is too large in memory"):
        its.table(["warnings"])


@pytest.mark.parametrize("few", [0, 20_000])
def test_ids_are_found_one_by_one_and_together(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "_FEW_IDS", few)
    monkeypatch.setattr(columns, "_FEW_LOOKUPS", 3)
    ids = Ids(pa.chunked_array([["a", "b"], ["ü", "d"]]))
    for _ in range(2):
        assert [ids.row_of(one) for one in ("d", "ü", "e", "a", "\ud800")] == [3, 2, None, 0, None]
    assert ids._row_of is not None


def test_an_id_that_two_records_share_is_refused_in_a_large_table(mini_store: Path, large: None) -> None:
    its = open_store(mini_store)
    ids = its.records["record_id"].to_pylist()
    its.records = its.records.set_column(0, "record_id", pa.array([*ids[:-1], ids[0]]))
    with pytest.raises(StoreFormatError, match="records share an id"):
        its.read(ids[3])


def test_a_record_has_the_fold_of_its_table_even_if_it_was_read_before(mini_store: Path, tmp_path: Path) -> None:
    from ecgstore.storage.splits import _Refolded

    opened = open_store(mini_store)
    first = opened.read(opened.id_of(0))
    other = _Refolded(opened, np.full(53, first.fold + 1, np.int16), "0" * 64)
    assert other.read(first.record_id).fold == first.fold + 1


def test_tables_with_a_row_for_each_record_have_smaller_row_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "RECORDS_PER_GROUP", 4)
    groups = [
        pq.ParquetFile(pa.BufferReader(tables.to_parquet(TABLE, name))).num_row_groups
        for name in (layout.RECORDS, layout.LEADS, layout.STATEMENTS)
    ]
    assert groups == [3, 3, 1]
