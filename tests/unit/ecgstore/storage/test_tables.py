"""Tables as Parquet: what an older pyarrow can't read is read all the same."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecgstore.storage import layout, tables

LISTS = pa.list_(pa.float64(), 3)


def file_of(table, **how):
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **how)
    content = bytes(sink.getvalue())
    return pq.ParquetFile(pa.BufferReader(content)), content


@pytest.mark.parametrize("rows", [1, 5])
def test_lists_that_no_row_has_are_null_without_being_read(rows):
    values = pa.array([[1.0, 2.0, 3.0]] * 5, LISTS)
    table = pa.table({"gain": pa.nulls(5, LISTS), "mv": values, "base": pa.nulls(5, LISTS), "name": list("abcde")})
    file, content = file_of(table, row_group_size=rows)
    assert tables._lists_without_a_value(file, content) == {"gain", "base"}
    found = tables.without_lists(file, frozenset({"gain", "base"}))
    assert found.schema.equals(table.schema)
    assert found.to_pylist() == table.to_pylist()


def test_lists_that_some_rows_have_are_not_taken_for_null():
    table = pa.table({"gain": pa.array([[1.0, 2.0, 3.0], [None] * 3, [4.0, None, 5.0]], LISTS)})
    assert tables._lists_without_a_value(*file_of(table)) == frozenset()
    assert tables._lists_without_a_value(*file_of(table, write_statistics=False)) == frozenset()


def test_the_gains_of_a_store_that_is_not_raw_are_such_lists(mini_store):
    content = (mini_store / layout.LEADS).read_bytes()
    file = pq.ParquetFile(pa.BufferReader(content))
    absent = tables._lists_without_a_value(file, content)
    assert absent == {"gain_per_mv", "baseline"}
    assert tables.without_lists(file, absent).equals(tables.from_parquet(content))


@pytest.mark.parametrize(
    "chunks", [[[3, 1, 2]], [[3], [], [1, 2, 7, 9, 4, 5, 6, 8]], [[None, 1], [2]], [[], []], [[None] * 9 + [4]]]
)
@pytest.mark.parametrize("kind", [pa.int16(), pa.int64(), pa.uint64(), pa.float32(), pa.float64(), pa.bool_()])
@pytest.mark.parametrize("first", [0, 1])
def test_numbers_are_those_of_pyarrow(chunks, kind, first):
    values = [[v if v is None or kind != pa.bool_() else v > 3 for v in chunk] for chunk in chunks]
    column = pa.chunked_array([pa.array(chunk, kind) for chunk in values], kind).slice(first)
    found = tables.numbers(column, 1)
    expected = column.fill_null(pa.scalar(1).cast(kind)).to_numpy()
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == expected.dtype or not len(expected)


def test_a_column_that_lacks_a_number_is_not_one_of_numbers():
    with pytest.raises(ValueError, match="lacks"):
        tables.numbers(pa.chunked_array([pa.array([1, None])]))
