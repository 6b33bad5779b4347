"""Two sealed stores of one recipe → one. Shards are taken over unchanged where both have the same grid.

The records of the first stand first. Where the grids differ, the coarser one stays, and the shards of the other store
are written anew.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ecgstore.build import building, commits, schedule
from ecgstore.build.schedule import Workers
from ecgstore.build.seal import root_metadata, software
from ecgstore.build.sums import by_fold, statistics
from ecgstore.errors import ConfigError
from ecgstore.lineage.parents import LINEAGE, Parent, sums_of_root, with_step
from ecgstore.lineage.placing import Piece, Rows, Work, pieces, write_piece
from ecgstore.lineage.publishing import begin, publish
from ecgstore.settings import first_difference
from ecgstore.storage import layout, manifest, tables
from ecgstore.storage.manifest import ObjectHash, hash_object
from ecgstore.storage.store import Store, open_store
from ecgstore.storage.withdrawn import Withdrawn, count_named

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class MergeReport:
    """What was done: ``records`` of both ``parents`` (their fingerprints) are at ``path``.

    ``shards_kept`` are files of the parents, ``shards_written`` were made anew. ``fingerprint``: of the new store.
    ``notes``: what a user must hear of, a sentence each.
    """

    path: str
    parents: tuple[str, str]
    records: int
    fingerprint: str
    shards_kept: int
    shards_written: int
    notes: tuple[str, ...]


class _Part(NamedTuple):
    """One parent in the new store: from ``first_shard`` on, as it is, or in ``tasks`` of its own."""

    parent: Parent
    first_shard: int
    n_shards: int
    tasks: tuple[Piece, ...]
    starts: Rows

    @property
    def is_kept(self) -> bool:
        return not self.tasks


def merge_stores(
    one: Store,
    other: Store,
    out: str | Path,
    *,
    workers: int | Workers = 1,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> MergeReport:
    """Make the store ``out``: the records of ``one``, and behind them those of ``other``.

    Raises ConfigError where they don't go together (preparation, leads, rates, packing, keys of patients, kinds of
    ids, a record in both, somebody who has withdrawn from one of them), StoreExists, StoreError, IntegrityError.
    """
    out = Path(out)
    stores = (one, other)
    building.prepare(out, *(store.path for store in stores))
    _refuse_unlike(one, other)
    _refuse_shared(one, other)
    both = (Parent.of(one), Parent.of(other))
    shard_samples = max(store.shard_samples for store in stores)
    parts = _parts(both, shard_samples)
    about = ["merge", layout.FORMAT_VERSION, one.fingerprint, other.fingerprint]
    plan_sha256 = hashlib.sha256(json.dumps(about).encode()).hexdigest()
    crew = workers if isinstance(workers, Workers) else Workers(n=workers)
    attributes = _attributes(one, other, shard_samples, plan_sha256)
    sealed = publish(out, plan_sha256, overwrite, lambda root: _make(root, parts, attributes, crew, progress))
    prefix = layout.shard_object(0)[:-1]
    n_shards = sum(name.startswith(prefix) for name in sealed.objects)
    n_kept = sum(len(part.parent.shards) for part in parts if part.is_kept)
    return MergeReport(
        path=str(out),
        parents=(one.fingerprint, other.fingerprint),
        records=open_store(out).n_records,
        fingerprint=sealed.fingerprint,
        shards_kept=n_kept,
        shards_written=n_shards - n_kept,
        notes=tuple(_notes(one, other)),
    )


# --- what goes together -------------------------------------------------------------------------------------------


def _refuse_unlike(one: Store, other: Store) -> None:
    """Raise ConfigError where records of the two can't stand in one store."""
    where = f"{one.path} and {other.path}"
    if one.leads != other.leads:
        raise ConfigError(
            "the stores have different leads", where=where, expected=" ".join(one.leads), got=" ".join(other.leads)
        )
    rates = [f"{store.attributes['fs_hz'] or 'several'} Hz" for store in (one, other)]
    if rates[0] != rates[1]:
        raise ConfigError("the stores have different sampling rates", where=where, expected=rates[0], got=rates[1])
    for what, mine, its in (
        ("ways of preparing records", one.recipe, other.recipe),
        ("ways of keeping samples", one.storage, other.storage),
        ("noise", {"noise": one.attributes.get("noise")}, {"noise": other.attributes.get("noise")}),
        ("beats", {"beats": one.attributes.get("beats")}, {"beats": other.attributes.get("beats")}),
    ):
        if (differing := first_difference(mine, its)) is not None:
            raise ConfigError(
                f"the stores have different {what}: {differing.name} differs",
                where=where,
                expected=differing.one,
                got=differing.other,
                fix="make both by the same settings",
            )
    ids = [store.attributes.get("record_ids", "path") for store in (one, other)]
    if ids[0] != ids[1]:
        raise ConfigError("the stores have different kinds of record ids", where=where, expected=ids[0], got=ids[1])
    keys = [(store.attributes["patients"], store.attributes.get("patient_key_check")) for store in (one, other)]
    is_secret = any("secret" in str(said) for said, _ in keys)
    if keys[0] != keys[1] or (is_secret and keys[0][1] is None):
        raise ConfigError(
            "the patients of the stores are hashed with different keys, so that one patient would be two",
            where=where,
            fix="make both with the same ECGSTORE_PATIENT_KEY",
        )


