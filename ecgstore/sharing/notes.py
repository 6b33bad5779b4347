"""What stands in a share beside its stores: names, and the small JSON objects (marker, tags, tombstones, lists).

They come from elsewhere: each is bounded, has exactly the keys that are listed here, and is refused otherwise. Each
that is created once holds a nonce, by which whoever wrote it knows it again.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ecgstore.errors import StoreFormatError
from ecgstore.storage import validate
from ecgstore.storage.beside import CARD, NAME
from ecgstore.storage.manifest import ObjectHash

MARKER = "ecgstore-share.json"
VERSIONS, TAGS, WITHDRAWN, CARDS = "versions", "tags", "withdrawn", "cards"
#: Bytes of one of these objects; each is far smaller.
MOST_BYTES = 4096
#: What goes with a version: so many files, and bytes of the list of them.
MOST_BESIDE, INDEX_BYTES = 100, 64 << 10
CARD_PAGE, CROISSANT = "card.md", "croissant.json"
#: Entries of one tag.
MOST_ENTRIES = 1_000_000
SHARE_VERSION = 1

_FORMAT = "ecgstore-share"
_NONCE = re.compile(r"[0-9a-f]{32}")
_ENTRY = re.compile(r"([0-9]{8})\.json")


@dataclass(frozen=True, slots=True)
class TagEntry:
    """One step of a tag: to ``fingerprint``, from ``previous`` (None for the first)."""

    fingerprint: str
    previous: str | None


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A version that was taken back, and the one in its place."""

    fingerprint: str
    successor: str | None


def version_folder(fingerprint: str) -> str:
    """Where a version stands: a store as it is."""
    return f"{VERSIONS}/{fingerprint}"


def entry_name(tag: str, number: int) -> str:
    """The object of a tag's entry; numbers begin at 0."""
    return f"{TAGS}/{tag}/{number:08d}.json"


def entry_number(name: str) -> int | None:
    """Of an object in a tag's folder, by its last part; None for any other."""
    found = _ENTRY.fullmatch(name.rpartition("/")[2])
    return None if found is None else int(found[1])


def hint_name(tag: str) -> str:
    """The object that tells those who can't list where to begin."""
    return f"{TAGS}/{tag}/latest.json"


def tombstone_name(fingerprint: str) -> str:
    """The object that says that a version was taken back."""
    return f"{WITHDRAWN}/{fingerprint}.json"


def index_name(fingerprint: str) -> str:
    """The object that lists what goes with a version."""
    return f"{CARDS}/{fingerprint}/index.json"


def marker() -> bytes:
    """A new marker."""
    return _written({"version": SHARE_VERSION, "nonce": secrets.token_hex(16)})


def tag_entry(entry: TagEntry) -> bytes:
    """A new entry; no two are the same bytes."""
    about = {"fingerprint": entry.fingerprint, "previous": entry.previous}
    return _written({**about, "nonce": secrets.token_hex(16)})


def tombstone(stone: Tombstone) -> bytes:
    """A new tombstone."""
    about = {"fingerprint": stone.fingerprint, "successor": stone.successor}
    return _written({**about, "nonce": secrets.token_hex(16)})


def hint(number: int) -> bytes:
    """A hint at the entry of this number."""
    return _written({"number": number})


def index(files: Mapping[str, ObjectHash]) -> bytes:
    """The list of what goes with a version."""
    return _written({"files": {name: [files[name].size, files[name].sha256] for name in sorted(files)}})


def parse_marker(content: bytes, where: object) -> None:
    """Raise StoreFormatError where this is no marker, or one of a later release."""
    said = _parsed(content, where)
    if type(said.get("version")) is not int or said["version"] != SHARE_VERSION:
        raise StoreFormatError(
            "the share is of a kind that this release can't use",
            where=where,
            expected=f"version {SHARE_VERSION}",
            got=str(said.get("version"))[:40],
            fix="install a newer ecgstore",
        )
    _check(said, {"version", "nonce"}, where)


def parse_entry(content: bytes, where: object) -> TagEntry:
    """An entry of a tag."""
    said = _check(_parsed(content, where), {"fingerprint", "previous", "nonce"}, where)
    return TagEntry(said["fingerprint"], said["previous"])


def parse_tombstone(content: bytes, fingerprint: str, where: object) -> Tombstone:
    """The tombstone of a version."""
    said = _check(_parsed(content, where), {"fingerprint", "successor", "nonce"}, where)
    if said["fingerprint"] != fingerprint:
        raise StoreFormatError("this note is of another version than its name says", where=where)
    return Tombstone(said["fingerprint"], said["successor"])


def parse_hint(content: bytes, where: object) -> int:
    """The number in a hint."""
    number = _check(_parsed(content, where), {"number"}, where)["number"]
    return int(number)


def parse_index(content: bytes, where: object) -> dict[str, ObjectHash]:
    """What goes with a version, by the names of its files."""
    files = _check(_parsed(content, where, INDEX_BYTES), {"files"}, where)["files"]
    return {name: ObjectHash(*pair) for name, pair in files.items()}


def _are_files(value: Any) -> bool:
    return isinstance(value, dict) and len(value) <= MOST_BESIDE and all(map(_is_file, value.items()))


def _is_file(item: tuple[str, Any]) -> bool:
    name, pair = item
    stem, mark, kind = name.rpartition(".")
    is_named = name in (CARD, CARD_PAGE, CROISSANT) or bool(mark and kind == "parquet" and NAME.fullmatch(stem))
    is_hash = isinstance(pair, list) and len(pair) == 2 and type(pair[0]) is int and validate.is_sha256(pair[1])
    return is_named and is_hash and 0 <= pair[0] < 2**63


def _written(about: Mapping[str, Any]) -> bytes:
    return json.dumps({"format": _FORMAT, **about}).encode() + b"\n"


def _parsed(content: bytes, where: object, most_bytes: int = MOST_BYTES) -> dict[str, Any]:
    said = validate.parse_json(content, where, most_bytes)
    if said.pop("format", None) != _FORMAT:
        raise StoreFormatError("this is no part of a share", where=where, expected=f'"format": "{_FORMAT}"')
    return said


def _check(said: dict[str, Any], keys: set[str], where: object) -> dict[str, Any]:
    is_right: dict[str, Callable[[Any], bool]] = {
        "version": lambda value: type(value) is int,
        "nonce": lambda value: isinstance(value, str) and _NONCE.fullmatch(value) is not None,
        "fingerprint": validate.is_sha256,
        "previous": lambda value: value is None or validate.is_sha256(value),
        "successor": lambda value: value is None or validate.is_sha256(value),
        "files": _are_files,
        "number": lambda value: type(value) is int and 0 <= value < MOST_ENTRIES,
    }
    if said.keys() != keys:
        raise StoreFormatError("a note in the share has other keys", where=where, expected=", ".join(sorted(keys)))
    for key in keys:
        if not is_right[key](said[key]):
            raise StoreFormatError(f"a note in the share has a wrong {key}", where=where, got=repr(said[key])[:80])
    return said
