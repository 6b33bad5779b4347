"""Scan → plan → one task per shard → commits → seal. Killed anywhere, it goes on where it was."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ecgstore.build import building, planned, schedule, shards
from ecgstore.build.construct import Job, Outcome, Progress, Wish, construct, seal_parts
from ecgstore.build.notes import notes
from ecgstore.build.patients import key_check, patient_hash, refuse_identifying
from ecgstore.build.plan import Occupied, Plan, Stretch, Task, Work, task_sha256
from ecgstore.build.planning import count_reasons, is_ours, plan
from ecgstore.build.schedule import Workers
from ecgstore.build.seal import seal_ingested, software
from ecgstore.build.settings import IngestSettings, detect_source, module_of, source_of
from ecgstore.build.shards import create_array
from ecgstore.errors import ConfigError, EcgError, SourceError, StoreExists, StoreIncomplete
from ecgstore.rooms import name_own_file, occupants, own_file_sha256
from ecgstore.settings import NOT_SAID, Difference, Settings, first_difference, parse
from ecgstore.sources._reader import reader_of
from ecgstore.storage import layout, tables, withdrawn
from ecgstore.storage.outside import refuse_within_store

#: Endings of files that sources list their records by.
_TABLES = (".csv", ".tsv", ".txt", ".xlsx", ".json", ".gz", "RECORDS")


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What an ingest did, at ``path`` in ``seconds``. ``fingerprint`` is empty for a part, which is sealed later.

    ``records`` were stored, ``rejected`` left out: ``reasons`` says how many for each reason. ``warnings``: records
    that were stored with something to be known of them. ``n_shards``: all that the store has.
    """

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
    #: What else a user should know of the source and of what many records have in common, a line each.
    notes: tuple[str, ...] = ()

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
    """Make the store ``out`` from the WFDB folder ``source_root``, by ``settings``.

    An unfinished store of the same plan is finished; ``resume`` also accepts one that is already sealed. ``overwrite``
    replaces a sealed store once the new one is sealed; ``append`` does so too, but uses again the shards of records
    that did not change. ``part`` (i, n) does the i-th of n equal shares of the tasks, counted from 1, and leaves the
    seal to :func:`ecgstore.seal_store`. Headers are read from ``scan_table`` where they did not change since it was
    written. ``verify_source`` compares every file with the source's SHA256SUMS.txt first.

    Records that can't be used are left out and written down in ``rejected.parquet``; whether there are too many
    of them is for the caller to judge by ``IngestReport.rejected_fraction``.

    Raises SourceError, StoreExists, StoreError (the disk refuses), IntegrityError (it forgets), MissingExtra,
    ConfigError (options that contradict each other).
    """
    began = time.perf_counter()
    out, source_root = Path(out), Path(source_root)
    _refuse_nested(source_root, out)
    if sum((resume, overwrite, append)) > 1 or (part is not None and (overwrite or append)):
        raise ConfigError("resume, overwrite and append exclude each other, and parts exclude the last two")
    building.prepare(out)
    if scan_table is not None:
        refuse_within_store(scan_table)
    is_sealed = (out / layout.MANIFEST).exists()
    before, grown_from, inherited = _occupied(out, settings) if append and is_sealed else (None, None, {})
    if overwrite and is_sealed:
        inherited = _withdrawn_from(out)
    if scan_table is None and (part is not None or (out / layout.SCAN).exists()) and not is_sealed:
        # Parts share what the first of them read.
        scan_table = out / layout.SCAN
    crew = workers if isinstance(workers, Workers) else Workers(n=workers)
    with building.plain_disk_errors(out), contextlib.ExitStack() as turn:
        made = None
        if part is not None and not is_sealed:
            turn.enter_context(building.planning(out))
            made = _planned_before(out, source_root, settings, verify_source)
        made = made or plan(
            source_root,
            settings,
            verify_source=verify_source,
            scan_table=scan_table,
            occupied=before,
            look=functools.partial(refuse_identifying, settings.patient_key, settings.record_ids),
            inherited=inherited,
            progress=progress,
            workers=crew,
        )
        vanished = _vanished(made, before, source_root)
        job = _job(made, settings, source_root, verify_source)
        if part is not None:
            job = replace(job, begun=lambda root: _leave_plan(root, made, settings, source_root, verify_source, turn))
        outcome = construct(job, out, Wish(resume, overwrite, append, grown_from), crew, part, progress)
    return _report(out, made, outcome, began, settings, vanished)


