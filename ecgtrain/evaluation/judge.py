"""Judge a representation: records → protocol → scores with intervals, its nulls beside it; and heads kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from ecgstore import ConfigError, Settings, Store
from ecgtrain import tasks
from ecgtrain.config import NO_PRETRAINING, NULLS, Downstream, RunConfig
from ecgtrain.data.changed import Change
from ecgtrain.data.seen import more_than_is_known, read_seen, seen_of, trained_on_before
from ecgtrain.data.selection import open_under
from ecgtrain.errors import ProtocolError
from ecgtrain.evaluation import protocols
from ecgtrain.evaluation.answers import identity_of, keep, kept, representations_of
from ecgtrain.evaluation.classifier import refuse_heads
from ecgtrain.evaluation.leaks import refuse_leaks
from ecgtrain.evaluation.protocols import Context, Fitted, settings_of
from ecgtrain.evaluation.questions import questions, refuse_impossible, refuse_none, sides, store_of, targets_of
from ecgtrain.evaluation.results import Result
from ecgtrain.evaluation.scored import Judged, decided, difference, groups_of, of_a_constant, scores, thresholds
from ecgtrain.evaluation.splits import Split, StoredWindows, UnreadWindows
from ecgtrain.representation.export import Trained
from ecgtrain.representation.nulls import keep_null, load_null
from ecgtrain.scoring.seeds import OverSeeds, holm
from ecgtrain.tasks import Targets
from ecgtrain.training.initial import TakenOver
from ecgtrain.training.layout import SEEN, answer
from ecgtrain.training.prepare import Prepared

_PRETRAINING = "pretraining and test"


def refuse_unanswerable(config: RunConfig) -> None:
    """Refuse, before anything is trained, a question that can be known to have no answer; see :func:`check`."""
    for question in questions(config):
        check(question, store_of(question, config), config.seed)


def refuse_unfair(config: RunConfig, made: Prepared | TakenOver) -> None:
    """Refuse, before anything is trained, a question whose answer could not count.

    Raises LeakageError where what is tested would be seen in pretraining, or something would be chosen by it there;
    PassportError where a question's store was prepared otherwise than the signals that are trained on; ConfigError
    where a head doesn't fit the network.
    """
    seen = made.seen()
    for question in questions(config):
        store = store_of(question, config)
        made.passport.refuse_other(store)
        where = f"downstream {question.name}"
        refuse_heads(settings_of(question.protocol, question.settings, where=where), made.backbone, where)
        tested = seen_of(store, sides(question, store)["test"], "test")
        if seen:
            refuse_leaks(seen, tested, between=_PRETRAINING, allow=question.allow_overlap)


def check(question: Downstream, store: Store, seed: int = 0) -> Settings:
    """Refuse what can be known to be wrong before anything is trained, from labels alone; the protocol's settings.

    Raises ConfigError (unknown task, protocol or setting), ProtocolError (folds without a labelled record, without a
    class that was named, or without what the protocol needs to fit and to choose), LeakageError (what is learned from
    or chosen by is tested on).
    """
    where = f"downstream {question.name}"
    with _named(where):
        return _checked(question, store, seed, where)


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Say which question it is that something is wrong with, where that isn't said already."""
    try:
        yield
    except (ConfigError, ProtocolError) as error:
        if type(error) not in (ConfigError, ProtocolError) or where in str(error):
            raise
        told = where if error.where is None else f"{where}, {error.where}"
        raise type(error)(error.what, where=told, expected=error.expected, got=error.got, fix=error.fix) from error


def _checked(question: Downstream, store: Store, seed: int, where: str) -> Settings:
    settings = settings_of(question.protocol, question.settings, where=where)
    if question.nulls and not protocols.uses_pretraining(question.protocol):
        raise ConfigError(
            f"{question.protocol} uses no pretraining, so it has no nulls", where=where, fix="leave nulls out"
        )
    rows = sides(question, store)
    targets = targets_of(question, store)
    refuse_impossible(question, targets, rows, store)
    try:
        protocols.check(*labelled_sides(question, store), settings, seed)
    except ProtocolError as error:
        if not targets.caveats:
            raise
        # Records that took no part may be why.
        raise ProtocolError(f"{error}; {'; '.join(targets.caveats)}") from error
    _refuse_own_leaks(question, store, targets.fittable(rows["train"]))
    return settings


