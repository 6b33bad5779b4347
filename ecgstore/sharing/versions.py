"""The versions in a share: sealed stores under their fingerprints, and the tombstones of those that were taken back."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from typing import cast

import pyarrow as pa

from ecgstore.errors import IntegrityError, StoreError, StoreNotFound, StoreWithdrawn
from ecgstore.sharing import notes, tags
from ecgstore.sharing.address import Address
from ecgstore.sharing.notes import Tombstone
from ecgstore.sharing.target import Target, at, read_bounded, read_note, refuse_no_share
from ecgstore.sharing.terms import TermsRefused
from ecgstore.storage import layout, manifest, validate
from ecgstore.storage.limits import limits
from ecgstore.storage.manifest import Manifest
from ecgstore.storage.place import Place
from ecgstore.storage.store import Store
from ecgstore.storage.withdrawn import Withdrawn, count_named

#: Tags of a share whose versions are looked at by a push.
MOST_TAGS = 32


class _Where:
    """What a version is called in messages: an address is no path."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __truediv__(self, name: str) -> _Where:
        return _Where(posixpath.join(self._text, name))

    def __str__(self) -> str:
        return self._text


def object_name(fingerprint: str, name: str) -> str:
    """An object of a version."""
    return f"{notes.version_folder(fingerprint)}/{name}"


def fingerprint_at(target: Target, address: Address) -> str:
    """The version that an address means; raises StoreNotFound."""
    return address.fingerprint or tags.resolve(target, address.tag_or_default)


def tombstone_of(target: Target, fingerprint: str) -> Tombstone | None:
    """Of a version that was taken back."""
    name = notes.tombstone_name(fingerprint)
    try:
        return notes.parse_tombstone(read_note(target, name), fingerprint, at(target, name))
    except FileNotFoundError:
        return None


def tombstones(target: Target) -> dict[str, Tombstone]:
    """All of them, where they can be listed, by fingerprint."""
    found = {}
    for name in target.listed(notes.WITHDRAWN):
        fingerprint = name.rpartition("/")[2].removesuffix(".json")
        if validate.is_sha256(fingerprint) and (stone := tombstone_of(target, fingerprint)) is not None:
            found[fingerprint] = stone
    return found


def refuse_withdrawn(target: Target, fingerprint: str) -> None:
    """Raise StoreWithdrawn where a version was taken back."""
    stone = tombstone_of(target, fingerprint)
    if stone is None:
        return
    error = StoreWithdrawn(
        f"the version {fingerprint} was withdrawn",
        where=target.where,
        fix=f"take the one in its place: @{stone.successor}" if stone.successor else "there is none in its place",
    )
    error.successor = stone.successor
    raise error


def read_manifest(target: Target, fingerprint: str) -> tuple[Manifest, bytes]:
    """What a version consists of, and the manifest's bytes.

    Raises StoreNotFound (not there, or not all of it), StoreWithdrawn, IntegrityError (it is of another version),
    StoreFormatError.
    """
    name = object_name(fingerprint, layout.MANIFEST)
    try:
        content = read_bounded(target, name, limits().manifest_bytes)
    except FileNotFoundError:
        refuse_withdrawn(target, fingerprint)
        refuse_no_share(target)
        raise StoreNotFound(
            f"there is no version {fingerprint}, or only a part of one",
            where=target.where,
            fix="look at `ecgstore remote`; whoever pushed it can finish it by the same command",
        ) from None
    sealed = manifest.parse(content, cast(Place, _Where(at(target, notes.version_folder(fingerprint)))))
    if sealed.fingerprint != fingerprint:
        raise IntegrityError(
            "another store stands where a version should be",
            where=at(target, notes.version_folder(fingerprint)),
            expected=fingerprint,
            got=sealed.fingerprint,
        )
    return sealed, content


