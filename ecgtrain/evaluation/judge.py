"""Judge a representation: records → protocol → scores with intervals, its nulls beside it; and heads kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ecgstore import Settings, Store, open_store
from ecgtrain import tasks
from ecgtrain.config import NULLS, Downstream, RunConfig
from ecgtrain.data.feed import Part
from ecgtrain.errors import CheckpointError, ProtocolError
from ecgtrain.evaluation import protocols
from ecgtrain.evaluation.heads import Head, save_head
from ecgtrain.evaluation.protocols import Context, Fitted, settings_of
from ecgtrain.evaluation.results import ClassScore, Result, RocCurve
from ecgtrain.evaluation.splits import Split, StoredWindows, refuse_overlap
from ecgtrain.representation.export import Trained
from ecgtrain.representation.nulls import random_backbone
from ecgtrain.scoring import metrics
from ecgtrain.scoring.bootstrap import Interval, Metric, bootstrap, paired_bootstrap
from ecgtrain.tasks import Targets
from ecgtrain.training.files import write_json
from ecgtrain.training.layout import PREDICTIONS, RESULT, SEEN, answer
from ecgtrain.training.prepare import pretrain_of
from ecgtrain.views.passport import Passport

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
        check(question, open_store(question.store or config.data.store))


def refuse_unfair(config: RunConfig, passport: Passport, parts: Sequence[Part]) -> None:
    """Refuse, before anything is trained on ``parts``, a question whose answer could not count.

    Raises LeakageError where a test patient would be seen in pretraining, PassportError where a question's store was
    prepared otherwise than the signals that are trained on.
    """
    seen = [key for part in parts for key in part.store.column("patient_key")[part.rows].tolist()]
    for question in config.downstream:
        store = open_store(question.store or config.data.store)
        passport.refuse_other(store)
        judged = store.column("patient_key")[_rows(question, store)["test"]].tolist()
        refuse_overlap(seen, judged, between="pretraining and test")


def check(question: Downstream, store: Store) -> Settings:
    """Refuse what can be known to be wrong before anything is trained; returns the protocol's settings.

    Raises ConfigError (unknown task, protocol or setting), ProtocolError (folds without a labelled record).
    """
    settings = settings_of(question.protocol, question.settings, where=f"downstream {question.name}")
    targets = tasks.load(question.task).targets(store)
    for name, rows in _rows(question, store).items():
        if name != "validation":
            _refuse_none(targets.labelled(rows), name, question, store)
    return settings


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
    settings = check(question, store)
    patients, rows = store.column("patient_key"), _rows(question, store)
    targets = tasks.load(question.task).targets(store).fittable(rows["train"])
    if pretraining not in NULLS:
        refuse_overlap(seen_patients(run_dir), patients[rows["test"]].tolist(), between="pretraining and test")

    def split(name: str) -> Split:
        labelled = _refuse_none(targets.labelled(rows[name]), name, question, store)
        windows = StoredWindows(store, labelled, trained, question.window_samples, question.stride_samples, device)
        return Split.of(labelled, targets, patients, windows)

    train, test = split("train"), split("test")
    validation = split("validation") if len(targets.labelled(rows["validation"])) else None
    context = Context(targets.classes, trained, seed, device)
    fitted = protocols.fit(train, validation, settings, context, test=test)
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
        caveats=(*fitted.caveats, *targets.caveats),
    )
    _keep(answer(run_dir, question.name, pretraining), question, fitted, result, store, judged, seen=train)
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


def seen_patients(run_dir: Path) -> list[str]:
    """Keys of the patients whose records pretraining learned from (not those it was only validated on)."""
    path = run_dir / SEEN
    if not path.is_file():
        raise CheckpointError("the run doesn't say whom it has seen", where=path, fix="pretrain it again")
    # Not read_table: its threads can abort the process at its end (apache/arrow#34314).
    table = pq.ParquetFile(path).read(columns=["patient_key", "role"], use_threads=False).to_pylist()
    return [row["patient_key"] for row in table if row["role"] == "train" and row["patient_key"]]


def _keep(
    folder: Path,
    question: Downstream,
    fitted: Fitted,
    result: Result,
    store: Store,
    judged: Judged,
    *,
    seen: Split,
) -> None:
    """Head, predictions per test record, result: in the folder of this answer."""
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
        patients=tuple(sorted({key for key in seen.patient_r if key})),
    )
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
