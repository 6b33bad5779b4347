"""Seeds and curves of a recipe: points are what questions answer, are kept, and are told with what they hang on."""

from __future__ import annotations

import contextlib
import csv
import json
import shutil

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from ecgstore import ConfigError, EcgError, IngestSettings, ingest_folder, open_store
from ecgstore.inner import parse
from ecgtrain import load_classifier, tasks
from ecgtrain.config import RunConfig
from ecgtrain.errors import CheckpointError, LeakageError, PassportError, ProtocolError, StoppedError
from ecgtrain.evaluation import curves
from ecgtrain.reporting.report import read_report
from ecgtrain.run import embed_store, evaluate_store, export_run, predict_records, run
from ecgtrain.scoring import metrics
from ecgtrain.training.files import plain

COMMON = {
    "task": "ptbxl/superdiagnostic",
    "train_folds": [1, 2, 3, 4],
    "validation_folds": [5, 6],
    "test_folds": [7, 8],
    "window_samples": 250,
    "stride_samples": 250,
}
PROBE = {**COMMON, "name": "probe", "nulls": ["random"], "settings": {"penalties": [1.0]}, "compare_to": ["other"]}
OTHER = {**COMMON, "name": "other", "settings": {"penalties": [10.0]}}
LABELS = {"kind": "label_efficiency", "fractions": [0.5, 1.0], "draws": 2, "reference": "other"}
NOISE = {"kind": "noise_robustness", "levels": [3], "reference": "other"}


def recipe(store, curves, **more):
    pretrain = {
        "method": {"name": "cpc", "steps_ahead": 2, "n_negatives": 8},
        "backbone": {"name": "cpc_lstm", "encoder": {"width": 6}, "lstm_width": 5, "lstm_layers": 1},
        "folds": [1, 2, 3, 4],
        "window_samples": 250,
        "batch_size": 8,
        "steps": 2,
    }
    content = {"name": "curved", "data": {"store": str(store)}, "pretrain": pretrain, "downstream": [PROBE, OTHER]}
    return parse(RunConfig, {**content, "curves": curves, **more})


@pytest.fixture(scope="module")
def curved(mini_store, tmp_path_factory):
    """A run of two seeds with curves, and its report."""
    out = tmp_path_factory.mktemp("curved") / "run"
    return out, run(recipe(mini_store, [LABELS, NOISE], seeds=[1, 2]), out)


def told(results):
    """What stands on disk: there NaN, of a group of few records, equals itself."""
    return [plain(result.as_json()) for result in results]


def points_of(out):
    return {path: path.stat().st_mtime_ns for path in sorted(out.glob("seeds/*/curves/*/points/*"))}


def test_a_point_without_a_change_is_the_answer_itself(curved):
    out, _ = curved
    for seed in (1, 2):
        report = read_report(out / "seeds" / str(seed))
        answers = {(one.name, one.pretraining): one.score.value for one in report.results}
        labels, noise = report.asked_over
        for line, points in noise.lines.items():
            assert points[0].score.value == pytest.approx(answers[line])
            assert points[0].change is None
            assert points[1].change.value == pytest.approx(points[1].score.value - points[0].score.value)
        # With all labels both draws are of the whole, and a convex probe needs no luck.
        for line, points in labels.lines.items():
            assert points[-1].score.value == pytest.approx(answers[line])
        assert {point.against is None for point in labels.lines["other", "cpc"]} == {True}
        assert labels.lines["probe", "cpc"][0].against is not None
        assert set(labels.reached) == {"probe cpc", "probe random"}


def test_several_seeds_are_told_as_one(curved):
    out, report = curved
    of_seeds = [read_report(out / "seeds" / str(seed)) for seed in (1, 2)]
    n = len(of_seeds[0].results)
    for i, result in enumerate(report.results[:n]):
        mean = sum(one.results[i].score.value for one in of_seeds) / 2
        assert result.score.value == pytest.approx(mean)
        assert result.seeds == (1, 2)
        assert (result.p_of_difference.keys() if result.difference_to else set()) == set(result.difference_to)
    probe = report.results[0]
    assert set(probe.difference_to) == {"random", "other"}
    assert probe.difference_to["other"]["macro_auroc"].value == pytest.approx(
        report.results[0].score.value - report.results[2].score.value
    )
    for k, curve in enumerate(report.asked_over):
        first = of_seeds[0].asked_over[k].points[1], of_seeds[1].asked_over[k].points[1]
        assert curve.points[1].score.value == pytest.approx(sum(one.score.value for one in first) / 2)
    assert read_report(out).asked_over == report.asked_over
    assert told(read_report(out).results) == told(report.results)
    page = (out / "report.html").read_text()
    for said in ("How many labels are needed", "What noise costs", "Means over the seeds 1, 2", "level 3"):
        assert said in page


