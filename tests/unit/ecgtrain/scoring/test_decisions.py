"""Thresholds and what they lead to, against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from quickly import quickly
from sklearn.metrics import brier_score_loss, confusion_matrix, f1_score, precision_score, recall_score

from ecgtrain.errors import ProtocolError
from ecgtrain.scoring.decisions import FIGURES, brier, choose_thresholds, decide, decide_for_one, reliability


@pytest.fixture
def scored():
    """300 records of two findings, scored in steps of 0.05, so that scores tie; and 150 patients."""
    draw = np.random.default_rng(0)
    y_nc = draw.random((300, 2)) < [0.3, 0.05]
    y_nc[0] = True
    probability_nc = np.clip(np.round((0.3 * y_nc + draw.random((300, 2)) * 0.7) * 20) / 20, 0, 1)
    return y_nc, probability_nc, [str(i // 2) for i in range(300)]


@pytest.mark.parametrize("rule", quickly(["f1", "youden"], "f1"))
def test_no_other_threshold_does_better(scored, rule):
    y_nc, probability_nc, _ = scored

    def worth(c, threshold):
        said = probability_nc[:, c] >= threshold
        if rule == "f1":
            return f1_score(y_nc[:, c], said, zero_division=0)
        return recall_score(y_nc[:, c], said) + recall_score(~y_nc[:, c], ~said) - 1

    for c, threshold in enumerate(choose_thresholds(y_nc, probability_nc, rule)):
        best = max(worth(c, one) for one in np.arange(-0.01, 1.02, 0.01))
        assert worth(c, threshold) == pytest.approx(best)
        assert threshold not in probability_nc[:, c] or threshold == probability_nc[:, c].min()


def test_decisions_are_counted_as_scikit_learn_counts_them(scored):
    y_nc, probability_nc, patients = scored
    thresholds = np.array([0.33, 0.61])
    for c, decided in enumerate(decide(y_nc, probability_nc, thresholds, patients, n_resamples=50)):
        said = probability_nc[:, c] >= thresholds[c]
        silent, false_alarms, misses, hits = confusion_matrix(y_nc[:, c], said).ravel().tolist()
        assert decided[:5] == (thresholds[c], hits, misses, false_alarms, silent)
        figures = {name: interval.value for name, interval in decided.figures.items()}
        assert figures == pytest.approx(
            {
                "sensitivity": recall_score(y_nc[:, c], said),
                "specificity": recall_score(~y_nc[:, c], ~said),
                "ppv": precision_score(y_nc[:, c], said),
                "npv": precision_score(~y_nc[:, c], ~said),
                "f1": f1_score(y_nc[:, c], said),
            }
        )
        for interval in decided.figures.values():
            assert interval.low <= interval.value <= interval.high


def test_of_classes_that_exclude_each_other_the_likeliest_is_said():
    draw = np.random.default_rng(3)
    true = draw.integers(0, 3, 200)
    y_nc = np.eye(4, dtype=bool)[true]  # nobody is of the fourth class, and nothing is said of it
    probability_nc = draw.random((200, 4)) * [1, 1, 1, 0] + 0.3 * y_nc
    said = probability_nc.argmax(axis=1)
    for c, decided in enumerate(decide_for_one(y_nc, probability_nc, [str(i) for i in range(200)], n_resamples=50)):
        counts = confusion_matrix(true == c, said == c, labels=[False, True]).ravel().tolist()
        assert np.isnan(decided.threshold)
        assert [decided.n_rightly_silent, decided.n_false_alarms, decided.n_misses, decided.n_hits] == counts
        assert tuple(decided.figures) == FIGURES
        if c < 3:
            assert decided.figures["sensitivity"].value == pytest.approx(recall_score(true == c, said == c))
            assert decided.figures["ppv"].value == pytest.approx(precision_score(true == c, said == c))
            assert all(one.low <= one.value <= one.high for one in decided.figures.values())
        else:
            assert np.isnan(decided.figures["sensitivity"].value)


def test_records_of_one_patient_are_drawn_together(scored):
    """Each record twice, as one patient's: the intervals are those of the patients, not of twice as many."""
    y_nc, probability_nc, _ = scored
    single = [str(i) for i in range(300)]
    thresholds = np.array([0.4, 0.4])
    once = decide(y_nc, probability_nc, thresholds, single)
    twice = decide(np.tile(y_nc, (2, 1)), np.tile(probability_nc, (2, 1)), thresholds, single * 2)
    for one, other in zip(once, twice, strict=True):
        assert one.figures == other.figures


def test_what_cannot_be_decided_is_said(scored):
    y_nc, probability_nc, patients = scored
    y_nc[:, 1] = False
    thresholds = choose_thresholds(y_nc, probability_nc)
    assert np.isnan(thresholds).tolist() == [False, True]
    assert decide(y_nc, probability_nc, thresholds, patients, n_resamples=20)[1] is None
    silent = decide(y_nc, probability_nc, np.array([0.5, 2.0]), patients, n_resamples=20)[1]
    assert np.isnan(silent.figures["sensitivity"].value)
    assert np.isnan(silent.figures["ppv"].value)
    assert silent.figures["specificity"] == (1, 1, 1)
    with pytest.raises(ProtocolError, match="one threshold per class"):
        decide(y_nc, probability_nc, np.array([0.5]), patients)


def test_brier_is_that_of_scikit_learn(scored):
    y_nc, probability_nc, _ = scored
    expected = [brier_score_loss(y_nc[:, c], probability_nc[:, c]) for c in range(2)]
    np.testing.assert_allclose(brier(y_nc, probability_nc), expected)


def test_reliability_of_honest_and_of_boasting_probabilities():
    draw = np.random.default_rng(1)
    honest = draw.random(20_000)
    y = draw.random(20_000) < honest
    found = reliability(y, honest)
    assert found.n_records == (2000,) * 10
    np.testing.assert_allclose(found.mean_said, found.share_stated, atol=0.06)
    boasting = reliability(y, np.sqrt(honest))
    assert all(said > stated for said, stated in zip(boasting.mean_said, boasting.share_stated, strict=True))
    assert reliability(y[:3], honest[:3]).n_records == (1, 1, 1)
