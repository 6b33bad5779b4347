"""A store while it is being built: claimed by one process, begun by one plan, sealed when all of it is there.

The order of writes is what makes a kill harmless: the plan's hash first, then shards and their commits in any
order, then the tables, and the manifest last.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ecgstore.errors import StoreError, StoreExists, StoreIncomplete
from ecgstore.storage import disk, layout, locks, manifest, publish
from ecgstore.storage.outside import refuse_nested, refuse_within_store
from ecgstore.storage.plain import open_plain

#: Settings and a few paths: more than this was not written by :func:`begin`.
_MOST_NOTED_BYTES = 10_000_000


def begin(root: Path, plan_sha256: str, about: Mapping[str, Any], create_array: Callable[[], None]) -> None:
    """Create the folder and its metadata, or check that what is there was begun by the same plan.

    ``about`` is kept beside the plan's hash, for whoever finishes the store. Parts may begin at the same moment.
    Raises StoreExists, and ConfigError within another store.
    """
    refuse_place(root)
    root.mkdir(parents=True, exist_ok=True)
    with _held(lock_file(root, "begin"), root, wait=True):
        refuse_place(root)
        if not (root / layout.BUILDING).exists():
            content = json.dumps({"plan_sha256": plan_sha256, **about}, indent=1)
            publish.write_bytes(root / layout.BUILDING, content.encode() + b"\n")
        elif read_about(root).get("plan_sha256") != plan_sha256:
            raise StoreExists(
                "an unfinished store stands here, begun from another source or with other settings",
                where=root,
                fix="delete that folder, or choose another output",
            )
        if not (root / layout.SIGNAL / "zarr.json").exists():
            create_array()


def prepare(out: Path, *parents: str) -> None:
    """Before any work: see that a store, made of ``parents``, can stand at ``out``; and :func:`recover` it."""
    with plain_disk_errors(out):
        refuse_nested(out, *parents)
        recover(out)
        refuse_place(out)


def refuse_place(root: Path) -> None:
    """Raise StoreExists where something stands that is neither a store nor one being built, ConfigError in a store."""
    refuse_within_store(root, may_be_one=True)
    if not root.exists() or (root / layout.BUILDING).exists() or (root / layout.MANIFEST).exists():
        return
    if not _is_bare(root):
        raise StoreExists("the output is there already and is not a store", where=root, fix="choose another output")


def read_about(root: Path) -> dict[str, Any]:
    """What :func:`begin` wrote. Raises StoreIncomplete where nothing is being built."""
    try:
        about = json.loads(_note(root / layout.BUILDING))
    except (FileNotFoundError, NotADirectoryError):
        if (root / layout.MANIFEST).exists():
            raise StoreExists("this store is sealed already", where=root, fix="there is nothing left to do") from None
        raise StoreIncomplete("no store is being built here", where=root, fix="begin with `ecgstore ingest`") from None
    except (ValueError, OSError, RecursionError) as error:
        raise StoreIncomplete("the note of what is being built is torn", where=root, got=str(error)) from None
    if not isinstance(about, dict):
        raise StoreIncomplete("the note of what is being built is torn", where=root, got=type(about).__name__)
    return about


def _note(path: Path) -> bytes:
    """An unfinished store may come from elsewhere: a plain file of bounded size, not a pipe, a device or a link."""
    with open_plain(path, follow_links=False) as file:
        content = file.read(_MOST_NOTED_BYTES + 1)
    if len(content) > _MOST_NOTED_BYTES:
        raise OSError(f"more than {_MOST_NOTED_BYTES} bytes")
    return content


def lock_file(out: Path, part: str | None = None) -> Path:
    """Where the lock on the store ``out`` stands, or on a named part of it: beside the store, which may be swapped."""
    out = behind_links(out)
    return out.with_name(f".{out.name}.lock{'' if part is None else f'.{part}'}")


@contextlib.contextmanager
def claimed(out: Path, part: str | None = None) -> Iterator[None]:
    """Let one process at a time decide what becomes of ``out`` and do it, or one at a time do a named part.

    Parts share the store and exclude each other by name; a process that wants the whole store excludes them all.
    The system frees the lock of a process that dies. Raises StoreExists where somebody else holds it.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_held(lock_file(out), out, shared=part is not None))
        if part is not None:
            stack.enter_context(_held(lock_file(out, part), out))
        yield


def _held(
    path: Path, out: Path, *, shared: bool = False, wait: bool = False
) -> contextlib.AbstractContextManager[None]:
    # A folder that was made for the store where nothing else may be made: nothing can be swapped there.
    inside = out / f"{layout.SCAFFOLD}{path.name.removeprefix(f'.{out.name}.')}"

    def busy(who: str) -> StoreExists:
        return StoreExists("another ingest is writing this store right now", where=out, got=who, fix="wait for it")

    def lockless(error: OSError) -> StoreError:
        return StoreError(
            "the file system knows no locks, and without them two ingests could write one store",
            where=out,
            got=error.strerror or str(error),
            fix="build the store on another file system, and copy it",
        )

    return locks.held(path, busy=busy, lockless=lockless, shared=shared, wait=wait, instead=inside)


