"""The seal: a list of every object of a store with its size and SHA-256, written last.

The fingerprint is the SHA-256 over that list. No clock, host or path goes into it, so the same input and
the same settings give the same fingerprint.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from ecgstore.errors import IntegrityError, StoreFormatError, StoreIncomplete, StoreNotFound, visible
from ecgstore.storage import layout, publish, validate
from ecgstore.storage.limits import limits
from ecgstore.storage.objects import Objects, objects_at, sha256_of
from ecgstore.storage.place import Place

#: Files that don't belong to a store and are named one by one.
MOST_STRANGERS = 1000


@dataclass(frozen=True, slots=True)
class ObjectHash:
    """Size in bytes and SHA-256 of one object."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a sealed store consists of, by path inside the store."""

    fingerprint: str
    plan_sha256: str
    objects: Mapping[str, ObjectHash]
    format_version: int = layout.FORMAT_VERSION


def hash_object(path: Place) -> ObjectHash:
    """Hash one file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return ObjectHash(file.tell(), digest.hexdigest())


def hash_bytes(content: bytes) -> ObjectHash:
    """The same of what is in memory."""
    return ObjectHash(len(content), hashlib.sha256(content).hexdigest())


def fingerprint(objects: Mapping[str, ObjectHash]) -> str:
    """SHA-256 over the sorted lines ``path TAB size TAB sha256``."""
    lines = (f"{path}\t{objects[path].size}\t{objects[path].sha256}\n" for path in sorted(objects))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def seal(root: Path, objects: Mapping[str, ObjectHash], plan_sha256: str) -> Manifest:
    """Write the manifest; from this moment on the store may be read, and must not be changed."""
    manifest = Manifest(fingerprint(objects), plan_sha256, objects)
    content = {
        "format": layout.FORMAT,
        "format_version": layout.FORMAT_VERSION,
        "fingerprint": manifest.fingerprint,
        "plan_sha256": plan_sha256,
        "objects": {path: [objects[path].size, objects[path].sha256] for path in sorted(objects)},
    }
    publish.write_bytes(root / layout.MANIFEST, json.dumps(content, indent=1).encode() + b"\n")
    return manifest


def load(root: Place) -> Manifest:
    """Read the manifest of the store at ``root``.

    Raises StoreNotFound, StoreIncomplete (never sealed), StoreFormatError (not ours, a version that this release can't
    read, or names that no store holds), IntegrityError (the list doesn't give its own fingerprint), StoreUnreachable.
    """
    return open_sealed(root)[1]


def open_sealed(root: Place) -> tuple[Objects, Manifest]:
    """The place of a sealed store, held open, and its manifest; raises as :func:`load`."""
    most = limits().manifest_bytes
    try:
        objects = objects_at(root)
        content = objects.read(layout.MANIFEST, 0, most + 1)
    except FileNotFoundError:
        raise _why_missing(root) from None
    except NotADirectoryError:
        raise StoreFormatError("a store is a folder, and this is a file", where=root) from None
    return objects, parse(content, root)


def needed_at_once(sealed: Manifest, most_of_records: int) -> dict[str, int]:
    """The objects that opening a store reads, each with the end of what is asked for; none that is refused unread.

    Of a larger table of records than this only parts may be wanted.
    """
    bounds = limits()
    most = {
        layout.ROOT: bounds.root_bytes,
        layout.SIGNAL_JSON: bounds.array_bytes,
        layout.RECORDS: min(bounds.table_bytes, most_of_records),
    }
    sizes = {name: sealed.objects[name].size for name in most}
    return {name: size + 1 for name, size in sizes.items() if size <= most[name]}


def parse(content: bytes, root: Place) -> Manifest:
    """What the manifest of the store at ``root`` says; raises as :func:`load`."""
    path = root / layout.MANIFEST
    said = validate.parse_json(content, path, limits().manifest_bytes)
    if said.get("format") != layout.FORMAT:
        raise StoreFormatError("this is not the manifest of an ecgstore", where=path)
    version = validate.check_version(said.get("format_version"), root)
    for key in ("fingerprint", "plan_sha256"):
        if not validate.is_sha256(said.get(key)):
            raise IntegrityError("the manifest has lost a part", where=path, expected=key)
    objects = _objects(said.get("objects"), path)
    validate.check_names({name: one.size for name, one in objects.items()}, path)
    if fingerprint(objects) != said["fingerprint"]:
        raise IntegrityError("the manifest was changed after the store was sealed", where=path)
    return Manifest(said["fingerprint"], said["plan_sha256"], objects, version)


def _objects(said: object, path: Place) -> dict[str, ObjectHash]:
    if not isinstance(said, dict):
        raise IntegrityError("the manifest has lost a part", where=path, expected="objects")
    found = {}
    for name, pair in said.items():
        is_pair = isinstance(pair, list) and len(pair) == 2 and type(pair[0]) is int and 0 <= pair[0] < 2**50
        if not is_pair or not validate.is_sha256(pair[1]):
            raise IntegrityError("the manifest states no size and hash of an object", where=path, got=name[:80])
        found[name] = ObjectHash(*pair)
    return found


def verify(
    objects: Objects, manifest: Manifest, *, deep: bool, progress: Callable[[int, int], None] | None = None
) -> list[str]:
    """Compare what stands there with the manifest; one line per problem, none if all is well.

    Quick: presence, sizes, nothing that doesn't belong (where one can ask what is there: not over HTTP). Deep: every
    byte by its SHA-256. Nothing but plain files below the store is opened.
    """
    problems = []
    expected = manifest.objects
    for done, (name, stated) in enumerate(sorted(expected.items()), start=1):
        problems += _problem_of(objects, name, stated, deep=deep)
        if progress is not None:
            progress(done, len(expected))
    present = objects.names()
    if present is None:
        return problems
    # As many as anybody wants to read of.
    strangers = itertools.islice((name for name in present if _is_strange(name, expected)), MOST_STRANGERS + 1)
    found = [visible(name) for name in strangers]
    problems += [f"{name}: does not belong to the store" for name in sorted(found[:MOST_STRANGERS])]
    if len(found) > MOST_STRANGERS:
        problems.append(f"more than {MOST_STRANGERS} files do not belong to the store")
    return problems


def _problem_of(objects: Objects, name: str, stated: ObjectHash, *, deep: bool) -> list[str]:
    try:
        size = objects.size(name)
        if size is None:
            return [f"{name}: missing"]
        if size != stated.size:
            return [f"{name}: size {size}, sealed {stated.size}"]
        found = sha256_of(objects, name, size) if deep else stated.sha256
    except StoreFormatError as error:
        return [f"{name}: {error.what}"]
    except FileNotFoundError:
        return [f"{name}: missing"]
    return [] if found == stated.sha256 else [f"{name}: sha256 {found[:12]}…, sealed {stated.sha256[:12]}…"]


def _is_strange(name: str, expected: Collection[str]) -> bool:
    return name not in expected and name != layout.MANIFEST and not name.startswith(layout.SCAFFOLD)


def _why_missing(root: Place) -> StoreNotFound | StoreIncomplete | StoreFormatError:
    if not root.exists():
        return StoreNotFound("there is no store", where=root, fix="check the path, or make one with `ecgstore ingest`")
    if (root / layout.BUILDING).exists() or (root / layout.SIGNAL).exists():
        return StoreIncomplete(
            "the store was never sealed",
            where=root,
            fix="finish it by running the command that began it again",
        )
    return StoreFormatError("the folder is not an ecgstore", where=root, expected=f"a {layout.MANIFEST} in it")
