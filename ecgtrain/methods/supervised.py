"""The supervised control: the same windows, views, network and budget, with the statements told.

What pretraining without labels is worth shows beside a network that was trained with them. The loss is that
of the task's kind (:mod:`ecgtrain.scoring.kinds`) on what a linear head makes of the backbone's pooled features:
binary cross-entropy, mean over windows and classes, in most cases.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

import ecgstore
from ecgstore import ConfigError
from ecgtrain.backbones import Backbone
from ecgtrain.methods import LossTerms, Objective, WindowBatch
from ecgtrain.scoring import kinds
from ecgtrain.views.augmentations import CROP_AND_TIME_OUT, Augmentation

DESCRIPTION = "supervised control: learn a task's statements or numbers with the same views and budget"
LEARNS: tuple[kinds.Kind, ...] = ("multilabel", "exclusive", "regression")
#: What the loss is called in the log.
_LOSSES: dict[kinds.Kind, str] = {"multilabel": "bce", "exclusive": "cross_entropy", "regression": "mse"}


class Settings(ecgstore.Settings):
    """``task``: what is learned, such as ``ptbxl/superdiagnostic``; records that it says nothing of are left out.

    ``augmentations``: what the one view of a window is made by; by default as for SimCLR, BYOL and SwAV. ``dropout``:
    share of the pooled features that the head doesn't see.
    """

    name: Literal["supervised"] = "supervised"
    task: str | dict[str, Any]
    augmentations: tuple[Augmentation, ...] = CROP_AND_TIME_OUT
    dropout: float = Field(0.0, ge=0, lt=1)


class Views(NamedTuple):
    """One view of each window, and its record's targets: float32 (batch, classes); numbers are standardised."""

    x_blt: Tensor
    targets_bc: Tensor


def views(settings: Settings, batch: WindowBatch) -> Views:
    """One view of each window."""
    assert batch.targets_bc is not None
    return Views(batch.augmented(settings.augmentations, view=0), batch.targets_bc)


class Supervised(Objective):
    """The loss of a linear head."""

    def __init__(self, settings: Settings, backbone: Backbone, n_targets: int, kind: kinds.Kind) -> None:
        super().__init__()
        self.kind = kind
        self.backbone = backbone
        self.dropout = nn.Dropout(settings.dropout)
        self.head = nn.Linear(backbone.pooled_width, n_targets)

    def forward(self, views: Views) -> LossTerms:
        """The loss; parts: itself, and what telling each class's share in the batch, or the mean number, would cost."""
        pooled_bd = self.backbone(views.x_blt).pooled_bd
        outputs_bc = self.head(self.dropout(pooled_bd))
        targets_bc = views.targets_bc.float()
        with torch.autocast(outputs_bc.device.type, enabled=False):
            loss = kinds.loss(self.kind, outputs_bc.float(), targets_bc)
        parts = {_LOSSES[self.kind]: loss.detach(), **_of_a_constant(self.kind, targets_bc)}
        return LossTerms(loss, parts, pooled_bd.detach()[None])


def _of_a_constant(kind: kinds.Kind, targets_bc: Tensor) -> dict[str, Tensor]:
    """The loss of the best answer that looks at no signal."""
    share_c = targets_bc.mean(dim=0)
    match kind:
        case "multilabel":
            return {"prevalence_nats": (torch.special.entr(share_c) + torch.special.entr(1.0 - share_c)).mean()}
        case "exclusive":
            return {"prevalence_nats": torch.special.entr(share_c).sum()}
        case "regression":
            return {"spread": targets_bc.var(dim=0, unbiased=False).mean()}


def build(settings: Settings, backbone: Backbone, n_targets: int, kind: kinds.Kind = "multilabel") -> Supervised:
    """Make the objective for ``n_targets`` classes; raises ConfigError if there is none."""
    if n_targets < 1:
        raise ConfigError("no record shows any class of the task", where=settings.task, fix="choose another task")
    return Supervised(settings, backbone, n_targets, kind)
