"""The backbone that comes out of a pretraining, and how it is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch

from ecgstore.inner import occupant, parse
from ecgtrain import distributed
from ecgtrain.backbones import Backbone, build_backbone
from ecgtrain.config import RunConfig
from ecgtrain.errors import CheckpointError
from ecgtrain.representation.calibrate import calibrate
from ecgtrain.training import checkpoint
from ecgtrain.training.layout import BEST, CHECKPOINTS, EXPORT, one_of_seeds
from ecgtrain.training.prepare import Prepared, pretrain_of
from ecgtrain.views.passport import Passport

#: Larger than any network here: an export of absurd size is refused before it is built.
_MOST_FEATURES, _MOST_LAYERS = 65_536, 500
_LAYERS = ("layers", "depth", "blocks", "stages", "heads")


class Trained(NamedTuple):
    """A ``backbone`` in evaluation mode, and the ``passport`` that says how the signals for it must be prepared.

    The backbone is a ``torch.nn.Module``: normalised float32 windows (batch, leads, samples) in, :class:`Features` out.
    """

    backbone: Backbone
    passport: Passport


def load_backbone(run_dir: str | Path, *, device: torch.device | str = "cpu") -> Trained:
    """The exported backbone of the finished run ``run_dir``, in evaluation mode, and its passport.

    Raises CheckpointError if there is none, or if it isn't whole.
    """
    if not Path(run_dir).is_dir():
        raise CheckpointError("there is no run and no export", where=run_dir, fix="check the path")
    path = Path(run_dir) / EXPORT if (Path(run_dir) / EXPORT).exists() else Path(run_dir)
    problem = checkpoint.torn(path)
    if problem is not None:
        one = one_of_seeds(Path(run_dir))
        fix = "finish the run first" if one is None else f"name the run of one seed, such as {one}"
        raise CheckpointError("no whole exported backbone", where=path, got=problem, fix=fix)
    about, passport = checkpoint.load_config(path), checkpoint.load_passport(path)
    try:
        if about["n_leads"] != passport.n_inputs:
            raise ValueError(f"{about['n_leads']} leads, and {passport.n_inputs} in its passport")
        # Names come from the list of the room: an export may come from anywhere, and can name no code.
        settings = parse(
            occupant("ecgtrain.backbones", about["backbone"]["name"]).Settings, about["backbone"], where=path
        )
        _refuse_absurd(settings.model_dump())
        with torch.device("meta"):  # nothing is allocated before it is known to be what the file holds
            sketch = build_backbone(settings, passport.n_inputs, seed=0)
        weights = checkpoint.load_weights(path, sketch.state_dict())
        backbone = build_backbone(settings, passport.n_inputs, seed=0)
        backbone.load_state_dict(weights)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            "this isn't an exported backbone", where=path, got=" ".join(str(error).split())[:200]
        ) from error
    return Trained(backbone.to(device).eval(), passport)


def _refuse_absurd(settings: Any, most: int = _MOST_FEATURES) -> None:
    """Raise ValueError for numbers that no network has, of layers or of features."""
    match settings:
        case dict():
            for name, value in settings.items():
                is_count = any(word in name for word in _LAYERS)
                _refuse_absurd(value, _MOST_LAYERS if is_count else most)
        case list() | tuple():
            if len(settings) > _MOST_LAYERS:
                raise ValueError(f"{len(settings)} layers are no network")
            for value in settings:
                _refuse_absurd(value, most)
        case int() if abs(settings) > most:
            raise ValueError(f"{settings} is no size of a network")


def export_backbone(config: RunConfig, made: Prepared, run_dir: Path, device: torch.device | str = "cpu") -> Trained:
    """Write the backbone alone, from the last or the best checkpoint, and load what was written.

    Its BatchNorm statistics are those of clean windows (:mod:`ecgtrain.representation.calibrate`).
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
    objective.load_state_dict(checkpoint.load_weights(chosen, objective.state_dict()))
    # A network of its own: that of training may take its BatchNorm statistics from all ranks, and is left as it was.
    backbone = build_backbone(settings.backbone, passport.n_inputs, seed=0).to(device)
    backbone.load_state_dict(objective.backbone.state_dict())
    calibrate(backbone, config, made.parts, passport, device)
    about = {
        "backbone": settings.backbone.model_dump(mode="json"),
        "method": settings.method.model_dump(mode="json"),
        "n_leads": passport.n_inputs,
        "checkpoint": chosen.name,
    }
    try:
        checkpoint.write(run_dir / EXPORT, backbone, about, passport)
    except OSError as error:
        raise CheckpointError("the backbone can't be exported", where=run_dir / EXPORT, got=str(error)) from error
    return load_backbone(run_dir, device=device)
