"""Whatever is written stands outside of sealed stores: a file more, and a store is no longer what its manifest says."""

from __future__ import annotations

from pathlib import Path

from ecgstore.errors import ConfigError
from ecgstore.storage import layout


def refuse_within_store(path: Path) -> None:
    """Raise ConfigError where ``path`` is a sealed store or would stand within one, by whatever link."""
    place = path.resolve()
    for folder in (place, *place.parents):
        if (folder / layout.MANIFEST).exists() and (folder / layout.ROOT).exists():
            raise ConfigError("nothing may be added to a sealed store", where=folder, fix="write beside it")