def seal_ingest(
    out: Path,
    about: Mapping[str, Any],
    patient_key: str,
    progress: Progress | None,
    own_source: str | Path | None = None,
) -> IngestReport:
    """Seal a store whose parts were made by several ingests; ``about`` is what was noted down when it was begun.

    Raises StoreIncomplete where tasks are left, StoreExists where the source or the patients' key is another now,
    ConfigError where the store was begun with a source file, and that is not the file ``own_source``.
    """
    began = time.perf_counter()
    settings = _begun_with(out, about, patient_key, own_source)
    source_root, verify_source = Path(str(about.get("source_root"))), bool(about.get("verify_source"))
    made = _planned_before(out, source_root, settings, verify_source) or plan(
        source_root, settings, verify_source=verify_source, scan_table=out / layout.SCAN, progress=progress
    )
    if made.sha256 != about.get("plan_sha256"):
        raise StoreExists(
            "the source is not what it was when this store was begun, or ECGSTORE_PATIENT_KEY is another",
            where=out,
            fix="delete that folder and begin again",
        )
    outcome = seal_parts(_job(made, settings, source_root, verify_source), out)
    return _report(out, made, outcome, began, settings)


def _begun_with(out: Path, about: Mapping[str, Any], patient_key: str, own_source: str | Path | None) -> IngestSettings:
    """The settings that were noted down; an unfinished store may come from elsewhere, so it can name no code."""
    where, noted = out / layout.BUILDING, about.get("settings")
    source = noted.get("source") if isinstance(noted, dict) else None
    if not isinstance(noted, dict) or not isinstance(source, dict):
        raise StoreIncomplete("the note of what is being built names no source", where=where)
    if own_source is not None:
        if not _same_file(own_source, source.get("name")):
            raise ConfigError(
                "the store was begun with another source", where=where, expected=source.get("name"), got=own_source
            )
        name_own_file(own_source, "source")
        if about.get("own_source_sha256") not in (None, own_file_sha256(str(own_source))):
            raise StoreExists(
                "the source file is not what it was when this store was begun",
                where=own_source,
                fix="delete that folder and begin again",
            )
        source = {**source, "name": str(own_source)}
    elif str(source.get("name")) not in occupants("ecgstore.sources"):
        raise ConfigError(
            "this store was begun with a source file, which is not run unless you name it yourself",
            where=where,
            got=str(source.get("name"))[:200],
            fix="if you trust it: ecgstore seal OUT --source FILE.py",
        )
    return parse(IngestSettings, {**noted, "source": source_of(source), "patient_key": patient_key}, where=where)


def _same_file(named: str | Path, noted: object) -> bool:
    """Whether both paths end in the same name: the file may have moved since."""
    return isinstance(noted, str) and Path(named).name == Path(noted).name


def _job(made: Plan, settings: IngestSettings, source_root: Path, verify_source: bool) -> Job:
    """An ingest as :func:`construct` makes it; what :func:`ecgstore.seal_store` needs is noted down meanwhile."""
    work = made.work
    content = settings.model_dump(mode="json")
    name = getattr(made.source, "name", "")
    name = name if name in occupants("ecgstore.sources") else module_of(made.source).__file__
    content["source"] = {**made.source.model_dump(mode="json"), "name": name}
    own_sha256 = own_file_sha256(str(name))
    root_of_source = source_root.resolve()
    hash_patient = functools.partial(patient_hash, settings.secret_key or made.listing.terms.name)

    def carried(root: Path, tasks: Sequence[Any]) -> Sequence[Any]:
        wanted = {task.first_shard for task in tasks}
        there = made.stretches or planned.write(root, made, root_of_source, "", hash_patient)
        return [stretch for stretch in there if stretch.first_shard in wanted]

    return Job(
        plan_sha256=made.sha256,
        tasks=made.units,
        task_sha256=functools.partial(_task_sha256, work=work),
        # Bound before Dask sees it: it would search every argument for its own objects, record by record.
        do=functools.partial(_do, work=work, source_root=root_of_source, is_received=bool(made.stretches)),
        ready=functools.partial(schedule.prepare, made.needs_wfdb),
        create_array=lambda root: create_array(
            root, work.storage.codec, len(work.leads), made.total_samples, work.shard_samples
        ),
        about={
            "source_root": str(root_of_source),
            "settings": content,
            "verify_source": verify_source,
            **({} if own_sha256 is None else {"own_source_sha256": own_sha256}),
        },
        seal=lambda root, commits: seal_ingested(root, made, settings, commits),
        carried=carried,
        otherwise="from another source or with other settings",
        instead="choose another output, replace it with --overwrite, or add to it with --append",
    )


