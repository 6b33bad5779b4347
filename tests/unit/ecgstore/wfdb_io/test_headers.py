"""Headers as header(5) of WFDB's manual allows them, and what is said of those that it doesn't."""

from __future__ import annotations

import numpy as np
import pytest

from ecgstore.errors import RecordError
from ecgstore.wfdb_io.header import header_from_row, header_to_row
from ecgstore.wfdb_io.pieces import PieceReader
from ecgstore.wfdb_io.samples import read_signal
from ecgstore.wfdb_io.scale import ALL_ZERO, refuse_unusable
from ecgstore.wfdb_io.segments import read_header, read_header_and_comments, segment_names

COUNTS_TL = np.array([[1, 5], [2, 6], [3, 7], [4, 8]])
SIGNALS = "r.dat 16 100(0)/mV 16 0 1 10 0 I\nr.dat 16 100(0)/mV 16 0 5 26 0 II\n"
SIGNALS_212 = SIGNALS.replace(" 16 100", " 212 100")


def put(folder, text, encoding="utf-8"):
    (folder / "r.hea").write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    is_212 = b" 212" in (folder / "r.hea").read_bytes()
    first, second = (COUNTS_TL & 0xFFF).T
    packed = np.stack([first & 0xFF, (first >> 8) | ((second >> 8) << 4), second & 0xFF], axis=1)
    content = packed.astype("u1") if is_212 else COUNTS_TL.astype("<i2")
    (folder / "r.dat").write_bytes(content.tobytes())
    return folder / "r"


def warnings_of(path):
    """The warnings of a record whose samples come out right, whole and in pieces."""
    header = read_header(path, "r")
    assert header_from_row(header_to_row(header)) == header
    raw = read_signal(path, header, "r")
    np.testing.assert_allclose(raw.signal_mv_lt, COUNTS_TL.T / 100, rtol=1e-6)
    reader = PieceReader(path, header, "r")
    np.testing.assert_array_equal(reader.read(1, 3), raw.signal_mv_lt[:, 1:3])
    assert reader.finish() == (raw.source_crc32, raw.warnings)
    return raw.warnings


def use(path):
    header = read_header(path, "r")
    refuse_unusable(header, range(len(header.lead_names)), "r")
    return read_signal(path, header, "r")


def refusal_of(path):
    with pytest.raises(RecordError) as caught:
        use(path)
    return caught.value


# --- lines ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mark", ["\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_only_as_headers_end_them(tmp_path, mark, end):
    text = f"r 2 250 4\n{SIGNALS}#Dx: one{mark}two\n#Age: 3\n".replace("\n", end)
    path = put(tmp_path, text)
    assert warnings_of(path) == ()
    assert read_header_and_comments(path, "r")[1] == (f"Dx: one{mark}two", "Age: 3")


@pytest.mark.parametrize("comment", ["# note", "#", "  # indented", "#\x00\xff", "#" * 5000])
@pytest.mark.parametrize("signals", [SIGNALS, SIGNALS_212])
def test_comments_stand_anywhere_and_hold_anything(tmp_path, comment, signals):
    first, second = signals.splitlines()
    text = f"{comment}\nr 2 250 4\n{comment}\n{first}\n\n{comment}\n{second}\n{comment}"
    assert warnings_of(put(tmp_path, text.encode("latin-1"))) == ()


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_a_comment_of_another_encoding_leaves_units_and_names_as_they_are(tmp_path, start, end):
    text = f"{start}r 2 250 4\n{SIGNALS}#Größe 1\n".replace("/mV", "/\N{MICRO SIGN}V").replace("\n", end)
    path = put(tmp_path, text.encode() + "#Größe 2\n".encode("cp1252"))
    header, comments = read_header_and_comments(path, "r")
    assert set(header.layout.units) == {"\N{MICRO SIGN}V"}
    assert comments == ("Größe 1", "Größe 2")


# --- the record line ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signals", [SIGNALS, SIGNALS_212])
@pytest.mark.parametrize(
    "line",
    [
        "r 2 250 0",
        "r 2 250",
        "r 2",
        "r 2 250 0 10:00:00",
        "r 2 250 10:00:00 01/02/2003",
        "r 2 250 4 10:24:33 12/10/199",
        "r 2 250 4 25:61:33",
        "r 2 250 4 05-May-2020 09:49:17",
        "r 2 250 4 at noon on a day",
        "r 2 250/1000(3.5) 4",
        "r 2 2.5e2 4",
        "another_name 2 250 4",
        "name.with.dots 2 250 4",
        "nâme-ü 2 250 4",
        "beats/slash 2 250 4",
        "p10/p1001/12 2 250 4",
        "half/2 2 250 4",
        "slash/ 2 250 4",
    ],
)
def test_record_lines_that_are_read(tmp_path, line, signals):
    path = put(tmp_path, f"{line}\n{signals}")
    assert (read_header(path, "r").n_samples, read_header(path, "r").fs_hz) == (4, 250.0)
    assert warnings_of(path) == ()
    assert segment_names(path) == ()


