"""What a recipe can't mean on the records at hand is refused before anything is trained, naming the setting."""

from __future__ import annotations

import pytest

from ecgstore import EcgError, open_store
from ecgstore.inner import parse
from ecgtrain.config import RunConfig
from ecgtrain.data import selection
from ecgtrain.errors import ProtocolError
from ecgtrain.evaluation.curves import refuse_impossible_curves
from ecgtrain.evaluation.elsewhere import refuse_impossible_elsewhere
from ecgtrain.evaluation.judge import refuse_unanswerable
from ecgtrain.evaluation.questions import store_of
from ecgtrain.training import prepare as preparing
from ecgtrain.training.prepare import prepare

PRETRAIN = {
    "method": {"name": "cpc", "steps_ahead": 3, "n_negatives": 8},
    "backbone": {"name": "cpc_lstm", "encoder": {"width": 6}, "lstm_width": 5, "lstm_layers": 1},
    "folds": [1, 2],
    "window_samples": 100,
    "batch_size": 8,
    "steps": 2,
}
QUESTION = {
    "name": "lp",
    "task": "ptbxl/superdiagnostic",
    "train_folds": [1, 2],
    "validation_folds": [3],
    "test_folds": [8],
    "window_samples": 100,
    "stride_samples": 500,
}


def recipe(store, pretrain=None, question=None, curves=(), **data):
    content = {
        "name": "small",
        "data": {"store": str(store), **data},
        "pretrain": {**PRETRAIN, **(pretrain or {})},
        "downstream": [{**QUESTION, **(question or {})}],
        "curves": list(curves),
    }
    return parse(RunConfig, content)


def refused(what, *given):
    with pytest.raises(EcgError) as caught:
        what(*given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"leads": ["I", "VII"]}, ["data.leads names 'VII'", "some of I, II"]),
        ({"leads": ["I", "AVR"], "pretrain": {"normalise": "record"}}, ["data.leads names 'AVR'", "did you mean aVR"]),
        ({"sources": ["ptbxl", "ptbx"]}, ["data.sources names 'ptbx'", "did you mean ptbxl"]),
        ({"sites": ["nope"]}, ["data.sites names 'nope'"]),
        ({"exclude_sources": ["ptbx"]}, ["data.exclude_sources names 'ptbx'", "did you mean ptbxl"]),
        ({"exclude_folds": [77]}, ["no record is in fold 77", "data.exclude_folds"]),
        ({"pretrain": {"folds": [1, 2, 99, 98]}}, ["no record is in fold 98, 99", "pretrain.folds", "has 1, 2, 3"]),
        ({"pretrain": {"validation_folds": [98]}}, ["no record is in fold 98", "pretrain.validation_folds"]),
        ({"where": "age_years > 300"}, ["selected of pretrain.folds", "data.where leaves none", "'age_years > 300'"]),
        ({"exclude_folds": [1, 2]}, ["selected of pretrain.folds", "data.exclude_folds leaves none"]),
        (
            {"pretrain": {"validation_folds": [3]}, "exclude_folds": [3]},
            ["selected of pretrain.validation_folds", "data.exclude_folds leaves none"],
        ),
    ],
)
def test_the_setting_that_names_what_is_not_there_is_named(mini_store, change, said):
    message = refused(prepare, recipe(mini_store, **change), "cpu")
    assert all(one in message for one in said), message


def test_windows_are_held_against_the_records_before_they_are_tried(mini_store, monkeypatch):
    tried = []
    monkeypatch.setattr(preparing, "_try_on_nothing", lambda *given: tried.append(given))
    message = refused(prepare, recipe(mini_store, {"window_samples": 1_000_000}), "cpu")
    assert "windows are longer than the longest record" in message
    assert tried == []


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 4e18 bytes")]
)
def test_a_network_that_no_memory_holds_is_one_line(mini_store, monkeypatch, error):
    def fail(*given, **named):
        raise error

    monkeypatch.setattr(preparing, "build_objective", fail)
    assert "doesn't fit into memory; in pretrain.backbone" in refused(prepare, recipe(mini_store), "cpu")
    error = RuntimeError("something else")
    with pytest.raises(RuntimeError, match="something else"):
        prepare(recipe(mini_store), "cpu")


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ({"test_folds": [8, 99]}, ["no record is in fold 99", "downstream lp: test_folds", "the store has 1, 2"]),
        ({"train_folds": [1, 2, 98]}, ["no record is in fold 98", "downstream lp: train_folds"]),
        ({"validation_folds": [99]}, ["no record is in fold 99", "downstream lp: validation_folds"]),
        ({"window_samples": 1_000_000}, ["windows are longer", "1000 at most, got 1000000", "downstream lp"]),
        ({"window_samples": 1001}, ["windows are longer", "1000 at most, got 1001"]),
        ({"protocol": "linear_prob"}, ["unknown protocol 'linear_prob'", "downstream lp", "did you mean linear_probe"]),
        ({"validation_folds": []}, ["nothing to choose", "downstream lp"]),
    ],
)
def test_a_question_is_named_with_what_is_wrong_with_it(mini_store, question, said):
    message = refused(refuse_unanswerable, recipe(mini_store, question=question))
    assert all(one in message for one in said), message


def test_a_matrix_of_one_store_is_none(mini_store):
    alone = recipe(mini_store, curves=[{"kind": "transfer", "stores": [str(mini_store)]}])
    assert "no other store" in refused(refuse_impossible_curves, alone)


def test_folds_of_another_store_are_there(mini_store):
    config = recipe(mini_store)
    question, store = config.downstream[0], store_of(config.downstream[0], config)
    assert "no record is in fold 99" in refused(refuse_impossible_elsewhere, question, store, [8, 99])
    # Of the folds that a head was tested on some will do: another store may have fewer.
    wide = question.model_copy(update={"test_folds": (8, 99)})
    assert len(refuse_impossible_elsewhere(wide, store, None))
    long = question.model_copy(update={"window_samples": 1001})
    assert "windows are longer" in refused(refuse_impossible_elsewhere, long, store, "all")


def test_folds_of_a_part_may_be_of_nobody_and_that_is_told(mini_store):
    """A recipe for the ten folds of a source is asked of a part of it that has eight."""
    store = open_store(mini_store)
    there = set(store.column("fold").tolist())
    assert 8 in there
    assert not {9, 10} & there
    selection.refuse_absent_folds([8, 9, 10], [store], "test_folds")
    assert selection.folds_of_nobody([8, 9, 10], [store], "lp.test_folds") == (
        "No record is in fold 9, 10 of lp.test_folds.",
    )
    assert selection.folds_of_nobody([8], [store], "lp.test_folds") == ()
    with pytest.raises(ProtocolError, match="no record is in fold 99"):
        selection.refuse_absent_folds([8, 99], [store], "test_folds")
