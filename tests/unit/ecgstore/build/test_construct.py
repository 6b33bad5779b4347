"""What becomes of a place is decided and done under one lock, whoever else plans at the same time."""

from __future__ import annotations

import hashlib
import json

import pytest

import ecgstore
from ecgstore import IngestSettings, StoreExists, ingest_folder
from ecgstore.build import building
from ecgstore.build.construct import Action, Wish, decide
from ecgstore.storage import layout, locks


@pytest.fixture
def source(tmp_path, write_record):
    folder = tmp_path / "source"
    for i in range(3):
        write_record(folder, f"r{i}")
    return folder


def test_what_becomes_of_a_place(source, tmp_path):
    out = tmp_path / "out.ecg"
    assert decide(out, "a plan", Wish()) is Action.BUILD
    assert decide(out, "a plan", Wish(overwrite=True)) is Action.BUILD
    ingest_folder(source, out, IngestSettings(), part=(1, 1))
    assert decide(out, "a plan", Wish(resume=True)) is Action.BUILD
    ecgstore.seal_store(out)
    sealed = json.loads((out / layout.MANIFEST).read_text())
    plan, fingerprint = sealed["plan_sha256"], sealed["fingerprint"]
    assert decide(out, plan, Wish()) is Action.REFUSE
    assert decide(out, plan, Wish(resume=True)) is Action.ACCEPT
    assert decide(out, hashlib.sha256(b"another").hexdigest(), Wish(resume=True)) is Action.REFUSE
    assert decide(out, plan, Wish(overwrite=True)) is Action.REPLACE
    assert decide(out, plan, Wish(append=True, grown_from=fingerprint)) is Action.GROW
    assert decide(out, plan, Wish(append=True, grown_from="of before")) is Action.REFUSE


def test_a_claim_excludes_others_and_leaves_nothing_behind(tmp_path):
    out = tmp_path / "out.ecg"
    with building.claimed(out, "part-1-of-2"), building.claimed(out, "part-2-of-2"):
        for part in (None, "part-1-of-2"):
            with pytest.raises(StoreExists, match="another ingest is writing"), building.claimed(out, part):
                raise AssertionError("both hold it")
    with building.claimed(out), pytest.raises(StoreExists), building.claimed(out):
        raise AssertionError("both hold it")
    assert list(tmp_path.iterdir()) == []


def test_a_lock_whose_file_was_removed_is_taken_again(tmp_path, monkeypatch):
    out, lock, removed = tmp_path / "out.ecg", locks._lock, []

    def removed_meanwhile(file, *arguments, **options):
        if not removed:  # it has opened the file of somebody who is just leaving
            removed.append(building.lock_file(out).unlink())
        lock(file, *arguments, **options)

    monkeypatch.setattr(locks, "_lock", removed_meanwhile)
    with building.claimed(out):
        assert building.lock_file(out).exists()
        with pytest.raises(StoreExists, match="another ingest is writing"), building.claimed(out):
            raise AssertionError("both hold it")
    assert list(tmp_path.iterdir()) == []
