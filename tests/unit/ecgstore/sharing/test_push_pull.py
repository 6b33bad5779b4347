"""Push and pull: what is sent and fetched, what is refused, and that nothing of the older store is ever written."""

from __future__ import annotations

import collections
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from quickly import quickly
from shares import S3, Between, Times, bring, contents, fingerprint, sealed

from ecgstore import (
    ConfigError,
    IntegrityError,
    StoreError,
    StoreExists,
    StoreFormatError,
    StoreIncomplete,
    StoreNotFound,
    StoreUnreachable,
)
from ecgstore.errors import StoreWithdrawn, TagMoved
from ecgstore.sharing import delivery, notes, pull, pulling, push, tags, versions, withdraw
from ecgstore.sharing.address import parse_address
from ecgstore.sharing.folder import FolderTarget
from ecgstore.sharing.opening import open_writable
from ecgstore.storage import layout, manifest


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    return sealed(tmp_path / "v1.ecg")


@pytest.fixture
def v2(tmp_path: Path) -> Path:
    """One shard more, and other tables."""
    return sealed(tmp_path / "v2.ecg", (b"one", b"two", b"three", b"four"), "of v2")


@pytest.fixture(params=["folder", "bucket"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "share")
    return f"{request.getfixturevalue('at_s3').bucket()}/share"


def target_of(url: str) -> Any:
    return open_writable(parse_address(url))


def test_a_store_comes_back_as_it_was(url: str, v1: Path, v2: Path, tmp_path: Path) -> None:
    there = target_of(url)
    first = bring(v1, there, "main")
    assert (first.sent, first.copied, first.kept, first.tag_moved, first.previous) == (8, 0, 0, True, None)
    second = bring(v2, there, "main")
    assert (second.sent, second.copied, second.kept) == (6, 3, 0)
    assert second.bytes_sent == sum(
        one.size for name, one in manifest.load(v2).objects.items() if "/c/" not in name or name.endswith("/3")
    )
    assert second.previous == fingerprint(v1)
    again = bring(v2, there, "main")
    assert (again.sent, again.copied, again.kept, again.tag_moved) == (0, 0, 9, False)
    whole = pull(url, tmp_path / "a")
    assert (whole.fetched, whole.tag, whole.fingerprint) == (9, "main", fingerprint(v2))
    assert contents(tmp_path / "a") == contents(v2)
    pull(f"{url}@{fingerprint(v1)}", tmp_path / "b")
    assert contents(tmp_path / "b") == contents(v1)
    linked = pull(f"{url}@main", tmp_path / "c", base=tmp_path / "b", expect=fingerprint(v2)[:32])
    assert (linked.linked, linked.fetched) == (3, 6)
    assert contents(tmp_path / "c") == contents(v2)
    assert (tmp_path / "c" / "signal/c/0/0").samefile(tmp_path / "b" / "signal/c/0/0")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "share") == [
        "a",
        "b",
        "c",
        "v1.ecg",
        "v2.ecg",
    ]


def test_another_tag_takes_what_is_there_too(url: str, v1: Path, v2: Path) -> None:
    bring(v1, target_of(url), "v1")
    assert bring(v2, target_of(url), "v2").copied == 3


def test_on_a_folder_versions_share_their_files(v1: Path, v2: Path, tmp_path: Path) -> None:
    for store in (v1, v2):
        bring(store, tmp_path / "share")
    folders = [tmp_path / "share/versions" / fingerprint(store) for store in (v1, v2)]
    assert (folders[0] / "signal/c/0/1").samefile(folders[1] / "signal/c/0/1")
    assert not (v2 / "signal/c/0/1").samefile(folders[1] / "signal/c/0/1")


def test_what_was_damaged_on_its_way_is_sent_again(url: str, v1: Path, tmp_path: Path) -> None:
    there = target_of(url)
    folder = notes.version_folder(fingerprint(v1))
    there.put(f"{folder}/signal/c/0/0", b"eno")  # as long, and other
    there.put(f"{folder}/signal/c/0/1", b"t")
    there.put(f"{folder}/signal/c/0/2", b"three")
    done = bring(v1, there)
    assert (done.sent, done.kept) == (7, 1)
    pull(url, tmp_path / "a")
    assert contents(tmp_path / "a") == contents(v1)


