"""Shared stores of a recipe: what a tag means today is settled once, before anything is done, and written down."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ecgstore import is_shared, pinned_address
from ecgstore.inner import read_yaml
from ecgtrain.config import RunConfig
from ecgtrain.config.curves import Transfer
from ecgtrain.training.layout import CONFIG


def with_pinned_stores(config: RunConfig, run_dir: Path, *, resume: bool) -> RunConfig:
    """The recipe with fingerprints in the place of tags: ``s3://team/ptbxl@v2`` becomes ``s3://team/ptbxl@0f3c…``.

    A run that is resumed goes on with what its tags meant when it began. Raises what
    :func:`ecgstore.pinned_address` raises.
    """
    before = _settled(run_dir / CONFIG) if resume and (run_dir / CONFIG).is_file() else {}

    def pin(path: str) -> str:
        place, _, version = path.rpartition("@")
        known = before.get(place)
        return (
            f"{place}@{known}" if known and is_shared(path) and not known.startswith(version) else pinned_address(path)
        )

    data = config.data.model_copy(
        update={
            "store": pin(config.data.store),
            "stores": tuple(other.model_copy(update={"path": pin(other.path)}) for other in config.data.stores),
        }
    )
    downstream = tuple(
        one if one.store is None else one.model_copy(update={"store": pin(one.store)}) for one in config.downstream
    )
    curves = tuple(
        one.model_copy(update={"stores": tuple(pin(path) for path in one.stores)}) if isinstance(one, Transfer) else one
        for one in config.curves
    )
    return config.model_copy(update={"data": data, "downstream": downstream, "curves": curves})


def _settled(path: Path) -> dict[str, str]:
    """The fingerprints that stand in a run's recipe, by the place of the share."""
    found: dict[str, str] = {}

    def look(value: Any) -> None:
        if isinstance(value, Mapping):
            value = list(value.values())
        if isinstance(value, list):
            for one in value:
                look(one)
        elif isinstance(value, str) and len(value.rpartition("@")[2]) == 64:
            place, _, fingerprint = value.rpartition("@")
            found.setdefault(place, fingerprint)

    look(read_yaml(path))
    return found
