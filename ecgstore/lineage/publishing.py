"""One way to put a store that is made of others in its place: claimed, built, sealed; the old one stays until then."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ecgstore.build import building
from ecgstore.build.shards import create_array
from ecgstore.errors import StoreExists
from ecgstore.storage import layout, manifest
from ecgstore.storage.store import Store


def publish(
    out: Path, plan_sha256: str, overwrite: bool, make: Callable[[Path], manifest.Manifest]
) -> manifest.Manifest:
    """Let ``make`` build the store at ``out``, or beside it where a sealed one is replaced.

    A store of the very plan that stands there already will do, and an unfinished one of it is made again. Raises
    StoreExists, and StoreError where the disk refuses.
    """
    with building.plain_disk_errors(out):
        building.prepare(out)
        with building.claimed(out):
            building.refuse_place(out)
            if not (out / layout.MANIFEST).exists():
                return make(out)
            there = manifest.load(out)
            if there.plan_sha256 == plan_sha256 and not overwrite:
                return there
            if not overwrite:
                raise StoreExists(
                    "a sealed store is there already",
                    where=out,
                    fix="choose another output, or replace it with --overwrite",
                )
            aside = building.beside(out)
            if aside.exists():
                shutil.rmtree(aside)
            sealed = make(aside)
            building.swap(aside, out)
            return sealed


def begin(
    root: Path, plan_sha256: str, about: Mapping[str, Any], like: Store, total_samples: int, shard_samples: int
) -> None:
    """Begin a store at ``root`` whose array is packed as that of ``like``, and whose leads are its leads."""
    building.begin(
        root,
        plan_sha256,
        about,
        lambda: create_array(root, like.storage["codec"], len(like.leads), total_samples, shard_samples),
    )
    building.remove_leftovers(root)
