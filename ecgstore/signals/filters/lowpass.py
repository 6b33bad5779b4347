"""Butterworth low-pass, applied forwards and backwards: the squared amplitude response, and no phase."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from ecgstore import settings
from ecgstore.signals.filters import SETTLED


class Settings(settings.Settings):
    """Pass what is below ``freq_hz``: one pass loses 3 dB there, both passes together 6 dB."""

    name: Literal["lowpass"] = "lowpass"
    freq_hz: float = Field(40.0, gt=0)
    #: Order of one pass; the two passes together are twice as steep.
    order: int = Field(3, ge=1, le=10)


def gain(freqs_hz: npt.NDArray[np.float64], fs_hz: float, settings: Settings) -> npt.NDArray[np.float64]:
    """|H|² of the digital Butterworth filter (bilinear transform), as ``sosfiltfilt`` realises it.

    An edge at or above half the rate has nothing to cut, so nothing is done.
    """
    if settings.freq_hz >= fs_hz / 2:
        return np.ones_like(freqs_hz)
    omega = np.tan(np.pi * np.minimum(freqs_hz, fs_hz / 2 * (1 - 1e-12)) / fs_hz)
    edge = np.tan(np.pi * settings.freq_hz / fs_hz)
    return np.asarray(1.0 / (1.0 + (omega / edge) ** (2 * settings.order)))


def reach_s(settings: Settings) -> float:
    """Seconds until the slowest of the Butterworth poles, 2πf · sin(π / 2·order) per second, has died out."""
    return float(SETTLED / (2 * np.pi * settings.freq_hz * np.sin(np.pi / (2 * settings.order))))