def labelled_sides(question: Downstream, store: Store) -> tuple[Split, Split | None]:
    """Training and validation records of a question of which labels and patients alone are known."""
    rows = sides(question, store)
    targets = targets_of(question, store).fittable(rows["train"])
    train, validation = (_labels(rows[name], targets, store) for name in ("train", "validation"))
    assert train is not None
    return train, validation


def _labels(rows: npt.NDArray[np.int64], targets: Targets, store: Store) -> Split | None:
    """One side of a question of which only labels and patients are known."""
    labelled, patients = targets.labelled(rows), store.column("patient_key")
    return Split.of(labelled, targets, patients, UnreadWindows()) if len(labelled) else None


def _refuse_own_leaks(question: Downstream, store: Store, targets: Targets) -> tuple[str, ...]:
    """Compare what a head learns from and is chosen by with what it is tested on."""
    train, validation, test = (targets.labelled(its) for its in sides(question, store).values())
    seen = [seen_of(store, train, "train"), seen_of(store, validation, "selection")]
    tested = seen_of(store, test, "test")
    return refuse_leaks(seen, tested, between="training and test", allow=question.allow_overlap)


class Answered(NamedTuple):
    """Every answer of a run: as it is told, and the scores behind it, by question and by pretraining."""

    results: tuple[Result, ...]
    judged: Mapping[str, Mapping[str, Judged]]


def judge_all(
    config: RunConfig,
    trained: Trained,
    run_dir: Path,
    *,
    device: torch.device | str = "cpu",
    say: Callable[[str], None] = lambda _: None,
    tell: Callable[[int, int], None] = lambda done, total: None,
    resume: bool = False,
) -> Answered:
    """Answer every question of a recipe with the representation and, beside it, with the question's nulls.

    With ``resume``, answers that are there and still hold are kept. ``tell`` is told how many steps are done, of how
    many, where a protocol trains a network. Each result with the method's name has the differences to its nulls, and
    to what it is to be compared to. Raises what :func:`judge` raises.
    """
    results: list[Result] = []
    judged: dict[str, dict[str, Judged]] = {}
    nulls = {
        name: keep_null(config, run_dir, name, trained.passport, device=device)
        for name in NULLS
        if any(name in question.nulls for question in config.downstream)
    }
    for question in questions(config):
        scored = judged[question.name] = {}
        for pretraining in representations_of(config, question):
            on = protocols.stands_on(question.protocol) if pretraining == NO_PRETRAINING else f"{pretraining} features"
            told = f"{question.name}: {question.protocol} of {tasks.name_of(question.task)} on {on}"
            result, scored[pretraining] = judge(
                question,
                nulls[pretraining] if pretraining in NULLS else trained,
                pretraining,
                store_path=question.store or config.data.store,
                run_dir=run_dir,
                seed=config.seed,
                device=device,
                say=partial(_say, say, told),
                tell=tell,
                resume=resume,
            )
            results.append(result)
    return Answered(compared(config, results, [judged]), judged)


def compared(
    config: RunConfig, results: Sequence[Result], judged_s: Sequence[Mapping[str, Mapping[str, Judged]]]
) -> tuple[Result, ...]:
    """The results, each with its differences to its nulls and to what it is to be compared to.

    ``judged_s``: of each seed the scores, by question and by pretraining. Of several seeds, how surprising each
    difference is, corrected for how many there are on the same records.
    """
    by_name = {question.name: question for question in questions(config)}
    differences: dict[tuple[str, str], dict[str, OverSeeds]] = {}
    told = []
    for result in results:
        question, its = by_name[result.name], [judged[result.name] for judged in judged_s]
        if result.pretraining == next(iter(its[0])):
            ones = [one[result.pretraining] for one in its]
            others: dict[str, list[Judged]] = {null: [one[null] for one in its] for null in question.nulls}
            others |= {name: [next(iter(judged[name].values())) for judged in judged_s] for name in question.compare_to}
            found = {name: difference(ones, other, config.seed) for name, other in others.items()}
            differences |= {(result.name, name): one for name, one in found.items()}
            spans = {name: {metric: one.interval() for metric, one in by.items()} for name, by in found.items()}
            told.append(result.model_copy(update={"difference_to": spans}))
        else:
            told.append(result)
    return tuple(told) if len(judged_s) == 1 else with_p_values(told, differences)