def scores_of(out, seed, question="probe"):
    """What the head of one seed says of the test records, (records, classes), and their rows."""
    folder = out / "seeds" / str(seed) / "downstream" / question / "cpc"
    table = pq.ParquetFile(folder / "predictions.parquet").read(use_threads=False)
    names = [name for name in table.column_names if name.startswith("probability:")]
    return np.stack([table[name].to_numpy() for name in names], axis=1), table["record_id"].to_pylist(), names


def test_what_all_seeds_say_together_is_an_answer_of_its_own(curved, mini_store):
    out, report = curved
    mean, probe, other = report.results[0], *report.results[-2:]
    assert [(one.name, one.ensemble_of, one.seeds) for one in (probe, other)] == [
        ("probe", (1, 2), ()),
        ("other", (1, 2), ()),
    ]
    assert not any(one.ensemble_of for one in report.results[:-2])
    (one_rc, ids, names), (two_rc, *_) = scores_of(out, 1), scores_of(out, 2)
    store = open_store(mini_store)
    rows = [store.column("record_id").tolist().index(name) for name in ids]
    y_rc = tasks.load(COMMON["task"]).targets(store).y_nc[rows]
    classes = tasks.load(COMMON["task"]).targets(store).classes
    kept = [classes.index(name.removeprefix("probability:")) for name in names]
    expected = metrics.macro_auroc(y_rc[:, kept], (one_rc + two_rc) / 2)
    assert probe.score.value == pytest.approx(expected, abs=1e-6)
    assert set(probe.difference_to) == {"one seed", "random", "other"}
    gain = probe.difference_to["one seed"]["macro_auroc"]
    assert gain.value == pytest.approx(probe.score.value - mean.score.value)
    assert gain.low <= gain.value <= gain.high
    assert probe.difference_to["other"]["macro_auroc"].value == pytest.approx(probe.score.value - other.score.value)
    assert "CPC, 2 seeds together" in (out / "report.html").read_text()
    with (out / "report.json").open() as file:
        assert [one.get("ensemble_of") for one in json.load(file)["results"]][-2:] == [[1, 2], [1, 2]]


def test_a_run_of_several_seeds_predicts_as_one(curved, mini_store, tmp_path):
    out, _ = curved
    found = predict_records(out, mini_store, tmp_path / "p.parquet", name="probe").table
    (one_rc, ids, names), (two_rc, *_) = scores_of(out, 1), scores_of(out, 2)
    by_id = dict(zip(found["record_id"].to_pylist(), range(found.num_rows), strict=True))
    said_rc = np.stack([found[name].to_numpy() for name in names], axis=1)[[by_id[one] for one in ids]]
    np.testing.assert_allclose(said_rc, (one_rc + two_rc) / 2, atol=1e-4)
    about = json.loads(found.schema.metadata[b"ecgtrain"])
    assert sorted({name.partition("/export")[0] for name in about["sha256"] if "export" in name}) == [
        "seeds/1",
        "seeds/2",
    ]
    assert not [name for name in found.column_names if name.startswith("said:")]  # thresholds belong to one seed
    signal = open_store(mini_store).read(ids[0])
    together = load_classifier(out, "probe")
    each = [load_classifier(out / "seeds" / str(seed), "probe") for seed in (1, 2)]
    args = (signal.signal_mv_lt, signal.fs_hz, signal.leads)
    mean = np.mean([list(one.predict(*args).values()) for one in each], axis=0)
    np.testing.assert_allclose(list(together.predict(*args).values()), mean, atol=1e-9)


