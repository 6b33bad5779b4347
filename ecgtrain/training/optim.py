"""The optimiser, its schedule as a pure function of the step, and gradient clipping."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ecgtrain.config import Optimiser

if TYPE_CHECKING:
    import torch
    from torch import nn


def learning_rate(settings: Optimiser, step: int, n_steps: int) -> float:
    """The learning rate that step ``step`` (from 0) of ``n_steps`` is taken with."""
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return settings.lr
    done = (step - settings.warmup_steps) / max(n_steps - settings.warmup_steps, 1)
    return settings.lr * 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))


def build(settings: Optimiser, layers: Sequence[Iterable[nn.Parameter]]) -> torch.optim.Optimizer:
    """Make the optimiser of ``layers``: groups of parameters, from the output of the network down to its input."""
    import torch

    groups: list[dict[str, Any]] = []
    for depth, layer in enumerate(layers):
        trained = [parameter for parameter in layer if parameter.requires_grad]
        kept = [one for one in trained if settings.decay == "weights" and one.dim() < 2]
        decayed = [one for one in trained if settings.decay == "all" or one.dim() >= 2]
        for parameters, decay in ((decayed, settings.weight_decay), (kept, 0.0)):
            if parameters:
                factor = settings.layer_decay**depth
                groups.append({"params": parameters, "weight_decay": decay, "lr_factor": factor})
    match settings.name:
        case "adamw":
            return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, fused=True)
        case "adam":
            return torch.optim.Adam(groups, lr=settings.lr, betas=settings.betas, fused=True)
        case "lars":
            from ecgtrain.training.lars import Lars

            return Lars(groups, lr=settings.lr, momentum=settings.betas[0], trust=settings.trust)


def set_learning_rate(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group of parameters, times the group's own ``lr_factor``."""
    for group in optimiser.param_groups:
        group["lr"] = lr * group["lr_factor"]


def clip(parameters: Iterable[nn.Parameter], max_norm: float | None) -> torch.Tensor:
    """Scale all gradients down to a joint norm of ``max_norm`` at most; return the norm before."""
    import torch

    return torch.nn.utils.clip_grad_norm_(parameters, math.inf if max_norm is None else max_norm)
