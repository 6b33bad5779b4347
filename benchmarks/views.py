"""How fast windows are augmented: batched tensors, against one window after another in NumPy.

Both cut 250 samples out of each record of 12 x 1000 int16 counts in memory, make them mV, crop and stretch them at
random, silence a stretch of time, and normalise each lead: random_resized_crop, time_out and normalise. The batched
way is ecgtrain's, in this process. The others are a Dataset under a DataLoader: ``interp`` interpolates lead by lead
with ``numpy.interp``, as published code does; ``gather`` all leads at once, which is the best that NumPy does for one
window. ``alone`` is ``gather`` without a DataLoader, in this process. The contenders run in turns, several times;
medians are reported.

    python benchmarks/views.py [--threads N] [--device cuda] [--json]

The last line on stdout is one JSON object.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

# OpenMP threads that spin for long while they wait would fight other processes for the cores. Before torch.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import click
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from ecgstore.inner import keep_freed_memory
from ecgtrain.views.augmentations import CROP_AND_TIME_OUT, chain
from ecgtrain.views.draw import Draw
from ecgtrain.views.normalise import crop, normalise, to_mv

BATCH, N_LEADS, RECORD_SAMPLES, WINDOW_SAMPLES, FS_HZ = 256, 12, 1000, 250, 100.0
MEAN_MV, STD_MV = np.full(N_LEADS, 0.01, np.float32), np.full(N_LEADS, 1.1, np.float32)

Float32 = npt.NDArray[np.float32]
#: Makes a number of batches.
Contender = Callable[[int], None]


def one_window(counts_tl: npt.NDArray[np.int16], random: np.random.Generator, way: str) -> Float32:
    """One record, (1000, 12) counts, to one view, (12, 250)."""
    n = WINDOW_SAMPLES
    start = random.integers(len(counts_tl) - n + 1)
    window_tl = counts_tl[start : start + n].astype(np.float32) / np.float32(1000)
    kept = int(random.uniform(0.5, 1.0) * n)
    start = random.integers(n - kept + 1)
    inner = np.sort(random.choice(n - 2, kept - 2, replace=False)) + 1
    places = np.concatenate(([0], inner, [n - 1]))
    crop_tl = window_tl[start : start + kept]
    if way == "interp":
        view_lt = np.stack([np.interp(np.arange(n), places, one) for one in crop_tl.T]).astype(np.float32)
    else:
        before = np.searchsorted(places, np.arange(n), side="right") - 1
        after = np.minimum(before + 1, kept - 1)
        gap = np.maximum(places[after] - places[before], 1)
        weight = ((np.arange(n) - places[before]) / gap).astype(np.float32)[:, None]
        view_lt = (crop_tl[before] + weight * (crop_tl[after] - crop_tl[before])).T
    silent = int(random.uniform(0.2, 0.4) * n)
    start = random.integers(n - silent + 1)
    view_lt = (view_lt - MEAN_MV[:, None]) / STD_MV[:, None]
    view_lt[:, start : start + silent] = 0
    return np.ascontiguousarray(view_lt)


class Windows(Dataset[Tensor]):
    """One augmented window per item."""

    def __init__(self, counts_rtl: npt.NDArray[np.int16], way: str) -> None:
        self._counts_rtl, self._way = counts_rtl, way
        self._random: np.random.Generator | None = None

    def __len__(self) -> int:
        return len(self._counts_rtl)

    def __getitem__(self, record: int) -> Tensor:
        if self._random is None:  # in the worker, so that workers differ
            self._random = np.random.default_rng(torch.initial_seed() % 2**32)
        return torch.from_numpy(one_window(self._counts_rtl[record], self._random, self._way))


def batched(counts_rtl: npt.NDArray[np.int16], device: str) -> Contender:
    """ecgtrain's way, on batches that are already in memory, in turns."""
    counts_blts = [batch.to(device).transpose(1, 2) for batch in torch.from_numpy(counts_rtl).split(BATCH)]
    statistics_l = torch.from_numpy(MEAN_MV).to(device), torch.from_numpy(STD_MV).to(device)
    numbers_b, draw = torch.arange(BATCH, device=device), Draw(0)
    done = 0

    def make(n: int) -> None:
        nonlocal done
        for _ in range(n):
            sample_numbers_b = numbers_b + done * BATCH
            offsets_b = draw.fork(0).integers(sample_numbers_b, 1, RECORD_SAMPLES - WINDOW_SAMPLES + 1)[:, 0]
            mv = to_mv(crop(counts_blts[done % len(counts_blts)], offsets_b, WINDOW_SAMPLES))
            normalise(chain(*mv, draw.fork(1), sample_numbers_b, CROP_AND_TIME_OUT, FS_HZ), "lead", statistics_l)
            done += 1
        if device != "cpu":
            torch.cuda.synchronize()

    return make


