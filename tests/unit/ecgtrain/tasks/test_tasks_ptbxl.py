"""The tasks of PTB-XL: the table is the published one, and absent is not negative."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from ecgstore import ConfigError, open_store
from ecgtrain import tasks
from ecgtrain.errors import ProtocolError
from ecgtrain.tasks import ptbxl

STATEMENTS = Path(__file__).parents[3] / "data" / "ptbxl_mini" / "scp_statements.csv"
SIZES = {"all": 71, "diagnostic": 44, "subdiagnostic": 23, "superdiagnostic": 5, "form": 19, "rhythm": 12}


class Shelf:
    """The part of a store that a task asks: which codes each record states, which its sources ever state."""

    path = "shelf.ecg"

    def __init__(self, stated: list[set[str]], vocabulary: set[str], system: str = "scp_ecg") -> None:
        self.stated, self.codes, self.system = stated, frozenset(vocabulary), system

    def vocabulary(self, system: str) -> frozenset[str]:
        return self.codes if system == self.system else frozenset()

    def statement_matrix(self, codes, system):
        assert self.codes.issuperset(codes)
        return np.array([[system == self.system and code in stated for code in codes] for stated in self.stated])

    def statement_mask(self, codes, system):
        return np.tile([code in self.vocabulary(system) for code in codes], (len(self.stated), 1))


def test_the_table_is_the_published_one():
    with STATEMENTS.open(newline="") as file:
        published = {row[""]: row for row in csv.DictReader(file)}
    assert set(ptbxl.CODES) == set(published)
    for code, about in ptbxl.CODES.items():
        row = published[code]
        kinds = "".join(name[0] for name in ("diagnostic", "form", "rhythm") if row[name])
        assert about == (kinds, row["diagnostic_class"], row["diagnostic_subclass"], row["description"]), code


@pytest.mark.parametrize(("label_set", "size"), SIZES.items())
def test_every_label_set_has_its_size_and_its_titles(label_set, size):
    members = ptbxl.members(label_set)
    assert len(members) == size
    assert all(ptbxl.title(label_set, name) for name in members)
    assert set(ptbxl.LABEL_SETS) == set(SIZES)


def test_superclasses_gather_the_codes_of_their_class():
    assert list(ptbxl.members("superdiagnostic")) == ["NORM", "MI", "STTC", "HYP", "CD"]
    assert set(ptbxl.members("superdiagnostic")["HYP"]) == {"LVH", "RVH", "SEHYP", "LAO/LAE", "RAO/RAE"}
    assert set(ptbxl.members("subdiagnostic")["_AVB"]) == {"1AVB", "2AVB", "3AVB"}


def test_a_record_is_of_every_class_it_states_and_of_none_it_does_not():
    shelf = Shelf([{"IMI", "ASMI", "LVH", "SR"}, {"SR"}, {"NORM"}, set()], set(ptbxl.CODES))
    targets = ptbxl.targets(shelf, "superdiagnostic")
    assert targets.classes == ("NORM", "MI", "STTC", "HYP", "CD")
    np.testing.assert_array_equal(targets.y_nc[0], [False, True, False, True, False])
    # Rhythm alone says nothing about diagnosis: such a record is no negative, it takes no part.
    np.testing.assert_array_equal(targets.rows_with_label, [0, 2])
    assert targets.dropped == {}


def test_a_code_that_the_source_never_states_is_dropped_not_negative():
    shelf = Shelf([{"NORM"}, {"IMI"}], {"NORM", "IMI", "SR"})
    targets = ptbxl.targets(shelf, "superdiagnostic")
    assert targets.classes == ("NORM", "MI")
    assert set(targets.dropped) == {"STTC", "CD", "HYP"}


def test_records_of_a_site_that_never_states_a_class_take_no_part_and_are_counted():
    class TwoSites(Shelf):
        def statement_mask(self, codes, system):
            return np.array([[True] * len(codes), [code == "NORM" for code in codes]])

    targets = ptbxl.targets(TwoSites([{"NORM"}, {"NORM"}], {"NORM", "IMI"}), "superdiagnostic")
    assert targets.classes == ("NORM", "MI")
    assert targets.rows_with_label.tolist() == [0]
    assert targets.caveats == ("1 records with a label took no part: their site never states MI",)


def test_another_system_of_statements_is_refused():
    with pytest.raises(ProtocolError, match=r"none of the scp_ecg codes .* absent is not negative"):
        ptbxl.targets(Shelf([{"NORM"}], {"NORM"}, system="snomed_ct"), "superdiagnostic")


def test_classes_without_a_training_record_are_dropped_and_listed():
    shelf = Shelf([{"NORM"}, {"IMI"}, {"LVH"}], set(ptbxl.CODES))
    targets = ptbxl.targets(shelf, "superdiagnostic").fittable(np.array([0, 1]))
    assert targets.classes == ("NORM", "MI")
    assert targets.y_nc.shape == (3, 2)
    assert targets.dropped["HYP"] == "no training record has it"
    # It was judged, as hypertrophy: so it is a negative of the others.
    assert 2 in targets.rows_with_label


def test_the_bundled_store_answers_every_task(mini_store):
    store = open_store(mini_store)
    assert tasks.names() == ("cinc/2020", "cinc/2021", *(f"ptbxl/{label_set}" for label_set in SIZES))
    for label_set in SIZES:
        targets = tasks.load(f"ptbxl/{label_set}").targets(store)
        assert targets.y_nc.shape == (store.n_records, SIZES[label_set])
        assert targets.y_nc[targets.rows_with_label].any(axis=1).all()
    superdiagnostic = tasks.load("ptbxl/superdiagnostic").targets(store)
    assert (superdiagnostic.y_nc.sum(axis=0) >= 10).all()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("ptbxl/superdiagnosis", "did you mean ptbxl/superdiagnostic"),
        ("ptbxl", "ptbxl/all"),
        ("ptbx/all", "did you mean ptbxl"),
        ("ptbxl/zzz", "known: ptbxl/all"),
    ],
)
def test_an_unknown_task_names_the_nearest(name, hint):
    with pytest.raises(ConfigError, match=hint):
        tasks.load(name)
