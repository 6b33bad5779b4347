"""Where the log of a run goes besides ``metrics.jsonl``: TensorBoard, MLflow, Weights & Biases.

Each is a :class:`Tracker`: it is opened, told line after line, and closed. All of them write into the run directory and
ask nothing of another machine, unless their own environment variables say so (``MLFLOW_TRACKING_URI``, ``WANDB_MODE``).
Whatever a tracker raises is said once, and the run goes on without it.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ecgtrain.errors import CheckpointError
from ecgtrain.training.files import read_json, write_json
from ecgtrain.training.layout import MLFLOW, TENSORBOARD, TRACKED, WANDB

log = logging.getLogger(__name__)

#: What they are called in a message, and the extra that brings each.
_TITLES = {"tensorboard": "TensorBoard", "mlflow": "MLflow", "wandb": "Weights & Biases"}
_EXTRAS = {"tensorboard": "train", "mlflow": "mlflow", "wandb": "wandb"}
#: Of MLflow's and W&B's runs; what a run directory from elsewhere names is nothing else.
_ID = re.compile(r"[0-9a-z]{8,64}")
#: MLflow refuses longer values of settings.
_MOST_LETTERS = 500


class Tracked(NamedTuple):
    """What a tracker is told of a run: where it stands, its name, settings, and the steps that were done before."""

    run_dir: Path
    name: str
    settings: Mapping[str, Any]
    first_step: int


class Tracker(Protocol):
    """One place that the log goes to. It may raise whatever it likes."""

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Take what was measured after ``step`` steps on ``split``."""

    def close(self, is_whole: bool) -> None:
        """Say how the run ended, and let go."""


class Trackers:
    """Those of ``names`` that could be opened; one that fails is left out from there on."""

    def __init__(self, names: Sequence[str], run: Tracked) -> None:
        self._open: dict[str, Tracker] = {}
        for name in names:
            try:
                self._open[name] = _KINDS[name](run)
            except ImportError as error:
                _say_missing(name, error)
            except Exception as error:
                log.warning("%s can't write and is left out: %s", _TITLES[name], _in_a_line(error))

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Tell all of them."""
        self._tell(lambda tracker: tracker.write(step, split, values))

    def close(self, is_whole: bool) -> None:
        """Close all of them."""
        self._tell(lambda tracker: tracker.close(is_whole))
        self._open = {}

    def _tell(self, tell: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._open.items()):
            try:
                tell(tracker)
            except Exception as error:
                log.warning("%s failed and is left out from here on: %s", _TITLES[name], _in_a_line(error))
                del self._open[name]


def _say_missing(name: str, error: ImportError) -> None:
    if name == "tensorboard":  # nobody has asked for it
        log.info("TensorBoard is not installed")
    elif find_spec(name) is None:
        log.warning('%s is not installed and is left out: pip install "ecgstore[%s]"', _TITLES[name], _EXTRAS[name])
    else:
        log.warning("%s can't be imported and is left out: %s", _TITLES[name], _in_a_line(error))


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


class _TensorBoard:
    def __init__(self, run: Tracked) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._board: Any = SummaryWriter(str(run.run_dir / TENSORBOARD), purge_step=run.first_step + 1)

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._board.add_scalar(f"{split}/{name}", value, step)

    def close(self, is_whole: bool) -> None:
        self._board.close()


class _MLflow:
    """A run of MLflow, in plain files below the run directory: they need no lock, and so stand on any file system."""

    def __init__(self, run: Tracked) -> None:
        # Read as mlflow is imported, and as its store is opened. It would report its use to its makers.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._metric = Metric
        uri = os.environ.get("MLFLOW_TRACKING_URI") or (run.run_dir.absolute() / MLFLOW).as_uri()
        self._client = MlflowClient(tracking_uri=uri)
        before = _id_of(run.run_dir, "mlflow", os.environ.get("MLFLOW_TRACKING_URI", ""))
        #: Steps of each figure that it has been told by the run before.
        self._told: dict[str, set[int]] | None = None if before is None else {}
        if before is None:
            title = os.environ.get("MLFLOW_EXPERIMENT_NAME", "ecgtrain")
            known = self._client.get_experiment_by_name(title)
            experiment = self._client.create_experiment(title) if known is None else known.experiment_id
            self._id = self._client.create_run(experiment, run_name=run.name).info.run_id
            settings = [Param(key, str(value)[:_MOST_LETTERS]) for key, value in run.settings.items()]
            self._client.log_batch(self._id, params=settings)
            _keep_id(run.run_dir, "mlflow", os.environ.get("MLFLOW_TRACKING_URI", ""), self._id)
        else:
            self._id = before
            self._client.update_run(self._id, status="RUNNING")

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        now_ms = int(time.time() * 1000)
        new = [
            self._metric(f"{split}/{name}", value, now_ms, step)
            for name, value in values.items()
            if not self._was_told(f"{split}/{name}", step)
        ]
        self._client.log_batch(self._id, metrics=new)

    def _was_told(self, name: str, step: int) -> bool:
        """Of a run that was killed, the steps behind its last checkpoint are done again."""
        if self._told is None:
            return False
        if name not in self._told:
            self._told[name] = {one.step for one in self._client.get_metric_history(self._id, name)}
        return step in self._told[name]

    def close(self, is_whole: bool) -> None:
        self._client.set_terminated(self._id, status="FINISHED" if is_whole else "KILLED")


class _Wandb:
    """A run of Weights & Biases, kept in the run directory until somebody says ``wandb sync``."""

    def __init__(self, run: Tracked) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        mode: Any = os.environ.get("WANDB_MODE", "offline")
        before = _id_of(run.run_dir, "wandb", "")
        run_id = secrets.token_hex(4) if before is None else before
        # Nothing of the machine but what the run itself measures.
        settings = wandb.Settings(
            console="off",
            disable_git=True,
            quiet=True,
            save_code=False,
            silent=True,
            symlink=False,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "ecgtrain"),
            name=run.name,
            id=run_id,
            dir=str(run.run_dir),
            mode=mode,
            resume="allow",
            config=dict(run.settings),
            reinit="create_new",
            settings=settings,
        )
        # It links to a log in the home of whoever trains; a run directory may go anywhere, and holds no links.
        for path in (run.run_dir / WANDB).rglob("*"):
            if path.is_symlink():
                path.unlink()
        # Steps of its own would have to grow with every line; several splits are measured after the same step.
        self._run.define_metric("*", step_metric="step")
        _keep_id(run.run_dir, "wandb", "", run_id)

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **{f"{split}/{name}": value for name, value in values.items()}})

    def close(self, is_whole: bool) -> None:
        self._run.finish(exit_code=0 if is_whole else 1)


_KINDS: dict[str, Callable[[Tracked], Tracker]] = {"tensorboard": _TensorBoard, "mlflow": _MLflow, "wandb": _Wandb}


def _id_of(run_dir: Path, name: str, place: str) -> str | None:
    """What the tracker calls the run that is gone on with, if it was told of it at this ``place``."""
    kept = _kept(run_dir).get(name)
    if not isinstance(kept, dict) or kept.get("place") != place or not _ID.fullmatch(str(kept.get("id"))):
        return None
    return str(kept["id"])


def _keep_id(run_dir: Path, name: str, place: str, run_id: str) -> None:
    write_json(run_dir / TRACKED, {**_kept(run_dir), name: {"place": place, "id": run_id}})


def _kept(run_dir: Path) -> dict[str, Any]:
    if not (run_dir / TRACKED).exists():
        return {}
    try:
        return read_json(run_dir / TRACKED)
    except CheckpointError:  # torn or strange: the tracker begins anew
        return {}