def planning(out: Path) -> contextlib.AbstractContextManager[None]:
    """Let one process at a time plan the store ``out``: parts that begin together wait for the first one's plan."""
    return _held(lock_file(out, "plan"), out, wait=True)


def remove_leftovers(root: Path) -> None:
    """Remove what killed processes were writing; only for whoever has the whole store to himself."""
    for leftover in root.rglob(f"*{publish.ASIDE}*"):
        leftover.unlink(missing_ok=True)


@contextlib.contextmanager
def plain_disk_errors(root: Path) -> Iterator[None]:
    """Turn what a disk refuses into one line that says what to do."""
    try:
        yield
    except OSError as error:
        raise disk.refusal("the store can't be written", root, error) from error


def seal(
    root: Path, small: Iterable[tuple[str, bytes]], objects: Mapping[str, manifest.ObjectHash], plan_sha256: str
) -> manifest.Manifest:
    """Write the ``small`` objects, remove whatever belongs to nobody, flush everything, and publish the manifest.

    ``small``: names and contents, one at a time in memory if they come so; ``objects`` are those that stand there
    already, with their hashes.
    """
    whole = dict(objects)
    for name, content in small:
        publish.write_bytes(root / name, content)
        whole[name] = manifest.hash_object(root / name)
    _remove_strangers(root, whole)
    _flush_all(root, whole)
    sealed = manifest.seal(root, whole, plan_sha256)
    for name in (layout.BUILDING, layout.SCAN):
        (root / name).unlink(missing_ok=True)
    for name in (layout.PLAN, layout.DONE):
        shutil.rmtree(root / name, ignore_errors=True)
    return sealed


def behind_links(out: Path) -> Path:
    """Where ``out`` really stands: a store that is named by a link is built, renamed and removed there."""
    return Path(os.path.realpath(out)) if out.is_symlink() else out


def recover(out: Path) -> None:
    """Finish a :func:`swap` that was killed between its two renames."""
    out = behind_links(out)

    def is_half_done() -> bool:
        return _is_bare(out) and (beside(out) / layout.MANIFEST).exists() and _old(out).exists()

    if is_half_done():
        with claimed(out):
            if is_half_done():  # and not just being done by somebody else
                _put_in_place(beside(out), out)
                shutil.rmtree(_old(out))


def _is_bare(out: Path) -> bool:
    """Whether nothing stands at ``out`` but what somebody who plans may have noted down."""
    return not out.exists() or (out.is_dir() and all(path.name.startswith(layout.SCAFFOLD) for path in out.iterdir()))


def _put_in_place(aside: Path, out: Path) -> None:
    if out.exists() and _is_bare(out):
        shutil.rmtree(out)
    aside.rename(out)


def _remove_strangers(root: Path, objects: Mapping[str, manifest.ObjectHash]) -> None:
    """A killed ingest may leave objects that no commit names; a sealed store holds nothing else than it lists."""
    keep = objects.keys() | {layout.BUILDING, layout.SCAN}
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        if path.is_file() and name not in keep and not name.startswith((f"{layout.PLAN}/", f"{layout.DONE}/")):
            path.unlink()


def _flush_all(root: Path, names: Iterable[str]) -> None:
    """Have every object on the disk before the manifest says that it is; waiting for disks goes well in threads."""
    paths = [root / name for name in names]
    with ThreadPoolExecutor(max_workers=8) as pool:
        list(pool.map(publish.flush, paths))
        list(pool.map(publish.flush_folder, {path.parent for path in paths}))


def beside(out: Path) -> Path:
    """Where the next version of a sealed store is built, to be swapped with it once it is sealed."""
    out = behind_links(out)
    return out.with_name(f"{out.name}{publish.ASIDE}")


def swap(aside: Path, out: Path) -> None:
    """Put the store ``aside`` in the place of ``out``, which is removed."""
    out = behind_links(out)
    old = _old(out)
    shutil.rmtree(old, ignore_errors=True)
    out.rename(old)
    _put_in_place(aside, out)
    publish.flush_folder(out.parent)
    shutil.rmtree(old)


def _old(out: Path) -> Path:
    return out.with_name(f"{out.name}.old{publish.ASIDE}")


def link(source: Path, target: Path) -> None:
    """Let ``target`` be the same file as ``source``, or a copy where the file system knows no links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        aside = target.with_name(f"{target.name}{publish.ASIDE}")
        shutil.copyfile(source, aside)
        aside.replace(target)
