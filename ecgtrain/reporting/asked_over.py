"""Curves on the page: the same question over more labels, more noise, fewer leads; in sentences and as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ecgtrain.config import NULLS
from ecgtrain.evaluation.curve_results import CurvePoint, CurveResult
from ecgtrain.reporting.caveats import pretraining
from ecgtrain.reporting.drawings import COLOURS, GREY, LIGHT_GREY, style, svg
from ecgtrain.scoring.bootstrap import Interval
from ecgtrain.scoring.kinds import LESS_IS_BETTER

#: Kinds whose axis is a share, told as per cent on a logarithmic axis; others stand side by side.
_SHARES = ("label_efficiency",)
#: Kinds whose places are in no order: nothing lies between them.
_WITHOUT_ORDER = ("transfer",)


def label(curve: CurveResult, line: tuple[str, str]) -> str:
    """What a line is called: its pretraining, and the question where it is not alone."""
    question, name = line
    questions = {one for one, _ in curve.lines}
    return pretraining(name) if len(questions) == 1 else f"{pretraining(name)} ({question})"


def sentences(curve: CurveResult) -> list[str]:
    """What a curve comes to, each in one sentence."""
    return [*_reached(curve), *_lost(curve)]


def _reached(curve: CurveResult) -> list[str]:
    """How many labels are enough."""
    told = []
    most = max((point.x for point in curve.points), default=1.0)
    for line in curve.lines:
        found = curve.reached.get(" ".join(line))
        if found is None or line[1] in NULLS:
            continue
        whole = "all labels" if most == 1 else f"{_share(most)} of the labels"
        what = f"what {curve.reference} reaches with {whole}"
        least = min(point.x for point in curve.points)
        if not math.isfinite(found.value):
            told.append(f"{label(curve, line)} does not reach {what}.")
            continue
        at = f"with {_share(found.value)} of them" if found.value > least else f"with {_share(least)} or fewer"
        told.append(
            f"{label(curve, line)} reaches {what} {at} (95 % interval {_share(found.low)} to {_share(found.high)})."
        )
    return told


def _share(value: float) -> str:
    return f"{100 * value:.2g} %" if value < 0.1 else f"{100 * value:.0f} %" if math.isfinite(value) else "never"


def _lost(curve: CurveResult) -> list[str]:
    """Where the largest change costs one more than the reference, or less."""
    told = []
    for line, points in curve.lines.items():
        last = points[-1]
        if last.change_against is None or last.change is None or line[1] in NULLS:
            continue
        lost = last.change_against
        better = (lost.value > 0) != (curve.metric in LESS_IS_BETTER)
        sure = lost.low > 0 or lost.high < 0
        than = (
            f"{'less' if better else 'more'} than {curve.reference}"
            if sure
            else f"as {curve.reference}, as far as these records tell"
        )
        told.append(
            f"At {last.told} {label(curve, line)} changes by {_signed(last.change)}, {than} "
            f"(difference {_signed(lost)})."
        )
    return told


def _signed(span: Interval) -> str:
    return f"{span.value:+.3f} [{span.low:+.3f}, {span.high:+.3f}]".replace("-", "−")


def draw(curve: CurveResult, number: int) -> str:
    """Every line with its interval as a band, or as bars where places have no order."""
    lines = curve.lines
    colours = _colours(list(lines))
    is_share = curve.kind in _SHARES
    with style(f"asked_over{number}"):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9.4, 4.2), layout="constrained")
        axis = figure.subplots()
        for number_of_line, (line, points) in enumerate(lines.items()):
            at = _places(points, is_share)
            score, low, high = zip(*(point.score for point in points), strict=True)
            if curve.kind in _WITHOUT_ORDER:
                shifted = [x + 0.5 * (number_of_line + 0.5) / len(lines) - 0.25 for x in at]
                bars = [np.subtract(score, low), np.subtract(high, score)]
                axis.errorbar(
                    shifted, score, bars, color=colours[line], fmt="o", ms=5, lw=1.8, label=label(curve, line)
                )
                continue
            axis.plot(at, score, color=colours[line], lw=1.8, marker="o", ms=4, label=label(curve, line))
            axis.fill_between(at, low, high, color=colours[line], alpha=0.13, lw=0)
        if is_share:
            axis.set_xscale("log")
            shares = sorted({point.x for point in curve.points})
            axis.set_xticks(shares, [_share(share) for share in shares])
            axis.minorticks_off()
        else:
            first = next(iter(lines.values()))
            axis.set_xticks(range(len(first)), [point.told for point in first])
        axis.set(xlabel=curve.axis.lower(), ylabel=metric_in_words(curve))
        # Bars reach into every corner.
        beside: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
        axis.legend(frameon=False, **(beside if curve.kind in _WITHOUT_ORDER else {}))
        return svg(figure, f"{metric_in_words(curve)} over {curve.axis.lower()}")


def metric_in_words(curve: CurveResult) -> str:
    """The metric of the axis, with its unit."""
    name = {"macro_auroc": "macro AUROC", "mae": "MAE"}.get(curve.metric, curve.metric.replace("_", " "))
    return f"{name} ({curve.unit})" if curve.unit else name


def _places(points: Sequence[CurvePoint], is_share: bool) -> list[float]:
    return [point.x for point in points] if is_share else [float(k) for k in range(len(points))]


def _colours(lines: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
    of_nulls = iter((GREY, LIGHT_GREY) * len(lines))
    of_others = iter(COLOURS * len(lines))
    return {line: next(of_nulls if line[1] in NULLS else of_others) for line in lines}


def part(curve: CurveResult, number: int, stores: Mapping[str, str]) -> dict[str, Any]:
    """What the page's template shows of a curve; ``stores``: the name of the store of each run."""
    lines = curve.lines
    first = next(iter(lines.values()), [])
    run = curve.run or (next(iter(stores)) if len(stores) == 1 else "")
    on = f" on {stores[run]}" if stores.get(run) and curve.kind != "transfer" else ""
    of = f"{on}, of {run}" if run else on
    return {
        "heading": f"{_HEADINGS.get(curve.kind, curve.kind)}: {curve.task}{of}",
        "sentences": sentences(curve),
        "picture": draw(curve, number),
        "places": [point.told for point in first],
        "axis": curve.axis,
        "rows": [(label(curve, line), line[1] in NULLS, points) for line, points in lines.items()],
        "metric": metric_in_words(curve),
        "reference": curve.reference,
        "is_without_order": curve.kind in _WITHOUT_ORDER,
        "n_ways": curve.n_draws * max(len(curve.seeds), 1),
        "n_draws": curve.n_draws,
        "seeds": curve.seeds,
        "has_change": any(point.change is not None for point in curve.points),
    }


_HEADINGS = {
    "label_efficiency": "How many labels are needed",
    "noise_robustness": "What noise costs",
    "lead_subsets": "What missing leads cost",
    "rate_and_gain": "What another recorder costs",
    "transfer": "What the answers are worth on other stores",
}
