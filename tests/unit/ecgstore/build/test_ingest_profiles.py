"""Profiles, codecs, leads that are kept, noise on the way in, sources of one's own."""

from __future__ import annotations

import numpy as np
import pytest

import ecgstore
from ecgstore import LEADS_12, Beat, LeadState
from ecgstore.build.ingest import ingest_folder
from ecgstore.build.plan import Recipe
from ecgstore.build.settings import IngestSettings
from ecgstore.errors import ConfigError, StoreError
from ecgstore.settings import parse
from ecgstore.signals.noise import NoiseSettings


def test_a_profile_fills_in_what_is_not_said():
    train = IngestSettings()
    assert train.recipe == Recipe(fs_hz=100, filters=({"name": "bandpass", "low_hz": 0.5, "high_hz": 40.0},))
    assert IngestSettings(filters=()).filters == ()
    diagnostic = IngestSettings(profile="diagnostic")
    assert (diagnostic.fs_hz, diagnostic.filters[0].low_hz, diagnostic.filters[0].high_hz) == (500, 0.05, 150)
    raw = IngestSettings(profile="raw")
    assert (raw.fs_hz, raw.filters, raw.encoding) == (None, (), "adc")
    with pytest.raises(ValueError, match="takes no filter"):
        IngestSettings(profile="raw", fs_hz=100)


@pytest.mark.parametrize(
    ("given", "freqs_hz"),
    [
        ({}, []),
        ({"mains_hz": 60}, []),
        ({"fs_hz": 250}, [50]),
        ({"fs_hz": "250", "mains_hz": 60}, [60]),
        ({"fs_hz": 120}, [50]),
        ({"fs_hz": 120, "mains_hz": 60}, []),
        ({"fs_hz": None}, [50]),
        ({"fs_hz": 500, "filters": ()}, []),
    ],
)
def test_the_profile_has_a_notch_where_the_store_could_hold_the_mains(given, freqs_hz):
    settings = IngestSettings(**given)
    assert [one.freq_hz for one in settings.filters if one.name == "notch"] == freqs_hz


@pytest.mark.parametrize("given", [{"fs_hz": "fast"}, {"fs_hz": [250]}, {"mains_hz": "55"}, {"mains_hz": None}])
def test_a_rate_that_is_none_is_refused_by_its_name(given):
    (name,) = given
    with pytest.raises(ConfigError, match=name):
        parse(IngestSettings, given)


def test_a_curve_of_another_response_is_another_recipe():
    now = IngestSettings().recipe.model_dump(mode="json")["filters"]
    assert [one["response"] for one in now] == ["analogue"]
    with pytest.raises(ConfigError, match="response"):
        parse(IngestSettings, {"filters": [{"name": "bandpass", "response": "digital"}]})


def test_a_raw_store_holds_the_files_own_counts(tmp_path, write_record):
    rng = np.random.default_rng(3)
    folder = tmp_path / "src"
    counts = {"a": (400, "200(17)/mV", "500"), "b": (900, "0.5(-3)/uV", "360"), "c": (700, "1000/mV", "500")}
    files = {name: rng.integers(-2000, 2000, (n, 3)).astype("<i2") for name, (n, _, _) in counts.items()}
    files["a"][5, 1] = -32768
    for name, (_, gain, fs) in counts.items():
        write_record(folder, name, files[name], ("v2", "-aVR", "I"), gain=gain, fs=fs)
    ingest_folder(folder, tmp_path / "raw.ecg", IngestSettings(profile="raw"))
    store = ecgstore.open_store(tmp_path / "raw.ecg")
    assert store.verify(deep=True) == []
    assert store.column("source_fs_hz").tolist() == [500, 360, 500]
    rows = store.read_shard(0)
    for row, name in enumerate("abc"):
        stored = rows.counts_lt[:, rows.starts[row] : rows.starts[row] + rows.lengths[row]]
        for column, lead in ((0, "V2"), (1, "aVR"), (2, "I")):
            np.testing.assert_array_equal(stored[LEADS_12.index(lead)], files[name][:, column])
        record = store.read(name)
        assert record.fs_hz == float(counts[name][2])
        assert record.lead_states[LEADS_12.index("aVL")] is LeadState.ABSENT
    physical = (files["b"] + 3.0) / 0.5 / 1000
    b = store.read("b").signal_mv_lt
    np.testing.assert_allclose(b[LEADS_12.index("V2")], physical[:, 0], rtol=1e-6)
    np.testing.assert_allclose(b[LEADS_12.index("aVR")], -physical[:, 1], rtol=1e-6)
    assert np.isnan(store.read("a").signal_mv_lt[LEADS_12.index("aVR"), 5])
    with pytest.raises(StoreError, match="different sampling rates.*360, 500 Hz"):
        _ = store.fs_hz
    with pytest.raises(StoreError, match="raw store has no statistics"):
        store.statistics()


