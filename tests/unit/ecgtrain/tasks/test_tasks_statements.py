"""Codes of one's own: who is a yes, who is a no, and who takes no part; numbers; and how tasks are named."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from ecgstore import ConfigError, open_store
from ecgtrain import tasks
from ecgtrain.errors import ProtocolError
from ecgtrain.tasks import statements

#: Record 3 states nothing, record 4 something else, record 5 two of the three.
STATED = [{"AF"}, {"SR"}, {"LBBB"}, set(), {"PVC"}, {"AF", "LBBB"}]


class Shelf:
    """What the task asks of a store."""

    path, n_records = "shelf.ecg", len(STATED)
    codes = frozenset({"AF", "SR", "LBBB", "PVC"})

    @property
    def attributes(self):
        return {"vocabulary": {"diagnosis": [], "rhythm": []}}

    def vocabulary(self, system):
        return self.codes if system == "diagnosis" else frozenset()

    def statement_matrix(self, codes, system):
        return np.array([[code in stated for code in codes] for stated in STATED])

    def statement_mask(self, codes, system):
        return np.tile([code in self.codes for code in codes], (len(STATED), 1))

    @property
    def statements(self):
        pairs = [(row, code) for row, stated in enumerate(STATED) for code in sorted(stated)]
        return pa.table({"row": [row for row, _ in pairs], "system": ["diagnosis"] * len(pairs)})


def targets(**settings):
    return tasks.load({"kind": "statements", "system": "diagnosis", **settings}).targets(Shelf())


def test_a_no_states_something_else_unless_an_empty_cell_means_no():
    by_default = targets(codes=["AF", "LBBB"])
    assert by_default.classes == ("AF", "LBBB")
    assert by_default.rows_with_label.tolist() == [0, 1, 2, 4, 5]
    np.testing.assert_array_equal(by_default.y_nc[:, 0], [1, 0, 0, 0, 0, 1])
    assert targets(codes=["AF", "LBBB"], negative="any").rows_with_label.tolist() == [0, 1, 2, 3, 4, 5]
    # One code alone has records that are none of it.
    assert targets(codes=["AF"]).rows_with_label.tolist() == [0, 1, 2, 4, 5]


def test_what_a_site_never_states_is_no_no_there_unless_all_had_one_list():
    class OfTwoSites(Shelf):
        def statement_mask(self, codes, system):
            mask_nc = super().statement_mask(codes, system)
            mask_nc[:3, list(codes).index("LBBB")] = False  # the first three are of a site that never states it
            return mask_nc

    def rows(**settings):
        asked = {"kind": "statements", "system": "diagnosis", "codes": ["AF", "LBBB"], **settings}
        return tasks.load(asked).targets(OfTwoSites())

    by_default = rows()
    assert by_default.rows_with_label.tolist() == [4, 5]
    assert by_default.caveats[0].startswith("3 records with a label took no part")
    assert "vocabulary: store" in by_default.caveats[0]
    one_list = rows(vocabulary="store")
    assert one_list.rows_with_label.tolist() == [0, 1, 2, 4, 5]
    assert one_list.caveats == ()
    assert "vocabulary" not in tasks.name_of(tasks.written_out({"kind": "statements", "system": "diagnosis"}))


def test_classes_that_exclude_each_other_take_records_of_exactly_one():
    found = targets(codes=["AF", "SR", "LBBB"], exclusive=True)
    assert found.kind == "exclusive"
    assert found.rows_with_label.tolist() == [0, 1, 2]
    assert found.caveats == ("1 records took no part: they state more than one of the classes",)
    assert (found.y_nc[found.rows_with_label].sum(axis=1) == 1).all()
    # A class that nobody shows in training is dropped, and whoever is of it alone takes no part.
    fitted = found.fittable(np.array([0, 1]))
    assert fitted.classes == ("AF", "SR")
    assert fitted.rows_with_label.tolist() == [0, 1]


def test_a_class_may_be_of_several_codes_and_numbers_are_codes():
    found = targets(codes={"ectopy or block": ["PVC", "LBBB"], "AF": ["AF"]})
    assert found.classes == ("ectopy or block", "AF")
    np.testing.assert_array_equal(found.y_nc[:, 0], [0, 0, 1, 0, 1, 1])
    settings = tasks.load({"kind": "statements", "system": "snomed_ct", "codes": [164889003]}).asked
    assert settings.codes == ("164889003",)


def test_without_codes_every_code_of_the_system_is_a_class(mini_store, monkeypatch):
    store = open_store(mini_store)
    task = tasks.load({"kind": "statements", "system": "scp_ecg"})
    found = task.targets(store)
    assert found.classes == tuple(sorted(store.vocabulary("scp_ecg")))
    assert not found.named
    assert len(found.rows_with_label) == store.n_records
    monkeypatch.setattr(statements, "MAX_CLASSES", 70)
    with pytest.raises(ConfigError, match=r"expected at most 70, got 71.*codes: \[CODE, CODE\]"):
        task.targets(store)


def test_a_system_whose_cells_are_all_empty_is_not_guessed_to_be_itself():
    class OfNothing(Shelf):
        codes = frozenset()

    with pytest.raises(ProtocolError, match="no record states a code of 'diagnosis'.*fill its column"):
        tasks.load({"kind": "statements", "system": "diagnosis"}).targets(OfNothing())


def test_a_code_that_nobody_could_state_is_told_with_the_nearest():
    found = targets(codes=["AFF", "SR"])
    assert found.named
    assert found.unknown == {"AFF": "did you mean AF?"}
    with pytest.raises(ProtocolError, match=r"the code 'LBB' of diagnosis.*did you mean LBBB"):
        targets(codes=["LBB"])
    with pytest.raises(ProtocolError, match=r"no code of 'rhyth'.*did you mean rhythm"):
        tasks.load({"kind": "statements", "system": "rhyth"}).targets(Shelf())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"codes": []}, "codes are a list"),
        ({"codes": ["a", "a"]}, "each code may stand there once"),
        ({"codes": "AF"}, "codes are a list"),
        ({"codes": [False]}, "write it in quotes"),
        ({"codes": [""]}, "a code must be text"),
        ({"codes": ["a"], "exclusive": True}, "at least two"),
        ({"exclusive": True, "negative": "any"}, "leave negative out"),
        ({"negative": "none"}, "'stated' or 'any'"),
        ({"code": ["a"]}, "did you mean codes"),
        ({"system": ""}, "system"),
        ({"kind": "statement"}, "did you mean statements"),
        ({"kind": 7}, "needs a kind"),
    ],
)
def test_settings_that_make_no_sense_are_one_line(wrong, said):
    with pytest.raises(ConfigError, match=said) as caught:
        tasks.load({"kind": "statements", "system": "diagnosis", **wrong})
    assert len(str(caught.value).splitlines()) == 1


def test_tasks_of_settings_have_names_and_are_written_out_whole():
    asked = {"kind": "statements", "system": "diagnosis", "codes": ["AF", "SR"], "exclusive": True}
    assert tasks.load(asked).name == tasks.name_of(asked) == "statements: diagnosis, AF SR, exclusive"
    assert tasks.written_out(asked) == {**asked, "negative": "stated", "vocabulary": "site"}
    assert tasks.load(tasks.written_out(asked)).content == tasks.written_out(asked)
    assert tasks.written_out("ptbxl/form") == "ptbxl/form"
    assert tasks.load({"kind": "ptbxl", "labels": "form"}).name == "ptbxl/form"
    assert tasks.name_of("some/where/mine.py/age") == "mine.py/age"
    assert tasks.name_of({"kind": "/x/mine.py", "limit": 3}) == "mine.py: limit 3"
    with pytest.raises(ConfigError, match="asked by its settings"):
        tasks.load("statements/diagnosis")
    with pytest.raises(ConfigError, match="unknown task 'codes'"):
        tasks.load("codes/diagnosis")


def test_a_number_of_the_table_is_predicted_where_it_is_stated(mini_store):
    store = open_store(mini_store)
    task = {"kind": "regression", "column": "age_years"}
    found = tasks.load(task).targets(store)
    age_n = store.column("age_years")
    assert (found.kind, found.unit, found.classes) == ("regression", "years", ("age_years",))
    np.testing.assert_array_equal(found.rows_with_label, np.flatnonzero(np.isfinite(age_n)))
    np.testing.assert_allclose(found.y_nc[found.rows_with_label, 0], age_n[np.isfinite(age_n)])
    assert found.fittable(np.array([0])) is found
    some = tasks.load({**task, "lowest": 40, "highest": 60}).targets(store)
    assert ((some.y_nc[some.rows_with_label] >= 40) & (some.y_nc[some.rows_with_label] <= 60)).all()
    assert 0 < len(some.rows_with_label) < len(found.rows_with_label)
    assert "their age_years is out of bounds" in some.caveats[0]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"column": "sex"}, r"can't be predicted as a number.*got string.*ask for statements"),
        ({"column": "scp_ecg"}, r"'scp_ecg' holds codes, and no numbers.*\{kind: statements, system: scp_ecg\}"),
        ({"column": "fold"}, "where or how records are stored"),
        ({"column": "age"}, "did you mean age_years"),
        ({"column": "snr_db"}, "no record states snr_db"),
        ({"column": "age_years", "lowest": 5, "highest": 5}, "lowest must be below highest"),
        ({"column": "age_years", "lowest": float("nan")}, "lowest"),
        ({}, "column"),
    ],
)
def test_what_is_no_number_is_refused(mini_store, wrong, said):
    with pytest.raises((ConfigError, ProtocolError), match=said):
        tasks.load({"kind": "regression", **wrong}).targets(open_store(mini_store))


def test_a_file_that_is_no_task_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "occupant", lambda room, name: SimpleNamespace(DESCRIPTION=""))
    with pytest.raises(ConfigError, match="the file is no task"):
        tasks.load("ptbxl/all")
