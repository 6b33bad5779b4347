"""Columns made by hand are those that pyarrow makes, to the byte, and pandas has no part in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgstore.storage import tables
from ecgstore.storage.arrow import column, repeated, table

TEXTS = st.text(max_size=8)
OF_KIND = {
    pa.int8(): st.integers(-(2**7), 2**7 - 1),
    pa.int16(): st.integers(-(2**15), 2**15 - 1),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    # Signatures are such: some of them are above what a float can tell apart.
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.float32(): st.floats(width=32),
    pa.float64(): st.floats(),
    pa.bool_(): st.booleans(),
    pa.string(): TEXTS,
    pa.binary(): st.binary(max_size=8),
    pa.list_(pa.string()): st.lists(st.none() | TEXTS, max_size=4),
    pa.list_(pa.float32()): st.lists(st.floats(width=32), max_size=4),
    pa.list_(pa.float64(), 3): st.lists(st.none() | st.floats(), min_size=3, max_size=3),
}


def as_file(array: pa.Array) -> bytes:
    return tables.to_arrow(pa.Table.from_arrays([array], ["x"]), {})


@pytest.mark.parametrize("kind", OF_KIND, ids=str)
@pytest.mark.parametrize("nan_is_null", [False, True])
@settings(max_examples=25)
@given(data=st.data())
def test_a_column_is_what_pyarrow_makes_of_it(kind: pa.DataType, nan_is_null: bool, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.none() | OF_KIND[kind], max_size=20))
    wanted = pa.array(values, kind, from_pandas=nan_is_null)
    made = column(values, kind, nan_is_null=nan_is_null)
    made.validate(full=True)
    assert made.type == kind
    assert as_file(made) == as_file(wanted)


@given(st.lists(st.none() | TEXTS, max_size=20))
def test_words_are_kept_once(values: list[str | None]) -> None:
    made = column(values, pa.dictionary(pa.int32(), pa.string()))
    made.validate(full=True)
    assert made.to_pylist() == values
    assert len(made.dictionary) == len(set(values) - {None})


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.array([1.5, np.nan, -2.0], dtype=np.float32), pa.float32()),
        (np.array([3, 4]), pa.int32()),
        (np.array([True, False, True] * 5), pa.bool_()),
        (np.zeros(0), pa.float32()),
    ],
)
def test_arrays_of_numpy_are_taken_as_they_are(values: np.ndarray, kind: pa.DataType) -> None:
    assert as_file(column(values, kind)) == as_file(pa.array(values, kind))
    # Beneath a null pyarrow leaves the NaN.
    assert column(values, kind, nan_is_null=True).equals(pa.array(values, kind, from_pandas=True))


@pytest.mark.parametrize(
    ("values", "kind", "error"),
    [
        ([1.5], pa.int64(), TypeError),
        (np.array([1.5]), pa.int64(), TypeError),
        (["1"], pa.int64(), TypeError),
        ([300], pa.int8(), OverflowError),
        (np.array([300]), pa.int8(), OverflowError),
        ([-1], pa.uint64(), OverflowError),
        ([1], pa.string(), TypeError),
        ([[1.0, 2.0]], pa.list_(pa.float64(), 3), ValueError),
    ],
)
def test_no_value_is_bent_into_a_kind(values: object, kind: pa.DataType, error: type[Exception]) -> None:
    with pytest.raises(error):
        column(values, kind)


def test_a_table_takes_lists_and_columns_in_the_order_of_its_schema() -> None:
    schema = pa.schema([("b", pa.string()), ("a", pa.int16())])
    made = table({"a": [1, None], "b": column(["x", "y"], pa.string()), "c": "is not asked for"}, schema)
    assert made.equals(pa.table({"b": ["x", "y"], "a": pa.array([1, None], pa.int16())}, schema=schema))
    assert repeated("ö", 3).to_pylist() == ["ö"] * 3
    assert repeated("x", 0).type == pa.string()


def test_an_ingest_does_not_import_pandas(mini: Path, tmp_path: Path) -> None:
    command = (
        "import sys\nfrom ecgstore import IngestSettings, ingest_folder\n"
        f"ingest_folder({str(mini)!r}, {str(tmp_path / 'out.ecg')!r}, IngestSettings())\n"
        "print(sorted({'pandas', 'zarr', 'dask', 'torch', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
