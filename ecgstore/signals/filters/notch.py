"""Second-order notch at the mains frequency and its harmonics, applied forwards and backwards: no phase."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from ecgstore import settings
from ecgstore.signals.filters import SETTLED, Response


class Settings(settings.Settings):
    """Remove ``freq_hz``; one pass loses 3 dB at ``freq_hz`` ± half of ``freq_hz / q``."""

    name: Literal["notch"] = "notch"
    freq_hz: float = Field(50.0, gt=0, allow_inf_nan=False)
    #: Quality factor: centre frequency over the −3 dB width of one pass; the same for each harmonic.
    q: float = Field(30.0, gt=0, allow_inf_nan=False)
    #: 1: ``freq_hz`` alone; n: its multiples 2 to n as well.
    harmonics: int = Field(1, ge=1, le=50)
    response: Response = "analogue"


def gain(freqs_hz: npt.NDArray[np.float64], fs_hz: float, settings: Settings) -> npt.NDArray[np.float64]:
    """|H|² of the analogue notch: the same at any rate, also where a frequency lies beyond half of it."""
    product = np.ones_like(freqs_hz)
    # The distance from the centre is infinite at 0 Hz, where all passes, and 0 at the centre, where nothing does.
    with np.errstate(divide="ignore", over="ignore"):
        for harmonic in range(1, settings.harmonics + 1):
            relative = freqs_hz / (harmonic * settings.freq_hz)
            distance = relative - 1.0 / relative
            product *= 1.0 / (1.0 + (1.0 / (settings.q * distance)) ** 2)
    return product


def reach_s(settings: Settings) -> float:
    """Seconds until the notch has rung down, πf/q per second; its harmonics are faster."""
    return float(SETTLED * settings.q / (np.pi * settings.freq_hz))
