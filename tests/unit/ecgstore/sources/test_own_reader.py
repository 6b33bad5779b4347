"""A source that reads its records itself: the same plan, shards and seal, and one line for whatever it gives."""

from __future__ import annotations

import hashlib
import pickle
import zlib

import numpy as np
import pytest

from ecgstore import (
    LEADS_12,
    ConfigError,
    IngestSettings,
    RecordHeader,
    SourceError,
    StoreExists,
    Workers,
    ingest_folder,
    open_store,
    seal_store,
)
from ecgstore.build import long, planning
from ecgstore.build.survey import survey
from ecgstore.sources import _reader
from ecgstore.wfdb_io.samples import read_signal
from ecgstore.wfdb_io.segments import read_header

HEAD = """
import numpy as np
import ecgstore
from ecgstore import Listing, RecordHeader, RecordRef, Statement, Terms

TERMS = Terms("mine", "1", "as agreed", False)


class Settings(ecgstore.Settings):
    fs_hz: float = 500


def list_records(root, settings):
    return Listing(tuple(RecordRef(p.stem, p) for p in sorted(root.iterdir())), (), TERMS)

"""
CSV = (
    HEAD
    + """
def read_header(ref, settings):
    with ref.path.open() as lines:
        leads = next(lines).strip().split(",")
        return RecordHeader(fs_hz=settings.fs_hz, n_samples=sum(1 for _ in lines), leads=leads)


def read_samples(ref, settings, start, stop):
    return np.loadtxt(ref.path, delimiter=",", skiprows=1 + start, max_rows=stop - start, ndmin=2).T
"""
)
NPY = (
    HEAD
    + """
def read_header(ref, settings):
    n_samples, n_leads = np.load(ref.path, mmap_mode="r").shape
    return RecordHeader(
        fs_hz=settings.fs_hz, n_samples=n_samples, leads=ecgstore.LEADS_12[:n_leads], gains=200, baselines=-5
    )


def read_samples(ref, settings, start, stop):
    return np.load(ref.path, mmap_mode="r")[start:stop].T
"""
)
N = 1500


@pytest.fixture
def folders(tmp_path, write_record):
    """The same records as WFDB, as CSV in millivolts and as counts in npy files."""
    rng = np.random.default_rng(0)
    for kind in ("csv", "npy"):
        (tmp_path / kind).mkdir()
    for name in ("a", "b", "c"):
        counts_tl = np.rint(rng.normal(0, 200, (N, 12)) + 100 * np.sin(np.arange(N) / 40)[:, None]).astype("<i2")
        counts_tl[: 20 * (name == "b"), 3] = -32768
        path = write_record(tmp_path / "wfdb", name, counts_tl, gain="200(-5)/mV")
        np.save(tmp_path / "npy" / f"{name}.npy", counts_tl)
        signal_mv_lt = read_signal(path, read_header(path, name), name).signal_mv_lt
        write_csv(tmp_path / "csv" / f"{name}.csv", signal_mv_lt)
    return tmp_path


def write_csv(path, signal_mv_lt, leads=LEADS_12):
    np.savetxt(path, signal_mv_lt.T, delimiter=",", fmt="%.9g", header=",".join(leads), comments="")


def source(folder, text, name="mine.py"):
    (folder / name).write_text(text)
    return str(folder / name)


def stored(path):
    """Everything that two stores of the same records have in common."""
    store = open_store(path)
    told = store.records.select(
        ["record_id", "start", "n_samples", "lead_states", "n_not_recorded", "crc32", "signature"]
    )
    return told.to_pydict(), store.lead_quality.to_pydict(), [store.read(one).signal_mv_lt.tobytes() for one in "abc"]


