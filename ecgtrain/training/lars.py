"""Layer-wise adaptive rates for very large batches; torch has no such optimiser."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.optim import Optimizer


class Lars(Optimizer):
    """``v <- m v + r lr (g + decay w)``, ``w <- w - v``, with ``r = trust |w| / |g + decay w|`` for each parameter.

    Source: You, Gitman & Ginsburg, arXiv 1708.03888. Biases and the parameters of normalisations (of one dimension)
    take r = 1, as is usual. Where the attribute ``found_inf`` holds 1, a step changes nothing, as in torch's fused
    optimisers.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, lr: float, momentum: float, trust: float) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "trust": trust, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take one step; what happens on a GPU isn't waited for."""
        found_inf = getattr(self, "found_inf", None)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                update = parameter.grad.add(parameter, alpha=group["weight_decay"])
                if parameter.dim() > 1:
                    size, asked = parameter.norm(), update.norm()
                    update *= torch.where((size > 0) & (asked > 0), group["trust"] * size / asked, 1.0)
                state = self.state[parameter]
                before = state["velocity"] if "velocity" in state else torch.zeros_like(parameter)
                velocity = before * group["momentum"] + update * group["lr"]
                if found_inf is None:
                    parameter -= velocity
                else:
                    parameter -= torch.where(found_inf > 0, 0.0, velocity)
                    velocity = torch.where(found_inf > 0, before, velocity)
                state["velocity"] = velocity
