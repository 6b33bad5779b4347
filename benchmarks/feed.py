"""How fast windows come out of the feed, against a plain memory copy and against a Dataset under a DataLoader.

The copy moves the same bytes, batch by batch, on one thread: no feed on one thread can beat it by much. The
Dataset does item by item what published code does: cut a window out of a memory-mapped file, make it float32,
normalise each lead, let the DataLoader stack the batch. The feed's own product is int16, for a device to go on
with, and comes from a thread of its own; ``gather`` is the same without the thread. ``feed_float32`` does the
Dataset's arithmetic on this processor, batch by batch. All contenders run in turns, several times; medians are
reported.

    python benchmarks/feed.py              synthetic counts in memory
    python benchmarks/feed.py --store S    the records of a store, by every way of feeding (--device cuda: to a GPU)

With a store, each way is also timed from opening the feed to the first batch, with the store's files in the
page cache: ``memmap`` fills its file first, ``memmap_again`` finds it.

The last line on stdout is one JSON object.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# OpenMP threads that spin for long while they wait would fight the feed's own thread for the cores. Before torch.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import click
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ecgstore import Store, open_store
from ecgstore.inner import keep_freed_memory
from ecgtrain.data.feed import Feed, WindowCache, open_feed
from ecgtrain.data.plan import BatchPlan, batch_plan
from ecgtrain.data.settings import Feeding
from ecgtrain.views.normalise import normalise, to_mv

BATCH = 256
N_LEADS = 12
#: Window and record length of the two shapes, in samples.
SHAPES = ((250, 1000), (2500, 5000))

#: Statistics to normalise by; any will do.
MEAN_MV, STD_MV = np.full(N_LEADS, 0.01, np.float32), np.full(N_LEADS, 1.1, np.float32)

#: Runs a contender for a number of batches.
Contender = Callable[[int], None]


class Crops(Dataset[tuple[Tensor, Tensor]]):
    """One window per item, at random, out of a memory-mapped (time, leads) file, and its record's labels."""

    def __init__(self, path: Path, n_records: int, record_samples: int, window_samples: int) -> None:
        self._path, self._n, self._length, self._window = path, n_records, record_samples, window_samples
        self._labels_nc = np.zeros((n_records, 5), np.float32)
        self._file: npt.NDArray[np.int16] | None = None

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, record: int) -> tuple[Tensor, Tensor]:
        if self._file is None:  # opened in the worker
            self._file = np.memmap(self._path, np.int16, "r").reshape(-1, N_LEADS)
        start = record * self._length + int(torch.randint(self._length - self._window + 1, ()))
        window_tl = self._file[start : start + self._window].astype(np.float32) / 1000
        window_lt = np.ascontiguousarray(((window_tl - MEAN_MV) / STD_MV).T)
        return torch.from_numpy(window_lt), torch.from_numpy(self._labels_nc[record])


def synthetic(n_records: int, record_samples: int, window_samples: int) -> Feed:
    """A feed of random counts."""
    cache = WindowCache(N_LEADS, np.full(n_records, record_samples), window_samples)
    generator = np.random.default_rng(0)
    for row in range(n_records):
        cache.put(row, 0, generator.integers(-2000, 2000, (N_LEADS, record_samples), dtype=np.int16))
    return Feed(cache, np.arange(n_records))


def forever(feed: Feed) -> Iterator[BatchPlan]:
    """The plans of an endless run."""
    step = 0
    while True:
        yield batch_plan(
            feed.records, window_samples=feed.window_samples, seed=0, step=step, batch_size=min(BATCH, feed.n_records)
        )
        step += 1