def is_sealed(target: Target, fingerprint: str) -> bool:
    """Whether the whole of a version is there, as its manifest promises."""
    try:
        read_manifest(target, fingerprint)
    except StoreError:
        return False
    return True


def fingerprints(target: Target) -> list[str]:
    """Versions that are there, whole or in part."""
    return [name for name in target.folders(notes.VERSIONS) if validate.is_sha256(name)]


def open_version(target: Target, fingerprint: str) -> Store:
    """Open a version where it stands: its tables anywhere, its samples where objects can be listed."""
    refuse_withdrawn(target, fingerprint)
    sealed, _ = read_manifest(target, fingerprint)
    where = cast(Place, _Where(at(target, notes.version_folder(fingerprint))))
    return _Version(where, VersionObjects(target, fingerprint), sealed)


class _Version(Store):
    """A version never changes: what is not as it was sealed is damage, and no other store."""

    def _refuse_replaced(self, *, certainly: bool = False) -> None:
        pass


class VersionObjects:
    """The bytes of a version's objects, as a store reads them."""

    def __init__(self, target: Target, fingerprint: str) -> None:
        self._target, self._fingerprint = target, fingerprint

    def size(self, name: str) -> int | None:
        whole = object_name(self._fingerprint, name)
        found = self._target.listed(posixpath.dirname(whole)).get(whole)
        return None if found is None else found.size

    def read(self, name: str, begin: int, end: int) -> bytes:
        return self._target.read_part(object_name(self._fingerprint, name), begin, end)

    def names(self) -> Iterator[str] | None:
        if not self._target.can_list:
            return None
        folder = notes.version_folder(self._fingerprint)
        return (name[len(folder) + 1 :] for name in self._target.listed(folder))

    def is_rewritten(self) -> bool:
        return False  # a version never changes


def refuse_returning(target: Target, records: pa.Table, where: object) -> None:
    """Raise TermsRefused where a store, of which these are the records, holds who has withdrawn from a version there.

    Asked of the versions that tags mean. Nobody is named: who asks may know them only by a hash.
    """
    named = [records[name].to_pylist() for name in ("record_id", "patient_key", "source")]
    for fingerprint in _meant(target):
        try:
            n = count_named(_withdrawn_from(target, fingerprint), *named)
        except StoreError:
            continue  # it can't be read, and has to be mended by whoever pushed it
        if n:
            raise TermsRefused(
                f"{n} records of the store are of somebody who has withdrawn from a version there",
                where=where,
                fix=f"pull {target.where}@{fingerprint}, and let that one grow",
            )


def _meant(target: Target) -> list[str]:
    found = (tags.current(target, tag) for tag in target.folders(notes.TAGS)[:MOST_TAGS])
    return list(dict.fromkeys(one.entry.fingerprint for one in found if one is not None))


def _withdrawn_from(target: Target, fingerprint: str) -> Withdrawn:
    sealed, _ = read_manifest(target, fingerprint)
    name = object_name(fingerprint, layout.ROOT)
    content = read_bounded(target, name, limits().root_bytes)
    if manifest.hash_bytes(content) != sealed.objects[layout.ROOT]:
        raise IntegrityError("an object is not the one that was sealed", where=at(target, name))
    said = validate.parse_json(content, at(target, name), limits().root_bytes)
    return Withdrawn.of(validate.check_root(said, sealed.format_version, sealed.plan_sha256, at(target, name)))


def sources_of_copies(target: Target, first: str | None) -> Mapping[tuple[int, str], str]:
    """Objects of versions that tags mean, by size and SHA-256; those of ``first`` before all others."""
    meant = [first] if first else []
    meant += [one for one in _meant(target) if one not in meant]
    known: dict[tuple[int, str], str] = {}
    for fingerprint in meant:
        try:
            sealed, _ = read_manifest(target, fingerprint)
        except StoreError:
            continue
        for name, one in sealed.objects.items():
            known.setdefault((one.size, one.sha256), object_name(fingerprint, name))
    return known
