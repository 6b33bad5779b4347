"""Scan → plan → one task per shard → commits → seal. Killed anywhere, it goes on where it was."""

from __future__ import annotations

import functools
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecgstore.build import building, schedule, shards
from ecgstore.build.plan import Occupied, Plan
from ecgstore.build.planning import Progress, count_reasons, plan
from ecgstore.build.schedule import Workers
from ecgstore.build.seal import seal_commits
from ecgstore.build.settings import IngestSettings, module_of
from ecgstore.errors import ConfigError, StoreExists, StoreIncomplete
from ecgstore.rooms import occupants
from ecgstore.settings import parse
from ecgstore.storage import layout, manifest, tables
from ecgstore.storage.array import create_array


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What an ingest did. ``fingerprint`` is empty for a part, whose store is sealed later."""

    path: str
    records: int
    rejected: int
    reasons: Mapping[str, int]
    seconds: float
    fingerprint: str
    n_shards: int
    #: Shards that were there already, from a run before or from the version before.
    n_shards_resumed: int
    warnings: int
    #: The largest share of records that the settings allow to be left out.
    max_rejected: float = 1.0

    @property
    def records_per_s(self) -> float:
        """Records per second, all included."""
        return self.records / self.seconds if self.seconds > 0 else 0.0

    @property
    def rejected_fraction(self) -> float:
        """Share of the listed records that were left out."""
        return self.rejected / max(1, self.records + self.rejected)


def ingest_folder(
    source_root: str | Path,
    out: str | Path,
    settings: IngestSettings,
    *,
    workers: int | Workers = 1,
    resume: bool = False,
    overwrite: bool = False,
    append: bool = False,
    part: tuple[int, int] | None = None,
    verify_source: bool = False,
    scan_table: Path | None = None,
    progress: Progress | None = None,
) -> IngestReport:
    """Make the store ``out`` from the WFDB folder ``source_root``.

    An unfinished store of the same plan is finished; ``resume`` also accepts one that is already sealed.
    ``overwrite`` replaces a sealed store once the new one is sealed; ``append`` does so too, but uses again the
    shards of records that did not change. ``part`` (i, n) does the i-th of n equal shares of the tasks, counted
    from 1, and leaves the seal to :func:`seal_store`. Headers are read from ``scan_table`` where they did not
    change since it was written.

    Records that can't be used are left out and written down in ``rejected.parquet``; whether there are too many
    of them is for the caller to judge by ``IngestReport.rejected_fraction``.

    Raises SourceError, StoreExists, StoreError (the disk refuses), IntegrityError (it forgets), MissingExtra,
    ConfigError (options that contradict each other).
    """
    began = time.perf_counter()
    out, source_root = Path(out), Path(source_root)
    crew = workers if isinstance(workers, Workers) else Workers(n=workers)
    _refuse_nested(source_root, out)
    if sum((resume, overwrite, append)) > 1 or (part is not None and (overwrite or append)):
        raise ConfigError("resume, overwrite and append exclude each other, and parts exclude the last two")
    building.recover(out)
    building.refuse_foreign(out)
    is_sealed = (out / layout.MANIFEST).exists()
    before = _occupied(out, settings) if append and is_sealed else None
    if scan_table is None and (part is not None or (out / layout.SCAN).exists()) and not is_sealed:
        # Parts share what the first of them read.
        scan_table = out / layout.SCAN
    made = plan(
        source_root,
        settings,
        verify_source=verify_source,
        scan_table=scan_table,
        occupied=before,
        progress=progress,
    )
    resumed, fingerprint = len(made.tasks), ""
    if is_sealed and not (overwrite or append):
        fingerprint = _accept_sealed(out, made, resume)
    else:
        # The old store stays whole and readable until the new one is sealed.
        root = building.beside(out) if is_sealed else out
        with building.plain_disk_errors(root):
            if is_sealed and (root / layout.MANIFEST).exists() and manifest.load(root).plan_sha256 != made.sha256:
                shutil.rmtree(root)  # sealed by a run that was killed before the swap, and not what is wanted now
            if is_sealed and (root / layout.MANIFEST).exists():
                fingerprint = manifest.load(root).fingerprint
            else:
                _begin(root, made, source_root, settings, verify_source)
                previous = out if append and is_sealed else None
                resumed, fingerprint = _build(root, made, settings, crew, part, previous, progress)
            if is_sealed:
                building.swap(root, out)
    return _report(out, made, fingerprint, resumed, began, settings)


def seal_store(out: str | Path, *, patient_key: str = "", progress: Progress | None = None) -> IngestReport:
    """Seal a store whose parts were made by several ingests.

    Raises StoreIncomplete where tasks are left, and whatever :func:`ingest_folder` raises.
    """
    began = time.perf_counter()
    out = Path(out)
    about = building.read_about(out)
    if "settings" not in about:
        raise StoreIncomplete(
            "this store comes from another one", where=out, fix="run the same `ecgstore augment` again"
        )
    settings = parse(IngestSettings, {**about["settings"], "patient_key": patient_key}, where=out / layout.BUILDING)
    made = plan(
        Path(about["source_root"]),
        settings,
        verify_source=about["verify_source"],
        scan_table=out / layout.SCAN,
        progress=progress,
    )
    if made.sha256 != about["plan_sha256"]:
        raise StoreExists(
            "the source is not what it was when this store was begun, or ECGSTORE_PATIENT_KEY is another",
            where=out,
            fix="delete that folder and begin again",
        )
    with building.plain_disk_errors(out), building.locked(out):
        commits = schedule.load_commits(out, made.tasks, made.work, os.cpu_count() or 1)
        missing = [task.first_shard for task in made.tasks if task.first_shard not in commits]
        if missing:
            raise StoreIncomplete(
                f"{len(missing)} of {len(made.tasks)} tasks are not done",
                where=out,
                got=f"no commit of shard {', '.join(map(str, missing[:5]))}{' …' if len(missing) > 5 else ''}",
                fix="run the parts that are left, or the same ingest without --parts",
            )
        sealed = seal_commits(out, made, [commits[task.first_shard] for task in made.tasks], settings)
    building.release(out)
    return _report(out, made, sealed.fingerprint, len(made.tasks), began, settings)


def _begin(root: Path, made: Plan, source_root: Path, settings: IngestSettings, verify_source: bool) -> None:
    """What :func:`seal_store` needs is noted down; it is gone once the store is sealed."""
    content = settings.model_dump(mode="json")
    name = getattr(made.source, "name", "")
    name = name if name in occupants("ecgstore.sources") else module_of(made.source).__file__
    content["source"] = {**made.source.model_dump(mode="json"), "name": name}
    about = {"source_root": str(source_root.resolve()), "settings": content, "verify_source": verify_source}
    work = made.work
    create = functools.partial(
        create_array, root, work.storage.codec, len(work.leads), made.total_samples, work.shard_samples
    )
    building.begin(root, made.sha256, about, create)


def _build(
    root: Path,
    made: Plan,
    settings: IngestSettings,
    workers: Workers,
    part: tuple[int, int] | None,
    previous: Path | None,
    progress: Progress | None,
) -> tuple[int, str]:
    """Do what is left of a plan, or of one part of it; returns tasks found done, and the fingerprint."""
    tasks = made.tasks if part is None else made.tasks[part[0] - 1 :: part[1]]
    with building.locked(root, None if part is None else f"part-{part[0]}-of-{part[1]}"):
        if part is None:
            building.remove_leftovers(root)
        if previous is not None:
            _reuse(previous, root, made)
        commits = schedule.load_commits(root, tasks, made.work, workers.n)
        left = [task for task in tasks if task.first_shard not in commits]
        resumed = len(tasks) - len(left)
        schedule.run(root, left, made.work, workers, _counter("shards", resumed, len(tasks), progress))
        if part is not None:
            return resumed, ""
        commits |= schedule.load_commits(root, left, made.work, workers.n, hashed=False)
        seal = _counter("seal", 0, 1, progress)
        sealed = seal_commits(root, made, [commits[task.first_shard] for task in tasks], settings)
        seal()
    building.release(root)
    return resumed, sealed.fingerprint


def _counter(phase: str, done: int, total: int, progress: Progress | None) -> Callable[[], None]:
    """A function that reports one more done each time it is called."""
    if progress is None:
        return lambda: None
    report, counted = progress, done
    report(phase, done, total)

    def one_more() -> None:
        nonlocal counted
        counted += 1
        report(phase, counted, total)

    return one_more


def _occupied(out: Path, settings: IngestSettings) -> Occupied:
    """Where the records of the sealed store ``out`` stand. Raises ConfigError where it was made otherwise."""
    from ecgstore.storage.store import open_store

    old = open_store(out)
    same = (old.recipe_sha256, old.storage) == (settings.recipe.sha256, settings.storage.model_dump())
    if old.format_version != layout.FORMAT_VERSION or not same:
        raise ConfigError(
            "a store grows only by the settings it was made with",
            where=out,
            expected=json.dumps({**old.recipe, **old.storage}),
            got=json.dumps({**settings.recipe.model_dump(mode="json"), **settings.storage.model_dump()}),
            fix="give the same settings, or make another store",
        )
    starts, lengths = old.column("start").tolist(), old.column("n_samples").tolist()
    places = dict(zip(old.column("record_id").tolist(), zip(starts, lengths, strict=True), strict=True))
    return Occupied(old.shard_samples, max(start + n for start, n in places.values()), places)


def _reuse(previous: Path, root: Path, made: Plan) -> None:
    """Let the new version share the shards of those tasks that the version before did just so."""
    for task in made.tasks:
        commit = layout.commit_object(task.first_shard)
        if (root / commit).exists():
            continue
        committed = shards.load_commit(previous, task, made.work)
        # A record that could not be read has no place in the version before: its task is another now, and is done.
        for name in (*committed.objects, commit) if committed is not None else ():
            building.link(previous / name, root / name)


def _accept_sealed(out: Path, made: Plan, resume: bool) -> str:
    sealed = manifest.load(out)
    if resume and sealed.plan_sha256 == made.sha256:
        return sealed.fingerprint
    different = ", from another source or with other settings" if resume else ""
    raise StoreExists(
        f"a sealed store is there already{different}",
        where=out,
        fix="choose another output, replace it with --overwrite, or add to it with --append",
    )


def _refuse_nested(source_root: Path, out: Path) -> None:
    source_root, out = source_root.resolve(), out.resolve()
    if out == source_root or source_root.is_relative_to(out):
        raise ConfigError("the output must not contain the source folder", where=out, fix="choose another output")


def _report(
    out: Path, made: Plan, fingerprint: str, resumed: int, began: float, settings: IngestSettings
) -> IngestReport:
    outcome: dict[str, Any] = {"records": made.n_records, "reasons": count_reasons(made.rejected), "warnings": 0}
    if fingerprint:
        outcome = _read_outcome(out)
    return IngestReport(
        path=str(out),
        records=outcome["records"],
        rejected=sum(outcome["reasons"].values()),
        reasons=outcome["reasons"],
        seconds=time.perf_counter() - began,
        fingerprint=fingerprint,
        n_shards=len(made.tasks),
        n_shards_resumed=resumed,
        warnings=outcome["warnings"],
        max_rejected=settings.max_rejected,
    )


def _read_outcome(out: Path) -> dict[str, Any]:
    records = tables.from_parquet((out / layout.RECORDS).read_bytes())
    reasons = tables.from_parquet((out / layout.REJECTED).read_bytes())["reason"].to_pylist()
    return {
        "records": records.num_rows,
        "reasons": dict(sorted(Counter(reasons).items())),
        "warnings": sum(bool(text) for text in records["warnings"].to_pylist()),
    }
