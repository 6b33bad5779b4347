"""Whether the tables of a store are what docs/format.md says: their sizes before they are read, then each column.

Checked in whole columns, so that a million records cost hundredths of a second.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecgstore.errors import REASONS, EcgError
from ecgstore.storage import footers, layout, tables
from ecgstore.storage import validate_values as values
from ecgstore.storage.blocks import Blocks
from ecgstore.storage.limits import FIX, limits
from ecgstore.storage.validate import refuse

#: Columns of ``records.parquet`` that each version has; what came later may be there.
_V1 = ["record_id", "patient_key", "source", "start", "n_samples", "shard", "fold", "age_years", "sex", "lead_states"]
_V1 += ["n_clipped", "n_not_recorded", "source_fs_hz", "source_crc32", "crc32", "warnings"]
_V2 = [*_V1, *layout.MEASURES, "site", "einthoven_mv", "suspects", "signature", "heart_rate_bpm", "sqi"]
_V2 += ["noise_rms_mv", "snr_db"]
#: Those that are never null.
_STATED = ["record_id", "source", "start", "n_samples", "shard", "source_fs_hz", "lead_states"]
_STATED += ["n_clipped", "n_not_recorded", "source_crc32", "crc32", "warnings"]
_STATED_SINCE_2 = ["suspects", "signature"]
#: A text column is read as it is where its file holds so many bytes per row, or it is small in any case: such a column
#: can't grow without bounds. Any other is read as indices into a list of texts first, and weighed.
_PLAIN_BYTES_PER_ROW = 12
#: Columns that say together where a record is.
PLACES = ("start", "n_samples", "shard")
#: What numbers are, least and most.
_RANGES: dict[str, tuple[float, float]] = {
    "fold": (0, 32767),
    "age_years": (0, 150),
    "source_fs_hz": (1e-3, 1e7),
    "crc32": (0, 2**32 - 1),
    "source_crc32": (0, 2**32 - 1),
    **dict.fromkeys(("flat_fraction", "clipped_fraction", "missing_fraction"), (0, 1)),
    # Of counts with an odd gain they can be beyond float32, which is infinite.
    **dict.fromkeys(("hf_noise_mv", "mains_mv", "baseline_mv", "range_mv", "einthoven_mv"), (0, math.inf)),
    **dict.fromkeys(("heart_rate_bpm", "noise_rms_mv"), (0, math.inf)),
    **dict.fromkeys(("sqi", "snr_db"), (-math.inf, math.inf)),
}
#: Of the footer of a Parquet file.
_THRIFT_BYTES, _THRIFT_ITEMS = 16 << 20, 1 << 20
_STRING = pa.string()

T = TypeVar("T")


# --- reading ------------------------------------------------------------------------------------------------------


def parse_table(content: bytes, name: str, n_leads: int, version: int, where: object) -> pa.Table:
    """The table ``name`` from the bytes of its Parquet file, with the columns and types of the format.

    Some texts may come as indices into a list of texts, until :func:`plain_texts` has weighed them.
    """
    return parse_bounded(content, lambda file: _check_footer(file, name, n_leads, version, where), where)


class BoundedFile(pq.ParquetFile):  # type: ignore[misc]
    """A file of which only the footer has been read. The texts ``weighed`` come as indices into a list."""

    def __init__(self, content: bytes | Blocks, weighed: Sequence[str] = ()) -> None:
        bounds = {"thrift_string_size_limit": _THRIFT_BYTES, "thrift_container_size_limit": _THRIFT_ITEMS}
        if isinstance(content, bytes):
            super().__init__(pa.BufferReader(content), read_dictionary=list(weighed), pre_buffer=False, **bounds)
        else:
            # Of the footer as a file of its own: Arrow would fetch 64 KiB to look for it.
            about = pq.ParquetFile(pa.BufferReader(_end_of(content)), pre_buffer=False, **bounds).metadata
            source = pa.PythonFile(content.file(), mode="r")
            super().__init__(source, metadata=about, read_dictionary=list(weighed), pre_buffer=False, **bounds)
        self._content = content

    @functools.cached_property
    def groups(self) -> list[footers.Group]:
        """Its groups of rows. Arrow isn't asked for them: it ends the process where a footer contradicts itself."""
        content = self._content
        return footers.groups_of(content if isinstance(content, bytes) else _end_of(content))

    def have_here(self, names: Collection[str], group: int | None) -> None:
        """Fetch these columns, of one group of rows or of all, if they are elsewhere."""
        if isinstance(self._content, bytes):
            return
        groups = self.groups if group is None else [self.groups[group]]
        columns = (column for its in groups for column in its.columns if column.name.partition(".")[0] in names)
        self._content.fetch((column.begin, column.begin + column.n_packed) for column in columns)


