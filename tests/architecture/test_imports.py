"""Who may import whom: ARCHITECTURE in code. A line that crosses a wall fails here."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ecgstore

ROOT = Path(__file__).parents[2]
#: The only files that may import a heavy package at all, by package.
OWNERS = {
    "wfdb": {"ecgstore/wfdb_io.py"},
    "dask": {"ecgstore/schedule.py"},
    "zarr": {"ecgstore/array.py"},
}
#: Left may import right, never the other way round.
LAYERS = [
    ["errors", "memory", "publish"],
    ["place"],
    ["rooms", "record", "layout", "settings", "array", "manifest"],
    [
        "leads",
        "conditioning",
        "wfdb_io",
        "filters",
        "dipole",
        "vocabularies",
        "vocabulary",
        "quality",
        "checksums",
        "fetch",
    ],
    ["noise", "where"],
    ["sources", "plan"],
    ["tables"],
    ["shards", "scan", "building"],
    ["store", "schedule"],
    ["plot", "overlap"],
    ["ingest", "report"],
    ["augment", "survey"],
    ["cli", "__main__", "__init__"],
]


def files(package):
    return sorted((ROOT / package).rglob("*.py"))


def imports(path, *, top_level_only=False):
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif (  # need("wfdb", "ingest") is an import too
            isinstance(node, ast.Call)
            and getattr(node.func, "id", "") == "need"
            and isinstance(node.args[0], ast.Constant)
        ):
            yield str(node.args[0].value)


def name_of(path):
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", files("ecgstore"), ids=name_of)
def test_the_data_house_knows_no_torch_and_each_heavy_package_has_one_owner(path):
    found = {module.partition(".")[0] for module in imports(path)}
    assert not found & {"torch", "ecgtrain", "sklearn"}
    for package, owners in OWNERS.items():
        if name_of(path) not in owners and not (package == "wfdb" and name_of(path) == "ecgstore/schedule.py"):
            assert package not in found, f"{package} belongs to {owners}"


@pytest.mark.parametrize("path", files("ecgtrain"), ids=name_of)
def test_the_training_house_enters_by_the_door(path):
    for module in imports(path):
        top = module.partition(".")[0]
        assert top not in {"zarr", "wfdb", "dask"}
        if module.startswith("ecgstore."):
            assert module.removeprefix("ecgstore.") in ecgstore.__all__, f"{module} is not in the door"
        if top == "torch" and "distributed" in module:
            assert path.name == "distributed.py"


@pytest.mark.parametrize("path", files("ecgstore"), ids=name_of)
def test_imports_go_one_way(path):
    rank = {name: i for i, names in enumerate(LAYERS) for name in names}
    room = path.relative_to(ROOT / "ecgstore").parts[0].removesuffix(".py")
    assert room in rank, f"say in LAYERS where {room} stands"
    if room in {"cli", "__init__", "__main__"}:
        return
    for module in imports(path):
        if module.startswith("ecgstore."):
            other = module.split(".")[1]
            if other in rank:
                assert rank[other] <= rank[room], f"{room} must not import {other}"


def test_methods_and_tasks_do_not_know_each_other():
    for room, other in (("methods", "tasks"), ("tasks", "methods")):
        for path in files(f"ecgtrain/{room}"):
            assert not any(module.startswith(f"ecgtrain.{other}") for module in imports(path))


@pytest.mark.parametrize("package", ["ecgstore", "ecgtrain"])
def test_only_the_command_line_prints(package):
    for path in files(package):
        if path.name not in {"cli.py", "__main__.py"}:
            calls = {
                getattr(node.func, "id", "")
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Call)
            }
            assert "print" not in calls, name_of(path)


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        (
            "ecgstore",
            ["numpy", "zarr", "pyarrow", "pydantic", "rich", "torch", "dask", "wfdb", "scipy", "matplotlib"],
        ),
        (
            "ecgstore.cli",
            ["numpy", "zarr", "pyarrow", "pydantic", "rich", "torch", "dask", "wfdb", "scipy", "matplotlib"],
        ),
        ("ecgtrain", ["torch", "sklearn", "zarr", "matplotlib"]),
        ("ecgtrain.cli", ["torch", "sklearn", "zarr", "matplotlib"]),
    ],
)
def test_import_is_light(package, forbidden):
    code = f"import sys, {package}; print(*sorted(set(sys.modules) & set({forbidden!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_nobody_reads_parquet_with_threads_that_outlive_the_reader():
    for path in [*files("ecgstore"), *files("ecgtrain"), *files("tests")]:
        names = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        assert "read_table" not in names, f"{name_of(path)}: see ecgstore.tables.from_parquet"


def test_the_door_is_what_it_says():
    assert sorted(ecgstore.__all__) == sorted(dir(ecgstore))
    for name in ecgstore.__all__:
        thing = getattr(ecgstore, name)
        assert thing is not None
        assert not isinstance(thing, type(sys)), f"{name} is a module, not a thing"


def test_no_room_stands_empty():
    for package in ("ecgstore", "ecgtrain"):
        for folder in (ROOT / package).rglob("*"):
            if folder.is_dir() and folder.name != "__pycache__":
                occupants = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
                assert occupants, f"{folder} is an empty room"
