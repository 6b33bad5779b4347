"""Judge a representation: features → protocol → scores with intervals, its nulls beside it; and heads kept.

downstream/<question>/<pretraining>/
  result.json          what the report shows, and what it was computed from
  head.safetensors     the fitted head, for raw pooled features        head.json   its classes and windows
  predictions.parquet  one row per test record: probabilities and what is stated
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ecgstore import Store, open_store
from ecgtrain import tasks
from ecgtrain.config import NULLS, Downstream
from ecgtrain.errors import CheckpointError, ProtocolError
from ecgtrain.evaluation import heads
from ecgtrain.evaluation.protocols import Split, refuse_overlap, settings_of, tile_average
from ecgtrain.evaluation.protocols.linear_probe import ProbeResult, Settings, linear_probe
from ecgtrain.representation.export import Trained, load_backbone
from ecgtrain.representation.extract import window_features
from ecgtrain.scoring import metrics
from ecgtrain.scoring.bootstrap import Metric, bootstrap, paired_bootstrap
from ecgtrain.tasks import Targets
from ecgtrain.training.files import plain
from ecgtrain.training.layout import SEEN

FOLDER = "downstream"
_REPORTED: tuple[Metric, ...] = ("macro_auroc", "macro_auprc")
RESULT, HEAD, HEAD_ABOUT, PREDICTIONS = "result.json", "head.safetensors", "head.json", "predictions.parquet"


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Scores of one representation on the test records: all that a result and a comparison need."""

    y_rc: npt.NDArray[np.bool_]
    score_rc: npt.NDArray[np.float64]
    row_r: npt.NDArray[np.int64]
    patient_r: tuple[str | None, ...]
    classes: tuple[str, ...]


def judge(
    question: Downstream,
    trained: Trained,
    pretraining: str,
    *,
    store_path: str,
    run_dir: Path,
    seed: int,
    device: torch.device | str = "cpu",
) -> tuple[dict[str, Any], Judged]:
    """Answer one question with one representation; returns the result, as reported, and the scores behind it.

    ``pretraining`` names the representation: the method, or one of the nulls. Raises
    LeakageError where a test patient was seen in pretraining, ProtocolError where the folds hold nothing to
    fit or to judge, PassportError where the store was prepared otherwise than the backbone's signals.
    """
    store = open_store(store_path)
    settings = check(question, store)
    patients = store.column("patient_key")
    rows = _rows(question, store)
    targets = tasks.load(question.task).targets(store).fittable(rows["train"])
    if pretraining not in NULLS:
        refuse_overlap(seen_patients(run_dir), patients[rows["test"]].tolist(), between="pretraining and test")
    splits: dict[str, Split] = {}
    for name, chosen in rows.items():
        labelled = targets.labelled(chosen)
        if len(labelled) == 0:
            if name == "validation":
                continue
            raise ProtocolError(f"no record of the {name} folds has a label", where=f"{question.task} on {store.path}")
        features = window_features(
            trained.backbone,
            store,
            labelled,
            passport=trained.passport,
            window_samples=question.window_samples,
            stride_samples=question.stride_samples,
            device=device,
        )
        splits[name] = Split.of(features.features_nd, features.record_row_n, targets, patients)
    probe = linear_probe(
        splits["train"], splits.get("validation"), splits["test"], targets.classes, settings, seed=seed, device=device
    )
    judged = Judged(probe.y_rc, probe.score_rc, probe.row_r, probe.patient_r, probe.classes)
    result = {
        "name": question.name,
        "task": question.task,
        "protocol": question.protocol,
        "pretraining": pretraining,
        "store": store.path,
        "store_fingerprint": store.fingerprint,
        "n_train": probe.n_train,
        "n_validation": probe.n_validation,
        "n_test": probe.n_test,
        **scores(judged, targets, seed),
        "penalty": probe.penalty,
        "penalty_path": [list(point) for point in probe.path],
        "unfitted_classes": list(probe.unfitted),
        "dropped_classes": dict(targets.dropped),
    }
    if probe.at_edge:
        result["caveats"] = ["the best penalty is at the end of the path: a wider path might score better"]
    _keep(run_dir / FOLDER / question.name / pretraining, question, probe, result, store, judged, seen=splits["train"])
    return result, judged


