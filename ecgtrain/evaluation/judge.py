"""Judge a representation: records → protocol → scores with intervals, its nulls beside it; and heads kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ecgstore import ConfigError, Settings, Store, open_store
from ecgtrain import tasks
from ecgtrain.config import NULLS, Downstream, RunConfig
from ecgtrain.data.seen import read_seen, seen_of, write_seen
from ecgtrain.errors import ProtocolError
from ecgtrain.evaluation import protocols
from ecgtrain.evaluation.heads import Head, own_files, save_head
from ecgtrain.evaluation.leaks import refuse_leaks
from ecgtrain.evaluation.protocols import Context, Fitted, settings_of
from ecgtrain.evaluation.results import ClassScore, Result, RocCurve
from ecgtrain.evaluation.splits import Split, StoredWindows, UnreadWindows
from ecgtrain.representation.export import Trained
from ecgtrain.representation.nulls import random_backbone
from ecgtrain.scoring import metrics
from ecgtrain.scoring.bootstrap import Interval, Metric, bootstrap, paired_bootstrap
from ecgtrain.tasks import Targets
from ecgtrain.training.files import read_json, write_json
from ecgtrain.training.layout import PREDICTIONS, QUESTION, RESULT, SEEN, answer
from ecgtrain.training.prepare import Prepared, pretrain_of

_PRETRAINING = "pretraining and test"
_REPORTED: tuple[Metric, ...] = ("macro_auroc", "macro_auprc")


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Scores of one representation on the test records: all that a result and a comparison need.

    ``y_rc``, ``score_rc``: (records, classes) in the order of ``row_r``; ``patient_r`` is for the bootstrap.
    """

    y_rc: npt.NDArray[np.bool_]
    score_rc: npt.NDArray[np.float64]
    row_r: npt.NDArray[np.int64]
    patient_r: tuple[str | None, ...]
    classes: tuple[str, ...]


def refuse_unanswerable(config: RunConfig) -> None:
    """Refuse, before anything is trained, a question that can be known to have no answer; see :func:`check`."""
    for question in config.downstream:
        check(question, open_store(question.store or config.data.store), config.seed)


def refuse_unfair(config: RunConfig, made: Prepared) -> None:
    """Refuse, before anything is trained, a question whose answer could not count.

    Raises LeakageError where what is tested would be seen in pretraining, or something would be chosen by it there;
    PassportError where a question's store was prepared otherwise than the signals that are trained on.
    """
    seen = made.seen()
    for question in config.downstream:
        store = open_store(question.store or config.data.store)
        made.passport.refuse_other(store)
        tested = seen_of(store, _rows(question, store)["test"], "test")
        refuse_leaks(seen, tested, between=_PRETRAINING, allow=question.allow_overlap)


def refuse_other_questions(config: RunConfig, run_dir: Path) -> None:
    """Refuse to answer a question once more under other settings: its old answers would be mixed with the new ones.

    Raises ConfigError.
    """
    for question in config.downstream:
        for pretraining in (str(pretrain_of(config).method.model_dump()["name"]), *question.nulls):
            path = answer(run_dir, question.name, pretraining) / QUESTION
            if not path.exists():
                continue
            asked, before = _asked(question, config.seed), read_json(path)
            for key in sorted({*asked, *before}):
                if asked.get(key) != before.get(key):
                    raise ConfigError(
                        f"the question {question.name} was answered with other settings: {key} differs",
                        where=run_dir,
                        expected=json.dumps(before.get(key)),
                        got=json.dumps(asked.get(key)),
                        fix="give the new question another name",
                    )


def _asked(question: Downstream, seed: int) -> dict[str, Any]:
    """What an answer hangs on besides the representation; nulls stand beside it, and the store may have moved."""
    store = open_store(question.store).fingerprint if question.store else "of the run"
    content = question.model_dump(mode="json", exclude={"nulls", "store"})
    return {**content, "store": store, "seed": seed}


