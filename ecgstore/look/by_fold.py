"""Who is in which fold: records, patients, sexes, ages and the most frequent codes, a column for each fold."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ecgstore.storage.store import Store
from ecgstore.storage.tables import numbers
from ecgstore.vocabularies.titles import title_of

#: Codes of the table, and folds; a store drawn into more has nothing to gain from such a table.
N_CODES, MOST_FOLDS = 20, 24

Ints = npt.NDArray[np.int64]


class Row(NamedTuple):
    """What is counted, what it is in words, and its number in each fold, then in all; ``is_code``: one of the codes."""

    name: str
    about: str
    cells: tuple[str, ...]
    is_code: bool = False


class ByFold(NamedTuple):
    """``folds``: their names; ``n_torn``: patients with records in more than one."""

    folds: tuple[str, ...]
    rows: tuple[Row, ...]
    n_codes_left: int
    n_torn: int


def by_fold(store: Store) -> ByFold | None:
    """The table, or None where the store states no folds, or too many."""
    fold_r = store.column("fold").astype(np.int64)
    folds = sorted(set(fold_r.tolist()))
    if folds == [-1] or not folds or len(folds) > MOST_FOLDS:
        return None
    column_r = np.searchsorted(folds, fold_r)
    rows, n_torn = _people(store, column_r, len(folds))
    codes, n_codes_left = _codes(store, column_r, len(folds))
    names = tuple("none" if fold < 0 else str(fold) for fold in folds)
    return ByFold(names, (*rows, *codes), n_codes_left, n_torn)


def _people(store: Store, column_r: Ints, n: int) -> tuple[list[Row], int]:
    """Records, patients, women and men, ages; and how many patients are in several of the ``n`` folds."""
    keys = pa.table({"key": store.records["patient_key"], "column": column_r})
    of = keys.filter(pc.not_equal(keys["key"], "")).group_by(["key", "column"], use_threads=False).aggregate([])
    n_folds_p = np.array(list(Counter(of["key"].to_pylist()).values()), np.int64)
    rows = [_counted("Records", np.bincount(column_r, minlength=n).tolist(), len(column_r))]
    if len(n_folds_p):
        in_each = np.bincount(numbers(of["column"]), minlength=n).tolist()
        rows.append(_counted("Patients", in_each, len(n_folds_p)))
    sex = store.column("sex")
    for name, value in (("Women", "female"), ("Men", "male")):
        if (is_so := np.asarray(sex == value)).any():
            share = [_share(is_so[column_r == i]) for i in range(n)]
            rows.append(Row(name, "share of records", (*share, _share(is_so))))
    ages = np.asarray(store.column("age_years"), np.float64)
    if np.isfinite(ages).any():
        rows.append(Row("Age", "median, years", (*(_median(ages[column_r == i]) for i in range(n)), _median(ages))))
    return rows, int((n_folds_p > 1).sum())


def _counted(name: str, numbers: list[int], total: int) -> Row:
    return Row(name, "", (*(f"{number:,}" for number in numbers), f"{total:,}"))


def _share(is_so: npt.NDArray[Any]) -> str:
    return f"{100 * is_so.mean():.0f} %" if len(is_so) else "–"


def _median(ages: npt.NDArray[Any]) -> str:
    known = ages[np.isfinite(ages)]
    return f"{np.median(known):.0f}" if len(known) else "–"


def _codes(store: Store, column_r: Ints, n: int) -> tuple[list[Row], int]:
    """The most frequent codes, each with its records in every fold; and how many more there are."""
    of = numbers(store.statements["row"])
    said = pa.table({**{name: store.statements[name] for name in ("system", "code", "row")}, "column": column_r[of]})
    groups = said.group_by(["system", "code", "column"], use_threads=False).aggregate([("row", "count_distinct")])
    counts: dict[tuple[str, str], list[int]] = {}
    for one in groups.to_pylist():
        counts.setdefault((one["system"], one["code"]), [0] * n)[one["column"]] = one["row_count_distinct"]
    most = sorted(counts, key=lambda code: (-sum(counts[code]), code))
    found = [
        _counted(code, counts[system, code], sum(counts[system, code]))._replace(
            about=title_of(code, system) or system, is_code=True
        )
        for system, code in most[:N_CODES]
    ]
    return found, max(0, len(most) - N_CODES)
