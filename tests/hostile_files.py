"""What can be done to any file of a folder that is handed over: each a function of a path, and of random numbers."""

from __future__ import annotations

import gzip
import os
import random
import shutil
import socket
import zlib
from collections.abc import Callable
from pathlib import Path

from watched import PRIVATE, TRAP

Change = Callable[[Path, random.Random], None]

NAMES = (
    "../private.txt",
    "../../../../../../etc/hostname",
    "/etc/hostname",
    "/dev/zero",
    "/dev/stdin",
    "/proc/self/mem",
    "signal/../../private.txt",
    "./zarr.json",
    "signal//c/0/0",
    "signal/c/0/00",
    "signal/c/0/-1",
    "signal/c/1/0",
    "signal/c/0/1000000000",
    "signal/c/0/\uff11",
    "commits/000000.arrow/../../zarr.json",
    "C:\\windows\\win.ini",
    "..\\private.txt",
    "file:///etc/hostname",
    "http://127.0.0.1:9/x",
    "",
    ".",
    "..",
    "\x1b]0;T\x07",
    "a\nb",
    "a\x00b",
    "\u202egnp.exe",
    "\ud800",
    "n" * 5000,
    "$(touch ran)",
    "trap.py",
    "%s%n{0.__class__}",
)
GARBAGE = (
    b"",
    b"\x00",
    bytes(range(256)),
    b"[" * 100_000,
    b"{}",
    b"null",
    b"\xff\xfe" + "{}".encode("utf-16-le"),
    b"\xef\xbb\xbf{}",
    b"PAR1" + b"\xff" * 12 + b"\xff\xff\xff\x7fPAR1",
    b"PAR1PAR1",
    b"PK\x03\x04" + bytes(100),
    b"ARROW1\x00\x00" + b"\xff" * 64,
    b"\x80\x04\x95" + bytes(40),
    b"<html><body>not found</body></html>",
    b"#!/bin/sh\ntouch ran\n",
    b"a" * 1_000_000,
    gzip.compress(bytes(10_000_000)),
    zlib.compress(bytes(10_000_000)),
)


def beginning(path: Path) -> bytes:
    """What a file holds; of one that was made larger than any memory only the beginning."""
    with path.open("rb") as file:
        return file.read(2**26)


def flip(path: Path, rng: random.Random) -> None:
    content = bytearray(beginning(path))
    for _ in range(rng.choice([1, 1, 1, 3, 20])):
        if content:
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def cut(path: Path, rng: random.Random) -> None:
    content = beginning(path)
    begin, end = sorted(rng.choice([0, 1, 8, len(content) // 2, len(content) - 1, len(content)]) for _ in range(2))
    path.write_bytes(content[begin:end] if rng.random() < 0.7 else content + content[begin:end])


def garbage(path: Path, rng: random.Random) -> None:
    path.write_bytes(rng.choice(GARBAGE))


def swap(path: Path, rng: random.Random) -> None:
    """The content of another file of the same folder or of one below it."""
    others = [one for one in sorted(path.parent.rglob("*")) if one.is_file() and not one.is_symlink()]
    path.write_bytes(beginning(rng.choice(others)))


def remove(path: Path, rng: random.Random) -> None:
    path.unlink()
    if rng.random() < 0.3:
        shutil.rmtree(path.parent)


def folder(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.mkdir()
    if rng.random() < 0.5:
        (path / path.name).write_bytes(b"x")


def link(path: Path, rng: random.Random) -> None:
    """A link in its place: out of the folder, to a device, to itself, to a copy of it, or to nothing."""
    top = _top(path)
    copy = top.parent / f"elsewhere-{path.name}"
    shutil.copy(path, copy)
    within = next(one for one in sorted(top.rglob("*")) if one.is_file())
    where = [top.parent / PRIVATE, copy, Path("/dev/zero"), Path("/dev/urandom"), path, within, Path("nothing")]
    where += [Path(os.path.relpath(top.parent / PRIVATE, path.parent)), top.parent / TRAP]
    path.unlink()
    path.symlink_to(rng.choice(where))


def linked_folder(path: Path, rng: random.Random) -> None:
    """The folder that it stands in is moved out, and a link leads there; or a link leads round in a circle."""
    top = _top(path)
    if path.parent == top or rng.random() < 0.2:
        (top / "round").symlink_to(top)
        return
    copy = top.parent / f"elsewhere-{path.parent.name}"
    shutil.rmtree(copy, ignore_errors=True)
    path.parent.rename(copy)
    path.parent.symlink_to(copy)


def pipe(path: Path, rng: random.Random) -> None:
    path.unlink()
    if rng.random() < 0.8:
        os.mkfifo(path)
        return
    here = Path.cwd()
    try:
        os.chdir(path.parent)  # the path of a socket is short
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def hole(path: Path, rng: random.Random) -> None:
    """Larger than any memory, and nothing on the disk."""
    os.truncate(path, rng.choice([2**31, 2**36, 2**42]))


def stranger(path: Path, rng: random.Random) -> None:
    """A file beside it that doesn't belong there."""
    name = rng.choice(
        [b"x", b"\xff\xfe", b"a\x1b[2J", b"\xe2\x80\xae.txt", b"n" * 255, b".hidden", b".zarray", b"zarr.json"]
    )
    name = rng.choice([name, b"conftest.py", b"sitecustomize.py", b"a\nerror: b", b"x.partial", b"building.json"])
    place = os.path.join(os.fsencode(path.parent), name)  # noqa: PTH118 - a name may be no text
    if os.path.lexists(place):
        return
    match rng.randrange(4):
        case 0:
            os.mkfifo(place)
        case 1:
            os.symlink(os.fsencode(_top(path).parent / PRIVATE), place)  # noqa: PTH211
        case 2:
            os.mkdir(place)  # noqa: PTH102
        case _:
            with open(place, "wb") as file:  # noqa: PTH123
                file.write(f"open({str(_top(path).parent / 'ran')!r}, 'w')\n".encode())


def rename(path: Path, rng: random.Random) -> None:
    names = [path.name.upper(), f"{path.name}.bak", f".{path.name}", f"{path.name}.partial", "x", path.name + "\u200b"]
    path.rename(path.with_name(rng.choice(names)))


def _top(path: Path) -> Path:
    """The folder that was handed over: the one beside what must not be reached."""
    return next(one for one in path.parents if (one.parent / PRIVATE).exists())


CHANGES: dict[str, Change] = {
    "bits flipped": flip,
    "cut or longer": cut,
    "other bytes": garbage,
    "another file's bytes": swap,
    "missing": remove,
    "a folder": folder,
    "a link": link,
    "a linked folder": linked_folder,
    "a pipe or socket": pipe,
    "a hole of terabytes": hole,
    "a stranger beside it": stranger,
    "renamed": rename,
}
