"""What goes with a version and is no part of it: its card, Croissant, and sidecar tables, in ``cards/<fingerprint>/``.

``index.json`` there names them with size and SHA-256, so that they are found where nothing can be listed. Unlike a
version they may change: what is pushed is added or put in the place of what has its name, and nothing is removed. They
come from elsewhere, so each is bounded, hashed, and read as what it says it is before it gets its name here.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ecgstore.errors import ConfigError, IntegrityError, StoreError, StoreFormatError
from ecgstore.look.card import card
from ecgstore.look.croissant import croissant
from ecgstore.sharing import notes, versions
from ecgstore.sharing.folder import refuse_odd_folder, replace
from ecgstore.sharing.target import BLOCK, Target, Writable, at, checked, patiently, read_bounded
from ecgstore.storage import publish
from ecgstore.storage.beside import CARD, read_card
from ecgstore.storage.limits import limits
from ecgstore.storage.manifest import ObjectHash, hash_bytes, hash_object
from ecgstore.storage.plain import open_plain
from ecgstore.storage.sidecar_tables import read_beside
from ecgstore.storage.store import Store

#: Bytes of a card, in any of its forms.
MOST_TEXT_BYTES = 16 << 20


@dataclass(slots=True)
class Brought:
    """Names of files that were brought; ``notes``: a line for each that was not."""

    names: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def index_of(target: Target, fingerprint: str) -> dict[str, ObjectHash]:
    """What goes with a version; nothing where nothing was pushed. Raises StoreFormatError."""
    name = notes.index_name(fingerprint)
    try:
        content = read_bounded(target, name, notes.INDEX_BYTES)
    except FileNotFoundError:
        return {}
    found = notes.parse_index(content, at(target, name))
    for one, stated in found.items():
        most = limits().table_bytes if one.endswith(".parquet") else MOST_TEXT_BYTES
        if stated.size > most:
            raise StoreFormatError("what goes with the version is too large", where=at(target, name), got=one)
    return found


def send(target: Writable, store: Store, files: Sequence[Path]) -> list[str]:
    """Bring the card of ``store`` and these ``files`` (its card.yaml, its sidecars) to the version; which were sent.

    Raises StoreError, IntegrityError (a file changed while it was sent), ConfigError (card.yaml), StoreWithdrawn.
    """
    fingerprint = store.fingerprint
    folder = f"{notes.CARDS}/{fingerprint}"
    before = index_of(target, fingerprint)
    there = target.listed(folder)
    known = {
        name: stated
        for name, stated in before.items()
        if (found := there.get(f"{folder}/{name}")) is not None and found.size == stated.size
    }
    given = {path.name: _File(hash_object(path), functools.partial(_read, path)) for path in files}
    for name, content in _cards(store, files, known).items():
        given[name] = _File(hash_bytes(content), functools.partial(iter, [content]))
    index, sent = known | {name: one.stated for name, one in given.items()}, []
    for name, one in given.items():
        whole = f"{folder}/{name}"
        if whole not in there or not target.holds(whole, there[whole], one.stated, one.blocks):
            target.send(whole, one.blocks, one.stated.size)
            sent.append(name)
    if len(index) > notes.MOST_BESIDE:
        raise StoreError("too many files go with the version", where=at(target, folder), expected=notes.MOST_BESIDE)
    if index != before:
        target.put(notes.index_name(fingerprint), notes.index(index))
        target.flush(folder)
    try:
        versions.refuse_withdrawn(target, fingerprint)
    except BaseException:
        target.clear(folder)  # whoever withdrew it looked too early
        raise
    return sent


def _cards(store: Store, files: Sequence[Path], known: dict[str, ObjectHash]) -> dict[str, bytes]:
    """The pages; those that are there stay where nobody here says more of the store than they do."""
    own = [path for path in files if path.name == CARD]
    if not own and notes.CARD_PAGE in known and notes.CROISSANT in known:
        return {}
    said = read_card(own[0]) if own else None
    way = f"../../{notes.version_folder(store.fingerprint)}/"
    return {notes.CARD_PAGE: card(store, said).encode(), notes.CROISSANT: croissant(store, said, way).encode()}


class _File(NamedTuple):
    """One that is sent."""

    stated: ObjectHash
    read: Callable[[], Iterator[bytes]]

    def blocks(self) -> Iterator[bytes]:
        return checked(self.read(), self.stated, "what goes with the store", "it changed while it was sent: push again")


def _read(path: Path) -> Iterator[bytes]:
    with open_plain(path, follow_links=False) as file:
        while block := file.read(BLOCK):
            yield block


def bring(target: Target, store: Store, index: dict[str, ObjectHash], folder: Path) -> Brought:
    """Fetch the card.yaml and the sidecars of a version, of which ``store`` is a whole copy, into ``folder``.

    What is there already stays as it is. What isn't as it should be is left out, and told of. Raises StoreError (the
    disk, the place), StoreUnreachable.
    """
    brought = Brought()
    wanted = {name: one for name, one in index.items() if name == CARD or name.endswith(".parquet")}
    if not wanted:
        return brought
    folder.mkdir(parents=True, exist_ok=True)
    refuse_odd_folder(folder)
    for name, stated in sorted(wanted.items()):
        path = folder / name
        if os.path.lexists(path):
            if not _is_same(path, stated):
                brought.notes.append(f"{name} is another one here than in the share, and was left alone: {path}")
            continue
        if shutil.disk_usage(folder).free < stated.size:
            raise StoreError("the disk has too little space", where=folder, expected=f"{stated.size} bytes for {name}")
        aside = path.with_name(f"{name}{publish.ASIDE}")
        try:
            _fetch(target, store, name, stated, aside)
            aside.replace(path)
            brought.names.append(name)
        except FileNotFoundError:
            brought.notes.append(f"{name} is missing in the share, and was left out")
        except (StoreFormatError, IntegrityError, ConfigError) as error:
            brought.notes.append(f"{name} was left out: {error.what}")
        finally:
            aside.unlink(missing_ok=True)
    publish.flush_folder(folder)
    with contextlib.suppress(OSError):
        folder.rmdir()  # where nothing came
    return brought


def _is_same(path: Path, stated: ObjectHash) -> bool:
    return path.is_file() and not path.is_symlink() and hash_object(path) == stated


def _fetch(target: Target, store: Store, name: str, stated: ObjectHash, aside: Path) -> None:
    there = f"{notes.CARDS}/{store.fingerprint}/{name}"
    fix = "whoever has the store can push it again"
    patiently(lambda: replace(aside, checked(target.blocks(there, stated.size), stated, at(target, there), fix)))
    if name == CARD:
        read_card(aside)
    else:
        read_beside(store, aside)
