"""Intervals: scores on resamples of patients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ecgtrain.errors import ProtocolError
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
)

Metric = Literal["macro_auroc", "macro_auprc"]


class Interval(NamedTuple):
    """A value and where it would lie if other patients had been drawn."""

    value: float
    low: float
    high: float


_METRICS: dict[Metric, tuple[Callable[..., Floats], Callable[[Bools, Floats, Floats], Floats]]] = {
    "macro_auroc": (class_auroc, weighted_auroc),
    "macro_auprc": (class_auprc, weighted_auprc),
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
    metric: Metric = "macro_auroc",
    *,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Floats:
    """The metric of every class in every resample, (resamples, classes); NaN where it is not defined.

    The same seed and patients give the same resamples, whatever the scores: so two models can be compared.
    """
    y_nc, scores = checked(y_nc, score_nc)
    if len(patient_keys) != len(y_nc) or not len(y_nc):
        raise ProtocolError("one patient key per record is needed", expected=len(y_nc), got=len(patient_keys))
    weighted = _METRICS[metric][1]
    blocks = [
        np.stack([weighted(y_nc[:, c], scores[:, c], weight_rn) for c in range(y_nc.shape[1])], axis=1)
        for weight_rn in resampled_weights(patient_keys, n_resamples, seed)
    ]
    return np.concatenate(blocks)


def bootstrap(
    y_nc: Bools,
    score_nc: npt.NDArray[Any],
    patient_keys: Sequence[str | None],
    metric: Metric = "macro_auroc",
    *,
    n_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """The macro metric with its percentile interval over resamples of patients.

    In a resample where a class lost its positives or negatives, that class is skipped, not the resample: else
    the interval would speak of the lucky resamples only. 1,000 resamples of 2,200 records and 71 classes take
    about five seconds on one core.
    """
    resampled_rc = resampled_classes(y_nc, score_nc, patient_keys, metric, n_resamples=n_resamples, seed=seed)
    return _interval(float(mean_of_scored(_METRICS[metric][0](y_nc, score_nc))), mean_of_scored(resampled_rc), level)


def paired_bootstrap(
    y_nc: Bools,
    score_a_nc: npt.NDArray[Any],
    score_b_nc: npt.NDArray[Any],
    patient_keys: Sequence[str | None],
    metric: Metric = "macro_auroc",
    *,
    n_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """The difference a − b of the macro metric, both taken on the same resamples of patients.

    Much of what varies from one resample to the next is how hard its patients are, which is the same for both
    and cancels: so this interval is the one to judge a difference by, not the overlap of two intervals.
    """
    point = _METRICS[metric][0]
    a_rc, b_rc = (
        resampled_classes(y_nc, score_nc, patient_keys, metric, n_resamples=n_resamples, seed=seed)
        for score_nc in (score_a_nc, score_b_nc)
    )
    value = float(mean_of_scored(point(y_nc, score_a_nc)) - mean_of_scored(point(y_nc, score_b_nc)))
    return _interval(value, mean_of_scored(a_rc) - mean_of_scored(b_rc), level)


def _interval(value: float, resampled_r: Floats, level: float) -> Interval:
    known = resampled_r[np.isfinite(resampled_r)]
    if not known.size:
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))