@pytest.mark.parametrize("profile", ["train", "diagnostic"])
def test_csv_and_npy_give_what_the_same_wfdb_records_give(folders, profile):
    ingest_folder(folders / "wfdb", folders / "wfdb.ecg", IngestSettings(profile=profile))
    for kind, text in (("csv", CSV), ("npy", NPY)):
        settings = IngestSettings(profile=profile, source=source(folders, text))
        report = ingest_folder(folders / kind, folders / f"{kind}.ecg", settings)
        assert (report.records, report.rejected, report.warnings) == (3, 0, 0)
        told, quality, signals = stored(folders / f"{kind}.ecg")
        expected, expected_quality, expected_signals = stored(folders / "wfdb.ecg")
        assert told == expected
        assert signals == expected_signals
        # The converter's step is known of counts alone, and says what is stuck.
        assert quality == expected_quality or kind == "csv"
        assert open_store(folders / f"{kind}.ecg").verify(deep=True) == []


def test_a_raw_store_keeps_the_counts_that_a_reader_gives(folders):
    ingest_folder(folders / "wfdb", folders / "wfdb.ecg", IngestSettings(profile="raw"))
    ingest_folder(folders / "npy", folders / "npy.ecg", IngestSettings(profile="raw", source=source(folders, NPY)))
    assert stored(folders / "npy.ecg") == stored(folders / "wfdb.ecg")
    gains = open_store(folders / "npy.ecg").lead_quality["gain_per_mv"].to_pylist()[0]
    assert gains == [200.0] * 12


def test_a_raw_store_of_values_keeps_microvolts_and_says_what_it_rounded(folders):
    write_csv(folders / "csv" / "b.csv", np.full((12, N), 0.1234567, dtype="f4") + np.arange(N, dtype="f4") / 1000)
    settings = IngestSettings(profile="raw", source=source(folders, CSV))
    ingest_folder(folders / "csv", folders / "raw.ecg", settings)
    store = open_store(folders / "raw.ecg")
    said = dict(zip(store.records["record_id"].to_pylist(), store.records["warnings"].to_pylist(), strict=True))
    assert said == {"a": "", "b": "rounded to steps of 1 µV, because the source gives no counts", "c": ""}
    assert store.read("b").signal_mv_lt[0, 0] == pytest.approx(0.123, abs=1e-6)


def test_bytes_are_the_same_for_parts_threads_and_long_records(folders, monkeypatch):
    settings = IngestSettings(source=source(folders, CSV))
    whole = ingest_folder(folders / "csv", folders / "whole.ecg", settings)
    assert ingest_folder(folders / "csv", folders / "threads.ecg", settings, workers=3).fingerprint == whole.fingerprint
    for part in ((2, 2), (1, 2)):
        ingest_folder(folders / "csv", folders / "parts.ecg", settings, part=part)
    with pytest.raises(ConfigError, match="source file, which is not run unless you name it"):
        seal_store(folders / "parts.ecg")
    assert seal_store(folders / "parts.ecg", own_source=folders / "mine.py").fingerprint == whole.fingerprint
    monkeypatch.setattr(long, "LONG_VALUES", 12 * 600)
    ingest_folder(folders / "csv", folders / "long.ecg", settings)
    told, _, _ = stored(folders / "long.ecg")
    assert told["record_id"] == ["a", "b", "c"]
    one, other = (open_store(folders / name).read("a").signal_mv_lt for name in ("whole.ecg", "long.ecg"))
    np.testing.assert_allclose(one, other, atol=0.0011)


@pytest.mark.slow
def test_processes_make_the_same_bytes(folders):
    settings = IngestSettings(source=source(folders, NPY))
    one = ingest_folder(folders / "npy", folders / "one.ecg", settings)
    two = ingest_folder(folders / "npy", folders / "two.ecg", settings, workers=Workers(n=2, processes=True))
    assert one.fingerprint == two.fingerprint


