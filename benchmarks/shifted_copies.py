"""How many altered copies of a store's records are found again, and how many pairs are found that are none.

Every record is altered: moved by up to 5 s, cut to its first 5 s, left with three leads, or with some of these at once;
``--other`` is a store of the same records that was filtered in another way, whose records are altered instead. What is
found among the records themselves and is no exact copy is counted as false.

    python benchmarks/shifted_copies.py STORE [--other STORE]

The last line on stdout is one JSON object.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from itertools import combinations

import click
import numpy as np

from ecgstore import open_store
from ecgstore.look import overlap, shifted
from ecgstore.look.parts import Part, Reader
from ecgstore.record import Record
from ecgstore.storage.store import Store

FEW = (("I", "II", "V2"), ("III", "aVF", "V6"), ("V1", "V3", "V5"), ("II",))


def part(record: Record, begin_s: float, end_s: float, leads: tuple[str, ...]) -> Record:
    """A stretch of a record, in some of its leads."""
    begin, end = round(begin_s * record.fs_hz), round(end_s * record.fs_hz)
    at = [record.leads.index(lead) for lead in leads]
    states = tuple(record.lead_states[i] for i in at)
    return replace(record, leads=leads, signal_mv_lt=record.signal_mv_lt[at, begin:end], lead_states=states)


def recall(store: Store, altered: list[Record], name: str) -> dict[str, object]:
    """Of how many records the altered copy is found; and how often that of another one is."""
    pieces = (shifted.Piece(row, 0.0, one.signal_mv_lt, one.fs_hz) for row, one in enumerate(altered))
    began_s = time.perf_counter()
    found = shifted.candidates(MARKS[store.path], shifted.marks_of(pieces, altered[0].leads), is_one=False)
    pairs = shifted.alike(found, Reader(store), Shelf(altered), 0.0)
    took_s = time.perf_counter() - began_s
    right = {one for one, other, *_ in pairs if one == other}
    copies = {frozenset(group) for group in overlap.exact_duplicates(store)}
    wrong = [(i, j) for i, j, *_ in pairs if i != j and not any({i, j} <= group for group in copies)]
    told = {"altered": name, "recall": len(right) / store.n_records, "false_pairs": len(wrong)}
    click.echo(f"{name:<58} recall {told['recall']:.4f}  false pairs {len(wrong)}  candidates {len(found)}")
    return told | {"candidates": len(found), "seconds": round(took_s, 1)}


class Shelf(Reader):
    """Reads records that are in no store."""

    def __init__(self, records: list[Record]) -> None:
        self._records = records

    def lasts_s(self, row: int) -> float:
        return self._records[row].signal_mv_lt.shape[1] / self._records[row].fs_hz

    def read(self, row: int, start_s: float, stop_s: float) -> Part:
        return Part(self._records[row], 0.0, self.lasts_s(row))


def records_of(store: Store) -> list[Record]:
    """Every record, in the order of its row."""
    return [store.read(record_id) for record_id in store.column("record_id").tolist()]


MARKS: dict[str, dict[str, shifted.Marks]] = {}


@click.command()
@click.argument("store")
@click.option("--other", help="The same records, filtered otherwise or at another rate.")
def main(store: str, other: str | None) -> None:
    """Measure recall and false pairs of shifted copies."""
    opened = open_store(store)
    began_s = time.perf_counter()
    MARKS[opened.path] = shifted.marks(opened, np.arange(opened.n_records))
    marked_s = time.perf_counter() - began_s
    whole = records_of(opened)
    rng = np.random.default_rng(0)
    moved_s = rng.uniform(0, 5, opened.n_records)
    answers = []

    def ask(name: str, records: list[Record], *, leads: tuple[str, ...] = opened.leads, move: bool, cut: bool) -> None:
        starts_s = moved_s if move else np.zeros(len(records))
        ends_s = starts_s + 5 if cut else np.full(len(records), np.inf)
        made = [
            part(record, start_s, min(end_s, record.signal_mv_lt.shape[1] / record.fs_hz), leads)
            for record, start_s, end_s in zip(records, starts_s, ends_s, strict=True)
        ]
        answers.append(recall(opened, made, name))

    ask("moved by 0 to 5 s", whole, move=True, cut=False)
    ask("first 5 s", whole, move=False, cut=True)
    ask("any 5 s", whole, move=True, cut=True)
    for leads in FEW:
        ask(f"any 5 s, {' '.join(leads)}", whole, leads=leads, move=True, cut=True)
    if other is not None:
        theirs = open_store(other)
        row_of = {record_id: row for row, record_id in enumerate(theirs.column("record_id").tolist())}
        all_theirs = records_of(theirs)
        filtered = [all_theirs[row_of[record_id]] for record_id in opened.column("record_id").tolist()]
        ask("filtered otherwise", filtered, move=False, cut=False)
        ask("filtered otherwise, moved by 0 to 5 s", filtered, move=True, cut=False)
        ask("filtered otherwise, any 5 s, I II V2", filtered, leads=("I", "II", "V2"), move=True, cut=True)
    found = shifted.candidates(MARKS[opened.path], MARKS[opened.path], is_one=True)
    exact = {tuple(sorted(pair)) for group in overlap.exact_duplicates(opened) for pair in combinations(group, 2)}
    false = [one for one in found if one[:2] not in exact]
    alike = [shifted.correlation_at(whole[row_a], whole[row_b], lag)[0] for row_a, row_b, lag in false]
    highest = max(alike, default=float("nan"))
    n_false = sum(similarity >= shifted.MIN_CORRELATION for similarity in alike)
    click.echo(f"among the records themselves: {n_false} false, the most alike {highest}")
    click.echo(
        json.dumps(
            {
                "records": opened.n_records,
                "landmarks_ms_per_record": round(1e3 * marked_s / opened.n_records, 2),
                "altered": answers,
                "false_pairs": n_false,
                "highest_false_correlation": highest,
            }
        )
    )


if __name__ == "__main__":
    main()
