"""What becomes of a place is decided and done under one lock, whoever else plans at the same time."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys

import pytest

import ecgstore
from ecgstore import IngestSettings, StoreExists, ingest_folder
from ecgstore.build import building
from ecgstore.build.construct import Action, Wish, decide
from ecgstore.storage import layout

ROUNDS = 50
#: Several ingests of one small folder into one place, each after a pause of its own.
CREATORS = """
import json, sys, threading, time
from pathlib import Path
from ecgstore import EcgError, IngestSettings, ingest_folder
from ecgstore.build import construct

def create(number, out, delays_s, options, said):
    # The pause lies where it hurts: between the plan, which takes long, and what is done by it.
    pauses = iter(delays_s)
    def slow(*arguments):
        time.sleep(next(pauses, 0))
    try:
        made = ingest_folder(sys.argv[1], out, IngestSettings(fs_hz=options.pop("fs_hz")), progress=slow, **options)
        said[number] = ["sealed", made.fingerprint]
    except EcgError as error:
        said[number] = ["refused", str(error)]

for number, one in enumerate(json.loads(sys.argv[2])):
    said = {}
    threads = [
        threading.Thread(target=create, args=(i, one["out"], delays_s, dict(options), said))
        for i, (delays_s, options) in enumerate(one["creators"])
    ]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    print(json.dumps([said[i] for i in range(len(threads))]), flush=True)
"""


@pytest.fixture
def source(tmp_path, write_record):
    folder = tmp_path / "source"
    for i in range(3):
        write_record(folder, f"r{i}")
    return folder


def content(out):
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def run(source, rounds):
    command = [sys.executable, "-c", CREATORS, str(source), json.dumps(rounds)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def delays(random, n=6):
    return [random.choice([0, 0, 0.005, 0.05]) for _ in range(n)]


def test_of_two_creators_one_makes_the_store_and_the_other_changes_nothing(source, tmp_path):
    draw = random.Random(0)
    alone = {
        fs_hz: ingest_folder(source, tmp_path / f"{fs_hz}.ecg", IngestSettings(fs_hz=fs_hz)).fingerprint
        for fs_hz in (100, 250)
    }
    rounds = [
        {
            "out": str(tmp_path / f"{i}.ecg"),
            "creators": [(delays(draw), {"fs_hz": 100}), (delays(draw), {"fs_hz": 250 if i % 2 else 100})],
        }
        for i in range(ROUNDS)
    ]
    for one, answers in zip(rounds, run(source, rounds), strict=True):
        store = ecgstore.open_store(one["out"])
        assert store.verify(deep=True) == []
        sealed = [fingerprint for how, fingerprint in answers if how == "sealed"]
        assert sealed == [store.fingerprint], "one makes the store, and says which"
        assert store.fingerprint in alone.values()
        (refused,) = [text for how, text in answers if how == "refused"]
        assert "a sealed store is there already" in refused or "is writing this store" in refused or "begun" in refused
    assert not list(tmp_path.glob(".*.lock*")), "locks go with those who held them"


def test_who_replaces_and_who_grows_find_the_store_whole(source, tmp_path):
    draw = random.Random(1)
    out = tmp_path / "out.ecg"
    ingest_folder(source, out, IngestSettings(fs_hz=100))
    options = [{"fs_hz": 100, "overwrite": True}, {"fs_hz": 250, "overwrite": True}, {"fs_hz": 100, "append": True}]
    rounds = [
        {"out": str(out), "creators": [(delays(draw), draw.choice(options)) for _ in range(2)]} for _ in range(ROUNDS)
    ]
    for answers in run(source, rounds):
        for how, text in answers:
            allowed = ("is writing this store", "no longer the one", "a store grows only by", "not a store")
            assert how == "sealed" or any(part in text for part in allowed), text
    assert ecgstore.open_store(out).verify(deep=True) == []
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith((".out", "out"))] == ["out.ecg"]


def test_a_store_that_was_sealed_while_this_one_was_planned_stays_as_it_is(source, tmp_path):
    out = tmp_path / "out.ecg"
    planned = []

    def seal_another(phase, done, total):
        if phase == "scan" and done == total and not planned:
            planned.append(ingest_folder(source, out, IngestSettings(fs_hz=250)).fingerprint)
            planned.append(content(out))

    with pytest.raises(StoreExists, match="a sealed store is there already"):
        ingest_folder(source, out, IngestSettings(fs_hz=100), progress=seal_another)
    assert content(out) == planned[1]
    planned.clear()
    # With --resume the very same store would do; another one is refused.
    with pytest.raises(StoreExists, match="already, from another source or with other settings"):
        ingest_folder(source, out, IngestSettings(fs_hz=100), resume=True)
    assert content(out)["manifest.json"]


def test_a_store_that_changed_while_its_next_version_was_planned_is_not_grown(source, tmp_path):
    out = tmp_path / "out.ecg"
    ingest_folder(source, out, IngestSettings(fs_hz=100))
    replaced = []

    def replace(phase, done, total):
        if phase == "scan" and done == total and not replaced:
            replaced.append(ingest_folder(source, out, IngestSettings(fs_hz=250), overwrite=True).fingerprint)

    with pytest.raises(StoreExists, match="no longer the one that its next version was planned from"):
        ingest_folder(source, out, IngestSettings(fs_hz=100), append=True, progress=replace)
    assert ecgstore.open_store(out).fingerprint == replaced[0]


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
