"""What a backbone gives: a vector per token, and one for the whole window."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Pooling = Literal["mean", "max", "last", "mean_max_last"]


class Features(NamedTuple):
    """``tokens_bsd``: one vector per token; ``pooled_bd``: one per window, pooled as its paper does."""

    tokens_bsd: Tensor
    pooled_bd: Tensor


def pool(tokens_bsd: Tensor, how: Pooling) -> Tensor:
    """Pool (batch, tokens, features) over the tokens to (batch, features).

    ``mean_max_last`` concatenates the three (three times as many features): the read-out of the CPC paper,
    where the last token of a causal network has seen the whole window.
    """
    match how:
        case "mean":
            return tokens_bsd.mean(dim=1)
        case "max":
            return tokens_bsd.amax(dim=1)
        case "last":
            return tokens_bsd[:, -1]
        case "mean_max_last":
            return torch.cat([tokens_bsd.mean(dim=1), tokens_bsd.amax(dim=1), tokens_bsd[:, -1]], dim=1)
