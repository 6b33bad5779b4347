"""Parts of one step: precision, compilation, division among ranks, groups of layers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from ecgstore import ConfigError
from ecgtrain import distributed
from ecgtrain.config import Training
from ecgtrain.methods import LossTerms, Objective

log = logging.getLogger(__name__)

_AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def layers(objective: Objective) -> list[list[nn.Parameter]]:
    """All parameters, from the output of the network down: what only the objective has stands at the top."""
    layers = objective.backbone.layer_groups()
    of_backbone = {id(parameter) for layer in layers for parameter in layer}
    return [[one for one in objective.parameters() if id(one) not in of_backbone], *layers]


def refuse_division(objective: Objective, training: Training) -> None:
    """Raise ConfigError where a loss that compares windows would see only some of them, or slices of two sizes."""
    batch_size, n_parts, world = training.batch_size, training.accumulate, distributed.world()
    if not objective.compares_windows:
        # Of a single window BatchNorm has no statistics.
        fewest = 2 if objective.wants_sync_batchnorm else 1
        if batch_size < fewest * n_parts * world:
            raise ConfigError(
                "a batch has too few windows to be divided so often",
                expected=f"pretrain.batch_size of {fewest * n_parts * world} or more",
                got=batch_size,
                fix="lower accumulate, or use fewer ranks",
            )
        return
    if n_parts > 1:
        raise ConfigError(
            f"{type(objective).__name__} compares the windows of a batch: it can't be taken in parts",
            expected="pretrain.accumulate: 1",
            got=n_parts,
            fix="use more ranks, a smaller batch, or precision: bfloat16",
        )
    if batch_size % world:
        raise ConfigError(
            "the batch can't be divided evenly among the ranks",
            expected=f"pretrain.batch_size divisible by {world}",
            got=batch_size,
            fix="change the number of ranks",
        )


def refuse_graphs(objective: Objective, training: Training) -> None:
    """Raise ConfigError where a GPU would have to record a graph for each of many shapes."""
    if training.cuda_graphs and objective.shapes_vary:
        raise ConfigError(
            f"{type(objective).__name__} gives its networks batches of other shapes from step to step",
            expected="pretrain.cuda_graphs: false",
            got="true",
            fix="leave it out; compile: true alone will do",
        )


def compiled(objective: Objective, training: Training) -> nn.Module:
    """``objective``, its networks compiled if ``training`` says so.

    Where the first call fails, it goes on without, and says so.
    """
    if not training.compile:
        return objective
    # Of torch's ways the one with graphs; a processor has none, and is compiled as without.
    make: Callable[..., Any] = torch.compile
    make = partial(make, mode="reduce-overhead") if training.cuda_graphs else make
    try:
        forwards = {part: make(part.forward) for part in objective.networks()}
    except Exception as error:
        log.warning("torch.compile isn't to be had here: %s", " ".join(str(error).split())[:200])
        return objective
    return _CompiledOrNot(objective, forwards)


class _CompiledOrNot(nn.Module):
    """Compiled, until that is found not to work. Views and losses aren't: they draw, gather and look at shapes."""

    def __init__(self, objective: Objective, forwards: Mapping[nn.Module, Callable[..., Any]]) -> None:
        super().__init__()
        self.objective = objective
        self._forwards = dict(forwards)  # no modules of this one: the weights are the objective's, and are named once

    def forward(self, views: Any) -> LossTerms:
        if self._forwards:
            before = torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
            try:
                with _exchanged(self._forwards):
                    terms: LossTerms = self.objective(views)
                return terms
            except Exception as error:  # the compiler's errors have no common ancestor
                self._forwards.clear()
                # What was drawn on the way to the failure is drawn again.
                torch.set_rng_state(before[0])
                torch.cuda.set_rng_state_all(before[1])
                log.warning("torch.compile failed, training goes on without: %s", " ".join(str(error).split())[:200])
        return self.objective(views)  # type: ignore[no-any-return]


@contextmanager
def _exchanged(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Within, modules do these in the place of their own forward; validation and export see them as they are."""
    for part, forward in forwards.items():
        part.forward = forward
    try:
        yield
    finally:
        for part in forwards:
            del part.forward


@contextmanager
def tensor_float(device: torch.device) -> Iterator[None]:
    """Let a GPU multiply float32 with TF32's 10 bits of mantissa, several times as fast; as it was, afterwards.

    Its convolutions and recurrent layers do so by torch's own default. ``NVIDIA_TF32_OVERRIDE=0`` forbids both.
    """
    before = torch.get_float32_matmul_precision()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def autocast(training: Training, device: torch.device) -> Callable[[], torch.autocast]:
    """Makes the context that networks run in, as ``training.precision`` says."""
    dtype = _AUTOCAST.get(training.precision)
    return partial(torch.autocast, device.type, dtype, enabled=dtype is not None)


@contextmanager
def own_torch_generator(device: torch.device) -> Iterator[None]:
    """Give torch's generators back as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def step_seed(seed: int, step: int, part: int = 0) -> int:
    """What torch's own generator (dropout) starts a step with: nothing has to be remembered for it."""
    return (seed * 1_000_003 + step) * 1_000_003 + part & (2**63 - 1)
