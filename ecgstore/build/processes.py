"""Tasks to processes of this machine. A worker that dies is replaced, and what it was at is done again.

What all of them need is imported once, by a process that then forks into workers (Python's forkserver; where there is
none, each imports for itself). A task leaves its outcome on the disk, so nothing travels back but "done".
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from pathlib import Path
from typing import Any

from ecgstore.errors import StoreError

#: How many workers a task may see die before it is thought to be the killer.
DEATHS = 5
#: What workers need, whatever they do; what one of them lacks is imported then.
_NEEDED = ["ecgstore.build.ingest", "numcodecs.blosc", "ecgstore.signals.transforms", "threadpoolctl"]


def prepare() -> None:
    """Begin to import what workers need, if they are to come, in a process of its own: beside what is done here."""
    if _method() == "forkserver":
        from multiprocessing import forkserver

        multiprocessing.get_context("forkserver").set_forkserver_preload(_NEEDED)
        with without_interrupts():
            forkserver.ensure_running()


def run(root: Path, tasks: Sequence[Any], do: Callable[[Path, Any], None], n: int, done: Callable[[], None]) -> None:
    """Do every task in ``n`` processes; ``done`` is called after each. Tasks and ``do`` must be picklable.

    Raises what a task raises, and StoreError where workers die again and again over the same task.
    """
    prepare()
    left, deaths = list(tasks), Counter[int]()
    while left:
        left, lost = _as_far_as_it_goes(root, left, do, n, done)
        deaths.update(task.first_shard for task in lost)
        for task in lost:
            if deaths[task.first_shard] == DEATHS:
                raise StoreError(
                    f"{DEATHS} workers died over one task: too little memory, or a record that kills its reader",
                    where=root,
                    got=f"shard {task.first_shard}",
                    fix="look for what ended them; running the same command again goes on from here",
                )


def _as_far_as_it_goes(
    root: Path, tasks: Sequence[Any], do: Callable[[Path, Any], None], n: int, done: Callable[[], None]
) -> tuple[list[Any], list[Any]]:
    """Do tasks until one of the workers dies; returns those that are left, and of them those that were begun."""
    waiting, running = deque(tasks), dict[Future[None], Any]()
    context = multiprocessing.get_context(_method())
    # Nothing is ever written to it: workers read that it is closed, which it is when this process is no more, too.
    theirs, ours = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(n, context, initializer=_begin, initargs=(Path.cwd(), theirs))
    submit = functools.partial(_submit, pool, running, waiting, root, do)
    try:
        with without_interrupts():  # inherited by the workers, which begin with the first task
            submit(n)
        while running:
            ended, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                future.result()
                del running[future]
                done()
            # One each, and one that the next to end finds there.
            submit(n + 1)
        pool.shutdown()
        return [], []
    except BrokenProcessPool:
        # The others die with it, and some were done before.
        begun = [task for future, task in running.items() if future.exception() is not None]
        for _ in range(len(running) - len(begun)):
            done()
        return [*begun, *waiting], begun
    finally:
        # After an error, or Ctrl-C, what was not done is left for the next time.
        ours.close()
        theirs.close()
        pool.shutdown(cancel_futures=True)


def _submit(
    pool: ProcessPoolExecutor,
    running: dict[Future[None], Any],
    waiting: deque[Any],
    root: Path,
    do: Callable[[Path, Any], None],
    n: int,
) -> None:
    """Have ``n`` tasks running, if so many are left. Raises BrokenProcessPool where a worker has died meanwhile."""
    while waiting and len(running) < n:
        future = pool.submit(do, root, waiting[0])
        running[future] = waiting.popleft()


def _method() -> str:
    return "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


def _begin(folder: Path, command: connection.Connection) -> None:
    """In a worker, once: it stands in the folder of the process that began it, leaves it Ctrl-C, ends with it."""
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(command,), daemon=True).start()


def _end_with(command: connection.Connection) -> None:
    connection.wait([command])
    os._exit(1)


@contextlib.contextmanager
def without_interrupts() -> Iterator[None]:
    """Ctrl-C goes to every process of a terminal; those that start here leave it to this one, which then ends them.

    The setting is inherited. While they start this one doesn't hear it either.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
