"""A run that begins with the network of another: the same network, its signals, and whom it has seen; or one line."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from ecgstore import EcgError, IngestSettings, ingest_folder, open_store
from ecgstore.inner import parse
from ecgtrain import config
from ecgtrain.config import RunConfig
from ecgtrain.data.seen import read_seen
from ecgtrain.errors import CheckpointError, LeakageError
from ecgtrain.representation.export import load_backbone
from ecgtrain.representation.initial import load_initial
from ecgtrain.run import evaluate_store, learn, run
from ecgtrain.training.prepare import prepare

METHOD = {"name": "cpc", "steps_ahead": 3, "n_negatives": 8}
BACKBONE = {"name": "cpc_lstm", "encoder": {"width": 6}, "lstm_width": 5, "lstm_layers": 1}
CONSTANT = {"lr": 1e-3, "weight_decay": 0.0}
FRESH = {
    "method": METHOD,
    "backbone": BACKBONE,
    "folds": [1, 2, 3, 4],
    "window_samples": 100,
    "batch_size": 8,
    "steps": 2,
    "optimiser": CONSTANT,
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


def recipe(store, pretrain, *questions, **more):
    asked = [{**QUESTION, **question} for question in questions]
    data = {"store": str(store), **more.pop("data", {})}
    return parse(RunConfig, {"name": "later", "data": data, "pretrain": pretrain, "downstream": asked, **more})


@pytest.fixture(scope="module")
def before(mini_store, tmp_path_factory):
    """A run on folds 1 to 4, pretrained only."""
    place = tmp_path_factory.mktemp("initial") / "before"
    learn(recipe(mini_store, FRESH), place)
    return place


def goes_on(before, **settings):
    return {**FRESH, "init_from": str(before), "folds": [5, 6], **settings}


def same(one, other):
    one, other = one.state_dict(), other.state_dict()
    return all(torch.equal(one[name], other[name]) for name in one)


def test_pretraining_goes_on_from_the_weights_of_another_run(before, mini_store, tmp_path):
    told = recipe(mini_store, goes_on(before, window_samples=120))
    initial = load_initial(told, tmp_path / "later")
    made = prepare(told, "cpu", initial)
    assert same(made.objective.backbone, load_backbone(before).backbone)
    after = learn(told, tmp_path / "later")
    assert not same(after.backbone, initial.backbone)
    # Signals stay as the network is used to them, and not as folds 5 and 6 alone would have them.
    assert after.passport.normalisation == initial.passport.normalisation
    assert after.passport.window_samples == 120
    assert config.load(tmp_path / "later" / "config.yaml") == told


def test_copies_that_a_method_makes_begin_there_too(before, mini_store, tmp_path):
    told = recipe(mini_store, goes_on(before, method={"name": "byol", "augmentations": []}))
    objective = prepare(told, "cpu", load_initial(told, tmp_path)).objective
    assert same(objective.target.backbone, load_backbone(before).backbone)


def test_whom_the_first_run_saw_counts_as_seen(before, mini_store, tmp_path):
    learn(recipe(mini_store, goes_on(before)), tmp_path / "later")
    ids = open_store(mini_store).column("record_id")[open_store(mini_store).select(folds=[1, 2, 3, 4, 5, 6])]
    assert set(read_seen(tmp_path / "later" / "seen.parquet")["record_id"].to_pylist()) == set(ids)
    with pytest.raises(LeakageError, match="both sides of pretraining and test"):
        run(recipe(mini_store, goes_on(before), {"train_folds": [7, 8], "test_folds": [3]}), tmp_path / "leak")
    assert not (tmp_path / "leak").exists()


@pytest.mark.slow
def test_nothing_is_chosen_by_what_taught_the_first_network(before, mini_store, tmp_path):
    """Fold 4 taught the network: as validation it may watch the second pretraining, and this is said."""
    held = goes_on(before, validation_folds=[4])
    for chooses in ({"keep": "best"}, {"patience": 1, "validate_every_steps": 1}):
        with pytest.raises(LeakageError, match="by which something is chosen, taught the network") as refused:
            learn(recipe(mini_store, {**held, **chooses}), tmp_path / "later")
        assert "\n" not in str(refused.value)
        assert not (tmp_path / "later").exists()
    n = len(open_store(mini_store).select(folds=[4]))
    report = run(recipe(mini_store, held), tmp_path / "watched")
    assert any(f"{n} of {n} records that only watch" in caveat for caveat in report.caveats)
    # Nobody learned from fold 7.
    report = run(recipe(mini_store, goes_on(before, validation_folds=[7], keep="best")), tmp_path / "fair")
    assert not any("only watch" in caveat for caveat in report.caveats)


@pytest.mark.slow
def test_a_head_that_is_chosen_by_what_taught_the_network_says_so(before, mini_store, tmp_path):
    asked = {"train_folds": [6], "test_folds": [7, 8], "settings": {"penalties": [1.0, 10.0]}}
    told = recipe(
        mini_store,
        {"init_from": str(before), "steps": 0, "folds": [5]},
        {"name": "planted", "validation_folds": [3], "nulls": ["random"], **asked},
        {"name": "fair", "validation_folds": [5], **asked},
    )
    planted, null, fair = run(told, tmp_path / "asked").results
    n = planted.n_validation
    assert any(f"{n} of {n} validation records taught in pretraining" in caveat for caveat in planted.caveats)
    assert not any("taught in pretraining" in caveat for one in (null, fair) for caveat in one.caveats)


@pytest.mark.slow
def test_another_network_is_another_run(before, mini_store, tmp_path):
    told = recipe(mini_store, goes_on(before))
    first = learn(told, tmp_path / "later")
    assert same(learn(told, tmp_path / "later", resume=True).backbone, first.backbone)
    moved = shutil.copytree(before, tmp_path / "moved")
    assert same(learn(recipe(mini_store, goes_on(moved)), tmp_path / "later", resume=True).backbone, first.backbone)
    other = recipe(mini_store, goes_on(tmp_path / "later"))
    learn(other, tmp_path / "third")
    with pytest.raises(CheckpointError, match=r"pretrain\.init_from differs"):
        learn(recipe(mini_store, goes_on(tmp_path / "third")), tmp_path / "later", resume=True)
    with pytest.raises(CheckpointError, match=r"pretrain\.init_from differs"):
        learn(recipe(mini_store, {**FRESH, "folds": [5, 6]}), tmp_path / "later", resume=True)


def test_a_network_is_asked_as_it_is(before, mini_store, tmp_path):
    """All but the questions comes from the run that is named."""
    idle = {"init_from": str(before), "steps": 0, "folds": [5, 6]}
    tuned = {
        "name": "tuned",
        "protocol": "fine_tune",
        "settings": {
            "stages": [{"trains": "head", "epochs": 1}],
            "head": {"hidden": None},
            "keep": "last",
            "batch_size": 8,
        },
    }
    told = recipe(mini_store, idle, {"nulls": ["random"]}, tuned)
    assert told.pretrain.window_samples == 100
    report = run(told, tmp_path / "asked")
    assert [result.pretraining for result in report.results] == ["cpc", "random", "cpc"]
    assert same(load_backbone(tmp_path / "asked").backbone, load_backbone(before).backbone)
    assert load_backbone(tmp_path / "asked").passport == load_backbone(before).passport
    assert any("as it was: this run pretrained nothing" in caveat for caveat in report.caveats)
    seen = [read_seen(place / "seen.parquet")["record_id"].to_pylist() for place in (before, tmp_path / "asked")]
    assert seen[0] == seen[1]
    assert same(learn(told, tmp_path / "asked", resume=True).backbone, load_backbone(before).backbone)
    judged, null, _ = evaluate_store(tmp_path / "asked", str(mini_store)).results
    assert judged.metrics["macro_auroc"] == report.results[0].metrics["macro_auroc"]
    assert null.pretraining == "random"
    with pytest.raises(EcgError, match="there is already a run"):
        run(told, tmp_path / "asked")


def test_an_export_alone_will_do_and_what_nobody_knows_is_said(before, mini_store, tmp_path):
    shutil.copytree(before / "export", tmp_path / "received")
    told = recipe(mini_store, {"init_from": str(tmp_path / "received"), "steps": 0}, {})
    report = run(told, tmp_path / "asked")
    assert any("had seen before this run began with it is not known" in caveat for caveat in report.caveats)
    (judged,) = evaluate_store(tmp_path / "asked", str(mini_store)).results
    assert any("is not known" in caveat for caveat in judged.caveats)
    # What is not known stays so in a run that begins with this one.
    learn(recipe(mini_store, goes_on(tmp_path / "asked")), tmp_path / "third")
    assert b"more_than_is_known" in read_seen(tmp_path / "third" / "seen.parquet").schema.metadata
    known = run(recipe(mini_store, {"init_from": str(before / "export"), "steps": 0}, {}), tmp_path / "known")
    assert not any("is not known" in caveat for caveat in known.caveats)


@pytest.mark.parametrize(
    ("pretrain", "more", "said"),
    [
        ({"backbone": {**BACKBONE, "lstm_width": 6}}, {}, "lstm_width of its backbone differs; .*expected 5, got 6"),
        ({"backbone": {"name": "xresnet1d"}}, {}, "of its backbone differs"),
        ({"normalise": "none"}, {}, r"pretrain\.normalise differs.*expected lead, got none"),
        ({}, {"data": {"leads": ["II", "V5"]}}, r"data\.leads differs"),
        ({"init_from": "none"}, {}, "no record|can't be|no whole exported backbone|no exported backbone"),
        ({"steps": 0, "init_from": None}, {}, "steps: 0 trains nothing.*init_from alone"),
        ({"steps": 0, "epochs": 1}, {}, "exactly one of steps and epochs"),
        ({"steps": -1}, {}, "steps"),
    ],
)
def test_what_does_not_fit_is_one_line_before_any_training(before, mini_store, tmp_path, pretrain, more, said):
    with pytest.raises(EcgError, match=said) as refused:
        run(recipe(mini_store, goes_on(before, **pretrain), **more), tmp_path / "later")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "later").exists()


def test_a_store_that_was_prepared_otherwise_is_refused(before, mini, tmp_path):
    ingest_folder(mini, tmp_path / "raw.ecg", IngestSettings(fs_hz=100, filters=()))
    for settings in (goes_on(before), {"init_from": str(before), "steps": 0}):
        with pytest.raises(EcgError, match="prepared otherwise"):
            run(recipe(tmp_path / "raw.ecg", settings), tmp_path / "later")


def test_a_run_begins_with_no_run_that_is_itself(before, mini_store):
    with pytest.raises(EcgError, match="can't begin with itself"):
        run(recipe(mini_store, goes_on(before)), before)


def test_the_calibrated_null_asks_for_records(before, mini_store):
    with pytest.raises(EcgError, match=r"null random is calibrated on the records of pretrain\.folds"):
        recipe(mini_store, {"init_from": str(before), "steps": 0}, {"nulls": ["random"]})


def test_the_shuffled_null_begins_with_fresh_weights(before, mini_store):
    with pytest.raises(EcgError, match="shuffled begins with fresh weights"):
        recipe(mini_store, goes_on(before), {"nulls": ["shuffled"]})


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("config.json", "[", "can't be read"),
        ("config.json", "[1]", "no mapping"),
        ("config.json", "{}", "isn't an exported backbone.*no backbone, method"),
        ("preprocessing.json", '{"normalisation": 3}', "isn't an exported backbone.*no window_samples, normalise"),
        ("preprocessing.json", "[" * 100_000, "can't be read"),
    ],
)
def test_an_export_that_anybody_could_have_made_is_one_line(before, mini_store, tmp_path, file, content, said):
    shutil.copytree(before / "export", tmp_path / "export")
    (tmp_path / "export" / file).write_text(content)
    with pytest.raises(EcgError, match=said) as refused:
        recipe(mini_store, {"init_from": str(tmp_path / "export"), "steps": 0})
    assert "\n" not in str(refused.value)


def test_an_export_names_no_code(before, mini_store, tmp_path):
    shutil.copytree(before / "export", tmp_path / "export")
    about = json.loads((tmp_path / "export" / "config.json").read_text())
    for task in ("evil.py/labels", {"kind": "evil.py"}, 3, ["a"]):
        changed = {**about, "method": {"name": "supervised", "task": task}}
        (tmp_path / "export" / "config.json").write_text(json.dumps(changed))
        with pytest.raises(EcgError, match="learned a task that is a file of code"):
            recipe(mini_store, {"init_from": str(tmp_path / "export"), "steps": 0})
    (tmp_path / "export" / "config.json").write_text(json.dumps({**about, "backbone": {"name": "evil.py"}}))
    with pytest.raises(EcgError, match="by their names, not by their files"):
        recipe(mini_store, {"init_from": str(tmp_path / "export"), "steps": 0})


# --- more steps -----------------------------------------------------------------------------------------------------


def test_a_finished_run_takes_more_steps_as_if_it_had_been_told_at_once(before, mini_store, tmp_path):
    place = shutil.copytree(before, tmp_path / "run")
    more = learn(recipe(mini_store, {**FRESH, "steps": 5}), place, resume=True)
    at_once = learn(recipe(mini_store, {**FRESH, "steps": 5}), tmp_path / "at once")
    assert same(more.backbone, at_once.backbone)
    with pytest.raises(CheckpointError, match="begun with more steps than that.*expected 5, got 4"):
        learn(recipe(mini_store, {**FRESH, "steps": 4}), place, resume=True)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"optimiser": {**CONSTANT, "schedule": "cosine"}}, "falls to zero at the last step.*pretrain.init_from"),
        ({"method": {"name": "byol", "augmentations": []}}, "Byol. goes by the share done"),
    ],
)
def test_more_steps_are_refused_where_something_hung_on_their_number(mini_store, tmp_path, settings, said):
    learn(recipe(mini_store, {**FRESH, "steps": 1, **settings}), tmp_path / "run")
    with pytest.raises(CheckpointError, match=said):
        learn(recipe(mini_store, {**FRESH, "steps": 2, **settings}), tmp_path / "run", resume=True)
    with pytest.raises(CheckpointError, match=r"pretrain\.(steps|epochs) differs"):
        learn(recipe(mini_store, {**FRESH, "steps": None, "epochs": 1, **settings}), tmp_path / "run", resume=True)
