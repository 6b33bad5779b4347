"""Contrastive predictive coding as Mehari & Strodthoff (2022) run it: tell what comes from what doesn't.

Source: van den Oord, Li & Vinyals, arXiv 1807.03748; the variant and its constants from Mehari & Strodthoff,
Computers in Biology and Medicine 141, 105114. For every step t of a window with S latents z and contexts c::

    positive   z[t+k]                                        (k = steps_ahead)
    negatives  n_negatives latents of the same window, drawn uniformly with replacement, never z[t+k]
    logits     <W c[t], z[j]>                                (no temperature, no normalisation)
    l[t]       = -log softmax(logits)[positive]
    loss       = sum over t = 0 … S-k-1 of the batch mean of l[t]

A network that has learned nothing scores ln(n_negatives + 1) nats per term.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, Protocol, cast

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

import ecgstore
from ecgstore import ConfigError
from ecgtrain.backbones import Backbone
from ecgtrain.methods import LossTerms, Objective, WindowBatch
from ecgtrain.views.draw import Draw
from ecgtrain.views.normalise import shuffle_time

DESCRIPTION = "contrastive predictive coding: tell the latent 120 ms ahead from 128 others of the same record"

#: Streams of the draw: negatives must not be tied to the shuffled order of the control.
_NEGATIVES, _SHUFFLE = 0, 1


class Settings(ecgstore.Settings):
    """The defaults are the published ones.

    ``steps_ahead``: how many latents ahead lies the one that is predicted. ``n_negatives``: among so many others.
    ``projection``: what turns a context into the prediction.

    ``all_steps`` predicts 1 … steps_ahead, each by a projection of its own, and averages; the published
    variant predicts the last of them only. ``reduction`` sum adds the terms of a window as published, mean
    averages them; to AdamW that makes next to no difference. ``control: time_shuffle`` trains on windows
    whose samples were put in random order: a negative control, which must stay at chance.
    """

    name: Literal["cpc"] = "cpc"
    steps_ahead: PositiveInt = 12
    n_negatives: PositiveInt = 128
    projection: Literal["linear", "mlp"] = "linear"
    all_steps: bool = False
    reduction: Literal["sum", "mean"] = "sum"
    control: Literal["none", "time_shuffle"] = "none"


class Views(NamedTuple):
    """Normalised windows, what their negatives are drawn by, and those of each horizon once they are drawn."""

    x_blt: Tensor
    sample_numbers_b: Tensor
    draw: Draw
    negatives: tuple[Tensor, ...] = ()


class Predictable(Protocol):
    """What CPC asks of a backbone: latents, and causal contexts of them."""

    width: int
    latent_width: int

    def n_tokens(self, n_samples: int) -> int: ...
    def encode(self, x_blt: Tensor) -> Tensor: ...
    def context(self, latents_bsd: Tensor) -> Tensor: ...


def views(settings: Settings, batch: WindowBatch) -> Views:
    """The normalised windows themselves: CPC augments nothing."""
    x_blt = batch.normalise(batch.mv)
    if settings.control == "time_shuffle":
        x_blt = shuffle_time(x_blt, batch.draw.fork(_SHUFFLE), batch.sample_numbers_b)
    return Views(x_blt, batch.sample_numbers_b, batch.draw.fork(_NEGATIVES))


def draw_negatives(draw: Draw, sample_numbers_b: Tensor, n_latents: int, ahead: int, n_negatives: int) -> Tensor:
    """Indices (batch, n_latents - ahead, n_negatives) of negatives: any latent but ``t + ahead``."""
    n_terms = n_latents - ahead
    others = draw.integers(sample_numbers_b, n_terms * n_negatives, n_latents - 1)
    drawn_bsn = others.view(-1, n_terms, n_negatives)
    positive_s1 = torch.arange(ahead, n_latents, device=drawn_bsn.device)[:, None]
    # Drawn from one fewer and stepped over the positive: uniform over the others.
    return drawn_bsn.add_(drawn_bsn >= positive_s1)


def info_nce(predicted_bsd: Tensor, latents_bsd: Tensor, negatives_bsn: Tensor, ahead: int) -> tuple[Tensor, Tensor]:
    """Loss in nats and whether the positive scored highest, both float32 (batch, terms).

    ``predicted_bsd`` holds one prediction per term, ``latents_bsd`` all latents of the window. All
    negatives of a window are its own latents, so one product of predictions and latents holds every logit;
    picking from it takes milliseconds where gathering the latents themselves takes gigabytes. In half precision
    the factors are rounded, and neither the sums nor the scores: those are large and unscaled, and bfloat16 would
    round them by tenths of a nat.
    """
    if predicted_bsd.dtype in (torch.bfloat16, torch.float16):
        scores_bss = _HalfProduct.apply(predicted_bsd, latents_bsd.to(predicted_bsd.dtype).transpose(1, 2))  # type: ignore[no-untyped-call]
    else:
        scores_bss = torch.bmm(predicted_bsd, latents_bsd.to(predicted_bsd.dtype).transpose(1, 2))
    n_windows, n_terms, _ = negatives_bsn.shape
    positive_s = torch.arange(ahead, ahead + n_terms, device=negatives_bsn.device)
    candidates = torch.cat([positive_s[:, None].expand(n_windows, -1, 1), negatives_bsn], dim=2)
    logits = scores_bss.gather(2, candidates)
    loss_bs = torch.logsumexp(logits, dim=2) - logits[..., 0]
    return loss_bs, (logits[..., 0] > logits[..., 1:].amax(dim=2)).detach()


class _HalfProduct(torch.autograd.Function):
    """The product of two batches of matrices in half precision, summed and returned in float32, with gradient.

    A GPU does so in one call, of which torch knows no gradient; elsewhere rounded factors are multiplied in float32.
    """

    @staticmethod
    def forward(ctx: Any, a_bij: Tensor, b_bjk: Tensor) -> Tensor:
        ctx.save_for_backward(a_bij, b_bjk)
        return _product(a_bij, b_bjk)

    @staticmethod
    def backward(ctx: Any, gradient_bik: Tensor) -> tuple[Tensor, Tensor]:
        a_bij, b_bjk = ctx.saved_tensors
        rounded_bik = gradient_bik.to(a_bij.dtype)
        of_a, of_b = _product(rounded_bik, b_bjk.transpose(1, 2)), _product(a_bij.transpose(1, 2), rounded_bik)
        return of_a.to(a_bij.dtype), of_b.to(b_bjk.dtype)


def _product(a_bij: Tensor, b_bjk: Tensor) -> Tensor:
    if a_bij.is_cuda:
        return torch.bmm(a_bij, b_bjk, out_dtype=torch.float32)
    return torch.bmm(a_bij.float(), b_bjk.float())


class Cpc(Objective):
    """The CPC loss over a backbone with latents and causal contexts."""

    def __init__(self, settings: Settings, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self._settings = settings
        self._network = cast(Predictable, backbone)
        k = settings.steps_ahead
        self._horizons = tuple(range(1, k + 1)) if settings.all_steps else (k,)
        self.projections = nn.ModuleList(
            _projection(settings.projection, self._network.width, self._network.latent_width) for _ in self._horizons
        )

    @property
    def chance(self) -> dict[str, float]:
        """Loss per term and accuracy of a network that has learned nothing."""
        n_candidates = self._settings.n_negatives + 1
        return {"per_term_nats": math.log(n_candidates), "accuracy": 1 / n_candidates}

    def check(self, window_samples: int, batch_size: int, fs_hz: float) -> None:
        """Refuse windows that have no latent as far ahead as is predicted."""
        n_latents = self._network.n_tokens(window_samples)
        if n_latents <= self._horizons[-1]:
            raise ConfigError(
                "the window has no latent as far ahead as CPC predicts",
                expected=f"more than {self._horizons[-1]} latents",
                got=max(n_latents, 0),
                fix="raise window_samples or lower steps_ahead",
            )

    def drawn(self, views: Views) -> Views:
        """With the negatives of each horizon."""
        n_latents = self._network.n_tokens(views.x_blt.shape[2])
        n = self._settings.n_negatives
        return views._replace(
            negatives=tuple(
                draw_negatives(views.draw.fork(ahead), views.sample_numbers_b, n_latents, ahead, n)
                for ahead in self._horizons
            )
        )

    def forward(self, views: Views) -> LossTerms:
        """Sum (or mean) of the terms; parts: nats per term, and how often the positive scored highest."""
        views = views if views.negatives else self.drawn(views)
        latents_bsd = self._network.encode(views.x_blt)
        contexts_bsd = self._network.context(latents_bsd)
        totals, losses, hits = [], [], []
        for ahead, project, negatives_bsn in zip(self._horizons, self.projections, views.negatives, strict=True):
            predicted_bsd = project(contexts_bsd[:, :-ahead])
            with torch.autocast(predicted_bsd.device.type, enabled=False):
                loss_bs, hit_bs = info_nce(predicted_bsd, latents_bsd, negatives_bsn, ahead)
            totals.append(loss_bs.mean(dim=0).sum() if self._settings.reduction == "sum" else loss_bs.mean())
            losses.append(loss_bs.detach().mean())
            hits.append(hit_bs.float().mean())
        parts = {"per_term_nats": torch.stack(losses).mean(), "accuracy": torch.stack(hits).mean()}
        return LossTerms(torch.stack(totals).mean(), parts, contexts_bsd.detach().mean(dim=1)[None])


def build(settings: Settings, backbone: Backbone) -> Cpc:
    """Make the objective; raises ConfigError if the backbone has no latents to predict."""
    if not (hasattr(backbone, "encode") and hasattr(backbone, "context")):
        raise ConfigError(
            "cpc needs a backbone with latents and causal contexts",
            got=type(backbone).__name__,
            fix="use the backbone cpc_lstm",
        )
    return Cpc(settings, backbone)


def _projection(kind: Literal["linear", "mlp"], n_in: int, n_out: int) -> nn.Module:
    if kind == "linear":
        return nn.Linear(n_in, n_out, bias=False)
    return nn.Sequential(nn.Linear(n_in, n_in), nn.ReLU(), nn.Linear(n_in, n_out))
