"""What tests share: the bundled corpus, a store of it, and a writer of small WFDB records."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import variation
from hypothesis import HealthCheck, settings
from reading import say_how_to_read

# Two test processes on two cores: threads inside them would only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# No property is judged by the clock: a busy machine draws slowly, and fails nothing.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# A shell lets what it starts in the background ignore Ctrl-C, and so would the processes that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

MINI = Path(__file__).parent / "data" / "ptbxl_mini"
FILTERS = ({"name": "bandpass", "low_hz": 0.5, "high_hz": 40.0},)

WriteRecord = Callable[..., Path]


def pytest_collection_finish() -> None:
    # Torch is not imported here: what reads stores is tested without. Whoever trains has imported it by now; and it
    # is before the fixtures of modules, which train, too.
    variation.apply()


@pytest.fixture(autouse=True)
def _same_draws_in_every_run() -> None:
    if torch := sys.modules.get("torch"):
        # Not torch.manual_seed: where no GPU is in use, it keeps the whole stack for when one will be, each time.
        torch.default_generator.manual_seed(0)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(0)


@pytest.fixture(scope="session")
def seed() -> int:
    """What a test that trains takes its data and its weights from: 0 unless other draws are asked for."""
    return variation.SEED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    say_how_to_read(terminalreporter, config.rootpath / ".pytest_cache")


@pytest.fixture(scope="session")
def mini() -> Path:
    """The bundled WFDB folder: 53 real records of PTB-XL."""
    return MINI


@pytest.fixture(scope="session")
def mini_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed store of the bundled records at 100 Hz, filtered."""
    from ecgstore import IngestSettings, ingest_folder

    out = tmp_path_factory.mktemp("stores") / "mini.ecg"
    ingest_folder(MINI, out, IngestSettings(fs_hz=100, filters=FILTERS), workers=2)
    return out


@pytest.fixture(scope="session")
def vt_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen virtual patients with three origins each."""
    from ecgstore.sources import synthetic_vt

    root = tmp_path_factory.mktemp("vt") / "vt"
    synthetic_vt.simulate(root, synthetic_vt.Simulation(n_records=48, seed=1, fs_hz=200, origins_per_patient=3))
    return root


@pytest.fixture(scope="session")
def vt_store(vt_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed store of them at 200 Hz."""
    from ecgstore import IngestSettings, ingest_folder

    out = tmp_path_factory.mktemp("stores") / "vt.ecg"
    ingest_folder(vt_folder, out, IngestSettings(fs_hz=200, filters=FILTERS), workers=2)
    return out


@pytest.fixture(scope="session")
def beat_store(vt_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed store of their ectopic beats."""
    from ecgstore import open_store
    from ecgstore.build.beats import beats_store

    out = tmp_path_factory.mktemp("stores") / "beats.ecg"
    beats_store(open_store(vt_store), out)
    return out


@pytest.fixture
def write_record() -> WriteRecord:
    """Write one format 16 record; every field of its header can be bent."""

    def write(
        folder: Path,
        name: str = "r1",
        counts_tl: np.ndarray | None = None,
        leads: Sequence[str] = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"),
        *,
        fs: str = "500",
        gain: str = "1000.0(0)/mV",
        form: str = "16",
        checksum: int | None = None,
        initial: int | None = None,
        n_samples: int | None = None,
        file_name: str | None = None,
        record_line: str | None = None,
    ) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        if counts_tl is None:
            rng = np.random.default_rng(len(name))
            counts_tl = (200 * rng.standard_normal((5000, len(leads)))).astype("<i2")
        stated = counts_tl.shape[0] if n_samples is None else n_samples
        dat = file_name or f"{name}.dat"
        lines = [record_line or f"{name} {len(leads)} {fs} {stated}"]
        for j, lead in enumerate(leads):
            total = int(counts_tl[:, j].astype(np.int64).sum()) % 65536 if checksum is None else checksum
            first = int(counts_tl[0, j]) if initial is None else initial
            lines.append(f"{dat} {form} {gain} 16 0 {first} {total} 0 {lead}")
        (folder / f"{name}.hea").write_text("\n".join(lines) + "\n")
        if "/" not in dat:
            counts_tl.astype("<i2").tofile(folder / dat)
        return folder / name

    return write


@pytest.fixture(scope="session")
def bank_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recorded noise of two signals and no gain, as NSTDB has it: slow for bw, fast for ma, between for em."""
    folder = tmp_path_factory.mktemp("nstdb")
    rng = np.random.default_rng(0)
    for name, low_hz, high_hz in (("bw", 0.1, 0.6), ("ma", 20, 100), ("em_from_118e00", 1, 8)):
        spectrum = rng.standard_normal((2, 10801)) + 1j * rng.standard_normal((2, 10801))
        freqs_hz = np.fft.rfftfreq(21600, 1 / 360)
        wave_st = np.fft.irfft(spectrum * ((freqs_hz >= low_hz) & (freqs_hz <= high_hz)), axis=1)
        wave_st *= np.array([[300], [90]]) / wave_st.std(axis=1, keepdims=True)
        counts_ts = np.rint(wave_st.T + 40).astype("<i2")
        counts_ts.tofile(folder / f"{name}.dat")
        lines = [f"{name} 2 360 21600"]
        for i in range(2):
            total = int(counts_ts[:, i].astype(np.int64).sum()) % 65536
            total -= 65536 if total > 32767 else 0
            lines.append(f"{name}.dat 16 0 12 0 {counts_ts[0, i]} {total} 0 noise{i + 1}")
        (folder / f"{name}.hea").write_text("\n".join(lines) + "\n")
    return folder
