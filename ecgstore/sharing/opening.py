"""The place that an address names."""

from __future__ import annotations

from pathlib import Path

from ecgstore.errors import ConfigError
from ecgstore.sharing.address import Address
from ecgstore.sharing.target import Target, Writable
from ecgstore.storage.outside import refuse_within_store


def open_target(address: Address) -> Target:
    """A place to read from; raises MissingExtra."""
    if address.kind == "http":
        from ecgstore.sharing.website import WebTarget

        return WebTarget(address.place)
    if address.kind == "folder":
        return _folder(address)
    return open_writable(address)


def open_writable(address: Address) -> Writable:
    """A place to write to; raises ConfigError where one can only read, or that is within a store, MissingExtra."""
    if address.kind == "s3":
        from ecgstore.sharing.bucket import BucketTarget

        return BucketTarget(address)
    if address.kind == "hf":
        from ecgstore.sharing.hub import HubTarget

        return HubTarget(address)
    if address.kind == "http":
        raise ConfigError(
            "a web server can only be read from",
            where=address.place,
            fix="write to the bucket or the folder that it serves",
        )
    refuse_within_store(Path(address.place))
    return _folder(address)


def _folder(address: Address) -> Writable:
    from ecgstore.sharing.folder import FolderTarget

    return FolderTarget(Path(address.place))