def loader(counts_rtl: npt.NDArray[np.int16], way: str, workers: int) -> Contender:
    """A DataLoader over :class:`Windows`."""
    windows = Windows(counts_rtl, way)
    sampler = RandomSampler(windows, replacement=True, num_samples=10**8)
    # The dataset is only read, and was made before: fork shares it, whatever this Python's default is.
    context = "fork" if workers else None
    batches: Iterator[Tensor] | None = None

    def make(n: int) -> None:
        nonlocal batches
        if batches is None:
            batches = iter(
                DataLoader(windows, BATCH, sampler=sampler, num_workers=workers, multiprocessing_context=context)
            )
        for _ in range(n):
            next(batches)

    return make


def alone(counts_rtl: npt.NDArray[np.int16]) -> Contender:
    """The windows of a batch one after the other, in this process."""
    random = np.random.default_rng(0)

    def make(n: int) -> None:
        for _ in range(n):
            np.stack([one_window(counts_tl, random, "gather") for counts_tl in counts_rtl[:BATCH]])

    return make


def windows_per_s(contender: Contender, seconds: float) -> float:
    """Throughput over about ``seconds``, after what workers had prepared has been used up."""
    contender(5)
    n, began_s = 0, time.perf_counter()
    while (elapsed_s := time.perf_counter() - began_s) < seconds:
        contender(2)
        n += 2
    return n * BATCH / elapsed_s


def machine(device: str) -> dict[str, object]:
    """What the figures were measured on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(names),
        "device": device if device == "cpu" else torch.cuda.get_device_name(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
    }


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--threads", default=2, show_default=True, help="Threads of the batched way.")
@click.option("--workers", default=2, show_default=True, help="Workers of each DataLoader.")
@click.option("--device", default="cpu", show_default=True, help="Where the batched way runs.")
@click.option("--repeats", default=3, show_default=True, help="Turns; the median counts.")
@click.option("--seconds", default=0.5, show_default=True, help="Time per contender and turn.")
@click.option("--json", "only_json", is_flag=True, help="Print nothing but the JSON line.")
def main(threads: int, workers: int, device: str, repeats: int, seconds: float, only_json: bool) -> None:
    """Measure augmented windows per second, batched and one by one."""
    keep_freed_memory()  # as the command line does
    torch.set_num_threads(threads)
    counts_rtl = np.random.default_rng(0).integers(-2000, 2000, (8 * BATCH, RECORD_SAMPLES, N_LEADS), dtype=np.int16)
    everyone: dict[str, Contender] = {
        "batched": batched(counts_rtl, device),
        "alone": alone(counts_rtl),
        "dataloader_interp": loader(counts_rtl, "interp", workers),
        "dataloader_gather": loader(counts_rtl, "gather", workers),
    }
    runs: dict[str, list[float]] = {}
    for _ in range(repeats):
        for name, contender in everyone.items():
            runs.setdefault(name, []).append(windows_per_s(contender, seconds))
    speed = {name: statistics.median(values) for name, values in runs.items()}
    ratio = {name: round(speed["batched"] / value, 1) for name, value in speed.items() if name != "batched"}
    if not only_json:
        click.echo(
            f"random_resized_crop, time_out, normalise: batches of {BATCH} x {N_LEADS} x "
            f"{RECORD_SAMPLES} -> {WINDOW_SAMPLES}, {threads} threads, {workers} workers, {device}"
        )
        for name, value in speed.items():
            note = f"{ratio[name]:8.1f} times slower" if name in ratio else ""
            click.echo(f"  {name:20}{value:12,.0f} windows/s{note}")
    click.echo(
        json.dumps(
            {
                "benchmark": "views",
                "machine": machine(device),
                "shape": f"{BATCH}x{N_LEADS}x{RECORD_SAMPLES}->{WINDOW_SAMPLES}",
                "threads": threads,
                "workers": workers,
                "windows_per_s": {name: round(value) for name, value in speed.items()},
                "ratio_to": ratio,
            }
        )
    )


if __name__ == "__main__":
    main()
