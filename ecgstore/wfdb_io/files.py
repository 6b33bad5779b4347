"""Files that a header names, opened as what they may be: hostile."""

from __future__ import annotations

import itertools
import os
import stat
import zlib
from collections.abc import Iterable
from io import FileIO
from pathlib import Path
from typing import Any

from ecgstore.errors import RecordError, need

#: Header files longer than this, and lines longer than that which would go to wfdb, are refused unread.
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


def header_content(name: str, record_id: str) -> bytes:
    """The bytes of the header ``name``, or of the one whose suffix differs from it in case alone."""
    try:
        try:
            descriptor = os.open(name, _OPEN_FLAGS)
        except FileNotFoundError:
            descriptor = os.open(find_header(name.removesuffix(_HEADER_ENDS[0])) or name, _OPEN_FLAGS)
    except FileNotFoundError:
        raise RecordError(record_id, "missing_header", os.path.basename(name)) from None  # noqa: PTH119 never a Path here
    except (OSError, ValueError) as error:  # a ValueError is a NUL in the name
        raise RecordError(record_id, "bad_header", one_line(error)) from None
    try:
        # Most headers are there after one call. A pipe gives nothing, and of a device no more than a header is read.
        content = block = os.read(descriptor, _HEADER_BLOCK)
        while len(block) == _HEADER_BLOCK and len(content) <= MAX_HEADER_BYTES:
            block = os.read(descriptor, _HEADER_BLOCK)
            content += block
    except OSError as error:
        raise RecordError(record_id, "bad_header", one_line(error)) from None
    finally:
        os.close(descriptor)
    if len(content) > MAX_HEADER_BYTES:
        raise RecordError(record_id, "too_large", f"a header of more than {MAX_HEADER_BYTES} bytes")
    return content


def refuse_outside(names: Iterable[str], record_id: str) -> None:
    """Signal and segment files stand beside their header; a path that leaves the folder is never followed."""
    for name in names:
        if "/" in name or "\\" in name or "\0" in name or name in ("..", "."):
            raise RecordError(record_id, "unsafe_path", repr(name[:80]))


def beside(base: str, name: str) -> str:
    return f"{base[: base.rfind(os.sep) + 1]}{name}"


def size_of(path: str, name: str, record_id: str) -> int:
    try:
        state = os.stat(path)  # noqa: PTH116 a Path costs more than this
    except FileNotFoundError:
        raise RecordError(record_id, "missing_signal", name[:80]) from None
    except (OSError, ValueError) as error:
        raise RecordError(record_id, "bad_signal", f"{name[:80]}: {one_line(error)}") from None
    if not stat.S_ISREG(state.st_mode):
        raise RecordError(record_id, "bad_signal", f"{name[:80]}: not a file")
    return state.st_size


def open_file(path: str, name: str, record_id: str) -> FileIO:
    """Open a signal file, which is a file and nothing else: a pipe or a device might give samples for ever."""
    try:
        descriptor = os.open(path, _OPEN_FLAGS)
    except FileNotFoundError:
        raise RecordError(record_id, "missing_signal", name) from None
    except (OSError, ValueError) as error:
        raise RecordError(record_id, "bad_signal", f"{name}: {one_line(error)}") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise RecordError(record_id, "bad_signal", f"{name}: not a file")
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


def crc32_of_files(base: str, names: Iterable[str], record_id: str) -> int:
    crc = 0
    for name in names:
        with open_file(beside(base, name), name, record_id) as file:
            crc = crc32_of(file, None, crc)
    return crc


def import_wfdb() -> Any:
    """The package wfdb, which only this wing knows; raises MissingExtra where it is not installed."""
    return need("wfdb", "ingest")


def one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
