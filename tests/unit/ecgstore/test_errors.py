from __future__ import annotations

import pickle

import pytest

from ecgstore import errors


def all_errors() -> list[type[errors.EcgError]]:
    found, todo = [], [errors.EcgError]
    while todo:
        kind = todo.pop()
        found.append(kind)
        todo += kind.__subclasses__()
    return [kind for kind in found if kind.__module__ == "ecgstore.errors"]


def test_the_tree_drawn_at_the_top_is_the_tree():
    drawn = {line.split("──")[-1].split()[0] for line in errors.__doc__.splitlines() if "──" in line}
    assert drawn | {"EcgError"} == {kind.__name__ for kind in all_errors()}


@pytest.mark.parametrize("kind", [kind for kind in all_errors() if kind is not errors.RecordError])
def test_every_error_is_one_line_and_pickles(kind):
    error = kind("it broke", where="a place", expected=1, got=2, fix="do this")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error) == "it broke; in a place; expected 1, got 2; do this"
    assert again.fix == "do this"


def test_record_error_pickles_and_keeps_to_the_vocabulary():
    error = pickle.loads(pickle.dumps(errors.RecordError("r7", "truncated", "half")))
    assert (error.record_id, error.reason, error.detail) == ("r7", "truncated", "half")
    with pytest.raises(ValueError, match="unknown reason"):
        errors.RecordError("r7", "looks odd")


def test_a_missing_package_names_its_extra():
    with pytest.raises(errors.MissingExtra, match=r'pip install "ecgstore\[train\]"'):
        errors.need("no_such_package_at_all", "train")


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("afbi", "AFIB"),
        ("norm", "NORM"),
        ("lb", "LBBB"),
        ("Lbbbb", "LBBB"),
        ("ﬁle", "file"),
        ("xyz", None),
        ("", None),
    ],
)
def test_the_nearest_word_is_found_in_any_case(word, meant):
    assert errors.nearest(word, ["NORM", "AFIB", "LAFB", "LBBB", "file"]) == meant


def test_a_word_of_a_name_is_nearer_than_one_that_looks_alike():
    assert errors.nearest("heads", ["reads", "attention_heads"]) == "attention_heads"
    assert errors.nearest("heads", ["reads", "attentionheads"]) == "reads"


def test_the_nearest_of_very_many_words_compares_few_of_them(monkeypatch):
    compared = []
    monkeypatch.setattr(errors.difflib, "get_close_matches", lambda word, names, n: compared.append(len(names)) or [])
    known = [f"records/{i // 1000:03}/{i:06}_lr" for i in range(20_000)]
    assert errors.nearest("records/007/007x11_lr", known) is None
    assert compared[0] <= 600
    monkeypatch.undo()
    for word, meant in (
        ("records/007/07711_lr", known[7711]),
        ("rexords/012/012345_lr", known[12345]),
        ("RECORDS/012/012345_LR", known[12345]),
    ):
        assert errors.nearest(word, known) == meant
