"""Adding noise to a store: records per second, and whether the SNR is the one that was asked for.

    python benchmarks/augment.py [--store STORE] [--noise-bank FOLDER] [--records N] [--workers N] [--json]

* ``throughput``: a sibling store, all included, from reading the parent's shards to the seal; beside it, in the
  same run, copying the same samples from memory to memory.
* ``snr``: for each kind of noise and each SNR asked for, the median of what was obtained, and the largest
  deviation, over records evenly taken from the store. Both are computed here, from the samples before and after.
* ``levels``: median RMS of the noise and SNR at each of the paper's six levels.
"""

from __future__ import annotations

import json
import multiprocessing
import platform
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import click
import numpy as np

from ecgstore import IngestSettings, ingest_folder, open_store
from ecgstore.build.augment import augment_store
from ecgstore.signals import noise
from ecgstore.signals.noise import NoiseSettings
from ecgstore.signals.recorded_noise import Bank, load_bank
from ecgstore.storage.store import Store

ASKED_DB = (24.0, 18.0, 12.0, 6.0, 0.0, -6.0)
MINI = Path(__file__).parents[1] / "tests" / "data" / "ptbxl_mini"


def throughput(store: Store, kinds: list[str], bank: Bank | None, workers: int) -> dict[str, dict[str, float]]:
    """Records and megabytes (int16) per second of whole stores."""
    n_values = len(store.leads) * int(store.column("n_samples").sum())
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        for kind in kinds:
            settings = NoiseSettings(kind=kind, snr_db=6.0)  # type: ignore[arg-type]
            out = Path(scratch) / "noisy.ecg"
            report = augment_store(store, out, settings, bank=bank, workers=workers)
            shutil.rmtree(out)
            found[kind] = {
                "records_per_s": round(report.records_per_s, 1),
                "mb_per_s": round(2 * n_values / report.seconds / 1e6, 1),
            }
    samples = np.ones(n_values, dtype=np.int16)
    copies = []
    for _ in range(5):
        began = time.perf_counter()
        samples.copy()
        copies.append(time.perf_counter() - began)
    found["copy"] = {"mb_per_s": round(2 * n_values / statistics.median(copies) / 1e6, 1)}
    return found


def measure(
    store: Store, names: list[str], settings: NoiseSettings, bank: Bank | None
) -> tuple[list[float], list[float]]:
    """RMS in mV of what was added to some records, and their SNR in dB, both from the samples themselves."""
    rms_mv, snr_db = [], []
    for name in names:
        clean_mv_lt = store.read(name).signal_mv_lt
        noisy = noise.add_noise(clean_mv_lt, store.fs_hz, name, settings, bank, leads=store.leads)
        if np.isnan(noisy.snr_db):
            continue
        live_l = np.nanmax(clean_mv_lt, axis=1) > np.nanmin(clean_mv_lt, axis=1)
        clean_lt = clean_mv_lt[live_l].astype(np.float64)
        power = np.nanmean((noisy.signal_mv_lt[live_l] - clean_lt) ** 2)
        rms_mv.append(float(power**0.5))
        about_mean_lt = clean_lt - np.nanmean(clean_lt, axis=1, keepdims=True)
        with np.errstate(divide="ignore"):
            snr_db.append(float(10 * np.log10(np.nanmean(about_mean_lt**2) / power)))
    return rms_mv, snr_db


@click.command(help=__doc__.partition("\n\n")[0] if __doc__ else None)
@click.option("--store", "path", type=click.Path(path_type=Path, exists=True), help="Default: the bundled records.")
@click.option("--noise-bank", type=click.Path(path_type=Path, exists=True), help="Folder with NSTDB's bw, ma and em.")
@click.option("--records", type=click.IntRange(1), default=50, show_default=True, help="Records per SNR.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
def main(path: Path | None, noise_bank: Path | None, records: int, workers: int, as_json: bool) -> None:
    """Measure all three."""
    bank = load_bank(noise_bank) if noise_bank else None
    with tempfile.TemporaryDirectory() as scratch:
        if path is None:
            path = Path(scratch) / "mini.ecg"
            ingest_folder(MINI, path, IngestSettings(fs_hz=100, filters=()))
        store = open_store(path)
        kinds: list[str] = ["wander", "powerline", "muscle", "shift", "motion", "physiological"]
        kinds += sorted(bank.recordings) if bank else []
        if store.fs_hz <= 100:
            kinds.remove("powerline")  # nothing of it is left at such a rate
        rates = throughput(store, ["wander", "physiological"], bank, workers)
        ids = store.column("record_id").tolist()
        names = ids[:: max(1, len(ids) // records)][:records]
        snr: dict[str, dict[str, list[float]]] = {}
        for kind in kinds:
            for asked_db in ASKED_DB:
                settings = NoiseSettings(kind=kind, snr_db=asked_db)  # type: ignore[arg-type]
                _, found_db = measure(store, names, settings, bank)
                worst_db = max(abs(one - asked_db) for one in found_db)
                snr.setdefault(kind, {})[f"{asked_db:g}"] = [statistics.median(found_db), worst_db]
        levels = {}
        for level in sorted(noise.LEVELS_MV):
            rms_mv, found_db = measure(store, names, NoiseSettings(kind="physiological", level=level), bank)
            levels[str(level)] = [statistics.median(rms_mv), statistics.median(found_db)]
        shapes = {"records": store.n_records, "measured": len(names), "leads": len(store.leads), "fs_hz": store.fs_hz}
    for name, rate in rates.items():
        click.echo(f"{name:<16} " + "  ".join(f"{value:10.1f} {unit}" for unit, value in rate.items()))
    click.echo("\nmedian of the SNR obtained in dB (largest deviation), by the SNR asked for")
    click.echo(" " * 16 + "".join(f"{asked_db:>16g}" for asked_db in ASKED_DB))
    for kind, row in snr.items():
        click.echo(f"{kind:<16}" + "".join(f"{median:>9.3f} ({worst:.3f})" for median, worst in row.values()))
    click.echo("\nphysiological     RMS mV   SNR dB  (medians)")
    for name, (rms, found) in levels.items():
        click.echo(f"level {name:<10} {rms:7.2f} {found:8.1f}")
    if as_json:
        answer = {
            "benchmark": "augment",
            "machine": {
                "system": platform.platform(),
                "cores": multiprocessing.cpu_count(),
                "python": platform.python_version(),
            },
            "shapes": {**shapes, "workers": workers},
            "throughput": rates,
            "snr_db": snr,
            "levels": levels,
            "ratio_to_copy": round(rates["physiological"]["mb_per_s"] / rates["copy"]["mb_per_s"], 5),
        }
        click.echo(json.dumps(answer))


if __name__ == "__main__":
    main()
