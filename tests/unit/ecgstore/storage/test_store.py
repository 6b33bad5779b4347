from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import zarr
from click.testing import CliRunner

import ecgstore
from ecgstore import LEADS_12
from ecgstore.build.ingest import ingest_folder
from ecgstore.build.patients import patient_hash
from ecgstore.build.settings import IngestSettings
from ecgstore.cli import main
from ecgstore.errors import ConfigError, IntegrityError, StoreFormatError, StoreIncomplete, StoreNotFound
from ecgstore.signals.conditioning import condition
from ecgstore.sources import ptbxl
from ecgstore.storage import layout, manifest
from ecgstore.storage.stated_codes import stating
from ecgstore.storage.store import open_store
from ecgstore.wfdb_io.samples import read_signal
from ecgstore.wfdb_io.segments import read_header


@pytest.fixture
def copy(mini_store, tmp_path):
    return shutil.copytree(mini_store, tmp_path / "copy.ecg")


def test_what_is_read_is_what_was_in_the_files(mini, mini_store):
    store = ecgstore.open_store(mini_store)
    assert (store.n_records, store.fs_hz, store.leads) == (53, 100.0, LEADS_12)
    recipe = IngestSettings(**store.recipe)
    for ref in ptbxl.list_records(mini, ptbxl.Settings()).records[:10]:
        raw = read_signal(ref.path, read_header(ref.path, ref.record_id), ref.record_id)
        record = store.read(ref.record_id)
        expected = condition(raw.signal_mv_lt, 500, 100, recipe.filters)
        assert np.abs(record.signal_mv_lt - expected).max() <= 0.0006
        assert (record.fold, record.sex, record.age_years) == (ref.fold, ref.sex, ref.age_years)
        assert [s.code for s in record.statements] == [s.code for s in ref.statements]
        assert record.patient_key == patient_hash("ptbxl", ref.patient_id)


def test_shards_hold_every_record_once(mini_store):
    store = ecgstore.open_store(mini_store)
    seen = []
    for shard in range(store.n_shards):
        signal = store.read_shard(shard)
        for row, start, length, offset in zip(signal.rows, signal.starts, signal.lengths, signal.offsets, strict=True):
            assert offset == 0
            record = store.read(store.column("record_id")[row])
            piece = layout.counts_to_mv(signal.counts_lt[:, start : start + length])
            np.testing.assert_array_equal(piece, record.signal_mv_lt)
            seen.append(int(row))
    assert seen == list(range(53))


def test_a_record_of_several_shards_comes_back_whole(tmp_path, write_record, monkeypatch):
    monkeypatch.setattr(layout, "CHUNK_SAMPLES", 1000)
    monkeypatch.setattr(layout, "CHUNKS_PER_SHARD", (2, 1))
    rng = np.random.default_rng(0)
    for name, n in (("a", 900), ("b", 7300), ("c", 1500)):
        write_record(tmp_path / "src", name, rng.integers(-999, 999, (n, 12)).astype("<i2"), fs="100")
    ingest_folder(tmp_path / "src", tmp_path / "out.ecg", IngestSettings(fs_hz=100, filters=()))
    store = ecgstore.open_store(tmp_path / "out.ecg")
    assert store.verify(deep=True) == []
    expected = np.fromfile(tmp_path / "src" / "b.dat", "<i2").reshape(-1, 12).T
    np.testing.assert_allclose(store.read("b").signal_mv_lt, expected / 1000, atol=1e-6)
    pieces = [store.read_shard(shard) for shard in range(store.n_shards)]
    row = 1
    joined = np.zeros((12, 7300), np.int16)
    for signal in pieces:
        for i in np.flatnonzero(signal.rows == row):
            part = signal.counts_lt[:, signal.starts[i] : signal.starts[i] + signal.lengths[i]]
            joined[:, signal.offsets[i] : signal.offsets[i] + signal.lengths[i]] = part
    np.testing.assert_array_equal(joined, expected)


def test_statistics_are_those_of_the_samples(mini_store):
    store = ecgstore.open_store(mini_store)
    rows = store.select(folds=[1, 2, 3])
    samples = np.concatenate([store.read(i).signal_mv_lt for i in store.column("record_id")[rows]], axis=1).astype(
        float
    )
    statistics = store.statistics([1, 2, 3])
    np.testing.assert_allclose(statistics.mean_mv_l, samples.mean(axis=1), atol=1e-6)
    np.testing.assert_allclose(statistics.std_mv_l, samples.std(axis=1), rtol=1e-5)
    assert (statistics.n_l == samples.shape[1]).all()
    assert np.isnan(store.statistics([99]).mean_mv_l).all()


