"""What was found: one value from the judge to the page, and its shape in ``result.json`` and ``report.json``::

    {name, task, kind, unit, protocol, pretraining, store, store_fingerprint, folds, left_out_site,
     n_train, n_validation, n_test,
     metrics: {macro_auroc: {value, low, high}, …},
     of_a_constant: what the best answer without a signal gets,
     confusion: {classes, counts: [[of class i, said to be j]]},
     agreement: {bias, low, high, slope, pairs: [[known, predicted]]},
     thresholds: {class: score}, by_site: {site: {n_test, metrics}},
     by_group: {sex: {female: {n_test, metrics}}, age: …, source: …},
     decisions: {class: {threshold, n_hits, …, figures: {sensitivity: {value, low, high}, …}}},
     decisions_by_group: {sex: {female: {class: as decisions}}, …},      # also site, age, source; of 20 records or more
     reliability: {class: {brier, mean_said: […], share_stated: […], n_records: […]}},
     per_class: {class: {auroc, auprc, n_positive, title}},
     roc: {class: {fpr: […], tpr: […]}},
     …what the protocol chose, such as penalty…,
     unfitted_classes: [class], dropped_classes: {class: why}, caveats: [text],
     difference_to: {pretraining: {metric: {value, low, high}}},    # paired, this minus that
     ensemble_of: [seed],                                           # of the mean of what several seeds say
     seeds: [seed], p_of_difference: {pretraining: p},              # of several seeds; p by the metric compared by
     run: name of the run, where there are several}

What is not known is left out. A number that is not one is NaN here and null there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, NonNegativeInt, ValidationError, model_validator

from ecgstore import ConfigError
from ecgtrain.scoring import kinds
from ecgtrain.scoring.bootstrap import Interval
from ecgtrain.tasks import TargetKind

V = TypeVar("V", bound="Value")

#: What one of several seeds is called, where what all of them say together is compared to it.
ONE_SEED = "one seed"


def _number(value: Any) -> Any:
    return math.nan if value is None else value


def _interval(value: Any) -> Any:
    if isinstance(value, Mapping) and set(value) == set(Interval._fields):
        return {name: _number(one) for name, one in value.items()}
    return value


#: A number that may be none: null on disk.
Number = Annotated[float, BeforeValidator(_number)]
Span = Annotated[Interval, BeforeValidator(_interval)]


class Value(BaseModel):
    """Base of what a report is made of: frozen, without unknown parts."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ClassScore(Value):
    """How one class was told apart; ``title`` spells it out."""

    auroc: Number
    auprc: Number
    n_positive: NonNegativeInt
    title: str = ""


class RocCurve(Value):
    """False and true positive rates, ascending."""

    fpr: tuple[float, ...]
    tpr: tuple[float, ...]

    @model_validator(mode="after")
    def _in_pairs(self) -> RocCurve:
        if len(self.fpr) != len(self.tpr):
            raise ValueError("each false positive rate has its true positive rate")
        return self


class Confusion(Value):
    """``counts`` [i][j]: records that are of class i and said to be of class j."""

    classes: tuple[str, ...]
    counts: tuple[tuple[NonNegativeInt, ...], ...]

    @model_validator(mode="after")
    def _square(self) -> Confusion:
        n = len(self.classes)
        if len(self.counts) != n or any(len(row) != n for row in self.counts):
            raise ValueError(f"counts must be {n} rows of {n}")
        return self


class Agreement(Value):
    """Bland and Altman's summary of predicted minus known; see :class:`ecgtrain.scoring.regression.Agreement`.

    ``pairs``: known and predicted numbers of some of the records.
    """

    bias: Number
    low: Number
    high: Number
    slope: Number
    pairs: tuple[tuple[float, float], ...] = ()


class ClassDecision(Value):
    """How saying a class from its ``threshold`` on turns out; ``figures``: sensitivity and its like.

    Where classes exclude each other there is no threshold: the likeliest is said.
    """

    threshold: Number
    n_hits: NonNegativeInt
    n_misses: NonNegativeInt
    n_false_alarms: NonNegativeInt
    n_rightly_silent: NonNegativeInt
    figures: Mapping[str, Span]