def test_a_reader_crosses_process_walls_as_the_name_of_its_file(folders):
    mine = source(folders, CSV)
    work = planning.plan(folders / "csv", IngestSettings(source={"name": mine, "fs_hz": 2000})).work
    packed = pickle.dumps(work.reader)
    assert b"loadtxt" not in packed
    _reader._again.cache_clear()
    again = pickle.loads(packed)
    assert (again.name, again.sha256) == (mine, hashlib.sha256(CSV.encode()).hexdigest())
    assert again.settings.fs_hz == 2000
    _reader._again.cache_clear()
    source(folders, CSV + "# changed\n")
    with pytest.raises(ConfigError, match="the source file changed while the store was being made"):
        pickle.loads(packed)


def test_a_record_is_made_again_where_its_file_or_the_code_or_its_settings_changed(folders):
    settings = IngestSettings(source=source(folders, CSV))
    first = ingest_folder(folders / "csv", folders / "out.ecg", settings)
    again = ingest_folder(folders / "csv", folders / "out.ecg", settings, append=True)
    assert (again.fingerprint, again.n_shards_resumed) == (first.fingerprint, first.n_shards)
    text = (folders / "csv" / "b.csv").read_text()
    (folders / "csv" / "b.csv").write_text(text.replace("0.", "1.", 1))  # of the same length
    changed = ingest_folder(folders / "csv", folders / "out.ecg", settings, append=True)
    assert changed.n_shards_resumed < changed.n_shards
    turned = IngestSettings(source=source(folders, CSV.replace("ndmin=2).T", "ndmin=2).T * -1")))
    with pytest.raises(StoreExists):
        ingest_folder(folders / "csv", folders / "out.ecg", turned, resume=True)
    assert ingest_folder(folders / "csv", folders / "out.ecg", turned, append=True).n_shards_resumed == 0


def test_crc_of_a_record_is_that_of_its_file_unless_it_shares_the_file(folders, tmp_path):
    ingest_folder(folders / "npy", folders / "npy.ecg", IngestSettings(source=source(folders, NPY)))
    content = (folders / "npy" / "a.npy").read_bytes()
    assert open_store(folders / "npy.ecg").records["source_crc32"][0].as_py() == zlib.crc32(content)
    shared = NPY.replace("RecordRef(p.stem, p)", "RecordRef(name, root / 'all.npy', inside=name)").replace(
        "for p in sorted(root.iterdir())", "for name in 'abc'"
    )
    shared = shared.replace('np.load(ref.path, mmap_mode="r")', "np.load(ref.path)['abc'.index(ref.inside)]")
    (folders / "one").mkdir()
    np.save(folders / "one" / "all.npy", np.stack([np.load(folders / "npy" / f"{name}.npy") for name in "abc"]))
    hashed = {"record_ids": "hashed", "patient_key": "a long secret key"}
    report = ingest_folder(
        folders / "one", folders / "one.ecg", IngestSettings(source=source(folders, shared), **hashed)
    )
    assert (report.records, report.rejected) == (3, 0)
    crcs = open_store(folders / "one.ecg").records["source_crc32"].to_pylist()
    counts_tl = np.load(folders / "npy" / "a.npy").astype("<i4")
    counts_tl[counts_tl == -32768] = -(2**31)
    assert crcs[0] == zlib.crc32(counts_tl.tobytes())
    assert len(set(crcs)) == 3


def test_scan_says_what_there_is(folders):
    found = survey(folders / "csv", IngestSettings(source=source(folders, CSV)))
    assert (found.records, found.formats, found.leads) == (3, {"read by the source": 3}, {" ".join(LEADS_12): 3})
    assert found.source_megabytes > 0


def test_files_are_compared_with_the_list_of_checksums(folders):
    names = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (folders / "csv").iterdir()}
    names["b.csv"] = "0" * 64
    mine = source(folders, CSV.replace("root.iterdir()", "root.glob('*.csv')"))
    (folders / "csv" / "SHA256SUMS.txt").write_text("".join(f"{value} {name}\n" for name, value in names.items()))
    report = ingest_folder(folders / "csv", folders / "out.ecg", IngestSettings(source=mine), verify_source=True)
    assert (report.records, report.reasons) == (2, {"bad_source_checksum": 1})