def _end_of(content: Blocks) -> bytes:
    """The footer, and four bytes before it, so that it doesn't begin the file."""
    n_bytes = int.from_bytes(content.part(len(content) - 8, len(content) - 4), "little")
    return content.part(len(content) - 12 - n_bytes, len(content))


def open_table(content: bytes | Blocks, name: str, n_leads: int, version: int, where: object) -> BoundedFile:
    """The same, of which no column is read yet: each is by :func:`plain_errors`."""
    return plain_errors(
        lambda: _opened(content, lambda file: _check_footer(file, name, n_leads, version, where)), where
    )


def parse_bounded(content: bytes, check: Callable[[BoundedFile], None], where: object) -> pa.Table:
    """A table whose footer ``check`` passes, before any of its columns is read; texts as in :func:`parse_table`."""
    return plain_errors(lambda: tables.columns_of(_opened(content, check), content), where)


def _opened(content: bytes | Blocks, check: Callable[[BoundedFile], None]) -> BoundedFile:
    file = BoundedFile(content)
    check(file)
    weighed = _texts_to_weigh(file.groups)
    return BoundedFile(content, weighed) if weighed else file


def plain_errors(read: Callable[[], T], where: object) -> T:
    """What ``read`` gives of a table; raises StoreFormatError in one line where it can't be read."""
    try:
        return read()
    except (pa.ArrowException, OSError, ValueError, TypeError, MemoryError, OverflowError) as error:
        if isinstance(error, EcgError):
            raise
        refuse("a table can't be read", where, got=" ".join(str(error).split())[:160] or type(error).__name__)


def _expected(name: str, n_leads: int, version: int) -> tuple[pa.Schema, frozenset[str]]:
    """All columns that the table may have, in their order, and those that it must have."""
    schema: pa.Schema = {
        layout.RECORDS: tables.RECORDS_SCHEMA,
        layout.LEADS: tables.leads_schema(n_leads),
        layout.STATEMENTS: tables.STATEMENTS_SCHEMA,
        layout.BEATS: tables.BEATS_SCHEMA,
        layout.REJECTED: tables.REJECTED_SCHEMA,
        layout.SPLIT: tables.SPLIT_SCHEMA,
    }[name]
    needed = {
        layout.RECORDS: _V1 if version == 1 else _V2,
        layout.LEADS: [*layout.MEASURES, "gain_per_mv", "baseline"],
        layout.STATEMENTS: ["row", "code", "system", "likelihood"],
        layout.BEATS: ["row", "sample", "symbol"],
        layout.REJECTED: ["record_id", "reason", "detail"],
        layout.SPLIT: ["record_id", "fold"],
    }[name]
    return schema, frozenset(needed)


def _check_footer(file: BoundedFile, name: str, n_leads: int, version: int, where: object) -> None:
    schema, needed = _expected(name, n_leads, version)
    check_size(file, n_leads, where)
    found = file.schema_arrow
    for column in sorted(needed - set(found.names)):
        refuse("a table lacks a column", where, column)
    for field in found:
        if field.name not in schema.names:
            refuse("a table has a column that the format doesn't know", where, got=field.name)
        if not _same_type(field.type, schema.field(field.name).type):
            refuse(f"column {field.name} has a wrong type", where, schema.field(field.name).type, str(field.type))
    if version > 1 and name != layout.SPLIT and found.names != [one for one in schema.names if one in found.names]:
        refuse("the columns of a table stand in another order", where, ", ".join(schema.names[:3]) + ", …")
    check_width(file, where)


