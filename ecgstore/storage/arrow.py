"""Columns of Arrow tables made of Python lists and NumPy arrays.

Not by pyarrow's own ``array``, ``scalar`` and ``table``: where pandas is installed, they import it to ask whether it is
pandas that they are given, which takes longer than all the tables of an ingest together.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def column(values: Sequence[Any] | npt.NDArray[Any], kind: pa.DataType, *, nan_is_null: bool = False) -> pa.Array:
    """Numbers, truths, texts, bytes, or lists of them as an array of ``kind``; None is null, and NaN if it is said.

    Raises TypeError where an integer is wanted and something else comes, OverflowError where it is too large.
    """
    if pa.types.is_dictionary(kind):
        places: dict[Any, int] = {}
        indices = [None if value is None else places.setdefault(value, len(places)) for value in values]
        words = column(list(places), kind.value_type)
        return pa.DictionaryArray.from_arrays(column(indices, kind.index_type), words)
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        return _lists(values, kind, nan_is_null)
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        validity = _validity([value is not None for value in values])
        words = [b"" if value is None else value.encode() if isinstance(value, str) else value for value in values]
        return _of(kind, len(words), [validity, _ends([len(word) for word in words]), pa.py_buffer(b"".join(words))])
    return _numbers(values, kind, nan_is_null)


def repeated(text: str, n: int) -> pa.Array:
    """The same text ``n`` times."""
    word = text.encode()
    offsets = np.arange(n + 1, dtype=np.int64) * len(word)
    made = _of(pa.large_string(), n, [None, pa.py_buffer(offsets), pa.py_buffer(word * n)])
    return made.cast(pa.string()) if offsets[-1] < 2**31 else made


def table(columns: Mapping[str, Any], schema: pa.Schema, *, nan_is_null: bool = False) -> pa.Table:
    """A table of such columns, or of arrays that are there already, in the order of its schema."""
    made = (columns[field.name] for field in schema)
    arrays = [
        one if isinstance(one, pa.Array | pa.ChunkedArray) else column(one, field.type, nan_is_null=nan_is_null)
        for field, one in zip(schema, made, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def dtype_of(kind: pa.DataType) -> np.dtype[Any]:
    """NumPy's word for numbers or truths, without pandas, which ``to_pandas_dtype`` imports before pyarrow 26."""
    return np.dtype({"float": "float32", "double": "float64"}.get(str(kind), str(kind)))


def _numbers(values: Sequence[Any] | npt.NDArray[Any], kind: pa.DataType, nan_is_null: bool) -> pa.Array:
    dtype = dtype_of(kind)
    is_there: Sequence[bool] | npt.NDArray[np.bool_] = ()
    if not isinstance(values, np.ndarray):
        is_there = [value is not None for value in values]
        exact = operator.index if dtype.kind in "iub" else float
        values = np.array([0 if value is None else exact(value) for value in values], dtype=dtype)
    elif dtype.kind in "iub" and values.dtype.kind not in "iub":
        raise TypeError(f"{values.dtype} where {kind} is wanted")
    elif dtype.kind in "iu" and values.size and not _fits(values, dtype):
        raise OverflowError(f"a number that {kind} can't hold")
    if nan_is_null and values.dtype.kind == "f":
        is_number = ~np.isnan(values)
        is_there = is_number & is_there if len(is_there) else is_number
        values = np.where(is_number, values, 0)
    # What is null must read as nothing, so that the same table is the same bytes.
    content = np.packbits(values.astype(np.bool_), bitorder="little") if dtype.kind == "b" else values.astype(dtype)
    return _of(kind, values.size, [_validity(is_there), pa.py_buffer(np.ascontiguousarray(content))])


def _fits(values: npt.NDArray[Any], dtype: np.dtype[Any]) -> bool:
    about = np.iinfo(dtype)
    return bool(values.min() >= about.min and values.max() <= about.max)


def _lists(values: Sequence[Any] | npt.NDArray[Any], kind: pa.DataType, nan_is_null: bool) -> pa.Array:
    validity = _validity([value is not None for value in values])
    if pa.types.is_fixed_size_list(kind):
        size = kind.list_size
        if any(value is not None and len(value) != size for value in values):
            raise ValueError(f"a list that hasn't {size} values")
        flat = [one for value in values for one in ([None] * size if value is None else value)]
        return _of(kind, len(values), [validity], [column(flat, kind.value_type, nan_is_null=nan_is_null)])
    flat = [one for value in values if value is not None for one in value]
    ends = _ends([0 if value is None else len(value) for value in values])
    return _of(kind, len(values), [validity, ends], [column(flat, kind.value_type, nan_is_null=nan_is_null)])


def _of(kind: pa.DataType, n: int, buffers: list[pa.Buffer | None], children: Sequence[pa.Array] = ()) -> pa.Array:
    return pa.Array.from_buffers(kind, n, buffers, children=list(children) or None)


def _ends(lengths: Sequence[int]) -> pa.Buffer:
    ends = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(np.array(lengths, dtype=np.int64), out=ends[1:])
    if ends[-1] >= 2**31:
        raise OverflowError("2 GiB of text or more in one column")
    return pa.py_buffer(ends.astype(np.int32))


def _validity(is_there: Sequence[bool] | npt.NDArray[np.bool_]) -> pa.Buffer | None:
    if len(is_there) == 0 or all(is_there):
        return None
    return pa.py_buffer(np.packbits(np.asarray(is_there, dtype=np.bool_), bitorder="little"))