@pytest.mark.slow
def test_a_run_of_several_seeds_is_judged_elsewhere_as_here(curved, mini_store):
    """On its own store it comes to what the run itself said, but for what only the recipe knows."""
    out, report = curved
    found = evaluate_store(out, str(mini_store)).results
    here = {(one.name, one.pretraining, one.ensemble_of): one for one in report.results}
    there = {(one.name, one.pretraining, one.ensemble_of): one for one in found}
    assert there.keys() == here.keys()
    for key, one in there.items():
        expected = here[key]
        assert one.seeds == expected.seeds
        assert one.score.value == pytest.approx(expected.score.value, abs=1e-6)
        kept = {name: by for name, by in expected.difference_to.items() if name in ("random", "one seed")}
        assert {name: by["macro_auroc"].value for name, by in one.difference_to.items()} == pytest.approx(
            {name: by["macro_auroc"].value for name, by in kept.items()}, abs=1e-6
        )
    probe = there["probe", "cpc", ()]
    assert 0 < probe.p_of_difference["random"] <= 1
    (only, _, _) = evaluate_store(out, str(mini_store), names=["probe"]).results
    assert told([only]) == told([probe.model_copy(update={"p_of_difference": only.p_of_difference})])


@pytest.mark.slow
def test_an_export_of_several_seeds_says_their_mean(curved, mini_store, tmp_path):
    out, report = curved
    export_run(out, tmp_path / "model", name="probe")
    ensemble = next(one for one in report.results if one.name == "probe" and one.ensemble_of)
    own, mean, null = read_report(tmp_path / "model").results
    assert (own.ensemble_of, own.score) == ((1, 2), ensemble.score)
    assert (mean.seeds, null.pretraining) == ((1, 2), "random")
    found = evaluate_store(tmp_path / "model", str(mini_store)).results
    assert found[-1].score.value == pytest.approx(ensemble.score.value, abs=1e-6)
    ours = predict_records(out, mini_store, tmp_path / "run.parquet", name="probe").table
    its = predict_records(tmp_path / "model", mini_store, tmp_path / "model.parquet").table
    assert its.equals(ours)
    about = json.loads((tmp_path / "model" / "model.json").read_text())
    assert about["mean_of_seeds"] == [1, 2]
    card = (tmp_path / "model" / "card.md").read_text()
    for said in ("2 such, which differ by their seeds (1, 2)", "CPC, 2 seeds together", "`seeds/`"):
        assert said in card
    # One of the seeds stands by itself, too.
    (alone,) = evaluate_store(tmp_path / "model" / "seeds" / "2", str(mini_store)).results
    assert alone.score.value == pytest.approx(read_report(out / "seeds" / "2").results[0].score.value, abs=1e-6)
    with pytest.raises(CheckpointError, match="an export already"):
        export_run(tmp_path / "model", tmp_path / "again")


