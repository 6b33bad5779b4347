"""Every form that WFDB can write a record in: what comes out is what went in, whole or in pieces."""

from __future__ import annotations

import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import wfdb

from ecgstore.errors import RecordError
from ecgstore.wfdb_io import scale
from ecgstore.wfdb_io.annotations import read_beats
from ecgstore.wfdb_io.header import header_from_row, header_to_row
from ecgstore.wfdb_io.pieces import PieceReader, read_piece
from ecgstore.wfdb_io.samples import read_counts, read_native_counts, read_signal
from ecgstore.wfdb_io.scale import INVALID_16, refuse_unusable, voltages
from ecgstore.wfdb_io.segments import read_header, read_header_and_comments

# Bits of a sample, by format.
BITS = {"8": 7, "16": 16, "24": 24, "32": 31, "61": 16, "80": 8, "160": 16, "212": 12, "310": 10, "311": 10}
FLAC_BITS = {"508": 8, "516": 16, "524": 24}


def encode(fmt: str, flat: np.ndarray) -> bytes:
    """The bytes of one signal file; ``flat`` holds its samples in the file's order (differences for format 8)."""
    flat = flat.astype(np.int64)
    if fmt in ("8", "16", "32", "61"):
        return flat.astype({"8": "i1", "16": "<i2", "32": "<i4", "61": ">i2"}[fmt]).tobytes()
    if fmt in ("80", "160"):
        return (flat + 2 ** (BITS[fmt] - 1)).astype({"80": "u1", "160": "<u2"}[fmt]).tobytes()
    if fmt == "24":
        return flat.astype("<i4").view("u1").reshape(-1, 4)[:, :3].tobytes()
    per_block = 2 if fmt == "212" else 3
    block = np.pad(flat, (0, -len(flat) % per_block)).reshape(-1, per_block).T & (2 ** BITS[fmt] - 1)
    if fmt == "212":
        parts = [block[0] & 255, block[0] >> 8 | block[1] >> 8 << 4, block[1] & 255]
    elif fmt == "310":
        first, second, third = block
        parts = [(first & 127) << 1, first >> 7 | (third & 31) << 3, (second & 127) << 1, second >> 7 | third >> 5 << 3]
    else:
        first, second, third = block
        parts = [first & 255, first >> 8 | (second & 63) << 2, second >> 6 | (third & 15) << 4, third >> 4]
    return np.stack(parts, axis=1).astype("u1").tobytes()


def checksum(counts: np.ndarray) -> int:
    return int(counts.astype(np.int64).sum() % 65536)


