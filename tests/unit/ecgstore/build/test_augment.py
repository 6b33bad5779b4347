"""A sibling store with noise: the same records, other samples, the same bytes however it was made."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from ecgstore import IngestSettings, Workers, ingest_folder, open_store, seal_store
from ecgstore.build.augment import augment_store
from ecgstore.errors import ConfigError, StoreExists, StoreIncomplete
from ecgstore.record import Record
from ecgstore.signals import noise
from ecgstore.signals.noise import NoiseSettings
from ecgstore.signals.recorded_noise import Bank, Recording, load_bank
from ecgstore.storage import layout
from ecgstore.storage.store import Store

SETTINGS = NoiseSettings(kind="physiological", snr_db=6)


@pytest.fixture(scope="module")
def clean(mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The bundled records at 500 Hz, in seven shards."""
    out = tmp_path_factory.mktemp("clean") / "clean.ecg"
    ingest_folder(mini, out, IngestSettings(fs_hz=500, filters=()))
    return open_store(out)


@pytest.fixture(scope="module")
def noisy(clean: Store, tmp_path_factory: pytest.TempPathFactory) -> Store:
    out = tmp_path_factory.mktemp("noisy") / "noisy.ecg"
    augment_store(clean, out, SETTINGS)
    return open_store(out)


def pairs(clean: Store, noisy: Store) -> list[tuple[Record, Record]]:
    return [(clean.read(name), noisy.read(name)) for name in clean.column("record_id")]


def test_the_same_records_in_the_same_places(clean, noisy):
    changed = {"crc32", "noise_rms_mv", "snr_db", "warnings", "n_clipped"}
    for name in set(clean.records.column_names) - changed:
        assert noisy.records[name].equals(clean.records[name]), name
    assert not noisy.records["crc32"].equals(clean.records["crc32"])
    for table in ("statements", "rejected", "lead_quality", "beats"):
        assert getattr(noisy, table).equals(getattr(clean, table)), table
    for name in ("leads", "fs_hz", "recipe_sha256", "terms", "n_shards", "shard_samples", "storage"):
        assert getattr(noisy, name) == getattr(clean, name), name
    assert noisy.attributes["parent"] == clean.fingerprint
    assert noisy.attributes["noise"] == SETTINGS.model_dump(mode="json")
    assert noisy.fingerprint != clean.fingerprint
    assert noisy.verify(deep=True) == []


def test_the_columns_say_what_was_really_added(clean, noisy):
    for row, (before, after) in enumerate(pairs(clean, noisy)):
        added_lt = after.signal_mv_lt.astype(np.float64) - before.signal_mv_lt
        power = np.mean(added_lt**2)
        snr_db = 10 * np.log10(np.mean(before.signal_mv_lt.astype(np.float64).var(axis=1)) / power)
        assert snr_db == pytest.approx(6, abs=0.1)
        assert noisy.column("snr_db")[row] == pytest.approx(snr_db, abs=0.001)
        assert noisy.column("noise_rms_mv")[row] == pytest.approx(power**0.5, rel=1e-4)
        i, ii, iii = added_lt[:3]
        assert np.abs(iii - ii + i).max() < 0.0021


def test_statistics_are_those_of_the_noisy_samples(clean, noisy):
    signal_mv_lt = np.concatenate([after.signal_mv_lt for _, after in pairs(clean, noisy)], axis=1).astype(np.float64)
    found = noisy.statistics()
    assert found.mean_mv_l == pytest.approx(signal_mv_lt.mean(axis=1), abs=1e-6)
    assert found.std_mv_l == pytest.approx(signal_mv_lt.std(axis=1), rel=1e-6)
    assert (found.std_mv_l > clean.statistics().std_mv_l).all()
    one = noisy.statistics([3])
    assert one.n_l.tolist() == clean.statistics([3]).n_l.tolist()


def test_the_same_store_for_any_number_of_workers(clean, noisy, tmp_path):
    report = augment_store(clean, tmp_path / "three.ecg", SETTINGS, workers=3)
    assert report.fingerprint == noisy.fingerprint
    assert (report.records, report.unchanged, report.n_shards, report.n_shards_resumed) == (53, 0, 7, 0)
    assert report.snr_db == pytest.approx(6, abs=0.1)