def _refuse_shared(one: Store, other: Store) -> None:
    """Raise ConfigError where a record is in both, or was withdrawn from one of them."""
    where = f"{one.path} and {other.path}"
    shared = sorted(set(one.column("record_id").tolist()) & set(other.column("record_id").tolist()))
    if shared:
        some = ", ".join(shared[:3]) + (" …" if len(shared) > 3 else "")
        raise ConfigError(
            f"{len(shared)} records have an id that is in both stores",
            where=where,
            got=some,
            fix="leave them out of one by `ecgstore subset --where`",
        )
    for gone, there in ((one, other), (other, one)):
        columns = [there.column(name).tolist() for name in ("record_id", "patient_key", "source")]
        if n := count_named(Withdrawn.of(gone.attributes), *columns):
            raise ConfigError(
                f"{n} records of {there.path} were withdrawn from {gone.path}",
                where=where,
                fix=f"withdraw them from {there.path} first",
            )


def _notes(one: Store, other: Store) -> list[str]:
    """What the merged store must be read with."""
    fold_of: dict[str, set[int]] = {}
    for store in (one, other):
        for key, fold in zip(store.column("patient_key").tolist(), store.column("fold").tolist(), strict=True):
            if key and fold >= 0:
                fold_of.setdefault(key, set()).add(fold)
    notes = []
    if n := sum(len(folds) > 1 for folds in fold_of.values()):
        notes.append(f"{n} patients are in several folds now: draw folds anew with `ecgstore split`")
    if _drawn(one) != _drawn(other):
        notes.append("the folds of the two were not drawn in the same way: their numbers mean different things")
    return notes


def _drawn(store: Store) -> object:
    return store.attributes.get("folds_drawn")


# --- the store ----------------------------------------------------------------------------------------------------


def _parts(both: tuple[Parent, Parent], shard_samples: int) -> tuple[_Part, ...]:
    parts, first = [], 0
    for parent in both:
        store = parent.store
        tasks: tuple[Piece, ...] = ()
        if store.shard_samples == shard_samples:
            starts = store.spans[0] + first * shard_samples
            n_shards = max(store.n_shards, *(shard + 1 for shard in parent.shards))
        else:
            tasks = tuple(pieces(store, np.arange(store.n_records), shard_samples, first))
            starts = np.concatenate([task.starts for task in tasks])
            n_shards = tasks[-1].first_shard + tasks[-1].n_shards - first
        parts.append(_Part(parent, first, n_shards, tasks, starts))
        first += n_shards
    return tuple(parts)


