"""The pictures of a page, as SVG that stands inside it: no prolog, no metadata, no address of anything."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ecgtrain.evaluation.results import Agreement, Confusion, Result
from ecgtrain.reporting.contents import Curves

#: What shows whether features collapse; drawn below the terms of the loss.
WATCHED = ("feature_std", "effective_rank", "alignment", "uniformity", "online_probe_auroc")
GREY, LIGHT_GREY = "#8b929c", "#aeb5bf"
# Told apart by people who don't see red and green alike (Okabe and Ito, 2008).
COLOURS = ("#0060a8", "#c4500a", "#00795a", "#a3478a", "#946f00", "#3a3f47")
#: Classes of a picture of confusion; more can't be read.
MOST_CONFUSED = 30


def draw_curves(curves: Curves, number: int) -> str:
    """Terms of the loss over the steps, training and validation, with the level of chance."""
    chance = curves.get("chance", {})
    train, validation, probe = (_aligned(curves.get(split, {})) for split in ("train", "validation", "probe"))
    told = [name for name in chance if name in train or name in validation]
    # The sum says nothing that its parts don't, once their level of chance is known.
    others = [name for name in train if name not in (*told, *WATCHED, "step") and not (told and name == "loss")]
    terms = (told + others)[:4] + [name for name in WATCHED if name in train or name in probe]
    if not terms:
        return ""
    with style(f"curves{number}"):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9.4, 2.7 * math.ceil(len(terms) / 2)), layout="constrained")
        axes = figure.subplots(math.ceil(len(terms) / 2), 2, squeeze=False).flat
        for axis, term in zip(axes, terms, strict=False):
            for split, columns, colour, marker in (
                ("training", train, "#9db7d5", ""),
                ("validation", validation, COLOURS[0], "o"),
                ("probe", probe, COLOURS[0], "o"),
            ):
                if term in columns:
                    x, y = _thinned(columns["step"], columns[term])
                    # A line of one point would not be seen.
                    axis.plot(x, y, color=colour, lw=1.6, marker="o" if len(x) == 1 else marker, ms=3.5, label=split)
            if term in chance:
                axis.axhline(chance[term][0], color=GREY, lw=1, ls=(0, (4, 3)), label="chance")
            axis.set_title(term.replace("_", " "), loc="left")
            axis.set_xlabel("step")
            axis.margins(x=0.02)
        axes[0].legend(frameon=False)
        for axis in list(axes)[len(terms) :]:
            axis.axis("off")
        return svg(figure, "Loss and features over the steps of pretraining")


def draw_roc(
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
    with style(f"roc{number}"):
        figure, axes = _small_squares(len(classes))
        for axis, name in zip(axes, classes, strict=False):
            axis.plot([0, 1], [0, 1], color="#c9ced6", lw=1, ls=(0, (4, 3)))
            for result, label, colour in zip(results, labels, colours, strict=True):
                if name in result.roc:
                    curve = result.roc[name]
                    axis.plot(curve.fpr, curve.tpr, color=colour, lw=1.5, label=label, solid_joinstyle="round")
            axis.set_title(f"{name}  ({positives.get(name, 0)} positive)", loc="left")
        axes[0].set(xlabel="false positive rate", ylabel="sensitivity")
        handles = {
            line.get_label(): line for axis in axes for line in axis.lines if not line.get_label().startswith("_")
        }
        axes[len(classes)].legend(handles.values(), handles.keys(), loc="center left", frameon=False)
        return svg(figure, "ROC curves per class")


def draw_reliability(
    results: Sequence[Result], labels: Sequence[str], colours: Sequence[str], classes: Sequence[str], number: int
) -> str:
    """One small picture per class: what is said with a probability, against how often it is stated."""
    shown = [name for name in classes if any(name in result.reliability for result in results)]
    if not shown:
        return ""
    with style(f"reliability{number}"):
        figure, axes = _small_squares(len(shown))
        for axis, name in zip(axes, shown, strict=False):
            axis.plot([0, 1], [0, 1], color="#c9ced6", lw=1, ls=(0, (4, 3)))
            for result, label, colour in zip(results, labels, colours, strict=True):
                if (found := result.reliability.get(name)) is not None:
                    axis.plot(found.mean_said, found.share_stated, color=colour, lw=1.4, marker="o", ms=3, label=label)
            axis.set_title(name, loc="left")
        axes[0].set(xlabel="probability that is said", ylabel="share that is stated")
        axes[len(shown)].legend(*axes[0].get_legend_handles_labels(), loc="center left", frameon=False)
        return svg(figure, "Probabilities against how often they come true")


def _small_squares(n: int) -> tuple[Any, list[Any]]:
    """A figure of ``n`` squares from 0 to 1, and places without axes after them: the first is for a legend."""
    from matplotlib.figure import Figure

    n_columns = min((4, 3), key=lambda columns: -(n + 1) % columns)  # fewest empty places
    n_rows = math.ceil((n + 1) / n_columns)
    figure = Figure(figsize=(9.4, 9.4 / n_columns * 1.12 * n_rows), layout="constrained")
    axes = list(figure.subplots(n_rows, n_columns, squeeze=False).flat)
    for axis in axes[:n]:
        axis.set_aspect("equal")
        axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    for axis in axes[n:]:
        axis.axis("off")
    return figure, axes


def draw_confusion(found: Confusion, title: str, number: int) -> str:
    """Which class is said of the records of which: the share of each row by its shade, the records as numbers.

    Empty for more than MOST_CONFUSED classes.
    """
    n = len(found.classes)
    if n > MOST_CONFUSED:
        return ""
    counts_cc = np.array(found.counts, dtype=np.int64)
    total_c = counts_cc.sum(axis=1, keepdims=True)
    share_cc = np.divide(counts_cc, total_c, out=np.zeros((n, n)), where=total_c > 0)
    side = 1.9 + 0.62 * min(n, 8) + 0.34 * max(0, n - 8)
    with style(f"confusion{number}"):
        from matplotlib.colors import LinearSegmentedColormap
        from matplotlib.figure import Figure

        figure = Figure(figsize=(min(side + 0.9, 9.4), min(side, 8.6)), layout="constrained")
        axis = figure.subplots()
        shades = LinearSegmentedColormap.from_list("blue", ["#ffffff", COLOURS[0]])
        axis.pcolormesh(share_cc, cmap=shades, vmin=0, vmax=1, edgecolors="#e3e6ea", linewidth=0.6)
        size = 9 if n <= 8 else max(4.5, 9 - 0.2 * n)
        for i in range(n):
            for j in range(n):
                if counts_cc[i, j]:
                    colour = "#ffffff" if share_cc[i, j] > 0.55 else "#1c2128"
                    text = f"{counts_cc[i, j]:,}"
                    axis.text(j + 0.5, i + 0.5, text, ha="center", va="center", color=colour, size=size)
        shown = [name if len(name) <= 18 else f"{name[:17]}…" for name in found.classes]
        axis.set_xticks(np.arange(n) + 0.5, shown, rotation=90 if n > 5 else 0)
        axis.set_yticks(np.arange(n) + 0.5, shown)
        axis.invert_yaxis()
        axis.set(xlabel="said", ylabel="stated")
        axis.set_title(title, loc="left")
        axis.set_aspect("equal")
        axis.grid(False)
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        return svg(figure, "Confusion of the classes")


def draw_agreement(found: Agreement, title: str, unit: str, colour: str, number: int) -> str:
    """Bland and Altman's picture, beside the numbers that were predicted against those that are known."""
    if not found.pairs:
        return ""
    known_n, said_n = np.array(found.pairs).T
    of = f" ({unit})" if unit else ""
    with style(f"agreement{number}"):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9.4, 4.0), layout="constrained")
        scatter, bland = figure.subplots(1, 2)
        dots = {"s": 11, "color": colour, "alpha": 0.45, "linewidths": 0}
        scatter.scatter(known_n, said_n, **dots)
        ends = [min(known_n.min(), said_n.min()), max(known_n.max(), said_n.max())]
        scatter.plot(ends, ends, color=GREY, lw=1, ls=(0, (4, 3)))
        scatter.set(xlabel=f"known{of}", ylabel=f"predicted{of}")
        scatter.set_title(title, loc="left")
        bland.scatter((known_n + said_n) / 2, said_n - known_n, **dots)
        bland.axhline(0, color="#c9ced6", lw=1)
        for value, name in ((found.bias, "bias"), (found.low, "95 %"), (found.high, "95 %")):
            if math.isfinite(value):
                bland.axhline(value, color=GREY, lw=1, ls="-" if name == "bias" else (0, (4, 3)))
                bland.annotate(
                    f"{name} {value:+.3g}".replace("-", "−"),
                    (1, value),
                    xycoords=("axes fraction", "data"),
                    xytext=(-2, 3),
                    textcoords="offset points",
                    ha="right",
                    size=8,
                    color="#4a515c",
                )
        bland.set(xlabel=f"mean of known and predicted{of}", ylabel=f"predicted − known{of}")
        return svg(figure, "Agreement of predicted and known numbers")


def style(salt: str) -> Any:
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


def _aligned(columns: Mapping[str, Sequence[float]]) -> dict[str, Sequence[float]]:
    """The columns that have a value at each step: in reports of before gaps were left out, and steps are not known."""
    return {name: values for name, values in columns.items() if len(values) == len(columns["step"])}


def _thinned(x: Sequence[float], y: Sequence[float], n: int = 400) -> tuple[list[float], list[float]]:
    if not len(x):
        return [], []
    keep = np.unique(np.linspace(0, len(x) - 1, min(n, len(x))).round().astype(np.int64)).tolist()
    return [x[i] for i in keep], [y[i] for i in keep]


def svg(figure: Any, title: str) -> str:
    """The figure as an ``<svg>`` element for use inside HTML: no prolog, no metadata, no address of anything."""
    import io

    from matplotlib.backends.backend_svg import FigureCanvasSVG

    FigureCanvasSVG(figure)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    made = text.getvalue()
    made = made[made.index("<svg") :]
    made = re.sub(r"<metadata>.*?</metadata>", "", made, flags=re.DOTALL)
    made = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", made)
    made = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", made, count=1)
    made = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", made, count=1)
    return made.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
