"""BYOL as Mehari & Strodthoff (2022) run it: say what a slower copy of oneself makes of the other view.

Source: Grill et al., arXiv 2006.07733; the variant and its constants from Mehari & Strodthoff, Computers in Biology
and Medicine 141, 105114, by its published code. f is backbone and projector, q the predictor, f' the target: a moving
average of f that no gradient reaches. For views v, w of a window, in step s of S::

    loss = mean over windows of  -2 cos(q(f(v)), f'(w)) - 2 cos(q(f(w)), f'(v))          in [-4, 4]
    W(f') <- tau W(f') + (1 - tau) W(f)      after each step, for all parameters
    tau  = 1 - (1 - tau_first) (cos(pi s / S) + 1) / 2

No window is compared with another: nothing but predictor, target and BatchNorm keeps f from making the same of all
windows, which would score -4 too. Unrelated directions score 0.
"""

from __future__ import annotations

import copy
import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn

import ecgstore
from ecgstore import ConfigError
from ecgtrain.backbones import Backbone
from ecgtrain.methods import LossTerms, Moment, Objective, WindowBatch
from ecgtrain.views.augmentations import CROP_AND_TIME_OUT, Augmentation

DESCRIPTION = "BYOL: predict what a moving average of the network makes of the other view; no negatives"


class Settings(ecgstore.Settings):
    """The defaults are the published ones.

    ``hidden_width``, ``embedding_width``: features inside and at the end of projector and predictor. ``tau_first``:
    how much of the target is kept at the first step; it rises to all at the last. ``augmentations``: what the two
    views are made by, each with draws of its own.

    ``control``: negative controls, which are to collapse. ``no_predictor`` leaves it out. ``no_stop_gradient`` leaves
    out the target: views are compared with the network's own projections, and gradients flow into both sides.

    ``repo_compat``: as in the published code, the target keeps its first biases, of convolutions, linear layers and
    BatchNorm alike: only parameters whose name contains "weight" are averaged.
    """

    name: Literal["byol"] = "byol"
    hidden_width: PositiveInt = 512
    embedding_width: PositiveInt = 16
    tau_first: float = Field(0.996, ge=0, lt=1)
    augmentations: tuple[Augmentation, ...] = CROP_AND_TIME_OUT
    control: Literal["none", "no_predictor", "no_stop_gradient"] = "none"
    repo_compat: bool = False


class Views(NamedTuple):
    """Two views of each window, normalised."""

    one_blt: Tensor
    other_blt: Tensor


def views(settings: Settings, batch: WindowBatch) -> Views:
    """Both views are made of the same cut of the record."""
    return Views(batch.augmented(settings.augmentations, view=0), batch.augmented(settings.augmentations, view=1))


def share_kept(tau_first: float, moment: Moment) -> float:
    """tau: how much of the target is kept after this step."""
    return 1.0 - (1.0 - tau_first) * (math.cos(math.pi * moment.step / moment.n_steps) + 1.0) / 2.0


def symmetric_loss(predicted_bd: tuple[Tensor, Tensor], targets_bd: tuple[Tensor, Tensor]) -> Tensor:
    """The loss of each window, (batch,), in [-4, 4]; what is predicted of one view is the target of the other."""
    (one, other), (target_one, target_other) = predicted_bd, targets_bd
    return -2.0 * F.cosine_similarity(one, target_other) - 2.0 * F.cosine_similarity(other, target_one)


def spread(projected_bd: Tensor) -> Tensor:
    """How far apart the directions of windows lie: 0 if all are the same, 1 if they cancel each other out.

    The root of the mean squared distance of unit vectors from their mean.
    """
    z_bd = F.normalize(projected_bd, dim=1)
    return (z_bd - z_bd.mean(dim=0)).square().sum(dim=1).mean().sqrt()


class Target(nn.Module):
    """The slower copy of backbone and projector, which no gradient reaches.

    Its BatchNorms do as those of the network, in training and in evaluation: in training they take the statistics of
    the batch, as in the published code, and remember them for evaluation. So what they remember is neither copied nor
    averaged from the network's: it belongs to the target's own weights.
    """

    def __init__(self, backbone: Backbone, projector: nn.Module) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(backbone)
        self.projector = copy.deepcopy(projector)
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, x_blt: Tensor) -> Tensor:
        """Projections (batch, features) of a view."""
        projected_bd: Tensor = self.projector(self.backbone(x_blt).pooled_bd)
        return projected_bd


class Byol(Objective):
    """The BYOL loss over a backbone's features."""

    #: The heads' BatchNorm compares windows, if the loss doesn't.
    wants_sync_batchnorm = True
    follows_budget = True

    def __init__(self, settings: Settings, backbone: Backbone) -> None:
        super().__init__()
        hidden, n_out = settings.hidden_width, settings.embedding_width
        self.backbone = backbone
        self.projector = _head(backbone.pooled_width, hidden, n_out)
        self.predictor = nn.Identity() if settings.control == "no_predictor" else _head(n_out, hidden, n_out)
        self.target = None if settings.control == "no_stop_gradient" else Target(backbone, self.projector)
        self._settings = settings

    @property
    def chance(self) -> dict[str, float]:
        """The loss of unrelated directions. Making the same of all windows is no chance level: it scores -4."""
        return {"byol": 0.0}

    def check(self, window_samples: int, batch_size: int, fs_hz: float) -> None:
        """Refuse a batch of one window, of which BatchNorm has no statistics."""
        if batch_size < 2:
            raise ConfigError(
                "byol's BatchNorm takes statistics over the windows of a batch",
                expected="a batch of at least 2 windows",
                got=batch_size,
                fix="raise batch_size: 128 or more is usual",
            )

    def forward(self, views: Views) -> LossTerms:
        """Mean of the windows' losses; parts: itself, and how far the projections of windows lie apart."""
        # One after the other, as published: BatchNorm takes the statistics of each set of views by itself.
        pooled = [self.backbone(x_blt).pooled_bd for x_blt in views]
        projected = [self.projector(pooled_bd) for pooled_bd in pooled]
        predicted = [self.predictor(projected_bd) for projected_bd in projected]
        targets = projected if self.target is None else [self.target(x_blt) for x_blt in views]
        with torch.autocast(pooled[0].device.type, enabled=False):
            one, other = (predicted_bd.float() for predicted_bd in predicted)
            target_one, target_other = (target_bd.float() for target_bd in targets)
            loss = symmetric_loss((one, other), (target_one, target_other)).mean()
            apart = spread(projected[0].detach().float())
        return LossTerms(loss, {"byol": loss.detach(), "embedding_spread": apart}, torch.stack(pooled).detach())

    def after_step(self, moment: Moment) -> None:
        """Move the target towards the network."""
        if self.target is None:
            return
        averaged: list[Tensor] = []
        newest: list[Tensor] = []
        for mine, its in ((self.backbone, self.target.backbone), (self.projector, self.target.projector)):
            for (name, parameter), target in zip(mine.named_parameters(), its.parameters(), strict=True):
                if "weight" in name or not self._settings.repo_compat:
                    averaged.append(target)
                    newest.append(parameter)
        with torch.no_grad():
            torch._foreach_lerp_(averaged, newest, 1.0 - share_kept(self._settings.tau_first, moment))


def build(settings: Settings, backbone: Backbone) -> Byol:
    """Make the objective, for any backbone."""
    return Byol(settings, backbone)


def _head(n_in: int, hidden: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(n_in, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, n_out),
    )
