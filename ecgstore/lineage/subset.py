"""Sealed store → sealed store of some of its records, some of its leads, or both; every sample is the parent's."""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ecgstore.build import building, schedule
from ecgstore.build.commits import Committed
from ecgstore.build.construct import Job, Progress, Wish, construct
from ecgstore.build.schedule import Workers
from ecgstore.build.seal import leads as leads_table
from ecgstore.build.seal import rejected, seal_commits, software, sums_of
from ecgstore.build.shards import create_array
from ecgstore.build.sums import statistics
from ecgstore.errors import ConfigError, nearest
from ecgstore.lineage.parents import LINEAGE, with_step
from ecgstore.lineage.placing import Piece, Rows, Work, pieces, records_of, write_piece, written_of
from ecgstore.storage import asked, layout, manifest, tables
from ecgstore.storage.stated_codes import stating
from ecgstore.storage.store import Store, open_store

#: A longer condition is told under ``lineage`` by its hash.
_MOST_TOLD = 4000


@dataclass(frozen=True, slots=True)
class SubsetReport:
    """What was done: ``records`` of the ``of_records`` of ``parent`` are at ``path``, with these ``leads``.

    ``rejected``: records that have no sample in the leads that were kept. ``parent``: its fingerprint. ``seconds``: how
    long it took. ``fingerprint``: of the new store.
    """

    path: str
    parent: str
    records: int
    of_records: int
    rejected: int
    leads: tuple[str, ...]
    seconds: float
    fingerprint: str


class _Plan(NamedTuple):
    parent: Store
    rows: Rows
    leads: tuple[int, ...]
    shard_samples: int
    tasks: Sequence[Piece]
    wish: dict[str, Any]
    sha256: str


