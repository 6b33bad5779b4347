"""The list of records: filtered and put in order by DuckDB, over the tables of a store as they were checked.

The database lives in memory, holds nothing but these tables, and may open no file, load no extension and change no
setting. Answers are rows in order; they are kept, so that turning a page costs nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ecgstore.errors import ConfigError, need
from ecgstore.look.view.notes import Notes
from ecgstore.look.view.predictions import Predictions
from ecgstore.look.view.question import CHOICES, NUMBERS, Question, conditions
from ecgstore.storage.store import Store
from ecgstore.vocabularies.titles import title_of

Rows = npt.NDArray[np.int32]

#: Orders that are kept: 4 bytes per record each.
_KEPT = 16
_SEARCHED = ("record_id", "site", "suspects", "warnings")
_TEXTS = ("record_id", "source", "site", "sex", "lead_states", "suspects", "warnings")


class Code(NamedTuple):
    """A statement that records of the store make, and how many of them."""

    system: str
    code: str
    title: str
    n: int

    @property
    def name(self) -> str:
        """As it stands in an address."""
        return f"{self.system}:{self.code}"


class Table:
    """The records of one store, to be asked. Used by several threads at once."""

    def __init__(self, store: Store, notes: Notes, predictions: Predictions | None = None) -> None:
        duckdb = need("duckdb", "view")
        self.store, self.notes, self.predictions = store, notes, predictions
        self._lock, self._kept = Lock(), OrderedDict[Any, Rows]()
        self._numbers = {name: values for name, values in _numbers(store, predictions).items() if values is not None}
        self._statement_row = store.statements["row"].to_numpy()
        self.codes, self._statement_code = _codes(store.statements)
        self._number_of = {code.name: number for number, code in enumerate(self.codes)}
        self._groups = {name: _group(store, name) for name in CHOICES}
        self._database = duckdb.connect(
            ":memory:", config={"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
        )
        self._fill()
        # From here on: no file, no network, no extension, no Python variable, and no way back.
        for setting in ("enable_external_access", "python_enable_replacements"):
            self._database.execute(f"SET {setting} = false")
        self._database.execute("SET lock_configuration = true")

    def _fill(self) -> None:
        texts = {name: self._text(name) for name in _TEXTS}
        fold = pa.array(self.store.column("fold").astype(np.int32))
        records = pa.table(
            {
                "row": pa.array(np.arange(self.store.n_records, dtype=np.int32)),
                **texts,
                "fold": pc.if_else(pc.less(fold, 0), None, fold),
                **{name: pa.array(values, pa.float64(), from_pandas=True) for name, values in self._numbers.items()},
            }
        )
        statements = pa.table({"row": self._statement_row.astype(np.int32), "code": self._statement_code})
        for name, table in (("records", records), ("statements", statements)):
            self._database.register("given", table)
            # In small letters once, and not for every search.
            words = f", lower(concat_ws(' ', {', '.join(_SEARCHED)})) AS words" if name == "records" else ""
            self._database.execute(f"CREATE TABLE {name} AS SELECT *{words} FROM given")
            self._database.unregister("given")

    def _text(self, name: str) -> Any:
        if name in self.store.records.column_names:
            return self.store.records[name]
        return pa.nulls(self.store.n_records, pa.string())  # format 1 has fewer

    @property
    def groups(self) -> Mapping[str, list[str]]:
        """The values of each of CHOICES, ``none`` for "not stated" last."""
        return {name: values for name, (values, _) in self._groups.items()}

    @property
    def sortable(self) -> tuple[str, ...]:
        """Measures that at least one record of this store has."""
        return tuple(name for name in NUMBERS if name in self._numbers)

    def rows(self, question: Question) -> Rows:
        """Rows of the records that the question is about, in its order; of equals the first of the store first."""
        key = (question, self.notes.version if question.is_of_notes else 0)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        found = self._ask(question)
        with self._lock:
            self._kept[key] = found
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return found

    def _ask(self, question: Question) -> Rows:
        for name in (question.sort, *(name for name, *_ in question.ranges)):
            if name in NUMBERS and name not in self._numbers:
                raise ConfigError(f"this store tells nothing of {name}", where=self.store.path)
        where, bound = conditions(question, self.store.leads)
        for part, value in (*self._of_codes(question), *self._of_words(question), *self._of_tags(question)):
            where.append(part)
            bound += value
        if not where and not question.sort:
            return np.arange(self.store.n_records, dtype=np.int32)
        sql = "SELECT row FROM records"
        if where:
            sql += f" WHERE {' AND '.join(where)}"
        if question.sort:
            sql += f" ORDER BY {question.sort} {'DESC' if question.descending else 'ASC'} NULLS LAST, row"
        found: Rows = self._database.cursor().execute(sql, bound).fetchnumpy()["row"]
        # Rows are numbers, which are put in order faster here than there.
        return np.ascontiguousarray(found if question.sort else np.sort(found), dtype=np.int32)

    def _of_codes(self, question: Question) -> list[tuple[str, list[Any]]]:
        stating = "row {} (SELECT row FROM statements WHERE code IN (SELECT unnest(?::SMALLINT[])))"
        parts: list[tuple[str, list[Any]]] = []
        for names, word in ((question.codes, "IN"), (question.without, "NOT IN")):
            if names:
                parts.append((stating.format(word), [[self._number(name) for name in names]]))
        return parts

    def _number(self, name: str) -> int:
        if name not in self._number_of:
            raise ConfigError("no record of this store states this code", where=self.store.path, got=name[:80])
        return self._number_of[name]

    def _of_words(self, question: Question) -> list[tuple[str, list[Any]]]:
        """Each word must stand in the record's id, site, suspects or warnings, in a statement, or in a note."""
        parts = []
        for word in question.words:
            codes = [i for i, code in enumerate(self.codes) if word in f"{code.code} {code.title}".lower()]
            parts.append(
                (
                    "(contains(words, ?) OR row IN (SELECT row FROM statements"
                    " WHERE code IN (SELECT unnest(?::SMALLINT[]))) OR row IN (SELECT unnest(?::INTEGER[])))",
                    [word, codes, self.notes.rows_with(word)],
                )
            )
        return parts

    def _of_tags(self, question: Question) -> list[tuple[str, list[Any]]]:
        if not question.tags:
            return []
        rows = sorted({row for tag in question.tags for row in self.notes.rows_tagged(tag)})
        return [("row IN (SELECT unnest(?::INTEGER[]))", [rows])]

    def counts(self, rows: Rows) -> dict[str, Any]:
        """How many of ``rows`` there are by fold, source, site and sex, and of each code, the most frequent first."""
        is_in = np.zeros(self.store.n_records, dtype=np.bool_)
        is_in[rows] = True
        counted: dict[str, Any] = {}
        for name, (values, which) in self._groups.items():
            n_of = np.bincount(which[rows], minlength=len(values))
            counted[name] = [[value, int(n)] for value, n in zip(values, n_of, strict=True) if n]
        n_of = np.bincount(self._statement_code[is_in[self._statement_row]], minlength=len(self.codes))
        order = np.argsort(-n_of, kind="stable")
        counted["code"] = [[self.codes[i].name, int(n_of[i])] for i in order if n_of[i]]
        return counted

    def number(self, name: str, row: int) -> float | None:
        """A measure of one record; None where it could not be told."""
        value = float(self._numbers[name][row])
        return value if np.isfinite(value) else None

    def codes_at(self, rows: Sequence[int]) -> Mapping[int, list[Code]]:
        """The codes that each of ``rows`` states, in the order of the store."""
        first = np.searchsorted(self._statement_row, rows)
        last = np.searchsorted(self._statement_row, np.asarray(rows) + 1)
        return {
            row: [self.codes[i] for i in self._statement_code[a:b]] for row, a, b in zip(rows, first, last, strict=True)
        }


