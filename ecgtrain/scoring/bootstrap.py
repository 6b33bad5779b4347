"""Intervals: scores on resamples of patients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ecgtrain.errors import ProtocolError
from ecgtrain.scoring.exclusive import (
    weighted_accuracy,
    weighted_balanced_accuracy,
    weighted_brier,
    weighted_macro_f1,
)
from ecgtrain.scoring.metrics import (
    BLOCK,
    Bools,
    Floats,
    checked,
    class_auprc,
    class_auroc,
    mean_of_scored,
    weighted_auprc,
    weighted_auroc,
    weighted_f_max,
)
from ecgtrain.scoring.regression import checked_numbers, weighted_mae, weighted_r2

Macro = Literal["macro_auroc", "macro_auprc"]


class Interval(NamedTuple):
    """A value and where it would lie if other patients had been drawn."""

    value: float
    low: float
    high: float


_MACRO: dict[Macro, tuple[Callable[..., Floats], Callable[[Bools, Floats, Floats], Floats]]] = {
    "macro_auroc": (class_auroc, weighted_auroc),
    "macro_auprc": (class_auprc, weighted_auprc),
}


@dataclass(frozen=True, slots=True)
class Scorer:
    """A metric as the bootstrap needs it: ``weighted(y_nc, score_nc, weight_rn)`` gives (resamples,).

    ``check`` says what targets and scores must be. ``point(y_nc, score_nc)``: the value itself; by default that
    under equal weights.
    """

    weighted: Callable[[Any, Floats, Floats], Floats]
    check: Callable[[Any, Any], tuple[Any, Floats]] = checked
    point: Callable[[Any, Any], float] | None = None


def _macro(metric: Macro) -> Scorer:
    point, weighted = _MACRO[metric]
    return Scorer(
        lambda y_nc, score_nc, weight_rn: mean_of_scored(_of_classes(weighted, y_nc, score_nc, weight_rn)),
        point=lambda y_nc, score_nc: float(mean_of_scored(point(y_nc, score_nc))),
    )


def _of_classes(
    weighted: Callable[[Bools, Floats, Floats], Floats], y_nc: Bools, score_nc: Floats, weight_rn: Floats
) -> Floats:
    return np.stack([weighted(y_nc[:, c], score_nc[:, c], weight_rn) for c in range(y_nc.shape[1])], axis=1)


#: By name; :mod:`ecgtrain.scoring.kinds` says which are of which kind of target.
SCORERS: Mapping[str, Scorer] = {
    **{metric: _macro(metric) for metric in _MACRO},
    "f_max": Scorer(weighted_f_max),
    "accuracy": Scorer(weighted_accuracy),
    "balanced_accuracy": Scorer(weighted_balanced_accuracy),
    "macro_f1": Scorer(weighted_macro_f1),
    "brier": Scorer(weighted_brier),
    "mae": Scorer(weighted_mae, checked_numbers),
    "r2": Scorer(weighted_r2, checked_numbers),
}


def patient_numbers(patient_keys: Sequence[str | None]) -> npt.NDArray[np.int64]:
    """Number the patients 0, 1, …; a record without a key is a patient of its own."""
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(key or (i,), len(numbers)) for i, key in enumerate(patient_keys)], np.int64)


def resampled_weights(
    patient_keys: Sequence[str | None], n_resamples: int, seed: int
) -> Iterator[npt.NDArray[np.float64]]:
    """How often each record is in each resample, in blocks of (resamples, records).

    Patients are drawn with replacement, as many as there are, and bring all of their records: two records of
    one heart are not two independent facts.
    """
    patient_n = patient_numbers(patient_keys)
    n_patients = int(patient_n.max()) + 1
    draw = np.random.Generator(np.random.Philox(seed))
    block = max(1, BLOCK // len(patient_n))
    for begin in range(0, n_resamples, block):
        rows = min(block, n_resamples - begin)
        drawn = draw.integers(0, n_patients, size=(rows, n_patients)) + n_patients * np.arange(rows)[:, None]
        times_rp = np.bincount(drawn.ravel(), minlength=rows * n_patients).reshape(rows, n_patients)
        yield times_rp[:, patient_n].astype(np.float64)


def resampled_classes(
    y_nc: Bools,
    score_nc: npt.NDArray[Any],
    patient_keys: Sequence[str | None],
    metric: Macro = "macro_auroc",
    *,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Floats:
    """The metric of every class in every resample, (resamples, classes); NaN where it is not defined.

    The same seed and patients give the same resamples, whatever the scores: so two models can be compared.
    """
    y_nc, scores = checked(y_nc, score_nc)
    _refuse_other_keys(patient_keys, len(y_nc))
    blocks = resampled_weights(patient_keys, n_resamples, seed)
    return np.concatenate([_of_classes(_MACRO[metric][1], y_nc, scores, weight_rn) for weight_rn in blocks])


def bootstrap(
    y_nc: npt.NDArray[Any],
    score_nc: npt.NDArray[Any],
    patient_keys: Sequence[str | None],
    metric: str | Scorer = "macro_auroc",
    *,
    n_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """The metric with its percentile interval over resamples of patients.

    In a resample where a class lost its positives or negatives, that class is skipped, not the resample: else
    the interval would speak of the lucky resamples only. 1,000 resamples of 2,200 records and 71 classes take
    about five seconds on one core.
    """
    value, resampled_r = resampled(metric, y_nc, score_nc, patient_keys, n_resamples, seed)
    return interval_of(value, resampled_r, level)


def paired_bootstrap(
    y_nc: npt.NDArray[Any],
    score_a_nc: npt.NDArray[Any],
    score_b_nc: npt.NDArray[Any],
    patient_keys: Sequence[str | None],
    metric: str | Scorer = "macro_auroc",
    *,
    n_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """The difference a − b of the metric, both taken on the same resamples of patients.

    Much of what varies from one resample to the next is how hard its patients are, which is the same for both
    and cancels: so this interval is the one to judge a difference by, not the overlap of two intervals.
    """
    (a, a_r), (b, b_r) = (
        resampled(metric, y_nc, score_nc, patient_keys, n_resamples, seed) for score_nc in (score_a_nc, score_b_nc)
    )
    return interval_of(a - b, a_r - b_r, level)


def resampled(
    metric: str | Scorer,
    y_nc: npt.NDArray[Any],
    score_nc: npt.NDArray[Any],
    patient_keys: Sequence[str | None],
    n_resamples: int,
    seed: int,
) -> tuple[float, Floats]:
    """The metric's value, and that in every resample of patients, (resamples,).

    The same seed and patients give the same resamples, whatever the scores: so two models can be compared.
    """
    scorer = SCORERS[metric] if isinstance(metric, str) else metric
    y_nc, scores = scorer.check(y_nc, score_nc)
    _refuse_other_keys(patient_keys, len(y_nc))
    blocks = resampled_weights(patient_keys, n_resamples, seed)
    resampled_r = np.concatenate([scorer.weighted(y_nc, scores, weight_rn) for weight_rn in blocks])
    if scorer.point is not None:
        return scorer.point(y_nc, scores), resampled_r
    return float(scorer.weighted(y_nc, scores, np.ones((1, len(y_nc))))[0]), resampled_r


def _refuse_other_keys(patient_keys: Sequence[str | None], n_records: int) -> None:
    if len(patient_keys) != n_records or not n_records:
        raise ProtocolError("one patient key per record is needed", expected=n_records, got=len(patient_keys))


def interval_of(value: float, resampled_r: Floats, level: float = 0.95) -> Interval:
    """A value with the percentile interval of what it was in resamples; those where it is no number don't count."""
    known = resampled_r[np.isfinite(resampled_r)]
    if not known.size:
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))
