"""The bytes of a store's objects, of which no more is read than was asked for.

A folder is held by its descriptor, so a reader stays in the folder that it opened when another store takes its name;
and nothing but a plain file below it is ever opened: no link, no device, no pipe. On another machine, whoever serves
the store is believed in nothing: see :mod:`ecgstore.storage.web`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import threading
import weakref
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from ecgstore.errors import StoreFormatError, without_links
from ecgstore.storage import layout
from ecgstore.storage.place import Place, can_list, patiently, read_part, size_of

#: Bytes that are read at a time where a whole object is hashed.
BLOCK = 8 << 20
#: Within so many bytes a manifest says its fingerprint.
_SEAL_BYTES = 4096


class Objects(Protocol):
    """What is needed of wherever a store stands. Names are relative to the store, with ``/``."""

    def size(self, name: str) -> int | None:
        """Bytes of an object; None where there is none. Raises StoreFormatError where it is no plain file."""

    def read(self, name: str, begin: int, end: int) -> bytes:
        """The bytes from ``begin`` up to ``end``, fewer where the object ends; raises FileNotFoundError."""

    def names(self) -> Iterator[str] | None:
        """Whatever stands there, folders left out; None where one can't ask."""

    def is_rewritten(self) -> bool:
        """Whether another manifest is read here than at the opening; in a folder it may say the same."""


def objects_at(root: Place) -> Objects:
    """Open the place of a store; raises FileNotFoundError, NotADirectoryError."""
    if isinstance(root, Path) and os.open in os.supports_dir_fd:
        return Folder(root)
    return Remote(root)


def sha256_of(objects: Objects, name: str, size: int) -> str:
    """SHA-256 of the first ``size`` bytes of an object."""
    digest = hashlib.sha256()
    for begin in range(0, size, BLOCK):
        digest.update(objects.read(name, begin, min(begin + BLOCK, size)))
    return digest.hexdigest()


class Folder:
    """A store on a file system."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._folders = {"": os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)}
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all, self._folders)
        self._seal = self._mark_of_manifest()

    def size(self, name: str) -> int | None:
        try:
            folder, last = self._folder_of(name)
            found = os.stat(last, dir_fd=folder, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        self._refuse_odd(name, found.st_mode)
        return found.st_size

    def read(self, name: str, begin: int, end: int) -> bytes:
        folder, last = self._folder_of(name)
        try:
            # Without blocking: a pipe would wait for a writer for ever.
            descriptor = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO, errno.EMLINK):
                raise self._odd(name) from None
            raise
        try:
            found = os.fstat(descriptor)
            self._refuse_odd(name, found.st_mode)
            end = min(end, found.st_size)
            parts = []
            while begin < end and (part := os.pread(descriptor, end - begin, begin)):
                parts.append(part)
                begin += len(part)
        finally:
            os.close(descriptor)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def names(self) -> Iterator[str]:
        for place, _, files, _ in os.fwalk(".", dir_fd=self._folders[""], follow_symlinks=False):
            for name in files:
                yield os.path.normpath(f"{place}/{name}").replace("\\", "/")

    def is_rewritten(self) -> bool:
        # Where it is gone, the folder is being removed behind another one that took its name: what was read is old.
        return self._mark_of_manifest() not in (None, self._seal)

    def _mark_of_manifest(self) -> tuple[int, int, int] | None:
        with contextlib.suppress(OSError):
            found = os.stat(layout.MANIFEST, dir_fd=self._folders[""], follow_symlinks=False)
            return found.st_ino, found.st_size, found.st_mtime_ns
        return None

    def _folder_of(self, name: str) -> tuple[int, str]:
        """The descriptor of the folder that an object stands in, and its name in there."""
        folder, _, last = name.rpartition("/")
        with self._lock:
            if folder not in self._folders:
                outer, begun = self._folders[""], ""
                for part in folder.split("/"):
                    begun = f"{begun}/{part}".lstrip("/")
                    if begun not in self._folders:
                        if stat.S_ISLNK(os.stat(part, dir_fd=outer, follow_symlinks=False).st_mode):
                            raise self._odd(begun)
                        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                        self._folders[begun] = os.open(part, flags, dir_fd=outer)
                    outer = self._folders[begun]
            return self._folders[folder], last

    def _refuse_odd(self, name: str, mode: int) -> None:
        if not stat.S_ISREG(mode):
            raise self._odd(name)

    def _odd(self, name: str) -> StoreFormatError:
        return StoreFormatError(
            "something that is no plain file stands in the store",
            where=self._root / name,
            fix=without_links(self._root / name),
        )


def _close_all(folders: dict[str, int]) -> None:
    for descriptor in folders.values():
        with contextlib.suppress(OSError):
            os.close(descriptor)


class Remote:
    """A store on another machine, or wherever else fsspec reads."""

    def __init__(self, root: Place) -> None:
        self._root = root
        self._seal: bytes | None = None
        self._ahead: dict[tuple[str, int], Future[bytes]] = {}

    def size(self, name: str) -> int | None:
        return size_of(self._root, name)

    def read(self, name: str, begin: int, end: int) -> bytes:
        ahead = self._ahead.pop((name, end), None) if begin == 0 else None
        content = read_part(self._root, name, begin, end) if ahead is None else ahead.result()
        if name == layout.MANIFEST and self._seal is None:
            self._seal = content[:_SEAL_BYTES]
        return content

    def read_ahead(self, ends: Mapping[str, int]) -> None:
        """Begin to read the named objects, each from its beginning up to there, all at once: each wait costs as much as
        the way there. The next :meth:`read` of that part waits for it.
        """
        threads = ThreadPoolExecutor(max(len(ends), 1), thread_name_prefix="ecgstore-ahead")
        for name, end in ends.items():
            self._ahead[name, end] = threads.submit(read_part, self._root, name, 0, end)
        threads.shutdown(wait=False)

    def names(self) -> Iterator[str] | None:
        if not can_list(self._root):
            return None
        base = len(f"{self._root}/")
        found = patiently(self._root, lambda: [str(path) for path in self._root.rglob("*") if path.is_file()])
        return iter(path[base:].replace("\\", "/") for path in found)

    def is_rewritten(self) -> bool:
        # No dates and no tags: not every server has them, and to ask for them is one more way there and back.
        try:
            return read_part(self._root, layout.MANIFEST, 0, _SEAL_BYTES) != self._seal
        except (FileNotFoundError, NotADirectoryError):
            return True
