"""A classifier in a program of one's own says what the store's evaluation says."""

from __future__ import annotations

import json
import random
import shutil

import hostile_runs
import numpy as np
import pytest
import wfdb

import ecgtrain
from ecgstore import EcgError, RecordError, open_store
from ecgtrain.deployment.model import load_model
from ecgtrain.deployment.predict import predict
from ecgtrain.errors import CheckpointError, ProtocolError


@pytest.fixture(scope="module")
def classifier(exported):
    return ecgtrain.load_classifier(exported)


@pytest.fixture(scope="module")
def raw(mini):
    """A real record as its files have it: (leads, samples) in mV, its rate, its names."""
    record = wfdb.rdrecord(mini / "records500" / "00000" / "00050_hr")
    return record.p_signal.T, record.fs, record.sig_name


def test_it_says_what_is_said_of_the_store(classifier, exported, mini_store, raw):
    model = load_model(exported)
    of_store = model.score(open_store(mini_store), np.array([0]))[0]
    assert open_store(mini_store).column("record_id")[0] == "50"
    said = classifier.predict(*raw)
    assert list(said) == list(classifier.classes)
    assert list(said.values()) == pytest.approx(of_store.tolist(), abs=1e-4)
    assert classifier.thresholds == {}
    assert classifier.passport == model.passport
    assert classifier.kind == "multilabel"


def test_order_and_case_of_leads_say_nothing_and_limb_leads_are_derived(classifier, raw):
    signal_mv_lt, fs_hz, leads = raw
    whole = classifier.predict(*raw)
    turned = classifier.predict(signal_mv_lt[::-1].astype(np.float32), fs_hz, [name.upper() for name in leads[::-1]])
    kept = [row for row, name in enumerate(leads) if name not in ("III", "AVR", "AVL", "AVF")]
    derived = classifier.predict(signal_mv_lt[kept], fs_hz, [leads[row] for row in kept])
    assert list(turned.values()) == pytest.approx(list(whole.values()), abs=1e-4)
    assert list(derived.values()) == pytest.approx(list(whole.values()), abs=1e-3)


def test_leads_go_to_the_network_in_the_passports_order(mine, mini_store, raw):
    path = mine / "export" / "preprocessing.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps({**about, "leads": about["leads"][::-1]}))
    hostile_runs.reseal(mine)
    of_store = load_model(mine).score(open_store(mini_store), np.array([0]))[0]
    assert list(ecgtrain.load_classifier(mine).predict(*raw).values()) == pytest.approx(of_store.tolist(), abs=1e-4)


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (lambda x, fs, leads: (x[:, :300], fs, leads), ProtocolError, "shorter than a window"),
        (lambda x, fs, leads: (x[:, :0], fs, leads), RecordError, "no_samples"),
        (lambda x, fs, leads: (x.T, fs, leads), RecordError, "turn it"),
        (lambda x, fs, leads: (x[0], fs, leads), RecordError, "bad_signal"),
        (lambda x, fs, leads: (x, fs, leads[:3]), RecordError, "bad_signal"),
        (lambda x, fs, leads: (x, float("nan"), leads), RecordError, "fs_hz"),
        (lambda x, fs, leads: (x, -5, leads), RecordError, "fs_hz"),
        (
            lambda x, fs, leads: (x[:2], fs, ["I", "RESP"]),
            RecordError,
            "unknown_lead; got RESP is not a lead: leave its row out",
        ),
        (lambda x, fs, leads: (x[:2], fs, ["I", "I"]), RecordError, "duplicate_lead"),
        (lambda x, fs, leads: (x, fs, None), RecordError, "bad_header"),
        (lambda x, fs, leads: (x * np.nan, fs, leads), RecordError, "no_samples"),
        (lambda x, fs, leads: (x * 0, fs, leads), RecordError, "no_leads"),
        (lambda x, fs, leads: (x * np.inf, fs, leads), RecordError, "mV"),
        (lambda x, fs, leads: ("signal", fs, leads), RecordError, "bad_signal"),
        (lambda x, fs, leads: ([[1, 2], [3]], fs, leads[:2]), RecordError, "bad_signal.*rows of different lengths"),
    ],
)
def test_what_can_not_be_predicted_is_one_line(classifier, raw, change, kind, said):
    with np.errstate(invalid="ignore"):
        bad = change(*raw)
    with pytest.raises(kind, match=said) as caught:
        classifier.predict(*bad)
    assert "\n" not in str(caught.value)


def test_a_run_will_do_where_the_head_is_named(finished, raw):
    said = ecgtrain.load_classifier(finished, "age").predict(*raw)
    assert list(said) == ["age_years"]
    with pytest.raises(CheckpointError, match="6 trained heads"):
        ecgtrain.load_classifier(finished)
    with pytest.raises(CheckpointError, match="there is no run"):
        ecgtrain.load_classifier(finished / "nothing")


def test_heads_without_a_network_are_asked_as_well(baselines, mini_store, raw):
    store = open_store(mini_store)
    of_store = load_model(baselines, "qrs").score(store, np.array([0]))[0]
    said = ecgtrain.load_classifier(baselines, "qrs").predict(*raw)
    assert list(said.values()) == pytest.approx(of_store.tolist(), abs=1e-3)
    by_sex = ecgtrain.load_classifier(baselines, "sex")
    (sex,) = store.column("sex")[:1]
    of_store = load_model(baselines, "sex").score(store, np.array([0]))[0]
    assert list(by_sex.predict(*raw, sex=sex).values()) == pytest.approx(of_store.tolist())
    assert by_sex.predict(*raw, sex="") != by_sex.predict(*raw, sex=sex)
    with pytest.raises(ProtocolError, match="the column sex of the table of records"):
        by_sex.predict(*raw)
    with pytest.raises(ProtocolError, match="no such sex.*'female', 'male'.*'f'"):
        by_sex.predict(*raw, sex="f")


def test_what_is_said_of_whom_states_no_sex_is_noted(baselines, tmp_path, write_record):
    write_record(tmp_path / "new", "nobody")
    said = predict(load_model(baselines, "sex"), tmp_path / "new")
    assert any("1 of 1 records state no sex" in note for note in said.notes)
    assert not any("sex" in note for note in predict(load_model(baselines, "qrs"), tmp_path / "new").notes)


def test_a_head_without_its_weights_says_what_to_do(mine):
    (weights,) = mine.rglob("head.safetensors")
    weights.unlink()
    with pytest.raises(CheckpointError, match="a file of the head is missing.*whole folder of the export"):
        ecgtrain.load_classifier(mine)


def test_what_is_no_path_is_one_line():
    with pytest.raises(CheckpointError, match="no path of a run.*got 5"):
        ecgtrain.load_classifier(5)


@pytest.mark.parametrize("kind", sorted(hostile_runs.KINDS))
def test_a_forged_export_is_refused_in_one_line_or_does_no_harm(exported, raw, tmp_path, kind):
    root = tmp_path / "forged"
    shutil.copytree(exported, root)
    (tmp_path / "trap.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    rng = random.Random(kind)
    hostile_runs.change(root, kind, rng)
    hostile_runs.reseal(root)
    said, refusal = {}, ""
    try:
        said = ecgtrain.load_classifier(root, "q").predict(*raw)
    except EcgError as error:
        refusal = str(error)
    assert bool(said) != bool(refusal)
    assert "\n" not in refusal
    assert len(refusal) < 3000
    assert all(np.isfinite(list(said.values())))
    assert not (tmp_path / "ran").exists()
