"""Processes that push into one share at the same moment, and what has to hold after each round."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from shares import bring, contents, fingerprint, sealed

from ecgstore.errors import TagMoved
from ecgstore.sharing import notes, pull, tags, versions
from ecgstore.sharing.address import parse_address
from ecgstore.sharing.delivery import OpenedSource, deliver
from ecgstore.sharing.opening import open_writable
from ecgstore.storage import manifest

_together: Barrier


def _begin(barrier: Barrier) -> None:
    """Of a process that pushes."""
    global _together
    _together = barrier
    os.fsync = lambda _: None  # nobody cuts the power here


def _push(store: Path, url: str, meet: bool) -> str:
    """What became of one push that began together with the others; ``meet``: and once more before the tag is moved."""
    target = open_writable(parse_address(url))
    source = OpenedSource(*manifest.open_sealed(store), str(store))

    def wait() -> list[str]:
        _together.wait(60)
        return []

    wait()
    try:
        done = deliver(source, target, "main", send_beside=wait if meet else None)
        return "moved" if done.tag_moved else "as before"
    except TagMoved:
        return "left alone"


class Pushers:
    """So many processes, each of which pushes one store a round."""

    def __init__(self, n: int, pool: ProcessPoolExecutor) -> None:
        self.n, self._pool = n, pool

    def push(self, stores: list[Path], url: str, *, meet: bool) -> list[str]:
        begun = [self._pool.submit(_push, store, url, meet) for store in stores]
        return [one.result(120) for one in begun]


@contextmanager
def pushers(n: int) -> Iterator[Pushers]:
    context = get_context("spawn")
    with ProcessPoolExecutor(n, context, _begin, (context.Barrier(n),)) as pool:
        yield Pushers(n, pool)


def race(racing: Pushers, url: str, folder: Path, n_rounds: int) -> None:
    """All push to one tag, some the same store as others, round after round; then all of it is still there."""
    there: Any = open_writable(parse_address(url))
    pushed = [sealed(folder / "before", (b"one", b"two"))]
    bring(pushed[0], there)
    before = contents(pushed[0])
    for i in range(n_rounds):
        n_other = racing.n if i % 5 else max(1, racing.n // 4)  # now and then some push the very same
        new = [sealed(folder / f"{i}-{j}", (b"one", b"%d %d" % (i, j), b"%d" % i)) for j in range(n_other)]
        history = list(tags.history(there, "main"))
        said = racing.push([new[j % n_other] for j in range(racing.n)], url, meet=i % 2 == 0)
        pushed += new
        check_round(there, new, said, history)
    for k, store in enumerate(pushed):
        dest = folder / f"pulled-{k}"
        pull(f"{url}@{fingerprint(store)}", dest)
        assert contents(dest) == contents(store)
    assert contents(pushed[0]) == before


def check_round(there: Any, new: list[Path], said: list[str], history: list[tags.Numbered]) -> None:
    """Of all that was there before nothing is gone; each that says so has moved the tag, from what it meant then."""
    known = {fingerprint(store) for store in new}
    now = list(tags.history(there, "main"))
    added = now[: len(now) - len(history)]
    assert now[len(added) :] == history
    assert said.count("moved") == len(added) >= 1
    assert [one.number for one in now] == list(range(len(now) - 1, -1, -1))
    for one, before in zip(now[:-1], now[1:], strict=True):
        assert one.entry.previous == before.entry.fingerprint
    assert {one.entry.fingerprint for one in added} <= known
    assert all(versions.is_sealed(there, one) for one in known)
    for one in known:
        objects = there.listed(notes.version_folder(one))
        assert len(objects) == len(versions.read_manifest(there, one)[0].objects) + 1
