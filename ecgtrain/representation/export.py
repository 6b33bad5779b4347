"""The backbone that comes out of a pretraining, and how it is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from ecgstore.inner import occupant, parse
from ecgtrain import distributed
from ecgtrain.backbones import Backbone, build_backbone
from ecgtrain.config import RunConfig
from ecgtrain.errors import CheckpointError
from ecgtrain.training import checkpoint
from ecgtrain.training.layout import BEST, CHECKPOINTS, EXPORT
from ecgtrain.training.prepare import Prepared, pretrain_of
from ecgtrain.views.passport import Passport


class Trained(NamedTuple):
    """A backbone in evaluation mode, and how the signals for it must be prepared."""

    backbone: Backbone
    passport: Passport


def load_backbone(run_dir: str | Path, *, device: torch.device | str = "cpu") -> Trained:
    """The exported backbone of a finished run, in evaluation mode, and its passport.

    Raises CheckpointError if there is none, or if it isn't whole.
    """
    path = Path(run_dir) / EXPORT if (Path(run_dir) / EXPORT).exists() else Path(run_dir)
    problem = checkpoint.torn(path)
    if problem is not None:
        raise CheckpointError("no whole exported backbone", where=path, got=problem, fix="finish the run first")
    about = checkpoint.load_config(path)
    try:
        settings = parse(
            occupant("ecgtrain.backbones", about["backbone"]["name"]).Settings, about["backbone"], where=path
        )
        backbone = build_backbone(settings, int(about["n_leads"]), seed=0)
        backbone.load_state_dict(checkpoint.load_weights(path))
    except (KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            "this isn't an exported backbone", where=path, got=" ".join(str(error).split())[:200]
        ) from error
    return Trained(backbone.to(device).eval(), checkpoint.load_passport(path))


def export_backbone(config: RunConfig, made: Prepared, run_dir: Path, device: torch.device | str = "cpu") -> Trained:
    """Write the backbone alone, from the last or the best checkpoint, and load what was written.

    Of several ranks the first does so; the others return the last weights. Raises CheckpointError if there is no whole
    checkpoint, or if the disk refuses.
    """
    settings, objective, passport = pretrain_of(config), made.objective, made.passport
    if distributed.rank() != 0:
        return Trained(objective.backbone.eval(), passport)
    folder = run_dir / (BEST if settings.keep == "best" else CHECKPOINTS)
    chosen = checkpoint.last(folder)
    if chosen is None:
        raise CheckpointError("no whole checkpoint to export", where=folder)
    objective.load_state_dict(checkpoint.load_weights(chosen))
    about = {
        "backbone": settings.backbone.model_dump(mode="json"),
        "method": settings.method.model_dump(mode="json"),
        "n_leads": len(passport.leads),
        "checkpoint": chosen.name,
    }
    try:
        checkpoint.write(run_dir / EXPORT, objective.backbone, about, passport)
    except OSError as error:
        raise CheckpointError("the backbone can't be exported", where=run_dir / EXPORT, got=str(error)) from error
    return load_backbone(run_dir, device=device)
