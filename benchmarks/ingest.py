"""Ingest against wfdb merely reading: records per second of both, in one run, with the same workers.

    python benchmarks/ingest.py [--source FOLDER] [--workers N] [--rounds N] [--copies N] [--json]

Five rates over the same records:

* ``ingest_command``: the whole command ``ecgstore ingest``, from its start to its end, threads;
* ``ingest_threads``: everything, from listing the folder to the sealed store (profile train: 100 Hz, 0.5-40 Hz
  band-pass; quality judged; every shard read back and hashed), threads;
* ``ingest_processes``: the same in as many processes, their start included;
* ``wfdb_threads``: ``wfdb.rdrecord`` of every record in as many threads, results thrown away;
* ``wfdb_processes``: the same in as many processes, started and warmed up before the clock runs.

The page cache is warm for all of them: each file is read once before. Rounds are interleaved; the medians are
reported. ``ratio_to_wfdb`` compares threads with threads, ``ratio_of_command`` the whole command with the peer's
processes, which are there already. ``--copies`` repeats the records by hard links, for
sources that are too small to hide a start. Then the store's bytes per record are said, for each codec.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import click
import wfdb

from ecgstore import IngestSettings, Workers, ingest_folder, open_store
from ecgstore.build.planning import list_source

MINI = Path(__file__).parents[1] / "tests" / "data" / "ptbxl_mini"


def read_with_wfdb(path: str) -> int:
    """What the peer does per record: read it, and forget it."""
    return int(wfdb.rdrecord(path).p_signal.shape[0])


def wfdb_rate(paths: list[str], pool: Executor) -> float:
    """Records per second of reading alone."""
    began = time.perf_counter()
    list(pool.map(read_with_wfdb, paths, chunksize=32))
    return len(paths) / (time.perf_counter() - began)


def command_rate(source: Path, out: Path, workers: int, n_records: int) -> float:
    """Records per second of the command, its start included."""
    words = [
        sys.executable,
        "-m",
        "ecgstore",
        "ingest",
        str(source),
        str(out),
        "--workers",
        str(workers),
        "--overwrite",
    ]
    # As installed: its modules are compiled once, not at each start.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    began = time.perf_counter()
    subprocess.run(words, check=True, capture_output=True, env=environment)
    return n_records / (time.perf_counter() - began)


def copied(paths: list[Path], copies: int, folder: Path) -> Path:
    """A folder of hard links: every record ``copies`` times."""
    for copy in range(copies):
        (folder / str(copy)).mkdir(parents=True)
        for path in paths:
            for suffix in (".hea", ".dat"):
                os.link(path.with_suffix(suffix), folder / str(copy) / f"{path.name}{suffix}")
    return folder


@click.command(help=__doc__.partition("\n\n")[0] if __doc__ else None)
@click.option("--source", type=click.Path(path_type=Path, exists=True), default=MINI, help="WFDB folder.")
@click.option("--workers", type=click.IntRange(1), default=multiprocessing.cpu_count, show_default="cores")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--copies", type=click.IntRange(1), default=1, show_default=True, help="Each record so many times.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
def main(source: Path, workers: int, rounds: int, copies: int, as_json: bool) -> None:
    """Time the four, interleaved; then compare the codecs."""
    crews = {"ingest_threads": Workers(n=workers), "ingest_processes": Workers(n=workers, processes=True)}
    figures: dict[str, list[float]] = {
        name: [] for name in ("ingest_command", *crews, "wfdb_threads", "wfdb_processes")
    }
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(dir=source.parent if copies > 1 else None) as scratch,
        ThreadPoolExecutor(workers) as threads,
        ProcessPoolExecutor(workers, mp_context=context) as processes,
    ):
        if copies > 1:
            source = copied([ref.path for ref in list_source(source, None)[2].records], copies, Path(scratch, "src"))
        paths = [str(ref.path) for ref in list_source(source, None)[2].records]
        list(processes.map(read_with_wfdb, paths[: 4 * workers]))
        for path in paths:
            for suffix in (".hea", ".dat"):
                Path(path + suffix).read_bytes()
        command_rate(source, Path(scratch, "out.ecg"), workers, len(paths))
        for _ in range(rounds):
            figures["ingest_command"].append(command_rate(source, Path(scratch, "out.ecg"), workers, len(paths)))
            for name, crew in crews.items():
                report = ingest_folder(source, Path(scratch, "out.ecg"), IngestSettings(), workers=crew, overwrite=True)
                figures[name].append(report.records_per_s)
            figures["wfdb_threads"].append(wfdb_rate(paths, threads))
            figures["wfdb_processes"].append(wfdb_rate(paths, processes))
        bytes_per_record = {"raw": sum(Path(path + ".dat").stat().st_size for path in paths) / len(paths)}
        for profile, codec in (("train", "blosc"), ("train", "pcodec"), ("raw", "blosc"), ("raw", "pcodec")):
            out = Path(scratch, f"{profile}-{codec}.ecg")
            ingest_folder(source, out, IngestSettings(profile=profile, codec=codec), workers=workers)
            bytes_per_record[f"{profile}, {codec}"] = open_store(out).n_bytes / len(paths)
            shutil.rmtree(out)
    medians = {name: statistics.median(values) for name, values in figures.items()}
    kinds = ("threads", "processes")
    ratios = {kind: round(medians[f"ingest_{kind}"] / medians[f"wfdb_{kind}"], 2) for kind in kinds}
    of_command = round(medians["ingest_command"] / medians["wfdb_processes"], 2)
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
        "bytes_per_record": {name: round(value) for name, value in bytes_per_record.items()},
        # The same workers for both.
        "ratio_to_wfdb": ratios["threads"],
        "ratio_to_wfdb_processes": ratios["processes"],
        "ratio_of_command": of_command,
    }
    for name, value in medians.items():
        click.echo(f"{name:<18} {value:8.0f} records/s")
    click.echo(f"ingest is {ratios['threads']}× wfdb in threads, {ratios['processes']}× in processes")
    click.echo(f"the whole command is {of_command}× wfdb in processes that run already")
    for name, value in bytes_per_record.items():
        click.echo(f"{name:<18} {value:8.0f} bytes per record")
    if as_json:
        click.echo(json.dumps(answer))


if __name__ == "__main__":
    main()
