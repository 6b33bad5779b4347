"""A push or a pull that dies at any step: no tag at a part, nothing lost, the same command finishes, bases whole."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from lineage_records import record
from quickly import quickly
from shares import Dying, Killed, bring, contents, fingerprint, sealed

from ecgstore import IngestSettings, Terms, open_store, write_records
from ecgstore.sharing import pull, push, tags, versions, withdraw, withdraw_and_push
from ecgstore.sharing.folder import FolderTarget
from ecgstore.storage import manifest

ROOT = Path(__file__).parents[2]
FREE = Terms(name="made", version="1", licence="CC0-1.0", redistributable=True)


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody cuts the power here; that something is flushed still counts as a step."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def steps_of(do: Any) -> int:
    """How often something changes the file system."""
    with Dying(1_000_000, after=False) as whole:
        do()
    return whole.count


def some_of(n_steps: int, after: bool) -> list[int]:
    """Every third step, others before it is done than after; and all of the last ones."""
    return sorted({*range(1 + after, n_steps + 1, 3), *range(max(1, n_steps - 9), n_steps + 1)})


def died(do: Any, n: int, after: bool) -> None:
    with Dying(n, after=after), pytest.raises(Killed):
        do()


def check_tag(share: Path, v1: Path, v2: Path, where: Path) -> None:
    """The tag means the old version or the new one, and that is whole."""
    meant = tags.resolve(FolderTarget(share), "main")
    assert meant in (fingerprint(v1), fingerprint(v2))
    shutil.rmtree(where, ignore_errors=True)
    pull(str(share), where)
    assert contents(where) == contents(v1 if meant == fingerprint(v1) else v2)


@pytest.mark.parametrize("after", quickly([False, True], True), ids=["before", "after"])
def test_a_push_that_dies_at_any_step(tmp_path: Path, after: bool) -> None:
    v1 = sealed(tmp_path / "v1.ecg", (b"one", b"two"))
    v2 = sealed(tmp_path / "v2.ecg", (b"one", b"two", b"three"), "of v2")
    before = contents(v1), contents(v2)
    bring(v1, tmp_path / "begun")
    shutil.copytree(tmp_path / "begun", tmp_path / "counted")
    n_steps = steps_of(lambda: bring(v2, tmp_path / "counted"))
    assert n_steps > 30
    for n in some_of(n_steps, after):
        share = tmp_path / f"share-{n}"
        shutil.copytree(tmp_path / "begun", share)
        died(lambda share=share: bring(v2, share), n, after)
        check_tag(share, v1, v2, tmp_path / "pulled")
        if not versions.is_sealed(FolderTarget(share), fingerprint(v2)):
            assert tags.resolve(FolderTarget(share), "main") == fingerprint(v1)
        bring(v2, share)
        assert tags.resolve(FolderTarget(share), "main") == fingerprint(v2)
        check_tag(share, v1, v2, tmp_path / "pulled")
        pull(f"{share}@{fingerprint(v1)}", tmp_path / f"old-{n}")
    assert (contents(v1), contents(v2)) == before


@pytest.mark.parametrize("after", quickly([False, True], True), ids=["before", "after"])
def test_a_pull_that_dies_at_any_step(tmp_path: Path, after: bool) -> None:
    v1 = sealed(tmp_path / "v1.ecg", (b"one", b"two"))
    v2 = sealed(tmp_path / "v2.ecg", (b"one", b"two", b"three"), "of v2")
    before = contents(v1)
    bring(v2, tmp_path / "share")
    url = str(tmp_path / "share")
    there = contents(tmp_path / "share")
    n_steps = steps_of(lambda: pull(url, tmp_path / "counted", base=v1))
    assert n_steps > 20
    for n in range(1, n_steps + 1):
        dest = tmp_path / f"dest-{n}"
        died(lambda dest=dest: pull(url, dest, base=v1), n, after)
        if dest.exists():  # killed behind the rename
            assert contents(dest) == contents(v2)
        assert contents(v1) == before
        pull(url, dest, base=v1 if n % 2 else None)
        assert contents(dest) == contents(v2)
        assert contents(v1) == before
        assert not dest.with_name(f"{dest.name}.partial").exists()
    assert contents(tmp_path / "share") == there


def test_a_pull_of_another_version_into_what_a_killed_one_left(tmp_path: Path) -> None:
    v1 = sealed(tmp_path / "v1.ecg", (b"one", b"two"))
    v2 = sealed(tmp_path / "v2.ecg", (b"one", b"owt", b"three"), "of v2")
    bring(v1, tmp_path / "share", "v1")
    bring(v2, tmp_path / "share", "v2")
    before = contents(v1)
    for n in range(1, 25, 3):
        dest = tmp_path / f"dest-{n}"
        with Dying(n, after=True), contextlib.suppress(Killed):
            pull(f"{tmp_path}/share@v1", dest, base=v1)
        if not dest.exists():
            pull(f"{tmp_path}/share@v2", dest)
            assert contents(dest) == contents(v2)
        assert contents(v1) == before


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_withdrawal_that_dies_at_any_step(tmp_path: Path, after: bool) -> None:
    v1 = sealed(tmp_path / "v1.ecg", (b"one",))
    v2 = sealed(tmp_path / "v2.ecg", (b"two",), "of v2")
    bring(v1, tmp_path / "begun", "v1")
    bring(v2, tmp_path / "begun", "v2")

    def take_back(share: Path) -> None:
        withdraw(FolderTarget(share), [fingerprint(v1)], fingerprint(v2))

    shutil.copytree(tmp_path / "begun", tmp_path / "counted")
    n_steps = steps_of(lambda: take_back(tmp_path / "counted"))
    for n in range(1, n_steps + 1):
        share = tmp_path / f"share-{n}"
        shutil.copytree(tmp_path / "begun", share)
        died(lambda share=share: take_back(share), n, after)
        take_back(share)
        assert tags.resolve(FolderTarget(share), "v1") == fingerprint(v2)
        assert FolderTarget(share).listed(f"versions/{fingerprint(v1)}") == {}
        assert versions.is_sealed(FolderTarget(share), fingerprint(v2))


@pytest.fixture(scope="module")
def shared_wards(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two versions of a store, the second with one record more, and a share that holds both."""
    folder = tmp_path_factory.mktemp("wards")
    settings = IngestSettings(leads=("II",), filters=(), fs_hz=100.0, patient_key="public")
    for name, n in (("v1", 3), ("v2", 4)):
        records = [record(i, n_samples=200, leads=("II",)) for i in range(n)]
        write_records(folder / name, records, settings, terms=FREE)
        push(folder / name, f"{folder}/share@{name}")
    return folder, folder / "share"


