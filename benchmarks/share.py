"""How fast stores are shared: push and pull, against the same bytes put and got by obstore alone, in the same run.

The server is moto's, in a process of its own, unless an address is given. The second version has the shards of the
first but one in ten. A folder is compared with ``cp -r`` and ``sync``. The ways run in turns, several times; medians
are reported.

    python benchmarks/share.py [--url s3://bucket/name] [--megabytes 30] [--rounds 5] [--json]

The last line on stdout is one JSON object.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from ecgstore.sharing import pull
from ecgstore.sharing.address import parse_address
from ecgstore.sharing.delivery import Delivered, OpenedSource, deliver
from ecgstore.sharing.opening import open_writable
from ecgstore.storage import layout, manifest

N_SHARDS, AT_ONCE = 10, 8
SMALL = (layout.ROOT, layout.SIGNAL_JSON, layout.RECORDS, layout.STATEMENTS, layout.REJECTED)
_SERVER = """
import sys, threading
from moto.server import ThreadedMotoServer
import logging; logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@contextmanager
def moto() -> Iterator[str]:
    """A server in a process of its own, so that it doesn't share our interpreter; the address of a bucket."""
    with subprocess.Popen([sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        address = f"http://127.0.0.1:{int(process.stdout.readline())}"
        keys = {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "REGION": "us-east-1", "ENDPOINT_URL": address}
        os.environ |= {f"AWS_{name}": value for name, value in keys.items()}
        urllib.request.urlopen(urllib.request.Request(f"{address}/bucket", method="PUT")).close()
        try:
            yield "s3://bucket"
        finally:
            process.stdin.close()
            process.wait()


def sealed(root: Path, shards: list[bytes], note: str) -> Path:
    """What moves as a store does; it is no store that could be opened."""
    contents = {name: (note * 2000).encode() for name in SMALL}
    contents |= {layout.shard_object(i): content for i, content in enumerate(shards)}
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    manifest.seal(root, {name: manifest.hash_object(root / name) for name in contents}, "0" * 64)
    return root


def push(store: Path, url: str) -> Delivered:
    """Without a look at the terms."""
    address = parse_address(url)
    source = OpenedSource(*manifest.open_sealed(store), str(store))
    return deliver(source, open_writable(address), address.tag_or_default)


def plain(url: str) -> Any:
    """obstore as it comes."""
    from obstore.store import S3Store

    bucket, prefix = parse_address(url).bucket_and_prefix
    return S3Store(bucket, prefix=prefix, client_options={"allow_http": True})


def plain_put(store: Path, url: str) -> None:
    """Every file of a folder, eight at once."""
    import obstore

    target = plain(url)
    files = [path for path in store.rglob("*") if path.is_file()]

    def put(path: Path) -> None:
        obstore.put(target, path.relative_to(store).as_posix(), path.read_bytes(), use_multipart=False)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(put, files))


def plain_get(url: str, dest: Path) -> None:
    """The same back into files."""
    import obstore

    target = plain(url)
    names = [one["path"] for some in obstore.list(target) for one in some]

    def get(name: str) -> None:
        path = dest / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(obstore.get(target, name).bytes()))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(get, names))


def copied(store: Path, dest: Path) -> None:
    """``cp -r`` and ``sync``."""
    subprocess.run(["cp", "-r", str(store), str(dest)], check=True)
    subprocess.run(["sync", "-f", str(dest)], check=True)


def seconds(do: Callable[[], object]) -> float:
    """How long it takes."""
    begin = time.perf_counter()
    do()
    return time.perf_counter() - begin


def measure(base: str, folder: Path, megabytes: float, rounds: int) -> dict[str, Any]:
    """Medians of all ways."""
    n_bytes = int(megabytes * 1e6 / N_SHARDS)
    shards = [os.urandom(n_bytes) for _ in range(N_SHARDS)]
    first = sealed(folder / "v1", shards, "v1")
    second = sealed(folder / "v2", [*shards[:-1], os.urandom(n_bytes)], "v2")
    total = sum(path.stat().st_size for path in first.rglob("*") if path.is_file())
    taken: dict[str, list[float]] = {}
    moved = 0.0
    for i in range(rounds):
        scratch = folder / f"round-{i}"
        scratch.mkdir()
        ways: dict[str, Callable[[], object]] = {
            "push": lambda i=i: push(first, f"{base}/share-{i}"),
            "plain put": lambda i=i: plain_put(first, f"{base}/plain-{i}"),
            "pull": lambda i=i, scratch=scratch: pull(f"{base}/share-{i}", scratch / "pulled"),
            "plain get": lambda i=i, scratch=scratch: plain_get(f"{base}/plain-{i}", scratch / "got"),
            "folder push": lambda scratch=scratch: push(first, str(scratch / "share")),
            "cp -r, sync": lambda scratch=scratch: copied(first, scratch / "copied"),
        }
        for name, do in ways.items():
            taken.setdefault(name, []).append(seconds(do))
        done: list[Delivered] = []
        taken.setdefault("push v2", []).append(
            seconds(lambda i=i, done=done: done.append(push(second, f"{base}/share-{i}")))
        )
        moved = done[0].bytes_sent / total
        taken.setdefault("folder push v2", []).append(
            seconds(lambda scratch=scratch: push(second, str(scratch / "share")))
        )
        shutil.rmtree(scratch)
    s = {name: statistics.median(its) for name, its in taken.items()}
    return {
        "bytes": total,
        "rounds": rounds,
        "seconds": {name: round(its, 4) for name, its in s.items()},
        "mb_per_s": {name: round(total / 1e6 / s[name], 1) for name in ("push", "plain put", "pull", "plain get")},
        "ratio_to_plain": {
            "push": round(s["plain put"] / s["push"], 3),
            "pull": round(s["plain get"] / s["pull"], 3),
        },
        "v2_share_of_bytes_sent": round(moved, 4),
        "folder_to_cp_and_sync": round(s["folder push"] / s["cp -r, sync"], 3),
    }


@click.command()
@click.option("--url", help="A bucket with credentials in the environment. Default: moto's server, started here.")
@click.option("--megabytes", type=float, default=30.0, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Only the JSON object.")
def main(url: str | None, megabytes: float, rounds: int, as_json: bool) -> None:
    """Measure, and print."""
    with tempfile.TemporaryDirectory() as folder:
        if url is None:
            with moto() as base:
                found = measure(base, Path(folder), megabytes, rounds)
        else:
            found = measure(url.rstrip("/"), Path(folder), megabytes, rounds)
    if not as_json:
        for name, its in found["seconds"].items():
            print(f"{name:<16} {its:8.3f} s")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
