"""What is in a folder before any work: records, leads, rates, lengths, statements, broken files, size and time.

Size and time come from a trial: a few records, spread over the folder, go all the way into a store that is
thrown away.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ecgstore.build import commits, schedule, shards
from ecgstore.build.commits import Committed
from ecgstore.build.construct import Progress
from ecgstore.build.notes import notes
from ecgstore.build.patients import refuse_identifying
from ecgstore.build.plan import Plan, Planned, Scanned, make_plan, task_sha256
from ecgstore.build.planning import plan
from ecgstore.build.schedule import Workers
from ecgstore.build.settings import IngestSettings
from ecgstore.build.shards import create_array
from ecgstore.errors import ConfigError
from ecgstore.record import Listing, RecordRef
from ecgstore.storage.outside import refuse_within_store
from ecgstore.wfdb_io.header import Header

#: Records of the trial, and how many samples of the store (of all leads together) they may have; one record at least.
TRIAL = 64
TRIAL_SAMPLES = 20_000_000


@dataclass(frozen=True, slots=True)
class Survey:
    """What a folder holds. Counts are of records that can be used, but for ``left_out`` and ``examples``."""

    path: str
    source: str
    records: int
    patients: int
    hours: float
    source_megabytes: float
    left_out: dict[str, int]
    examples: dict[str, str]
    leads: dict[str, int]
    rates_hz: dict[str, int]
    lengths_s: dict[str, int]
    formats: dict[str, int]
    folds: dict[str, int]
    sites: dict[str, int]
    statements: dict[str, int]
    #: What the store would take, and how long its making, by the trial; None where nothing could be tried.
    store_megabytes: float | None
    seconds: float | None
    #: What else a user should know of the folder and of what many records have in common, a line each.
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data."""
        return asdict(self)


def survey(
    source_root: str | Path,
    settings: IngestSettings,
    *,
    workers: int | Workers = 1,
    scan_table: Path | None = None,
    progress: Progress | None = None,
) -> Survey:
    """Look at every header of ``source_root`` and try a few records; nothing is kept but ``scan_table``.

    ``workers`` try the records here, so many at a time; where they have a scheduler, its workers read the headers.

    Raises SourceError where the folder is absent or no record in it can be used.
    """
    if scan_table is not None:
        refuse_within_store(scan_table)
    refused: list[str] = []
    crew = workers if isinstance(workers, Workers) else Workers(n=workers)
    look = functools.partial(_ask, settings, refused)
    made = plan(Path(source_root), settings, scan_table=scan_table, look=look, progress=progress, workers=crew)
    planned = [record for task in made.tasks for record in task.records]
    headers = [record.header for record in planned]
    lengths_s = [header.n_samples / header.fs_hz for header in headers]
    megabytes, seconds, noted = _try(made, planned, settings, Path(source_root).resolve(), crew.n)
    return Survey(
        path=str(source_root),
        source=made.listing.terms.name,
        records=len(planned),
        patients=len({record.ref.patient_id for record in planned} - {None}),
        hours=round(sum(lengths_s) / 3600, 3),
        source_megabytes=round(_source_bytes(planned) / 1e6, 1),
        left_out=_most(Counter(one.reason for one in made.rejected)),
        examples={one.reason: f"{one.record_id}: {one.detail}" for one in reversed(made.rejected)},
        leads=_most(Counter(" ".join(header.lead_names) for header in headers)),
        rates_hz=_most(Counter(f"{header.fs_hz:g}" for header in headers)),
        lengths_s=_most(Counter(f"{length_s:g}" for length_s in lengths_s)),
        formats=_most(Counter(_read_by(header, made.work.reader is not None) for header in headers)),
        folds=_most(Counter(str(record.ref.fold) for record in planned if record.ref.fold is not None)),
        sites=_most(Counter(record.ref.site for record in planned if record.ref.site is not None)),
        statements=_most(Counter(f"{s.system}:{s.code}" for record in planned for s in record.ref.statements)),
        store_megabytes=megabytes,
        seconds=seconds,
        notes=(*dict.fromkeys(refused), *made.listing.notes, *noted),
    )


def _ask(settings: IngestSettings, refused: list[str], refs: Sequence[RecordRef], source: str) -> None:
    """Write down what an ingest with these settings would refuse."""
    try:
        refuse_identifying(settings.patient_key, settings.record_ids, refs, source)
    except ConfigError as error:
        refused.append(f"an ingest would be refused: {error}")


def _most(counts: Counter[Any]) -> dict[str, int]:
    return dict(counts.most_common())


def _read_by(header: Header, has_reader: bool) -> str:
    if has_reader:
        return "read by the source"
    return "plain (read by NumPy)" if header.plain else "read by wfdb"


def _source_bytes(planned: Sequence[Planned]) -> int:
    """Size of the signal files; those that stand in the same file count once."""
    paths = {record.ref.path.with_name(name) for record in planned for name in record.header.files}
    return sum(path.stat().st_size for path in paths if path.is_file())


def _try(
    made: Plan, planned: Sequence[Planned], settings: IngestSettings, root: Path, workers: int
) -> tuple[float | None, float | None, tuple[str, ...]]:
    """Megabytes and seconds that all records would take, from what some of them take, and what these have in common."""
    some = [Scanned(record.ref, record.header) for record in _some(planned, len(made.work.leads))]
    listing = Listing(tuple(one.ref for one in some), (), made.listing.terms, made.listing.vocabulary)
    trial = make_plan(
        listing, some, made.work.recipe, made.source, root, storage=settings.storage, noise_bank=settings.noise_bank
    )
    work = trial.work
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder)
        create_array(store, work.storage.codec, len(work.leads), trial.total_samples, work.shard_samples)
        schedule.prepare(work.reader is None and any(not one.header.plain for one in some))
        began = time.perf_counter()
        do = functools.partial(shards.write, work=work)
        schedule.run(store, trial.tasks, do, lambda: None, Workers(n=workers), lambda: None)
        seconds = time.perf_counter() - began
        noted = _noted(commits.load_all(store, trial.tasks, functools.partial(task_sha256, work=work), 1, hashed=False))
        size = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    share = sum(one.header.n_samples for one in some) / sum(record.header.n_samples for record in planned)
    return round(size / share / 1e6, 2), round(seconds / share, 2), noted


def _noted(found: Mapping[int, Committed]) -> tuple[str, ...]:
    if not found:
        return ()
    written = pa.concat_tables([commit.written for commit in found.values()])
    return notes(written["suspects"].to_pylist(), written["warnings"].to_pylist())


def _some(planned: Sequence[Planned], n_leads: int) -> list[Planned]:
    """Records for the trial, spread over the folder: few where they are long."""
    step = max(1, len(planned) // TRIAL)
    some: list[Planned] = []
    n_samples = 0
    for record in planned[::step][:TRIAL]:
        n_samples += record.n_samples * n_leads
        if not some or n_samples <= TRIAL_SAMPLES:
            some.append(record)
    return some
