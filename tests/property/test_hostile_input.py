"""Files that nobody wrote in good faith: refused with a reason, soon, in little memory, and inside their folder."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import wfdb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecgstore.errors import RecordError
from ecgstore.wfdb_io.annotations import read_beats
from ecgstore.wfdb_io.header import header_from_row, header_to_row
from ecgstore.wfdb_io.parse import parse_plain
from ecgstore.wfdb_io.pieces import PieceReader
from ecgstore.wfdb_io.samples import read_native_counts, read_signal
from ecgstore.wfdb_io.segments import read_header_and_comments

#: No file of these tests is longer than 100 kB: what reading one may take at the utmost.
#: Reading takes milliseconds; what takes this long, on however slow a machine, has been led astray.
pytestmark = pytest.mark.timeout(120)
LIMIT_BYTES = 64_000_000


def try_everything(path: Path) -> str:
    """Read a record in every way there is; the reason for which it is refused, "" where it isn't."""
    reason = ""
    read_beats(path, "atr", "r")
    try:
        header, _ = read_header_and_comments(path, "r")
        assert header.n_samples > 0
        assert header_from_row(header_to_row(header)) == header
        reader = PieceReader(path, header, "r")
        middle = header.n_samples // 2
        assert reader.read(middle, min(header.n_samples, middle + 10)).shape[0] == len(header.lead_names)
        raw = read_signal(path, header, "r")
        assert raw.signal_mv_lt.shape == (len(header.lead_names), header.n_samples)
        assert not np.isinf(raw.signal_mv_lt).any()
        assert reader.finish()[0] == raw.source_crc32
        read_native_counts(path, header, "r")
    except RecordError as error:
        reason = error.reason
    return reason


# --- a corpus of attacks ------------------------------------------------------------------------------------------