def _do(root: Path, unit: Task | Stretch, work: Work, source_root: Path, is_received: bool) -> None:
    """One task, by its records or by its place in the plan's files; ``is_received``: another process wrote these."""
    task = planned.read_task(root, unit, source_root, work) if isinstance(unit, Stretch) else unit
    if is_received:
        planned.refuse_other_source(task, source_root, work.recipe)
    shards.write(root, task, work)


def _task_sha256(unit: Task | Stretch, work: Work) -> str:
    return unit.sha256 if isinstance(unit, Stretch) else task_sha256(unit, work)


def _planned_before(out: Path, source_root: Path, settings: IngestSettings, verify_source: bool) -> Plan | None:
    """The plan that the first part left beside the store, if it was made of these settings."""
    if not source_root.is_dir():
        return None  # planning says so
    source = settings.source or detect_source(source_root.resolve())
    key = _plan_key(settings, source, source_root, verify_source)
    recipe, storage = settings.recipe, settings.storage

    def work(leads: Sequence[str], shard_samples: int) -> Work:
        hides_names = settings.record_ids == "hashed"
        return Work(recipe, storage, tuple(leads), shard_samples, settings.noise_bank, hides_names)

    return planned.load(out, key, source, work) if key else None


def _leave_plan(
    root: Path,
    made: Plan,
    settings: IngestSettings,
    source_root: Path,
    verify_source: bool,
    turn: contextlib.ExitStack,
) -> None:
    """Write the plan for the other parts and the seal, unless it was read; then whoever waits for it may go on."""
    key = _plan_key(settings, made.source, source_root, verify_source)
    if key and not made.stretches:
        hash_patient = functools.partial(patient_hash, settings.secret_key or made.listing.terms.name)
        planned.write(root, made, source_root.resolve(), key, hash_patient)
    turn.close()


