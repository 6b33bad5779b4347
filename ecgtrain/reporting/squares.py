"""Curves of one class each in a square from 0 to 1: ROC, precision and recall, reliability.

Each square is a small SVG of its own and not a part of one picture, so that a page sets four in a row on a desk, two
on a phone, and each can be read there. They are drawn here: as figures of matplotlib they took seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ecgtrain.evaluation.results import Result, RocCurve

#: Squares of a group; more can't be looked at.
MOST_SQUARES = 12
#: Of a square in its drawing: sides of the curves, and room for numbers on the left.
SIDE, LEFT = 176, 22
#: Points between two of a ROC curve, between which precision goes in no straight line.
_BETWEEN = 8

#: Where a curve goes, both from 0 to 1.
Points = npt.NDArray[np.float64]


class Line(NamedTuple):
    """One curve: ``path`` as SVG understands it; ``dots`` where its points should be seen.

    ``is_together``: of what several seeds say together.
    """

    colour: str
    path: str
    is_together: bool
    dots: Sequence[tuple[float, float]] = ()


class Square(NamedTuple):
    """``about`` stands behind the name; ``told`` says the picture in words; ``guide`` is the dashed line."""

    name: str
    about: str
    told: str
    lines: Sequence[Line]
    guide: str


class Squares(NamedTuple):
    """All squares of one kind; ``n_left_out``: classes that are not drawn."""

    heading: str
    across: str
    upwards: str
    caption: str
    squares: Sequence[Square]
    n_left_out: int


def all_squares(results: Sequence[Result], labels: Sequence[str], colours: Sequence[str]) -> list[Squares]:
    """ROC, precision and recall, and reliability, as far as results have them; every line in every square."""
    positives = {name: one.n_positive for result in results for name, one in result.per_class.items()}
    names = [name for name in positives if any(name in result.roc for result in results)]
    kept = set(sorted(names, key=lambda name: -positives[name])[:MOST_SQUARES])
    shown = [name for name in names if name in kept]
    against = ", each class against all others" if results[0].kind == "exclusive" else ""
    n_test = max(results[0].n_test, 1)

    def made(of: Callable[[Result, str], Points | None], score: str, guide: Callable[[str], str]) -> list[Square]:
        squares = []
        for name in shown:
            curves = [of(result, name) for result in results]
            # The first, which is asked about, lies above its nulls.
            lines = [
                Line(colour, _path(curve), bool(result.ensemble_of), _placed(curve) if score == "brier" else ())
                for result, curve, colour in reversed(list(zip(results, curves, colours, strict=True)))
                if curve is not None
            ]
            if lines:
                told = f"{name}: " + ", ".join(_scores(results, labels, name, score))
                squares.append(Square(name, f"{positives[name]:,} positive", told, lines, guide(name)))
        return squares

    n_left_out = len(names) - len(shown)
    parts = [
        Squares(
            "ROC curves",
            "false positive rate",
            "sensitivity",
            f"On the test records{against}. The dashed diagonal is chance.",
            made(_roc, "auroc", lambda name: _path(_DIAGONAL)),
            n_left_out,
        ),
        Squares(
            "Precision and recall",
            "recall (sensitivity)",
            "precision (PPV)",
            f"How often a yes is right, over how many of the positives are found{against}. The dashed line is chance: "
            "the share of positive records.",
            made(
                _precision,
                "auprc",
                lambda name: _path(np.array([[0, 1], [positives[name] / n_test] * 2])),
            ),
            n_left_out,
        ),
        Squares(
            "Reliability",
            "probability that is said",
            "share that is stated",
            "Bins of equally many records, by the probability that was said. On the dashed line what is said with 30 % "
            "is stated in 30 % of the records.",
            made(_reliability, "brier", lambda name: _path(_DIAGONAL)),
            n_left_out,
        ),
    ]
    return [part for part in parts if part.squares]


_DIAGONAL = np.array([[0.0, 1.0], [0.0, 1.0]])


def _roc(result: Result, name: str) -> Points | None:
    curve = result.roc.get(name)
    return None if curve is None else np.array([curve.fpr, curve.tpr])


def _precision(result: Result, name: str) -> Points | None:
    """Recall and precision, from the ROC curve and how many records are positive."""
    curve, score = result.roc.get(name), result.per_class.get(name)
    if curve is None or score is None or not 0 < score.n_positive < result.n_test:
        return None
    return precision_recall(curve, score.n_positive, result.n_test - score.n_positive)


def precision_recall(curve: RocCurve, n_positive: int, n_negative: int) -> Points:
    """What a ROC curve is in precision and recall: (recall, precision), each of its points and some between.

    Between two points of a ROC curve hits and false alarms grow together in a straight line, and precision in none
    (Davis and Goadrich 2006, 10.1145/1143844.1143874).
    """
    n_points = len(curve.fpr)
    at = np.linspace(0, max(n_points - 1, 0), max(n_points - 1, 0) * _BETWEEN + 1)
    false_alarms = n_negative * np.interp(at, np.arange(n_points), curve.fpr)
    hits = n_positive * np.interp(at, np.arange(n_points), curve.tpr)
    said = hits + false_alarms
    some = said > 0
    return np.array([hits[some] / n_positive, hits[some] / said[some]])


def _reliability(result: Result, name: str) -> Points | None:
    found = result.reliability.get(name)
    return None if found is None else np.array([found.mean_said, found.share_stated])


def _scores(results: Sequence[Result], labels: Sequence[str], name: str, score: str) -> list[str]:
    """What each line comes to, such as ``CPC AUROC 0.910``."""
    told = []
    for result, label in zip(results, labels, strict=True):
        of: Mapping[str, object] = result.reliability if score == "brier" else result.per_class
        if name in of:
            value = getattr(of[name], score)
            told.append(f"{label} {'Brier score' if score == 'brier' else score.upper()} {value:.3f}")
    return told


def _placed(points: Points) -> list[tuple[float, float]]:
    whole = points[:, np.isfinite(points).all(axis=0)]
    return [(round(float(LEFT + SIDE * x), 1), round(float(SIDE * (1 - y)), 1)) for x, y in whole.clip(0, 1).T]


def _path(points: Points) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in dict.fromkeys(_placed(points)))
