"""Bringing one sealed store into a share, step by step: docs/sharing.md says what others see after each.

1. The version was not withdrawn. 2. The place creates objects only once. 3. What the tag means now. 4. What is there of
the version already. 5. The rest: copied by the server where a version there has the same object, else sent, hashed on
its way. 6. All of it is there. 7. The manifest: now the version exists. 8. The tag, if nobody moved it meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from ecgstore.errors import IntegrityError, StoreUnreachable
from ecgstore.sharing import notes, tags, versions
from ecgstore.sharing.target import BLOCK, Meter, Progress, Target, Writable, at, checked, each, prove
from ecgstore.sharing.versions import object_name
from ecgstore.storage import layout
from ecgstore.storage.limits import limits
from ecgstore.storage.manifest import Manifest
from ecgstore.storage.objects import Objects


class Source(Protocol):
    """A sealed store that is brought."""

    @property
    def sealed(self) -> Manifest:
        """What it consists of."""

    @property
    def manifest_bytes(self) -> bytes:
        """The same as it stands there."""

    def blocks(self, name: str) -> Iterator[bytes]:
        """An object; raises IntegrityError where it is missing, or longer or shorter than it was sealed."""


class OpenedSource:
    """A store that was opened."""

    def __init__(self, objects: Objects, sealed: Manifest, where: str) -> None:
        self._objects, self.sealed, self._where = objects, sealed, where
        self.manifest_bytes = objects.read(layout.MANIFEST, 0, limits().manifest_bytes)

    def blocks(self, name: str) -> Iterator[bytes]:
        stated = self.sealed.objects[name]

        def read() -> Iterator[bytes]:
            begin, block = 0, b"-"
            while block and begin <= stated.size:
                try:
                    block = self._objects.read(name, begin, begin + BLOCK)
                except (FileNotFoundError, NotADirectoryError):
                    block = b""
                yield block
                begin += len(block)

        return checked(read(), stated, f"{self._where}/{name}", "look at `ecgstore verify --deep`; mend it first")


class SharedSource:
    """A version of a share."""

    def __init__(self, target: Target, fingerprint: str) -> None:
        self._target = target
        self.sealed, self.manifest_bytes = versions.read_manifest(target, fingerprint)

    def blocks(self, name: str) -> Iterator[bytes]:
        return fetched(self._target, self.sealed, name)


def fetched(target: Target, sealed: Manifest, name: str) -> Iterator[bytes]:
    """An object of a version as it comes; raises IntegrityError where it is not the one that was sealed."""
    stated, there = sealed.objects[name], object_name(sealed.fingerprint, name)
    try:
        yield from checked(
            target.blocks(there, stated.size), stated, at(target, there), "whoever has the store can push it again"
        )
    except FileNotFoundError:
        versions.refuse_withdrawn(target, sealed.fingerprint)
        raise IntegrityError(
            "an object of the version is missing",
            where=at(target, there),
            fix="whoever has the store can push it again",
        ) from None


@dataclass(slots=True)
class Delivered:
    """What was done: objects and bytes that were sent, copied by the server, or there already."""

    fingerprint: str
    tag: str | None
    #: What the tag meant before.
    previous: str | None = None
    tag_moved: bool = False
    sent: int = 0
    bytes_sent: int = 0
    copied: int = 0
    kept: int = 0
    #: What goes with it and was sent: its card, its sidecars.
    beside: tuple[str, ...] = ()


def deliver(
    source: Source,
    target: Writable,
    tag: str,
    progress: Progress | None = None,
    send_beside: Callable[[], Sequence[str]] | None = None,
) -> Delivered:
    """Bring a store into a share; raises StoreWithdrawn, TagMoved, StoreError, IntegrityError.

    ``send_beside`` brings what goes with it, and says what that was.
    """
    sealed = source.sealed
    fingerprint, folder = sealed.fingerprint, notes.version_folder(sealed.fingerprint)
    versions.refuse_withdrawn(target, fingerprint)
    prove(target)
    before = tags.current(target, tag)
    previous = None if before is None else before.entry.fingerprint
    delivered = Delivered(fingerprint, tag, previous)

    _bring_objects(source, target, previous, delivered, progress)

    found = target.listed(folder)
    for name, stated in sealed.objects.items():
        there = found.get(f"{folder}/{name}")
        if there is None or there.size != stated.size:
            raise StoreUnreachable(
                "the place has lost an object that it was sent",
                where=at(target, f"{folder}/{name}"),
                expected=f"{stated.size} bytes",
                got="none" if there is None else there.size,
                fix="run the same command again",
            )
    target.flush(folder)
    versions.refuse_withdrawn(target, fingerprint)
    target.put(f"{folder}/{layout.MANIFEST}", source.manifest_bytes)
    try:
        versions.refuse_withdrawn(target, fingerprint)
    except BaseException:
        # It was withdrawn while it came back: whoever withdrew it looked for a manifest too early.
        target.delete([f"{folder}/{layout.MANIFEST}"])
        raise
    if send_beside is not None:
        delivered.beside = tuple(send_beside())
    delivered.tag_moved = tags.move(target, tag, fingerprint, previous)
    return delivered


def _bring_objects(
    source: Source, target: Writable, previous: str | None, delivered: Delivered, progress: Progress | None
) -> None:
    sealed = source.sealed
    folder = notes.version_folder(sealed.fingerprint)
    there = target.listed(folder)
    known = versions.sources_of_copies(target, previous)
    meter = Meter(sum(one.size for one in sealed.objects.values()), progress)

    def bring(name: str) -> str:
        stated, whole = sealed.objects[name], f"{folder}/{name}"
        old = known.get((stated.size, stated.sha256))
        if whole in there and target.holds(whole, there[whole], stated, lambda: source.blocks(name)):
            how = "kept"
        elif old is not None and old != whole and target.copy(old, whole, stated):
            how = "copied"
        else:
            target.send(whole, lambda: source.blocks(name), stated.size)
            how = "sent"
        meter.add(stated.size)
        return how

    # The largest first: the last ones to arrive are then small.
    names = sorted(sealed.objects, key=lambda name: -sealed.objects[name].size)
    how = dict(zip(names, each(bring, names), strict=True))
    counts = Counter(how.values())
    delivered.sent, delivered.copied, delivered.kept = counts["sent"], counts["copied"], counts["kept"]
    delivered.bytes_sent = sum(sealed.objects[name].size for name in names if how[name] == "sent")
