from __future__ import annotations

import re

import numpy as np
import pytest
import wfdb

from ecgstore.errors import RecordError
from ecgstore.wfdb_io.header import MV_PER_UNIT
from ecgstore.wfdb_io.parse import parse_plain
from ecgstore.wfdb_io.samples import read_signal
from ecgstore.wfdb_io.segments import read_header


def read(path, record_id="r"):
    header = read_header(path, record_id)
    return header, read_signal(path, header, record_id)


def reason_of(path):
    with pytest.raises(RecordError) as caught:
        read(path)
    return caught.value.reason


def test_every_bundled_record_equals_wfdb(mini):
    paths = sorted(mini.rglob("*.hea"))
    assert len(paths) == 53
    for hea in paths:
        path = hea.with_suffix("")
        header, raw = read(path)
        reference = wfdb.rdrecord(str(path))
        assert header.plain
        assert header.fs_hz == reference.fs
        assert list(header.lead_names) == reference.sig_name
        np.testing.assert_allclose(raw.signal_mv_lt, reference.p_signal.T, atol=1e-6)


@pytest.mark.parametrize("unit", ["mV", "mv", "uV", "V", "µV"])
def test_units_become_millivolts(tmp_path, write_record, unit):
    path = write_record(tmp_path, gain=f"200(10)/{unit}")
    _, raw = read(path)
    counts_tl = np.fromfile(tmp_path / "r1.dat", "<i2").reshape(-1, 12)
    expected = (counts_tl.T.astype(float) - 10) / 200 * MV_PER_UNIT[unit.lower()]
    np.testing.assert_allclose(raw.signal_mv_lt, expected, rtol=1e-5, atol=1e-7)


def test_matlab_offset_is_passed_over(tmp_path, write_record):
    path = write_record(tmp_path, form="16+24", leads=("I", "II"))
    dat = tmp_path / "r1.dat"
    samples = dat.read_bytes()
    dat.write_bytes(b"\x00" * 24 + samples)
    header, raw = read(path)
    assert header.plain
    np.testing.assert_allclose(raw.signal_mv_lt, wfdb.rdrecord(str(path)).p_signal.T, atol=1e-6)


def test_not_recorded_is_nan(tmp_path, write_record):
    counts_tl = np.ones((100, 2), "<i2")
    counts_tl[10:20, 1] = -32768
    _, raw = read(write_record(tmp_path, counts_tl=counts_tl, leads=("I", "II")))
    assert np.isnan(raw.signal_mv_lt[1, 10:20]).all()
    assert np.isfinite(raw.signal_mv_lt).sum() == 190


def test_a_date_before_the_time_does_not_matter(tmp_path, write_record):
    path = write_record(tmp_path, record_line="r1.mat 12 500 5000 05-May-2020 09:49:17")
    with pytest.raises(wfdb.io.header.HeaderSyntaxError):
        wfdb.rdheader(str(path))
    assert read(path)[0].n_samples == 5000


@pytest.mark.parametrize(
    ("bend", "reason"),
    [
        ({"checksum": 1}, "bad_checksum"),
        ({"n_samples": 5001}, "truncated"),
        ({"n_samples": 10**12}, "too_large"),
        ({"file_name": "../r1.dat"}, "unsafe_path"),
        ({"file_name": "/etc/passwd"}, "unsafe_path"),
        ({"record_line": "r1 1000000 500 5000"}, "too_large"),
        ({"record_line": "r1"}, "bad_header"),
        ({"fs": "nonsense"}, "bad_header"),
        ({"fs": "0"}, "bad_header"),
        ({"fs": "1e300"}, "bad_header"),
        ({"fs": "1e9"}, "bad_header"),
        ({"fs": "1e-300"}, "bad_header"),
        ({"fs": "-500"}, "bad_header"),
        ({"fs": "nan"}, "bad_header"),
    ],
)
def test_what_cannot_be_trusted_is_refused_with_its_reason(tmp_path, write_record, bend, reason):
    assert reason_of(write_record(tmp_path, **bend)) == reason


def test_missing_and_truncated_files(tmp_path, write_record):
    assert reason_of(tmp_path / "none") == "missing_header"
    path = write_record(tmp_path)
    dat = tmp_path / "r1.dat"
    dat.write_bytes(dat.read_bytes()[:-2])
    assert reason_of(path) == "truncated"
    dat.unlink()
    assert reason_of(path) == "missing_signal"


def test_a_file_that_shrinks_after_the_header_was_read_is_truncated(tmp_path, write_record):
    path = write_record(tmp_path)
    header = read_header(path, "r")
    dat = tmp_path / "r1.dat"
    dat.write_bytes(dat.read_bytes()[:1001])
    with pytest.raises(RecordError, match="truncated"):
        read_signal(path, header, "r")


def test_a_record_without_a_single_sample_is_refused(tmp_path, write_record):
    counts_tl = np.full((100, 12), -32768, "<i2")
    assert reason_of(write_record(tmp_path, counts_tl=counts_tl)) == "no_samples"


def test_other_formats_go_through_wfdb_and_are_verified(tmp_path):
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(1000, 2))
    wfdb.wrsamp(
        "r212",
        fs=360,
        units=["mV", "uV"],
        sig_name=["MLII", "V5"],
        p_signal=signal,
        fmt=["212", "212"],
        adc_gain=[200, 200],
        baseline=[0, 0],
        write_dir=str(tmp_path),
    )
    header, raw = read(tmp_path / "r212")
    assert not header.plain
    np.testing.assert_allclose(raw.signal_mv_lt[0], signal[:, 0], atol=0.003)
    np.testing.assert_allclose(raw.signal_mv_lt[1], signal[:, 1] * 1e-3, atol=3e-6)
    hea = tmp_path / "r212.hea"
    # The seventh field of a signal line is the checksum.
    hea.write_text(re.sub(r"(\S+ 212 \S+ \S+ \S+ \S+) (-?\d+)", r"\1 7", hea.read_text()))
    assert reason_of(tmp_path / "r212") == "bad_checksum"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# only a comment",
        "r/2 12 500 10000\nr_1 5000\nr_2 5000",
        "r 1 500 100\nr.dat 212 200 12 0 0 0 0 I",
        "r 1 500 100\nr.dat 16 200 lead II",
        "r 1 500\nr.dat 16 200 16 0 0 0 0 I",
        "r 2 500 100\na.dat 16 200 16 0 0 0 0 I\nb.dat 16 200 16 0 0 0 0 II",
        "r 1 500 100\nr.dat 16x2 200 16 0 0 0 0 I",
        "r 1 500 100\nr.dat 16:3 200 16 0 0 0 0 I",
    ],
)
def test_headers_that_are_not_plain_are_left_to_wfdb(text):
    assert parse_plain(text) is None
