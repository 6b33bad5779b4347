"""The page on adding a protocol is true: its file and its recipe, and nothing else, make a protocol that runs."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from copied_house import ROOT, block, copied, module_of
from planted import over_shuffles, split

from ecgtrain.errors import CheckpointError
from ecgtrain.evaluation.protocols import Context
from ecgtrain.evaluation.splits import tile_average
from ecgtrain.scoring import metrics

PAGE = ROOT / "docs" / "how-to" / "add-a-protocol.md"
FILE = "evaluation/protocols/prototypes.py"
BRIEF = ("pretrain.steps=2", "pretrain.batch_size=8")
CONTEXT = Context(("a", "b"), SimpleNamespace(backbone=SimpleNamespace(pooled_width=4)))


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    more = {f"ecgtrain/{FILE}": block(PAGE, "python"), "prototypes.yaml": block(PAGE, "yaml")}
    return copied(tmp_path_factory.mktemp("house"), more)


@pytest.fixture(scope="module")
def its(house):
    """The file itself, as a module of this process."""
    return module_of(house.root / "ecgtrain" / FILE)


@pytest.fixture(scope="module")
def answers(house, mini_store):
    """A run of two steps, its heads on its own store again, and what `methods` says."""
    sets = [word for one in (f"data.store={mini_store}", *BRIEF) for word in ("--set", one)]
    run = ["run", "prototypes.yaml", *sets, "--out", "run"]
    return house.ecgtrain(run, ["evaluate", "run", "--store", mini_store, "--out", "again"], ["methods", "--json"])


@pytest.fixture(scope="module")
def finished(house, answers):
    """The directory of the run."""
    assert [one.status for one in answers] == [0, 0, 0], [one.error for one in answers]
    return house.root / "run"


def test_the_page_names_the_file_it_shows():
    assert not (ROOT / "ecgtrain" / FILE).exists(), "the page must add what isn't there"
    for name in (f"`ecgtrain/{FILE}`", "`prototypes.yaml`", "tests/e2e/test_add_a_protocol.py"):
        assert name in PAGE.read_text()


@pytest.mark.slow
def test_it_runs_to_a_report_beside_another_protocol(house, answers, finished):
    run, listed = finished, json.loads(answers[2].out)
    assert house.files_changed() == [FILE]
    assert listed["protocols"]["prototypes"].startswith("a class is the mean")
    assert set(listed["protocols"]) > {"linear_probe"}
    results = json.loads((run / "report.json").read_text())["results"]
    assert [(one["protocol"], one["pretraining"]) for one in results] == [
        ("prototypes", "simclr"),
        ("prototypes", "random"),
        ("linear_probe", "simclr"),
        ("linear_probe", "random"),
    ]
    assert results[0]["temperature"] in (0.1, 0.3)
    assert [t for t, _ in results[0]["temperature_path"]] == [0.1, 0.3]
    assert set(results[0]["difference_to"]) == {"random"}
    page = (run / "report.html").read_text()
    assert "Prototypes on ptbxl/superdiagnostic" in page
    assert "compare within a table only" in page


@pytest.mark.slow
def test_its_head_is_loaded_and_says_the_same(finished):
    run = finished
    again = json.loads((run.parent / "again" / "report.json").read_text())["results"]
    before = json.loads((run / "report.json").read_text())["results"]
    judged = {one["protocol"]: one["metrics"] for one in again if one["pretraining"] != "random"}
    assert judged["prototypes"]["macro_auroc"]["value"] == before[0]["metrics"]["macro_auroc"]["value"]
    about = json.loads((run / "downstream" / "by_prototypes" / "simclr" / "head.json").read_text())
    assert about["fitted"] == {"temperature": before[0]["temperature"]}


def test_the_scores_are_those_of_the_equation(its):
    train, test = split(0, 30), split(1000, 5)
    made = its.fit(train, None, its.Settings(temperatures=(0.2,)), CONTEXT)
    mean, std = train.features_nd.mean(axis=0), train.features_nd.std(axis=0)

    def unit(x_d):
        z_d = (x_d.astype(np.float64) - mean) / std
        return z_d / np.sqrt((z_d**2).sum())

    said = np.empty((len(test.features_nd), 2))
    for c in range(2):
        having = [unit(x_d) for x_d, y in zip(train.features_nd, train.y_nc[:, c], strict=True) if y]
        lacking = [unit(x_d) for x_d, y in zip(train.features_nd, train.y_nc[:, c], strict=True) if not y]
        for i, x_d in enumerate(test.features_nd):
            nearer = unit(x_d) @ np.mean(having, axis=0) - unit(x_d) @ np.mean(lacking, axis=0)
            said[i, c] = 1 / (1 + np.exp(-nearer / 0.2))
    np.testing.assert_allclose(made.predict(test), tile_average(said, test.record_row_n)[0], atol=1e-5)


def test_a_planted_signal_is_found_and_shuffled_labels_are_at_chance(its):
    train, validation, test = split(0, 200), split(1000, 80), split(2000, 150)
    made = its.fit(train, validation, its.Settings(), CONTEXT)
    assert metrics.macro_auroc(test.y_rc, made.predict(test)) > 0.9
    assert made.chosen["temperature"] == max(made.chosen["temperature_path"], key=lambda one: one[1])[0]
    settings = its.Settings(temperatures=(0.1,))
    found = over_shuffles(lambda shuffled: its.fit(shuffled, None, settings, CONTEXT), train, test, metrics.macro_auroc)
    assert abs(np.mean(found) - 0.5) < 4 * np.std(found) / np.sqrt(len(found)) + 0.01


def test_what_is_loaded_is_checked(its):
    train, test = split(0, 50), split(2000, 20)
    train.features_nd[:, 3] = 2.0  # a dead feature stays one
    test.features_nd[:, 3] = 1e6
    made = its.fit(train, split(1000, 20), its.Settings(), CONTEXT)
    again = its.load(made.arrays(), made.about(), CONTEXT)
    np.testing.assert_array_equal(again.predict(test), made.predict(test))
    for wrong in ({"points": made.points_pcd[:1]}, {"mean": made.mean_d[1:]}, {"more": made.mean_d}):
        with pytest.raises(CheckpointError):
            its.load({**made.arrays(), **wrong}, made.about(), CONTEXT)
    with pytest.raises(ValueError, match="temperatures"):
        its.load(made.arrays(), {**made.about(), "temperature": 0}, CONTEXT)
