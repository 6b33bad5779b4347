"""Records of a sealed store in new places: a shard is written anew from samples that were checked."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ecgstore.build import commits, shards
from ecgstore.build.commits import Commit, Committed
from ecgstore.build.plan import place
from ecgstore.build.sums import Sums, by_fold, fold_name, tally
from ecgstore.errors import IntegrityError
from ecgstore.record import LeadState, Rejection
from ecgstore.storage import layout, tables
from ecgstore.storage.manifest import ObjectHash
from ecgstore.storage.store import Store, open_store

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Shards ``first_shard`` … of the new store, and the parent's ``rows`` that stand there, from ``starts`` on."""

    first_shard: int
    n_shards: int
    rows: Rows
    starts: Rows

    @property
    def n_records(self) -> int:
        """Each is written or rejected."""
        return len(self.rows)


class Work(NamedTuple):
    """What is needed to write a piece, in whatever process. ``leads``: places of those that are kept."""

    parent: str
    fingerprint: str
    leads: tuple[int, ...]
    shard_samples: int
    plan_sha256: str


def pieces(store: Store, rows: Rows, shard_samples: int, first_shard: int = 0) -> list[Piece]:
    """Places for the ``rows`` one behind the other, from a shard on; a piece shares no shard with another."""
    lengths = store.column("n_samples")[rows]
    starts = np.array(place(lengths.tolist(), shard_samples, first_shard * shard_samples), np.int64)
    firsts, found = starts // shard_samples, []
    for first in np.unique(firsts):
        its = firsts == first
        last = (int((starts[its] + lengths[its]).max()) - 1) // shard_samples
        found.append(Piece(int(first), last - int(first) + 1, rows[its], starts[its]))
    return found


@functools.lru_cache(maxsize=2)
def parent_of(path: str, fingerprint: str) -> Store:
    """The store at ``path``; raises IntegrityError where it is another one by now."""
    store = open_store(path)
    if store.fingerprint != fingerprint:
        raise IntegrityError("the parent was replaced meanwhile", where=path)
    return store


def write_piece(work: Work, root: Path, piece: Piece) -> None:
    """One piece, from the parent's shards to its commit. A record of which no kept lead has a sample is left out."""
    store, size = parent_of(work.parent, work.fingerprint), work.shard_samples
    first = piece.first_shard * size
    counts_lt = np.full((len(work.leads), piece.n_shards * size), layout.NOT_RECORDED, dtype=np.int16)
    folds, ids = (store.records[name].take(pa.array(piece.rows)).to_pylist() for name in ("fold", "record_id"))
    states = store.records["lead_states"].take(pa.array(piece.rows)).to_pylist()
    told: dict[str, list[int]] = {"n_clipped": [], "n_not_recorded": [], "crc32": []}
    written: list[int] = []
    left_out: list[Rejection] = []
    sums: list[tuple[str, Sums]] = []
    places = zip(piece.rows.tolist(), piece.starts.tolist(), _counts(store, piece.rows), strict=True)
    for i, (row, start, whole_lt) in enumerate(places):
        its_lt = whole_lt[list(work.leads)]
        counted = tally(its_lt).sums
        if not any(counted.n):
            detail = "nothing was recorded in the leads that were kept"
            left_out.append(Rejection(ids[i], "no_samples", detail))
            continue
        counts_lt[:, start - first : start - first + its_lt.shape[1]] = its_lt
        n_present = sum(states[i][lead] != LeadState.ABSENT for lead in work.leads)
        written.append(row)
        told["n_clipped"].append(int(np.count_nonzero(np.abs(its_lt.astype(np.int32)) == layout.MAX_COUNT)))
        told["n_not_recorded"].append(n_present * its_lt.shape[1] - sum(counted.n))
        told["crc32"].append(layout.crc32_of_counts(its_lt, size))
        sums.append((fold_name(folds[i]), counted))
    objects: dict[str, ObjectHash] = {}
    for i in range(piece.n_shards):
        its_lt = counts_lt[:, i * size : (i + 1) * size]
        if (its_lt != layout.NOT_RECORDED).any():
            objects |= shards.write_counts(root, piece.first_shard + i, its_lt, size)
    table = committed(
        store, np.array(written, np.int64), work.leads, {k: np.array(v, np.int64) for k, v in told.items()}
    )
    commits.write(root, piece.first_shard, Commit(objects, table, tuple(left_out), by_fold(sums)), work.plan_sha256)


