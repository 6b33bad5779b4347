"""Measure the house by its imports, and draw it: `python docs/make_house.py` writes docs/images/house.svg.

The rule that is measured stands in house.yaml and nowhere else; tests/architecture reads it from here.
"""

from __future__ import annotations

import ast
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


def imported(path: Path) -> Iterator[str]:
    """Every dotted name that a file imports, wherever in it; ``need("wfdb", …)`` is an import too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
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
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
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
