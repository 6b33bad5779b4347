"""Tables that are written piece by piece: the same bytes whatever the pieces, all of them or none."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from ecgstore.storage import layout, tables
from ecgstore.storage.growing import growing

SCHEMA = pa.schema([("id", pa.string()), ("of_leads", pa.list_(pa.float32(), 12)), ("codes", pa.list_(pa.string()))])
OTHER = pa.schema([("row", pa.int64())])


def some(n, seed=0):
    """Rows enough for several pages and row groups, nulls among them."""
    random = np.random.default_rng(seed)
    ids = [None if number % 97 == 0 else f"{number:08d}" for number in random.integers(0, 10**8, n).tolist()]
    of_leads = pa.FixedSizeListArray.from_arrays(pa.array(random.standard_normal(12 * n, dtype=np.float32)), 12)
    codes = [[f"C{code}" for code in range(number % 4)] for number in random.integers(0, 9, n).tolist()]
    return pa.table([pa.array(ids), of_leads, pa.array(codes, pa.list_(pa.string()))], schema=SCHEMA)


@pytest.mark.parametrize(
    "sizes", [[70_000], [1] * 30 + [69_970], [9_999] * 7 + [7], [777] * 90 + [70], [0, 40_000, 0, 30_000, 0]]
)
def test_the_bytes_are_those_of_the_whole_table(tmp_path, monkeypatch, sizes):
    monkeypatch.setattr(tables, "RECORDS_PER_GROUP", 32_768)
    whole = some(70_000)
    with growing(tmp_path, {layout.LEADS: SCHEMA}) as found:
        begin = 0
        for size in sizes:
            found[layout.LEADS].add(whole.slice(begin, size))
            begin += size
    assert (tmp_path / layout.LEADS).read_bytes() == tables.to_parquet(whole, layout.LEADS)
    assert begin == whole.num_rows


@pytest.mark.parametrize("n", [0, 4, 8])
def test_a_table_of_no_rows_or_of_whole_row_groups_ends_as_others_do(tmp_path, monkeypatch, n):
    monkeypatch.setattr(tables, "RECORDS_PER_GROUP", 4)
    with growing(tmp_path, {layout.LEADS: SCHEMA}) as found:
        found[layout.LEADS].add(some(n))
    assert (tmp_path / layout.LEADS).read_bytes() == tables.to_parquet(some(n), layout.LEADS)


def end_early(folder):
    with growing(folder, {layout.LEADS: SCHEMA, layout.BEATS: OTHER}) as found:
        found[layout.LEADS].add(some(9))
        raise RuntimeError("of a task")


def test_nothing_changes_where_the_rows_never_come_to_their_end(tmp_path):
    (tmp_path / layout.LEADS).write_bytes(b"as it was")
    with pytest.raises(RuntimeError, match="of a task"):
        end_early(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [layout.LEADS]
    assert (tmp_path / layout.LEADS).read_bytes() == b"as it was"
