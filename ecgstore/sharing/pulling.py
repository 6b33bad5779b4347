"""Pull: a version of a share into a folder of one's own.

Everything is fetched into ``DEST.partial``, each object beside its place, hashed, flushed and renamed, the manifest
last; then the folder gets its name. Objects that an older store has already become hard links to it. Such a link is
never opened for writing, or the older store would be damaged with it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ecgstore.errors import (
    ConfigError,
    EcgError,
    IntegrityError,
    StoreError,
    StoreExists,
    StoreFormatError,
    without_secrets,
)
from ecgstore.sharing import beside, tags, versions
from ecgstore.sharing.address import parse_address
from ecgstore.sharing.delivery import OpenedSource, fetched
from ecgstore.sharing.folder import disk_errors, link, refuse_odd_folder, replace
from ecgstore.sharing.opening import open_target
from ecgstore.sharing.target import Meter, Progress, Target, each, patiently
from ecgstore.storage import layout, locks, manifest, publish
from ecgstore.storage.beside import folder_beside
from ecgstore.storage.manifest import Manifest, ObjectHash
from ecgstore.storage.outside import refuse_within_store
from ecgstore.storage.store import open_store


@dataclass(slots=True)
class Pulled:
    """What was done: objects and bytes that were fetched, linked from the older store, or there from a try before."""

    fingerprint: str
    path: str
    #: None where the version was named by its fingerprint.
    tag: str | None
    #: Another version that the tag means by now, if somebody moved it meanwhile.
    tag_means_now: str | None = None
    already_there: bool = False
    fetched: int = 0
    bytes_fetched: int = 0
    linked: int = 0
    kept: int = 0
    #: Its card.yaml and sidecars that were brought, and a line for each that was not.
    beside: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def pull(
    url: str,
    dest: str | Path,
    *,
    base: str | Path | None = None,
    expect: str | None = None,
    progress: Progress | None = None,
) -> Pulled:
    """Fetch the version ``url`` (``…@TAG``, ``…@FINGERPRINT``; else the tag ``main``) into ``dest``, a new place.

    Interrupted at any moment, the same call goes on. ``base`` is an older store: what is equal is taken from it, by
    hard links where the file system knows them. ``expect`` is the fingerprint (32 digits of it or more) that was told
    on another way: a server can show an older version under a tag, and only this finds it out. The version's card.yaml
    and sidecars come to ``<dest>.sidecars``; what of them isn't as it should be is left out, and stands in ``notes``.

    Raises ConfigError (the address, ``dest`` within a store), StoreNotFound (no share, tag, version), StoreWithdrawn,
    StoreExists (``dest``, or another pull at work), IntegrityError (not the version that was asked for, damaged
    objects), StoreError (disk full, no right), StoreUnreachable.
    """
    for folder, what in ((dest, "DEST"), (base, "--base")):
        if folder is not None and "://" in str(folder):
            raise ConfigError(f"{what} is a folder of this machine", got=without_secrets(folder)[:200])
    address, dest = parse_address(url), Path(dest)
    refuse_within_store(dest, may_be_one=True)
    target = open_target(address)
    fingerprint = versions.fingerprint_at(target, address)
    tag = None if address.fingerprint else address.tag_or_default
    if expect is not None and not fingerprint.startswith(expect):
        raise IntegrityError(
            "this is not the version that you expect",
            where=address,
            expected=expect,
            got=fingerprint,
            fix="ask whoever shares it which one is right; the server may show an old one",
        )
    versions.refuse_withdrawn(target, fingerprint)
    pulled = Pulled(fingerprint, str(dest), tag)
    if os.path.lexists(dest):
        _accept_only(dest, fingerprint)
        pulled.already_there = True
    else:
        with disk_errors(dest), _claimed(dest):
            _pull(target, pulled, dest, base, progress)
    _bring_beside(target, pulled, dest, _asked_at_the_end(target, pulled))
    return pulled


def _accept_only(dest: Path, fingerprint: str) -> None:
    try:
        is_same = manifest.load(dest).fingerprint == fingerprint
    except EcgError:
        is_same = False
    if not is_same:
        raise StoreExists("something else is there already", where=dest, fix="choose another folder, or remove it")


@contextlib.contextmanager
def _claimed(dest: Path) -> Iterator[None]:
    def busy(who: str) -> StoreExists:
        return StoreExists("another pull is filling this folder right now", where=dest, got=who, fix="wait for it")

    def lockless(error: OSError) -> StoreError:
        got = error.strerror or str(error)
        return StoreError("the file system knows no locks", where=dest, got=got, fix="pull to another file system")

    with locks.held(dest.with_name(f".{dest.name}.lock"), busy=busy, lockless=lockless):
        yield


def _pull(target: Target, pulled: Pulled, dest: Path, base: str | Path | None, progress: Progress | None) -> None:
    sealed, content = versions.read_manifest(target, pulled.fingerprint)
    partial = dest.with_name(f"{dest.name}{publish.ASIDE}")
    partial.mkdir(exist_ok=True)
    refuse_odd_folder(partial)
    _clean(partial, sealed)
    older = None if base is None else _Base(Path(base))
    _refuse_no_room(partial, sealed, older)
    for folder in {(partial / name).parent for name in sealed.objects}:
        folder.mkdir(parents=True, exist_ok=True)
    meter = Meter(sum(one.size for one in sealed.objects.values()), progress)

    def bring(name: str) -> str:
        stated, path = sealed.objects[name], partial / name
        if _is_whole(path, stated):
            how = "kept"
        elif older is not None and older.give(stated, path):
            how = "linked"
        else:
            fetch_object(target, sealed, name, path)
            how = "fetched"
        meter.add(stated.size)
        return how

    names = sorted(sealed.objects, key=lambda name: -sealed.objects[name].size)
    how = dict(zip(names, each(bring, names), strict=True))
    counts = Counter(how.values())
    pulled.fetched, pulled.linked, pulled.kept = counts["fetched"], counts["linked"], counts["kept"]
    pulled.bytes_fetched = sum(sealed.objects[name].size for name in names if how[name] == "fetched")
    with ThreadPoolExecutor(max_workers=1) as meanwhile:
        asked = meanwhile.submit(versions.refuse_withdrawn, target, pulled.fingerprint)
        for walked, _, _ in os.walk(partial):
            publish.flush_folder(Path(walked))
    asked.result()
    replace(partial / layout.MANIFEST, [content])
    publish.flush_folder(partial)
    if os.path.lexists(dest):  # a rename would replace an empty folder
        raise StoreExists("something was put there meanwhile", where=dest, fix=f"move it away; all is in {partial}")
    partial.rename(dest)
    publish.flush_folder(dest.absolute().parent)


def _asked_at_the_end(target: Target, pulled: Pulled) -> dict[str, ObjectHash]:
    """What stands beside the version; and whether its tag means another one by now."""
    with ThreadPoolExecutor(max_workers=1) as meanwhile:
        means = meanwhile.submit(_meant_now, target, pulled)
        index = _index(target, pulled)
    pulled.tag_means_now = means.result()
    return index


def _meant_now(target: Target, pulled: Pulled) -> str | None:
    """Another version than the one that was fetched, if its tag means one."""
    if pulled.tag is None:
        return None
    try:
        now = tags.resolve(target, pulled.tag)
    except EcgError:
        return None
    return now if now != pulled.fingerprint else None


def _index(target: Target, pulled: Pulled) -> dict[str, ObjectHash]:
    try:
        return beside.index_of(target, pulled.fingerprint)
    except StoreFormatError as error:
        pulled.notes = (f"the card and the sidecars were left out: {error.what}",)
        return {}


def _bring_beside(target: Target, pulled: Pulled, dest: Path, index: dict[str, ObjectHash]) -> None:
    """The store is whole by now: what can't be used of the rest is told of, and is no error."""
    if not index:
        return
    with disk_errors(dest), _claimed(dest):
        brought = beside.bring(target, open_store(dest), index, folder_beside(dest))
    pulled.beside, pulled.notes = tuple(brought.names), tuple(brought.notes)


