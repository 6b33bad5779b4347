"""Measure the house by its imports, and draw it: `python docs/make_house.py` writes docs/images/house.svg.

The rule that is measured stands in house.yaml and nowhere else; tests/architecture reads it from here.
"""

from __future__ import annotations

import ast
import functools
import io
import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "images" / "house.svg"
RULE: dict[str, Any] = yaml.safe_load((ROOT / "docs" / "house.yaml").read_text(encoding="utf-8"))
PACKAGES = ("ecgstore", "ecgtrain")

Graph = dict[str, set[str]]


def files(package: str) -> list[Path]:
    """Every Python file of a package or of one of its folders."""
    return sorted((ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    """The dotted name of a file; a folder's ``__init__`` has the folder's."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@functools.cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """All of a file's syntax tree; parsed once, however many rules look at it."""
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


@functools.cache
def imported(path: Path) -> tuple[str, ...]:
    """Every dotted name that a file imports, wherever in it; ``need("wfdb", …)`` is an import too."""
    return tuple(_imported(path))


def _imported(path: Path) -> Iterator[str]:
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call):
            called = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if called in ("need", "import_module") and node.args and isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value)


def module_graph(package: str) -> Graph:
    """File → files of the same package that it imports. The package's own ``__init__``, the door, is left out."""
    paths = {name_of(path): path for path in files(package)}
    graph: Graph = {}
    for name, path in paths.items():
        if name == package:
            continue
        found = set(imported(path))
        # `from a.b import c` is an import of the file a.b.c where there is one, else of a.b.
        exact = {one for one in found if one in paths}
        parents = {one for one in exact if any(other.startswith(f"{one}.") for other in exact)}
        taken = {one for one in exact if one not in parents or _names_from(path, one, paths)}
        graph[name] = taken - {name, package}
    return graph


def _names_from(path: Path, module: str, paths: Mapping[str, Path]) -> bool:
    """Whether a file takes from ``module`` anything but files below it."""
    for node in nodes(path):
        if isinstance(node, ast.ImportFrom) and node.module == module:
            if any(f"{module}.{alias.name}" not in paths for alias in node.names):
                return True
        elif isinstance(node, ast.Import) and any(alias.name == module for alias in node.names):
            return True
    return False


def wing_of(module: str) -> str:
    """The room at the top level of its package that a file stands in."""
    return module.split(".")[1]


def wing_graph(package: str) -> Graph:
    """Wing → wings that it imports."""
    graph: Graph = {}
    for module, others in module_graph(package).items():
        graph.setdefault(wing_of(module), set()).update(wing_of(other) for other in others)
    return {wing: others - {wing} for wing, others in graph.items() if wing != "__main__"}


def floors(graph: Graph) -> dict[str, int]:
    """How many storeys each wing stands above the ground: one more than the highest that it stands on."""
    found: dict[str, int] = {}

    def floor(wing: str, below: tuple[str, ...] = ()) -> int:
        if wing in below:
            raise ValueError(f"imports go in a circle: {' → '.join((*below, wing))}")
        if wing not in found:
            found[wing] = 1 + max((floor(other, (*below, wing)) for other in graph.get(wing, ())), default=0)
        return found[wing]

    for wing in graph:
        floor(wing)
    return found


def circle(graph: Graph) -> list[str]:
    """Some files that import each other in a circle; none if there is no circle."""
    done: set[str] = set()

    def walk(one: str, way: list[str]) -> list[str]:
        if one in way:
            return [*way[way.index(one) :], one]
        if one in done:
            return []
        for other in sorted(graph.get(one, ())):
            found = walk(other, [*way, one])
            if found:
                return found
        done.add(one)
        return []

    return next(filter(None, (walk(one, []) for one in sorted(graph))), [])


def figures(package: str) -> dict[str, Any]:
    """The measures of a package: rooms at its top level, floors, arrows between wings, its longest file."""
    graph = wing_graph(package)
    longest = max(files(package), key=lambda path: len(path.read_text(encoding="utf-8").splitlines()))
    return {
        "rooms": len(graph),
        "floors": max(floors(graph).values()),
        "arrows": sum(len(others) for others in graph.values()),
        "longest_file": f"{longest.relative_to(ROOT).as_posix()} "
        f"({len(longest.read_text(encoding='utf-8').splitlines())} lines)",
    }


# --- the picture ----------------------------------------------------------------------------------------------

#: In inches: a panel per package, and the boxes in it.
PANEL, MOST_WIDTH, HEIGHT, GAP_X, GAP_Y = 7.2, 1.7, 0.7, 0.16, 0.42