def check_size(file: BoundedFile, values_per_row: int, where: object) -> None:
    """Raise StoreFormatError where a table has too many rows, values or columns of one name."""
    bounds, about = limits(), file.metadata
    if about.num_rows > bounds.rows:
        refuse("a table has too many rows", where, f"{bounds.rows} at most", about.num_rows, FIX)
    if about.num_row_groups > bounds.row_groups:
        refuse("a table has too many row groups", where, f"{bounds.row_groups} at most", about.num_row_groups, FIX)
    if about.num_row_groups * about.num_columns > bounds.chunks:
        most = f"{bounds.chunks} columns in all row groups at most"
        refuse("a table has too many row groups", where, most, about.num_row_groups * about.num_columns, FIX)
    if len(set(file.schema_arrow.names)) != len(file.schema_arrow.names):
        refuse("a table has a column twice", where)
    if [len(group.columns) for group in file.groups] != [about.num_columns] * about.num_row_groups:
        refuse("a table lacks a column in some of its rows", where)
    n_rows = [group.n_rows for group in file.groups]
    if sum(n_rows) != about.num_rows or min(n_rows, default=0) < 0:
        refuse("the row groups of a table don't add up", where, f"{about.num_rows} rows", sum(n_rows))
    for column in _columns(file.groups):
        if column.n_values > about.num_rows * values_per_row:
            refuse("a column of a table has too many values", where, f"{about.num_rows * values_per_row} at most")


def check_width(file: BoundedFile, where: object) -> None:
    """Raise StoreFormatError where a table of plain types would be too large in memory."""
    bounds, about = limits(), file.metadata
    n_bytes = sum(_least_bytes(field.type) for field in file.schema_arrow) * about.num_rows
    n_bytes = max(n_bytes, sum(group.n_bytes for group in file.groups))
    if n_bytes > bounds.decoded_bytes:
        refuse("a table is too large in memory", where, f"{bounds.decoded_bytes} bytes at most", n_bytes, FIX)


def _same_type(found: pa.DataType, expected: pa.DataType) -> bool:
    if not pa.types.is_fixed_size_list(expected):
        return bool(found == expected)
    its_own = pa.types.is_fixed_size_list(found) and found.list_size == expected.list_size
    return bool(its_own and found.value_type == expected.value_type)


def _least_bytes(of_type: pa.DataType) -> int:
    """Bytes of one value in memory; of a text, its offset."""
    if pa.types.is_fixed_size_list(of_type):
        return int(of_type.list_size) * _least_bytes(of_type.value_type)
    return 4 if of_type == _STRING else int(of_type.bit_width) // 8


def _columns(groups: list[footers.Group]) -> Iterator[footers.Column]:
    return (column for group in groups for column in group.columns)


def _texts_to_weigh(groups: list[footers.Group]) -> list[str]:
    found = set()
    for column in _columns(groups):
        if column.is_text and column.has_dictionary:
            rows, n_bytes = column.n_values, column.n_bytes
            if n_bytes < _PLAIN_BYTES_PER_ROW * rows and rows * n_bytes > limits().decoded_bytes // 16:
                found.add(column.name)
    return sorted(found)


