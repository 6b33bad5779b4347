"""Withdraw: take versions back, so that nobody gets them from here any more.

The tombstones come first, so that no push brings a version back and no pull takes it; then the tags; then, of each
version, the manifest, without which it is no store; then all the rest. Killed in between, the same call goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ecgstore.errors import ConfigError
from ecgstore.sharing import notes, tags, versions
from ecgstore.sharing.address import fingerprint_of
from ecgstore.sharing.notes import Tombstone
from ecgstore.sharing.tagging import moved_to
from ecgstore.sharing.target import Writable, create, prove, refuse_no_share
from ecgstore.storage import layout


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """Versions that are gone, tags that were moved to the successor, objects that were removed."""

    fingerprints: tuple[str, ...]
    successor: str | None
    tags: tuple[str, ...]
    objects_removed: int


def withdraw(target: Writable, fingerprints: Sequence[str], successor: str | None = None) -> Withdrawn:
    """Take the versions ``fingerprints`` of ``target`` back.

    Tags that mean one of them are moved to ``successor``, a version that is there. Without a successor the tags stay,
    and whoever asks for them is told that the version was withdrawn. What was pulled before, older versions that a
    bucket itself keeps, and models that have seen the records are out of reach. Raises ConfigError, StoreNotFound (no
    share, no such successor), StoreWithdrawn (of the successor), StoreError.
    """
    gone = [fingerprint_of(one) for one in dict.fromkeys(fingerprints)]
    if successor is not None and fingerprint_of(successor) in gone:
        raise ConfigError("a version can't take its own place", got=successor)
    refuse_no_share(target)
    if successor is not None:
        versions.refuse_withdrawn(target, successor)
        versions.read_manifest(target, successor)
    prove(target)
    for fingerprint in gone:
        create(target, notes.tombstone_name(fingerprint), notes.tombstone(Tombstone(fingerprint, successor)))
    moved = []
    for name in target.folders(notes.TAGS) if successor is not None else []:
        found = tags.current(target, name)
        if found is not None and found.entry.fingerprint in gone:
            moved_to(target, name, successor or "")
            moved.append(name)
    n_removed = 0
    for fingerprint in gone:
        folder = notes.version_folder(fingerprint)
        target.delete([f"{folder}/{layout.MANIFEST}"])
        n_removed += target.clear(folder) + target.clear(f"{notes.CARDS}/{fingerprint}")
    return Withdrawn(tuple(gone), successor, tuple(moved), n_removed)
