"""A folder is a room, a file in it an occupant, and the file's name is its name in YAML and on the command line.

So a new source, filter, backbone, method or task is one new file: nothing is registered anywhere. An occupant
that lives elsewhere, such as a hospital's own source, is named by the path of its file. Such a file is run only where
its user names it (:func:`name_own_file`): a store, run or export that came from elsewhere can name no code.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import pkgutil
import sys
from pathlib import Path
from types import ModuleType

from ecgstore.errors import ConfigError, nearest

#: Files of their own that users have named in this process, with the SHA-256 of what stood there; no others are run.
_NAMED: dict[Path, str] = {}


def name_own_file(name: str | Path, kind: str = "own") -> str:
    """Let :func:`occupant` run the Python file ``name``; for what a user names, never for what was received.

    Returns its SHA-256. Raises ConfigError where there is no such file, of this ``kind``.
    """
    path = _place(str(name))
    if path.suffix != ".py" or not path.is_file():
        raise ConfigError(f"the {kind} file is not there", where=name, expected="a .py file", fix="check the path")
    _NAMED[path] = _sha256(path)
    return _NAMED[path]


def own_file_sha256(name: str) -> str | None:
    """The SHA-256 of the file ``name``, if it was named; None for what stands in a room."""
    return _NAMED.get(_place(name)) if name.endswith(".py") else None


def named_by_sha256(sha256: str) -> str | None:
    """The path of a file of that content that was named and still has it, wherever it stands; None where none has."""
    return next((str(path) for path, its in _NAMED.items() if its == sha256 == _sha256(path)), None)


def named_by_name(name: str) -> str | None:
    """The path of a file of that name that was named, wherever it stands; None where none was."""
    return next((str(path) for path in _NAMED if path.name == name), None)


def _sha256(path: Path) -> str:
    """The SHA-256 of a file's content; empty where there is none any more."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def _place(name: str) -> Path:
    return Path(name).expanduser().resolve()


def occupants(room: str) -> tuple[str, ...]:
    """Names of the files in the package ``room``, such as ``"ecgstore.signals.filters"``, in alphabetical order.

    A folder in it, or a file whose name begins with ``_``, is shared by occupants and is none itself.
    """
    files = (info.name for info in pkgutil.iter_modules([str(_folder(room))]) if not info.ispkg)
    return tuple(sorted(name for name in files if not name.startswith("_")))


def occupant(room: str, name: str) -> ModuleType:
    """Import the file ``name`` of ``room``, or the Python file at the path ``name`` if it was named by the user.

    Raises ConfigError: naming the nearest match if there is none, or what keeps the file from being imported.
    """
    if isinstance(name, str) and name.endswith(".py"):
        return _visitor(room, Path(name).expanduser())
    names = occupants(room)
    if name not in names:
        kind = room.rpartition(".")[2].removesuffix("s")
        near = nearest(str(name)[:100], names)
        raise ConfigError(
            f"unknown {kind} {str(name)[:100]!r}",
            fix=f"did you mean {near}?" if near else f"known: {', '.join(names)}",
        )
    return importlib.import_module(f"{room}.{name}")


def descriptions(room: str) -> dict[str, str]:
    """What each file of ``room`` says of itself in ``DESCRIPTION``, by name; none of them is imported."""
    folder = _folder(room)
    return {name: _constant(folder / f"{name}.py", "DESCRIPTION") for name in occupants(room)}


def _folder(room: str) -> Path:
    """Where the package ``room`` stands; it is not imported: what it has in common may need torch."""
    spec = importlib.util.find_spec(room)
    assert spec is not None, room
    assert spec.submodule_search_locations, room
    return Path(next(iter(spec.submodule_search_locations)))


def _constant(path: Path, name: str) -> str:
    for statement in ast.parse(path.read_bytes()).body:
        if isinstance(statement, ast.Assign) and any(
            isinstance(to, ast.Name) and to.id == name for to in statement.targets
        ):
            return str(ast.literal_eval(statement.value))
    return ""


def _visitor(room: str, path: Path) -> ModuleType:
    kind = room.rpartition(".")[2].removesuffix("s")
    resolved = _place(str(path))
    if resolved not in _NAMED:
        raise ConfigError(
            f"the {kind} is a file of code, and is not run unless you name it yourself",
            where=path,
            fix="if you trust it, name it on the command line, as --help says",
        )
    if _sha256(resolved) != _NAMED[resolved]:
        raise ConfigError(f"the {kind} file is not what it was when it was named", where=path, fix="name it again")
    name = f"{room}._file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, resolved)
    if spec is None or spec.loader is None:
        raise ConfigError(f"the {kind} file can't be imported", where=path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # somebody else's code: whatever it raises is theirs to mend
        del sys.modules[name]
        got = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(f"the {kind} file can't be run", where=path, got=got) from error
    return module
