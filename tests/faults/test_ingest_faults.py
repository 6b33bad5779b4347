"""What an ingest survives: kills, bad records, a second ingest, a full disk, files that change under it."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from terminal import without_progress

import ecgstore
from ecgstore.build import building
from ecgstore.build.ingest import ingest_folder
from ecgstore.build.settings import IngestSettings
from ecgstore.errors import SourceError, StoreExists, StoreIncomplete
from ecgstore.storage import layout

SETTINGS = IngestSettings(
    fs_hz=100,
    filters=({"name": "bandpass", "low_hz": 0.5, "high_hz": 40.0},),
)


def command(source: Path, out: Path, *more: str) -> list[str]:
    flags = ["--fs", "100", "--bandpass", "0.5", "40", *more]
    return [sys.executable, "-m", "ecgstore", "ingest", str(source), str(out), *flags]


@pytest.fixture(scope="session")
def many(mini, tmp_path_factory) -> Path:
    """The bundled records ten times over, 530 records in 7 shards."""
    root = tmp_path_factory.mktemp("many")
    files = list(mini.rglob("*_hr.*"))
    for copy in range(10):
        folder = root / f"{copy:02d}"
        folder.mkdir()
        for path in files:
            shutil.copy(path, folder)
    return root


@pytest.fixture(scope="session")
def undisturbed(many, tmp_path_factory) -> str:
    out = tmp_path_factory.mktemp("undisturbed") / "store.ecg"
    return ingest_folder(many, out, SETTINGS, workers=2).fingerprint


def kill_when(source: Path, out: Path, commits: int) -> bool:
    """Let an ingest kill itself (SIGKILL: nothing is flushed or closed) once it did ``commits`` shards."""
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from ecgstore.build.ingest import IngestSettings, ingest_folder\n"
        "source, out, commits, settings = sys.argv[1:]\n"
        "def kill(phase, done, total):\n"
        "    if phase == 'shards' and done >= int(commits):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "ingest_folder(source, out, IngestSettings.model_validate_json(settings), progress=kill)\n"
    )
    arguments = [str(source), str(out), str(commits), SETTINGS.model_dump_json()]
    return subprocess.run([sys.executable, "-c", code, *arguments]).returncode == -signal.SIGKILL


def kill_after(source: Path, out: Path, delay_s: float) -> bool:
    """SIGKILL an ingest from outside, at any moment; True if it was still running."""
    process = subprocess.Popen(
        command(source, out, "--workers", "2"), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    try:
        process.wait(timeout=delay_s)
    except subprocess.TimeoutExpired:
        process.kill()
    return process.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_the_same_store_for_any_number_of_workers(many, undisturbed, tmp_path):
    for workers in (1, 3):
        report = ingest_folder(many, tmp_path / f"{workers}.ecg", SETTINGS, workers=workers)
        assert report.fingerprint == undisturbed


def test_killed_and_run_again_gives_the_undisturbed_store(many, undisturbed, tmp_path):
    out = tmp_path / "killed.ecg"
    assert kill_when(many, out, commits=5)
    with pytest.raises(StoreIncomplete, match="never sealed.*running the command"):
        ecgstore.open_store(out)
    report = ingest_folder(many, out, SETTINGS, workers=2)
    assert report.n_shards_resumed >= 5
    assert report.fingerprint == undisturbed
    assert ecgstore.open_store(out).verify(deep=True) == []


@pytest.mark.slow
def test_twenty_kills_at_random_moments(many, undisturbed, tmp_path):
    draw = random.Random(0)
    out = tmp_path / "killed.ecg"
    kills = 0
    while kills < 20:
        if (out / layout.MANIFEST).exists():
            assert ecgstore.open_store(out).fingerprint == undisturbed
            shutil.rmtree(out)
        kills += kill_after(many, out, delay_s=draw.uniform(0.3, 2.0))
    assert ingest_folder(many, out, SETTINGS, workers=2, resume=True).fingerprint == undisturbed
    assert ecgstore.open_store(out).verify(deep=True) == []


@pytest.mark.slow
def test_a_commit_whose_shard_was_damaged_is_done_again(many, undisturbed, tmp_path):
    out = tmp_path / "killed.ecg"
    assert kill_when(many, out, commits=4)
    one, two, three = [int(path.stem) for path in sorted(out.glob("commits/*.arrow"))][:3]
    (out / layout.shard_object(one)).write_bytes(b"torn")
    (out / layout.commit_object(two)).write_bytes(b'{"torn')
    (out / layout.shard_object(three)).unlink()
    (out / "signal/c/0/999.123.partial").write_bytes(b"left behind")
    assert ingest_folder(many, out, SETTINGS, workers=2).fingerprint == undisturbed


def test_an_unfinished_store_of_other_settings_is_left_alone(many, tmp_path):
    out = tmp_path / "killed.ecg"
    assert kill_when(many, out, commits=2)
    with pytest.raises(StoreExists, match="other settings"):
        ingest_folder(many, out, IngestSettings(fs_hz=250))


@pytest.mark.slow
def test_two_ingests_on_one_output(many, undisturbed, tmp_path):
    out = tmp_path / "store.ecg"
    assert kill_when(many, out, commits=2)
    with building.lock_file(out).open("a") as first:  # as an ingest holds it while it writes
        fcntl.flock(first, fcntl.LOCK_EX)
        second = subprocess.run(command(many, out), capture_output=True, text=True)
    assert second.returncode == 1
    assert "another ingest is writing this store right now" in second.stderr
    assert ingest_folder(many, out, SETTINGS, workers=2).fingerprint == undisturbed


def test_sealed_stores_are_kept_unless_told_otherwise(mini, tmp_path):
    out = tmp_path / "store.ecg"
    first = ingest_folder(mini, out, SETTINGS)
    with pytest.raises(StoreExists, match="sealed store is there already.*--overwrite"):
        ingest_folder(mini, out, SETTINGS)
    assert ingest_folder(mini, out, SETTINGS, resume=True).fingerprint == first.fingerprint
    with pytest.raises(StoreExists, match="other settings"):
        ingest_folder(mini, out, IngestSettings(fs_hz=250), resume=True)
    other = ingest_folder(mini, out, IngestSettings(fs_hz=250), overwrite=True)
    assert other.fingerprint != first.fingerprint
    assert ecgstore.open_store(out).fs_hz == 250
    assert [path.name for path in tmp_path.iterdir()] == ["store.ecg"]


def test_a_folder_that_is_no_store_is_never_touched(mini, tmp_path):
    (tmp_path / "thesis.txt").write_text("three years of work")
    for overwrite in (False, True):
        with pytest.raises(StoreExists, match="is not a store"):
            ingest_folder(mini, tmp_path, SETTINGS, overwrite=overwrite)
    assert (tmp_path / "thesis.txt").read_text() == "three years of work"


def test_bad_records_are_left_out_with_reasons_and_the_rest_goes_on(tmp_path, write_record):
    source = tmp_path / "src"
    for name in ("good1", "good2"):
        write_record(source, name)
    write_record(source, "gain", gain="0/mV")
    write_record(source, "names", leads=("I", "II", "Abdomen_1"))
    write_record(source, "sums", checksum=1)
    write_record(source, "cut")
    (source / "cut.dat").write_bytes((source / "cut.dat").read_bytes()[:777])
    write_record(source, "pointer")
    (source / "pointer.dat").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 120000\n")
    report = ingest_folder(source, tmp_path / "out.ecg", SETTINGS)
    assert (report.records, report.rejected) == (2, 5)
    store = ecgstore.open_store(tmp_path / "out.ecg")
    reasons = {row["record_id"]: row["reason"] for row in store.rejected.to_pylist()}
    assert reasons == {
        "gain": "bad_gain",
        "names": "unknown_lead",
        "sums": "bad_checksum",
        "cut": "truncated",
        "pointer": "truncated",
    }
    assert store.column("record_id").tolist() == ["good1", "good2"]


def test_a_file_that_vanishes_between_scan_and_read_is_left_out(mini, tmp_path, monkeypatch):
    source = shutil.copytree(mini, tmp_path / "src")
    victim = sorted(source.rglob("*.dat"))[3]

    def vanish(phase: str, done: int, total: int) -> None:
        if phase == "shards" and done == 0:
            victim.unlink(missing_ok=True)

    report = ingest_folder(source, tmp_path / "out.ecg", SETTINGS, progress=vanish)
    assert (report.records, report.reasons) == (52, {"missing_signal": 1})
    assert ecgstore.open_store(tmp_path / "out.ecg").verify(deep=True) == []


def test_a_file_that_changes_between_scan_and_read_is_left_out_and_comes_back(mini, mini_store, tmp_path):
    source = shutil.copytree(mini, tmp_path / "source")
    dat = sorted(source.rglob("*_hr.dat"))[3]
    whole = dat.read_bytes()

    def change(phase: str, done: int, total: int) -> None:
        if phase == "scan" and done == total:
            dat.write_bytes(whole[:60_000] + bytes(60_000))

    out = tmp_path / "out.ecg"
    report = ingest_folder(source, out, SETTINGS, progress=change)
    assert (report.records, report.reasons) == (52, {"bad_checksum": 1})
    assert ecgstore.open_store(out).verify(deep=True) == []
    dat.write_bytes(whole)
    assert ingest_folder(source, out, SETTINGS, append=True).records == 53
    grown, undisturbed = ecgstore.open_store(out), ecgstore.open_store(mini_store)
    assert grown.verify(deep=True) == []
    record_id = ecgstore.open_store(out).column("record_id")[-1]
    np.testing.assert_array_equal(grown.read(record_id).signal_mv_lt, undisturbed.read(record_id).signal_mv_lt)


def test_folders_without_a_usable_record(tmp_path, write_record):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"no WFDB record \(\*\.hea\) was found"):
        ingest_folder(tmp_path / "empty", tmp_path / "out.ecg", SETTINGS)
    with pytest.raises(SourceError, match="not there"):
        ingest_folder(tmp_path / "nowhere", tmp_path / "out.ecg", SETTINGS)
    write_record(tmp_path / "bad", gain="0/mV")
    with pytest.raises(SourceError, match=r"none of 1 records can be used \(bad_gain × 1\)"):
        ingest_folder(tmp_path / "bad", tmp_path / "out.ecg", SETTINGS)
    assert not (tmp_path / "out.ecg").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_is_said_and_survived(many, undisturbed, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("this machine allows no mounts")
    try:
        done = subprocess.run(command(many, small / "store.ecg"), capture_output=True, text=True)
        assert done.returncode == 1
        assert without_progress(done.stderr).count("\n") == 1
        assert "No space left on device" in done.stderr or "the disk is full" in done.stderr
        subprocess.run(["mount", "-o", "remount,size=200m", small], check=True)
        assert ingest_folder(many, small / "store.ecg", SETTINGS, workers=2).fingerprint == undisturbed
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_lead_that_is_never_recorded_stays_not_recorded(tmp_path, write_record):
    counts_tl = np.random.default_rng(0).integers(-500, 500, (5000, 12)).astype("<i2")
    counts_tl[:, 7] = -32768
    write_record(tmp_path / "src", counts_tl=counts_tl)
    ingest_folder(tmp_path / "src", tmp_path / "out.ecg", SETTINGS)
    record = ecgstore.open_store(tmp_path / "out.ecg").read("r1")
    assert np.isnan(record.signal_mv_lt[7]).all()
    assert np.isfinite(np.delete(record.signal_mv_lt, 7, axis=0)).all()
    assert "".join(record.lead_states) == "mmmmmmmbmmmm"


def test_a_lead_that_never_changes_is_kept_and_called_bad(tmp_path, write_record):
    counts_tl = np.random.default_rng(0).integers(-500, 500, (5000, 12)).astype("<i2")
    counts_tl[:, 3] = 250
    counts_tl[:, 4] = 100
    counts_tl[1000:2000, 4] = -32768
    write_record(tmp_path / "src", counts_tl=counts_tl)
    ingest_folder(tmp_path / "src", tmp_path / "out.ecg", IngestSettings(fs_hz=100, filters=()))
    store = ecgstore.open_store(tmp_path / "out.ecg")
    record = store.read("r1")
    np.testing.assert_allclose(record.signal_mv_lt[3], 0.25, atol=1e-6)
    assert "".join(record.lead_states) == "mmmbbmmmmmmm"
    assert store.column("n_not_recorded").tolist() == [201]
