"""The headers of a source, read once: a table of them spares the second reading.

The table is input like any other: each of its rows has a checksum, and what doesn't fit is read from its header again.
"""

from __future__ import annotations

import itertools
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ecgstore.build.schedule import Cluster
from ecgstore.errors import ConfigError, RecordError
from ecgstore.record import RecordRef, Rejection
from ecgstore.storage import publish, tables
from ecgstore.storage.arrow import column
from ecgstore.storage.plain import open_plain
from ecgstore.wfdb_io.files import refuse_outside
from ecgstore.wfdb_io.header import Header, SignalLayout, header_from_row, header_to_row
from ecgstore.wfdb_io.parse import MAX_HZ, MAX_VALUES, MIN_HZ
from ecgstore.wfdb_io.segments import read_header_and_comments, segment_names

#: A header that takes longer than this to open stands on a slow file system: many are then read at a time.
SLOW_S = 0.0005
READ_AHEAD = 16
_TRIAL, _SLICE = 64, 4096

#: What header_to_row gives besides the rate.
OF_HEADER = [
    ("n_samples", pa.int64()),
    ("plain", pa.int8()),
    ("layout", pa.dictionary(pa.int32(), pa.string())),
    ("files", pa.list_(pa.string())),
    ("stated", pa.binary()),
    ("sha256", pa.string()),
    ("samples_per_frame", pa.int32()),
    ("segments", pa.string()),
    ("warnings", pa.list_(pa.string())),
]
SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("size", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("comments", pa.list_(pa.string())),
        ("fs_hz", pa.float64()),
        *OF_HEADER,
        ("crc32", pa.int64()),
    ]
)
#: What the checksum of a row is of.
_CHECKED = [name for name in SCHEMA.names if name != "crc32"]

#: A record, its header or why it has none, and its header's comment lines.
Read = tuple[RecordRef, Header | Rejection, tuple[str, ...]]


def read_headers(
    refs: Sequence[RecordRef],
    root: Path,
    table: Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    cluster: Cluster | None = None,
) -> Iterator[Read]:
    """Read the header of every record, in order, here or by the workers of ``cluster``.

    ``table``, if given, holds plain headers read before, which are valid as long as their files have the same size
    and time of change; it is written anew where it lacked some. It holds what the headers' comments say, too.
    """
    known = _Known(table)
    new: list[pa.RecordBatch] = []
    size = _SLICE if cluster is None else max(_SLICE, cluster.at_once)
    with _reader(refs) if cluster is None else nullcontext(cluster) as by:
        for first in range(0, len(refs), size):
            some = refs[first : first + size]
            if table is None:
                yield from _map(_read, some, by)
            else:
                names = [str(ref.path)[len(str(root)) + 1 :] for ref in some]
                asked = list(zip(some, names, known.rows(names), strict=True))
                outcomes = list(_map(_read_unless_known, asked, by))
                rows = [row for _, row in outcomes if row is not None]
                if rows:
                    new.append(_batch(rows))
                known.keep([row is None and not isinstance(header, Rejection) for (_, header, _), row in outcomes])
                yield from (read for read, _ in outcomes)
            if progress is not None:
                progress("scan", first + len(some), len(refs))
    if table is not None and (new or known.is_larger):
        whole = pa.concat_tables([known.remembered(), pa.Table.from_batches(new, SCHEMA)]).unify_dictionaries()
        publish.write_bytes(table, tables.to_parquet(whole))


def _read(ref: RecordRef) -> Read:
    try:
        return ref, *read_header_and_comments(ref.path, ref.record_id)
    except RecordError as error:
        return ref, Rejection(error.record_id, error.reason, error.detail), ()


def _read_unless_known(
    asked: tuple[RecordRef, str, dict[str, Any] | None],
) -> tuple[Read, dict[str, Any] | None]:
    """The header from its row, if its file is as it was; else from the file, with a new row for the next time."""
    ref, name, row = asked
    try:
        status = os.stat(f"{ref.path}.hea")  # noqa: PTH116 a Path costs more
    except OSError:
        return _read(ref), None
    if row is not None and (row["size"], row["mtime_ns"]) == (status.st_size, status.st_mtime_ns):
        known = _header_of(row)
        if known is not None:
            return (ref, known, tuple(row["comments"])), None
    read = _read(ref)
    _, header, comments = read
    # What a header without a length or of several segments says hangs on other files too: it is read every time.
    if isinstance(header, Rejection) or not header.plain:
        return read, None
    file = {"path": name, "size": status.st_size, "mtime_ns": status.st_mtime_ns, "comments": list(comments)}
    row = file | header_to_row(header)
    return read, {**row, "crc32": _crc32(row)}


def _crc32(row: Mapping[str, Any]) -> int:
    return zlib.crc32(repr([row[name] for name in _CHECKED]).encode(errors="surrogatepass"))


