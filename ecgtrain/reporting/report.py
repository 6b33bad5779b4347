"""A run's report: ``report.json`` for programs, ``report.html`` for people, and several side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from ecgstore import ConfigError
from ecgtrain.errors import CheckpointError
from ecgtrain.evaluation.curve_results import CurveResult
from ecgtrain.evaluation.results import Result
from ecgtrain.reporting.caveats import caveats
from ecgtrain.reporting.contents import About, Curves, Report, report_of
from ecgtrain.reporting.drawings import WATCHED
from ecgtrain.reporting.naming import names
from ecgtrain.reporting.page import render
from ecgtrain.reporting.worst import Worst
from ecgtrain.training.files import read_json, write_json, write_text
from ecgtrain.training.layout import PAGE, REPORT
from ecgtrain.training.log import Line


def write_report(path: str | Path, report: Report, worst: Sequence[Worst] = ()) -> Report:
    """Write ``report.json`` and ``report.html`` into the folder ``path``, each whole or not at all.

    ``worst``: what answers are most wrong about, for the page alone. Returns what was written: ``report`` with the
    caveats that follow from its numbers.
    """
    folder = Path(path)
    written = with_caveats(report)
    page = render(written, worst)
    folder.mkdir(parents=True, exist_ok=True)
    # Keys keep their order, which says how classes and scores are listed; the same report gives the same bytes.
    write_json(folder / REPORT, written.as_json())
    write_text(folder / PAGE, page)
    return written


def with_caveats(report: Report) -> Report:
    """The report with what its numbers don't bear; what belongs to one result is told with its name."""
    told = {text for result in report.results for text in result.caveats}
    given = [text for text in report.caveats if text not in told]
    return report.model_copy(update={"caveats": tuple(dict.fromkeys([*given, *caveats(report.results)]))})


def read_report(path: str | Path) -> Report:
    """Read back the report of the run in the folder ``path``; raises ConfigError where there is none."""
    file = Path(path) / REPORT
    if not file.is_file():
        raise ConfigError("there is no report", where=file, fix="evaluate the run first")
    try:
        content = read_json(file)
    except CheckpointError as error:
        raise ConfigError("the report can't be read", where=file, got=str(error)) from None
    return report_of(content, file)


def merge(reports: Sequence[Report]) -> Report:
    """Put reports of single runs side by side: all results, each with the name of its run, and all runs.

    Runs of the same name are called by what they differ in, too (:mod:`ecgtrain.reporting.naming`). Caveats are left to
    be found anew by :func:`write_report`.
    """
    runs: list[About] = []
    results: list[Result] = []
    curves: list[CurveResult] = []
    for report, name in zip(reports, names(reports), strict=True):
        about = report.runs[0] if len(report.runs) == 1 else About()
        runs.append(about.model_copy(update={"name": name}))
        results += [result.model_copy(update={"run": name}) for result in report.results]
        curves += [curve.model_copy(update={"run": name}) for curve in report.asked_over]
    return Report(results=tuple(results), asked_over=tuple(curves), runs=tuple(runs))


def loss_curves(lines: Sequence[Line]) -> Curves:
    """The terms of the loss, from the lines of a run's ``metrics.jsonl``.

    Returns columns per split: ``{"chance": {term: [value]}, "train": {"step": […], term: […]}, "validation": …}``.
    A term is what validation or chance level speaks of (else the loss alone), and how the features lie
    (:mod:`ecgtrain.training.diagnostics`); speeds and rates are left out.
    """
    terms = {name for line in lines if line.split in ("chance", "validation") for name in line.values}
    terms |= {"loss", *WATCHED}
    columns: dict[str, dict[str, tuple[float, ...]]] = {}
    for split in dict.fromkeys(line.split for line in lines):
        its = [line for line in lines if line.split == split]
        told = [name for name in sorted(terms) if any(name in line.values for line in its)]
        # What a line doesn't say is not a number there: each column has a value at each step.
        columns[split] = {name: tuple(line.values.get(name, math.nan) for line in its) for name in told}
        if split == "chance":
            columns[split] = {name: tuple(x for x in values if x == x) for name, values in columns[split].items()}
        else:
            columns[split] = {"step": tuple(line.step for line in its), **columns[split]}
    return columns
