"""Scan → plan → one task per shard → commits → seal. Killed anywhere, it goes on where it was."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import json
import math
import os
import platform
import shutil
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from ecgstore import building, layout, manifest, schedule, shards
from ecgstore.array import create_array
from ecgstore.errors import ConfigError, EcgError, SourceError, StoreExists, StoreIncomplete
from ecgstore.noise import check, load_bank, with_bank
from ecgstore.plan import Occupied, Plan, Recipe, Scanned, Storage, make_plan, public, scan
from ecgstore.record import Listing, Rejection, Terms
from ecgstore.rooms import occupant, occupants
from ecgstore.scan import read_headers, without_segments
from ecgstore.schedule import Workers
from ecgstore.settings import Settings, parse

#: Called with (phase, done, total); phases are "verify", "scan", "shards" and "seal".
Progress = Callable[[str, int, int], None]


def _parse_source(value: Any) -> Any:
    if isinstance(value, Settings):
        return value
    mapping = {"name": value} if isinstance(value, str) else value
    if not isinstance(mapping, dict) or "name" not in mapping:
        raise ValueError(f"a source is a name, or a mapping with its name: {', '.join(occupants('ecgstore.sources'))}")
    try:
        module = occupant("ecgstore.sources", str(mapping["name"]))
        if not str(mapping["name"]).endswith(".py"):
            return parse(module.Settings, mapping)
        _refuse_half_a_source(module)
        # A file of yours may call itself what it likes, and may do without settings.
        return parse(module.Settings, {name: value for name, value in mapping.items() if name != "name"})
    except ConfigError as error:
        raise ValueError(str(error)) from None


def _refuse_half_a_source(module: ModuleType) -> None:
    lacks = [name for name in ("TERMS", "Settings", "list_records") if not hasattr(module, name)]
    if lacks:
        raise ConfigError(
            "the source file lacks a part", where=module.__file__, expected=", ".join(lacks), fix="see docs/sources.md"
        )


def _module(source: Settings) -> ModuleType:
    """The file of the room that these settings are of: a source's settings stand in the source's own file."""
    return sys.modules[type(source).__module__]


#: A source's settings, told apart by ``name``: that of its file in ``ecgstore/sources``, or a path to a file of yours.
Source = Annotated[SerializeAsAny[Settings], BeforeValidator(_parse_source)]


def profile_settings(profile: str, mains_hz: float = 50.0) -> dict[str, Any]:
    """What a profile stands for; any setting given beside it wins."""
    narrow = {"name": "bandpass", "low_hz": 0.5, "high_hz": 40.0}
    wide = {"name": "bandpass", "low_hz": 0.05, "high_hz": 150.0, "order": 1}
    profiles: dict[str, dict[str, Any]] = {
        "train": {"fs_hz": 100.0, "filters": [narrow, {"name": "notch", "freq_hz": mains_hz}]},
        "diagnostic": {"fs_hz": 500.0, "filters": [wide]},
        "raw": {"fs_hz": None, "filters": [], "encoding": "adc"},
    }
    return profiles[profile]


class IngestSettings(Recipe, Storage):
    """All settings of an ingest: the recipe, how it is kept, the source, and what may be left out.

    ``profile`` fills in what is not given: ``train`` (100 Hz, 0.5-40 Hz, notch), ``diagnostic`` (500 Hz,
    0.05-150 Hz) or ``raw`` (the source's own counts).
    """

    profile: Literal["train", "diagnostic", "raw"] = "train"
    #: Frequency of the mains where the records were made; the notch of the profile ``train``.
    mains_hz: Literal[50, 60] = 50
    source: Source | None = None
    #: Folder of the recorded noise (NSTDB), for ``noise`` of the kinds nstdb-….
    noise_bank: Path | None = None
    #: The largest share of records that may be left out before the ingest reports failure.
    max_rejected: float = Field(0.01, ge=0, le=1)
    #: Patients are stored as keyed hashes. The same key gives the same hashes in every store, so that overlap
    #: between stores can be found; a secret key keeps others from testing whether somebody is in it.
    patient_key: str = Field("", exclude=True, repr=False)

    @model_validator(mode="before")
    @classmethod
    def _fill_from_profile(cls, content: Any) -> Any:
        if not isinstance(content, Mapping) or content.get("profile", "train") not in ("train", "diagnostic", "raw"):
            return content
        return profile_settings(content.get("profile", "train"), content.get("mains_hz", 50)) | dict(content)

    @property
    def recipe(self) -> Recipe:
        """What is done to the signals, without where they come from."""
        recipe = Recipe(**{name: getattr(self, name) for name in Recipe.model_fields})
        if recipe.noise is None:
            return recipe
        bank = load_bank(self.noise_bank) if self.noise_bank is not None else None
        check(recipe.noise, recipe.fs_hz or math.inf, bank)
        return recipe.model_copy(update={"noise": with_bank(recipe.noise, bank)})

    @property
    def storage(self) -> Storage:
        """How the store keeps what the recipe made."""
        return Storage(codec=self.codec, quality=self.quality)


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


def list_source(source_root: Path, source: Settings | None) -> tuple[Path, Settings, Listing]:
    """The folder's resolved path, its kind, and its records. Raises SourceError where nothing is there."""
    if not source_root.is_dir():
        kind = "a file" if source_root.exists() else "nothing"
        raise SourceError("the source folder is not there", where=source_root, got=kind, fix="check the path")
    source_root = source_root.resolve()
    source = source or detect_source(source_root)
    with _plain_source_errors(_module(source)):
        listing: Listing = _module(source).list_records(source_root, source)
    if not listing.records and not listing.rejected:
        raise SourceError("no WFDB record (*.hea) was found", where=source_root, fix="check the path")
    return source_root, source, listing


@contextlib.contextmanager
def _plain_source_errors(module: ModuleType) -> Iterator[None]:
    """What a source of somebody else's raises is said in one line, with the place in it."""
    try:
        yield
    except EcgError:
        raise
    except Exception as error:
        if module.__name__.rpartition(".")[2] in occupants("ecgstore.sources"):
            raise  # one of ours: a bug, and its traceback is wanted
        places = [entry for entry in traceback.extract_tb(error.__traceback__) if entry.filename == module.__file__]
        where = f"{module.__file__}:{places[-1].lineno}" if places else module.__file__
        got = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise SourceError("the source file failed", where=where, got=got, fix="mend it") from error


def plan(
    source_root: Path,
    settings: IngestSettings,
    *,
    verify_source: bool = False,
    scan_table: Path | None = None,
    occupied: Occupied | None = None,
    progress: Progress | None = None,
) -> Plan:
    """List the source, read every header and plan the store. Nothing is written but ``scan_table``.

    Raises SourceError where the folder is absent or no record in it can be used.
    """
    source_root, source, listing = list_source(source_root, settings.source)
    if verify_source:
        listing = _verified(source_root, listing, progress)
    describe = getattr(_module(source), "describe", None)
    bound = None if describe is None else functools.partial(_describe, describe, source)
    recipe = settings.recipe
    scanned: list[Scanned | Rejection] = []
    with _plain_source_errors(_module(source)):
        for ref, header, comments in read_headers(listing.records, source_root, scan_table, progress):
            if isinstance(header, Rejection):
                scanned.append(header)
            else:
                scanned.append(scan(ref, header, comments, recipe, bound))
    made = make_plan(
        listing,
        without_segments(listing.records, scanned),
        recipe,
        source,
        source_root,
        storage=settings.storage,
        patient_key=settings.patient_key,
        noise_bank=settings.noise_bank,
        occupied=occupied,
    )
    if made.n_records == 0:
        first = made.rejected[0]
        counts = ", ".join(f"{reason} × {count}" for reason, count in _count(made.rejected).items())
        raise SourceError(
            f"none of {len(made.rejected)} records can be used ({counts})",
            where=source_root,
            got=f"{first.record_id}: {first.reason} {first.detail}".strip(),
        )
    return made


def _describe(describe: Callable[..., Any], source: Settings, ref: Any, comments: Any, gains: Any) -> Any:
    return describe(ref, comments, source, gains)


def _verified(root: Path, listing: Listing, progress: Progress | None) -> Listing:
    """The listing without the records one of whose files differs from the source's own list of checksums."""
    checksums = importlib.import_module("ecgstore.checksums")
    sums = checksums.load_sums(root)
    by_stem: dict[str, list[str]] = {}
    for name in sums:
        by_stem.setdefault(name.rpartition(".")[0], []).append(name)
    rejected: list[Rejection] = []
    for done, ref in enumerate(listing.records, start=1):
        stem = ref.path.relative_to(root).as_posix()
        bad = checksums.bad_files(root, by_stem.get(stem) or [f"{stem}.hea"], sums)
        rejected += [Rejection(ref.record_id, "bad_source_checksum", f"{name}: {why}") for name, why in bad.items()][:1]
        if progress is not None and (done % 64 == 0 or done == len(listing.records)):
            progress("verify", done, len(listing.records))
    left_out = {one.record_id for one in rejected}
    kept = tuple(ref for ref in listing.records if ref.record_id not in left_out)
    return replace(listing, records=kept, rejected=(*listing.rejected, *rejected))


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
        sealed = _seal(out, made, [commits[task.first_shard] for task in made.tasks], settings)
    building.release(out)
    return _report(out, made, sealed.fingerprint, len(made.tasks), began, settings)


# --- beginning, or going on ---------------------------------------------------------------------------------


def _begin(root: Path, made: Plan, source_root: Path, settings: IngestSettings, verify_source: bool) -> None:
    """What :func:`seal_store` needs is noted down; it is gone once the store is sealed."""
    content = settings.model_dump(mode="json")
    name = getattr(made.source, "name", "")
    name = name if name in occupants("ecgstore.sources") else _module(made.source).__file__
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
        sealed = _seal(root, made, [commits[task.first_shard] for task in tasks], settings)
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
    from ecgstore.store import open_store

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


# --- the seal -----------------------------------------------------------------------------------------------


def _seal(root: Path, made: Plan, commits: Sequence[shards.Committed], settings: IngestSettings) -> manifest.Manifest:
    pa: Any = importlib.import_module("pyarrow")
    tables = importlib.import_module("ecgstore.tables")
    written = pa.concat_tables([commit.written for commit in commits])
    there = set(written["record_id"].to_pylist())
    planned = [record for task in made.tasks for record in task.records if record.ref.record_id in there]
    rejected = [*made.rejected, *(one for commit in commits for one in commit.rejected)]
    if not planned:
        raise SourceError(f"none of {len(rejected)} records could be read", where=root, got=rejected[0])
    key = settings.patient_key or made.listing.terms.name
    patients = {pid: patient_hash(key, pid) for pid in {r.ref.patient_id for r in planned} if pid}
    sums: dict[str, shards.Sums] = {}
    for commit in commits:
        for fold, part in commit.sums.items():
            sums.setdefault(fold, shards.Sums.zero(len(made.work.leads))).add(part)
    small = {
        layout.RECORDS: tables.to_parquet(tables.records(planned, written, made, patients)),
        layout.LEADS: tables.to_parquet(tables.leads(written, len(made.work.leads))),
        layout.STATEMENTS: tables.to_parquet(tables.statements(planned)),
        layout.BEATS: tables.to_parquet(tables.beats(written)),
        layout.REJECTED: tables.to_parquet(tables.rejected(rejected)),
        layout.ROOT: root_metadata(_attributes(made, sums, bool(settings.patient_key))),
    }
    names = [f"{layout.SIGNAL}/zarr.json", *(layout.commit_object(task.first_shard) for task in made.tasks)]
    objects = {name: manifest.hash_object(root / name) for name in names}
    for commit in commits:
        objects |= commit.objects
    return building.seal(root, small, objects, made.sha256)


def patient_hash(key: str, patient_id: str) -> str:
    """Keyed BLAKE2b hash of a patient's identifier, 16 hex digits; what a store holds instead of the identifier."""
    keyed = hashlib.blake2b(patient_id.encode(), digest_size=8, key=hashlib.sha256(key.encode()).digest())
    return keyed.hexdigest()


def root_metadata(attributes: Mapping[str, Any]) -> bytes:
    """The Zarr v3 root group with everything a reader must know before it touches a sample."""
    return json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes}, indent=1).encode() + b"\n"