def _plan_key(settings: IngestSettings, source: Settings, source_root: Path, verify_source: bool) -> str:
    """Equal for two ingests that would make the same plan of the same folder; empty where only planning can tell.

    A source of a user's own lists and reads what it likes. Headers are compared by each task; here tables are.
    """
    if reader_of(source) is not None or not is_ours(module_of(source)):
        return ""
    about = {
        "settings": {**settings.model_dump(mode="json"), "source": source.model_dump(mode="json")},
        "source": module_of(source).__name__,
        "recipe": settings.recipe.sha256,
        "patients": key_check(settings.secret_key),
        "verify_source": verify_source,
        "tables": _tables_of(source, source_root.resolve()),
        "software": software(),
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()


def _tables_of(source: Settings, root: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of change of the tables in a source's folder, and of those that its settings name."""
    named = [path for _, value in source if isinstance(value, Path) for path in (value, root / value)]
    beside = [Path(entry.path) for entry in os.scandir(root) if entry.name.endswith(_TABLES)]
    found = []
    for path in (*named, *beside):
        with contextlib.suppress(OSError):
            status = path.stat()
            found.append((path.name, status.st_size, status.st_mtime_ns))
    return sorted(set(found))


def _occupied(out: Path, settings: IngestSettings) -> tuple[Occupied, str, dict[str, Any]]:
    """Where the records of the sealed store ``out`` stand; its fingerprint; attributes that its next version keeps.

    Raises ConfigError if it was made otherwise.
    """
    from ecgstore.storage.store import open_store

    old = open_store(out)
    steps = old.attributes.get("lineage", [])
    if other := next((step["made_by"] for step in steps if step["made_by"] != "withdraw"), None):
        raise ConfigError(
            f"a store that was made by `ecgstore {other}` can't grow from a folder",
            where=out,
            fix=f"let its parents grow, and {other} again",
        )
    differing = first_difference(
        {**old.recipe, **old.storage},
        {**settings.recipe.model_dump(mode="json"), **settings.storage.model_dump()},
    )
    if old.format_version != layout.FORMAT_VERSION:
        differing = Difference("format_version", str(old.format_version), str(layout.FORMAT_VERSION))
    if differing is not None:
        raise ConfigError(
            f"a store grows only by the settings it was made with: {differing.name} differs",
            where=out,
            expected=differing.one,
            got=differing.other,
            fix="this release makes no such store: make another one"
            if differing.one == NOT_SAID or differing.name == "format_version"
            else "give the same settings, or make another store",
        )
    if (drawn := old.attributes.get("folds_drawn")) != settings.folds:
        raise ConfigError(
            "a store grows only with the folds it was made with",
            where=out,
            expected=f"--folds {drawn}" if drawn else "no --folds",
            got=f"--folds {settings.folds}" if settings.folds else "none",
            fix="say the same --folds, or make another store",
        )
    if old.attributes.get("record_ids", "path") != settings.record_ids:
        raise ConfigError(
            "a store grows only with ids of the kind it was made with",
            where=out,
            expected=old.attributes.get("record_ids", "path"),
            got=settings.record_ids,
            fix="say the same --record-ids, or make another store",
        )
    check = key_check(settings.secret_key) if settings.secret_key else None
    # A store of a release before this one has no check of its key.
    has_check = "patient_key_check" in old.attributes or "secret" not in str(old.attributes["patients"])
    if has_check and old.attributes.get("patient_key_check") != check:
        raise ConfigError(
            "a store grows only by the key of patients it was made with",
            where=out,
            fix="set the same ECGSTORE_PATIENT_KEY, or make another store",
        )
    starts, lengths = old.column("start").tolist(), old.column("n_samples").tolist()
    places = dict(zip(old.column("record_id").tolist(), zip(starts, lengths, strict=True), strict=True))
    occupied = Occupied(old.shard_samples, max(start + n for start, n in places.values()), places)
    kept = {name: old.attributes[name] for name in (withdrawn.ATTRIBUTE, "lineage") if name in old.attributes}
    return occupied, old.fingerprint, kept


def _withdrawn_from(out: Path) -> dict[str, Any]:
    """What a store that is replaced says of who has withdrawn: nobody comes back by that."""
    from ecgstore.storage.store import open_store

    try:
        return withdrawn.Withdrawn.of(open_store(out).attributes).attribute()
    except EcgError:  # what can't be read may be replaced
        return {}


def _vanished(made: Plan, before: Occupied | None, source_root: Path) -> tuple[str, ...]:
    """Say which records of the version before the next one won't have, nor their reason.

    Raises SourceError where the source has folders that can't be read: their records may be well.
    """
    if before is None:
        return ()
    unreadable = [one.record_id for one in made.rejected if one.reason == "unreadable_folder"]
    if unreadable:
        raise SourceError(
            f"{len(unreadable)} folders can't be read, so --append would drop their records",
            where=source_root,
            got=", ".join(unreadable[:5]),
            fix="make them readable, or leave the store as it is",
        )
    there = {record.ref.record_id for task in made.tasks for record in task.records}  # it was planned just now
    gone = sorted(before.places.keys() - there - {one.record_id for one in made.rejected})
    if not gone:
        return ()
    some = ", ".join(gone[:5]) + (" …" if len(gone) > 5 else "")
    return (f"{len(gone)} records of the version before are no longer in the source: {some}",)


def _refuse_nested(source_root: Path, out: Path) -> None:
    source_root, out = source_root.resolve(), out.resolve()
    if out == source_root or source_root.is_relative_to(out):
        raise ConfigError("the output must not contain the source folder", where=out, fix="choose another output")


def _report(
    out: Path, made: Plan, outcome: Outcome, began: float, settings: IngestSettings, remarks: tuple[str, ...] = ()
) -> IngestReport:
    found: dict[str, Any] = {"records": made.n_records, "reasons": count_reasons(made.rejected)}
    if outcome.fingerprint:
        found = _read_tables(out)
    return IngestReport(
        path=str(out),
        records=found["records"],
        rejected=sum(found["reasons"].values()),
        reasons=found["reasons"],
        seconds=time.perf_counter() - began,
        fingerprint=outcome.fingerprint,
        n_shards=len(made.units),
        n_shards_resumed=outcome.n_found,
        warnings=found.get("warnings", 0),
        max_rejected=settings.max_rejected,
        notes=(*made.listing.notes, *remarks, *found.get("notes", ())),
    )


def _read_tables(out: Path) -> dict[str, Any]:
    reasons = tables.from_parquet((out / layout.REJECTED).read_bytes())["reason"].to_pylist()
    with (out / layout.RECORDS).open("rb") as opened:
        file = pq.ParquetFile(opened, pre_buffer=False)

        def texts(name: str) -> Iterator[str]:
            for group in range(file.num_row_groups):
                yield from file.read_row_group(group, columns=[name], use_threads=False)[name].to_pylist()

        return {
            "records": file.metadata.num_rows,
            "reasons": dict(sorted(Counter(reasons).items())),
            "warnings": sum(map(bool, texts("warnings"))),
            "notes": notes(texts("suspects"), texts("warnings")),
        }
