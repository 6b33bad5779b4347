"""What a page begins with: of each run and question the score, what it is to be held against, and the difference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ecgtrain.evaluation.results import ONE_SEED, Result
from ecgtrain.reporting.caveats import pretraining
from ecgtrain.reporting.words import NULLS, colours, labels, metric_name, one_seed_of, protocol
from ecgtrain.scoring.bootstrap import Interval
from ecgtrain.scoring.kinds import LESS_IS_BETTER


class Scale(NamedTuple):
    """The axis of the intervals drawn in a table, in pixels."""

    low: float
    high: float
    width: int = 220
    pad: int = 6

    def x(self, value: float) -> float:
        """Where a value stands."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self.pad + share * (self.width - 2 * self.pad), 1)

    @property
    def ticks(self) -> list[float]:
        """Ends and middle."""
        return [self.low, (self.low + self.high) / 2, self.high]


class Beside(NamedTuple):
    """What a score is held against: a null of the same question, or the best answer that looks at no signal."""

    name: str
    score: Interval


class Line(NamedTuple):
    """One answer of one run; ``group`` is the number of its table, ``is_together`` of what several seeds say as one."""

    group: int
    run: str
    question: str
    about: str
    label: str
    colour: str
    is_together: bool
    metric: str
    score: Interval
    scale: Scale
    beside: Beside | None
    difference: Interval | None
    verdict: str


def lines(groups: Sequence[Sequence[Result]], names: Sequence[str]) -> list[Line]:
    """A line for every answer but the nulls', which stand beside theirs; ``names`` of the runs."""
    found = []
    for number, results in enumerate(groups):
        scale = scale_of(results)
        for result, label, colour in zip(results, _alone(results), colours(results), strict=True):
            if result.pretraining in NULLS and len(results) > 1:
                continue
            other = _compared_to(result)
            difference = result.difference_to[other].get(result.compared_by) if other else None
            found.append(
                Line(
                    number,
                    result.run or (names[0] if len(names) == 1 else ""),
                    result.asked,
                    f"{protocol([result])} · {Path(result.store).name} · {result.n_test:,} test records",
                    label,
                    colour,
                    bool(result.ensemble_of),
                    metric_name(result.compared_by, result.unit),
                    result.score,
                    scale,
                    _beside(result, other, results),
                    difference,
                    _verdict(result, difference),
                )
            )
    return found


def _alone(results: Sequence[Result]) -> list[str]:
    """Labels without the run, which has a column of its own."""
    by_run: dict[str | None, list[Result]] = {}
    for result in results:
        by_run.setdefault(result.run, []).append(result)
    of = {id(one): label for its in by_run.values() for one, label in zip(its, labels(its), strict=True)}
    return [of[id(result)] for result in results]


def _compared_to(result: Result) -> str | None:
    """What a line is held against: of several seeds one of them, as the nulls of all seeds together have no line."""
    if ONE_SEED in result.difference_to:
        return ONE_SEED
    null = next((name for name in result.difference_to if name in NULLS), None)
    return null or next(iter(result.difference_to), None)


def _beside(result: Result, name: str | None, results: Sequence[Result]) -> Beside | None:
    if name == ONE_SEED:
        one = one_seed_of(result, results)
        return None if one is None else Beside(name, one.score)
    for other in results:
        is_it = (other.pretraining == name and other.name == result.name) or other.name == name
        if name is not None and is_it and other.run == result.run and not other.ensemble_of:
            return Beside(pretraining(name).lower() if name in NULLS else name, other.score)
    if result.of_a_constant is not None and math.isfinite(result.of_a_constant):
        constant = "always the commonest" if result.kind == "exclusive" else "always the median"
        return Beside(constant, Interval(result.of_a_constant, math.nan, math.nan))
    return None


def _verdict(result: Result, difference: Interval | None) -> str:
    if difference is None or not math.isfinite(difference.low):
        return ""
    if difference.low > 0 or difference.high < 0:
        return "better" if (difference.low > 0) != (result.compared_by in LESS_IS_BETTER) else "worse"
    return "can't be told apart"


def scale_of(results: Sequence[Result]) -> Scale:
    """The axis of what the results are compared by."""
    values = [value for result in results for value in result.score if math.isfinite(value)]
    if results[0].kind == "regression":
        most = max(values, default=1.0)
        if most <= 0:
            return Scale(0.0, 1.0)
        step = 10 ** math.floor(math.log10(most))
        return Scale(0.0, math.ceil(most / step) * step)
    return Scale(0.5 if results[0].compared_by == "macro_auroc" and min(values, default=0.5) >= 0.5 else 0.0, 1.0)
