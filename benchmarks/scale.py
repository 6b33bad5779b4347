"""What a store of very many records costs besides its samples: seconds and peak memory of each step.

    python benchmarks/scale.py [--records 100000] [--only seal,open] [--json]

The plan is made of headers that are hard links to one real one, as in ``benchmarks/plan.py``. The store is one shard of
real records, linked until there are so many, under ids of their own, with three statements each; so everything but the
samples is as large as it says. Each step runs in a process of its own, and says by how much it raised that
process's memory; what is needed before, such as opening the store, is not in its seconds.
"""

from __future__ import annotations

import contextlib
import functools
import json
import multiprocessing
import operator
import os
import platform
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
from plan import HEADER, make_folder

PER_SHARD, N_SAMPLES = 1280, 1000
SHARD_SAMPLES = PER_SHARD * N_SAMPLES
CODES = [f"C{i:02d}" for i in range(71)]
SOURCE = Path("/somewhere/source")
#: Tasks that go through the scheduler, shards that are looked through, records that are read.
MOST_TASKS, MOST_SHARDS, READS = 400, 40, 400

Found = dict[str, float]


# --- what is made of nothing ----------------------------------------------------------------------------------------


def made_plan(n_records: int) -> Any:
    """The plan of so many records of 10 s, with patients, folds and statements."""
    from ecgstore.build.plan import Scanned, make_plan
    from ecgstore.build.settings import IngestSettings
    from ecgstore.record import Listing, RecordRef, Statement, Terms
    from ecgstore.sources.wfdb_folder import Settings
    from ecgstore.wfdb_io.segments import read_header

    header = read_header(sorted(HEADER.rglob("*.hea"))[0].with_suffix(""), "")
    rng = np.random.default_rng(0)
    codes_n3 = rng.integers(0, len(CODES), (n_records, 3)).tolist()

    def scanned() -> Iterator[Any]:
        for i, codes in enumerate(codes_n3):
            record_id = f"{i // 1000:05d}/r{i:07d}"
            stated = tuple(Statement(CODES[code], "scp_ecg", 100.0) for code in codes)
            ref = RecordRef(record_id, SOURCE / record_id, f"P{i // 2}", i % 10 + 1, 50.0 + i % 40, "female", stated)
            yield Scanned(ref, replace(header, sha256=f"{i:064x}", stated=i.to_bytes(96, "little")))

    listing = Listing((), (), Terms("synthetic", "1", "", True))
    return make_plan(listing, scanned(), IngestSettings().recipe, Settings(name="wfdb_folder"), SOURCE)


def settings() -> Any:
    from ecgstore.build.settings import IngestSettings

    return IngestSettings(patient_key="a secret of the benchmark")


