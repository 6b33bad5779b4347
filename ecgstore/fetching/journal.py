"""What was verified, remembered from one fetch to the next."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO, NamedTuple

from ecgstore.errors import SourceError
from ecgstore.fetching.checksums import FETCH_STATE


class Verified(NamedTuple):
    size: int
    mtime_ns: int
    sha256: str


def verified_as(path: Path, sha256: str) -> Verified | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return Verified(found.st_size, found.st_mtime_ns, sha256)


class Journal:
    """``.fetch.jsonl``: one line per file once it was verified. Also the lock of the folder, while it is open."""

    def __init__(self, dest: Path) -> None:
        self.dest = dest
        self.verified: dict[str, Verified] = {}
        self._file: IO[str]

    def __enter__(self) -> Journal:
        path = self.dest / FETCH_STATE
        try:
            self.dest.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise SourceError("the folder can't be written to", where=self.dest, got=error.strerror) from None
        self._file = os.fdopen(descriptor, "r+", encoding="utf-8", errors="replace")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise SourceError("another fetch is at work", where=self.dest, fix="wait until it has ended") from None
        text = self._file.read()
        self.verified = _remembered(text.splitlines())
        if text and not text.endswith("\n"):  # killed in the middle of a line
            self._file.write("\n")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def remember(self, name: str, sha256: str) -> None:
        """Write down that a file was found to have its stated hash."""
        entry = verified_as(self.dest / name, sha256)
        if entry is not None and self.verified.get(name) != entry:
            self.verified[name] = entry
            try:
                self._file.write(json.dumps({"path": name} | entry._asdict()) + "\n")
                self._file.flush()
            except OSError as error:
                raise SourceError("the folder can't be written to", where=self.dest, got=error.strerror) from None


def _remembered(lines: Iterable[str]) -> dict[str, Verified]:
    """By path; a line that can't be understood only means that a file is read again."""
    found = {}
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            found[entry["path"]] = Verified(entry["size"], entry["mtime_ns"], entry["sha256"])
    return found
