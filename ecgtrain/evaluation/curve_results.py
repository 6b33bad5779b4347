"""Curves as they are told: of each line and place the score, over draws and seeds, and what it is compared to.

Its shape in ``report.json``, a list of::

    {name, kind, task, metric, unit, axis, reference, n_draws, seeds: [seed],
     points: [{told, x, question, pretraining, score, change, against, change_against}],
     reached: {"question pretraining": fraction}}

Each number is {value, low, high}. ``change``: from the first place, where nothing was changed; ``against``: the
reference's score taken from it; ``change_against``: the reference's change taken from it. A fraction that is null was
not reached.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from pydantic import Field, NonNegativeInt, model_validator

from ecgtrain.config.curves import LabelEfficiency, Transfer
from ecgtrain.evaluation.curves import Drawn
from ecgtrain.evaluation.results import Number, Span, Value, read
from ecgtrain.evaluation.scored import Judged
from ecgtrain.scoring import kinds
from ecgtrain.scoring.bootstrap import Interval
from ecgtrain.scoring.reaching import reaching
from ecgtrain.scoring.seeds import OverSeeds, of_seeds
from ecgtrain.training.files import write_bytes

#: What the axis of each kind is called.
_AXES = {
    "label_efficiency": "Share of the labelled patients",
    "noise_robustness": "Noise",
    "lead_subsets": "Leads",
    "rate_and_gain": "How it was recorded",
    "transfer": "Store",
}

#: More than anybody draws: fifty places of twenty lines.
_MOST_POINTS = 1000


class CurvePoint(Value):
    """One line's score at one place."""

    told: str
    x: Number
    question: str
    pretraining: str
    score: Span
    change: Span | None = None
    against: Span | None = None
    change_against: Span | None = None


class CurveResult(Value):
    """One curve; ``reached``: of each line the share of labels at which it does what the reference does with all."""

    name: str
    kind: str
    task: str
    metric: str
    axis: str
    n_draws: NonNegativeInt = 1
    unit: str = ""
    reference: str | None = None
    seeds: tuple[NonNegativeInt, ...] = ()
    points: Annotated[tuple[CurvePoint, ...], Field(min_length=1, max_length=_MOST_POINTS)]
    reached: Mapping[str, Span] = Field(default_factory=dict)
    run: str | None = None

    @model_validator(mode="after")
    def _of_the_same_places(self) -> CurveResult:
        if len({tuple(point.told for point in points) for points in self.lines.values()}) > 1:
            raise ValueError("all lines of a curve have the same places")
        if self.kind == "label_efficiency" and not all(0 < point.x <= 1 for point in self.points):
            raise ValueError("a share of the labels is more than 0, and 1 at most")
        return self

    @property
    def lines(self) -> dict[tuple[str, str], list[CurvePoint]]:
        """Its points by question and pretraining, in the order of the axis."""
        found: dict[tuple[str, str], list[CurvePoint]] = {}
        for point in self.points:
            found.setdefault((point.question, point.pretraining), []).append(point)
        return found

    def as_json(self) -> dict[str, Any]:
        """Its shape on disk: what is not there is left out."""
        content = self.model_dump(exclude_defaults=True)
        return {**content, "points": [_plain_point(point) for point in self.points], "reached": _plain(self.reached)}

    def as_table(self) -> pa.Table:
        """One row per point, numbers with their bounds in columns of their own."""
        rows = []
        for point in self.points:
            row: dict[str, Any] = {"place": point.told, "x": point.x, "question": point.question}
            row |= {"pretraining": point.pretraining, "metric": self.metric}
            for name in ("score", "change", "against", "change_against"):
                span = getattr(point, name) or Interval(math.nan, math.nan, math.nan)
                row |= {name: span.value, f"{name}_low": span.low, f"{name}_high": span.high}
            rows.append(row)
        return pa.Table.from_pylist(rows)


def curve_of(content: Any, where: object) -> CurveResult:
    """Read a curve as it stands on disk; raises ConfigError in one line."""
    return read(CurveResult, content if isinstance(content, Mapping) else {}, where)


