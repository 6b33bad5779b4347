"""One plan, many ways to do it: threads, processes, a cluster, parts; and growing a store."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from quickly import quickly

import ecgstore
from ecgstore.build import scan, schedule
from ecgstore.build.ingest import ingest_folder
from ecgstore.build.parts import seal_store
from ecgstore.build.schedule import Workers
from ecgstore.build.settings import IngestSettings
from ecgstore.build.survey import survey
from ecgstore.errors import ConfigError, StoreError, StoreExists, StoreIncomplete


@pytest.fixture(scope="module")
def source(tmp_path_factory, mini):
    """The bundled records under five names each: 265 records in 7 shards of one chunk."""
    root = tmp_path_factory.mktemp("source")
    for copy in range(5):
        for path in (mini / "records500").rglob("*.*"):
            text = path.read_bytes()
            stem, suffix = path.stem, path.suffix
            name = f"{stem}_{copy}"
            if suffix == ".hea":
                text = text.replace(stem.encode(), name.encode())
            (root / f"{name}{suffix}").write_bytes(text)
    return root


@pytest.fixture(scope="module")
def by_threads(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("stores") / "threads.ecg"
    return out, ingest_folder(source, out, IngestSettings(), workers=1).fingerprint


@pytest.mark.slow
def test_two_threads_give_the_same_store(source, by_threads, tmp_path):
    report = ingest_folder(source, tmp_path / "out.ecg", IngestSettings(), workers=2)
    assert report.n_shards > 5
    assert report.fingerprint == by_threads[1]


@pytest.mark.slow
def test_two_processes_give_the_same_store(source, by_threads, tmp_path):
    crew = Workers(n=2, processes=True)
    assert ingest_folder(source, tmp_path / "out.ecg", IngestSettings(), workers=crew).fingerprint == by_threads[1]


@contextlib.contextmanager
def cluster(tmp_path, n_workers):
    """A scheduler and workers as a user starts them, each a process of its own."""
    dask = [sys.executable, "-m", "dask"]
    contact = tmp_path / "scheduler.json"
    options = ["--scheduler-file", str(contact), "--no-dashboard"]
    where = {
        "cwd": tmp_path,
        "stderr": subprocess.DEVNULL,
        "env": {**os.environ, "PYTHONPATH": str(Path(ecgstore.__file__).parents[1])},
    }
    started = [subprocess.Popen([*dask, "scheduler", *options, "--port", "0"], **where)]
    try:
        while not contact.exists():
            time.sleep(0.05)
        for _ in range(n_workers):
            worker = [*dask, "worker", *options, "--nthreads", "1", "--no-nanny"]
            started.append(subprocess.Popen(worker, **where))
        yield json.loads(contact.read_text())["address"], started
    finally:
        for process in reversed(started):
            process.kill()
            process.wait()


def test_a_separate_scheduler_gives_the_same_store_even_if_a_worker_is_killed(source, by_threads, tmp_path):
    with cluster(tmp_path, 2) as (address, (_, *workers)):
        crew = Workers(scheduler=address)

        def kill_one(phase, done, total):
            if phase == "shards" and done == 3:
                workers[0].kill()

        report = ingest_folder(source, tmp_path / "out.ecg", IngestSettings(), workers=crew, progress=kill_one)
        assert workers[0].wait(10) != 0
    assert report.fingerprint == by_threads[1]


def test_a_scheduler_that_goes_away_is_said_and_what_was_done_stays_done(source, by_threads, tmp_path):
    out = tmp_path / "out.ecg"
    with cluster(tmp_path, 1) as (address, (scheduler, _)):

        def kill(phase, done, total):
            if phase == "shards" and done == 3:
                scheduler.kill()

        with pytest.raises(StoreError, match=r"the Dask scheduler went away.*running the same command again"):
            ingest_folder(source, out, IngestSettings(), workers=Workers(scheduler=address), progress=kill)
    report = ingest_folder(source, out, IngestSettings())
    assert report.fingerprint == by_threads[1]
    assert report.n_shards_resumed >= 3


@pytest.mark.slow
def test_the_workers_of_a_scheduler_read_the_headers(source, tmp_path, monkeypatch):
    here, there = tmp_path / "here.parquet", tmp_path / "there.parquet"
    expected = survey(source, IngestSettings(), scan_table=here)
    monkeypatch.setattr(schedule, "TOGETHER", 4)  # many small shares, to be put back into their order
    with cluster(tmp_path, 2) as (address, _):
        monkeypatch.setattr(scan, "read_header_and_comments", lambda *_: pytest.fail("read by this process"))
        crew = Workers(scheduler=address)
        found = survey(source, IngestSettings(), workers=crew, scan_table=there)
        again = survey(source, IngestSettings(), workers=crew, scan_table=there)
        plainly = survey(source, IngestSettings(), workers=crew)
    monkeypatch.undo()
    assert here.read_bytes() == there.read_bytes()
    for one in (found, again, plainly):
        assert one.to_dict() | {"seconds": 0} == expected.to_dict() | {"seconds": 0}


def test_a_scheduler_that_is_not_there_is_said(source, tmp_path, monkeypatch):
    monkeypatch.setattr(schedule, "CONNECT_S", 1)
    with pytest.raises(ConfigError, match="no Dask scheduler answers.*dask scheduler"):
        ingest_folder(source, tmp_path / "out.ecg", IngestSettings(), workers=Workers(scheduler="tcp://127.0.0.1:1"))


def test_parts_in_any_order_and_a_seal_give_the_same_store(source, by_threads, tmp_path):
    out = tmp_path / "out.ecg"
    for part in (3, 1):
        assert ingest_folder(source, out, IngestSettings(), part=(part, 3)).fingerprint == ""
    with pytest.raises(StoreIncomplete, match=r"\d+ of \d+ tasks are not done.*no commit of shard 1, 4"):
        seal_store(out)
    with pytest.raises(StoreIncomplete, match="never sealed"):
        ecgstore.open_store(out)
    ingest_folder(source, out, IngestSettings(), part=(2, 3))
    assert seal_store(out).fingerprint == by_threads[1]
    assert ecgstore.open_store(out).verify(deep=True) == []
    assert not list(out.glob("building*"))


def test_a_part_of_another_plan_is_refused(source, tmp_path):
    out = tmp_path / "out.ecg"
    ingest_folder(source, out, IngestSettings(), part=(1, 3))
    with pytest.raises(StoreExists, match="other settings"):
        ingest_folder(source, out, IngestSettings(fs_hz=250), part=(2, 3))


def test_the_scan_table_spares_the_second_reading(source, by_threads, tmp_path, monkeypatch):
    from ecgstore.build import scan

    table = tmp_path / "scan.parquet"
    ingest_folder(source, tmp_path / "one.ecg", IngestSettings(), scan_table=table)
    read = []
    monkeypatch.setattr(scan, "read_header_and_comments", lambda path, record_id: read.append(record_id))
    report = ingest_folder(source, tmp_path / "two.ecg", IngestSettings(), scan_table=table)
    assert report.fingerprint == by_threads[1]
    assert read == []


def test_a_header_that_changed_is_read_again(source, tmp_path):
    own = shutil.copytree(source, tmp_path / "source")
    table = tmp_path / "scan.parquet"
    before = ingest_folder(own, tmp_path / "one.ecg", IngestSettings(), scan_table=table)
    hea = sorted(own.glob("*.hea"))[0]
    hea.write_text(hea.read_text().replace("1000.0", "500.0"))
    after = ingest_folder(own, tmp_path / "two.ecg", IngestSettings(), scan_table=table)
    assert after.fingerprint != before.fingerprint
    one, two = (ecgstore.open_store(tmp_path / f"{name}.ecg").read(hea.stem).signal_mv_lt for name in ("one", "two"))
    np.testing.assert_allclose(two, 2 * one, atol=0.0011)


def test_a_store_grows_and_shares_its_unchanged_shards(source, tmp_path):
    own = tmp_path / "source"
    own.mkdir()
    names = sorted({path.stem for path in source.glob("*.hea")})
    copy = lambda some: [shutil.copy(source / f"{n}{s}", own) for n in some for s in (".hea", ".dat")]  # noqa: E731
    copy(names[:190])
    out = tmp_path / "out.ecg"
    first = ingest_folder(own, out, IngestSettings())
    before = {path.name: path.stat().st_ino for path in (out / "signal/c/0").iterdir()}
    copy(names[190:])
    # One record goes, one changes its gain: their shards alone are done again.
    for suffix in (".hea", ".dat"):
        (own / f"{names[0]}{suffix}").unlink()
    hea = own / f"{names[100]}.hea"
    hea.write_text(hea.read_text().replace("1000.0", "500.0"))
    grown = ingest_folder(own, out, IngestSettings(), append=True)
    store = ecgstore.open_store(out)
    assert store.verify(deep=True) == []
    assert store.n_records == len(names) - 1
    assert sorted(store.column("record_id")) == names[1:]
    after = {path.name: path.stat().st_ino for path in (out / "signal/c/0").iterdir()}
    shared = [name for name in before if before[name] == after.get(name)]
    assert grown.n_shards_resumed == len(shared) == first.n_shards - 3  # first, changed, and the one that was filled up
    fresh = tmp_path / "fresh.ecg"
    ingest_folder(own, fresh, IngestSettings())
    whole = ecgstore.open_store(fresh)
    for name in (names[1], names[100], names[150], names[-1]):
        np.testing.assert_array_equal(store.read(name).signal_mv_lt, whole.read(name).signal_mv_lt)
    assert (np.diff(store.column("start")) > 0).all()


def test_a_store_grows_only_by_its_own_settings(source, by_threads, tmp_path):
    out = shutil.copytree(by_threads[0], tmp_path / "out.ecg")
    with pytest.raises(ConfigError, match="a store grows only by the settings it was made with"):
        ingest_folder(source, out, IngestSettings(fs_hz=250), append=True)
    assert ingest_folder(source, out, IngestSettings(), append=True).fingerprint == by_threads[1]


@pytest.mark.slow
def test_parts_may_begin_at_the_same_moment(source, by_threads, tmp_path):
    out = tmp_path / "out.ecg"
    code = (
        "import sys\nfrom ecgstore.build.ingest import IngestSettings, ingest_folder\n"
        "ingest_folder(sys.argv[1], sys.argv[2], IngestSettings(), part=(int(sys.argv[3]), 3))\n"
    )
    where = {"cwd": Path(ecgstore.__file__).parents[1], "stderr": subprocess.PIPE, "text": True}
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(source), str(out), str(part)], **where) for part in (1, 2, 3)
    ]
    for process in started:
        assert process.communicate(timeout=60)[1] == ""
    assert seal_store(out).fingerprint == by_threads[1]


def test_of_many_that_begin_one_creates_the_array(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    from ecgstore.build import building

    created = []

    def create():
        created.append(1)
        time.sleep(0.1)
        (tmp_path / "out.ecg/signal").mkdir(parents=True)
        (tmp_path / "out.ecg/signal/zarr.json").write_text("{}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: building.begin(tmp_path / "out.ecg", "a plan", {}, create), range(4)))
    assert created == [1]


@pytest.mark.parametrize("moment", quickly(["before both renames", "between them"], "between them"))
def test_a_kill_between_the_seal_and_the_swap_is_made_good(source, by_threads, tmp_path, monkeypatch, moment):
    from ecgstore.build import building

    out = shutil.copytree(by_threads[0], tmp_path / "out.ecg")
    other = IngestSettings(fs_hz=50)
    rename = Path.rename

    def killed(path, to):
        if moment == "between them" and ".old" in to.name:
            return rename(path, to)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            ingest_folder(source, out, other, overwrite=True)
    assert (out.exists(), building.beside(out).exists()) == (moment == "before both renames", True)
    report = ingest_folder(source, out, other, overwrite=True)
    assert ecgstore.open_store(out).fs_hz == 50
    assert report.fingerprint == ecgstore.open_store(out).fingerprint
    assert [path.name for path in tmp_path.glob("out.ecg*")] == ["out.ecg"]


def test_scaffolding_that_a_kill_left_is_no_damage(by_threads, tmp_path):
    out = shutil.copytree(by_threads[0], tmp_path / "out.ecg")
    for name in ("building.json", "building.scan.parquet"):
        (out / name).write_bytes(b"")
    assert ecgstore.open_store(out).verify(deep=True) == []
    (out / "stranger").write_bytes(b"")
    assert ecgstore.open_store(out).verify() == ["stranger: does not belong to the store"]


def test_a_changed_annotation_is_taken_up_when_a_store_grows(tmp_path, write_record):
    wfdb = pytest.importorskip("wfdb")
    from ecgstore import Listing, RecordRef, Terms
    from ecgstore.sources import wfdb_folder

    folder = tmp_path / "src"
    path = write_record(folder, "r")
    terms = Terms("t", "", "", False)
    listed = Listing((RecordRef("r", path, annotators=("atr",)),), (), terms)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(wfdb_folder, "list_records", lambda root, settings: listed)
        for time, options in ((500, {}), (1000, {"append": True})):
            wfdb.wrann("r", "atr", np.array([time]), symbol=["N"], write_dir=str(folder))
            ingest_folder(folder, tmp_path / "out.ecg", IngestSettings(), **options)
            assert ecgstore.open_store(tmp_path / "out.ecg").beats["sample"].to_pylist() == [time // 5]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="only Linux lists the threads of a process")
def test_no_thread_outlives_an_ingest(mini, tmp_path):
    """One of Arrow's that lets go of something of Python's as the process ends aborts it."""
    code = """
import os, sys
import scipy.fft, scipy.signal  # OpenBLAS begins its own when it is imported
from ecgstore import IngestSettings, ingest_folder, open_store
before = len(os.listdir("/proc/self/task"))
ingest_folder(sys.argv[1], sys.argv[2], IngestSettings(), workers=2)
assert open_store(sys.argv[2]).verify(deep=True) == []
print(len(os.listdir("/proc/self/task")) - before)
"""
    words = [sys.executable, "-c", code, str(mini), str(tmp_path / "out.ecg")]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "0\n"
