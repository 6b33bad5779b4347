"""The score of the PhysioNet/CinC challenges of 2020 and 2021 (Perez Alday et al., Physiol. Meas. 41:124003, 2020).

With Y and P bool (records n, classes c), w the reward, and N_n the classes that are in Y_n or P_n, at least 1::

    s(P) = Σ_n Σ_jk w_jk Y_nj P_nk / N_n          score = (s(P) − s(normal only)) / (s(Y) − s(normal only))

1 is what the truth gets, 0 is what saying "sinus rhythm" of everyone gets.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ecgtrain.errors import ProtocolError
from ecgtrain.scoring.metrics import Bools, Floats, ratio

#: Rounds over all classes in the search for thresholds; it stops before where none changes.
_MOST_ROUNDS = 20


def rewards(y_nc: Bools, said_nc: Bools, reward_cc: Floats) -> Floats:
    """What is earned with each record, (records,)."""
    gained_n = np.einsum("nj,jk,nk->n", y_nc.astype(np.float64), reward_cc, said_nc.astype(np.float64), optimize=True)
    earned_n: Floats = gained_n / np.maximum((y_nc | said_nc).sum(axis=1), 1)
    return earned_n


def weighted_score(
    y_nc: Bools, said_nc: Bools, reward_cc: Floats, normal: int, weight_rn: Floats
) -> npt.NDArray[np.float64]:
    """The score under each row of weights, (resamples,); NaN where the truth earns no more than the normal class."""
    if y_nc.shape != said_nc.shape or reward_cc.shape != (y_nc.shape[1],) * 2:
        raise ProtocolError("targets, decisions and rewards don't fit together", expected=y_nc.shape, got=said_nc.shape)
    normal_nc = np.zeros_like(y_nc)
    normal_nc[:, normal] = True
    floor_n = rewards(y_nc, normal_nc, reward_cc)
    earned_n, most_n = rewards(y_nc, said_nc, reward_cc) - floor_n, rewards(y_nc, y_nc, reward_cc) - floor_n
    return ratio(weight_rn @ earned_n, weight_rn @ most_n)


def score(y_nc: Bools, said_nc: Bools, reward_cc: Floats, normal: int) -> float:
    """The challenge's score of decisions; ``normal`` is the column of the normal class."""
    y_nc, said_nc = np.asarray(y_nc, dtype=np.bool_), np.asarray(said_nc, dtype=np.bool_)
    return float(weighted_score(y_nc, said_nc, reward_cc, normal, np.ones((1, len(y_nc))))[0])


def thresholds(y_nc: Bools, score_nc: Floats, reward_cc: Floats) -> Floats:
    """Thresholds (classes,) at which ``score_nc >= thresholds`` earns much: to be asked of validation records only.

    From thresholds at which each class is said as often as it is true, one class after the other is given its best,
    the others held, until none changes. That finds a maximum for each, though not always the highest of all. A class
    that earns nothing gets a threshold above all of its scores. One whose scores are minus infinity can't be said at
    all: its threshold is infinite.
    """
    y_nc, score_nc = np.asarray(y_nc, dtype=np.bool_), np.asarray(score_nc, dtype=np.float64)
    sayable = np.flatnonzero(np.isfinite(score_nc).all(axis=0)).tolist()
    threshold_c = np.full(y_nc.shape[1], np.inf)
    threshold_c[sayable] = [_as_often(y_nc[:, c], score_nc[:, c]) for c in sayable]
    said_nc = score_nc >= threshold_c
    # reward_nk: what saying k of record n earns, before it is divided by the number of classes.
    reward_nk = y_nc.astype(np.float64) @ reward_cc
    for _ in range(_MOST_ROUNDS):
        changed = False
        for c in sayable:
            others_nc = said_nc.copy()
            others_nc[:, c] = False
            held_n = (reward_nk * others_nc).sum(axis=1)
            n_others = (others_nc | y_nc).sum(axis=1)
            without_n = held_n / np.maximum(n_others, 1)
            with_n = (held_n + reward_nk[:, c]) / np.maximum(n_others + ~y_nc[:, c], 1)
            best = _best(score_nc[:, c], with_n - without_n)
            decided_n = score_nc[:, c] >= best
            if (decided_n != said_nc[:, c]).any() and _gain(with_n - without_n, decided_n, said_nc[:, c]) > 1e-12:
                threshold_c[c], said_nc[:, c], changed = best, decided_n, True
        if not changed:
            break
    return threshold_c


def _gain(gain_n: Floats, decided_n: Bools, before_n: Bools) -> float:
    return float(gain_n[decided_n].sum() - gain_n[before_n].sum())


def _as_often(y_n: Bools, score_n: Floats) -> float:
    """The threshold at which about as many are said as are true."""
    n = int(y_n.sum())
    ranked = np.sort(score_n)[::-1]
    return _between(ranked, n)


def _best(score_n: Floats, gain_n: Floats) -> float:
    """The threshold above which the gains have the largest sum; the highest of several."""
    order = np.argsort(-score_n, kind="stable")
    ranked, total = score_n[order], np.r_[0.0, np.cumsum(gain_n[order])]
    cut = np.r_[True, ranked[1:] < ranked[:-1], True]  # equal scores are said together, or not at all
    return _between(ranked, int(np.flatnonzero(cut)[np.argmax(total[cut])]))


def _between(ranked: Floats, n: int) -> float:
    """A threshold that the first ``n`` of scores in descending order reach, and what lies below them doesn't."""
    if n == 0:
        return float(np.nextafter(ranked[0], np.inf))
    if n == len(ranked) or ranked[n] == ranked[n - 1]:
        return float(ranked[n - 1])
    middle = float((ranked[n - 1] + ranked[n]) / 2)
    return middle if ranked[n] < middle <= ranked[n - 1] else float(ranked[n - 1])
