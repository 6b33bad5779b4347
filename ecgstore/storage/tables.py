"""The tables of a store as Arrow, and their bytes. Pure; column names are docs/format.md's."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecgstore.record import Beat
from ecgstore.storage import batches, footers
from ecgstore.storage.arrow import dtype_of
from ecgstore.storage.layout import LEADS, MEASURES, RECORDS
from ecgstore.storage.limits import limits

#: Rows of a row group of the tables with a row for each record: what is asked about one record unpacks no more of
#: them, and who writes them holds no more.
RECORDS_PER_GROUP = 1 << 17
#: Rows of a row group of any other.
MOST_PER_GROUP = 1 << 20
#: Columns of quality, one number per record: the worst of its leads.
WORST = [(name, pa.float32()) for name in MEASURES]
#: What is known of a record once its samples stand in the store.
WRITTEN = [
    ("lead_states", pa.string()),
    ("n_clipped", pa.int64()),
    ("n_not_recorded", pa.int64()),
    *WORST,
    ("einthoven_mv", pa.float32()),
    ("suspects", pa.string()),
    ("signature", pa.uint64()),
    ("heart_rate_bpm", pa.float32()),
    ("sqi", pa.float32()),
    ("noise_rms_mv", pa.float32()),
    ("snr_db", pa.float32()),
    ("source_crc32", pa.int64()),
    ("crc32", pa.int64()),
    ("warnings", pa.string()),
]
RECORDS_SCHEMA = pa.schema(
    [
        ("record_id", pa.string()),
        ("patient_key", pa.string()),
        ("source", pa.string()),
        ("site", pa.string()),
        ("start", pa.int64()),
        ("n_samples", pa.int64()),
        ("shard", pa.int32()),
        ("fold", pa.int16()),
        ("age_years", pa.float32()),
        ("sex", pa.string()),
        ("source_fs_hz", pa.float64()),
        *WRITTEN,
    ]
)
STATEMENTS_SCHEMA = pa.schema(
    [("row", pa.int64()), ("code", pa.string()), ("system", pa.string()), ("likelihood", pa.float32())]
)
#: What else an annotation says; these columns are there only where the store has annotations.
ANNOTATION = [
    ("annotator", pa.string()),
    ("note", pa.string()),
    ("subtype", pa.int16()),
    ("channel", pa.int16()),
    ("num", pa.int16()),
]
BEATS_SCHEMA = pa.schema([("row", pa.int64()), ("sample", pa.int64()), ("symbol", pa.string()), *ANNOTATION])
SPLIT_SCHEMA = pa.schema([("record_id", pa.string()), ("fold", pa.int16())])
REJECTED_SCHEMA = pa.schema([("record_id", pa.string()), ("reason", pa.string()), ("detail", pa.string())])


def leads_schema(n_leads: int) -> pa.Schema:
    """One list of ``n_leads`` numbers per record and column; gain and baseline are null but in a raw store."""
    return pa.schema(
        [(name, pa.list_(pa.float32(), n_leads)) for name in MEASURES]
        + [("gain_per_mv", pa.list_(pa.float64(), n_leads)), ("baseline", pa.list_(pa.int32(), n_leads))]
    )


def commit_schema(n_leads: int, *, annotated: bool = True) -> pa.Schema:
    """What a task says of its records. Columns of :func:`leads_schema` are prefixed with ``leads.``.

    ``annotated``: whether any of them has annotations, which then have all their columns.
    """
    per_lead = [(f"leads.{field.name}", field.type) for field in leads_schema(n_leads)]
    beats = [("beats.sample", pa.list_(pa.int64())), ("beats.symbol", pa.list_(pa.string()))]
    beats += [(f"beats.{name}", pa.list_(kind)) for name, kind in ANNOTATION if annotated]
    return pa.schema([("record_id", pa.string()), *WRITTEN, *per_lead, *beats])


def rows_per_group(name: str) -> int:
    """Rows of a row group of the table ``name``, an object of a store."""
    return RECORDS_PER_GROUP if name in (RECORDS, LEADS) else MOST_PER_GROUP


def to_parquet(table: pa.Table, name: str = "") -> bytes:
    """The table as one Parquet file, the same bytes for the same table; ``name``: of an object of a store."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", row_group_size=rows_per_group(name))
    return bytes(sink.getvalue())


def from_parquet(content: bytes) -> pa.Table:
    """Read such bytes back."""
    return columns_of(pq.ParquetFile(pa.BufferReader(content), pre_buffer=False), content)


def columns_of(file: pq.ParquetFile, content: bytes) -> pa.Table:
    """All columns of a Parquet file, of which these are the bytes.

    Not by ``pyarrow.parquet.read_table``: the threads that it leaves behind abort the process at its end, half
    of the times, where torch was imported first (apache/arrow#34314).
    """
    try:
        return file.read(use_threads=False)
    except pa.ArrowInvalid:
        # Before pyarrow 26 no list of a fixed length could be null, and a store that is not raw has no gains.
        if not (absent := _lists_without_a_value(file, content)):
            raise
        return without_lists(file, absent)


def without_lists(file: pq.ParquetFile, absent: frozenset[str]) -> pa.Table:
    """All columns of a Parquet file, of which the ``absent`` are not read: each of their rows is null."""
    schema = file.schema_arrow
    found = file.read([name for name in schema.names if name not in absent], use_threads=False)
    for i, field in enumerate(schema):
        if field.name in absent:
            found = found.add_column(i, field, pa.nulls(file.metadata.num_rows, field.type))
    return found


