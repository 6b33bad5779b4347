"""Where a curve reaches its target."""

from __future__ import annotations

import numpy as np
import pytest

from ecgtrain.errors import ProtocolError
from ecgtrain.scoring.reaching import first_reaching, reaching

X = np.array([0.01, 0.1, 1.0])


def curve(*values):
    return np.array(values)[:, None]


def at(values, target):
    return first_reaching(X, curve(*values), np.array([target]))[0]


def test_between_two_points_it_is_straight_over_the_logarithm():
    assert at([0.6, 0.7, 0.8], 0.75) == pytest.approx(10**-0.5)
    assert at([0.6, 0.7, 0.8], 0.7) == pytest.approx(0.1)
    assert at([0.6, 0.7, 0.8], 0.65) == pytest.approx(10**-1.5)


def test_it_begins_there_or_never_comes_there():
    assert at([0.6, 0.7, 0.8], 0.5) == 0.01
    assert at([0.6, 0.7, 0.8], 0.9) == np.inf
    # It counts when it is reached first, though the curve falls again.
    assert at([0.6, 0.8, 0.7], 0.75) == pytest.approx(0.01 * 10**0.75)


def test_many_curves_at_once_and_the_interval():
    rng = np.random.default_rng(0)
    noise_r = 0.02 * rng.standard_normal(500)
    value_kr = curve(0.6, 0.7, 0.8) + noise_r
    found = reaching(X, np.array([0.6, 0.7, 0.8]), 0.75, value_kr, np.full(500, 0.75))
    assert found.low < found.value < found.high
    assert found.value == pytest.approx(10**-0.5)
    # Where the target moves with the curve nothing is uncertain.
    same = reaching(X, np.array([0.6, 0.7, 0.8]), 0.75, value_kr, 0.75 + noise_r)
    assert same.low == pytest.approx(same.high)
    never = reaching(X, np.array([0.6, 0.7, 0.8]), 0.9, value_kr, np.full(500, 0.9))
    assert never.value == never.low == never.high == np.inf


@pytest.mark.parametrize("x", [[], [0.0, 0.1, 1.0], [0.1, 0.01, 1.0], [0.1, 1.0]])
def test_x_that_is_no_axis_is_refused(x):
    with pytest.raises(ProtocolError):
        first_reaching(np.array(x), curve(0.6, 0.7, 0.8), np.array([0.7]))
