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
import sys
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
#: So often the command looks whether it was told to end.
LOOK_EVERY_S = 0.2
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

    Raises what a task raises, and StoreError where workers die again and again over the same task. Told to end by
    SIGTERM it stops its workers and raises SystemExit, unless the caller has said what is to be done then.
    """
    prepare()
    left, deaths = list(tasks), Counter[int]()
    with _told_to_end() as refuse_if_told:
        while left:
            refuse_if_told()
            left, lost = _as_far_as_it_goes(root, left, do, n, done, refuse_if_told)
            _name_the_killer(lost, deaths, root)


def _name_the_killer(lost: Sequence[Any], deaths: Counter[int], root: Path) -> None:
    """Raise StoreError where one of the tasks that were ``lost`` with a worker has seen too many die."""
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
    root: Path,
    tasks: Sequence[Any],
    do: Callable[[Path, Any], None],
    n: int,
    done: Callable[[], None],
    refuse_if_told: Callable[[], None],
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
            ended, _ = wait(running, LOOK_EVERY_S, return_when=FIRST_COMPLETED)
            refuse_if_told()
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


@contextlib.contextmanager
def _told_to_end() -> Iterator[Callable[[], None]]:
    """Inside, SIGTERM doesn't end the process; the function that is given raises SystemExit once one has come.

    Ended by it, the process would leave semaphores behind, of which Python then warns. Raised out of the handler, the
    exception could come while some are made.
    """
    heard: list[int] = []

    def refuse_if_told() -> None:
        if heard:
            sys.exit(128 + signal.SIGTERM)  # as a shell says it

    is_ours = (
        threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    )
    if is_ours:
        signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        yield refuse_if_told
        refuse_if_told()
    except Exception:
        refuse_if_told()  # who told this process may have told its workers as well, and they end at once
        raise
    finally:
        if is_ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _method() -> str:
    return "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


def _begin(folder: Path, command: connection.Connection) -> None:
    """In a worker, once: it stands in the folder of the process that began it, leaves it Ctrl-C, ends with it."""
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _make_lock_of_codec()
    threading.Thread(target=_end_with, args=(command,), daemon=True).start()


def _make_lock_of_codec() -> None:
    """Have numcodecs make its lock of a process now, as one that has no name.

    It makes it with the first chunk, of the kind that processes of a fork server share by name. Whoever ends in the
    midst of a task leaves the name behind, and Python warns of it.
    """
    from numcodecs import blosc

    make = getattr(blosc, "get_mutex", None)
    if make is None or multiprocessing.get_start_method() != "forkserver":
        return
    multiprocessing.set_start_method("fork", force=True)
    make()
    multiprocessing.set_start_method("forkserver", force=True)


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
