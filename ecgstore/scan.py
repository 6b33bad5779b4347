"""The headers of a source, read once: what is there before any work, and a table that spares the second reading."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from ecgstore import publish, tables, wfdb_io
from ecgstore.errors import ConfigError, RecordError
from ecgstore.record import RecordRef, Rejection

#: A header that takes longer than this to read stands on a slow file system: many are then read at a time.
SLOW_S = 0.0005
READ_AHEAD = 16
_TRIAL = 64

SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("size", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("header", pa.string()),
        ("comments", pa.list_(pa.string())),
    ]
)


@dataclass(frozen=True, slots=True)
class Known:
    """A header as it was read before: valid as long as its file has this size and this time of change."""

    size: int
    mtime_ns: int
    header: str
    comments: tuple[str, ...]


Read = tuple[RecordRef, "wfdb_io.Header | Rejection", tuple[str, ...]]


def read_headers(
    refs: Sequence[RecordRef],
    root: Path,
    table: Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Iterator[Read]:
    """Read the header of every record, in order: the record, its header or why it has none, its comment lines.

    ``table``, if given, holds headers read before; it is written anew where it lacked some.
    """
    known = load(table) if table is not None and table.exists() else {}
    read: dict[str, Known] = {}
    prefix = len(str(root)) + 1

    def one(ref: RecordRef) -> Read:
        name = str(ref.path)[prefix:]
        try:
            status = os.stat(f"{ref.path}.hea") if table is not None else None  # noqa: PTH116 a Path costs more
            found = known.get(name)
            if found and status and (found.size, found.mtime_ns) == (status.st_size, status.st_mtime_ns):
                read[name] = found
                return ref, wfdb_io.header_from_row(json.loads(found.header)), found.comments
            header, comments = wfdb_io.read_header_and_comments(ref.path, ref.record_id)
        except RecordError as error:
            return ref, Rejection(error.record_id, error.reason, error.detail), ()
        except OSError:
            return ref, Rejection(ref.record_id, "missing_header", f"{ref.path.name}.hea"), ()
        if status is not None:
            row = json.dumps(wfdb_io.header_to_row(header))
            read[name] = Known(status.st_size, status.st_mtime_ns, row, comments)
        return ref, header, comments

    for done, outcome in enumerate(_as_fast_as_fits(one, refs), start=1):
        yield outcome
        if progress is not None and (done % 64 == 0 or done == len(refs)):
            progress("scan", done, len(refs))
    if table is not None and read != known:
        save(table, read)


def _as_fast_as_fits(one: Callable[[RecordRef], Read], refs: Sequence[RecordRef]) -> Iterator[Read]:
    """One thread where parsing is the work, many where waiting for the file system is."""
    waiting = iter(refs)
    began = time.perf_counter()
    yield from map(one, itertools.islice(waiting, _TRIAL))
    if time.perf_counter() - began < _TRIAL * SLOW_S:
        yield from map(one, waiting)
        return
    with ThreadPoolExecutor(READ_AHEAD) as pool:
        # In slices: the pool would otherwise take all records on at once.
        while some := list(itertools.islice(waiting, 1024)):
            yield from pool.map(one, some)


def load(path: Path) -> dict[str, Known]:
    """Read a table that :func:`save` wrote, by the record's path below its source; raises ConfigError if it is none."""
    try:
        columns = tables.from_parquet(path.read_bytes()).select(SCHEMA.names).to_pydict()
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError("not a table of scanned headers", where=path, got=str(error), fix="delete it") from None
    rows = zip(*(columns[name] for name in SCHEMA.names), strict=True)
    return {path: Known(size, mtime_ns, header, tuple(comments)) for path, size, mtime_ns, header, comments in rows}


def save(path: Path, read: dict[str, Known]) -> None:
    """Write headers down for the next time. They may hold what the source's header comments hold."""
    values: Iterable[Known] = read.values()
    columns = {"path": list(read)} | {
        name: [getattr(one, name) for one in values] for name in ("size", "mtime_ns", "header", "comments")
    }
    publish.write_bytes(path, tables.to_parquet(pa.table(columns, schema=SCHEMA)))
