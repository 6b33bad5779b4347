"""Several networks side by side: their features, whom both have seen, their null, all the way to a prediction."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from ecgstore import EcgError, IngestSettings, ingest_folder, open_store
from ecgstore.inner import parse
from ecgtrain import config
from ecgtrain.config import RunConfig
from ecgtrain.data.seen import read_seen
from ecgtrain.errors import LeakageError
from ecgtrain.representation.export import load_backbone
from ecgtrain.representation.extract import window_features
from ecgtrain.representation.initial import load_initial
from ecgtrain.run import evaluate_store, export_run, learn, predict_records, run

WINDOW = {"window_samples": 100, "batch_size": 8, "steps": 2}
CPC = {
    **WINDOW,
    "method": {"name": "cpc", "steps_ahead": 3, "n_negatives": 8},
    "backbone": {"name": "cpc_lstm", "encoder": {"width": 6}, "lstm_width": 5, "lstm_layers": 1},
    "folds": [1, 2],
}
LCD = {
    **WINDOW,
    "method": "lcd",
    "backbone": {"name": "vgg1d", "alpha": 0.02},
    "folds": [3, 4],
    "normalise": "record",
    "window_samples": 80,
}
QUESTION = {
    "name": "q",
    "task": "ptbxl/superdiagnostic",
    "train_folds": [5, 6],
    "test_folds": [7, 8],
    "window_samples": 100,
    "stride_samples": 500,
    "settings": {"penalties": [1.0]},
}
LEADS_OF_LCD = ["V5", "II", "V1"]


def recipe(store, pretrain, *questions, **data):
    asked = [{**QUESTION, **question} for question in questions]
    content = {"name": "both", "data": {"store": str(store), **data}, "pretrain": pretrain, "downstream": asked}
    return parse(RunConfig, content)


def together(*runs, **settings):
    return {"init_from": [str(one) for one in runs], "steps": 0, **settings}


@pytest.fixture(scope="module")
def two(mini_store, tmp_path_factory):
    """One network that sees twelve leads, each by its own statistics; one that sees three, in an order of its own."""
    place = tmp_path_factory.mktemp("together")
    learn(recipe(mini_store, CPC), place / "cpc")
    learn(recipe(mini_store, LCD, leads=LEADS_OF_LCD), place / "lcd")
    return place / "cpc", place / "lcd"


def table(path):
    return pq.ParquetFile(path).read(use_threads=False).to_pandas()


def features(trained, store, rows):
    found = window_features(
        trained.backbone, store, rows, passport=trained.passport, window_samples=100, stride_samples=250
    )
    return found.features_nd


def test_features_are_those_of_both_one_after_the_other(two, mini_store, tmp_path):
    trained = learn(recipe(mini_store, together(*two)), tmp_path / "both")
    store = open_store(mini_store)
    rows = store.select(folds=[7, 8])
    apart = [features(load_backbone(one), store, rows) for one in two]
    assert np.allclose(features(trained, store, rows), np.concatenate(apart, axis=1), atol=1e-5)
    assert trained.passport.leads == load_backbone(two[0]).passport.leads
    assert trained.passport.window_samples == 80
    assert np.allclose(
        features(load_backbone(tmp_path / "both"), store, rows), np.concatenate(apart, axis=1), atol=1e-5
    )
    told = config.load(tmp_path / "both" / "config.yaml")
    assert told.pretrain.method.name == "cpc-lcd"
    # The other way round, too: leads come as the first network has them.
    turned = learn(recipe(mini_store, together(*two[::-1])), tmp_path / "turned")
    assert turned.passport.leads[:3] == tuple(LEADS_OF_LCD)
    assert np.allclose(features(turned, store, rows), np.concatenate(apart[::-1], axis=1), atol=1e-5)


def test_asked_with_its_null_and_on_to_a_prediction(two, mini, mini_store, tmp_path):
    told = recipe(
        mini_store,
        together(*two, folds=[1, 2, 3, 4]),
        {"nulls": ["random"]},
        {
            "name": "tuned",
            "protocol": "fine_tune",
            "settings": {"keep": "last", "stages": [{"epochs": 1}], "head": {"reads": "attention"}},
        },
    )
    report = run(told, tmp_path / "both")
    assert [(one.name, one.pretraining) for one in report.results] == [
        ("q", "cpc-lcd"),
        ("q", "random"),
        ("tuned", "cpc-lcd"),
    ]
    assert report.results[0].metrics != report.results[1].metrics
    assert any("stand side by side, as they were" in caveat for caveat in report.caveats)
    # Answers that hold are kept: it is the same network.
    lines = []
    run(told, tmp_path / "both", resume=True, say=lines.append)
    assert sum("answered before" in line for line in lines) == 3
    # Elsewhere, of the run and of its export; and of the raw recordings.
    export_run(tmp_path / "both", tmp_path / "model", name="q")
    (here,) = evaluate_store(tmp_path / "both", str(mini_store), names=["q"]).results[:1]
    (there,) = evaluate_store(tmp_path / "model", str(mini_store)).results
    assert here.metrics == there.metrics == report.results[0].metrics
    card = (tmp_path / "model" / "card.md").read_text()
    assert "several networks stand side by side" in card
    assert "pretrained by CPC and LCD" in card
    predict_records(tmp_path / "model", mini, tmp_path / "said.parquet")
    said = table(tmp_path / "said.parquet").set_index("record_id")
    known = table(tmp_path / "both/downstream/q/cpc-lcd/predictions.parquet").set_index("record_id")
    name = "probability:NORM"
    assert np.abs(said.loc[known.index, name] - known[name]).max() < 1e-4


def test_whom_either_has_seen_counts_as_seen(two, mini_store, tmp_path):
    learn(recipe(mini_store, together(*two)), tmp_path / "both")
    store = open_store(mini_store)
    ids = store.column("record_id")[store.select(folds=[1, 2, 3, 4])]
    assert set(read_seen(tmp_path / "both" / "seen.parquet")["record_id"].to_pylist()) == set(ids)
    for fold in (1, 3):
        with pytest.raises(LeakageError, match="both sides of pretraining and test"):
            run(recipe(mini_store, together(*two), {"train_folds": [7, 8], "test_folds": [fold]}), tmp_path / "leak")
    # Of a bare export nobody knows; what the other has seen stays known.
    shutil.copytree(two[1] / "export", tmp_path / "received")
    report = run(recipe(mini_store, together(two[0], tmp_path / "received"), {}), tmp_path / "unknown")
    assert any("is not known" in caveat for caveat in report.caveats)
    # A table that was emptied says no more than one that is missing.
    shutil.copytree(two[1], tmp_path / "emptied")
    nobody = pq.ParquetFile(tmp_path / "emptied/seen.parquet").read(use_threads=False).slice(0, 0)
    pq.write_table(nobody, tmp_path / "emptied/seen.parquet")
    report = run(recipe(mini_store, together(two[0], tmp_path / "emptied"), {}), tmp_path / "unknown, too")
    assert any("is not known" in caveat for caveat in report.caveats)
    held = recipe(mini_store, together(two[0], tmp_path / "received"), {"train_folds": [7, 8], "test_folds": [1]})
    with pytest.raises(LeakageError, match="both sides of pretraining and test"):
        run(held, tmp_path / "leak")


def test_what_does_not_fit_is_one_line(two, mini, mini_store, tmp_path):
    def refused(said, *runs, store=mini_store, **settings):
        with pytest.raises(EcgError, match=said) as error:
            run(recipe(store, together(*runs, **settings), {}), tmp_path / "refused")
        assert "\n" not in str(error.value)
        assert not (tmp_path / "refused").exists()

    refused("taken as they are: say steps: 0", *two, steps=2, folds=[1], batch_size=8)
    refused("a list of 2 to 4 of them", two[0])
    refused("a list of 2 to 4 of them", *[two[0]] * 5)
    refused("no exported backbone to begin with", two[0], tmp_path / "nothing")
    refused("stands there more than once; name each network once", *two, two[0])
    shutil.copytree(two[0], tmp_path / "another name")
    refused("are the same one; .*cpc and .*another name", two[0], tmp_path / "another name")
    refused("of its backbone differs", *two, backbone={"name": "side_by_side"})
    refused(r"pretrain\.normalise differs", *two, normalise="none")
    learn(recipe(mini_store, together(*two)), tmp_path / "both")
    refused("several networks side by side already", two[0], tmp_path / "both")
    with pytest.raises(EcgError, match="taken as they are: say steps: 0"):
        recipe(mini_store, {**WINDOW, "init_from": str(tmp_path / "both"), "folds": [1]})
    with pytest.raises(EcgError, match="normalise: each is that of several networks"):
        recipe(mini_store, {**CPC, "normalise": "each"})
    ingest_folder(mini, tmp_path / "raw.ecg", IngestSettings(fs_hz=100, filters=()))
    learn(recipe(tmp_path / "raw.ecg", CPC), tmp_path / "raw")
    refused("must see signals that are prepared alike: filters differs", two[0], tmp_path / "raw")


def test_a_forged_export_of_several_is_one_line(two, mini_store, tmp_path):
    learn(recipe(mini_store, together(*two)), tmp_path / "both")
    export = tmp_path / "both" / "export"
    about, passport = (json.loads((export / name).read_text()) for name in ("config.json", "preprocessing.json"))
    within = {"leads": ["I"], "normalisation": passport["normalisation"]}
    for name, content in (
        ("config.json", {**about, "method": {**about["method"], "name": "../evil-x"}}),
        ("config.json", {**about, "method": {**about["method"], "name": "lcd-cpc"}}),
        ("config.json", {**about, "backbone": {"name": "side_by_side", "parts": [{"network": about["backbone"]}] * 2}}),
        ("config.json", {**about, "backbone": {"name": "side_by_side", "parts": [{"network": "evil.py"}] * 2}}),
        ("preprocessing.json", {**passport, "normalisation": {"mode": "each"}}),
        ("preprocessing.json", {**passport, "normalisation": {"mode": "each", "parts": [within] * 2}}),
    ):
        shutil.rmtree(tmp_path / "forged", ignore_errors=True)
        shutil.copytree(export, tmp_path / "forged")
        (tmp_path / "forged" / name).write_text(json.dumps(content))
        with pytest.raises(EcgError) as refused:
            run(recipe(mini_store, {"init_from": str(tmp_path / "forged"), "steps": 0}, {}), tmp_path / "later")
        assert "\n" not in str(refused.value)


def test_passports_of_one_network_are_written_as_before(two):
    content = json.loads((two[0] / "preprocessing.json").read_text())
    assert set(content["normalisation"]) == {"mode", "mean_mv", "std_mv"}


def test_layers_of_the_same_depth_learn_alike(two, mini_store, tmp_path):
    backbone = load_initial(recipe(mini_store, together(*two)), tmp_path).backbone
    groups = backbone.layer_groups()
    assert [len(group) for group in groups] == [
        len(list(backbone.parts[0].lstm.parameters())) + len(list(backbone.parts[1].parameters())),
        len(list(backbone.parts[0].encoder.parameters())),
    ]
    tokens_bsd, pooled_bd = backbone(torch.randn(2, 15, 100))
    assert tokens_bsd.shape == (2, 100 + 3, max(5, backbone.parts[1].width))
    assert pooled_bd.shape == (2, backbone.pooled_width) == (2, 15 + 3 * backbone.parts[1].width)
