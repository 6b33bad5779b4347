"""Whether a store is whole: its files, its tables, and every record by its CRC-32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ecgstore.errors import EcgError, IntegrityError, StoreReplaced, StoreUnreachable, visible
from ecgstore.storage import blocks, layout, manifest, validate, validate_tables
from ecgstore.storage.manifest import Manifest
from ecgstore.storage.objects import Objects
from ecgstore.storage.validate_values import fold_name
from ecgstore.storage.verify_commits import problems_of_commits
from ecgstore.storage.verify_samples import Counted


class Opened(Protocol):
    """What is asked of a :class:`ecgstore.storage.store.Store`."""

    @property
    def path(self) -> str: ...
    @property
    def attributes(self) -> dict[str, Any]: ...
    @property
    def format_version(self) -> int: ...
    @property
    def n_records(self) -> int: ...
    @property
    def n_shards(self) -> int: ...
    @property
    def shard_samples(self) -> int: ...
    @property
    def total_samples(self) -> int: ...
    @property
    def records(self) -> pa.Table: ...
    @property
    def encoding(self) -> str: ...
    @property
    def split_sha256(self) -> str | None: ...
    @property
    def statements(self) -> pa.Table: ...
    @property
    def lead_quality(self) -> pa.Table: ...
    @property
    def beats(self) -> pa.Table: ...
    @property
    def rejected(self) -> pa.Table: ...
    @property
    def spans(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]: ...
    def id_of(self, row: int) -> str: ...
    def read_shard(self, shard: int) -> Any: ...
    def decode(self, begin: int, end: int, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int16]: ...
    def crc32_of(self, counts_lt: npt.NDArray[np.int16]) -> int: ...


def problems_of(
    store: Opened,
    objects: Objects,
    sealed: Manifest,
    *,
    deep: bool,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """One line per problem of an open store; see :meth:`Store.verify`."""
    problems = manifest.verify(objects, sealed, deep=deep, progress=progress)
    bad = {problem.partition(":")[0] for problem in problems}
    problems += _problems_of_tables(store, bad)
    of_commits = problems_of_commits(store, objects, sealed, bad, with_rows=not problems)
    if deep and not problems:
        problems += _problems_of_blocks(store, objects, sealed)
        crc32: dict[int, int] = {}
        counted = Counted(store)
        for shard in range(store.n_shards):
            problems += _problems_of_records(store, shard, crc32, counted)
        # Of samples that are not those that were written, sums say nothing.
        problems += counted.problems_of_statistics() if not problems else []
    return problems + of_commits


def _problems_of_blocks(store: Opened, objects: Objects, sealed: Manifest) -> list[str]:
    """Objects of which the root states other blocks than those that are there: from afar they can't be read."""
    said = store.attributes.get(blocks.ATTRIBUTE, {"block_bytes": 1, "sha256": {}})
    problems = []
    for name, sha256 in said["sha256"].items():
        found = (
            blocks.hashes(objects, name, sealed.objects[name].size, said["block_bytes"])
            if name in sealed.objects
            else []
        )
        if found != sha256:
            problems.append(f"{visible(name)}: not of the blocks whose hashes the root states")
    return problems


def _problems_of_tables(store: Opened, bad: set[str]) -> list[str]:
    """Whatever was not checked at the opening; ``bad``: objects of which a problem is known."""
    problems = []
    checks: dict[str, Callable[[], object]] = {
        layout.STATEMENTS: lambda: _check_statements(store),
        layout.LEADS: lambda: store.lead_quality,
        layout.BEATS: lambda: store.beats,
        layout.REJECTED: lambda: _check_rejected(store),
        layout.RECORDS: lambda: _check_records(store, rejected_is_bad=layout.REJECTED in bad),
    }
    for name, check in checks.items():
        if name not in bad:
            try:
                check()
            except (StoreReplaced, StoreUnreachable):
                raise
            except EcgError as error:
                problems.append(f"{name}: {error}")
    return problems


def _check_records(store: Opened, *, rejected_is_bad: bool) -> None:
    where = f"{store.path}/{layout.RECORDS}"
    validate_tables.check_unique_ids(store.records, where)
    end = int(store.spans[1][-1]) if store.n_records else 0
    # Only a record that was left out while its samples were read leaves a hole at the end.
    if end != store.total_samples and not rejected_is_bad and not store.rejected.num_rows:
        validate.refuse("the signal does not end with its last record", where, end, store.total_samples)
    _check_folds(store)


def _check_statements(store: Opened) -> None:
    """A source's own list may lack a code that its records state; of a system without any list, all are listed."""
    known = store.attributes["vocabulary"]
    for system in store.statements["system"].unique().to_pylist():
        if system not in known:
            where = f"{store.path}/{layout.STATEMENTS}"
            validate.refuse("the vocabulary lacks a coding system that records state", where, got=system)


def _check_rejected(store: Opened) -> None:
    listed = list(zip(store.rejected["record_id"].to_pylist(), store.rejected["reason"].to_pylist(), strict=True))
    if listed != sorted(listed):
        validate.refuse("what was left out is not sorted by record_id and reason", f"{store.path}/{layout.REJECTED}")


def _check_folds(store: Opened) -> None:
    if store.encoding == "adc" or store.split_sha256 is not None:  # folds of a table beside the store are not its own
        return
    there = {fold_name(fold) for fold in pc.unique(store.records["fold"]).to_pylist()}
    for fold in store.attributes["statistics"]:
        if fold not in there:
            where = f"{store.path}/{layout.ROOT}"
            validate.refuse("statistics are stated of a fold that no record is in", where, got=fold)


def _problems_of_records(store: Opened, shard: int, crc32: dict[int, int], counted: Counted) -> list[str]:
    """``crc32`` holds those of records that began in a shard before, as far as they were read."""
    try:
        signal = store.read_shard(shard)
    except StoreReplaced:
        raise
    except IntegrityError as error:
        return [str(error)]
    problems = []
    if not _is_empty_between(signal):
        problems.append(f"{layout.shard_object(shard)}: samples that belong to no record")
    starts, ends = store.spans
    lengths, stated = ends[signal.rows] - starts[signal.rows], store.records["crc32"].take(signal.rows).to_pylist()
    places = zip(signal.rows.tolist(), signal.starts, signal.lengths, signal.offsets, lengths, stated, strict=True)
    for row, start, length, offset, whole, sealed in places:
        if store.format_version == 1 and length != whole:  # its CRC-32 is lead after lead of all of it
            begin, end = (int(ends[row]) for ends in store.spans)
            is_right = offset > 0 or store.crc32_of(store.decode(begin, end, np.array([row]))) == sealed
        else:
            counts_lt = signal.counts_lt[:, start : start + length]
            crc32[row] = layout.crc32_of_counts(counts_lt, store.shard_samples, crc32.get(row, 0))
            is_right = offset + length < whole or crc32.pop(row) == sealed
        if not is_right:
            problems.append(visible(f"record {store.id_of(row)}: its samples are not those that were written"))
    return problems or counted.problems_of(signal)


def _is_empty_between(signal: Any) -> bool:
    """Whether everything between the records of a shard is "not recorded"."""
    ends = signal.starts + signal.lengths
    gaps = zip(np.append(0, ends), np.append(signal.starts, signal.counts_lt.shape[1]), strict=True)
    return all((signal.counts_lt[:, begin:end] == layout.NOT_RECORDED).all() for begin, end in gaps if begin < end)