def test_select_and_statement_matrix(mini_store):
    store = ecgstore.open_store(mini_store)
    folds = store.column("fold")
    np.testing.assert_array_equal(store.select(folds=[8]), np.flatnonzero(folds == 8))
    assert len(store.select()) == 53
    with pytest.raises(ConfigError, match="no source .elsewhere.*there are ptbxl"):
        store.select(sources=["elsewhere"])
    matrix = store.statement_matrix(["NORM", "SR", "NORM"], "scp_ecg")
    for row in (0, 17, 52):
        codes = {s.code for s in store.read(store.column("record_id")[row]).statements}
        assert matrix[row].tolist() == ["NORM" in codes, "SR" in codes, "NORM" in codes]
    assert "NORM" in store.vocabulary("scp_ecg")
    assert store.vocabulary("snomed_ct") == frozenset()
    assert store.statement_mask(["NORM", "SR"], "scp_ecg").tolist() == [[True, True]] * 53


@pytest.mark.parametrize("ask", ["statement_matrix", "statement_mask"])
@pytest.mark.parametrize(
    ("codes", "system", "said"),
    [
        (["NORM", "AFBI"], "scp_ecg", "the code 'AFBI' of scp_ecg.*did you mean AFIB"),
        (["norm"], "scp_ecg", "the code 'norm' of scp_ecg.*did you mean NORM"),
        (["NORM"], "scp", "the store has codes of: scp_ecg"),
        ("NORM", "scp_ecg", r"codes are a list of texts.*ask for \['NORM'\]"),
        ([164889003], "snomed_ct", "codes are a list of texts.*write each in quotes"),
    ],
)
def test_a_code_that_nobody_knows_is_an_error_and_not_a_no(mini_store, ask, codes, system, said):
    with pytest.raises(ConfigError, match=said):
        getattr(ecgstore.open_store(mini_store), ask)(codes, system)


def test_a_code_that_a_site_never_states_is_no_no_for_its_records(tmp_path, write_record):
    for name in ("a1", "a2", "b1", "c1"):
        write_record(tmp_path / "src", name)
    (tmp_path / "src" / "labels.csv").write_text("record_id,site,local\na1,A,AF;MI\na2,A,\nb1,B,MI\nc1,,\n")
    source = {"name": "wfdb_folder", "labels": "labels.csv", "statements": {"local": "local"}}
    ingest_folder(tmp_path / "src", tmp_path / "out.ecg", IngestSettings(filters=(), source=source))
    store = ecgstore.open_store(tmp_path / "out.ecg")
    assert store.attributes["vocabulary_by_site"] == {
        "": {"local": []},
        "A": {"local": ["AF", "MI"]},
        "B": {"local": ["MI"]},
    }
    asked = (["AF", "MI"], "local")
    assert store.vocabulary("local") == {"AF", "MI"}
    assert store.statement_matrix(*asked).tolist() == [[True, True], [False, False], [False, True], [False, False]]
    assert store.statement_mask(*asked).tolist() == [[True, True], [True, True], [False, True], [False, False]]


def test_names_that_are_not_there_name_the_nearest(mini_store):
    store = ecgstore.open_store(mini_store)
    with pytest.raises(ConfigError, match="no column 'folds'.*did you mean fold"):
        store.column("folds")
    known = store.column("record_id")[0]
    with pytest.raises(ConfigError, match=f"did you mean .*{known}"):
        store.read(f"{known}x")


def test_no_identifier_and_no_free_text_is_in_the_store(mini, mini_store):
    listing = ptbxl.list_records(mini, ptbxl.Settings())
    stored = b"".join(
        path.read_bytes() for path in mini_store.rglob("*") if path.is_file() and path.name != "zarr.json"
    )
    text = (ecgstore.open_store(mini_store).records).to_pandas().to_csv()
    for ref in listing.records:
        assert f",{ref.patient_id}," not in text
    for word in (b"sinusrhythmus", b"CS-12", b"1984-"):
        assert word not in stored


def test_a_secret_key_gives_other_patient_hashes(mini, tmp_path, mini_store):
    ingest_folder(mini, tmp_path / "secret.ecg", IngestSettings(patient_key="a secret that is only here"))
    secret, plain = ecgstore.open_store(tmp_path / "secret.ecg"), ecgstore.open_store(mini_store)
    assert not set(secret.column("patient_key")) & set(plain.column("patient_key"))
    assert "only here" not in (tmp_path / "secret.ecg" / "zarr.json").read_text()