def kill_when(clean: Store, out: Path, shards: int) -> bool:
    """Let it kill itself (SIGKILL: nothing is flushed or closed) once it did so many shards."""
    code = (
        "import os, signal, sys\n"
        "from ecgstore import open_store\n"
        "from ecgstore.build.augment import augment_store\n"
        "from ecgstore.signals.noise import NoiseSettings\n"
        "store, out, shards, settings = sys.argv[1:]\n"
        "def kill(phase, done, total):\n"
        "    if phase == 'shards' and done >= int(shards):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "augment_store(open_store(store), out, NoiseSettings.model_validate_json(settings), workers=2, progress=kill)\n"
    )
    arguments = [clean.path, str(out), str(shards), SETTINGS.model_dump_json()]
    return subprocess.run([sys.executable, "-c", code, *arguments]).returncode == -signal.SIGKILL


def test_killed_and_run_again_gives_the_undisturbed_store(clean, noisy, tmp_path):
    out = tmp_path / "killed.ecg"
    assert kill_when(clean, out, 3)
    with pytest.raises(StoreIncomplete):
        open_store(out)
    with pytest.raises(StoreExists, match="other settings"):
        augment_store(clean, out, NoiseSettings(kind="muscle", snr_db=6))
    done = sorted(int(path.name.partition(".")[0]) for path in (out / layout.COMMITS).iterdir())
    assert 3 <= len(done) < 7
    (out / layout.shard_object(done[0])).write_bytes(b"torn")
    (out / layout.commit_object(done[1])).write_bytes(b"torn")
    report = augment_store(clean, out, SETTINGS, workers=2)
    assert report.n_shards_resumed == len(done) - 2
    assert report.fingerprint == noisy.fingerprint
    assert open_store(out).verify(deep=True) == []


def test_sealed_stores_are_kept_unless_told_otherwise(clean, noisy, tmp_path):
    out = Path(shutil.copytree(noisy.path, tmp_path / "noisy.ecg"))
    assert augment_store(clean, out, SETTINGS).n_shards_resumed == 7
    with pytest.raises(StoreExists, match="--overwrite"):
        augment_store(clean, out, SETTINGS, resume=False)
    other = NoiseSettings(kind="muscle", level=2)
    with pytest.raises(StoreExists, match="other noise"):
        augment_store(clean, out, other)
    report = augment_store(clean, out, other, overwrite=True)
    assert open_store(out).attributes["noise"]["kind"] == "muscle"
    assert report.fingerprint == open_store(out).fingerprint != noisy.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["noisy.ecg"]


def test_what_is_refused(clean, noisy, mini_store, tmp_path):
    with pytest.raises(ConfigError, match="noise on it already"):
        augment_store(noisy, tmp_path / "twice.ecg", SETTINGS)
    for out in (Path(clean.path), Path(clean.path) / "inside.ecg", Path(clean.path).parent):
        with pytest.raises(ConfigError, match="must not contain each other"):
            augment_store(clean, out, SETTINGS)
    with pytest.raises(ConfigError, match="no mains hum"):
        augment_store(open_store(mini_store), tmp_path / "hum.ecg", NoiseSettings(kind="powerline", snr_db=6))
    with pytest.raises(ConfigError, match="recorded noise"):
        augment_store(clean, tmp_path / "recorded.ecg", NoiseSettings(kind="nstdb-ma", snr_db=6))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "thesis.txt").write_text("three years of work")
    with pytest.raises(StoreExists, match="not a store"):
        augment_store(clean, tmp_path, SETTINGS, overwrite=True)


def test_noise_before_and_after_storing_is_the_same(mini, clean, noisy, tmp_path):
    """Noise as a stage of the ingest, and noise on the stored records: not one sample differs."""
    ingest_folder(mini, tmp_path / "noisy.ecg", IngestSettings(fs_hz=500, filters=(), noise=SETTINGS))
    ingested = open_store(tmp_path / "noisy.ecg")
    for name in ("record_id", "crc32", "noise_rms_mv", "snr_db", "n_clipped"):
        assert ingested.records[name].equals(noisy.records[name]), name


def test_leads_that_are_not_there_and_records_without_a_signal(tmp_path, write_record):
    rng = np.random.default_rng(0)
    counts_tl = (200 * rng.standard_normal((250, 2))).astype("<i2")
    write_record(tmp_path / "src", "half_a_second", counts_tl, leads=("II", "V5"))
    write_record(tmp_path / "src", "one_lead", counts_tl[:, :1], leads=("II",))
    write_record(tmp_path / "src", "silent", np.full((250, 2), 70), leads=("II", "V5"))
    gap_tl = counts_tl.copy()
    gap_tl[40:90] = -32768
    write_record(tmp_path / "src", "gap", gap_tl, leads=("II", "V5"))
    ingest_folder(tmp_path / "src", tmp_path / "clean.ecg", IngestSettings(fs_hz=500, filters=(), leads=("II", "V5")))
    clean = open_store(tmp_path / "clean.ecg")
    report = augment_store(clean, tmp_path / "noisy.ecg", NoiseSettings(kind="motion", snr_db=0))
    noisy = open_store(tmp_path / "noisy.ecg")
    assert (report.records, report.unchanged, report.warnings) == (4, 1, 1)
    for before, after in pairs(clean, noisy):
        assert np.array_equal(np.isnan(before.signal_mv_lt), np.isnan(after.signal_mv_lt))
        assert after.lead_states == before.lead_states
    silent = noisy.records.filter(pc.equal(noisy.records["record_id"], "silent")).to_pylist()[0]
    assert (silent["noise_rms_mv"], silent["snr_db"]) == (0.0, None)
    assert "no noise was added" in silent["warnings"]
    assert np.array_equal(noisy.read("silent").signal_mv_lt, clean.read("silent").signal_mv_lt)
    others = noisy.column("snr_db")[noisy.column("record_id") != "silent"]
    assert others == pytest.approx(0, abs=0.1)