def test_raw_and_filtered_stores_agree(mini, tmp_path):
    ingest_folder(mini, tmp_path / "raw.ecg", IngestSettings(profile="raw"))
    ingest_folder(mini, tmp_path / "plain.ecg", IngestSettings(fs_hz=500, filters=()))
    raw, plain = (ecgstore.open_store(tmp_path / f"{name}.ecg") for name in ("raw", "plain"))
    assert raw.fs_hz == 500
    for record_id in plain.column("record_id")[:5]:
        np.testing.assert_allclose(raw.read(record_id).signal_mv_lt, plain.read(record_id).signal_mv_lt, atol=0.00051)


def test_both_codecs_hold_the_same_counts(mini, mini_store, tmp_path):
    pytest.importorskip("pcodec")
    out = tmp_path / "pcodec.ecg"
    ingest_folder(mini, out, IngestSettings(codec="pcodec"))
    packed, usual = ecgstore.open_store(out), ecgstore.open_store(mini_store)
    assert packed.verify(deep=True) == []
    assert packed.recipe_sha256 == usual.recipe_sha256
    assert packed.column("crc32").tolist() == usual.column("crc32").tolist()
    assert packed.n_bytes < usual.n_bytes
    content = bytearray((out / "signal/c/0/0").read_bytes())
    content[2000] ^= 1
    (out / "signal/c/0/0").write_bytes(content)
    with pytest.raises(ecgstore.IntegrityError, match="can't be decoded"):
        packed.read_shard(0)


def test_a_subset_of_leads_in_any_order(mini, tmp_path):
    ingest_folder(mini, tmp_path / "few.ecg", IngestSettings(leads=("V2", "II", "I")))
    ingest_folder(mini, tmp_path / "all.ecg", IngestSettings())
    few, whole = (ecgstore.open_store(tmp_path / f"{name}.ecg") for name in ("few", "all"))
    assert few.leads == ("V2", "II", "I")
    record_id = few.column("record_id")[0]
    np.testing.assert_array_equal(few.read(record_id).signal_mv_lt, whole.read(record_id).signal_mv_lt[[7, 1, 0]])


def test_leads_that_are_none_of_the_twelve_are_refused_dropped_or_kept(tmp_path, write_record):
    rng = np.random.default_rng(0)
    folder = tmp_path / "src"
    names = {"r1": ("MLII", "V5"), "r2": ("ECG1", "V5"), "r3": ("V5", "RESP")}
    for name, leads in names.items():
        write_record(folder, name, rng.integers(-500, 500, (5000, 2)).astype("<i2"), leads)
    hea = folder / "r3.hea"
    first, v5, resp = hea.read_text().splitlines()
    hea.write_text("\n".join([first, v5, resp.replace("/mV", "/NU")]) + "\n")

    def reasons(extra):
        report = ingest_folder(folder, tmp_path / f"{extra}.ecg", IngestSettings(extra_leads=extra))
        return report.records, dict(report.reasons)

    assert reasons("refuse") == (1, {"unknown_lead": 2})
    assert reasons("drop") == (3, {})
    assert reasons("keep") == (3, {})
    kept = ecgstore.open_store(tmp_path / "keep.ecg")
    assert kept.leads == (*LEADS_12, "ECG1", "MLII")
    states = dict(zip(kept.leads, kept.read("r1").lead_states, strict=True))
    assert {lead for lead, state in states.items() if state is LeadState.MEASURED} == {"MLII", "V5"}
    assert kept.verify(deep=True) == []
    dropped = ecgstore.open_store(tmp_path / "drop.ecg")
    assert "left out: RESP" in dropped.read("r3").warnings
    with pytest.raises(ecgstore.EcgError, match="none of 3 records.*unknown_lead"):
        ingest_folder(folder, tmp_path / "mlii.ecg", IngestSettings(leads=("II",)))
    ingest_folder(folder, tmp_path / "mlii.ecg", IngestSettings(leads=("MLII",), extra_leads="drop"))
    assert ecgstore.open_store(tmp_path / "mlii.ecg").column("record_id").tolist() == ["r1"]


