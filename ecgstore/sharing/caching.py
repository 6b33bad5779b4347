"""Versions of shares that this machine keeps, so that whoever trains on one names its address and fetches it once.

    $ECGSTORE_CACHE_DIR, or ~/.cache/ecgstore
    └── versions/<fingerprint>.ecg      whole stores; what is being fetched has no such name yet

A version never changes, so what is kept is asked for no more: with the fingerprint in its address a store opens
without a network.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path

from ecgstore.errors import ConfigError, MissingExtra, StoreError, StoreUnreachable
from ecgstore.sharing import versions
from ecgstore.sharing.address import Address, parse_address
from ecgstore.sharing.opening import open_target
from ecgstore.sharing.pulling import pull
from ecgstore.sharing.target import Progress
from ecgstore.storage import locks
from ecgstore.storage.outside import refuse_within_store
from ecgstore.storage.store import Store, open_store


def is_shared(path: str | Path) -> bool:
    """Whether ``path`` names a version of a share (``PLACE@TAG``, ``PLACE@FINGERPRINT``), and no store of that name."""
    text = str(path)
    if "@" not in text.rpartition("/")[2]:
        return False
    if "://" in text and not text.startswith("file://"):
        return True
    return not Path(text.removeprefix("file://")).expanduser().exists()


def pinned_address(path: str) -> str:
    """The address ``path`` with the fingerprint that it means today instead of a tag; other paths as they are.

    Raises what :func:`ecgstore.sharing.pull` raises for an address; StoreWithdrawn where it can be known.
    """
    if not is_shared(path):
        return path
    address = parse_address(path)
    target = open_target(address)
    try:
        fingerprint = versions.fingerprint_at(target, address)
        versions.refuse_withdrawn(target, fingerprint)
    except (StoreUnreachable, MissingExtra):
        if address.fingerprint is None or not _place_of(address.fingerprint).exists():
            raise
        fingerprint = address.fingerprint  # it is kept here: nobody has to be asked
    return str(Address(address.kind, address.place, fingerprint=fingerprint))


def open_shared(path: str | Path, *, progress: Progress | None = None) -> Store:
    """Open the version of a share at ``path`` (``URL@TAG``) out of this machine's cache.

    If it isn't there it is fetched first. Several processes may ask for it at once: one fetches, the others wait.
    Anything that is no address of a version is opened as :func:`ecgstore.open_store` does. Raises what that and
    :func:`ecgstore.sharing.pull` raise.
    """
    if not is_shared(path):
        return open_store(path)
    address = parse_address(path)
    if address.fingerprint is None or not _place_of(address.fingerprint).exists():
        address = parse_address(pinned_address(str(path)))
    assert address.fingerprint is not None
    place = _place_of(address.fingerprint)
    if not place.exists():
        refuse_within_store(place)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                "the folder for shared stores can't be made",
                where=place.parent,
                got=error.strerror or str(error),
                fix="set ECGSTORE_CACHE_DIR to a folder with room",
            ) from error
        with _fetching(place):
            pull(str(address), place, progress=progress)
    store = open_store(place)
    if store.fingerprint != address.fingerprint:
        raise StoreError("this is not the version of that name", where=place, fix="remove it, and try again")
    return store


def _fetching(place: Path) -> AbstractContextManager[None]:
    def busy(who: str) -> StoreError:  # never: it waits
        return StoreError("another process fetches the store", where=place, got=who)

    def lockless(error: OSError) -> StoreError:
        got = error.strerror or str(error)
        fix = "set ECGSTORE_CACHE_DIR to a folder on another file system"
        return StoreError("the file system knows no locks", where=place, got=got, fix=fix)

    return locks.held(place.with_name(f".{place.name}.fetching"), busy=busy, lockless=lockless, wait=True)


def _place_of(fingerprint: str) -> Path:
    named = os.environ.get("ECGSTORE_CACHE_DIR")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (Path(named).expanduser() if named else home / "ecgstore") / "versions" / f"{fingerprint}.ecg"
