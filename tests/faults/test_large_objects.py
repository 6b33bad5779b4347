"""Objects that are sent in parts: known again, whole or not there, ended between any two parts, in bounded memory."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from quickly import quickly
from shares import S3, Between, Times, bring, contents, fingerprint, sealed

from ecgstore import IntegrityError
from ecgstore.sharing import bucket, notes, pull, tags, versions
from ecgstore.sharing.address import parse_address
from ecgstore.sharing.opening import open_writable
from ecgstore.storage import layout, manifest

ROOT = Path(__file__).parents[2]
MIB = 1 << 20
#: The least that S3 takes as a part, and a shard of three of them.
PART, LARGE = 5 * MIB, 13 * MIB + 17
SHARD = layout.shard_object(0)


def target_of(url: str) -> Any:
    return open_writable(parse_address(url))


def n_unfinished(s3: S3, url: str) -> int:
    """Uploads in parts that nobody finished or gave up."""
    name = url.removeprefix("s3://").partition("/")[0]
    with urllib.request.urlopen(f"{s3.address}/{name}?uploads") as answer:
        return int(answer.read().count(b"<UploadId>"))


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process."""
    monkeypatch.setattr(bucket, "ONE_PIECE_BYTES", PART)
    monkeypatch.setattr(bucket, "PART_BYTES", PART)


@pytest.fixture(scope="module")
def v1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sealed(tmp_path_factory.mktemp("v1") / "v1.ecg", (b"one", b"two"))


