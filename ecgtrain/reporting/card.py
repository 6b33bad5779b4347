"""The card of a model: what it says, what it was made from, how good it was, and what nobody has tested. Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ecgstore.inner import visible
from ecgtrain.config import NULLS
from ecgtrain.evaluation.heads import Head
from ecgtrain.evaluation.results import Result, SiteScore
from ecgtrain.evaluation.scored import FEW_OF_GROUP
from ecgtrain.reporting.caveats import pretraining
from ecgtrain.reporting.contents import About, Report
from ecgtrain.reporting.words import METRIC_TITLES
from ecgtrain.scoring.bootstrap import Interval
from ecgtrain.scoring.kinds import LESS_IS_BETTER
from ecgtrain.views.passport import Passport

#: Classes of a table; a model may have a thousand, and all stand in model.json.
_MOST_CLASSES = 200

_SAYS = {
    "multilabel": "For each class it gives a probability; a recording may be of several classes, or of none.",
    "exclusive": "It gives a probability for each class; they add up to 1, because a recording is of one class.",
    "regression": "It gives a number.",
}
_NORMALISED = {
    "none": "left in millivolts",
    "record": "each window by one mean and one standard deviation over all its leads",
    "record_lead": "each lead of each window by its own mean and standard deviation",
    "lead": "each lead by the mean and the standard deviation that it had in the training records",
    "each": "several networks stand side by side, and each has its own leads and its own way (preprocessing.json)",
}


def card(report: Report, head: Head, passport: Passport) -> str:
    """The card of ``head``: the first of the report's results is its own, the others are its nulls."""
    result, *nulls = report.results
    about = report.runs[0] if report.runs else About()
    parts = [
        [f"# {_text(head.name)}: {_text(result.task)}", "", _first_words(result, head, about)],
        ["## What it is for", "", *_intended()],
        ["## What it takes", "", *_takes(head, passport)],
        ["## What it says", "", *_classes(result, head)],
        ["## How good it was", "", *_scores(result, nulls)],
        ["## What it was made from", "", *_made_from(result, head, passport, about)],
        ["## What its numbers don't bear", "", *_limits(report, result, head)],
        ["## What was not tested", "", *_untested(result, head)],
        ["## Files", "", *_files(result)],
    ]
    return "\n\n".join("\n".join(lines).rstrip() for lines in parts) + "\n"


def _text(value: object) -> str:
    """Text from a file as it may stand in a table: one line that does nothing."""
    shown = visible(value)
    for sign in "\\`*[]<>|":
        shown = shown.replace(sign, f"\\{sign}")
    return shown


def _first_words(result: Result, head: Head, about: About) -> str:
    trained = {
        "fine_tune": f"a network that was pretrained by {pretraining(head.pretraining)} and fine-tuned on labels",
        "scratch": "a network that learned from labels alone",
    }.get(head.protocol, f"a head ({_text(head.protocol)}) on a network pretrained by {pretraining(head.pretraining)}")
    if result.ensemble_of:
        seeds = ", ".join(map(str, result.ensemble_of))
        trained += (
            f"; {len(result.ensemble_of)} such, which differ by their seeds ({seeds}): what it says is their mean"
        )
    run = f" The run is called {_text(about.run.name)}." if about.run.name else ""
    return f"A model of electrocardiograms: {trained}. {_SAYS[result.kind]}{run}"


def _intended() -> list[str]:
    return [
        "For research: to study recordings that are like those it was judged on, and to be compared with other models.",
        "",
        "It is not a medical device. It must not be used to diagnose or treat anybody, to decide who is seen first, or "
        "in the place of a person who reads the recording. Before it is used on recordings of another hospital, judge "
        "it on labelled ones from there: `ecgtrain evaluate FOLDER --store STORE`.",
    ]


def _takes(head: Head, passport: Passport) -> list[str]:
    fs_hz, recipe = passport.fs_hz, passport.recipe
    filters = [_filter(one) for one in recipe.get("filters", ()) if isinstance(one, Mapping)]
    rows = [
        ("leads", ", ".join(passport.leads)),
        ("rate", f"{fs_hz:g} Hz, to which recordings are resampled"),
        ("filters", "; ".join(filters) or "none"),
        ("normalisation", _NORMALISED[passport.normalisation.mode]),
        (
            "windows",
            f"{head.window_samples / fs_hz:g} s, one every {head.stride_samples / fs_hz:g} s; the answer is their mean",
        ),
        ("shortest recording", f"{head.window_samples / fs_hz:g} s; a shorter one is left out"),
        ("a lead that is not there", "a limb lead is derived from two others; of another one the network sees zeros"),
        ("preparation", f"SHA-256 {passport.recipe_sha256}"),
    ]
    lines = _table(("", ""), rows)
    return [
        *lines,
        "",
        "`ecgtrain predict` and `ecgtrain.load_classifier` do all of this to raw recordings themselves.",
    ]


