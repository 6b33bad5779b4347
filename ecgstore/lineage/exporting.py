"""A folder that is written aside and renamed once it is whole: for exports, which are no stores."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from ecgstore.build import building
from ecgstore.errors import StoreError, StoreExists
from ecgstore.storage import locks, publish
from ecgstore.storage.outside import refuse_nested
from ecgstore.storage.store import Store


@contextlib.contextmanager
def folder_for(store: Store, out: Path) -> Iterator[Path]:
    """The folder to write into; it becomes ``out`` where all went well. Raises StoreExists where something is there."""
    refuse_nested(out, store.path)
    aside = out.with_name(f"{out.name}{publish.ASIDE}")
    with building.plain_disk_errors(out), _alone(out):
        if out.exists() or out.is_symlink():
            raise StoreExists("something is there already", where=out, fix="choose another output")
        if aside.exists():
            shutil.rmtree(aside)
        aside.mkdir(parents=True)
        try:
            yield aside
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        aside.rename(out)
        publish.flush_folder(out.parent)


def _alone(out: Path) -> contextlib.AbstractContextManager[None]:
    """Of two that write to one place, the second would remove what the first has beside it, and write into the same."""

    def busy(who: str) -> Exception:
        return StoreExists("another export is writing to this place right now", where=out, got=who, fix="wait for it")

    def lockless(error: OSError) -> Exception:
        return StoreError("the file system knows no locks", where=out, got=str(error), fix="choose another output")

    return locks.held(building.lock_file(out), busy=busy, lockless=lockless)