def put(folder: Path, name: str, text: str, **files: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.hea").write_text(text)
    for suffix, content in files.items():
        (folder / f"{name}.{suffix}").write_bytes(content)
    return folder / name


def some_counts(fmt: str, n: int, n_signals: int) -> np.ndarray:
    rng = np.random.default_rng(n)
    if fmt == "8":
        return np.cumsum(rng.integers(-100, 100, (n, n_signals)), axis=0)
    # Every value but the lowest, which means "not recorded", and the lowest twice.
    top = 2 ** (BITS[fmt] - 1)
    counts_tl = rng.integers(-top + 1, top, (n, n_signals))
    counts_tl[[3, n - 1], 0] = -top if fmt != "32" else -(2**31)
    return counts_tl


def write_form(folder: Path, fmt: str, n: int = 101, n_signals: int = 3, length: int | str = 101) -> Path:
    counts_tl = some_counts(fmt, n, n_signals)
    start_l = counts_tl[0] - 5 if fmt == "8" else counts_tl[0]
    stored = np.diff(counts_tl, axis=0, prepend=start_l[None]) if fmt == "8" else counts_tl
    lines = [f"r {n_signals} 250 {length}"]
    for row in range(n_signals):
        lines.append(f"r.dat {fmt} 100({row})/mV 12 0 {start_l[row]} {checksum(counts_tl[:, row])} 0 V{row + 1}")
    return put(folder, "r", "\n".join(lines) + "\n", dat=encode(fmt, stored.reshape(-1)))


def recorded(fmt: str, counts_lt: np.ndarray) -> np.ndarray:
    lowest = {"8": None, "32": -(2**31)}.get(fmt, -(2 ** (BITS.get(fmt, 0) - 1)) if fmt in BITS else None)
    return np.where(counts_lt == lowest, np.nan, counts_lt)


def assert_pieces_are_the_whole(path: Path) -> None:
    header = read_header(path, "r")
    whole = read_signal(path, header, "r")
    reader = PieceReader(path, header, "r")
    for step, halo in ((37, 5), (header.n_samples // 3 + 1, 11)):
        for start in range(0, header.n_samples, step):
            begin, end = max(0, start - halo), min(header.n_samples, start + step + halo)
            piece_lt = reader.read(begin, end)
            assert piece_lt.dtype == np.float32
            np.testing.assert_array_equal(piece_lt, whole.signal_mv_lt[:, begin:end])
    assert reader.finish() == (whole.source_crc32, whole.warnings)
    middle = header.n_samples // 2
    np.testing.assert_array_equal(
        read_piece(path, header, "r", middle, middle + 3), whole.signal_mv_lt[:, middle : middle + 3]
    )


def reason_of(path: Path) -> str:
    with pytest.raises(RecordError) as caught:
        read_signal(path, read_header(path, "r"), "r")
    return caught.value.reason


def reason_in_pieces(path: Path) -> str:
    with pytest.raises(RecordError) as caught:
        PieceReader(path, read_header(path, "r"), "r").finish()
    return caught.value.reason


# --- formats --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_signals", [1, 3])
@pytest.mark.parametrize("fmt", list(BITS))
def test_every_format_gives_what_was_written(tmp_path, fmt, n_signals):
    path = write_form(tmp_path, fmt, n_signals=n_signals)
    expected_lt = recorded(fmt, some_counts(fmt, 101, n_signals).T)
    counts_lt, fs_hz, names = read_counts(path)
    np.testing.assert_array_equal(counts_lt, expected_lt.astype(np.float32))
    assert (fs_hz, names) == (250.0, tuple(f"V{row + 1}" for row in range(n_signals)))
    header = read_header(path, "r")
    assert header.plain == (fmt == "16")
    signal_mv_lt = read_signal(path, header, "r").signal_mv_lt
    baseline_l1 = np.arange(n_signals)[:, None]
    np.testing.assert_allclose(signal_mv_lt, (expected_lt - baseline_l1) / 100, rtol=1e-6, atol=1e-6)
    assert_pieces_are_the_whole(path)


@pytest.mark.parametrize("fmt", list(BITS))
def test_every_format_is_verified(tmp_path, fmt):
    path = write_form(tmp_path, fmt)
    dat = tmp_path / "r.dat"
    content = bytearray(dat.read_bytes())
    # A checksum of 16 bits sees the lower two bytes of a sample.
    content[0] ^= 4
    dat.write_bytes(content)
    assert reason_of(path) == reason_in_pieces(path) == "bad_checksum"
    dat.write_bytes(content[:-4])
    with pytest.raises(RecordError, match="truncated"):
        read_header(path, "r")
    dat.write_bytes(content)
    header = read_header(path, "r")
    dat.write_bytes(content[:-4])
    with pytest.raises(RecordError, match="truncated"):
        PieceReader(path, header, "r").finish()


@pytest.mark.parametrize("fmt", list(BITS))
def test_a_length_left_out_is_that_of_the_file(tmp_path, fmt):
    path = write_form(tmp_path, fmt, n=102, n_signals=2, length="")
    assert read_header(path, "r").n_samples == 102
    assert_pieces_are_the_whole(path)


@pytest.mark.parametrize("fmt", list(FLAC_BITS))
def test_flac_gives_what_was_written(tmp_path, fmt):
    top = 2 ** (FLAC_BITS[fmt] - 1)
    counts_tl = np.random.default_rng(0).integers(-top + 1, top, (500, 2))
    counts_tl[7, 1] = -top
    wfdb.wrsamp(
        "r",
        fs=250,
        units=["mV", "mV"],
        sig_name=["I", "II"],
        d_signal=counts_tl,
        fmt=[fmt] * 2,
        adc_gain=[100.0, 100.0],
        baseline=[0, 0],
        write_dir=str(tmp_path),
    )
    path = tmp_path / "r"
    expected_lt = np.where(counts_tl == -top, np.nan, counts_tl).T
    np.testing.assert_array_equal(read_counts(path)[0], expected_lt.astype(np.float32))
    assert_pieces_are_the_whole(path)
    hea = tmp_path / "r.hea"
    text = hea.read_text()
    hea.write_text(text.replace("250 500", "250"))
    assert read_header(path, "r").n_samples == 500
    assert_pieces_are_the_whole(path)
    hea.write_text(text.replace("250 500", "250 501"))
    assert reason_of(path) == "truncated"


def test_a_byte_offset_is_passed_over_in_any_format(tmp_path):
    path = write_form(tmp_path, "212")
    (tmp_path / "r.dat").write_bytes(b"headers!" + (tmp_path / "r.dat").read_bytes())
    (tmp_path / "r.hea").write_text((tmp_path / "r.hea").read_text().replace(" 212 ", " 212+8 "))
    assert_pieces_are_the_whole(path)


# --- several files, rates and skews ---------------------------------------------------------------------------------


def test_signals_in_several_files(tmp_path):
    counts_tl = some_counts("16", 50, 2)
    lines = "r 2 250 50\n" + "".join(
        f"{file} {fmt} 100/mV 16 0 0 {checksum(counts_tl[:, row])} 0 {lead}\n"
        for row, (file, fmt, lead) in enumerate([("r.dat", 16, "I"), ("r.xyz", 61, "II")])
    )
    path = put(tmp_path, "r", lines, dat=encode("16", counts_tl[:, 0]), xyz=encode("61", counts_tl[:, 1]))
    assert read_header(path, "r").files == ("r.dat", "r.xyz")
    np.testing.assert_array_equal(read_counts(path)[0], recorded("16", counts_tl.T).astype(np.float32))
    assert_pieces_are_the_whole(path)


def multirate(folder: Path) -> tuple[Path, np.ndarray]:
    frames = np.random.default_rng(0).integers(-1000, 1000, (40, 7))
    sums = [checksum(frames[:, :4]), checksum(frames[:, 4:6]), checksum(frames[:, 6:])]
    text = "r 3 125 40\n" + "".join(
        f"r.dat 212x{n} {gain} 12 0 0 {total} 0 {name}\n"
        for n, gain, total, name in zip(
            (4, 2, 1), ("100/mV", "100/mV", "100/mmHg"), sums, ("I", "II", "ABP"), strict=True
        )
    )
    return put(folder, "r", text, dat=encode("212", frames.reshape(-1))), frames


def test_the_fastest_voltage_sets_the_rate_and_slower_ones_are_held(tmp_path):
    path, frames = multirate(tmp_path)
    header = read_header(path, "r")
    assert (header.fs_hz, header.n_samples, header.samples_per_frame) == (500.0, 160, 4)
    signal_mv_lt = read_signal(path, header, "r").signal_mv_lt
    np.testing.assert_allclose(signal_mv_lt[0], frames[:, :4].reshape(-1) / 100, rtol=1e-6)
    np.testing.assert_allclose(signal_mv_lt[1], frames[:, 4:6].reshape(-1).repeat(2) / 100, rtol=1e-6)
    assert np.isnan(signal_mv_lt[2]).all()
    assert_pieces_are_the_whole(path)


def test_skews_are_undone_and_leave_nothing_at_the_end(tmp_path):
    counts_tl = some_counts("61", 60, 3)
    skews = (0, 2, 9)
    text = "r 3 250 60\n" + "".join(
        f"r.dat 61:{skew} 100/mV 16 0 0 {checksum(counts_tl[:, row])} 0 V{row}\n"
        for row, skew in enumerate(skews, 1 - 1)
    )
    path = put(tmp_path, "r", text, dat=encode("61", counts_tl.reshape(-1)))
    counts_lt = read_counts(path)[0]
    for row, skew in enumerate(skews):
        expected = recorded("61", counts_tl[skew:, row]).astype(np.float32)
        np.testing.assert_array_equal(counts_lt[row, : 60 - skew], expected)
        assert np.isnan(counts_lt[row, 60 - skew :]).all()
    assert_pieces_are_the_whole(path)


# --- segments ---------------------------------------------------------------------------------------------------------


def segmented(folder: Path, *, variable: bool, gains: tuple[int, int] = (100, 100)) -> tuple[Path, np.ndarray]:
    """Two segments around a gap: I, II in format 16; then II alone (with a pressure), or I, II in 212."""
    first, second = some_counts("16", 30, 2), some_counts("212", 25, 2)
    put(
        folder,
        "s1",
        "s1 2 250 30\n"
        + "".join(
            f"s1.dat 16 {gains[0]}/mV 16 0 {first[0, row]} {checksum(first[:, row])} 0 {name}\n"
            for row, name in enumerate(("I", "II"))
        ),
        dat=encode("16", first.reshape(-1)),
    )
    names = ("ABP", "II") if variable else ("I", "II")
    put(
        folder,
        "s2",
        "s2 2 250 25\n"
        + "".join(
            f"s2.dat 212 {gains[1]}/{'mmHg' if name == 'ABP' else 'mV'} 12 0 0 {checksum(second[:, row])} 0 {name}\n"
            for row, name in enumerate(names)
        ),
        dat=encode("212", second.reshape(-1)),
    )
    put(folder, "layout", "layout 2 250 0\n~ 0 100/mV 16 0 0 0 0 I\n~ 0 100/mV 16 0 0 0 0 II\n")
    # A segment may be shorter than its file.
    lines = ["s1 30", "~ 7", "s2 20"] if not variable else ["layout 0", "s1 30", "~ 7", "s2 20"]
    path = put(folder, "r", f"r/{len(lines)} 2 250 57\n" + "\n".join(lines) + "\n# a comment\n")
    expected_lt = np.full((2, 57), np.nan)
    expected_lt[:, :30] = recorded("16", first.T)
    expected_lt[:, 37:] = recorded("212", second[:20].T)
    if variable:
        expected_lt[0, 37:] = np.nan
    return path, expected_lt


@pytest.mark.parametrize("variable", [False, True])
def test_segments_follow_each_other_and_a_gap_is_not_recorded(tmp_path, variable):
    path, expected_lt = segmented(tmp_path, variable=variable)
    header, comments = read_header_and_comments(path, "r")
    assert (header.n_samples, header.lead_names, comments) == (57, ("I", "II"), ("a comment",))
    np.testing.assert_array_equal(read_counts(path)[0], expected_lt.astype(np.float32))
    assert_pieces_are_the_whole(path)
    native = read_native_counts(path, header, "r")
    np.testing.assert_array_equal(native.counts_lt, np.where(np.isnan(expected_lt), INVALID_16, expected_lt))
    assert header_from_row(header_to_row(header)) == header


@pytest.mark.parametrize("segment", ["s1", "s2"])
def test_every_segment_is_verified(tmp_path, segment):
    path, _ = segmented(tmp_path, variable=False)
    dat = tmp_path / f"{segment}.dat"
    content = bytearray(dat.read_bytes())
    content[5] ^= 1
    dat.write_bytes(content)
    assert reason_of(path) == reason_in_pieces(path) == "bad_checksum"


def test_the_hash_of_a_header_covers_its_segments(tmp_path):
    path, _ = segmented(tmp_path, variable=False)
    before = read_header(path, "r").sha256
    (tmp_path / "s2.hea").write_text((tmp_path / "s2.hea").read_text() + "# another patient\n")
    assert read_header(path, "r").sha256 != before


def test_segments_may_have_gains_of_their_own_unless_counts_are_wanted(tmp_path):
    path, expected_lt = segmented(tmp_path, variable=False, gains=(100, 50))
    header = read_header(path, "r")
    signal_mv_lt = read_signal(path, header, "r").signal_mv_lt
    np.testing.assert_allclose(signal_mv_lt[:, :30], expected_lt[:, :30] / 100, rtol=1e-6)
    np.testing.assert_allclose(signal_mv_lt[:, 37:], expected_lt[:, 37:] / 50, rtol=1e-6)
    with pytest.raises(RecordError, match="bad_gain.*differs between segments"):
        read_native_counts(path, header, "r")


# --- units, gains and headers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gain", "reason"),
    [("0/mV", "bad_gain"), ("-5/mV", "bad_gain"), ("1e-300/mV", "bad_gain"), ("1e300/V", "bad_gain")]
    + [(f"200/{unit}", "unknown_unit") for unit in ("mmHg", "NU", "bpm", "mg")],
)
@pytest.mark.parametrize("form", ["16", "212"])
def test_a_signal_without_millivolts_refuses_only_those_who_use_it(tmp_path, form, gain, reason):
    counts_tl = np.random.default_rng(0).integers(-1000, 1000, (40, 2))
    text = (
        f"r 2 250 40\nr.dat {form} 200/mV 12 0 {counts_tl[0, 0]} {checksum(counts_tl[:, 0])} 0 II\n"
        f"r.dat {form} {gain} 12 0 {counts_tl[0, 1]} {checksum(counts_tl[:, 1])} 0 ABP\n"
    )
    path = put(tmp_path, "r", text, dat=encode(form, counts_tl.reshape(-1)))
    header = read_header(path, "r")
    signal_mv_lt = read_signal(path, header, "r").signal_mv_lt
    np.testing.assert_allclose(signal_mv_lt[0], counts_tl[:, 0] / 200, rtol=1e-6)
    assert np.isnan(signal_mv_lt[1]).all()
    refuse_unusable(header, [0], "r")
    with pytest.raises(RecordError) as caught:
        refuse_unusable(header, [0, 1], "r")
    assert caught.value.reason == reason
    assert voltages(header) == (True, reason == "bad_gain")
    assert scale.gains(header)[0] == 200
    assert np.isnan(scale.gains(header)[1])
    native = read_native_counts(path, header, "r")
    np.testing.assert_array_equal(native.counts_lt, counts_tl.T)
    assert np.isnan(native.gain_per_mv_l[1])


def test_microvolts_stay_microvolts_where_wfdb_makes_volts_of_them(tmp_path):
    path = write_form(tmp_path, "212", n_signals=1)
    hea = tmp_path / "r.hea"
    hea.write_text(hea.read_text().replace("/mV", "/µV"), encoding="utf-8")
    assert wfdb.rdheader(str(path)).units == ["V"]
    assert read_header(path, "r").layout.units == ("µV",)
    assert scale.gains(read_header(path, "r")) == pytest.approx((100_000.0,))


PLAIN = "r 2 250 4 10:00:00 01/02/2003\nr.dat 16 100(0)/mV 16 0 1 10 0 I\nr.dat 16 100(0)/mV 16 0 5 26 0 II\n"


@pytest.mark.parametrize(
    "bend",
    [
        lambda text: text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", " \t \n"),
        lambda text: text.replace("\n", "\n\n"),
        lambda text: "\ufeff" + text,
        lambda text: text.replace("mV", "MV"),
        lambda text: text.replace("10:00:00 01/02/2003", "05-May-2020 09:49:17"),
        lambda text: text.replace(" 0 I\n", "\n").replace(" 0 II\n", "\n"),
        lambda text: text.replace(" 1 10 0 I\n", "\n").replace(" 5 26 0 II\n", "\n"),
        lambda text: text.replace(" 16 0 1 10 0 I\n", "\n"),
        lambda text: text.replace("16 100", "16x1:0+0 100"),
        lambda text: text.replace("250", "250.0/1000(3)"),
        lambda text: text.replace(" 26 ", " -65510 "),
        lambda text: text + "# Größe: 180 cm\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1"])
def test_headers_that_differ_in_writing_alone_are_read_alike(tmp_path, bend, encoding):
    text = bend(PLAIN)
    if encoding == "latin-1" and "\ufeff" in text:
        pytest.skip("there is no such character in latin-1")
    counts_tl = np.array([[1, 5], [2, 6], [3, 7], [4, 8]])
    path = put(tmp_path, "r", "", dat=encode("16", counts_tl.reshape(-1)))
    (tmp_path / "r.hea").write_bytes(text.encode(encoding))
    header = read_header(path, "r")
    assert header.plain
    assert (header.fs_hz, header.n_samples, len(header.lead_names)) == (250.0, 4, 2)
    np.testing.assert_allclose(read_signal(path, header, "r").signal_mv_lt, counts_tl.T / 100, rtol=1e-6)


def test_comments_come_without_their_marks(tmp_path):
    path = put(tmp_path, "r", "# first\n" + PLAIN + "#Age: 53\n##<SPL>: 95\n  # indented \n#\n", dat=bytes(16))
    _, comments = read_header_and_comments(path, "r")
    assert comments == ("first", "Age: 53", "<SPL>: 95", "indented", "")


def test_a_million_headers_fit_into_memory(mini):
    paths = sorted(hea.with_suffix("") for hea in mini.rglob("*_hr.hea"))
    headers = [read_header(path, path.name) for path in paths]
    assert len({id(header.layout) for header in headers}) == 1
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    again = [read_header(path, path.name) for path in paths]
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert again == headers
    assert (after - before) / len(paths) < 600


def test_headers_cross_process_walls_and_tables(mini):
    header = read_header(next(iter(sorted(mini.rglob("*.hea")))).with_suffix(""), "r")
    copy = pickle.loads(pickle.dumps(header))
    assert copy == header
    assert hash(copy) == hash(header)
    assert copy.layout is header.layout
    row = header_to_row(header)
    assert {type(value) for value in row.values()} <= {str, int, float, list, bytes}
    assert header_from_row(row) == header


# --- pieces -----------------------------------------------------------------------------------------------------------


def test_pieces_in_any_order_verify_the_whole_file(tmp_path, write_record):
    path = write_record(tmp_path)
    header = read_header(path, "r")
    whole = read_signal(path, header, "r")
    reader = PieceReader(path, header, "r")
    for start, stop in ((3000, 4000), (0, 100), (50, 2000), (4999, 5000), (7, 7)):
        np.testing.assert_array_equal(reader.read(start, stop), whole.signal_mv_lt[:, start:stop])
    assert reader.finish() == (whole.source_crc32, ())
    with pytest.raises(ValueError, match="no samples"):
        reader.read(0, 5001)


def test_pieces_are_verified_as_the_whole_is(tmp_path, write_record):
    path = write_record(tmp_path, checksum=1)
    reader = PieceReader(path, read_header(path, "r"), "r")
    reader.read(0, 5000)
    with pytest.raises(RecordError, match="bad_checksum"):
        reader.finish()


def test_a_record_without_a_single_sample_is_found_in_pieces_too(tmp_path, write_record):
    path = write_record(tmp_path, counts_tl=np.full((100, 12), INVALID_16, "<i2"))
    assert reason_in_pieces(path) == "no_samples"


@pytest.mark.parametrize("form", ["16", "212"])
def test_memory_is_bounded_by_the_piece(tmp_path, form):
    n, n_bytes = 4_000_000, {"16": 4, "212": 3}[form]
    path = put(tmp_path, "r", f"r 2 250 {n}\nr.dat {form} 100/mV 12 0 0 0 0 I\nr.dat {form} 100/mV 12 0 0 0 0 II\n")
    with (tmp_path / "r.dat").open("wb") as file:
        file.truncate(n * n_bytes)
    reader = PieceReader(path, read_header(path, "r"), "r")
    reader.read(0, 10)
    tracemalloc.start()
    for start in range(0, n, 500_000):
        assert not reader.read(start, start + 1000).any()
    seen, _ = tracemalloc.get_traced_memory()
    reader.finish()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Whole, the record would be 32 MB of millivolts; finishing goes by a megasample.
    assert peak - seen < 25_000_000


# --- counts and annotations -------------------------------------------------------------------------------------------


def test_counts_come_as_they_stand_in_the_file(tmp_path):
    path = write_form(tmp_path, "212")
    native = read_native_counts(path, read_header(path, "r"), "r")
    expected_lt = recorded("212", some_counts("212", 101, 3).T)
    np.testing.assert_array_equal(native.counts_lt, np.where(np.isnan(expected_lt), INVALID_16, expected_lt))
    assert native.counts_lt.dtype == np.int16
    np.testing.assert_array_equal(native.gain_per_mv_l, [100.0] * 3)
    np.testing.assert_array_equal(native.baseline_l, [0, 1, 2])


def test_counts_of_more_than_16_bits_are_refused(tmp_path):
    path = write_form(tmp_path, "24")
    with pytest.raises(RecordError, match="not_16_bit"):
        read_native_counts(path, read_header(path, "r"), "r")


@pytest.mark.parametrize("gain", [49, 161, 8000])
def test_a_gain_comes_out_to_the_last_bit(tmp_path, write_record, gain):
    header = read_header(path := write_record(tmp_path, gain=f"{gain}/uV"), "r")
    assert set(scale.gains(header)) == {gain / 1e-3}
    assert set(read_native_counts(path, header, "r").gain_per_mv_l) == {gain / 1e-3}
    assert 1 / (1 / 49.0) != 49.0  # which is why


@pytest.mark.parametrize("own_rate", [None, 1000])
def test_beats_come_with_their_times_and_symbols(tmp_path, write_record, own_rate):
    path = write_record(tmp_path, record_line="r1.mat 12 500 5000 05-May-2020 09:49:17")
    wfdb.wrann("r1", "atr", np.array([50, 450, 700]), symbol=["N", "V", "+"], fs=own_rate, write_dir=str(tmp_path))
    beats, warnings = read_beats(path, "atr", "r")
    rate_hz = own_rate or 500
    assert [(beat.time_s, beat.symbol) for beat in beats] == [
        (50 / rate_hz, "N"),
        (450 / rate_hz, "V"),
        (700 / rate_hz, "+"),
    ]
    assert warnings == ()


def test_a_record_is_a_record_without_its_annotations(tmp_path, write_record):
    path = write_record(tmp_path)
    assert read_beats(path, "atr", "r") == ((), ("no annotations: there is no annotation file",))
    (tmp_path / "r1.atr").write_bytes(b"odd")
    beats, (warning,) = read_beats(path, "atr", "r")
    assert beats == ()
    assert warning == "no annotations: the .atr file: ValueError"
    assert read_beats(path, "../r1.atr", "r")[0] == ()
