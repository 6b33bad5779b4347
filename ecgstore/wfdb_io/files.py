"""Files that a header names, opened as what they may be: hostile."""

from __future__ import annotations

import itertools
import os
import stat
import zlib
from collections.abc import Iterable
from functools import lru_cache
from io import FileIO
from pathlib import Path
from typing import Any

from ecgstore.errors import RecordError, need

#: Header files longer than this are refused unread.
MAX_HEADER_BYTES = 1 << 20
#: Values that are read at once where nobody has said how many.
BLOCK_VALUES = 1 << 20
_HEADER_BLOCK = 1 << 14
#: Spellings of a header's suffix: those of a CD or a Windows share are often in capitals.
_HEADER_ENDS = tuple(f".{''.join(letters)}" for letters in itertools.product("hH", "eE", "aA"))

# O_NONBLOCK, because opening a pipe that nobody writes to would wait for ever. It means nothing to real files.
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


def find_header(path: str | Path) -> str | None:
    """The header file of the record at ``path``, its suffix in whatever case it stands; None where there is none."""
    return next((name for end in _HEADER_ENDS if os.path.isfile(name := f"{path}{end}")), None)  # noqa: PTH113 costs less


def header_content(name: str, record_id: str, said: str = "the header") -> bytes:
    """The bytes of the header ``name``, or of the one whose suffix, or else whose name, differs from it in case alone.

    ``said`` is what it is called where it can't be read: never by its name.
    """
    try:
        try:
            descriptor = os.open(name, _OPEN_FLAGS)
        except FileNotFoundError:
            found = find_header(name.removesuffix(_HEADER_ENDS[0]))
            descriptor = os.open(found or but_for_case(name, said, record_id, "missing_header"), _OPEN_FLAGS)
    except FileNotFoundError:
        raise RecordError(record_id, "missing_header", said) from None
    except RecordError:
        raise
    except (OSError, ValueError) as error:  # a ValueError is a NUL in the name
        raise RecordError(record_id, "bad_header", f"{said}: {why(error)}") from None
    try:
        # Most headers are there after one call. A pipe gives nothing, and of a device no more than a header is read.
        content = block = os.read(descriptor, _HEADER_BLOCK)
        while len(block) == _HEADER_BLOCK and len(content) <= MAX_HEADER_BYTES:
            block = os.read(descriptor, _HEADER_BLOCK)
            content += block
    except OSError as error:
        raise RecordError(record_id, "bad_header", f"{said}: {why(error)}") from None
    finally:
        os.close(descriptor)
    if len(content) > MAX_HEADER_BYTES:
        raise RecordError(record_id, "too_large", f"{said}: more than {MAX_HEADER_BYTES} bytes")
    return content


def refuse_outside(names: Iterable[str], kind: str, record_id: str) -> None:
    """Files of signals and segments (``kind``) stand beside their header; no path is followed out of it."""
    for number, name in enumerate(names):
        if "/" in name or "\\" in name or "\0" in name or name in ("..", "."):
            raise RecordError(record_id, "unsafe_path", f"{kind} {number} names a file that isn't beside the header")


def but_for_case(path: str, said: str, record_id: str, missing: str = "missing_signal") -> str:
    """The one file whose name differs from that of ``path``, which isn't there, in case alone.

    Headers that were written on Windows spell names as they like. Raises RecordError ``missing`` where there is none,
    or more than one.
    """
    folder, _, name = path.rpartition(os.sep)
    try:
        names = _names_by_case(folder or os.curdir, os.stat(folder or os.curdir).st_mtime_ns)  # noqa: PTH116
    except (OSError, ValueError):
        names = {}
    found = names.get(name.casefold(), ())
    if len(found) > 1:
        detail = f"{said}: {len(found)} files are called so but for upper and lower case, none exactly so"
        raise RecordError(record_id, missing, detail)
    if not found or found == (name,):  # the second is a link that leads nowhere
        raise RecordError(record_id, missing, said)
    return f"{folder}{os.sep}{found[0]}" if folder else found[0]


