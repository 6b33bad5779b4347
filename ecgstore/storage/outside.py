"""Whatever is written stands outside of stores: a file more, and a store is no longer what its manifest says."""

from __future__ import annotations

import os
from pathlib import Path

from ecgstore.errors import ConfigError
from ecgstore.storage import layout


def refuse_within_store(path: Path, *, may_be_one: bool = False) -> None:
    """Raise ConfigError where ``path`` is a store or would stand within one, by whatever link; nothing need be there.

    One that is being built counts, too: when it is sealed, whatever it doesn't know is removed. ``may_be_one``: the
    store at ``path`` itself is what is made, taken for done, or replaced.
    """
    place = Path(os.path.realpath(path))
    for folder in place.parents if may_be_one else (place, *place.parents):
        if what := _store_at(folder):
            raise ConfigError(
                f"nothing may be added to {what}",
                where=path,
                expected="a place outside of stores",
                got=f"within {folder}" if folder != place else "the store itself",
                fix="write beside it",
            )


def refuse_nested(out: Path, *stores: str) -> None:
    """Raise ConfigError where ``out`` can't hold what is made of ``stores``: it is one of them or holds it, or any
    store holds ``out``.
    """
    child = Path(os.path.realpath(out))
    for store in stores:
        parent = Path(os.path.realpath(store))
        if child.is_relative_to(parent) or parent.is_relative_to(child):
            raise ConfigError(
                "the output and the store must not contain each other",
                where=out,
                got=store,
                fix="choose another output",
            )
    refuse_within_store(out, may_be_one=True)


def _store_at(folder: Path) -> str:
    """What of the kind is there, in words; empty where nothing is."""

    def has(name: str) -> bool:
        try:
            return (folder / name).exists()
        except OSError:  # a name that is too long for a disk, a folder that may not be searched
            return False

    if has(layout.MANIFEST) and has(layout.ROOT):
        return "a sealed store"
    return "a store that is being built" if has(layout.BUILDING) and has(layout.SIGNAL_JSON) else ""
