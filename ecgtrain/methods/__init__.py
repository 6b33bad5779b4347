"""ROOM of methods: one paper's objective per file, and what the training loop knows of them."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

from torch import Tensor, nn

from ecgtrain.backbones import Backbone


class LossTerms(NamedTuple):
    """``total`` is what is minimised; ``parts`` are detached scalars for the log, by name."""

    total: Tensor
    parts: dict[str, Tensor]


class Objective(nn.Module):
    """A loss together with the backbone it trains. Each file of this room has

    - ``DESCRIPTION``: one line;
    - ``Settings``: frozen settings, whose ``name`` is the file's name;
    - ``views(settings, mv, normalise, sample_numbers_b, draw) -> Views``: what the objective looks at.
      Millivolts come in, so that noise can be added in mV, and ``normalise`` is applied where the paper does;
      random parameters come from ``draw`` by sample number;
    - ``build(settings, backbone) -> Objective``, which draws its weights from torch's generator.
    """

    backbone: Backbone

    @property
    def chance(self) -> dict[str, float]:
        """What the parts of the loss are if nothing is learned, where that is known."""
        return {}

    @abstractmethod
    def forward(self, views: Any) -> LossTerms:
        """The loss of a batch of views; ``forward``, so that hooks of distributed training run."""

    def after_step(self, progress: float) -> None:
        """Called after each optimiser step with the done share of the run: moving averages, prototypes."""
        return
