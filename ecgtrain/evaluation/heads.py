"""What is put on a representation to answer a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn


class Linear(nn.Module):
    """A linear map from raw pooled features to logits: whatever standardised them is folded in."""

    def __init__(self, n_features: int, classes: Sequence[str]) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self.map = nn.Linear(n_features, len(self.classes))

    @classmethod
    def from_probe(
        cls, weight_cd: npt.NDArray[np.floating], bias_c: npt.NDArray[np.floating], classes: Sequence[str]
    ) -> Self:
        """The head that a linear probe found: weights (classes, features) and bias (classes,)."""
        head = cls(weight_cd.shape[1], classes)
        head.map.load_state_dict({"weight": torch.tensor(weight_cd), "bias": torch.tensor(bias_c)})
        return head

    def forward(self, features_bd: Tensor) -> Tensor:
        """Logits (batch, classes) of features (batch, features)."""
        logits_bc: Tensor = self.map(features_bd)
        return logits_bc