def with_p_values(
    results: Sequence[Result], differences: Mapping[tuple[str, str], Mapping[str, OverSeeds]]
) -> tuple[Result, ...]:
    """The same with p-values, corrected for their number among the results on the same records (Holm, 1979)."""
    told = []
    for result in results:
        table = [one for one in results if (one.asked, one.store) == (result.asked, result.store)]
        pairs = {(one.name, other): one.compared_by for one in table for other in one.difference_to}
        p_values = holm({" ".join(pair): differences[pair][metric].p_value() for pair, metric in pairs.items()})
        own = {other: p_values[f"{result.name} {other}"] for other in result.difference_to}
        told.append(result.model_copy(update={"p_of_difference": own}))
    return tuple(told)


def _say(say: Callable[[str], None], told: str, is_kept: bool) -> None:
    say(f"{told}, answered before" if is_kept else told)


def representation(run_dir: Path, trained: Trained, pretraining: str, device: torch.device | str) -> Trained:
    """``trained`` itself, or the null of the run that ``pretraining`` names."""
    return load_null(run_dir, pretraining, device=device) if pretraining in NULLS else trained


class Posed(NamedTuple):
    """A question as it is put to one representation: the records of its sides, and what it is to be read with."""

    question: Downstream
    settings: Settings
    store: Store
    targets: Targets
    train: Split
    validation: Split | None
    test: Split
    context: Context
    warnings: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """What is to be predicted."""
        return self.targets.classes

    def changed(self, change: Change) -> Split:
        """The test records, with that done to each."""
        windows = replace(cast(StoredWindows, self.test.windows), change=change)
        return replace(self.test, windows=windows)

    def judged(self, fitted: Fitted, thresholds: Mapping[str, float], test: Split | None = None) -> Judged:
        """The scores that ``fitted`` gives the test records, or ``test``."""
        test = self.test if test is None else test
        score_rc = protocols.scores(fitted, test)
        return Judged(
            test.y_rc,
            score_rc,
            test.row_r,
            test.patient_r,
            fitted.classes,
            self.targets.kind,
            groups_of(self.store, test.row_r),
            decided(self.targets, test.row_r, fitted.classes, score_rc, thresholds),
            self.targets.places,
        )


