"""Scan → plan → one Dask task per shard → commits → seal. Killed anywhere, it goes on where it was.

Only this file imports Dask. The order of writes is what makes a kill harmless: the plan's hash first, then
shards and their commits in any order, then the tables, and the manifest last.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import importlib
import json
import platform
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SerializeAsAny

from ecgstore import layout, manifest, publish, shards
from ecgstore.errors import ConfigError, SourceError, StoreError, StoreExists, need
from ecgstore.memory import keep_freed_memory
from ecgstore.plan import Plan, Recipe, Scanned, make_plan, scan
from ecgstore.record import Rejection, Terms
from ecgstore.rooms import occupant, occupants
from ecgstore.settings import Settings, parse

#: Called with (phase, done, total); phases are "scan", "shards" and "seal".
Progress = Callable[[str, int, int], None]


def _parse_source(value: Any) -> Any:
    if isinstance(value, Settings):
        return value
    mapping = {"name": value} if isinstance(value, str) else value
    if not isinstance(mapping, dict) or "name" not in mapping:
        raise ValueError(f"a source is a name, or a mapping with its name: {', '.join(occupants('ecgstore.sources'))}")
    try:
        return parse(occupant("ecgstore.sources", mapping["name"]).Settings, mapping)
    except ConfigError as error:
        raise ValueError(str(error)) from None


#: A source's settings, told apart by ``name``, which is the name of its file in ``ecgstore/sources``.
Source = Annotated[SerializeAsAny[Settings], BeforeValidator(_parse_source)]


class IngestSettings(Recipe):
    """All settings of an ingest: the recipe, the source, and what may be left out."""

    source: Source | None = None
    #: The largest share of records that may be left out before the ingest reports failure.
    max_rejected: float = Field(0.01, ge=0, le=1)
    #: Patients are stored as keyed hashes. The same key gives the same hashes in every store, so that overlap
    #: between stores can be found; a secret key keeps others from testing whether somebody is in it.
    patient_key: str = Field("", exclude=True, repr=False)

    @property
    def recipe(self) -> Recipe:
        """What is done to the signals, without where they come from."""
        return Recipe(**{name: getattr(self, name) for name in Recipe.model_fields})


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What an ingest did."""

    path: str
    records: int
    rejected: int
    reasons: Mapping[str, int]
    seconds: float
    fingerprint: str
    n_shards: int
    n_shards_resumed: int
    warnings: int

    @property
    def records_per_s(self) -> float:
        """Records per second, all included."""
        return self.records / self.seconds if self.seconds > 0 else 0.0

    @property
    def rejected_fraction(self) -> float:
        """Share of the listed records that were left out."""
        return self.rejected / max(1, self.records + self.rejected)


def _default_settings(room_file: ModuleType) -> Settings:
    """A room file's settings where nothing was said about them."""
    settings: Settings = room_file.Settings()
    return settings


def detect_source(root: Path) -> Settings:
    """Tell which source a folder looks like; a plain WFDB folder if it looks like none."""
    for name in occupants("ecgstore.sources"):
        module = occupant("ecgstore.sources", name)
        if hasattr(module, "is_here") and module.is_here(root):
            return _default_settings(module)
    return _default_settings(occupant("ecgstore.sources", "wfdb_folder"))


def plan(source_root: Path, settings: IngestSettings, *, progress: Progress | None = None) -> Plan:
    """List the source, read every header and plan the store. Nothing is written.

    Raises SourceError where the folder is absent or no record in it can be used.
    """
    if not source_root.is_dir():
        kind = "a file" if source_root.exists() else "nothing"
        raise SourceError("the source folder is not there", where=source_root, got=kind, fix="check the path")
    source_root = source_root.resolve()
    source = settings.source or detect_source(source_root)
    name: str = source.name  # type: ignore[attr-defined]
    listing = occupant("ecgstore.sources", name).list_records(source_root, source)
    if not listing.records and not listing.rejected:
        raise SourceError("no WFDB record (*.hea) was found", where=source_root, fix="check the path")
    recipe = settings.recipe
    scanned: list[Scanned | Rejection] = []
    # One thread: parsing holds the interpreter, and several threads only take it from each other.
    for done, ref in enumerate(listing.records, start=1):
        scanned.append(scan(ref, recipe))
        if progress is not None and (done % 64 == 0 or done == len(listing.records)):
            progress("scan", done, len(listing.records))
    made = make_plan(listing, scanned, recipe, name, source_root, settings.patient_key)
    if made.n_records == 0:
        first = made.rejected[0]
        counts = ", ".join(f"{reason} × {count}" for reason, count in _count(made.rejected).items())
        raise SourceError(
            f"none of {len(made.rejected)} records can be used ({counts})",
            where=source_root,
            got=f"{first.record_id}: {first.reason} {first.detail}".strip(),
        )
    return made


