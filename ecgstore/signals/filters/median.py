"""Baseline by two medians, subtracted (a stage): what the first leaves of QRS and P, the second takes with the T.

P. de Chazal, M. O'Dwyer, R. B. Reilly: Automatic classification of heartbeats using ECG morphology and heartbeat
interval features. IEEE Trans. Biomed. Eng. 51(7), 2004, section II-B. There the windows are 200 and 600 ms.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from ecgstore import settings
from ecgstore.errors import need


class Settings(settings.Settings):
    """Windows of the two medians, each rounded to an odd number of samples."""

    name: Literal["median"] = "median"
    first_s: float = Field(0.2, gt=0, le=60)
    second_s: float = Field(0.6, gt=0, le=60)


def stage(signal_mv_lt: npt.NDArray[np.float32], fs_hz: float, settings: Settings) -> npt.NDArray[np.float32]:
    """Subtract the baseline; (leads, samples) in mV, without NaN. At the edges the signal is mirrored."""
    median_filter = need("scipy.ndimage", "ingest").median_filter
    windows = [_odd(seconds * fs_hz) for seconds in (settings.first_s, settings.second_s)]
    # Mirrored here and not by scipy, whose window must not be longer than the signal.
    margin = sum(window // 2 for window in windows)
    baseline_lt = np.pad(signal_mv_lt, ((0, 0), (margin, margin)), mode="symmetric")
    for lead_t in baseline_lt:
        # Lead by lead: in one dimension scipy is 20 times as fast.
        for window in windows:
            lead_t[:] = median_filter(lead_t, size=window, mode="nearest")
    return signal_mv_lt - baseline_lt[:, margin : margin + signal_mv_lt.shape[1]]


def reach_s(settings: Settings) -> float:
    """Half of both windows, and room for their rounding at 50 samples per second or more."""
    return (settings.first_s + settings.second_s) / 2 + 0.04


def _odd(samples: float) -> int:
    """The odd number nearest to ``samples``."""
    return 2 * round((samples - 1) / 2) + 1 if samples > 1 else 1
