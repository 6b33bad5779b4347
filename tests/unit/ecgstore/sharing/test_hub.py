"""Shares on the Hugging Face hub, through huggingface_hub, against a server that imitates what is asked of the hub."""

from __future__ import annotations

import gc
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import REPO, Hub
from quickly import quickly
from shares import bring, contents, fingerprint, sealed

from ecgstore import IntegrityError, StoreError, StoreNotFound, StoreUnreachable
from ecgstore.errors import StoreWithdrawn, TagMoved
from ecgstore.sharing import hub as sharing_hub
from ecgstore.sharing import log, notes, pull, remote, tags, target, versions, withdraw
from ecgstore.sharing.address import parse_address
from ecgstore.sharing.opening import open_writable
from ecgstore.storage import layout

constants = pytest.importorskip("huggingface_hub.constants")
#: Of huggingface_hub itself, where it uploads.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
URL = f"hf://datasets/{REPO}/share"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(target, "WAITS_S", (0.01, 0.01))
    monkeypatch.setattr(sharing_hub, "WAIT_S", 0.01)
    with Hub() as server:
        # What HF_ENDPOINT does, which is read when the package is imported.
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{server.address}{template}")
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # large objects go by LFS
        monkeypatch.setenv("HF_TOKEN", server.token)
        yield server
        server.shutdown()


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    return sealed(tmp_path / "v1.ecg")


@pytest.fixture
def v2(tmp_path: Path) -> Path:
    return sealed(tmp_path / "v2.ecg", (b"one", b"two", b"three", b"four"), "of v2")


def there() -> Any:
    return open_writable(parse_address(URL))


def test_a_store_comes_back_as_it_was(hub: Hub, v1: Path, v2: Path, tmp_path: Path) -> None:
    assert bring(v1, there(), "v1").sent == 8
    assert bring(v1, there(), "v1").kept == 8
    bring(v2, there(), "v2")
    pull(f"{URL}@v1", tmp_path / "a")
    pull(f"{URL}@v2", tmp_path / "b", base=tmp_path / "a")
    assert contents(tmp_path / "a") == contents(v1)
    assert contents(tmp_path / "b") == contents(v2)
    assert [one.fingerprint for one in log(f"{URL}@v2")] == [fingerprint(v2)]
    assert sorted(tag for one in remote(URL).versions for tag in one.tags) == ["v1", "v2"]


def test_what_the_hub_has_is_not_uploaded_again(hub: Hub, v1: Path, v2: Path) -> None:
    bring(v1, there())
    before = len(hub.uploaded)
    bring(v2, there())
    assert len(hub.uploaded) == before + 5  # one shard, its array, three tables


def test_the_manifest_is_committed_after_all_else_and_the_tag_after_it(hub: Hub, v1: Path) -> None:
    bring(v1, there())
    whole = f"share/versions/{fingerprint(v1)}"
    for files in hub.states:
        names = {name for name in files if name.startswith(whole)}
        if f"{whole}/{layout.MANIFEST}" in names:
            assert len(names) == 9
        if "share/tags/main/00000000.json" in files:
            assert f"{whole}/{layout.MANIFEST}" in names
    assert len(hub.states) < 10  # objects go together


def test_an_object_is_created_once(hub: Hub) -> None:
    place = there()
    assert place.try_create("tags/t/0", b"first")
    assert not place.try_create("tags/t/0", b"second")
    assert place.read_part("tags/t/0", 0, 99) == b"first"
    assert place.read_part("tags/t/0", 1, 3) == b"ir"
    assert place.read_part("tags/t/0", 50, 60) == b""


def test_of_several_that_create_one_wins(hub: Hub) -> None:
    barrier, won = threading.Barrier(4), []

    def run() -> None:
        place = there()
        barrier.wait()
        won.append(target.create(place, "tags/t/0", notes.marker()))

    threads = [threading.Thread(target=run) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert sorted(won) == [False, False, False, True]


def test_who_moves_a_tag_meanwhile_wins(hub: Hub, v1: Path, v2: Path, tmp_path: Path) -> None:
    bring(v1, there())
    with pytest.raises(TagMoved):
        tags.move(there(), "main", "a" * 64, "b" * 64)
    assert tags.resolve(there(), "main") == fingerprint(v1)


@pytest.mark.parametrize(
    ("method", "part"),
    quickly(
        [("POST", "/commit/"), ("POST", "/preupload/"), ("POST", "objects/batch"), ("PUT", "/upload/")],
        ("POST", "/commit/"),
    ),
)
def test_a_push_that_fails_leaves_the_tag_and_is_finished_later(
    hub: Hub, v1: Path, v2: Path, tmp_path: Path, method: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    bring(v1, there())
    hub.faults = [[method, part, 400, 1000]]
    with pytest.raises(StoreUnreachable) as caught:
        bring(v2, there())
    assert "\n" not in str(caught.value)
    hub.faults = []
    assert tags.resolve(there(), "main") == fingerprint(v1)
    assert not versions.is_sealed(there(), fingerprint(v2))
    bring(v2, there())
    pull(URL, tmp_path / "a")
    assert contents(tmp_path / "a") == contents(v2)
    del caught
    gc.collect()
    assert list((tmp_path / "temporary").iterdir()) == []  # nothing is left of what was to be uploaded


def test_a_damaged_object_is_refused_and_a_push_mends_it(hub: Hub, v1: Path, tmp_path: Path) -> None:
    bring(v1, there())
    there().put(versions.object_name(fingerprint(v1), "signal/c/0/0"), b"eno")
    with pytest.raises(IntegrityError, match="not the one that was sealed"):
        pull(URL, tmp_path / "a")
    assert bring(v1, there()).sent == 1
    pull(URL, tmp_path / "a")
    assert contents(tmp_path / "a") == contents(v1)


def test_a_version_is_withdrawn(hub: Hub, v1: Path, v2: Path, tmp_path: Path) -> None:
    bring(v1, there(), "v1")
    bring(v2, there())
    assert withdraw(there(), [fingerprint(v1)], fingerprint(v2)).objects_removed == 8
    assert there().listed(notes.version_folder(fingerprint(v1))) == {}
    with pytest.raises(StoreWithdrawn):
        pull(f"{URL}@{fingerprint(v1)}", tmp_path / "a")
    assert tags.resolve(there(), "v1") == fingerprint(v2)


def test_what_is_refused_is_one_line(hub: Hub, v1: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreNotFound, match="no such dataset"):
        pull("hf://datasets/team/other", v1.parent / "a")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(StoreError, match="the hub refuses us"):
        bring(v1, there())
    for name in ("ENDPOINT", "HUGGINGFACE_CO_URL_TEMPLATE"):
        monkeypatch.setattr(constants, name, getattr(constants, name).replace(hub.address, "http://127.0.0.1:9"))
    with pytest.raises(StoreUnreachable):
        there().read_part(notes.MARKER, 0, 9)
