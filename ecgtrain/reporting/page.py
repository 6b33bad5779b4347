"""The page: one file without any reference to another. It opens offline, prints, and can be sent by mail."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from ecgstore.inner import need, visible_on_page
from ecgtrain.evaluation.leaks import are_other_patients
from ecgtrain.evaluation.results import ClassDecision, Result
from ecgtrain.evaluation.scored import FEW_OF_GROUP
from ecgtrain.reporting import asked_over, summary, words
from ecgtrain.reporting.caveats import groups, n_scored, pretraining
from ecgtrain.reporting.contents import About, Report, RunFacts, StoreFacts
from ecgtrain.reporting.downloads import downloads
from ecgtrain.reporting.drawings import draw_agreement, draw_curves
from ecgtrain.reporting.squares import MOST_SQUARES, all_squares
from ecgtrain.reporting.worst import Worst

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
#: Classes of a table of confusion; more can't be read.
_MOST_CONFUSED = 30


def render(report: Report, worst: Sequence[Worst] = ()) -> str:
    """The whole page as HTML, with the records that answers are most wrong about.

    Raises MissingExtra where jinja2 or matplotlib is not installed.
    """
    need("matplotlib", "train")
    template = _template()
    runs = [_run(run, number) for number, run in enumerate(report.runs)]
    names, its_groups = [run["name"] for run in runs], groups(report.results)
    stores = {run["name"]: run["store_name"] for run in runs}
    summed_up = summary.lines(its_groups, names)
    page: str = template.render(
        title=report.title or " · ".join(filter(None, names)) or "Evaluation",
        tasks=list(dict.fromkeys(result.task for result in report.results)),
        caveats=report.caveats,
        summary=summed_up,
        has_runs=len({line.run for line in summed_up}) > 1,
        downloads=downloads(report),
        groups=[_group(group, i, names, worst) for i, group in enumerate(its_groups)],
        asked_over=[asked_over.part(curve, number, stores) for number, curve in enumerate(report.asked_over)],
        runs=runs,
        few_of_group=FEW_OF_GROUP,
    )
    return page.lstrip()


@cache
def _template() -> Any:
    """The page's template, compiled once; raises MissingExtra where jinja2 is not installed."""
    jinja2 = need("jinja2", "train")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=visible_on_page)
    environment.filters |= {
        "number": _number,
        "p_value": words.p_value,
        "signed": words.signed,
        "count": _count,
        "yaml": _yaml,
    }
    environment.filters["breakable"] = lambda text: jinja2.filters.do_mark_safe(
        str(jinja2.filters.escape(text)).replace("/", "/<wbr>")
    )
    environment.tests["known"] = math.isfinite
    return environment.from_string(resources.files("ecgtrain.reporting").joinpath("report.html.j2").read_text("utf-8"))


def _of(results: Sequence[Result], names: Sequence[str]) -> str:
    """The store and the runs of a table, such as ``on ptbxl.ecg, of cpc``."""
    runs = list(dict.fromkeys(result.run for result in results if result.run)) or [name for name in names if name]
    of = f", of {', '.join(runs[:4])}{' …' if len(runs) > 4 else ''}" if runs else ""
    site = f" of {results[0].left_out_site}, which was left out" if results[0].left_out_site else ""
    return f"on {Path(results[0].store).name}{site}{of}"


def _agreements(
    results: Sequence[Result], labels: Sequence[str], colours: Sequence[str], number: int
) -> list[tuple[str, str]]:
    """Pictures of predicted and known numbers, of the first few answers, each with its label."""
    drawn = [
        (label, draw_agreement(result.agreement, result.unit, colour, 100 * number + i))
        for i, (result, label, colour) in enumerate(zip(results, labels, colours, strict=True))
        if result.agreement is not None and result.agreement.pairs
    ]
    return drawn[:_MOST_DRAWN]