def test_a_damaged_object_in_the_share_is_not_taken_and_a_push_mends_it(url: str, v1: Path, tmp_path: Path) -> None:
    there = target_of(url)
    bring(v1, there)
    there.put(versions.object_name(fingerprint(v1), "signal/c/0/0"), b"eno")
    with pytest.raises(IntegrityError, match="not the one that was sealed"):
        pull(url, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    assert bring(v1, there).sent == 1
    pull(url, tmp_path / "a")
    assert contents(tmp_path / "a") == contents(v1)


@pytest.mark.parametrize("content", [b"", b"on", b"one more", b"0" * (9 << 20)])
def test_an_object_of_another_size_is_refused(url: str, v1: Path, tmp_path: Path, content: bytes) -> None:
    there = target_of(url)
    bring(v1, there)
    there.put(versions.object_name(fingerprint(v1), "signal/c/0/0"), content)
    with pytest.raises(IntegrityError, match="size that was sealed"):
        pull(url, tmp_path / "a")
    assert sum(path.stat().st_size for path in tmp_path.glob("a.partial/**/*") if path.is_file()) < 1000


def test_a_missing_object_is_damage(url: str, v1: Path, tmp_path: Path) -> None:
    there = target_of(url)
    bring(v1, there)
    there.delete([versions.object_name(fingerprint(v1), "signal/c/0/0")])
    with pytest.raises(IntegrityError, match="missing"):
        pull(url, tmp_path / "a")


def test_a_store_that_is_damaged_here_is_not_pushed(url: str, v1: Path) -> None:
    for damage in (lambda path: path.write_bytes(b"eno"), lambda path: path.write_bytes(b"longer"), Path.unlink):
        damage(v1 / "signal/c/0/0")
        with pytest.raises(IntegrityError):
            bring(v1, target_of(url))
        assert tags.current(target_of(url), "main") is None
        assert not versions.is_sealed(target_of(url), fingerprint(v1))


def test_copies_whose_source_is_gone_are_sent(url: str, v1: Path, v2: Path, tmp_path: Path) -> None:
    there = target_of(url)
    bring(v1, there)
    there.delete([versions.object_name(fingerprint(v1), f"signal/c/0/{i}") for i in range(3)])
    done = bring(v2, there)
    assert (done.sent, done.copied) == (9, 0)
    pull(url, tmp_path / "a")
    assert contents(tmp_path / "a") == contents(v2)


def test_a_tag_that_was_moved_meanwhile_is_left_alone(
    url: str, v1: Path, v2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = target_of(url)
    bring(v1, there)
    v3 = sealed(tmp_path / "v3.ecg", note="of v3")
    real = delivery._bring_objects

    def bring_and_let_another_push(*args: Any) -> None:
        real(*args)
        monkeypatch.setattr(delivery, "_bring_objects", real)
        bring(v3, target_of(url))

    monkeypatch.setattr(delivery, "_bring_objects", bring_and_let_another_push)
    with pytest.raises(TagMoved, match=fingerprint(v2)):
        bring(v2, there)
    assert tags.resolve(there, "main") == fingerprint(v3)
    pull(f"{url}@{fingerprint(v2)}", tmp_path / "a")  # the version is there all the same
    assert contents(tmp_path / "a") == contents(v2)


def test_a_pull_says_that_the_tag_was_moved_meanwhile(
    v1: Path, v2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring(v1, tmp_path / "share")
    real = versions.read_manifest

    def read(*args: Any) -> Any:
        monkeypatch.setattr(versions, "read_manifest", real)
        bring(v2, tmp_path / "share")
        return real(*args)

    monkeypatch.setattr(versions, "read_manifest", read)
    done = pull(str(tmp_path / "share"), tmp_path / "a")
    assert (done.fingerprint, done.tag_means_now) == (fingerprint(v1), fingerprint(v2))


def test_a_rolled_back_tag_is_found_out(v1: Path, v2: Path, tmp_path: Path) -> None:
    there = FolderTarget(tmp_path / "share")
    bring(v1, there)
    bring(v2, there)
    there.delete([notes.entry_name("main", 1)])
    with pytest.raises(IntegrityError, match="not the version that you expect"):
        pull(str(tmp_path / "share"), tmp_path / "a", expect=fingerprint(v2))
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "a.partial").exists()


def test_a_version_under_a_wrong_name_is_refused(url: str, v1: Path, v2: Path, tmp_path: Path) -> None:
    there = target_of(url)
    bring(v1, there)
    bring(v2, there)
    name = versions.object_name(fingerprint(v1), layout.MANIFEST)
    there.put(name, (v2 / layout.MANIFEST).read_bytes())
    with pytest.raises(IntegrityError, match="another store stands"):
        pull(f"{url}@{fingerprint(v1)}", tmp_path / "a")


@pytest.mark.parametrize("name", ["../../evil", "/etc/evil", "signal/c/0/a", "a//b", "./a", "a/", "signal\\c", "x.new"])
def test_hostile_names_are_refused(v1: Path, tmp_path: Path, name: str) -> None:
    bring(v1, tmp_path / "share")
    said = json.loads((v1 / layout.MANIFEST).read_text())
    said["objects"][name] = [3, "a" * 64]
    objects = {its: manifest.ObjectHash(*pair) for its, pair in said["objects"].items()}
    said["fingerprint"] = manifest.fingerprint(objects)
    folder = tmp_path / "share/versions" / said["fingerprint"]
    folder.mkdir()
    (folder / layout.MANIFEST).write_text(json.dumps(said))
    before = set(tmp_path.rglob("*"))
    with pytest.raises(StoreFormatError, match="names what no store holds"):
        pull(f"{tmp_path}/share@{said['fingerprint']}", tmp_path / "a")
    assert set(tmp_path.rglob("*")) == before


def test_a_version_that_claims_more_than_the_disk_has_is_refused_at_once(v1: Path, tmp_path: Path) -> None:
    bring(v1, tmp_path / "share")
    said = json.loads((v1 / layout.MANIFEST).read_text())
    said["objects"]["signal/c/0/0"][0] = 2**49
    objects = {its: manifest.ObjectHash(*pair) for its, pair in said["objects"].items()}
    said["fingerprint"] = manifest.fingerprint(objects)
    shutil.copytree(tmp_path / "share/versions" / fingerprint(v1), tmp_path / "share/versions" / said["fingerprint"])
    (tmp_path / "share/versions" / said["fingerprint"] / layout.MANIFEST).write_text(json.dumps(said))
    with pytest.raises(StoreError, match="too little space"):
        pull(f"{tmp_path}/share@{said['fingerprint']}", tmp_path / "a")


def test_a_manifest_without_end_is_refused(v1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ecgstore.storage.limits import Limits

    bring(v1, tmp_path / "share")
    monkeypatch.setattr(versions, "limits", lambda: Limits(manifest_bytes=200))
    with pytest.raises(StoreFormatError, match="too large"):
        pull(str(tmp_path / "share"), tmp_path / "a")


def test_what_stands_in_the_partial_folder_is_not_believed(v1: Path, tmp_path: Path) -> None:
    bring(v1, tmp_path / "share")
    mine = tmp_path / "mine"
    (mine / "inner").mkdir(parents=True)
    (mine / "file").write_bytes(b"mine")
    partial = tmp_path / "a.partial"
    (partial / "signal/c").mkdir(parents=True)
    (partial / "signal/c/0").symlink_to(mine)  # a folder
    (partial / "zarr.json").symlink_to(mine / "file")
    (partial / "stranger").write_bytes(b"x")
    (partial / "odd/deep").mkdir(parents=True)
    (partial / "records.parquet").mkdir()
    os.mkfifo(partial / "rejected.parquet")
    (partial / "manifest.json").write_bytes(b"{}")
    (partial / "statements.parquet").write_bytes((v1 / "statements.parquet").read_bytes())
    done = pull(str(tmp_path / "share"), tmp_path / "a")
    assert (done.kept, done.fetched) == (1, 7)
    assert contents(tmp_path / "a") == contents(v1)
    assert not any(path.is_symlink() for path in (tmp_path / "a").rglob("*"))
    assert contents(mine) == {"file": b"mine"}


def test_a_partial_folder_that_is_a_link_is_refused(v1: Path, tmp_path: Path) -> None:
    bring(v1, tmp_path / "share")
    (tmp_path / "mine").mkdir()
    (tmp_path / "a.partial").symlink_to(tmp_path / "mine")
    with pytest.raises(StoreFormatError):
        pull(str(tmp_path / "share"), tmp_path / "a")
    assert contents(tmp_path / "mine") == {}


def test_links_left_in_the_partial_folder_do_not_lead_into_the_older_store(v1: Path, v2: Path, tmp_path: Path) -> None:
    """What a killed pull leaves: hard links to the base, of which the share has another version now."""
    bring(v2, tmp_path / "share")
    (tmp_path / "a.partial/signal/c/0").mkdir(parents=True)
    before = contents(v1)
    for name in before:
        if name != layout.MANIFEST:
            (tmp_path / "a.partial" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "a.partial" / name).hardlink_to(v1 / name)
    done = pull(str(tmp_path / "share"), tmp_path / "a")
    assert (done.kept, done.fetched) == (3, 6)
    assert contents(v1) == before
    assert contents(tmp_path / "a") == contents(v2)


def test_a_damaged_base_is_not_taken(v1: Path, v2: Path, tmp_path: Path) -> None:
    bring(v2, tmp_path / "share")
    (v1 / "signal/c/0/0").write_bytes(b"eno")
    (v1 / "signal/c/0/1").unlink()
    done = pull(str(tmp_path / "share"), tmp_path / "a", base=v1)
    assert (done.linked, done.fetched) == (1, 8)
    assert contents(tmp_path / "a") == contents(v2)
    with pytest.raises(StoreNotFound):
        pull(str(tmp_path / "share"), tmp_path / "b", base=tmp_path / "nothing")


def test_where_no_links_can_be_made_the_base_is_copied(
    v1: Path, v2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring(v2, tmp_path / "share")
    monkeypatch.setattr(pulling, "link", lambda *_: False)
    done = pull(str(tmp_path / "share"), tmp_path / "a", base=v1)
    assert (done.linked, done.fetched) == (3, 6)
    assert contents(tmp_path / "a") == contents(v2)
    assert not (tmp_path / "a/signal/c/0/0").samefile(v1 / "signal/c/0/0")


def test_a_destination_that_is_there_is_left_alone(v1: Path, v2: Path, tmp_path: Path) -> None:
    bring(v1, tmp_path / "share")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for dest in (tmp_path / "empty", tmp_path / "file", tmp_path / "dangling", v2):
        before = contents(v2)
        with pytest.raises(StoreExists):
            pull(str(tmp_path / "share"), dest)
        assert contents(v2) == before
    assert pull(str(tmp_path / "share"), v1).already_there


def test_two_pulls_into_one_folder_do_not_meet(v1: Path, tmp_path: Path) -> None:
    bring(v1, tmp_path / "share")
    with pulling._claimed(tmp_path / "a"), pytest.raises(StoreExists, match="another pull"):
        pull(str(tmp_path / "share"), tmp_path / "a")


def test_a_full_disk_loses_nothing(v1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    bring(v1, tmp_path / "share")
    real, n = os.fsync, []

    def full(descriptor: int) -> None:
        n.append(1)
        if len(n) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="disk is full"):
            pull(str(tmp_path / "share"), tmp_path / "a")
    assert not (tmp_path / "a").exists()
    assert pull(str(tmp_path / "share"), tmp_path / "a").kept >= 1
    assert contents(tmp_path / "a") == contents(v1)


def test_withdrawn_versions_are_neither_pushed_nor_pulled(url: str, v1: Path, v2: Path, tmp_path: Path) -> None:
    there = target_of(url)
    bring(v1, there, "v1")
    bring(v2, there)
    done = withdraw(there, [fingerprint(v1)], fingerprint(v2))
    assert (done.tags, done.objects_removed) == (("v1",), 8)
    assert there.listed(notes.version_folder(fingerprint(v1))) == {}
    assert tags.resolve(there, "v1") == fingerprint(v2)
    with pytest.raises(StoreWithdrawn, match=f"@{fingerprint(v2)}") as caught:
        bring(v1, there)
    assert caught.value.successor == fingerprint(v2)
    with pytest.raises(StoreWithdrawn):
        pull(f"{url}@{fingerprint(v1)}", tmp_path / "a")
    assert not (tmp_path / "a.partial").exists()
    pull(f"{url}@v1", tmp_path / "a")
    assert contents(tmp_path / "a") == contents(v2)
    assert withdraw(there, [fingerprint(v1)], fingerprint(v2)).objects_removed == 0  # once more does no harm


def test_without_a_successor_the_tag_says_that_it_was_withdrawn(url: str, v1: Path, tmp_path: Path) -> None:
    there = target_of(url)
    bring(v1, there)
    withdraw(there, [fingerprint(v1)])
    with pytest.raises(StoreWithdrawn, match="none in its place"):
        pull(url, tmp_path / "a")


def test_a_successor_has_to_be_there(v1: Path, tmp_path: Path) -> None:
    there = FolderTarget(tmp_path / "share")
    bring(v1, there)
    with pytest.raises(StoreNotFound):
        withdraw(there, [fingerprint(v1)], "a" * 64)
    with pytest.raises(ConfigError):
        withdraw(there, [fingerprint(v1)], fingerprint(v1))
    assert versions.is_sealed(there, fingerprint(v1))


def test_a_version_that_is_withdrawn_while_it_is_pushed_does_not_come_back(
    url: str, v1: Path, v2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = target_of(url)
    bring(v2, there)
    real = there.put

    def put(name: str, content: bytes) -> None:
        if name.endswith(layout.MANIFEST):  # between the last look and the seal
            withdraw(target_of(url), [fingerprint(v1)], fingerprint(v2))
        real(name, content)

    monkeypatch.setattr(there, "put", put)
    with pytest.raises(StoreWithdrawn):
        bring(v1, there)
    assert not versions.is_sealed(there, fingerprint(v1))
    assert tags.resolve(there, "main") == fingerprint(v2)


def test_a_version_that_is_withdrawn_while_it_is_pulled_is_not_delivered(
    v1: Path, v2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = FolderTarget(tmp_path / "share")
    bring(v1, there)
    real = pulling.fetch_object

    def fetch(*args: Any) -> None:
        monkeypatch.setattr(pulling, "fetch_object", real)
        withdraw(FolderTarget(tmp_path / "share"), [fingerprint(v1)])
        real(*args)

    monkeypatch.setattr(pulling, "fetch_object", fetch)
    with pytest.raises(StoreWithdrawn):
        pull(str(tmp_path / "share"), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_part_of_a_version_is_none(v1: Path, v2: Path, tmp_path: Path) -> None:
    bring(v1, tmp_path / "share")
    part = tmp_path / "share/versions" / fingerprint(v2)
    shutil.copytree(v2, part)
    (part / layout.MANIFEST).unlink()
    with pytest.raises(StoreNotFound, match="only a part"):
        pull(f"{tmp_path}/share@{fingerprint(v2)}", tmp_path / "a")


# --- through one that lies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "kind"),
    quickly(
        [
            (layout.MANIFEST, "lost"),
            (layout.MANIFEST, 409),
            ("signal/c/0/1", "lost"),
            ("signal/c/0/1", 503),
            ("tags/main/00000000", "lost"),
            ("tags/main/00000000", 409),
            (notes.MARKER, "lost"),
            (notes.MARKER, 500),
        ],
        (layout.MANIFEST, "lost"),
        ("signal/c/0/1", 503),
        ("tags/main/00000000", 409),
    ),
)
def test_a_push_gets_through_answers_that_fail(
    at_s3: S3, between: Between, v1: Path, tmp_path: Path, part: str, kind: str | int
) -> None:
    url = f"{at_s3.bucket()}/share"
    between.fault = fault = Times(kind, "PUT", part)
    bring(v1, target_of(url))
    assert fault.left == 0
    pull(url, tmp_path / "a")
    assert contents(tmp_path / "a") == contents(v1)
    assert len(list(tags.history(target_of(url), "main"))) == 1


@pytest.mark.parametrize(
    ("part", "kind"),
    quickly(
        [(layout.MANIFEST, "lost"), ("signal/c/0/1", 500), ("tags/main/00000000", "lost"), ("tags/main/00000000", 500)],
        ("tags/main/00000000", "lost"),
        ("signal/c/0/1", 500),
    ),
)
def test_a_push_that_fails_for_long_leaves_the_tag_and_is_finished_later(
    at_s3: S3, between: Between, v1: Path, v2: Path, tmp_path: Path, part: str, kind: str | int
) -> None:
    url = f"{at_s3.bucket()}/share"
    bring(v1, target_of(url))
    between.fault = Times(kind, "PUT", part.replace("00000000", "00000001"), 1000)
    if kind == "lost" and part.startswith("tags"):  # what was written is found
        assert bring(v2, target_of(url)).tag_moved
    else:
        with pytest.raises(StoreUnreachable):
            bring(v2, target_of(url))
        assert tags.resolve(target_of(url), "main") == fingerprint(v1)
    between.fault = lambda *_: None
    bring(v2, target_of(url))
    pull(url, tmp_path / "a")
    assert contents(tmp_path / "a") == contents(v2)


@pytest.mark.parametrize(
    ("part", "kind"), [(layout.MANIFEST, "cut"), ("signal/c/0/1", "cut"), ("signal/c/0/1", 500), ("tags/main", "lost")]
)
def test_a_pull_gets_through_answers_that_fail(
    at_s3: S3, between: Between, v1: Path, tmp_path: Path, part: str, kind: str | int
) -> None:
    url = f"{at_s3.bucket()}/share"
    bring(v1, target_of(url))
    between.fault = fault = Times(kind, "GET", part)
    pull(url, tmp_path / "a")
    assert fault.left == 0
    assert contents(tmp_path / "a") == contents(v1)


def test_answers_that_lie_about_their_length_are_refused(at_s3: S3, between: Between, v1: Path, tmp_path: Path) -> None:
    url = f"{at_s3.bucket()}/share"
    bring(v1, target_of(url))
    between.fault = Times("short", "GET", "signal/c/0/1", 1000)
    with pytest.raises((IntegrityError, StoreUnreachable)):
        pull(url, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    between.fault = lambda *_: None
    pull(url, tmp_path / "a")
    assert contents(tmp_path / "a") == contents(v1)


def test_objects_are_read_without_asking_twice(at_s3: S3, between: Between, v1: Path, tmp_path: Path) -> None:
    url = f"{at_s3.bucket()}/share"
    bring(v1, target_of(url))
    between.asked.clear()
    pull(f"{url}@{fingerprint(v1)}", tmp_path / "a")
    asked = collections.Counter(method for method, _ in between.asked)
    assert asked == {
        "GET": 8 + 1 + 2 + 1
    }  # objects, manifest, the tombstone before and after, the list of cards; no HEAD


# --- what push looks at -------------------------------------------------------------------------------------------


def test_only_sealed_stores_are_pushed(tmp_path: Path, mini_store: Path) -> None:
    with pytest.raises(StoreNotFound):
        push(tmp_path / "nothing", str(tmp_path / "share"))
    copy = shutil.copytree(mini_store, tmp_path / "copy")
    (copy / layout.MANIFEST).unlink()
    with pytest.raises(StoreIncomplete):
        push(copy, str(tmp_path / "share"))
    with pytest.raises(ConfigError, match="under a tag"):
        push(mini_store, f"{tmp_path}/share@{'a' * 64}")
    assert not (tmp_path / "share").exists()


def test_progress_counts_every_byte_once(mini_store: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    url = str(tmp_path / "share")
    total = sum(one.size for one in manifest.load(mini_store).objects.values())
    push(mini_store, url, progress=lambda done, of: seen.append((done, of)))
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    seen.clear()
    pull(url, tmp_path / "a", progress=lambda done, of: seen.append((done, of)))
    assert seen[-1] == (total, total)
