"""Trained heads on another store: nothing is fitted, whoever was seen in training is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import torch

from ecgstore import Store, open_store
from ecgtrain import tasks
from ecgtrain.config import NULLS
from ecgtrain.data.seen import COLUMNS, read_seen, seen_of
from ecgtrain.errors import CheckpointError, ProtocolError
from ecgtrain.evaluation import protocols
from ecgtrain.evaluation.heads import Head, load_head
from ecgtrain.evaluation.leaks import refuse_leaks
from ecgtrain.evaluation.results import Result
from ecgtrain.evaluation.scored import Judged, decided, scores
from ecgtrain.evaluation.splits import Split, StoredWindows
from ecgtrain.representation.export import Trained, load_backbone
from ecgtrain.tasks import Targets
from ecgtrain.training.layout import SEEN, answers

Folds = Sequence[int] | Literal["all"]


def judge_elsewhere(
    run_dir: str | Path,
    store_path: str,
    *,
    folds: Folds | None = None,
    names: Sequence[str] = (),
    allow_overlap: bool = False,
    device: torch.device | str = "cpu",
) -> tuple[Result, ...]:
    """Apply the trained heads of a run to another store, without fitting anything; one result per head.

    ``folds``: which records to judge, ``all`` for every one; by default the test folds that each head was
    judged on, and all records where the store has no folds.

    Raises CheckpointError (nothing trained in ``run_dir``), PassportError (the store was prepared otherwise),
    LeakageError (patients that backbone or head were trained on, unless ``allow_overlap``, which is then said
    in the result), ProtocolError (no record with a label).
    """
    run_dir, store = Path(run_dir), open_store(store_path)
    trained = load_backbone(run_dir, device=device)
    trained.passport.refuse_other(store)
    found = [folder for folder in answers(run_dir) if folder.name not in NULLS]
    chosen = [folder for folder in found if not names or folder.parent.name in names]
    if not chosen:
        known = ", ".join(sorted({folder.parent.name for folder in found})) or "none"
        raise CheckpointError("the run has no such trained head", where=run_dir, expected=f"one of: {known}")
    return tuple(_judge_head(folder, run_dir, store, trained, folds, allow_overlap, device) for folder in chosen)


def _judge_head(
    folder: Path,
    run_dir: Path,
    store: Store,
    trained: Trained,
    folds: Folds | None,
    allow_overlap: bool,
    device: torch.device | str,
) -> Result:
    head, fitted = load_head(folder, trained, device)
    wanted = _wanted_folds(store, head.test_folds, folds)
    targets = tasks.load(head.task).targets(store)
    if targets.kind != head.kind:
        raise CheckpointError(
            "the head was fitted for another kind of targets", where=folder, expected=head.kind, got=targets.kind
        )
    rows = targets.labelled(store.select(folds=wanted))
    if len(rows) == 0:
        said = "the chosen folds" if wanted is not None else "the store"
        raise ProtocolError(f"no record of {said} has a label", where=f"{targets.task} on {store.path}")
    patients = store.column("patient_key")
    warnings = refuse_leaks(
        [read_seen(run_dir / SEEN), _seen_by(folder, head)],
        seen_of(store, rows, "test"),
        between="the run's training and this evaluation",
        allow=allow_overlap,
    )
    windows = StoredWindows(store, rows, trained, head.window_samples, head.stride_samples, device)
    test = Split.of(rows, targets, patients, windows)
    test, classes, unknown = _of_head(test, targets, head)
    score_rc = protocols.scores(fitted, test)[:, [head.classes.index(name) for name in classes]]
    thresholds = {name: cut for name, cut in head.thresholds.items() if name in classes}
    judged = Judged(
        test.y_rc,
        score_rc,
        test.row_r,
        test.patient_r,
        classes,
        head.kind,
        tuple(store.column("site")[test.row_r].tolist()),
        decided(targets, test.row_r, classes, score_rc, thresholds),
    )
    return Result(
        name=head.name,
        task=targets.task,
        protocol=head.protocol,
        pretraining=head.pretraining,
        store=store.path,
        store_fingerprint=store.fingerprint,
        folds="all" if wanted is None else tuple(int(fold) for fold in wanted),
        n_train=head.n_train,
        n_test=len(test.row_r),
        **scores([judged], targets.titles, targets.unit, head.seed),
        thresholds=thresholds,
        dropped_classes={name: "not in this store" for name in head.classes if name not in targets.classes},
        caveats=(*warnings, *targets.caveats, *unknown),
    )


def _of_head(test: Split, targets: Targets, head: Head) -> tuple[Split, tuple[str, ...], tuple[str, ...]]:
    """The records with their targets by the classes of the head; those classes; and what has to be said.

    Of classes that exclude each other all stay, as the head may say any; a record of another class takes no part.
    """
    shared = tuple(name for name in head.classes if name in targets.classes)
    if not shared:
        raise ProtocolError(
            "the head knows none of the classes of this store",
            where=targets.task,
            expected=", ".join(head.classes[:10]),
            got=", ".join(targets.classes[:10]),
        )
    if head.kind != "exclusive":
        y_rc = test.y_rc[:, [targets.classes.index(name) for name in shared]]
        return replace(test, y_rc=y_rc), shared, ()
    y_rc = np.zeros((len(test.row_r), len(head.classes)), dtype=np.bool_)
    for c, name in enumerate(head.classes):
        if name in targets.classes:
            y_rc[:, c] = test.y_rc[:, targets.classes.index(name)]
    is_known_r = y_rc.any(axis=1)
    if not is_known_r.any():
        raise ProtocolError("no record is of a class that the head knows", where=targets.task)
    others = int((~is_known_r).sum())
    said = (f"{others} records took no part: the head doesn't know their class",) if others else ()
    return replace(test, y_rc=y_rc).only(test.row_r[is_known_r]), head.classes, said


def _seen_by(folder: Path, head: Head) -> pa.Table:
    """What a head was fitted on and chosen by; of one of an older version only patients are known."""
    if (folder / SEEN).exists():
        return read_seen(folder / SEEN)
    n = len(head.patients)
    known = {"patient_key": list(head.patients), "role": ["train"] * n}
    return pa.table({name: pa.array(known.get(name, [None] * n), kind) for name, kind in COLUMNS.items()})


def _wanted_folds(store: Store, test_folds: Sequence[int], folds: Folds | None) -> Sequence[int] | None:
    """Which folds of ``store`` to judge on; None for every record."""
    if folds == "all" or (folds is None and not (store.column("fold") >= 0).any()):
        return None
    return test_folds if folds is None else folds
