"""What becomes of scores when somebody has to decide: thresholds, errors of either kind, and whether to trust them.

Thresholds are chosen on validation records and applied to test records; here are only arrays, so it is for the caller
to keep the two apart. Everywhere: ``y_nc`` bool (records, classes), ``probability_nc`` of the same shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ecgtrain.errors import ProtocolError
from ecgtrain.scoring.bootstrap import Interval, interval_of, resampled_weights
from ecgtrain.scoring.exclusive import said
from ecgtrain.scoring.metrics import Bools, Floats, checked, ratio

#: How a threshold is chosen: the best F1; the best sensitivity + specificity (Youden, Cancer 3:32, 1950).
Rule = Literal["f1", "youden"]

#: What is said of a decision, in the order of pages.
FIGURES = ("sensitivity", "specificity", "ppv", "npv", "f1")


class Decided(NamedTuple):
    """How decisions turned out for one class; rates with intervals over resampled patients.

    ``threshold``: from which on it was said; not a number where the likeliest of several classes was.
    """

    threshold: float
    n_hits: int
    n_misses: int
    n_false_alarms: int
    n_rightly_silent: int
    figures: dict[str, Interval]


class Reliability(NamedTuple):
    """Of each bin of probabilities: their mean, how often the finding was stated, and of how many records."""

    mean_said: tuple[float, ...]
    share_stated: tuple[float, ...]
    n_records: tuple[int, ...]


def choose_thresholds(y_nc: Bools, probability_nc: npt.NDArray[Any], rule: Rule = "f1") -> Floats:
    """The threshold of each class that does best by ``rule``, (classes,); a finding is said from it on.

    It lies halfway between two scores, so that it doesn't hang on one record's last digit. Not a number for a class
    without a positive or without a negative record: nothing can be chosen by those.
    """
    y_nc, probability_nc = checked(y_nc, probability_nc)
    return np.array([_best(y_nc[:, c], probability_nc[:, c], rule) for c in range(y_nc.shape[1])])


def _best(y_n: Bools, probability_n: Floats, rule: Rule) -> float:
    n_positive, n_negative = int(y_n.sum()), int((~y_n).sum())
    if not n_positive or not n_negative:
        return float("nan")
    order = np.argsort(-probability_n, kind="stable")
    ranked = probability_n[order]
    # A cut after the last of equal scores: records above it are said to have the finding.
    cuts = np.flatnonzero(np.r_[ranked[1:] != ranked[:-1], True])
    hits, false_alarms = np.cumsum(y_n[order])[cuts], np.cumsum(~y_n[order])[cuts]
    if rule == "f1":
        worth = 2 * hits / (hits + false_alarms + n_positive)
    else:
        worth = hits / n_positive - false_alarms / n_negative
    best = int(cuts[int(np.argmax(worth))])
    below = ranked[best + 1] if best + 1 < len(ranked) else ranked[best]
    return float((ranked[best] + below) / 2)


def decide(
    y_nc: Bools,
    probability_nc: npt.NDArray[Any],
    thresholds_c: Floats,
    patient_keys: Sequence[str | None],
    *,
    n_resamples: int = 1000,
    seed: int = 0,
) -> tuple[Decided | None, ...]:
    """What decisions by ``thresholds_c`` came to, class by class; None where there is no threshold.

    A rate without anything to be a rate of, such as the sensitivity where nobody has the finding, is not a number.
    """
    y_nc, probability_nc = checked(y_nc, probability_nc)
    if thresholds_c.shape != (y_nc.shape[1],):
        raise ProtocolError("one threshold per class is needed", expected=y_nc.shape[1], got=thresholds_c.shape)
    said_nc = probability_nc >= np.where(np.isfinite(thresholds_c), thresholds_c, np.inf)
    found = _turned_out(y_nc, said_nc, thresholds_c, patient_keys, n_resamples, seed)
    return tuple(one if known else None for one, known in zip(found, np.isfinite(thresholds_c).tolist(), strict=True))


def decide_for_one(
    y_nc: Bools,
    probability_nc: npt.NDArray[Any],
    patient_keys: Sequence[str | None],
    *,
    n_resamples: int = 1000,
    seed: int = 0,
) -> tuple[Decided, ...]:
    """The same where classes exclude each other: the likeliest is said of each record, and there is no threshold."""
    y_nc, probability_nc = checked(y_nc, probability_nc)
    no_thresholds_c = np.full(y_nc.shape[1], np.nan)
    return _turned_out(y_nc, said(probability_nc), no_thresholds_c, patient_keys, n_resamples, seed)


def _turned_out(
    y_nc: Bools,
    said_nc: Bools,
    thresholds_c: Floats,
    patient_keys: Sequence[str | None],
    n_resamples: int,
    seed: int,
) -> tuple[Decided, ...]:
    counts_knc = np.stack([y_nc & said_nc, y_nc & ~said_nc, ~y_nc & said_nc, ~y_nc & ~said_nc]).astype(np.float64)
    # Sums of whole numbers: whatever multiplies them, they are exact.
    resampled_kbc = [weight_bn @ counts_knc for weight_bn in resampled_weights(patient_keys, n_resamples, seed)]
    drawn = _rates(np.concatenate(resampled_kbc, axis=1))
    found = _rates(counts_knc.sum(axis=1))
    sums_kc = counts_knc.sum(axis=1).astype(np.int64)

    def of_class(c: int) -> Decided:
        hits, misses, false_alarms, silent = sums_kc[:, c].tolist()
        figures = {name: interval_of(float(found[name][c]), drawn[name][:, c]) for name in FIGURES}
        return Decided(float(thresholds_c[c]), hits, misses, false_alarms, silent, figures)

    return tuple(of_class(c) for c in range(len(thresholds_c)))


def _rates(counts_k: Floats) -> dict[str, Floats]:
    """Rates from (hits, misses, false alarms, rightly silent), over the other axes."""
    hits, misses, false_alarms, silent = counts_k
    return {
        "sensitivity": ratio(hits, hits + misses),
        "specificity": ratio(silent, silent + false_alarms),
        "ppv": ratio(hits, hits + false_alarms),
        "npv": ratio(silent, silent + misses),
        "f1": ratio(2 * hits, 2 * hits + misses + false_alarms),
    }


def brier(y_nc: Bools, probability_nc: npt.NDArray[Any]) -> Floats:
    """Mean squared distance of probability and fact per class, (classes,) (Brier, Mon Weather Rev 78:1, 1950)."""
    y_nc, probability_nc = checked(y_nc, probability_nc)
    distance_c: Floats = np.mean((probability_nc - y_nc) ** 2, axis=0)
    return distance_c


def reliability(y_n: Bools, probability_n: npt.NDArray[Any], n_bins: int = 10) -> Reliability:
    """Of one class: do findings that are said with 30 % come true in 30 % of the records?

    Bins hold equally many records, as far as ties allow: most probabilities of a rare finding are small, and bins of
    equal width would hold nearly all in the first.
    """
    y_nc, probability_nc = checked(np.asarray(y_n)[:, None], np.asarray(probability_n)[:, None])
    order = np.argsort(probability_nc[:, 0], kind="stable")
    bins = [part for part in np.array_split(order, min(n_bins, len(order))) if len(part)]
    return Reliability(
        tuple(float(probability_nc[part, 0].mean()) for part in bins),
        tuple(float(y_nc[part, 0].mean()) for part in bins),
        tuple(len(part) for part in bins),
    )
