"""Butterworth low-pass, applied forwards and backwards: the squared amplitude response, and no phase."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from ecgstore import settings
from ecgstore.signals.filters import SETTLED, Response


class Settings(settings.Settings):
    """Pass what is below ``freq_hz``: one pass loses 3 dB there, both passes together 6 dB."""

    name: Literal["lowpass"] = "lowpass"
    freq_hz: float = Field(40.0, gt=0, allow_inf_nan=False)
    #: Order of one pass; the two passes together are twice as steep.
    order: int = Field(3, ge=1, le=10)
    response: Response = "analogue"


def gain(freqs_hz: npt.NDArray[np.float64], fs_hz: float, settings: Settings) -> npt.NDArray[np.float64]:
    """|H|² of the analogue Butterworth filter: the same at any rate, also where the edge is beyond half of it."""
    with np.errstate(over="ignore"):
        return np.asarray(1.0 / (1.0 + (freqs_hz / settings.freq_hz) ** (2 * settings.order)))


def reach_s(settings: Settings) -> float:
    """Seconds until the slowest of the Butterworth poles, 2πf · sin(π / 2·order) per second, has died out."""
    return float(SETTLED / (2 * np.pi * settings.freq_hz * np.sin(np.pi / (2 * settings.order))))