def test_a_record_of_several_shards_gets_one_noise(tmp_path, write_record):
    counts_tl = (100 * np.sin(np.arange(1_400_000)[:, None] / 40) + np.zeros(2)).astype("<i2")
    write_record(tmp_path / "src", "long", counts_tl, leads=("II", "V5"))
    write_record(tmp_path / "src", "short", counts_tl[:5000], leads=("II", "V5"))
    ingest_folder(tmp_path / "src", tmp_path / "clean.ecg", IngestSettings(fs_hz=500, filters=(), leads=("II", "V5")))
    clean = open_store(tmp_path / "clean.ecg")
    assert clean.n_shards > 2
    settings = NoiseSettings(kind="muscle", snr_db=10)
    augment_store(clean, tmp_path / "noisy.ecg", settings)
    noisy = open_store(tmp_path / "noisy.ecg")
    assert noisy.verify(deep=True) == []
    whole = noise.add_noise(clean.read("long").signal_mv_lt, 500.0, "long", settings, leads=("II", "V5"))
    assert np.array_equal(noisy.read("long").signal_mv_lt, whole.signal_mv_lt)
    assert noisy.column("snr_db") == pytest.approx([10, 10], abs=0.1)


def test_a_recording_is_named_in_the_terms(clean, tmp_path):
    rng = np.random.default_rng(0)
    counts_st = rng.standard_normal((2, 9000)).astype(np.float32)
    bank = Bank(tmp_path, {"nstdb-ma": Recording("ma", 360.0, counts_st, "abc")})
    augment_store(clean, tmp_path / "ma.ecg", NoiseSettings(kind="nstdb-ma", snr_db=6), bank=bank)
    store = open_store(tmp_path / "ma.ecg")
    assert [terms.name for terms in store.terms] == ["ptbxl", "nstdb"]
    assert store.terms[1].licence == "ODC-By-1.0"
    assert store.attributes["noise"]["bank_sha256"] == "abc"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wander", "nstdb-bw"])
def test_processes_and_parts_give_the_same_store(clean, tmp_path, bank_folder, kind):
    settings = NoiseSettings(kind=kind, snr_db=6)
    bank = load_bank(bank_folder) if kind.startswith("nstdb") else None
    alone = augment_store(clean, tmp_path / "alone.ecg", settings, bank=bank)
    with_processes = augment_store(
        clean, tmp_path / "processes.ecg", settings, bank=bank, workers=Workers(n=2, processes=True)
    )
    assert with_processes.fingerprint == alone.fingerprint
    out = tmp_path / "parts.ecg"
    for i in (2, 1):
        report = augment_store(clean, out, settings, bank=bank, workers=2, part=(i, 2))
        assert report.fingerprint == ""
        if i == 2:
            with pytest.raises(StoreIncomplete, match="4 of 7 tasks are not done"):
                seal_store(out)
    assert seal_store(out).fingerprint == alone.fingerprint
    with pytest.raises(StoreExists, match="sealed already"):
        seal_store(out)


def test_parts_of_a_parent_that_was_replaced_are_not_sealed(clean, tmp_path):
    parent = tmp_path / "parent.ecg"
    shutil.copytree(clean.path, parent)
    augment_store(open_store(parent), tmp_path / "out.ecg", SETTINGS, part=(1, 1))
    shutil.rmtree(parent)
    augment_store(clean, parent, NoiseSettings(kind="muscle", snr_db=3))
    with pytest.raises(ConfigError, match="noise on it already"):
        augment_store(open_store(parent), tmp_path / "out.ecg", SETTINGS, part=(1, 1))
    with pytest.raises(StoreExists, match="not the store that this one was begun from"):
        seal_store(tmp_path / "out.ecg")