def check(question: Downstream, store: Store) -> Settings:
    """Refuse what can be known to be wrong before anything is trained; returns the protocol's settings.

    Raises ConfigError (unknown task, protocol or setting), ProtocolError (folds without a labelled record).
    """
    settings = cast(Settings, settings_of(question.protocol, question.settings, where=f"downstream {question.name}"))
    targets = tasks.load(question.task).targets(store)
    for name, rows in _rows(question, store).items():
        if name != "validation" and len(targets.labelled(rows)) == 0:
            raise ProtocolError(f"no record of the {name} folds has a label", where=f"{question.task} on {store.path}")
    return settings


def _rows(question: Downstream, store: Store) -> dict[str, npt.NDArray[np.int64]]:
    return {
        "train": store.select(folds=question.train_folds),
        "validation": store.select(folds=question.validation_folds),
        "test": store.select(folds=question.test_folds),
    }


def scores(judged: Judged, targets: Targets, seed: int) -> dict[str, Any]:
    """Macro scores with their bootstrap intervals over patients, the per-class table and the ROC curves."""
    y_rc, score_rc = judged.y_rc, judged.score_rc
    return {
        "metrics": {name: bootstrap(y_rc, score_rc, judged.patient_r, name, seed=seed)._asdict() for name in _REPORTED},
        "per_class": metrics.per_class(y_rc, score_rc, judged.classes, targets.titles),
        "roc": metrics.roc_curves(y_rc, score_rc, judged.classes),
    }


def difference(one: Judged, null: Judged, seed: int) -> dict[str, Any]:
    """Score of ``one`` minus that of ``null`` on the same resamples of patients, with its interval."""
    return {
        name: paired_bootstrap(one.y_rc, one.score_rc, null.score_rc, one.patient_r, name, seed=seed)._asdict()
        for name in _REPORTED
    }