@pytest.mark.parametrize("profile", ["train", "raw"])
def test_signals_of_one_name_that_is_no_lead_are_kept_apart(tmp_path, write_record, profile):
    counts_tl = np.random.default_rng(3).integers(-500, 500, (5000, 3)).astype("<i2")
    write_record(tmp_path / "src", "two", counts_tl, ("ECG", "V5", "ECG"))
    write_record(tmp_path / "src", "one", counts_tl, ("V5", "V6", "ECG"))
    ingest_folder(tmp_path / "src", tmp_path / "out.ecg", IngestSettings(profile=profile, extra_leads="keep"))
    store = ecgstore.open_store(tmp_path / "out.ecg")
    assert store.leads == (*LEADS_12, "ECG", "ECG 2")
    two, one = store.read("two"), store.read("one")
    assert "".join(two.lead_states[12:]) == "mm"
    assert "".join(one.lead_states[12:]) == "ma"
    assert two.warnings == ("named anew: signal 2 as ECG 2",)
    assert not np.allclose(two.signal_mv_lt[12], two.signal_mv_lt[13])
    assert one.warnings == ()


def test_a_raw_store_says_what_it_left_out_and_turned(tmp_path, write_record):
    write_record(tmp_path / "src", "r", leads=("II", "ABP", "-aVR", "Jane Doe"))
    ingest_folder(tmp_path / "src", tmp_path / "out.ecg", IngestSettings(profile="raw", extra_leads="drop"))
    record = ecgstore.open_store(tmp_path / "out.ecg").read("r")
    assert record.warnings == ("left out: ABP, signal 3", "sign turned: aVR")
    assert "".join(record.lead_states) == "amamaaaaaaaa"


def write_two_rates(folder, name, slow="V5", unit="mV"):
    """II at 500 Hz, and beside it a signal at 125 Hz, in frames of 5 samples."""
    frames_tl = np.random.default_rng(11).integers(-400, 400, (1000, 5)).astype("<i2")
    folder.mkdir(exist_ok=True)
    frames_tl.tofile(folder / f"{name}.dat")
    lines = (f"{name} 2 125 1000", f"{name}.dat 16x4 200(0)/mV 16 0", f"{name}.dat 16 200(0)/{unit} 16 0")
    ii, other = (" ".join([line, "0 {} 0 {}"]) for line in lines[1:])
    sums = [int(part.sum()) % 65536 for part in (frames_tl[:, :4], frames_tl[:, 4])]
    text = "\n".join([lines[0], ii.format(sums[0], "II"), other.format(sums[1], slow)])
    (folder / f"{name}.hea").write_text(text.replace(f"16 0 0 {sums[0]}", f"16 0 {frames_tl[0, 0]} {sums[0]}") + "\n")
    head = (folder / f"{name}.hea").read_text()
    (folder / f"{name}.hea").write_text(head.replace(f"16 0 0 {sums[1]}", f"16 0 {frames_tl[0, 4]} {sums[1]}"))
    return frames_tl


def test_a_raw_store_takes_no_leads_of_different_rates(tmp_path, write_record):
    frames_tl = write_two_rates(tmp_path / "src", "mixed")
    write_two_rates(tmp_path / "src", "spare", slow="RESP")
    raw = IngestSettings(profile="raw", extra_leads="drop")
    ingest_folder(tmp_path / "src", tmp_path / "raw.ecg", raw)
    store = ecgstore.open_store(tmp_path / "raw.ecg")
    assert store.rejected.to_pylist() == [
        {
            "record_id": "mixed",
            "reason": "mixed_rates",
            "detail": "signal 1 at 125 Hz, the record at 500 Hz; another profile takes it",
        }
    ]
    np.testing.assert_array_equal(store.read_shard(0).counts_lt[1, :4000], frames_tl[:, :4].reshape(-1))
    ingest_folder(tmp_path / "src", tmp_path / "own.ecg", IngestSettings(filters=(), fs_hz=None, extra_leads="drop"))
    other = ecgstore.open_store(tmp_path / "own.ecg")
    assert other.read("mixed").warnings == ("held, because recorded at 125 Hz: V5",)
    assert other.read("spare").warnings == ("left out: RESP",)


def test_a_raw_record_whose_leads_could_only_be_derived_is_left_out(tmp_path, write_record):
    write_record(tmp_path / "src", "r", leads=("I", "II"))
    write_record(tmp_path / "src", "s", leads=("I", "II", "V1"))
    ingest_folder(tmp_path / "src", tmp_path / "out.ecg", IngestSettings(profile="raw", leads=("aVF", "V1")))
    assert ecgstore.open_store(tmp_path / "out.ecg").rejected["reason"].to_pylist() == ["no_leads"]


