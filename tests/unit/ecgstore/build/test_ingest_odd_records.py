"""Records with odd headers on their way into a store: what is warned of stands with the record."""

from __future__ import annotations

import numpy as np
import pytest

import ecgstore
from ecgstore.build import long
from ecgstore.build.ingest import ingest_folder
from ecgstore.build.settings import IngestSettings
from ecgstore.errors import SourceError
from ecgstore.look import plot
from ecgstore.storage import layout
from ecgstore.wfdb_io.scale import ALL_ZERO


def store_of(tmp_path, **settings):
    ingest_folder(tmp_path / "src", tmp_path / "out.ecg", IngestSettings(filters=(), **settings))
    store = ecgstore.open_store(tmp_path / "out.ecg")
    assert store.verify(deep=True) == []
    return store


@pytest.mark.parametrize("profile", ["train", "raw"])
def test_an_assumed_calibration_is_asked_for_and_written_down(tmp_path, write_record, profile):
    counts_tl = np.random.default_rng(0).integers(-500, 500, (1000, 2)).astype("<i2")
    write_record(tmp_path / "src", "none", counts_tl, ("I", "II"), gain="0", fs="100")
    if profile != "raw":
        with pytest.raises(SourceError, match=r"bad_gain.*--uncalibrated assume=200"):
            ingest_folder(tmp_path / "src", tmp_path / "out.ecg", IngestSettings(profile=profile, filters=()))
    write_record(tmp_path / "src", "own", counts_tl, ("I", "II"), gain="1000", fs="100")
    store = store_of(tmp_path, profile=profile, uncalibrated="assume=250")
    assert store.recipe["uncalibrated"] == "assume=250"
    warnings = dict(zip(store.column("record_id"), store.column("warnings"), strict=True))
    assert warnings == {"none": "calibration assumed: 250 counts per mV for signal 0, 1", "own": ""}
    for name, gain in (("none", 250), ("own", 1000)):
        np.testing.assert_allclose(store.read(name).signal_mv_lt[:2], counts_tl.T / gain, atol=6e-4)


@pytest.mark.parametrize("most_values", [20_000_000, 3000], ids=["whole", "in pieces"])
@pytest.mark.parametrize("gain", ["0", "0(7)/uV", "", "0.0/V"])
def test_a_raw_store_keeps_the_counts_of_what_is_not_calibrated(tmp_path, write_record, monkeypatch, most_values, gain):
    monkeypatch.setattr(long, "LONG_VALUES", most_values)
    counts_tl = np.random.default_rng(0).integers(-500, 500, (2000, 2)).astype("<i2")
    hea = write_record(tmp_path / "src", "none", counts_tl, ("I", "V1"), gain="1000", fs="100").with_suffix(".hea")
    first, *rest = hea.read_text().splitlines()
    rest[1] = f"none.dat 16 {gain} 16 0 0 {int(counts_tl[:, 1].sum()) % 65536} 0 V1" if gain else "none.dat 16 V1"
    hea.write_text("\n".join([first, *rest]) + "\n")
    store = store_of(tmp_path, profile="raw")
    found, its = store.read("none"), store.lead_quality.to_pylist()[0]
    row = found.leads.index("V1")
    np.testing.assert_allclose(found.signal_mv_lt[0], counts_tl[:, 0] / 1000, rtol=1e-6)
    assert np.isnan(found.signal_mv_lt[row]).all()
    assert found.lead_states[row] == "m"
    assert found.warnings == ("not calibrated, so that only counts are known: V1",)
    assert found.uncalibrated == ("V1",)
    assert "V1  (not calibrated)" in [plot._label(found, lead, 0.0) for lead in range(12)]
    np.testing.assert_array_equal(store.read_shard(0).counts_lt[row, :2000], counts_tl[:, 1])
    assert (its["gain_per_mv"][0], its["gain_per_mv"][row]) == (1000, None)
    assert its["baseline"][row] == (7 if "7" in gain else 0)
    assert {name: its[name][row] for name in layout.MEASURES} == dict.fromkeys(layout.MEASURES)
    about = store.records.to_pylist()[0]
    assert (about["n_not_recorded"], about["missing_fraction"], about["suspects"]) == (0, 0, "")


def test_of_what_is_not_calibrated_a_raw_store_says_what_it_cant_keep(tmp_path, write_record):
    counts_tl = np.random.default_rng(0).integers(-500, 500, (1000, 2)).astype("<i2")
    write_record(tmp_path / "src", "turned", counts_tl, ("I", "-V1"), gain="0")
    write_record(tmp_path / "src", "negative", counts_tl, ("I", "V1"), gain="-5")
    write_record(tmp_path / "src", "pressure", counts_tl, ("I", "V1"), gain="0/mmHg")
    write_record(tmp_path / "src", "good", counts_tl, ("I", "II"), gain="0")
    for number, baseline in ((1, 0), (2, 9)):
        write_record(tmp_path / "src", f"s{number}", counts_tl, ("I", "V1"), gain=f"0({baseline})")
    (tmp_path / "src" / "parts.hea").write_text("parts/2 2 500 2000\ns1 1000\ns2 1000\n")
    store = store_of(tmp_path, profile="raw")
    found = {one["record_id"]: (one["reason"], one["detail"]) for one in store.rejected.to_pylist()}
    assert {name: reason for name, (reason, _) in found.items()} == {
        "turned": "bad_gain",
        "negative": "bad_gain",
        "pressure": "unknown_unit",
        "parts": "bad_gain",
    }
    assert "signal 1 is turned and states no gain" in found["turned"][1]
    assert "differs between segments" in found["parts"][1]
    assert store.column("record_id").tolist() == ["good"]
    # All of the record is without millivolts: nothing is measured, and nothing fails.
    assert np.isnan(store.read("good").signal_mv_lt).all()
    assert np.isnan(store.column("range_mv")).all()
    report = ingest_folder(tmp_path / "src", tmp_path / "more.ecg", IngestSettings(profile="raw"))
    assert any("1 of 1 records have leads that are not calibrated" in one for one in report.notes)


