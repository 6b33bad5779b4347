"""Scores of a multi-label prediction.

Point values come from scikit-learn. The bootstrap needs the same value thousands of times under changing
weights, which scikit-learn would take minutes for: a rank formula, vectorised over resamples, takes seconds
(a test holds the two equal, ties and weights included).

Everywhere: ``y_nc`` bool (records, classes), ``score_nc`` float of the same shape, higher means more likely.
A class without a positive or without a negative record has no AUROC: NaN, and left out of the macro mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ecgtrain.errors import ProtocolError

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

# Weights of one block of resamples: 32 MB as float64.
BLOCK = 1 << 22


def class_auroc(y_nc: Bools, score_nc: npt.NDArray[Any]) -> Floats:
    """Area under the ROC curve per class, (classes,)."""
    from sklearn.metrics import auc, roc_curve

    # As roc_auc_score does in the end; until then it takes five times as long to look at what it was given.
    return _per_class(lambda y_n, score_n: auc(*roc_curve(y_n, score_n)[:2]), y_nc, score_nc)


def class_auprc(y_nc: Bools, score_nc: npt.NDArray[Any]) -> Floats:
    """Average precision per class, (classes,): the precision-recall steps, not interpolated."""
    from sklearn.metrics import average_precision_score

    return _per_class(average_precision_score, y_nc, score_nc)


def macro_auroc(y_nc: Bools, score_nc: npt.NDArray[Any]) -> float:
    """Mean of the class AUROCs that are defined; NaN if none is."""
    return float(mean_of_scored(class_auroc(y_nc, score_nc)))


def macro_auprc(y_nc: Bools, score_nc: npt.NDArray[Any]) -> float:
    """Mean of the class average precisions that are defined; NaN if none is."""
    return float(mean_of_scored(class_auprc(y_nc, score_nc)))


def f_max(y_nc: Bools, score_nc: npt.NDArray[Any]) -> float:
    """Best sample-centric F1 over the thresholds 0, 0.01, …, 1, for scores that are probabilities.

    Precision is averaged over the records with a prediction at or above the threshold, recall over all
    records with a label (as in the PTB-XL benchmark, Strodthoff et al., IEEE JBHI 25:1519, 2021).
    """
    y_nc, score_nc = checked(y_nc, score_nc)
    return float(weighted_f_max(y_nc, score_nc, np.ones((1, len(y_nc))))[0])


def weighted_f_max(y_nc: Bools, score_nc: Floats, weight_rn: Floats) -> Floats:
    """The same under each row of weights, (resamples,); 0 where nothing that is said is true."""
    n_true = y_nc.sum(axis=1)
    labelled_r = weight_rn @ (n_true > 0).astype(np.float64)
    best_r = np.zeros(len(weight_rn))
    for threshold in np.linspace(0, 1, 101):
        said_nc = score_nc >= threshold
        hits, n_said = (said_nc & y_nc).sum(axis=1), said_nc.sum(axis=1)
        if not hits.any():
            continue
        precision_r = ratio(weight_rn @ ratio(hits, n_said, 0.0), weight_rn @ (n_said > 0).astype(np.float64), 0.0)
        recall_r = ratio(weight_rn @ ratio(hits, n_true, 0.0), labelled_r, 0.0)
        best_r = np.maximum(best_r, ratio(2 * precision_r * recall_r, precision_r + recall_r, 0.0))
    return best_r


def _per_class(score: Callable[[Bools, Floats], float], y_nc: Bools, score_nc: npt.NDArray[Any]) -> Floats:
    y_nc, score_nc = checked(y_nc, score_nc)
    defined: Bools = np.any(y_nc, axis=0) & ~np.all(y_nc, axis=0)
    return np.array([score(y_nc[:, c], score_nc[:, c]) if defined[c] else np.nan for c in range(y_nc.shape[1])])


def checked(y_nc: Bools, score_nc: npt.NDArray[Any]) -> tuple[Bools, Floats]:
    y_nc, scores = np.asarray(y_nc, dtype=np.bool_), np.asarray(score_nc, dtype=np.float64)
    if y_nc.ndim != 2 or y_nc.shape != scores.shape:
        raise ProtocolError("targets and scores don't fit together", expected=y_nc.shape, got=scores.shape)
    if not np.isfinite(scores).all():
        bad = np.flatnonzero(~np.isfinite(scores).all(axis=1))
        raise ProtocolError("scores must be numbers", where=f"{bad.size} records, the first is number {bad[0]}")
    return y_nc, scores


def mean_of_scored(values: Floats) -> Floats:
    """Mean over the last axis of what is a number; NaN where nothing is."""
    known = np.isfinite(values)
    total, n = np.where(known, values, 0).sum(axis=-1), known.sum(axis=-1)
    return ratio(total, n)


def ratio(top: npt.NDArray[Any], bottom: npt.NDArray[Any], otherwise: float = np.nan) -> Floats:
    """top / bottom, and ``otherwise`` where bottom is not above zero."""
    out = np.full(np.shape(top), otherwise)
    np.divide(top, bottom, out=out, where=bottom > 0)
    return out


def weighted_auroc(y_n: Bools, score_n: Floats, weight_rn: Floats) -> Floats:
    """AUROC of one class under each row of weights, (resamples,); NaN where a side has no weight.

    The chance that a positive scores above a negative, ties counting half: with tied scores as one group g of
    P_g positive and N_g negative weight, Σ P_g (N_below + N_g / 2) / (P N).
    """
    positive_rg, negative_rg = _grouped(y_n, score_n, weight_rn)
    below_rg = np.cumsum(negative_rg, axis=1) - 0.5 * negative_rg
    area = np.einsum("rg,rg->r", positive_rg, below_rg)
    pairs = positive_rg.sum(axis=1) * negative_rg.sum(axis=1)
    return ratio(area, pairs)


def weighted_auprc(y_n: Bools, score_n: Floats, weight_rn: Floats) -> Floats:
    """Average precision of one class under each row of weights, (resamples,); NaN where a side has none."""
    positive_rg, negative_rg = _grouped(y_n, -score_n, weight_rn)
    true_rg = np.cumsum(positive_rg, axis=1)
    said_rg = true_rg + np.cumsum(negative_rg, axis=1)
    precision_rg = np.divide(true_rg, said_rg, out=np.zeros_like(true_rg), where=said_rg > 0)
    area = np.einsum("rg,rg->r", positive_rg, precision_rg)
    positives_r, all_r = true_rg[:, -1], said_rg[:, -1]
    return ratio(area, np.where(all_r > positives_r, positives_r, 0))


def _grouped(y_n: Bools, score_n: Floats, weight_rn: Floats) -> tuple[Floats, Floats]:
    """Positive and negative weight of every group of tied scores, in ascending order of score."""
    order = np.argsort(score_n, kind="stable")
    ranked = score_n[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    weight_rn, y_n = weight_rn[:, order], y_n[order]
    return (
        np.add.reduceat(weight_rn * y_n, starts, axis=1),
        np.add.reduceat(weight_rn * ~y_n, starts, axis=1),
    )


def per_class(
    y_nc: Bools, score_nc: npt.NDArray[Any], classes: Sequence[str], titles: Mapping[str, str] | None = None
) -> dict[str, dict[str, Any]]:
    """AUROC, AUPRC and number of positive records of every class, and its title where one is given."""
    auroc_c, auprc_c = class_auroc(y_nc, score_nc), class_auprc(y_nc, score_nc)
    table: dict[str, dict[str, Any]] = {}
    for c, name in enumerate(classes):
        table[name] = {
            "auroc": float(auroc_c[c]),
            "auprc": float(auprc_c[c]),
            "n_positive": int(y_nc[:, c].sum()),
        }
        if titles and name in titles:
            table[name]["title"] = titles[name]
    return table


def roc_curves(
    y_nc: Bools, score_nc: npt.NDArray[Any], classes: Sequence[str], max_points: int = 200
) -> dict[str, dict[str, list[float]]]:
    """ROC curve of every class that has one, as lists "fpr" and "tpr" thinned to ``max_points``."""
    from sklearn.metrics import roc_curve

    y_nc, scores = checked(y_nc, score_nc)
    curves: dict[str, dict[str, list[float]]] = {}
    for c, name in enumerate(classes):
        if y_nc[:, c].any() and not y_nc[:, c].all():
            fpr, tpr, _ = roc_curve(y_nc[:, c], scores[:, c])
            keep = np.unique(np.linspace(0, len(fpr) - 1, min(max_points, len(fpr))).round().astype(np.int64))
            curves[name] = {"fpr": fpr[keep].round(5).tolist(), "tpr": tpr[keep].round(5).tolist()}
    return curves
