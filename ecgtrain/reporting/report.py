"""What a run found, as ``report.json`` for programs and ``report.html`` for people.

The page is one file without any reference to another: it opens offline, prints, and can be sent by mail.

A report is a mapping. Of ``results`` the first lines are fixed; all else may be absent, and is then left out
of the page::

    title, caveats: [text]
    results: [{name, task, protocol, pretraining, store, n_train, n_test,
               metrics: {macro_auroc: {value, low, high}, …},
               per_class: {class: {auroc, auprc, n_positive, title?}},
               difference_to: {pretraining: {metric: {value, low, high}}},    # paired, this minus that
               roc: {class: {fpr: […], tpr: […]}},
               store_fingerprint, caveats: [text], run: name of one of runs}]
    run: {name, method, backbone, n_parameters, n_records, folds, steps, batch_size, seconds, device, seed}
    store: {path, fingerprint, n_records, fs_hz, leads, recipe, terms: [Terms]}
    curves: what loss_curves() returns
    settings: YAML text or a mapping
    environment: versions and machine

:func:`merge` puts several side by side; ``runs`` is then a list of {name, run, store, …, environment}.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from ecgstore import ConfigError
from ecgstore.inner import need
from ecgtrain.training.files import plain, write_json, write_text
from ecgtrain.training.layout import PAGE, REPORT
from ecgtrain.training.log import Line

#: What shows whether features collapse; drawn below the terms of the loss.
_WATCHED = ("feature_std", "effective_rank", "alignment", "uniformity", "online_probe_auroc")
_ABOUT_RUN = ("run", "store", "curves", "settings", "environment")
_OF_RESULT = ("name", "task", "protocol", "pretraining", "store", "n_train", "n_test", "metrics", "per_class")

#: Below this many test records, and below this many positives of a class, a report warns.
FEW_RECORDS = 200
FEW_POSITIVES = 10

_METRICS = {"macro_auroc": "Macro AUROC", "macro_auprc": "Macro AUPRC", "f_max": "Fmax"}
_PRETRAINING = {
    "random": "Untrained network",
    "uncalibrated": "Untrained, uncalibrated",
    "supervised": "Supervised",
    "shuffled": "Shuffled labels",
    "cpc": "CPC",
    "simclr": "SimCLR",
    "byol": "BYOL",
    "swav": "SwAV",
    "lcd": "LCD",
    "stj": "STJ",
    "mae": "Masked autoencoding",
    "jepa": "JEPA",
}
#: What they are called in a sentence.
_NULLS = {
    "random": "the untrained network",
    "uncalibrated": "the one whose BatchNorm was not calibrated",
    "shuffled": "the shuffled labels",
}
#: One place of three rows of four is the legend's.
_MOST_CURVES = 11
_GREY, _LIGHT_GREY = "#8b929c", "#aeb5bf"
# Told apart by people who don't see red and green alike (Okabe and Ito, 2008).
_COLOURS = ("#0060a8", "#c4500a", "#00795a", "#a3478a", "#946f00", "#3a3f47")


def write_report(path: str | Path, report: Mapping[str, Any]) -> dict[str, Any]:
    """Write ``report.json`` and ``report.html`` into the folder ``path``, each whole or not at all.

    Returns what was written: ``report`` in plain numbers, with the caveats that follow from them. Raises
    ConfigError where a result lacks one of its fixed keys.
    """
    folder = Path(path)
    content: dict[str, Any] = plain(report)
    _check(content, folder)
    # Those that belong to one result are told with its name.
    told = {text for result in content["results"] for text in result.get("caveats", [])}
    given = [text for text in content.get("caveats", []) if text not in told]
    content["caveats"] = list(dict.fromkeys([*given, *caveats(content)]))
    page = render(content)
    folder.mkdir(parents=True, exist_ok=True)
    # Keys keep their order, which says how classes and scores are listed; the same report gives the same bytes.
    write_json(folder / REPORT, content)
    write_text(folder / PAGE, page)
    return content


def read_report(path: str | Path) -> dict[str, Any]:
    """Read back the report of the run in the folder ``path``; raises ConfigError where there is none."""
    file = Path(path) / REPORT
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError("there is no report", where=file, fix="evaluate the run first") from None
    except ValueError as error:
        raise ConfigError("the report can't be read", where=file, got=str(error)) from None
    _check(content, file)
    return content


def merge(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Put reports of single runs side by side: all results, each with the name of its run, and all runs.

    Runs of the same name are numbered. Caveats are left to be found anew by :func:`write_report`.
    """
    merged: dict[str, Any] = {"results": [], "runs": []}
    for report in map(plain, reports):
        taken = {run["name"] for run in merged["runs"]}
        stem = report.get("run", {}).get("name") or "run"
        names = itertools.chain([stem], (f"{stem} ({number})" for number in itertools.count(2)))
        name = next(name for name in names if name not in taken)
        merged["runs"].append({"name": name, **_about_run(report)})
        merged["results"] += [{**one, "run": name} for one in report["results"]]
    return merged