def summary() -> dict[str, Any]:
    """All that the picture shows, as plain values; it stands in the picture too, so that a stale one is noticed."""
    return {
        package: {
            "floors": dict(sorted(floors(wing_graph(package)).items())),
            "arrows": sorted([wing, other] for wing, others in wing_graph(package).items() for other in others),
        }
        for package in PACKAGES
    }


def drawn() -> dict[str, Any]:
    """What the picture that stands there shows."""
    found = re.search(r"<desc>(.*?)</desc>", PICTURE.read_text(encoding="utf-8"), re.S)
    return dict(json.loads(found[1])) if found else {}


def said_of(package: str, wing: str) -> str:
    """The first line of a wing's docstring, up to its first full stop."""
    path = ROOT / package / wing
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return re.split(r"[.;](?: |$)", text.splitlines()[0] if text else "")[0].replace("`", "")


def direct(graph: Graph) -> Graph:
    """Arrows without those that a longer way makes needless to draw."""
    below: dict[str, set[str]] = {}

    def all_below(wing: str) -> set[str]:
        if wing not in below:
            below[wing] = set().union(*(all_below(other) | {other} for other in graph[wing]), set())
        return below[wing]

    return {
        wing: {other for other in others if not any(other in all_below(middle) for middle in others - {other})}
        for wing, others in graph.items()
    }


def draw() -> str:
    """The house as SVG: the ground floor at the bottom, an arrow from each wing to those that it stands on."""
    import matplotlib
    from matplotlib.figure import Figure

    n_floors = max(max(floors(wing_graph(package)).values()) for package in PACKAGES)
    height = n_floors * (HEIGHT + GAP_Y) + 0.5
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "house", "font.family": "sans-serif"}):
        figure = Figure(figsize=(2 * PANEL, height))
        for number, package in enumerate(PACKAGES):
            axis = figure.add_axes((number / 2, 0, 0.5, 1))
            axis.set(xlim=(0, PANEL), ylim=(0, height))
            axis.axis("off")
            _draw_package(axis, package)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    described = f"<desc>{json.dumps(summary(), separators=(',', ':'))}</desc>"
    return re.sub(r"(<svg[^>]*>)", lambda match: match[1] + described, text.getvalue(), count=1)


def _draw_package(axis: Any, package: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    graph, found = wing_graph(package), figures(package)
    storey, order = floors(graph), RULE[package]["wings"]
    boxes: dict[str, tuple[float, float, float]] = {}
    for floor in sorted(set(storey.values())):
        here = sorted((wing for wing in storey if storey[wing] == floor), key=order.index)
        share = PANEL / len(here)
        width = min(MOST_WIDTH, share - GAP_X)
        for i, wing in enumerate(here):
            boxes[wing] = ((i + 0.5) * share, 0.1 + (floor - 1) * (HEIGHT + GAP_Y), width)
    for wing, others in direct(graph).items():
        for other in sorted(others):
            (x0, y0, _), (x1, y1, _) = boxes[wing], boxes[other]
            arrow = {"arrowstyle": "-|>", "color": "#9aa5b1", "lw": 1.0, "shrinkA": 0, "shrinkB": 1}
            axis.annotate("", (x1, y1 + HEIGHT), (x0, y0), arrowprops=arrow, zorder=1)
    for wing, (x, y, width) in boxes.items():
        box = FancyBboxPatch(
            (x - width / 2, y),
            width,
            HEIGHT,
            boxstyle="round,pad=0,rounding_size=0.06",
            facecolor="#eaf2fb" if (ROOT / package / wing).is_dir() else "#ffffff",
            edgecolor="#3b6ea5",
            zorder=2,
        )
        axis.add_patch(box)
        axis.text(x, y + 0.55, wing, ha="center", va="center", fontsize=10, weight="bold", zorder=3)
        folded = textwrap.wrap(said_of(package, wing), width=int(width / 0.052))
        said = "\n".join([*folded[:2], folded[2] + (" …" if len(folded) > 3 else "")] if len(folded) > 2 else folded)
        axis.text(x, y + 0.23, said, ha="center", va="center", fontsize=6.2, linespacing=1.1, zorder=3)
    top = max(y for _, y, _ in boxes.values()) + HEIGHT + 0.25
    axis.text(
        PANEL / 2, top, f"{package}: {found['rooms']} rooms on {found['floors']} floors", ha="center", fontsize=13
    )


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