#: What read_samples gives, and what is said of it.
BAD_SAMPLES = {
    "1 / 0": ("bad_signal", "read_samples raises ZeroDivisionError in line "),
    "open('none of John Doe')": ("missing_signal", "read_samples raises FileNotFoundError in line "),
    "exit(3)": ("bad_signal", "read_samples raises SystemExit"),
    "good * np.nan": ("no_samples", "every sample is marked as not recorded"),
    "good.T": ("bad_signal", "the shape (400, 12), where (leads, samples) are (12, 400): turn it (.T)"),
    "good[0]": ("bad_signal", "the shape (400,)"),
    "good[:, :, None]": ("bad_signal", "the shape (12, 400, 1)"),
    "good[:11]": ("bad_signal", "the shape (11, 400)"),
    "good[:, :399]": ("truncated", "the shape (12, 399), where (leads, samples) are (12, 400)"),
    "np.pad(good, ((0, 0), (0, 1)))": ("bad_signal", "the shape (12, 401)"),
    "np.where(good == good[3, 3], np.inf, good)": ("bad_signal", "signal 3: a value beyond ±1e+06 mV, or an infinite"),
    "good.astype(float) * 1e300": ("bad_signal", "signal 0: a value beyond"),
    "good * 1e30": ("bad_signal", "signal 0: a value beyond"),
    "good + 1j": ("bad_signal", "an array of complex128: numbers are wanted"),
    "good > 0": ("bad_signal", "an array of bool"),
    "good.astype(str)": ("bad_signal", "an array of <U"),
    "good.astype(object)": ("bad_signal", "an array of object"),
    "None": ("bad_signal", "an array of object"),
    "'John Doe'": ("bad_signal", "an array of <U8"),
    "[[1, 2], [3]]": ("bad_signal", "no array: ValueError"),
    "iter(good)": ("bad_signal", "an array of object"),
}


def one_for_each(folder, given, header, samples):
    """A source of one record for each text in ``given``, named by its number, and one that is good."""
    (folder / "in").mkdir()
    cases = "".join(f"    '{number:02}': lambda good: {text},\n" for number, text in enumerate(given))
    for name in [*(f"{number:02}" for number in range(len(given))), "good"]:
        (folder / "in" / f"{name}.x").touch()
    text = HEAD + (
        f"CASES = {{\n{cases}}}\n\n"
        "def read_header(ref, settings):\n"
        "    good = RecordHeader(fs_hz=200, n_samples=400, leads=ecgstore.LEADS_12)\n"
        f"    return {header}\n\n"
        "def read_samples(ref, settings, start, stop):\n"
        "    good = np.random.default_rng(1).normal(size=(12, stop - start))\n"
        f"    return {samples}\n"
    )
    return text, source(folder, text)


BENT = "CASES[ref.record_id](good) if ref.record_id in CASES else good"


def check(found, expected, text, folder):
    """Every record but the good one is left out, for the reason that is expected, in words that name nobody."""
    by_id = {record_id: (reason, detail) for record_id, reason, detail in found}
    assert len(by_id) == len(expected)
    for number, (given, (reason, words)) in enumerate(expected.items()):
        said_reason, said = by_id[f"{number:02}"]
        assert said_reason == reason, given
        assert words in said, given
        assert "Doe" not in said
        assert str(folder) not in said
        if " in line " in said:
            line = text.splitlines().index(f"    '{number:02}': lambda good: {given},") + 1
            assert f" in line {line} of the source file" in said


