"""The inner door: what ``ecgtrain`` takes from this package besides the public names of :mod:`ecgstore`.

These are no business of users, and no promise is made of them; they load on first use, as the public ones do.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ecgstore.build.memory import keep_freed_memory
    from ecgstore.errors import nearest, need, visible
    from ecgstore.rooms import name_own_file, named_by_name, named_by_sha256, occupant, own_file_sha256
    from ecgstore.settings import parse, read_yaml
    from ecgstore.storage.locks import held
    from ecgstore.vocabularies.known_overlaps import Origin, overlaps_between
    from ecgstore.vocabularies.vocabulary import challenge_weights, scored_classes, scp_to_snomed

__all__ = [
    "Origin",
    "challenge_weights",
    "held",
    "keep_freed_memory",
    "name_own_file",
    "named_by_name",
    "named_by_sha256",
    "nearest",
    "need",
    "occupant",
    "overlaps_between",
    "own_file_sha256",
    "parse",
    "read_yaml",
    "scored_classes",
    "scp_to_snomed",
    "visible",
]

_HOME = {
    "Origin": "vocabularies.known_overlaps",
    "challenge_weights": "vocabularies.vocabulary",
    "held": "storage.locks",
    "keep_freed_memory": "build.memory",
    "name_own_file": "rooms",
    "named_by_name": "rooms",
    "named_by_sha256": "rooms",
    "nearest": "errors",
    "need": "errors",
    "occupant": "rooms",
    "overlaps_between": "vocabularies.known_overlaps",
    "own_file_sha256": "rooms",
    "parse": "settings",
    "read_yaml": "settings",
    "scored_classes": "vocabularies.vocabulary",
    "scp_to_snomed": "vocabularies.vocabulary",
    "visible": "errors",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"ecgstore.{_HOME[name]}"), name)
    raise AttributeError(f"module 'ecgstore.inner' has no attribute {name!r}")
