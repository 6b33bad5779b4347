"""Trained heads on another store: nothing is fitted, whoever was seen in training is refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from ecgstore import Store, with_split
from ecgstore.inner import load_split
from ecgtrain import tasks
from ecgtrain.config import NULLS, Downstream
from ecgtrain.data.seen import COLUMNS, more_than_is_known, read_seen, seen_of
from ecgtrain.data.selection import refuse_absent_folds
from ecgtrain.errors import CheckpointError, ProtocolError
from ecgtrain.evaluation import protocols
from ecgtrain.evaluation.answers import REPRESENTATION, identity_of
from ecgtrain.evaluation.heads import Head, load_head
from ecgtrain.evaluation.leaks import refuse_leaks
from ecgtrain.evaluation.protocols import Fitted
from ecgtrain.evaluation.questions import refuse_long_windows
from ecgtrain.evaluation.results import Result
from ecgtrain.evaluation.scored import Judged, decided, difference, groups_of, scores
from ecgtrain.evaluation.splits import Split, StoredWindows
from ecgtrain.representation.export import Trained, load_backbone
from ecgtrain.representation.nulls import load_null
from ecgtrain.tasks import Targets
from ecgtrain.training.files import read_json
from ecgtrain.training.layout import EXPORT, HEAD_ABOUT, QUESTION, SEEN, answers, split_table
from ecgtrain.training.layout import NULLS as KEPT_NULLS
from ecgtrain.views.passport import assumed_calibration

Folds = Sequence[int] | Literal["all"]

#: Of heads that could be judged, so many are named.
_NAMED = 4
_NOT_KEPT = "its null {0} is not judged here: the run keeps no such network; run its recipe again with --resume"


class Asked(NamedTuple):
    """What is asked of all heads alike: see :func:`ecgtrain.evaluation.seeds_elsewhere.judge_elsewhere`."""

    run_dir: Path
    store: Store
    folds: Folds | None
    allow_overlap: bool
    device: torch.device | str


class JudgedHead(NamedTuple):
    """One head on another store: what came of it, and by the same of its nulls. ``seed``: intervals are drawn by it."""

    result: Result
    judged: Judged
    seed: int
    beside: dict[str, tuple[Result, Judged]]


def judged_heads(asked: Asked, names: Sequence[str] = ()) -> list[JudgedHead]:
    """The heads of one run, those called ``names`` or all.

    Raises what :func:`ecgtrain.evaluation.seeds_elsewhere.judge_elsewhere` raises.
    """
    run_dir, device = asked.run_dir, asked.device
    trained = load_backbone(run_dir, device=device)
    trained.passport.refuse_other(asked.store)
    found = [folder for folder in answers(run_dir) if folder.name not in NULLS]
    chosen = [folder for folder in found if not names or folder.parent.name in names]
    if not found:
        fix = "name the run itself" if run_dir.name == EXPORT else "answer a question with it: downstream"
        raise CheckpointError("there is no trained head", where=run_dir, fix=fix)
    if not chosen:
        known = ", ".join(sorted({folder.parent.name for folder in found}))
        raise CheckpointError("the run has no such trained head", where=run_dir, expected=f"one of: {known}")
    heads = []
    for folder in chosen:
        with told_which(folder.parent.name, sorted({its.parent.name for its in chosen})):
            result, judged, seed = _judge_head(folder, trained, asked, [read_seen(run_dir / SEEN)])
        nulls = _nulls_of(folder, run_dir, device)
        beside = {
            name: _judge_head(folder.with_name(name), null, asked, [])[:2]
            for name, null in nulls.items()
            if null is not None
        }
        unknown = tuple(_NOT_KEPT.format(name) for name, null in nulls.items() if null is None)
        heads.append(
            JudgedHead(result.model_copy(update={"caveats": (*result.caveats, *unknown)}), judged, seed, beside)
        )
    return heads


@contextmanager
def told_which(name: str, names: Sequence[str]) -> Iterator[None]:
    """Where one of several heads can't be judged, say which, and how to judge the others all the same."""
    try:
        yield
    except ProtocolError as error:
        others = [one for one in names if one != name]
        if not others:
            raise
        some = " ".join(f"--name {one}" for one in others[:_NAMED]) + (" …" if len(others) > _NAMED else "")
        raise ProtocolError(
            f"the head {name}, one of {len(names)}, can't be judged here: {error}", fix=f"judge the others: {some}"
        ) from error