def test_what_a_reader_can_give_wrong_leaves_out_the_one_record(tmp_path):
    text, mine = one_for_each(tmp_path, BAD_SAMPLES, "good", BENT)
    report = ingest_folder(tmp_path / "in", tmp_path / "out.ecg", IngestSettings(source=mine))
    assert (report.records, report.rejected) == (1, len(BAD_SAMPLES))
    store = open_store(tmp_path / "out.ecg")
    check([one.values() for one in store.rejected.to_pylist()], BAD_SAMPLES, text, tmp_path)
    assert store.verify(deep=True) == []


#: What read_header gives.
BAD_HEADERS = {
    "1 / 0": ("bad_header", "read_header raises ZeroDivisionError in line "),
    "open('none of John Doe')": ("missing_header", "read_header raises FileNotFoundError in line "),
    "{'fs_hz': 100}": ("bad_header", "read_header gives a dict, not a RecordHeader"),
    "None": ("bad_header", "read_header gives None, not a RecordHeader"),
    "RecordHeader(fs_hz=0, n_samples=400, leads=['I'])": ("bad_header", "fs_hz: Input should be greater than or equal"),
    "RecordHeader(fs_hz=np.inf, n_samples=400, leads=['I'])": ("bad_header", "fs_hz: Input should be"),
    "RecordHeader(fs_hz='John Doe', n_samples=400, leads=['I'])": (
        "bad_header",
        "fs_hz: Input should be a valid number",
    ),
    "RecordHeader(fs_hz=100, n_samples=-1, leads=['I'])": ("bad_header", "n_samples: Input should be greater than"),
    "RecordHeader(fs_hz=100, n_samples=1.5, leads=['I'])": ("bad_header", "n_samples: Input should be a valid integer"),
    "RecordHeader(fs_hz=100, n_samples=0, leads=['I'])": ("no_samples", "read_header states 0 samples"),
    "RecordHeader(fs_hz=100, n_samples=10**15, leads=['I'])": ("too_large", "1 signals of 1e+15 samples"),
    "RecordHeader(fs_hz=100, n_samples=400, leads=[])": ("bad_header", "leads: "),
    "RecordHeader(fs_hz=100, n_samples=400, leads='I')": ("bad_header", "leads: Input should be a valid tuple"),
    "RecordHeader(fs_hz=100, n_samples=400, leads=['I', 7])": ("bad_header", "leads.1: Input should be a valid string"),
    "RecordHeader(fs_hz=100, n_samples=400, leads=['I'], name='Doe')": ("bad_header", "Extra inputs are not permitted"),
    "RecordHeader(fs_hz=100, n_samples=400, leads=['I', 'II'], units=['mV'] * 3)": (
        "bad_header",
        "3 units for 2 leads",
    ),
    "RecordHeader(fs_hz=100, n_samples=400, leads=['I', 'II'], units='mmHg')": ("unknown_unit", "signal 0"),
    "RecordHeader(fs_hz=100, n_samples=400, leads=['I', 'II'], gains=-1)": ("bad_gain", "signal 0"),
    "RecordHeader(fs_hz=100, n_samples=400, leads=['I', 'II'], gains=np.nan)": ("bad_gain", "signal 0 states no gain"),
    "RecordHeader(fs_hz=100, n_samples=400, leads=['I', 'I'])": ("duplicate_lead", "I is the name of signals 0 and 1"),
    "RecordHeader(fs_hz=100, n_samples=400, leads=['I', 'John Doe'])": ("unknown_lead", "signal 1 is not a lead"),
    "RecordHeader(fs_hz=100, n_samples=400, leads=['V7'])": ("no_leads", "V7"),
}


def test_what_a_reader_can_say_wrong_leaves_out_the_one_record(tmp_path):
    text, mine = one_for_each(tmp_path, BAD_HEADERS, BENT, "good")
    made = planning.plan(tmp_path / "in", IngestSettings(source=mine))
    assert made.n_records == 1
    check([(one.record_id, one.reason, one.detail) for one in made.rejected], BAD_HEADERS, text, tmp_path)


