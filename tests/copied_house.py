"""A copy of ecgtrain with one file more, as the how-to pages have their readers make it."""

from __future__ import annotations

import filecmp
import importlib.util
import json
import os
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from processes import ROOT, Started

#: Every start of torch takes seconds, so one process takes several command lines.
SCRIPT = """
import json, sys
from click.testing import CliRunner
from ecgtrain import cli
answers = []
for arguments in json.loads(sys.argv[1]):
    done = CliRunner().invoke(cli.main, arguments, prog_name="ecgtrain")
    if not isinstance(done.exception, SystemExit | None):
        raise done.exception
    answers.append([done.exit_code, done.stdout, done.stderr])
print(json.dumps(answers))
"""


class Answer(NamedTuple):
    """What a command line came to."""

    status: int
    out: str
    error: str


class House(NamedTuple):
    """``root``: the copy, and beside it whatever the page has its reader write."""

    root: Path

    def ecgtrain(self, *commands: list[object]) -> list[Answer]:
        """What the copy says to each command line, one after the other."""
        words = json.dumps([[str(word) for word in command] for command in commands])
        paths = os.pathsep.join([str(self.root), str(ROOT)])
        done = Started(SCRIPT, words, env={"PYTHONPATH": paths}, cwd=self.root).wait(timeout_s=250)
        assert done.status == 0, done.errors
        return [Answer(*answer) for answer in json.loads(done.out.splitlines()[-1])]

    def files_changed(self) -> list[str]:
        """Paths below ecgtrain that the copy has more, less or otherwise."""

        def changed(found: filecmp.dircmp[str], folder: str = "") -> list[str]:
            names = (*found.left_only, *found.right_only, *found.diff_files, *found.funny_files)
            deeper = (name for sub, its in found.subdirs.items() for name in changed(its, f"{folder}{sub}/"))
            return sorted([*(folder + name for name in names if name != "__pycache__"), *deeper])

        return changed(filecmp.dircmp(ROOT / "ecgtrain", self.root / "ecgtrain"))


def copied(root: Path, more: dict[str, str]) -> House:
    """A copy at ``root``, with the texts ``more`` written to their paths in it."""
    shutil.copytree(ROOT / "ecgtrain", root / "ecgtrain", ignore=shutil.ignore_patterns("__pycache__"))
    for path, text in more.items():
        (root / path).write_text(text, encoding="utf-8")
    return House(root)


def block(page: Path, language: str) -> str:
    """A page's only block of code in ``language``."""
    (found,) = re.findall(rf"^```{language}\b[^\n]*\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    return str(found)


def module_of(path: Path) -> ModuleType:
    """One file of a copy as a module of this process."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    # Dataclasses look their module up by its name.
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