@pytest.mark.parametrize("most_values", [20_000_000, 5000], ids=["whole", "in pieces"])
def test_what_is_passed_over_in_a_header_is_warned_of(tmp_path, write_record, monkeypatch, most_values):
    monkeypatch.setattr(long, "LONG_VALUES", most_values)
    write_record(tmp_path / "src", "zeros", leads=("I", "II"), checksum=0, initial=0)
    hea = write_record(tmp_path / "src", "surplus", leads=("I", "II")).with_suffix(".hea")
    hea.write_text(hea.read_text() + "other.dat 16 1000 16 0 0 0 0 III\n")
    store = store_of(tmp_path)
    assert dict(zip(store.column("record_id"), store.column("warnings"), strict=True)) == {
        "surplus": "1 signal lines more than the record line states were disregarded",
        "zeros": ALL_ZERO,
    }


def test_one_ecg_among_300_signals_comes_in(tmp_path, write_record):
    names = tuple(f"probe{i}" for i in range(299))
    counts_tl = np.random.default_rng(0).integers(-500, 500, (400, 300)).astype("<i2")
    write_record(tmp_path / "src", "many", counts_tl, (*names, "II"), fs="100")
    store = store_of(tmp_path, extra_leads="drop")
    np.testing.assert_allclose(store.read("many").signal_mv_lt[1], counts_tl[:, 299] / 1000, atol=6e-4)


def test_an_absurd_rate_leaves_the_other_records_alone(tmp_path, write_record):
    write_record(tmp_path / "src", "good")
    write_record(tmp_path / "src", "slow", np.ones((100_000, 1), "<i2"), ("I",), fs="0.01")
    for rate in ("0", "-5", "nan", "1e-300", "1e9", "inf"):
        write_record(tmp_path / "src", f"r{rate}", np.ones((100, 1), "<i2"), ("I",), fs=rate)
    report = ingest_folder(tmp_path / "src", tmp_path / "out.ecg", IngestSettings())
    assert (report.records, report.reasons) == (1, {"bad_header": 6, "too_large": 1})


def test_a_slow_record_that_grows_long_goes_in_pieces(tmp_path, write_record, monkeypatch):
    """What counts is the longer of what comes in and what goes out."""
    trace = (300 * np.sin(np.arange(4000) / 5)).astype("<i2")[:, None]
    write_record(tmp_path / "src", "slow", trace, ("I",), fs="2")
    whole = store_of(tmp_path, leads=("I",)).read("slow").signal_mv_lt
    monkeypatch.setattr(long, "LONG_VALUES", 50_000)
    ingest_folder(tmp_path / "src", tmp_path / "pieces.ecg", IngestSettings(filters=(), leads=("I",)))
    pieces = ecgstore.open_store(tmp_path / "pieces.ecg").read("slow").signal_mv_lt
    assert pieces.shape == (1, 200_000)
    assert np.abs(pieces - whole).max() < 0.00201


def test_where_no_record_can_be_read_the_first_reason_is_said_in_words(tmp_path, write_record):
    write_record(tmp_path / "src", "wrong", leads=("I", "II"), checksum=7)
    with pytest.raises(SourceError, match=r"got wrong: bad_checksum signal 0: header 7, samples \d+$"):
        ingest_folder(tmp_path / "src", tmp_path / "out.ecg", IngestSettings())


def test_a_lead_beyond_the_range_is_bad_and_those_derived_before_are_not(tmp_path, write_record):
    """Lead II rests at 50 mV: nothing of it is left, but aVR needs only -(I + II) / 2."""
    trace = (10 * np.random.default_rng(3).standard_normal((1000, 2))).astype("<i2")
    trace[:, 1] += 5000
    write_record(tmp_path / "src", "far", trace, ("I", "II"), gain="100.0(0)/mV")
    store = store_of(tmp_path, fs_hz=500)
    assert store.column("lead_states")[0] == "mbbddbaaaaaa"
    assert store.column("clipped_fraction")[0] == 1
    (warning,) = store.read("far").warnings
    assert warning.endswith("most of II, III, aVF is lost here and counts as bad")
    expected = -(trace[:, 0].astype(float) + trace[:, 1]) / 200
    np.testing.assert_allclose(store.read("far").signal_mv_lt[3], expected, atol=0.001)
