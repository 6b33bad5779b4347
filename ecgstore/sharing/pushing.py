"""Push: a sealed store into a share, under a tag."""

from __future__ import annotations

from pathlib import Path

from ecgstore.errors import ConfigError, IntegrityError
from ecgstore.sharing import beside, versions
from ecgstore.sharing.address import parse_address
from ecgstore.sharing.delivery import Delivered, OpenedSource, deliver
from ecgstore.sharing.opening import open_writable
from ecgstore.sharing.target import Progress
from ecgstore.sharing.terms import refuse_unshareable
from ecgstore.storage import manifest
from ecgstore.storage.place import place
from ecgstore.storage.sidecars import passed_on
from ecgstore.storage.store import open_store


def push(
    store: str | Path,
    url: str,
    *,
    private_target: bool = False,
    findings_are_harmless: bool = False,
    progress: Progress | None = None,
) -> Delivered:
    """Bring the sealed store ``store`` into the share ``url``, and let the tag in ``url`` (or ``main``) mean it.

    With it go its card and its sidecars, see :func:`ecgstore.storage.sidecars.passed_on`.

    Interrupted at any moment, the same call goes on; until it is done, the tag means what it meant before. ``progress``
    is called with bytes done and in all. ``private_target``: everybody who can read the share has agreed to the terms
    of sources that may not be passed on. ``findings_are_harmless``: what ``scrub-check`` finds was looked at.

    Raises ConfigError (the address), TermsRefused (terms, patients' key, findings), StoreNotFound, StoreIncomplete (not
    sealed), IntegrityError (damaged here), StoreWithdrawn, TagMoved (the version is there, untagged), StoreError (no
    right, disk full, a place that doesn't create objects only once), StoreUnreachable.
    """
    address = parse_address(url)
    if address.fingerprint is not None:
        raise ConfigError("a store is pushed under a tag, for its fingerprint is its own", where=url, expected="@TAG")
    opened, target = open_store(store), open_writable(address)
    refuse_unshareable(opened, private_target=private_target, harmless=findings_are_harmless)
    objects, sealed = manifest.open_sealed(place(store))
    if sealed.fingerprint != opened.fingerprint:
        raise IntegrityError("the store was replaced while it was looked at", where=store, fix="push it again")
    source = OpenedSource(objects, sealed, str(store))
    versions.refuse_withdrawn(target, opened.fingerprint)
    versions.refuse_returning(target, opened.records, store)
    # A store on another machine has nothing beside it that could be found.
    files = [] if "://" in opened.path else passed_on(opened)
    return deliver(source, target, address.tag_or_default, progress, lambda: beside.send(target, opened, files))
