"""The report: JSON that reads back, a page that needs nothing but itself, and the caveats that belong to it."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest

from ecgstore import ConfigError, Terms
from ecgtrain.evaluation.results import Result, read, result_of
from ecgtrain.reporting import report
from ecgtrain.reporting.contents import report_of
from ecgtrain.reporting.page import render
from ecgtrain.scoring import metrics
from ecgtrain.scoring.bootstrap import Interval, bootstrap
from ecgtrain.training.files import plain
from ecgtrain.training.layout import PAGE, REPORT
from ecgtrain.training.log import read_metrics


def result(pretraining="cpc", n_test=300, **more):
    return result_of(content(pretraining, n_test, **more), "here")


def content(pretraining="cpc", n_test=300, **more):
    """A result as it stands on disk."""
    draw = np.random.default_rng(len(pretraining))
    y_nc = draw.random((n_test, 3)) < 0.3
    score_nc = draw.random((n_test, 3)) + 0.5 * y_nc
    classes = ("NORM", "MI", "HYP")
    made = {
        "name": "superclasses",
        "task": "ptbxl/superdiagnostic",
        "protocol": "linear_probe",
        "pretraining": pretraining,
        "store": "ptbxl.ecg",
        "n_train": 1697,
        "n_test": n_test,
        "metrics": {
            name: bootstrap(y_nc, score_nc, [""] * n_test, name, n_resamples=50)
            for name in ("macro_auroc", "macro_auprc")
        },
        "per_class": metrics.per_class(y_nc, score_nc, classes, {"MI": "myocardial infarction"}),
        "roc": metrics.roc_curves(y_nc, score_nc, classes),
        **more,
    }
    return plain(made)


def whole(**more):
    return report_of(as_written(**more), "here")


def as_written(**more):
    """A report as it stands on disk."""
    steps = list(range(10, 110, 10))
    made = {
        "title": "paper_b_cpc",
        "results": [
            content(difference_to={"random": {"macro_auroc": Interval(0.04, 0.01, 0.07)}}),
            content("random"),
        ],
        "run": {
            "name": "paper_b_cpc",
            "method": "cpc",
            "backbone": "cpc_lstm",
            "n_parameters": 5_263_872,
            "n_records": 1708,
            "folds": (1, 2, 3, 4, 5, 6, 8),
            "steps": 1000,
            "seconds": 312.4,
            "device": "cpu",
        },
        "store": {
            "path": "stores/ptbxl.ecg",
            "fingerprint": "ab" * 32,
            "n_records": 2331,
            "fs_hz": 100.0,
            "recipe": {"fs_hz": 100},
            "patients": "2,271, hashed with a secret key",
            "terms": (Terms("ptbxl", "1.0.3", "CC-BY-4.0", True, "10.13026/kfzx-aw45", "Wagner et al."),),
        },
        "curves": {
            "chance": {"per_term_nats": [4.86]},
            "train": {"step": steps, "per_term_nats": list(np.linspace(4.8, 3.2, 10)), "loss": steps},
            "validation": {"step": [50, 100], "per_term_nats": [4.0, 3.3]},
        },
        "settings": "seed: 0\n",
        "environment": {"python": "3.11"},
        **more,
    }
    return plain(made)


@pytest.fixture(scope="module")
def page():
    return render(whole())


def test_the_json_reads_back_in_plain_numbers(tmp_path):
    made = whole()
    broken = {"macro_auroc": Interval(np.float32(0.5), float("nan"), np.float64(0.75))}
    made = made.model_copy(
        update={"results": (made.results[0].model_copy(update={"metrics": broken}), *made.results[1:])}
    )
    written = report.write_report(tmp_path / "run", made)
    text = (tmp_path / "run" / "report.json").read_text()
    assert "NaN" not in text
    found = json.loads(text)
    assert plain(report.read_report(tmp_path / "run").as_json()) == found == plain(written.as_json())
    assert found["results"][0]["metrics"]["macro_auroc"] == {"value": 0.5, "low": None, "high": 0.75}
    assert math.isnan(report.read_report(tmp_path / "run").results[0].macro_auroc.low)
    assert list(found["results"][0]["per_class"]) == ["NORM", "MI", "HYP"], "the order of classes is kept"
    assert found["store"]["terms"][0]["licence"] == "CC-BY-4.0"
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["report.html", "report.json"]


def test_the_same_report_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        report.write_report(tmp_path / name, whole())
    for file in (REPORT, PAGE):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize("step", ["os.fsync", "os.replace"])
def test_a_failed_write_leaves_the_old_report(tmp_path, monkeypatch, step):
    report.write_report(tmp_path, whole())
    before = (tmp_path / REPORT).read_bytes(), (tmp_path / PAGE).read_bytes()

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(step, full_disk)
    with pytest.raises(OSError, match="No space"):
        report.write_report(tmp_path, whole(title="another"))
    assert ((tmp_path / REPORT).read_bytes(), (tmp_path / PAGE).read_bytes()) == before
    assert len(list(tmp_path.iterdir())) == 2


def test_the_page_refers_to_nothing_outside_itself(page):
    assert "http" not in page
    assert not re.search(r"<(script|link|img|iframe|object|embed)\b", page)
    assert not re.search(r"url\((?!#)|@import|src=", page)
    assert "doi:10.13026/kfzx-aw45" in page


def test_the_page_tells_the_story(page):
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    for told in (
        "The signals come from ptbxl.ecg (2,331 records, 100 Hz).",
        "CPC pretrained a cpc_lstm network of 5,263,872 parameters without labels on 1,708 records of folds 1–6, 8, "
        "for 1,000 steps, in 5 min 12 s on cpu.",
        "better than the untrained network by +0.040 [+0.010, +0.070].",
        "myocardial infarction",
        "Untrained network",
        "judged on 300 records of other patients",
        "Wagner et al.",
        "Patients 2,271, hashed with a secret key",
        "ab" * 32,
        "seed: 0",
    ):
        assert told in text
    assert page.count("<svg role=") == 1, "loss curves"
    assert page.count('<svg viewBox="0 -4') == 6, "ROC, precision and recall of three classes"


def test_where_patients_are_unknown_the_page_does_not_say_that_they_are_others():
    caveat = "whether patients are on both sides is unknown: different keys: patients can't be compared"
    made = report.with_caveats(whole(results=[content(caveats=[caveat]), content("random")]))
    text = " ".join(re.sub(r"<[^>]+>", " ", render(made)).replace("&#39;", "'").split())
    assert "of other patients" not in text
    assert f"CPC on ptbxl/superdiagnostic: {caveat}." in text


def test_a_difference_whose_interval_holds_zero_is_not_called_better():
    unsure = {"random": {"macro_auroc": Interval(0.04, -0.01, 0.09)}}
    page = render(whole(results=[content(difference_to=unsure), content("random")]))
    assert "can&#39;t tell it from the untrained network" in page
    assert "better than" not in page


def test_names_cannot_break_the_page():
    hostile = {
        "per_class": {"<b>": {"auroc": 0.5, "auprc": None, "n_positive": 12}},
        "roc": {"<b>": {"fpr": [0, 1], "tpr": [0, 1]}},
    }
    page = render(whole(title="<script>alert(1)</script>", results=[content(**hostile), content("random")]))
    assert "<script" not in page
    assert "<b>" not in page


def test_what_a_terminal_would_obey_is_an_escape_on_the_page():
    page = render(whole(title="a\x1b[31mb\u202ec\x9b", results=[content(), content("random")]))
    assert "a\\x1b[31mb\\u202ec\\x9b" in page
    assert not any(one in page for one in "\x1b\u202e\x9b")
    assert "\n</html>" in page.rstrip()[-10:]


def test_few_records_and_few_positives_are_warned_of(tmp_path):
    many = report.write_report(tmp_path, whole())
    assert many.caveats == ()
    few = content(n_test=53, caveats=["the best penalty is at the end of the path"])
    few["per_class"]["HYP"]["n_positive"] = 4
    said = ["given", "the best penalty is at the end of the path"]
    written = report.write_report(tmp_path, whole(results=[few], caveats=said))
    given, records, positives, edge = written.caveats
    assert given == "given"
    assert records.startswith("53 test records are too few to rank methods: the intervals of macro AUROC are up to 0.")
    assert "HYP (4)" in positives
    assert edge == "CPC on ptbxl/superdiagnostic: the best penalty is at the end of the path."
    page = (tmp_path / PAGE).read_text()
    assert all(text in page for text in (records, positives, edge))


def test_classes_that_are_left_out_are_named(tmp_path):
    dropped = {"CD": "the store's sources never state it", "STTC": "no training record has it"}
    written = report.write_report(tmp_path, whole(results=[content(dropped_classes=dropped)]))
    assert (
        "2 of 5 classes are left out: CD, STTC. A macro score is the mean over the 3 that were scored."
        in written.caveats
    )
    page = (tmp_path / PAGE).read_text()
    assert "Left out, because no training record has it: STTC." in page
    assert "the mean over the 3 of 5 classes" in page
    assert "<h2>Data and settings: paper_b_cpc on ptbxl.ecg</h2>" in page


def test_classes_without_a_test_record_are_named_too(tmp_path):
    def noted(**changes):
        found = content(**changes)
        found["per_class"]["HYP"] |= {"auroc": None, "n_positive": 0}
        return report.write_report(tmp_path, whole(results=[found])).caveats

    has_none = "1 of 3 classes has no positive or no negative test record and no score: HYP."
    assert noted() == (f"{has_none} A macro score is the mean over the 2 that were scored.",)
    assert noted(dropped_classes={"CD": "no training record has it"}) == (
        f"1 of 4 classes is left out: CD. {has_none.replace('of 3', 'of 4')} "
        "A macro score is the mean over the 2 that were scored.",
    )


def test_runs_of_one_name_on_several_stores_and_evaluations_are_told_apart():
    stores = [report_of({**as_written(), "store": {"path": f"stores/{name}.ecg"}}, "here") for name in "abb"]
    judged = report_of({"title": "run on c.ecg", "results": [content()]}, "here")
    names = [run.name for run in report.merge([*stores, judged, judged]).runs]
    assert names == [
        "paper_b_cpc on a.ecg", "paper_b_cpc on b.ecg", "paper_b_cpc on b.ecg (2)", "run on c.ecg", "run on c.ecg (2)",
    ]  # fmt: skip


def test_a_report_without_anything_optional_still_reads():
    bare = {key: value for key, value in content().items() if key != "roc"}
    page = render(report_of({"results": [bare]}, "here"))
    assert "0.5 is a coin toss" in page
    assert 'role="img"' not in page


def test_merged_runs_stand_side_by_side(tmp_path):
    one, two = whole(), whole(results=[content("simclr"), content("random")], run={"name": "simclr"})
    merged = report.merge([one, two, two])
    assert [run.name for run in merged.runs] == ["paper_b_cpc", "simclr", "simclr (2)"]
    assert [one.run for one in merged.results] == ["paper_b_cpc"] * 2 + ["simclr"] * 2 + ["simclr (2)"] * 2
    assert set(merged.as_json()) == {"results", "runs", "caveats"}
    report.write_report(tmp_path, merged)
    assert plain(report.read_report(tmp_path).as_json())["runs"] == plain(merged.as_json())["runs"]
    page = render(merged)
    assert page.count(">Results: ") == 1
    assert ">Results: ptbxl/superdiagnostic on ptbxl.ecg, of paper_b_cpc, simclr, simclr (2)</h2>" in page
    for label in ("CPC", "SimCLR (simclr)", "SimCLR (simclr (2))", "Untrained network (paper_b_cpc)"):
        assert f"</span>{label}</th>" in page


@pytest.mark.parametrize("other", [{"n_test": 250}, {"store_fingerprint": "cd" * 32}])
def test_results_on_other_records_keep_apart_and_say_so(tmp_path, other):
    made = report_of({"results": [content(), content("random", **other)]}, "here")
    written = report.write_report(tmp_path, made)
    assert any("compare within a table only" in text for text in written.caveats)
    assert (tmp_path / PAGE).read_text().count("<h3>Per class <") == 2


def test_curves_keep_the_terms_of_the_loss(tmp_path):
    lines = [
        {"step": 0, "split": "chance", "accuracy": 0.01},
        {"step": 10, "split": "train", "loss": 5.0, "accuracy": 0.1, "windows_per_s": 99.0, "learning_rate": 1e-3},
        {"step": 20, "split": "train", "loss": 4.0, "accuracy": 0.2, "feature_std": 0.9, "windows_per_s": 98.0},
        {"step": 20, "split": "validation", "loss": 4.5, "accuracy": 0.15},
    ]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    curves = report.loss_curves(read_metrics(tmp_path))
    # What was measured at one of the steps stands at that step.
    assert curves["train"].pop("feature_std") == pytest.approx((math.nan, 0.9), nan_ok=True)
    assert curves == {
        "chance": {"accuracy": (0.01,)},
        "train": {"step": (10, 20), "accuracy": (0.1, 0.2), "loss": (5.0, 4.0)},
        "validation": {"step": (20,), "accuracy": (0.15,), "loss": (4.5,)},
    }


@pytest.mark.parametrize("loss", [[1.0], [1.0, 2.0, 3.0]])
def test_curves_of_which_the_steps_are_not_known_are_not_drawn(tmp_path, loss):
    made = as_written()
    made["curves"] = {"train": {"step": [1, 2], "loss": loss, "accuracy": [0.1, 0.2]}}
    (tmp_path / REPORT).write_text(json.dumps(made))
    page = report.render(report.read_report(tmp_path))
    assert "accuracy</" in page


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ConfigError, match="there is no report"):
        report.read_report(tmp_path)
    (tmp_path / REPORT).write_text("{")
    with pytest.raises(ConfigError, match="can't be read"):
        report.read_report(tmp_path)


@pytest.mark.parametrize(
    ("said", "change"),
    [
        ("this can't be understood as a result: n_test: field required", {"n_test": ...}),
        ("n_train: input should be a valid integer", {"n_train": "many"}),
        ("n_test: input should be greater than or equal to 0", {"n_test": -1}),
        ("metrics.macro_auroc", {"metrics": {"macro_auroc": {"value": 1}}}),
        ("metrics.macro_auroc", {"metrics": {"macro_auroc": 0.5}}),
        ("per_class.a.n_positive: field required", {"per_class": {"a": {"auroc": 1, "auprc": 1}}}),
        ("roc.a.tpr: field required", {"roc": {"a": {"fpr": [0, 1]}}}),
        ("each false positive rate has", {"roc": {"a": {"fpr": [0, 1], "tpr": [0, 0.5, 1]}}}),
    ],
)
def test_a_result_that_cannot_be_understood_is_refused_in_one_line(tmp_path, said, change):
    made = as_written()
    made["results"][0] |= change
    made["results"][0] = {key: value for key, value in made["results"][0].items() if value is not ...}
    (tmp_path / REPORT).write_text(json.dumps(made))
    with pytest.raises(ConfigError) as refused:
        report.read_report(tmp_path)
    assert said in str(refused.value)
    assert str(tmp_path) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "made",
    [
        {},
        {"results": 1},
        {"results": [1]},
        {"results": [], "runs": [{"run": 1}]},
        {"results": [], "x": 1},
        {"results": [], "curves": {"validation": {"loss": [1.0]}}},
        {"results": [], "curves": {"chance": {"loss": []}}},
    ],
)
def test_a_report_that_cannot_be_understood_is_refused_in_one_line(tmp_path, made):
    (tmp_path / REPORT).write_text(json.dumps(made))
    with pytest.raises(ConfigError):
        report.read_report(tmp_path)


def test_what_a_protocol_chose_goes_to_disk_and_back():
    on_disk = content(penalty=0.1, penalty_path=[[1.0, None], [0.1, 0.9]], folds=None, unfitted_classes=[])
    made = result_of(on_disk, "here")
    assert (made.chosen["penalty"], made.folds, made.unfitted_classes) == (0.1, "all", ())
    assert plain(made.as_json()) == {**on_disk, "dropped_classes": {}}
    assert plain(result_of({**on_disk, "folds": [8]}, "here").as_json())["folds"] == [8]
    with pytest.raises(ConfigError, match="a protocol can't call what it chose n_test"):
        read(Result, {**dict(result()), "chosen": {"n_test": 3}}, "here")
