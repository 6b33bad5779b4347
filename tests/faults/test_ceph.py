"""Shares on Ceph's S3 gateway, where its programs are there: see tests/ceph.py."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import ceph
import pytest
from racing import pushers, race
from shares import bring, contents, fingerprint, lead_to, sealed

from ecgstore import StoreError, StoreNotFound
from ecgstore.sharing import bucket, notes, pull, tags, target, withdraw
from ecgstore.sharing.address import parse_address
from ecgstore.sharing.opening import open_writable

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(ceph.missing()), reason=f"not there: {', '.join(ceph.missing())}; see tests/ceph.py"),
]
MIB = 1 << 20


@pytest.fixture(scope="module")
def gateway() -> Iterator[ceph.Gateway]:
    folder = Path(tempfile.mkdtemp(prefix="ceph", dir="/tmp"))  # a socket's path is short
    try:
        with ceph.gateway(folder) as found:
            yield found
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def url(gateway: ceph.Gateway, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A share in a new bucket, and the environment of somebody who may write there."""
    import boto3

    lead_to(gateway.address, monkeypatch)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", gateway.key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", gateway.secret)
    name = "".join(one for one in request.node.name.lower() if one.isalnum())[-40:]
    boto3.client("s3").create_bucket(Bucket=name)
    return f"s3://{name}/share"


def test_versions_tags_and_withdrawals(url: str, tmp_path: Path) -> None:
    v1 = sealed(tmp_path / "v1.ecg")
    v2 = sealed(tmp_path / "v2.ecg", (b"one", b"two", b"three", b"four"), "of v2")
    there = open_writable(parse_address(url))
    assert bring(v1, there).sent == 8
    assert bring(v1, there).kept == 8
    second = bring(v2, there)
    assert (second.sent, second.copied) == (6, 3)
    pull(url, tmp_path / "a")
    pull(f"{url}@{fingerprint(v1)}", tmp_path / "b")
    assert contents(tmp_path / "a") == contents(v2)
    assert contents(tmp_path / "b") == contents(v1)
    assert [one.number for one in tags.history(there, "main")] == [1, 0]
    assert withdraw(there, [fingerprint(v1)], fingerprint(v2)).objects_removed == 8
    assert there.listed(notes.version_folder(fingerprint(v1))) == {}


@pytest.mark.parametrize("n", [2, 8])
def test_of_several_that_push_for_fifty_rounds_nothing_is_lost(n: int, url: str, tmp_path: Path) -> None:
    with pushers(n) as racing:
        race(racing, url, tmp_path / "stores", 50)


def test_large_objects_come_back_and_are_known_again(url: str, tmp_path: Path) -> None:
    store = sealed(tmp_path / "v.ecg", (os.urandom(150 * MIB), os.urandom(64 * MIB), b"small"))
    there = open_writable(parse_address(url))
    bring(store, there)
    assert bring(store, there).kept == 8
    assert bucket.ONE_PIECE_BYTES == 64 * MIB
    pull(url, tmp_path / "a")
    assert contents(tmp_path / "a") == contents(store)


def test_it_creates_objects_once(url: str) -> None:
    target.prove(open_writable(parse_address(url)))


def test_what_is_refused_is_one_line(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreNotFound, match="no such bucket"):
        bring(sealed(tmp_path / "v.ecg"), open_writable(parse_address("s3://not-there/share")))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreError, match="the server refuses us") as caught:
        bring(tmp_path / "v.ecg", open_writable(parse_address(url)))
    assert "\n" not in str(caught.value)
