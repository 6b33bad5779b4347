"""Butterworth band-pass, applied forwards and backwards: the squared amplitude response, and no phase."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from ecgstore import settings
from ecgstore.signals.filters import SETTLED, Response


class Settings(settings.Settings):
    """Pass ``low_hz`` to ``high_hz``: one pass loses 3 dB at each edge, both passes together 6 dB."""

    name: Literal["bandpass"] = "bandpass"
    low_hz: float = Field(0.5, gt=0, allow_inf_nan=False)
    high_hz: float = Field(40.0, gt=0, allow_inf_nan=False)
    #: Order of the low-pass prototype of one pass; the two passes together are twice as steep.
    order: int = Field(3, ge=1, le=10)
    response: Response = "analogue"

    @model_validator(mode="after")
    def _ordered(self) -> Settings:
        if self.low_hz >= self.high_hz:
            raise ValueError(f"low_hz must be below high_hz, not {self.low_hz:g} and {self.high_hz:g}")
        return self


def gain(freqs_hz: npt.NDArray[np.float64], fs_hz: float, settings: Settings) -> npt.NDArray[np.float64]:
    """|H|² of the analogue Butterworth filter: the same at any rate, also where an edge is beyond half of it."""
    low_hz, high_hz = settings.low_hz, settings.high_hz
    # The prototype frequency is infinite at 0 Hz, where nothing passes.
    with np.errstate(divide="ignore", over="ignore"):
        prototype = freqs_hz / (high_hz - low_hz) - low_hz / freqs_hz * (high_hz / (high_hz - low_hz))
        return np.asarray(1.0 / (1.0 + np.abs(prototype) ** (2 * settings.order)))


def reach_s(settings: Settings) -> float:
    """Seconds until the slowest pole of the analogue prototype has died out; forwards and backwards are the same."""
    low, high = 2 * np.pi * settings.low_hz, 2 * np.pi * settings.high_hz
    angles = np.pi * (2 * np.arange(1, settings.order + 1) + settings.order - 1) / (2 * settings.order)
    # Low-pass to band-pass: each pole p of the prototype becomes the two roots of s² - p (high - low) s + low high.
    middle = np.exp(1j * angles) * (high - low) / 2
    spread = np.sqrt(middle**2 - low * high)
    decay_per_s = -np.concatenate([middle + spread, middle - spread]).real.max()
    return float(SETTLED / decay_per_s)
