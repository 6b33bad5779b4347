"""The page on adding a task is true: its file and its recipe, and nothing else, make a task that runs."""

from __future__ import annotations

import json

import numpy as np
import pytest
from guides import build, guide, the_page_names_what_it_shows, touched

from ecgstore import ConfigError, open_store
from ecgtrain.errors import ProtocolError

GUIDE = guide("add-a-task.md", "tasks/demographics.py", "demographics.yaml")
BRIEF = ("pretrain.steps=2", "pretrain.batch_size=8")


@pytest.fixture(scope="module")
def house(tmp_path_factory, mini_store):
    return build(tmp_path_factory.mktemp("house"), GUIDE, mini_store)


@pytest.fixture(scope="module")
def finished(house):
    """The directory of a run of two steps, and what `methods` says."""
    said = house.commands(house.line("run", *BRIEF), ("methods", "--json"))
    return house.root / "run", json.loads(said.splitlines()[-1])


def test_the_page_names_the_file_it_shows():
    the_page_names_what_it_shows(GUIDE)


def test_it_runs_to_a_report(house, finished):
    run, listed = finished
    assert touched(house) == [GUIDE.file]
    assert listed["tasks"]["demographics"].startswith("sex, and age above a limit")
    results = json.loads((run / "report.json").read_text())["results"]
    assert [(one["task"], one["pretraining"]) for one in results] == [
        ("demographics/sex", "simclr"),
        ("demographics/sex", "random"),
        ("demographics/age", "simclr"),
        ("demographics/age", "random"),
    ]
    sex, _, age, _ = results
    assert list(sex["per_class"]) == ["female"]
    assert list(age["per_class"]) == ["over_40", "over_60", "over_75"]
    # Folds 8 of the bundled corpus: eight records of two or more patients, read by eye from its table.
    store = open_store(house.store)
    rows = store.select(folds=[8])
    assert sex["per_class"]["female"]["n_positive"] == (store.column("sex")[rows] == "female").sum() > 0
    page = (run / "report.html").read_text()
    assert "older than 60 years" in page
    assert "demographics/sex" in page


def test_a_record_that_says_nothing_takes_no_part(house):
    its = GUIDE.module(house)
    store = open_store(house.store)
    age = its.targets(store, "age")
    stated = store.column("age_years")
    assert np.isnan(stated).sum() == 1
    assert set(range(store.n_records)) - set(age.rows_with_label.tolist()) == set(np.flatnonzero(np.isnan(stated)))
    row = int(np.argmax(stated == 64))
    assert age.y_nc[row].tolist() == [True, True, False]
    assert len(its.targets(store, "sex").rows_with_label) == store.n_records


class Silent:
    """A store whose table states neither."""

    path = "silent.ecg"

    def column(self, name):
        return np.array([np.nan, np.nan]) if name == "age_years" else np.array(["", ""], dtype=object)


@pytest.mark.parametrize("label_set", ["sex", "age"])
def test_a_store_that_does_not_say_is_refused(house, label_set):
    with pytest.raises(ProtocolError, match=f"states no {label_set}; in silent.ecg"):
        GUIDE.module(house).targets(Silent(), label_set)


def test_a_wrong_label_set_is_refused_with_the_nearest(house):
    with pytest.raises(ConfigError, match="did you mean demographics/age"):
        GUIDE.module(house).targets(open_store(house.store), "ages")