def test_a_reader_may_choose_its_reason(tmp_path):
    (tmp_path / "in").mkdir()
    for name in "ab":
        (tmp_path / "in" / f"{name}.x").touch()
    text = CSV.replace(
        "    with ref",
        "    if ref.record_id == 'a':\n        raise ecgstore.RecordError('x', 'not_16_bit', 'y')\n    with ref",
    )
    write_csv(tmp_path / "in" / "b.x", np.random.default_rng(0).normal(size=(12, 2000)))
    made = planning.plan(tmp_path / "in", IngestSettings(source=source(tmp_path, text)))
    assert [(one.record_id, one.reason, one.detail) for one in made.rejected] == [("a", "not_16_bit", "y")]


def header(**fields):
    return _reader.header_of(RecordHeader(fs_hz=100, n_samples=3, leads=("I", "II"), **fields))


@pytest.mark.parametrize(
    ("given", "fields", "expected"),
    [
        (np.ma.masked_array([[1.0, 2, 3]] * 2, [[0, 1, 0]] * 2), {}, [1, np.nan, 3]),
        (np.array([[1, -128, 3]] * 2, dtype="i1"), {}, [1, np.nan, 3]),
        (np.array([[1, 0, 3]] * 2, dtype="u2"), {}, [1, 0, 3]),
        ([[1, 2, 3], [1, 2, 3]], {}, [1, 2, 3]),
        (np.array([[1, 2, 3]] * 2, dtype=">f8"), {"units": "uV"}, [1e-3, 2e-3, 3e-3]),
        (np.array([[1, 2, 3]] * 2, dtype="f2"), {"units": ["V", "V"]}, [1000, 2000, 3000]),
        (np.array([[1, -32768, 3]] * 2, dtype="i2"), {"gains": 10}, [1, -(2**31), 3]),
        (np.array([[1, np.nan, 3]] * 2), {"gains": np.float32(10)}, [1, -(2**31), 3]),
        (np.array([[1, 2**40, 3]] * 2, dtype="i8"), {"gains": 10}, "more than 32 bits"),
        (np.array([[1, 2**63, 3]] * 2, dtype="u8"), {"gains": 10}, "more than 32 bits"),
        (np.array([[1, np.inf, 3]] * 2), {"gains": 10}, "more than 32 bits"),
        (np.array([[1, 2.5, 3]] * 2), {"gains": 10}, "no whole numbers"),
    ],
)
def test_samples_are_taken_for_what_they_are(given, fields, expected):
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            _reader.checked_samples(given, header(**fields), 3)
    else:
        found = _reader.checked_samples(given, header(**fields), 3)
        np.testing.assert_allclose(found, [expected] * 2, rtol=1e-6)
        assert found.dtype == (np.int32 if "gains" in fields else np.float32)


#: What a listing says of a record, and what is said of that.
BAD_LISTINGS = {
    "record_id=''": "record 0 of the listing; .*record_id: String should have at least 1",
    "record_id=7": "record_id: Input should be a valid string",
    "record_id='x' * 2000": "record_id: Value error, 2000 bytes",
    "record_id='\\udc80'": "record_id: ",
    "age_years=-3": "age_years: Input should be greater",
    "age_years='John Doe'": "age_years: Input should be a valid number",
    "fold=2.5": "fold: Input should be a valid integer",
    "fold=10**6": "fold: Input should be less",
    "sex='m'": "sex: Input should be 'female' or 'male'",
    "statements=('AFIB',)": "statements.0",
    "statements=(Statement('AFIB', 'x', 300),)": "statements.0.likelihood: Input should be less",
    "statements=(Statement('', 'x'),)": "statements.0.code",
    "statements=(Statement(str(float('nan')), 'x'),)": "statements.0.code: Value error, a missing value is no code",
    "patient_id=17": "patient_id: Input should be a valid string",
    "annotators=('../x',)": "annotators.0: String should match",
    "mv_factor=float('nan')": "mv_factor",
}