@pytest.fixture(scope="module")
def v2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first shard is large, and the second nearly so."""
    return sealed(tmp_path_factory.mktemp("v2") / "v2.ecg", (os.urandom(LARGE), os.urandom(PART), b"two"), "of v2")


def test_a_large_object_comes_back_and_is_not_sent_again(at_s3: S3, v2: Path, tmp_path: Path) -> None:
    url = f"{at_s3.bucket()}/share"
    there = target_of(url)
    assert bring(v2, there).sent == 8
    listed = there.listed(notes.version_folder(fingerprint(v2)))
    assert listed[versions.object_name(fingerprint(v2), SHARD)].etag.strip('"').endswith("-3")
    assert bring(v2, there).kept == 8
    pull(url, tmp_path / "a")
    assert contents(tmp_path / "a") == contents(v2)
    assert n_unfinished(at_s3, url) == 0


def test_a_large_object_that_is_another_one_is_sent_again(at_s3: S3, v2: Path, tmp_path: Path) -> None:
    url = f"{at_s3.bucket()}/share"
    there, name = target_of(url), versions.object_name(fingerprint(v2), SHARD)
    bring(v2, there)
    damaged = bytearray((v2 / SHARD).read_bytes())
    damaged[LARGE // 2] ^= 1
    there.put(name, bytes(damaged))
    with pytest.raises(IntegrityError, match="not the one that was sealed"):
        pull(url, tmp_path / "a")
    done = bring(v2, there)
    assert (done.sent, done.kept) == (1, 7)
    pull(url, tmp_path / "a")
    assert contents(tmp_path / "a") == contents(v2)


@pytest.mark.parametrize("part_bytes", quickly([6 * MIB, 7 * MIB], 6 * MIB))
def test_parts_of_another_size_are_sent_again(
    at_s3: S3, v2: Path, part_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = target_of(f"{at_s3.bucket()}/share")
    with monkeypatch.context() as patched:
        patched.setattr(bucket, "PART_BYTES", part_bytes)
        bring(v2, there)
    done = bring(v2, there)
    assert (done.sent, done.kept) == (1, 7)


def test_what_is_damaged_here_leaves_no_parts_there(at_s3: S3, tmp_path: Path) -> None:
    store = sealed(tmp_path / "v.ecg", (os.urandom(LARGE),))
    content = bytearray((store / SHARD).read_bytes())
    content[-1] ^= 1
    (store / SHARD).write_bytes(content)
    url = f"{at_s3.bucket()}/share"
    with pytest.raises(IntegrityError, match="not the one that was sealed"):
        bring(store, target_of(url))
    assert n_unfinished(at_s3, url) == 0
    assert versions.object_name(fingerprint(store), SHARD) not in target_of(url).listed("versions")


@pytest.mark.parametrize(
    ("method", "part", "kind"),
    quickly(
        [
            (method, part, kind)
            for kind in (500, 503, "lost", "cut")
            for method, part in (
                ("POST", "uploads"),
                ("PUT", "partNumber=2"),
                ("PUT", "partNumber=3"),
                ("POST", "uploadId"),
            )
        ],
        ("POST", "uploads", 503),
        ("PUT", "partNumber=2", "cut"),
        ("POST", "uploadId", "lost"),
    ),
)
def test_answers_that_fail_between_parts_are_got_over(
    at_s3: S3, between: Between, v2: Path, tmp_path: Path, method: str, part: str, kind: int | str
) -> None:
    url = f"{at_s3.bucket()}/share"
    between.fault = fault = Times(kind, method, part)
    bring(v2, target_of(url))
    assert fault.left == 0
    pull(url, tmp_path / "a")
    assert contents(tmp_path / "a") == contents(v2)


@pytest.mark.parametrize("kind", quickly(["cut", "short"], "short"))
def test_a_large_object_of_which_an_answer_brings_a_part_is_fetched_again(
    at_s3: S3, between: Between, v2: Path, tmp_path: Path, kind: str
) -> None:
    url = f"{at_s3.bucket()}/share"
    bring(v2, target_of(url))
    between.fault = fault = Times(kind, "GET", SHARD)
    if kind == "short":  # the server says that it is all
        with pytest.raises(IntegrityError, match="size that was sealed"):
            pull(url, tmp_path / "a")
        assert not (tmp_path / "a").exists()
    pull(url, tmp_path / "a")
    assert fault.left == 0
    assert contents(tmp_path / "a") == contents(v2)


# --- killed between parts -----------------------------------------------------------------------------------------

_PUSH = f"""
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from shares import bring
from ecgstore.sharing import bucket
from ecgstore.sharing.address import parse_address
from ecgstore.sharing.opening import open_writable
bucket.ONE_PIECE_BYTES = bucket.PART_BYTES = {PART}
print("ready", flush=True)
sys.stdin.readline()
bring(Path(sys.argv[1]), open_writable(parse_address(sys.argv[2])))
"""


def killed_at(n: int, between: Between, store: Path, url: str, *, passed_on: bool) -> list[str]:
    """Kill a push with -9 when the server gets its n-th write; what it had written, or all where it came to its end."""
    count, written = itertools.count(1), list[str]()
    words = [sys.executable, "-c", _PUSH, str(store), url, str(ROOT / "tests")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:

        def fault(method: str, path: str, headers: Mapping[str, str]) -> int | str | None:
            if method not in ("PUT", "POST"):
                return None
            number = next(count)
            if number < n:
                written.append(f"{method} {path}")
                return None
            process.send_signal(signal.SIGKILL)
            return "lost" if passed_on and number == n else 500

        between.fault = fault
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        process.stdin.write(b"go\n")
        process.stdin.flush()
        process.wait(120)
    between.fault = lambda *_: None
    return written


def check_killed(n: int, at_s3: S3, between: Between, v1: Path, v2: Path, folder: Path) -> list[str]:
    url = f"{at_s3.bucket()}/share"
    bring(v1, target_of(url))
    written = killed_at(n, between, v2, url, passed_on=n % 2 == 1)
    there = target_of(url)
    meant = tags.resolve(there, "main")
    pull(url, folder / f"{n}-meant")
    assert contents(folder / f"{n}-meant") == contents(v1 if meant == fingerprint(v1) else v2)
    if not versions.is_sealed(there, fingerprint(v2)):
        assert meant == fingerprint(v1)
    bring(v2, there)
    pull(url, folder / f"{n}-after")
    for name, stated in manifest.load(v2).objects.items():
        assert manifest.hash_object(folder / f"{n}-after" / name) == stated
    pull(f"{url}@{fingerprint(v1)}", folder / f"{n}-before")
    assert contents(folder / f"{n}-before") == contents(v1)
    return written


@pytest.mark.parametrize("n", quickly([5, 10], 10))
def test_a_push_that_is_killed_leaves_no_part_as_a_whole(
    n: int, at_s3: S3, between: Between, v1: Path, v2: Path, tmp_path: Path
) -> None:
    check_killed(n, at_s3, between, v1, v2, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_push_that_is_killed_at_any_write(at_s3: S3, between: Between, v1: Path, v2: Path, tmp_path: Path) -> None:
    for n in itertools.count(1):
        written = check_killed(n, at_s3, between, v1, v2, tmp_path / str(n))
        if len(written) < n - 1:
            break  # it came to its end
    assert n > 12
    assert sum("partNumber=" in one for one in written) == 3
    assert sum(one.startswith("POST") for one in written) == 2


# --- as large as they are -----------------------------------------------------------------------------------------

_MEASURED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from shares import bring
from ecgstore.sharing import pull
from ecgstore.sharing.address import parse_address
from ecgstore.sharing.opening import open_writable
def peak():  # not what getrusage says: that has the peak of the process which made this one
    said = Path("/proc/self/status").read_text()
    return int(said.partition("VmHWM:")[2].split()[0]) * 1024
before = peak()
if sys.argv[4] == "push":
    bring(Path(sys.argv[1]), open_writable(parse_address(sys.argv[2])))
else:
    pull(sys.argv[2], sys.argv[1])
print(peak() - before)
"""


def peak_bytes(verb: str, store: Path, url: str) -> int:
    """How much more memory a process takes for it."""
    words = [sys.executable, "-c", _MEASURED, str(store), url, str(ROOT / "tests"), verb]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return int(subprocess.run(words, check=True, capture_output=True, env=environment).stdout)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process's memory stands in /proc")
def test_memory_is_bounded_however_large_the_objects(at_s3: S3, tmp_path: Path) -> None:
    """A gigabyte, most of it in objects above 64 MiB: pushed and pulled in less than half of that."""
    shards = [os.urandom(150 * MIB) for _ in range(3)] + [os.urandom(64 * MIB) for _ in range(8)]
    store, url = sealed(tmp_path / "v.ecg", shards), f"{at_s3.bucket()}/share"
    del shards
    assert peak_bytes("push", store, url) < bucket.MOST_HELD_BYTES + 200 * MIB
    assert n_unfinished(at_s3, url) == 0
    assert peak_bytes("pull", tmp_path / "a", url) < 200 * MIB
    for name, stated in manifest.load(store).objects.items():
        assert manifest.hash_object(tmp_path / "a" / name) == stated
