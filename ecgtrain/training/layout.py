"""Where each file of a run stands.

    config.yaml          the resolved recipe                 environment.json    versions, machine
    preprocessing.json   the passport                        seen.parquet        patients and records seen
    metrics.jsonl        loss, speed, validation             tensorboard/        the same, where installed
    mlflow/, wandb/      the same, where asked for           trackers.json       what these call the run
    checkpoints/         the last two, and best/ if kept     export/             the backbone alone, to load
    report.json          results for programs                report.html         and for people
    splits/              the split tables whose folds were taken, by the beginnings of their SHA-256
    nulls/<name>/        the networks that answers stand beside, as export/ is; one that is trained is a run of its own
    own/                 files of code that tasks are: kept, and run only where somebody names them
    downstream/<question>/<pretraining>/
      head.safetensors   what the protocol has fitted        head.json           its classes, windows, patients
      result.json        what the report shows               predictions.parquet one row per test record
      seen.parquet       what it was fitted on, chosen by    question.json       how it was asked
    curves/<name>/
      points/            scores of each point of the curve    curve.csv, curve.parquet   what its picture shows
    seeds/<seed>/        of a recipe with several seeds: the run of each, with all of the above

A checkpoint, and ``export/`` alike, is a sealed directory (:mod:`ecgtrain.training.checkpoint`).
"""

from __future__ import annotations

from pathlib import Path

from ecgtrain.config import RESOLVED

CONFIG, ENVIRONMENT, PASSPORT = RESOLVED, "environment.json", "preprocessing.json"
SEEN, METRICS, TENSORBOARD = "seen.parquet", "metrics.jsonl", "tensorboard"
#: W&B itself calls its folder so.
MLFLOW, WANDB, TRACKED = "mlflow", "wandb", "trackers.json"
CHECKPOINTS, BEST, EXPORT = "checkpoints", "checkpoints/best", "export"
REPORT, PAGE = "report.json", "report.html"
HEAD, HEAD_ABOUT, RESULT, PREDICTIONS = "head.safetensors", "head.json", "result.json", "predictions.parquet"
QUESTION, OWN, SPLITS, NULLS = "question.json", "own", "splits", "nulls"
SEEDS = "seeds"
_DOWNSTREAM, _CURVES = "downstream", "curves"


def split_table(run_dir: Path, sha256: str) -> Path:
    """Where a run keeps its copy of a split table."""
    return run_dir / SPLITS / f"{sha256[:16]}.parquet"


def answer(run_dir: Path, question: str, pretraining: str) -> Path:
    """The folder of what one representation answered to one question."""
    return run_dir / _DOWNSTREAM / question / pretraining


def answers(run_dir: Path) -> list[Path]:
    """All such folders that hold a head, in the order of their names."""
    return [about.parent for about in sorted((run_dir / _DOWNSTREAM).glob(f"*/*/{HEAD_ABOUT}"))]


def curve(run_dir: Path, name: str) -> Path:
    """The folder of one curve."""
    return run_dir / _CURVES / name


def point(run_dir: Path, name: str, which: str) -> Path:
    """The file of one point of a curve."""
    return curve(run_dir, name) / "points" / f"{which}.parquet"


def run_of_seed(run_dir: Path, seed: int) -> Path:
    """The run of one seed, of a recipe with several."""
    return run_dir / SEEDS / str(seed)


def runs_of_seeds(run_dir: Path) -> list[Path]:
    """The runs of the seeds of a run of several; none of one that has no seeds."""
    return [path for path in sorted((run_dir / SEEDS).glob("*")) if path.is_dir()]


def one_of_seeds(run_dir: Path) -> Path | None:
    """The run of one of the seeds of a run of several; None of one that has no seeds."""
    return next(iter(runs_of_seeds(run_dir)), None)
