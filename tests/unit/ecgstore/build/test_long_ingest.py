"""Records too long to be held at once: read, conditioned and written in pieces, to the same store."""

from __future__ import annotations

import numpy as np
import pytest

import ecgstore
from ecgstore.build import long
from ecgstore.build.ingest import ingest_folder
from ecgstore.build.settings import IngestSettings
from ecgstore.storage import layout
from ecgstore.storage.layout import MEASURES


@pytest.fixture
def folder(tmp_path, write_record):
    """A long record of 3 leads with a gap and a flat lead, between two short ones."""
    rng = np.random.default_rng(5)
    t = np.arange(180_000)
    wave = np.stack([300 * np.sin(t / (9 + lead)) + 200 * np.sin(t / 700) for lead in range(3)], axis=1)
    trace = (wave + 30 * rng.standard_normal(wave.shape)).astype("<i2")
    trace[70_000:73_000, 1] = -32768
    trace[:, 2] = 17
    write_record(tmp_path / "src", "b", trace, ("I", "II", "V1"), fs="250")
    for name in "ac":
        write_record(tmp_path / "src", name, trace[:2500], ("I", "II", "V1"), fs="250")
    return tmp_path / "src"


def both_ways(folder, tmp_path, monkeypatch, **settings):
    """The store made in one piece, and the store made in pieces of 40 s."""
    ingest_folder(folder, tmp_path / "whole.ecg", IngestSettings(**settings))
    monkeypatch.setattr(long, "LONG_VALUES", 120_000)
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
    for column in ("range_mv", "missing_fraction"):
        np.testing.assert_array_equal(whole.column(column), pieces.column(column))
    assert whole.column("signature").tolist() == pieces.column("signature").tolist()


def test_a_wrong_checksum_at_the_end_of_a_long_record_leaves_it_out(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "CHUNK_SAMPLES", 1000)
    monkeypatch.setattr(layout, "CHUNKS_PER_SHARD", (8, 4, 2))
    monkeypatch.setattr(long, "LONG_VALUES", 120_000)
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

    monkeypatch.setattr(long, "LONG_VALUES", 400_000)
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


#: By how much a measure of the pieces may differ from that of the whole, as a share of it; others by nothing.
TOLERANCE = {"flat_fraction": 0.01, "clipped_fraction": 0.01, "hf_noise_mv": 0.02, "mains_mv": 0.02}
TOLERANCE |= {"baseline_mv": 0.03, "einthoven_mv": 0.02}


