"""Splits keep patients apart; the linear probe finds what is there, and chooses where it may."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from ecgstore import ConfigError
from ecgstore.inner import parse
from ecgtrain.errors import LeakageError, ProtocolError
from ecgtrain.evaluation import linear, protocols
from ecgtrain.evaluation.linear import Linear, logistic_path, ridge_path
from ecgtrain.evaluation.protocols import Context, linear_probe
from ecgtrain.evaluation.protocols.linear_probe import Settings
from ecgtrain.evaluation.splits import GivenFeatures, Split, refuse_overlap, tile_average
from ecgtrain.representation.extract import WindowFeatures
from ecgtrain.scoring import metrics, regression
from ecgtrain.tasks import Targets

N_TILES = 3
CLASSES = ("a", "b")


def split(first_row, n, *, signal=1.0, n_features=6, seed=0, patients=None, scale=1.0, noise=1.0):
    """Records whose first two features carry their two labels, in three windows each."""
    draw = np.random.default_rng([seed, first_row])
    row_r = np.arange(first_row, first_row + n)
    y_rc = draw.random((n, 2)) < 0.4
    y_rc[:2] = [[True, False], [False, True]]
    features = noise * draw.standard_normal((n, N_TILES, n_features))
    features[:, :, :2] += signal * y_rc[:, None]
    keys = patients or [f"p{row}" for row in row_r]
    features_nd = (scale * features.reshape(n * N_TILES, n_features) + 3).astype(np.float32)
    return given(features_nd, np.repeat(row_r, N_TILES), row_r, y_rc, tuple(keys))


def given(features_nd, record_row_n, row_r, y_rc, patient_r):
    return Split(row_r, y_rc, patient_r, GivenFeatures(WindowFeatures(features_nd, record_row_n)))


class Answer(NamedTuple):
    """A fitted probe, and what it says of the test records."""

    fitted: Linear
    y_rc: np.ndarray
    score_rc: np.ndarray


def answer(train, validation, test, settings, classes=CLASSES, seed=0):
    fitted = protocols.fit(train, validation, settings, Context(classes, None, seed), test=test)
    return Answer(fitted, test.y_rc, protocols.scores(fitted, test))


def probe(train=None, validation=None, test=None, seed=0, **settings):
    parts = train or split(0, 200), validation or split(1000, 80), test or split(2000, 150)
    return answer(*parts, Settings(**settings), seed=seed)


def test_the_path_is_scikit_learns_logistic_regression():
    part = split(0, 150, n_features=20)
    x_nd = (part.features_nd - part.features_nd.mean(axis=0)) / part.features_nd.std(axis=0)
    x_nd *= np.geomspace(0.01, 1, 20, dtype=np.float32)  # far from round, as real features are
    fits = list(logistic_path(x_nd, part.y_nc, (0.001, 0.1, 1.0)))
    assert [penalty for penalty, _, _ in fits] == [1.0, 0.1, 0.001]
    for penalty, weight_cd, bias_c in fits:
        for c in range(2):
            reference = LogisticRegression(C=1 / (penalty * len(x_nd)), tol=1e-10, max_iter=10_000)
            reference.fit(x_nd.astype(np.float64), part.y_nc[:, c])
            np.testing.assert_allclose(weight_cd[c], reference.coef_[0], atol=2e-3)
            assert bias_c[c] == pytest.approx(reference.intercept_[0], abs=2e-3)


@pytest.mark.learning
def test_a_planted_signal_is_found_whatever_the_scale_of_features():
    for scale in (1.0, 1e-3, 1e4):
        parts = [split(row, n, scale=scale) for row, n in ((0, 200), (1000, 80), (2000, 150))]
        result = probe(*parts)
        assert metrics.macro_auroc(result.y_rc, result.score_rc) > 0.85, scale
        assert np.abs(result.fitted.weight_cd[0]).argmax() == 0
        assert np.abs(result.fitted.weight_cd[1]).argmax() == 1


@pytest.mark.learning
def test_shuffled_labels_stay_at_chance():
    # One shuffle says little: the direction it finds is random, and these tests lie along a few directions only.
    train = split(0, 200)
    found = []
    for seed in range(40):
        shuffled_rc = np.random.default_rng(seed).permutation(train.y_rc, axis=0)
        shuffled = given(train.features_nd, train.record_row_n, train.row_r, shuffled_rc, train.patient_r)
        result = probe(shuffled, penalties=[0.1])
        found.append(metrics.macro_auroc(result.y_rc, result.score_rc))
    standard_error = np.std(found) / np.sqrt(len(found))
    assert standard_error < 0.03
    assert abs(np.mean(found) - 0.5) < 3 * standard_error


@pytest.mark.learning
def test_the_penalty_is_chosen_on_validation_and_the_test_is_not_looked_at():
    # Two features: one tells the label in training and validation, the other in training and test only.
    # A strong penalty shares the weight between them, a weak one follows the steeper first.
    def part(first_row, n, one, two):
        draw = np.random.default_rng(first_row)
        y_rc = np.arange(n)[:, None] % 2 == 0
        sign_r = np.where(y_rc[:, 0], 1.0, -1.0)
        x_nd = np.c_[one * sign_r, two * sign_r] + draw.standard_normal((n, 2)) * (0.3, 1.0)
        rows = np.arange(first_row, first_row + n)
        return given(x_nd.astype(np.float32), rows, rows, y_rc, tuple(f"p{row}" for row in rows))

    train = part(0, 300, 0.3, 0.8)
    like_one, like_two = part(1000, 200, 0.3, -0.3), part(2000, 200, -0.3, 0.8)
    settings = Settings(penalties=(10.0, 0.001))
    by_one = answer(train, like_one, like_two, settings, ("a",)).fitted
    by_two = answer(train, part(3000, 200, -0.3, 0.8), like_two, settings, ("a",)).fitted
    assert by_one.penalty != by_two.penalty
    # Judged on the very records that contradict its validation, the choice stays.
    for test in (like_two, part(4000, 200, 0.3, 0.8), part(5000, 200, 0.0, 0.0)):
        chosen = answer(train, like_one, test, settings, ("a",)).fitted
        assert chosen.penalty == by_one.penalty
        np.testing.assert_array_equal(chosen.weight_cd, by_one.weight_cd)
    assert dict(by_one.path)[by_one.penalty] == max(dict(by_one.path).values())


def test_a_patient_on_two_sides_is_refused():
    shared = split(2000, 150, patients=["p3", "p7", *(f"q{i}" for i in range(148))])
    with pytest.raises(LeakageError, match=r"2 patients .* training and test; in p3, p7"):
        probe(test=shared)
    with pytest.raises(LeakageError, match="training and validation"):
        probe(validation=split(1000, 80, patients=["p3", *(f"q{i}" for i in range(79))]))
    with pytest.raises(LeakageError, match="validation and test"):
        probe(test=split(2000, 150, patients=["p1000", *(f"q{i}" for i in range(149))]))
    refuse_overlap(["", None, "a"], ["", None, "b"])


def test_windows_are_averaged_per_record_in_order_of_rows():
    score_nc = np.array([[0.2], [1.0], [0.4], [0.5], [0.9]])
    score_rc, row_r = tile_average(score_nc, np.array([9, 4, 9, 4, 9]))
    assert row_r.tolist() == [4, 9]
    np.testing.assert_allclose(score_rc[:, 0], [0.75, 0.5])


@pytest.mark.learning
def test_the_loaded_head_gives_the_reported_scores():
    test = split(2000, 150)
    result = probe(test=test)
    context = Context(CLASSES, SimpleNamespace(backbone=SimpleNamespace(pooled_width=6)))
    loaded = linear_probe.load(result.fitted.arrays(), {}, context)
    np.testing.assert_array_equal(loaded.predict(test), result.score_rc)
    assert loaded.classes == CLASSES
    # Standardising first gives the same: the weights are told on raw features.
    probability_nc = linear.probabilities(loaded.weight_cd, loaded.bias_c, test.features_nd)
    standard_nd = (test.features_nd - loaded.mean_d) / loaded.std_d
    weight_cd = loaded.weight_cd * loaded.std_d
    logits_nc = standard_nd @ weight_cd.T + loaded.bias_c + loaded.weight_cd @ loaded.mean_d
    np.testing.assert_allclose(1 / (1 + np.exp(-logits_nc)), probability_nc, atol=1e-5)


def test_a_dead_feature_is_given_no_say():
    train, test = split(0, 200), split(2000, 150)
    # Not quite constant: what a sum in another order leaves behind.
    train.features_nd[:, 5] = 7.0 + 1e-6 * train.y_nc[:, 0]
    test.features_nd[:, 5] = 1e6
    result = probe(train=train, test=test)
    assert (result.fitted.weight_cd[:, 5] == 0).all()
    assert metrics.macro_auroc(result.y_rc, result.score_rc) > 0.85


def test_a_class_nobody_has_in_training_is_listed_and_constant():
    train = split(0, 200)
    train.y_rc[:, 1] = False
    result = probe(train=train)
    assert result.fitted.unfitted == ("b",)
    assert np.ptp(result.score_rc[:, 1]) == 0
    train.y_rc[:, 0] = True
    with pytest.raises(ProtocolError, match="no class has both"):
        probe(train=train)


def test_without_validation_a_single_penalty_is_needed():
    train, test = split(0, 200), split(2000, 150)
    alone = answer(train, None, test, Settings(penalties=(0.1,))).fitted
    assert (alone.penalty, alone.n_validation, alone.caveats) == (0.1, 0, ())
    assert alone.chosen["penalty"] == 0.1
    with pytest.raises(ProtocolError, match="name a single penalty"):
        answer(train, None, test, Settings())


def test_a_share_of_labels_is_a_share_of_patients_and_nested():
    train = split(0, 60, patients=[f"p{i // 3}" for i in range(60)])
    shares = {share: train.labelled_share(share, seed=5) for share in (0.1, 0.5, 1.0)}
    assert [len(part.row_r) for part in shares.values()] == [6, 30, 60]
    assert set(shares[0.1].row_r) < set(shares[0.5].row_r)
    assert len(set(shares[0.1].patient_r)) == 2
    assert len(shares[0.5].features_nd) == 30 * N_TILES
    other = train.labelled_share(0.5, seed=6)
    assert set(other.row_r) != set(shares[0.5].row_r)
    assert probe(split(0, 400), label_fraction=0.25).fitted.n_train == 100


def test_same_input_same_scores():
    np.testing.assert_array_equal(probe().score_rc, probe().score_rc)


def test_a_split_keeps_labelled_records_and_refuses_what_is_no_number():
    targets = Targets("t", CLASSES, np.array([[1, 0], [0, 0], [0, 1]], dtype=bool), np.array([0, 2]))
    features_nd = np.arange(12, dtype=np.float32).reshape(6, 2)
    rows = np.array([2, 2, 1, 1, 0, 0])
    part = Split.given(features_nd, rows, targets, ["x", "y", ""])
    assert part.row_r.tolist() == [0, 2]
    assert part.patient_r == ("x", "")
    np.testing.assert_array_equal(part.y_nc, [[0, 1], [0, 1], [1, 0], [1, 0]])
    features_nd[0, 0] = np.nan
    with pytest.raises(ProtocolError, match="at row 2"):
        _ = Split.given(features_nd, rows, targets, ["x", "y", ""]).pooled
    with pytest.raises(ProtocolError, match="no record of a split has a label"):
        Split.given(features_nd[2:4], rows[2:4], targets, ["x", "y", ""])


def test_settings_refuse_what_makes_no_sense():
    for wrong in (
        {"penalties": []},
        {"penalties": [0]},
        {"label_fraction": 0},
        {"label_fraction": 1.5},
        {"penalty": 1},
    ):
        with pytest.raises(ConfigError):
            parse(Settings, wrong)


def of_kind(kind, first_row, n, seed=0):
    """Records whose first three features tell their class, or whose sum tells their number."""
    draw = np.random.default_rng([seed, first_row])
    features = draw.standard_normal((n, N_TILES, 6))
    if kind == "exclusive":
        y_rc = np.eye(3, dtype=bool)[np.arange(n) % 3]
        features[:, :, :3] += 1.5 * y_rc[:, None]
    else:
        y_rc = 60 + 15 * draw.standard_normal((n, 1))
        features[:, :, :2] += (y_rc[:, None] - 60) / 15
    rows = np.arange(first_row, first_row + n)
    windows = WindowFeatures((features.reshape(-1, 6) + 3).astype(np.float32), np.repeat(rows, N_TILES))
    return Split(rows, y_rc, tuple(f"p{row}" for row in rows), GivenFeatures(windows), kind)


def answer_of_kind(kind, train=None, **settings):
    train = train or of_kind(kind, 0, 200)
    context = Context(("a", "b", "c")[: train.y_rc.shape[1]], None, kind=kind)
    test = of_kind(kind, 2000, 150)
    fitted = protocols.fit(train, of_kind(kind, 1000, 80), Settings(**settings), context, test=test)
    return Answer(fitted, test.y_rc, protocols.scores(fitted, test))


def test_one_of_several_classes_is_scikit_learns_multinomial_regression():
    part = of_kind("exclusive", 0, 150)
    x_nd = (part.features_nd - part.features_nd.mean(axis=0)) / part.features_nd.std(axis=0)
    for penalty, weight_cd, bias_c in logistic_path(x_nd, part.y_nc, (0.01, 1.0), exclusive=True):
        theirs = LogisticRegression(C=1 / (penalty * len(x_nd)), tol=1e-8, max_iter=2000)
        theirs.fit(x_nd, part.y_nc.argmax(axis=1))
        np.testing.assert_allclose(weight_cd, theirs.coef_, atol=2e-3)
        # What is added to all biases alike changes no probability.
        np.testing.assert_allclose(bias_c - bias_c.mean(), theirs.intercept_ - theirs.intercept_.mean(), atol=2e-3)


def test_numbers_are_scikit_learns_ridge_regression():
    part = of_kind("regression", 0, 150)
    y_nc = part.y_nc.astype(np.float32)
    for penalty, weight_cd, bias_c in ridge_path(part.features_nd, y_nc, (0.01, 1.0)):
        theirs = Ridge(alpha=penalty * len(y_nc)).fit(part.features_nd.astype(np.float64), y_nc)
        np.testing.assert_allclose(weight_cd[0], theirs.coef_, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(bias_c, theirs.intercept_, rtol=1e-3)


@pytest.mark.learning
def test_classes_that_exclude_each_other_share_out_their_probability():
    found = answer_of_kind("exclusive", penalties=(1.0, 0.1, 0.01))
    np.testing.assert_allclose(found.score_rc.sum(axis=1), 1, atol=1e-5)
    assert (found.score_rc.argmax(axis=1) == found.y_rc.argmax(axis=1)).mean() > 0.85
    assert found.fitted.penalty == max(found.fitted.path, key=lambda point: point.validation_merit).penalty


@pytest.mark.learning
def test_numbers_come_back_in_their_unit_and_load_as_such():
    found = answer_of_kind("regression")
    assert regression.r2(found.y_rc, found.score_rc) > 0.6
    assert abs(found.score_rc.mean() - 60) < 3
    context = Context(("a",), SimpleNamespace(backbone=SimpleNamespace(pooled_width=6)), kind="regression")
    loaded = linear_probe.load(found.fitted.arrays(), {}, context)
    np.testing.assert_array_equal(loaded.predict(of_kind("regression", 2000, 150)), found.score_rc)


@pytest.mark.learning
@pytest.mark.parametrize("kind", ["exclusive", "regression"])
def test_shuffled_targets_give_chance(kind):
    # Of a few records, chance alone would tell something.
    train = of_kind(kind, 10_000, 3000 if kind == "regression" else 400)
    shuffled = np.random.default_rng(4).permutation(train.y_rc)
    found = answer_of_kind(kind, replace(train, y_rc=shuffled), penalties=(1.0, 0.01))
    if kind == "regression":
        assert regression.r2(found.y_rc, found.score_rc) < 0.15
    else:
        assert (found.score_rc.argmax(axis=1) == found.y_rc.argmax(axis=1)).mean() < 0.6


def test_a_protocol_learns_the_kinds_that_it_names(monkeypatch):
    monkeypatch.delattr(linear_probe, "KINDS")
    with pytest.raises(
        ProtocolError, match="linear_probe can't learn a task of the kind regression; expected multilabel"
    ):
        answer_of_kind("regression")
    with pytest.raises(ProtocolError, match="exclusive"):
        protocols.check(of_kind("exclusive", 0, 9), None, Settings(penalties=(1.0,)), 0)


def test_numbers_that_are_all_the_same_are_refused_before_training():
    train = of_kind("regression", 0, 20)
    train.y_rc[:] = 7.0
    with pytest.raises(ProtocolError, match="the same value"):
        protocols.check(train, None, Settings(penalties=(1.0,)), 0)
    with pytest.raises(ProtocolError, match="no validation record has a label"):
        protocols.check(of_kind("regression", 0, 20), None, Settings(), 0)
