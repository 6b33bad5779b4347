"""The page: one file without any reference to another. It opens offline, prints, and can be sent by mail."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ecgstore.inner import need
from ecgtrain.evaluation.leaks import are_other_patients
from ecgtrain.evaluation.results import ClassDecision, Result
from ecgtrain.evaluation.scored import FEW_OF_GROUP
from ecgtrain.reporting import asked_over
from ecgtrain.reporting.caveats import groups, n_scored, pretraining
from ecgtrain.reporting.contents import About, Report, RunFacts, StoreFacts
from ecgtrain.reporting.drawings import (
    COLOURS,
    GREY,
    LIGHT_GREY,
    draw_agreement,
    draw_confusion,
    draw_curves,
    draw_reliability,
    draw_roc,
)
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
#: What each says, below a table.
_EXPLAINED = {
    "macro_auroc": "AUROC: how often a record with a finding scores above one without; 0.5 is a coin toss, 1 is "
    "perfect.",
    "macro_auprc": "AUPRC depends on how common a finding is, so compare it within a column only.",
    "f_max": "Fmax: the best F1 over one threshold for all classes, which is chosen on these records.",
    "accuracy": "Accuracy: how often the class with the highest score is the right one.",
    "macro_f1": "F1 balances, class by class, how much of what is said is right and how much of what is there is said.",
    "mae": "MAE: by how much a prediction is off, on average; less is better.",
    "r2": "R²: 1 is perfect, 0 is what the mean of these records gets.",
    "brier": "Brier score: the squared distance of probabilities and facts, summed over classes; 0 is perfect, less is "
    "better.",
    "balanced_accuracy": "Balanced accuracy: the mean over classes, so that rare ones count as much as common ones.",
    "adjacent_accuracy": "Right or adjacent: how often the region that is said is the right one or touches it.",
    "centroid_distance_mm": "Distance of regions: from the middle of the right one to the middle of what is said, on "
    "average; less is better.",
    "distance_mm": "Distance: from the place that is known to the one that is said, straight, on average; less is "
    "better.",
    "median_distance_mm": "Median distance: half of the records are nearer.",
    "geodesic_mm": "Distance through muscle: the shortest way through the walls of the reference heart, on average.",
    "challenge_score": "Challenge score: 1 is perfect, 0 is sinus rhythm said of everyone; thresholds were chosen on "
    "validation records.",
}
#: Answers whose pictures of confusion or agreement are drawn, in a table.
_MOST_DRAWN = 3
#: Protocols whose names are no words.
_PROTOCOLS = {"fine_tune": "fine-tuning", "scratch": "training from scratch", "knn": "nearest neighbours"}
#: Those that train no network: what their lines are called, which have no pretraining.
_BASELINES = {"qrs_integrals": "QRS integrals", "sex_only": "Sex alone"}
#: What they are called in a sentence.
_NULLS = {
    "random": "the untrained network",
    "uncalibrated": "the one whose BatchNorm was not calibrated",
    "shuffled": "the network pretrained on shuffled time",
}
#: One place of three rows of four is the legend's.
_MOST_CURVES = 11


class _Scale(NamedTuple):
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


def render(report: Report) -> str:
    """The whole page as HTML; raises MissingExtra where jinja2 or matplotlib is not installed."""
    need("matplotlib", "train")
    jinja2 = need("jinja2", "train")
    runs = [_run(run, number) for number, run in enumerate(report.runs)]
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": _number, "p_value": _p_value, "signed": _signed, "count": _count, "yaml": _yaml}
    environment.tests["known"] = math.isfinite
    template = environment.from_string(
        resources.files("ecgtrain.reporting").joinpath("report.html.j2").read_text("utf-8")
    )
    page: str = template.render(
        title=report.title or " · ".join(filter(None, (run["name"] for run in runs))) or "Evaluation",
        tasks=list(dict.fromkeys(result.task for result in report.results)),
        caveats=report.caveats,
        groups=[_group(group, i, [run["name"] for run in runs]) for i, group in enumerate(groups(report.results))],
        asked_over=[asked_over.part(curve, number) for number, curve in enumerate(report.asked_over)],
        runs=runs,
        few_of_group=FEW_OF_GROUP,
    )
    return page


def _heading(results: Sequence[Result], names: Sequence[str]) -> str:
    """Task, store and runs of a table."""
    runs = list(dict.fromkeys(result.run for result in results if result.run)) or [name for name in names if name]
    of = f", of {', '.join(runs[:4])}{' …' if len(runs) > 4 else ''}" if runs else ""
    site = f" of {results[0].left_out_site}, which was left out" if results[0].left_out_site else ""
    return f"{results[0].task} on {Path(results[0].store).name}{site}{of}"


def _scale(results: Sequence[Result]) -> _Scale:
    """The axis of what the results are compared by."""
    values = [value for result in results for value in result.score if math.isfinite(value)]
    if results[0].kind == "regression":
        most = max(values, default=1.0)
        step = 10 ** math.floor(math.log10(most)) if most > 0 else 1.0
        return _Scale(0.0, math.ceil(most / step) * step)
    return _Scale(0.5 if results[0].compared_by == "macro_auroc" and min(values, default=0.5) >= 0.5 else 0.0, 1.0)


def _pictures(results: Sequence[Result], labels: Sequence[str], colours: Sequence[str], number: int) -> list[str]:
    """Confusion or agreement of the first few answers."""
    drawn = []
    for i, (result, label, colour) in enumerate(zip(results, labels, colours, strict=True)):
        if result.confusion is not None:
            drawn.append(draw_confusion(result.confusion, label, 100 * number + i))
        if result.agreement is not None:
            drawn.append(draw_agreement(result.agreement, label, result.unit, colour, 100 * number + i))
    return [picture for picture in drawn if picture][:_MOST_DRAWN]


def _protocol(results: Sequence[Result]) -> str:
    """That of a table in words; baselines stand in the table of another."""
    names = [result.protocol for result in results]
    name = next((name for name in names if name not in _BASELINES), names[0])
    return _PROTOCOLS.get(name, _BASELINES.get(name, name.replace("_", " ")))


def _metric_name(name: str, unit: str = "") -> str:
    text = METRIC_TITLES.get(name, name.replace("_", " "))
    return f"{text}, {unit}" if unit and name == "mae" else text


def _constant(results: Sequence[Result]) -> str:
    """What is reached without a look at any signal."""
    first = results[0]
    if first.of_a_constant is None or not math.isfinite(first.of_a_constant):
        return ""
    if first.kind == "exclusive":
        return f"Always saying the most common class of the training records is right in {first.of_a_constant:.3f}."
    unit = f" {first.unit}" if first.unit else ""
    return f"Always saying the median of the training records is off by {first.of_a_constant:.3g}{unit}."


def _dropped(results: Sequence[Result]) -> list[tuple[str, str]]:
    """Why classes are left out, and which: all of them."""
    classes: dict[str, list[str]] = {}
    for name, why in {name: why for result in results for name, why in result.dropped_classes.items()}.items():
        classes.setdefault(why, []).append(name)
    return [(why, ", ".join(names)) for why, names in classes.items()]


def _group(results: Sequence[Result], number: int, names: Sequence[str]) -> dict[str, Any]:
    """One table: results on the same records, with all that is drawn and told of them."""
    first = results[0]
    labels = _labels(results)
    colours = _colours(results)
    metric_names = list(dict.fromkeys(name for result in results for name in result.metrics))
    sites = sorted({site for result in results for site in result.by_site})
    classes = {name: about for result in reversed(results) for name, about in result.per_class.items()}
    drawn = _most_common(results, _MOST_CURVES)
    return {
        "task": first.asked,
        "heading": _heading(results, names),
        "dropped": _dropped(results),
        "n_asked": len({*first.per_class, *first.dropped_classes}),
        "protocol": _protocol(results),
        "n_train": first.n_train,
        "n_test": first.n_test,
        "seeds": first.seeds,
        "are_others": all(are_other_patients(result.caveats) for result in results),
        "store": first.store,
        "verdicts": [text for result, label in zip(results, labels, strict=True) if (text := _verdict(result, label))],
        "metrics": [(name, _metric_name(name, first.unit)) for name in metric_names],
        "compared_by": first.compared_by,
        "compared_in_words": _metric_name(first.compared_by),
        "explained": [_EXPLAINED[name] for name in metric_names if name in _EXPLAINED],
        "constant": _constant(results),
        "kind": first.kind,
        "sites": [(site, next(one.by_site[site] for one in results if site in one.by_site)) for site in sites],
        "by_group": _by_group(results),
        "decisions": [
            {"label": label, "colour": colour, "result": result, "by_group": _decided_by_group(result, drawn)}
            for result, label, colour in zip(results, labels, colours, strict=True)
            if result.decisions and result.pretraining not in _NULLS
        ][:_MOST_DRAWN],
        "reliability": draw_reliability(results, labels, colours, drawn, number),
        "has_challenge": any("challenge_score" in result.metrics for result in results),
        "pictures": _pictures(results, labels, colours, number),
        "agreement": first.agreement,
        "unit": first.unit,
        "against": [
            (null, pretraining(null).lower())
            for null in dict.fromkeys(null for result in results for null in result.difference_to)
        ],
        "scale": _scale(results),
        "rows": [
            {"result": result, "label": label, "colour": colour, "is_null": result.pretraining in _NULLS}
            for result, label, colour in zip(results, labels, colours, strict=True)
        ],
        "classes": classes.items(),
        "n_scored": n_scored(first),
        "n_drawn": len(drawn),
        "roc": draw_roc(results, labels, colours, drawn, number),
    }


def _by_group(results: Sequence[Result]) -> list[tuple[str, list[tuple[str, int]]]]:
    """Groups such as sex, and of each its members with how many test records they have."""
    names = list(dict.fromkeys(group for result in results for group in result.by_group))
    found = []
    for group in names:
        members = {name: one.n_test for result in results for name, one in result.by_group.get(group, {}).items()}
        found.append((group, sorted(members.items(), key=lambda item: _in_order(item[0]))))
    return found


def _decided_by_group(result: Result, shown: Sequence[str]) -> list[tuple[str, list[tuple[str, str, ClassDecision]]]]:
    """Rows of a table for each kind of group: its member, a class that is ``shown``, how decisions turned out."""
    tables = []
    for group, parts in result.decisions_by_group.items():
        members = sorted(parts, key=_in_order)
        rows = [(member, name, parts[member][name]) for name in shown for member in members if name in parts[member]]
        if rows:
            tables.append((group, rows))
    return tables


def _in_order(name: str) -> tuple[bool, bool, str]:
    """Bands of age ascend, and what is not stated comes last."""
    return (name == "", not name.startswith("below"), name)


def _labels(results: Sequence[Result]) -> list[str]:
    """What each line of a table is called: its pretraining, and no more than is needed to tell lines apart."""
    labels = [_BASELINES.get(result.protocol, pretraining(result.pretraining)) for result in results]
    for key in ("run", "name"):
        twice = {label for label in labels if labels.count(label) > 1}
        if len({getattr(result, key) for result in results}) > 1:
            labels = [
                f"{label} ({getattr(result, key)})" if label in twice and getattr(result, key) else label
                for label, result in zip(labels, results, strict=True)
            ]
    return labels


def _colours(results: Sequence[Result]) -> list[str]:
    n_before = 0
    colours = []
    for result in results:
        null = result.pretraining in _NULLS
        lighter = result.pretraining == "uncalibrated"
        colours.append((LIGHT_GREY if lighter else GREY) if null else COLOURS[n_before % len(COLOURS)])
        n_before += not null
    return colours


def _verdict(result: Result, label: str) -> str:
    """What a cardiologist takes home from one line: the score, and whether it beats its null."""
    score, metric = result.score, result.compared_by
    if result.pretraining in _NULLS or not math.isfinite(score.value):
        return ""
    unit = f" {result.unit}" if result.unit and metric in LESS_IS_BETTER else ""
    name = _metric_name(metric).partition(",")[0]  # its unit follows the number
    article, name = {"MAE": ("an", "MAE"), "Accuracy": ("an", "accuracy")}.get(name, ("a", name[0].lower() + name[1:]))
    text = f"{label} reaches {article} {name} of {score.value:.3f}{unit}"
    if math.isfinite(score.low):
        text += f" (95 % interval {score.low:.3f} to {score.high:.3f})"
    for null, difference in result.difference_to.items():
        found = difference.get(metric)
        if found is None or not math.isfinite(found.low):
            continue
        other = _NULLS[null] if null in _NULLS else pretraining(null)
        by = f"{_signed(found.value)} [{_signed(found.low)}, {_signed(found.high)}]"
        p = result.p_of_difference.get(null)
        by += "" if p is None or not math.isfinite(p) else f", p {_p_value(p)}"
        if found.low > 0 or found.high < 0:
            better = (found.low > 0) != (metric in LESS_IS_BETTER)
            text += f", {'better' if better else 'worse'} than {other} by {by}"
        else:
            text += f"; these records can't tell it from {other} ({by})"
    return text + "."


def _run(about: About, number: int) -> dict[str, Any]:
    """What the page tells of one run."""
    folded = {
        "Settings": about.settings,
        "What was done to every record": about.store.recipe,
        "Environment": about.environment,
    }
    name, store = about.name or about.run.name, Path(about.store.path).name
    return {
        "name": name,
        "heading": " on ".join(filter(None, (name, "" if store in name else store))),
        "story": _story(about.run, about.store),
        "store": about.store if about.store != StoreFacts() else None,
        "curves": draw_curves(about.curves, number),
        "folded": [(title, text if isinstance(text, str) else _yaml(text)) for title, text in folded.items() if text],
    }


def _story(run: RunFacts, store: StoreFacts) -> list[str]:
    """How the representation came about, in sentences; what is not known is not said."""
    story = []
    if store.path:
        parts = [
            f"{_count(store.n_records)} records" if store.n_records else "",
            f"{len(store.leads)} leads" if store.leads else "",
            f"{store.fs_hz:g} Hz" if store.fs_hz else "",
        ]
        about = f" ({', '.join(filter(None, parts))})" if any(parts) else ""
        story.append(f"The signals come from {Path(store.path).name}{about}.")
    if run.method:
        network = f" a {run.backbone} network" if run.backbone else " a network"
        size = f" of {_count(run.n_parameters)} parameters" if run.n_parameters else ""
        if run.method == "supervised":
            text = f"The supervised control trained{network}{size} with labels"
        else:
            text = f"{pretraining(run.method)} pretrained{network}{size} without labels"
        if run.n_records:
            text += f" on {_count(run.n_records)} records"
        if run.folds:
            text += f" of {_folds(run.folds)}"
        if run.steps:
            text += f", for {_count(run.steps)} steps"
            text += f" of {run.batch_size} windows" if run.batch_size else ""
        if run.seconds is not None:
            text += f", in {_duration(run.seconds)}"
            text += f" on {run.device}" if run.device else ""
        story.append(text + ".")
    return story


def _folds(folds: Iterable[int]) -> str:
    """Like: folds 1–6, 8."""
    ranges: list[list[int]] = []
    for fold in sorted(folds):
        if ranges and fold == ranges[-1][1] + 1:
            ranges[-1][1] = fold
        else:
            ranges.append([fold, fold])
    shown = [f"{low}–{high}" if high > low else f"{low}" for low, high in ranges]
    one = len(ranges) == 1 and ranges[0][0] == ranges[0][1]
    return f"fold{'' if one else 's'} {', '.join(shown)}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _number(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"


def _signed(value: float) -> str:
    return "–" if not math.isfinite(value) else f"{value:+.3f}".replace("-", "−")


def _p_value(value: float) -> str:
    return "< 0.01" if value < 0.01 else f"= {value:.2f}"


def _count(value: int) -> str:
    return f"{value:,}"


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)


def _most_common(results: Sequence[Result], n: int) -> list[str]:
    """The classes with a ROC curve, at most the ``n`` with most positives, in the order of the table."""
    positives = {name: result.per_class[name].n_positive for result in results for name in result.roc}
    kept = set(sorted(positives, key=lambda name: -positives[name])[:n])
    return [name for name in positives if name in kept]
