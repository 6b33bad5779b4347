"""A full disk, said in one line with what to do."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from ecgstore.errors import StoreError

FULL, MAKE_ROOM = "the disk is full", "make room and run the same command again"


def is_full(error: OSError) -> bool:
    """Whether what refuses is a disk without room, or with a quota that is used up."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def refusal(what: str, where: object, error: OSError) -> StoreError:
    """The error of somebody who could not write: that the disk is full, or else ``what``."""
    if is_full(error):
        return StoreError(FULL, where=where, fix=f"{MAKE_ROOM}: it goes on from here")
    return StoreError(what, where=where, got=error.strerror or str(error))


@contextlib.contextmanager
def saying_full(where: object) -> Iterator[None]:
    """Raise StoreError where the disk is full; whatever else a file system refuses stays as it is."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise StoreError(FULL, where=where, fix=MAKE_ROOM) from error
        raise
