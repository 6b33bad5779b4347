"""SwAV as Mehari & Strodthoff (2022) run it: say from one view to which prototype the other was assigned.

Source: Caron et al., arXiv 2006.09882; the variant and its constants from Mehari & Strodthoff, Computers in Biology and
Medicine 141, 105114, by its published code. z are projections at unit length, c[k] are K prototypes at unit length::

    s_v[i, k] = <z_v[i], c[k]>                                      scores of view v of window i
    q_u       = Sinkhorn(exp(s_u / epsilon))                        codes, for the views u = 0 and 1, without gradient
    l(u, v)   = mean over windows of  - sum over k of q_u[i, k] log softmax(s_v[i] / temperature)[k]
    loss      = mean over u of the mean over the other views v of l(u, v)

Sinkhorn's iterations make the codes of a batch use all prototypes alike: that keeps all windows from going to one. All
prototypes alike for every window scores ln K.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import ecgstore
from ecgstore import ConfigError
from ecgtrain import distributed
from ecgtrain.backbones import Backbone
from ecgtrain.methods import LossTerms, Moment, Objective, WindowBatch
from ecgtrain.views.augmentations import CROP_AND_TIME_OUT, Augmentation

DESCRIPTION = "SwAV: tell from one view to which prototype another was assigned, all prototypes being used alike"

#: Views whose codes are computed.
_CODED = 2


class Settings(ecgstore.Settings):
    """The defaults are the published ones.

    ``n_views``: views of each window, all of its length; codes come from the first two. ``augmentations``: what each is
    made by. ``n_prototypes``: how many directions windows are assigned to. ``hidden_width``, ``embedding_width``:
    features inside and at the end of the projector. ``epsilon``: how soft codes are; ``sinkhorn_iterations`` of
    columns, then rows. ``temperature``: scores are divided by it. ``freeze_epochs``: the prototypes stay as they are
    for so long. ``queue_batches``: projections of so many earlier batches are coded along, from ``queue_from_epoch`` on
    and once there are so many.

    ``repo_compat``: what the published code does: all views pass through the networks at once, with BatchNorm
    statistics of all of them together, and the sum over the other views is divided by the number of all views.
    """

    name: Literal["swav"] = "swav"
    n_views: int = Field(6, ge=2)
    n_prototypes: int = Field(3000, ge=2)
    hidden_width: PositiveInt = 2048
    embedding_width: PositiveInt = 128
    epsilon: PositiveFloat = 0.05
    sinkhorn_iterations: PositiveInt = 3
    temperature: PositiveFloat = 0.1
    freeze_epochs: NonNegativeFloat = 1.0
    queue_batches: NonNegativeInt = 8
    queue_from_epoch: NonNegativeFloat = 15.0
    augmentations: tuple[Augmentation, ...] = CROP_AND_TIME_OUT
    repo_compat: bool = False


class Views(NamedTuple):
    """All views of each window, normalised: (views, batch, leads, samples)."""

    x_vblt: Tensor


def views(settings: Settings, batch: WindowBatch) -> Views:
    """All views are made of the same cut of the record."""
    return Views(torch.stack([batch.augmented(settings.augmentations, view) for view in range(settings.n_views)]))


@torch.no_grad()
def sinkhorn(scores_bk: Tensor, epsilon: float, n_iterations: int) -> Tensor:
    """Codes (batch, prototypes): each row sums to 1, each column, nearly, to batch / prototypes.

    In logarithms, because exp(1 / 0.05) is 5e8 and its sums would lose the small ones.
    """
    log_q_bk = scores_bk / epsilon
    for _ in range(n_iterations):
        log_q_bk = log_q_bk - torch.logsumexp(log_q_bk, dim=0, keepdim=True)  # all prototypes alike
        log_q_bk = log_q_bk - torch.logsumexp(log_q_bk, dim=1, keepdim=True)  # all windows alike
    return log_q_bk.exp()


class Swav(Objective):
    """The SwAV loss over a backbone's features."""

    compares_windows = True
    wants_sync_batchnorm = True

    queue_vnd: Tensor
    n_queued: Tensor

    def __init__(self, settings: Settings, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self._settings = settings
        self.projector = nn.Sequential(
            nn.Linear(backbone.pooled_width, settings.hidden_width),
            nn.BatchNorm1d(settings.hidden_width),
            nn.ReLU(inplace=True),
            nn.Linear(settings.hidden_width, settings.embedding_width),
        )
        self.prototypes = nn.Linear(settings.embedding_width, settings.n_prototypes, bias=False)
        self._unit_prototypes()
        self._newest_vbd: Tensor | None = None
        # Of a size that check() sets, because it hangs on the batch: kept in checkpoints, so that a run resumes.
        self.register_buffer("queue_vnd", torch.zeros(_CODED, 0, settings.embedding_width))
        self.register_buffer("n_queued", torch.zeros((), dtype=torch.int64))
        self._n_known: int | None = None
        self.register_load_state_dict_post_hook(_forget)  # type: ignore[no-untyped-call]

    @property
    def chance(self) -> dict[str, float]:
        """The loss where all prototypes are alike for every window.

        Agreement has no such level: views of a window are alike already before anything is learned.
        """
        return {"swav": math.log(self._settings.n_prototypes)}

    def check(self, window_samples: int, batch_size: int, fs_hz: float) -> None:
        """Refuse a batch of one window, which Sinkhorn's iterations would give to all prototypes; size the queue."""
        if batch_size < 2:
            raise ConfigError(
                "swav divides the windows of a batch among prototypes",
                expected="a batch of at least 2 windows",
                got=batch_size,
                fix="raise batch_size: 128 or more is usual",
            )
        n = self._settings.queue_batches * batch_size
        self.queue_vnd = torch.zeros(_CODED, n, self._settings.embedding_width, device=self.queue_vnd.device)

    def forward(self, views: Views) -> LossTerms:
        """The loss; parts: itself, and what views 0 and 1 have to do with prototypes.

        ``agreement``: how often both are nearest to the same one. ``usage_nats``: entropy of the shares of views of
        the global batch that are nearest to each prototype, 0 where all are nearest to one. Those of the codes would
        show nothing: Sinkhorn's iterations make them alike even where all windows are. ``code_nats``: mean entropy of
        a code, ln K where windows can't be told apart.
        """
        settings = self._settings
        pooled_vbd = self._each_view(lambda x_blt: self.backbone(x_blt).pooled_bd, self.backbone, views.x_vblt)
        projected_vbd = self._each_view(self.projector, self.projector, pooled_vbd)
        # Scores are divided by 0.05 and 0.1: bfloat16 would round them by tenths.
        with torch.autocast(pooled_vbd.device.type, enabled=False):
            unit_vbd = F.normalize(projected_vbd.to(self.prototypes.weight.dtype), dim=2)
            scores_vbk = self.prototypes(unit_vbd)
            codes_vbk = self._codes(unit_vbd[:_CODED].detach())
            log_p_vbk = F.log_softmax(scores_vbk / settings.temperature, dim=2)
            losses = [
                -(codes_vbk[u] * log_p_vbk[v]).sum(dim=1).mean()
                for u in range(_CODED)
                for v in range(settings.n_views)
                if v != u
            ]
            n_others = settings.n_views if settings.repo_compat else settings.n_views - 1
            loss = torch.stack(losses).sum() / (_CODED * n_others)
        one_b, other_b = scores_vbk[:_CODED].detach().argmax(dim=2)
        parts = {
            "swav": loss.detach(),
            "agreement": (one_b == other_b).float().mean(),
            "usage_nats": _usage_nats(distributed.gather(torch.stack([one_b, other_b], dim=1)), settings.n_prototypes),
            "code_nats": torch.special.entr(codes_vbk).sum(dim=2).mean(),
        }
        return LossTerms(loss, parts, pooled_vbd.detach())

    def _each_view(self, run: Callable[[Tensor], Tensor], network: nn.Module, x_vb: Tensor) -> Tensor:
        """What ``network`` makes of (views, batch, ...) by ``run``: at once where no view has a part in another's."""
        if not self._settings.repo_compat and _takes_statistics(network):
            return torch.stack([run(x_b) for x_b in x_vb])
        return run(x_vb.flatten(0, 1)).view(*x_vb.shape[:2], -1)

    @torch.no_grad()
    def _codes(self, unit_vbd: Tensor) -> Tensor:
        """Codes of this rank's windows, made together with those of all ranks and of the queue."""
        n_own = unit_vbd.shape[1]
        everyone_vnd = torch.stack([distributed.gather(unit_bd) for unit_bd in unit_vbd])
        first = distributed.rank() * n_own if everyone_vnd.shape[1] > n_own else 0
        if self.training:
            self._newest_vbd = everyone_vnd
            if 0 < self.queue_vnd.shape[1] == self._queued():
                everyone_vnd = torch.cat([everyone_vnd, self.queue_vnd.to(unit_vbd.dtype)], dim=1)
        settings = self._settings
        coded = [
            sinkhorn(self.prototypes(unit_nd), settings.epsilon, settings.sinkhorn_iterations)
            for unit_nd in everyone_vnd
        ]
        return torch.stack([codes_nk[first : first + n_own] for codes_nk in coded])

    def _queued(self) -> int:
        """Windows in the queue. Known on the host as well, so that nobody waits for the device to tell."""
        if self._n_known is None:
            self._n_known = int(self.n_queued)
        return self._n_known

    def before_step(self, moment: Moment) -> None:
        """Keep the prototypes as they are during the first epoch."""
        if moment.epoch < self._settings.freeze_epochs:
            self.prototypes.weight.grad = None

    @torch.no_grad()
    def after_step(self, moment: Moment) -> None:
        """Bring prototypes back to unit length; put the batch into the queue, once its epoch has come."""
        self._unit_prototypes()
        size = self.queue_vnd.shape[1]
        if self._newest_vbd is None or not size or moment.epoch < self._settings.queue_from_epoch:
            return
        n_new = self._newest_vbd.shape[1]
        self.queue_vnd = torch.cat([self._newest_vbd.to(self.queue_vnd.dtype), self.queue_vnd], dim=1)[:, :size]
        self._n_known = min(self._queued() + n_new, size)
        self.n_queued.fill_(self._n_known)
        self._newest_vbd = None

    @torch.no_grad()
    def _unit_prototypes(self) -> None:
        self.prototypes.weight.copy_(F.normalize(self.prototypes.weight, dim=1))


def _takes_statistics(network: nn.Module) -> bool:
    """Whether what comes of a window hangs on those that pass together with it."""
    return any(isinstance(part, _BatchNorm) and part.training for part in network.modules())


def _usage_nats(nearest_bv: Tensor, n_prototypes: int) -> Tensor:
    # Neither bincount nor one_hot: both make the host wait for the device.
    ones = torch.ones(nearest_bv.numel(), device=nearest_bv.device)
    counts_k = ones.new_zeros(n_prototypes).index_add_(0, nearest_bv.flatten(), ones)
    usage: Tensor = torch.special.entr(counts_k / len(ones)).sum()
    return usage


def _forget(objective: nn.Module, keys: object) -> None:
    """What was known of the queue is another's, once a checkpoint has been loaded."""
    objective._n_known = None  # type: ignore[assignment]


def build(settings: Settings, backbone: Backbone) -> Swav:
    """Make the objective, for any backbone."""
    return Swav(settings, backbone)
