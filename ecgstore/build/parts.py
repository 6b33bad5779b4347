"""Sealing a store whose parts were made by several commands, on one machine or many."""

from __future__ import annotations

from pathlib import Path

from ecgstore.build import building
from ecgstore.build.augment import AugmentReport, seal_augmented
from ecgstore.build.construct import Progress
from ecgstore.build.ingest import IngestReport, seal_ingest
from ecgstore.errors import StoreIncomplete


def seal_store(
    out: str | Path,
    *,
    patient_key: str = "",
    progress: Progress | None = None,
    own_source: str | Path | None = None,
) -> IngestReport | AugmentReport:
    """Seal the store ``out``, whose parts were made by several ingests, or by several augmentations.

    ``patient_key``: as the parts were given it. ``own_source``: the Python file that lists the records, where the
    store was begun with one. What an unfinished store itself names is never run. Raises StoreIncomplete where tasks
    are left, and whatever :func:`ecgstore.ingest_folder` and :func:`ecgstore.augment_store` raise.
    """
    out = Path(out)
    about = building.read_about(out)
    if "settings" in about:
        return seal_ingest(out, about, patient_key, progress, own_source)
    if "parent_path" in about:
        return seal_augmented(out, about)
    raise StoreIncomplete("this store was begun by another version", where=out, fix="run the same command again")