def check(question: Downstream, store: Store, seed: int = 0) -> Settings:
    """Refuse what can be known to be wrong before anything is trained, from labels alone; the protocol's settings.

    Raises ConfigError (unknown task, protocol or setting), ProtocolError (folds without a labelled record, or without
    what the protocol needs to fit and to choose), LeakageError (what is learned from or chosen by is tested on).
    """
    settings = settings_of(question.protocol, question.settings, where=f"downstream {question.name}")
    rows = _rows(question, store)
    targets = tasks.load(question.task).targets(store)
    for name, its in rows.items():
        if name != "validation":
            _refuse_none(targets.labelled(its), name, question, store)
    targets = targets.fittable(rows["train"])
    train, validation, _ = (_labels(its, targets, store) for its in rows.values())
    assert train is not None
    protocols.check(train, validation, settings, seed)
    _refuse_own_leaks(question, store, targets)
    return settings


def _labels(rows: npt.NDArray[np.int64], targets: Targets, store: Store) -> Split | None:
    """One side of a question of which only labels and patients are known."""
    labelled, patients = targets.labelled(rows), store.column("patient_key")
    return Split.of(labelled, targets, patients, UnreadWindows()) if len(labelled) else None


def _refuse_own_leaks(question: Downstream, store: Store, targets: Targets) -> tuple[str, ...]:
    """Compare what a head learns from and is chosen by with what it is tested on."""
    train, validation, test = (targets.labelled(its) for its in _rows(question, store).values())
    seen = [seen_of(store, train, "train"), seen_of(store, validation, "selection")]
    tested = seen_of(store, test, "test")
    return refuse_leaks(seen, tested, between="training and test", allow=question.allow_overlap)


def judge_all(
    config: RunConfig,
    trained: Trained,
    run_dir: Path,
    *,
    device: torch.device | str = "cpu",
    say: Callable[[str], None] = lambda _: None,
) -> tuple[Result, ...]:
    """Answer every question of a recipe with the representation and, beside it, with the question's nulls.

    Each result with the method's name has the differences to its nulls. Raises what :func:`judge` raises.
    """
    method = str(pretrain_of(config).method.model_dump()["name"])
    found: list[Result] = []
    for question in config.downstream:
        results: list[Result] = []
        scored: dict[str, Judged] = {}
        for pretraining in (method, *question.nulls):
            say(f"{question.name}: {question.protocol} of {question.task} on {pretraining} features")
            one = trained if pretraining == method else _null(config, pretraining, device)
            store_path = question.store or config.data.store
            result, scored[pretraining] = judge(
                question, one, pretraining, store_path=store_path, run_dir=run_dir, seed=config.seed, device=device
            )
            results.append(result)
        gains = {null: difference(scored[method], scored[null], config.seed) for null in question.nulls}
        found += [results[0].model_copy(update={"difference_to": gains}), *results[1:]]
    return tuple(found)


def _null(config: RunConfig, name: str, device: torch.device | str) -> Trained:
    return random_backbone(config, config.seed, calibrated=name == "random", device=device)


def judge(
    question: Downstream,
    trained: Trained,
    pretraining: str,
    *,
    store_path: str,
    run_dir: Path,
    seed: int,
    device: torch.device | str = "cpu",
) -> tuple[Result, Judged]:
    """Answer one question with one representation; returns the result, as reported, and the scores behind it.

    ``pretraining`` names the representation: the method, or one of the nulls. Raises
    LeakageError where a test patient was seen in pretraining, ProtocolError where the folds hold nothing to
    fit or to judge, PassportError where the store was prepared otherwise than the backbone's signals.
    """
    store = open_store(store_path)
    settings = check(question, store, seed)
    patients, rows = store.column("patient_key"), _rows(question, store)
    targets = tasks.load(question.task).targets(store).fittable(rows["train"])
    warnings = _refuse_own_leaks(question, store, targets)
    if pretraining not in NULLS:
        tested = seen_of(store, targets.labelled(rows["test"]), "test")
        seen = [read_seen(run_dir / SEEN)]
        warnings += refuse_leaks(seen, tested, between=_PRETRAINING, allow=question.allow_overlap)

    def split(name: str) -> Split:
        labelled = _refuse_none(targets.labelled(rows[name]), name, question, store)
        windows = StoredWindows(store, labelled, trained, question.window_samples, question.stride_samples, device)
        return Split.of(labelled, targets, patients, windows)

    train, test = split("train"), split("test")
    validation = split("validation") if len(targets.labelled(rows["validation"])) else None
    context = Context(targets.classes, trained, seed, device)
    fitted = protocols.fit(train, validation, settings, context, test=None if question.allow_overlap else test)
    judged = Judged(test.y_rc, protocols.scores(fitted, test), test.row_r, test.patient_r, fitted.classes)
    result = Result(
        name=question.name,
        task=question.task,
        protocol=question.protocol,
        pretraining=pretraining,
        store=store.path,
        store_fingerprint=store.fingerprint,
        n_train=fitted.n_train,
        n_validation=fitted.n_validation,
        n_test=len(test.row_r),
        **scores(judged, targets, seed),
        chosen=fitted.chosen,
        unfitted_classes=fitted.unfitted,
        dropped_classes=targets.dropped,
        caveats=(*fitted.caveats, *dict.fromkeys(warnings), *targets.caveats),
    )
    seen_here = [seen_of(store, train.row_r, "train")]
    seen_here += [] if validation is None else [seen_of(store, validation.row_r, "selection")]
    _keep(answer(run_dir, question.name, pretraining), question, fitted, result, store, judged, seen_here, seed)
    return result, judged


