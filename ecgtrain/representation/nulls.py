"""The nulls of a representation: the same network, untrained."""

from __future__ import annotations

import torch

from ecgstore import open_store
from ecgtrain.backbones import build_backbone
from ecgtrain.config import RunConfig
from ecgtrain.representation.calibrate import calibrate
from ecgtrain.representation.export import Trained
from ecgtrain.training.prepare import pretrain_of, selected


def random_backbone(
    config: RunConfig, seed: int, *, calibrated: bool = True, device: torch.device | str = "cpu"
) -> Trained:
    """The null of a pretrained backbone: the same network, untrained, under the same passport.

    Its BatchNorm statistics are those of the pretraining records; without that, a random network is mostly judged
    worse than it is. Unless ``calibrated``, they are those that it was made with: mean 0, variance 1. With the seed
    of the run it is the network that pretraining started from.
    """
    settings = pretrain_of(config)
    store = open_store(config.data.store)
    passport, parts = selected(config, store)
    backbone = build_backbone(settings.backbone, len(passport.leads), seed).to(device)
    if calibrated:
        calibrate(backbone, config, parts, passport, device)
    return Trained(backbone.eval(), passport)