# A folder may lack the files of all of its thousands of records.
@lru_cache(maxsize=4)
def _names_by_case(folder: str, changed_ns: int) -> dict[str, tuple[str, ...]]:
    """The names in a folder by what they are without case; ``changed_ns`` says which state of the folder is meant."""
    found: dict[str, tuple[str, ...]] = {}
    for name in os.listdir(folder):  # noqa: PTH208 a Path costs more
        found[name.casefold()] = (*found.get(name.casefold(), ()), name)
    return found


def located(path: str, said: str, record_id: str) -> str:
    """``path``, or the one file that is called so but for case. Raises RecordError missing_signal."""
    return path if os.path.lexists(path) else but_for_case(path, said, record_id)


def beside(base: str, name: str) -> str:
    return f"{base[: base.rfind(os.sep) + 1]}{name}"


def said_file(number: int) -> str:
    """How a signal file is called in a rejection: by its place in the header, because its name may be a person's."""
    return f"signal file {number}"


def size_of(path: str, said: str, record_id: str) -> int:
    """Bytes of the file at ``path``; ``said`` is what it is called where it is refused."""
    try:
        try:
            state = os.stat(path)  # noqa: PTH116 a Path costs more than this
        except FileNotFoundError:
            state = os.stat(but_for_case(path, said, record_id))  # noqa: PTH116
    except FileNotFoundError:
        raise RecordError(record_id, "missing_signal", said) from None
    except RecordError:
        raise
    except (OSError, ValueError) as error:
        raise RecordError(record_id, "bad_signal", f"{said}: {why(error)}") from None
    if not stat.S_ISREG(state.st_mode):
        raise RecordError(record_id, "bad_signal", f"{said}: not a file")
    return state.st_size


def open_file(path: str, said: str, record_id: str) -> FileIO:
    """Open a signal file, which is a file and nothing else: a pipe or a device might give samples for ever."""
    try:
        try:
            descriptor = os.open(path, _OPEN_FLAGS)
        except FileNotFoundError:
            descriptor = os.open(but_for_case(path, said, record_id), _OPEN_FLAGS)
    except FileNotFoundError:
        raise RecordError(record_id, "missing_signal", said) from None
    except RecordError:
        raise
    except (OSError, ValueError) as error:
        raise RecordError(record_id, "bad_signal", f"{said}: {why(error)}") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise RecordError(record_id, "bad_signal", f"{said}: not a file")
        return FileIO(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def fill(file: FileIO, view: memoryview) -> int:
    """Read until ``view`` is full or the file at its end: one call gives at most 2 GiB. Returns bytes read."""
    n_bytes = 0
    while n_bytes < len(view) and (got := file.readinto(view[n_bytes:])):
        n_bytes += got
    return n_bytes


def crc32_of(file: FileIO, n_bytes: int | None, crc: int = 0) -> int:
    """Go on with a CRC-32 over the next ``n_bytes`` of a file, or all that is left of it."""
    while n_bytes is None or n_bytes > 0:
        block = file.read(BLOCK_VALUES if n_bytes is None else min(n_bytes, BLOCK_VALUES))
        if not block:
            break
        crc = zlib.crc32(block, crc)
        n_bytes = None if n_bytes is None else n_bytes - len(block)
    return crc


def crc32_of_files(base: str, names: Iterable[str], record_id: str, crc: int = 0) -> int:
    for number, name in enumerate(names):
        with open_file(beside(base, name), said_file(number), record_id) as file:
            crc = crc32_of(file, None, crc)
    return crc


def import_wfdb() -> Any:
    """The package wfdb, which only this wing knows; raises MissingExtra where it is not installed."""
    return need("wfdb", "ingest")


def why(error: Exception) -> str:
    """The system's or Python's word for what went wrong, without the paths and contents that messages hold."""
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