def _lists_without_a_value(file: pq.ParquetFile, content: bytes) -> frozenset[str]:
    """Columns of lists of a fixed length of which the footer says that no row has one."""
    lists = {field.name for field in file.schema_arrow if pa.types.is_fixed_size_list(field.type)}
    n_nulls = Counter[str]()
    for group in footers.groups_of(content):
        for column in group.columns:
            n_nulls[column.name.partition(".")[0]] += min(column.n_nulls or 0, column.n_values)
    return frozenset(name for name in lists if n_nulls[name] == file.metadata.num_rows)


def unpacked_bytes(table: pa.Table) -> int:
    """Bytes of all values where those that come as indices into a list are written out, once for each row."""
    return sum(_unpacked_bytes(chunk) for column in table.columns for chunk in column.chunks)


def _unpacked_bytes(array: pa.Array) -> int:
    kind = array.type
    if pa.types.is_dictionary(kind):
        return int(pc.sum(pc.take(pc.binary_length(array.dictionary), array.indices)).as_py() or 0)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _unpacked_bytes(array.flatten())
    if pa.types.is_struct(kind):
        return sum(_unpacked_bytes(field) for field in array.flatten())
    return int(array.nbytes)


def to_arrow(table: pa.Table, about: Mapping[str, Any]) -> bytes:
    """The table and a JSON text beside it as one Arrow IPC file."""
    sink = pa.BufferOutputStream()
    table = table.replace_schema_metadata({"about": json.dumps(about, separators=(",", ":"), sort_keys=True)})
    # Without threads, as in columns_of: one that lets go of the last of something as the process ends, aborts it.
    how = pa.ipc.IpcWriteOptions(compression="zstd", use_threads=False)
    with pa.ipc.new_file(sink, table.schema, options=how) as file:
        file.write_table(table)
    return bytes(sink.getvalue())


def from_arrow(content: bytes) -> tuple[pa.Table, dict[str, Any]]:
    """Read such bytes back; raises ValueError or KeyError where they are not whole, or too large when unpacked."""
    if (n_bytes := batches.size_of(content).n_bytes) > limits().decoded_bytes:
        raise ValueError(f"{n_bytes} bytes when unpacked, {limits().decoded_bytes} at most")
    with pa.ipc.open_file(pa.BufferReader(content), options=pa.ipc.IpcReadOptions(use_threads=False)) as file:
        table = file.read_all()
    return table.replace_schema_metadata(None), json.loads(table.schema.metadata[b"about"])


def numbers(column: pa.ChunkedArray, null: float | None = None) -> npt.NDArray[Any]:
    """A column of numbers or truths as NumPy, ``null`` in the place of each that lacks.

    Not by pyarrow's ``to_numpy``: where pandas is installed, that imports it, which takes longer than opening a store.
    """
    parts = [_numbers(chunk, null) for chunk in column.chunks]
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.empty(0, dtype_of(column.type))


def _numbers(chunk: pa.Array, null: float | None) -> npt.NDArray[Any]:
    validity, values = chunk.buffers()
    first, end = chunk.offset, chunk.offset + len(chunk)
    if pa.types.is_boolean(chunk.type):
        found = _truths(values, first, end)
    else:
        found = np.frombuffer(values or b"", dtype_of(chunk.type))[first:end]
    if not chunk.null_count:
        return found
    if null is None:
        raise ValueError("a column lacks a value")
    return np.where(_truths(validity, first, end), found, np.asarray(null, found.dtype))


def _truths(bits: pa.Buffer, first: int, end: int) -> npt.NDArray[np.bool_]:
    return np.unpackbits(np.frombuffer(bits or b"", np.uint8), count=end, bitorder="little")[first:].view(np.bool_)


class ByRecord:
    """A table that stands in the order of the records, asked for one of them."""

    def __init__(self, table: pa.Table) -> None:
        # One array per column: its rows are found and turned into Python many times as fast as those of a table.
        self._columns = {name: table[name].combine_chunks() for name in table.column_names}
        self._row = numbers(table["row"])

    def of(self, row: int) -> list[dict[str, Any]]:
        """What it says of the record with this number, from 0 on."""
        first, last = self._row.searchsorted([row, row + 1]).tolist()
        its = [column[first:last].to_pylist() for column in self._columns.values()]
        return [dict(zip(self._columns, values, strict=True)) for values in zip(*its, strict=True)]


def renumbered(table: pa.Table, kept_n: npt.NDArray[np.bool_], first: int = 0) -> pa.Table:
    """Rows of a table that belong to records that are kept, by their new numbers: ``first`` and on."""
    row = numbers(table["row"])
    number_n = np.cumsum(kept_n) - 1 + first
    its = table.filter(pa.array(kept_n[row]))
    return its.set_column(its.column_names.index("row"), "row", pa.array(number_n[row[kept_n[row]]], pa.int64()))


def beat_of(about: Mapping[str, Any], fs_hz: float) -> Beat:
    """One row of the table of beats, which in older stores has fewer columns."""
    more = {name: about[name] for name, _ in ANNOTATION if about.get(name) is not None}
    return Beat(about["sample"] / fs_hz, about["symbol"], **more)
