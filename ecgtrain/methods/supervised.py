"""The supervised control: the same windows, views, network and budget, with the statements told.

What pretraining without labels is worth shows beside a network that was trained with them. The loss is binary
cross-entropy on the logits of a linear head over the backbone's pooled features, mean over windows and classes.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

import ecgstore
from ecgstore import ConfigError
from ecgtrain.backbones import Backbone
from ecgtrain.methods import LossTerms, Objective, WindowBatch
from ecgtrain.views.augmentations import CROP_AND_TIME_OUT, Augmentation

DESCRIPTION = "supervised control: learn a task's statements with the same views and budget"


class Settings(ecgstore.Settings):
    """``task``: what is learned, such as ``ptbxl/superdiagnostic``; records without any of its statements are left out.

    ``augmentations``: what the one view of a window is made by; by default as for SimCLR, BYOL and SwAV. ``dropout``:
    share of the pooled features that the head doesn't see.
    """

    name: Literal["supervised"] = "supervised"
    task: str
    augmentations: tuple[Augmentation, ...] = CROP_AND_TIME_OUT
    dropout: float = Field(0.0, ge=0, lt=1)


class Views(NamedTuple):
    """One view of each window, and which classes its record is of: float32 (batch, classes)."""

    x_blt: Tensor
    targets_bc: Tensor


def views(settings: Settings, batch: WindowBatch) -> Views:
    """One view of each window."""
    assert batch.targets_bc is not None
    return Views(batch.augmented(settings.augmentations, view=0), batch.targets_bc)


class Supervised(Objective):
    """Binary cross-entropy of a linear head."""

    def __init__(self, settings: Settings, backbone: Backbone, n_targets: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.dropout = nn.Dropout(settings.dropout)
        self.head = nn.Linear(backbone.pooled_width, n_targets)

    def forward(self, views: Views) -> LossTerms:
        """The loss; parts: itself, and ``prevalence_nats``: what telling each class's share in the batch would cost."""
        pooled_bd = self.backbone(views.x_blt).pooled_bd
        logits_bc = self.head(self.dropout(pooled_bd))
        with torch.autocast(logits_bc.device.type, enabled=False):
            loss = F.binary_cross_entropy_with_logits(logits_bc.float(), views.targets_bc.float())
        share_c = views.targets_bc.float().mean(dim=0)
        prevalence_nats = (torch.special.entr(share_c) + torch.special.entr(1.0 - share_c)).mean()
        return LossTerms(loss, {"bce": loss.detach(), "prevalence_nats": prevalence_nats}, pooled_bd.detach()[None])


def build(settings: Settings, backbone: Backbone, n_targets: int) -> Supervised:
    """Make the objective for ``n_targets`` classes; raises ConfigError if there is none."""
    if n_targets < 1:
        raise ConfigError("no record shows any class of the task", where=settings.task, fix="choose another task")
    return Supervised(settings, backbone, n_targets)
