"""What is installed from a wheel is whole: recipes, pages and both commands, without the repository beside it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
INSTALLED = ROOT / "tests" / "installed.py"
#: Only what setuptools itself needs: the build must not ask the network for more.
BUILD = ["-m", "build", "--no-isolation", "--outdir"]


def run(*command: str, cwd: Path, **extra: str) -> str:
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=inherited | extra, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


def test_citation_and_changelog_are_of_this_version_and_name_no_invented_person() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (cited["version"], cited["license"]) == (project["version"], project["license"])
    assert cited["authors"] == project["authors"]
    assert f"\n## {project['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_wheel_and_sdist_are_built_and_the_wheel_works_in_an_empty_environment(tmp_path: Path) -> None:
    pytest.importorskip("build", reason="build is not installed: pip install build")
    source, dist, home = tmp_path / "source", tmp_path / "dist", tmp_path / "empty"
    # What git knows, so that no build folder of the repository's gets in.
    listed = run("git", "ls-files", "-z", "ecgstore", "ecgtrain", cwd=ROOT)
    wanted = {name for name in listed.split("\0") if name}
    for name in (*wanted, "pyproject.toml", "README.md", "LICENSE"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    run(sys.executable, *BUILD, str(dist), cwd=source)  # the sdist, and the wheel from it
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    # Recipes, templates, tables, what the browser loads: all that stands beside the code.
    assert set(zipfile.ZipFile(wheel).namelist()) >= wanted
    with tarfile.open(sdist) as packed:
        inside = {name.partition("/")[2] for name in packed.getnames()}
    assert inside >= {*wanted, "README.md", "LICENSE", "pyproject.toml"}

    venv.create(home, with_pip=False)
    python = str(home / "bin" / "python")
    own = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", str(wheel), cwd=tmp_path)
    # It needs what the tests run with; a path in a .pth file brings no editable install along.
    (Path(own) / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(python, "-I", str(INSTALLED), str(tmp_path), cwd=tmp_path)
