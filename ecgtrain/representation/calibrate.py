"""BatchNorm statistics of a network as it will be used: on clean windows, not on augmented views.

While it is trained, a BatchNorm keeps a moving average over whatever views it was shown. The exported network is
shown clean windows: statistics taken on those are its own. The untrained network beside it gets the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ecgtrain.config import RunConfig
from ecgtrain.data.feed import Feed, Part
from ecgtrain.data.plan import batch_plan
from ecgtrain.training.prepare import open_windows, pretrain_of
from ecgtrain.views.normalise import to_mv
from ecgtrain.views.passport import Passport, normaliser

#: Batches that set the BatchNorm statistics of a network.
_CALIBRATION_BATCHES = 20


def calibrate(
    backbone: nn.Module, config: RunConfig, parts: Sequence[Part], passport: Passport, device: torch.device | str
) -> None:
    """Give every BatchNorm the statistics of clean windows of ``parts``, drawn by the run's seed."""
    if not _norms(backbone):
        return
    feed = open_windows(config, parts, passport, device)
    batch_size = min(pretrain_of(config).batch_size, feed.n_records)
    calibrate_batchnorm(backbone, feed, passport, batch_size=batch_size, seed=config.seed)


def _norms(backbone: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [module for module in backbone.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


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
    norms = _norms(backbone)
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