def plain_texts(table: pa.Table, where: object, n_before: int = 0) -> pa.Table:
    """Texts as such, once it is known that they are short enough, and UTF-8.

    ``n_before``: bytes of those of other columns of the same table.
    """
    room = limits().decoded_bytes - n_before
    for i, field in enumerate(table.schema):
        column = table.column(i)
        if pa.types.is_dictionary(field.type):
            for chunk in column.chunks:
                longest = _refuse_long(field.name, chunk.dictionary, where)
                _refuse_other_text(field.name, chunk.dictionary, where)
                if (n_bytes := longest * len(chunk)) > room:  # that is the most it can be; now for what it is
                    n_bytes = pc.sum(pc.take(pc.binary_length(chunk.dictionary), chunk.indices)).as_py() or 0
                room -= n_bytes
                if room < 0:
                    most = f"{limits().decoded_bytes} bytes at most"
                    refuse("a table is too large in memory", where, most, fix=FIX)
            try:
                table = table.set_column(i, field.name, column.cast(_STRING))
            except (pa.ArrowException, MemoryError) as error:  # more than 2 GB in one piece
                refuse("a table can't be read", where, got=" ".join(str(error).split())[:160])
        elif field.type == _STRING:
            for chunk in column.chunks:
                _refuse_long(field.name, chunk, where)
                _refuse_other_text(field.name, chunk, where)
    return table


def _refuse_long(name: str, texts: pa.Array, where: object) -> int:
    """Bytes of the longest text, or more where all together are no longer than one may be."""
    most = limits().id_bytes if name in ("record_id", "source", "patient_key") else limits().text_bytes
    data = texts.buffers()[2]
    if data is None or data.size <= most:
        return 0 if data is None else int(data.size)
    longest = int(pc.max(pc.binary_length(texts)).as_py() or 0)
    if longest > most:
        refuse(f"a text in column {name} is too long", where, f"{most} bytes at most", longest, FIX)
    return longest


def _refuse_other_text(name: str, texts: pa.Array, where: object) -> None:
    """Arrow takes any bytes for a text. Looked at one by one only where not all are ASCII."""
    data = texts.buffers()[2]
    if data is None:
        return
    byte = np.frombuffer(data, np.uint8)
    n_words = len(byte) // 8
    is_ascii = not np.bitwise_or.reduce(byte[: 8 * n_words].view(np.uint64)) & np.uint64(0x8080808080808080)
    if not is_ascii or (byte[8 * n_words :] > 127).any():
        try:
            texts.validate(full=True)
        except pa.ArrowInvalid:
            refuse(f"column {name} holds a text that is not UTF-8", where)


# --- the columns --------------------------------------------------------------------------------------------------


def check_records(table: pa.Table, where: object, attributes: Mapping[str, Any], total_samples: int) -> None:
    """Every record lies within the signal, apart from all others; every value is one that the format knows.

    Of some columns, those are checked, and of some rows, those; where records lie hangs on three columns together.
    """
    there, n_leads = set(table.column_names), len(attributes["leads"])
    # Of stores of format 1 there are copies of today (`augment`), with null in what was not written then.
    stated = _STATED if "encoding" not in attributes["recipe"] else [*_STATED, *_STATED_SINCE_2]
    values.refuse_null(table, [name for name in stated if name in there], where)
    if there.issuperset(PLACES):
        start, n_samples, shard = (tables.numbers(table[name]) for name in PLACES)
        _check_places(start, n_samples, shard, attributes["shard_samples"], total_samples, where)
        most = limits().record_bytes // (2 * n_leads)
        if len(n_samples) and n_samples.max() > most:
            refuse("a record is too long", where, f"{most} samples at most", int(n_samples.max()), FIX)
    # Where noise was added, what it lifted out of the range stands beside what had been out of it.
    of_values = {"n_clipped": (0, 2 * n_leads * total_samples), "n_not_recorded": (0, n_leads * total_samples)}
    for name, (least, most_of_it) in (_RANGES | of_values).items():
        if name in there:
            values.check_range(table, name, least, most_of_it, where)
    if "sex" in there:
        values.check_words(table, "sex", {"female", "male"}, where)
    if "source" in there:
        values.check_words(table, "source", {source["name"] for source in attributes["sources"]}, where)
    if "lead_states" in there:
        values.check_letters(table, n_leads, where)
    if "record_id" in there:
        values.refuse_empty(table, "record_id", where)
        if attributes.get("record_ids") == "hashed":
            values.check_hashes(table, "record_id", where)
    if "patient_key" in there:
        values.check_hashes(table, "patient_key", where)
    if "fold" in there and attributes["counts_per_mv"] is not None:
        values.check_folds(table, attributes["statistics"], where)
    if "source_fs_hz" in there and attributes["recipe"]["fs_hz"] is None and attributes["fs_hz"] is not None:
        values.check_rate(table, attributes["fs_hz"], where)