def evaluate(
    run_dir: str | Path,
    store_path: str,
    *,
    folds: Sequence[int] | Literal["all"] | None = None,
    names: Sequence[str] = (),
    allow_overlap: bool = False,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> list[dict[str, Any]]:
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
    found = sorted((run_dir / FOLDER).glob(f"*/*/{HEAD_ABOUT}"))
    found = [about for about in found if about.parent.name not in NULLS]
    chosen = [about for about in found if not names or about.parent.parent.name in names]
    if not chosen:
        known = ", ".join(sorted({about.parent.parent.name for about in found})) or "none"
        raise CheckpointError("the run has no such trained head", where=run_dir, expected=f"one of: {known}")
    return [
        _evaluate_head(about.parent, run_dir, store, trained, folds, allow_overlap, seed, device) for about in chosen
    ]


def seen_patients(run_dir: Path) -> list[str]:
    """Keys of the patients whose records pretraining learned from (not those it was only validated on)."""
    path = run_dir / SEEN
    if not path.is_file():
        raise CheckpointError("the run doesn't say whom it has seen", where=path, fix="pretrain it again")
    # Not read_table: its threads can abort the process at its end (apache/arrow#34314).
    table = pq.ParquetFile(path).read(columns=["patient_key", "role"], use_threads=False).to_pylist()
    return [row["patient_key"] for row in table if row["role"] == "train" and row["patient_key"]]


def _evaluate_head(
    folder: Path,
    run_dir: Path,
    store: Store,
    trained: Trained,
    folds: Sequence[int] | Literal["all"] | None,
    allow_overlap: bool,
    seed: int,
    device: torch.device | str,
) -> dict[str, Any]:
    about = _read_json(folder / HEAD_ABOUT)
    head = _load_head(folder, about)
    wanted = _wanted_folds(store, about["test_folds"], folds)
    targets = tasks.load(about["task"]).targets(store)
    rows = targets.labelled(store.select(folds=wanted))
    if len(rows) == 0:
        said = "the chosen folds" if wanted is not None else "the store"
        raise ProtocolError(f"no record of {said} has a label", where=f"{about['task']} on {store.path}")
    patients = store.column("patient_key")
    learned_from = [*seen_patients(run_dir), *about["patients"]]
    overlap = {key for key in learned_from if key} & {key for key in patients[rows] if key}
    if not allow_overlap:
        refuse_overlap(learned_from, patients[rows].tolist(), between="the run's training and this evaluation")
    features = window_features(
        trained.backbone,
        store,
        rows,
        passport=trained.passport,
        window_samples=about["window_samples"],
        stride_samples=about["stride_samples"],
        device=device,
    )
    shared = [name for name in head.classes if name in targets.classes]
    columns = [head.classes.index(name) for name in shared]
    with torch.no_grad():
        probability_nc = torch.sigmoid(head(torch.from_numpy(features.features_nd))).numpy()[:, columns]
    score_rc, row_r = tile_average(probability_nc, features.record_row_n)
    y_rc = targets.y_nc[row_r][:, [targets.classes.index(name) for name in shared]]
    judged = Judged(y_rc, score_rc, row_r, tuple(patients[row_r]), tuple(shared))
    result = {
        "name": about["name"],
        "task": about["task"],
        "protocol": about["protocol"],
        "pretraining": about["pretraining"],
        "store": store.path,
        "store_fingerprint": store.fingerprint,
        "folds": None if wanted is None else [int(fold) for fold in wanted],
        "n_train": about["n_train"],
        "n_test": len(row_r),
        **scores(judged, targets, seed),
        "dropped_classes": {name: "not in this store" for name in head.classes if name not in shared},
    }
    if overlap:
        result["caveats"] = [f"{len(overlap)} patients of this evaluation were seen in training (allowed on request)"]
    return result


def _wanted_folds(
    store: Store, test_folds: Sequence[int], folds: Sequence[int] | Literal["all"] | None
) -> Sequence[int] | None:
    """Which folds of ``store`` to judge on; None for every record."""
    if folds == "all" or (folds is None and not (store.column("fold") >= 0).any()):
        return None
    return test_folds if folds is None else folds


# --- what is kept -------------------------------------------------------------------------------------------


def _keep(
    folder: Path,
    question: Downstream,
    probe: ProbeResult,
    result: dict[str, Any],
    store: Store,
    judged: Judged,
    *,
    seen: Split,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(probe.arrays(), folder / HEAD)
    about = {
        "name": question.name,
        "task": question.task,
        "protocol": question.protocol,
        "pretraining": result["pretraining"],
        "classes": list(probe.classes),
        "window_samples": question.window_samples,
        "stride_samples": question.stride_samples,
        "test_folds": list(question.test_folds),
        "n_train": probe.n_train,
        # Whom the head was fitted on: evaluating on them would be evaluating on training data.
        "patients": sorted({key for key in seen.patient_r if key}),
    }
    _write_json(folder / HEAD_ABOUT, about)
    columns: dict[str, Any] = {
        "record_id": pa.array(store.column("record_id")[judged.row_r].tolist()),
        "row": pa.array(judged.row_r),
    }
    for c, name in enumerate(judged.classes):
        columns[f"probability:{name}"] = pa.array(judged.score_rc[:, c])
        columns[f"stated:{name}"] = pa.array(judged.y_rc[:, c])
    pq.write_table(pa.table(columns), folder / PREDICTIONS)
    _write_json(folder / RESULT, result)


def _load_head(folder: Path, about: dict[str, Any]) -> heads.Linear:
    try:
        arrays = load_file(folder / HEAD)
        return heads.Linear.from_probe(arrays["weight"], arrays["bias"], about["classes"])
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise CheckpointError("the head can't be loaded", where=folder / HEAD, got=str(error)[:200]) from error


def _write_json(path: Path, content: Any) -> None:
    """Write aside and rename; a number that is not a number becomes null."""
    aside = path.with_name(f".{path.name}.partial")
    aside.write_text(json.dumps(plain(content), indent=1) + "\n", encoding="utf-8")
    aside.replace(path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError("a file of the run can't be read", where=path, got=str(error)) from error
    return content
