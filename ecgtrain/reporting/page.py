"""The page: one file without any reference to another. It opens offline, prints, and can be sent by mail."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from ecgstore.inner import need
from ecgtrain.evaluation.leaks import are_other_patients
from ecgtrain.evaluation.results import Result
from ecgtrain.reporting.caveats import groups, n_scored, pretraining
from ecgtrain.reporting.contents import About, Curves, Report, RunFacts, StoreFacts

#: What shows whether features collapse; drawn below the terms of the loss.
WATCHED = ("feature_std", "effective_rank", "alignment", "uniformity", "online_probe_auroc")
_METRICS = {"macro_auroc": "Macro AUROC", "macro_auprc": "Macro AUPRC", "f_max": "Fmax"}
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
    environment.filters |= {"number": _number, "signed": _signed, "count": _count, "yaml": _yaml}
    environment.tests["known"] = math.isfinite
    template = environment.from_string(
        resources.files("ecgtrain.reporting").joinpath("report.html.j2").read_text("utf-8")
    )
    page: str = template.render(
        title=report.title or " · ".join(filter(None, (run["name"] for run in runs))) or "Evaluation",
        tasks=list(dict.fromkeys(result.task for result in report.results)),
        caveats=report.caveats,
        groups=[_group(group, i, [run["name"] for run in runs]) for i, group in enumerate(groups(report.results))],
        runs=runs,
    )
    return page


def _heading(results: Sequence[Result], names: Sequence[str]) -> str:
    """Task, store and runs of a table."""
    runs = list(dict.fromkeys(result.run for result in results if result.run)) or [name for name in names if name]
    of = f", of {', '.join(runs[:4])}{' …' if len(runs) > 4 else ''}" if runs else ""
    return f"{results[0].task} on {Path(results[0].store).name}{of}"


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
    lows = [value for result in results for value in result.macro_auroc if math.isfinite(value)]
    scale = _Scale(0.5 if min(lows, default=0.5) >= 0.5 else 0.0, 1.0)
    classes = {name: about for result in reversed(results) for name, about in result.per_class.items()}
    drawn = _most_common(results, _MOST_CURVES)
    return {
        "task": first.task,
        "heading": _heading(results, names),
        "dropped": _dropped(results),
        "n_asked": len({*first.per_class, *first.dropped_classes}),
        "protocol": first.protocol.replace("_", " "),
        "n_train": first.n_train,
        "n_test": first.n_test,
        "are_others": all(are_other_patients(result.caveats) for result in results),
        "store": first.store,
        "verdicts": [text for result, label in zip(results, labels, strict=True) if (text := _verdict(result, label))],
        "metrics": [(name, _METRICS.get(name, name.replace("_", " "))) for name in metric_names],
        "against": [
            (null, pretraining(null).lower())
            for null in dict.fromkeys(null for result in results for null in result.difference_to)
        ],
        "scale": scale,
        "rows": [
            {"result": result, "label": label, "colour": colour, "is_null": result.pretraining in _NULLS}
            for result, label, colour in zip(results, labels, colours, strict=True)
        ],
        "classes": classes.items(),
        "n_scored": n_scored(first),
        "n_drawn": len(drawn),
        "roc": _draw_roc(results, labels, colours, drawn, number),
    }


def _labels(results: Sequence[Result]) -> list[str]:
    """What each line of a table is called: its pretraining, and no more than is needed to tell lines apart."""
    labels = [pretraining(result.pretraining) for result in results]
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
        colours.append((_LIGHT_GREY if lighter else _GREY) if null else _COLOURS[n_before % len(_COLOURS)])
        n_before += not null
    return colours


def _verdict(result: Result, label: str) -> str:
    """What a cardiologist takes home from one line: the score, and whether it beats its null."""
    score = result.macro_auroc
    if result.pretraining in _NULLS or not math.isfinite(score.value):
        return ""
    text = f"{label} reaches a macro AUROC of {score.value:.3f}"
    if math.isfinite(score.low):
        text += f" (95 % interval {score.low:.3f} to {score.high:.3f})"
    for null, difference in result.difference_to.items():
        found = difference.get("macro_auroc")
        if found is None or not math.isfinite(found.low):
            continue
        name = _NULLS[null] if null in _NULLS else pretraining(null)
        by = f"{_signed(found.value)} [{_signed(found.low)}, {_signed(found.high)}]"
        if found.low > 0:
            text += f", better than {name} by {by}"
        elif found.high < 0:
            text += f", worse than {name} by {by}"
        else:
            text += f"; these records can't tell it from {name} ({by})"
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
        "curves": _draw_curves(about.curves, number),
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


def _count(value: int) -> str:
    return f"{value:,}"


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)


def _draw_curves(curves: Curves, number: int) -> str:
    """Terms of the loss over the steps, training and validation, with the level of chance."""
    chance, train, validation, probe = (curves.get(split, {}) for split in ("chance", "train", "validation", "probe"))
    told = [name for name in chance if name in train or name in validation]
    # The sum says nothing that its parts don't, once their level of chance is known.
    others = [name for name in train if name not in (*told, *WATCHED, "step") and not (told and name == "loss")]
    terms = (told + others)[:4] + [name for name in WATCHED if name in train or name in probe]
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


def _most_common(results: Sequence[Result], n: int) -> list[str]:
    """The classes with a ROC curve, at most the ``n`` with most positives, in the order of the table."""
    positives = {name: result.per_class[name].n_positive for result in results for name in result.roc}
    kept = set(sorted(positives, key=lambda name: -positives[name])[:n])
    return [name for name in positives if name in kept]


def _draw_roc(
    results: Sequence[Result],
    labels: Sequence[str],
    colours: Sequence[str],
    classes: Sequence[str],
    number: int,
) -> str:
    """One small ROC per class, all results in it, and a legend in the next place."""
    positives = {name: about.n_positive for result in results for name, about in result.per_class.items()}
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
                if name in result.roc:
                    curve = result.roc[name]
                    axis.plot(curve.fpr, curve.tpr, color=colour, lw=1.5, label=label, solid_joinstyle="round")
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
    return [x[i] for i in keep], [y[i] for i in keep]


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