def _header_of(row: Mapping[str, Any]) -> Header | None:
    """The header that a row holds; None where it isn't the row that was written, or no header that could be read."""
    if row["crc32"] != _crc32(row):
        return None
    try:
        header = header_from_row(row)
        refuse_outside(header.files, "signal", "")
    except (ValueError, TypeError, KeyError, IndexError, RecursionError, RecordError):
        return None
    n_signals = len(header.lead_names)
    of_each = {len(getattr(header.layout, name)) for name in SignalLayout.__slots__}
    is_possible = (
        header.plain
        and MIN_HZ <= header.fs_hz <= MAX_HZ
        and 0 < header.n_samples * n_signals <= MAX_VALUES
        and of_each == {n_signals}
        and len(header.stated) == 8 * n_signals
    )
    return header if is_possible else None


def _reader(refs: Sequence[RecordRef]) -> Any:
    """Threads where waiting for the file system is the work; none where parsing is."""
    some = refs[:_TRIAL] if len(refs) > _SLICE else ()
    began = time.perf_counter()
    for ref in some:
        with suppress(OSError):
            os.close(os.open(f"{ref.path}.hea", os.O_RDONLY | os.O_NONBLOCK))
    is_slow = time.perf_counter() - began > len(some) * SLOW_S
    return ThreadPoolExecutor(READ_AHEAD) if some and is_slow else nullcontext()


def _map(function: Callable[[Any], Any], items: Sequence[Any], by: Executor | Cluster | None) -> Iterator[Any]:
    return map(function, items) if by is None else by.map(function, items)


class _Known:
    """Headers read before, held as Arrow: a million of them as Python objects would take gigabytes."""

    def __init__(self, path: Path | None) -> None:
        self._table = pa.Table.from_batches([], SCHEMA) if path is None or not path.exists() else _load(path)
        self._keep = np.zeros(self._table.num_rows, dtype=np.bool_)
        self._cursor = 0
        self._row_of: dict[str, int] | None = None
        self._places: list[int] = []

    def rows(self, names: Sequence[str]) -> list[dict[str, Any] | None]:
        """The rows of these records, None for those that are not there; quickest in the order of the table."""
        ahead = self._table.slice(self._cursor, len(names))
        if ahead["path"].to_pylist() == names:
            self._places = list(range(self._cursor, self._cursor + len(names)))
            self._cursor += len(names)
            found: list[dict[str, Any] | None] = ahead.to_pylist()
            return found
        if self._row_of is None:
            self._row_of = {name: row for row, name in enumerate(self._table["path"].to_pylist())}
        self._places = [self._row_of.get(name, -1) for name in names]
        taken = iter(self._table.take(column([place for place in self._places if place >= 0], pa.int64())).to_pylist())
        return [next(taken) if place >= 0 else None for place in self._places]

    def keep(self, hold: Sequence[bool]) -> None:
        """Say which of the rows given last still hold."""
        for place, holds in zip(self._places, hold, strict=True):
            if place >= 0:
                self._keep[place] = holds

    @property
    def is_larger(self) -> bool:
        """Whether the table has rows that no record asked for, or that don't hold."""
        return not bool(self._keep.all())

    def remembered(self) -> pa.Table:
        """The rows that still hold."""
        return self._table.filter(column(self._keep, pa.bool_()))


def _batch(rows: Sequence[dict[str, Any]]) -> pa.RecordBatch:
    arrays = [column([row.get(field.name) for row in rows], field.type) for field in SCHEMA]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def _load(path: Path) -> pa.Table:
    try:
        with open_plain(path) as file:
            table = tables.from_parquet(file.read())
        if table.column_names in (_CHECKED, _CHECKED[:-1]):
            # Of a release before rows had a checksum, or warnings: headers are read anew.
            return pa.Table.from_batches([], SCHEMA)
        found = table.select(SCHEMA.names).cast(SCHEMA)
        found.validate(full=True)
        return found
    except (OSError, ValueError, KeyError, MemoryError, pa.ArrowException) as error:
        got = " ".join(str(error).split())[:160]
        raise ConfigError("not a table of scanned headers", where=path, got=got, fix="delete it") from None


def without_segments(refs: Sequence[RecordRef], outcomes: Sequence[Any]) -> list[Any]:
    """``outcomes``, one for each of ``refs``, less those of records that another record names as its segments.

    An outcome has a ``header``, or is the rejection of a record, whose header is then looked into for this alone.
    """
    parts: set[str] = set()
    for ref, outcome in zip(refs, outcomes, strict=True):
        header = getattr(outcome, "header", None)
        if header is None or header.segments:
            parts.update(f"{ref.path.parent}/{name}" for name in segment_names(ref.path))
    if not parts:
        return list(outcomes)
    pairs = zip(refs, outcomes, strict=True)
    return list(itertools.compress(outcomes, [str(ref.path) not in parts for ref, _ in pairs]))