def _numbers(store: Store, predictions: Predictions | None) -> dict[str, npt.NDArray[np.float64] | None]:
    """Each of NUMBERS for every record, NaN where it could not be told; None where no record has it."""
    fs_hz = store.attributes["fs_hz"] or store.column("source_fs_hz")
    found: dict[str, npt.NDArray[np.float64] | None] = {}
    for name in NUMBERS:
        if name == "duration_s":
            values = store.column("n_samples") / fs_hz
        elif name == "disagreement":
            values = predictions.disagreement if predictions is not None else None
        else:
            values = store.column(name) if name in store.records.column_names else None
        is_told = values is not None and bool(np.isfinite(values).any())
        found[name] = np.asarray(values, dtype=np.float64) if is_told else None
    return found


def _codes(statements: pa.Table) -> tuple[list[Code], npt.NDArray[np.int16]]:
    """The codes of a store, and for each statement the number of its code. One of thousands of codes is no code."""
    systems, codes = (statements[name].combine_chunks().dictionary_encode() for name in ("system", "code"))
    if isinstance(codes, pa.ChunkedArray):
        systems, codes = systems.combine_chunks(), codes.combine_chunks()
    texts, in_systems = codes.dictionary.to_pylist(), systems.dictionary.to_pylist()
    both = systems.indices.to_numpy().astype(np.int64) * max(1, len(texts)) + codes.indices.to_numpy()
    known, which, n_of = np.unique(both, return_inverse=True, return_counts=True)
    if len(known) > np.iinfo(np.int16).max:
        raise ConfigError("a store of so many different codes can't be listed", got=len(known), expected="32,767")
    found = [
        Code(in_systems[one // len(texts)], texts[one % len(texts)], "", int(n))
        for one, n in zip(known.tolist(), n_of, strict=True)
    ]
    return [code._replace(title=title_of(code.code, code.system)) for code in found], which.astype(np.int16)


def _group(store: Store, name: str) -> tuple[list[str], npt.NDArray[np.int32]]:
    """The values of a column as texts, ``none`` for null, and for each record which of them it has."""
    if name not in store.records.column_names:
        return ["none"], np.zeros(store.n_records, dtype=np.int32)
    column = pc.fill_null(store.records[name].cast(pa.string()), "none").combine_chunks()
    encoded = column.dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    values = encoded.dictionary.to_pylist()
    order = sorted(range(len(values)), key=lambda i: (values[i] == "none", not values[i].isdigit(), _rank(values[i])))
    place = np.empty(len(values), dtype=np.int32)
    place[order] = np.arange(len(values))
    return [values[i] for i in order], place[encoded.indices.to_numpy()]


def _rank(value: str) -> tuple[int, str]:
    return (int(value), "") if value.isdigit() and len(value) < 19 else (0, value)
