"""The page on adding a task is true: its file and its recipe, and nothing else, make a task that runs."""

from __future__ import annotations

import json

import numpy as np
import pytest
from copied_house import ROOT, block, copied, module_of

from ecgstore import ConfigError, open_store
from ecgtrain.errors import ProtocolError

PAGE = ROOT / "docs" / "how-to" / "add-a-task.md"
FILE = "tasks/demographics.py"
BRIEF = ("pretrain.steps=2", "pretrain.batch_size=8")


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    more = {f"ecgtrain/{FILE}": block(PAGE, "python"), "demographics.yaml": block(PAGE, "yaml")}
    return copied(tmp_path_factory.mktemp("house"), more)


@pytest.fixture(scope="module")
def its(house):
    """The file itself, as a module of this process."""
    return module_of(house.root / "ecgtrain" / FILE)


@pytest.fixture(scope="module")
def store(mini_store):
    return open_store(mini_store)


@pytest.fixture(scope="module")
def finished(house, store):
    """The directory of a run of two steps, and what `methods` says."""
    sets = [word for one in (f"data.store={store.path}", *BRIEF) for word in ("--set", one)]
    ran, listed = house.ecgtrain(["run", "demographics.yaml", *sets, "--out", "run"], ["methods", "--json"])
    assert ran.status == listed.status == 0, ran.error + listed.error
    return house.root / "run", json.loads(listed.out)


def test_the_page_names_the_file_it_shows():
    assert not (ROOT / "ecgtrain" / FILE).exists(), "the page must add what isn't there"
    for name in (f"`ecgtrain/{FILE}`", "`demographics.yaml`", "tests/e2e/test_add_a_task.py"):
        assert name in PAGE.read_text()


@pytest.mark.slow
def test_it_runs_to_a_report(house, finished, store):
    run, listed = finished
    assert house.files_changed() == [FILE]
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
    rows = store.select(folds=[8])
    assert sex["per_class"]["female"]["n_positive"] == (store.column("sex")[rows] == "female").sum() > 0
    page = (run / "report.html").read_text()
    assert "older than 60 years" in page
    assert "demographics/sex" in page


def test_a_record_that_says_nothing_takes_no_part(its, store):
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
def test_a_store_that_does_not_say_is_refused(its, label_set):
    with pytest.raises(ProtocolError, match=f"states no {label_set}; in silent.ecg"):
        its.targets(Silent(), label_set)


def test_a_wrong_label_set_is_refused_with_the_nearest(its, store):
    with pytest.raises(ConfigError, match="did you mean demographics/age"):
        its.targets(store, "ages")
