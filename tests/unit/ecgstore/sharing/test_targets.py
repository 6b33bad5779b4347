"""Places where shares stand: the same holds for a folder and for a bucket."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import obstore.exceptions
import pytest
from shares import S3, Between, Times

from ecgstore import StoreError, StoreFormatError, StoreNotFound, StoreUnreachable
from ecgstore.sharing import folder, notes, target
from ecgstore.sharing.address import parse_address
from ecgstore.sharing.bucket import BucketTarget
from ecgstore.sharing.folder import FolderTarget
from ecgstore.storage.manifest import ObjectHash


def bucket(address: str) -> BucketTarget:
    return BucketTarget(parse_address(address))


@pytest.fixture(params=["folder", "bucket", "root of a bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == "folder":
        return FolderTarget(tmp_path / "share")
    address = request.getfixturevalue("at_s3").bucket()
    return bucket(f"{address}/a/b" if request.param == "bucket" else address)


@pytest.mark.parametrize("machine", ["169.254.169.254/latest/api/token", "169.254.170.2/v2/credentials"])
def test_a_machine_without_keys_and_role_is_told_so(at_s3: S3, machine: str) -> None:
    # What obstore says where it asked the machine for its role; to ask here would take a minute on some machines.
    place, words = bucket(f"{at_s3.bucket()}/a"), f"Generic S3 error: Error performing PUT http://{machine} in 2ms"
    with (
        pytest.raises(StoreError, match="no credentials, and the machine has no role") as caught,
        place._plainly("tags"),
    ):
        raise obstore.exceptions.GenericError(words)
    assert "Generic" not in str(caught.value)


def hash_of(content: bytes) -> ObjectHash:
    return ObjectHash(len(content), hashlib.sha256(content).hexdigest())


def test_objects_are_written_read_listed_copied_and_removed(place: Any) -> None:
    with pytest.raises(FileNotFoundError):
        place.read_part("versions/x/a", 0, 1)
    assert place.listed("versions/x") == {}
    assert place.folders("versions") == []
    place.put("versions/x/a", b"0123456789")
    place.send("versions/x/signal/c/0/0", lambda: iter([b"ab", b"cd"]), 4)
    assert place.read_part("versions/x/a", 2, 5) == b"234"
    assert place.read_part("versions/x/a", 5, 500) == b"56789"
    assert place.read_part("versions/x/a", 50, 60) == b""
    assert b"".join(place.blocks("versions/x/signal/c/0/0", 4)) == b"abcd"
    sizes = {name: one.size for name, one in place.listed("versions/x").items()}
    assert sizes == {"versions/x/a": 10, "versions/x/signal/c/0/0": 4}
    assert place.folders("versions") == ["x"]
    assert place.copy("versions/x/a", "versions/y/a", hash_of(b"0123456789"))
    assert not place.copy("versions/x/nothing", "versions/y/b", hash_of(b""))
    place.flush("versions/y")
    assert place.read_part("versions/y/a", 0, 99) == b"0123456789"
    place.delete(["versions/x/a", "versions/x/signal/c/0/0", "versions/x/nothing"])
    assert place.listed("versions/x") == {}
    assert list(place.listed("versions")) == ["versions/y/a"]


def test_a_folder_is_cleared_of_what_a_killed_push_was_writing_too(tmp_path: Path) -> None:
    place = FolderTarget(tmp_path / "share")
    for name in ("versions/x/a", "versions/x/signal/c/0/0", "versions/y/a"):
        place.put(name, b"0")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_bytes(b"mine")
    (tmp_path / f"share/versions/x/signal/c/0/1.0123456789abcdef{folder.NEW}").write_bytes(b"of somebody")
    (tmp_path / "share/versions/x/link").symlink_to(tmp_path / "mine")
    assert place.clear("versions/x") == 2
    assert [path.name for path in (tmp_path / "share/versions").iterdir()] == ["y"]
    assert (tmp_path / "mine" / "file").read_bytes() == b"mine"
    assert place.clear("versions/nothing") == 0


def test_a_body_that_does_not_end_is_left_soon(place: Any) -> None:
    place.put("versions/x/a", b"0" * (9 << 20))
    assert 11 < sum(map(len, place.blocks("versions/x/a", 10))) <= 2 * target.BLOCK


def test_what_is_there_is_known_again(place: Any) -> None:
    place.put("versions/x/a", b"0123456789")
    (listed,) = place.listed("versions/x").values()
    assert place.holds("versions/x/a", listed, hash_of(b"0123456789"), lambda: iter([b"01234", b"56789"]))
    assert not place.holds("versions/x/a", listed, hash_of(b"0123456780"), lambda: iter([b"0123456780"]))


def test_what_ends_in_an_error_is_not_written(place: Any) -> None:
    def blocks() -> Iterator[bytes]:
        yield b"half"
        raise StoreError("the disk has a hole")

    place.put("versions/x/a", b"before")
    with pytest.raises(StoreError, match="hole"):
        place.send("versions/x/a", blocks, 8)
    assert place.read_part("versions/x/a", 0, 99) == b"before"
    assert list(place.listed("versions/x")) == ["versions/x/a"]


def test_an_object_is_created_once(place: Any) -> None:
    assert place.try_create("tags/t/0", b"first")
    assert not place.try_create("tags/t/0", b"second")
    assert place.read_part("tags/t/0", 0, 99) == b"first"


def race(place: Any, n: int) -> list[bool]:
    """So many create one object at the same moment; who won."""
    barrier, won = threading.Barrier(n), [False] * n

    def run(i: int) -> None:
        barrier.wait()
        won[i] = target.create(place, "tags/t/00000000.json", notes.marker())

    threads = [threading.Thread(target=run, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return won


@pytest.mark.parametrize("n", [2, 8])
def test_of_several_that_create_one_wins(n: int, tmp_path: Path) -> None:
    for i in range(5):
        assert sum(race(FolderTarget(tmp_path / str(i)), n)) == 1


def test_of_several_in_a_bucket_one_wins(at_s3: S3, between: Between) -> None:
    assert sum(race(bucket(at_s3.bucket()), 8)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 8])
def test_of_several_one_wins_fifty_times(n: int, tmp_path: Path, at_s3: S3, between: Between) -> None:
    for i in range(50):
        assert sum(race(FolderTarget(tmp_path / str(i)), n)) == 1
        assert sum(race(bucket(at_s3.bucket()), n)) == 1


def test_the_marker_proves_a_place(place: Any) -> None:
    target.prove(place)
    before = place.read_part(notes.MARKER, 0, 999)
    target.prove(place)
    assert place.read_part(notes.MARKER, 0, 999) == before
    target.refuse_no_share(place)


def test_a_server_that_ignores_conditions_is_refused(at_s3: S3, between: Between) -> None:
    between.fault = lambda *_: "strip"
    place = bucket(at_s3.bucket())
    for _ in range(2):  # the first time the marker is new, the second time it is there
        with pytest.raises(StoreError, match="writes over objects"):
            target.prove(place)


def test_a_create_whose_answer_was_lost_is_known_for_ours(at_s3: S3, between: Between) -> None:
    for n in range(1, 4):
        place, content = bucket(at_s3.bucket()), notes.marker()
        between.fault = Times("lost", "PUT", "tags/t/0", n)
        assert target.create(place, "tags/t/0", content)
        between.fault = Times("lost", "PUT", "tags/t/0", n)
        assert not target.create(place, "tags/t/0", notes.marker())
        assert place.read_part("tags/t/0", 0, 999) == content


@pytest.mark.parametrize("status", [409, 500, 503])
def test_a_refused_create_of_which_nothing_was_written_is_tried_again(at_s3: S3, between: Between, status: int) -> None:
    between.fault = Times(status, "PUT", "tags/t/0", 2)
    place, content = bucket(at_s3.bucket()), notes.marker()
    assert target.create(place, "tags/t/0", content)
    assert place.read_part("tags/t/0", 0, 999) == content


def test_a_create_that_never_succeeds_says_so(at_s3: S3, between: Between) -> None:
    between.fault = Times(409, "PUT", "tags/t/0", 99)
    with pytest.raises(StoreUnreachable, match="neither creates|answers no sense"):
        target.create(bucket(at_s3.bucket()), "tags/t/0", b"x")


@pytest.mark.parametrize("kind", [500, 503, "lost", "cut"])
def test_what_may_be_asked_twice_is_asked_again(at_s3: S3, between: Between, kind: int | str) -> None:
    place = bucket(f"{at_s3.bucket()}/p")
    place.put("versions/x/a", b"0123456789")
    between.fault = Times(kind, "GET", "versions/x/a", 2)
    assert place.read_part("versions/x/a", 0, 99) == b"0123456789"
    between.fault = Times(kind, "GET", "list-type", 1)
    assert list(place.listed("versions/x")) == ["versions/x/a"]
    between.fault = Times(kind, "PUT", "versions/x/b", 2)
    place.put("versions/x/b", b"other")
    assert place.read_part("versions/x/b", 0, 99) == b"other"


def test_a_server_that_stays_broken_is_said_to_be(at_s3: S3, between: Between) -> None:
    place = bucket(f"{at_s3.bucket()}/p")
    between.fault = lambda *_: 500
    with pytest.raises(StoreUnreachable) as caught:
        place.read_part("versions/x/a", 0, 99)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_refusal_says_what_to_do(at_s3: S3, between: Between) -> None:
    place = bucket(f"{at_s3.bucket()}/p")
    between.fault = lambda *_: 403
    for ask in (lambda: place.put("a", b""), lambda: place.listed("a"), lambda: place.try_create("a", b"")):
        with pytest.raises(StoreError, match="AWS_ACCESS_KEY_ID"):
            ask()


def test_a_bucket_that_is_not_there_is_said_so(at_s3: S3) -> None:
    place = bucket("s3://no-such-bucket/p")
    for ask in (
        lambda: place.read_part("a", 0, 1),
        lambda: place.listed("a"),
        lambda: place.folders("a"),
        lambda: place.put("a", b""),
        lambda: place.try_create("a", b""),
    ):
        with pytest.raises(StoreNotFound, match="no such bucket"):
            ask()


# --- folders ------------------------------------------------------------------------------------------------------


def test_where_links_are_refused_objects_are_created_once_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    place = FolderTarget(tmp_path)
    assert sum(race(place, 8)) == 1
    place.put("versions/x/a", b"0123")
    assert not place.copy("versions/x/a", "versions/y/a", hash_of(b"0123"))
    assert [path.name for path in tmp_path.rglob("*") if path.name.endswith(folder.NEW)] == []


def test_links_in_a_folder_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "a").write_bytes(b"mine")
    share = tmp_path / "share"
    (share / "versions").mkdir(parents=True)
    (share / "versions" / "x").symlink_to(tmp_path / "secret")
    (share / "tags").symlink_to(tmp_path / "secret")
    place = FolderTarget(share)
    with pytest.raises(StoreFormatError, match="no plain file"):
        place.read_part("versions/x/a", 0, 9)
    for name in ("versions/x/a", "tags/t/0"):
        with pytest.raises(StoreFormatError, match="cp -rL"):
            place.put(name, b"yours")
        with pytest.raises(StoreFormatError, match="cp -rL"):
            place.try_create(name, b"yours")
    assert place.folders("versions") == []
    assert place.listed("versions") == {}
    assert {path.name: path.read_bytes() for path in (tmp_path / "secret").iterdir()} == {"a": b"mine"}


def test_a_link_in_an_objects_place_is_replaced_and_not_followed(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_bytes(b"mine")
    place = FolderTarget(tmp_path / "share")
    place.put("versions/x/a", b"1")
    (tmp_path / "share" / "versions" / "x" / "a").unlink()
    (tmp_path / "share" / "versions" / "x" / "a").symlink_to(mine)
    place.put("versions/x/a", b"2")
    assert mine.read_bytes() == b"mine"
    assert place.read_part("versions/x/a", 0, 9) == b"2"


def test_a_damaged_object_is_not_linked(tmp_path: Path) -> None:
    place = FolderTarget(tmp_path)
    place.put("versions/x/a", b"0123456780")
    assert not place.copy("versions/x/a", "versions/y/a", hash_of(b"0123456789"))


def test_a_full_disk_and_a_folder_without_rights_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = FolderTarget(tmp_path / "share")
    place.put("versions/x/a", b"before")
    for number, said in ((errno.ENOSPC, "disk is full"), (errno.EACCES, "no right"), (errno.EIO, "can't be written")):

        def fail(_: int, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", fail)
            with pytest.raises(StoreError, match=said):
                place.put("versions/x/a", b"after")
    assert place.read_part("versions/x/a", 0, 99) == b"before"
    assert list(place.listed("versions/x")) == ["versions/x/a"]
