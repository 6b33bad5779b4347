"""Ingest against wfdb merely reading: records per second of both, in one run, with the same workers.

    python benchmarks/ingest.py [--source FOLDER] [--workers N] [--rounds N] [--json]

Three rates over the same records:

* ``ingest``: everything, from listing the folder to the sealed store (100 Hz, 0.5-40 Hz band-pass, 50 Hz
  notch, every shard read back and hashed);
* ``wfdb_threads``: ``wfdb.rdrecord`` of every record in as many threads, results thrown away;
* ``wfdb_processes``: the same in as many processes, started and warmed up before the clock runs.

The page cache is warm for all three: each round reads every file once before it is timed. Rounds are
interleaved; the medians are reported. ``ratio_to_wfdb`` compares threads with threads.
"""

from __future__ import annotations

import json
import multiprocessing
import platform
import shutil
import statistics
import tempfile
import time
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import click
import wfdb

from ecgstore import open_store
from ecgstore.ingest import IngestSettings, detect_source, ingest_folder
from ecgstore.rooms import occupant

SETTINGS = IngestSettings(
    fs_hz=100,
    filters=({"name": "bandpass", "low_hz": 0.5, "high_hz": 40.0}, {"name": "notch", "freq_hz": 50.0}),
)
MINI = Path(__file__).parents[1] / "tests" / "data" / "ptbxl_mini"


def read_with_wfdb(path: str) -> int:
    """What the peer does per record: read it, and forget it."""
    return int(wfdb.rdrecord(path).p_signal.shape[0])


def wfdb_rate(paths: list[str], pool: Executor) -> float:
    """Records per second of reading alone."""
    began = time.perf_counter()
    list(pool.map(read_with_wfdb, paths, chunksize=32))
    return len(paths) / (time.perf_counter() - began)


@click.command(help=__doc__.partition("\n\n")[0] if __doc__ else None)
@click.option("--source", type=click.Path(path_type=Path, exists=True), default=MINI, help="WFDB folder.")
@click.option("--workers", type=click.IntRange(1), default=multiprocessing.cpu_count, show_default="cores")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
def main(source: Path, workers: int, rounds: int, as_json: bool) -> None:
    """Time the three, interleaved."""
    kind = detect_source(source.resolve())
    listing = occupant("ecgstore.sources", kind.name).list_records(source.resolve(), kind)
    paths = [str(ref.path) for ref in listing.records]
    figures: dict[str, list[float]] = {"ingest": [], "wfdb_threads": [], "wfdb_processes": []}
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as scratch,
        ThreadPoolExecutor(workers) as threads,
        ProcessPoolExecutor(workers, mp_context=context) as processes,
    ):
        list(processes.map(read_with_wfdb, paths[: 4 * workers]))
        for path in paths:
            for suffix in (".hea", ".dat"):
                Path(path + suffix).read_bytes()
        for number in range(rounds):
            out = Path(scratch) / f"{number}.ecg"
            report = ingest_folder(source, out, SETTINGS, workers=workers)
            figures["ingest"].append(report.records_per_s)
            figures["wfdb_threads"].append(wfdb_rate(paths, threads))
            figures["wfdb_processes"].append(wfdb_rate(paths, processes))
            stored_bytes = open_store(out).n_bytes
            shutil.rmtree(out)
    raw_bytes = sum(Path(path + ".dat").stat().st_size for path in paths)
    medians = {name: statistics.median(values) for name, values in figures.items()}
    ratios = {kind: round(medians["ingest"] / medians[f"wfdb_{kind}"], 2) for kind in ("threads", "processes")}
    answer = {
        "benchmark": "ingest",
        "machine": {
            "system": platform.platform(),
            "cores": multiprocessing.cpu_count(),
            "python": platform.python_version(),
        },
        "shapes": {"records": len(paths), "workers": workers, "rounds": rounds},
        "records_per_s": {name: round(value, 1) for name, value in medians.items()},
        "all_rounds": {name: [round(value, 1) for value in values] for name, values in figures.items()},
        "bytes_per_record": {"raw": round(raw_bytes / len(paths)), "stored": round(stored_bytes / len(paths))},
        # The same workers for both: Dask threads here, threads there.
        "ratio_to_wfdb": ratios["threads"],
        "ratio_to_wfdb_processes": ratios["processes"],
    }
    for name, value in medians.items():
        click.echo(f"{name:<16} {value:8.0f} records/s")
    click.echo(f"ingest is {ratios['threads']}× wfdb in threads, {ratios['processes']}× in processes")
    if as_json:
        click.echo(json.dumps(answer))


if __name__ == "__main__":
    main()
