"""The pictures of a page, as SVG that stands inside it: no prolog, no metadata, no address of anything."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ecgtrain.evaluation.results import Agreement
from ecgtrain.reporting.contents import Curves

#: What shows whether features collapse; drawn below the terms of the loss.
WATCHED = ("feature_std", "effective_rank", "alignment", "uniformity", "online_probe_auroc")
GREY, LIGHT_GREY = "#8b929c", "#aeb5bf"
# Told apart by people who don't see red and green alike (Okabe and Ito, 2008).
COLOURS = ("#0060a8", "#c4500a", "#00795a", "#a3478a", "#946f00", "#3a3f47")


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

        n_rows = math.ceil(len(terms) / 2)
        figure = Figure(figsize=(9.4, 2.7 * n_rows))
        axes = figure.subplots(n_rows, 2, squeeze=False, gridspec_kw=_margins(n_rows)).flat
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


def _margins(n_rows: int) -> dict[str, float]:
    """Room for numbers, titles and labels, as in every such picture; to measure them takes as long as to draw twice."""
    left, right, top, bottom, between = 0.65, 0.1, 0.3, 0.5, 0.85  # inches
    width, height = 9.4 - left - right, 2.7 * n_rows - top - bottom
    return {
        "left": left / 9.4,
        "right": 1 - right / 9.4,
        "top": 1 - top / (2.7 * n_rows),
        "bottom": bottom / (2.7 * n_rows),
        # Of the mean size of the axes.
        "wspace": between / ((width - between) / 2),
        "hspace": between / ((height - between * (n_rows - 1)) / n_rows),
    }


def draw_agreement(found: Agreement, unit: str, colour: str, number: int) -> str:
    """Bland and Altman's picture, beside the numbers that were predicted against those that are known."""
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
            # Names are no formulae, whatever dollars stand in them.
            "text.parse_math": False,
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
    return made.replace("<svg", f'<svg role="img" aria-label="{html.escape(title)}"', 1)
