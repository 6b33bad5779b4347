"""Each kind of target: its metrics against scikit-learn, its loss and its link against PyTorch; chance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics as theirs
from torch.nn import functional

from ecgtrain.errors import ProtocolError
from ecgtrain.scoring import exclusive, kinds, metrics, regression
from ecgtrain.scoring.bootstrap import SCORERS, bootstrap, paired_bootstrap

N = 120


def classes(n=N, n_classes=4, seed=0, told=1.0):
    draw = np.random.default_rng(seed)
    of = draw.integers(0, n_classes, n)
    y_nc = np.eye(n_classes, dtype=bool)[of]
    logits_nc = told * y_nc + draw.standard_normal((n, n_classes))
    return y_nc, np.exp(logits_nc) / np.exp(logits_nc).sum(axis=1, keepdims=True)


def numbers(n=N, seed=0):
    draw = np.random.default_rng(seed)
    y_n = 60 + 15 * draw.standard_normal(n)
    return y_n[:, None], (0.6 * (y_n - 60) + 62 + 8 * draw.standard_normal(n))[:, None]


def of_scikit_learn(name, y_nc, score_nc):
    if name in ("mae", "r2"):
        score = theirs.mean_absolute_error if name == "mae" else theirs.r2_score
        return score(y_nc[:, 0], score_nc[:, 0])
    true, said = y_nc.argmax(axis=1), score_nc.argmax(axis=1)
    match name:
        case "accuracy":
            return theirs.accuracy_score(true, said)
        case "balanced_accuracy":
            return theirs.balanced_accuracy_score(true, said)
        case "brier":
            return ((score_nc - y_nc) ** 2).sum(axis=1).mean()
    return theirs.f1_score(true, said, average="macro")


@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy", "macro_f1", "brier", "mae", "r2"])
def test_values_and_every_resample_are_scikit_learns(name):
    y_nc, score_nc = numbers() if name in ("mae", "r2") else classes()
    found = bootstrap(y_nc, score_nc, [""] * N, name, n_resamples=60)
    assert found.value == pytest.approx(of_scikit_learn(name, y_nc, score_nc), abs=1e-12)
    assert found.low < found.value < found.high
    draw = np.random.default_rng(1)
    weight_rn = draw.multinomial(N, np.full(N, 1 / N), size=8).astype(float)
    for weights, value in zip(weight_rn, SCORERS[name].weighted(y_nc, score_nc, weight_rn), strict=True):
        rows = np.repeat(np.arange(N), weights.astype(int))
        assert value == pytest.approx(of_scikit_learn(name, y_nc[rows], score_nc[rows]), abs=1e-10)


def test_f_max_is_the_same_under_weights_and_without():
    draw = np.random.default_rng(2)
    y_nc = draw.random((50, 6)) < 0.3
    score_nc = np.clip(0.5 * y_nc + 0.5 * draw.random(y_nc.shape), 0, 1)
    weights = draw.integers(0, 3, 50)
    rows = np.repeat(np.arange(50), weights)
    found = metrics.weighted_f_max(y_nc, score_nc, weights[None].astype(float))[0]
    assert found == pytest.approx(metrics.f_max(y_nc[rows], score_nc[rows]), abs=1e-12)


def test_confusion_counts_what_is_said_of_what():
    y_nc, score_nc = classes()
    expected = theirs.confusion_matrix(y_nc.argmax(axis=1), score_nc.argmax(axis=1))
    np.testing.assert_array_equal(exclusive.confusion(y_nc, score_nc), expected)
    assert exclusive.log_likelihood(y_nc, score_nc) == pytest.approx(-theirs.log_loss(y_nc.argmax(axis=1), score_nc))
    assert np.isfinite(exclusive.log_likelihood(y_nc, 1.0 - y_nc))


def test_agreement_is_bland_and_altmans():
    y_nc, score_nc = numbers()
    difference = (score_nc - y_nc)[:, 0]
    found = regression.agreement(y_nc[:, 0], score_nc[:, 0])
    assert found.bias == pytest.approx(difference.mean())
    assert (found.low, found.high) == pytest.approx(
        tuple(difference.mean() + side * 1.96 * difference.std(ddof=1) for side in (-1, 1))
    )
    slope = np.polyfit((score_nc + y_nc)[:, 0] / 2, difference, 1)[0]
    assert found.slope == pytest.approx(slope)
    assert regression.agreement(y_nc[:, 0], y_nc[:, 0]) == pytest.approx((0, 0, 0, 0))


def test_numbers_far_from_zero_lose_no_digits_and_equal_ones_have_no_r2():
    y_nc, score_nc = numbers()
    assert regression.r2(y_nc + 1e7, score_nc + 1e7) == pytest.approx(regression.r2(y_nc, score_nc), abs=1e-6)
    assert np.isnan(regression.r2(np.full((9, 1), 0.1), np.zeros((9, 1))))
    with pytest.raises(ProtocolError, match="targets must be numbers"):
        regression.mae(np.full((3, 1), np.nan), np.zeros((3, 1)))
    with pytest.raises(ProtocolError, match="don't fit together"):
        regression.mae(np.zeros((3, 1)), np.zeros((3, 2)))


@pytest.mark.parametrize("kind", ["multilabel", "exclusive", "regression"])
def test_loss_and_link_are_a_pair(kind):
    draw = torch.Generator().manual_seed(0)
    outputs_bc = torch.randn(7, 3, generator=draw)
    targets_bc = torch.eye(3)[[0, 1, 2, 0, 1, 2, 0]]
    expected = {
        "multilabel": (functional.binary_cross_entropy_with_logits(outputs_bc, targets_bc), outputs_bc.sigmoid()),
        "exclusive": (functional.cross_entropy(outputs_bc, targets_bc.argmax(dim=1)), outputs_bc.softmax(dim=1)),
        "regression": (((outputs_bc - targets_bc) ** 2).mean(), outputs_bc),
    }[kind]
    torch.testing.assert_close(kinds.loss(kind, outputs_bc, targets_bc), expected[0])
    torch.testing.assert_close(kinds.link(kind, outputs_bc), expected[1])
    assert kinds.headline(kind) == kinds.METRICS[kind][0]
    assert set(kinds.METRICS[kind]) <= set(SCORERS)


def test_numbers_are_standardised_and_brought_back():
    y_nc, _ = numbers()
    scale = kinds.scale_of("regression", y_nc)
    down_nc = scale.down(y_nc)
    assert down_nc.dtype == np.float32
    assert (down_nc.mean(), down_nc.std()) == pytest.approx((0, 1), abs=1e-5)
    back_nc = kinds.link("regression", torch.from_numpy(down_nc).double(), scale).numpy()
    np.testing.assert_allclose(back_nc, y_nc, atol=1e-4)
    np.testing.assert_array_equal(kinds.scale_of("exclusive", np.eye(3)).down(np.eye(3)), np.eye(3))
    with pytest.raises(ProtocolError, match="the same value"):
        kinds.scale_of("regression", np.full((5, 1), 7.0))


def test_what_is_chosen_by_prefers_the_better_answer():
    for kind, (y_nc, good_nc), bad_nc in (
        ("exclusive", classes(told=3.0), classes(told=0.0)[1]),
        ("multilabel", classes(told=3.0), classes(told=0.0)[1]),
        ("regression", numbers(), np.full((N, 1), 60.0)),
    ):
        assert kinds.merit(kind, y_nc, good_nc) > kinds.merit(kind, y_nc, bad_nc), kind


def test_shuffled_labels_give_chance():
    y_nc, score_nc = classes(n=2000, told=2.0)
    shuffled_nc = np.random.default_rng(9).permutation(y_nc)
    assert abs(bootstrap(shuffled_nc, score_nc, [""] * 2000, "accuracy", n_resamples=2).value - 0.25) < 0.06
    known_nc, said_nc = numbers(n=2000)
    shuffled_nc = np.random.default_rng(9).permutation(known_nc)
    assert regression.r2(shuffled_nc, said_nc) < 0.05
    better = paired_bootstrap(known_nc, said_nc, np.full_like(said_nc, 60.0), [""] * 2000, "mae", n_resamples=100)
    assert better.high < 0, "less is better"