def pose(
    question: Downstream,
    trained: Trained,
    pretraining: str,
    *,
    store_path: str,
    run_dir: Path,
    seed: int,
    device: torch.device | str = "cpu",
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Posed:
    """Everything that is needed to answer; nothing is read or computed yet. Raises what :func:`judge` raises."""
    store = open_under(store_path, question.split)
    settings = check(question, store, seed)
    patients, rows = store.column("patient_key"), sides(question, store)
    targets = targets_of(question, store).fittable(rows["train"])
    warnings = _refuse_own_leaks(question, store, targets)
    if pretraining not in (*NULLS, NO_PRETRAINING):
        tested = seen_of(store, targets.labelled(rows["test"]), "test")
        seen = [read_seen(run_dir / SEEN)]
        warnings += refuse_leaks(seen, tested, between=_PRETRAINING, allow=question.allow_overlap)
        warnings += (*_site_was_seen(question, seen), *more_than_is_known(seen[0]))
        warnings += _chosen_by_the_seen(seen, seen_of(store, targets.labelled(rows["validation"]), "selection"))

    def split(name: str) -> Split:
        labelled = refuse_none(targets.labelled(rows[name]), name, question, f"{targets.task} on {store.path}")
        windows = StoredWindows(store, labelled, trained, question.window_samples, question.stride_samples, device)
        return Split.of(labelled, targets, patients, windows)

    return Posed(
        question,
        settings,
        store,
        targets,
        train=split("train"),
        validation=split("validation") if len(targets.labelled(rows["validation"])) else None,
        test=split("test"),
        context=Context(targets.classes, trained, seed, device, kind=targets.kind, tell=tell),
        warnings=warnings,
    )


def judge(
    question: Downstream,
    trained: Trained,
    pretraining: str,
    *,
    store_path: str,
    run_dir: Path,
    seed: int,
    device: torch.device | str = "cpu",
    say: Callable[[bool], None] = lambda is_kept: None,
    tell: Callable[[int, int], None] = lambda done, total: None,
    resume: bool = False,
) -> tuple[Result, Judged]:
    """Answer one question with one representation; returns the result, as reported, and the scores behind it.

    ``pretraining`` names the representation: the method, or one of the nulls. With ``resume`` an answer that is there
    and still holds is kept; ``say`` is told whether it is. Raises
    LeakageError where a test patient was seen in pretraining, ProtocolError where the folds hold nothing to
    fit or to judge, PassportError where the store was prepared otherwise than the backbone's signals.
    """
    posed = pose(
        question, trained, pretraining, store_path=store_path, run_dir=run_dir, seed=seed, device=device, tell=tell
    )
    store, targets, train, validation, test = posed.store, posed.targets, posed.train, posed.validation, posed.test
    folder, identity = answer(run_dir, question.name, pretraining), identity_of(trained, pretraining)
    before = kept(folder, question, seed, trained, identity, device) if resume else None
    say(before is not None)
    if before is None:
        fitted = fit(posed)
        cut = thresholds(targets, fitted, validation)
    else:
        fitted, cut = before[1], dict(before[0].thresholds)
    judged = posed.judged(fitted, cut)
    if before is not None:
        return before[0], judged
    warnings = posed.warnings
    if targets.challenge is not None and not cut:
        warnings += ("the challenge's score needs thresholds, and there are no validation records to choose them by",)
    result = Result(
        name=question.name,
        task=targets.task,
        protocol=question.protocol,
        pretraining=pretraining,
        store=store.path,
        store_fingerprint=store.fingerprint,
        n_train=fitted.n_train,
        n_validation=fitted.n_validation,
        n_test=len(test.row_r),
        **scores([judged], targets.titles, targets.unit, seed, cut),
        of_a_constant=of_a_constant(targets, train.row_r, judged),
        thresholds=cut,
        left_out_site=question.leave_out_site,
        chosen=fitted.chosen,
        unfitted_classes=fitted.unfitted,
        dropped_classes=targets.dropped,
        caveats=(*fitted.caveats, *dict.fromkeys(warnings), *targets.caveats),
    )
    seen_here = [seen_of(store, train.row_r, "train")]
    seen_here += [] if validation is None else [seen_of(store, validation.row_r, "selection")]
    keep(folder, question, fitted, result, store, judged, seen_here, seed, identity)
    return result, judged


def fit(posed: Posed, **changed: Any) -> Fitted:
    """Fit by the question's protocol; ``changed``: settings of it, and ``seed``, that differ from the question's."""
    context = replace(posed.context, seed=changed.pop("seed", posed.context.seed))
    settings = posed.settings.model_copy(update=changed)
    test = None if posed.question.allow_overlap else posed.test
    return protocols.fit(posed.train, posed.validation, settings, context, test=test)


def _chosen_by_the_seen(seen: Sequence[pa.Table], validation: pa.Table) -> tuple[str, ...]:
    """Whether pretraining has learned from what a head is chosen by, in words; the test is as it should be."""
    n = trained_on_before(seen, validation)
    if not n:
        return ()
    return (
        f"{n} of {validation.num_rows} validation records taught in pretraining: what is chosen by them may suit "
        "records that were never seen less well",
    )


def _site_was_seen(question: Downstream, seen: Sequence[pa.Table]) -> tuple[str, ...]:
    """Whether the network has seen other records of a site that is left out, in words."""
    sites = {site for table in seen for site in table["site"].to_pylist()}
    if question.leave_out_site is None or question.leave_out_site not in sites:
        return ()
    return (
        f"pretraining saw other records of {question.leave_out_site}, without labels; leave them out by data.sites to "
        "ask what a site that was never seen gets",
    )
