"""The inner door: what ``ecgtrain`` takes from this package besides the public names of :mod:`ecgstore`.

These are no business of users, and no promise is made of them; they load on first use, as the public ones do.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ecgstore.build.memory import keep_freed_memory
    from ecgstore.errors import nearest, need, visible
    from ecgstore.rooms import occupant
    from ecgstore.settings import parse, read_yaml

__all__ = ["keep_freed_memory", "nearest", "need", "occupant", "parse", "read_yaml", "visible"]

_HOME = {
    "keep_freed_memory": "build.memory",
    "nearest": "errors",
    "need": "errors",
    "occupant": "rooms",
    "parse": "settings",
    "read_yaml": "settings",
    "visible": "errors",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"ecgstore.{_HOME[name]}"), name)
    raise AttributeError(f"module 'ecgstore.inner' has no attribute {name!r}")
