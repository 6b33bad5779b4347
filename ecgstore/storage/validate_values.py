"""What the columns of a store's tables hold: rules that several of them share, each over a whole column.

Texts may come as indices into a list of texts. What breaks a rule is a StoreFormatError, in one line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ecgstore.storage import tables
from ecgstore.storage.validate import refuse

#: Of a patient, and of a record where ids are hashed.
_HASH = "^[0-9a-f]{16}$"


def refuse_null(table: pa.Table, names: list[str], where: object) -> None:
    """Raise StoreFormatError where one of the columns has no value in a row."""
    for name in names:
        if table[name].null_count:
            refuse(f"column {name} lacks a value", where)


def refuse_empty(table: pa.Table, name: str, where: object) -> None:
    """Raise StoreFormatError where a text has no letters."""
    if _any(table, name, lambda column: pc.match_substring_regex(column, "^$"), lambda word: word == "", where):
        refuse(f"column {name} holds an empty text", where)


def check_hashes(table: pa.Table, name: str, where: object) -> None:
    """Texts of 16 hexadecimal digits. Null passes. What stands there is not shown: it may name a person."""

    def is_none(column: pa.ChunkedArray) -> pa.ChunkedArray:
        return pc.invert(pc.match_substring_regex(column, _HASH))

    if _any(table, name, is_none, lambda word: not re.fullmatch(_HASH, word), where):
        refuse(f"column {name} holds what is no hash", where, "16 hexadecimal digits, or null")


def _any(table: pa.Table, name: str, among: Any, of_word: Any, where: object) -> bool:
    """Whether a text of the column is such a one: by ``among`` of all of them, or by ``of_word`` of each word."""
    if pa.types.is_dictionary(table[name].type):
        return any(word is not None and of_word(word) for word in words(table, name, where))
    return pc.any(among(table[name])).as_py() is True


def check_rows(table: pa.Table, n_records: int, where: object) -> None:
    """One row per record."""
    if len(table) != n_records:
        refuse("a table has another number of rows than there are records", where, n_records, len(table))


def check_row_numbers(table: pa.Table, n_records: int, where: object) -> None:
    """Each of a record that is there, in the order of the records."""
    row = tables.numbers(table["row"])
    if len(row) and (row.min() < 0 or row.max() >= n_records):
        refuse("a table refers to a record that is not there", where, f"rows 0 to {n_records - 1}")
    if (row[1:] < row[:-1]).any():
        refuse("a table does not stand in the order of the records", where)


def check_range(table: pa.Table, name: str, least: float, most: float, where: object) -> None:
    """Null passes; what is no number does not."""
    _check_range(table[name], name, least, most, where)


def check_lists(table: pa.Table, name: str, least: float, most: float, where: object) -> None:
    """The same of a column of lists."""
    for chunk in table[name].chunks:
        _check_range(chunk.flatten(), name, least, most, where)


def _check_range(column: pa.Array, name: str, least: float, most: float, where: object) -> None:
    found = pc.min_max(column).as_py()
    if found["min"] is None:
        return
    is_number = not pa.types.is_floating(column.type) or not pc.any(pc.is_nan(column)).as_py()
    if not is_number or not least <= found["min"] <= found["max"] <= most:
        expected = f"{least:g} to {most:g}" if math.isfinite(least) else "a number, or null"
        got = "no number" if not is_number else found["min"] if found["min"] < least else found["max"]
        refuse(f"a value in column {name} is out of range", where, expected, got)


def words(table: pa.Table, name: str, where: object) -> list[Any]:
    """Each text of a column once, or more of them than that."""
    column = table[name]
    try:
        if pa.types.is_dictionary(column.type):
            return [word for chunk in column.chunks for word in chunk.dictionary.to_pylist()]
        return list(pc.unique(column).to_pylist())
    except UnicodeDecodeError:
        refuse(f"column {name} holds a text that is not UTF-8", where)


def check_words(table: pa.Table, name: str, known: set[str], where: object) -> None:
    """Words out of a closed list. Null passes."""
    for word in words(table, name, where):
        if word is not None and word not in known:
            refuse(f"column {name} holds a word that it can't", where, " or ".join(sorted(known)[:4]), word)


def check_letters(table: pa.Table, n_leads: int, where: object) -> None:
    """A letter per lead."""
    for states in words(table, "lead_states", where):
        if len(states) != n_leads or set(states) - set("mdab"):
            refuse("lead_states are wrong", where, f"{n_leads} letters out of m, d, a, b", states)


def check_folds(table: pa.Table, statistics: Container[str], where: object) -> None:
    """Each fold is one that the root has sums of; records without a fold have theirs under ``""``."""
    for fold in pc.unique(table["fold"]).to_pylist():
        if (name := fold_name(fold)) not in statistics:
            refuse("the root of the store states no statistics of a fold that has records", where, got=name)


def fold_name(fold: int | None) -> str:
    """What a fold is called in the root's statistics."""
    return "" if fold is None else str(fold)


def check_rate(table: pa.Table, fs_hz: float, where: object) -> None:
    """Every record was recorded at the one rate that the root states: each keeps its own."""
    found = pc.min_max(table["source_fs_hz"]).as_py()
    if found["min"] is not None and not found["min"] == found["max"] == fs_hz:
        odd = found["min"] if found["min"] != fs_hz else found["max"]
        refuse("a record has another rate than the root of the store states for all", where, f"{fs_hz:g} Hz", odd)