def ingest_folder(
    source_root: str | Path,
    out: str | Path,
    settings: IngestSettings,
    *,
    workers: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> IngestReport:
    """Make the store ``out`` from the WFDB folder ``source_root``.

    An unfinished store of the same plan is finished; ``resume`` also accepts one that is already sealed.
    ``overwrite`` replaces a sealed store once the new one is sealed. Records that can't be used are left out
    and written down in ``rejected.parquet``; whether there are too many of them is for the caller to judge by
    ``IngestReport.rejected_fraction``.

    Raises SourceError, StoreExists, StoreError (the disk refuses), IntegrityError (it forgets), MissingExtra.
    """
    began = time.perf_counter()
    out = Path(out)
    _refuse_nested(Path(source_root), out)
    made = plan(Path(source_root), settings, progress=progress)
    if overwrite and (out / layout.MANIFEST).exists():
        # The old store stays whole and readable until the new one is sealed.
        aside = out.with_name(f"{out.name}{publish.ASIDE}")
        sealed, resumed = _build(aside, made, settings, workers, progress)
        _swap(aside, out)
    elif (out / layout.MANIFEST).exists():
        sealed = _accept_sealed(out, made, resume)
        resumed = len(made.tasks)
    else:
        sealed, resumed = _build(out, made, settings, workers, progress)
    outcome = _read_outcome(out)
    return IngestReport(
        path=str(out),
        records=outcome["records"],
        rejected=outcome["rejected"],
        reasons=outcome["reasons"],
        seconds=time.perf_counter() - began,
        fingerprint=sealed.fingerprint,
        n_shards=len(made.tasks),
        n_shards_resumed=resumed,
        warnings=outcome["warnings"],
    )


def _build(
    root: Path, made: Plan, settings: IngestSettings, workers: int, progress: Progress | None
) -> tuple[manifest.Manifest, int]:
    try:
        _begin(root, made)
        with _locked(root):
            commits = _existing_commits(root, made, workers)
            resumed = len(commits)
            commits |= _run(root, made, commits, workers, progress)
            if progress is not None:
                progress("seal", 0, 1)
            sealed = _seal(root, made, [commits[task.first_shard] for task in made.tasks], settings)
            if progress is not None:
                progress("seal", 1, 1)
        (root / layout.LOCK).unlink(missing_ok=True)
        return sealed, resumed
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StoreError(
                "the disk is full",
                where=root,
                fix="make room and run the same command again: it goes on from here",
            ) from error
        raise StoreError("the store can't be written", where=root, got=error.strerror or str(error)) from error


# --- beginning, or going on ---------------------------------------------------------------------------------


def _begin(root: Path, made: Plan) -> None:
    """Create the folder and its metadata, or check that what is there was begun by the same plan."""
    building = root / layout.BUILDING
    if building.exists():
        begun = json.loads(building.read_bytes()).get("plan_sha256")
        if begun != made.sha256:
            raise StoreExists(
                "an unfinished store stands here, begun from another source or with other settings",
                where=root,
                fix="delete that folder, or choose another output",
            )
    elif root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise StoreExists("the output is there already and is not a store", where=root, fix="choose another output")
    else:
        root.mkdir(parents=True, exist_ok=True)
        publish.write_bytes(building, json.dumps({"plan_sha256": made.sha256}).encode() + b"\n")
    if not (root / layout.SIGNAL / "zarr.json").exists():
        shards.create_array(root, made.recipe, made.total_samples, made.shard_samples)


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Let one ingest at a time work on a store; the system frees the lock of a process that dies."""
    with (root / layout.LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StoreExists("another ingest is writing this store right now", where=root, fix="wait for it") from None
        yield


def _existing_commits(root: Path, made: Plan, workers: int) -> dict[int, shards.Commit]:
    for leftover in root.rglob("*.partial*"):
        leftover.unlink(missing_ok=True)
    firsts = [task.first_shard for task in made.tasks]
    with ThreadPoolExecutor(max_workers=workers) as pool:
        found = pool.map(lambda first: shards.load_commit(root, first, made.sha256), firsts)
        return {first: commit for first, commit in zip(firsts, found, strict=True) if commit is not None}


def _accept_sealed(out: Path, made: Plan, resume: bool) -> manifest.Manifest:
    sealed = manifest.load(out)
    if resume and sealed.plan_sha256 == made.sha256:
        return sealed
    different = ", from another source or with other settings" if resume else ""
    raise StoreExists(
        f"a sealed store is there already{different}",
        where=out,
        fix="choose another output, or replace it with --overwrite",
    )


def _refuse_nested(source_root: Path, out: Path) -> None:
    source_root, out = source_root.resolve(), out.resolve()
    if out == source_root or source_root.is_relative_to(out):
        raise ConfigError("the output must not contain the source folder", where=out)


def _swap(aside: Path, out: Path) -> None:
    old = out.with_name(f"{out.name}.old{publish.ASIDE}")
    shutil.rmtree(old, ignore_errors=True)
    out.rename(old)
    aside.rename(out)
    publish.flush_folder(out.parent)
    shutil.rmtree(old)


# --- the work -----------------------------------------------------------------------------------------------


def _run(
    root: Path, made: Plan, done: Mapping[int, shards.Commit], workers: int, progress: Progress | None
) -> dict[int, shards.Commit]:
    dask = need("dask", "ingest")
    callbacks = need("dask.callbacks", "ingest")
    # Threads that import at the same time can wait for each other; what the tasks need is imported once here.
    need("scipy.fft", "ingest")
    if not all(record.header.plain for task in made.tasks for record in task.records):
        need("wfdb", "ingest")
    keep_freed_memory()
    todo = [task for task in made.tasks if task.first_shard not in done]
    finished = len(made.tasks) - len(todo)
    if progress is not None:
        progress("shards", finished, len(made.tasks))

    def after_task(*_: object) -> None:
        nonlocal finished
        finished += 1
        if progress is not None:
            progress("shards", min(finished, len(made.tasks)), len(made.tasks))

    delayed = [
        # Bound before Dask sees it: it would search every argument for its own objects, record by record.
        dask.delayed(
            functools.partial(shards.write, root, task, made.recipe, made.shard_samples, made.sha256), traverse=False
        )(dask_key_name=f"shard-{task.first_shard:08d}")
        for task in todo
    ]
    with callbacks.Callback(posttask=after_task), _quick_handover():
        commits = dask.compute(*delayed, scheduler="threads", num_workers=workers)
    return {commit.first_shard: commit for commit in commits}


@contextlib.contextmanager
def _quick_handover() -> Iterator[None]:
    """Threads that come back from NumPy wait 1 ms for the interpreter instead of 5: three per cent faster."""
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(0.001)
    try:
        yield
    finally:
        sys.setswitchinterval(before_s)


# --- the seal -----------------------------------------------------------------------------------------------


def _seal(root: Path, made: Plan, commits: Sequence[shards.Commit], settings: IngestSettings) -> manifest.Manifest:
    tables = importlib.import_module("ecgstore.tables")
    written = {one.record_id: one for commit in commits for one in commit.written}
    planned = [record for task in made.tasks for record in task.records if record.ref.record_id in written]
    rejected = [*made.rejected, *(one for commit in commits for one in commit.rejected)]
    if not planned:
        raise SourceError(f"none of {len(rejected)} records could be read", where=root, got=rejected[0])
    key = settings.patient_key or made.source
    records = tables.records(
        planned,
        written,
        made,
        {pid: patient_hash(key, pid) for pid in {r.ref.patient_id for r in planned} if pid},
    )
    publish.write_bytes(root / layout.RECORDS, tables.to_parquet(records))
    publish.write_bytes(root / layout.STATEMENTS, tables.to_parquet(tables.statements(planned)))
    publish.write_bytes(root / layout.REJECTED, tables.to_parquet(tables.rejected(rejected)))
    sums: dict[str, shards.Sums] = {}
    for commit in commits:
        for fold, part in commit.sums.items():
            sums.setdefault(fold, shards.Sums.zero(len(made.recipe.leads))).add(part)
    publish.write_bytes(root / layout.ROOT, _root_metadata(made, sums, bool(settings.patient_key)))
    objects = {name: found for commit in commits for name, found in commit.objects.items()}
    names = [layout.ROOT, f"{layout.SIGNAL}/zarr.json", layout.RECORDS, layout.STATEMENTS, layout.REJECTED]
    names += [layout.commit_object(commit.first_shard) for commit in commits]
    objects |= {name: manifest.hash_object(root / name) for name in names}
    _remove_strangers(root, objects)
    _flush_all(root, objects)
    sealed = manifest.seal(root, objects, made.sha256)
    (root / layout.BUILDING).unlink(missing_ok=True)
    return sealed


def patient_hash(key: str, patient_id: str) -> str:
    """Keyed BLAKE2b hash of a patient's identifier, 16 hex digits; what a store holds instead of the identifier."""
    keyed = hashlib.blake2b(patient_id.encode(), digest_size=8, key=hashlib.sha256(key.encode()).digest())
    return keyed.hexdigest()


def _root_metadata(made: Plan, sums: Mapping[str, shards.Sums], secret_key: bool) -> bytes:
    """The Zarr v3 root group with everything a reader must know before it touches a sample."""
    attributes = {
        "format": layout.FORMAT,
        "format_version": layout.FORMAT_VERSION,
        "recipe": made.recipe.model_dump(mode="json"),
        "recipe_sha256": made.recipe.sha256,
        "plan_sha256": made.sha256,
        "leads": list(made.recipe.leads),
        "fs_hz": made.recipe.fs_hz,
        "counts_per_mv": layout.COUNTS_PER_MV,
        "not_recorded": int(layout.NOT_RECORDED),
        "shard_samples": made.shard_samples,
        "sources": [_terms(made.listing.terms)],
        "vocabulary": {system: sorted(codes) for system, codes in sorted(made.listing.vocabulary.items())},
        "patients": "hashed with a secret key" if secret_key else "hashed with the source's name as key",
        "statistics": {
            fold: {"n": part.n, "sum_counts": part.total, "sum_squared_counts": part.squares}
            for fold, part in sorted(sums.items())
        },
        "software": _software(),
    }
    return json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes}, indent=1).encode() + b"\n"