def _filter(settings: Mapping[str, Any]) -> str:
    rest = ", ".join(f"{key} {value}" for key, value in settings.items() if key != "name")
    return f"{settings.get('name')}{f' ({rest})' if rest else ''}"


def _classes(result: Result, head: Head) -> list[str]:
    if result.kind == "regression":
        unit = f", in {_text(result.unit)}" if result.unit else ""
        return [f"`{_text(name)}`{unit}." for name in head.classes]
    rows = []
    for name in head.classes[:_MOST_CLASSES]:
        one = result.per_class.get(name)
        cut = head.thresholds.get(name)
        rows.append(
            (
                name,
                "" if one is None else one.title,
                "" if one is None else _number(one.auroc),
                "" if one is None else _number(one.auprc),
                "" if one is None else one.n_positive,
                "" if cut is None else f"{cut:.4g}",
            )
        )
    lines = _table(("class", "title", "AUROC", "AUPRC", "test records that have it", "said from"), rows)
    if len(head.classes) > _MOST_CLASSES:
        lines += ["", f"And {len(head.classes) - _MOST_CLASSES} more: see `model.json`."]
    if result.kind == "multilabel" and not head.thresholds:
        lines += ["", "No thresholds were chosen: the model gives probabilities, and says nothing."]
    if result.unfitted_classes:
        names = ", ".join(_text(name) for name in result.unfitted_classes)
        lines += ["", f"Could not be learned, for want of training records; their probability is constant: {names}."]
    if result.dropped_classes:
        lines += ["", f"Asked for, and left out: {', '.join(_text(name) for name in result.dropped_classes)}."]
    return lines


def _scores(result: Result, nulls: Sequence[Result]) -> list[str]:
    names = [name for name in METRIC_TITLES if any(name in one.metrics for one in (result, *nulls))]
    rows = [(_who(one), one.n_test, *(_interval(one.metrics.get(name)) for name in names)) for one in (result, *nulls)]
    lines = [
        f"On {result.n_test} test records of {_text(Path(result.store).name)}, with 95 % intervals over patients:",
        "",
    ]
    lines += _table(("", "test records", *(METRIC_TITLES[name] for name in names)), rows)
    if any(one.pretraining in NULLS for one in nulls):
        lines += ["", "The untrained networks are nulls: what they get, the data give away without any pretraining."]
    title = METRIC_TITLES.get(result.compared_by, result.compared_by)
    for other, found in result.difference_to.items():
        gain = found.get(result.compared_by)
        if gain is not None:
            lines += ["", f"Minus {_text(pretraining(other))}, on the same patients: {title} {_interval(gain, '+')}."]
    if result.of_a_constant is not None and math.isfinite(result.of_a_constant):
        less = ", where less is better" if result.compared_by in LESS_IS_BETTER else ""
        lines += ["", f"The best answer that looks at no signal gets {result.of_a_constant:.3f}{less}."]
    for group, parts in {"site": result.by_site, **result.by_group}.items():
        if parts:
            lines += ["", f"By {_text(group)}:", ""]
            its = [(name or "not stated", one.n_test, _of_group(one, result)) for name, one in sorted(parts.items())]
            lines += _table((group, "test records", title), its)
    if result.decisions:
        how = (
            "The likeliest class is said of each" if result.kind == "exclusive" else "Said from the thresholds below on"
        )
        lines += ["", f"{how}, on the same test records:", ""]
        figures = ("sensitivity", "specificity", "ppv", "npv", "f1")
        decided = [
            (name, *(_interval(one.figures.get(figure)) for figure in figures))
            for name, one in list(result.decisions.items())[:_MOST_CLASSES]
        ]
        lines += _table(("class", "sensitivity", "specificity", "PPV", "NPV", "F1"), decided)
    return lines


def _who(result: Result) -> str:
    """Whose scores these are: of several seeds, whether of all together or of one on average."""
    said = pretraining(result.pretraining)
    if result.ensemble_of:
        return f"{said}, {len(result.ensemble_of)} seeds together"
    return f"{said}, mean of {len(result.seeds)} seeds" if result.seeds else said