def _attributes(made: Plan, sums: Mapping[str, shards.Sums], secret_key: bool) -> dict[str, Any]:
    work = made.work
    is_raw = work.recipe.encoding == "adc"
    rates = {record.header.fs_hz for task in made.tasks for record in task.records}
    return {
        "format": layout.FORMAT,
        "format_version": layout.FORMAT_VERSION,
        "recipe": work.recipe.model_dump(mode="json"),
        "recipe_sha256": work.recipe.sha256,
        "storage": work.storage.model_dump(mode="json"),
        "plan_sha256": made.sha256,
        "leads": list(work.leads),
        "fs_hz": work.recipe.fs_hz or (rates.pop() if len(rates) == 1 else None),
        "counts_per_mv": None if is_raw else layout.COUNTS_PER_MV,
        "not_recorded": int(layout.NOT_RECORDED),
        "shard_samples": work.shard_samples,
        "sources": [_terms(made.listing.terms)],
        "source_settings": public(made.source),
        "vocabulary": {system: sorted(codes) for system, codes in made.vocabulary.items()},
        "patients": "hashed with a secret key" if secret_key else "hashed with the source's name as key",
        # Sums over counts of different gains would mean nothing.
        "statistics": {}
        if is_raw
        else {
            fold: {"n": part.n, "sum_counts": part.total, "sum_squared_counts": part.squares}
            for fold, part in sorted(sums.items())
        },
        "software": software(),
    }


def _terms(terms: Terms) -> dict[str, Any]:
    return {name: getattr(terms, name) for name in Terms.__dataclass_fields__}


def software() -> dict[str, str]:
    """Versions of what writes stores."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in ("ecgstore", "numcodecs", "numpy", "scipy", "wfdb", "zarr"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


# --- the report ---------------------------------------------------------------------------------------------


def _report(
    out: Path, made: Plan, fingerprint: str, resumed: int, began: float, settings: IngestSettings
) -> IngestReport:
    outcome: dict[str, Any] = {"records": made.n_records, "reasons": _count(made.rejected), "warnings": 0}
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
    tables = importlib.import_module("ecgstore.tables")
    records = tables.from_parquet((out / layout.RECORDS).read_bytes())
    reasons = tables.from_parquet((out / layout.REJECTED).read_bytes())["reason"].to_pylist()
    return {
        "records": records.num_rows,
        "reasons": dict(sorted(Counter(reasons).items())),
        "warnings": sum(bool(text) for text in records["warnings"].to_pylist()),
    }


def _count(rejected: Sequence[Rejection]) -> dict[str, int]:
    return dict(sorted(Counter(one.reason for one in rejected).items()))
