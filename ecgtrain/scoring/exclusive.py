"""Scores where each record is of exactly one class: the class with the highest score is what is said of it.

``y_nc``: bool (records, classes), one of each row; ``score_nc``: float of the same shape.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ecgtrain.scoring.metrics import Bools, Floats, checked, mean_of_scored, ratio

#: The least that a right class is taken to have been given.
_LEAST = 1e-6


def confusion(y_nc: Bools, score_nc: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Records that are of class i and said to be of class j, int64 (classes, classes)."""
    y_nc, scores = checked(y_nc, score_nc)
    counts_cc: npt.NDArray[np.int64] = y_nc.T.astype(np.int64) @ said(scores).astype(np.int64)
    return counts_cc


def said(score_nc: Floats) -> Bools:
    """The class that is said of each record; of equal scores the first."""
    said_nc = np.zeros(score_nc.shape, dtype=np.bool_)
    said_nc[np.arange(len(score_nc)), score_nc.argmax(axis=1)] = True
    return said_nc


def log_likelihood(y_nc: Bools, score_nc: npt.NDArray[Any]) -> float:
    """Mean log-likelihood of the right class, of scores that are probabilities; none counts as less than 1e-6."""
    y_nc, scores = checked(y_nc, score_nc)
    return float(np.log(np.clip((scores * y_nc).sum(axis=1), _LEAST, 1)).mean())


def weighted_accuracy(y_nc: Bools, score_nc: Floats, weight_rn: Floats) -> Floats:
    """Share of the records of which the right class is said, under each row of weights, (resamples,)."""
    right_n = (y_nc & said(score_nc)).any(axis=1)
    return ratio(weight_rn @ right_n.astype(np.float64), weight_rn.sum(axis=1))


def weighted_balanced_accuracy(y_nc: Bools, score_nc: Floats, weight_rn: Floats) -> Floats:
    """Mean over classes of the share of their records that are right, (resamples,); of those that have records."""
    hits_rc = weight_rn @ (y_nc & said(score_nc)).astype(np.float64)
    return mean_of_scored(ratio(hits_rc, weight_rn @ y_nc.astype(np.float64)))


def weighted_brier(y_nc: Bools, score_nc: Floats, weight_rn: Floats) -> Floats:
    """Mean squared distance of probabilities and facts, summed over classes, (resamples,): 0 at best, 2 at worst.

    As Brier has it of forecasts that exclude each other (Mon Weather Rev 78:1, 1950).
    """
    apart_n = ((score_nc - y_nc) ** 2).sum(axis=1)
    return ratio(weight_rn @ apart_n, weight_rn.sum(axis=1))


def weighted_macro_f1(y_nc: Bools, score_nc: Floats, weight_rn: Floats) -> Floats:
    """Mean over classes of 2 TP / (2 TP + FP + FN), (resamples,); without classes that are neither there nor said."""
    said_nc = said(score_nc)
    hits_rc = weight_rn @ (y_nc & said_nc).astype(np.float64)
    both_rc = weight_rn @ (y_nc.astype(np.float64) + said_nc)
    return mean_of_scored(ratio(2 * hits_rc, both_rc))