@pytest.mark.parametrize("filters", [None, ()], ids=["pieces overlap", "pieces do not overlap"])
@pytest.mark.parametrize("n_samples", [180_000, 120_700], ids=["even", "with a short rest"])
def test_each_sample_of_a_long_record_is_judged_once(tmp_path, write_record, monkeypatch, filters, n_samples):
    """II lacks its second half, V1 is flat for a third, V2 is cut off, V3 drifts by 2 mV; I, II and III don't agree."""
    rng = np.random.default_rng(6)
    t = np.arange(n_samples)
    beat = 800 * np.exp(-(((t % 210) - 100) ** 2) / 40.0)
    trace = np.stack([beat * (1 + 0.1 * lead) + 40 * np.sin(t / 1.3 + lead) for lead in range(6)], axis=1)
    trace += 20 * rng.standard_normal(trace.shape) + (60 * np.sin(2 * np.pi * 50 / 250 * t))[:, None]
    trace += (150 * np.sin(2 * np.pi * 0.2 / 250 * t))[:, None]
    trace[n_samples // 2 :, 1] = -32768
    trace[: n_samples // 3, 3] = 250
    trace[:, 4] = np.clip(trace[:, 4], -200, 600)
    trace[:, 5] += 2000 * t / n_samples
    leads = ("I", "II", "III", "V1", "V2", "V3")
    write_record(tmp_path / "src", "r", trace.astype("<i2"), leads, fs="250")
    settings = {"leads": leads} if filters is None else {"leads": leads, "filters": filters, "fs_hz": 250}
    whole, pieces = both_ways(tmp_path / "src", tmp_path, monkeypatch, **settings)
    one, other = whole.lead_quality.to_pylist()[0], pieces.lead_quality.to_pylist()[0]
    assert other["missing_fraction"] == [0, 0.5, 0, 0, 0, 0]
    assert other["flat_fraction"][3] == pytest.approx(1 / 3, abs=0.001)
    assert other["clipped_fraction"][4] > 0.02
    for name in MEASURES:
        expected, found = np.array(one[name]), np.array(other[name])
        if name == "baseline_mv":
            # The level that is drawn across a gap is the last sample before it, whatever that is.
            assert found[1] == pytest.approx(expected[1], rel=0.15)
            expected, found = np.delete(expected, 1), np.delete(found, 1)
        if name == "hf_noise_mv":
            # The quietest quarter of all of II is the quieter half of what there is of it: see docs/quality.md.
            assert found[1] == pytest.approx(found[0], rel=0.1)
            expected, found = np.delete(expected, [1, 3]), np.delete(found, [1, 3])
        np.testing.assert_allclose(found, expected, rtol=TOLERANCE.get(name, 0), atol=1e-4, err_msg=name)
    for name in ("einthoven_mv", "missing_fraction", "range_mv"):
        np.testing.assert_allclose(pieces.column(name), whole.column(name), rtol=TOLERANCE.get(name, 0))


@pytest.mark.parametrize("flat", [False, True], ids=["three limb leads", "one of them flat"])
def test_limb_leads_of_a_long_record_are_suspected_as_those_of_a_short_one(tmp_path, write_record, monkeypatch, flat):
    trace = (300 * np.random.default_rng(7).standard_normal((100_000, 3))).astype("<i2")
    trace[:, 2] = 12 if flat else trace[:, 2]
    write_record(tmp_path / "src", "r", trace, ("I", "II", "III"), fs="250")
    whole, pieces = both_ways(tmp_path / "src", tmp_path, monkeypatch, leads=("I", "II", "III"))
    for name in ("suspects", "lead_states"):
        assert pieces.column(name).tolist() == whole.column(name).tolist()
    assert pieces.column("suspects").tolist() == ["" if flat else "limb leads don't add up: III"]
    np.testing.assert_allclose(pieces.column("einthoven_mv"), whole.column("einthoven_mv"), rtol=0.005)
    assert np.isnan(pieces.column("einthoven_mv")).tolist() == [flat]


def test_limb_leads_of_a_long_record_are_derived_from_those_that_live(tmp_path, write_record, monkeypatch):
    """I is dead throughout, II only at first: the whole record tells, not its first piece."""
    trace = (300 * np.random.default_rng(8).standard_normal((100_000, 3))).astype("<i2")
    trace[:, 0], trace[:60_000, 1] = 12, 5
    write_record(tmp_path / "src", "r", trace, ("I", "II", "III"), fs="250")
    whole, pieces = both_ways(tmp_path / "src", tmp_path, monkeypatch)
    assert whole.column("lead_states").tolist() == pieces.column("lead_states").tolist() == ["bmmdddaaaaaa"]
    one, other = whole.read("r").signal_mv_lt[:6], pieces.read("r").signal_mv_lt[:6]
    assert np.abs(one - other).max() < 0.00201
    np.testing.assert_allclose(one[5], one[1] / 2 + one[2] / 2, atol=0.002)


@pytest.mark.parametrize("chunk", [1000, 40_000], ids=["over many shards", "inside one shard"])
def test_raw_counts_in_pieces_are_the_counts_of_the_whole(folder, tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(layout, "CHUNK_SAMPLES", chunk)
    monkeypatch.setattr(layout, "CHUNKS_PER_SHARD", (8, 4, 2))
    whole, pieces = both_ways(folder, tmp_path, monkeypatch, profile="raw", extra_leads="drop")
    assert pieces.verify(deep=True) == []
    for shard in range(whole.n_shards):
        np.testing.assert_array_equal(whole.read_shard(shard).counts_lt, pieces.read_shard(shard).counts_lt)
    for column in ("record_id", "lead_states", "n_not_recorded", "source_crc32", "crc32", "signature", "warnings"):
        assert whole.column(column).tolist() == pieces.column(column).tolist()
    for name in ("gain_per_mv", "baseline", "range_mv", "missing_fraction"):
        assert whole.lead_quality[name].to_pylist() == pieces.lead_quality[name].to_pylist()


def test_a_long_raw_record_that_16_bits_cannot_hold_is_left_out(tmp_path, write_record, monkeypatch):
    monkeypatch.setattr(long, "LONG_VALUES", 1000)
    for name, highest in (("bad", 32768), ("good", 32767)):
        counts = np.zeros((5000, 1), dtype="<i4")
        counts[4000] = highest
        stem = tmp_path / "src" / name
        stem.parent.mkdir(exist_ok=True)
        stem.with_suffix(".dat").write_bytes(counts.tobytes())
        stem.with_suffix(".hea").write_text(f"{name} 1 250 5000\n{name}.dat 32 200(0)/mV 32 0 0 {highest} 0 II\n")
    ingest_folder(tmp_path / "src", tmp_path / "out.ecg", IngestSettings(profile="raw"))
    store = ecgstore.open_store(tmp_path / "out.ecg")
    assert store.column("record_id").tolist() == ["good"]
    assert store.rejected["reason"].to_pylist() == ["not_16_bit"]


@pytest.mark.parametrize("part", [slice(None), slice(30_000, 60_000)], ids=["all of the record", "a part"])
@pytest.mark.parametrize("lead", [0, 2])
def test_what_a_store_clips_is_said_and_counted(tmp_path, write_record, monkeypatch, part, lead):
    """At 1 mV per 100 counts the offset is 40 mV."""
    trace = (50 * np.random.default_rng(9).standard_normal((100_000, 3))).astype("<i2")
    trace[part, lead] += 4000
    path = write_record(tmp_path / "src", "r", trace, ("I", "II", "V1"), fs="250")
    path.with_suffix(".hea").write_text(path.with_suffix(".hea").read_text().replace("1000.0(0)/mV", "100.0(0)/mV"))
    settings = {"filters": (), "fs_hz": 250, "leads": ("I", "II", "V1")}
    whole, pieces = both_ways(tmp_path / "src", tmp_path, monkeypatch, **settings)
    share = len(range(100_000)[part]) / 100_000
    for store in (whole, pieces):
        found = store.lead_quality.to_pylist()[0]["clipped_fraction"]
        assert found == [pytest.approx(share if place == lead else 0, abs=1e-3) for place in range(3)]
        assert store.column("clipped_fraction").tolist() == [pytest.approx(share)]
        (warning,) = store.read("r").warnings
        assert f"were clipped in {('I', 'II', 'V1')[lead]}: a high-pass filter" in warning
        assert ("is lost here and counts as bad" in warning) == (share > 0.5)
        assert store.column("lead_states")[0][lead] == ("b" if share > 0.5 else "m")
    ingest_folder(tmp_path / "src", tmp_path / "raw.ecg", IngestSettings(profile="raw"))
    raw = ecgstore.open_store(tmp_path / "raw.ecg").read("r")
    assert raw.warnings == ()
    assert raw.signal_mv_lt[(0, 1, 6)[lead], part].std() == pytest.approx(0.5, rel=0.1)