def test_a_slash_and_a_number_before_segment_lines_mean_segments(tmp_path):
    put(tmp_path, f"r 2 250 4\n{SIGNALS}")
    (tmp_path / "many.hea").write_text("many/2 2 250 6\nr 4\nr 2\nr 2\n")
    header = read_header(tmp_path / "many", "many")
    assert (len(header.segments), header.n_samples) == (2, 6)
    assert segment_names(tmp_path / "many") == ("r", "r")
    raw = read_signal(tmp_path / "many", header, "many")
    assert raw.warnings == ("1 segment lines more than the record line states were disregarded",)


@pytest.mark.parametrize("signals", [SIGNALS, SIGNALS_212])
def test_surplus_signal_lines_are_disregarded_with_a_warning(tmp_path, signals):
    path = put(tmp_path, f"r 2 250 4\n{signals}other.dat 99 x\n\x1a\n")
    assert warnings_of(path) == ("2 signal lines more than the record line states were disregarded",)


def test_a_length_that_is_not_stated_follows_its_file(tmp_path):
    path = put(tmp_path, f"r 2 250 0\n{SIGNALS}")
    assert not read_header(path, "r").plain  # a table of headers keeps plain ones, whatever becomes of their files
    (tmp_path / "r.dat").write_bytes(b"")
    assert refusal_of(path).reason == "no_samples"


# --- signal lines ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["16", "16x1:0+0", "16+0", "212", "212x1"])
@pytest.mark.parametrize(
    "rest",
    [
        "100",
        "100.0",
        "1e2",
        "+100",
        "100/mV",
        "100(0)",
        "100(0)/mV",
        "100(+0)/mV",
        "100()/mV",
        "100/",
        "100(0)/mV 16",
        "100(0)/mV 16 0",
        "100 16 0 7777",
        "100 16.0 0 0 {total}",
        "100/mV 12 0 0 {total} 0",
        "100/mV 12 0 0 {total} 0 ",
        "100\t12\t0 \t 0\t{total}",
        "100 {name}",
        "100(0)/mV 16 {name}",
        "100 16 0 {name}",
        "100 16 0 0 {name}",
        "100 16 0 0 {total} {name}",
        "100(0)/mV 16 0 -999 {total} 0 {name}",
    ],
)
def test_fields_may_be_missing_in_every_position(tmp_path, form, rest):
    lines = [f"r.dat {form} {rest.format(total=total, name=name)}" for total, name in ((10, "I"), (26, "V 1"))]
    path = put(tmp_path, "\n".join(["r 2 250 4", *lines]))
    assert warnings_of(path) == ()
    expected = ("I", "V 1") if "{name}" in rest else ("signal 0", "signal 1")
    assert read_header(path, "r").lead_names == expected


@pytest.mark.parametrize("signals", [SIGNALS, SIGNALS_212])
@pytest.mark.parametrize(
    ("gain", "reason"),
    [(gain, "bad_gain") for gain in ("0", "0.0(5)/mV", "-0", "/mV", "(0)", "-5", "nan/mV", "-inf", "Infinity", "1e999")]
    + [(gain, "bad_header") for gain in ("200mV", "200(a)/mV", "200(0/mV", "200,5", "200(4294967296)")]
    + [("200/mmHg", "unknown_unit"), ("I", "bad_gain")],
)
def test_a_gain_that_gives_no_millivolts_is_refused_where_it_is_used(tmp_path, signals, gain, reason):
    first, second = signals.replace("100(0)/mV", gain).splitlines()
    error = refusal_of(put(tmp_path, f"r 2 250 4\n{first}\n{second}\n"))
    assert error.reason == reason
    assert error.detail.startswith("signal 0")


# --- checksums and initial values -----------------------------------------------------------------------------------


def test_an_initial_value_counts_only_where_differences_are_stored(tmp_path):
    assert warnings_of(put(tmp_path, f"r 2 250 4\n{SIGNALS.replace('0 1 10', '0 0 10')}")) == ()
    stored = np.diff(COUNTS_TL, axis=0, prepend=[[0, 0]]).astype("i1")
    text = f"r 2 250 4\n{SIGNALS.replace(' 16 100', ' 8 100').replace('0 1 10', '0 0 10').replace('0 5 26', '0 0 26')}"
    path = put(tmp_path, text)
    (tmp_path / "r.dat").write_bytes(stored.tobytes())
    assert warnings_of(path) == ()
    (tmp_path / "r.hea").write_text(text.replace("0 0 26", "0 1 26"))
    assert refusal_of(path).reason == "bad_checksum"


