"""Noise that was recorded: the bank of NSTDB."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ecgstore.errors import SourceError
from ecgstore.record import Terms
from ecgstore.signals import conditioning
from ecgstore.wfdb_io.samples import read_counts

Float32 = npt.NDArray[np.float32]

#: The recorded noises, and the WFDB records that may hold them: the last is ``em`` won back from record 118e00.
RECORDED: Mapping[str, tuple[str, ...]] = {
    "nstdb-bw": ("bw",),
    "nstdb-ma": ("ma",),
    "nstdb-em": ("em", "em_from_118e00"),
}

NSTDB_TERMS = Terms(
    name="nstdb",
    version="1.0.0",
    licence="ODC-By-1.0",
    redistributable=True,
    doi="10.13026/C2HS3T",
    citation="Moody, Muldrow and Mark, A noise stress test for arrhythmia detectors, Comput Cardiol 11:381-384 (1984)",
)


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """One recorded noise: ``counts_st`` float32 (signals, samples), of no known unit."""

    name: str
    fs_hz: float
    counts_st: Float32
    sha256: str


@dataclass(frozen=True, slots=True, eq=False)
class Bank:
    """The ``recordings`` of noise that are in ``folder``, by kind: ``nstdb-bw``, ``nstdb-ma``, ``nstdb-em``."""

    folder: Path
    recordings: Mapping[str, Recording]

    def __reduce__(self) -> tuple[Any, ...]:
        # Recordings are large; another process reads them where they stand, once.
        return _bank_at, (self.folder,)

    def at_rate(self, fs_hz: float, *, from_hz: float = 0.5) -> dict[str, Float32]:
        """Each kind at ``fs_hz``, float32 (signals, samples), every signal about zero with unit RMS.

        Muscle noise and electrode motion start at ``from_hz``: what is below is baseline wander.
        """
        return {kind: recording_at_rate(recording, fs_hz, from_hz) for kind, recording in self.recordings.items()}


def load_bank(folder: str | Path) -> Bank:
    """Read the recorded noise of the MIT-BIH Noise Stress Test Database (ODC-By 1.0) from ``folder``.

    Its gains are unknown (0 in the headers). That does no harm: noise is scaled to a stated SNR.

    Raises SourceError where the folder holds none of the records, RecordError where one can't be read.
    """
    folder = Path(folder)
    found = {}
    for kind, names in RECORDED.items():
        name = next((name for name in names if (folder / f"{name}.hea").is_file()), None)
        if name is not None:
            counts_st, fs_hz, _ = read_counts(folder / name)
            digest = hashlib.sha256(f"{fs_hz:g} {counts_st.shape}".encode())
            digest.update(np.ascontiguousarray(counts_st, dtype="<f4").tobytes())
            found[kind] = Recording(name, fs_hz, counts_st, digest.hexdigest())
    if not found:
        raise SourceError(
            "there is no recorded noise (bw, ma, em)", where=folder, fix="get it with `ecgstore fetch nstdb DEST`"
        )
    return Bank(folder, found)


@lru_cache(maxsize=2)
def _bank_at(folder: Path) -> Bank:
    """Recorded noise is read once by each process that is sent some."""
    return load_bank(folder)


@lru_cache(maxsize=8)
def recording_at_rate(recording: Recording, fs_hz: float, from_hz: float) -> Float32:
    """A recording at another rate and from a frequency on, each signal about zero with unit RMS; (signals, samples)."""
    wave_st = np.nan_to_num(conditioning.condition(recording.counts_st, recording.fs_hz, fs_hz)).astype(np.float64)
    wave_st -= wave_st.mean(axis=1, keepdims=True)
    if from_hz > 0 and recording.name != "bw":
        freqs_hz = np.fft.rfftfreq(wave_st.shape[1], 1 / fs_hz)
        # A second-order Butterworth high-pass, forwards and backwards.
        gain_f = freqs_hz**4 / (freqs_hz**4 + from_hz**4)
        wave_st = np.fft.irfft(np.fft.rfft(wave_st, axis=1) * gain_f, n=wave_st.shape[1], axis=1)
    wave_st /= np.maximum(wave_st.std(axis=1, keepdims=True), 1e-30)
    unit_st = wave_st.astype(np.float32)
    unit_st.setflags(write=False)
    return unit_st
