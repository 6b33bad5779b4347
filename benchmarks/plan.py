"""Plan a store of very many records: seconds and memory, without and with a table of headers read before.

    python benchmarks/plan.py [--records N] [--json]

The folder is made of hard links to one real header per 60,000 names, so that a million records need no
gigabytes; every header is opened, parsed, hashed and checked as any other. Each plan runs in a process of its
own, whose peak memory is said.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import resource
import shutil
import tempfile
import time
from pathlib import Path

import click

#: File systems allow some 65,000 links to a file.
LINKS = 60_000
PER_FOLDER = 1000
HEADER = Path(__file__).parents[1] / "tests" / "data" / "ptbxl_mini" / "records500"


def make_folder(root: Path, n_records: int) -> None:
    """``n_records`` headers of one real 12-lead record, and a signal file of the right size in each folder."""
    original = sorted(HEADER.rglob("*.hea"))[0]
    lines = original.read_text().splitlines()
    text = "\n".join(line.replace(f"{original.stem}.dat", "all.dat") for line in lines) + "\n"
    for first in range(0, n_records, PER_FOLDER):
        folder = root / f"{first:07d}"
        folder.mkdir(parents=True)
        with (folder / "all.dat").open("wb") as dat:
            dat.truncate(120_000)
        for number in range(first, min(first + PER_FOLDER, n_records)):
            if number % LINKS == 0:
                template = root / f"template{number}"
                template.write_text(text)
            os.link(template, folder / f"r{number:07d}.hea")


def measure(root: Path, table: Path | None) -> tuple[float, float, int]:
    """Seconds, peak memory in MB and records of one plan, in this process."""
    from ecgstore.build.planning import plan
    from ecgstore.build.settings import IngestSettings

    began = time.perf_counter()
    made = plan(root, IngestSettings(source={"name": "wfdb_folder"}), scan_table=table)
    seconds = time.perf_counter() - began
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, made.n_records


@click.command(help=__doc__.partition("\n\n")[0] if __doc__ else None)
@click.option("--records", "n_records", type=click.IntRange(1), default=100_000, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
def main(n_records: int, as_json: bool) -> None:
    """Time three plans: headers read, read and written to the table, and taken from the table."""
    scratch = Path(tempfile.mkdtemp())
    context = multiprocessing.get_context("spawn")
    answer: dict[str, object] = {"benchmark": "plan", "records": n_records}
    answer["machine"] = {"system": platform.platform(), "cores": multiprocessing.cpu_count()}
    try:
        make_folder(scratch / "src", n_records)
        table = scratch / "scan.parquet"
        for name, used in (("no_table", None), ("writes_table", table), ("reads_table", table)):
            with context.Pool(1) as pool:
                seconds, peak_mb, planned = pool.apply(measure, (scratch / "src", used))
            answer[name] = {"seconds": round(seconds, 2), "peak_mb": round(peak_mb), "planned": planned}
            click.echo(f"{name:<14} {seconds:8.1f} s, peak {peak_mb:6.0f} MB, {planned} records")
        answer["table_mb"] = round(table.stat().st_size / 1e6, 1)
    finally:
        shutil.rmtree(scratch)
    if as_json:
        click.echo(json.dumps(answer))


if __name__ == "__main__":
    main()