def _counts(store: Store, rows: Rows) -> Iterator[npt.NDArray[np.int16]]:
    """Counts (leads, samples) of the records at ``rows``; a shard is decoded once for all of its."""
    size = store.shard_samples
    starts, ends = store.spans
    shard_of = functools.lru_cache(maxsize=1)(lambda shard: store.read_shard(shard).counts_lt)
    for row in rows.tolist():
        begin, end = int(starts[row]), int(ends[row])
        parts = [
            shard_of(shard)[:, max(begin - shard * size, 0) : end - shard * size]
            for shard in range(begin // size, (end - 1) // size + 1)
        ]
        yield parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


# --- what a commit says of records that another store has described -------------------------------------------------


def committed(store: Store, rows: Rows, leads: Sequence[int], told: dict[str, Rows]) -> pa.Table:
    """The table of a commit of records at ``rows``, with the leads that are kept; ``told``: what was counted anew."""
    records, n = store.records.take(pa.array(rows)), len(rows)
    is_whole = tuple(leads) == tuple(range(len(store.leads)))
    quality = _quality(store, rows, leads)
    columns: dict[str, Any] = {}
    for name, kind in tables.WRITTEN:
        columns[name] = records[name].cast(kind) if name in records.column_names else pa.nulls(n, kind)
    if not is_whole:
        columns |= {name: _worst(quality[name]) for name in layout.MEASURES}
        columns["lead_states"] = pa.array(
            ["".join(text[lead] for lead in leads) for text in records["lead_states"].to_pylist()], pa.string()
        )
        if not {"I", "II", "III"} <= {store.leads[lead] for lead in leads}:
            columns["einthoven_mv"] = pa.nulls(n, pa.float32())
        # Counts at the limit are those that were clipped, or came just there by themselves.
        columns["n_clipped"] = pa.array(np.minimum(told["n_clipped"], records["n_clipped"].to_numpy()))
    columns |= {name: pa.array(told[name]) for name in ("n_not_recorded", "crc32")}
    beats = _beats(store, rows)
    schema = tables.commit_schema(len(leads), annotated="beats.annotator" in beats)
    said = {"record_id": records["record_id"], **columns, **{f"leads.{k}": v for k, v in quality.items()}, **beats}
    return pa.table({name: said[name] for name in schema.names}, schema=schema)


def _quality(store: Store, rows: Rows, leads: Sequence[int]) -> dict[str, pa.Array]:
    """The columns of ``leads.parquet`` for the leads that are kept."""
    table = store.lead_quality
    schema = tables.leads_schema(len(leads))
    if not table.num_columns:
        return {field.name: pa.nulls(len(rows), field.type) for field in schema}
    return {field.name: _picked(table[field.name].take(pa.array(rows)), leads, field.type) for field in schema}


def _picked(column: pa.ChunkedArray, leads: Sequence[int], kind: pa.DataType) -> pa.Array:
    n = len(column)
    lists = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    by_lead = [pc.list_element(lists, lead) for lead in leads]
    order = np.arange(n * len(leads)).reshape(len(leads), n).T.reshape(-1)  # record after record
    flat = pa.concat_arrays([one.cast(kind.value_type) for one in by_lead]).take(pa.array(order))
    return pa.FixedSizeListArray.from_arrays(flat, type=kind, mask=lists.is_null())


def _worst(lists: pa.Array) -> pa.Array:
    """The largest of each record's leads, null where none is known."""
    n, size = len(lists), lists.type.list_size
    by_lead = [pc.list_element(lists, lead).to_numpy(zero_copy_only=False) for lead in range(size)]
    worst = np.fmax.reduce(np.array(by_lead, np.float32).reshape(size, n), axis=0)
    return pa.array(worst, pa.float32(), from_pandas=True)


def _beats(store: Store, rows: Rows) -> dict[str, pa.Array]:
    """The annotations of the records as lists; what else they say only where there are any."""
    table, names = store.beats, ["sample", "symbol", *(name for name, _ in tables.ANNOTATION)]
    if not table.num_columns:
        table = tables.BEATS_SCHEMA.empty_table().select(["row", "sample", "symbol"])
    row_b = table["row"].to_numpy()
    first_n, last_n = np.searchsorted(row_b, rows), np.searchsorted(row_b, rows, side="right")
    lengths = last_n - first_n
    at = np.repeat(first_n - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths) + np.arange(lengths.sum())
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    has_more = "annotator" in table.column_names and len(at)
    its = table.take(pa.array(at))
    found = {}
    for name in names[:2] if not has_more else names:
        values = its[name].cast(tables.BEATS_SCHEMA.field(name).type).combine_chunks()
        values = pa.concat_arrays(values.chunks) if isinstance(values, pa.ChunkedArray) else values
        found[f"beats.{name}"] = pa.ListArray.from_arrays(offsets, values)
    return found


def written_of(done: Sequence[Committed]) -> pa.Table:
    """What all commits say of their records."""
    return pa.concat_tables([commit.written for commit in done], promote_options="default")


def records_of(store: Store, rows: Rows, written: pa.Table, starts: Rows, shard_samples: int) -> pa.Table:
    """``records.parquet`` of records at ``rows`` that stand from ``starts`` on, as the commits ``written`` tell."""
    parent = store.records.take(pa.array(rows))
    if not written["record_id"].equals(parent["record_id"]):
        raise IntegrityError("the commits are not of the parent's records", where=store.path)
    its = {name: written[name] for name, _ in tables.WRITTEN}
    its |= {"start": pa.array(starts), "shard": pa.array((starts // shard_samples).astype(np.int32))}
    columns = {}
    for field in tables.RECORDS_SCHEMA:
        column = its.get(field.name, parent[field.name] if field.name in parent.column_names else None)
        columns[field.name] = pa.nulls(len(rows), field.type) if column is None else column.cast(field.type)
    return pa.table(columns, schema=tables.RECORDS_SCHEMA)
