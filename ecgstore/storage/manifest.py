"""The seal: a list of every object of a store with its size and SHA-256, written last.

The fingerprint is the SHA-256 over that list. No clock, host or path goes into it, so the same input and
the same settings give the same fingerprint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ecgstore.errors import IntegrityError, StoreFormatError, StoreIncomplete, StoreNotFound
from ecgstore.storage import layout, publish
from ecgstore.storage.place import Place, can_list, patiently, size_of


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


def hash_object(path: Place) -> ObjectHash:
    """Hash one file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return ObjectHash(file.tell(), digest.hexdigest())


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

    Raises StoreNotFound, StoreIncomplete (never sealed), StoreFormatError (not ours, or a version that this
    release can't read), IntegrityError (the list doesn't give its own fingerprint), StoreUnreachable.
    """
    path = root / layout.MANIFEST
    try:
        content = json.loads(patiently(root, path.read_bytes))
    except FileNotFoundError:
        raise _why_missing(root) from None
    except NotADirectoryError:
        raise StoreFormatError("a store is a folder, and this is a file", where=root) from None
    except ValueError as error:
        raise IntegrityError("the manifest can't be read", where=path, got=str(error)) from None
    if not isinstance(content, dict) or content.get("format") != layout.FORMAT:
        raise StoreFormatError("this is not the manifest of an ecgstore", where=path)
    if content.get("format_version") not in layout.READABLE_VERSIONS:
        readable = ", ".join(map(str, sorted(layout.READABLE_VERSIONS)))
        raise StoreFormatError(
            "the store has a format version that this release can't read",
            where=root,
            expected=readable,
            got=content.get("format_version"),
            fix="install a newer ecgstore",
        )
    try:
        objects = {name: ObjectHash(int(size), str(sha256)) for name, (size, sha256) in content["objects"].items()}
        manifest = Manifest(content["fingerprint"], content["plan_sha256"], objects)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise IntegrityError("the manifest has lost a part", where=path, got=repr(error)) from None
    if fingerprint(objects) != manifest.fingerprint:
        raise IntegrityError("the manifest was changed after the store was sealed", where=path)
    return manifest


def verify(
    root: Place, manifest: Manifest, *, deep: bool, progress: Callable[[int, int], None] | None = None
) -> list[str]:
    """Compare the files below ``root`` with the manifest; one line per problem, none if all is well.

    Quick: presence, sizes, nothing that doesn't belong (where one can ask what is there: not over HTTP). Deep: every
    byte by its SHA-256.
    """
    problems = []
    expected = manifest.objects
    for done, (name, stated) in enumerate(sorted(expected.items()), start=1):
        size = size_of(root, name)
        if size is None:
            problems.append(f"{name}: missing")
        elif size != stated.size:
            problems.append(f"{name}: size {size}, sealed {stated.size}")
        elif deep and (found := patiently(root, partial(hash_object, root / name)).sha256) != stated.sha256:
            problems.append(f"{name}: sha256 {found[:12]}…, sealed {stated.sha256[:12]}…")
        if progress is not None:
            progress(done, len(expected))
    if not can_list(root):
        return problems
    base = len(f"{root}/")
    present = {str(path)[base:].replace("\\", "/") for path in root.rglob("*") if path.is_file()}
    strangers = {name for name in present if not name.startswith(layout.SCAFFOLD)} - expected.keys() - {layout.MANIFEST}
    problems += [f"{name}: does not belong to the store" for name in sorted(strangers)]
    return problems


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
