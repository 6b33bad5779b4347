"""A share in a folder, which may be one of a file server that several machines have mounted.

An object is written beside its place, flushed and renamed; one that may be created only once is linked to its name,
which fails where that is taken. No link is followed, for anybody may have put one there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from ecgstore.errors import IntegrityError, StoreError, StoreFormatError, without_links
from ecgstore.sharing.target import BLOCK, Listed, checked
from ecgstore.storage import disk, publish
from ecgstore.storage.manifest import ObjectHash
from ecgstore.storage.objects import Folder as Reader

#: What is still being written: X.<16 digits>.new.
NEW = ".new"
#: So old a one was left behind by somebody who was killed.
STALE_S = 24 * 3600.0

_LINKS_REFUSED = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK, errno.EACCES}


class FolderTarget:
    """A share on a file system. The folder is made with the first object."""

    can_list = True

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self.where = str(root)

    def read_part(self, name: str, begin: int, end: int) -> bytes:
        with self._plainly(name):
            return Reader(self._root).read(name, begin, end)

    def blocks(self, name: str, size: int) -> Iterator[bytes]:
        with self._plainly(name):
            reader = Reader(self._root)
        begin, block = 0, b"-"
        while begin <= size and block:
            with self._plainly(name):
                block = reader.read(name, begin, begin + BLOCK)
            yield block
            begin += len(block)

    @contextlib.contextmanager
    def _plainly(self, name: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(name) from None
        except OSError as error:
            where, got = self._root / name, error.strerror or str(error)
            raise StoreError("the share can't be read", where=where, got=got) from error

    def listed(self, prefix: str) -> dict[str, Listed]:
        found: dict[str, Listed] = {}
        for folder, _, files in os.walk(self._root / prefix):
            for file in files:
                path = Path(folder, file)
                with contextlib.suppress(FileNotFoundError):
                    about = path.lstat()
                    if stat.S_ISREG(about.st_mode) and not file.endswith(NEW):
                        name = path.relative_to(self._root).as_posix()
                        found[name] = Listed(about.st_size, None, datetime.fromtimestamp(about.st_mtime, UTC))
        return found

    def folders(self, prefix: str) -> list[str]:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(self._root / prefix) as found:
            return sorted(one.name for one in found if one.is_dir(follow_symlinks=False))
        return []

    def try_create(self, name: str, content: bytes) -> bool:
        with disk_errors(self.where):
            path = self._place(name)
            aside = _aside(path)
            try:
                _write(aside, [content])
                try:
                    os.link(aside, path)
                except FileExistsError:
                    return False
                except OSError as error:
                    if error.errno not in _LINKS_REFUSED:
                        raise
                    return self._create_without_links(path, content)
                publish.flush_folder(path.parent)
                return True
            finally:
                aside.unlink(missing_ok=True)

    def _create_without_links(self, path: Path, content: bytes) -> bool:
        # Whoever reads in between finds a part, which is no JSON and counts as nothing.
        try:
            _write(path, [content])
        except FileExistsError:
            return False
        publish.flush_folder(path.parent)
        return True

    def put(self, name: str, content: bytes) -> None:
        self.send(name, lambda: iter([content]), len(content))
        with disk_errors(self.where):
            publish.flush_folder((self._root / name).parent)

    def send(self, name: str, blocks: Callable[[], Iterator[bytes]], size: int) -> None:
        with disk_errors(self.where):
            replace(self._place(name), blocks())

    def copy(self, old: str, new: str, stated: ObjectHash) -> bool:
        """As a hard link, once the old object was read and found whole."""
        try:
            for _ in checked(self.blocks(old, stated.size), stated, old, ""):
                pass
        except (FileNotFoundError, IntegrityError, StoreFormatError):
            return False
        with disk_errors(self.where):
            return link(self._root / old, self._place(new))

    def holds(self, name: str, listed: Listed, stated: ObjectHash, blocks: Callable[[], Iterator[bytes]]) -> bool:
        if listed.size != stated.size:
            return False
        try:
            for _ in checked(self.blocks(name, stated.size), stated, name, ""):
                pass
        except (FileNotFoundError, IntegrityError, StoreFormatError):
            return False
        return True

    def delete(self, names: Iterable[str]) -> None:
        with disk_errors(self.where):
            for name in names:
                path = self._place(name)
                path.unlink(missing_ok=True)
                publish.flush_folder(path.parent)
                # The share's own folders stay; those of a version go with their last object.
                for folder in (self._root / parent for parent in list(Path(name).parents)[:-2]):
                    with contextlib.suppress(OSError):
                        folder.rmdir()

    def clear(self, prefix: str) -> int:
        names = list(self.listed(prefix))
        with disk_errors(self.where):
            for folder, inner, files in os.walk(self._root / prefix, topdown=False):
                links = [one for one in inner if Path(folder, one).is_symlink()]
                for one in (*files, *links):
                    Path(folder, one).unlink(missing_ok=True)
                publish.flush_folder(Path(folder))
                with contextlib.suppress(OSError):  # somebody is writing there again
                    Path(folder).rmdir()
        return len(names)

    def flush(self, prefix: str) -> None:
        with disk_errors(self.where):
            for folder, _, files in os.walk(self._root / prefix):
                for file in files:
                    if file.endswith(NEW) and is_stale(Path(folder, file)):
                        Path(folder, file).unlink(missing_ok=True)
                publish.flush_folder(Path(folder))
            for parent in Path(prefix).parents:
                publish.flush_folder(self._root / parent)
            publish.flush_folder(self._root.parent)

    def _place(self, name: str) -> Path:
        """Where an object goes; the folders on the way to it are made, and are no links."""
        folder = self._root
        folder.mkdir(parents=True, exist_ok=True)
        for part in name.split("/")[:-1]:
            folder = folder / part
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
            refuse_odd_folder(folder)
        return folder / name.rpartition("/")[2]


def refuse_odd_folder(folder: Path) -> None:
    """Raise StoreFormatError where something that is no folder stands, such as a link to one."""
    if not stat.S_ISDIR(folder.lstat().st_mode):
        raise StoreFormatError("something stands where a folder should be", where=folder, fix=without_links(folder))


def replace(path: Path, blocks: Iterable[bytes]) -> None:
    """Write a file beside its place, flush it, and rename it; another name of the old file keeps the old bytes."""
    aside = _aside(path)
    try:
        _write(aside, blocks)
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def link(old: Path, new: Path) -> bool:
    """Let ``new`` be another name of ``old``; False where the file system refuses."""
    aside = _aside(new)
    try:
        os.link(old, aside, follow_symlinks=False)
        aside.replace(new)
        # Two names of one file: then a rename does nothing.
        aside.unlink(missing_ok=True)
    except OSError as error:
        aside.unlink(missing_ok=True)
        if error.errno in _LINKS_REFUSED or isinstance(error, FileNotFoundError):
            return False
        raise
    return True


@contextlib.contextmanager
def disk_errors(where: object) -> Iterator[None]:
    """Turn what a file system refuses into one line that says what to do."""
    try:
        yield
    except OSError as error:
        # Among what is done here are the generators that read elsewhere.
        if isinstance(error, FileNotFoundError) and not error.errno:
            raise
        if isinstance(error, PermissionError) or error.errno == errno.EROFS:
            raise StoreError("you have no right to write here", where=where, got=error.strerror) from error
        raise disk.refusal("the folder can't be written", where, error) from error


def is_stale(path: Path) -> bool:
    """Whether nobody has written to a file for a day."""
    with contextlib.suppress(FileNotFoundError):
        return time.time() - path.lstat().st_mtime > STALE_S
    return False


def _aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.{secrets.token_hex(8)}{NEW}")


def _write(path: Path, blocks: Iterable[bytes]) -> None:
    """Write a new file and flush it; raises FileExistsError where the name is taken, be it by a link."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    with os.fdopen(os.open(path, flags, 0o666), "wb") as file:
        for block in blocks:
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