@pytest.mark.parametrize("after", quickly([False, True], False), ids=["before", "after"])
def test_a_withdrawal_that_is_carried_through_and_dies(
    shared_wards: tuple[Path, Path], tmp_path: Path, after: bool
) -> None:
    folder, begun = shared_wards
    store = open_store(folder / "v2")
    key = store.column("patient_key")[0]
    before = contents(folder / "v1"), contents(folder / "v2")

    def take_back(out: Path, share: Path) -> None:
        withdraw_and_push(store, out, f"{share}@v3", patients=[key])

    def check(share: Path, n_left: int) -> None:
        there = FolderTarget(share)
        for name in there.folders("tags"):
            meant = tags.resolve(there, name)
            if versions.tombstone_of(there, meant) is None:  # else whoever asks is told so
                wrong = open_store(share / "versions" / meant).verify(deep=True)
                assert [one for one in wrong if ".new: does not belong" not in one] == []
                assert versions.open_version(there, meant).n_records in (3, 4, n_left)

    shutil.copytree(begun, tmp_path / "counted")
    n_steps = steps_of(lambda: take_back(tmp_path / "counted-out", tmp_path / "counted"))
    whole = manifest.load(tmp_path / "counted-out").fingerprint
    for n in sorted({*range(1 + 20 * after, n_steps, 40), *range(n_steps - 30 + 2 * after, n_steps + 1, 5)}):
        share, out = tmp_path / f"share-{n}", tmp_path / f"out-{n}"
        shutil.copytree(begun, share)
        died(lambda out=out, share=share: take_back(out, share), n, after)
        check(share, 2)
        take_back(out, share)
        check(share, 2)
        there = FolderTarget(share)
        assert {name: tags.resolve(there, name) for name in there.folders("tags")} == dict.fromkeys(
            ("v1", "v2", "v3"), whole
        )
        assert [path.name for path in (share / "versions").iterdir()] == [whole]
        assert len(versions.tombstones(there)) == 2
    assert (contents(folder / "v1"), contents(folder / "v2")) == before


_PUSH = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from shares import bring
from ecgstore.sharing import pull
print("ready", flush=True)
sys.stdin.readline()
if sys.argv[1] == "push":
    bring(Path(sys.argv[2]), Path(sys.argv[3]))
else:
    pull(sys.argv[2], sys.argv[3], base=sys.argv[5])
"""


def killed(delay_s: float, *arguments: object) -> bool:
    """Run it in a process and kill that after a while; whether it was still at work."""
    words = [sys.executable, "-c", _PUSH, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        process.stdin.write(b"go\n")
        process.stdin.flush()
        time.sleep(delay_s)
        was_at_work = process.poll() is None
        process.send_signal(signal.SIGKILL)
    return was_at_work


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_pushes_and_pulls_that_are_killed_with_9(tmp_path: Path) -> None:
    """A hundred kills in all, spread over the time that the whole takes."""
    here = ROOT / "tests"
    shards = tuple(os.urandom(400_000) for _ in range(40))
    v1 = sealed(tmp_path / "v1.ecg", shards[:30])
    v2 = sealed(tmp_path / "v2.ecg", shards, "of v2")
    before = contents(v1)
    bring(v1, tmp_path / "begun")
    n_at_work = 0
    for n in range(50):
        share = tmp_path / "share"
        shutil.copytree(tmp_path / "begun", share)
        n_at_work += killed(0.004 * n, "push", v2, share, here)
        check_tag(share, v1, v2, tmp_path / "pulled")
        bring(v2, share)
        check_tag(share, v1, v2, tmp_path / "pulled")
        shutil.rmtree(share)
    bring(v2, tmp_path / "begun")
    for n in range(50):
        dest = tmp_path / "dest"
        n_at_work += killed(0.004 * n, "pull", tmp_path / "begun", dest, here, v1)
        if dest.exists():
            assert contents(dest) == contents(v2)
        assert contents(v1) == before
        pull(str(tmp_path / "begun"), dest, base=v1)
        assert contents(dest) == contents(v2)
        assert contents(v1) == before
        shutil.rmtree(dest)
    assert n_at_work > 20
