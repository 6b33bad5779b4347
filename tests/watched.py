"""Commands under watch: what they answered, and whether they did anything but answer.

A thing to be opened stands in a folder of its own. Beside it lie what it must not reach: :data:`PRIVATE`, a text that
nobody may read or show, and :data:`TRAP`, code that leaves :data:`RAN` behind where it is run.
"""

from __future__ import annotations

import os
import stat
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from click.testing import CliRunner

PRIVATE, TRAP, RAN, OUT = "private.txt", "trap.py", "ran", "out"
SECRET = "7f3c-nobody-may-read-this-19a8"
#: What stands outside of the folder besides, and what a mutation may name.
ELSEWHERE = ("/dev/zero", "/dev/urandom", "/etc/hostname")
#: As both command lines document it.
STATUSES = (0, 1, 2, 3, 75)
#: Events of Python by which another program is begun (docs.python.org/3/library/audit_events.html).
_BEGINS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "pty.spawn")
_MOST_SHOWN = 300


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command said, and how it ended; ``bug`` is an exception that it let through."""

    words: tuple[str, ...]
    status: int
    out: str
    err: str
    bug: str = ""


@dataclass(slots=True)
class Watch:
    """A folder with the thing to be opened in it, and what was done outside of the thing."""

    folder: Path
    did: list[str] = field(default_factory=list)

    @property
    def out(self) -> Path:
        """The one folder that commands may write into."""
        return self.folder / OUT


def prepared(folder: Path) -> Watch:
    """Lay out what must not be reached."""
    (folder / OUT).mkdir(parents=True, exist_ok=True)
    (folder / PRIVATE).write_text(SECRET * 3 + "\n")
    (folder / TRAP).write_text(f"open({str(folder / RAN)!r}, 'w').close()\nDESCRIPTION = 'a trap'\n")
    return Watch(folder)


def answer(main: Any, words: Sequence[object]) -> Answer:
    """What the command line ``main`` answers, in this process."""
    said = tuple(str(word) for word in words)
    done = CliRunner().invoke(main, list(said))
    bug = ""
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        bug = f"{type(done.exception).__name__}: {str(done.exception)[:_MOST_SHOWN]}{_place(done.exc_info)}"
    return Answer(said, done.exit_code, done.stdout, done.stderr, bug)


def _place(about: Any) -> str:
    """Where an exception was raised: the last place in the project, and the very last."""
    places, trace = [], about[2]
    while trace is not None:
        places.append(f"{Path(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}")
        trace = trace.tb_next
    own = [place for place in places if "/ecgstore/" in place or "/ecgtrain/" in place]
    return "".join(f" at {place}" for place in dict.fromkeys([*own[-1:], *places[-1:]]))


def refuse_long(error: Exception) -> None:
    """Fail unless an error is one line, and none that fills the screen."""
    assert "\n" not in str(error)
    assert len(str(error)) < 10_000


def fault_of(one: Answer, *, many_lines: bool = False) -> str:
    """What is wrong with the way in which a command ended, "" if nothing is.

    It may succeed, or refuse in one line on stderr; ``many_lines``: in one per problem.
    """
    if one.bug:
        return f"traceback: {one.bug}"
    if "Traceback" in one.out + one.err:
        return "traceback: printed"
    if one.status not in STATUSES:
        return f"status {one.status}"
    lines = one.err.splitlines()
    if one.status == 0 and lines:
        return f"other output: {lines[0][:_MOST_SHOWN]}"
    if one.status and (not lines or (len(lines) > 1 and not many_lines)):
        return f"not one line: {len(lines)}: {one.err[:_MOST_SHOWN]}"
    if wrong := next((line for line in lines if not line.startswith(("error: ", "stopped: "))), None):
        return f"other output: {wrong[:_MOST_SHOWN]}"
    if SECRET in one.out + one.err:
        return "outside: what nobody may read was shown"
    odd = {unicodedata.category(char) for char in one.out + one.err if char not in "\n\t"} & {
        "Cc",
        "Cf",
        "Cs",
        "Zl",
        "Zp",
    }
    return f"control characters: {', '.join(sorted(odd))}" if odd else ""


@contextmanager
def watching(watch: Watch, thing: Path) -> Iterator[None]:
    """Note in ``watch.did`` what is read, written or begun in here that should not be: the thing itself stays as it is,
    nothing beside it but ``watch.out`` is touched, and no other program is begun.
    """
    before = _listing(watch)
    read = _unread(watch, thing, before)
    _hook.append(watch)
    _listen()
    try:
        yield
    finally:
        _hook.pop()
        after = _listing(watch)
        for name in sorted({*before, *after}):
            if before.get(name) != after.get(name):
                watch.did.append("executed: the trap" if name == RAN else f"outside: {name[:80]!r} was written")
            elif name in read and os.lstat(watch.folder / name).st_atime_ns != _LONG_AGO_NS:
                watch.did.append(f"outside: {name[:80]!r} was read")


#: As the time of the last reading: file systems mounted with relatime note the next one then.
_LONG_AGO_NS = 1


def _unread(watch: Watch, thing: Path, listing: Mapping[str, tuple[int, int, int]]) -> set[str]:
    """Plain files beside the thing, made to look as if nobody had ever read them; none where that can't be noted."""
    found = set()
    for name, (kind, _, changed_ns) in listing.items():
        path = watch.folder / name
        if kind == stat.S_IFREG and not path.is_relative_to(thing):
            os.utime(path, ns=(_LONG_AGO_NS, changed_ns))
            found.add(name)
    probe = watch.out / "probe"
    probe.write_bytes(b"x")
    os.utime(probe, ns=(_LONG_AGO_NS, probe.stat().st_mtime_ns))
    probe.read_bytes()
    return found if probe.stat().st_atime_ns != _LONG_AGO_NS else set()


def _listing(watch: Watch) -> dict[str, tuple[int, int, int]]:
    """Everything but ``out``: kind, size and time of change."""
    found = {}
    for place, folders, files in os.walk(watch.folder):
        if Path(place) == watch.folder:
            folders.remove(OUT)
        for name in (*folders, *files):
            path = os.path.join(place, name)  # noqa: PTH118 - names may be no text
            about = os.lstat(path)
            # Of a folder only what is in it counts: a lock may stand in it for a while.
            is_folder = stat.S_ISDIR(about.st_mode)
            found[os.path.relpath(path, watch.folder)] = (
                stat.S_IFMT(about.st_mode),
                0 if is_folder else about.st_size,
                0 if is_folder else about.st_mtime_ns,
            )
    return found


_hook: list[Watch] = []
_is_listening = False


def _listen() -> None:
    """Hear what Python opens and begins from now on; there is no way to stop, so it is passed over when idle."""
    global _is_listening
    if not _is_listening:
        sys.addaudithook(_heard)
        _is_listening = True


def _heard(event: str, arguments: tuple[Any, ...]) -> None:
    if not _hook:
        return
    if event in _BEGINS:
        _hook[-1].did.append(f"executed: {event}")
    elif event == "open" and arguments[0] in ELSEWHERE:
        _hook[-1].did.append(f"outside: {arguments[0]} was opened")
