"""Processes that have torch already: forked from a server that imported it once, which takes seconds each time.

They are processes like others, to be waited for, stopped and killed. But Python ends in them without tearing anything
down, and without the functions of ``atexit``: what is to be seen there needs a process of its own.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import variation

ROOT = Path(__file__).parents[1]

_SERVER = multiprocessing.get_context("forkserver")
# What takes long to import and is not what is tested. torch imports _dynamo when it makes its first optimiser.
_SERVER.set_forkserver_preload(["torch._dynamo", "sklearn.linear_model", "matplotlib.backends.backend_agg", "zarr"])


#: Code in front of another: it dies as it gives the n-th file or folder its name that is like a pattern, which are its
#: last two arguments. Somebody who watches it from outside would have to be quick enough.
DIES_AT_A_NAME = """
import fnmatch, os, signal, sys
pattern, left = sys.argv[-2], [int(sys.argv[-1])]
def die(event, arguments):
    if event == "os.rename" and fnmatch.fnmatch(os.fsdecode(arguments[1]), pattern):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(die)
"""


class Ended(NamedTuple):
    """``status`` as subprocess has it: below 0 for a process that was killed."""

    status: int
    out: str
    errors: str


class Started:
    """``python -c code arguments``, or ``python -m module arguments`` for a ``code`` such as ``"-m ecgtrain"``."""

    def __init__(
        self, code: str, *arguments: object, env: Mapping[str, object] | None = None, cwd: Path | None = None
    ) -> None:
        with tempfile.NamedTemporaryFile(delete=False) as out, tempfile.NamedTemporaryFile(delete=False) as errors:
            self._said = Path(out.name), Path(errors.name)
        environment = {**os.environ, **{name: str(value) for name, value in (env or {}).items()}}
        environment.setdefault("PYTHONPATH", str(ROOT))
        self._process = _SERVER.Process(
            target=_run, args=(code, [str(one) for one in arguments], environment, cwd or Path.cwd(), self._said)
        )
        self._process.start()

    def poll(self) -> int | None:
        """The exit status, once there is one."""
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def wait(self, timeout_s: float = 120) -> Ended:
        """Wait for its end; fails and kills it where that doesn't come."""
        self._process.join(timeout_s)
        status = self._process.exitcode
        self._process.kill()
        self._process.join()
        out, errors = (path.read_text(encoding="utf-8") for path in self._said)
        for path in self._said:
            path.unlink()
        assert status is not None, f"no end in {timeout_s} s: {errors}"
        return Ended(status, out, errors)


def ranks(world: int, code: str, *arguments: object, timeout_s: float = 120) -> list[Ended]:
    """How the same code ended on every rank, started as torchrun would on this machine; if one hangs, none is left."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    common |= {"GLOO_SOCKET_IFNAME": "lo"}
    started = [Started(code, *arguments, env={**common, "RANK": rank, "LOCAL_RANK": rank}) for rank in range(world)]
    try:
        return [one.wait(timeout_s) for one in started]
    finally:
        for one in started:
            if one.poll() is None:
                one.send_signal(signal.SIGKILL)


def said_by_ranks(world: int, code: str, *arguments: object) -> list[str]:
    """The last line that each rank printed, or nothing; fails where a rank fails."""
    ended = ranks(world, code, *arguments, timeout_s=250)
    for status, _, errors in ended:
        assert status == 0, errors
    return [(out.splitlines() or [""])[-1] for _, out, _ in ended]


def _run(code: str, arguments: list[str], environment: dict[str, str], cwd: Path, said: tuple[Path, Path]) -> None:
    for stream, path in zip((sys.stdout, sys.stderr), said, strict=True):
        number = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(number, stream.fileno())
        os.close(number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.path[:0] = [folder for folder in environment["PYTHONPATH"].split(os.pathsep) if folder]
    variation.apply()
    module = code.removeprefix("-m ")
    sys.argv = ["-c", *arguments]
    if module != code:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        space: dict[str, Any] = {"__name__": "__main__"}
        exec(code, space)
