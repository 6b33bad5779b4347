"""The nulls of a representation: the same network untrained, or trained on windows without any order in time."""

from __future__ import annotations

from pathlib import Path

import torch

from ecgtrain.backbones import build_backbone
from ecgtrain.config import RunConfig
from ecgtrain.data.selection import open_under
from ecgtrain.errors import CheckpointError
from ecgtrain.representation.calibrate import calibrate
from ecgtrain.representation.export import Trained, load_backbone
from ecgtrain.training import checkpoint
from ecgtrain.training.layout import NULLS
from ecgtrain.training.prepare import pretrain_of, selected
from ecgtrain.views.passport import Passport

#: The one that has to be trained: a run of its own, below the run.
SHUFFLED = "shuffled"


def random_backbone(
    config: RunConfig,
    seed: int,
    *,
    calibrated: bool = True,
    device: torch.device | str = "cpu",
    passport: Passport | None = None,
) -> Trained:
    """The null of a pretrained backbone: the network of the recipe ``config``, untrained, under the same passport.

    Its BatchNorm statistics are those of the pretraining records; without that, a random network is mostly judged
    worse than it is. Unless ``calibrated``, they are those that it was made with: mean 0, variance 1. With the
    ``seed`` of the run it is the network that pretraining started from. ``passport``: of a run that began with the
    export of another one. Raises ConfigError, and the store's errors where its records are needed.
    """
    settings = pretrain_of(config)
    store = open_under(config.data.store, config.data.split)
    passport, parts = selected(config, store, passport)
    backbone = build_backbone(settings.backbone, passport.n_inputs, seed).to(device)
    if calibrated:
        calibrate(backbone, config, parts, passport, device)
    return Trained(backbone.eval(), passport)


def shuffled(config: RunConfig) -> RunConfig | None:
    """The recipe of the null that learns from shuffled windows, all else alike; None where nobody asks for it."""
    if not any(SHUFFLED in question.nulls for question in config.downstream):
        return None
    control = pretrain_of(config).model_copy(update={"control": "time_shuffle", "online_probe": None})
    return config.model_copy(update={"pretrain": control, "downstream": (), "curves": ()})


def keep_null(
    config: RunConfig, run_dir: Path, name: str, passport: Passport, *, device: torch.device | str = "cpu"
) -> Trained:
    """Make the null ``name`` of a run (``random``: calibrated; ``uncalibrated``) and write it down, as an export is.

    One that is trained has been written already. Its heads can then be judged elsewhere, where the records that it was
    calibrated on are not known. Returns what was written. Raises CheckpointError if the disk refuses.
    """
    if name == SHUFFLED:
        return load_null(run_dir, name, device=device)
    null = random_backbone(config, config.seed, calibrated=name == "random", device=device, passport=passport)
    about = {
        "backbone": null.backbone.settings.model_dump(mode="json"),
        "null": name,
        "n_leads": null.passport.n_inputs,
    }
    place = run_dir / NULLS / name
    try:
        checkpoint.write(place, null.backbone, about, null.passport)
    except OSError as error:
        raise CheckpointError("the untrained network can't be written", where=place, got=str(error)) from error
    return load_null(run_dir, name, device=device)


def load_null(run_dir: Path, name: str, *, device: torch.device | str = "cpu") -> Trained:
    """The null ``name`` of a run as it was judged; raises CheckpointError where it isn't there, or isn't whole."""
    return load_backbone(run_dir / NULLS / name, device=device)
