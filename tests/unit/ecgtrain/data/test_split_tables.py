"""Folds of a table in the place of the store's: in a recipe, in what was seen, in answers, and on other stores."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecgstore import (
    ConfigError,
    EcgError,
    IngestSettings,
    NoiseSettings,
    augment_store,
    ingest_folder,
    open_store,
    split_records,
    with_split,
)
from ecgstore.inner import load_split, parse
from ecgtrain import config
from ecgtrain.config import RunConfig
from ecgtrain.data.seen import read_seen
from ecgtrain.data.selection import what_folds
from ecgtrain.data.statistics import statistics_of
from ecgtrain.errors import CheckpointError, LeakageError, ProtocolError
from ecgtrain.run import evaluate_store, learn, run
from ecgtrain.training.prepare import prepare

CUT = {"window_samples": 100, "stride_samples": 500, "settings": {"penalties": [1.0]}}
PRETRAIN = {
    "method": {"name": "cpc", "steps_ahead": 3, "n_negatives": 8},
    "backbone": {"name": "cpc_lstm", "encoder": {"width": 6}, "lstm_width": 5, "lstm_layers": 1},
    "folds": [1, 2],
    "window_samples": 100,
    "batch_size": 8,
    "steps": 2,
}
QUESTION = {"name": "q", "task": "ptbxl/superdiagnostic", "train_folds": [1, 2], "test_folds": [3], **CUT}


def recipe(store, split=None, pretrain=None, question=None, **data):
    content = {
        "name": "split",
        "data": {"store": str(store), **({} if split is None else {"split": str(split)}), **data},
        "pretrain": {**PRETRAIN, **(pretrain or {})},
        "downstream": [{**QUESTION, **question}] if question is not None else [],
    }
    return parse(RunConfig, content)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("splits")


@pytest.fixture(scope="module")
def table(mini_store, place):
    split_records(open_store(mini_store), folds=3, stratify="scp_ecg:NORM").write(place / "three.parquet")
    return place / "three.parquet"


@pytest.fixture(scope="module")
def done(mini_store, table, place):
    """A run under the table; and what was reported."""
    return place / "run", run(recipe(mini_store, table, question={}), place / "run")


def test_who_teaches_and_who_is_tested_is_said_by_the_table(done, mini_store, table):
    run_dir, report = done
    store = with_split(open_store(mini_store), table)
    ids = store.column("record_id")
    seen = read_seen(run_dir / "seen.parquet")
    assert set(seen["record_id"].to_pylist()) == set(ids[store.select(folds=[1, 2])])
    assert set(seen["fold"].to_pylist()) == {1, 2}
    tested = pq.ParquetFile(run_dir / "downstream/q/cpc/predictions.parquet").read(use_threads=False)["record_id"]
    assert set(tested.to_pylist()) <= set(ids[store.select(folds=[3])])
    assert report.results[0].n_test == len(tested)


def test_the_run_explains_itself(done, table):
    run_dir, _ = done
    sha256 = load_split(table).sha256
    (copy,) = (run_dir / "splits").iterdir()
    assert load_split(copy).sha256 == sha256
    assert copy.name == f"{sha256[:16]}.parquet"
    newest = max((run_dir / "checkpoints").glob("step-*"))
    assert json.loads((newest / "config.json").read_text())["data.split"] == sha256
    assert json.loads((run_dir / "downstream/q/cpc/question.json").read_text())["split"] == sha256
    assert config.load(run_dir / "config.yaml").data.split == str(table)


def test_signals_are_normalised_by_the_folds_of_the_table(done, mini_store, table):
    run_dir, _ = done
    store = with_split(open_store(mini_store), table)
    stated = json.loads((run_dir / "preprocessing.json").read_text())["normalisation"]["std_mv"]["II"]
    assert stated == statistics_of(store, store.select(folds=[1, 2])).std_mv_l[1]


def test_another_table_is_another_run_and_the_same_one_anywhere_is_not(done, mini_store, table, tmp_path):
    run_dir, report = done
    shutil.copytree(run_dir, tmp_path / "run")
    moved = shutil.copy(table, tmp_path / "moved.parquet")
    again = run(recipe(mini_store, moved, question={}), tmp_path / "run", resume=True)
    assert again.results[0].metrics == report.results[0].metrics
    split_records(open_store(mini_store), folds=3, seed=1).write(tmp_path / "other.parquet")
    with pytest.raises(ConfigError, match="answered with other settings: split differs"):
        run(recipe(mini_store, tmp_path / "other.parquet", question={}), tmp_path / "run", resume=True)
    with pytest.raises(CheckpointError, match=r"other settings: data\.split differs"):
        learn(recipe(mini_store, tmp_path / "other.parquet"), tmp_path / "run", resume=True)


def test_a_table_of_no_folds_is_named_and_not_the_store():
    store = SimpleNamespace(column=lambda name: np.full(3, -1), split_sha256=None, path="a.ecg")
    assert what_folds(store).startswith("the store has no folds")
    store.split_sha256 = "0" * 64
    assert what_folds(store).startswith("its split table puts no record into any fold")


def test_evaluate_judges_the_same_store_by_the_same_table(done, mini_store, table, tmp_path):
    run_dir, report = done
    (again,) = evaluate_store(run_dir, str(mini_store)).results
    assert (again.metrics, again.folds) == (report.results[0].metrics, (3,))
    with pytest.raises(LeakageError, match="are on both sides"):
        evaluate_store(run_dir, str(mini_store), folds=[1])
    noisy = tmp_path / "noisy.ecg"
    augment_store(open_store(mini_store), noisy, NoiseSettings(kind="muscle", snr_db=30))
    (noisy_result,) = evaluate_store(run_dir, str(noisy)).results
    assert (noisy_result.n_test, noisy_result.folds) == (again.n_test, (3,))


def test_on_another_store_the_tables_folds_mean_nothing(done, mini, tmp_path):
    run_dir, _ = done
    other = tmp_path / "other.ecg"
    ingest_folder(
        mini,
        other,
        IngestSettings(fs_hz=100, filters=({"name": "bandpass", "low_hz": 0.5, "high_hz": 40.0},), codec="pcodec"),
    )
    (judged,) = evaluate_store(run_dir, str(other), allow_overlap=True).results
    assert judged.folds == "all"
    split_records(open_store(other), folds=4).write(tmp_path / "four.parquet")
    (judged,) = evaluate_store(run_dir, str(other), split=tmp_path / "four.parquet", allow_overlap=True).results
    assert judged.folds == (3,)
    with pytest.raises(
        ProtocolError, match="no record is in the folds.*expected some of folds 1, 2, 3, 4, got 9.*--folds all"
    ):
        evaluate_store(run_dir, str(other), split=tmp_path / "four.parquet", folds=[9])
    split_records(open_store(other), folds=2).write(tmp_path / "two.parquet")
    with pytest.raises(ProtocolError, match="none of the folds that the head was tested on.*got 3.*--folds all"):
        evaluate_store(run_dir, str(other), split=tmp_path / "two.parquet")


def test_a_copy_that_was_changed_is_refused(done, mini_store, tmp_path):
    run_dir, _ = done
    shutil.copytree(run_dir, tmp_path / "run")
    (copy,) = (tmp_path / "run" / "splits").iterdir()
    split_records(open_store(mini_store), folds=3, seed=5).write(copy, overwrite=True)
    with pytest.raises(CheckpointError, match="copy of a split table is not the one"):
        evaluate_store(tmp_path / "run", str(mini_store))


def test_stores_that_are_mixed_in_have_tables_of_their_own(mini_store, table, place):
    two = split_records(open_store(mini_store), folds=3, seed=4)
    two.write(place / "mixed.parquet")
    made = prepare(
        recipe(mini_store, table, stores=[{"path": str(mini_store), "split": str(place / "mixed.parquet")}]), "cpu"
    )
    assert [part.rows.tolist() for part in made.parts] == [
        np.flatnonzero(np.isin(load_split(one).fold_n, [1, 2])).tolist() for one in (table, place / "mixed.parquet")
    ]


def test_no_folds_take_all_records(mini_store):
    made = prepare(recipe(mini_store, pretrain={"folds": None}), "cpu")
    assert len(made.parts[0].rows) == 53
    assert made.passport.normalisation.std_mv["II"] == open_store(mini_store).statistics().std_mv_l[1]
    made = prepare(recipe(mini_store, pretrain={"folds": None}, exclude_folds=(8,)), "cpu")
    assert made.parts[0].rows.tolist() == open_store(mini_store).select(folds=range(1, 8)).tolist()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"pretrain": {"folds": None, "validation_folds": [1]}}, "folds: null takes all records, and leaves none"),
        ({"question": {"train_folds": None}}, "train_folds: null takes all records.*leave_out_site alone"),
        ({"question": {"test_folds": None}}, "test_folds: null takes all records"),
        ({"question": {"train_folds": None, "leave_out_site": "a", "validation_folds": [1]}}, "leaves none"),
    ],
)
def test_all_records_are_refused_where_others_must_be_left(settings, said):
    with pytest.raises(ConfigError, match=said):
        recipe("none.ecg", **settings)


@pytest.fixture(scope="module")
def no_folds(mini_store, place):
    """The table of no folds at all."""
    split = split_records(open_store(mini_store), folds=3)
    bare = pa.table({"record_id": list(split.record_ids), "fold": pa.nulls(53, pa.int16())})
    whole = pq.ParquetFile(pa.BufferReader(split.to_bytes())).schema_arrow.metadata
    pq.write_table(bare.replace_schema_metadata(whole), place / "bare.parquet")
    return place / "bare.parquet"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"split": "none.parquet"}, "no such split table; in none.parquet"),
        ({"pretrain": {"folds": [7]}}, "no record is in the folds to pretrain on.*its split table has 1, 2, 3"),
        ({"question": {"test_folds": [8]}}, "no record is in the test folds.*its split table has 1, 2, 3"),
        ({"question": {"split": "none.parquet"}}, "no such split table"),
        ({"stores": [{"path": "STORE", "split": "none.parquet"}]}, "no such split table"),
        ({"split": "BARE"}, "no record is in the folds to pretrain on.*its split table puts no record into any fold"),
        ({"split": "BARE", "question": {}}, "no record is in the train folds.*ecgstore split"),
    ],
)
def test_what_a_recipe_asks_in_vain_is_one_line_before_any_training(
    mini_store, table, no_folds, settings, said, tmp_path
):
    settings = {"split": table, **settings}
    settings = {**settings, **({"split": no_folds} if settings["split"] == "BARE" else {})}
    if "stores" in settings:
        settings["stores"] = [{**settings["stores"][0], "path": str(mini_store)}]
    with pytest.raises(EcgError, match=said) as refused:
        run(recipe(mini_store, **settings), tmp_path / "run")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()
