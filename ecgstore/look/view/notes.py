"""What a reader writes down of records: tags and a comment each, kept beside a store and never in it.

The file is a sidecar table as docs/format.md describes it, with one row per record: ``record_id``, ``tags`` (joined by
``; ``), ``comment`` and ``noted_at`` (UTC). It is written anew, aside and by rename, with every change.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple

import pyarrow as pa

from ecgstore.errors import ConfigError, StoreError
from ecgstore.storage import sidecar_tables, tables
from ecgstore.storage.locks import held
from ecgstore.storage.publish import write_bytes
from ecgstore.storage.store import Store

MOST_TAGS, MOST_TAG, MOST_COMMENT = 20, 40, 2000
_SEPARATOR = "; "
_COLUMNS = ("record_id", "tags", "comment", "noted_at")
#: What a spreadsheet would take for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Note(NamedTuple):
    """What is written of one record."""

    tags: tuple[str, ...]
    comment: str
    noted_at: str


NOTHING = Note((), "", "")


def default_path(store: Store) -> Path:
    """``STORE.notes.parquet`` beside a store in a folder; in this folder where the store is elsewhere."""
    text = store.path.rstrip("/").removeprefix("file://")
    if "://" in text:
        return Path(f"{text.rpartition('/')[2]}.notes.parquet")
    path = Path(text).resolve()
    return path.with_name(f"{path.name}.notes.parquet")


class Notes:
    """The notes on one store, in memory and in their file. Used by several threads, and by several programs."""

    def __init__(self, store: Store, path: Path) -> None:
        self._store, self.path = store, path
        self._lock = RLock()
        self._seen: tuple[int, int, int] | None = None
        self._of: dict[str, Note] = {}
        self._rows: dict[str, int] = {}
        #: Grows with every change.
        self.version = 0
        self._reload()

    def of(self, record_id: str) -> Note:
        """What is written of a record."""
        with self._lock:
            return self._of.get(record_id, NOTHING)

    def tags(self) -> list[tuple[str, int]]:
        """Every tag that is used, and on how many records, by name."""
        counts: dict[str, int] = {}
        with self._lock:
            for note in self._of.values():
                for tag in note.tags:
                    counts[tag] = counts.get(tag, 0) + 1
        return sorted(counts.items())

    def rows_tagged(self, tag: str) -> list[int]:
        """Rows of the records with this tag; ``any``: with whatever note."""
        with self._lock:
            return [self._rows[one] for one, note in self._of.items() if tag == "any" or tag in note.tags]

    def rows_with(self, word: str) -> list[int]:
        """Rows of the records in whose tags or comment ``word`` stands, in small letters."""
        with self._lock:
            texts = {one: f"{_SEPARATOR.join(note.tags)} {note.comment}".lower() for one, note in self._of.items()}
            return [self._rows[one] for one, text in texts.items() if word in text]

    def write(self, record_id: str, tags: list[str], comment: str) -> Note:
        """Replace what is written of a record; nothing at all removes its row.

        What another program wrote meanwhile of other records stays. Raises ConfigError for what a note can't hold,
        StoreError where the file can't be written.
        """
        note = checked(tags, comment)
        with self._lock, self._alone():
            self._reload()
            row = self._row(record_id)
            changed = dict(self._of)
            changed.pop(record_id, None)
            if note.tags or note.comment:
                changed[record_id] = note
            try:
                write_bytes(self.path, _packed(self._store, changed))
            except OSError as error:
                raise StoreError("notes can't be written", where=self.path, got=error.strerror or str(error)) from error
            self._of, self._seen = changed, _signature(self.path)
            self._rows[record_id] = row
            self.version += 1
            return changed.get(record_id, NOTHING)

    def as_csv(self) -> str:
        """All notes as CSV; no cell of it is read as a formula."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\r\n")
        writer.writerow(_COLUMNS)
        with self._lock:
            for record_id, note in sorted(self._of.items()):
                cells = (record_id, _SEPARATOR.join(note.tags), note.comment, note.noted_at)
                writer.writerow([f"'{cell}" if cell.startswith(_FORMULA) else cell for cell in cells])
        return out.getvalue()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        def busy(who: str) -> Exception:
            return StoreError("somebody else writes notes", where=self.path, got=who)

        def lockless(error: OSError) -> Exception:
            return StoreError("the file system of the notes knows no locks", where=self.path, got=error.strerror)

        lock = self.path.with_name(f".{self.path.name}.lock")
        try:
            with held(lock, busy=busy, lockless=lockless, wait=True):
                yield
        except PermissionError as error:
            raise StoreError("notes can't be written here", where=self.path, fix="name a file with --notes") from error

    def _row(self, record_id: str) -> int:
        if record_id not in self._rows:
            self._rows[record_id] = int(self._store.row_of(record_id))
        return self._rows[record_id]

    def _reload(self) -> None:
        """Read the file if it is another one than the one that was read last."""
        found = _signature(self.path)
        if found is None or found == self._seen:
            return
        try:
            kind, table = sidecar_tables.read_beside(self._store, self.path)
        except ConfigError as error:
            raise ConfigError(
                error.what.replace("the sidecar is", "the notes are"),
                where=error.where,
                expected=error.expected,
                got=error.got,
                fix="name another file with --notes, or see Notes in docs/view.md",
            ) from None
        missing = set(_COLUMNS) - set(table.column_names)
        if kind != "columns" or missing or any(table[name].type != pa.string() for name in _COLUMNS):
            raise ConfigError("this file holds no notes", where=self.path, expected=", ".join(_COLUMNS))
        is_noted = table["noted_at"].is_valid()
        kept = table.append_column("row", pa.array(range(table.num_rows), pa.int64())).filter(is_noted)
        self._of, self._rows = {}, {}
        for one in kept.to_pylist():
            tags = tuple(filter(None, (one["tags"] or "").split(_SEPARATOR)))
            self._of[one["record_id"]] = Note(tags, one["comment"] or "", one["noted_at"])
            self._rows[one["record_id"]] = one["row"]
        self._seen = found
        self.version += 1


def checked(tags: list[str], comment: str) -> Note:
    """A note made now; raises ConfigError for what a note can't hold."""
    clean = tuple(dict.fromkeys(" ".join(tag.split()) for tag in tags))
    for tag in clean:
        if not tag or len(tag) > MOST_TAG or ";" in tag or not tag.isprintable() or tag == "any":
            raise ConfigError(
                "a tag can't be so", expected=f"1 to {MOST_TAG} letters without ; and not any", got=tag[:80]
            )
    if len(clean) > MOST_TAGS:
        raise ConfigError("a record can't have so many tags", expected=f"{MOST_TAGS} at most", got=len(clean))
    if len(comment) > MOST_COMMENT:
        raise ConfigError("the comment is too long", expected=f"{MOST_COMMENT} letters at most", got=len(comment))
    return Note(clean, comment.strip(), datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))


def _signature(path: Path) -> tuple[int, int, int] | None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _packed(store: Store, notes: dict[str, Note]) -> bytes:
    rows = sorted(notes.items())
    columns: dict[str, Any] = {
        "record_id": [record_id for record_id, _ in rows],
        "tags": [_SEPARATOR.join(note.tags) for _, note in rows],
        "comment": [note.comment for _, note in rows],
        "noted_at": [note.noted_at for _, note in rows],
    }
    about = {"format": "ecgstore sidecar", "version": sidecar_tables.VERSION, "store_fingerprint": store.fingerprint}
    table = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    return tables.to_parquet(table.replace_schema_metadata({sidecar_tables.ABOUT: json.dumps(about).encode()}))
