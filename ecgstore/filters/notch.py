"""Second-order notch at the mains frequency, applied forwards and backwards: no phase."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from ecgstore import settings


class Settings(settings.Settings):
    """Remove ``freq_hz``; one pass loses 3 dB at ``freq_hz`` ± half of ``freq_hz / q``."""

    name: Literal["notch"] = "notch"
    freq_hz: float = Field(50.0, gt=0)
    #: Quality factor: centre frequency over the −3 dB width of one pass.
    q: float = Field(30.0, gt=0)


def gain(freqs_hz: npt.NDArray[np.float64], fs_hz: float, settings: Settings) -> npt.NDArray[np.float64]:
    """|H|² of the digital notch (bilinear transform), as ``filtfilt`` of ``iirnotch`` realises it.

    A frequency at or above half the rate isn't in the signal, so nothing is done.
    """
    if settings.freq_hz >= fs_hz / 2:
        return np.ones_like(freqs_hz)
    omega = np.tan(np.pi * np.minimum(freqs_hz, fs_hz / 2 * (1 - 1e-12)) / fs_hz)
    centre = np.tan(np.pi * settings.freq_hz / fs_hz)
    width = np.tan(np.pi * settings.freq_hz / settings.q / fs_hz) * (1 + centre**2)
    distance = omega**2 - centre**2
    return np.asarray(distance**2 / (distance**2 + (width * omega) ** 2))
