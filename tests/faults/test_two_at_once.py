"""Two at once on one output: one store results, and whoever comes second harms nothing.

Delays are random and come from a seed; no clock is read.
"""

from __future__ import annotations

import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import ecgstore
from ecgstore.build import building
from ecgstore.build.augment import augment_store
from ecgstore.build.ingest import IngestReport, ingest_folder
from ecgstore.build.parts import seal_store
from ecgstore.build.settings import IngestSettings
from ecgstore.errors import StoreExists, StoreIncomplete
from ecgstore.signals.noise import NoiseSettings
from ecgstore.storage import layout

#: What whoever comes second may be told.
REFUSALS = (
    "another ingest is writing this store right now",
    "a sealed store is there already",
    "the store is no longer the one that its next version was planned from",
    "this store is sealed already",
    "no store is being built here",
)
ROUNDS = 50
#: Few for each change, all in the slow session.
FEW_OR_ALL = pytest.mark.parametrize(
    "rounds", [5, pytest.param(ROUNDS // 2, marks=pytest.mark.slow)], ids=["few", "all"]
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Three short records of two leads."""
    root = tmp_path_factory.mktemp("source")
    rng = np.random.default_rng(1)
    for name in "abc":
        counts_tl = (200 * rng.standard_normal((500, 2))).astype("<i2")
        counts_tl.tofile(root / f"{name}.dat")
        lines = [f"{name} 2 500 500"]
        for j, lead in enumerate(("I", "II")):
            total = int(counts_tl[:, j].astype(np.int64).sum()) % 65536
            lines.append(f"{name}.dat 16 1000.0(0)/mV 16 0 {counts_tl[0, j]} {total} 0 {lead}")
        (root / f"{name}.hea").write_text("\n".join(lines) + "\n")
    return root


#: Moments of a run, as its progress tells them.
MOMENTS = (("scan", 3), ("shards", 0), ("shards", 1), ("seal", 0), ("seal", 1), ("end", 0))


class Meeting:
    """The second of two has planned, and goes on just after a moment of the first one that was drawn."""

    def __init__(self, draw: random.Random) -> None:
        self.draw, self.moment, self.reached = draw, draw.choice(MOMENTS), threading.Event()
        self.delay_s = draw.choice((0.0, draw.uniform(0, 0.02)))

    def first(self, phase: str, done: int, total: int) -> None:
        if (phase, done) == self.moment:
            self.reached.set()

    def second(self, phase: str, done: int, total: int) -> None:
        if phase in ("scan", "seal"):
            self.reached.wait()
            time.sleep(self.delay_s)

    def run(self, first, second) -> list[IngestReport | str]:
        """What each gives, as a function of its progress."""

        def to_the_end():
            try:
                return first(progress=self.first)
            finally:
                self.reached.set()

        return both(to_the_end, partial(second, progress=self.second))


def both(*doing) -> list[IngestReport | str]:
    """What each gave: its report, or what it was told. Any other error is raised."""

    def told(do):
        try:
            return do()
        except (StoreExists, StoreIncomplete) as error:
            return str(error)

    with ThreadPoolExecutor(len(doing)) as pool:
        return list(pool.map(told, doing))


def contents(out: Path) -> dict[str, tuple[int, bytes]]:
    """Each file by its number and content, the locks and notes of builders aside."""
    return {
        path.relative_to(out).as_posix(): (path.stat().st_ino, path.read_bytes())
        for path in out.rglob("*")
        if path.is_file() and not path.name.startswith(layout.SCAFFOLD)
    }


def check(out: Path, outcomes: list[IngestReport | str]) -> None:
    """One whole store, and nothing beside it."""
    store = ecgstore.open_store(out)
    assert store.verify(deep=True) == []
    done = [one for one in outcomes if not isinstance(one, str)]
    assert store.fingerprint in {one.fingerprint for one in done}
    for one in outcomes:
        if isinstance(one, str):
            assert one.startswith(REFUSALS), one
            assert "\n" not in one
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    assert not list(out.glob("building*"))


@pytest.mark.parametrize("rounds", [8, pytest.param(ROUNDS, marks=pytest.mark.slow)], ids=["few", "all"])
@pytest.mark.parametrize("resume", [False, True], ids=["plain", "resume"])
def test_two_creators(folder, tmp_path, resume, rounds):
    """The second one, other settings or the same, is refused or accepts; every byte of the first one's store stays."""
    draw = random.Random(resume)
    seen = set()
    for number in range(rounds):
        out = tmp_path / str(number) / "out.ecg"
        settings = [IngestSettings(leads=("I", "II"), fs_hz=fs_hz) for fs_hz in (100, draw.choice((100, 50)))]
        kept = []

        def create(which: IngestSettings, *, progress, out=out, kept=kept):
            report = ingest_folder(folder, out, which, resume=resume, progress=progress)
            kept.append(contents(out))
            return report

        outcomes = Meeting(draw).run(*(partial(create, which) for which in settings))
        check(out, outcomes)
        assert all(before == contents(out) for before in kept)
        assert len(kept) == (2 if resume and not any(isinstance(one, str) for one in outcomes) else 1)
        seen.add(tuple(sorted(one.split(";")[0] if isinstance(one, str) else "done" for one in outcomes)))
    # The second one is told that somebody is at it, that all is done, or accepts what is there: of many, each once.
    assert len(seen) >= (2 + resume if rounds == ROUNDS else 1)


@FEW_OR_ALL
@pytest.mark.parametrize("option", ["overwrite", "append"])
def test_a_creator_and_one_who_replaces(folder, tmp_path, option, rounds):
    draw = random.Random(option)
    settings = IngestSettings(leads=("I", "II"))
    for number in range(rounds):
        out = tmp_path / str(number) / "out.ecg"
        if draw.random() < 0.3:
            ingest_folder(folder, out, settings)
        ways = [partial(ingest_folder, folder, out, settings), partial(ingest_folder, folder, out, settings)]
        ways[draw.randrange(2)].keywords[option] = True
        check(out, Meeting(draw).run(*ways))


@FEW_OR_ALL
def test_two_who_replace(folder, tmp_path, rounds):
    draw = random.Random(5)
    for number in range(rounds):
        out = tmp_path / str(number) / "out.ecg"
        ingest_folder(folder, out, IngestSettings(leads=("I", "II")))
        settings = [IngestSettings(leads=("I", "II"), fs_hz=fs_hz) for fs_hz in (50, 25)]
        check(out, Meeting(draw).run(*(partial(ingest_folder, folder, out, one, overwrite=True) for one in settings)))


@FEW_OR_ALL
def test_parts_that_come_while_the_store_is_sealed(folder, tmp_path, rounds):
    draw = random.Random(6)
    settings = IngestSettings(leads=("I", "II"))
    for number in range(rounds):
        out = tmp_path / str(number) / "out.ecg"
        for i in (1, 2):
            ingest_folder(folder, out, settings, part=(i, 2))
        ways = [partial(seal_store, out), partial(ingest_folder, folder, out, settings, part=(1, 2))]
        draw.shuffle(ways)
        outcomes = Meeting(draw).run(*ways)
        if not (out / layout.MANIFEST).exists():
            outcomes.append(seal_store(out))
        check(out, outcomes)


@FEW_OR_ALL
def test_two_who_add_noise(folder, tmp_path, rounds):
    draw = random.Random(7)
    parent = tmp_path / "parent.ecg"
    ingest_folder(folder, parent, IngestSettings(leads=("I", "II")))
    store = ecgstore.open_store(parent)
    for number in range(rounds):
        out = tmp_path / str(number) / "out.ecg"
        settings = [NoiseSettings(kind="muscle", snr_db=snr_db) for snr_db in (6, draw.choice((6, 12)))]
        check(out, Meeting(draw).run(*(partial(augment_store, store, out, one) for one in settings)))


def test_what_was_planned_before_another_sealed_is_not_written(folder, tmp_path):
    """The fault that was: B plans while A seals, and then writes over A's store."""
    out = tmp_path / "out.ecg"
    first = []

    def seal_meanwhile(phase: str, done: int, total: int) -> None:
        if phase == "scan" and not first:
            first.append(ingest_folder(folder, out, IngestSettings(leads=("I", "II"))).fingerprint)
            first.append(contents(out))

    with pytest.raises(StoreExists, match="a sealed store is there already"):
        ingest_folder(folder, out, IngestSettings(leads=("I", "II"), fs_hz=50), progress=seal_meanwhile)
    assert contents(out) == first[1]
    assert not list(out.glob("building*"))


def test_a_store_is_not_grown_from_what_stood_there_before_planning(folder, tmp_path):
    out = tmp_path / "out.ecg"
    first = []

    def seal_meanwhile(phase: str, done: int, total: int) -> None:
        if phase == "scan" and not first:
            first.append(ingest_folder(folder, out, IngestSettings()).fingerprint)

    with pytest.raises(
        StoreExists, match="no longer the one that its next version was planned from.*same command again"
    ):
        ingest_folder(folder, out, IngestSettings(), append=True, progress=seal_meanwhile)
    assert ecgstore.open_store(out).fingerprint == first[0]
    assert [path.name for path in tmp_path.iterdir()] == ["out.ecg"]


def test_a_folder_in_a_folder_that_cannot_be_written_can_still_be_filled(folder, tmp_path, monkeypatch):
    out = tmp_path / "out.ecg"
    out.mkdir()
    openly = os.open

    def refused(path, flags, *args, **kwargs):
        if flags & os.O_CREAT and Path(path).parent == tmp_path:
            raise PermissionError(13, "Permission denied")
        return openly(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", refused)
    ingest_folder(folder, out, IngestSettings(leads=("I", "II")))
    assert ecgstore.open_store(out).verify(deep=True) == []
    assert not list(out.glob("building*"))


def test_a_scan_table_in_the_moment_of_a_swap_does_not_lose_the_store(folder, tmp_path):
    out = tmp_path / "out.ecg"
    ingest_folder(folder, out, IngestSettings(leads=("I", "II")))
    out.rename(building._old(out))
    ingest_folder(folder, building.beside(out), IngestSettings(leads=("I", "II"), fs_hz=50))
    out.mkdir()
    (out / layout.SCAN).write_bytes(b"")
    report = ingest_folder(folder, out, IngestSettings(leads=("I", "II"), fs_hz=50), resume=True)
    check(out, [report])