def test_a_lead_derived_from_one_that_turns_out_flat_is_bad(tmp_path, write_record):
    counts_tl = np.random.default_rng(4).integers(-500, 500, (5000, 3)).astype("<i2")
    # Half a microvolt at most: alive in the file, but not in counts of a store.
    counts_tl[:, 1] = np.arange(5000) // 25
    path = write_record(tmp_path / "src", "r", counts_tl, ("I", "II", "V1"))
    first, i, ii, v1 = path.with_suffix(".hea").read_text().splitlines()
    path.with_suffix(".hea").write_text("\n".join([first, i, ii.replace("1000.0(0)", "100000.0(0)"), v1]) + "\n")
    ingest_folder(tmp_path / "src", tmp_path / "out.ecg", IngestSettings())
    assert "".join(ecgstore.open_store(tmp_path / "out.ecg").read("r").lead_states) == "mbbbbbmaaaaa"


def test_more_names_than_leads_can_have_are_not_kept(tmp_path, write_record):
    for i in range(70):
        write_record(tmp_path / "src", f"r{i}", np.full((100, 1), i, "<i2"), (f"electrode {i}",))
    with pytest.raises(ConfigError, match="too many different signal names.*--extra-leads drop"):
        ingest_folder(tmp_path / "src", tmp_path / "out.ecg", IngestSettings(extra_leads="keep"))


def test_noise_on_the_way_in_is_what_augment_adds(mini, mini_store, tmp_path):
    from ecgstore.build.augment import augment_store

    noise = NoiseSettings(kind="muscle", snr_db=6.0, seed=4)
    ingest_folder(mini, tmp_path / "in.ecg", IngestSettings(noise=noise))
    augment_store(ecgstore.open_store(mini_store), tmp_path / "after.ecg", noise)
    ingested, augmented = (ecgstore.open_store(tmp_path / f"{name}.ecg") for name in ("in", "after"))
    assert ingested.column("crc32").tolist() == augmented.column("crc32").tolist()
    assert np.abs(ingested.column("snr_db") - 6).max() < 0.1
    assert ingested.recipe["noise"]["kind"] == "muscle"


SOURCE = """
from ecgstore.record import Listing, RecordRef, Statement, Terms
from ecgstore import Settings as Base

TERMS = Terms(name="st_elsewhere", version="3", licence="internal", redistributable=False)

class Settings(Base):
    ward: str = "all"

def list_records(root, settings):
    refs = [RecordRef(path.stem, path.with_suffix(""), patient_id=path.stem[0]) for path in sorted(root.glob("*.hea"))]
    return Listing(tuple(refs), (), TERMS)

def describe(ref, comments, settings, gains=()):
    from dataclasses import replace
    codes = [line.partition(":")[2].strip() for line in comments if line.startswith("Finding")]
    return replace(ref, site=settings.ward, statements=tuple(Statement(code, "local") for code in codes))
"""


def test_a_source_of_ones_own_is_one_file(tmp_path, write_record):
    for name in ("a1", "a2", "b1"):
        path = write_record(tmp_path / "src", name)
        with path.with_suffix(".hea").open("a") as hea:
            hea.write(f"#Finding: F{name[1]}\n# secret remark\n")
    mine = tmp_path / "my_hospital.py"
    mine.write_text(SOURCE)
    settings = IngestSettings(source={"name": str(mine), "ward": "west"}, patient_key="public")
    ingest_folder(tmp_path / "src", tmp_path / "out.ecg", settings)
    store = ecgstore.open_store(tmp_path / "out.ecg")
    assert store.terms[0].name == "st_elsewhere"
    assert store.vocabulary("local") == {"F1", "F2"}
    assert store.column("site").tolist() == ["west"] * 3
    assert len(set(store.column("patient_key"))) == 2
    assert store.attributes["source_settings"] == {"ward": "west"}
    everything = b"".join(path.read_bytes() for path in (tmp_path / "out.ecg").rglob("*") if path.is_file())
    assert b"secret" not in everything
    # A store in parts is finished by the file's path.
    ingest_folder(tmp_path / "src", tmp_path / "parts.ecg", settings, part=(1, 1))
    from ecgstore.build.parts import seal_store

    with pytest.raises(ecgstore.ConfigError, match="begun with a source file.*--source FILE.py"):
        seal_store(tmp_path / "parts.ecg")
    assert seal_store(tmp_path / "parts.ecg", own_source=mine).fingerprint == store.fingerprint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "lacks a part.*TERMS, Settings, list_records"),
        ("import nonexistent_thing", "can't be run.*nonexistent_thing"),
        ("def broken(:", "can't be run.*invalid syntax"),
    ],
)
def test_half_a_source_is_said(tmp_path, text, message):
    mine = tmp_path / "mine.py"
    mine.write_text(text)
    with pytest.raises(ValueError, match=message):
        IngestSettings(source=str(mine))
    with pytest.raises(ValueError, match="source file is not there"):
        IngestSettings(source="./nowhere.py")


