"""The ranks of a run. The only file that imports ``torch.distributed``; on one rank everything here does nothing.

A run has one process per GPU (or per part of a CPU), started by ``torchrun``. All ranks go through the same steps
with their own slices of the same global batches, and must come to the same decisions: what one of them alone can
know (a signal, a clock, a file) is told to all before anybody acts on it.
"""

from __future__ import annotations

import gc
import os
import traceback
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from importlib import import_module
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ecgstore import ConfigError
from ecgtrain.errors import RankLostError

T = TypeVar("T")

#: How long ranks wait for one that says nothing: long enough for a cache to be filled, or a checkpoint written.
PATIENCE = timedelta(minutes=30)

_alone = False


@contextmanager
def ranks(device: torch.device | str) -> Iterator[torch.device]:
    """Join the ranks that ``torchrun`` started, and leave them at the end; yields this rank's device.

    Without ``torchrun`` nothing happens. Raises RankLostError as soon as another rank is found to have ended. Let
    replicated networks be variables of a function that is called inside: they must be gone before the ranks part.
    """
    device = torch.device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    _share_cores()
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    # It keeps the group that there is when it is imported, for good; DistributedDataParallel would import it later.
    import_module("torch.distributed.nn")
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield device
    except BaseException as error:
        _let_frames_go(error)
        if isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error)):
            raise RankLostError(
                "another rank has ended, or is no longer heard of",
                where=f"rank {rank()} of {world()}",
                got=" ".join(str(error).split())[:200],
                fix="see what that rank said; then go on with --resume",
            ) from error
        raise
    finally:
        # A replicated network that goes after the group waits for the group's threads, while they may wait for it.
        gc.collect()
        dist.destroy_process_group()


def _let_frames_go(error: BaseException) -> None:
    """Forget the variables of where ``error`` came from: a network among them would keep the group and its threads.

    A thread of a group that still drops a tensor while Python ends aborts the process.
    """
    behind: BaseException | None = error
    while behind is not None:
        traceback.clear_frames(behind.__traceback__)
        behind = behind.__context__


def rank() -> int:
    """This process' number among the ranks of the run."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world() -> int:
    """How many ranks the run has."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@contextmanager
def alone() -> Iterator[None]:
    """Inside, :func:`gather` gives back what it is given: ranks are at different things."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


# --- tensors ------------------------------------------------------------------------------------------------


def gather(x: Tensor) -> Tensor:
    """The batch of all ranks, in the order of ranks: (world x batch, ...), with gradient.

    Each rank computes the loss of the whole batch from it. The gradient that comes back to a rank is the sum of
    what all ranks' losses ask of its part; the average over ranks that distributed training takes then makes it
    that of one rank with the whole batch. Parts must be of one size.
    """
    if world() == 1 or _alone:
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
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return total(gradient).chunk(world())[rank()]


def total(x: Tensor) -> Tensor:
    """The sum over all ranks, without gradient."""
    if world() == 1:
        return x
    summed = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(summed)
    return summed


class _Total(torch.autograd.Function):
    """The sum over all ranks, with gradient: what all ranks' losses ask of a sum, they ask of each addend."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return total(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return total(gradient)


# --- what only one rank knows -------------------------------------------------------------------------------


def told_by_first(value: T) -> T:
    """What rank 0 was given, on every rank."""
    return told_by_all(value)[0]


def told_by_all(value: T) -> list[T]:
    """What each rank was given, in the order of ranks, on every rank."""
    if world() == 1:
        return [value]
    told: list[Any] = [None] * world()
    dist.all_gather_object(told, value)
    return told


def refuse_different(content: Mapping[str, Any], what: str) -> None:
    """Raise ConfigError on all ranks unless ``content`` is the same on all of them."""
    told = told_by_all(dict(content))
    for number, its in enumerate(told):
        for key in sorted({*told[0], *its}):
            if its.get(key) != told[0].get(key):
                raise ConfigError(
                    f"the ranks of a run must agree about {what}: {key} differs",
                    where=f"rank {number}",
                    expected=f"{told[0].get(key)!r}, as on rank 0",
                    got=repr(its.get(key)),
                    fix="let all nodes read the same store and recipe",
                )


# --- networks -----------------------------------------------------------------------------------------------


def replicate(network: nn.Module, *, unused_parameters: bool) -> nn.Module:
    """``network`` such that gradients are averaged over all ranks while they are computed.

    ``unused_parameters`` says that some of them may get no gradient in a step.
    """
    if world() == 1:
        return network
    return DistributedDataParallel(network, find_unused_parameters=unused_parameters)


def averaging(network: nn.Module, now: bool) -> AbstractContextManager[None]:
    """Inside, gradients of a replicated network are averaged over the ranks only if ``now``; else added up."""
    if now or not isinstance(network, DistributedDataParallel):
        return nullcontext()
    held: AbstractContextManager[None] = network.no_sync()
    return held


def synchronise_batchnorm(network: nn.Module) -> nn.Module:
    """Let every BatchNorm take its statistics from the whole global batch; weights and names stay as they are."""
    if world() == 1:
        return network
    if any(parameter.is_cuda for parameter in network.parameters()):
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return converted
    for name, child in network.named_children():
        setattr(network, name, synchronise_batchnorm(child))
    return _synchronised(network) if isinstance(network, nn.BatchNorm1d) else network


def _synchronised(norm: nn.BatchNorm1d) -> nn.BatchNorm1d:
    made = _BatchNormOfAllRanks(
        norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats
    ).train(norm.training)
    made._parameters, made._buffers = norm._parameters, norm._buffers
    return made


class _BatchNormOfAllRanks(nn.BatchNorm1d):
    """torch's own, which runs on GPUs only, for gloo and CPUs: (batch, features) or (batch, features, tokens)."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or world() == 1:
            return super().forward(x)
        over = [0] if x.dim() == 2 else [0, 2]
        shape = [1, -1] + [1] * (x.dim() - 2)
        n = total(torch.tensor(float(x.numel() // x.shape[1])))
        mean = _sum_of_ranks(x.sum(dim=over)) / n
        centred = x - mean.view(shape)
        variance = _sum_of_ranks(centred.square().sum(dim=over)) / n
        self._remember(mean.detach(), variance.detach() * n / (n - 1))
        normalised = centred * (variance + self.eps).rsqrt().view(shape)
        if not self.affine:
            return normalised
        return torch.addcmul(self.bias.view(shape), normalised, self.weight.view(shape))

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        if not self.track_running_stats:
            return
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        rate = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, rate)
        self.running_var.lerp_(variance, rate)


def _sum_of_ranks(x: Tensor) -> Tensor:
    summed: Tensor = _Total.apply(x)  # type: ignore[no-untyped-call]
    return summed


def _share_cores() -> None:
    """Divide the machine's cores among its ranks: torchrun gives each but one thread unless it is told otherwise."""
    if os.environ.get("OMP_NUM_THREADS", "1") == "1":
        local_world = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local_world))
