"""A withdrawal that is carried through: the successor is shared, and no version that holds them is left."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from shares import S3, contents, fingerprint

from ecgstore import IngestSettings, Record, StoreNotFound, Terms, cli, open_store, write_records
from ecgstore.errors import StoreWithdrawn
from ecgstore.sharing import copy, pull, push, remote, tags, versions, withdraw, withdraw_and_push
from ecgstore.sharing.folder import FolderTarget
from ecgstore.sharing.terms import TermsRefused
from ecgstore.storage import layout

FREE = Terms(name="made", version="1", licence="CC0-1.0", redistributable=True)


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody cuts the power here."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def record(i: int, patient: str = "", name: str = "rec") -> Record:
    signal_mv_lt = np.sin(np.arange(1000, dtype=np.float32)[None] / (10 + i))
    return Record(f"{name}{i}", ("II",), 100.0, signal_mv_lt, fold=1, patient_id=patient or f"p{i}")


def made(out: Path, records: list[Record], terms: Terms = FREE, **settings: Any) -> Path:
    said = {"profile": "raw", "patient_key": "public", **settings}
    write_records(out, records, IngestSettings(**said), terms=terms)
    return out


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """v1 has rec0 … rec3; v2 has rec4 too; without has nobody of p1; at another rate; grown has rec5."""
    folder = tmp_path_factory.mktemp("built")
    made(folder / "v1", [record(i) for i in range(4)])
    made(folder / "v2", [record(i) for i in range(5)])
    made(folder / "without", [record(i) for i in (0, 2, 3)])
    made(folder / "slow", [record(i) for i in range(4)], profile="train", fs_hz=50.0, filters=(), leads=("II",))
    made(folder / "grown", [record(i) for i in range(6)])
    return folder


def run(*words: object) -> Any:
    return CliRunner().invoke(cli.main, [str(word) for word in words])


def state(share: Path) -> dict[str, tuple[bool, bool, tuple[str, ...]]]:
    return {one.fingerprint: (one.sealed, one.withdrawn, one.tags) for one in remote(str(share)).versions}


def test_no_version_that_holds_them_is_left(built: Path, tmp_path: Path) -> None:
    share = tmp_path / "share"
    for name in ("v1", "v2", "without", "slow", "grown"):
        push(built / name, f"{share}@{name}")
    done = run("withdraw", built / "v2", tmp_path / "v3", "--patient", "p1", "--push", f"{share}@v3", "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    successor, names = said["fingerprint"], ("v1", "v2", "without", "slow", "grown")
    v1, v2, without, slow, grown = (fingerprint(built / name) for name in names)
    assert state(share) == {
        v1: (False, True, ()),
        v2: (False, True, ()),
        successor: (True, False, ("v1", "v2", "v3")),
        without: (True, False, ("without",)),
        slow: (True, False, ("slow",)),
        grown: (True, False, ("grown",)),
    }
    assert set(said["taken_back"]["fingerprints"]) == {v1, v2}
    assert sorted(line.split()[2] for line in said["still_there"]) == sorted([slow, grown])
    assert all("withdraw from it as well" in line for line in said["still_there"])
    pull(f"{share}@v1", tmp_path / "pulled")
    assert open_store(tmp_path / "pulled").column("record_id").tolist() == ["rec0", "rec2", "rec3", "rec4"]
    for store in (built / "v1", built / "v2"):
        with pytest.raises(StoreWithdrawn, match=f"@{successor}"):
            push(store, f"{share}@again")
    again = run("withdraw", built / "v2", tmp_path / "v3", "--patient", "p1", "--push", f"{share}@v3")
    assert again.exit_code == 0, again.output
    assert "v1, v2, v3 means it" not in again.stdout  # nothing is left to be moved
    assert "2 versions taken back" in again.stdout
    # One that stayed is withdrawn from by the same command.
    withdraw_and_push(open_store(built / "grown"), tmp_path / "grown-2", f"{share}@grown", patients=["p1"])
    assert not versions.is_sealed(FolderTarget(share), grown)


def test_who_withdrew_before_without_a_push_is_carried_through_too(built: Path, tmp_path: Path) -> None:
    share = tmp_path / "share"
    push(built / "v1", f"{share}@v1")
    made_here = tmp_path / "a"
    assert run("withdraw", built / "v2", made_here, "--patient", "p0").exit_code == 0
    done = withdraw_and_push(open_store(made_here), tmp_path / "b", str(share), records=["rec4"])
    assert fingerprint(built / "v1") in done.taken_back.fingerprints
    assert tags.resolve(FolderTarget(share), "v1") == done.made.fingerprint


def test_in_a_bucket(built: Path, tmp_path: Path, at_s3: S3) -> None:
    url = f"{at_s3.bucket()}/made"
    push(built / "v1", f"{url}@v1")
    done = withdraw_and_push(open_store(built / "v1"), tmp_path / "v2", f"{url}@v2", records=["rec2"])
    assert remote(url).tags == {"v1": done.made.fingerprint, "v2": done.made.fingerprint}
    assert "if the bucket" in done.still_there[-1]


def test_a_version_that_can_t_be_read_is_told_of(built: Path, tmp_path: Path) -> None:
    share = tmp_path / "share"
    for name in ("v1", "v2"):
        push(built / name, f"{share}@{name}")
    there = share / "versions" / fingerprint(built / "v2")
    (there / layout.RECORDS).unlink()
    (there / layout.RECORDS).write_bytes(b"PAR1")
    shutil.copytree(built / "without", share / "versions" / ("a" * 64))
    (share / "versions" / ("a" * 64) / layout.MANIFEST).unlink()
    done = withdraw_and_push(open_store(built / "v1"), tmp_path / "v3", f"{share}@v3", patients=["p1"])
    assert len(done.still_there) == 2
    assert all("can't be looked at" in line and "\n" not in line for line in done.still_there)


def test_patients_by_another_key_can_t_be_told(built: Path, tmp_path: Path) -> None:
    share = tmp_path / "share"
    push(built / "v1", f"{share}@v1")
    push(
        made(tmp_path / "other", [record(i, name="x") for i in range(2)], patient_key="another secret of ours"),
        f"{share}@x",
    )
    done = withdraw_and_push(open_store(built / "v1"), tmp_path / "v3", f"{share}@v3", patients=["p1"])
    (line,) = done.still_there
    assert "another key" in line


def test_a_store_that_others_withdrew_from_is_refused(built: Path, tmp_path: Path) -> None:
    """Or who went from it then would come back."""
    share = tmp_path / "share"
    push(built / "v1", f"{share}@v1")
    first = withdraw_and_push(open_store(built / "v1"), tmp_path / "a", f"{share}@v1", patients=["p0"])
    before = contents(share)
    with pytest.raises(StoreWithdrawn, match=f"pull @{first.made.fingerprint}"):
        withdraw_and_push(open_store(built / "v1"), tmp_path / "b", f"{share}@v1", patients=["p1"])
    assert not (tmp_path / "b").exists()
    assert contents(share) == before
    next_one = withdraw_and_push(open_store(tmp_path / "a"), tmp_path / "b", f"{share}@v1", patients=["p1"])
    assert next_one.made.records == 2


def test_nobody_comes_back_with_a_store_of_before(built: Path, tmp_path: Path) -> None:
    """Another team had added to the old version, or has it at another rate, and shares that afterwards."""
    share = tmp_path / "share"
    push(built / "v1", f"{share}@v1")
    done = withdraw_and_push(open_store(built / "v1"), tmp_path / "a", f"{share}@v1", patients=["p1"])
    before = contents(share)
    for name in ("v2", "slow", "grown"):
        with pytest.raises(TermsRefused, match=f"1 records .*@{done.made.fingerprint}"):
            push(built / name, f"{share}@new")
    with pytest.raises(TermsRefused, match="1 records"):
        withdraw_and_push(open_store(built / "slow"), tmp_path / "b", f"{share}@slow", patients=["p2"])
    assert not (tmp_path / "b").exists()
    push(built / "v2", f"{tmp_path}/other@v2")
    with pytest.raises(TermsRefused, match="1 records"):
        copy(f"{tmp_path}/other", str(share))
    assert contents(share) == before
    push(built / "without", f"{share}@without")


BOUND = Terms(name="hospital", version="1", licence="as agreed", redistributable=False)


@pytest.mark.parametrize(
    ("how", "words", "said"),
    [
        ({"terms": BOUND, "patient_key": "a long secret of our own"}, (), "may not be passed on"),
        ({"terms": BOUND}, ("--private-target",), "ECGSTORE_PATIENT_KEY"),
        ({"ids": "born 1961-03-14 "}, (), "scrub-check"),
        ({}, ("--patient", "nobody"), "no patient"),
        ({}, ("--push", "s3://no-such-bucket/x"), "no such bucket"),
        ({}, ("--push", "https://host/x"), "only be read from"),
        ({}, ("--push", "https://me:pw@host/x"), "a user or a password"),
        ({}, ("--push", "{share}@" + "a" * 64), "under a tag"),
        ({}, ("--push", "{share}/nothing"), "there is no share"),
    ],
)
def test_what_push_refuses_is_refused_before_anything_is_made(
    built: Path, tmp_path: Path, at_s3: S3, how: dict[str, Any], words: tuple[str, ...], said: str
) -> None:
    share = tmp_path / "share"
    push(built / "without", f"{share}@v1")
    name = how.get("ids", "rec")
    settings = {key: value for key, value in how.items() if key != "ids"}
    store = made(tmp_path / "store", [record(i, name=name) for i in range(3)], **settings)
    before = contents(share)
    more = [word.format(share=share) for word in words]
    push_words = [] if "--push" in more else ["--push", f"{share}@v1"]
    done = run("withdraw", store, tmp_path / "out", "--record", f"{name}1", *more, *push_words)
    assert done.exit_code == 1, done.output
    (line,) = done.stderr.splitlines()
    assert said in line
    assert "pw" not in line
    assert not (tmp_path / "out").exists()
    assert contents(share) == before


def test_what_only_who_goes_is_found_by_does_not_stop_it(tmp_path: Path) -> None:
    store = made(tmp_path / "store", [record(0), record(1), record(2, name="born 1961-03-14 ")])
    share = tmp_path / "share"
    push(store, str(share), findings_are_harmless=True)
    with pytest.raises(TermsRefused):
        push(store, str(share))
    done = withdraw_and_push(open_store(store), tmp_path / "out", str(share), records=["born 1961-03-14 2"])
    assert (done.made.records, done.taken_back.fingerprints) == (2, (fingerprint(store),))


def test_store_and_out_are_two(built: Path, tmp_path: Path) -> None:
    store = shutil.copytree(built / "v1", tmp_path / "v1")
    push(store, f"{tmp_path}/share@v1")
    words = ("withdraw", store, store, "--overwrite", "--patient", "p1")
    done = run(*words, "--push", f"{tmp_path}/share@v1")
    assert (done.exit_code, "another OUT" in done.stderr) == (1, True)
    assert run("withdraw", store, tmp_path / "out", "--patient", "p1", "--private-target").exit_code == 2
    assert contents(store) == contents(built / "v1")


def test_a_share_that_lost_its_store_says_so(built: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreNotFound, match="no share"):
        withdraw_and_push(open_store(built / "v1"), tmp_path / "v3", f"{tmp_path}/nothing", patients=["p1"])
    withdraw(FolderTarget(_pushed(built / "v1", tmp_path / "share")), [fingerprint(built / "v1")])
    with pytest.raises(StoreWithdrawn, match="none in its place"):
        withdraw_and_push(open_store(built / "v1"), tmp_path / "v3", f"{tmp_path}/share", patients=["p1"])


def _pushed(store: Path, share: Path) -> Path:
    push(store, str(share))
    return share
