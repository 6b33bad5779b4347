"""Sessions in fresh environments: `nox -l` lists them, `nox -s tests-3.13` runs one."""

from __future__ import annotations

import re
import shutil
import tomllib
from pathlib import Path

import nox

#: Tests that make up what comes from elsewhere.
FORGED = sorted(str(path) for path in Path("tests/property").glob("test_hostile_*.py"))
#: Tests of what the compiled loops take part in.
STORES = [
    "tests/unit/ecgstore",
    "tests/golden",
    "tests/faults/test_ingest_faults.py",
    "tests/property/test_hostile_input.py",
]

nox.options.sessions = ["lint", "types", "tests"]
nox.options.default_venv_backend = "venv"


def install(session: nox.Session, extra: str = "dev") -> None:
    """Install the project as it stands here, in the versions of the tested environment."""
    session.install("--constraint", "constraints.txt", "--editable", f".[{extra}]")


@nox.session(python=["3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """The test suite, but for what is marked slow."""
    install(session)
    session.run("python", "-m", "pytest", "-n", "auto", "--maxprocesses", "4", "--dist", "loadfile", *session.posargs)


@nox.session(python="3.11")
def lowest(session: nox.Session) -> None:
    """The test suite with the lowest versions that pyproject.toml allows, but for torch: its tested build."""
    constraints = Path(session.create_tmp()) / "lowest.txt"
    constraints.write_text(lowest_versions())
    session.install("--constraint", str(constraints), "--editable", ".[dev]")
    session.run("python", "-m", "pytest", *session.posargs)


def lowest_versions() -> str:
    """Constraints for pip: each lower bound as the one version that will do."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(one for extra in extras if extra != "dev" for one in extras[extra])]
    bounds = dict(found.groups() for one in wanted if (found := re.fullmatch(r"([\w-]+)(?:\[.*\])?>=([\w.]+)", one)))
    # An older torch from the same place brings gigabytes of another machine's libraries.
    (bounds["torch"],) = re.findall(r"(?m)^torch==(.*)$", Path("constraints.txt").read_text())
    return "\n".join(f"{name}=={version}" for name, version in sorted(bounds.items()))


@nox.session(python="3.11")
def slow(session: nox.Session) -> None:
    """What takes long: kill loops, the science on real records, all cases of a kind, the site, the wheel."""
    install(session, "dev,docs")
    session.run("python", "-m", "pytest", "-m", "slow", *session.posargs)


@nox.session(python="3.11")
def interpreted(session: nox.Session) -> None:
    """The tests of stores where no C compiler was found at the installation."""
    session.install("--constraint", "constraints.txt", "--editable", ".[dev]", env={"CC": "false"})
    session.run("python", "-c", "from ecgstore import kernel; assert kernel.NAME == 'numpy', kernel.NAME")
    session.run("python", "-m", "pytest", *STORES, *session.posargs)


@nox.session(python="3.11")
def sanitized(session: nox.Session) -> None:
    """The tests of stores with loops that are stopped by a wrong access to memory or an undefined operation."""
    watched = "-O1 -g -DNO_CLONES -fsanitize=address,undefined -fno-sanitize-recover=all"
    session.install(
        "--constraint", "constraints.txt", "--editable", ".[dev]", env={"CFLAGS": watched, "LDFLAGS": watched}
    )
    # Both: what watches must find the library that throws C++ exceptions when it is loaded.
    libraries = ("libasan.so", "libstdc++.so")
    found = [session.run("gcc", f"-print-file-name={name}", external=True, silent=True) or "" for name in libraries]
    environment = {
        "LD_PRELOAD": " ".join(map(str.strip, map(str, found))),
        # Python keeps memory until it ends, and the real library's allocator is what the tests of memory measure.
        "ASAN_OPTIONS": "detect_leaks=0",
        "ECGSTORE_KERNEL": "compiled",
    }
    session.run("python", "-m", "pytest", *STORES, *session.posargs, env=environment)


@nox.session(python="3.11")
def fuzz(session: nox.Session) -> None:
    """What comes from elsewhere, forged: a hundred times as many as in the suite, and by the commands."""
    install(session)
    session.run("python", "-m", "pytest", "-m", "slow", *FORGED)
    session.run("python", "benchmarks/hostile.py", "--stores", "500", "--runs", "200", *session.posargs)


@nox.session(python="3.11")
def portability(session: nox.Session) -> None:
    """The tests that train, under other threads, instructions, kernels and seeds."""
    install(session)
    session.run("python", "tests/portability.py", *session.posargs)


@nox.session(python=["3.11", "3.12", "3.13"])
def package(session: nox.Session) -> None:
    """The sdist, installed into an empty environment: it makes a store, trains, reports, serves the page."""
    session.install("--constraint", "constraints.txt", "build", "setuptools>=77")
    shutil.rmtree(session.create_tmp())  # of an earlier time, by `nox -r`
    dist = Path(session.create_tmp()).resolve() / "dist"
    session.run("python", "-m", "build", "--no-isolation", "--outdir", str(dist))
    (sdist,) = dist.glob("*.tar.gz")
    session.install("--constraint", "constraints.txt", f"{sdist}[ingest,train,view]")
    script = Path("tests/installed.py").resolve()
    session.chdir(dist.parent)
    session.run("python", "-I", str(script), str(dist.parent))


@nox.session(python="3.11")
def lint(session: nox.Session) -> None:
    """Format, lint, spelling."""
    session.install("--constraint", "constraints.txt", "ruff", "codespell")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("codespell")


@nox.session(python="3.11")
def types(session: nox.Session) -> None:
    """Both packages under mypy --strict."""
    install(session)
    session.run("mypy")


@nox.session(python="3.11")
def docs(session: nox.Session) -> None:
    """The docs name every command and option, their code runs, and site/ is built without a warning."""
    install(session, "dev,docs")
    session.run("python", "-m", "pytest", "tests/architecture/test_docs.py")
    session.run("mkdocs", "build", "--strict", env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session(python="3.11")
def bench(session: nox.Session) -> None:
    """Every benchmark, each with one JSON object as its last line."""
    install(session)
    session.run("python", "benchmarks/ingest.py", "--json", *session.posargs)
    session.run("python", "benchmarks/feed.py", "--json")


@nox.session(python="3.11")
def demo(session: nox.Session) -> None:
    """The main job on the bundled records."""
    session.run("make", "demo", external=True)