def subset_store(
    store: Store,
    out: str | Path,
    *,
    where: str = "",
    codes: Sequence[str] = (),
    folds: Sequence[int] = (),
    leads: Sequence[str] = (),
    workers: int | Workers = 1,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> SubsetReport:
    """Make the store ``out``: the records of ``store`` that meet all that is said, with these ``leads`` (none: all).

    ``where`` is a condition as :meth:`Store.select` takes it; each of ``codes`` reads ``CODE,CODE`` or
    ``SYSTEM:CODE,CODE``, and a record must state one of them all; ``folds``: in one of these. An
    unfinished store of the same parent and wish is finished, and one that is sealed already will do.

    Raises ConfigError (nothing asked, no such record, code or lead), StoreExists, StoreError, IntegrityError.
    """
    began = time.perf_counter()
    out = Path(out)
    building.prepare(out, store.path)
    made = _plan(store, where, codes, folds, leads)
    crew = workers if isinstance(workers, Workers) else Workers(n=workers)
    outcome = construct(_job(made), out, Wish(not overwrite, overwrite), crew, None, progress)
    its = open_store(out)
    return SubsetReport(
        path=str(out),
        parent=store.fingerprint,
        records=its.n_records,
        of_records=store.n_records,
        rejected=its.rejected.num_rows,
        leads=its.leads,
        seconds=time.perf_counter() - began,
        fingerprint=outcome.fingerprint,
    )


def _plan(store: Store, where: str, codes: Sequence[str], folds: Sequence[int], leads: Sequence[str]) -> _Plan:
    codes, leads = asked.texts(codes, "codes", store.path), asked.texts(leads, "leads", store.path)
    folds = asked.folds_of(folds, store.path)
    if not (where or codes or folds or leads):
        raise ConfigError("nothing says which part is wanted", fix="say --where, --code, --fold or --leads")
    _refuse_empty(folds, store)
    wanted_n = np.zeros(store.n_records, dtype=np.bool_)
    wanted_n[store.select(folds=folds or None, where=where)] = True
    if codes:
        wanted_n &= stating(store, codes)
    rows = np.flatnonzero(wanted_n)
    if not len(rows):
        raise ConfigError("no record meets all that is asked for", where=store.path, got=f"{store.n_records} records")
    which = _which(store, leads)
    lengths = store.column("n_samples")[rows]
    size = layout.shard_samples(int(lengths.sum()), int(lengths.max()))
    told = where if len(where) <= _MOST_TOLD else f"sha256 {hashlib.sha256(where.encode()).hexdigest()}"
    wish: dict[str, Any] = {
        **({"where": told} if where else {}),
        **({"codes": list(codes)} if codes else {}),
        **({"folds": sorted(set(folds))} if folds else {}),
        **({"leads": [store.leads[lead] for lead in which]} if leads else {}),
    }
    about = ["subset", layout.FORMAT_VERSION, store.fingerprint, wish, where]
    sha256 = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    return _Plan(store, rows, which, size, pieces(store, rows, size), wish, sha256)


def _refuse_empty(folds: Sequence[int], store: Store) -> None:
    """Raise ConfigError for folds of which no record is."""
    there = set(store.column("fold").tolist()) if folds else set()
    if absent := sorted(set(folds) - there):
        listed = ", ".join(map(str, sorted(there - {-1}))) or "none"
        one = "fold" if len(absent) == 1 else "folds"
        what = f"no record is in {one} {', '.join(map(str, absent))}"
        raise ConfigError(what, where=store.path, expected=f"some of {listed}", got=", ".join(map(str, folds)))


def _which(store: Store, leads: Sequence[str]) -> tuple[int, ...]:
    """Places of the leads that are kept: those of the recipe first, in the order in which they are named."""
    if not leads:
        return tuple(range(len(store.leads)))
    for lead in leads:
        if lead not in store.leads:
            near = nearest(lead, store.leads)
            fix = f"did you mean {near}?" if near else f"there are {', '.join(store.leads)}"
            raise ConfigError(f"no lead {lead!r}", where=store.path, fix=fix)
    if len(set(leads)) != len(leads):
        raise ConfigError("a lead is named twice", where=store.path, got=", ".join(leads))
    of_recipe = store.recipe["leads"]
    named = [lead for lead in leads if lead in of_recipe]
    if not named:
        raise ConfigError(
            "one lead that was asked for at the ingest must stay", where=store.path, expected=", ".join(of_recipe)
        )
    return tuple(store.leads.index(lead) for lead in [*named, *(lead for lead in leads if lead not in of_recipe)])


def _job(made: _Plan) -> Job:
    store, last = made.parent, made.tasks[-1]
    ends = last.starts + store.column("n_samples")[last.rows]
    work = Work(store.path, store.fingerprint, made.leads, made.shard_samples, made.sha256)
    return Job(
        plan_sha256=made.sha256,
        tasks=made.tasks,
        task_sha256=lambda task: made.sha256,
        do=functools.partial(write_piece, work),
        ready=functools.partial(schedule.prepare, with_wfdb=False),
        create_array=lambda root: create_array(
            root, store.storage["codec"], len(made.leads), int(ends.max()), made.shard_samples
        ),
        about={"parent": store.fingerprint, "subset": made.wish},
        seal=lambda root, done: _seal(root, made, done),
        otherwise="of another parent, or another part of it",
        instead="choose another output, or replace it with --overwrite",
    )


def _seal(root: Path, made: _Plan, done: Sequence[Committed]) -> manifest.Manifest:
    store, written = made.parent, written_of(done)
    if not written.num_rows:
        raise ConfigError("no record has a sample in the leads that are kept", where=store.path)
    starts = np.concatenate([task.starts for task in made.tasks])
    is_there = np.isin(store.column("record_id")[made.rows], written["record_id"].to_pylist())
    rows = made.rows[is_there]
    kept_n = np.zeros(store.n_records, dtype=np.bool_)
    kept_n[rows] = True
    records = records_of(store, rows, written, starts[is_there], made.shard_samples)
    small = {
        layout.RECORDS: records,
        layout.STATEMENTS: tables.renumbered(store.statements, kept_n),
        layout.REJECTED: rejected([one for commit in done for one in commit.rejected]),
    }
    if store.lead_quality.num_columns:
        small[layout.LEADS] = leads_table(written, len(made.leads))
    if store.beats.num_columns:
        small[layout.BEATS] = tables.renumbered(store.beats, kept_n)
    attributes = _attributes(made, records)
    if store.encoding != "adc":
        attributes["statistics"] = statistics(sums_of(done))
    return seal_commits(root, small, attributes, done, made.sha256)


def _attributes(made: _Plan, records: pa.Table) -> dict[str, Any]:
    store = made.parent
    recipe = store.recipe
    leads = [store.leads[lead] for lead in made.leads]
    recipe["leads"] = [lead for lead in leads if lead in recipe["leads"]]
    text = json.dumps(recipe, sort_keys=True, separators=(",", ":"))
    there, everywhere = set(records["source"].to_pylist()), set(store.column("source").tolist())
    rates = set(records["source_fs_hz"].to_pylist())
    fs_hz = store.attributes["fs_hz"]
    return {
        **store.attributes,
        "format_version": layout.FORMAT_VERSION,
        "storage": store.storage,
        "recipe": recipe,
        "recipe_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "plan_sha256": made.sha256,
        "leads": leads,
        "fs_hz": fs_hz if fs_hz is not None or len(rates) > 1 else rates.pop(),
        "shard_samples": made.shard_samples,
        # Terms of what no record names, such as recorded noise, hold on.
        "sources": [
            one for one in store.attributes["sources"] if one["name"] in there or one["name"] not in everywhere
        ],
        "software": software(),
        LINEAGE: with_step([store], "subset", {**made.wish, "records": len(records)}),
    }
