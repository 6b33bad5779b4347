"""The list of SHA-256 sums that a published folder carries, and whether its files are still those.

PhysioNet puts a ``SHA256SUMS.txt`` at the top of every project: one line ``<sha256> <relative path>`` per file.
The other spellings of ``sha256sum`` (two blanks, `` *path``, ``./path``, CRLF) are understood as well. A list
with a path that leads out of the folder is refused as a whole: nobody writes such a line by mistake.
"""

from __future__ import annotations

import itertools
import re
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from ecgstore.errors import SourceError
from ecgstore.storage import manifest, publish
from ecgstore.storage.plain import open_text

#: The list itself, at the top of the folder.
SUMS = "SHA256SUMS.txt"
#: What ``ecgstore fetch`` remembers of a folder; see :mod:`ecgstore.fetching.fetch`.
FETCH_STATE = ".fetch.jsonl"

MISSING, NOT_LISTED = "missing", "not listed"

_LINE = re.compile(r"(?P<sha256>[0-9A-Fa-f]{64})[ \t]+\*?(?P<path>\S.*)")
_DRIVE = re.compile(r"[A-Za-z]:")
#: Paths handed to the threads at once, so that a list of a million files costs no memory.
_BATCH = 1024


@dataclass(frozen=True, slots=True)
class SourceCheck:
    """What came out of comparing a folder with its list.

    ``different`` maps a path to what was found: ``"sha256 abc…, stated def…"``, or why it can't be read.
    ``not_listed`` are files that the list doesn't know; they can't be checked, and are not an error by themselves.
    """

    root: Path
    checked: int
    missing: tuple[str, ...] = ()
    different: Mapping[str, str] = field(default_factory=dict)
    not_listed: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Nothing that is listed is missing or different."""
        return not self.missing and not self.different


def verify_source(
    root: Path,
    *,
    names: Iterable[str] | None = None,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> SourceCheck:
    """Compare the folder ``root`` with its ``SHA256SUMS.txt``, byte for byte.

    ``names``: only these paths, relative to ``root`` with forward slashes; default: everything listed, and every
    file of the folder that is not. ``progress(done, total)`` is called once per file, from this thread.

    Raises SourceError if the list is not there, can't be understood, or has a path out of the folder.
    """
    root = Path(root)
    sums = load_sums(root)
    wanted = sorted(sums) if names is None else sorted(set(names))
    found: dict[str, str] = {}
    for done, (name, problem) in enumerate(_check(root, wanted, sums, workers), start=1):
        if problem is not None:
            found[name] = problem
        if progress is not None:
            progress(done, len(wanted))
    strangers = (name for name in _files_below(root) if name not in sums) if names is None else ()
    return SourceCheck(
        root=root,
        checked=len(wanted),
        missing=tuple(name for name, problem in found.items() if problem == MISSING),
        different={name: problem for name, problem in found.items() if problem not in (MISSING, NOT_LISTED)},
        not_listed=tuple(sorted([*strangers, *(name for name, problem in found.items() if problem == NOT_LISTED)])),
    )


def load_sums(root: Path) -> dict[str, str]:
    """Read ``root/SHA256SUMS.txt``: SHA-256 in lower case by path, relative to ``root`` with forward slashes.

    Raises SourceError if it is not there, can't be understood, or has a path out of the folder.
    """
    path = Path(root) / SUMS
    try:
        # Newlines are cut off by hand: a carriage return inside a line is not the end of one.
        with open_text(path, encoding="utf-8-sig", newline="\n") as file:
            return parse_sums(file, path)
    except FileNotFoundError:
        raise SourceError(
            "the folder has no list of checksums",
            where=path,
            fix=f"copy {SUMS} from where the folder was published, or write one: "
            f"find . -type f ! -name {SUMS} -exec sha256sum {{}} + > {SUMS}",
        ) from None
    except UnicodeDecodeError as error:
        raise SourceError("the list of checksums is not text", where=path, got=str(error)) from None
    except OSError as error:
        raise SourceError("the list of checksums can't be read", where=path, got=error.strerror) from None


def parse_sums(lines: Iterable[str], where: object) -> dict[str, str]:
    """SHA-256 by path from the lines of a list; raise SourceError naming the line that can't be used."""
    sums: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        line = line.rstrip("\r\n")
        if not line.strip():
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise SourceError(
                f"line {number} of the list of checksums can't be understood",
                where=where,
                expected="<64 hexadecimal digits> <relative path>",
                got=_short(line),
                fix="get the list again from where the folder was published",
            )
        name, sha256 = _relative(match["path"], number, where), match["sha256"].lower()
        if sums.setdefault(name, sha256) != sha256:
            raise SourceError(
                f"line {number} of the list of checksums contradicts an earlier one", where=where, got=_short(name)
            )
    if not sums:
        raise SourceError("the list of checksums is empty", where=where)
    return sums


def bad_files(
    root: Path, relative_paths: Iterable[str], sums: Mapping[str, str], *, workers: int = 2
) -> dict[str, str]:
    """Which of these files are not those of the list, and why; empty if all are.

    The values read ``"sha256 abc…, stated def…"``, ``"missing"``, ``"not listed"``, ``"not a file"`` or
    ``"can't be read: …"``. ``sums`` as :func:`load_sums` gives them; a path that is not in them is never opened.
    """
    found = _check(Path(root), relative_paths, sums, workers)
    return {name: problem for name, problem in found if problem is not None}


def compare(path: Path, stated: str) -> str | None:
    """What is wrong with the file at ``path`` whose SHA-256 should be ``stated``; None if nothing is."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return "not a file"
        found = manifest.hash_object(path).sha256
    except (FileNotFoundError, NotADirectoryError):
        return MISSING
    except OSError as error:
        return f"can't be read: {error.strerror}"
    return None if found == stated else difference(found, stated)


def difference(found: str, stated: str) -> str:
    """Two different sums, for people."""
    return f"sha256 {found[:12]}…, stated {stated[:12]}…"


def _check(root: Path, names: Iterable[str], sums: Mapping[str, str], workers: int) -> Iterator[tuple[str, str | None]]:
    cancelled = threading.Event()

    def check(name: str) -> tuple[str, str | None]:
        if cancelled.is_set() or name not in sums:
            return name, NOT_LISTED
        return name, compare(root / name, sums[name])

    remaining = iter(names)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        try:
            while batch := list(itertools.islice(remaining, _BATCH)):
                yield from pool.map(check, batch)
        finally:
            # Left early, as by Ctrl-C: what is still in line must not be hashed first.
            cancelled.set()


def _files_below(root: Path) -> Iterator[str]:
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        if name not in (SUMS, FETCH_STATE) and path.suffix != publish.ASIDE and path.is_file():
            yield name


def _relative(text: str, number: int, where: object) -> str:
    name = text
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    parts = name.split("/")
    out = text.startswith("/") or "\\" in text or _DRIVE.match(text) is not None
    if out or not name.isprintable() or any(part in ("", ".", "..") for part in parts):
        raise SourceError(
            f"line {number} of the list of checksums has a path that leads out of the folder, or is none",
            where=where,
            got=_short(text),
            fix="don't use this list: get it again from where the folder was published",
        )
    return name


def _short(text: str) -> str:
    shown = ascii(text)
    return shown if len(shown) <= 100 else shown[:97] + "..."
