"""What is in a share: its versions and tags, and what a tag meant before."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import datetime

from ecgstore.errors import StoreError, StoreNotFound
from ecgstore.sharing import notes, tags, versions
from ecgstore.sharing.address import parse_address
from ecgstore.sharing.opening import open_target
from ecgstore.sharing.target import Target, refuse_no_share

#: Entries of a tag that are shown.
MOST_SHOWN = 1000


@dataclass(frozen=True, slots=True)
class Entry:
    """One step of a tag. ``modified`` is the server's time; None where it doesn't tell."""

    number: int
    fingerprint: str
    previous: str | None
    modified: datetime | None
    withdrawn: bool


@dataclass(frozen=True, slots=True)
class Version:
    """A version that is there, or was. ``sealed`` is False of a part that somebody has yet to finish."""

    fingerprint: str
    sealed: bool
    withdrawn: bool
    successor: str | None
    n_objects: int
    n_bytes: int
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Remote:
    """What is in a share. ``complete`` is False where nothing can be listed, and only a tag could be asked for."""

    place: str
    complete: bool
    tags: dict[str, str]
    versions: tuple[Version, ...]


def log(url: str) -> list[Entry]:
    """What the tag in ``url`` means and meant, newest first, the last 1,000 steps; raises StoreNotFound, StoreError."""
    address = parse_address(url)
    target = open_target(address)
    found = list(itertools.islice(tags.history(target, address.tag_or_default), MOST_SHOWN))
    if not found:
        tags.resolve(target, address.tag_or_default)  # says what is missing
    gone = {
        fingerprint: versions.tombstone_of(target, fingerprint) is not None
        for fingerprint in {one.entry.fingerprint for one in found}
    }
    return [
        Entry(one.number, one.entry.fingerprint, one.entry.previous, one.modified, gone[one.entry.fingerprint])
        for one in found
    ]


def remote(url: str) -> Remote:
    """What is in the share ``url``; over HTTP only the tag that is named, for nothing can be listed there.

    Raises StoreNotFound (no share), StoreFormatError (a note in it is wrong), StoreError.
    """
    address = parse_address(url)
    target = open_target(address)
    refuse_no_share(target)
    names = target.folders(notes.TAGS) if target.can_list else [address.tag_or_default]
    meant = {name: found.entry.fingerprint for name in names if (found := tags.current(target, name)) is not None}
    if not target.can_list:
        if not meant:
            raise StoreNotFound(f"there is no tag {names[0]}", where=target.where, fix="name a tag: URL@TAG")
        return Remote(target.where, False, meant, tuple(_asked(target, meant)))
    stones = versions.tombstones(target)
    known = sorted({*versions.fingerprints(target), *stones})
    there = []
    for fingerprint in known:
        listed = target.listed(notes.version_folder(fingerprint))
        stone = stones.get(fingerprint)
        there.append(
            Version(
                fingerprint,
                versions.is_sealed(target, fingerprint),
                stone is not None,
                None if stone is None else stone.successor,
                len(listed),
                sum(one.size for one in listed.values()),
                _tags_of(fingerprint, meant),
            )
        )
    return Remote(target.where, True, meant, tuple(there))


def _asked(target: Target, meant: dict[str, str]) -> list[Version]:
    found = []
    for fingerprint in sorted(set(meant.values())):
        stone = versions.tombstone_of(target, fingerprint)
        sizes: list[int] = []
        try:
            sealed, content = versions.read_manifest(target, fingerprint)
            sizes = [len(content), *(one.size for one in sealed.objects.values())]
        except StoreError:
            if stone is None:
                raise
        successor = None if stone is None else stone.successor
        is_gone, n_bytes = stone is not None, sum(sizes)
        found.append(
            Version(fingerprint, bool(sizes), is_gone, successor, len(sizes), n_bytes, _tags_of(fingerprint, meant))
        )
    return found


def _tags_of(fingerprint: str, meant: dict[str, str]) -> tuple[str, ...]:
    return tuple(sorted(name for name, its in meant.items() if its == fingerprint))
