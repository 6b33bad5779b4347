"""Second-order notch at the mains frequency and its harmonics, applied forwards and backwards: no phase."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from ecgstore import settings
from ecgstore.signals.filters import SETTLED


class Settings(settings.Settings):
    """Remove ``freq_hz``; one pass loses 3 dB at ``freq_hz`` ± half of ``freq_hz / q``."""

    name: Literal["notch"] = "notch"
    freq_hz: float = Field(50.0, gt=0)
    #: Quality factor: centre frequency over the −3 dB width of one pass; the same for each harmonic.
    q: float = Field(30.0, gt=0)
    #: 1: ``freq_hz`` alone; n: its multiples 2 to n as well, as far as they lie below half the rate.
    harmonics: int = Field(1, ge=1, le=50)


def gain(freqs_hz: npt.NDArray[np.float64], fs_hz: float, settings: Settings) -> npt.NDArray[np.float64]:
    """|H|² of the digital notch (bilinear transform), as ``filtfilt`` of ``iirnotch`` realises it.

    A frequency at or above half the rate isn't in the signal, so nothing is done.
    """
    product = np.ones_like(freqs_hz)
    omega = np.tan(np.pi * np.minimum(freqs_hz, fs_hz / 2 * (1 - 1e-12)) / fs_hz)
    for harmonic in range(1, settings.harmonics + 1):
        freq_hz = harmonic * settings.freq_hz
        if freq_hz >= fs_hz / 2:
            break
        centre = np.tan(np.pi * freq_hz / fs_hz)
        width = np.tan(np.pi * freq_hz / settings.q / fs_hz) * (1 + centre**2)
        distance = omega**2 - centre**2
        product *= distance**2 / (distance**2 + (width * omega) ** 2)
    return product


def reach_s(settings: Settings) -> float:
    """Seconds until the notch has rung down, πf/q per second; its harmonics are faster."""
    return float(SETTLED * settings.q / (np.pi * settings.freq_hz))
