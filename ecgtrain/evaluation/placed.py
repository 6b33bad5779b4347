"""Which scores of places an answer has: by what is known of where its classes lie."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from ecgtrain.scoring import places as scores
from ecgtrain.scoring.bootstrap import Scorer
from ecgtrain.scoring.regression import checked_numbers
from ecgtrain.tasks import Places


def scorers(places: Places | None, classes: tuple[str, ...]) -> Mapping[str, Scorer]:
    """Scorers by the metrics' names, in the order in which they are told.

    Where all regions touch each other, to say a neighbour is no merit; where one has no known middle, no distance is.
    """
    if places is None:
        return {}
    if places.is_point:
        found = {
            "distance_mm": Scorer(scores.weighted_distance_mm, checked_numbers),
            "median_distance_mm": Scorer(scores.weighted_median_distance_mm, checked_numbers),
        }
        if places.in_reference_heart:
            found["geodesic_mm"] = Scorer(scores.weighted_geodesic_mm, checked_numbers)
        return found
    found = {}
    touch_cc = np.array([[b == a or b in places.neighbours.get(a, ()) for b in classes] for a in classes])
    if places.neighbours and not touch_cc.all():
        found["adjacent_accuracy"] = Scorer(partial(scores.weighted_adjacent_accuracy, touch_cc=touch_cc))
    if all(name in places.centroid_mm for name in classes):
        middles = np.array([places.centroid_mm[name] for name in classes], dtype=np.float64)
        apart = partial(scores.weighted_centroid_distance_mm, centroid_mm_c3=middles)
        found["centroid_distance_mm"] = Scorer(apart)
    return found