def test_beats_come_with_their_record(tmp_path, write_record):
    wfdb = pytest.importorskip("wfdb")
    path = write_record(tmp_path / "src", "100", fs="360")
    wfdb.wrann("100", "atr", np.array([36, 1800, 4999]), symbol=["N", "V", "N"], write_dir=str(path.parent))
    mine = tmp_path / "beats.py"
    mine.write_text(SOURCE.replace("patient_id=path.stem[0]", "annotators=('atr',)"))
    ingest_folder(tmp_path / "src", tmp_path / "out.ecg", IngestSettings(source=str(mine)))
    store = ecgstore.open_store(tmp_path / "out.ecg")
    assert store.beats["sample"].to_pylist() == [10, 500, 1388]
    assert store.read_beats("100")[1] == Beat(5.0, "V", annotator="atr")


def test_segments_of_a_longer_record_are_not_records(tmp_path, write_record):
    folder = tmp_path / "src"
    for name in ("long_1", "long_2", "broken_1", "alone"):
        write_record(folder, name)
    (folder / "long.hea").write_text("long/2 12 500 10000\nlong_1 5000\nlong_2 5000\n")
    (folder / "broken.hea").write_text("broken/2 12 500 10000\nbroken_1 5000\nbroken_2 5000\n")
    report = ingest_folder(folder, tmp_path / "out.ecg", IngestSettings())
    store = ecgstore.open_store(tmp_path / "out.ecg")
    assert store.column("record_id").tolist() == ["alone", "long"]
    assert report.reasons == {"missing_header": 1}
    assert store.read("long").duration_s == 20


def test_a_source_that_fails_is_said_with_its_line(tmp_path, write_record):
    write_record(tmp_path / "src", "a1")
    for broken in ("    return {}['no such key']\n", "    raise ValueError('two\\nlines')\n"):
        mine = tmp_path / "mine.py"
        head, _, tail = SOURCE.partition("def list_records(root, settings):\n")
        mine.write_text(f"{head}def list_records(root, settings):\n{broken}{tail}")
        with pytest.raises(ecgstore.SourceError, match=r"file failed; in .*mine.py:\d+; got \w+Error: ") as raised:
            ingest_folder(tmp_path / "src", tmp_path / "out.ecg", IngestSettings(source=str(mine)))
        assert "\n" not in str(raised.value)


def test_a_kept_lead_without_a_gain_is_absent_from_a_raw_record(tmp_path, write_record):
    for name, unit in (("one", "mV"), ("two", "NU")):
        path = write_record(tmp_path / "src", name, leads=("II", "extra"))
        hea = path.with_suffix(".hea")
        first, ii, extra = hea.read_text().splitlines()
        hea.write_text("\n".join([first, ii, extra.replace("/mV", f"/{unit}")]) + "\n")
    ingest_folder(tmp_path / "src", tmp_path / "out.ecg", IngestSettings(profile="raw", extra_leads="keep"))
    store = ecgstore.open_store(tmp_path / "out.ecg")
    assert [store.read(name).lead_states[12] for name in ("one", "two")] == [LeadState.MEASURED, LeadState.ABSENT]


def test_lower_case_leads_with_a_gain_and_a_baseline_each(tmp_path, write_record):
    """As in LUDB."""
    rng = np.random.default_rng(8)
    counts_tl = rng.integers(-900, 900, (1000, 12)).astype("<i2")
    path = write_record(tmp_path / "src", "1", counts_tl, [lead.lower() for lead in LEADS_12])
    first, *lines = path.with_suffix(".hea").read_text().splitlines()
    gains, baselines = [100 + 37 * j for j in range(12)], [5 * j - 30 for j in range(12)]
    bent = [
        line.replace("1000.0(0)/mV", f"{gain}.0({baseline})/mV")
        for line, gain, baseline in zip(lines, gains, baselines, strict=True)
    ]
    path.with_suffix(".hea").write_text("\n".join([first, *bent]) + "\n")
    ingest_folder(tmp_path / "src", tmp_path / "out.ecg", IngestSettings(fs_hz=500, filters=()))
    record = ecgstore.open_store(tmp_path / "out.ecg").read("1")
    expected = (counts_tl - np.array(baselines)) / np.array(gains)
    np.testing.assert_allclose(record.signal_mv_lt.T, expected, atol=0.00051)
    assert set(record.lead_states) == {LeadState.MEASURED}