def fetch_object(target: Target, sealed: Manifest, name: str, path: Path) -> None:
    """Fetch an object of a version to its place; what stood there stays until the new one is whole."""
    patiently(lambda: replace(path, fetched(target, sealed, name)))


def _clean(partial: Path, sealed: Manifest) -> None:
    """Remove all that does not belong: what a killed pull was writing, objects of another version, links."""
    folders = {""} | {parent.as_posix() for name in sealed.objects for parent in Path(name).parents}
    for folder, inner, files in os.walk(partial, topdown=True):
        here = Path(folder)
        for name in [*inner, *files]:
            path = here / name
            relative = path.relative_to(partial).as_posix()
            mode = path.lstat().st_mode
            if stat.S_ISDIR(mode):
                if relative not in folders:
                    shutil.rmtree(path)
                    inner.remove(name)
            elif relative not in sealed.objects or not stat.S_ISREG(mode):
                path.unlink()
                if name in inner:  # a link to a folder
                    inner.remove(name)


def _is_whole(path: Path, stated: ObjectHash) -> bool:
    try:
        return path.lstat().st_size == stated.size and manifest.hash_object(path) == stated
    except FileNotFoundError:
        return False


class _Base:
    """An older store that has some objects already."""

    def __init__(self, root: Path) -> None:
        self._root = root
        objects, sealed = manifest.open_sealed(root)
        self._source = OpenedSource(objects, sealed, str(root))
        self._names = {(one.size, one.sha256): name for name, one in sealed.objects.items()}

    def has(self, stated: ObjectHash) -> bool:
        return (stated.size, stated.sha256) in self._names

    def give(self, stated: ObjectHash, path: Path) -> bool:
        """Let ``path`` be the base's object, once that was read and found whole; False where there is none."""
        name = self._names.get((stated.size, stated.sha256))
        if name is None:
            return False
        try:
            for _ in self._source.blocks(name):
                pass
            if not link(self._root / name, path):
                replace(path, self._source.blocks(name))
        except EcgError:  # it is damaged: then it is fetched
            return False
        return True


def _refuse_no_room(partial: Path, sealed: Manifest, older: _Base | None) -> None:
    """Said before hours of work, and before a server fills the disk."""
    here = 0
    for name in sealed.objects:
        with contextlib.suppress(FileNotFoundError):
            here += (partial / name).lstat().st_size
    wanted = sum(one.size for one in sealed.objects.values() if older is None or not older.has(one)) - here
    free = shutil.disk_usage(partial).free
    if wanted > free:
        raise StoreError(
            "the disk has too little space",
            where=partial.parent,
            expected=f"{wanted} bytes",
            got=f"{free} bytes",
            fix="make room and run the same command again",
        )