def _about_run(report: Mapping[str, Any]) -> dict[str, Any]:
    return {key: report[key] for key in _ABOUT_RUN if report.get(key)}


def loss_curves(lines: Sequence[Line]) -> dict[str, dict[str, list[float]]]:
    """The terms of the loss, from the lines of a run's ``metrics.jsonl``.

    Returns columns per split: ``{"chance": {term: [value]}, "train": {"step": […], term: […]}, "validation": …}``.
    A term is what validation or chance level speaks of (else the loss alone), and how the features lie
    (:mod:`ecgtrain.training.diagnostics`); speeds and rates are left out.
    """
    terms = {name for line in lines if line.split in ("chance", "validation") for name in line.values}
    terms |= {"loss", *_WATCHED}
    curves: dict[str, dict[str, list[float]]] = {}
    for line in lines:
        columns = curves.setdefault(line.split, {})
        if line.split != "chance":
            columns.setdefault("step", []).append(line.step)
        for name in sorted(terms):
            if name in line.values:
                columns.setdefault(name, []).append(line.values[name])
    return curves


def _check(report: Mapping[str, Any], where: Path) -> None:
    if not isinstance(report.get("results"), list):
        raise ConfigError("a report needs a list of results", where=where)
    for i, result in enumerate(report["results"]):
        missing = [key for key in _OF_RESULT if key not in result]
        if missing:
            raise ConfigError(f"result {i} of a report lacks {', '.join(missing)}", where=where)


def caveats(report: Mapping[str, Any]) -> list[str]:
    """What the numbers don't bear, in sentences."""
    texts = []
    for group in _groups(report["results"]):
        first = group[0]
        where = f"{first['task']}: " if len(_groups(report["results"])) > 1 else ""
        if first["n_test"] < FEW_RECORDS:
            texts.append(
                f"{where}{first['n_test']} test records are too few to rank methods: {_width(group)}"
                "read the intervals, not the third digit."
            )
        rare = {
            name: about["n_positive"]
            for name, about in first["per_class"].items()
            if 0 < about["n_positive"] < FEW_POSITIVES
        }
        if rare:
            shown = ", ".join(f"{name} ({n})" for name, n in list(rare.items())[:8])
            more = f" and {len(rare) - 8} more" if len(rare) > 8 else ""
            texts.append(
                f"{where}Fewer than {FEW_POSITIVES} positive test records: {shown}{more}. "
                "The score of such a class is mostly chance."
            )
    for result in report["results"]:
        whose = _pretraining(result["pretraining"])
        texts += [f"{whose} on {result['task']}: {text}." for text in result.get("caveats", [])]
    return texts + _apart(report["results"])


def _width(group: Sequence[Mapping[str, Any]]) -> str:
    intervals = [result["metrics"].get("macro_auroc") or {} for result in group]
    widths = [one["high"] - one["low"] for one in intervals if one.get("low") is not None]
    return f"the intervals of macro AUROC are up to {max(widths):.2f} wide; " if widths else ""