def test_another_zarr_reader_needs_nothing_of_ours(mini_store):
    group = zarr.open_group(mini_store, mode="r")
    array = group["signal"]
    assert array.dtype == np.int16
    assert array.metadata.dimension_names == ("lead", "time")
    assert group.attrs["leads"] == list(LEADS_12)


def test_verify_finds_nothing_in_a_whole_store(mini_store):
    store = ecgstore.open_store(mini_store)
    assert store.verify() == []
    assert store.verify(deep=True) == []


@pytest.mark.parametrize(
    "name",
    ["records.parquet", "signal/c/0/0", "commits/000000.arrow", "leads.parquet", "zarr.json", "rejected.parquet"],
)
def test_one_flipped_bit_anywhere_is_found(copy, name):
    store = ecgstore.open_store(copy)
    path = copy / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    quick = store.verify()
    # The quick check reads tables as well, and the rows of commits.
    if name in ("leads.parquet", "rejected.parquet", "commits/000000.arrow"):
        assert [problem.partition(":")[0] for problem in quick] == [name]
    else:
        assert quick == []
    (problem,) = store.verify(deep=True)
    assert problem.startswith(f"{name}: sha256")


def test_a_flipped_bit_in_a_shard_is_never_read_as_signal(copy):
    path = copy / "signal/c/0/0"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    store = ecgstore.open_store(copy)
    with pytest.raises(IntegrityError, match=r"can't be decoded.*records .*and \d+ more"):
        store.read_shard(0)


def test_missing_cut_and_foreign_objects_are_named(copy):
    store = ecgstore.open_store(copy)
    (copy / "signal/c/0/1").unlink()
    shard = copy / "signal/c/0/0"
    shard.write_bytes(shard.read_bytes()[:-1])
    (copy / "notes.txt").write_text("hello")
    problems = store.verify()
    assert [line.split(":")[0] for line in problems] == ["signal/c/0/0", "signal/c/0/1", "notes.txt"]
    with pytest.raises(IntegrityError, match="a shard is missing"):
        store.read_shard(1)


def test_a_changed_table_is_refused_at_opening(copy):
    path = copy / "records.parquet"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(IntegrityError, match="changed after the store was sealed"):
        ecgstore.open_store(copy)


def test_a_manifest_that_was_edited_is_refused(copy):
    path = copy / "manifest.json"
    content = json.loads(path.read_bytes())
    content["objects"]["records.parquet"][1] = "0" * 64
    path.write_text(json.dumps(content))
    with pytest.raises(IntegrityError, match="manifest was changed"):
        ecgstore.open_store(copy)


def test_places_that_are_no_sealed_store(copy, tmp_path):
    with pytest.raises(StoreNotFound, match="there is no store"):
        ecgstore.open_store(tmp_path / "nothing.ecg")
    with pytest.raises(StoreFormatError, match="not an ecgstore"):
        ecgstore.open_store(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreFormatError, match="this is a file"):
        ecgstore.open_store(tmp_path / "file")
    (copy / "manifest.json").unlink()
    with pytest.raises(StoreIncomplete, match="never sealed"):
        ecgstore.open_store(copy)


def test_a_newer_format_is_refused_with_both_versions(copy):
    path = copy / "manifest.json"
    content = json.loads(path.read_bytes()) | {"format_version": 99}
    path.write_text(json.dumps(content))
    with pytest.raises(StoreFormatError, match="expected 1, 2, got 99; install a newer"):
        manifest.load(copy)


def test_records_by_what_they_state(mini_store):
    store = open_store(mini_store)
    matrix = store.statement_matrix(["AFIB", "NORM"], "scp_ecg")
    assert 0 < matrix.any(axis=1).sum() < 53
    assert np.array_equal(stating(store, ["scp_ecg:AFIB,NORM"]), matrix.any(axis=1))
    assert np.array_equal(stating(store, ["AFIB", " NORM"]), matrix.any(axis=1))
    for asked, said in (
        ("AFIBB", "did you mean AFIB"),
        ("snomed:AFIB", "no coding system"),
        (":", "codes read"),
        ("scp_ecg:", "codes read"),
    ):
        with pytest.raises(ConfigError, match=said):
            stating(store, [asked])
    cli = CliRunner().invoke(main, ["records", str(mini_store), "--code", "AFIB", "--json"])
    ids = store.column("record_id")[matrix[:, 0]]
    assert [one["record_id"] for one in json.loads(cli.output)] == ids.tolist()
