"""Losses of a network that learns labels: its outputs, before any link, against targets; a scalar each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ecgstore import ConfigError
from ecgtrain.scoring import kinds
from ecgtrain.tasks import TargetKind

Loss = Literal["auto", "bce", "asymmetric", "softmax", "squared", "huber"]
ClassWeights = Literal["none", "balanced"]

#: What suits which kind of target; ``auto`` is the first.
_OF_KIND: Mapping[TargetKind, tuple[Loss, ...]] = {
    "multilabel": ("bce", "asymmetric"),
    "exclusive": ("softmax",),
    "regression": ("squared", "huber"),
}
#: Focus on negatives and on positives, and the probability below which a negative costs nothing (Ridnik et al.).
_GAMMA_NEGATIVE, _GAMMA_POSITIVE, _MARGIN = 4.0, 1.0, 0.05
#: Positives weigh so many times as much as negatives, at the utmost.
_MOST_WEIGHT = 100.0


def refuse_unsuited(kind: TargetKind, loss: Loss, class_weights: ClassWeights) -> None:
    """Raise ConfigError where a loss is for targets of another kind."""
    suited = _OF_KIND[kind]
    if loss not in ("auto", *suited):
        raise ConfigError(f"this loss is not for a task of the kind {kind}", expected=" or ".join(suited), got=loss)
    if kind == "regression" and class_weights != "none":
        raise ConfigError("a task of the kind regression has no classes to weigh", fix="leave class_weights out")


def loss_of(kind: TargetKind, loss: Loss, outputs_bc: Tensor, targets_bc: Tensor, weight_c: Tensor | None) -> Tensor:
    """The loss of a batch; ``targets_bc`` as :meth:`ecgtrain.scoring.kinds.Scale.down` gives them.

    ``weight_c``: what positives of each class cost more than negatives; of classes that exclude each other, what a
    record of each costs.
    """
    match loss:
        case "asymmetric":
            return asymmetric(outputs_bc, targets_bc, weight_c)
        case "huber":
            return F.huber_loss(outputs_bc, targets_bc)
    if weight_c is None:
        return kinds.loss(kind, outputs_bc, targets_bc)
    if kind == "exclusive":
        return F.cross_entropy(outputs_bc, targets_bc.argmax(dim=1), weight=weight_c)
    return F.binary_cross_entropy_with_logits(outputs_bc, targets_bc, pos_weight=weight_c)


def asymmetric(outputs_bc: Tensor, targets_bc: Tensor, weight_c: Tensor | None = None) -> Tensor:
    """Asymmetric loss: easy negatives, which most are, cost nearly nothing (Ridnik et al., ICCV 2021, eq. 7).

    With p the probability and q = max(p − m, 0): −(1−p)^γ₊ log p for positives, −q^γ₋ log(1−q) for negatives.
    """
    p_bc = torch.sigmoid(outputs_bc)
    shifted_bc = (p_bc - _MARGIN).clamp(min=0)
    positive_bc = (1 - p_bc) ** _GAMMA_POSITIVE * F.logsigmoid(outputs_bc)
    negative_bc = shifted_bc**_GAMMA_NEGATIVE * torch.log1p(-shifted_bc)
    if weight_c is not None:
        positive_bc = positive_bc * weight_c
    return -(targets_bc * positive_bc + (1 - targets_bc) * negative_bc).mean()


def balancing_weights(kind: TargetKind, targets_rc: Tensor) -> Tensor:
    """What makes all sides weigh the same, (classes,): negatives per positive; or 1 per record of the class, scaled.

    Bounded, as a class of one record would else be all that counts.
    """
    positive_c = targets_rc.sum(dim=0)
    if kind == "exclusive":
        per_class_c = len(targets_rc) / (len(positive_c) * positive_c.clamp(min=1))
        return per_class_c.clamp(1 / _MOST_WEIGHT, _MOST_WEIGHT)
    return ((len(targets_rc) - positive_c) / positive_c.clamp(min=1)).clamp(1 / _MOST_WEIGHT, _MOST_WEIGHT)
