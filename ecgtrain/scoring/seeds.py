"""Several runs of one recipe that differ by their seed: what another seed and other patients would change.

One seed is one draw of a training. An interval over patients alone says nothing of what the next seed would give, so
both are drawn: seeds with replacement, and patients with replacement (Davison & Hinkley, Bootstrap Methods, 1997,
section 3.8). Few seeds make the spread over seeds look too small, by (n - 1) / n in its variance: three seeds show
about two thirds of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ecgtrain.errors import ProtocolError
from ecgtrain.scoring.bootstrap import Interval, Scorer, interval_of, resampled
from ecgtrain.scoring.metrics import Floats, mean_of_scored


def over_seeds(
    y_nc: npt.NDArray[Any],
    score_snc: Sequence[npt.NDArray[Any]],
    patient_keys: Sequence[str | None],
    metric: str | Scorer = "macro_auroc",
    *,
    n_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """The metric's mean over seeds, with its interval over seeds and patients.

    ``score_snc``: of each seed the scores (records, classes) of the same records.
    """
    found_s, resampled_sr = _of_each(y_nc, score_snc, patient_keys, metric, n_resamples, seed)
    return interval_of(float(found_s.mean()), _drawn(resampled_sr, seed), level)


def paired_over_seeds(
    y_nc: npt.NDArray[Any],
    score_a_snc: Sequence[npt.NDArray[Any]],
    score_b_snc: Sequence[npt.NDArray[Any]],
    patient_keys: Sequence[str | None],
    metric: str | Scorer = "macro_auroc",
    *,
    n_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[Interval, float]:
    """The difference a − b of the metric's means, seed by seed and on the same patients; and how surprising it is.

    The second number is the two-sided share of resamples beyond 0, a p-value of the bootstrap. Seeds are paired: the
    same seed draws the same labels for both.
    """
    if len(score_a_snc) != len(score_b_snc):
        raise ProtocolError("seeds are compared in pairs", expected=len(score_a_snc), got=len(score_b_snc))
    a_s, a_sr = _of_each(y_nc, score_a_snc, patient_keys, metric, n_resamples, seed)
    b_s, b_sr = _of_each(y_nc, score_b_snc, patient_keys, metric, n_resamples, seed)
    drawn_r = _drawn(a_sr - b_sr, seed)
    known_r = drawn_r[np.isfinite(drawn_r)]
    beyond = min((known_r <= 0).sum(), (known_r >= 0).sum())
    p = min(1.0, 2 * (beyond + 1) / (len(known_r) + 1))
    return interval_of(float((a_s - b_s).mean()), drawn_r, level), float(p)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values of one table corrected for their number (Holm, Scand J Statist 6:65, 1979), in the order given."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def _of_each(
    y_nc: npt.NDArray[Any],
    score_snc: Sequence[npt.NDArray[Any]],
    patient_keys: Sequence[str | None],
    metric: str | Scorer,
    n_resamples: int,
    seed: int,
) -> tuple[Floats, Floats]:
    """Of every seed the metric (seeds,), and on the same resamples of patients (seeds, resamples)."""
    if not score_snc:
        raise ProtocolError("scores of one seed or more are needed", got=0)
    found = [resampled(metric, y_nc, score_nc, patient_keys, n_resamples, seed) for score_nc in score_snc]
    return np.array([value for value, _ in found]), np.stack([resampled_r for _, resampled_r in found])


def _drawn(resampled_sr: Floats, seed: int) -> Floats:
    """In each resample the mean over as many seeds as there are, drawn with replacement: (resamples,)."""
    n_seeds, n_resamples = resampled_sr.shape
    draw = np.random.Generator(np.random.Philox([seed, 1]))
    seed_rs = draw.integers(0, n_seeds, size=(n_resamples, n_seeds))
    return mean_of_scored(resampled_sr[seed_rs, np.arange(n_resamples)[:, None]])