class ClassReliability(Value):
    """Of each bin of probabilities their mean, how often the class was stated, and of how many records."""

    brier: Number
    mean_said: tuple[Number, ...]
    share_stated: tuple[Number, ...]
    n_records: tuple[NonNegativeInt, ...]

    @model_validator(mode="after")
    def _of_the_same_bins(self) -> ClassReliability:
        if not len(self.mean_said) == len(self.share_stated) == len(self.n_records):
            raise ValueError("each bin has all three numbers")
        return self


class SiteScore(Value):
    """The same scores on the test records of one site, or of another group."""

    n_test: NonNegativeInt
    metrics: Mapping[str, Span]


class Result(Value):
    """The answer of one representation to one question.

    ``kind``: of the targets; numbers are in ``unit``. ``of_a_constant``: what the best answer that looks at no signal
    gets of what results of this kind are compared by. ``pretraining``: the method, or the null. ``folds``: which were
    judged, where another store was; ``all`` for every record. ``left_out_site``: whose records alone were judged, and
    no others learned from. ``thresholds``: what a class's score must reach to be said. ``chosen``: what the protocol
    tells, plain values. ``unfitted_classes``: None where nothing was fitted for this result. ``run``: the name of its
    run among several.

    ``seeds``: of the runs that it is the mean of, where there are several; ``p_of_difference``: how surprising each
    difference would be if there were none, corrected for their number. ``ensemble_of``: the seeds of which the mean of
    what they say of each record was judged, as one answer.
    """

    name: str
    task: str
    protocol: str
    pretraining: str
    store: str
    n_train: NonNegativeInt
    n_test: NonNegativeInt
    metrics: Mapping[str, Span]
    per_class: Mapping[str, ClassScore]
    store_fingerprint: str | None = None
    folds: tuple[int, ...] | Literal["all"] | None = None
    n_validation: NonNegativeInt | None = None
    roc: Mapping[str, RocCurve] = Field(default_factory=dict)
    chosen: Mapping[str, Any] = Field(default_factory=dict)
    unfitted_classes: tuple[str, ...] | None = None
    dropped_classes: Mapping[str, str] = Field(default_factory=dict)
    caveats: tuple[str, ...] = ()
    difference_to: Mapping[str, Mapping[str, Span]] = Field(default_factory=dict)
    run: str | None = None
    kind: TargetKind = "multilabel"
    unit: str = ""
    left_out_site: str | None = None
    of_a_constant: Number | None = None
    confusion: Confusion | None = None
    agreement: Agreement | None = None
    thresholds: Mapping[str, float] = Field(default_factory=dict)
    by_site: Mapping[str, SiteScore] = Field(default_factory=dict)
    by_group: Mapping[str, Mapping[str, SiteScore]] = Field(default_factory=dict)
    decisions: Mapping[str, ClassDecision] = Field(default_factory=dict)
    decisions_by_group: Mapping[str, Mapping[str, Mapping[str, ClassDecision]]] = Field(default_factory=dict)
    reliability: Mapping[str, ClassReliability] = Field(default_factory=dict)
    seeds: tuple[NonNegativeInt, ...] = ()
    p_of_difference: Mapping[str, Number] = Field(default_factory=dict)
    ensemble_of: tuple[NonNegativeInt, ...] = ()

    @model_validator(mode="after")
    def _told_apart(self) -> Result:
        taken = sorted(set(self.chosen) & set(Result.model_fields))
        if taken:
            raise ValueError(f"a protocol can't call what it chose {', '.join(taken)}")
        return self

    @property
    def asked(self) -> str:
        """The task, and whose records it was asked of where a site was left out."""
        return self.task if self.left_out_site is None else f"{self.task} at {self.left_out_site}"

    @property
    def compared_by(self) -> str:
        """The metric that results of its kind are compared by."""
        return kinds.headline(self.kind, self.metrics)

    @property
    def score(self) -> Interval:
        """That metric; not a number where there is none."""
        return self.metrics.get(self.compared_by, Interval(math.nan, math.nan, math.nan))

    @property
    def macro_auroc(self) -> Interval:
        """Macro AUROC; not a number where there is none."""
        return self.metrics.get("macro_auroc", Interval(math.nan, math.nan, math.nan))

    def as_json(self) -> dict[str, Any]:
        """Its shape on disk."""
        folds = {"folds": None if self.folds == "all" else self.folds}
        unfitted = {"unfitted_classes": self.unfitted_classes}
        return {
            **{name: getattr(self, name) for name in ("name", "task", "protocol", "pretraining", "store")},
            **({"store_fingerprint": self.store_fingerprint} if self.store_fingerprint is not None else {}),
            **(folds if self.folds is not None else {}),
            "n_train": self.n_train,
            **({"n_validation": self.n_validation} if self.n_validation is not None else {}),
            "n_test": self.n_test,
            "metrics": {name: span._asdict() for name, span in self.metrics.items()},
            "per_class": {name: one.model_dump(exclude_defaults=True) for name, one in self.per_class.items()},
            "roc": {name: curve.model_dump() for name, curve in self.roc.items()},
            **self.chosen,
            **(unfitted if self.unfitted_classes is not None else {}),
            "dropped_classes": dict(self.dropped_classes),
            **({"caveats": self.caveats} if self.caveats else {}),
            **({"difference_to": _differences(self.difference_to)} if self.difference_to else {}),
            **({"run": self.run} if self.run is not None else {}),
            **self._of_its_kind(),
        }

    def _of_its_kind(self) -> dict[str, Any]:
        """What not every result has."""
        parts: dict[str, Any] = {
            "kind": self.kind if self.kind != "multilabel" else None,
            "unit": self.unit or None,
            "left_out_site": self.left_out_site,
            "seeds": list(self.seeds) or None,
            "ensemble_of": list(self.ensemble_of) or None,
            "p_of_difference": dict(self.p_of_difference) or None,
            "of_a_constant": self.of_a_constant,
            "confusion": self.confusion and self.confusion.model_dump(),
            "agreement": self.agreement and self.agreement.model_dump(),
            "thresholds": dict(self.thresholds) or None,
            "by_site": _by_part(self.by_site) or None,
            "by_group": {group: _by_part(parts) for group, parts in self.by_group.items()} or None,
            "decisions": _by_class(self.decisions) or None,
            "decisions_by_group": {
                group: {label: _by_class(one) for label, one in parts.items()}
                for group, parts in self.decisions_by_group.items()
            }
            or None,
            "reliability": {name: one.model_dump() for name, one in self.reliability.items()} or None,
        }
        return {name: part for name, part in parts.items() if part is not None}