def _make(
    root: Path, parts: tuple[_Part, ...], attributes: Mapping[str, Any], crew: Workers, progress: Progress | None
) -> manifest.Manifest:
    first, last = parts[0].parent.store, parts[-1]
    plan_sha256, shard_samples = attributes["plan_sha256"], attributes["shard_samples"]
    total_samples = int(last.starts[-1] + last.parent.store.column("n_samples")[-1])
    parents = [part.parent.store.fingerprint for part in parts]
    begin(root, plan_sha256, {"parents": parents}, first, total_samples, shard_samples)
    n_all, n_done = sum(len(part.tasks) or len(part.parent.shards) for part in parts), 0

    def one_more() -> None:
        nonlocal n_done
        n_done += 1
        if progress is not None:
            progress("shards", n_done, n_all)

    objects: dict[str, ObjectHash] = {}
    crc32: list[Any] = []
    for part in parts:
        crc32.append(part.parent.store.records["crc32"])
        if part.is_kept:
            objects |= _take(root, part, plan_sha256, one_more)
            continue
        store = part.parent.store
        work = Work(store.path, store.fingerprint, tuple(range(len(store.leads))), shard_samples, plan_sha256)
        ready = functools.partial(schedule.prepare, with_wfdb=False)
        schedule.run(root, part.tasks, functools.partial(write_piece, work), ready, crew, one_more)
        found = commits.load_all(root, part.tasks, lambda task: plan_sha256, os.cpu_count() or 1, hashed=False)
        for task in part.tasks:
            name = layout.commit_object(task.first_shard)
            objects |= {**found[task.first_shard].objects, name: hash_object(root / name)}
        # A record of several shards has its checksum shard by shard.
        crc32[-1] = pa.concat_tables([found[task.first_shard].written for task in part.tasks])["crc32"]
    objects[layout.SIGNAL_JSON] = hash_object(root / layout.SIGNAL_JSON)
    small = {name: tables.to_parquet(table, name) for name, table in _tables(parts, crc32, shard_samples).items()}
    small[layout.ROOT] = root_metadata(root, attributes, small[layout.RECORDS])
    return building.seal(root, small.items(), objects, plan_sha256)


def _take(root: Path, part: _Part, plan_sha256: str, one_more: Callable[[], None]) -> dict[str, ObjectHash]:
    """A parent's shards and commits, under the numbers that they have now."""
    parent, first, objects = part.parent, part.first_shard, dict[str, ObjectHash]()
    for shard in parent.shards:
        objects |= parent.take(layout.shard_object(shard), root, layout.shard_object(first + shard))
        one_more()
    prefix = layout.shard_object(0)[:-1]
    for name in parent.commits:
        if not first:
            objects |= parent.take(name, root)
            continue
        commit = parent.commit(name)
        renamed = {
            layout.shard_object(first + int(shard.removeprefix(prefix))): stated
            for shard, stated in commit.objects.items()
            if shard.startswith(prefix)
        }
        number = first + int(name.removeprefix(f"{layout.COMMITS}/").removesuffix(".arrow"))
        commits.write(root, number, replace(commit, objects=renamed), plan_sha256)
        objects[layout.commit_object(number)] = hash_object(root / layout.commit_object(number))
    return objects