def _apart(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say where results of one task stand in different tables."""
    tasks = [group[0]["task"] for group in _groups(results)]
    return [
        f"Results on {task} were judged on different records or by different protocols: compare within a table only."
        for task in dict.fromkeys(tasks)
        if tasks.count(task) > 1
    ]


def _groups(results: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Results that may be compared: the same task and protocol on the same test records, as far as is known."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for result in results:
        key = (*(result[name] for name in ("task", "protocol", "store", "n_test")), result.get("store_fingerprint"))
        groups.setdefault(key, []).append(result)
    return list(groups.values())


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


def render(report: Mapping[str, Any]) -> str:
    """The whole page as HTML; raises MissingExtra where jinja2 or matplotlib is not installed."""
    need("matplotlib", "train")
    jinja2 = need("jinja2", "train")
    report = plain(report)
    runs = [_run(run, number) for number, run in enumerate(report.get("runs") or [_about_run(report)])]
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": _number, "signed": _signed, "count": _count, "yaml": _yaml}
    template = environment.from_string(
        resources.files("ecgtrain.reporting").joinpath("report.html.j2").read_text("utf-8")
    )
    page: str = template.render(
        title=report.get("title") or " · ".join(filter(None, (run["name"] for run in runs))) or "Evaluation",
        tasks=list(dict.fromkeys(result["task"] for result in report["results"])),
        caveats=report.get("caveats", []),
        groups=[_group(group, i) for i, group in enumerate(_groups(report["results"]))],
        runs=runs,
    )
    return page


def _group(results: Sequence[Mapping[str, Any]], number: int) -> dict[str, Any]:
    """One table: results on the same records, with all that is drawn and told of them."""
    first = results[0]
    labels = _labels(results)
    colours = _colours(results)
    metric_names = list(dict.fromkeys(name for result in results for name in result["metrics"]))
    lows = [
        value
        for result in results
        for value in (result["metrics"].get("macro_auroc") or {}).values()
        if value is not None
    ]
    scale = _Scale(0.5 if min(lows, default=0.5) >= 0.5 else 0.0, 1.0)
    classes = {name: about for result in reversed(results) for name, about in result["per_class"].items()}
    drawn = _most_common(results, _MOST_CURVES)
    n_scored = sum(about["auroc"] is not None for about in first["per_class"].values())
    return {
        "task": first["task"],
        "protocol": first["protocol"].replace("_", " "),
        "n_train": first["n_train"],
        "n_test": first["n_test"],
        "store": first["store"],
        "verdicts": [text for result, label in zip(results, labels, strict=True) if (text := _verdict(result, label))],
        "metrics": [(name, _METRICS.get(name, name.replace("_", " "))) for name in metric_names],
        "against": [
            (null, _pretraining(null).lower())
            for null in dict.fromkeys(null for result in results for null in result.get("difference_to", {}))
        ],
        "scale": scale,
        "rows": [
            {"result": result, "label": label, "colour": colour, "is_null": result["pretraining"] in _NULLS}
            for result, label, colour in zip(results, labels, colours, strict=True)
        ],
        "classes": classes.items(),
        "n_scored": n_scored,
        "n_drawn": len(drawn),
        "roc": _draw_roc(results, labels, colours, drawn, number),
    }


def _labels(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """What each line of a table is called: its pretraining, and no more than is needed to tell lines apart."""
    labels = [_pretraining(result["pretraining"]) for result in results]
    for key in ("run", "name"):
        twice = {label for label in labels if labels.count(label) > 1}
        if len({result.get(key) for result in results}) > 1:
            labels = [
                f"{label} ({result[key]})" if label in twice and key in result else label
                for label, result in zip(labels, results, strict=True)
            ]
    return labels


def _pretraining(name: str) -> str:
    return _PRETRAINING.get(name, name)


def _colours(results: Sequence[Mapping[str, Any]]) -> list[str]:
    n_before = 0
    colours = []
    for result in results:
        null = result["pretraining"] in _NULLS
        lighter = result["pretraining"] == "uncalibrated"
        colours.append((_LIGHT_GREY if lighter else _GREY) if null else _COLOURS[n_before % len(_COLOURS)])
        n_before += not null
    return colours


def _verdict(result: Mapping[str, Any], label: str) -> str:
    """What a cardiologist takes home from one line: the score, and whether it beats its null."""
    score = result["metrics"].get("macro_auroc") or {}
    if result["pretraining"] in _NULLS or score.get("value") is None:
        return ""
    text = f"{label} reaches a macro AUROC of {score['value']:.3f}"
    if score.get("low") is not None:
        text += f" (95 % interval {score['low']:.3f} to {score['high']:.3f})"
    for null, difference in result.get("difference_to", {}).items():
        found = difference.get("macro_auroc") or {}
        if found.get("low") is None:
            continue
        name = _NULLS[null] if null in _NULLS else _pretraining(null)
        by = f"{_signed(found['value'])} [{_signed(found['low'])}, {_signed(found['high'])}]"
        if found["low"] > 0:
            text += f", better than {name} by {by}"
        elif found["high"] < 0:
            text += f", worse than {name} by {by}"
        else:
            text += f"; these records can't tell it from {name} ({by})"
    return text + "."


def _run(about: Mapping[str, Any], number: int) -> dict[str, Any]:
    """What the page tells of one run."""
    run, store = about.get("run", {}), about.get("store", {})
    folded = {
        "Settings": about.get("settings"),
        "What was done to every record": store.get("recipe"),
        "Environment": about.get("environment"),
    }
    return {
        "name": about.get("name") or run.get("name") or "",
        "story": _story(run, store),
        "store": store,
        "curves": _draw_curves(about["curves"], number) if "curves" in about else "",
        "folded": [(title, text if isinstance(text, str) else _yaml(text)) for title, text in folded.items() if text],
    }


def _story(run: Mapping[str, Any], store: Mapping[str, Any]) -> list[str]:
    """How the representation came about, in sentences; what is not known is not said."""
    story = []
    if store.get("path"):
        parts = [
            f"{_count(store['n_records'])} records" if store.get("n_records") else "",
            f"{len(store['leads'])} leads" if store.get("leads") else "",
            f"{store['fs_hz']:g} Hz" if store.get("fs_hz") else "",
        ]
        about = f" ({', '.join(filter(None, parts))})" if any(parts) else ""
        story.append(f"The signals come from {Path(store['path']).name}{about}.")
    if run.get("method"):
        network = f" a {run['backbone']} network" if run.get("backbone") else " a network"
        size = f" of {_count(run['n_parameters'])} parameters" if run.get("n_parameters") else ""
        if run["method"] == "supervised":
            text = f"The supervised control trained{network}{size} with labels"
        else:
            text = f"{_pretraining(run['method'])} pretrained{network}{size} without labels"
        if run.get("n_records"):
            text += f" on {_count(run['n_records'])} records"
        if run.get("folds"):
            text += f" of {_folds(run['folds'])}"
        if run.get("steps"):
            text += f", for {_count(run['steps'])} steps"
            text += f" of {run['batch_size']} windows" if run.get("batch_size") else ""
        if run.get("seconds") is not None:
            text += f", in {_duration(run['seconds'])}"
            text += f" on {run['device']}" if run.get("device") else ""
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


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}".replace("-", "−")


def _count(value: int) -> str:
    return f"{value:,}"


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)


def _draw_curves(curves: Mapping[str, Mapping[str, Sequence[float]]], number: int) -> str:
    """Terms of the loss over the steps, training and validation, with the level of chance."""
    chance, train, validation, probe = (curves.get(split, {}) for split in ("chance", "train", "validation", "probe"))
    told = [name for name in chance if name in train or name in validation]
    # The sum says nothing that its parts don't, once their level of chance is known.
    others = [name for name in train if name not in (*told, *_WATCHED, "step") and not (told and name == "loss")]
    terms = (told + others)[:4] + [name for name in _WATCHED if name in train or name in probe]
    if not terms:
        return ""
    with _style(f"curves{number}"):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9.4, 2.7 * math.ceil(len(terms) / 2)), layout="constrained")
        axes = figure.subplots(math.ceil(len(terms) / 2), 2, squeeze=False).flat
        for axis, term in zip(axes, terms, strict=False):
            for split, columns, colour, marker in (
                ("training", train, "#9db7d5", ""),
                ("validation", validation, _COLOURS[0], "o"),
                ("probe", probe, _COLOURS[0], "o"),
            ):
                if term in columns:
                    x, y = _thinned(columns["step"], columns[term])
                    axis.plot(x, y, color=colour, lw=1.6, marker=marker, ms=3.5, label=split)
            if term in chance:
                axis.axhline(chance[term][0], color=_GREY, lw=1, ls=(0, (4, 3)), label="chance")
            axis.set_title(term.replace("_", " "), loc="left")
            axis.set_xlabel("step")
            axis.margins(x=0.02)
        axes[0].legend(frameon=False)
        for axis in list(axes)[len(terms) :]:
            axis.axis("off")
        return _svg(figure, "Loss and features over the steps of pretraining")


def _most_common(results: Sequence[Mapping[str, Any]], n: int) -> list[str]:
    """The classes with a ROC curve, at most the ``n`` with most positives, in the order of the table."""
    positives = {name: result["per_class"][name]["n_positive"] for result in results for name in result.get("roc", {})}
    kept = set(sorted(positives, key=lambda name: -positives[name])[:n])
    return [name for name in positives if name in kept]


def _draw_roc(
    results: Sequence[Mapping[str, Any]],
    labels: Sequence[str],
    colours: Sequence[str],
    classes: Sequence[str],
    number: int,
) -> str:
    """One small ROC per class, all results in it, and a legend in the next place."""
    positives = {name: about["n_positive"] for result in results for name, about in result["per_class"].items()}
    if not classes:
        return ""
    n_columns = min((4, 3), key=lambda columns: -(len(classes) + 1) % columns)  # fewest empty places
    n_rows = math.ceil((len(classes) + 1) / n_columns)
    with _style(f"roc{number}"):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9.4, 9.4 / n_columns * 1.12 * n_rows), layout="constrained")
        axes = list(figure.subplots(n_rows, n_columns, squeeze=False).flat)
        for axis, name in zip(axes, classes, strict=False):
            axis.plot([0, 1], [0, 1], color="#c9ced6", lw=1, ls=(0, (4, 3)))
            for result, label, colour in zip(results, labels, colours, strict=True):
                if name in result.get("roc", {}):
                    curve = result["roc"][name]
                    axis.plot(curve["fpr"], curve["tpr"], color=colour, lw=1.5, label=label, solid_joinstyle="round")
            axis.set_title(f"{name}  ({positives.get(name, 0)} positive)", loc="left")
            axis.set_aspect("equal")
            axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
        axes[0].set(xlabel="false positive rate", ylabel="sensitivity")
        for axis in axes[len(classes) :]:
            axis.axis("off")
        handles = {
            line.get_label(): line for axis in axes for line in axis.lines if not line.get_label().startswith("_")
        }
        axes[len(classes)].legend(handles.values(), handles.keys(), loc="center left", frameon=False)
        return _svg(figure, "ROC curves per class")


def _style(salt: str) -> Any:
    """Calm axes; text stays text, so that the page's font is used; the same input gives the same bytes."""
    import matplotlib

    return matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": salt,
            "font.family": "sans-serif",
            "font.size": 9,
            "axes.titlesize": 9.5,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": "#9aa1ab",
            "axes.labelcolor": "#4a515c",
            "axes.titlecolor": "#1c2128",
            "xtick.color": "#6a717c",
            "ytick.color": "#6a717c",
            "axes.grid": True,
            "grid.color": "#eceef1",
        }
    )


def _thinned(x: Sequence[float], y: Sequence[float], n: int = 400) -> tuple[list[float], list[float]]:
    if not len(x):
        return [], []
    keep = np.unique(np.linspace(0, len(x) - 1, min(n, len(x))).round().astype(np.int64)).tolist()
    return [x[i] for i in keep], [y[i] if y[i] is not None else math.nan for i in keep]


def _svg(figure: Any, title: str) -> str:
    """The figure as an ``<svg>`` element for use inside HTML: no prolog, no metadata, no address of anything."""
    import io

    from matplotlib.backends.backend_svg import FigureCanvasSVG

    FigureCanvasSVG(figure)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    return svg.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