def write_tables(curve: CurveResult, folder: Path) -> None:
    """``curve.csv`` and ``curve.parquet`` in ``folder``, each whole or not at all. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, write in (("curve.csv", pa_csv.write_csv), ("curve.parquet", pq.write_table)):
        sink = pa.BufferOutputStream()
        write(curve.as_table(), sink)
        write_bytes(folder / name, sink.getvalue().to_pybytes())


class _Line(NamedTuple):
    question: str
    pretraining: str
    scores_k: list[OverSeeds]
    judged_k: list[Judged]


def told(drawn_s: Sequence[Drawn], task: str, seeds: Sequence[int], seed: int) -> CurveResult:
    """A curve of one run, or of the runs of several ``seeds``, which must have the same records and places.

    Draws and seeds are drawn alike: each is one more way in which it might have gone.
    """
    first = drawn_s[0]
    kind = first.series[0].judged_kd[0][0].kind
    metric = kinds.headline(kind, first.series[0].judged_kd[0][0].placed)
    lines = [_line([drawn.series[i] for drawn in drawn_s], metric, seed) for i in range(len(first.series))]
    reference = _reference(first, lines)
    # On another store are other records, and with other labels other draws: nothing there was changed.
    is_changed = not isinstance(first.curve, LabelEfficiency | Transfer)
    points = []
    for line in lines:
        is_other = reference is not None and line is not reference
        for k, place in enumerate(first.places):
            score = line.scores_k[k]
            change = score - line.scores_k[0] if is_changed and k else None
            against = change_against = None
            if is_other and reference is not None and _is_of_the_same(line, reference, k):
                against = (score - reference.scores_k[k]).interval()
                if change is not None:
                    change_against = (change - (reference.scores_k[k] - reference.scores_k[0])).interval()
            points.append(
                CurvePoint(
                    told=place.told,
                    x=place.x,
                    question=line.question,
                    pretraining=line.pretraining,
                    score=score.interval(),
                    change=None if change is None else change.interval(),
                    against=against,
                    change_against=change_against,
                )
            )
    return CurveResult(
        name=first.curve.called,
        kind=first.curve.kind,
        task=task,
        metric=metric,
        unit=first.unit,
        axis=_AXES[first.curve.kind],
        n_draws=len(first.series[0].judged_kd[0]),
        reference=first.curve.reference,
        seeds=tuple(seeds),
        points=tuple(points),
        reached={}
        if not isinstance(first.curve, LabelEfficiency) or reference is None
        else _reached(first, lines, reference, metric),
    )


def _line(of_runs: Sequence[Any], metric: str, seed: int) -> _Line:
    """One line over all runs: at each place the scores of all draws of all seeds."""
    scores_k, judged_k = [], []
    for k in range(len(of_runs[0].judged_kd)):
        judged: list[Judged] = [one for run in of_runs for one in run.judged_kd[k]]
        one = judged[0]
        judged_k.append(one)
        score_snc = [other.score_rc for other in judged]
        scorer = one.placed.get(metric, metric)
        scores_k.append(of_seeds(one.y_rc, score_snc, one.patient_r, scorer, seed=seed))
    return _Line(of_runs[0].question, of_runs[0].pretraining, scores_k, judged_k)


def _is_of_the_same(line: _Line, other: _Line, k: int) -> bool:
    """Whether two lines stand for the same records and classes there: heads of two stores may know different ones."""
    one, two = line.judged_k[k], other.judged_k[k]
    return one.classes == two.classes and np.array_equal(one.row_r, two.row_r)


def _reference(first: Drawn, lines: Sequence[_Line]) -> _Line | None:
    """The line of the curve's reference: of its own representation, not of a null."""
    return next((line for line in lines if line.question == first.curve.reference), None)


def _reached(first: Drawn, lines: Sequence[_Line], reference: _Line, metric: str) -> dict[str, Interval]:
    """Of each other line the share of labels at which it reaches the reference's score with the largest share."""
    x_k = np.array([place.x for place in first.places])
    sign = -1.0 if metric in kinds.LESS_IS_BETTER else 1.0
    target = reference.scores_k[-1]
    found = {}
    for line in lines:
        if line is reference or len(x_k) < 2:
            continue
        value_k = sign * np.array([score.value for score in line.scores_k])
        value_kr = sign * np.stack([score.drawn_r() for score in line.scores_k])
        span = reaching(x_k, value_k, sign * target.value, value_kr, sign * target.drawn_r())
        found[f"{line.question} {line.pretraining}"] = Interval(*(_finite(value) for value in span))
    return found


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.nan


def _plain_point(point: CurvePoint) -> dict[str, Any]:
    content = point.model_dump(exclude_none=True)
    return {name: value._asdict() if isinstance(value, Interval) else value for name, value in content.items()}


def _plain(spans: Mapping[str, Interval]) -> dict[str, Any]:
    return {name: span._asdict() for name, span in spans.items()}