def begin(root: Path, n_records: int) -> Found:
    """A store whose every task is done: shards linked to one of real records, and a commit for each."""
    from ecgstore.build import commits, planned
    from ecgstore.build.commits import Commit
    from ecgstore.build.ingest import ingest_folder
    from ecgstore.build.patients import patient_hash
    from ecgstore.build.plan import task_sha256
    from ecgstore.build.settings import IngestSettings
    from ecgstore.build.shards import create_array, write_counts
    from ecgstore.storage import layout, tables
    from ecgstore.storage.store import open_store

    mini = root.with_name("mini.ecg")
    ingest_folder(HEADER.parent, mini, IngestSettings())
    written, about = tables.from_arrow((mini / layout.commit_object(0)).read_bytes())
    n = written.num_rows
    counts_lt = np.tile(open_store(mini).read_shard(0).counts_lt[:, : n * N_SAMPLES], -(-PER_SHARD // n))
    began = time.perf_counter()
    made = made_plan(n_records)
    planned_s = time.perf_counter() - began
    assert made.work.shard_samples == SHARD_SAMPLES, "too few records for shards of full size"
    create_array(root, "blosc", 12, made.total_samples, SHARD_SAMPLES)
    planned.write(root, made, SOURCE, "key", functools.partial(patient_hash, settings().secret_key))
    rng = np.random.default_rng(1)
    first = layout.shard_object(0)
    whole = write_counts(root, 0, counts_lt[:, :SHARD_SAMPLES], SHARD_SAMPLES)[first]
    sums = commits.Sums(*next(iter(about["sums"].values())))
    for task in made.tasks:
        name = layout.shard_object(task.first_shard)
        objects = {name: whole}
        if task.n_records < PER_SHARD:
            objects = write_counts(root, task.first_shard, counts_lt[:, : task.n_records * N_SAMPLES], SHARD_SAMPLES)
        elif task.first_shard:
            os.link(root / first, root / name)
        rows = of_its_own(written.take(np.arange(task.n_records) % n), task, rng)
        commit = Commit(objects, rows, (), {str(fold): sums for fold in range(1, 11)})
        commits.write(root, task.first_shard, commit, task_sha256(task, made.work))
    return {"make_plan_s": planned_s}


def of_its_own(rows: pa.Table, task: Any, rng: np.random.Generator) -> pa.Table:
    """The rows with ids of the task's records, and measures by chance: else every column would pack to nothing.

    Signatures too are by chance, but for two that are nearly the same.
    """
    from ecgstore.storage.layout import MEASURES

    signature = rng.integers(1, 2**63, task.n_records, dtype=np.uint64)
    signature[1] = signature[0] ^ np.uint64(0b10101)
    ids = pa.array([record.ref.record_id for record in task.records])
    for name, values in (("record_id", ids), ("signature", pa.array(signature))):
        rows = rows.set_column(rows.column_names.index(name), name, values)
    for name in MEASURES:
        for column, n in ((name, 1), (f"leads.{name}", 12)):
            measured = pa.array(rng.gamma(2, 0.01, task.n_records * n).astype(np.float32))
            values = measured if n == 1 else pa.FixedSizeListArray.from_arrays(measured, n)
            rows = rows.set_column(rows.column_names.index(column), column, values)
    return rows


# --- the steps --------------------------------------------------------------------------------------------------------


class Clock:
    """Seconds, those of them that the processor worked, and megabytes of named steps of one process."""

    def __init__(self) -> None:
        self.found: Found = {}

    def __call__(self, name: str, do: Callable[[], Any], times: int = 1) -> Any:
        before_mb, began, began_cpu = resident_mb(), time.perf_counter(), time.process_time()
        for _ in range(times):
            answer = do()
        self.found[f"{name}_s"] = (time.perf_counter() - began) / times
        self.found[f"{name}_cpu_s"] = (time.process_time() - began_cpu) / times
        self.found[f"{name}_mb"] = resident_mb() - before_mb
        return answer


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def plan(root: Path, n_records: int) -> Found:
    """List, read every header, plan."""
    from ecgstore.build import planning
    from ecgstore.build.settings import IngestSettings

    clock = Clock()
    source = root.with_name("source")
    clock("plan", lambda: planning.plan(source, IngestSettings(source={"name": "wfdb_folder"})))
    return clock.found


def schedule(root: Path, n_records: int) -> Found:
    """The plan into its files, and tasks through a scheduler with two worker processes, less its start.

    Once they do nothing, and once they read their records.
    """
    from ecgstore.build import planned, schedule
    from ecgstore.build.patients import patient_hash
    from ecgstore.build.schedule import Workers

    clock = Clock()
    made = made_plan(min(n_records, MOST_TASKS * PER_SHARD))
    hash_patient = functools.partial(patient_hash, "a secret of the benchmark")
    there = root.with_name("planned")
    stretches = clock("write_plan", lambda: planned.write(there, made, SOURCE, "", hash_patient))
    clock.found["write_plan_us_a_record"] = 1e6 * clock.found["write_plan_cpu_s"] / made.n_records
    clock.found["plan_files_mb"] = sum(path.stat().st_size for path in there.rglob("*.*")) / 1e6
    read = functools.partial(planned.read_task, source_root=SOURCE, work=made.work)
    for name, do in (("tasks", operator.is_), ("tasks_read", read)):
        times: list[float] = []
        crew = Workers(n=2, processes=True)
        schedule.run(there, stretches, do, dict, crew, functools.partial(_note_time, times))
        clock.found[f"{name}_per_s"] = (len(times) - 1) / (times[-1] - times[0])
    shutil.rmtree(there)
    return clock.found


def _note_time(times: list[float]) -> None:
    times.append(time.perf_counter())


def seal(root: Path, n_records: int) -> Found:
    """The plan read from its files, commits read, tables made, objects hashed and flushed, manifest written."""
    from ecgstore.build import commits, planned
    from ecgstore.build.plan import Storage, Work
    from ecgstore.build.seal import seal_ingested
    from ecgstore.sources.wfdb_folder import Settings

    def work(leads: Any, shard_samples: int) -> Work:
        return Work(settings().recipe, Storage(), tuple(leads), shard_samples)

    clock = Clock()
    made = clock("plan_read", lambda: planned.load(root, "key", Settings(name="wfdb_folder"), work))
    sha = operator.attrgetter("sha256")
    found = clock("commits", lambda: commits.load_all(root, made.units, sha, 2, hashed=False))
    its = [found[task.first_shard] for task in made.units]
    clock("seal", lambda: seal_ingested(root, made, settings(), its))
    return clock.found


def opening(root: Path, n_records: int) -> Found:
    """Open, and open again."""
    from ecgstore.storage.store import open_store

    open_store(root.with_name("mini.ecg"))  # imports
    clock = Clock()
    store = clock("open", lambda: open_store(root))
    clock("open_again", lambda: open_store(root), times=3)
    assert store.n_records == n_records
    return clock.found


def reading(root: Path, n_records: int) -> Found:
    """Select, statements, ids, records in random order and one after the other."""
    from ecgstore.errors import ConfigError
    from ecgstore.storage.store import open_store

    store = open_store(root)
    clock = Clock()
    ids = [f"{i // 1000:05d}/r{i:07d}" for i in np.random.default_rng(2).integers(0, n_records, READS).tolist()]
    clock("statements", lambda: store.statements)
    clock("first_read", lambda: store.read(ids[0]))
    clock("select", lambda: store.select(folds=[1, 2], where="mains_mv < 1 and sex == 'female'"))
    clock("statement_matrix", lambda: store.statement_matrix(CODES[:10], "scp_ecg"), times=3)
    clock("column_ids", lambda: store.column("record_id"))

    def misspelt() -> None:
        with contextlib.suppress(ConfigError):
            store.read("00012/r012345x")

    clock("nearest", misspelt)
    clock("random_reads", lambda: [store.read(one) for one in ids])
    some = store.column("record_id")[: 4 * READS].tolist()
    clock("reads_in_order", lambda: [store.read(one) for one in some])
    for name, one, n in (("random_reads", "random_read", READS), ("reads_in_order", "read_in_order", 4 * READS)):
        for kind in ("", "_cpu"):
            clock.found[f"{one}{kind}_ms"] = 1000 * clock.found.pop(f"{name}{kind}_s") / n
    return clock.found


def verifying(root: Path, n_records: int) -> Found:
    """What ``verify --deep`` does for a shard besides reading, decoding and checking its records."""
    from ecgstore.storage import layout, verify
    from ecgstore.storage.store import open_store
    from ecgstore.storage.verify_samples import Counted

    store = open_store(root)
    clock = Clock()
    clock("verify_quick", store.verify)
    counts_lt = store.read_shard(0).counts_lt
    stated = iter(store.column("crc32").tolist())
    # What is asked for is the bookkeeping alone: nothing is decoded or counted, and every checksum is right.
    store.decode = lambda begin, end, rows: counts_lt[:, : end - begin]  # type: ignore[method-assign]
    layout.crc32_of_counts = lambda *_: next(stated)  # type: ignore[assignment]
    counted = Counted(store)
    counted.problems_of = lambda signal: []  # type: ignore[method-assign]
    n, crc32 = min(store.n_shards, MOST_SHARDS), {}
    clock("verify_shards", lambda: [verify._problems_of_records(store, shard, crc32, counted) for shard in range(n)])
    for kind in ("", "_cpu"):
        clock.found[f"verify_a_shard{kind}_ms"] = 1000 * clock.found.pop(f"verify_shards{kind}_s") / n
    return clock.found


def overlapping(root: Path, n_records: int) -> Found:
    """Records that are nearly the same, of which each shard has a pair."""
    from ecgstore.look import overlap
    from ecgstore.storage.store import open_store

    store = open_store(root)
    clock = Clock()
    pairs = clock("candidates", lambda: overlap.candidates(overlap.signatures(store)))
    clock("near_duplicates", lambda: overlap.near_duplicates(store))
    assert len(pairs) >= store.n_shards
    return clock.found


STEPS: dict[str, Callable[[Path, int], Found]] = {
    "plan": plan,
    "begin": begin,
    "schedule": schedule,
    "seal": seal,
    "open": opening,
    "read": reading,
    "verify": verifying,
    "overlap": overlapping,
}
#: Without these there is nothing to open.
NEEDED = ("begin", "seal")


def measured(step: str, root: Path, n_records: int) -> Found:
    """One step, in this process."""
    found = STEPS[step](root, n_records)
    return {**found, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


@click.command(help=__doc__.partition("\n\n")[0] if __doc__ else None)
@click.option("--records", "n_records", type=click.IntRange(20_000), default=100_000, show_default=True)
@click.option("--only", default="", help=f"Some steps, with commas: {', '.join(STEPS)}.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where the store is made, and left for the next time.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
def main(n_records: int, only: str, folder: Path | None, as_json: bool) -> None:
    """Time every step, each in a process of its own."""
    steps = [step for step in STEPS if not only or step in only.split(",")]
    scratch = Path(tempfile.mkdtemp()) if folder is None else folder
    scratch.mkdir(parents=True, exist_ok=True)
    root = scratch / f"{n_records}.ecg"
    if not (root / "manifest.json").exists() and set(steps) - {"plan", "schedule"}:
        steps = [step for step in STEPS if step in steps or step in NEEDED]
    elif root.exists():
        steps = [step for step in steps if step not in NEEDED]
    context = multiprocessing.get_context("spawn")
    answer: dict[str, Any] = {"benchmark": "scale", "records": n_records}
    answer["machine"] = {"system": platform.platform(), "cores": multiprocessing.cpu_count()}
    try:
        for step in steps:
            if step == "plan":
                make_folder(scratch / "source", n_records)
            # Not a Pool, whose processes may start none themselves.
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                found = pool.submit(measured, step, root, n_records).result()
            answer[step] = {name: round(value, 4) for name, value in found.items()}
            click.echo(f"{step}: peak {found['peak_mb']:.0f} MB")
            for name, value in found.items():
                click.echo(f"    {name:<28} {value:10.4g}")
            shutil.rmtree(scratch / "source", ignore_errors=True)
    finally:
        if folder is None:
            shutil.rmtree(scratch)
    if as_json:
        click.echo(json.dumps(answer))


if __name__ == "__main__":
    main()