def results_of(heads: Sequence[JudgedHead]) -> tuple[Result, ...]:
    """Each head with its differences to its nulls, and these behind it, as in the run itself."""
    results: list[Result] = []
    for head in heads:
        gains = {
            name: {metric: one.interval() for metric, one in difference([head.judged], [its], head.seed).items()}
            for name, (_, its) in head.beside.items()
        }
        results.append(head.result.model_copy(update={"difference_to": gains}))
        results += [its for its, _ in head.beside.values()]
    return tuple(results)


def _nulls_of(folder: Path, run_dir: Path, device: torch.device | str) -> dict[str, Trained | None]:
    """The nulls whose heads stand beside that in ``folder``, by name; None where their network was not kept.

    Raises CheckpointError where it is another one than the head was fitted on.
    """
    found: dict[str, Trained | None] = {}
    for name in NULLS:
        beside = folder.with_name(name)
        if not (beside / HEAD_ABOUT).exists():
            continue
        if not (run_dir / KEPT_NULLS / name).exists():
            found[name] = None
            continue
        null = load_null(run_dir, name, device=device)
        if read_json(beside / QUESTION).get(REPRESENTATION) != identity_of(null, name):
            raise CheckpointError(
                f"the run's {name} network is not the one that its head was fitted on",
                where=run_dir / KEPT_NULLS / name,
                fix="run the recipe again with --resume",
            )
        found[name] = null
    return found


class PosedElsewhere(NamedTuple):
    """A head as it is put to another store: the records that it is judged on, ``folds`` or None for all of them."""

    head: Head
    fitted: Fitted
    store: Store
    targets: Targets
    test: Split
    classes: tuple[str, ...]
    folds: Sequence[int] | None
    caveats: tuple[str, ...]

    @property
    def thresholds(self) -> dict[str, float]:
        """Those of the classes that the store has, too."""
        return {name: cut for name, cut in self.head.thresholds.items() if name in self.classes}

    def judged(self) -> Judged:
        """The scores that the head gives the test records."""
        test = self.test
        score_rc = protocols.scores(self.fitted, test)[:, [self.head.classes.index(name) for name in self.classes]]
        return Judged(
            test.y_rc,
            score_rc,
            test.row_r,
            test.patient_r,
            self.classes,
            self.head.kind,
            groups_of(self.store, test.row_r),
            decided(self.targets, test.row_r, self.classes, score_rc, self.thresholds),
            self.targets.places,
        )


def pose_elsewhere(folder: Path, trained: Trained, asked: Asked, seen: Sequence[pa.Table]) -> PosedElsewhere:
    """The head in ``folder`` on the representation it was fitted on, which has ``seen``; nothing is read yet.

    Raises what :func:`ecgtrain.evaluation.seeds_elsewhere.judge_elsewhere` raises.
    """
    head, fitted = load_head(folder, trained, asked.device)
    store, wanted = _under_its_folds(head, asked)
    targets = tasks.load(head.task).targets(store)
    if targets.kind != head.kind:
        raise CheckpointError(
            "the head was fitted for another kind of targets", where=folder, expected=head.kind, got=targets.kind
        )
    chosen = store.select(folds=wanted)
    if len(chosen) == 0:
        raise _none_there(store, head.test_folds, asked.folds)
    _refuse_absent(store, asked.folds)
    rows = _labelled(targets, chosen, store, wanted)
    warnings = refuse_leaks(
        [*seen, _seen_by(folder, head)],
        seen_of(store, rows, "test"),
        between="the run's training and this evaluation",
        allow=asked.allow_overlap,
    )
    warnings += tuple(text for table in seen for text in more_than_is_known(table))
    windows = StoredWindows(store, rows, trained, head.window_samples, head.stride_samples, asked.device)
    test = Split.of(rows, targets, store.column("patient_key"), windows)
    test, classes, unknown = _of_head(test, targets, head)
    said = (*warnings, *fitted.notes(store, test.row_r), *assumed_calibration(store), *targets.caveats, *unknown)
    return PosedElsewhere(head, fitted, store, targets, test, classes, wanted, said)


