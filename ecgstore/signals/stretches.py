"""A record too long to be judged at once: the quality of its stretches, put together to that of the whole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ecgstore.record import LEADS_12, LeadState
from ecgstore.signals.quality import Quality, Signal, rounded
from ecgstore.storage.layout import MEASURES


class Stretch(NamedTuple):
    """A stretch of a long record: samples in it, how it was judged, and each lead's extremes and mean in mV."""

    n_samples: int
    judged: Quality
    lowest_l: npt.NDArray[np.float64]
    highest_l: npt.NDArray[np.float64]
    mean_l: npt.NDArray[np.float64]


def stretch_of(signal_mv_lt: Signal, judged: Quality) -> Stretch:
    """What :func:`combine` needs of a stretch, float32 (leads, samples) in mV, that was judged."""
    recorded_lt = ~np.isnan(signal_mv_lt)
    n_l = np.count_nonzero(recorded_lt, axis=1)
    total_l = signal_mv_lt.sum(axis=1, dtype=np.float64, where=recorded_lt)
    lowest_l, highest_l = (extreme.reduce(signal_mv_lt, axis=1).astype(np.float64) for extreme in (np.fmin, np.fmax))
    return Stretch(
        signal_mv_lt.shape[1], judged, lowest_l, highest_l, np.where(n_l > 0, total_l / np.maximum(n_l, 1), np.nan)
    )


def combine(stretches: Sequence[Stretch], states: Sequence[LeadState], leads: Sequence[str] = LEADS_12) -> Quality:
    """Judge a record from its stretches, which share no sample; ``states`` are those of the whole record.

    Shares and powers are averaged, wander with what the stretches' means differ by; the range is that of the whole, and
    a suspicion counts if it holds in at least half of the record. A lead that lacks a whole stretch is quiet there, as
    a gap is in a record judged at once; only its noise is that of the others.
    """
    weights = np.array([one.n_samples for one in stretches], dtype=np.float64)
    lowest_pl, highest_pl = (
        np.array([one.lowest_l for one in stretches]),
        np.array([one.highest_l for one in stretches]),
    )
    means_pl = np.array([one.mean_l for one in stretches])
    measured = []
    for m, name in enumerate(MEASURES):
        values_pl = np.array([one.judged.measured_ml[m] for one in stretches])
        is_told_l = ~np.isnan(values_pl).all(axis=0)
        if name != "hf_noise_mv":
            values_pl = np.where(is_told_l, np.nan_to_num(values_pl), np.nan)
        if name == "range_mv":
            spans_l = np.fmax.reduce(highest_pl, axis=0) - np.fmin.reduce(lowest_pl, axis=0)
            combined_l = np.where(is_told_l, spans_l, np.nan)
        elif name.endswith("_mv"):
            power_l = _mean(values_pl**2, weights)
            if name == "baseline_mv":
                power_l = power_l + np.nan_to_num(_mean((means_pl - _mean(means_pl, weights)) ** 2, weights))
            combined_l = np.sqrt(power_l)
        else:
            combined_l = _mean(values_pl, weights)
        measured.append(rounded(combined_l))
    einthoven_mv2 = np.array([[one.judged.einthoven_mv**2] for one in stretches])
    # A limb lead that never changes is known to be bad only once all of it was seen.
    is_measured = all(
        state is LeadState.MEASURED for lead, state in zip(leads, states, strict=True) if lead in ("I", "II", "III")
    )
    einthoven_mv = float(rounded(np.sqrt(_mean(einthoven_mv2, weights)))[0]) if is_measured else math.nan
    held: dict[str, float] = {}
    for one in stretches:
        for text in one.judged.suspects:
            held[text] = held.get(text, 0.0) + one.n_samples
    measured_ml = np.stack(measured)
    return Quality(
        measured_ml,
        np.fmax.reduce(measured_ml, axis=1),
        einthoven_mv,
        tuple(text for text, n in held.items() if n >= weights.sum() / 2),
    )


def _mean(values_pl: npt.NDArray[np.float64], weights_p: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Weighted mean over pieces of what is not NaN; NaN where nothing is left."""
    weights_pl = np.where(np.isnan(values_pl), 0.0, weights_p[:, None])
    total_l = weights_pl.sum(axis=0)
    sums_l = (np.nan_to_num(values_pl) * weights_pl).sum(axis=0)
    return np.where(total_l > 0, sums_l / np.where(total_l > 0, total_l, 1.0), np.nan)
