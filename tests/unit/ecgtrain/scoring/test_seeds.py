"""Intervals over seeds and patients, and Holm's correction."""

from __future__ import annotations

import numpy as np
import pytest

from ecgtrain.errors import ProtocolError
from ecgtrain.scoring.bootstrap import bootstrap, paired_bootstrap
from ecgtrain.scoring.metrics import macro_auroc
from ecgtrain.scoring.seeds import holm, of_seeds


def over_seeds(*args, **more):
    return of_seeds(*args, **more).interval()


def paired_over_seeds(y_nc, one, other, patients, **more):
    difference = of_seeds(y_nc, one, patients, **more) - of_seeds(y_nc, other, patients, **more)
    return difference.interval(), difference.p_value()


def scores(n_seeds, *, spread=0.0, quality=1.0, n=200, seed=0):
    """Labels and, of each seed, scores that tell them apart; ``spread``: how much the seeds differ in doing so."""
    draw = np.random.default_rng(seed)
    y_nc = draw.random((n, 2)) < 0.5
    noise = draw.standard_normal((n, 2))
    qualities = quality + spread * np.linspace(-1, 1, n_seeds) if n_seeds > 1 else [quality]
    return y_nc, [y_nc * q + noise for q in qualities]


PATIENTS = [str(i) for i in range(200)]


def width(interval):
    return interval.high - interval.low


def test_of_one_seed_it_is_the_bootstrap_over_patients():
    y_nc, of_seeds = scores(1)
    assert over_seeds(y_nc, of_seeds, PATIENTS, seed=3) == bootstrap(y_nc, of_seeds[0], PATIENTS, seed=3)
    _, others = scores(1, quality=0.5)
    difference, _ = paired_over_seeds(y_nc, of_seeds, others, PATIENTS, seed=3)
    assert difference == paired_bootstrap(y_nc, of_seeds[0], others[0], PATIENTS, seed=3)


def test_the_value_is_the_mean_over_seeds_and_equal_seeds_add_nothing():
    y_nc, of_seeds = scores(4, spread=0.8)
    found = over_seeds(y_nc, of_seeds, PATIENTS)
    assert found.value == pytest.approx(np.mean([macro_auroc(y_nc, one) for one in of_seeds]))
    same = over_seeds(y_nc, [of_seeds[0]] * 4, PATIENTS)
    assert same == pytest.approx(bootstrap(y_nc, of_seeds[0], PATIENTS))


def test_seeds_that_differ_widen_the_interval():
    y_nc, alike = scores(3, spread=0.0)
    _, apart = scores(3, spread=0.9)
    assert width(over_seeds(y_nc, apart, PATIENTS)) > 1.5 * width(over_seeds(y_nc, alike, PATIENTS))


def test_p_is_small_for_a_difference_and_large_for_none():
    y_nc, good = scores(3, quality=1.5, spread=0.1)
    _, bad = scores(3, quality=0.3, spread=0.1)
    difference, p = paired_over_seeds(y_nc, good, bad, PATIENTS)
    assert difference.low > 0
    assert p < 0.01
    rng = np.random.default_rng(1)
    other = [one + 1e-3 * rng.standard_normal(one.shape) for one in good]
    difference, p = paired_over_seeds(y_nc, good, other, PATIENTS)
    assert difference.low <= 0 <= difference.high
    assert p > 0.05


def test_seeds_come_in_pairs():
    y_nc, of_seeds = scores(3)
    with pytest.raises(ProtocolError, match="in pairs"):
        paired_over_seeds(y_nc, of_seeds, of_seeds[:2], PATIENTS)
    with pytest.raises(ProtocolError, match="one seed or more"):
        over_seeds(y_nc, [], PATIENTS)


def test_holm_by_hand():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.5}) == pytest.approx(
        {"a": 0.04, "b": 0.09, "c": 0.09, "d": 0.5}
    )
    assert holm({"a": 0.4, "b": 0.9}) == {"a": 0.8, "b": 0.9}
    assert holm({}) == {}
