"""A folder is a room, a file in it an occupant, and the file's name is its name in YAML and on the command line.

So a new source, filter, backbone, method or task is one new file: nothing is registered anywhere.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from ecgstore.errors import ConfigError, nearest


def occupants(room: str) -> tuple[str, ...]:
    """Names of the files in the package ``room``, such as ``"ecgstore.filters"``, in alphabetical order."""
    paths = importlib.import_module(room).__path__
    return tuple(sorted(info.name for info in pkgutil.iter_modules(paths) if not info.name.startswith("_")))


def occupant(room: str, name: str) -> ModuleType:
    """Import the file ``name`` of ``room``; raise ConfigError naming the nearest match if there is none."""
    names = occupants(room)
    if name not in names:
        kind = room.rpartition(".")[2].removesuffix("s")
        near = nearest(str(name), names)
        raise ConfigError(
            f"unknown {kind} {name!r}",
            fix=f"did you mean {near}?" if near else f"known: {', '.join(names)}",
        )
    return importlib.import_module(f"{room}.{name}")