def _check_places(
    start: npt.NDArray[np.int64],
    n_samples: npt.NDArray[np.int64],
    shard: npt.NDArray[np.int32],
    shard_samples: int,
    total_samples: int,
    where: object,
) -> None:
    if not len(start):
        return
    if start.min() < 0 or n_samples.min() < 1 or max(start.max(), n_samples.max()) > total_samples:
        refuse("a record lies outside the signal", where, f"within 0 to {total_samples}")
    end = start + n_samples
    if (start[1:] < end[:-1]).any():
        refuse("records overlap, or don't stand in the order of their start", where)
    if end[-1] > total_samples:
        refuse("a record lies outside the signal", where, f"within 0 to {total_samples}", int(end[-1]))
    begin_of_shard = shard.astype(np.int64) * shard_samples
    offset = start - begin_of_shard
    if offset.min() < 0 or offset.max() >= shard_samples:
        refuse("column shard is not the shard in which a record starts", where)
    astride = end - begin_of_shard > shard_samples
    if (astride & (offset > 0)).any():
        refuse("a record straddles two shards", where)


def check_unique_ids(table: pa.Table, where: object) -> None:
    """Every record has an id of its own."""
    if (n_ids := len(pc.unique(table["record_id"]))) != len(table):
        refuse("records share an id", where, f"{len(table)} ids", n_ids)


def check_leads(table: pa.Table, where: object, n_records: int, attributes: Mapping[str, Any]) -> None:
    """One row per record; in a raw store, a baseline for each lead, and a gain, or null where it is not known."""
    values.check_rows(table, n_records, where)
    values.refuse_null(table, [*layout.MEASURES], where)
    for name in layout.MEASURES:
        values.check_lists(table, name, *_RANGES[name], where)
    if attributes["counts_per_mv"] is not None:
        for name in ("gain_per_mv", "baseline"):
            if table[name].null_count < len(table):
                refuse(f"column {name} is for raw stores, and this is none", where, "null in each row")
        return
    values.refuse_null(table, ["gain_per_mv", "baseline"], where)
    if any(chunk.flatten().null_count for chunk in table["baseline"].chunks):
        refuse("column baseline lacks a value", where)
    for chunk in table["gain_per_mv"].chunks:
        gain = tables.numbers(pa.chunked_array([chunk.flatten().drop_null()]))
        if not (np.isfinite(gain) & (gain != 0)).all():
            refuse("a gain is zero, or no number", where)


def check_statements(table: pa.Table, where: object, n_records: int) -> None:
    """Each of a record that is there, in the order of the records."""
    values.refuse_null(table, ["row", "code", "system"], where)
    values.check_row_numbers(table, n_records, where)
    for name in ("code", "system"):
        values.refuse_empty(table, name, where)
    values.check_range(table, "likelihood", 0, 100, where)


def check_beats(table: pa.Table, where: object, n_samples: npt.NDArray[np.int64]) -> None:
    """Each within a record that is there, in the order of the records. ``n_samples``: of each record."""
    values.refuse_null(table, ["row", "sample", "symbol"], where)
    values.check_row_numbers(table, len(n_samples), where)
    sample = tables.numbers(table["sample"])
    if len(sample) and ((sample < 0) | (sample > n_samples[tables.numbers(table["row"])])).any():
        refuse("a beat lies outside its record", where)


def check_rejected(table: pa.Table, where: object) -> None:
    """Each with a reason out of the closed list."""
    values.refuse_null(table, ["record_id", "reason", "detail"], where)
    values.check_words(table, "reason", set(REASONS), where)


def check_split(table: pa.Table, most_folds: int, where: object) -> None:
    """Each record once, in a fold out of 1 to ``most_folds`` or in none."""
    values.refuse_null(table, ["record_id"], where)
    check_unique_ids(table, where)
    values.check_range(table, "fold", 1, most_folds, where)