@pytest.mark.slow
def test_seeds_of_which_one_is_unfinished_are_refused_in_one_line(curved, mini_store, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(curved[0], copy)
    shutil.rmtree(copy / "seeds" / "2" / "downstream" / "probe")
    with pytest.raises(CheckpointError, match=r"not all seeds of the run have the same heads.*seeds/2") as refused:
        evaluate_store(copy, str(mini_store))
    assert "\n" not in str(refused.value)
    with pytest.raises(CheckpointError, match="no such trained head"):
        export_run(copy, tmp_path / "out", name="probe")
    shutil.rmtree(copy / "seeds" / "2")
    (copy / "seeds" / "2").mkdir()
    for act in (
        lambda: evaluate_store(copy, str(mini_store)),
        lambda: export_run(copy, tmp_path / "out", name="probe"),
    ):
        with pytest.raises(CheckpointError) as refused:
            act()
        assert "\n" not in str(refused.value)


def test_seeds_that_tell_other_things_are_not_taken_together(curved, tmp_path):
    out, _ = curved
    copy = tmp_path / "run"
    shutil.copytree(out, copy)
    shutil.rmtree(copy / "seeds" / "2" / "downstream" / "probe")
    with pytest.raises(CheckpointError, match=r"no such trained head.*in .*seeds/2"):
        load_classifier(copy, "probe")
    about = copy / "seeds" / "2" / "downstream" / "other" / "cpc" / "head.json"
    content = json.loads(about.read_text())
    about.write_text(json.dumps({**content, "classes": content["classes"][::-1]}))
    with pytest.raises(CheckpointError, match="don't tell the same"):
        load_classifier(copy, "other")


def test_tables_hold_what_the_page_shows(curved):
    out, report = curved
    rows = list(csv.DictReader((out / "curves" / "label_efficiency" / "curve.csv").read_text().splitlines()))
    labels = report.asked_over[0]
    assert [float(row["score"]) for row in rows] == pytest.approx([point.score.value for point in labels.points])
    assert {row["place"] for row in rows} == {"50 %", "100 %"}


@pytest.mark.slow
def test_what_the_question_has_learned_is_not_learned_again(mini_store, tmp_path, monkeypatch):
    fitted, fit = [], curves.fit

    def noted(posed, **changed):
        fitted.append((posed.question.name, changed["label_fraction"], changed["seed"]))
        return fit(posed, **changed)

    monkeypatch.setattr(curves, "fit", noted)
    few = {**OTHER, "settings": {"penalties": [10.0], "label_fraction": 0.5}}
    asked = recipe(mini_store, [{**LABELS, "reference": None}], downstream=[{**OTHER, "name": "all"}, few])
    run(asked, tmp_path / "run")
    first, second = asked.seed, curves.seed_of_draw(asked.seed, 1)
    # Each at both shares in two draws, but for the first draw at its own.
    assert fitted == [
        ("all", 0.5, first),
        ("all", 0.5, second),
        ("all", 1.0, second),
        ("other", 0.5, second),
        ("other", 1.0, first),
        ("other", 1.0, second),
    ]


def test_points_are_kept_and_a_stopped_curve_goes_on(curved, mini_store):
    out, report = curved
    before = points_of(out)
    assert len(before) == 2 * (3 * 2 * 2 + 3 * 2)
    # Stopped in the midst, spoilt, and asked for one level more and for a share that is nearly another: what holds is
    # not done again, and is not taken for what it is not.
    lost, torn, *kept = list(before)
    lost.unlink()
    torn.write_bytes(b"torn")
    more, near = {**NOISE, "levels": [3, 6]}, {**LABELS, "fractions": [0.5, 0.5001, 1.0]}
    done = []
    again = run(
        recipe(mini_store, [near, more], seeds=[1, 2]),
        out,
        resume=True,
        progress=lambda n, total, values: done.append((n, total)),
    )
    after = points_of(out)
    assert {path: after[path] for path in kept} == {path: before[path] for path in kept}
    assert len(after) == len(before) + 2 * (3 * 2 + 3)
    assert [point for point in again.asked_over[0].points if point.x != 0.5001] == list(report.asked_over[0].points)
    assert {point.told for point in again.asked_over[0].points} == {"50 %", "50.01 %", "100 %"}
    assert told(again.results) == told(report.results)
    assert (9, 9) in done


@pytest.mark.parametrize("after", [0, 1, 3], ids=["before", "in training", "in a point's training"])
def test_a_run_told_to_stop_while_it_answers_says_so_and_goes_on(mini_store, tmp_path, after):
    """``after`` so many looks at the reason once the network is exported: two of the answer, one before the curve."""
    learned = {**COMMON, "name": "other", "protocol": "scratch", "settings": {"stages": [{"epochs": 1}]}}
    halves = {"kind": "label_efficiency", "fractions": [0.5], "draws": 1}
    asked, out, looks = recipe(mini_store, [halves], downstream=[learned]), tmp_path / "run", 0

    def reason():
        nonlocal looks
        looks += (out / "export" / "model.safetensors").exists()
        return None if looks <= after else "it was sent SIGTERM"

    with pytest.raises(StoppedError, match=r"^the questions were stopped: it was sent SIGTERM; in .*run; .*--resume"):
        run(asked, out, until=lambda: contextlib.nullcontext(reason))
    assert len(list(out.glob("downstream/other/*/result.json"))) == (after == 3)
    assert not [*out.glob("curves/*/points/*"), *out.glob("report.json")]
    whole = run(asked, out, resume=True)
    again = run(asked, out, resume=True)
    assert told(again.results) == told(whole.results)
    assert len(list(out.glob("curves/*/points/*"))) == 1


@pytest.mark.parametrize(
    ("curves", "said"),
    [
        ([{**LABELS, "reference": "othr"}], "did you mean other"),
        ([{**LABELS, "questions": ["probe"]}], "name it in questions"),
        ([LABELS, LABELS], "two curves are called label_efficiency"),
        ([{"kind": "label_efficency"}], "label_efficiency"),
        ([{**LABELS, "fractions": [0.0]}], "greater than 0"),
        ([{**NOISE, "levels": [7]}], "less than or equal to 6"),
        ([{"kind": "lead_subsets", "leads": [5]}], "one of 12, 6, 4, 3, 2"),
        ([{**NOISE, "noise": "hum"}], "physiological"),
    ],
)
def test_a_curve_that_makes_no_sense_is_refused_when_it_is_read(mini_store, curves, said):
    with pytest.raises(EcgError, match=said):
        recipe(mini_store, curves)


@pytest.mark.parametrize(
    ("curves", "said"),
    [
        ([{**LABELS, "fractions": [0.01, 1.0], "draws": 1}], "label_fraction|positive and a negative|choose"),
        ([{"kind": "lead_subsets", "leads": [["V9"]]}], "V9"),
        ([{"kind": "rate_and_gain", "rates_hz": [500]}], "below that of the store"),
    ],
)
def test_a_curve_that_comes_to_nothing_is_refused_before_training(mini_store, tmp_path, curves, said):
    with pytest.raises(EcgError, match=said):
        run(recipe(mini_store, curves), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_seed_stands_there_once(mini_store):
    with pytest.raises(ConfigError, match="seeds: each may stand there once"):
        recipe(mini_store, [], seeds=[1, 1])


def test_a_run_of_seeds_and_a_run_of_one_never_share_a_directory(curved, mini_store):
    out, _ = curved
    before = (out / "report.json").read_bytes()
    with pytest.raises(ConfigError, match="a run of several seeds stands in the directory"):
        run(recipe(mini_store, []), out)
    with pytest.raises(ConfigError, match="a run of one seed stands in the directory"):
        run(recipe(mini_store, [], seeds=[1, 2]), out / "seeds" / "1", resume=True)
    assert not (out / "seeds" / "1" / "seeds").exists()
    assert (out / "report.json").read_bytes() == before
    with pytest.raises(CheckpointError, match="name the run of one seed, such as .*seeds/1"):
        embed_store(out, str(mini_store), out.parent / "features.parquet")


@pytest.fixture(scope="module")
def later_store(mini, tmp_path_factory):
    """A store of its own of some of the bundled records: of those that are chosen by and tested on."""
    folder = tmp_path_factory.mktemp("later") / "later"
    shutil.copytree(mini, folder)
    table = pd.read_csv(folder / "ptbxl_database.csv")
    table[(table["strat_fold"] > 4) & (table.index % 3 > 0)].to_csv(folder / "ptbxl_database.csv", index=False)
    out = folder.with_name("later.ecg")
    bandpass = {"name": "bandpass", "low_hz": 0.5, "high_hz": 40.0}  # as of mini_store
    ingest_folder(folder, out, IngestSettings(fs_hz=100, filters=(bandpass,)))
    return out


@pytest.mark.slow
def test_a_matrix_of_stores_holds_what_each_is_worth(mini_store, later_store, tmp_path):
    matrix = {"kind": "transfer", "stores": [str(later_store), str(mini_store)], "reference": "other"}
    out = tmp_path / "run"
    report = run(recipe(mini_store, [matrix]), out)
    (curve,) = report.asked_over
    here = {(one.name, one.pretraining): one for one in report.results}
    there = evaluate_store(out, str(later_store)).results
    elsewhere = {(one.name, one.pretraining): one for one in there}
    assert set(curve.lines) == set(here) == set(elsewhere)
    for line, (own, other) in curve.lines.items():
        assert (own.told, other.told) == (mini_store.name, later_store.name)
        assert own.score == pytest.approx(here[line].score)
        assert other.score == pytest.approx(elsewhere[line].score)
        assert (own.change, other.change) == (None, None)
        assert (other.against is None) == (line == ("other", "cpc"))
    assert other.score != own.score
    assert "What the answers are worth on other stores" in (out / "report.html").read_text()
    points = {path: path.stat().st_mtime_ns for path in out.glob("curves/*/points/*")}
    assert len(points) == 2 * 3
    run(recipe(mini_store, [matrix]), out, resume=True)
    assert {path: path.stat().st_mtime_ns for path in out.glob("curves/*/points/*")} == points


def test_a_matrix_that_could_not_count_is_refused_before_training(mini_store, later_store, mini, tmp_path):
    with pytest.raises(LeakageError, match="on both sides of training and the test on"):
        run(recipe(mini_store, [{"kind": "transfer", "stores": [str(later_store)], "folds": "all"}]), tmp_path / "leak")
    with pytest.raises(ProtocolError, match="no record is in the folds"):
        run(recipe(mini_store, [{"kind": "transfer", "stores": [str(later_store)], "folds": [1]}]), tmp_path / "none")
    slower = tmp_path / "slower.ecg"
    ingest_folder(mini, slower, IngestSettings(fs_hz=50))
    with pytest.raises(PassportError):
        run(recipe(mini_store, [{"kind": "transfer", "stores": [str(slower)]}]), tmp_path / "otherwise")
    assert not any((tmp_path / name).exists() for name in ("leak", "none", "otherwise"))
