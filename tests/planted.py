"""Splits whose features carry their labels: for protocols that look at pooled features."""

from __future__ import annotations

import numpy as np

from ecgtrain.evaluation.splits import GivenFeatures, Split
from ecgtrain.representation.extract import WindowFeatures


def split(first_row, n, *, signal=3.0, seed=0):
    """Records of two windows each, whose first two features carry their two labels."""
    draw = np.random.default_rng([seed, first_row])
    row_r = np.arange(first_row, first_row + n)
    y_rc = draw.random((n, 2)) < 0.4
    y_rc[:2] = [[True, False], [False, True]]
    features_rnd = draw.standard_normal((n, 2, 4))
    features_rnd[:, :, :2] += signal * y_rc[:, None]
    windows = WindowFeatures((5 * features_rnd.reshape(2 * n, 4) + 7).astype(np.float32), np.repeat(row_r, 2))
    return Split(row_r, y_rc, tuple(f"p{row}" for row in row_r), GivenFeatures(windows))


def over_shuffles(fit, train, test, score, n=20):
    """``score`` on ``test`` of what ``fit`` makes of ``train`` with its labels shuffled, ``n`` times."""
    found = []
    for seed in range(n):
        y_rc = np.random.default_rng(seed).permutation(train.y_rc, axis=0)
        made = fit(Split(train.row_r, y_rc, train.patient_r, train.windows))
        found.append(score(test.y_rc, made.predict(test)))
    return np.array(found)
