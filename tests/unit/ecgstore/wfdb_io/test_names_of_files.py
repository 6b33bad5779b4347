"""Headers spell the names of files as they like: on a disk that minds case the file is found all the same."""

from __future__ import annotations

import numpy as np
import pytest

from ecgstore import IngestSettings, ingest_folder, open_store
from ecgstore.errors import RecordError
from ecgstore.wfdb_io.pieces import PieceReader
from ecgstore.wfdb_io.samples import read_native_counts, read_signal
from ecgstore.wfdb_io.segments import read_header, segment_names

NOISE_TL = (np.random.default_rng(0).normal(0, 300, (600, 2))).astype("<i2")


def signal_of(path):
    return read_signal(path, read_header(path, "r"), "r").signal_mv_lt


# Format 61 goes to wfdb, which gets links to the files.
@pytest.mark.parametrize("form", ["16", "61"])
@pytest.mark.parametrize("name", ["r.DAT", "R.dat", "R.Dat"])
def test_a_data_file_is_found_but_for_case(tmp_path, write_record, form, name):
    path = write_record(tmp_path, "r", NOISE_TL, ("I", "II"), form=form, file_name="r.dat", checksum=0)
    expected = signal_of(path)
    (tmp_path / "r.dat").rename(tmp_path / name)
    np.testing.assert_array_equal(signal_of(path), expected)
    header = read_header(path, "r")
    assert PieceReader(path, header, "r").read(10, 20).tobytes() == expected[:, 10:20].tobytes()
    crc32 = read_native_counts(path, header, "r").source_crc32
    assert crc32 == read_signal(path, header, "r").source_crc32 != 0


def test_the_exact_name_goes_first(tmp_path, write_record):
    path = write_record(tmp_path, "r", NOISE_TL, ("I", "II"))
    (tmp_path / "R.DAT").write_bytes(bytes(NOISE_TL.nbytes))
    assert np.abs(signal_of(path)).max() > 0.1


@pytest.mark.parametrize("form", ["16", "61"])
def test_of_two_names_none_is_taken(tmp_path, write_record, form):
    path = write_record(tmp_path, "r", NOISE_TL, ("I", "II"), form=form)
    (tmp_path / "r.dat").rename(tmp_path / "r.DAT")
    (tmp_path / "R.dat").write_bytes(NOISE_TL.tobytes())
    with pytest.raises(RecordError, match="signal file 0: 2 files are called so but for upper and lower") as caught:
        read_header(path, "r")
    assert caught.value.reason == "missing_signal"


@pytest.mark.parametrize("there", ["r.dax", "rr.dat", "r.dat "])
def test_another_name_is_another_file(tmp_path, write_record, there):
    path = write_record(tmp_path, "r", NOISE_TL, ("I", "II"))
    (tmp_path / "r.dat").rename(tmp_path / there)
    with pytest.raises(RecordError, match="signal file 0$") as caught:
        read_header(path, "r")
    assert caught.value.reason == "missing_signal"


def test_a_link_that_leads_nowhere_and_a_folder_are_no_files(tmp_path, write_record):
    path = write_record(tmp_path, "r", NOISE_TL, ("I", "II"))
    (tmp_path / "r.dat").unlink()
    (tmp_path / "r.dat").symlink_to(tmp_path / "nowhere")
    with pytest.raises(RecordError) as caught:
        read_header(path, "r")
    assert caught.value.reason == "missing_signal"
    (tmp_path / "r.dat").unlink()
    (tmp_path / "R.DAT").mkdir()
    with pytest.raises(RecordError, match="not a file") as caught:
        read_header(path, "r")
    assert caught.value.reason == "bad_signal"


def test_segments_too_are_found_and_are_no_records_of_their_own(tmp_path, write_record):
    for name in ("s1", "s2"):
        write_record(tmp_path, name, NOISE_TL, ("I", "II"))
        (tmp_path / f"{name}.hea").rename(tmp_path / f"{name.upper()}.HEA")
        (tmp_path / f"{name}.dat").rename(tmp_path / f"{name.upper()}.DAT")
    (tmp_path / "r.hea").write_text("r/2 2 500 1200\ns1 600\ns2 600\n")
    assert segment_names(tmp_path / "r") == ("S1", "S2")
    ingest_folder(tmp_path, tmp_path / "out.ecg", IngestSettings(fs_hz=500, filters=()))
    store = open_store(tmp_path / "out.ecg")
    assert store.column("record_id").tolist() == ["r"]
    np.testing.assert_allclose(store.read("r").signal_mv_lt[:2], np.concatenate([NOISE_TL] * 2).T / 1000, atol=1e-6)
