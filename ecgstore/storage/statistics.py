"""Mean and standard deviation per lead, out of the exact integer sums that a store carries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ecgstore.storage import layout


@dataclass(frozen=True, slots=True, eq=False)
class LeadStatistics:
    """Of each lead over its recorded samples, shape (leads,): ``mean_mv_l`` and ``std_mv_l`` in mV, ``n_l`` samples.

    A lead without a sample has NaN, and 0 samples.
    """

    mean_mv_l: npt.NDArray[np.float64]
    std_mv_l: npt.NDArray[np.float64]
    n_l: npt.NDArray[np.int64]


def statistics_of(
    by_fold: Mapping[str, Mapping[str, list[int]]], n_leads: int, folds: Iterable[int] | None
) -> LeadStatistics:
    """Of the records in ``folds``, None for all; ``by_fold`` are the sums of each fold."""
    # A fold that is named twice is there once.
    asked = by_fold if folds is None else dict.fromkeys(str(fold) for fold in folds)
    keys = [key for key in asked if key in by_fold]
    n, total, squares = (
        [sum(by_fold[key][name][lead] for key in keys) for lead in range(n_leads)]
        for name in ("n", "sum_counts", "sum_squared_counts")
    )
    mean_l, std_l = np.full(n_leads, np.nan), np.full(n_leads, np.nan)
    for lead, (count, first, second) in enumerate(zip(n, total, squares, strict=True)):
        if count:
            mean_l[lead] = first / count
            # Integers until the last step: no cancellation, however long the store.
            std_l[lead] = ((second * count - first * first) / count**2) ** 0.5
    return LeadStatistics(mean_l / layout.COUNTS_PER_MV, std_l / layout.COUNTS_PER_MV, np.asarray(n, dtype=np.int64))
