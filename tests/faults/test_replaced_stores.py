"""A store that is replaced while it is read: the old samples, or a word about it; never new ones under old tables."""

from __future__ import annotations

import pickle
import random
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from ecgstore import IngestSettings, Store, StoreError, StoreReplaced, ingest_folder, open_store
from ecgstore.build import building
from ecgstore.storage import layout

REPLACED = "the store was replaced by another one while it was open; .*open it again"


@pytest.fixture
def source(tmp_path, write_record):
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        write_record(tmp_path / "src", name, rng.integers(-999, 999, (900, 12)).astype("<i2"), fs="100")
    return tmp_path / "src"


def ingest(source, out, **how):
    # Two recipes whose tables look the same and whose samples don't.
    filters = ({"name": "highpass", "freq_hz": 0.5},) if how.pop("filtered", False) else ()
    return ingest_folder(source, out, IngestSettings(fs_hz=100, filters=filters), workers=1, **how)


def read_all(store: Store) -> list[np.ndarray]:
    read = [store.read_shard(shard).counts_lt for shard in range(store.n_shards)]
    return [*read, *(store.read(one).signal_mv_lt for one in store.column("record_id").tolist())]


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(one, other, strict=True))


def test_an_open_store_never_gives_samples_of_the_next_one(source, tmp_path):
    ingest(source, tmp_path / "out.ecg")
    store, untouched = open_store(tmp_path / "out.ecg"), open_store(tmp_path / "out.ecg")
    old, pickled = read_all(store), pickle.dumps(store)
    assert same(read_all(pickle.loads(pickled)), old)
    ingest(source, tmp_path / "out.ecg", filtered=True, overwrite=True)
    for one in (store, untouched):
        with pytest.raises(StoreReplaced, match=REPLACED):
            one.read_shard(0)
        with pytest.raises(StoreReplaced, match=REPLACED):
            one.read("a")
        with pytest.raises(StoreReplaced, match=REPLACED):
            one.read("b", stop_s=1)
    with pytest.raises(StoreReplaced, match=REPLACED):
        _ = untouched.statements
    with pytest.raises(StoreReplaced, match=REPLACED):
        pickle.loads(pickled)
    assert not same(read_all(open_store(tmp_path / "out.ecg")), old)


def test_a_store_that_is_moved_away_is_read_on(source, tmp_path):
    ingest(source, tmp_path / "out.ecg")
    store = open_store(tmp_path / "out.ecg")
    (tmp_path / "out.ecg").rename(tmp_path / "elsewhere.ecg")
    ingest(source, tmp_path / "out.ecg", filtered=True)
    assert same(read_all(store), read_all(open_store(tmp_path / "elsewhere.ecg")))


def test_files_that_are_exchanged_in_the_folder_are_noticed(source, tmp_path):
    ingest(source, tmp_path / "out.ecg")
    ingest(source, tmp_path / "new.ecg", filtered=True)
    store = open_store(tmp_path / "out.ecg")
    for path in sorted((tmp_path / "new.ecg").rglob("*")):
        if path.is_file():
            shutil.copy(path, tmp_path / "out.ecg" / path.relative_to(tmp_path / "new.ecg"))
    for read in (lambda: store.read_shard(0), lambda: store.read("a"), lambda: store.read("a", stop_s=1)):
        with pytest.raises(StoreReplaced, match=REPLACED):
            read()


def test_the_same_manifest_written_again_is_the_same_store(source, tmp_path):
    ingest(source, tmp_path / "out.ecg")
    store = open_store(tmp_path / "out.ecg")
    path = tmp_path / "out.ecg" / "manifest.json"
    shutil.copy(path, tmp_path / "aside.json")
    (tmp_path / "aside.json").replace(path)
    assert len(read_all(store)) == 4


def test_overwrite_through_a_link_replaces_what_it_leads_to(source, tmp_path):
    (tmp_path / "disk").mkdir()
    ingest(source, tmp_path / "disk/real.ecg")
    (tmp_path / "out.ecg").symlink_to("disk/real.ecg")
    before = open_store(tmp_path / "out.ecg").fingerprint
    for filtered in (True, False):
        ingest(source, tmp_path / "out.ecg", filtered=filtered, overwrite=True)
        assert (open_store(tmp_path / "out.ecg").fingerprint == before) is not filtered
        assert open_store(tmp_path / "out.ecg").verify(deep=True) == []
    assert (tmp_path / "out.ecg").is_symlink()
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["real.ecg"]


@pytest.mark.slow
def test_fifty_rounds_of_creating_and_reading(tmp_path, write_record, monkeypatch):
    """Whoever reads gets one store or the other, whole, or is told; never a mixture."""
    out, rng, stop = tmp_path / "out.ecg", random.Random(0), threading.Event()
    versions = []
    monkeypatch.setattr(layout, "CHUNK_SAMPLES", 1000)
    for seed in (0, 1):
        # Noise can't be packed: the shards of both have the same size, and only their samples tell them apart.
        counts_tl = np.random.default_rng(seed).integers(-32_767, 32_768, (1000, 12)).astype("<i2")
        write_record(tmp_path / f"src{seed}", "a", counts_tl, fs="100")
        ingest(tmp_path / f"src{seed}", tmp_path / f"{seed}.ecg")
        versions.append(tmp_path / f"{seed}.ecg")
    assert len({(one / "signal/c/0/0").stat().st_size for one in versions}) == 1
    right = {open_store(one).fingerprint: read_all(open_store(one)) for one in versions}
    shutil.copytree(versions[0], out)
    wrong: list[str] = []

    def read_again_and_again():
        while not stop.is_set():
            try:
                store = open_store(out)
                for _ in range(3):
                    if not same(read_all(store), right[store.fingerprint]):
                        wrong.append("a mixture")
            except StoreError:
                continue
            except Exception as error:
                wrong.append(repr(error))

    readers = [threading.Thread(target=read_again_and_again) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for k in range(1, 51):
            shutil.copytree(versions[k % 2], building.beside(out))
            stop.wait(rng.random() * 0.02)
            building.swap(building.beside(out), out)
            stop.wait(rng.random() * 0.02)
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert not wrong
    assert same(read_all(open_store(out)), right[open_store(out).fingerprint])
    assert Path(out).is_dir()
