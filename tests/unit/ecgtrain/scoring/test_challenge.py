"""The challenge's score: the check values, an evaluation of its own, and thresholds that find what there is."""

from __future__ import annotations

import numpy as np
import pytest

from ecgstore.inner import challenge_weights, scored_classes
from ecgtrain.errors import ProtocolError
from ecgtrain.scoring import challenge
from ecgtrain.scoring.bootstrap import Scorer, bootstrap

NAMES = [one.abbreviation for one in scored_classes(2020) if one.equivalent is None]
NORMAL, AF = NAMES.index("NSR"), NAMES.index("AF")
REWARD = challenge_weights(2020, merged=True)


def one_hot(*columns, n=1):
    y_nc = np.zeros((n, len(NAMES)), dtype=bool)
    y_nc[:, list(columns)] = True
    return y_nc


def by_hand(y_nc, said_nc, reward_cc, normal):
    """Written down from the challenge's description, record by record and class by class."""

    def total(said):
        confusion = np.zeros((y_nc.shape[1],) * 2)
        for true, claimed in zip(y_nc, said, strict=True):
            n = max(1.0, float(sum(a or b for a, b in zip(true, claimed, strict=True))))
            for j in np.flatnonzero(true):
                for k in np.flatnonzero(claimed):
                    confusion[j, k] += 1 / n
        return float((confusion * reward_cc).sum())

    always = np.zeros_like(y_nc)
    always[:, normal] = True
    return (total(said_nc) - total(always)) / (total(y_nc) - total(always))


@pytest.mark.parametrize("year", [2020, 2021])
@pytest.mark.parametrize("draw", range(4))
def test_it_is_what_the_description_says_on_random_matrices(year, draw):
    reward_cc = challenge_weights(year, merged=True)
    normal = [one.abbreviation for one in scored_classes(year) if one.equivalent is None].index("NSR")
    rng = np.random.default_rng([year, draw])
    y_nc, said_nc = (rng.random((40, len(reward_cc))) < share for share in (0.1, 0.15))
    expected = by_hand(y_nc, said_nc, reward_cc, normal)
    assert challenge.score(y_nc, said_nc, reward_cc, normal) == pytest.approx(expected, abs=1e-9)


def test_check_values():
    y_nc = np.concatenate([one_hot(AF), one_hot(NORMAL), one_hot(AF, NAMES.index("LAD"))])
    assert challenge.score(y_nc, y_nc, REWARD, NORMAL) == pytest.approx(1)
    assert challenge.score(y_nc, one_hot(NORMAL, n=3), REWARD, NORMAL) == 0
    # A true AF of which AF and sinus rhythm are said: (1 + 0.25) / 2.
    assert challenge.rewards(one_hot(AF), one_hot(AF, NORMAL), REWARD)[0] == pytest.approx(0.625)
    assert challenge.score(y_nc, one_hot(NAMES.index("QAb"), n=3), REWARD, NORMAL) < 0
    # Nothing is said of records of which nothing is true: no division by zero, and nothing earned.
    assert challenge.rewards(one_hot(), one_hot(), REWARD)[0] == 0
    assert np.isnan(challenge.score(one_hot(NORMAL), one_hot(NORMAL), REWARD, NORMAL))
    with pytest.raises(ProtocolError, match="don't fit together"):
        challenge.score(y_nc, y_nc[:, :5], REWARD, NORMAL)


def test_under_the_bootstrap_records_count_as_often_as_they_are_drawn():
    rng = np.random.default_rng(3)
    y_nc, said_nc = (rng.random((12, len(NAMES))) < 0.15 for _ in range(2))
    weight_rn = rng.integers(0, 4, size=(5, 12)).astype(float)
    found = challenge.weighted_score(y_nc, said_nc, REWARD, NORMAL, weight_rn)
    for weights, score in zip(weight_rn.astype(int), found, strict=True):
        rows = np.repeat(np.arange(12), weights)
        assert score == pytest.approx(challenge.score(y_nc[rows], said_nc[rows], REWARD, NORMAL), abs=1e-9)
    scorer = Scorer(lambda y, said, w: challenge.weighted_score(y, said > 0.5, REWARD, NORMAL, w))
    interval = bootstrap(y_nc, said_nc, [f"p{i // 2}" for i in range(12)], scorer, n_resamples=50)
    assert interval.value == pytest.approx(challenge.score(y_nc, said_nc, REWARD, NORMAL))
    assert interval.low < interval.value < interval.high


def test_thresholds_find_the_truth_and_nothing_can_be_improved_class_by_class():
    rng = np.random.default_rng(5)
    y_nc = rng.random((80, len(NAMES))) < 0.12
    told_nc = np.where(y_nc, 0.7, 0.3) + 0.1 * rng.random(y_nc.shape)
    chosen_c = challenge.thresholds(y_nc, told_nc, REWARD)
    assert challenge.score(y_nc, told_nc >= chosen_c, REWARD, NORMAL) == pytest.approx(1)
    noisy_nc = told_nc + 0.4 * rng.standard_normal(y_nc.shape)
    chosen_c = challenge.thresholds(y_nc, noisy_nc, REWARD)
    best = challenge.score(y_nc, noisy_nc >= chosen_c, REWARD, NORMAL)
    assert best > challenge.score(y_nc, noisy_nc >= 0.5, REWARD, NORMAL)
    for c in range(0, len(NAMES), 5):
        for other in (*np.quantile(noisy_nc[:, c], [0, 0.3, 0.6, 0.9]), 9.0):
            tried_c = chosen_c.copy()
            tried_c[c] = other
            assert challenge.score(y_nc, noisy_nc >= tried_c, REWARD, NORMAL) <= best + 1e-9


def test_what_cannot_be_said_never_is_and_scores_that_know_nothing_gain_nothing():
    y_nc = one_hot(AF, n=6)
    y_nc[3:] = one_hot(NORMAL)
    score_nc = np.full(y_nc.shape, -np.inf)
    score_nc[:, AF] = [0.9, 0.9, 0.9, 0.2, 0.2, 0.2]
    chosen_c = challenge.thresholds(y_nc, score_nc, REWARD)
    assert np.isinf(np.delete(chosen_c, AF)).all()
    assert (score_nc >= chosen_c)[:3, AF].all()
    # Scores that know nothing: the threshold on other records gains nothing either.
    rng = np.random.default_rng(1)
    of = np.where(rng.random(300) < 0.6, NORMAL, rng.integers(0, len(NAMES), 300))
    y_nc = np.eye(len(NAMES), dtype=bool)[of]
    blind_nc = rng.random(y_nc.shape)
    chosen_c = challenge.thresholds(y_nc[:150], blind_nc[:150], REWARD)
    assert challenge.score(y_nc[150:], (blind_nc >= chosen_c)[150:], REWARD, NORMAL) < 0.15