def refuse_impossible_elsewhere(question: Downstream, store: Store, folds: Folds | None) -> npt.NDArray[np.int64]:
    """Refuse what has no answer on another store, from labels alone; the rows that would be judged there.

    Raises ProtocolError (no record in the folds or in one of them, none with a label), ConfigError where windows are
    longer than every record, and what the task raises.
    """
    asked: Sequence[int] | None = question.test_folds if folds is None or folds == "all" else folds
    # Folds of a split table mean nothing on another store.
    of_table = folds is None and question.split is not None
    has_none = folds is None and not (store.column("fold") >= 0).any()
    wanted = None if folds == "all" or of_table or has_none else asked
    chosen = store.select(folds=wanted)
    if len(chosen) == 0:
        raise _none_there(store, question.test_folds, folds)
    _refuse_absent(store, folds)
    rows = _labelled(tasks.load(question.task).targets(store), chosen, store, wanted)
    refuse_long_windows(question, rows, "the store" if wanted is None else "the chosen folds", store)
    return rows


def _refuse_absent(store: Store, folds: Folds | None) -> None:
    """Folds that were named must be there; of those that a head was tested on, some."""
    if folds is not None and folds != "all":
        refuse_absent_folds(folds, [store], "folds")


def _labelled(
    targets: Targets, chosen: npt.NDArray[np.int64], store: Store, wanted: Sequence[int] | None
) -> npt.NDArray[np.int64]:
    rows = targets.labelled(chosen)
    if len(rows) == 0:
        said = "the chosen folds" if wanted is not None else "the store"
        where, fix = f"{targets.task} on {store.path}", "; ".join(targets.caveats) or None
        raise ProtocolError(f"no record of {said} has a label", where=where, fix=fix)
    return rows


def _judge_head(folder: Path, trained: Trained, asked: Asked, seen: Sequence[pa.Table]) -> tuple[Result, Judged, int]:
    """One head on the representation it was fitted on, which has ``seen``; the seed of its intervals beside it."""
    posed = pose_elsewhere(folder, trained, asked, seen)
    head, store, targets, judged = posed.head, posed.store, posed.targets, posed.judged()
    result = Result(
        name=head.name,
        task=targets.task,
        protocol=head.protocol,
        pretraining=head.pretraining,
        store=store.path,
        store_fingerprint=store.fingerprint,
        folds="all" if posed.folds is None else tuple(int(fold) for fold in posed.folds),
        n_train=head.n_train,
        n_test=len(judged.row_r),
        **scores([judged], targets.titles, targets.unit, head.seed, posed.thresholds),
        thresholds=posed.thresholds,
        dropped_classes={name: "not in this store" for name in head.classes if name not in targets.classes},
        caveats=posed.caveats,
    )
    return result, judged, head.seed


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
    # A head is fitted on somebody: a table without a row was emptied.
    if (folder / SEEN).exists() and (seen := read_seen(folder / SEEN)).num_rows:
        return seen
    n = len(head.patients)
    known = {"patient_key": list(head.patients), "role": ["train"] * n}
    return pa.table({name: pa.array(known.get(name, [None] * n), kind) for name, kind in COLUMNS.items()})


def _under_its_folds(head: Head, asked: Asked) -> tuple[Store, Sequence[int] | None]:
    """The store under the folds that count, and which of them to judge on; None for every record."""
    store, folds = asked.store, asked.folds
    if folds == "all" or (folds is None and head.test_folds is None):
        return store, None
    if head.split and store.split_sha256 is None:
        table = split_table(asked.run_dir, head.split)
        kept = load_split(table)
        if kept.sha256 != head.split:
            raise CheckpointError(
                "the run's copy of a split table is not the one that the head was judged by",
                where=table,
                expected=f"{head.split[:16]}…",
                got=f"{kept.sha256[:16]}…",
            )
        if kept.store_fingerprint in (store.fingerprint, store.attributes.get("parent")):
            store = with_split(store, table)
        elif folds is None:
            return store, None
    if folds is None and not (store.column("fold") >= 0).any():
        return store, None
    return store, head.test_folds if folds is None else folds


def _none_there(store: Store, test_folds: Sequence[int] | None, folds: Folds | None) -> ProtocolError:
    """What to say where the store has none of the folds that are to be judged."""
    there = ", ".join(str(fold) for fold in sorted(set(store.column("fold").tolist()) - {-1})[:20]) or "none"
    return ProtocolError(
        "the store has none of the folds that the head was tested on" if folds is None else "no record is in the folds",
        where=store.path,
        expected=f"some of folds {there}",
        got=", ".join(map(str, (test_folds or ()) if folds is None else folds)),
        fix="name folds of this store, or judge all its records: --folds all, in a recipe folds: all",
    )
