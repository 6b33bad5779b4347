"""The plan of an ingest as files: written once beside the shards, read by whoever does its tasks, or seals them.

``building.plan/`` holds the records in the order of the plan, a row group for each task. So what goes to another
process or machine is a place in there, a :class:`Stretch`, and not a thousand headers; parts of a job array need not
plan again; and the seal takes whole columns. Patients stand in it as they will in the store, by their keyed hashes.

Each file is compared with its hash before it is believed: ``plan.json`` holds its own and those of the lists, and the
list of tasks holds those of the files of records.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ecgstore.build.plan import Plan, Planned, Recipe, Scanned, Stretch, Task, Work, n_stored, scan, task_sha256
from ecgstore.build.scan import OF_HEADER
from ecgstore.errors import IntegrityError, RecordError, StoreExists
from ecgstore.record import Listing, RecordRef, Rejection, Terms
from ecgstore.settings import Settings
from ecgstore.storage import layout, publish, tables
from ecgstore.storage.arrow import table
from ecgstore.storage.plain import open_plain
from ecgstore.wfdb_io.annotations import annotation_crc32
from ecgstore.wfdb_io.files import refuse_outside
from ecgstore.wfdb_io.header import header_from_row, header_to_row
from ecgstore.wfdb_io.segments import read_header_and_comments

#: Row groups of one file: more would make its footer long to read, fewer would make many files.
TASKS_PER_FILE = 64
#: Raised whenever these files change: those of another version are not read, and the plan is made anew.
VERSION = 2

#: What the store will say of a record, and the plan knows.
FACTS = pa.schema(
    [
        ("record_id", pa.string()),
        ("patient_key", pa.string()),
        ("site", pa.string()),
        ("start", pa.int64()),
        ("n_samples", pa.int64()),
        ("fold", pa.int16()),
        ("age_years", pa.float32()),
        ("sex", pa.string()),
        ("source_fs_hz", pa.float64()),
        ("codes", pa.list_(pa.string())),
        ("systems", pa.list_(pa.string())),
        ("likelihoods", pa.list_(pa.float32())),
    ]
)
#: What a task needs besides: where the record stands in the source, and what its header says but the rate.
_OF_REF = [("inside", pa.string()), ("keeps_text", pa.bool_()), ("mv_factor", pa.float64())]
_WORK = pa.schema(
    [
        ("path", pa.binary()),
        ("annotators", pa.list_(pa.string())),
        ("annotation_crc32", pa.int64()),
        *_OF_REF,
        *((f"header.{name}", kind) for name, kind in OF_HEADER),
    ]
)
_TASKS = pa.schema(
    [
        ("first_shard", pa.int64()),
        ("n_shards", pa.int64()),
        ("n_records", pa.int64()),
        ("file", pa.string()),
        ("group", pa.int64()),
        ("sha256", pa.string()),
        ("file_sha256", pa.string()),
    ]
)
#: Columns that a task reads.
_TO_DO = ["record_id", "start", "n_samples", "fold", "source_fs_hz", *_WORK.names]

#: Makes of a patient's identifier what the store holds instead of it.
HashPatient = Callable[[str], str]


# --- writing --------------------------------------------------------------------------------------------------------


def facts_of(records: Iterable[Planned], hash_patient: HashPatient) -> pa.Table:
    """What is known of these records beforehand, a row for each."""
    records = list(records)
    refs = [record.ref for record in records]
    columns = {
        "record_id": [ref.record_id for ref in refs],
        "patient_key": [hash_patient(ref.patient_id) if ref.patient_id else None for ref in refs],
        "site": [ref.site for ref in refs],
        "start": [record.start for record in records],
        "n_samples": [record.n_samples for record in records],
        "fold": [ref.fold for ref in refs],
        "age_years": [ref.age_years for ref in refs],
        "sex": [ref.sex for ref in refs],
        "source_fs_hz": [record.header.fs_hz for record in records],
        "codes": [[one.code for one in ref.statements] for ref in refs],
        "systems": [[one.system for one in ref.statements] for ref in refs],
        "likelihoods": [[one.likelihood for one in ref.statements] for ref in refs],
    }
    return table(columns, FACTS)


def write(root: Path, made: Plan, source_root: Path, key: str, hash_patient: HashPatient) -> tuple[Stretch, ...]:
    """Write a plan beside the store at ``root``, whole or not at all, and return its tasks by their places in it.

    ``key`` says what it was made of, for :func:`load`. Whoever writes at the same time writes the same.
    """
    stretches = []
    for first in range(0, len(made.tasks), TASKS_PER_FILE):
        some, name = made.tasks[first : first + TASKS_PER_FILE], f"{first // TASKS_PER_FILE:05d}.parquet"
        content = _groups(_rows_of(task.records, source_root, hash_patient) for task in some)
        publish.write_bytes(root / layout.PLAN / name, content, durable=False)
        own = hashlib.sha256(content).hexdigest()
        stretches += [
            Stretch(task.first_shard, task.n_shards, task.n_records, name, group, task_sha256(task, made.work), own)
            for group, task in enumerate(some)
        ]
    listed = {name: [getattr(one, name) for one in stretches] for name in _TASKS.names}
    left_out = {name: [getattr(one, name) for one in made.rejected] for name in tables.REJECTED_SCHEMA.names}
    lists = {}
    for its, said, schema in (("tasks", listed, _TASKS), ("rejected", left_out, tables.REJECTED_SCHEMA)):
        content = tables.to_parquet(table(said, schema))
        publish.write_bytes(root / layout.PLAN / f"{its}.parquet", content, durable=False)
        lists[its] = hashlib.sha256(content).hexdigest()
    # Last, for only with this file does the plan count.
    about = {"version": VERSION, "key": key, **_about(made), "lists": lists}
    content = json.dumps({**about, "sha256": _sha256_of(about)}, indent=1).encode() + b"\n"
    publish.write_bytes(root / layout.PLAN / "plan.json", content, durable=False)
    return tuple(stretches)


def _sha256_of(about: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _about(made: Plan) -> dict[str, Any]:
    return {
        "plan_sha256": made.sha256,
        "leads": made.work.leads,
        "shard_samples": made.work.shard_samples,
        "total_samples": made.total_samples,
        "vocabulary": dict(made.vocabulary),
        "vocabulary_by_site": {site: dict(systems) for site, systems in made.vocabulary_by_site.items()},
        "terms": {name: getattr(made.listing.terms, name) for name in Terms.__dataclass_fields__},
        "notes": made.listing.notes,
        "needs_wfdb": made.needs_wfdb,
    }


def _rows_of(records: Sequence[Planned], source_root: Path, hash_patient: HashPatient) -> pa.Table:
    facts = facts_of(records, hash_patient)
    refs, rows = [record.ref for record in records], [header_to_row(record.header) for record in records]
    prefix = f"{source_root}{os.sep}"
    columns = {
        "path": [os.fsencode(str(ref.path).removeprefix(prefix)) for ref in refs],
        "annotators": [ref.annotators for ref in refs],
        "annotation_crc32": [record.annotation_crc32 for record in records],
        **{name: [getattr(ref, name) for ref in refs] for name, _ in _OF_REF},
        **{f"header.{name}": [row[name] for row in rows] for name, _ in OF_HEADER},
    }
    return pa.Table.from_arrays([*facts.columns, *table(columns, _WORK).columns], schema=pa.schema([*FACTS, *_WORK]))


def _groups(parts: Iterable[pa.Table]) -> bytes:
    sink = pa.BufferOutputStream()
    schema = pa.schema([*FACTS, *_WORK])
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for part in parts:
            writer.write_table(part, row_group_size=max(1, len(part)))
    return bytes(sink.getvalue())


# --- reading --------------------------------------------------------------------------------------------------------


def load(root: Path, key: str, source: Settings, work: Callable[[Sequence[str], int], Work]) -> Plan | None:
    """The plan that was written beside the store at ``root``, if it was made of what ``key`` says; else None.

    Its tasks are :attr:`Plan.stretches`. ``work`` makes of leads and samples per shard what every task must know.
    """
    folder = root / layout.PLAN
    try:
        with open_plain(folder / "plan.json", follow_links=False) as file:
            about = json.load(file)
        own = about.pop("sha256")
        if about["version"] != VERSION or about["key"] != key or own != _sha256_of(about):
            return None
        listed, left_out = (
            tables.from_parquet(_content(folder / f"{name}.parquet", about["lists"][name])).to_pylist()
            for name in ("tasks", "rejected")
        )
        if not listed:
            return None
        return Plan(
            work=work(about["leads"], about["shard_samples"]),
            source=source,
            listing=Listing((), (), _terms(about["terms"]), notes=tuple(map(str, about["notes"]))),
            tasks=(),
            stretches=tuple(Stretch(**one) for one in listed),
            rejected=tuple(Rejection(**one) for one in left_out),
            total_samples=about["total_samples"],
            vocabulary={system: tuple(codes) for system, codes in about["vocabulary"].items()},
            vocabulary_by_site={
                site: {system: tuple(codes) for system, codes in its.items()}
                for site, its in about["vocabulary_by_site"].items()
            },
            sha256=about["plan_sha256"],
            needs_wfdb=about["needs_wfdb"],
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError, AttributeError, pa.ArrowException):
        return None


def _terms(said: Mapping[str, Any]) -> Terms:
    terms = Terms(**said)
    for name in Terms.__dataclass_fields__:
        if not isinstance(getattr(terms, name), bool if name == "redistributable" else str):
            raise TypeError(f"terms: {name}")
    return terms


def _content(path: Path, sha256: str) -> bytes:
    """The bytes of a file of a plan. Raises ValueError where they are not those that were written."""
    with open_plain(path, follow_links=False) as file:
        content = file.read()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError("other bytes than were written")
    return content


def read_task(root: Path, stretch: Stretch, source_root: Path, work: Work) -> Task:
    """The task of a stretch, with its records. Raises IntegrityError where the files hold another one."""
    where = root / layout.PLAN / stretch.file
    try:
        file = pq.ParquetFile(pa.BufferReader(_content(where, stretch.file_sha256)), pre_buffer=False)
        columns = file.read_row_group(stretch.group, columns=_TO_DO, use_threads=False).to_pydict()
        task = Task(stretch.first_shard, stretch.n_shards, tuple(_records(columns, source_root)))
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecordError, pa.ArrowException) as error:
        raise _damaged(where, " ".join(str(error).split())[:160]) from None
    if task_sha256(task, work) != stretch.sha256:
        raise _damaged(where, f"another task of shard {stretch.first_shard}")
    return task


def _damaged(where: Path, got: str) -> IntegrityError:
    return IntegrityError(
        "the plan of the store is damaged", where=where, got=got, fix="delete that file's folder: it is made anew"
    )


def _records(columns: Mapping[str, list[Any]], source_root: Path) -> Iterator[Planned]:
    names = [name for name, _ in OF_HEADER]
    headers = zip(*(columns[f"header.{name}"] for name in names), strict=True)
    keys = ("record_id", "path", "fold", "annotators", "inside", "keeps_text", "mv_factor")
    refs = zip(*(columns[name] for name in keys), strict=True)
    places = zip(*(columns[name] for name in ("source_fs_hz", "start", "n_samples", "annotation_crc32")), strict=True)
    for said, (record_id, path, fold, annotators, *more), (fs_hz, start, n_samples, crc32) in zip(
        headers, refs, places, strict=True
    ):
        header = header_from_row({**dict(zip(names, said, strict=True)), "fs_hz": fs_hz})
        # As when the header was read; an unfinished store may come from elsewhere.
        refuse_outside(header.files, "signal", record_id)
        inside, keeps_text, mv_factor = more
        ref = RecordRef(
            record_id,
            source_root / os.fsdecode(path),
            fold=fold,
            annotators=tuple(annotators),
            keeps_text=keeps_text,
            mv_factor=mv_factor,
            inside=inside,
        )
        yield Planned(ref, header, start, n_samples, crc32)


def facts(root: Path, made: Plan, hash_patient: HashPatient) -> Iterator[pa.Table]:
    """What is known of the records of a plan, task by task in its order: of the tasks, or out of its files.

    Raises IntegrityError where the files don't hold what the plan says.
    """
    if not made.stretches:
        yield from (facts_of(task.records, hash_patient) for task in made.tasks)
        return
    for name, stretches in itertools.groupby(made.stretches, key=lambda stretch: stretch.file):
        where = root / layout.PLAN / name
        try:
            first, *others = stretches
            file = pq.ParquetFile(pa.BufferReader(_content(where, first.file_sha256)), pre_buffer=False)
            for stretch in (first, *others):
                part = file.read_row_group(stretch.group, columns=FACTS.names, use_threads=False)
                if part.num_rows != stretch.n_records:
                    raise ValueError(f"{part.num_rows} records of {stretch.n_records}")
                yield part.select(FACTS.names).cast(FACTS).combine_chunks()
        except (OSError, ValueError, KeyError, IndexError, pa.ArrowException) as error:
            raise _damaged(where, " ".join(str(error).split())[:160]) from None


def refuse_other_source(task: Task, source_root: Path, recipe: Recipe) -> None:
    """Raise StoreExists where a record's header or annotations are not those that the plan was made of.

    Somebody else wrote that plan down, and it may come from elsewhere: nothing outside the source is read by it, and
    nothing that it says of a header is believed.
    """
    for record in task.records:
        if not _is_header_of(record, source_root, recipe):
            differing = "another header"
        elif annotation_crc32(record.ref.path, record.ref.annotators) != record.annotation_crc32:
            differing = "other annotations"
        else:
            continue
        raise StoreExists(
            "the source is not what it was when this store was begun",
            where=source_root,
            got=f"{differing} of record {record.ref.record_id}",
            fix="delete the unfinished store and begin again",
        )


def _is_header_of(record: Planned, source_root: Path, recipe: Recipe) -> bool:
    path = os.path.normpath(record.ref.path)
    if not path.startswith(f"{source_root}{os.sep}"):
        return False
    try:
        header, comments = read_header_and_comments(Path(path), record.ref.record_id)
    except RecordError:
        return False
    found = scan(record.ref, header, comments, recipe)
    return isinstance(found, Scanned) and (found.header, n_stored(header, recipe)) == (record.header, record.n_samples)
