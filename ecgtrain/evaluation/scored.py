"""From scores on the test records to numbers with intervals: metrics, curves, decisions, sites, differences."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from ecgstore import Store
from ecgtrain.errors import ProtocolError
from ecgtrain.evaluation import placed, protocols
from ecgtrain.evaluation.protocols import Fitted
from ecgtrain.evaluation.results import (
    Agreement,
    ClassDecision,
    ClassReliability,
    ClassScore,
    Confusion,
    RocCurve,
    SiteScore,
)
from ecgtrain.evaluation.splits import Split
from ecgtrain.scoring import challenge, kinds, metrics, regression
from ecgtrain.scoring.bootstrap import Interval, Scorer
from ecgtrain.scoring.decisions import brier, choose_thresholds, decide, decide_for_one, reliability
from ecgtrain.scoring.exclusive import confusion
from ecgtrain.scoring.metrics import mean_of_scored
from ecgtrain.scoring.seeds import OverSeeds, of_seeds
from ecgtrain.tasks import Places, TargetKind, Targets

#: What the challenge's score is called among the metrics.
CHALLENGE = "challenge_score"

#: Records of the picture of agreement.
_MOST_PAIRS = 1000
#: Of a group of fewer test records no rates are told; of how many of one kind, such as sites, at most: the largest.
FEW_OF_GROUP, _MOST_OF_GROUP = 20, 20


@dataclass(frozen=True, slots=True, eq=False)
class Decided:
    """What is said of each test record, and what is true, over all classes of a challenge: bool (records, classes)."""

    y_rc: npt.NDArray[np.bool_]
    said_rc: npt.NDArray[np.bool_]
    reward_cc: npt.NDArray[np.float64]
    normal: int

    @property
    def scorer(self) -> Scorer:
        """The challenge's score, for the bootstrap."""
        return Scorer(partial(_challenge_score, self))


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Scores of one representation on the test records: all that a result and a comparison need.

    ``y_rc``, ``score_rc``: (records, classes) in the order of ``row_r``; ``patient_r`` is for the bootstrap.
    ``groups``: who and where they are of, by :func:`groups_of`. ``decided``: where a challenge scores decisions, too.
    ``places``: where the classes lie, if that is known.
    """

    y_rc: npt.NDArray[Any]
    score_rc: npt.NDArray[np.float64]
    row_r: npt.NDArray[np.int64]
    patient_r: tuple[str | None, ...]
    classes: tuple[str, ...]
    kind: TargetKind = "multilabel"
    groups: Mapping[str, npt.NDArray[np.object_]] = field(default_factory=dict)
    decided: Decided | None = None
    places: Places | None = None

    @property
    def placed(self) -> Mapping[str, Scorer]:
        """Scores of places that the classes have, by name."""
        return placed.scorers(self.places, self.classes)

    def at(self, kept_r: npt.NDArray[np.bool_]) -> Judged:
        """The same of some of the records."""
        decided = self.decided
        if decided is not None:
            decided = replace(decided, y_rc=decided.y_rc[kept_r], said_rc=decided.said_rc[kept_r])
        return replace(
            self,
            y_rc=self.y_rc[kept_r],
            score_rc=self.score_rc[kept_r],
            row_r=self.row_r[kept_r],
            patient_r=tuple(np.array(self.patient_r, dtype=object)[kept_r]),
            groups={name: label_r[kept_r] for name, label_r in self.groups.items()},
            decided=decided,
        )


#: Where bands of age begin, in years.
_BANDS = (18, 40, 65, 80)


def groups_of(store: Store, row_r: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.object_]]:
    """By what records are told apart where scores are given by group: ``site``, ``sex``, ``age``, ``source``.

    "" if it is not stated.
    """
    site_r, sex_r, source_r = (_words(store.column(name)[row_r]) for name in ("site", "sex", "source"))
    age_r = _bands(np.asarray(store.column("age_years")[row_r], np.float64))
    return {"site": site_r, "sex": sex_r, "age": age_r, "source": source_r}


def _words(value_r: npt.NDArray[Any]) -> npt.NDArray[np.object_]:
    return np.array([value or "" for value in value_r.tolist()], dtype=object)


def _bands(age_years_r: npt.NDArray[np.float64]) -> npt.NDArray[np.object_]:
    between = [f"{low} to {high - 1}" for low, high in itertools.pairwise(_BANDS)]
    names = np.array([f"below {_BANDS[0]}", *between, f"{_BANDS[-1]} and above"], dtype=object)
    band_r = np.digitize(np.nan_to_num(age_years_r), _BANDS)
    return np.where(np.isfinite(age_years_r), names[band_r], "")


def scores(
    judged_s: Sequence[Judged],
    titles: Mapping[str, str],
    unit: str,
    seed: int,
    thresholds: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """The parts of a result that follow from scores, with intervals over patients and, of several seeds, over those.

    ``judged_s``: of each seed the scores of the same records. Pictures are of the first. ``thresholds``: what a class's
    score must reach to be said; without, nothing is told of decisions, but where the likeliest of classes that exclude
    each other is said.
    """
    judged = judged_s[0]
    y_rc, score_rc = judged.y_rc, judged.score_rc
    parts: dict[str, Any] = {
        "kind": judged.kind,
        "unit": unit,
        "metrics": _metrics(judged_s, seed),
        "per_class": {},
        **_by_group(judged_s, seed),
    }
    if judged.kind == "regression":  # of a place three coordinates agree or not: that is a distance
        return parts if judged.placed else {**parts, "agreement": _agreement(judged)}
    parts["per_class"] = _per_class(judged_s, titles)
    roc = metrics.roc_curves(y_rc, score_rc, judged.classes)
    parts["roc"] = {name: RocCurve(fpr=tuple(one["fpr"]), tpr=tuple(one["tpr"])) for name, one in roc.items()}
    parts["decisions"] = decisions_of(judged, thresholds or {}, seed)
    parts["decisions_by_group"] = _decisions_by_group(judged, thresholds or {}, seed)
    parts["reliability"] = reliability_of(judged)
    if judged.kind == "exclusive":
        counts = tuple(map(tuple, confusion(y_rc, score_rc).tolist()))
        parts["confusion"] = Confusion(classes=judged.classes, counts=counts)
    return parts


def _per_class(judged_s: Sequence[Judged], titles: Mapping[str, str]) -> dict[str, ClassScore]:
    """Scores by class, of several seeds their means."""
    tables = [metrics.per_class(one.y_rc, one.score_rc, one.classes, titles) for one in judged_s]
    found = {}
    for name, first in tables[0].items():
        means = {metric: float(np.mean([table[name][metric] for table in tables])) for metric in ("auroc", "auprc")}
        found[name] = ClassScore(**{**first, **means})
    return found


def difference(one_s: Sequence[Judged], null_s: Sequence[Judged], seed: int) -> dict[str, OverSeeds]:
    """Score of one minus that of another by metric, seed by seed and on the same resamples of patients.

    Raises ProtocolError where they are of other records or classes.
    """
    one, null = one_s[0], null_s[0]
    if not np.array_equal(one.row_r, null.row_r) or one.classes != null.classes:
        raise ProtocolError(
            "answers on other records or classes can't be compared",
            expected=f"{len(one.row_r)} records, {len(one.classes)} classes",
            got=f"{len(null.row_r)} records, {len(null.classes)} classes",
            fix="give both questions the same training and test folds",
        )
    names = [*kinds.compared(one.kind), *one.placed, *([CHALLENGE] if one.decided and null.decided else [])]
    return {name: _of(one_s, name, seed) - _of(null_s, name, seed) for name in names}


def together(judged_s: Sequence[Judged]) -> Judged:
    """The mean of what several seeds say of the same records; it has no thresholds, and so nothing that is decided."""
    mean_rc = np.mean([judged.score_rc for judged in judged_s], axis=0)
    return replace(judged_s[0], score_rc=mean_rc, decided=None)


def over_one_seed(judged_s: Sequence[Judged], seed: int) -> dict[str, OverSeeds]:
    """By metric, what the mean of several seeds scores minus what these score by themselves, on average."""
    whole, names = together(judged_s), (*kinds.compared(judged_s[0].kind), *judged_s[0].placed)
    found = {}
    for name in names:
        ours, each = _of([whole], name, seed), _of(judged_s, name, seed)
        alone = OverSeeds(each.value_s.mean(keepdims=True), mean_of_scored(each.resampled_sr.T)[None], seed)
        found[name] = ours - alone
    return found


def _of(judged_s: Sequence[Judged], metric: str, seed: int) -> OverSeeds:
    """A metric of each seed, by its name."""
    one = judged_s[0]
    if metric != CHALLENGE:
        scorer = one.placed.get(metric, metric)
        return of_seeds(one.y_rc, [each.score_rc for each in judged_s], one.patient_r, scorer, seed=seed)
    decided_s = [cast(Decided, each.decided) for each in judged_s]
    said_s = [each.said_rc for each in decided_s]
    return of_seeds(decided_s[0].y_rc, said_s, one.patient_r, decided_s[0].scorer, seed=seed)


def thresholds(targets: Targets, fitted: Fitted, validation: Split | None) -> dict[str, float]:
    """What a class's score must reach to be said, chosen on validation records: for the challenge's score where one
    scores, else for the best F1 of the class.

    Empty where classes exclude each other, or where there are no validation records; without a class that has no
    positive or no negative among them.
    """
    if validation is None or targets.kind != "multilabel":
        return {}
    score_rc = protocols.scores(fitted, validation)
    if targets.challenge is None:
        best_c = choose_thresholds(validation.y_rc, score_rc)
        return {name: float(cut) for name, cut in zip(fitted.classes, best_c, strict=True) if np.isfinite(cut)}
    y_rc, column_c = _among_all(targets, validation.row_r, fitted.classes)
    all_rc = np.full(y_rc.shape, -np.inf)
    all_rc[:, column_c] = score_rc
    chosen_c = challenge.thresholds(y_rc, all_rc, _reward(targets))
    return {name: float(chosen_c[c]) for name, c in zip(fitted.classes, column_c, strict=True)}


def decided(
    targets: Targets,
    row_r: npt.NDArray[np.int64],
    classes: tuple[str, ...],
    score_rc: npt.NDArray[np.float64],
    thresholds: Mapping[str, float],
) -> Decided | None:
    """What is said of records with ``score_rc`` (records, ``classes``); None where there is nothing to decide by."""
    if targets.challenge is None or not thresholds:
        return None
    y_rc, column_c = _among_all(targets, row_r, classes)
    said_rc = np.zeros(y_rc.shape, dtype=np.bool_)
    said_rc[:, column_c] = score_rc >= np.array([thresholds[name] for name in classes])
    return Decided(y_rc, said_rc, _reward(targets), targets.challenge.classes.index(targets.challenge.normal))


def of_a_constant(targets: Targets, train_rows: npt.NDArray[np.int64], judged: Judged) -> float | None:
    """What the best answer that looks at no signal gets of what the kind is compared by, None where that says nothing.

    It is the most common class of the training records, or the median of their numbers.
    """
    y_train = targets.y_nc[targets.labelled(train_rows)]
    match judged.kind:
        case "exclusive":
            return float(judged.y_rc[:, int(y_train.sum(axis=0).argmax())].mean())
        case "regression":
            apart_rc = judged.y_rc - np.median(y_train, axis=0)
            return float((np.linalg.norm(apart_rc, axis=1) if judged.placed else np.abs(apart_rc)).mean())
    return None


def _challenge_score(decided: Decided, y_rc: Any, said_rc: Any, weight_rn: Any) -> npt.NDArray[np.float64]:
    return challenge.weighted_score(y_rc, said_rc > 0.5, decided.reward_cc, decided.normal, weight_rn)


def _reward(targets: Targets) -> npt.NDArray[np.float64]:
    assert targets.challenge is not None
    return targets.challenge.reward_cc


def _among_all(
    targets: Targets, row_r: npt.NDArray[np.int64], classes: tuple[str, ...]
) -> tuple[npt.NDArray[np.bool_], list[int]]:
    """What is true of records over all classes of the challenge, and which of them ``classes`` are."""
    assert targets.challenge is not None
    return targets.challenge.y_nc[row_r], [targets.challenge.classes.index(name) for name in classes]


def _metrics(judged_s: Sequence[Judged], seed: int, *, names: tuple[str, ...] | None = None) -> dict[str, Interval]:
    one = judged_s[0]
    names = (*(names or (*kinds.METRICS[one.kind], *one.placed)), *([CHALLENGE] if one.decided is not None else []))
    return {name: _of(judged_s, name, seed).interval() for name in names}


def _by_group(judged_s: Sequence[Judged], seed: int) -> dict[str, Any]:
    """Scores by site, sex and age, where the records are of several."""
    first = judged_s[0]
    names = (kinds.headline(first.kind, first.placed),)
    found: dict[str, dict[str, SiteScore]] = {}
    for group, label_r in first.groups.items():
        labels = sorted(set(label_r.tolist()))
        if len(labels) < 2:
            continue
        parts = {label: [judged.at(np.asarray(label_r == label)) for judged in judged_s] for label in labels}
        found[group] = {
            label: SiteScore(n_test=len(part[0].row_r), metrics=_metrics(part, seed, names=names))
            for label, part in parts.items()
        }
    return {"by_site": found.pop("site", {}), "by_group": found}


def decisions_of(judged: Judged, thresholds: Mapping[str, float], seed: int) -> dict[str, ClassDecision]:
    """How decisions by ``thresholds`` turn out on the test records, class by class.

    Where classes exclude each other there are no thresholds: the likeliest is said.
    """
    if judged.kind == "exclusive":
        each = decide_for_one(judged.y_rc, judged.score_rc, judged.patient_r, seed=seed)
        return {name: ClassDecision(**one._asdict()) for name, one in zip(judged.classes, each, strict=True)}
    cut_c = np.array([thresholds.get(name, np.nan) for name in judged.classes])
    if not np.isfinite(cut_c).any():
        return {}
    found = decide(judged.y_rc, judged.score_rc, cut_c, judged.patient_r, seed=seed)
    return {
        name: ClassDecision(**one._asdict()) for name, one in zip(judged.classes, found, strict=True) if one is not None
    }


def _decisions_by_group(
    judged: Judged, thresholds: Mapping[str, float], seed: int
) -> dict[str, dict[str, dict[str, ClassDecision]]]:
    """The same by site, sex, age and source, of groups that are large enough for a rate to be one.

    Without classes of which a group has no positive or no negative record.
    """
    found: dict[str, dict[str, dict[str, ClassDecision]]] = {}
    for group, label_r in judged.groups.items():
        labels, n_labels = np.unique(label_r.astype(str), return_counts=True)
        if len(labels) < 2:
            continue
        large = sorted(labels[n_labels >= FEW_OF_GROUP].tolist(), key=lambda label: -int((label_r == label).sum()))
        parts = {label: judged.at(np.asarray(label_r == label)) for label in sorted(large[:_MOST_OF_GROUP])}
        decided = {label: decisions_of(part, thresholds, seed) for label, part in parts.items()}
        told = {label: {name: one for name, one in by.items() if _has_both(one)} for label, by in decided.items()}
        found[group] = {label: by for label, by in told.items() if by}
    return {group: by for group, by in found.items() if by}


def _has_both(one: ClassDecision) -> bool:
    """Whether there are records with the class and records without it."""
    return bool(one.n_hits + one.n_misses and one.n_false_alarms + one.n_rightly_silent)


def reliability_of(judged: Judged) -> dict[str, ClassReliability]:
    """Whether probabilities come true, of each class that has positives and negatives here."""
    brier_c = brier(judged.y_rc, judged.score_rc)
    found = {}
    for c, name in enumerate(judged.classes):
        y_r = judged.y_rc[:, c]
        if y_r.any() and not y_r.all():
            bins = reliability(y_r, judged.score_rc[:, c])._asdict()
            found[name] = ClassReliability(brier=round(float(brier_c[c]), 6), **bins)
    return found


def _agreement(judged: Judged) -> Agreement:
    """Bland and Altman's summary of the first column, and the pairs behind it, thinned evenly over the known values."""
    known_r, said_r = judged.y_rc[:, 0], judged.score_rc[:, 0]
    order = np.argsort(known_r, kind="stable")
    shown = order[np.unique(np.linspace(0, len(order) - 1, min(_MOST_PAIRS, len(order))).round().astype(np.int64))]
    pairs = tuple((round(float(known_r[r]), 4), round(float(said_r[r]), 4)) for r in shown)
    return Agreement(**regression.agreement(known_r, said_r)._asdict(), pairs=pairs)
