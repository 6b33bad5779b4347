"""How a run writes and reads its files: whole or not at all, and in plain numbers."""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from ecgstore import ConfigError
from ecgstore.inner import refuse_within_store, without_links
from ecgtrain.errors import CheckpointError

#: What tables that are written for others to read end with.
TABLE = ".parquet"
#: A report with curves of a thousand classes takes a tenth of this; a run has a few files for each question.
MAX_JSON_BYTES, MAX_FILES = 200_000_000, 100_000


def write_text(path: Path, text: str) -> None:
    """:func:`write_bytes`, as UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write aside, flush, then rename: a reader finds the old file or the new one. Raises OSError."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def refuse_taken(path: Path, *, overwrite: bool = False, suffix: str = "") -> None:
    """Raise ConfigError where a file can't be written to ``path``; asked before any work is done for it.

    ``suffix``: what the name must end with, lest a file of one kind be taken for another.
    """
    if suffix and path.suffix.lower() != suffix:
        kind = suffix.removeprefix(".").capitalize()
        raise ConfigError(
            f"the table is written as {kind}", where=path, expected=f"a name that ends with {suffix}", got=path.name
        )
    refuse_within_store(path)
    if path.is_dir():
        raise ConfigError("a folder stands there", where=path, expected="a file to write", fix="name another")
    if not overwrite and (path.exists() or path.is_symlink()):
        raise ConfigError("a file stands there already", where=path, fix="name another, or say --overwrite")
    if not path.absolute().parent.is_dir():
        raise ConfigError("there is no such folder to write into", where=path.absolute().parent, fix="make it first")


@contextmanager
def published(path: Path, *, overwrite: bool = False, suffix: str = "") -> Iterator[Path]:
    """A place beside ``path`` to write to, which becomes ``path`` once the block ends well, and is gone otherwise.

    Raises what :func:`refuse_taken` raises, then and before; ConfigError where the disk refuses.
    """
    refuse_taken(path, overwrite=overwrite, suffix=suffix)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield aside
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        refuse_taken(path, overwrite=overwrite, suffix=suffix)
        aside.replace(path)
    except OSError as error:
        raise ConfigError("the file can't be written", where=path, got=error.strerror or str(error)) from error
    finally:
        aside.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` in plain numbers, keys in their order; what is not a number becomes null. Raises OSError."""
    write_text(path, json.dumps(plain(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_plain(path: Path, most_bytes: int) -> bytes:
    """What a plain file of at most so many bytes holds. Raises OSError."""
    with open_plain(path) as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise OSError(errno.EFBIG, f"more than {most_bytes} bytes", str(path))
    return content


def open_plain(path: Path) -> io.BufferedReader:
    """Open a plain file: a pipe, a device or a link may lead anywhere or never end. Raises OSError."""
    try:
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW), "rb")
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise OSError(
                errno.ELOOP, f"a link, which is not followed: {without_links(path.absolute())}", str(path)
            ) from None
        raise
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a plain file", str(path))
    return file


def refuse_strange_files(folder: Path) -> None:
    """Refuse what is neither a plain file nor a folder below ``folder``; of links all but those to folders within.

    A run may come from anywhere. Raises CheckpointError.
    """
    root = folder.resolve()
    for number, path in enumerate(folder.rglob("*")):
        if number >= MAX_FILES:
            raise CheckpointError("a run has fewer files than this", where=folder, expected=f"{MAX_FILES} at most")
        if path.is_symlink() and not (path.is_dir() and path.resolve().is_relative_to(root)):
            raise CheckpointError(
                "a link stands in the run, and links are not followed", where=path, fix=without_links(path.absolute())
            )
        if path.exists() and not path.is_file() and not path.is_dir():
            raise CheckpointError("this is neither a file nor a folder", where=path, fix="remove it")


def read_json(path: Path) -> dict[str, Any]:
    """The mapping that a file of a run holds; raises CheckpointError where there is none."""
    try:
        content = json.loads(read_plain(path, MAX_JSON_BYTES).decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        got = " ".join(str(error).split())[:200]
        raise CheckpointError("a file of the run can't be read", where=path, got=got) from error
    if not isinstance(content, dict):
        raise CheckpointError("a file of the run must hold a mapping", where=path, got=type(content).__name__)
    return content


def plain(value: Any) -> Any:
    """Turn ``value`` into what JSON holds: NumPy and Python numbers alike, NaN and infinity to None."""
    match value:
        case None | bool() | str() | int():
            return value
        case np.generic():
            return plain(value.item())
        case float():
            return value if math.isfinite(value) else None
        case BaseModel():
            return plain(value.model_dump())
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case np.ndarray():
            return plain(value.tolist())
        case tuple() if hasattr(value, "_asdict"):
            return plain(value._asdict())
        case list() | tuple() | set() | frozenset():
            return [plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    return str(value)
