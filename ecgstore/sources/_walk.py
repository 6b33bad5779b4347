"""One walk over a folder, for all sources that look for headers themselves.

Links to folders are followed, each folder once; suffixes are read in any case; what programs leave behind is passed
over and counted; what can't be read is said. Nothing of this depends on the order in which a file system lists names.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ecgstore.errors import SourceError
from ecgstore.record import Rejection

HEADER = ".hea"
#: Folders of operating systems and network drives, lower-case; those whose name begins with a dot go without saying.
_LITTER = frozenset({"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found"})
#: Files beside a header that are its signals.
_SIGNALS = frozenset({".dat", ".mat"})
#: Files that stand beside records. Folders may have dots in their names, too.
_FILES = _SIGNALS | {HEADER, ".atr", ".xws", ".txt", ".csv", ".xyz", ".md", ".pdf", ".html", ".json", ".gz", ".zip"}
#: What is passed over is counted as far as this: a snapshot of a network drive may hold all over again.
_MAX_COUNTED = 1000


@dataclass(frozen=True, slots=True)
class Found:
    """What a walk found. ``stems`` are the headers' paths below the folder, with ``/`` and without suffix, sorted.

    ``beside`` maps a stem to the suffixes, as they are spelt, of other files of its name that are no signals;
    ``rejected`` are folders that can't be read and headers that can't be told apart; ``notes`` say the rest aloud.
    """

    stems: tuple[str, ...]
    beside: dict[str, tuple[str, ...]]
    rejected: tuple[Rejection, ...]
    notes: tuple[str, ...]


def is_litter(name: str) -> bool:
    """Whether a file or folder of this name is none of the source's, such as ``._a.hea`` or ``__MACOSX``."""
    return name.startswith(".") or name.lower() in _LITTER


def stem_of(name: str) -> str | None:
    """The name of a header without its suffix; None for the name of anything else."""
    return name[: -len(HEADER)] if name[-len(HEADER) :].lower() == HEADER else None


def stems_in(folder: Path) -> list[str]:
    """Names of the headers in one folder, without suffix, sorted; none where it can't be read."""
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError:
        return []
    return sorted({stem for name in names if not is_litter(name) and (stem := stem_of(name)) is not None})


def walk(root: Path) -> Found:
    """Find every header below ``root``. Raises SourceError where ``root`` itself can't be read.

    Of two ways to a folder the one without a link counts; of two links, the first by name.
    """
    found = _Walk(root)
    found.search("")
    while found.links:
        found.follow(found.links.pop(0))
    return Found(tuple(sorted(found.stems)), found.beside, tuple(found.rejected), tuple(found.notes()))


