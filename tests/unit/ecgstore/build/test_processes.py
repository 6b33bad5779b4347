"""Workers that are processes: one that dies is replaced, none outlives whoever began it, and errors come back."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from numcodecs import blosc
from quickly import quickly

from ecgstore.build import processes
from ecgstore.errors import ConfigError, StoreError


class Job(NamedTuple):
    """A task that leaves a file."""

    first_shard: int


JOBS = [Job(number) for number in range(7)]


def work(root, task):
    (root / f"done-{task.first_shard}").write_text(str(os.getpid()))


def die_once(root, task):
    """As a worker that the system ends for want of memory, at the third task."""
    killed = root / "killed"
    if task.first_shard == 2 and not killed.exists():
        killed.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    work(root, task)


def die_always(root, task):
    if task.first_shard == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    work(root, task)


def die_after_one(root, task):
    """As a worker that does one task and is ended in the next."""
    mark = root / f"worked-{os.getpid()}"
    if mark.exists():
        os.kill(os.getpid(), signal.SIGKILL)
    mark.touch()
    work(root, task)


def refuse(root, task):
    if task.first_shard == 2:
        raise ConfigError("not this one", where="shard 2", got="two", fix="leave it out")
    work(root, task)


def say_where(root, task):
    (root / f"done-{task.first_shard}").write_text(str(Path.cwd()))


def wait_for_ever(root, task):
    """As a task in whose midst the end comes: it has packed something, with the lock that numcodecs has for that."""
    blosc.compress(np.zeros(9), b"zstd", 1, 1)
    work(root, task)
    while True:
        time.sleep(1)


def done_in(root):
    return {int(path.name.removeprefix("done-")) for path in root.glob("done-*")}


@pytest.mark.parametrize("do", [work, die_once, die_after_one])
def test_every_task_is_done_and_told_once(tmp_path, do, monkeypatch):
    # Where every worker dies, a task that only waited for one is counted as well: how often is the machine's doing.
    monkeypatch.setattr(processes, "DEATHS", 100)
    told = []
    processes.run(tmp_path, JOBS, do, 2, lambda: told.append(1))
    assert done_in(tmp_path) == set(range(7))
    assert len(told) == 7
    assert (tmp_path / "killed").exists() == (do is die_once)
    assert str(os.getpid()) not in {path.read_text() for path in tmp_path.glob("done-*")}


def test_a_task_that_a_broken_pool_does_not_take_is_still_to_be_done(tmp_path):
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    with pytest.raises(BrokenProcessPool):
        pool.submit(os._exit, 1).result()
    running, waiting = {}, deque(JOBS)
    with pytest.raises(BrokenProcessPool):
        processes._submit(pool, running, waiting, tmp_path, work, 2)
    assert (running, list(waiting)) == ({}, JOBS)
    pool.shutdown()


def test_a_task_that_kills_its_workers_is_named(tmp_path):
    with pytest.raises(StoreError, match="5 workers died over one task") as caught:
        processes.run(tmp_path, JOBS[2:3], die_always, 1, lambda: None)
    assert "shard 2" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_what_a_task_raises_comes_back_as_it_was(tmp_path):
    with pytest.raises(ConfigError, match="not this one") as caught:
        processes.run(tmp_path, JOBS, refuse, 1, lambda: None)
    assert "leave it out" in str(caught.value)
    assert done_in(tmp_path) < set(range(7))


def test_workers_stand_where_the_command_does(tmp_path, monkeypatch):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    processes.run(tmp_path, JOBS[:1], say_where, 1, lambda: None)
    assert Path((tmp_path / "done-0").read_text()) == folder.resolve()


def begun(root, script="processes.run(root, JOBS, test_processes.wait_for_ever, 2, lambda: None)", **how):
    """A command; of itself one that is at two tasks which never end, each of which has left a file in ``root``."""
    script = f"""
import os, signal, sys
sys.path[:0] = {[str(one) for one in (Path(__file__).parent, Path(__file__).parents[3], Path(__file__).parents[4])]!r}
from pathlib import Path
import test_processes
from ecgstore.build import processes
root, JOBS = Path({str(root)!r}), test_processes.JOBS
{script}
"""
    return subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True, **how)


@pytest.mark.parametrize("sent", quickly([signal.SIGKILL, signal.SIGINT], signal.SIGKILL))
def test_no_worker_outlives_a_command_that_was_ended(tmp_path, sent):
    command = begun(tmp_path)
    try:
        while len(done_in(tmp_path)) < 2:
            assert command.poll() is None
            time.sleep(0.02)
        command.send_signal(sent)
        # Interrupted, it waits for no task: these never end.
        said = command.communicate(timeout=300)[1]
    finally:
        command.kill()
        command.wait()
    assert command.returncode == -sent
    assert said.count("Traceback") == (sent == signal.SIGINT), "a worker has said something, too"
    for path in tmp_path.glob("done-*"):
        while is_there(int(path.read_text())):
            time.sleep(0.02)


@pytest.mark.parametrize("goes_to", quickly(["command", "all", "command again", "all again"], "command", "all"))
def test_told_to_end_a_command_leaves_nothing_that_python_would_warn_of(tmp_path, goes_to):
    """By SIGTERM, to the command alone or, as a batch system does it, to all of its processes."""
    command = begun(tmp_path, start_new_session=True)
    try:
        while len(done_in(tmp_path)) < 2:
            assert command.poll() is None
            time.sleep(0.02)
        send = os.killpg if "all" in goes_to else os.kill
        send(command.pid, signal.SIGTERM)
        # To its end, which is that of the last process that may say something.
        said = command.communicate(timeout=300)[1]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(command.pid, signal.SIGKILL)
        command.wait()
    assert (command.returncode, said) == (128 + signal.SIGTERM, "")


def test_who_has_said_what_to_do_when_told_to_end_is_left_to_it(tmp_path):
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        processes.run(tmp_path, JOBS, work, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, before)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard
    assert done_in(tmp_path) == set(range(7))


def test_told_to_end_at_the_last_task_it_still_ends(tmp_path):
    """And leaves the signal as it was."""
    script = """
try:
    processes.run(root, JOBS[:1], test_processes.work, 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
finally:
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
"""
    command = begun(tmp_path, script)
    said = command.communicate(timeout=300)[1]
    assert (command.returncode, said) == (128 + signal.SIGTERM, "")
    assert done_in(tmp_path) == {0}


def is_there(pid):
    """Whether a process is still at work; one that has ended may wait to be noticed."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