@pytest.mark.parametrize("said", BAD_LISTINGS)
def test_what_a_source_lists_is_checked(tmp_path, said):
    (tmp_path / "in").mkdir()
    fields = said if said.startswith("record_id") else f"record_id='b', {said}"
    text = CSV.replace(
        "tuple(RecordRef(p.stem, p) for p in sorted(root.iterdir()))", f"(RecordRef({fields}, path=root),)"
    )
    with pytest.raises(SourceError, match=BAD_LISTINGS[said]) as caught:
        planning.plan(tmp_path / "in", IngestSettings(source=source(tmp_path, text)))
    assert "John" not in str(caught.value)


DESCRIBE = """
def describe(ref, comments, settings, gains=()):
    from dataclasses import replace
    return {}
"""


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("replace(ref, fold=20210401)", "what describe gives for record a; .*fold: Input should be less"),
        ("replace(ref, fold=2.5)", "fold: Input should be a valid integer"),
        ("replace(ref, age_years=float('inf'))", "age_years: Input should be less"),
        ("replace(ref, age_years=-5.0)", "age_years: Input should be greater"),
        ("replace(ref, sex='John Doe')", "sex: Input should be 'female' or 'male'"),
        ("replace(ref, patient_id=17)", "patient_id: Input should be a valid string"),
        ("replace(ref, statements=None)", "statements: "),
        ("replace(ref, statements=(Statement('x' * 5000, 's'),))", "statements.0.code: "),
        ("replace(ref, mv_factor=-1.0)", "mv_factor: "),
        ("replace(ref, record_id='John Doe')", "another record_id, path or inside"),
        ("replace(ref, path=ref.path.parent)", "another record_id, path or inside"),
        ("None", "is no RecordRef; .*got NoneType"),
    ],
)
def test_what_a_source_finds_in_headers_is_checked_as_its_listing_is(folders, given, expected):
    text = CSV + DESCRIBE.format(given)
    with pytest.raises(SourceError, match=expected) as caught:
        planning.plan(folders / "csv", IngestSettings(source=source(folders, text)))
    assert "John" not in str(caught.value)


def test_what_pandas_and_numpy_give_from_headers_is_made_plain(folders):
    nan = "float('nan')"
    text = CSV + DESCRIBE.format(f"replace(ref, patient_id={nan}, fold=np.int64(3), site=np.str_('east'))")
    made = planning.plan(folders / "csv", IngestSettings(source=source(folders, text)))
    ref = made.tasks[0].records[0].ref
    assert (ref.patient_id, ref.fold, ref.site, type(ref.fold), type(ref.site)) == (None, 3, "east", int, str)


@pytest.mark.parametrize("nan", ["float('nan')", "str(float('nan'))", "str(None)", "'<NA>'"])
def test_empty_cells_of_pandas_say_nothing(folders, nan):
    text = CSV.replace(
        "RecordRef(p.stem, p)",
        f"RecordRef(p.stem, str(p), patient_id={nan}, fold=np.int64(3), age_years={nan}, sex={nan}, site={nan})",
    )
    made = planning.plan(folders / "csv", IngestSettings(source=source(folders, text)))
    ref = made.tasks[0].records[0].ref
    assert (ref.patient_id, ref.fold, ref.age_years, ref.sex, ref.site) == (None, 3, None, None, None)
    assert type(ref.fold) is int


def test_half_a_reader_is_refused(folders):
    text = CSV.replace("def read_samples", "def _read_samples")
    with pytest.raises(ValueError, match="half a reader.*read_header and read_samples, got read_header"):
        IngestSettings(source=source(folders, text))


def test_a_folder_without_records_is_said(folders):
    (folders / "empty").mkdir()
    with pytest.raises(SourceError, match="no record was found"):
        planning.plan(folders / "empty", IngestSettings(source=source(folders, CSV)))
