"""All that is looked at together: a store, and beside it a raw one, a model's predictions, and the reader's notes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from ecgstore.errors import REASONS, ConfigError, need
from ecgstore.look.facts import filter_words, st_warning
from ecgstore.look.report import MEASURES
from ecgstore.look.view.notes import Notes, default_path
from ecgstore.look.view.predictions import Predictions, read_predictions
from ecgstore.look.view.question import NUMBERS, Question
from ecgstore.look.view.table import Table
from ecgstore.look.view.traces import Drawer
from ecgstore.storage.outside import refuse_within_store
from ecgstore.storage.store import Store, open_store
from ecgstore.storage.tables import ByRecord, numbers
from ecgstore.vocabularies.titles import beat_titles, title_of
from ecgstore.vocabularies.vocabulary import aami_class

PAGE_ROWS, MOST_PAGE_ROWS, MOST_BEATS, MOST_REJECTED = 100, 1000, 3000, 1000
#: Of a page's columns, those that are plain texts or numbers of the table.
_SHOWN = ("record_id", "source", "site", "fold", "age_years", "sex", "lead_states", "suspects", "warnings")
#: What takes away faster waves than these rounds peaks.
_PEAKS_HZ = 150.0
_UPPER_EDGES = (("bandpass", "high_hz"), ("lowpass", "freq_hz"))


class View:
    """What the page asks for, each a plain value that becomes JSON."""

    def __init__(self, store: Store, raw: Store | None, predictions: Predictions | None, notes: Notes) -> None:
        self.store, self.raw, self.predictions, self.notes = store, raw, predictions, notes
        self.table = Table(store, notes, predictions)
        self.drawer = Drawer(store)
        self.raw_drawer = Drawer(raw) if raw is not None else None
        self._statements = ByRecord(store.statements)
        self._beat_rows = numbers(store.beats["row"]) if store.beats.num_rows else np.zeros(0, np.int64)

    def about(self) -> dict[str, Any]:
        """What the page must know before anything else: names, filters there are, leads, words."""
        store = self.store
        return {
            "name": Path(store.path).name,
            "fingerprint": store.fingerprint,
            "records": store.n_records,
            "rejected": store.rejected.num_rows,
            "leads": store.leads,
            "fs_hz": store.attributes["fs_hz"],
            "filters": [filter_words(one, without="response") for one in store.recipe.get("filters", [])],
            "cautions": cautions(store),
            "raw": Path(self.raw.path).name if self.raw is not None else None,
            "codes": [[one.name, one.title, one.n] for one in sorted(self.table.codes, key=lambda one: -one.n)],
            "numbers": [[name, NUMBERS[name][1], NUMBERS[name][0]] for name in self.table.sortable],
            "has_site": self.table.groups["site"] != ["none"],
            "has_sources": len(self.table.groups["source"]) > 1,
            "predictions": None
            if self.predictions is None
            else {"classes": self.predictions.classes, "elsewhere": self.predictions.n_elsewhere},
            "notes": self.notes.path.name,
            "terms": [
                ", ".join(filter(None, (f"{terms.name} {terms.version}".strip(), terms.licence)))
                for terms in store.terms
            ],
        }

    def page(self, question: Question, offset: int, limit: int) -> dict[str, Any]:
        """Some records of an answer, from ``offset`` on, and how many there are in all."""
        rows = self.table.rows(question)
        here = rows[offset : offset + limit].tolist()
        columns = [name for name in _SHOWN if name in self.store.records.column_names]
        told = self.store.records.select(columns).take(here).to_pylist() if here else []
        codes = self.table.codes_at(here)
        listed = []
        for row, one in zip(here, told, strict=True):
            one["row"] = row
            one["duration_s"] = self.drawer.lasts_s(row)
            one["codes"] = [[code.code, code.title] for code in codes[row]]
            one["tags"] = self.notes.of(one["record_id"]).tags
            if question.sort in NUMBERS:
                one[question.sort] = self.table.number(question.sort, row)
            if self.predictions is not None:
                one["worst"] = self.predictions.worst(row)
            listed.append(_plain(one))
        return {"total": len(rows), "of": self.store.n_records, "offset": offset, "records": listed}

    def counts(self, question: Question) -> dict[str, Any]:
        """How many records of an answer there are of each kind; tags of the whole store."""
        return {**self.table.counts(self.table.rows(question)), "tag": self.notes.tags()}

    def beside(self, question: Question, row: int) -> dict[str, Any]:
        """Where a record stands in an answer, and who stands before and behind it there."""
        rows = self.table.rows(question)
        at = np.flatnonzero(rows == row)
        if not len(at):
            return {"at": None, "total": len(rows), "before": None, "behind": None}
        place = int(at[0])
        before = self.store.id_of(int(rows[place - 1])) if place else None
        behind = self.store.id_of(int(rows[place + 1])) if place + 1 < len(rows) else None
        return {"at": place, "total": len(rows), "before": before, "behind": behind}

    def rejected(self, offset: int, limit: int) -> dict[str, Any]:
        """Records that were left out, and why."""
        table = self.store.rejected
        found = [{**one, "meaning": REASONS.get(one["reason"], "")} for one in table.slice(offset, limit).to_pylist()]
        return {"total": table.num_rows, "offset": offset, "rejected": found}

    def record(self, record_id: str) -> dict[str, Any]:
        """All that is known of a record but its samples."""
        row = self.store.row_of(record_id)
        one = self.store.records.slice(row, 1).to_pylist()[0]
        measures = [
            [measure.title, self.table.number(measure.column, row), measure.unit]
            for measure in MEASURES
            if measure.column in self.table.sortable
        ]
        raw_row = None if self.raw is None else _row_or_none(self.raw, record_id)
        told = {name: one.get(name) for name in (*_SHOWN, "patient_key", "source_fs_hz")}
        found: dict[str, Any] = _plain(
            {
                **told,
                "row": row,
                "fs_hz": self.drawer.fs_hz(row),
                "duration_s": self.drawer.lasts_s(row),
                "measures": measures,
                "lead_measures": self._of_leads(row),
                "statements": [
                    {
                        "name": f"{said['system']}:{said['code']}",
                        "code": said["code"],
                        "system": said["system"],
                        "likelihood": said["likelihood"],
                        "title": title_of(said["code"], said["system"]),
                    }
                    for said in self._statements.of(row)
                ],
                "predictions": None if self.predictions is None else self.predictions.of(row),
                "beats": int(np.diff(np.searchsorted(self._beat_rows, [row, row + 1]))[0]),
                "raw": raw_row is not None,
                "note": self.note(record_id),
            }
        )
        return found

    def _of_leads(self, row: int) -> dict[str, list[float | None]]:
        if not self.store.lead_quality.num_rows:
            return {}
        its = self.store.lead_quality.slice(row, 1).to_pylist()[0]
        wanted = [measure.column for measure in MEASURES if measure.column in its]
        return {name: its[name] for name in wanted}

    def beats(self, record_id: str, start_s: float, stop_s: float) -> dict[str, Any]:
        """Beats and other annotations between two times, the first of them if they are very many."""
        if not 0 <= start_s < stop_s < math.inf:
            raise ConfigError("there is no such window", got=f"{start_s:g} to {stop_s:g} s")
        row = self.store.row_of(record_id)
        fs_hz = self.drawer.fs_hz(row)
        first, last = np.searchsorted(self._beat_rows, [row, row + 1])
        its = self.store.beats.slice(first, last - first)
        samples = numbers(its["sample"]) if last > first else np.zeros(0, np.int64)
        here = np.flatnonzero((samples >= start_s * fs_hz) & (samples <= stop_s * fs_hz))
        told = its.take(here[:MOST_BEATS]).to_pylist() if len(here) else []
        return {
            "total": len(here),
            "beats": [
                {
                    "time_s": one["sample"] / fs_hz,
                    "symbol": one["symbol"],
                    "title": beat_titles().get(one["symbol"], ""),
                    "is_ectopic": aami_class(one["symbol"]) in ("S", "V", "F"),
                    "note": one.get("note") or "",
                }
                for one in told
            ],
        }

    def note(self, record_id: str) -> dict[str, Any]:
        """What the reader wrote of a record."""
        return dict(self.notes.of(record_id)._asdict())


def open_view(path: str, *, raw: str | None = None, predictions: Path | None = None, notes: Path | None = None) -> View:
    """Open what is to be looked at. Raises MissingExtra before anything is read, and what opening a store raises;
    ConfigError where a raw store has no record of the store, a notes file is for another store, or would be within one.
    """
    for package in ("duckdb", "starlette", "uvicorn"):
        need(package, "view")
    if notes is not None:
        refuse_within_store(notes)
    store = open_store(path)
    beneath = None if raw is None else open_store(raw)
    if beneath is not None and not set(store.column("record_id")) & set(beneath.column("record_id")):
        raise ConfigError("the raw store holds none of the records", where=f"{beneath.path}, for {store.path}")
    said = None if predictions is None else read_predictions(store, predictions)
    return View(store, beneath, said, Notes(store, notes if notes is not None else default_path(store)))


def cautions(store: Store) -> list[str]:
    """What whoever reads an ECG of this store must know: what its filters took away, and what was added."""
    filters = store.recipe["filters"]
    found = [st_warning(filters)] if st_warning(filters) else []
    edges = [one[name] for one in filters for kind, name in _UPPER_EDGES if one["name"] == kind]
    high_hz = min([*edges, (store.attributes["fs_hz"] or math.inf) / 2])
    if high_hz < _PEAKS_HZ:
        found.append(f"nothing above {high_hz:g} Hz: sharp peaks and pacing spikes are lower than they were")
    if noise := store.attributes.get("noise") or store.recipe.get("noise"):
        found.append(f"noise was added: {noise.get('kind', '')}")
    return [f"{words[0].upper()}{words[1:]}" for words in found]


def _row_or_none(store: Store, record_id: str) -> int | None:
    try:
        return store.row_of(record_id)
    except ConfigError:
        return None


def _plain(value: Any) -> Any:
    """What JSON has no word for (NaN, infinity) becomes null; float32 loses the digits that only float64 has."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else None
    return value