def _rows(question: Downstream, store: Store) -> dict[str, npt.NDArray[np.int64]]:
    return {
        "train": store.select(folds=question.train_folds),
        "validation": store.select(folds=question.validation_folds),
        "test": store.select(folds=question.test_folds),
    }


def _refuse_none(
    labelled: npt.NDArray[np.int64], name: str, question: Downstream, store: Store
) -> npt.NDArray[np.int64]:
    if len(labelled) == 0:
        raise ProtocolError(f"no record of the {name} folds has a label", where=f"{question.task} on {store.path}")
    return labelled


def scores(judged: Judged, targets: Targets, seed: int) -> dict[str, Any]:
    """The parts of a result that follow from scores.

    Macro scores with their bootstrap intervals over patients, the per-class table, the ROC curves.
    """
    y_rc, score_rc = judged.y_rc, judged.score_rc
    per_class = metrics.per_class(y_rc, score_rc, judged.classes, targets.titles)
    roc = metrics.roc_curves(y_rc, score_rc, judged.classes)
    return {
        "metrics": {name: bootstrap(y_rc, score_rc, judged.patient_r, name, seed=seed) for name in _REPORTED},
        "per_class": {name: ClassScore(**one) for name, one in per_class.items()},
        "roc": {name: RocCurve(fpr=tuple(one["fpr"]), tpr=tuple(one["tpr"])) for name, one in roc.items()},
    }


def difference(one: Judged, null: Judged, seed: int) -> dict[str, Interval]:
    """Score of ``one`` minus that of ``null`` on the same resamples of patients, with its interval."""
    return {
        name: paired_bootstrap(one.y_rc, one.score_rc, null.score_rc, one.patient_r, name, seed=seed)
        for name in _REPORTED
    }


def _keep(
    folder: Path,
    question: Downstream,
    fitted: Fitted,
    result: Result,
    store: Store,
    judged: Judged,
    seen: Sequence[pa.Table],
    seed: int,
) -> None:
    """Head, whom it has seen, predictions per test record, result: in the folder of this answer."""
    head = Head(
        name=question.name,
        task=question.task,
        protocol=question.protocol,
        pretraining=result.pretraining,
        classes=fitted.classes,
        window_samples=question.window_samples,
        stride_samples=question.stride_samples,
        test_folds=question.test_folds,
        n_train=fitted.n_train,
        patients=tuple(sorted({key for its in seen for key in its["patient_key"].to_pylist() if key})),
        own_files=own_files(question.task),
        seed=seed,
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_seen(folder / SEEN, seen, store.fingerprint)
    save_head(folder, head, fitted)
    columns: dict[str, Any] = {
        "record_id": pa.array(store.column("record_id")[judged.row_r].tolist()),
        "row": pa.array(judged.row_r),
    }
    for c, name in enumerate(judged.classes):
        columns[f"probability:{name}"] = pa.array(judged.score_rc[:, c])
        columns[f"stated:{name}"] = pa.array(judged.y_rc[:, c])
    pq.write_table(pa.table(columns), folder / PREDICTIONS)
    write_json(folder / RESULT, result.as_json())
    write_json(folder / QUESTION, _asked(question, seed))