LINE = "r.dat 16 200/mV 16 0 0 0 0 I\n"
LINE_212 = "r.dat 212 200/mV 12 0 0 0 0 I\n"
ATTACKS = {
    "nothing": ("", "bad_header"),
    "only comments": ("# r 1 500 100\n" * 50, "bad_header"),
    "a trillion samples": (f"r 1 500 {10**12}\n{LINE}", "too_large"),
    "a trillion samples of 212": (f"r 1 500 {10**12}\n{LINE_212}", "too_large"),
    "a million signals": ("r 1000000 500 5000\n", "too_large"),
    "ten thousand signals that are there": ("r 10000 500 5000\n" + LINE * 10_000, "truncated"),
    "gigantic digits in the length": (f"r 1 500 {'9' * 10_000}\n{LINE}", "too_large"),
    "gigantic digits in the signals": (f"r {'9' * 10_000} 500 100\n{LINE}", "too_large"),
    "gigantic digits in the rate": (f"r 1 {'9' * 10_000} 100\n{LINE}", "bad_header"),
    "gigantic digits in the gain": (f"r 1 500 100\nr.dat 16 {'9' * 10_000}/mV 16 0 0 0 0 I\n", ""),
    "gigantic digits in the baseline": (f"r 1 500 100\nr.dat 16 200({'9' * 10_000})/mV 16 0 0 0 0 I\n", "bad_header"),
    "gigantic digits in the checksum": (f"r 1 500 100\nr.dat 16 200/mV 16 0 0 {'9' * 10_000} 0 I\n", "bad_header"),
    "gigantic digits in the offset": (f"r 1 500 100\nr.dat 16+{'9' * 10_000} 200/mV 16 0 0 0 0 I\n", "truncated"),
    "a baseline of 33 bits": ("r 1 500 100\nr.dat 16 200(4294967296)/mV 16 0 0 0 0 I\n", "bad_header"),
    "a huge offset": (f"r 1 500 100\nr.dat 16+{10**15} 200/mV 16 0 0 0 0 I\n", "truncated"),
    "a huge offset in 212": (f"r 1 500 100\nr.dat 212+{10**15} 200/mV 12 0 0 0 0 I\n", "truncated"),
    "huge frames": (f"r 1 500 100\nr.dat 16x{10**9} 200/mV 16 0 0 0 0 I\n", "too_large"),
    "huge frames of one sample": (f"r 2 500 1\nr.dat 16x{10**9} 200/mV 16 0 0 0 0 I\n{LINE}", "too_large"),
    "frames of nothing": ("r 1 500 100\nr.dat 16x0 200/mV 16 0 0 0 0 I\n", "bad_header"),
    "a huge skew": (f"r 1 500 100\nr.dat 16:{10**12} 200/mV 16 0 0 0 0 I\n", "bad_header"),
    "a negative skew": ("r 1 500 100\nr.dat 16:-5 200/mV 16 0 0 0 0 I\n", "bad_header"),
    "a negative offset": ("r 1 500 100\nr.dat 16+-5 200/mV 16 0 0 0 0 I\n", "bad_header"),
    "negative signals": (f"r -1 500 100\n{LINE}", "bad_header"),
    "negative samples": (f"r 1 500 -100\n{LINE}", "bad_header"),
    "a negative rate": (f"r 1 -500 100\n{LINE}", "bad_header"),
    "no rate": (f"r 1 0 100\n{LINE}", "bad_header"),
    "a rate of NaN": (f"r 1 nan 100\n{LINE}", "bad_header"),
    "an infinite rate": (f"r 1 1e999 100\n{LINE}", "bad_header"),
    "hardly a rate": (f"r 1 1e-300 100\n{LINE}", "bad_header"),
    "no samples": (f"r 1 500 0\n{LINE}", ""),
    "a gain of NaN": ("r 1 500 100\nr.dat 16 nan/mV 16 0 0 0 0 I\n", ""),
    "an infinite gain": ("r 1 500 100\nr.dat 16 1e999/mV 16 0 0 0 0 I\n", ""),
    "a gain that overflows": ("r 1 500 100\nr.dat 16 1e-300/V 16 0 0 0 0 I\n", ""),
    "a NUL in the file's name": ("r 1 500 100\nr\0.dat 16 200/mV 16 0 0 0 0 I\n", "unsafe_path"),
    "a NUL in another field": ("r 1 500 100\nr.dat 16 200/m\0V 16 0 0 0 0 I\n", ""),
    "the folder as a file": ("r 1 500 100\n. 16 200/mV 16 0 0 0 0 I\n", "unsafe_path"),
    "the folder above": ("r 1 500 100\n.. 16 200/mV 16 0 0 0 0 I\n", "unsafe_path"),
    "a file above": ("r 1 500 100\n../secret.dat 16 200/mV 16 0 0 0 0 I\n", "unsafe_path"),
    "a file above in 212": ("r 1 500 100\n../secret.dat 212 200/mV 16 0 0 0 0 I\n", "unsafe_path"),
    "a file below and above": ("r 1 500 100\nsub/../../secret.dat 16 200/mV 16 0 0 0 0 I\n", "unsafe_path"),
    "an absolute file": ("r 1 500 100\n/etc/passwd 16 200/mV 16 0 0 0 0 I\n", "unsafe_path"),
    "a backslash": ("r 1 500 100\n..\\secret.dat 16 200/mV 16 0 0 0 0 I\n", "unsafe_path"),
    "a web address": ("r 1 500 100\nhttp://example.org/r.dat 212 200/mV 16 0 0 0 0 I\n", "unsafe_path"),
    "a chain of file systems": ("r 1 500 100\nsimplecache::r.dat 212 200/mV 16 0 0 0 0 I\n", "missing_signal"),
    "a file with a name too long": (f"r 1 500 100\n{'r' * 400} 16 200/mV 16 0 0 0 0 I\n", "bad_signal"),
    "a line without end": (f"r 1 500 100\n{'r' * 500_000} 212 200/mV 16 0 0 0 0 I\n", "bad_signal"),
    "a header without end": ("r 1 500 100\n" + "# \n" * 500_000, "too_large"),
    "an unknown format": ("r 1 500 100\nr.dat 999 200/mV 16 0 0 0 0 I\n", "bad_header"),
    "format 0": ("r 1 500 100\nr.dat 0 200/mV 16 0 0 0 0 I\n", "bad_header"),
    "two formats in a file": (f"r 2 500 100\n{LINE}{LINE_212}", "bad_header"),
    "FLAC that is none": ("r 1 500 100\nr.dat 516 200/mV 16 0 0 0 0 I\n", "bad_signal"),
    "more signals than lines": (f"r 3 500 100\n{LINE}", "bad_header"),
    "fewer signals than lines": (f"r 1 500 100\n{LINE}{LINE}", ""),
    "no signals": ("r 0 500 100\n", "bad_header"),
    "only a record line": ("r", "bad_header"),
    "a segment that is itself": ("r/1 1 500 100\nr 100\n", "bad_header"),
    "segments without end": ("r/1000000 1 500 100\n" + "~ 1\n" * 100, "bad_header"),
    "a hundred thousand gaps": ("r/100000 1 500 100000\n" + "~ 1\n" * 100_000, "too_large"),
    "only gaps": ("r/2 1 500 100\n~ 50\n~ 50\n", "no_samples"),
    "a segment above": ("r/1 1 500 100\n../secret 100\n", "unsafe_path"),
    "a segment that is not there": ("r/1 1 500 100\nnone 100\n", "missing_header"),
    "segments of gigantic length": (f"r/1 1 500 100\nnone {'9' * 5000}\n", "bad_header"),
    "a segment of negative length": ("r/2 1 500 100\nnone -100\nnone 200\n", "bad_header"),
    "segments of unsaid number": ("r/ 1 500 100\nnone 100\n", "bad_header"),
}


