"""Ceph's S3 gateway on this machine: one monitor, one store in memory, 127.0.0.1 alone; nothing is installed or left.

It takes ``ceph-mon``, ``ceph-osd``, ``radosgw``, ``radosgw-admin``, ``monmaptool`` and ``ceph``, as the packages of
Debian bring them, on the PATH, or below the folder CEPH_ROOT where those were unpacked:

    apt-get -y --download-only -o Dir::Cache::archives=$PWD install ceph-mon ceph-osd radosgw ceph-common
    for one in *.deb; do dpkg -x "$one" root; done
    CEPH_ROOT=$PWD/root pytest -m slow tests/faults/test_ceph.py
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

NEEDED = ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "monmaptool", "ceph")
WAIT_S = 120


class Gateway(NamedTuple):
    """Where it listens, and who may write there."""

    address: str
    key: str
    secret: str


def _environment() -> dict[str, str]:
    found = dict(os.environ)
    if root := os.environ.get("CEPH_ROOT"):
        libraries = [
            f"{root}/{one}" for one in ("usr/lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/ceph", "usr/lib/ceph")
        ]
        found["PATH"] = f"{root}/usr/bin:{root}/usr/sbin:{found['PATH']}"
        found["LD_LIBRARY_PATH"] = ":".join([*libraries, f"{root}/lib/x86_64-linux-gnu"])
        found["PYTHONPATH"] = f"{root}/usr/lib/python3/dist-packages"
    return found


def missing() -> list[str]:
    """Programs that are not there."""
    path = _environment()["PATH"]
    return [one for one in NEEDED if shutil.which(one, path=path) is None]


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _settings(folder: Path, monitor: int, port: int, cluster: str) -> str:
    root = Path(os.environ.get("CEPH_ROOT") or "/") / "usr/lib/x86_64-linux-gnu"
    common = {
        "fsid": cluster,
        "mon host": f"v2:127.0.0.1:{monitor}",
        "public addr": "127.0.0.1",
        **{f"auth {one} required": "none" for one in ("cluster", "service", "client")},
        "mon data": folder / "mon",
        "osd data": folder / "osd",
        "osd objectstore": "memstore",
        "memstore device bytes": 2 << 30,
        "osd class dir": root / "rados-classes",
        "plugin dir": root / "ceph",
        "erasure code dir": root / "ceph/erasure-code",
        "run dir": folder,
        "log file": f"{folder}/$name.log",
        "pid file": f"{folder}/$name.pid",
        "admin socket": f"{folder}/$name.asok",
        # One copy of everything is enough for a test.
        **{"osd pool default size": 1, "osd pool default min size": 1, "mon allow pool size one": "true"},
        **{"osd pool default pg num": 4, "osd pool default pgp num": 4, "osd pool default pg autoscale mode": "off"},
        **{"mon max pg per osd": 1000, "osd crush chooseleaf type": 0},
    }
    gateway = {
        "rgw frontends": f"beast endpoint=127.0.0.1:{port}",
        "rgw data": folder / "rgw",
        "rgw crypt require ssl": "false",
    }
    lines = ["[global]", *(f"{name} = {value}" for name, value in common.items())]
    lines += ["[client.rgw]", *(f"{name} = {value}" for name, value in gateway.items())]
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def gateway(folder: Path) -> Iterator[Gateway]:
    """Start all of it, and stop it at the end. ``folder`` is empty, and its path short: sockets stand in it."""
    port, monitor, cluster = _free_port(), _free_port(), str(uuid.uuid4())
    environment = _environment() | {"CEPH_CONF": str(folder / "ceph.conf")}
    for name in ("mon", "osd", "rgw"):
        (folder / name).mkdir()
    (folder / "ceph.conf").write_text(_settings(folder, monitor, port, cluster))

    def run(*words: object, wait_s: float = WAIT_S) -> None:
        done = subprocess.run([str(one) for one in words], env=environment, capture_output=True, timeout=wait_s)
        assert done.returncode == 0, f"{words[0]}: {done.stderr.decode(errors='replace')[-500:]}"

    begun: list[subprocess.Popen[bytes]] = []

    def begin(*words: object) -> None:
        with (folder / f"{words[0]}.out").open("wb") as out:
            begun.append(subprocess.Popen([str(one) for one in words], env=environment, stdout=out, stderr=out))

    ceph = Path(shutil.which("ceph", path=environment["PATH"]) or "ceph")
    modes = ("--ms-mon-client-mode=crc", "--ms-client-mode=crc")  # unpacked packages lack the plug-ins of others
    try:
        run("monmaptool", "--create", "--addv", "a", f"[v2:127.0.0.1:{monitor}]", "--fsid", cluster, folder / "map")
        run("ceph-mon", "--mkfs", "-i", "a", "--monmap", folder / "map")
        begin("ceph-mon", "-i", "a", "-f")
        number = str(uuid.uuid4())
        run("/usr/bin/python3", ceph, "osd", "new", number, "0")
        run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", number)
        begin("ceph-osd", "-i", "0", "-f")
        begin("radosgw", "-n", "client.rgw", *modes, "-f")
        address = f"http://127.0.0.1:{port}"
        _wait_for(address, begun[-1])
        of_user = ("--uid=test", "--display-name=test", "--access-key=testkey", "--secret-key=testsecret")
        run("radosgw-admin", "-n", "client.rgw", *modes, "user", "create", *of_user)
        yield Gateway(address, "testkey", "testsecret")
    finally:
        for one in reversed(begun):
            one.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                one.wait(20)
            one.kill()
            one.wait()


def _wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + WAIT_S
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            assert process.poll() is None, "the gateway ended"
            assert time.monotonic() < end, "the gateway doesn't answer"
            time.sleep(0.5)
