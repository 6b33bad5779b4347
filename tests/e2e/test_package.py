"""What is installed from a wheel is whole: recipes, pages and both commands, without the repository beside it."""

from __future__ import annotations

import json
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
WANTED = {
    "ecgstore/py.typed",
    "ecgtrain/py.typed",
    "ecgstore/look/report.html.j2",
    "ecgtrain/reporting/report.html.j2",
    *(path.relative_to(ROOT).as_posix() for path in (ROOT / "ecgtrain" / "recipes").rglob("*.yaml")),
    *(path.relative_to(ROOT).as_posix() for path in (ROOT / "ecgstore" / "fetching").glob("*.yaml")),
    *(path.relative_to(ROOT).as_posix() for path in (ROOT / "ecgstore" / "vocabularies").glob("*.csv")),
}
#: Only what setuptools itself needs: the build must not ask the network for more.
BUILD = ["-m", "build", "--no-isolation", "--outdir"]


def run(*command: str, cwd: Path, **extra: str) -> str:
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=inherited | extra, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


def test_the_citation_is_of_this_version_and_names_no_invented_person() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (cited["version"], cited["license"]) == (project["version"], project["license"])
    assert cited["authors"] == project["authors"]


@pytest.mark.slow
def test_wheel_and_sdist_are_built_and_the_wheel_works_in_an_empty_environment(tmp_path: Path) -> None:
    pytest.importorskip("build", reason="build is not installed: pip install build")
    source, dist, home = tmp_path / "source", tmp_path / "dist", tmp_path / "empty"
    # What git knows, so that no build folder of the repository's gets in.
    listed = run("git", "ls-files", "-z", "ecgstore", "ecgtrain", "pyproject.toml", "README.md", "LICENSE", cwd=ROOT)
    for name in filter(None, listed.split("\0")):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    run(sys.executable, *BUILD, str(dist), cwd=source)  # the sdist, and the wheel from it
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    assert set(zipfile.ZipFile(wheel).namelist()) >= WANTED
    with tarfile.open(sdist) as packed:
        inside = {name.partition("/")[2] for name in packed.getnames()}
    assert inside >= {*WANTED, "README.md", "LICENSE", "pyproject.toml"}

    venv.create(home, with_pip=False)
    python = str(home / "bin" / "python")
    own = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", str(wheel), cwd=tmp_path)
    # It needs what the tests run with; a path in a .pth file brings no editable install along.
    (Path(own) / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = run(python, "-c", "import ecgstore, ecgtrain; print(ecgstore.__file__, ecgtrain.__file__)", cwd=tmp_path)
    assert where.split() == [str(Path(own) / name / "__init__.py") for name in ("ecgstore", "ecgtrain")]
    for program in ("ecgstore", "ecgtrain"):
        assert "Commands:" in run(str(home / "bin" / program), "--help", cwd=tmp_path)
    recipes = json.loads(run(str(home / "bin" / "ecgtrain"), "recipes", "--json", cwd=tmp_path).splitlines()[-1])
    assert {"small/cpc", "paper_b"} <= {one["name"] for one in recipes}
    store, page = tmp_path / "mini.ecg", tmp_path / "page.html"
    ecgstore = str(home / "bin" / "ecgstore")
    run(ecgstore, "ingest", str(ROOT / "tests" / "data" / "ptbxl_mini"), str(store), "--workers", "1", cwd=tmp_path)
    run(ecgstore, "report", str(store), "--out", str(page), "--pages", "0", cwd=tmp_path)
    assert "<html" in page.read_text(encoding="utf-8")