def _terms(terms: Terms) -> dict[str, Any]:
    return {name: getattr(terms, name) for name in Terms.__dataclass_fields__}


def _software() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in ("ecgstore", "numcodecs", "numpy", "scipy", "wfdb", "zarr"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _flush_all(root: Path, names: Iterable[str]) -> None:
    """Have every object on the disk before the manifest says that it is; waiting for disks goes well in threads."""
    paths = [root / name for name in names]
    with ThreadPoolExecutor(max_workers=8) as pool:
        list(pool.map(publish.flush, paths))
        list(pool.map(publish.flush_folder, {path.parent for path in paths}))


def _remove_strangers(root: Path, objects: Mapping[str, manifest.ObjectHash]) -> None:
    """A killed ingest may leave objects that no commit names; a sealed store holds nothing else than it lists."""
    keep = objects.keys() | {layout.BUILDING, layout.LOCK}
    for path in root.rglob("*"):
        if path.is_file() and path.relative_to(root).as_posix() not in keep:
            path.unlink()


def _read_outcome(out: Path) -> dict[str, Any]:
    tables = importlib.import_module("ecgstore.tables")
    records = tables.from_parquet((out / layout.RECORDS).read_bytes())
    reasons = tables.from_parquet((out / layout.REJECTED).read_bytes())["reason"].to_pylist()
    return {
        "records": records.num_rows,
        "rejected": len(reasons),
        "reasons": dict(sorted(Counter(reasons).items())),
        "warnings": sum(bool(text) for text in records["warnings"].to_pylist()),
    }


def _count(rejected: Sequence[Rejection]) -> dict[str, int]:
    return dict(sorted(Counter(one.reason for one in rejected).items()))
