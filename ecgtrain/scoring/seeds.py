"""Several runs of one recipe that differ by their seed: what another seed and other patients would change.

One seed is one draw of a training. An interval over patients alone says nothing of what the next seed would give, so
both are drawn: seeds with replacement, and patients with replacement (Davison & Hinkley, Bootstrap Methods, 1997,
section 3.8). Few seeds make the spread over seeds look too small, by (n - 1) / n in its variance: three seeds show
about two thirds of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ecgtrain.errors import ProtocolError
from ecgtrain.scoring.bootstrap import Interval, Scorer, interval_of, resampled
from ecgtrain.scoring.metrics import Floats, mean_of_scored


@dataclass(frozen=True, slots=True, eq=False)
class OverSeeds:
    """A metric of several seeds: ``value_s`` (seeds,), and on the same resamples of patients ``resampled_sr``.

    Sums and differences are taken seed by seed and resample by resample, so that what two answers share cancels.
    ``seed`` draws.
    """

    value_s: Floats
    resampled_sr: Floats
    seed: int = 0

    def __sub__(self, other: OverSeeds) -> OverSeeds:
        if len(self.value_s) != len(other.value_s):
            raise ProtocolError("seeds are compared in pairs", expected=len(self.value_s), got=len(other.value_s))
        return OverSeeds(self.value_s - other.value_s, self.resampled_sr - other.resampled_sr, self.seed)

    @property
    def value(self) -> float:
        """The mean over seeds."""
        return float(self.value_s.mean())

    def drawn_r(self) -> Floats:
        """In each resample the mean over as many seeds as there are, drawn with replacement: (resamples,)."""
        n_seeds, n_resamples = self.resampled_sr.shape
        draw = np.random.Generator(np.random.Philox([self.seed, 1]))
        seed_rs = draw.integers(0, n_seeds, size=(n_resamples, n_seeds))
        return mean_of_scored(self.resampled_sr[seed_rs, np.arange(n_resamples)[:, None]])

    def interval(self, level: float = 0.95) -> Interval:
        """The mean over seeds, with its interval over seeds and patients."""
        return interval_of(self.value, self.drawn_r(), level)

    def p_value(self) -> float:
        """How surprising it is if it is a difference: the two-sided share of resamples beyond 0."""
        drawn_r = self.drawn_r()
        known_r = drawn_r[np.isfinite(drawn_r)]
        beyond = min((known_r <= 0).sum(), (known_r >= 0).sum())
        return float(min(1.0, 2 * (beyond + 1) / (len(known_r) + 1)))


def of_seeds(
    y_nc: npt.NDArray[Any],
    score_snc: Sequence[npt.NDArray[Any]],
    patient_keys: Sequence[str | None],
    metric: str | Scorer = "macro_auroc",
    *,
    n_resamples: int = 1000,
    seed: int = 0,
) -> OverSeeds:
    """The metric of each seed; ``score_snc``: of each the scores (records, classes) of the same records.

    Raises ProtocolError where there is none.
    """
    if not score_snc:
        raise ProtocolError("scores of one seed or more are needed", got=0)
    found = [resampled(metric, y_nc, score_nc, patient_keys, n_resamples, seed) for score_nc in score_snc]
    return OverSeeds(np.array([value for value, _ in found]), np.stack([resampled_r for _, resampled_r in found]), seed)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values of one table corrected for their number (Holm, Scand J Statist 6:65, 1979), in the order given."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}