@pytest.mark.parametrize("signals", [SIGNALS, SIGNALS_212])
def test_checksums_that_are_all_0_are_not_stated_and_one_that_is_wrong_is(tmp_path, signals):
    zeros = signals.replace(" 10 ", " 0 ").replace(" 26 ", " 0 ")
    path = put(tmp_path, f"r 2 250 4\n{zeros}")
    assert warnings_of(path) == (ALL_ZERO,)
    for wrong in (signals.replace(" 10 ", " 0 "), signals.replace(" 26 ", " 27 "), zeros.replace("1 0 0", "1 1 0")):
        error = refusal_of(put(tmp_path, f"r 2 250 4\n{wrong}"))
        assert error.reason == "bad_checksum"


@pytest.mark.parametrize("signals", [SIGNALS, SIGNALS_212])
def test_sums_that_nobody_cut_are_compared_in_their_last_16_bits(tmp_path, signals):
    whole = 5 * 65536 * 10**6
    path = put(tmp_path, f"r 2 250 4\n{signals.replace(' 1 10 0', f' {2**40} {whole + 10} 0')}")
    assert warnings_of(path) == ()
    put(tmp_path, f"r 2 250 4\n{signals.replace(' 1 10 0', f' 1 {whole + 11} 0')}")
    assert refusal_of(path).reason == "bad_checksum"
    digits = "1" * 5000
    put(tmp_path, f"r 2 250 4\n{signals.replace(' 1 10 0', f' 1 {digits} 0')}")
    assert refusal_of(path).reason == "bad_header"


def test_checksums_of_0_that_are_right_need_no_warning(tmp_path):
    path = put(tmp_path, "r 2 250 4\nr.dat 16 100 16 0 0 0 0 I\nr.dat 16 100 16 0 0 0 0 II\n")
    (tmp_path / "r.dat").write_bytes(np.array([[1, 2], [-1, -2]] * 2, "<i2").tobytes())
    assert read_signal(path, read_header(path, "r"), "r").warnings == ()


# --- limits, and what is said ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["16", "212"])
def test_many_signals_are_bounded_by_their_values(tmp_path, form):
    n = 300
    lines = [f"r.dat {form} 200/mV 12 0 0 0 0 s{i}" for i in range(n)]
    path = put(tmp_path, "\n".join([f"r {n} 250 2", *lines]))
    (tmp_path / "r.dat").write_bytes(bytes(2 * 2 * n))
    header = read_header(path, "r")
    assert read_signal(path, header, "r").signal_mv_lt.shape == (n, 2)
    put(tmp_path, "\n".join([f"r {n} 250 20000000", *lines]))
    error = refusal_of(path)
    assert error.reason == "too_large"
    assert "the limit is 2000000000 values" in error.detail


SECRET = "Jane-Doe"
TELLTALE = [
    "r",
    f"{SECRET}",
    f"{SECRET} {SECRET} 250 4",
    f"r 2 {SECRET} 4\n{SIGNALS}",
    f"r 2 250 {SECRET}\n{SIGNALS}",
    f"r 1 250 4\n{SECRET} 16 200 16 0 0 0 0 {SECRET}\n",
    f"r 1 250 4\n{SECRET} 212 200 16 0 0 0 0 {SECRET}\n",
    f"r 1 250 4\n../{SECRET} 16 200 16 0 0 0 0 {SECRET}\n",
    f"r 1 250 4\n{SECRET}\0 212 200 16 0 0 0 0 {SECRET}\n",
    f"r 1 250 4\n{SECRET * 50} 16 200 16 0 0 0 0 {SECRET}\n",
    f"r 1 250 4\nr.dat {SECRET} 200 16 0 0 0 0 {SECRET}\n",
    f"r 1 250 4\nr.dat 16 200({SECRET}) 16 0 0 0 0 {SECRET}\n",
    f"r 1 250 4\nr.dat 16 200/{SECRET} 16 0 0 0 0 {SECRET}\n",
    f"r 1 250 4\nr.dat 16 0 16 0 0 0 0 {SECRET}\n",
    f"r 1 250 4\nr.dat 16 200 16 0 0 7 0 {SECRET}\n",
    f"r 1 250 9999\nr.dat 16 200 16 0 0 7 0 {SECRET}\n",
    f"r 1 250 9999\nr.dat 212 200 16 0 0 7 0 {SECRET}\n",
    f"r 1 250 4\nr.dat 516 200 16 0 0 7 0 {SECRET}\n",
    f"r/2 1 250 4\n{SECRET} 4\n",
    f"r/1 1 250 4\n{SECRET} 4\n",
    f"r/1 1 250 4\n../{SECRET} 4\n",
    f"r/2 1 250 4\n~ 4\n{SECRET} x\n",
]


@pytest.mark.parametrize("number", range(len(TELLTALE)))
def test_a_refusal_holds_no_word_of_the_header_and_no_path(tmp_path, number):
    folder = tmp_path / SECRET
    folder.mkdir()
    error = refusal_of(put(folder, TELLTALE[number]))
    assert SECRET[:4] not in error.detail
    assert str(tmp_path) not in error.detail


def test_a_header_that_can_not_be_opened_is_told_without_its_path(tmp_path):
    (tmp_path / "r.hea").mkdir()
    assert refusal_of(tmp_path / "r").detail == "the header: Is a directory"