def result_of(content: Any, where: object) -> Result:
    """Read a result as it stands on disk; raises ConfigError in one line."""
    if not isinstance(content, Mapping):
        raise ConfigError("a result must be a mapping", where=where, got=type(content).__name__)
    known = {name: value for name, value in content.items() if name in Result.model_fields and name != "chosen"}
    chosen = {name: value for name, value in content.items() if name not in known}
    if "folds" in known and known["folds"] is None:
        known["folds"] = "all"
    return read(Result, {**known, "chosen": chosen}, where)


def read(kind: type[V], content: Mapping[str, Any], where: object) -> V:
    """Validate what was read from a file; raises ConfigError that names the first part that can't be understood."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        part = ".".join(str(one) for one in first["loc"]) or "it"
        said = first["msg"].removeprefix("Value error, ")
        called = re.sub("(?<=[a-z])(?=[A-Z])", " ", kind.__name__).lower()
        got = None if first["type"] == "missing" else repr(first["input"])[:100]
        raise ConfigError(
            f"this can't be understood as a {called}: {part}: {said[:1].lower()}{said[1:]}",
            where=where,
            got=got,
        ) from None


def _by_part(parts: Mapping[str, SiteScore]) -> dict[str, Any]:
    return {
        name: {"n_test": one.n_test, "metrics": {metric: span._asdict() for metric, span in one.metrics.items()}}
        for name, one in parts.items()
    }


def _by_class(decided: Mapping[str, ClassDecision]) -> dict[str, Any]:
    return {
        name: {**one.model_dump(), "figures": {key: span._asdict() for key, span in one.figures.items()}}
        for name, one in decided.items()
    }


def _differences(found: Mapping[str, Mapping[str, Interval]]) -> dict[str, Any]:
    return {null: {name: span._asdict() for name, span in spans.items()} for null, spans in found.items()}
