"""Nothing is published half-done: write aside, flush to the disk, rename."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ecgstore.storage import disk

#: Marks a file or folder that is still being written; whatever bears it after a crash may be deleted.
ASIDE = ".partial"


def write_bytes(path: Path, content: bytes, *, durable: bool = True, replace: bool = True) -> None:
    """Make ``path`` hold ``content``, wholly or not at all; ``durable``: also after a power cut.

    Raises FileExistsError without ``replace`` where something stands there, also where it came just now.
    """
    with writing(path, durable=durable, replace=replace) as file:
        file.write(content)


@contextlib.contextmanager
def writing(path: Path, *, durable: bool = True, replace: bool = True) -> Iterator[BinaryIO]:
    """A file that stands at ``path`` once the context ends well; if it ends by an error, nothing is changed there.

    See :func:`write_bytes`.
    """
    if path.exists() and not path.is_file():  # a rename would replace even a device
        raise FileExistsError(errno.EEXIST, "something that is no plain file stands there", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}{ASIDE}")
    try:
        with aside.open("wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        if replace:
            aside.replace(path)
        else:
            _put_where_nothing_is(aside, path)
    except BaseException as error:
        aside.unlink(missing_ok=True)
        # What fails while a file is written doesn't say which one.
        if isinstance(error, OSError) and disk.is_full(error) and error.filename is None:
            error.filename = str(path)
        raise
    if durable:
        flush_folder(path.parent)


def _put_where_nothing_is(aside: Path, path: Path) -> None:
    """A rename would replace what somebody else wrote since it was looked whether something is there."""
    try:
        os.link(aside, path)
    except OSError as error:
        if isinstance(error, FileExistsError) or os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        aside.replace(path)  # a file system without hard links
    else:
        aside.unlink()


def flush(path: Path) -> None:
    """Flush a file's content that somebody else wrote; its name is flushed with its folder."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Flush a folder's list of names, so that a rename survives a power cut."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
