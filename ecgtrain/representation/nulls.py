"""The nulls of a representation: the same network, untrained."""

from __future__ import annotations

import torch
from torch import nn

from ecgstore import open_store
from ecgtrain.backbones import build_backbone
from ecgtrain.config import RunConfig
from ecgtrain.data.feed import Feed
from ecgtrain.data.plan import batch_plan
from ecgtrain.data.selection import select_parts
from ecgtrain.representation.export import Trained
from ecgtrain.training.prepare import open_windows, passport_of, pretrain_of
from ecgtrain.views.normalise import to_mv
from ecgtrain.views.passport import Passport, normaliser

#: Batches that set the BatchNorm statistics of an untrained network.
_CALIBRATION_BATCHES = 20


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
    passport = passport_of(store, config.data.leads or store.leads, settings)
    backbone = build_backbone(settings.backbone, len(passport.leads), seed).to(device)
    if calibrated:
        feed = open_windows(config, select_parts(config.data, store, settings.folds, passport), passport, device)
        batch_size = min(settings.batch_size, feed.n_records)
        calibrate_batchnorm(backbone, feed, passport, batch_size=batch_size, seed=seed)
    return Trained(backbone.eval(), passport)


def calibrate_batchnorm(
    backbone: nn.Module,
    feed: Feed,
    passport: Passport,
    *,
    batch_size: int,
    seed: int,
    n_batches: int = _CALIBRATION_BATCHES,
) -> None:
    """Set the running statistics of every BatchNorm to their averages over ``n_batches`` batches of ``feed``.

    Nothing else changes: weights, other buffers and the modules' modes stay as they are.
    """
    norms = [module for module in backbone.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    modes = [(norm, norm.momentum, norm.training) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average instead of a moving one
        norm.train()
    normalise = normaliser(passport, feed.device)
    try:
        with torch.no_grad():
            for step in range(n_batches if norms else 0):
                plan = batch_plan(
                    feed.records,
                    window_samples=feed.window_samples,
                    seed=seed,
                    step=step,
                    batch_size=batch_size,
                )
                backbone(normalise(to_mv(feed.batch(plan).counts_blt)))
    finally:
        for norm, momentum, training in modes:
            norm.momentum = momentum
            norm.train(training)
