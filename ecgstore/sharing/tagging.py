"""Tag: let a name mean another version of a share."""

from __future__ import annotations

from dataclasses import dataclass

from ecgstore.errors import ConfigError, TagMoved
from ecgstore.sharing import tags, versions
from ecgstore.sharing.address import fingerprint_of, is_tag, parse_address
from ecgstore.sharing.opening import open_writable
from ecgstore.sharing.target import Writable, prove, refuse_no_share

_TRIES = 20


@dataclass(frozen=True, slots=True)
class Tagged:
    """What a tag means now, and meant before."""

    tag: str
    fingerprint: str
    previous: str | None
    moved: bool


def tag(url: str, name: str, fingerprint: str, *, expected: str | None = None) -> Tagged:
    """Let the tag ``name`` of the share ``url`` mean the version ``fingerprint``.

    It may be newer or older than the one that it means now. With ``expected`` only if the tag still means that
    version; raises TagMoved otherwise. Raises ConfigError, StoreNotFound (no such version), StoreWithdrawn,
    StoreError, StoreUnreachable.
    """
    address = parse_address(url)
    if address.tag or address.fingerprint:
        raise ConfigError("the tag stands behind the address here", where=url, expected="URL NAME FINGERPRINT")
    if not is_tag(name):
        raise ConfigError("no tag can be called so", expected="letters, digits, . _ -; 64 at most", got=name[:80])
    fingerprint = fingerprint_of(fingerprint)
    expected = None if expected is None else fingerprint_of(expected)
    target = open_writable(address)
    refuse_no_share(target)
    versions.refuse_withdrawn(target, fingerprint)
    versions.read_manifest(target, fingerprint)
    prove(target)
    return moved_to(target, name, fingerprint, expected)


def moved_to(target: Writable, name: str, fingerprint: str, expected: str | None = None) -> Tagged:
    """Move a tag, whatever it means, unless a version is ``expected``."""
    for left in reversed(range(_TRIES)):
        found = tags.current(target, name)
        previous = None if found is None else found.entry.fingerprint
        try:
            moved = tags.move(target, name, fingerprint, previous if expected is None else expected)
        except TagMoved:
            if expected is not None or left == 0:
                raise
            continue
        return Tagged(name, fingerprint, previous, moved)
    raise AssertionError("the last try returns or raises")
