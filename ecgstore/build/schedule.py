"""Tasks to workers: threads in this process, processes on this machine, or by Dask a cluster that is there.

Only this file imports Dask. A task leaves its outcome on the disk, so nothing travels back but "done".
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from ecgstore.build import processes
from ecgstore.build.memory import keep_freed_memory
from ecgstore.errors import ConfigError, StoreError, need
from ecgstore.settings import Settings
from ecgstore.signals import transforms
from ecgstore.wfdb_io.files import import_wfdb

#: Tasks that a cluster is given ahead of time, per worker: enough to keep it busy, few enough to stay small.
AHEAD = 3
#: Items of one kind, such as headers to be read, that travel together.
TOGETHER = 256
#: How many of them a worker is at.
WAITING = 16
#: How long a scheduler may take to answer.
CONNECT_S = 20
#: How long its first worker may take to join.
WORKER_S = 120


class Workers(Settings):
    """Who does the tasks. Nothing of a store depends on it."""

    #: How many threads or processes; without a scheduler.
    n: int = 1
    #: Processes instead of threads: more start-up and memory, no interpreter shared.
    processes: bool = False
    #: Address of a Dask scheduler that runs already, such as ``tcp://host:8786``; its workers see the same files.
    scheduler: str = ""

    @property
    def are_elsewhere(self) -> bool:
        """Whether tasks go to other processes."""
        return self.processes or bool(self.scheduler)


#: Does one task in a store's folder; and what a process does once before its first task.
Do = Callable[[Path, Any], None]
Ready = Callable[[], None]


def run(root: Path, tasks: Sequence[Any], do: Do, ready: Ready, workers: Workers, done: Callable[[], None]) -> None:
    """Do every task, one shard or more each; ``done`` is called after each. Tasks must be picklable, and ``do`` too.

    Raises what a task raises (StoreError, IntegrityError), ConfigError where the scheduler can't be reached.
    """
    if not tasks:
        return
    if workers.scheduler:
        _run_distributed(root, tasks, do, ready, workers, done)
    elif workers.processes:
        processes.run(root.resolve(), tasks, functools.partial(_do, do, ready), workers.n, done)
    else:
        _run_threads(root, tasks, do, ready, workers.n, done)


def _run_threads(root: Path, tasks: Sequence[Any], do: Do, ready: Ready, n: int, done: Callable[[], None]) -> None:
    ready()
    pool = ThreadPoolExecutor(n)
    try:
        with _quick_handover(), one_thread_each():
            for future in as_completed([pool.submit(do, root, task) for task in tasks]):
                future.result()
                done()
    finally:
        # After an error, or Ctrl-C, the shards that were not begun yet are left for the next time.
        pool.shutdown(cancel_futures=True)


def prepare(with_wfdb: bool) -> None:
    """What a process does once before its first task."""
    # Threads that import at the same time can wait for each other; what the tasks need is imported once here.
    transforms.load()
    if with_wfdb:
        import_wfdb()
    keep_freed_memory()


def one_thread_each() -> Any:
    """While the context lasts, linear algebra starts no threads of its own: beside workers they only spin."""
    return need("threadpoolctl", "ingest").threadpool_limits(limits=1, user_api="blas")


@contextlib.contextmanager
def _quick_handover() -> Iterator[None]:
    """Threads that come back from NumPy wait 1 ms for the interpreter instead of 5: three per cent faster."""
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(0.001)
    try:
        yield
    finally:
        sys.setswitchinterval(before_s)


class Cluster:
    """Workers of a scheduler that do one thing to many items."""

    def __init__(self, client: Any, workers: Workers, where: object) -> None:
        self._client, self._workers, self._where = client, workers, where

    @property
    def at_once(self) -> int:
        """So many items keep all of its workers busy."""
        n_threads: int = sum(self._client.nthreads().values())
        return AHEAD * TOGETHER * max(1, n_threads)  # workers come and go

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """What ``function`` makes of each item, in their order, as an executor has it. All of it must be picklable."""
        left, begun = iter(items), deque[Any]()
        while True:
            while (len(begun) + 1) * TOGETHER <= self.at_once and (some := list(itertools.islice(left, TOGETHER))):
                begun.append(self._client.submit(_each, function, some, pure=False))
            if not begun:
                return
            with _plain_errors(self._workers, self._where):
                found = begun.popleft().result()
            yield from found


def _each(function: Callable[[Any], Any], items: list[Any]) -> list[Any]:
    """In a worker. What machines share is a slow file system, and most of the time is spent waiting for it."""
    with ThreadPoolExecutor(WAITING) as pool:
        return list(pool.map(function, items))


@contextlib.contextmanager
def cluster(workers: Workers, where: object) -> Iterator[Cluster | None]:
    """The workers of the scheduler, if there is one. ``where`` is what errors name. Raises ConfigError."""
    if not workers.scheduler:
        yield None
        return
    with _client(need("distributed", "ingest"), workers) as client:
        _await_worker(client, workers)
        yield Cluster(client, workers, where)


def _await_worker(client: Any, workers: Workers) -> None:
    try:
        client.wait_for_workers(1, timeout=WORKER_S)
    except TimeoutError:
        raise ConfigError(
            "the Dask scheduler has no workers",
            where=workers.scheduler,
            fix="start some with `dask worker ADDRESS`",
        ) from None


@contextlib.contextmanager
def _plain_errors(workers: Workers, where: object) -> Iterator[None]:
    """Says what went wrong between processes in words of ours."""
    distributed = need("distributed", "ingest")
    try:
        yield
    except (CancelledError, distributed.comm.CommClosedError) as error:
        raise StoreError(
            "the Dask scheduler went away",
            where=workers.scheduler,
            got=" ".join(f"{type(error).__name__} {error}".split())[:160],
            fix="start it and its workers again; running the same command again goes on from here",
        ) from None
    except distributed.KilledWorker as error:
        raise StoreError(
            "workers died over one task again and again: too little memory, or a record that kills its reader",
            where=where,
            got=str(error.task),
            fix="look into the workers' logs; running the same command again goes on from here",
        ) from None
    except RuntimeError as error:
        if "deserialization" not in str(error):
            raise
        raise ConfigError(
            "the cluster doesn't understand the tasks: ecgstore is not there, or of another version",
            where=workers.scheduler,
            fix="start scheduler and workers from the environment of this command",
        ) from None


def _run_distributed(
    root: Path, tasks: Sequence[Any], do: Do, ready: Ready, workers: Workers, done: Callable[[], None]
) -> None:
    distributed = need("distributed", "ingest")
    with _client(distributed, workers) as client, _plain_errors(workers, root):
        _await_worker(client, workers)
        waiting = iter(tasks)
        submit = functools.partial(_submit, client, root.resolve(), do, ready)
        first = [submit(task) for task in _take(waiting, AHEAD * sum(client.nthreads().values()))]
        running = distributed.as_completed(first, loop=client.loop)
        for future in running:
            future.result()
            done()
            # Workers come and go.
            ahead = AHEAD * sum(client.nthreads().values()) - running.count()
            for task in _take(waiting, max(1, ahead)):
                running.add(submit(task))


def _submit(client: Any, root: Path, do: Do, ready: Ready, task: Any) -> Any:
    return client.submit(_do, do, ready, root, task, key=f"shard-{task.first_shard:08d}", pure=False)


def _do(do: Do, ready: Ready, root: Path, task: Any) -> None:
    """A task in another process."""
    ready()
    with one_thread_each():
        do(root, task)


def _take(tasks: Iterator[Any], n: int) -> list[Any]:
    return [task for _, task in zip(range(n), tasks, strict=False)]


@contextlib.contextmanager
def _client(distributed: Any, workers: Workers) -> Iterator[Any]:
    """A connection to the cluster that runs."""
    quiet = {
        "distributed.logging.distributed": "error",
        "distributed.comm.timeouts.connect": f"{CONNECT_S}s",
    }
    with need("dask", "ingest").config.set(quiet):
        try:
            client = distributed.Client(workers.scheduler, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ConfigError(
                "no Dask scheduler answers",
                where=workers.scheduler,
                got=" ".join(str(error).split())[:160],
                fix="start one with `dask scheduler`, and workers with `dask worker ADDRESS`",
            ) from None
        with client:
            yield client