@dataclass(slots=True)
class _Walk:
    root: Path
    stems: list[str] = field(default_factory=list)
    beside: dict[str, tuple[str, ...]] = field(default_factory=dict)
    rejected: list[Rejection] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    _folders: list[str] = field(default_factory=list)
    #: Device and inode of every folder that was searched, kept only where there are links.
    _seen: set[tuple[int, int]] | None = None
    _above: frozenset[tuple[int, int]] = frozenset()
    _litter: list[str] = field(default_factory=list)
    _n_litter: int = 0
    _upward: list[str] = field(default_factory=list)

    def search(self, below: str) -> None:
        """Search a folder and all that is in it, links apart: those are put down for later."""
        pending = [below]
        while pending:
            below = pending.pop()
            try:
                if self._seen is not None and not self._is_new(below):
                    continue
                with os.scandir(self.root / below) as listed:
                    entries = sorted(listed, key=lambda entry: entry.name)
            except OSError as error:
                self._refuse(below, error)
                continue
            self._folders.append(below)
            prefix = f"{below}/" if below else ""
            files: list[str] = []
            folders: list[str] = []
            stems = {stem_of(entry.name) for entry in entries}
            for entry in entries:
                if is_litter(entry.name):
                    self._pass_over(entry, prefix)
                elif _is_folder(entry):
                    (self.links if entry.is_symlink() else folders).append(prefix + entry.name)
                elif _leads_nowhere(entry, stems):
                    shown = printable(f"{prefix}{entry.name}/")
                    self.rejected.append(Rejection(shown, "unreadable_folder", "a broken link"))
                else:
                    files.append(entry.name)
            self._take(prefix, files)
            pending += reversed(folders)

    def follow(self, below: str) -> None:
        """Search the folder that a link leads to, unless it was searched already or holds the source itself."""
        if self._seen is None:
            self._above = frozenset(_identity(folder) for folder in self.root.resolve().parents)
            self._seen = {_identity(self.root / folder) for folder in self._folders}
        try:
            is_above = _identity(self.root / below) in self._above
        except OSError as error:
            self._refuse(below, error)
            return
        if is_above:
            self._upward.append(below)
        else:
            self.search(below)

    def notes(self) -> Iterator[str]:
        """What must be said aloud."""
        if self._n_litter:
            number = f"{self._n_litter}{' or more' if self._n_litter >= _MAX_COUNTED else ''}"
            yield f"passed over {number} header files of hidden or foreign folders and names: {some(self._litter)}"
        if self._upward:
            yield f"did not follow links to a folder that the source is in: {some(self._upward)}"

    def _is_new(self, below: str) -> bool:
        assert self._seen is not None
        identity = _identity(self.root / below)
        if identity in self._seen:
            return False
        self._seen.add(identity)
        return True

    def _refuse(self, below: str, error: OSError) -> None:
        why = error.strerror or type(error).__name__
        if not below:
            raise SourceError("the source folder can't be read", where=self.root, got=why) from None
        self.rejected.append(Rejection(printable(f"{below}/"), "unreadable_folder", why))

    def _pass_over(self, entry: os.DirEntry[str], prefix: str) -> None:
        if entry.is_dir(follow_symlinks=False):
            headers = (name for _, _, names in os.walk(entry.path) for name in names if stem_of(name) is not None)
            n_headers = sum(1 for _ in itertools.islice(headers, _MAX_COUNTED))
        else:
            n_headers = int(stem_of(entry.name) is not None)
        if n_headers:
            self._n_litter += n_headers
            self._litter.append(prefix + entry.name)

    def _take(self, prefix: str, files: list[str]) -> None:
        """The headers among the files of one folder, and what stands beside them."""
        # The usual spelling sorts behind all others and is the one to keep.
        spelt = {stem: name for name in files if (stem := stem_of(name)) is not None}
        for name in files:
            stem = stem_of(name)
            if stem is None:
                continue
            if not _is_text(prefix + name):
                self.rejected.append(Rejection(printable(prefix + name), "bad_header", "its path is not UTF-8"))
            elif spelt[stem] != name:
                self.rejected.append(Rejection(prefix + name, "duplicate_id", f"kept {spelt[stem]}"))
            else:
                self.stems.append(prefix + stem)
        for name in files:
            stem, dot, suffix = name.rpartition(".")
            suffix = dot + suffix
            if stem in spelt and suffix.lower() not in _SIGNALS and suffix.lower() != HEADER:
                self.beside[prefix + stem] = (*self.beside.get(prefix + stem, ()), suffix)


def printable(name: str) -> str:
    """A name as UTF-8 can hold it: file systems allow any bytes."""
    return name.encode("utf-8", "replace").decode()


def some(names: list[str]) -> str:
    """The first few of several names."""
    return ", ".join(map(printable, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that can't be followed: where it leads is found out, and said, when it is searched
        return entry.is_symlink()


def _leads_nowhere(entry: os.DirEntry[str], stems: set[str | None]) -> bool:
    """Whether a broken link may have led to a folder; a file is missed by its record. ``stems``: headers beside it."""
    if not entry.is_symlink() or Path(entry.path).exists():
        return False
    stem, _, suffix = entry.name.rpartition(".")
    return f".{suffix}".lower() not in _FILES and stem not in stems


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
