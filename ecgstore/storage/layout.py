"""What a store looks like on disk: names, dtypes, units. Pure; no I/O. The contract is docs/format.md.

This is the only file that spells the names of objects and columns, and the only one where counts live.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

FORMAT = "ecgstore"
#: Raised whenever anything in this file changes what is written. Readers accept the versions they know.
FORMAT_VERSION = 2
READABLE_VERSIONS = frozenset({1, 2})

ROOT = "zarr.json"
SIGNAL = "signal"
SIGNAL_JSON = f"{SIGNAL}/zarr.json"
RECORDS = "records.parquet"
LEADS = "leads.parquet"
STATEMENTS = "statements.parquet"
BEATS = "beats.parquet"
REJECTED = "rejected.parquet"
COMMITS = "commits"
MANIFEST = "manifest.json"
#: What a split table is called where tables go by their names; it stands beside a store, never in it.
SPLIT = "split.parquet"
#: The key of the metadata that makes a table a split table.
SPLIT_KEY = b"ecgstore_split"
#: Present only while a store is being built; after a kill in the last moment they can stay behind.
SCAFFOLD = "building."
BUILDING = f"{SCAFFOLD}json"
SCAN = f"{SCAFFOLD}scan.parquet"
PLAN = f"{SCAFFOLD}plan"
#: Folder of the notes of what each commit was when it was written.
DONE = f"{SCAFFOLD}done"

#: One count is one microvolt, in every store but a raw one: the hot path needs no scale per record.
COUNTS_PER_MV = 1000

#: int16's lowest value never comes from a signal: it says "not recorded".
NOT_RECORDED = np.int16(-32768)
MAX_COUNT = 32767

#: Samples per inner chunk: 40 records of 10 s at 100 Hz, 0.96 MB raw for twelve leads.
CHUNK_SAMPLES = 40_000
#: Inner chunks per shard: as many as leave MIN_SHARDS shards or more, for parallel work and fine resume.
CHUNKS_PER_SHARD = (32, 24, 16, 12, 8, 6, 4, 3, 2, 1)
MIN_SHARDS = 8


class Counts(NamedTuple):
    """Quantised samples (leads, samples), and how many of each lead's did not fit (leads,)."""

    counts_lt: npt.NDArray[np.int16]
    n_clipped_l: npt.NDArray[np.int64]


def mv_to_counts(signal_mv_lt: npt.NDArray[np.float32]) -> Counts:
    """Quantise millivolts to counts of 1 µV: NaN becomes :data:`NOT_RECORDED`, the rest is clipped to ±32.767 mV.

    Shapes are kept. Rounding is to nearest, ties to even.
    """
    # Who only reads loads no library that was compiled, and can't fall over a broken one.
    from ecgstore import kernel

    return Counts(*kernel.quantise(signal_mv_lt))


def counts_to_mv(counts_lt: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
    """Turn counts into float32 millivolts, NaN where nothing was recorded. Shapes are kept."""
    signal_mv_lt = counts_lt.astype(np.float32) / np.float32(COUNTS_PER_MV)
    signal_mv_lt[counts_lt == NOT_RECORDED] = np.nan
    return signal_mv_lt


def adc_to_mv(
    counts_lt: npt.NDArray[np.int16], gain_per_mv_l: npt.NDArray[np.float64], baseline_l: npt.NDArray[Any]
) -> npt.NDArray[np.float32]:
    """Millivolts of a raw store's counts: (count − baseline) / gain, NaN where nothing was recorded or the gain is."""
    signal_mv_lt = np.empty(counts_lt.shape, dtype=np.float32)
    # Lead by lead, because float64 of a long record takes four times the memory of its counts.
    for lead, (counts_t, gain_per_mv, baseline) in enumerate(zip(counts_lt, gain_per_mv_l, baseline_l, strict=True)):
        signal_mv_lt[lead] = (counts_t - np.float64(baseline)) / gain_per_mv
    signal_mv_lt[counts_lt == NOT_RECORDED] = np.nan
    return signal_mv_lt


def crc32_of_counts(counts_lt: npt.NDArray[np.int16], shard_samples: int, crc32: int = 0) -> int:
    """CRC-32 of a record's counts (leads, samples): lead after lead within each shard, shard after shard.

    They lie within one shard or begin at the beginning of one. ``crc32`` is that of the record's shards before.
    """
    for begin in range(0, counts_lt.shape[1], shard_samples):
        crc32 = zlib.crc32(np.ascontiguousarray(counts_lt[:, begin : begin + shard_samples]).data, crc32)
    return crc32


def shard_samples(total_samples: int, longest: int = 0) -> int:
    """Samples per shard for a store of ``total_samples`` whose longest record has ``longest``.

    A pure function, so that plans agree. Large stores get 1,280,000 (30.7 MB raw for twelve leads: few
    objects); small ones smaller shards, so that work still spreads over workers and a killed ingest loses
    little, but not so small that a record of ordinary length would straddle one.
    """
    largest = max(CHUNKS_PER_SHARD)
    for chunks in CHUNKS_PER_SHARD:
        if total_samples >= MIN_SHARDS * chunks * CHUNK_SAMPLES:
            break
    needed = -(-longest // CHUNK_SAMPLES)
    return min(max(chunks, needed), largest) * CHUNK_SAMPLES


def shard_object(shard: int) -> str:
    """Path of a shard's object inside the store (Zarr v3, chunk key encoding "default")."""
    return f"{SIGNAL}/c/0/{shard}"


def commit_object(shard: int) -> str:
    """Path of a shard's commit record inside the store."""
    return f"{COMMITS}/{shard:06d}.arrow"


def note_of_commit(shard: int) -> str:
    """Name of the note that says which bytes the commit of a task has, as long as the store is being built."""
    return f"{DONE}/{shard:06d}"


def consolidated(array: Mapping[str, Any]) -> dict[str, Any]:
    """What the root says of the array ``signal``: xarray and zarr then needn't list a folder in which tables stand."""
    return {"kind": "inline", "must_understand": False, "metadata": {SIGNAL: array}}


#: What is measured on each lead, in this order.
MEASURES: tuple[str, ...] = (
    "flat_fraction",
    "clipped_fraction",
    "missing_fraction",
    "hf_noise_mv",
    "mains_mv",
    "baseline_mv",
    "range_mv",
)
