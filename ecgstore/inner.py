"""The inner door: what ``ecgtrain`` takes from this package besides the public names of :mod:`ecgstore`.

These are no business of users, and no promise is made of them; they load on first use, as the public ones do.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ecgstore.build.memory import keep_freed_memory
    from ecgstore.errors import nearest, need, visible
    from ecgstore.rooms import name_own_file, occupant, own_file_sha256
    from ecgstore.settings import NOT_SAID, first_difference, parse, read_yaml
    from ecgstore.storage.locks import held
    from ecgstore.vocabularies.known_overlaps import Origin, overlaps_between

__all__ = [
    "NOT_SAID",
    "Origin",
    "first_difference",
    "held",
    "keep_freed_memory",
    "name_own_file",
    "nearest",
    "need",
    "occupant",
    "overlaps_between",
    "own_file_sha256",
    "parse",
    "read_yaml",
    "visible",
]

_HOME = {
    "NOT_SAID": "settings",
    "Origin": "vocabularies.known_overlaps",
    "first_difference": "settings",
    "held": "storage.locks",
    "keep_freed_memory": "build.memory",
    "name_own_file": "rooms",
    "nearest": "errors",
    "need": "errors",
    "occupant": "rooms",
    "overlaps_between": "vocabularies.known_overlaps",
    "own_file_sha256": "rooms",
    "parse": "settings",
    "read_yaml": "settings",
    "visible": "errors",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"ecgstore.{_HOME[name]}"), name)
    raise AttributeError(f"module 'ecgstore.inner' has no attribute {name!r}")
