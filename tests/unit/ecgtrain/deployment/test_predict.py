"""Predictions: those of an evaluation, a row for every record, and nothing that a stranger's export could run."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from ecgstore import ConfigError, EcgError, IngestSettings, SourceError, ingest_folder
from ecgtrain.deployment.model import load_model
from ecgtrain.deployment.predict import predict
from ecgtrain.deployment.replay import recipe_of
from ecgtrain.errors import PassportError, ProtocolError
from ecgtrain.run import predict_records


def by_id(table):
    return {row["record_id"]: row for row in table.to_pylist()}


def told(finished, name):
    (path,) = (
        path for path in finished.glob(f"downstream/{name}/*/predictions.parquet") if path.parent.name != "random"
    )
    return pq.ParquetFile(path).read(use_threads=False).to_pylist()


@pytest.fixture(scope="module")
def of_the_folder(finished, mini):
    """What the run's heads say of the bundled recordings as they are, by the name of the question."""
    return {name: by_id(predict(load_model(finished, name), mini).table) for name in ("q", "tuned", "near", "age")}


@pytest.mark.parametrize("name", ["q", "tuned", "near", "age"])
def test_raw_recordings_get_what_the_evaluation_said(finished, of_the_folder, name):
    judged = told(finished, name)
    assert judged
    for row in judged:
        for column in (one for one in row if one.startswith(("probability:", "predicted:"))):
            assert of_the_folder[name][row["record_id"]][column] == pytest.approx(row[column], abs=1e-4)


def test_a_store_gets_the_same(exported, of_the_folder, mini_store, tmp_path):
    found = predict_records(exported, mini_store, tmp_path / "p.parquet")
    assert found.n_predicted == 53
    assert any("has learned from" in note for note in found.notes)
    for record_id, row in by_id(pq.ParquetFile(tmp_path / "p.parquet").read(use_threads=False)).items():
        assert row["probability:MI"] == pytest.approx(of_the_folder["q"][record_id]["probability:MI"], abs=1e-6)


def test_every_recording_has_a_row(exported, recordings):
    found = predict(load_model(exported), recordings)
    rows = by_id(found.table)
    assert {name: row["reason"] for name, row in rows.items()} == {
        "00050_hr": None,
        "limb": None,
        "short": "too_short",
        "flat": "no_leads",
        "breath": "unknown_lead",
        "broken": "bad_header",
    }
    assert {one.record_id for one in found.left_out} == {"short", "flat", "breath", "broken"}
    assert found.n_predicted == 2
    for row in rows.values():
        assert (row["probability:NORM"] is None) == (row["reason"] is not None)
    assert rows["limb"]["leads_lost"] == "V1, V2, V3, V4, V5, V6"
    about = json.loads(found.table.schema.metadata[b"ecgtrain"])
    assert about["question"] == "q"


def test_signals_that_are_no_leads_may_be_left_out(exported, recordings):
    rows = by_id(predict(load_model(exported), recordings, extra_leads="drop").table)
    assert rows["breath"]["probability:NORM"] is not None


@pytest.mark.parametrize("suffix", ["", ".hea", ".dat"])
def test_one_record_is_enough(exported, of_the_folder, mini, suffix):
    (row,) = predict(load_model(exported), mini / "records500" / "00000" / f"00050_hr{suffix}").table.to_pylist()
    assert row["record_id"] == "00050_hr"
    assert row["probability:CD"] == pytest.approx(of_the_folder["q"]["50"]["probability:CD"], abs=1e-6)


def test_what_is_said_follows_from_thresholds(mine, mini_store):
    path = mine / "downstream" / "q" / "cpc" / "head.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "thresholds": {"MI": 0.3}}))
    table = predict(load_model(mine), mini_store).table
    assert "said:NORM" not in table.column_names
    assert table["said:MI"].to_pylist() == [value >= 0.3 for value in table["probability:MI"].to_pylist()]