def put(folder: Path, text: str) -> Path:
    """A record of that header, whose signal file holds zeros enough for 100 samples."""
    (folder / "r.dat").write_bytes(bytes(400))
    (folder / "r.hea").write_bytes(text.encode())
    return folder / "r"


@pytest.mark.parametrize("attack", list(ATTACKS))
def test_attacks_are_refused_with_their_reason(tmp_path, attack):
    text, reason = ATTACKS[attack]
    assert try_everything(put(tmp_path, text)) == reason


def test_a_header_names_no_file_outside_its_folder(tmp_path):
    """What Python opens while all attacks are tried, as its audit events say."""
    folder, opened, active = tmp_path / "records", [], [True]
    folder.mkdir()
    for name in ("secret.dat", "secret.hea", "secret"):
        (tmp_path / name).write_bytes(put(folder, f"secret 1 500 100\n{LINE}").with_suffix(".hea").read_bytes() * 20)

    def note(event: str, args: tuple[object, ...]) -> None:
        if active[0] and event == "open" and isinstance(args[0], str | bytes):
            opened.append(os.path.realpath(os.fsdecode(args[0])))

    sys.addaudithook(note)
    for text, _ in ATTACKS.values():
        try_everything(put(folder, text))
    active[0] = False
    ours = [name for name in opened if name.startswith(str(tmp_path))]
    assert len(ours) > len(ATTACKS)
    assert [name for name in ours if not name.startswith(f"{folder}{os.sep}")] == []
    assert "/etc/passwd" not in opened


