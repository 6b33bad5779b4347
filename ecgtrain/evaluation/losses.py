"""Losses of a network that learns labels: numbers before the link, against targets; means over windows and classes."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Literal["bce", "asymmetric"]

#: Focus on negatives and on positives, and the probability below which a negative costs nothing (Ridnik et al.).
_GAMMA_NEGATIVE, _GAMMA_POSITIVE, _MARGIN = 4.0, 1.0, 0.05


def loss_of(name: Loss, logits_bc: Tensor, targets_bc: Tensor, weight_c: Tensor | None = None) -> Tensor:
    """The loss ``name`` of a batch, a scalar; ``weight_c`` multiplies what positives of a class cost."""
    match name:
        case "bce":
            return F.binary_cross_entropy_with_logits(logits_bc, targets_bc, pos_weight=weight_c)
        case "asymmetric":
            return asymmetric(logits_bc, targets_bc, weight_c)


def asymmetric(logits_bc: Tensor, targets_bc: Tensor, weight_c: Tensor | None = None) -> Tensor:
    """Asymmetric loss: easy negatives, which most are, cost nearly nothing (Ridnik et al., ICCV 2021, eq. 7).

    With p the probability and q = max(p − m, 0): −(1−p)^γ₊ log p for positives, −q^γ₋ log(1−q) for negatives.
    """
    p_bc = torch.sigmoid(logits_bc)
    shifted_bc = (p_bc - _MARGIN).clamp(min=0)
    positive_bc = (1 - p_bc) ** _GAMMA_POSITIVE * F.logsigmoid(logits_bc)
    negative_bc = shifted_bc**_GAMMA_NEGATIVE * torch.log1p(-shifted_bc)
    if weight_c is not None:
        positive_bc = positive_bc * weight_c
    return -(targets_bc * positive_bc + (1 - targets_bc) * negative_bc).mean()


def balancing_weights(targets_rc: Tensor, most: float = 100.0) -> Tensor:
    """What makes the positives of a class weigh as much as its negatives, (classes,); ``most`` at the utmost."""
    positive_c = targets_rc.sum(dim=0)
    return ((len(targets_rc) - positive_c) / positive_c.clamp(min=1)).clamp(1 / most, most)
