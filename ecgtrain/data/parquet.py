"""Tables that come with a run, which may come from anywhere: bounded before they are read."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ecgstore.inner import unpacked_bytes

#: More than the largest set of ECGs known has records, and what a table of so many takes.
MAX_ROWS, MAX_BYTES, MAX_FOOTER_BYTES = 50_000_000, 4_000_000_000, 16_000_000
#: All its values, unpacked.
MAX_UNPACKED_BYTES = 4_000_000_000
#: A footer, its length, and the mark at the end.
_TAIL_BYTES = 8


def read_table(path: Path, columns: Mapping[str, pa.DataType], optional: frozenset[str] = frozenset()) -> pa.Table:
    """Those ``columns`` of a Parquet file, by name and type; one that is ``optional`` may be missing, and is null then.

    Raises ValueError in one line where the file is no such table, or larger than a table of records can be, and
    OSError where it can't be read.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise ValueError("not a plain file")
        if not 3 * _TAIL_BYTES <= about.st_size <= MAX_BYTES:
            raise ValueError(f"{about.st_size} bytes are no table of records")
        file.seek(-_TAIL_BYTES, os.SEEK_END)
        tail = file.read(_TAIL_BYTES)
        if tail[4:] != b"PAR1" or int.from_bytes(tail[:4], "little") > min(MAX_FOOTER_BYTES, about.st_size):
            raise ValueError("not a Parquet file, or one with a footer of absurd size")
        try:
            return _read(pa.PythonFile(file, mode="r"), columns, optional)
        except (pa.ArrowException, OSError, KeyError, TypeError, OverflowError, MemoryError) as error:
            raise ValueError(" ".join(str(error).split())[:200]) from error


def _read(file: pa.NativeFile, columns: Mapping[str, pa.DataType], optional: frozenset[str]) -> pa.Table:
    bounds = {"thrift_string_size_limit": MAX_FOOTER_BYTES, "thrift_container_size_limit": 1_000_000}
    table = pq.ParquetFile(file, pre_buffer=False, **bounds)
    about = table.metadata
    n_bytes = sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))
    if about.num_rows > MAX_ROWS or n_bytes > MAX_BYTES:
        raise ValueError(f"{about.num_rows} rows of {n_bytes} bytes are no table of records")
    there = [name for name in columns if name in table.schema_arrow.names]
    missing = [name for name in columns if name not in there and name not in optional]
    if missing:
        raise ValueError(f"no column {', '.join(missing)}")
    # Texts come as indices into a list first: a few bytes can stand for gigabytes.
    texts = [name for name in there if columns[name] == pa.string()]
    # Not read_table: its threads can abort the process at its end (apache/arrow#34314).
    found = pq.ParquetFile(file, read_dictionary=texts, pre_buffer=False, **bounds).read(
        columns=there, use_threads=False
    )
    if (n_bytes := unpacked_bytes(found)) > MAX_UNPACKED_BYTES:
        raise ValueError(f"{n_bytes} bytes, unpacked, are no table of records")
    whole = {
        name: found[name].cast(kind) if name in there else pa.nulls(found.num_rows, kind)
        for name, kind in columns.items()
    }
    table_of_ours = pa.table(whole)
    table_of_ours.validate(full=True)  # Arrow takes any bytes for a text
    return table_of_ours.replace_schema_metadata(found.schema.metadata)
