"""What all augmentations share."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from ecgstore import Settings
from ecgtrain.views.normalise import Millivolts


class Base(Settings):
    """What all augmentations have.

    ``probability``: the share of windows that it is applied to.
    """

    name: str
    probability: float = Field(1.0, ge=0, le=1)


def whole_part(x: Tensor) -> Tensor:
    """The whole part of what is not negative."""
    return x.to(torch.int64)


def between(unit: Tensor, bounds: tuple[float, float]) -> Tensor:
    return unit * (bounds[1] - bounds[0]) + bounds[0]


def keep_recorded(x_blt: Tensor, recorded_blt: Tensor) -> Millivolts:
    return Millivolts(x_blt.masked_fill_(~recorded_blt, 0.0), recorded_blt)
