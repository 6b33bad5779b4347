"""The ranks of a run. The only file that imports ``torch.distributed``; on one rank everything here does nothing."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """This process' number among the ranks of the run."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world() -> int:
    """How many ranks the run has."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather(x: Tensor) -> Tensor:
    """The batch of all ranks, in the order of ranks: (world x batch, ...), with gradient.

    Each rank computes the loss of the whole batch from it. The gradient that comes back to a rank is the sum of
    what all ranks' losses ask of its part; the average over ranks that distributed training takes then makes it
    that of one rank with the whole batch. Parts must be of one size.
    """
    if world() == 1:
        return x
    gathered: Tensor = _Gather.apply(x)  # type: ignore[no-untyped-call]
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        whole = gradient.contiguous().clone()
        dist.all_reduce(whole)
        return whole.chunk(world())[rank()]
