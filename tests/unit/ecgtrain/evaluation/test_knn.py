"""Votes of the nearest training windows: their equation, a planted signal, what is refused."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from planted import over_shuffles, split

from ecgtrain.errors import CheckpointError
from ecgtrain.evaluation.protocols import Context, knn
from ecgtrain.evaluation.splits import tile_average
from ecgtrain.scoring import metrics

CONTEXT = Context(("a", "b"), SimpleNamespace(backbone=SimpleNamespace(pooled_width=4)))


def test_the_votes_are_those_of_the_equation():
    train, test = split(0, 30), split(1000, 5)
    made = knn.fit(train, None, knn.Settings(neighbours=(7,), temperature=0.2), CONTEXT)
    mean, std = train.features_nd.mean(axis=0), train.features_nd.std(axis=0)

    def unit(x_d):
        z_d = (x_d.astype(np.float64) - mean) / std
        return z_d / np.sqrt((z_d**2).sum())

    votes = []
    for x_d in test.features_nd:
        similar = [float(unit(x_d) @ unit(other_d)) for other_d in train.features_nd]
        nearest = sorted(range(len(similar)), key=lambda i: -similar[i])[:7]
        weights = [np.exp(similar[i] / 0.2) for i in nearest]
        votes.append(sum(w * train.y_nc[i] for w, i in zip(weights, nearest, strict=True)) / sum(weights))
    np.testing.assert_allclose(made.predict(test), tile_average(np.array(votes), test.record_row_n)[0], atol=1e-5)


def test_a_planted_signal_is_found_and_shuffled_labels_are_at_chance():
    train, validation, test = split(0, 200), split(1000, 80), split(2000, 150)
    made = knn.fit(train, validation, knn.Settings(), CONTEXT)
    assert metrics.macro_auroc(test.y_rc, made.predict(test)) > 0.9
    assert made.chosen["neighbours"] == max(made.chosen["neighbours_path"], key=lambda one: one[1])[0]
    settings = knn.Settings(neighbours=(30,))
    found = over_shuffles(lambda shuffled: knn.fit(shuffled, None, settings, CONTEXT), train, test, metrics.macro_auroc)
    assert abs(np.mean(found) - 0.5) < 4 * np.std(found) / np.sqrt(len(found)) + 0.01


def test_what_is_loaded_is_checked():
    train, test = split(0, 50), split(2000, 20)
    train.features_nd[:, 3] = 2.0  # a dead feature stays one
    test.features_nd[:, 3] = 1e6
    made = knn.fit(train, split(1000, 20), knn.Settings(), CONTEXT)
    again = knn.load(made.arrays(), made.about(), CONTEXT)
    np.testing.assert_array_equal(again.predict(test), made.predict(test))
    for wrong in ({"bank": made.bank_nd[1:]}, {"targets": made.y_nc[:, :1]}, {"more": made.mean_d}):
        with pytest.raises(CheckpointError):
            knn.load({**made.arrays(), **wrong}, made.about(), CONTEXT)
    with pytest.raises(ValueError, match="neighbours"):
        knn.load(made.arrays(), {**made.about(), "neighbours": 0}, CONTEXT)
