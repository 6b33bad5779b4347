"""Scores of predicted numbers, and how far they agree with those that are known.

``y_nc``, ``score_nc``: float (records, columns), in the same unit. With several columns, a score is the mean over them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ecgtrain.errors import ProtocolError
from ecgtrain.scoring.metrics import Floats, ratio

#: The 2.5 % and 97.5 % points of a normal distribution, as Bland and Altman take them.
_NORMAL_95 = 1.96


class Agreement(NamedTuple):
    """Bland and Altman's summary, in the unit of the target.

    ``bias``: mean of predicted minus known. ``low``, ``high``: limits between which 95 % of the differences lie, if
    they are normal. ``slope``: by how much the difference changes per unit of the mean of both; below 0 where
    predictions keep to the middle.
    """

    bias: float
    low: float
    high: float
    slope: float


def mae(y_nc: npt.NDArray[Any], score_nc: npt.NDArray[Any]) -> float:
    """Mean absolute error."""
    y_nc, score_nc = checked_numbers(y_nc, score_nc)
    return float(np.abs(score_nc - y_nc).mean())


def r2(y_nc: npt.NDArray[Any], score_nc: npt.NDArray[Any]) -> float:
    """Coefficient of determination: 1 is perfect, 0 is the mean of these records, below 0 is worse than that.

    NaN where the targets don't vary.
    """
    y_nc, score_nc = checked_numbers(y_nc, score_nc)
    return float(weighted_r2(y_nc, score_nc, np.ones((1, len(y_nc))))[0])


def weighted_mae(y_nc: Floats, score_nc: Floats, weight_rn: Floats) -> Floats:
    """MAE under each row of weights, (resamples,)."""
    return ratio(weight_rn @ np.abs(score_nc - y_nc).mean(axis=1), weight_rn.sum(axis=1))


def weighted_r2(y_nc: Floats, score_nc: Floats, weight_rn: Floats) -> Floats:
    """R² under each row of weights, (resamples,); NaN where the targets don't vary."""
    total_r = weight_rn.sum(axis=1, keepdims=True)
    centred_nc = y_nc - y_nc.mean(axis=0)  # against cancellation, where a mean is far from 0
    mean_rc = (weight_rn @ centred_nc) / total_r
    spread_rc = weight_rn @ centred_nc**2 - total_r * mean_rc**2
    spread_rc[spread_rc <= 1e-12 * (weight_rn @ y_nc**2)] = 0
    found: Floats = (1 - ratio(weight_rn @ (score_nc - y_nc) ** 2, spread_rc)).mean(axis=1)
    return found


def agreement(y_n: npt.NDArray[Any], score_n: npt.NDArray[Any]) -> Agreement:
    """Bland and Altman's limits of agreement (Lancet 327:307, 1986) of one column, each (records,)."""
    known_n, said_n = (part[:, 0] for part in checked_numbers(np.asarray(y_n)[:, None], np.asarray(score_n)[:, None]))
    difference_n, mean_n = said_n - known_n, (said_n + known_n) / 2
    bias = float(difference_n.mean())
    spread = float(difference_n.std(ddof=1)) if len(difference_n) > 1 else float("nan")
    around_n = mean_n - mean_n.mean()
    slope = float(ratio(np.dot(around_n, difference_n), np.dot(around_n, around_n)))
    return Agreement(bias, bias - _NORMAL_95 * spread, bias + _NORMAL_95 * spread, slope)


def checked_numbers(y_nc: npt.NDArray[Any], score_nc: npt.NDArray[Any]) -> tuple[Floats, Floats]:
    """Both as float64; raises ProtocolError unless they are finite and fit together."""
    y_nc, score_nc = np.asarray(y_nc, dtype=np.float64), np.asarray(score_nc, dtype=np.float64)
    if y_nc.ndim != 2 or y_nc.shape != score_nc.shape:
        raise ProtocolError("targets and predictions don't fit together", expected=y_nc.shape, got=score_nc.shape)
    for what, values in (("targets", y_nc), ("predictions", score_nc)):
        if not np.isfinite(values).all():
            raise ProtocolError(f"{what} must be numbers", got=f"{(~np.isfinite(values)).any(axis=1).sum()} records")
    return y_nc, score_nc
