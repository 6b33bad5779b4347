"""The sealed folders that a new store is made of: objects taken over unchanged, commits read back."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ecgstore.build import building
from ecgstore.build.commits import Commit
from ecgstore.build.sums import Sums
from ecgstore.errors import ConfigError, IntegrityError, StoreReplaced
from ecgstore.record import Rejection
from ecgstore.storage import layout, manifest
from ecgstore.storage.commit_rows import Rows
from ecgstore.storage.manifest import Manifest, ObjectHash, hash_object
from ecgstore.storage.objects import Objects
from ecgstore.storage.store import Store
from ecgstore.storage.validate import is_sha256, refuse
from ecgstore.storage.verify_commits import about_of, are_sums, shards_of

#: The attribute of a root that lists the steps by which a store was made of others.
LINEAGE = "lineage"


@dataclass(frozen=True, eq=False)
class Parent:
    """One sealed store in a folder, open twice: as a store, and as the objects that it consists of."""

    store: Store
    folder: Path
    objects: Objects
    sealed: Manifest

    @classmethod
    def of(cls, store: Store) -> Parent:
        """Raises ConfigError for a store that is not in a folder here, or is of format 1."""
        if "://" in store.path:
            raise ConfigError("only a store in a folder can be taken over", where=store.path, fix="copy it first")
        if store.format_version != layout.FORMAT_VERSION:
            raise ConfigError(
                "a store of an older format can't be taken over",
                where=store.path,
                expected=f"format version {layout.FORMAT_VERSION}",
                got=store.format_version,
                fix="ingest its source again, without what is not wanted",
            )
        folder = Path(store.path)
        objects, sealed = manifest.open_sealed(folder)
        if sealed.fingerprint != store.fingerprint:
            raise StoreReplaced("the store was replaced by another one while it was open", where=store.path)
        return cls(store, folder, objects, sealed)

    def take(self, name: str, root: Path, new_name: str | None = None) -> dict[str, ObjectHash]:
        """Let the store at ``root`` have the object ``name``, hard-linked or copied, under its own name or another.

        Raises IntegrityError where it is not what was sealed.
        """
        target, stated = root / (new_name or name), self.sealed.objects[name]
        if self.objects.size(name) != stated.size:  # which refuses whatever is no plain file
            raise IntegrityError("an object of the store is damaged", where=self.folder / name)
        building.link(self.folder / name, target)
        if target.is_symlink() or hash_object(target) != stated:
            target.unlink()
            raise IntegrityError("an object of the store is damaged", where=self.folder / name)
        return {new_name or name: stated}

    def content(self, name: str) -> bytes:
        """The bytes of an object, as they were sealed."""
        stated = self.sealed.objects[name]
        content = self.objects.read(name, 0, stated.size)
        if manifest.hash_bytes(content) != stated:
            raise IntegrityError("an object of the store is damaged", where=self.folder / name)
        return content

    def commit(self, name: str) -> Commit:
        """The commit ``name``. Raises StoreFormatError where it isn't as docs/format.md says."""
        where = self.folder / name
        if name not in self._shards_of or not name.endswith(".arrow"):
            refuse("a store of format 2 has commits in Arrow, with six digits for a name", where)
        content = self.content(name)
        about = about_of(content, where)
        written = self._rows.of_commit(content, *self._shards_of[name], where)
        try:
            if not are_sums(about["sums"], len(self.store.leads)):
                raise ValueError("sums are no numbers")
            sums = {fold: Sums(*lists) for fold, lists in about["sums"].items()}
            found = {str(key): ObjectHash(int(size), str(sha256)) for key, (size, sha256) in about["objects"].items()}
            if any(self.sealed.objects.get(key) != one or not is_sha256(one.sha256) for key, one in found.items()):
                raise ValueError("it names objects that the store doesn't hold")
            left_out = tuple(Rejection(*map(str, one)) for one in about["rejected"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            refuse("a commit is not as a store has it", where, got=" ".join(str(error).split()))
        return Commit(found, written, left_out, sums)

    @functools.cached_property
    def _shards_of(self) -> dict[str, tuple[int, int]]:
        return shards_of(self.commits, self.store.n_shards)

    @functools.cached_property
    def _rows(self) -> Rows:
        return Rows(self.store)

    @property
    def commits(self) -> list[str]:
        """Names of all commits."""
        return sorted(name for name in self.sealed.objects if name.startswith(f"{layout.COMMITS}/"))

    @property
    def shards(self) -> list[int]:
        """Numbers of the shards that have an object."""
        prefix = layout.shard_object(0)[:-1]
        return sorted(int(name.removeprefix(prefix)) for name in self.sealed.objects if name.startswith(prefix))

    def counts(self, row: int) -> npt.NDArray[np.int16]:
        """Counts (leads, samples) of one record; its chunks are checked as they are decoded."""
        begin, end = (int(ends[row]) for ends in self.store.spans)
        return self.store.decode(begin, end, np.array([row]))


def with_step(stores: Sequence[Store], made_by: str, settings: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """The steps by which the ``stores`` were made, and the one that is done to them now."""
    before: list[dict[str, Any]] = []
    for store in stores:
        before += [step for step in store.attributes.get(LINEAGE, []) if step not in before]
    return [*before, {"made_by": made_by, "parents": [store.fingerprint for store in stores], **(settings or {})}]


def sums_of_root(store: Store) -> dict[str, Sums]:
    """The sums by fold that the root of a store states."""
    stated = store.attributes["statistics"]
    return {fold: Sums(its["n"], its["sum_counts"], its["sum_squared_counts"]) for fold, its in stated.items()}
