"""The commit of a task: written once its shards are, and read back by whoever goes on with the store or seals it.

Only a commit makes a shard count. It names the hash of each object that the task wrote, so a shard that is torn, or
that another task has written over, is found out and done again. What the commit itself was is noted beside the store
as long as that is being built, and then in its manifest: Arrow has no checksums of its own. Its rows are read when they
are wanted, and let go again: those of all tasks together may be more than memory holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import pyarrow as pa

from ecgstore.build.sums import Sums
from ecgstore.errors import IntegrityError
from ecgstore.record import Rejection
from ecgstore.storage import layout, publish, tables
from ecgstore.storage.manifest import ObjectHash, hash_bytes, hash_object
from ecgstore.storage.plain import open_plain


class Unit(Protocol):
    """A unit of work: the shards from ``first_shard`` on that are its own, and the records in them."""

    @property
    def first_shard(self) -> int:
        """Its commit is named after it."""

    @property
    def n_records(self) -> int:
        """Each of them is written or rejected."""


U = TypeVar("U", bound=Unit)

#: A size and a SHA-256 take less.
_NOTE_BYTES = 100


@dataclass(frozen=True, slots=True)
class Commit:
    """The outcome of one task: objects written, a row for each record in them, records left out, sums by fold."""

    objects: Mapping[str, ObjectHash]
    written: pa.Table
    rejected: tuple[Rejection, ...]
    sums: Mapping[str, Sums]


@dataclass(frozen=True, slots=True)
class Committed:
    """A commit as it stands in a store that is being built, but for its rows."""

    objects: Mapping[str, ObjectHash]
    rejected: tuple[Rejection, ...]
    sums: Mapping[str, Sums]
    #: Columns of its rows.
    names: tuple[str, ...]
    path: Path
    #: Of the file as it was read.
    own: ObjectHash

    @property
    def written(self) -> pa.Table:
        """A row for each record in its objects, read anew each time. Raises IntegrityError where it has changed."""
        try:
            content = _content(self.path)
        except OSError:
            content = b""
        if hash_bytes(content) != self.own:
            raise IntegrityError("a commit has changed since it was read", where=self.path, fix="run the command again")
        return tables.from_arrow(content)[0]


def _content(path: Path) -> bytes:
    with open_plain(path, follow_links=False) as file:
        return file.read()


def write(root: Path, first_shard: int, commit: Commit, task_sha256: str) -> None:
    """Publish a commit.

    It is not flushed to the disk, nor are its shards, one by one: a commit names their hashes, so after a power cut
    whatever did not reach the disk is found out and done again. The seal flushes everything before it counts.
    """
    about = {
        "task_sha256": task_sha256,
        "objects": {name: [found.size, found.sha256] for name, found in sorted(commit.objects.items())},
        "rejected": [[one.record_id, one.reason, one.detail] for one in commit.rejected],
        "sums": {fold: [sums.n, sums.total, sums.squares] for fold, sums in sorted(commit.sums.items())},
    }
    content = tables.to_arrow(commit.written, about)
    publish.write_bytes(root / layout.commit_object(first_shard), content, durable=False)
    note(root, first_shard, hash_bytes(content))


def note(root: Path, first_shard: int, own: ObjectHash) -> None:
    """Note down what the commit of a task is; it counts from then on."""
    text = f"{own.size} {own.sha256}\n"
    publish.write_bytes(root / layout.note_of_commit(first_shard), text.encode(), durable=False)


def is_noted(root: Path, task: Unit) -> bool:
    """Whether somebody was here before; what is noted may be damaged all the same."""
    return (root / layout.note_of_commit(task.first_shard)).exists()


def _noted(root: Path, first_shard: int) -> ObjectHash:
    with open_plain(root / layout.note_of_commit(first_shard), follow_links=False) as file:
        size, sha256 = file.read(_NOTE_BYTES).decode().split()
    return ObjectHash(int(size), sha256)


def load(
    root: Path, task: Unit, task_sha256: str, *, hashed: bool = True, sealed: ObjectHash | None = None
) -> Committed | None:
    """Return the commit of a task if it is of this very task and its objects are whole; None where work is left.

    Without ``hashed`` the objects are trusted: only for those that were hashed a moment ago, when they were written.
    ``sealed``: what the manifest says of the commit, where the store is a sealed one.
    """
    path = root / layout.commit_object(task.first_shard)
    try:
        content = _content(path)
        own = hash_bytes(content)
        if own != (sealed or _noted(root, task.first_shard)):
            return None
        written, about = tables.from_arrow(content)
        if about["task_sha256"] != task_sha256:
            return None
        # An unfinished store may come from elsewhere.
        written.validate(full=True)
        commit = Committed(
            objects={name: ObjectHash(*found) for name, found in about["objects"].items()},
            rejected=tuple(Rejection(*map(str, one)) for one in about["rejected"]),
            sums={fold: Sums(*lists) for fold, lists in about["sums"].items()},
            names=tuple(written.column_names),
            path=path,
            own=own,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, MemoryError, RecursionError, pa.ArrowException):
        return None
    if len(written) + len(commit.rejected) != task.n_records:
        return None
    for name, stated in commit.objects.items():
        if not (root / name).is_file() or (hashed and hash_object(root / name) != stated):
            return None
    return commit


def load_all(
    root: Path, tasks: Iterable[U], task_sha256: Callable[[U], str], n_threads: int, *, hashed: bool = True
) -> dict[int, Committed]:
    """The commits of those tasks that are done, by first shard."""
    tasks = list(tasks)
    with ThreadPoolExecutor(max_workers=n_threads) as pool:
        found = pool.map(lambda task: load(root, task, task_sha256(task), hashed=hashed), tasks)
        return {task.first_shard: one for task, one in zip(tasks, found, strict=True) if one is not None}
