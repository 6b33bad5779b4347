from __future__ import annotations

import pyarrow as pa
import pytest

import ecgstore
from ecgstore.errors import ConfigError
from ecgstore.storage.where import rows_where

TABLE = pa.table(
    {
        "sqi": pa.array([0.9, 0.2, None, 0.5]),
        "sex": ["female", "male", None, "female"],
        "fold": pa.array([1, 2, 3, None], pa.int16()),
    }
)


@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        ("sqi > 0.4", [0, 3]),
        ("sqi > 0.4 and sex == 'female'", [0, 3]),
        ("fold in (1, 3)", [0, 2]),
        ("fold not in [1]", [1, 2]),
        ("not (sqi > 0.4)", [1]),
        ("1 < fold <= 3", [1, 2]),
        ("sqi * 2 - 0.1 > 0.8", [0, 3]),
        ("sex != 'male' or sqi < 0.3", [0, 1, 3]),
        ("fold > -1", [0, 1, 2]),
    ],
)
def test_conditions_on_columns_and_a_null_meets_none(condition, rows):
    assert rows_where(TABLE, condition).nonzero()[0].tolist() == rows


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("sqj > 1", "no column 'sqj'.*did you mean sqi"),
        ("sqi >", "can't be read"),
        ("sqi", "is not one"),
        ("sex > 1", "can't be worked out"),
        ("__import__('os').system('true')", "not understood"),
        ("sex.upper() == 'MALE'", "not understood"),
        ("[x for x in (1,)] == 1", "not understood"),
        ("sex in 'female'", "not understood"),
        ("fold in (sqi, 1)", "only plain values"),
        ("(" * 5000, "can't be read"),
    ],
)
def test_what_is_not_understood_is_said_in_one_line(condition, message):
    with pytest.raises(ConfigError, match=message) as raised:
        rows_where(TABLE, condition)
    assert "\n" not in str(raised.value)


def test_a_store_selects_by_quality(mini_store):
    store = ecgstore.open_store(mini_store)
    ranges = store.column("range_mv")
    median = float(sorted(ranges)[26])
    rows = store.select(folds=[1, 2, 3], where=f"range_mv <= {median}")
    assert 0 < len(rows) < len(store.select(folds=[1, 2, 3]))
    assert (ranges[rows] <= median).all()
    with pytest.raises(ConfigError, match="did you mean"):
        store.select(where="rnge_mv < 1")


@pytest.mark.parametrize(
    "condition",
    [
        " and ".join(["fold > 1"] * 11_000),
        "not " * 5000 + "fold > 1",
        "(" * 5000 + "fold" + ")" * 5000,
        "fold" + " + 1" * 3000 + " > 1",
        "fold" + " < 9" * 3000,
        "-" * 3000 + "1 < fold",
        "fold > 1 or " * 9000 + "fold > 1",
        "fold in (" + "1," * 60_000 + ")",
    ],
)
def test_a_condition_without_end_is_refused_in_one_line(condition):
    with pytest.raises(ConfigError, match="the condition") as error:
        rows_where(pa.table({"fold": [1, 2]}), condition)
    assert len(str(error.value)) < 600


def test_many_parts_and_many_values_are_understood():
    table = pa.table({"fold": [1, 2]})
    assert rows_where(table, " or ".join(f"fold == {k}" for k in range(2, 200))).tolist() == [False, True]
    assert rows_where(table, f"fold in ({', '.join(map(str, range(2, 9000)))})").tolist() == [False, True]
