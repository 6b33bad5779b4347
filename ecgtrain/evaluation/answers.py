"""Answers on disk: what was asked of which representation, head, predictions, result; and whether they still hold."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ecgstore import ConfigError, EcgError, Store, open_shared
from ecgstore.inner import innermost_difference, load_split
from ecgtrain.config import NO_PRETRAINING, Downstream, RunConfig
from ecgtrain.data.seen import write_seen
from ecgtrain.evaluation import protocols
from ecgtrain.evaluation.heads import Head, load_head, own_files, save_head
from ecgtrain.evaluation.protocols import Fitted
from ecgtrain.evaluation.questions import questions
from ecgtrain.evaluation.results import Result, result_of
from ecgtrain.evaluation.scored import Judged
from ecgtrain.representation.export import Trained
from ecgtrain.representation.initial import sha256_of
from ecgtrain.tasks import own_file_of, with_file
from ecgtrain.training.files import read_json, write_json
from ecgtrain.training.layout import PREDICTIONS, QUESTION, RESULT, SEEN, answer
from ecgtrain.training.prepare import pretrain_of

#: What in a question's file says which representation it was put to.
REPRESENTATION = "representation"


def representations_of(config: RunConfig, question: Downstream) -> tuple[str, ...]:
    """What a question is put to, by name: the method's representation and the question's nulls; or a fresh network."""
    if not protocols.uses_pretraining(question.protocol):
        return (NO_PRETRAINING,)
    return (str(pretrain_of(config).method.model_dump()["name"]), *question.nulls)


def refuse_other_questions(config: RunConfig, run_dir: Path) -> None:
    """Refuse to answer a question once more under other settings: its old answers would be mixed with the new ones.

    Raises ConfigError.
    """
    for question in questions(config):
        for pretraining in representations_of(config, question):
            path = answer(run_dir, question.name, pretraining) / QUESTION
            if not path.exists():
                continue
            asked, before = asked_of(question, config.seed), read_json(path)
            for key in sorted({*asked, *before} - {REPRESENTATION}):
                if asked.get(key) != before.get(key):
                    differs = innermost_difference({key: before.get(key)}, {key: asked.get(key)})
                    assert differs is not None
                    raise ConfigError(
                        f"the question {question.name} was answered with other settings: {differs.name} differs",
                        where=run_dir,
                        expected=differs.one,
                        got=differs.other,
                        fix="give the new question another name",
                    )


def asked_of(question: Downstream, seed: int) -> dict[str, Any]:
    """What an answer hangs on besides the representation; nulls stand beside it, and the store may have moved."""
    store = open_shared(question.store).fingerprint if question.store else "of the run"
    content = question.model_dump(mode="json", exclude={"nulls", "store", "split", "compare_to"})
    if question.leave_out_site is None:
        del content["leave_out_site"]  # answers of before don't name it
    code = own_files(question.task)
    folds = {} if question.split is None else {"split": load_split(question.split).sha256}
    return {**content, "store": store, "seed": seed, **folds, **({"own_files": code} if code else {})}


def identity_of(trained: Trained, pretraining: str) -> str:
    """SHA-256 of a representation: its architecture, how its signals are prepared, and its weights.

    Of a network that is trained from scratch the weights don't count: they are not used.
    """
    return sha256_of(trained, weights=pretraining != NO_PRETRAINING)


def kept(
    folder: Path, question: Downstream, seed: int, trained: Trained, identity: str, device: torch.device | str
) -> tuple[Result, Fitted] | None:
    """An answer that is there and whole, to this very question, by this very representation; None where it isn't."""
    try:
        asked = read_json(folder / QUESTION)
        if asked != json.loads(json.dumps({**asked_of(question, seed), REPRESENTATION: identity})):
            return None
        return result_of(read_json(folder / RESULT), folder / RESULT), load_head(folder, trained, device)[1]
    except (OSError, EcgError):
        return None  # it is given once more


def keep(
    folder: Path,
    question: Downstream,
    fitted: Fitted,
    result: Result,
    store: Store,
    judged: Judged,
    seen: Sequence[pa.Table],
    seed: int,
    identity: str,
) -> None:
    """Head, whom it has seen, predictions per test record, result: in the folder of this answer."""
    own = own_file_of(question.task)
    head = Head(
        name=question.name,
        task=question.task if own is None else with_file(question.task, Path(own).name),
        kind=judged.kind,
        thresholds=dict(result.thresholds),
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
        split=store.split_sha256 or "",
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / QUESTION).unlink(missing_ok=True)
    write_seen(folder / SEEN, seen, store.fingerprint)
    save_head(folder, head, fitted)
    columns: dict[str, Any] = {
        "record_id": pa.array(store.column("record_id")[judged.row_r].tolist()),
        "row": pa.array(judged.row_r),
    }
    said = "predicted" if judged.kind == "regression" else "probability"
    for c, name in enumerate(judged.classes):
        columns[f"{said}:{name}"] = pa.array(judged.score_rc[:, c])
        columns[f"stated:{name}"] = pa.array(judged.y_rc[:, c])
    pq.write_table(pa.table(columns), folder / PREDICTIONS)
    write_json(folder / RESULT, result.as_json())
    # Last: an answer without it is not whole.
    write_json(folder / QUESTION, {**asked_of(question, seed), REPRESENTATION: identity})
