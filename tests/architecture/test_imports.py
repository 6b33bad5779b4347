"""Who may import whom: docs/house.yaml is the rule, and a line that crosses a wall fails here."""

from __future__ import annotations

import ast
import fnmatch
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import ecgstore.inner
import ecgtrain

ROOT = Path(__file__).parents[2]


def load_house():
    spec = importlib.util.spec_from_file_location("make_house", ROOT / "docs" / "make_house.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


house = load_house()
EVERY = [path for package in house.PACKAGES for path in house.files(package)]


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def tops(path):
    return {module.partition(".")[0] for module in house.imported(path)}


@pytest.mark.parametrize("package", house.PACKAGES)
def test_a_wing_imports_only_from_wings_above_it(package):
    order = house.RULE[package]["wings"]
    graph = house.wing_graph(package)
    assert set(graph) == set(order), "docs/house.yaml lists the wings that there are"
    wrong = [
        f"{wing} → {other}"
        for wing, others in graph.items()
        for other in others
        if order.index(other) >= order.index(wing)
    ]
    assert wrong == []


@pytest.mark.parametrize("package", house.PACKAGES)
def test_no_circle_even_inside_a_wing(package):
    assert house.circle(house.module_graph(package)) == []


@pytest.mark.parametrize("package", house.PACKAGES)
def test_the_house_stays_one_that_fits_in_a_head(package, capsys):
    found, rule = house.figures(package), house.RULE[package]
    with capsys.disabled():
        sys.stdout.write(
            f"\n{package}: {found['rooms']} rooms on {found['floors']} floors, {found['arrows']} arrows; "
            f"longest file {found['longest_file']}\n"
        )
    assert found["rooms"] <= rule["most_rooms"]
    assert found["floors"] <= rule["most_floors"]


def test_the_picture_of_the_house_is_of_today():
    assert house.drawn() == house.summary(), "run: python docs/make_house.py"


def test_no_file_is_longer_than_one_can_hold_in_the_head():
    paths = [
        *EVERY,
        *(ROOT / "tests").rglob("*.py"),
        *(ROOT / "benchmarks").glob("*.py"),
        *(ROOT / "docs").glob("*.py"),
    ]
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
    assert {name: n for name, n in lengths.items() if n > house.RULE["most_lines"]} == {}


def test_a_circle_and_a_floor_are_seen():
    assert house.circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]
    assert house.circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
    assert house.floors({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == {"a": 3, "b": 2, "c": 1}


@pytest.mark.parametrize("room", house.RULE["rooms"])
def test_an_occupant_knows_none_of_its_neighbours(room):
    occupants = {house.name_of(path) for path in (ROOT / room).glob("*.py") if not path.name.startswith("_")}
    assert occupants, f"{room} is an empty room"
    for path in (ROOT / room).glob("*.py"):
        if not path.name.startswith("_"):
            assert not (set(house.imported(path)) & occupants) - {house.name_of(path)}, name_of(path)


def test_each_heavy_package_has_one_owner():
    wrong = [
        f"{name_of(path)}: {package} belongs to {owners}"
        for package, owners in house.RULE["owners"].items()
        for path in EVERY
        if any(f"{module}.".startswith(f"{package}.") for module in house.imported(path))
        and not any(name_of(path) == owner or name_of(path).startswith(f"{owner}/") for owner in owners)
    ]
    assert wrong == []


def test_the_data_house_knows_no_torch():
    others = {"torch", "ecgtrain", "sklearn"}
    assert [name_of(path) for path in house.files("ecgstore") if tops(path) & others] == []


def test_the_training_house_enters_by_the_door():
    door = {"inner", *ecgstore.__all__, *(f"inner.{name}" for name in ecgstore.inner.__all__)}
    for path in house.files("ecgtrain"):
        assert not tops(path) & {"zarr", "wfdb", "dask"}, name_of(path)
        through = {
            module.removeprefix("ecgstore.") for module in house.imported(path) if module.startswith("ecgstore.")
        }
        assert through <= door, f"{name_of(path)}: not in a door"


def test_methods_and_tasks_do_not_know_each_other():
    for room, other in (("methods", "tasks"), ("tasks", "methods")):
        for path in house.files(f"ecgtrain/{room}"):
            assert not any(module.startswith(f"ecgtrain.{other}") for module in house.imported(path))


def test_only_the_command_line_prints():
    for path in EVERY:
        if path.name not in {"cli.py", "__main__.py"} and path.parent.name != "cli":
            called = {getattr(node.func, "id", "") for node in house.nodes(path) if isinstance(node, ast.Call)}
            assert "print" not in called, name_of(path)


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
    for path in [*EVERY, *(ROOT / "tests").rglob("*.py")]:
        if "read_table" not in path.read_text(encoding="utf-8"):
            continue  # no need to parse it
        names = {node.attr for node in house.nodes(path) if isinstance(node, ast.Attribute)}
        assert "read_table" not in names, f"{name_of(path)}: see ecgstore.storage.tables.from_parquet"


#: What starts threads of Arrow's unless it is told not to, and by which word.
THREADED = {
    "group_by": "use_threads",
    "IpcWriteOptions": "use_threads",
    "IpcReadOptions": "use_threads",
    "read_row_group": "use_threads",
    "read_row_groups": "use_threads",
    "ParquetFile": "pre_buffer",
}


def test_arrow_is_given_no_threads_that_outlive_the_call():
    """One that lets go of something of Python's as the process ends aborts it: see docs/adr/0008."""
    for path in EVERY:
        nodes = house.nodes(path)
        calls = [node for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
        subclasses = [node for node in nodes if isinstance(node, ast.ClassDef)]
        of_files = [one for one in subclasses if any("ParquetFile" in ast.unparse(base) for base in one.bases)]
        begins = {
            id(node) for one in of_files for node in ast.walk(one) if "super().__init__" in ast.unparse(node)[:16]
        }
        for call in calls:
            name = "ParquetFile" if id(call) in begins else call.func.attr
            said = {word.arg: ast.unparse(word.value) for word in call.keywords}
            if name in THREADED:
                assert said.get(THREADED[name]) == "False", f"{name_of(path)}:{call.lineno}: {THREADED[name]}=False"
            if ast.unparse(call.func) in ("pa.ipc.new_file", "pa.ipc.open_file"):
                assert "options" in said, f"{name_of(path)}:{call.lineno}: options without threads"


@pytest.mark.parametrize("package", [ecgstore, ecgtrain], ids=house.PACKAGES)
def test_the_door_is_what_it_says(package):
    assert sorted(package.__all__) == sorted(name for name in dir(package) if name in package.__all__)
    for name in package.__all__:
        thing = getattr(package, name)
        assert thing is not None
        assert not isinstance(thing, type(sys)), f"{name} is a module, not a thing"


def test_no_room_stands_empty():
    for package in house.PACKAGES:
        for folder in (ROOT / package).rglob("*"):
            if folder.is_dir() and folder.name != "__pycache__":
                found = [
                    path
                    for path in folder.iterdir()
                    if path.suffix in {".py", ".yaml", ".html"} and path.stem != "__init__"
                ]
                assert found or any(path.is_dir() for path in folder.iterdir()), f"{folder} is an empty room"


def test_no_folder_of_tests_is_passed_over(request):
    """Pytest's own list of folders to pass over has one that is called like a wing: its tests ran no more."""
    tests = ROOT / "tests"
    passed_over = request.config.getini("norecursedirs")
    for folder in {path.parent for path in tests.rglob("test_*.py")}:
        for name in folder.relative_to(tests).parts:
            assert not any(fnmatch.fnmatch(name, pattern) for pattern in passed_over), folder
