"""Records too long to be held at once: read, conditioned and written in pieces, to the same store."""

from __future__ import annotations

import numpy as np
import pytest

import ecgstore
from ecgstore.build import shards
from ecgstore.build.ingest import ingest_folder
from ecgstore.build.settings import IngestSettings
from ecgstore.storage import layout


@pytest.fixture
def folder(tmp_path, write_record):
    """A long record of 3 leads with a gap and a flat lead, between two short ones."""
    rng = np.random.default_rng(5)
    t = np.arange(180_000)
    wave = np.stack([300 * np.sin(t / (9 + lead)) + 200 * np.sin(t / 700) for lead in range(3)], axis=1)
    long = (wave + 30 * rng.standard_normal(wave.shape)).astype("<i2")
    long[70_000:73_000, 1] = -32768
    long[:, 2] = 17
    write_record(tmp_path / "src", "b", long, ("I", "II", "V1"), fs="250")
    for name in "ac":
        write_record(tmp_path / "src", name, long[:2500], ("I", "II", "V1"), fs="250")
    return tmp_path / "src"


def both_ways(folder, tmp_path, monkeypatch, **settings):
    """The store made in one piece, and the store made in pieces of 40 s."""
    ingest_folder(folder, tmp_path / "whole.ecg", IngestSettings(**settings))
    monkeypatch.setattr(shards, "LONG_VALUES", 120_000)
    ingest_folder(folder, tmp_path / "pieces.ecg", IngestSettings(**settings))
    return [ecgstore.open_store(tmp_path / f"{name}.ecg") for name in ("whole", "pieces")]


@pytest.mark.parametrize("chunk", [1000, 40_000], ids=["over many shards", "inside one shard"])
def test_pieces_give_the_record_within_a_microvolt(folder, tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(layout, "CHUNK_SAMPLES", chunk)
    monkeypatch.setattr(layout, "CHUNKS_PER_SHARD", (8, 4, 2))
    whole, pieces = both_ways(folder, tmp_path, monkeypatch, leads=("I", "II", "V1"))
    assert pieces.verify(deep=True) == []
    one, other = whole.read("b"), pieces.read("b")
    assert one.lead_states == other.lead_states
    np.testing.assert_array_equal(np.isnan(one.signal_mv_lt), np.isnan(other.signal_mv_lt))
    assert np.nanmax(np.abs(one.signal_mv_lt - other.signal_mv_lt)) < 0.00201
    for column in ("n_not_recorded", "n_clipped", "source_crc32", "warnings"):
        assert whole.column(column).tolist() == pieces.column(column).tolist()
    np.testing.assert_allclose(whole.column("range_mv"), pieces.column("range_mv"), rtol=0.01)
    np.testing.assert_allclose(whole.column("missing_fraction"), pieces.column("missing_fraction"), atol=0.01)
    assert whole.column("signature").tolist() == pieces.column("signature").tolist()


def test_a_wrong_checksum_at_the_end_of_a_long_record_leaves_it_out(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "CHUNK_SAMPLES", 1000)
    monkeypatch.setattr(layout, "CHUNKS_PER_SHARD", (8, 4, 2))
    monkeypatch.setattr(shards, "LONG_VALUES", 120_000)
    dat = folder / "b.dat"
    content = bytearray(dat.read_bytes())
    content[-6] ^= 1
    dat.write_bytes(content)
    ingest_folder(folder, tmp_path / "out.ecg", IngestSettings())
    store = ecgstore.open_store(tmp_path / "out.ecg")
    assert store.verify(deep=True) == []
    assert store.column("record_id").tolist() == ["a", "c"]
    assert store.rejected["reason"].to_pylist() == ["bad_checksum"]


def test_memory_is_bounded_by_the_piece(tmp_path, write_record, monkeypatch):
    import tracemalloc

    monkeypatch.setattr(shards, "LONG_VALUES", 400_000)
    n = 4_000_000
    counts = (100 * np.sin(np.arange(n) / 20)).astype("<i2")[:, None]
    write_record(tmp_path / "src", "holter", counts, ("II",), fs="500")
    ingest_folder(tmp_path / "src", tmp_path / "warm.ecg", IngestSettings(leads=("II",)))
    tracemalloc.start()
    ingest_folder(tmp_path / "src", tmp_path / "out.ecg", IngestSettings(leads=("II",)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The whole record as float32 is 16 MB, and in the transform several times that.
    assert peak < 14e6
