"""What the tests of the guides share: a copy of the package with a page's file in it, and its recipe beside it."""

from __future__ import annotations

import filecmp
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
#: Several command lines in one process: each start of torch costs seconds.
_COMMANDS = """
import json, sys
from ecgtrain.cli import main
for arguments in json.loads(sys.argv[1]):
    main(arguments, standalone_mode=False)
"""


class Guide(NamedTuple):
    """A page that adds ``file`` to the package, and shows ``recipe``."""

    page: Path
    file: str
    recipe: str

    def block(self, language):
        """The page's only block in ``language``."""
        text = self.page.read_text(encoding="utf-8")
        (found,) = re.findall(rf"^```{language}\b[^\n]*\n(.*?)^```", text, re.M | re.S)
        return found

    def module(self, house):
        """The file itself, as a module of this process."""
        spec = importlib.util.spec_from_file_location(Path(self.file).stem, house.root / "ecgtrain" / self.file)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module


def guide(name, file, recipe):
    return Guide(ROOT / "docs" / "how-to" / name, file, recipe)


class House(NamedTuple):
    """``root``: a copy of the package with one file more, and the recipe beside it."""

    root: Path
    store: Path
    recipe: str

    def _start(self, *command):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(self.root), str(ROOT)])}
        command = [sys.executable, *map(str, command)]
        return subprocess.run(command, capture_output=True, text=True, cwd=self.root, env=environment)

    def ecgtrain(self, *arguments):
        return self._start("-m", "ecgtrain", *arguments)

    def commands(self, *lines):
        """Several command lines, one after the other in one process, which must all be done."""
        done = self._start("-c", _COMMANDS, json.dumps([[str(one) for one in line] for line in lines]))
        assert done.returncode == 0, done.stderr
        return done.stdout

    def line(self, out, *settings, resume=False):
        """The command line that runs the recipe."""
        sets = [part for one in (f"data.store={self.store}", *settings) for part in ("--set", one)]
        return ("run", self.recipe, *sets, "--out", out, *(["--resume"] if resume else []))

    def run(self, out, *settings, resume=False):
        return self.ecgtrain(*self.line(out, *settings, resume=resume))


def build(root, guide, store):
    """Make the house that ``guide`` describes in the folder ``root``."""
    shutil.copytree(ROOT / "ecgtrain", root / "ecgtrain", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "ecgtrain" / guide.file).write_text(guide.block("python"), encoding="utf-8")
    (root / guide.recipe).write_text(guide.block("yaml"), encoding="utf-8")
    return House(root, store, guide.recipe)


def the_page_names_what_it_shows(guide):
    assert not (ROOT / "ecgtrain" / guide.file).exists(), "the page must add what isn't there"
    assert f"`ecgtrain/{guide.file}`" in guide.page.read_text()
    assert f"`{guide.recipe}`" in guide.page.read_text()
    assert f"tests/e2e/test_{guide.page.stem.replace('-', '_')}.py" in guide.page.read_text()


def touched(house):
    """Files of the package that are not as they were."""

    def changed(found, folder=""):
        names = (*found.left_only, *found.right_only, *found.diff_files, *found.funny_files)
        deeper = (name for sub, its in found.subdirs.items() for name in changed(its, f"{folder}{sub}/"))
        return sorted([*(folder + name for name in names if name != "__pycache__"), *deeper])

    return changed(filecmp.dircmp(ROOT / "ecgtrain", house.root / "ecgtrain"))
