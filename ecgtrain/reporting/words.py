"""By which words and colours things go: metrics, protocols, nulls, the lines of a table, and what a line comes to."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ecgtrain.evaluation.results import Result
from ecgtrain.reporting.caveats import pretraining
from ecgtrain.reporting.drawings import COLOURS, GREY, LIGHT_GREY
from ecgtrain.scoring.kinds import LESS_IS_BETTER

#: What metrics are called.
METRIC_TITLES = {
    "macro_auroc": "Macro AUROC",
    "macro_auprc": "Macro AUPRC",
    "f_max": "Fmax",
    "accuracy": "Accuracy",
    "macro_f1": "Macro F1",
    "brier": "Brier score",
    "mae": "MAE",
    "r2": "R²",
    "challenge_score": "Challenge score",
    "balanced_accuracy": "Balanced accuracy",
    "adjacent_accuracy": "Right or adjacent",
    "centroid_distance_mm": "Distance of regions, mm",
    "distance_mm": "Distance, mm",
    "median_distance_mm": "Median distance, mm",
    "geodesic_mm": "Distance through muscle, mm",
}
#: Protocols whose names are no words.
_PROTOCOLS = {"fine_tune": "fine-tuning", "scratch": "training from scratch", "knn": "nearest neighbours"}
#: Those that train no network: what their lines are called, which have no pretraining.
BASELINES = {"qrs_integrals": "QRS integrals", "sex_only": "Sex alone"}
#: What they are called in a sentence.
NULLS = {
    "random": "the untrained network",
    "uncalibrated": "the one whose BatchNorm was not calibrated",
    "shuffled": "the network pretrained on shuffled time",
}


def protocol(results: Sequence[Result]) -> str:
    """That of a table in words; baselines stand in the table of another."""
    names = [result.protocol for result in results]
    name = next((name for name in names if name not in BASELINES), names[0])
    return _PROTOCOLS.get(name, BASELINES.get(name, name.replace("_", " ")))


def metric_name(name: str, unit: str = "") -> str:
    text = METRIC_TITLES.get(name, name.replace("_", " "))
    return f"{text}, {unit}" if unit and name == "mae" else text


def labels(results: Sequence[Result]) -> list[str]:
    """What each line of a table is called: its pretraining, and no more than is needed to tell lines apart."""
    labels = [_label(result) for result in results]
    for key in ("run", "name"):
        twice = {label for label in labels if labels.count(label) > 1}
        if len({getattr(result, key) for result in results}) > 1:
            labels = [
                f"{label} ({getattr(result, key)})" if label in twice and getattr(result, key) else label
                for label, result in zip(labels, results, strict=True)
            ]
    return labels


def _label(result: Result) -> str:
    name = BASELINES.get(result.protocol, pretraining(result.pretraining))
    return f"{name}, {len(result.ensemble_of)} seeds together" if result.ensemble_of else name


def colours(results: Sequence[Result]) -> list[str]:
    """A colour for each line: nulls are grey, and several seeds together have that of one of them."""
    of_answers: dict[tuple[str | None, str, str], str] = {}
    for result in results:
        if result.pretraining in NULLS:
            of_answers[_whose(result)] = LIGHT_GREY if result.pretraining == "uncalibrated" else GREY
        elif _whose(result) not in of_answers:
            n_before = sum(colour in COLOURS for colour in of_answers.values())
            of_answers[_whose(result)] = COLOURS[n_before % len(COLOURS)]
    return [of_answers[_whose(result)] for result in results]


def one_seed_of(result: Result, results: Sequence[Result]) -> Result | None:
    """Of an answer that several seeds give together, the mean of what each of them reaches by itself."""
    its = (other for other in results if not other.ensemble_of and _whose(other) == _whose(result))
    return next(its, None) if result.ensemble_of else None


def _whose(result: Result) -> tuple[str | None, str, str]:
    return result.run, result.name, result.pretraining


def verdict(result: Result, label: str) -> str:
    """What a cardiologist takes home from one line: the score, and whether it beats its null."""
    score, metric = result.score, result.compared_by
    if result.pretraining in NULLS or not math.isfinite(score.value):
        return ""
    unit = f" {result.unit}" if result.unit and metric in LESS_IS_BETTER else ""
    name = metric_name(metric).partition(",")[0]  # its unit follows the number
    article, name = {"MAE": ("an", "MAE"), "Accuracy": ("an", "accuracy")}.get(name, ("a", name[0].lower() + name[1:]))
    text = f"{label} reaches {article} {name} of {score.value:.3f}{unit}"
    if math.isfinite(score.low):
        text += f" (95 % interval {score.low:.3f} to {score.high:.3f})"
    for null, difference in result.difference_to.items():
        found = difference.get(metric)
        if found is None or not math.isfinite(found.low):
            continue
        other = NULLS[null] if null in NULLS else pretraining(null)
        by = f"{signed(found.value)} [{signed(found.low)}, {signed(found.high)}]"
        p = result.p_of_difference.get(null)
        by += "" if p is None or not math.isfinite(p) else f", p {p_value(p)}"
        if found.low > 0 or found.high < 0:
            better = (found.low > 0) != (metric in LESS_IS_BETTER)
            text += f", {'better' if better else 'worse'} than {other} by {by}"
        else:
            text += f"; these records can't tell it from {other} ({by})"
    return text + "."


def signed(value: float) -> str:
    return "–" if not math.isfinite(value) else f"{value:+.3f}".replace("-", "−")


def p_value(value: float) -> str:
    return "< 0.01" if value < 0.01 else f"= {value:.2f}"
