"""The optimiser, its schedule as a pure function of the step, and gradient clipping."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat

import ecgstore

if TYPE_CHECKING:
    import torch
    from torch import nn


class Settings(ecgstore.Settings):
    """AdamW; the defaults are the CPC paper's.

    ``schedule`` is followed after ``warmup_steps`` of linear rise; ``cosine`` falls to zero at the last step.
    ``clip_norm`` bounds the norm of the whole gradient.
    """

    name: Literal["adamw"] = "adamw"
    lr: PositiveFloat = 1e-4
    weight_decay: NonNegativeFloat = 1e-3
    betas: tuple[float, float] = Field(default=(0.9, 0.999))
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: NonNegativeInt = 0
    clip_norm: PositiveFloat | None = None


def learning_rate(settings: Settings, step: int, n_steps: int) -> float:
    """The learning rate that step ``step`` (from 0) of ``n_steps`` is taken with."""
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return settings.lr
    done = (step - settings.warmup_steps) / max(n_steps - settings.warmup_steps, 1)
    return settings.lr * 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))


def build(settings: Settings, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Make the optimiser. Weight decay applies to every parameter, as in the published scripts."""
    import torch

    return torch.optim.AdamW(
        [parameter for parameter in parameters if parameter.requires_grad],
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        betas=settings.betas,
        fused=True,
    )


def set_learning_rate(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter group (times the group's own ``lr_factor``, if it has one)."""
    for group in optimiser.param_groups:
        group["lr"] = lr * group.get("lr_factor", 1.0)


def clip(parameters: Iterable[nn.Parameter], max_norm: float | None) -> torch.Tensor:
    """Scale all gradients down to a joint norm of ``max_norm`` at most; return the norm before."""
    import torch

    return torch.nn.utils.clip_grad_norm_(parameters, math.inf if max_norm is None else max_norm)