def _confusions(results: Sequence[Result], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Which class is said of the records of which, of the first few answers: records, and their share of the row."""
    found = []
    for result, label in zip(results, labels, strict=True):
        if result.confusion is not None and len(result.confusion.classes) <= _MOST_CONFUSED:
            rows = [
                (name, [(n, n / (sum(counts) or 1)) for n in counts])
                for name, counts in zip(result.confusion.classes, result.confusion.counts, strict=True)
            ]
            found.append({"label": label, "classes": result.confusion.classes, "rows": rows})
    return found[:_MOST_DRAWN]


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


def _group(results: Sequence[Result], number: int, names: Sequence[str], worst: Sequence[Worst]) -> dict[str, Any]:
    """One table: results on the same records, with all that is drawn and told of them."""
    first = results[0]
    labels, colours = words.labels(results), words.colours(results)
    metric_names = list(dict.fromkeys(name for result in results for name in result.metrics))
    sites = sorted({site for result in results for site in result.by_site})
    classes = {name: about for result in reversed(results) for name, about in result.per_class.items()}
    return {
        "task": first.asked,
        "heading": f"{first.task} {_of(results, names)}",
        "of": _of(results, names),
        "dropped": _dropped(results),
        "n_asked": len({*first.per_class, *first.dropped_classes}),
        "protocol": words.protocol(results),
        "n_train": first.n_train,
        "n_test": first.n_test,
        "seeds": first.seeds,
        "has_ensemble": any(result.ensemble_of for result in results),
        "are_others": all(are_other_patients(result.caveats) for result in results),
        "store": first.store,
        "verdicts": [
            text for result, label in zip(results, labels, strict=True) if (text := words.verdict(result, label))
        ],
        "metrics": [(name, words.metric_name(name, first.unit)) for name in metric_names],
        "compared_by": first.compared_by,
        "compared_in_words": words.metric_name(first.compared_by),
        "explained": [_EXPLAINED[name] for name in metric_names if name in _EXPLAINED],
        "constant": _constant(results),
        "kind": first.kind,
        "sites": [(site, next(one.by_site[site] for one in results if site in one.by_site)) for site in sites],
        "by_group": _by_group(results),
        "decisions": [
            {"label": label, "colour": colour, "result": result, "by_group": _decided_by_group(result)}
            for result, label, colour in zip(results, labels, colours, strict=True)
            if result.decisions and result.pretraining not in words.NULLS
        ][:_MOST_DRAWN],
        "has_challenge": any("challenge_score" in result.metrics for result in results),
        "agreements": _agreements(results, labels, colours, number),
        "confusions": _confusions(results, labels),
        "squares": all_squares(results, labels, colours),
        "worst": [
            {"label": label, "records": one.records, "note": one.note}
            for result, label in zip(results, labels, strict=True)
            for one in worst
            if one.is_of(result)
        ],
        "agreement": first.agreement,
        "unit": first.unit,
        "against": [
            (null, pretraining(null).lower())
            for null in dict.fromkeys(null for result in results for null in result.difference_to)
        ],
        "scale": summary.scale_of(results),
        "rows": [
            {"result": result, "label": label, "colour": colour, "is_null": result.pretraining in words.NULLS}
            for result, label, colour in zip(results, labels, colours, strict=True)
        ],
        "classes": classes.items(),
        "has_titles": any(about.title for about in classes.values()),
        "n_scored": n_scored(first),
    }


def _by_group(results: Sequence[Result]) -> list[tuple[str, list[tuple[str, int]]]]:
    """Groups such as sex, and of each its members with how many test records they have."""
    names = list(dict.fromkeys(group for result in results for group in result.by_group))
    found = []
    for group in names:
        members = {name: one.n_test for result in results for name, one in result.by_group.get(group, {}).items()}
        found.append((group, sorted(members.items(), key=lambda item: _in_order(item[0]))))
    return found


def _decided_by_group(result: Result) -> list[tuple[str, list[tuple[str, list[tuple[str, ClassDecision]]]]]]:
    """A table for each kind of group: of each of the commonest classes how decisions turned out, member by member."""
    commonest = sorted(result.per_class, key=lambda name: -result.per_class[name].n_positive)[:MOST_SQUARES]
    shown = [name for name in result.per_class if name in commonest]
    tables = []
    for group, parts in result.decisions_by_group.items():
        members = sorted(parts, key=_in_order)
        rows = [(name, [(one, parts[one][name]) for one in members if name in parts[one]]) for name in shown]
        if any(its for _, its in rows):
            tables.append((group, [(name, its) for name, its in rows if its]))
    return tables


def _in_order(name: str) -> tuple[bool, bool, str]:
    """Bands of age ascend, and what is not stated comes last."""
    return (name == "", not name.startswith("below"), name)


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
        "store_name": store,
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


def _count(value: int) -> str:
    return f"{value:,}"


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)
