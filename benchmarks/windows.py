"""How fast parts of a long record are read, against the same parts by zarr alone.

A day of twelve leads is stored, and windows of 5 s are read at random places: by ``store.read(id, start_s=…,
stop_s=…)``, which gives millivolts and all that is stated of the record, and by zarr directly, which gives counts.
Both in turns, several times; medians are reported.

    python benchmarks/windows.py                 a day at 100 Hz, 500 windows
    python benchmarks/windows.py --hours 1 --windows 100

The last line on stdout is one JSON object.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import zarr

from ecgstore import IngestSettings, ingest_folder, open_store

FS_HZ, N_LEADS, WINDOW_S = 100, 12, 5.0
LEADS = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]


def write_day(folder: Path, hours: float) -> None:
    """One WFDB record of slow waves and noise."""
    n_samples = round(hours * 3600 * FS_HZ)
    rng = np.random.default_rng(0)
    wave_t = 300 * np.sin(np.arange(n_samples) * (2 * np.pi * 1.1 / FS_HZ))
    counts_tl = (wave_t[:, None] + rng.integers(-20, 20, (n_samples, N_LEADS))).astype("<i2")
    folder.mkdir()
    counts_tl.tofile(folder / "day.dat")
    lines = [f"day {N_LEADS} {FS_HZ} {n_samples}"]
    for j, lead in enumerate(LEADS):
        total = int(counts_tl[:, j].astype(np.int64).sum()) % 65536
        lines.append(f"day.dat 16 1000.0(0)/mV 16 0 {counts_tl[0, j]} {total} 0 {lead}")
    (folder / "day.hea").write_text("\n".join(lines) + "\n")


def seconds(read: Callable[[float], object], starts_s: list[float]) -> float:
    began = time.perf_counter()
    for start_s in starts_s:
        read(start_s)
    return time.perf_counter() - began


@click.command()
@click.option("--hours", default=24.0, show_default=True)
@click.option("--windows", default=500, show_default=True)
@click.option("--rounds", default=3, show_default=True)
def main(hours: float, windows: int, rounds: int) -> None:
    """Read windows by both ways in turns."""
    with tempfile.TemporaryDirectory() as folder:
        write_day(Path(folder, "src"), hours)
        ingest_folder(Path(folder, "src"), Path(folder, "day.ecg"), IngestSettings(fs_hz=FS_HZ, filters=()))
        store, array = open_store(Path(folder, "day.ecg")), zarr.open_array(Path(folder, "day.ecg/signal"), mode="r")
        n = round(WINDOW_S * FS_HZ)
        starts_s = (np.random.default_rng(1).uniform(0, hours * 3600 - WINDOW_S, windows).round(2)).tolist()
        ways: dict[str, Callable[[float], object]] = {
            "zarr": lambda start_s: array[:, round(start_s * FS_HZ) : round(start_s * FS_HZ) + n],
            "read": lambda start_s: store.read("day", start_s=start_s, stop_s=start_s + WINDOW_S),
        }
        found = {name: [seconds(read, starts_s) for _ in range(rounds)] for name, read in ways.items()}
        for name in ways:  # once more, the other way round, so that neither is always first
            found[name].append(seconds(ways[name], starts_s))
    medians = {f"{name}_s": round(statistics.median(times), 3) for name, times in found.items()}
    print(
        json.dumps(
            {**medians, "ratio": round(medians["read_s"] / medians["zarr_s"], 3), "windows": windows, "hours": hours}
        )
    )


if __name__ == "__main__":
    main()
