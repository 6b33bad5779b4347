"""Scores of places: by hand where it is easy, against scikit-learn where it has them, and as a metric must be."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from ecgstore.inner import reference_heart
from ecgtrain.evaluation import placed
from ecgtrain.scoring import exclusive, places
from ecgtrain.scoring.bootstrap import bootstrap
from ecgtrain.tasks import Places

ONCE = np.ones((1, 6))
Y = np.eye(3, dtype=bool)[[0, 0, 0, 0, 1, 2]]
SAID = np.eye(3)[[0, 0, 1, 2, 1, 0]]


def test_balanced_accuracy_is_scikit_learns() -> None:
    draw = np.random.default_rng(0)
    for _ in range(5):
        of, said = draw.integers(0, 4, 60), draw.integers(0, 4, 60)
        found = exclusive.weighted_balanced_accuracy(np.eye(4, dtype=bool)[of], np.eye(4)[said], np.ones((1, 60)))
        assert found[0] == pytest.approx(balanced_accuracy_score(of, said))


def test_balanced_accuracy_passes_over_a_region_that_lost_its_records() -> None:
    weight = np.array([[1.0, 1, 1, 1, 1, 0]])
    assert exclusive.weighted_balanced_accuracy(Y, SAID, weight)[0] == pytest.approx((0.5 + 1) / 2)


def test_a_neighbour_counts_as_right() -> None:
    touch = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=bool)
    assert places.weighted_adjacent_accuracy(Y, SAID, ONCE, touch)[0] == pytest.approx(4 / 6)
    none = np.eye(3, dtype=bool)
    assert places.weighted_adjacent_accuracy(Y, SAID, ONCE, none)[0] == pytest.approx(3 / 6)
    assert places.weighted_adjacent_accuracy(Y, SAID, ONCE, np.zeros((3, 3), bool))[0] == pytest.approx(3 / 6)


def test_regions_are_as_far_apart_as_their_middles() -> None:
    middles = np.array([[0.0, 0, 0], [3, 4, 0], [0, 0, 12]])
    assert places.weighted_centroid_distance_mm(Y, SAID, ONCE, middles)[0] == pytest.approx((5 + 12 + 12) / 6)


def test_mean_and_median_distance_under_weights_are_those_of_repeated_records() -> None:
    draw = np.random.default_rng(1)
    known, said = draw.normal(0, 20, (9, 3)), draw.normal(0, 20, (9, 3))
    apart = np.linalg.norm(known - said, axis=1)
    weight = draw.integers(0, 4, (20, 9)).astype(float)
    repeated = [np.repeat(apart, row.astype(int)) for row in weight]
    np.testing.assert_allclose(places.weighted_distance_mm(known, said, weight), [one.mean() for one in repeated])
    np.testing.assert_allclose(
        places.weighted_median_distance_mm(known, said, weight), [np.median(one) for one in repeated]
    )
    assert np.isnan(places.weighted_median_distance_mm(known, said, np.zeros((1, 9)))[0])


def test_the_way_through_the_muscle_is_a_distance() -> None:
    heart = reference_heart()
    draw = np.random.default_rng(2)
    a, b, c = (heart.xyz_mm[draw.integers(0, heart.n_points, 12)] for _ in range(3))
    ab, ba, ac, cb = (places.geodesic_mm(*pair) for pair in ((a, b), (b, a), (a, c), (c, b)))
    np.testing.assert_array_equal(places.geodesic_mm(a, a), 0)
    np.testing.assert_allclose(ab, ba)
    assert (ab <= ac + cb + 1e-9).all()
    assert (ab >= np.linalg.norm(a - b, axis=1) - 1e-9).all()
    # Beside the wall it is no shorter than straight, and the same place is the same place.
    beside = a + draw.normal(0, 3, a.shape)
    np.testing.assert_array_equal(places.geodesic_mm(beside, beside), 0)
    assert (places.geodesic_mm(a, beside) >= np.linalg.norm(a - beside, axis=1) - 1e-9).all()


def test_across_the_cavity_it_is_round_and_not_straight() -> None:
    lateral, septal = np.array([[27.0, 0, 20]]), np.array([[-27.0, 0, 20]])
    straight = 54.0
    assert 1.3 * straight < places.geodesic_mm(lateral, septal)[0] < 2 * straight


def test_which_scores_there_are_depends_on_what_is_known() -> None:
    near = {"a": frozenset("b"), "b": frozenset("ac"), "c": frozenset("b")}
    middles = dict.fromkeys("abc", (0.0, 0.0, 0.0))
    assert list(placed.scorers(None, ("a",))) == []
    assert list(placed.scorers(Places(), tuple("abc"))) == []
    all_of_them = ["adjacent_accuracy", "centroid_distance_mm"]
    assert list(placed.scorers(Places(near, middles), tuple("abc"))) == all_of_them
    # Where all touch each other a neighbour is no merit; where one middle is unknown there is no distance.
    assert list(placed.scorers(Places(near, middles), tuple("ab"))) == all_of_them[1:]
    assert list(placed.scorers(Places(near, {"a": (0.0, 0.0, 0.0)}), tuple("abc"))) == all_of_them[:1]
    assert list(placed.scorers(Places(is_point=True), ("x", "y", "z"))) == ["distance_mm", "median_distance_mm"]
    assert "geodesic_mm" in placed.scorers(Places(is_point=True, in_reference_heart=True), ("x", "y", "z"))


def test_scores_have_intervals_over_patients() -> None:
    scorer = placed.scorers(Places(is_point=True), ("x", "y", "z"))["distance_mm"]
    draw = np.random.default_rng(3)
    known, said = draw.normal(0, 20, (40, 3)), draw.normal(0, 20, (40, 3))
    patients = [f"p{i // 4}" for i in range(40)]
    found = bootstrap(known, said, patients, scorer)
    assert found.low < found.value < found.high
    assert found.value == pytest.approx(np.linalg.norm(known - said, axis=1).mean())