def test_of_classes_that_exclude_each_other_the_likeliest_is_said(mine, recordings):
    path = mine / "downstream" / "q" / "cpc" / "head.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "kind": "exclusive"}))
    model = load_model(mine)
    for row in predict(model, recordings).table.to_pylist():
        if row["reason"] is None:
            assert row["said"] == max(model.head.classes, key=lambda name: row[f"probability:{name}"])
        else:
            assert row["said"] is None


def test_nothing_to_predict_is_one_line(exported, recordings, tmp_path):
    for name in ("00050_hr", "limb", "flat"):
        (recordings / f"{name}.hea").unlink()
    with pytest.raises(ProtocolError, match="none of 3 records can be predicted"):
        predict_records(exported, recordings, tmp_path / "p.parquet")
    (recordings / "short.hea").unlink()
    with pytest.raises(SourceError, match="none of 2 records can be used"):
        predict_records(exported, recordings, tmp_path / "p.parquet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="no WFDB record"):
        predict_records(exported, tmp_path / "empty", tmp_path / "p.parquet")
    assert not (tmp_path / "p.parquet").exists()


def test_a_store_of_another_recipe_is_refused(exported, recordings, tmp_path):
    ingest_folder(recordings, tmp_path / "other.ecg", IngestSettings(fs_hz=100, filters=()))
    with pytest.raises(PassportError, match="prepared otherwise"):
        predict_records(exported, tmp_path / "other.ecg", tmp_path / "p.parquet")


def test_a_file_is_replaced_only_where_that_was_said(exported, mini_store, tmp_path):
    out = tmp_path / "p.parquet"
    out.write_text("mine")
    with pytest.raises(ConfigError, match="--overwrite"):
        predict_records(exported, mini_store, out)
    assert out.read_text() == "mine"
    predict_records(exported, mini_store, out, overwrite=True)
    assert pq.ParquetFile(out).metadata.num_rows == 53
    assert [path.name for path in tmp_path.iterdir()] == ["p.parquet"]
    with pytest.raises(ConfigError, match="no such folder"):
        predict_records(exported, mini_store, tmp_path / "nowhere" / "p.parquet")


@pytest.mark.parametrize(
    "change",
    [
        {"source": {"name": "TRAP"}},
        {"noise_bank": "/etc"},
        {"filters": [{"name": "TRAP"}]},
        {"filters": [{"name": "bandpass", "low_hz": -1, "high_hz": 40}]},
        {"fs_hz": 1e9},
        {"fs_hz": 250.0},
        {"fs_hz": None},
        {"encoding": "adc", "filters": [], "fs_hz": None},
        {"leads": ["I"] * 100},
        {"leads": "/etc/passwd"},
        {"noise": {"kind": "white", "snr_db": 0}},
        {"uncalibrated": "assume=-1"},
        {"x": 1},
    ],
    ids=str,
)
def test_a_strangers_recipe_runs_no_code_and_reads_no_file(mine, change, tmp_path):
    trap = tmp_path / "trap.py"
    trap.write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    passport = load_model(mine).passport
    forged = json.loads(json.dumps({**passport.recipe, **change}).replace("TRAP", str(trap)))
    with pytest.raises(PassportError) as caught:
        recipe_of(passport.model_copy(update={"recipe": forged}))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_a_heads_own_code_is_not_needed(mine, mini_store):
    path = mine / "downstream" / "q" / "cpc" / "head.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "task": "notes.py/x"}))
    assert predict(load_model(mine), mini_store).n_predicted == 53


def test_scores_that_are_no_numbers_are_refused(mine, mini_store):
    from safetensors.numpy import load_file, save_file

    path = mine / "downstream" / "q" / "cpc" / "head.safetensors"
    arrays = load_file(path)
    arrays["weight"] = np.full_like(arrays["weight"], 3e38)
    arrays["bias"] = np.full_like(arrays["bias"], np.nan)
    save_file(arrays, path)
    with pytest.raises(EcgError, match="numbers"):
        predict(load_model(mine), mini_store)
