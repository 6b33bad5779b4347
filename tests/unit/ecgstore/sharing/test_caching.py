"""Stores by the address of a share: fetched once, opened without a network, never another version than was meant."""

from __future__ import annotations

import shutil
import threading

import pytest
from shares import bring, fingerprint

from ecgstore import (
    IngestSettings,
    StoreNotFound,
    StoreUnreachable,
    ingest_folder,
    is_shared,
    open_shared,
    open_store,
    pinned_address,
)
from ecgstore.errors import StoreWithdrawn
from ecgstore.sharing import caching
from ecgstore.sharing.folder import FolderTarget
from ecgstore.sharing.tagging import tag
from ecgstore.sharing.withdrawing import withdraw


@pytest.fixture(scope="module")
def other_store(mini, tmp_path_factory):
    out = tmp_path_factory.mktemp("other") / "other.ecg"
    ingest_folder(mini, out, IngestSettings(fs_hz=50))
    return out


@pytest.fixture
def share(mini_store, tmp_path, monkeypatch):
    monkeypatch.setenv("ECGSTORE_CACHE_DIR", str(tmp_path / "cache"))
    bring(mini_store, tmp_path / "share", "v1")
    return tmp_path / "share"


def test_a_tag_is_fetched_once_and_its_fingerprint_needs_nobody(share, mini_store):
    address = pinned_address(f"{share}@v1")
    assert address == f"{share}@{fingerprint(mini_store)}"
    store = open_shared(f"{share}@v1")
    assert store.verify(deep=True) == []
    assert open_store(mini_store).fingerprint == store.fingerprint
    shutil.rmtree(share)
    assert open_shared(address).path == store.path
    assert pinned_address(address) == address
    with pytest.raises(StoreNotFound):
        open_shared(f"{share}@v1")


def test_what_is_no_address_of_a_version_is_a_store(share, mini_store, tmp_path):
    at = shutil.copytree(mini_store, tmp_path / "mine@home.ecg")
    assert not is_shared(at)
    assert open_shared(at).path == str(at)
    assert pinned_address(str(at)) == str(at)
    assert not is_shared("s3://bucket/store.ecg")
    assert is_shared("s3://bucket/store@v1")
    assert is_shared(f"{share}@v1")


def test_a_moved_tag_is_another_store(share, mini_store, other_store):
    before = open_shared(f"{share}@v1")
    bring(other_store, share, "v2")
    tag(str(share), "v1", fingerprint(other_store), expected=before.fingerprint)
    assert open_shared(f"{share}@v1").fingerprint == fingerprint(other_store)
    assert open_shared(f"{share}@{before.fingerprint}").fingerprint == before.fingerprint


def test_what_was_withdrawn_is_not_settled_on_though_it_is_kept_here(share, mini_store, other_store):
    address = pinned_address(f"{share}@v1")
    open_shared(address)
    bring(other_store, share, "v2")
    withdraw(FolderTarget(share), [fingerprint(mini_store)], fingerprint(other_store))
    with pytest.raises(StoreWithdrawn):
        pinned_address(address)


def test_several_who_ask_at_once_wait_for_one(share):
    found, threads = [], []
    for _ in range(4):
        threads.append(threading.Thread(target=lambda: found.append(open_shared(f"{share}@v1").fingerprint)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(found) == 4


def test_who_is_out_of_reach_says_so_where_nothing_is_kept(share, monkeypatch):
    def out_of_reach(*_):
        raise StoreUnreachable("the server can't be reached", where="s3://bucket")

    address = pinned_address(f"{share}@v1")
    monkeypatch.setattr(caching.versions, "refuse_withdrawn", out_of_reach)
    with pytest.raises(StoreUnreachable):
        open_shared(address)
    monkeypatch.undo()
