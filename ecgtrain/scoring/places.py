"""Scores of where something lies: regions that touch or are so far apart, and points in a heart, in mm.

Of regions, ``y_nc``: bool (records, regions), one of each row; ``score_nc``: float of the same shape. Of points both
are float (records, 3), in mm. ``weight_rn``: float (resamples, records).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ecgstore.inner import distances_mm, need, reference_heart
from ecgtrain.scoring.exclusive import said
from ecgtrain.scoring.metrics import Bools, Floats, ratio


def weighted_adjacent_accuracy(y_nc: Bools, score_nc: Floats, weight_rn: Floats, touch_cc: Bools) -> Floats:
    """Share of records of which the right region is said or one that touches it, (resamples,).

    ``touch_cc``: bool (regions, regions), symmetric; the diagonal counts as set.
    """
    near_nc = (y_nc.astype(np.int64) @ touch_cc.astype(np.int64) > 0) | y_nc
    right_n = (near_nc & said(score_nc)).any(axis=1)
    return ratio(weight_rn @ right_n.astype(np.float64), weight_rn.sum(axis=1))


def weighted_centroid_distance_mm(y_nc: Bools, score_nc: Floats, weight_rn: Floats, centroid_mm_c3: Floats) -> Floats:
    """Mean distance between the centroids of the right region and the one that is said, (resamples,), in mm."""
    apart_mm_n = np.linalg.norm(
        centroid_mm_c3[y_nc.argmax(axis=1)] - centroid_mm_c3[said(score_nc).argmax(axis=1)], axis=1
    )
    return ratio(weight_rn @ apart_mm_n, weight_rn.sum(axis=1))


def weighted_distance_mm(known_n3: Floats, said_n3: Floats, weight_rn: Floats) -> Floats:
    """Mean straight distance between known and predicted points, (resamples,), in mm."""
    return ratio(weight_rn @ np.linalg.norm(said_n3 - known_n3, axis=1), weight_rn.sum(axis=1))


def weighted_median_distance_mm(known_n3: Floats, said_n3: Floats, weight_rn: Floats) -> Floats:
    """Median straight distance, (resamples,), in mm: the least that half of the weight doesn't exceed.

    Where exactly half of it lies below, it is the middle between that and the next.
    """
    apart_mm_n = np.linalg.norm(said_n3 - known_n3, axis=1)
    order = np.argsort(apart_mm_n, kind="stable")
    ranked_mm_n, below_rn = apart_mm_n[order], np.cumsum(weight_rn[:, order], axis=1)
    half_r1 = below_rn[:, -1:] / 2
    low_r, high_r = ((compare(below_rn, half_r1)).argmax(axis=1) for compare in (np.greater_equal, np.greater))
    return np.where(half_r1[:, 0] > 0, (ranked_mm_n[low_r] + ranked_mm_n[high_r]) / 2, np.nan)


def weighted_geodesic_mm(known_n3: Floats, said_n3: Floats, weight_rn: Floats) -> Floats:
    """Mean distance through the muscle of the reference heart, (resamples,), in mm; see :func:`geodesic_mm`."""
    return ratio(weight_rn @ geodesic_mm(known_n3, said_n3), weight_rn.sum(axis=1))


def geodesic_mm(one_n3: Floats, other_n3: Floats) -> Floats:
    """How far it is through the muscle of the reference heart from one place to the other, (places,), in mm.

    It is the shortest path between the points of the heart that are nearest to both (docs/simulate-vt.md), and at least
    the straight distance: so it is 0 for the same place alone, symmetric, and never less than the straight one.
    """
    heart = reference_heart()
    tree = need("scipy.spatial", "train").cKDTree(heart.xyz_mm)
    one_n, other_n = tree.query(one_n3)[1], tree.query(other_n3)[1]
    path_mm_n = np.array([_from(min(a, b))[max(a, b)] for a, b in zip(one_n.tolist(), other_n.tolist(), strict=True)])
    far: Floats = np.maximum(path_mm_n, np.linalg.norm(other_n3 - one_n3, axis=1))
    return far


@lru_cache(maxsize=4096)
def _from(point: int) -> npt.NDArray[np.float64]:
    return distances_mm(reference_heart(), point)
