"""Scores equal scikit-learn's; intervals come from patients, not from records."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from ecgtrain.errors import ProtocolError
from ecgtrain.scoring import metrics
from ecgtrain.scoring.bootstrap import (
    bootstrap,
    paired_bootstrap,
    patient_numbers,
    resampled_classes,
    resampled_weights,
)


def drawn(n=300, n_classes=4, signal=1.0, seed=0):
    draw = np.random.default_rng(seed)
    y_nc = draw.random((n, n_classes)) < 0.3
    return y_nc, draw.standard_normal((n, n_classes)) + signal * y_nc


@pytest.mark.parametrize("levels", [None, 7, 2, 1])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(metrics.weighted_auroc, roc_auc_score), (metrics.weighted_auprc, average_precision_score)],
)
def test_the_fast_formula_is_scikit_learns_ties_and_weights_included(ours, theirs, levels):
    draw = np.random.default_rng(1)
    y_n = draw.random(200) < 0.3
    score_n = draw.random(200) + 0.3 * y_n
    if levels:
        score_n = np.floor(score_n * levels / 1.3)
    weight_rn = np.stack([np.ones(200), *draw.integers(0, 4, (5, 200)), draw.random(200)]).astype(np.float64)
    expected = [theirs(y_n, score_n, sample_weight=weight_n) for weight_n in weight_rn]
    np.testing.assert_allclose(ours(y_n, score_n, weight_rn), expected, rtol=0, atol=1e-12)


def test_macro_scores_are_means_of_the_classes_that_are_defined():
    y_nc, score_nc = drawn()
    expected = np.mean([roc_auc_score(y_nc[:, c], score_nc[:, c]) for c in range(4)])
    assert metrics.macro_auroc(y_nc, score_nc) == pytest.approx(expected, abs=1e-12)
    nobody = np.c_[y_nc, np.zeros(300, dtype=bool)]
    assert metrics.macro_auroc(nobody, np.c_[score_nc, score_nc[:, 0]]) == pytest.approx(expected, abs=1e-12)
    assert np.isnan(metrics.macro_auprc(np.zeros((5, 1), dtype=bool), np.zeros((5, 1))))


def test_the_interval_lies_around_the_value_and_is_reproducible():
    y_nc, score_nc = drawn()
    keys = [str(i) for i in range(300)]
    one = bootstrap(y_nc, score_nc, keys, n_resamples=200, seed=3)
    assert one.low < one.value < one.high
    assert one.value == metrics.macro_auroc(y_nc, score_nc)
    assert one == bootstrap(y_nc, score_nc, keys, n_resamples=200, seed=3)
    assert one != bootstrap(y_nc, score_nc, keys, n_resamples=200, seed=4)


def test_patients_are_drawn_whole():
    # Forty patients with ten identical records each: as much is known as from forty records, not four hundred.
    y_pc, score_pc = drawn(40, 1)
    y_nc, score_nc = np.repeat(y_pc, 10, axis=0), np.repeat(score_pc, 10, axis=0)
    keys = [str(i // 10) for i in range(400)]
    of_patients = bootstrap(y_nc, score_nc, keys, seed=0)
    of_one_each = bootstrap(y_pc, score_pc, [str(i) for i in range(40)], seed=0)
    of_records = bootstrap(y_nc, score_nc, [str(i) for i in range(400)], seed=0)
    assert (of_patients.low, of_patients.high) == pytest.approx((of_one_each.low, of_one_each.high), abs=1e-12)
    assert of_records.high - of_records.low < 0.6 * (of_patients.high - of_patients.low)
    for weight_rn in resampled_weights(keys, 50, seed=0):
        assert (weight_rn.reshape(50, 40, 10) == weight_rn.reshape(50, 40, 10)[:, :, :1]).all()
        assert (weight_rn.sum(axis=1) == 400).all()


def test_a_record_without_a_patient_is_a_patient_of_its_own():
    assert patient_numbers(["a", None, "a", "", None, "b"]).tolist() == [0, 1, 0, 2, 3, 4]


def test_a_rare_class_is_skipped_where_a_resample_lost_it():
    y_nc, score_nc = drawn(60, 2)
    y_nc[:, 1] = False
    y_nc[7, 1] = True
    resampled_rc = resampled_classes(y_nc, score_nc, [""] * 60, n_resamples=300)
    lost = np.isnan(resampled_rc[:, 1])
    assert 0.25 < lost.mean() < 0.5  # (1 - 1/60)^60 = 0.36
    assert not np.isnan(resampled_rc[:, 0]).any()
    assert np.isfinite(bootstrap(y_nc, score_nc, [""] * 60)).all()


def test_the_paired_interval_sees_a_small_difference_that_two_intervals_hide():
    draw = np.random.default_rng(5)
    y_nc, score_b_nc = drawn(400, 2, signal=1.0, seed=5)
    score_a_nc = score_b_nc + 0.15 * y_nc + 0.02 * draw.standard_normal((400, 2))
    keys = [str(i) for i in range(400)]
    difference = paired_bootstrap(y_nc, score_a_nc, score_b_nc, keys, seed=1)
    a, b = (bootstrap(y_nc, score, keys, seed=1) for score in (score_a_nc, score_b_nc))
    assert difference.value == pytest.approx(a.value - b.value, abs=1e-12)
    assert 0 < difference.low < difference.high
    assert a.low < b.high, "the two intervals overlap"
    swapped = paired_bootstrap(y_nc, score_b_nc, score_a_nc, keys, seed=1)
    assert swapped.low == pytest.approx(-difference.high, abs=1e-12)


def test_shuffled_labels_stay_at_chance():
    y_nc, score_nc = drawn(500, 3, signal=2.0)
    shuffled_nc = np.random.default_rng(0).permutation(y_nc, axis=0)
    interval = bootstrap(shuffled_nc, score_nc, [""] * 500)
    assert interval.low < 0.5 < interval.high
    assert metrics.macro_auroc(y_nc, score_nc) > 0.9


def test_f_max_by_hand():
    y_nc = np.array([[1, 0], [0, 1], [1, 1]], dtype=bool)
    score_nc = np.array([[0.9, 0.2], [0.6, 0.4], [0.8, 0.1]])
    # At 0.2 to 0.4: record 0 says {0, 1} then {0}; the best is threshold 0.21 to 0.4:
    # precision (1 + 1/2 + 1)/3, recall (1 + 1 + 1/2)/3.
    assert metrics.f_max(y_nc, score_nc) == pytest.approx(2.5 / 3)
    assert metrics.f_max(y_nc, y_nc.astype(float)) == 1


def test_scores_that_are_no_numbers_and_wrong_shapes_are_refused():
    y_nc, score_nc = drawn(10)
    score_nc[3, 1] = np.nan
    with pytest.raises(ProtocolError, match="number 3"):
        metrics.macro_auroc(y_nc, score_nc)
    with pytest.raises(ProtocolError, match="don't fit together"):
        metrics.macro_auroc(y_nc, score_nc[:, :2])
    with pytest.raises(ProtocolError, match="one patient key per record"):
        bootstrap(y_nc, np.zeros((10, 4)), ["a"])


def test_roc_curves_are_thinned_but_whole():
    y_nc, score_nc = drawn(2000, 2)
    curves = metrics.roc_curves(y_nc, score_nc, ("a", "b"), max_points=50)
    assert set(curves) == {"a", "b"}
    fpr, tpr = curves["a"]["fpr"], curves["a"]["tpr"]
    assert len(fpr) == len(tpr) <= 50
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(tpr, fpr) == pytest.approx(roc_auc_score(y_nc[:, 0], score_nc[:, 0]), abs=0.01)


def test_the_area_of_a_class_is_scikit_learns_to_the_bit():
    draw = np.random.default_rng(1)
    for n_records in (3, 50, 300):
        y_nc, score_nc = draw.random((n_records, 2)) < 0.4, draw.integers(0, 20, (n_records, 2)) / 20
        y_nc[0], y_nc[1] = True, False
        expected = [roc_auc_score(y_nc[:, c], score_nc[:, c]) for c in range(2)]
        assert metrics.class_auroc(y_nc, score_nc).tolist() == expected
