"""One at a time: locks on files, which the system frees when whoever holds them dies.

Check and act are one step only for whoever holds the lock from the check to the end of the act. A lock's file holds
one line on who took it last (process, machine, since when), to be told to whoever comes second.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

#: A lock's line is short; what is longer is none.
_MOST_BYTES = 200
#: Open files of the locks that this process holds. A forked child must not keep them when its parent dies.
_held_files: set[int] = set()


@contextlib.contextmanager
def held(
    path: Path,
    *,
    busy: Callable[[str], Exception],
    lockless: Callable[[OSError], Exception],
    shared: bool = False,
    wait: bool = False,
    instead: Path | None = None,
) -> Iterator[None]:
    """Hold the lock at ``path``: alone, or ``shared`` with others who share it.

    Raises ``busy(who)`` where somebody else holds it and it shall not ``wait``, ``lockless(error)`` where the file
    system knows no locks. Where no file can be made at ``path``, the lock stands at ``instead``, if that is given. Who
    shares and may make no file at all can change nothing there either, and needs no lock.
    """
    with contextlib.ExitStack() as stack:
        while True:
            try:
                file = stack.enter_context(_opened(path))
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                    raise
                if instead is not None and path != instead and instead.parent.is_dir():
                    path = instead
                    continue
                if not shared:
                    raise
                yield
                return
            _lock(file, busy, lockless, shared=shared, wait=wait)
            # Whoever held it before may have removed the name meanwhile: then this is nobody's lock.
            if _stands_at(file, path):
                break
            stack.pop_all().close()
        _held_files.add(file.fileno())
        stack.callback(_held_files.discard, file.fileno())
        _sign(file)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                # The name goes with the last who shares it, and while it is held.
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _stands_at(file, path):
                    path.unlink()


def _opened(path: Path) -> IO[bytes]:
    """Never through a link: it could lead to any file, which would then be written."""
    # What stands there instead of a folder is said better by the next line.
    with contextlib.suppress(FileExistsError):
        path.parent.mkdir(parents=True, exist_ok=True)
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666), "r+b", buffering=0)


def _lock(
    file: IO[bytes],
    busy: Callable[[str], Exception],
    lockless: Callable[[OSError], Exception],
    *,
    shared: bool,
    wait: bool,
) -> None:
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(file, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise busy(_signature(file)) from None
    except OSError as error:
        raise lockless(error) from None


def _sign(file: IO[bytes]) -> None:
    since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    with contextlib.suppress(OSError):
        file.truncate(0)
        file.seek(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}, since {since}"[:_MOST_BYTES].encode())


def _signature(file: IO[bytes]) -> str:
    """Who took it last, as far as that is known."""
    with contextlib.suppress(OSError):
        line = os.pread(file.fileno(), _MOST_BYTES, 0).decode(errors="replace")
        if line.startswith("process ") and line.isprintable():
            return line
    return "another process"


def _stands_at(file: Any, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _let_go() -> None:
    """A lock belongs to the open file, which a forked child has too: it would outlive whoever took it."""
    for number in _held_files:
        # Replaced rather than closed: whoever closes it later must not close a file that is another by then.
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, number, inheritable=False)
        os.close(nothing)
    _held_files.clear()


os.register_at_fork(after_in_child=_let_go)