def contenders(feed: Feed, memmap: Path) -> dict[str, Contender]:
    """Everything that is timed on one shape, by name."""
    one = feed.batch(next(forever(feed))).counts_blt.transpose(1, 2).numpy()
    # As many sources as fill 200 MB: fewer would sit in the processor's cache.
    sources = itertools.cycle(np.stack([one + np.int16(i) for i in range(max(2, int(200e6 / one.nbytes)))]))
    target = np.empty_like(one)
    statistics_l = torch.from_numpy(MEAN_MV), torch.from_numpy(STD_MV)
    ready = feed.batches(forever(feed))
    in_floats = feed.batches(forever(feed))

    def copy(n: int) -> None:
        for _ in range(n):
            np.copyto(target, next(sources))

    plans = forever(feed)

    def gather(n: int) -> None:
        for _ in range(n):
            feed.batch(next(plans))

    def pull(n: int) -> None:
        for _ in range(n):
            next(ready)

    def pull_float32(n: int) -> None:
        for _ in range(n):
            normalise(to_mv(next(in_floats).counts_blt), "lead", statistics_l)

    length = int(feed.cache.lengths_n.min())
    crops = Crops(memmap, feed.n_records, length, feed.window_samples)
    made: dict[str, Contender] = {"copy": copy, "gather": gather, "feed": pull, "feed_float32": pull_float32}
    for workers in (0, 2):
        made[f"dataloader_{workers}_workers"] = _loader(crops, workers, len(one))
    return made


def _loader(crops: Crops, workers: int, batch_size: int) -> Contender:
    sampler = torch.utils.data.RandomSampler(crops, replacement=True, num_samples=10**8)
    loader = DataLoader(crops, batch_size, sampler=sampler, num_workers=workers)
    batches = iter(loader)

    def pull(n: int) -> None:
        for _ in range(n):
            next(batches)

    return pull


def windows_per_s(contender: Contender, batch_size: int, seconds: float) -> float:
    """Throughput over about ``seconds``, after what was prepared ahead has been used up."""
    contender(6)
    n, began_s = 0, time.perf_counter()
    while (elapsed_s := time.perf_counter() - began_s) < seconds:
        contender(8)
        n += 8
    return n * batch_size / elapsed_s


def measure(feed: Feed, memmap: Path, repeats: int, seconds: float) -> dict[str, Any]:
    """All contenders in turns on one shape; medians, and the ratios that are claimed."""
    batch_size = min(BATCH, feed.n_records)
    runs: dict[str, list[float]] = {}
    everyone = contenders(feed, memmap)
    for _ in range(repeats):
        for name, contender in everyone.items():
            runs.setdefault(name, []).append(windows_per_s(contender, batch_size, seconds))
    speed = {name: statistics.median(values) for name, values in runs.items()}
    loader = max(speed["dataloader_0_workers"], speed["dataloader_2_workers"])
    return {
        "shape": f"{N_LEADS}x{feed.window_samples}",
        "records": feed.n_records,
        "batch": batch_size,
        "windows_per_s": {name: round(value) for name, value in speed.items()},
        "gather_ratio_to_copy": round(speed["gather"] / speed["copy"], 3),
        "ratio_to_copy": round(speed["feed"] / speed["copy"], 3),
        "ratio_to_dataloader": round(speed["feed"] / loader, 1),
        "float32_ratio_to_dataloader": round(speed["feed_float32"] / loader, 1),
    }


def ways(
    store: Store, window_samples: int, folder: Path, repeats: int, seconds: float, device: str
) -> dict[str, object]:
    """Windows per second by way of feeding, seconds to the first batch, and how fast a cache is filled.

    On a GPU, all ways deliver to it, and ``device_ratio_to_copy`` tells the gather there as a share of copying as many
    bytes within its memory.
    """
    starts: dict[str, list[float]] = {}
    fills: list[float] = []
    feeds: dict[str, Feed] = {}
    for turn in range(repeats):
        for name in ("resident", "device", "memmap", "memmap_again", "stream"):
            way = name.removesuffix("_again")
            place = folder / f"cache-{turn}"
            began_s = time.perf_counter()
            feed = open_feed(
                store,
                np.arange(store.n_records),
                window_samples=window_samples,
                device=device,
                feeding=Feeding.model_validate({"feed": way, "cache_dir": str(place)}),
            )
            opened_s = time.perf_counter() - began_s
            batches = feed.batches(forever(feed))
            next(batches)
            starts.setdefault(name, []).append(time.perf_counter() - began_s)
            batches.close()
            if name == "memmap":
                fills.append(feed.cache.n_bytes / 1e6 / opened_s)
            feeds[way] = feed
    speeds: dict[str, list[float]] = {}
    for _ in range(repeats):
        for name, feed in feeds.items():
            speeds.setdefault(name, []).append(_pulled_per_s(feed, seconds))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    found = {"windows_per_s": {name: round(value) for name, value in medians.items()}}
    if device == "cuda":
        found["device_ratio_to_copy"] = round(medians["device"] / _copied_per_s(feeds["device"], seconds), 3)
    return found | {
        "first_batch_s": {name: round(statistics.median(values), 4) for name, values in starts.items()},
        "fill_mb_per_s": round(statistics.median(fills)),
    }


