"""What a report holds, and its shape in ``report.json``; of a result :mod:`ecgtrain.evaluation.results`
says that, of a curve over noise, labels or leads :mod:`ecgtrain.evaluation.curve_results`.

What is told of the run stands beside its results. All but the results may be absent, and is then left out of the page::

    title, caveats: [text], results: [Result], asked_over: [CurveResult]
    run: {name, method, backbone, n_parameters, n_records, folds, steps, batch_size, seconds, device, seed}
    store: {path, fingerprint, n_records, fs_hz, leads, recipe, noise, patients, terms: [Terms]}
    curves: {"chance": {term: [value]}, "train": {"step": […], term: […]}, "validation": …}
    settings: YAML text or a mapping
    environment: versions and machine

Of several, ``runs`` is a list of {name, run, store, …, environment}.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from ecgstore import ConfigError
from ecgtrain.evaluation.curve_results import CurveResult, curve_of
from ecgtrain.evaluation.results import Number, Result, Value, read, result_of
from ecgtrain.training.files import plain

#: Split → term → values, one per line of the log.
Curves = Mapping[str, Mapping[str, tuple[int | Number, ...]]]


class RunFacts(Value):
    """How the representation came about."""

    name: str = ""
    method: str = ""
    backbone: str = ""
    n_parameters: int | None = None
    n_records: int | None = None
    folds: tuple[int, ...] = ()
    steps: int | None = None
    batch_size: int | None = None
    seconds: Number | None = None
    device: str = ""
    seed: int | None = None


class TermsFacts(Value):
    """A source and its terms; see :class:`ecgstore.Terms`."""

    name: str
    version: str
    licence: str
    redistributable: bool
    doi: str = ""
    citation: str = ""


class StoreFacts(Value):
    """Where the signals came from."""

    path: str = ""
    fingerprint: str = ""
    n_records: int | None = None
    fs_hz: float | None = None
    leads: tuple[str, ...] = ()
    recipe: dict[str, Any] = Field(default_factory=dict)
    #: What `ecgstore augment` has added.
    noise: dict[str, Any] = Field(default_factory=dict)
    #: Whether patients are named, and how their identifiers were hashed.
    patients: str = ""
    terms: tuple[TermsFacts, ...] = ()


class About(Value):
    """What is told of one run; ``name`` is its own among several, and empty where it is the only one."""

    name: str = ""
    run: RunFacts = RunFacts()
    store: StoreFacts = StoreFacts()
    curves: Curves = Field(default_factory=dict)
    settings: str | dict[str, Any] = ""
    environment: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _curves_are_whole(self) -> About:
        for split, columns in self.curves.items():
            if split == "chance" and not all(columns.values()):
                raise ValueError("the level of chance is a list of one number")
            if split != "chance" and columns and "step" not in columns:
                raise ValueError(f"curves, {split}: the values of a term stand at steps")
        return self

    def as_json(self) -> dict[str, Any]:
        """Its shape on disk: what was not given is left out."""
        content: dict[str, Any] = plain(self.model_dump(exclude_unset=True))
        return {key: value for key, value in content.items() if value}


class Report(Value):
    """Results, what they should be read with, and the runs that they are of."""

    title: str = ""
    results: tuple[Result, ...]
    asked_over: tuple[CurveResult, ...] = ()
    caveats: tuple[str, ...] = ()
    runs: tuple[About, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Its shape on disk."""
        alone = len(self.runs) == 1 and not self.runs[0].name
        return {
            **({"title": self.title} if self.title else {}),
            "results": [result.as_json() for result in self.results],
            **({"asked_over": [curve.as_json() for curve in self.asked_over]} if self.asked_over else {}),
            **({} if alone or not self.runs else {"runs": [run.as_json() for run in self.runs]}),
            "caveats": list(self.caveats),
            **(self.runs[0].as_json() if alone else {}),
        }


def report_of(content: Mapping[str, Any], where: Path) -> Report:
    """Read a report as it stands on disk; raises ConfigError in one line."""
    if not isinstance(content.get("results"), list):
        raise ConfigError("a report needs a list of results", where=where)
    results = tuple(result_of(one, f"{where}, result {i}") for i, one in enumerate(content["results"]))
    curves = content.get("asked_over", [])
    if not isinstance(curves, list):
        raise ConfigError("curves of a report must be a list", where=where)
    asked_over = tuple(curve_of(one, f"{where}, curve {i}") for i, one in enumerate(curves))
    told = {key: value for key, value in content.items() if key in About.model_fields and key != "name"}
    own = ("results", "runs", "asked_over")
    rest = {key: value for key, value in content.items() if key not in told and key not in own}
    runs = content.get("runs") or ([told] if told else [])
    return read(Report, {**rest, "results": results, "asked_over": asked_over, "runs": runs}, where)
