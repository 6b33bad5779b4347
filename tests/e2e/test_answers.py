"""Questions of one run: answers that hold are kept, new ones are added, and one is compared to another."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import pytest
import torch
from quickly import quickly

from ecgstore import ConfigError
from ecgstore.inner import parse
from ecgtrain.config import RunConfig
from ecgtrain.errors import CheckpointError
from ecgtrain.reporting.report import read_report
from ecgtrain.representation.export import load_backbone
from ecgtrain.run import evaluate_store, run
from ecgtrain.training.files import plain, read_json

FOLDS = {"train_folds": [1, 2, 3, 4], "validation_folds": [5, 6], "test_folds": [7, 8]}
CUT = {"window_samples": 250, "stride_samples": 250}
STAGES = [{"trains": "head", "epochs": 1}, {"epochs": 1}]
TUNED = {
    "name": "tuned",
    "protocol": "fine_tune",
    "settings": {"stages": STAGES, "head": {"hidden": None}},
    "compare_to": ["scratch"],
}
SCRATCH = {"name": "scratch", "protocol": "scratch", "settings": {"stages": [{"epochs": 2}]}}
PROBE = {"name": "probe", "protocol": "linear_probe", "settings": {"penalties": [1.0]}, "nulls": ["random"]}


def recipe(store, *questions, steps=2):
    asked = [{"task": "ptbxl/superdiagnostic", **FOLDS, **CUT, **question} for question in questions]
    pretrain = {
        "method": {"name": "cpc", "steps_ahead": 2, "n_negatives": 8},
        "backbone": {"name": "cpc_lstm", "encoder": {"width": 6}, "lstm_width": 5, "lstm_layers": 1},
        "folds": [1, 2, 3, 4],
        "window_samples": 250,
        "batch_size": 8,
        "steps": steps,
    }
    return parse(RunConfig, {"name": "asked", "data": {"store": str(store)}, "pretrain": pretrain, "downstream": asked})


class Asked:
    """One run, asked again and again; ``last`` is what was said the last time."""

    def __init__(self, store, out):
        self.store, self.out, self.last = store, out, []

    def __call__(self, *questions, resume=True, **more):
        self.last = []
        return run(recipe(self.store, *questions, **more), self.out, resume=resume, say=self.last.append)

    def were_kept(self):
        """Of each answer, in order, whether it was said to be there already."""
        return [line.endswith("answered before") for line in self.last if " of ptbxl/" in line]

    def answers(self):
        """What each answer was and when it was written, by its folder."""
        files = sorted((self.out / "downstream").glob("*/*/result.json"))
        return {str(file.parent.relative_to(self.out)): (file.read_text(), file.stat().st_mtime_ns) for file in files}


@pytest.fixture(scope="module")
def asked(mini_store, tmp_path_factory):
    """A run with one question, already answered."""
    made = Asked(mini_store, tmp_path_factory.mktemp("asked") / "run")
    made(PROBE, resume=False)
    return made


def test_a_question_is_added_and_what_was_answered_is_kept(asked):
    before = asked.answers()
    report = asked(PROBE, SCRATCH, TUNED)
    after = asked.answers()
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"downstream/scratch/none", "downstream/tuned/cpc"}
    assert asked.were_kept() == [True, True, False, False]
    assert [result.name for result in report.results] == ["probe", "probe", "scratch", "tuned"]
    probe, _, scratch, tuned = report.results
    assert set(probe.difference_to) == {"random"}
    assert (scratch.pretraining, scratch.difference_to) == ("none", {})
    # Paired: the value is the difference of the two.
    gain = tuned.difference_to["scratch"]["macro_auroc"]
    assert gain.value == pytest.approx(tuned.macro_auroc.value - scratch.macro_auroc.value)
    again = asked(PROBE, SCRATCH, TUNED)
    assert asked.answers() == after
    assert [plain(one.as_json()) for one in again.results] == [plain(one.as_json()) for one in report.results]
    page = (asked.out / "report.html").read_text()
    assert "From scratch" in page
    assert "against scratch" in page


@pytest.mark.slow
def test_heads_that_were_trained_end_to_end_judge_another_store(asked, mini_store):
    asked(PROBE, SCRATCH, TUNED)
    here = {result.name: result for result in read_report(asked.out).results if result.pretraining != "random"}
    there = {
        result.name: result for result in evaluate_store(asked.out, str(mini_store), names=("tuned", "scratch")).results
    }
    assert set(there) == {"tuned", "scratch"}
    for name, result in there.items():
        assert result.metrics["macro_auroc"].value == here[name].metrics["macro_auroc"].value


def of_another_network(path):
    path.write_text(json.dumps({**json.loads(path.read_text()), "representation": "0" * 64}))


#: A file of an answer, and what has come of it.
SPOILT = [
    ("question.json", Path.unlink),
    ("head.safetensors", lambda path: path.write_bytes(b"torn")),
    ("result.json", lambda path: path.write_text("{")),
    ("question.json", of_another_network),
]


@pytest.mark.parametrize(
    ("name", "spoil"), quickly(SPOILT, SPOILT[1]), ids=["no question", "torn head", "torn result", "another network"]
)
def test_an_answer_that_is_not_whole_or_of_another_network_is_given_anew(asked, name, spoil):
    asked(PROBE)
    folder = asked.out / "downstream" / "probe" / "cpc"
    whole = json.loads((folder / "question.json").read_text())
    spoil(folder / name)
    asked(PROBE)
    assert asked.were_kept() == [False, True]
    assert json.loads((folder / "question.json").read_text()) == whole


def test_a_question_of_the_same_name_with_other_settings_is_refused(asked):
    asked(PROBE)
    before = asked.answers()
    with pytest.raises(
        ConfigError, match="probe was answered with other settings: settings.penalties differs.*another name"
    ):
        asked({**PROBE, "settings": {"penalties": [0.1]}})
    assert asked.answers() == before


@pytest.mark.parametrize(
    ("questions", "message"),
    [
        ([{**TUNED, "compare_to": ["skratch"]}, SCRATCH], "tuned can't be compared to skratch.*did you mean scratch"),
        ([{**TUNED, "compare_to": ["tuned"]}], "tuned can't be compared to tuned"),
        ([TUNED, {**SCRATCH, "test_folds": [8]}], "tuned can't be compared to scratch: test_folds differs"),
        ([TUNED, {**SCRATCH, "task": "ptbxl/rhythm"}], "tuned can't be compared to scratch: task differs"),
        ([{**PROBE, "compare_to": ["none"]}, {**SCRATCH, "name": "none"}], "can't be called none"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_the_recipe(mini_store, questions, message):
    with pytest.raises(ConfigError, match=message):
        recipe(mini_store, *questions)


def test_a_network_from_scratch_has_no_null(mini_store, tmp_path):
    with pytest.raises(ConfigError, match="scratch uses no pretraining, so it has no nulls"):
        run(recipe(mini_store, {**SCRATCH, "nulls": ["random"]}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_nulls_judge_another_store_too(asked, mini_store, tmp_path):
    asked(PROBE)
    here = {result.pretraining: result for result in read_report(asked.out).results if result.name == "probe"}
    judged, null = evaluate_store(asked.out, str(mini_store), names=("probe",)).results
    assert (judged.pretraining, null.pretraining) == ("cpc", "random")
    assert judged.metrics["macro_auroc"] == here["cpc"].metrics["macro_auroc"]
    assert null.metrics["macro_auroc"] == here["random"].metrics["macro_auroc"]
    assert judged.difference_to["random"]["macro_auroc"] == here["cpc"].difference_to["random"]["macro_auroc"]
    place = tmp_path / "run"
    shutil.copytree(asked.out, place)
    shutil.rmtree(place / "nulls" / "random")
    shutil.copytree(place / "export", place / "nulls" / "random")
    with pytest.raises(CheckpointError, match="random network is not the one that its head was fitted on"):
        evaluate_store(place, str(mini_store), names=("probe",))
    shutil.rmtree(place / "nulls")
    (alone,) = evaluate_store(place, str(mini_store), names=("probe",)).results
    assert alone.difference_to == {}
    assert any("its null random is not judged here" in text for text in alone.caveats)


@pytest.mark.slow
def test_the_shuffled_null_is_trained_as_the_network_but_on_windows_without_order(mini_store, tmp_path):
    config = recipe(mini_store, {**PROBE, "nulls": ["random", "shuffled"]})
    out = tmp_path / "run"
    report = run(config, out)
    names = ["random", "shuffled"]
    assert [result.pretraining for result in report.results] == ["cpc", *names]
    assert set(report.results[0].difference_to) == set(names)
    trained = [load_backbone(place).backbone.state_dict() for place in (out, *(out / "nulls" / name for name in names))]
    # All three began alike, and two of them have learned, each something else.
    first = next(name for name in trained[0] if name.endswith("weight"))
    assert all(not torch.equal(one[first], other[first]) for one, other in itertools.combinations(trained, 2))
    assert read_json(out / "nulls" / "shuffled" / "preprocessing.json") == read_json(out / "preprocessing.json")
    before = {path: path.stat().st_mtime_ns for path in out.glob("nulls/shuffled/checkpoints/*/*")}
    again = run(config, out, resume=True)
    assert {path: path.stat().st_mtime_ns for path in out.glob("nulls/shuffled/checkpoints/*/*")} == before != {}
    assert again.results[2].score == report.results[2].score
    elsewhere = evaluate_store(out, str(mini_store), allow_overlap=True)
    assert [result.pretraining for result in elsewhere.results] == ["cpc", *names]
