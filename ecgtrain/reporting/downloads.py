"""The numbers of a page as files that stand inside it: a link gives them, without any server."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ecgtrain.evaluation.results import Result
from ecgtrain.reporting.contents import Report
from ecgtrain.training.files import plain

#: Beginnings that a spreadsheet takes for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
#: What a page may grow by for the whole report; more stands in report.json beside it alone.
MOST_JSON_BYTES = 2_000_000


class Download(NamedTuple):
    """A link: what it is called, the name of the file, and its address, which holds the file."""

    title: str
    name: str
    address: str


def downloads(report: Report) -> list[Download]:
    """Scores and classes as CSV, and the whole report as JSON unless it is large."""
    results = report.results
    if not results:
        return []
    found = [_link("Scores (CSV)", "scores.csv", "text/csv", scores_csv(results))]
    if any(result.per_class for result in results):
        found.append(_link("Classes (CSV)", "classes.csv", "text/csv", classes_csv(results)))
    whole = json.dumps(plain(report.as_json()), ensure_ascii=False, allow_nan=False)
    if len(whole) <= MOST_JSON_BYTES:
        found.append(_link("Everything (JSON)", "report.json", "application/json", whole))
    return found


def _link(title: str, name: str, kind: str, text: str) -> Download:
    # With the mark a spreadsheet knows that a table is UTF-8.
    content = text.encode("utf-8-sig" if kind == "text/csv" else "utf-8")
    return Download(title, name, f"data:{kind};charset=utf-8;base64,{base64.b64encode(content).decode()}")


_WHOSE = ("run", "question", "task", "left_out_site", "protocol", "pretraining", "store", "seeds_together")


def _whose(result: Result) -> list[Any]:
    task = (result.run, result.name, result.task, result.left_out_site)
    together = " ".join(map(str, result.ensemble_of))
    return [*task, result.protocol, result.pretraining, result.store, together]


def scores_csv(results: Sequence[Result]) -> str:
    """A line for each score and each difference; ``minus``: whose score was taken away, empty for a score itself."""
    head = [*_WHOSE, "n_train", "n_test", "metric", "unit", "minus", "value", "low", "high"]
    rows = []
    for result in results:
        own = [*_whose(result), result.n_train, result.n_test]
        for minus, scores in (("", result.metrics), *result.difference_to.items()):
            rows += [[*own, name, result.unit, minus, *span] for name, span in scores.items()]
    return _csv(head, rows)


_FIGURES = ("sensitivity", "specificity", "ppv", "npv", "f1")


def classes_csv(results: Sequence[Result]) -> str:
    """A line for each class of each answer."""
    head = [*_WHOSE, "class", "title", "n_positive", "auroc", "auprc", "threshold", *_FIGURES, "brier"]
    rows = []
    for result in results:
        for name, score in result.per_class.items():
            decided, trusted = result.decisions.get(name), result.reliability.get(name)
            figures = decided.figures if decided else {}
            rows.append(
                [
                    *_whose(result),
                    *(name, score.title, score.n_positive, score.auroc, score.auprc),
                    decided.threshold if decided else None,
                    *(figures[figure].value if figure in figures else None for figure in _FIGURES),
                    trusted.brier if trusted else None,
                ]
            )
    return _csv(head, rows)


def _csv(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(head)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return out.getvalue()


def _cell(value: Any) -> Any:
    """What is not known is empty, and no text is read as a formula."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULA) else value
    return value