def _copied_per_s(feed: Feed, seconds: float) -> float:
    """Windows' worth of bytes that are copied within the GPU's memory per second."""
    one = feed.batch(next(forever(feed))).counts_blt.contiguous()
    other = torch.empty_like(one)

    def copy(n: int) -> None:
        for _ in range(n):
            other.copy_(one)
        torch.cuda.synchronize()

    return windows_per_s(copy, len(one), seconds)


def _pulled_per_s(feed: Feed, seconds: float) -> float:
    batches = feed.batches(forever(feed))

    def pull(n: int) -> None:
        for _ in range(n):
            next(batches)
        if feed.device.type == "cuda":
            torch.cuda.synchronize()

    try:
        return windows_per_s(pull, min(BATCH, feed.n_records), seconds)
    finally:
        batches.close()


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    names = [line for line in _read("/proc/cpuinfo").splitlines() if line.startswith("model name")]
    return {
        "processor": names[0].partition(":")[2].strip() if names else platform.processor(),
        "cores": len(names),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
    }


def _read(path: str) -> str:
    return Path(path).read_text(encoding="utf-8") if Path(path).is_file() else ""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--store", type=click.Path(exists=True), help="Take windows from this store instead of synthetic counts.")
@click.option(
    "--records", default=10_000, show_default=True, help="Synthetic records of 12 x 1000; a fifth of 12 x 5000."
)
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda: where a store's windows are delivered.")
@click.option("--repeats", default=5, show_default=True, help="Turns; the median counts.")
@click.option("--seconds", default=0.5, show_default=True, help="Time per contender and turn.")
@click.option("--json", "only_json", is_flag=True, help="Print nothing but the JSON line.")
def main(store: str | None, records: int, device: str, repeats: int, seconds: float, only_json: bool) -> None:
    """Measure windows per second of the feed, of a memory copy, and of a Dataset under a DataLoader."""
    keep_freed_memory()  # as the command line does
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for window_samples, record_samples in SHAPES:
            if store is None:
                n = records * SHAPES[0][1] // record_samples
                feed = synthetic(n, record_samples, window_samples)
            else:
                opened = open_store(store)
                lengths_n = opened.column("n_samples")
                if lengths_n.min() < window_samples:
                    continue
                feed = open_feed(opened, np.arange(opened.n_records), window_samples=window_samples)
                record_samples = int(lengths_n.min())
            memmap = Path(folder) / f"{window_samples}.dat"
            size = feed.n_records * record_samples
            np.random.default_rng(1).integers(-2000, 2000, (size, N_LEADS), dtype=np.int16).tofile(memmap)
            results.append(measure(feed, memmap, repeats, seconds))
            if store is not None:
                results[-1]["ways"] = ways(opened, window_samples, Path(folder), repeats, seconds, device)
    if not only_json:
        for result in results:
            click.echo(f"{result['shape']} windows, {result['records']:,} records, batch {result['batch']}")
            for name, value in result["windows_per_s"].items():
                click.echo(f"  {name:24}{value:12,} windows/s")
            click.echo(f"  feed / copy {result['ratio_to_copy']}, feed / DataLoader {result['ratio_to_dataloader']}")
            if its := result.get("ways"):
                for way, value in its["windows_per_s"].items():
                    click.echo(f"  way {way:20}{value:12,} windows/s")
                for way, value in its["first_batch_s"].items():
                    click.echo(f"  first batch, {way:11}{value:12.3f} s")
                click.echo(f"  cache filled at {its['fill_mb_per_s']} MB/s")
    click.echo(json.dumps({"benchmark": "feed", "machine": machine(), "results": results}))


if __name__ == "__main__":
    main()
