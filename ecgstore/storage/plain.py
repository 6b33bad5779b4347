"""Files that came from somewhere: a plain file and nothing else, for a pipe or a device may give bytes for ever."""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path
from typing import BinaryIO, TextIO

# O_NONBLOCK, because opening a pipe that nobody writes to would wait for ever. It means nothing to real files.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


def open_plain(path: str | Path, *, follow_links: bool = True) -> BinaryIO:
    """Open a file to read; raises OSError where it isn't there, or is no plain file."""
    descriptor = os.open(path, _FLAGS | (0 if follow_links else os.O_NOFOLLOW))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a plain file", str(path))
    return os.fdopen(descriptor, "rb")


def open_text(path: str | Path, *, encoding: str = "utf-8", newline: str | None = None) -> TextIO:
    """The same as text."""
    return io.TextIOWrapper(open_plain(path), encoding=encoding, newline=newline)