SPECIAL = {
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to itself": lambda path: path.symlink_to(path),
    "a link to nowhere": lambda path: path.symlink_to(f"{path}.none"),
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes among files here")
@pytest.mark.parametrize("kind", list(SPECIAL))
@pytest.mark.parametrize("suffix", ["hea", "dat", "atr", "212", "flac"])
def test_what_is_not_a_file_is_not_waited_for(tmp_path, kind, suffix):
    form = {"212": "212", "flac": "516"}.get(suffix, "16")
    put(tmp_path, f"r 1 500 100\nr.dat {form} 200/mV 12 0 0 0 0 I\n")
    name = tmp_path / f"r.{suffix if suffix in ('hea', 'atr') else 'dat'}"
    name.unlink(missing_ok=True)
    SPECIAL[kind](name)
    reason = try_everything(tmp_path / "r")
    assert reason in (
        ("",) if suffix == "atr" else ("bad_header", "missing_header", "bad_signal", "missing_signal", "too_large")
    )
    beats, warnings = read_beats(tmp_path / "r", "atr", "r")
    assert not beats
    assert warnings


def test_a_file_that_becomes_a_pipe_after_its_header_was_read(tmp_path):
    for form in ("16", "212"):
        path = put(tmp_path, f"r 1 500 100\nr.dat {form} 200/mV 12 0 0 0 0 I\n")
        header, _ = read_header_and_comments(path, "r")
        (tmp_path / "r.dat").unlink()
        os.mkfifo(tmp_path / "r.dat")
        with pytest.raises(RecordError, match="not a file"):
            read_signal(path, header, "r")
        (tmp_path / "r.dat").unlink()


def test_annotations_without_end_are_left_alone(tmp_path):
    path = put(tmp_path, f"r 1 500 100\n{LINE}")
    (tmp_path / "r.atr").write_bytes(b"\x0a\x04" * 600_000)
    assert read_beats(path, "atr", "r") == ((), ("no annotations: the .atr file: 1200000 bytes",))


def test_segments_that_have_segments_are_refused(tmp_path):
    path = put(tmp_path, "r/1 1 500 100\ns 100\n")
    (tmp_path / "s.hea").write_text("s/1 1 500 100\nr 100\n")
    assert try_everything(path) == "bad_header"


def test_one_long_file_named_by_many_segments_is_verified_once(tmp_path):
    n = 2_000_000
    (tmp_path / "s.hea").write_text(f"s 1 500 {n}\ns.dat 16 200/mV 16 0 0 0 0 I\n")
    with (tmp_path / "s.dat").open("wb") as file:
        file.truncate(2 * n)
    assert try_everything(put(tmp_path, "r/5000 1 500 5000\n" + "s 1\n" * 5000)) == ""


def test_a_flac_bomb_bursts_at_its_claim(tmp_path):
    """A few bytes of FLAC may mean gigabytes: what counts is what the header claims, and that is looked up first."""
    wfdb.wrsamp(
        "r",
        fs=250,
        units=["mV"],
        sig_name=["I"],
        d_signal=np.zeros((3_000_000, 1), dtype=np.int64),
        fmt=["516"],
        adc_gain=[200.0],
        baseline=[0],
        write_dir=str(tmp_path),
    )
    size = (tmp_path / "r.dat").stat().st_size
    assert size < 50_000
    hea = tmp_path / "r.hea"
    text = hea.read_text()
    hea.write_text(text.replace(" 3000000", " 1000"))
    tracemalloc.start()
    assert try_everything(tmp_path / "r") == ""
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000_000
    hea.write_text(text.replace(" 3000000", " 300000000"))
    assert try_everything(tmp_path / "r") == "truncated"
    # A FLAC file that lies as its header does gives what it has, not what it claims.
    flac = bytearray((tmp_path / "r.dat").read_bytes())
    flac[21:26] = (int.from_bytes(flac[21:26], "big") & ~(2**36 - 1) | 300_000_000).to_bytes(5, "big")
    (tmp_path / "r.dat").write_bytes(flac)
    reader = PieceReader(tmp_path / "r", read_header_and_comments(tmp_path / "r", "r")[0], "r")
    with pytest.raises(RecordError, match="bad_signal"):
        reader.read(299_999_000, 300_000_000)


# --- mutations of good records ------------------------------------------------------------------------------------


def good_records() -> dict[str, dict[str, bytes]]:
    """Small records of each kind, as file name → content; the record is always called r."""
    counts_tl = np.random.default_rng(0).integers(-400, 400, (100, 2))
    records = {}
    with tempfile.TemporaryDirectory() as name:
        for fmt in ("16", "212", "80", "516"):
            folder = Path(name) / fmt
            folder.mkdir()
            wfdb.wrsamp(
                "r",
                fs=250,
                units=["mV", "mV"],
                sig_name=["I", "II"],
                d_signal=counts_tl // 4 if fmt == "80" else counts_tl,
                fmt=[fmt] * 2,
                adc_gain=[200.0, 200.0],
                baseline=[0, 0],
                comments=["Age: 40"],
                write_dir=str(folder),
            )
            wfdb.wrann("r", "atr", np.array([10, 50]), symbol=["N", "V"], aux_note=["", "(N"], write_dir=str(folder))
            records[fmt] = {file.name: file.read_bytes() for file in folder.iterdir()}
    dat = counts_tl.astype("<i2").tobytes()
    records["rates"] = {"r.hea": b"r 2 250 25\nr.dat 61x4:3 200/mV\nr.dat 61x4 200/mmHg\n", "r.dat": dat}
    records["differences"] = {"r.hea": b"r 2 250 100\nr.dat 8+8 200/mV\nr.dat 8+8 200/mV\n", "r.dat": dat}
    records["segments"] = {
        "r.hea": b"r/4 2 250 150\nlayout 0\ns 70\n~ 10\ns 70\n",
        "layout.hea": b"layout 2 250 0\n~ 0 200/mV 16 0 0 0 0 I\n~ 0 200/mV 16 0 0 0 0 II\n",
        "s.hea": b"s 2 250 100\nr.dat 16 200/mV 16 0\nr.dat 16 200/mV 16 0\n",
        "r.dat": dat,
    }
    return records


RECORDS = good_records()
WORDS = [
    b"",
    b"\0",
    b" ",
    b"\n",
    b"#",
    b"/",
    b"..",
    b"-1",
    b"0",
    b"99999999999",
    b"1e999",
    b"nan",
    b"~",
    b"x7",
    b":9",
    b"+5",
]
WORDS += [b"212", b"516", b"\xff\xfe", b"(", b")/", b"\r", b"\xb5V", bytes(range(256))]
MUTATION = st.tuples(st.floats(0, 1), st.integers(0, 6), st.sampled_from(WORDS) | st.binary(max_size=4))


def mutated(content: bytes, mutations: list[tuple[float, int, bytes]]) -> bytes:
    for place, n_removed, inserted in mutations:
        at = int(place * len(content))
        content = content[:at] + inserted + content[at + n_removed :]
    return content


@pytest.mark.parametrize("kind", list(RECORDS))
def test_the_good_records_are_good(tmp_path, kind):
    for name, content in RECORDS[kind].items():
        (tmp_path / name).write_bytes(content)
    assert try_everything(tmp_path / "r") == ""


def try_mutated(kind: str, data: st.DataObject) -> None:
    """Change a good record, and read it in every way."""
    files = dict(RECORDS[kind])
    # Headers first: they are where a byte makes a difference.
    name = data.draw(st.sampled_from(sorted(files, key=lambda one: not one.endswith(".hea"))))
    files[name] = mutated(files[name], data.draw(st.lists(MUTATION, min_size=1, max_size=3)))
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        tracemalloc.start()
        try:
            try_everything(Path(folder) / "r")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < LIMIT_BYTES


@settings(max_examples=20, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
@pytest.mark.parametrize("kind", list(RECORDS))
def test_nothing_but_record_errors_comes_of_mutations(kind, data):
    try_mutated(kind, data)


@pytest.mark.slow
@pytest.mark.timeout(6 * 3600)
@settings(max_examples=4_000, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(st.data())
@pytest.mark.parametrize("kind", list(RECORDS))
def test_a_hundred_times_as_many(kind, data):
    try_mutated(kind, data)


@settings(max_examples=200, derandomize=True)
@given(st.binary(max_size=300) | st.lists(st.sampled_from(WORDS), max_size=40).map(b"".join))
def test_no_bytes_break_the_header_parser(content):
    header = parse_plain(content.decode("latin-1"))
    assert header is None or header.n_samples > 0


LIMITED = """
import resource, sys, warnings
from pathlib import Path
sys.path.insert(0, {here!r})
warnings.simplefilter("error")
import test_hostile_input as hostile
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 256_000_000, resource.RLIM_INFINITY))
for text, reason in hostile.ATTACKS.values():
    found = hostile.try_everything(hostile.put(Path({folder!r}), text))
    assert found == reason, (text[:100], found)
print("all refused")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited as Linux does it")
def test_attacks_need_less_than_a_quarter_of_a_gigabyte(tmp_path):
    script = LIMITED.format(here=str(Path(__file__).parent), folder=str(tmp_path))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=120)
    assert done.stdout == "all refused\n", done.stderr[-2000:]
