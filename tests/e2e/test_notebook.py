"""The notebooks run, from their first cell to their last, on what comes with the project."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import matplotlib.figure
import pytest

NOTEBOOKS = Path(__file__).parents[2] / "docs" / "notebooks"
FOUND = sorted(NOTEBOOKS.glob("*.ipynb"))
KEYS = {"code": ["cell_type", "execution_count", "id", "metadata", "outputs", "source"]}
KEYS["markdown"] = [key for key in KEYS["code"] if key not in ("execution_count", "outputs")]


def notebook(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", FOUND, ids=name_of)
def test_a_notebook_is_kept_as_jupyter_writes_it_without_outputs(path: Path) -> None:
    content = notebook(path)
    assert path.read_text(encoding="utf-8") == json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in content["cells"]}) == len(content["cells"])
    for cell in content["cells"]:
        assert list(cell) == KEYS[cell["cell_type"]]
        assert cell["cell_type"] == "markdown" or (cell["outputs"], cell["execution_count"]) == ([], None)


@pytest.mark.slow
@pytest.mark.parametrize("path", FOUND, ids=name_of)
def test_a_notebook_runs(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Cell after cell in one namespace, where the notebook stands, as Jupyter does; what it makes is elsewhere."""
    monkeypatch.chdir(path.parent)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = set(path.parent.iterdir())
    space: dict[str, Any] = {"__name__": "__main__"}
    shown = [
        show("".join(cell["source"]), f"{path.name}, cell {cell['id']}", space)
        for cell in notebook(path)["cells"]
        if cell["cell_type"] == "code"
    ]
    # A page of ECG paper is the value of its cell; the other figure is shown because pyplot knows of it.
    assert [type(one) for one in shown if one is not None] == [matplotlib.figure.Figure]
    assert len(space["axes"].get_lines()) == 2
    space["plt"].close("all")
    assert set(path.parent.iterdir()) == before
    said = capfd.readouterr().out
    for words in ("53 records stored, 0 left out", "random ", "note: 8 test records are too few", "(364, 96) from 52 "):
        assert words in said


def show(source: str, where: str, space: dict[str, Any]) -> Any:
    """Run a cell; returns the value of its last line, which Jupyter shows."""
    tree = ast.parse(source, where)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, where, "exec"), space)
    return None if last is None else eval(compile(ast.Expression(last.value), where, "eval"), space)