def _tables(parts: tuple[_Part, ...], crc32: list[Any], shard_samples: int) -> dict[str, pa.Table]:
    stores = [part.parent.store for part in parts]
    records = []
    for part, checksum in zip(parts, crc32, strict=True):
        its, columns = part.parent.store.records, {}
        told = {
            "start": pa.array(part.starts),
            "shard": pa.array((part.starts // shard_samples).astype(np.int32)),
            "crc32": checksum,
        }
        for field in tables.RECORDS_SCHEMA:
            column = told.get(field.name, its[field.name] if field.name in its.column_names else None)
            columns[field.name] = pa.nulls(len(its), field.type) if column is None else column.cast(field.type)
        records.append(pa.table(columns, schema=tables.RECORDS_SCHEMA))
    found = {
        layout.RECORDS: pa.concat_tables(records),
        layout.STATEMENTS: _by_row(stores, "statements"),
        layout.REJECTED: _left_out(stores),
    }
    if all(store.lead_quality.num_columns for store in stores):
        found[layout.LEADS] = pa.concat_tables([store.lead_quality for store in stores])
    if any(store.beats.num_columns for store in stores):
        beats = _by_row(stores, "beats")
        # What else an annotation says is there only where the store has annotations.
        names = [name for name in tables.BEATS_SCHEMA.names if name in beats.column_names]
        found[layout.BEATS] = beats.select(names).cast(pa.schema([tables.BEATS_SCHEMA.field(name) for name in names]))
    return {name: table.combine_chunks() for name, table in found.items()}


def _by_row(stores: list[Store], name: str) -> pa.Table:
    """Tables that refer to records by their rows, one behind the other."""
    found, first = [], 0
    for store in stores:
        table = getattr(store, name)
        if table.num_columns:
            found.append(tables.renumbered(table, np.ones(store.n_records, np.bool_), first))
        first += store.n_records
    return pa.concat_tables(found, promote_options="default")


def _left_out(stores: list[Store]) -> pa.Table:
    rows = {
        tuple(row.values())
        for store in stores
        for row in store.rejected.select(tables.REJECTED_SCHEMA.names).to_pylist()
    }
    columns = list(zip(*sorted(rows), strict=True)) or [(), (), ()]
    return pa.table([list(column) for column in columns], schema=tables.REJECTED_SCHEMA)


# --- the root -----------------------------------------------------------------------------------------------------


def _attributes(one: Store, other: Store, shard_samples: int, plan_sha256: str) -> dict[str, Any]:
    mine, its = one.attributes, other.attributes
    sources = [*mine["sources"], *(source for source in its["sources"] if source not in mine["sources"])]
    settings = [store.attributes.get("source_settings", {}) for store in (one, other)]
    attributes = {
        **mine,
        "storage": one.storage,
        "plan_sha256": plan_sha256,
        "shard_samples": shard_samples,
        "sources": sources,
        "source_settings": settings[0] if settings[0] == settings[1] else {},
        **_vocabularies(one, other),
        "statistics": statistics(by_fold([*sums_of_root(one).items(), *sums_of_root(other).items()])),
        "software": software(),
        **(Withdrawn.of(mine) | Withdrawn.of(its)).attribute(),
        LINEAGE: with_step([one, other], "merge"),
    }
    # What is true of one of them alone is not true of both.
    for name in ("folds_drawn", "parent"):
        if mine.get(name) != its.get(name):
            attributes.pop(name, None)
    return attributes


def _vocabularies(one: Store, other: Store) -> dict[str, Any]:
    """Which codes are ever stated, by site where the two differ: what one of them never states is no "no" in it.

    At a site that both have, only codes that both would state count as looked for.
    """
    mine, its = one.attributes["vocabulary"], other.attributes["vocabulary"]
    vocabulary = {name: sorted({*mine.get(name, ()), *its.get(name, ())}) for name in sorted({*mine, *its})}
    by_site = [store.attributes.get("vocabulary_by_site", {}) for store in (one, other)]
    listed = {system for sites in by_site for systems in sites.values() for system in systems}
    differing = [name for name in vocabulary if name in listed or mine.get(name) != its.get(name)]
    found: dict[str, Any] = {"vocabulary": vocabulary, "vocabulary_by_site": {}}
    if not differing:
        del found["vocabulary_by_site"]
        return found
    for store in (one, other):
        for site in sorted(set(store.column("site").tolist())):
            there = found["vocabulary_by_site"].setdefault(site, {})
            for system in differing:
                codes = _looked_for(store, site, system)
                there[system] = sorted(codes & set(there[system])) if system in there else sorted(codes)
    return found


def _looked_for(store: Store, site: str, system: str) -> set[str]:
    """The codes whose absence is a "no" at a site of a store, as :meth:`Store.statement_mask` understands it."""
    by_site = store.attributes.get("vocabulary_by_site", {})
    if any(system in systems for systems in by_site.values()):
        return set(by_site.get(site, {}).get(system, ()))
    return set(store.vocabulary(system))
