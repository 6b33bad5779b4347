"""The optimiser, its schedule as a pure function of the step, and gradient clipping."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat

import ecgstore

if TYPE_CHECKING:
    import torch
    from torch import nn


class Settings(ecgstore.Settings):
    """The optimiser; the defaults are the CPC paper's.

    ``adamw``: decoupled decay (Loshchilov & Hutter 2019). ``adam``: decay is added to the gradient. ``lars``:
    layer-wise rates for very large batches (You, Gitman & Ginsburg 2017), with ``betas[0]`` as its momentum and
    ``trust`` as its coefficient. ``decay`` weights leaves biases and the parameters of normalisations alone.

    ``schedule`` is followed after ``warmup_steps`` of linear rise; ``cosine`` falls to zero at the last step.
    ``clip_norm`` bounds the norm of the whole gradient. With ``layer_decay`` below 1, each group of the backbone's
    layers, from the output down, learns at that times the rate of the one above it.
    """

    name: Literal["adamw", "adam", "lars"] = "adamw"
    lr: PositiveFloat = 1e-4
    weight_decay: NonNegativeFloat = 1e-3
    decay: Literal["all", "weights"] = "all"
    betas: tuple[float, float] = Field(default=(0.9, 0.999))
    trust: PositiveFloat = 1e-3
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: NonNegativeInt = 0
    clip_norm: PositiveFloat | None = None
    layer_decay: float = Field(default=1.0, gt=0, le=1)


def learning_rate(settings: Settings, step: int, n_steps: int) -> float:
    """The learning rate that step ``step`` (from 0) of ``n_steps`` is taken with."""
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return settings.lr
    done = (step - settings.warmup_steps) / max(n_steps - settings.warmup_steps, 1)
    return settings.lr * 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))


def build(settings: Settings, layers: Sequence[Iterable[nn.Parameter]]) -> torch.optim.Optimizer:
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
            from ecgtrain.lars import Lars

            return Lars(groups, lr=settings.lr, momentum=settings.betas[0], trust=settings.trust)


def set_learning_rate(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group of parameters, times the group's own ``lr_factor``."""
    for group in optimiser.param_groups:
        group["lr"] = lr * group["lr_factor"]


def clip(parameters: Iterable[nn.Parameter], max_norm: float | None) -> torch.Tensor:
    """Scale all gradients down to a joint norm of ``max_norm`` at most; return the norm before."""
    import torch

    return torch.nn.utils.clip_grad_norm_(parameters, math.inf if max_norm is None else max_norm)
