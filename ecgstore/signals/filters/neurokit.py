"""Cleaning as ``neurokit2.ecg_clean`` does it (a stage), lead by lead.

D. Makowski et al.: NeuroKit2: A Python toolbox for neurophysiological signal processing. Behav. Res. Methods 53, 2021.
Forty times as slow as a curve; here for comparisons with results that were obtained with it.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from ecgstore import settings
from ecgstore.errors import ConfigError, need
from ecgstore.signals.filters import SETTLED

#: Methods of neurokit2 that filter and leave millivolts, with the highest frequency in Hz that their filters name.
#: (Its other names hand the signal back as it came, or convolve it with a template of itself.)
HIGHEST_HZ = {
    "neurokit": 0.5,
    "biosppy": 45.0,
    "pantompkins1985": 15.0,
    "hamilton2002": 16.0,
    "elgendi2010": 20.0,
    "engzeemod2012": 52.0,
    "vg": 4.0,
}
#: Shorter records are extended to this, in seconds: the FIR filter of ``biosppy`` asks for 4.5.
SHORTEST_S = 5.0


class Settings(settings.Settings):
    """One of neurokit2's methods; ``powerline_hz``, smoothed away by a moving average, is for ``neurokit`` alone."""

    name: Literal["neurokit"] = "neurokit"
    method: Literal["neurokit", "biosppy", "pantompkins1985", "hamilton2002", "elgendi2010", "engzeemod2012", "vg"] = (
        "neurokit"
    )
    powerline_hz: float = Field(50.0, gt=0, le=100)

    @model_validator(mode="after")
    def _used(self) -> Settings:
        if self.method != "neurokit" and self.powerline_hz != 50.0:
            raise ValueError(f"method {self.method} has no powerline_hz: add a notch instead")
        return self


def stage(signal_mv_lt: npt.NDArray[np.float32], fs_hz: float, settings: Settings) -> npt.NDArray[np.float32]:
    """Clean each lead; (leads, samples) in mV, without NaN.

    Raises ConfigError at rates that the method can't work at, MissingExtra without neurokit2.
    """
    if fs_hz <= 2 * HIGHEST_HZ[settings.method]:
        raise ConfigError(
            f"neurokit's method {settings.method} can't clean a record of this rate",
            expected=f"more than {2 * HIGHEST_HZ[settings.method]:g} Hz",
            got=f"{fs_hz:g} Hz",
            fix="choose another method or leave such records out",
        )
    ecg_clean = need("neurokit2", "ingest").ecg_clean
    options = {"powerline": settings.powerline_hz} if settings.method == "neurokit" else {}
    n = signal_mv_lt.shape[1]
    extended_lt = np.pad(
        signal_mv_lt.astype(np.float64),
        ((0, 0), (0, max(0, int(np.ceil(SHORTEST_S * max(fs_hz, 10))) - n))),
        mode="symmetric",
    )
    cleaned_lt = np.empty_like(signal_mv_lt)
    for lead, signal_mv_t in enumerate(extended_lt):
        cleaned_lt[lead] = ecg_clean(signal_mv_t, sampling_rate=fs_hz, method=settings.method, **options)[:n]
    return cleaned_lt


def reach_s(settings: Settings) -> float | None:
    """For the two methods that go forwards and backwards with nothing taken from the whole record; None for others.

    These two are Butterworth high-passes, of order 5 at 0.5 Hz and of order 2 at 4 Hz; the moving average adds little.
    """
    edges = {"neurokit": (0.5, 5), "vg": (4.0, 2)}
    if settings.method not in edges:
        return None
    freq_hz, order = edges[settings.method]
    return float(SETTLED / (2 * np.pi * freq_hz * np.sin(np.pi / (2 * order)))) + 0.1