def _of_group(found: SiteScore, result: Result) -> str:
    if found.n_test < FEW_OF_GROUP:
        return "too few to say"
    return _interval(found.metrics.get(result.compared_by))


def _made_from(result: Result, head: Head, passport: Passport, about: About) -> list[str]:
    run, store = about.run, about.store
    chosen = {name: value for name, value in result.chosen.items() if isinstance(value, str | int | float)}
    rows = [
        ("pretraining", _pretraining(head, about)),
        ("network", f"{run.backbone}{f', {run.n_parameters:,} parameters' if run.n_parameters else ''}"),
        ("labels", f"{head.n_train} records taught, {result.n_validation or 0} chose, {result.n_test} tested"),
        ("protocol", head.protocol),
        ("chosen on validation records", ", ".join(f"{name} {value}" for name, value in chosen.items())),
        ("test folds", ", ".join(map(str, head.test_folds or ("all",))) if result.left_out_site is None else ""),
        ("site that was left out for the test", result.left_out_site or ""),
        ("seed", ", ".join(map(str, result.ensemble_of or (head.seed,)))),
        ("store of pretraining", passport.store_fingerprint),
        ("store of the test", result.store_fingerprint or ""),
        ("patients", store.patients),
    ]
    lines = _table(("", ""), [row for row in rows if str(row[1]).strip()])
    if store.terms:
        lines += ["", "Recordings:", ""]
        terms = [(one.name, one.version, one.licence, one.doi) for one in store.terms]
        lines += _table(("source", "version", "licence", "DOI"), terms)
    return lines


def _pretraining(head: Head, about: About) -> str:
    run = about.run
    if head.protocol == "scratch":
        return "none"
    folds = f" of folds {', '.join(map(str, run.folds))}" if run.folds else ""
    told = [pretraining(head.pretraining)]
    told += [f"{run.n_records:,} records{folds}"] if run.n_records else []
    told += [f"{run.steps:,} steps of {run.batch_size} windows"] if run.steps and run.batch_size else []
    return ", ".join(told)


def _limits(report: Report, result: Result, head: Head) -> list[str]:
    said = list(dict.fromkeys([*report.caveats, *(f"{text}." for text in result.caveats)]))
    lines = [f"- {_text(text)}" for text in said if not any(text != other and text in other for other in said)]
    if result.kind != "regression":
        lines.append("- Probabilities are as the network gives them: whether 0.8 means eight in ten was not looked at.")
    if head.thresholds:
        lines.append("- Thresholds were chosen on validation records, and fit where findings are as common as there.")
    return lines


def _untested(result: Result, head: Head) -> list[str]:
    lines = []
    if result.left_out_site is None and len(result.by_site) < 2:
        lines.append(
            "- Recordings of another hospital, another device, or other people than those of the test records."
        )
    else:
        lines.append("- Recordings of sites and devices that stand in no table above.")
    lines += [
        "- Groups of people: women and men, ages, origins, unless a table above says so.",
        "- Recordings with leads that are missing, swapped or bad.",
        "- Findings that stand in no table above. That no class is likely doesn't mean that a recording is normal.",
        "- What a person does with the answer.",
    ]
    return lines


def _files(result: Result) -> list[str]:
    of_each = [
        ("`export/`", "the network: weights (safetensors) and settings"),
        ("`downstream/`", "the head: weights, settings, what was found"),
        ("`seen.parquet`", "which records it has learned from, so that nobody tests on them; also in `downstream/`"),
    ]
    if result.ensemble_of:
        of_each = [("`seeds/`", "of each seed such a folder: `export/`, `downstream/`, `seen.parquet`")]
    rows = [
        ("`card.md`", "this page"),
        ("`model.json`", "classes, titles, thresholds and windows, for programs"),
        ("`preprocessing.json`", "the passport: how signals are prepared"),
        *of_each,
        ("`report.json`, `report.html`", "what was found, for programs and for people"),
    ]
    return [
        "| file | what it holds |",
        "|---|---|",
        *(f"| {name} | {what} |" for name, what in rows),
        "",
        "`seen.parquet` and the head's `head.json` hold names of records and hashes of patients. Look at them before "
        "you give the folder to others.",
    ]


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return lines + [f"| {' | '.join(_text(cell) for cell in row)} |" for row in rows]


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "–"


def _interval(found: Interval | None, sign: str = "") -> str:
    if found is None or not math.isfinite(found.value):
        return "–"
    return f"{found.value:{sign}.3f} ({found.low:{sign}.3f} to {found.high:{sign}.3f})"
