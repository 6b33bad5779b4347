"""A store that is asked for what it can't mean says so in one line, and never guesses."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from ecgstore import (
    ConfigError,
    EcgError,
    IngestSettings,
    find_overlap,
    ingest_folder,
    open_store,
    plot_record,
    subset_store,
    withdraw_records,
)
from ecgstore.storage import asked


@pytest.fixture(scope="module")
def store(mini_store):
    return open_store(mini_store)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda s: s.read(s.id_of(0), leads="III"), r"leads are a list of texts.*got 'III'; ask for \['III'\]"),
        (lambda s: s.read(s.id_of(0), leads=[1]), "leads are a list of texts.*got 1; write each in quotes"),
        (lambda s: s.read(s.id_of(0), leads=5), "leads are a list of texts.*got 5"),
        (lambda s: s.read(s.id_of(0), start_s="a"), "start_s and stop_s are seconds.*got 'a'"),
        (lambda s: s.read(s.id_of(0), start_s=None), "start_s and stop_s are seconds.*got None"),
        (lambda s: s.read(s.id_of(0), stop_s=[1, 2]), r"start_s and stop_s are seconds.*got \[1, 2\]"),
        (lambda s: s.read(s.id_of(0), stop_s=1e308), r"no such part.*within 0 to 10 s, got 0.0 to 1e\+308 s"),
        (lambda s: s.read(s.id_of(0), stop_s=10**400), "no such part.*within 0 to 10 s"),
        (lambda s: s.select(sources="ptbxl"), r"sources are a list of texts.*ask for \['ptbxl'\]"),
        (lambda s: s.select(sources=["ptbxll"]), "no source 'ptbxll'.*did you mean ptbxl"),
        (lambda s: s.select(sites="ward"), r"sites are a list of texts.*ask for \['ward'\]"),
        (lambda s: s.select(sites=["ward"]), "no site 'ward'.*there are none"),
        (lambda s: s.select(folds=["1"]), "folds are a list of whole numbers.*got '1'"),
        (lambda s: s.select(folds=[1, "2"]), "folds are a list of whole numbers.*got '2'"),
        (lambda s: s.select(folds="12"), "folds are a list of whole numbers.*got '12'"),
        (lambda s: s.select(folds=b"12"), "folds are a list of whole numbers.*got b'12'"),
        (lambda s: s.select(folds=1), r"folds are a list of whole numbers.*got 1; ask for \[1\]"),
        (lambda s: s.select(folds=[True]), "folds are a list of whole numbers.*a mask"),
        (lambda s: s.select(folds=[1.5]), "folds are a list of whole numbers.*got 1.5"),
        (lambda s: s.select(folds=[1, -1]), r"no fold -1.*column\(.fold.\) < 0"),
        (lambda s: s.select(where=5), "a condition is a text.*got 5"),
        (lambda s: s.statistics(folds="12"), "folds are a list of whole numbers"),
        (lambda s: s.statistics(folds=["1"]), "folds are a list of whole numbers"),
        (lambda s: s.statistics(folds=[-1]), "no fold -1"),
        (lambda s: s.statement_matrix(None, "scp_ecg"), "codes are a list of texts.*got None; give a list"),
        (lambda s: s.statement_mask(["NORM"], ["scp_ecg"]), "a coding system is a text"),
        (lambda s: s.vocabulary(None), "a coding system is a text"),
        (lambda s: s.column(3), "the name of a column is a text.*got 3"),
        (lambda s: s.sidecar(None), "the name of a sidecar is a text.*got None"),
        (lambda s: s.read_rows([True, False]), r"rows are a list of whole numbers.*numpy.flatnonzero\(mask\)"),
        (lambda s: s.read_rows(np.zeros(53, bool)), r"rows are a list of whole numbers.*numpy.flatnonzero\(mask\)"),
        (lambda s: s.read_rows("12"), "rows are a list of whole numbers"),
        (lambda s: s.read_rows(slice(0, 2)), "rows are a list of whole numbers.*give a list"),
        (lambda s: s[True], "a row is a whole number.*got True"),
        (lambda s: s["50"], r"a record is had by its number.*store.read\('50'\)"),
        (lambda s: s[1:3], "a record is had by its number.*read_rows"),
        (lambda s: s[53], "no row 53.*expected 0 to 52"),
        (lambda s: s[10**30], "no row 10+;"),
        (lambda s: s.id_of(53), "no row 53.*expected 0 to 52"),
        (lambda s: s.id_of(-1), "no row -1.*expected 0 to 52"),
        (lambda s: s.id_of("50"), "a row is a whole number.*got '50'"),
        (lambda s: s.read_shard(0.5), "a shard is a whole number.*got 0.5"),
        (lambda s: s.read_shard("0"), "a shard is a whole number"),
        (lambda s: s.decode(-1, 5, []), "no such part of the array.*got -1 to 5"),
        (lambda s: s.decode(0, 10**9, []), "no such part of the array.*got 0 to 1000000000"),
        (lambda s: 50 in s, "the id of a record is a text.*got 50"),
    ],
)
def test_what_a_store_cannot_mean_is_refused_in_one_line(store, ask, said):
    with pytest.raises(ConfigError, match=said) as caught:
        ask(store)
    assert "\n" not in str(caught.value)


def test_what_a_store_can_mean_is_taken_in_any_form(store):
    expected = store.select(folds=[1, 2])
    assert 0 < len(expected) < 53
    for folds in ({1, 2}, (1, 2, 2), range(1, 3), np.array([1, 2], np.int8), [np.int64(1), 2], (one for one in (1, 2))):
        assert store.select(folds=folds).tolist() == expected.tolist()
    assert store.select(folds=[99, 10**30]).tolist() == store.select(folds=[]).tolist() == []
    assert len(store.select(sources={"ptbxl"}, sites=[""])) == 53
    assert store.select(sources=[]).tolist() == []
    once, twice = store.statistics(folds=[1]), store.statistics(folds=(one for one in (1, np.int16(1))))
    assert twice.n_l.tolist() == once.n_l.tolist()
    codes = ["NORM", "SR"]
    for name in ("statement_matrix", "statement_mask"):
        ask = getattr(store, name)
        assert np.array_equal(ask((one for one in codes), "scp_ecg"), ask(codes, "scp_ecg"))
        assert ask(codes, "scp_ecg").shape == (53, 2)
    its = store.read(store.id_of(np.int64(0)), leads=(one for one in ("II", "I")), stop_s=np.float32(1))
    assert (its.leads, its.signal_mv_lt.shape) == (("II", "I"), (2, 100))
    assert [one.record_id for one in store.read_rows(np.array([1, 0], np.uint8))] == [store.id_of(1), store.id_of(0)]


def test_a_source_or_site_that_lost_its_records_is_still_known(tmp_path, write_record):
    for name in ("a1", "b1"):
        write_record(tmp_path / "src", name)
    (tmp_path / "src" / "labels.csv").write_text("record_id,site,local\na1,Nord,AF\nb1,,MI\n")
    source = {"name": "wfdb_folder", "labels": "labels.csv", "statements": {"local": "local"}}
    ingest_folder(tmp_path / "src", tmp_path / "out.ecg", IngestSettings(filters=(), source=source))
    whole = open_store(tmp_path / "out.ecg")
    assert whole.select(sites=["Nord"]).tolist() == [0]
    assert whole.select(sites=["", "Nord"]).tolist() == [0, 1]
    with pytest.raises(ConfigError, match="no site 'Nrod'.*did you mean Nord"):
        whole.select(sites=["Nrod"])
    subset_store(whole, tmp_path / "part.ecg", where="record_id == 'b1'")
    assert open_store(tmp_path / "part.ecg").select(sites=["Nord"]).tolist() == []


def test_an_id_is_looked_for_and_no_record_is_read(store, monkeypatch):
    monkeypatch.setattr(type(store), "read", None)
    assert store.id_of(0) in store
    assert "nobody" not in store


def test_a_number_that_no_record_has_ends_a_loop_and_pickles(store):
    with pytest.raises(IndexError) as caught:
        store[-54]
    again = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(again, ConfigError)
    assert str(again) == str(caught.value)
    with pytest.raises(EcgError, match="none: the store has no records"):
        asked.row_of(0, 0, "here")


def test_others_that_take_several_refuse_one_text_too(store, tmp_path):
    with pytest.raises(ConfigError, match="leads are a list of texts"):
        subset_store(store, tmp_path / "a.ecg", leads="I")
    with pytest.raises(ConfigError, match="codes are a list of texts"):
        subset_store(store, tmp_path / "a.ecg", codes="NORM")
    with pytest.raises(ConfigError, match="folds are a list of whole numbers"):
        subset_store(store, tmp_path / "a.ecg", folds="12")
    with pytest.raises(ConfigError, match="records are a list of texts"):
        withdraw_records(store, tmp_path / "a.ecg", records=store.id_of(0))
    with pytest.raises(ConfigError, match="rows are a list of whole numbers.*a mask"):
        find_overlap(store, np.ones(53, bool), store, [1])
    with pytest.raises(ConfigError, match="leads are a list of texts"):
        plot_record(store[0], leads="II")
    assert not list(tmp_path.iterdir())


def test_what_is_handed_out_changes_no_store(mini_store):
    opened = open_store(mini_store)
    before = [opened.attributes, opened.recipe, opened.software, opened.storage, opened.leads]
    attributes = opened.attributes
    attributes["leads"][0] = "X"
    attributes["statistics"].clear()
    attributes["vocabulary"]["scp_ecg"].append("NONE")
    for name in ("recipe", "software", "storage"):
        getattr(opened, name)["codec"] = "another"
    opened.recipe["filters"].clear()
    opened.recipe["leads"].append("X")
    with pytest.raises(TypeError):
        opened.objects["zarr.json"] = None
    for array in opened.spans:
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 5
    opened.column("start")[0] = 5
    assert [opened.attributes, opened.recipe, opened.software, opened.storage, opened.leads] == before
    assert opened.spans[0][0] == opened.column("start")[0] == 0
    assert opened.read_shard(0).rows[0] == 0
