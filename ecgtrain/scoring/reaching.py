"""How many labels are enough: where a curve over fractions reaches what a control reaches with all of them."""

from __future__ import annotations

import numpy as np

from ecgtrain.errors import ProtocolError
from ecgtrain.scoring.bootstrap import Interval
from ecgtrain.scoring.metrics import Floats


def first_reaching(x_k: Floats, value_kr: Floats, target_r: Floats) -> Floats:
    """Where each of several curves first reaches its target, (curves,); infinite where it never does.

    ``x_k``: positive, ascending; ``value_kr`` (points, curves): the higher the better; ``target_r`` (curves,). Between
    two points a curve is taken to be straight over the logarithm of x: halving the labels costs about the same
    everywhere. A curve that begins at its target or above reached it at its first point, or before. Raises
    ProtocolError unless there is a value for each x.
    """
    if len(x_k) != len(value_kr) or len(x_k) == 0 or not (np.diff(x_k) > 0).all() or x_k[0] <= 0:
        raise ProtocolError("a curve needs a value for each x, ascending and positive", got=f"{len(x_k)} x")
    log_k = np.log(x_k)
    reached_r = np.where(value_kr[0] >= target_r, x_k[0], np.inf)
    for k in range(1, len(x_k)):
        below_r, above_r = value_kr[k - 1], value_kr[k]
        is_here_r = np.isinf(reached_r) & (above_r >= target_r)
        with np.errstate(divide="ignore", invalid="ignore"):
            share_r = (target_r - below_r) / (above_r - below_r)
        at_r = np.exp(log_k[k - 1] + np.clip(share_r, 0, 1) * (log_k[k] - log_k[k - 1]))
        reached_r = np.where(is_here_r, at_r, reached_r)
    return reached_r


def reaching(x_k: Floats, value_k: Floats, target: float, value_kr: Floats, target_r: Floats) -> Interval:
    """That of the curve itself, with the 95 % interval of what it is in resamples; an end may be infinite."""
    found = first_reaching(x_k, np.asarray(value_k)[:, None], np.array([target]))[0]
    drawn_r = first_reaching(x_k, value_kr, target_r)
    # Of what is infinite no mean can be taken: the nearest resample, not a value between two.
    low, high = np.quantile(drawn_r, [0.025, 0.975], method="nearest")
    return Interval(float(found), float(low), float(high))
