"""Joint spatio-temporal pretext task: restore a signal of which stretches are hidden and leads have changed places.

A reconstruction, inspired by Ran & Liu, "Joint spatio-temporal features constrained self-supervised
electrocardiogram representation learning", Biomed. Eng. Lett. 14(2):209-220 (2024). The paper masks the signal
dynamically at random, disrupts the order of the leads, and learns by restoring the original and predicting the
numbers of the leads. Only that is theirs: everything else (masks, weights, networks) is a reading of it, and nothing
that comes out here is a number of that paper.

Leads of the normalised window x change places, then stretches of time are hidden, on all leads alike. With y what the
decoder says of x, and P(i, j) the probability it gives to lead j standing at place i::

    V     = mean over leads and time of (x - mean of x over time)^2                     (of this window)
    loss  = alpha * mean over hidden samples of (y - x)^2 / V
          + beta * mean over visible samples of (y - x)^2 / V
          + lambda * mean over places i of -ln P(i, lead at i) / ln(leads)

Each term is 1 if nothing is told: the mean of each lead, and all leads alike likely. Leads that are absent or flat, and
samples that were not recorded, don't count: they can't be told. Every window has the same weight.

``pretext: ts_reverse`` is the rival to compare with, T-S reverse detection (Zhang, Geng & Hong, arXiv 2202.12458): a
window is left as it is, or turned round in time, or turned upside down, or both; which of the four is to be told.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, Protocol, Self, cast

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

import ecgstore
from ecgstore import ConfigError
from ecgtrain.backbones import Backbone
from ecgtrain.backbones.layers.features import Features
from ecgtrain.methods import LossTerms, Objective, WindowBatch
from ecgtrain.views.draw import Draw
from ecgtrain.views.masking import LeadPermutation, SpanMask, mask_spans, permute_leads

DESCRIPTION = "restore hidden stretches and disturbed leads, and tell which lead is which (a reconstruction)"

#: Streams of the draw.
_ORDER, _MASK, _CONTROL, _REVERSAL = range(4)
#: A lead whose variance is below this is flat: a spread of 1 µV for signals in mV, of 0.001 for normalised ones.
_FLAT = 1e-6
_REVERSALS = 4


class Settings(ecgstore.Settings):
    """All defaults are a reconstruction: the paper's text and code are not known to us.

    ``mask`` and ``shuffle`` turn the two halves off for ablations; ``span`` and ``permutation`` say how they are done.
    ``target_order``: leads are restored where they belong, or (``shuffled``) where they stand. ``masked_weight``,
    ``visible_weight`` and ``lead_weight`` are alpha, beta and lambda. ``control: label_shuffle`` asks for lead numbers
    (or the reversal) drawn independently of the signal: a negative control, which must stay at chance.

    ``pretext: ts_reverse`` takes neither masks nor orders of leads, and of the settings above only ``control``.
    """

    name: Literal["stj"] = "stj"
    pretext: Literal["spatio_temporal", "ts_reverse"] = "spatio_temporal"
    mask: bool = True
    span: SpanMask = SpanMask()
    shuffle: bool = True
    permutation: LeadPermutation = LeadPermutation()
    target_order: Literal["original", "shuffled"] = "original"
    masked_weight: float = Field(1.0, ge=0)
    visible_weight: float = Field(0.1, ge=0)
    lead_weight: float = Field(1.0, ge=0)
    control: Literal["none", "label_shuffle"] = "none"

    @property
    def restores(self) -> bool:
        """Whether the signal is to be restored."""
        return self.visible_weight > 0 or (self.mask and self.masked_weight > 0)

    @property
    def names_leads(self) -> bool:
        """Whether leads are to be told from each other."""
        return self.shuffle and self.lead_weight > 0

    @model_validator(mode="after")
    def _something_to_learn(self) -> Self:
        if self.pretext == "ts_reverse":
            return self
        if not (self.mask or self.shuffle):
            raise ValueError("mask and shuffle are both off: nothing is hidden, so nothing is learned")
        if not (self.restores or self.names_leads):
            raise ValueError("what is left of the loss has weight 0")
        if self.control == "label_shuffle" and not self.names_leads:
            raise ValueError("label_shuffle needs lead numbers to shuffle: set shuffle and a lead_weight")
        return self


class Views(NamedTuple):
    """What a network is shown, and what it is asked; (batch, leads, samples) unless said otherwise.

    ``x_blt``: disturbed, then masked. ``target_blt``: the signal to restore; ``hidden_blt`` and ``counts_blt``: which
    of its samples were hidden, and which count. ``lead_bl``: int64, the number to be told of each place of ``x_blt``;
    ``named_bl``: whether it counts.
    """

    x_blt: Tensor
    target_blt: Tensor
    hidden_blt: Tensor
    counts_blt: Tensor
    lead_bl: Tensor
    named_bl: Tensor


class Reversed(NamedTuple):
    """``x_blt``: windows after their reversal; ``reversal_b``: int64, which is to be told; ``counts_b``: if at all."""

    x_blt: Tensor
    reversal_b: Tensor
    counts_b: Tensor


class Reconstructing(Protocol):
    """What the method asks of a backbone: what reads its tokens, made fresh, for pretraining only.

    Both are called with the backbone's features and the number of samples of the window: the decoder gives
    (batch, leads, samples), the head logits (batch, places, leads). ``places_known``: whether the network can tell a
    place without looking at what stands there.
    """

    n_leads: int
    places_known: bool

    def decoder(self, *, original_order: bool) -> nn.Module: ...
    def lead_head(self) -> nn.Module: ...


# --- views ----------------------------------------------------------------------------------------------------


def views(settings: Settings, batch: WindowBatch) -> Views | Reversed:
    """Normalise, disturb the order of leads, hide stretches: anew for each sample number, so in every epoch."""
    x_blt, recorded_blt = batch.normalise(batch.mv), batch.mv.recorded_blt
    draw, numbers_b = batch.draw, batch.sample_numbers_b
    shaped_bl = has_shape(x_blt, recorded_blt)
    if settings.pretext == "ts_reverse":
        return _reversed(settings, x_blt, recorded_blt, shaped_bl, draw, numbers_b)

    n_windows, n_leads, _ = x_blt.shape
    counts_blt = recorded_blt & shaped_bl[..., None]
    lead_bl = torch.arange(n_leads, device=x_blt.device).expand(n_windows, -1)
    shown_blt = target_blt = x_blt
    if settings.shuffle:
        shown_blt, lead_bl = permute_leads(x_blt, draw.fork(_ORDER), numbers_b, settings.permutation)
    hidden_blt = torch.zeros_like(counts_blt)
    unmasked_blt = shown_blt
    if settings.mask:
        shown_blt, hidden_blt = mask_spans(shown_blt, draw.fork(_MASK), numbers_b, settings.span, batch.fs_hz)
    if settings.target_order == "shuffled":
        target_blt, counts_blt = unmasked_blt, _by_lead(counts_blt, lead_bl)
    else:
        # Hidden is what stands at a place; the lead that stands there is restored at its own.
        hidden_blt = _by_lead(hidden_blt, lead_bl.argsort(dim=1))
    named_bl = shaped_bl.gather(1, lead_bl)
    if settings.control == "label_shuffle":
        lead_bl = draw.fork(_CONTROL).words(numbers_b, n_leads).argsort(dim=1, stable=True)
    return Views(shown_blt, target_blt, hidden_blt, counts_blt, lead_bl, named_bl)


def has_shape(x_blt: Tensor, recorded_blt: Tensor) -> Tensor:
    """Which leads are neither absent nor flat: bool (batch, leads)."""
    variance_bl1 = _centred(x_blt, recorded_blt).square().sum(dim=2) / recorded_blt.sum(dim=2).clamp_min(1)
    return variance_bl1 > _FLAT


def reverse(x_blt: Tensor, reversal_b: Tensor) -> Tensor:
    """Windows as they are (0), turned round in time (1), upside down (2), or both (3)."""
    kind_b11 = reversal_b[:, None, None]
    turned_blt = torch.where(kind_b11 % 2 == 1, x_blt.flip(2), x_blt)
    return torch.where(kind_b11 >= 2, -turned_blt, turned_blt)


def _reversed(
    settings: Settings, x_blt: Tensor, recorded_blt: Tensor, shaped_bl: Tensor, draw: Draw, numbers_b: Tensor
) -> Reversed:
    drawn_b2 = draw.fork(_REVERSAL).integers(numbers_b, 2, _REVERSALS)
    shown_b, told_b = drawn_b2[:, 0], drawn_b2[:, 1 if settings.control == "label_shuffle" else 0]
    # A gap at one end only, such as of a record that was continued, would betray the direction.
    even_b = (recorded_blt == recorded_blt.flip(2)).flatten(1).all(dim=1)
    return Reversed(reverse(x_blt, shown_b), told_b, shaped_bl.any(dim=1) & even_b)


def _by_lead(x_blt: Tensor, lead_bl: Tensor) -> Tensor:
    return x_blt.gather(1, lead_bl[..., None].expand_as(x_blt))


def _centred(x_blt: Tensor, counts_blt: Tensor) -> Tensor:
    """Around the mean of what counts of each lead; 0 where nothing counts."""
    mean_bl1 = (x_blt * counts_blt).sum(dim=2, keepdim=True) / counts_blt.sum(dim=2, keepdim=True).clamp_min(1)
    return (x_blt - mean_bl1) * counts_blt


# --- losses ---------------------------------------------------------------------------------------------------


class Errors(NamedTuple):
    """Mean squared errors over V of each window, (batch,); 0 where no such sample counts."""

    masked_b: Tensor
    visible_b: Tensor


def restoration_errors(said_blt: Tensor, target_blt: Tensor, hidden_blt: Tensor, counts_blt: Tensor) -> Errors:
    """The first two terms of the loss, of each window, without their weights."""
    n_b = counts_blt.sum(dim=(1, 2)).clamp_min(1)
    variance_b = _centred(target_blt, counts_blt).square().sum(dim=(1, 2)) / n_b
    error_blt = (said_blt - target_blt).square()
    means = (
        (error_blt * part_blt).sum(dim=(1, 2)) / part_blt.sum(dim=(1, 2)).clamp_min(1) / variance_b.clamp_min(_FLAT)
        for part_blt in (counts_blt & hidden_blt, counts_blt & ~hidden_blt)
    )
    return Errors(*means)


def lead_nats(logits_bln: Tensor, lead_bl: Tensor, named_bl: Tensor) -> Tensor:
    """Cross-entropy of the lead numbers, mean over the places that count, of each window, (batch,), in nats."""
    nats_bl = F.cross_entropy(logits_bln.transpose(1, 2), lead_bl, reduction="none")
    return (nats_bl * named_bl).sum(dim=1) / named_bl.sum(dim=1).clamp_min(1)


def accuracy(told_bl: Tensor, lead_bl: Tensor, counts_bl: Tensor) -> Tensor:
    """Share of the places that count whose lead was told; 0 if none counts."""
    return ((told_bl == lead_bl) & counts_bl).sum() / counts_bl.sum().clamp_min(1)


# --- judging what was learned ---------------------------------------------------------------------------------


def best_assignment(logits_bln: Tensor) -> Tensor:
    """The likeliest lead numbers (batch, places) of which no two are alike; there may be fewer places than leads.

    The largest *argmax* of each place may name a lead twice; here the sum of log-probabilities is maximised over all
    one-to-one assignments (Kuhn 1955; scipy's ``linear_sum_assignment``).
    """
    from scipy.optimize import linear_sum_assignment

    scores_bln = logits_bln.detach().double().log_softmax(dim=2).cpu().numpy()
    told = [linear_sum_assignment(scores_ln, maximize=True)[1] for scores_ln in scores_bln]
    return torch.from_numpy(np.stack(told)).to(logits_bln.device)


def exactly(told_bl: Tensor, lead_bl: Tensor, named_bl: Tensor) -> Tensor:
    """Which windows have all their leads told rightly: bool (batch,)."""
    return ((told_bl == lead_bl) | ~named_bl).all(dim=1)


def confusion(told_bl: Tensor, lead_bl: Tensor, named_bl: Tensor, n_leads: int) -> Tensor:
    """How often each lead (rows) was told to be which (columns): int64 (leads, leads)."""
    pairs = (lead_bl * n_leads + told_bl)[named_bl]
    return torch.bincount(pairs, minlength=n_leads**2).view(n_leads, n_leads)


def interpolated(x_blt: Tensor, known_blt: Tensor) -> Tensor:
    """Straight lines between what is known of each lead, level beyond its ends: what any network has to beat.

    A lead of which nothing is known is 0.
    """
    n_samples = x_blt.shape[2]
    time_t = torch.arange(n_samples, device=x_blt.device)
    before = torch.where(known_blt, time_t, -1).cummax(dim=2).values
    after = torch.where(known_blt, time_t, n_samples).flip(2).cummin(dim=2).values.flip(2)
    # Beyond the first and the last known sample, both ends are that sample.
    first = torch.where(before < 0, after, before).clamp_max(n_samples - 1)
    second = torch.where(after == n_samples, before, after).clamp_min(0)
    weight = (time_t - first) / (second - first).clamp_min(1)
    known = x_blt * known_blt
    return torch.lerp(known.gather(2, first), known.gather(2, second), weight.to(x_blt.dtype))


class Blind(NamedTuple):
    """What is reached by who doesn't look: mean nats, share of all places, and of places with a foreign lead."""

    nats: float
    accuracy: float
    moved_accuracy: float


def blind(settings: Settings, n_leads: int, *, places_known: bool) -> Blind:
    """The best guess from the place alone; ln n and 1/n where that says nothing.

    By default half of the windows keep their order, and a disturbed one keeps some places: who says of every place
    that its own lead stands there, is right in 71 % of all places, and never where it matters.
    """
    if not places_known or settings.control == "label_shuffle":
        return Blind(math.log(n_leads), 1 / n_leads, 1 / n_leads)
    how = settings.permutation
    moved = how.probability * ((n_leads + 2) / 2 / n_leads if how.order == "some" else 1 - 1 / n_leads)
    guesses = (1 - moved, *[moved / (n_leads - 1)] * (n_leads - 1))
    return Blind(-sum(p * math.log(p) for p in guesses if p > 0), max(guesses), 1 / (n_leads - 1))


# --- objectives -----------------------------------------------------------------------------------------------


class Stj(Objective):
    """The joint loss. Decoder and lead head belong to it, and are thrown away with it; the backbone is what is kept."""

    def __init__(self, settings: Settings, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self._settings = settings
        network = cast(Reconstructing, backbone)
        # What has no part in the loss is not made: distributed training wants a gradient for every parameter.
        original = settings.target_order == "original"
        self.decoder = network.decoder(original_order=original) if settings.restores else None
        self.lead_head = network.lead_head() if settings.names_leads else None

    @property
    def chance(self) -> dict[str, float]:
        """What saying each lead's mean costs, and what is told about leads without looking at them."""
        levels: dict[str, float] = {}
        if self.decoder is not None:
            levels |= {"masked_mse": 1.0, "masked_r2": 0.0} if self._settings.mask else {}
            levels["visible_mse"] = 1.0
        if self.lead_head is not None:
            known = cast(Reconstructing, self.backbone).places_known
            guess = blind(self._settings, self.backbone.n_leads, places_known=known)
            levels |= {
                "lead_nats": guess.nats,
                "lead_accuracy": guess.accuracy,
                "moved_accuracy": guess.moved_accuracy,
            }
        return levels

    def check(self, window_samples: int, batch_size: int, fs_hz: float) -> None:
        """Refuse windows that could be hidden whole, and single leads whose order is to be disturbed."""
        if self._settings.shuffle and self.backbone.n_leads < 2:
            raise ConfigError(
                "there is no order of leads to disturb",
                expected="two leads or more",
                got=self.backbone.n_leads,
                fix="take more leads, or set method.shuffle to false",
            )
        if self._settings.mask and (most := _most_hidden(self._settings.span, window_samples, fs_hz)) >= window_samples:
            raise ConfigError(
                "the window could be hidden whole",
                expected=f"more than {most} samples for these masks",
                got=window_samples,
                fix="raise window_samples, or lower method.span.ratio or its lengths",
            )

    def forward(self, views: Views) -> LossTerms:
        """Mean of the windows' losses. Parts: those of :attr:`chance`, in validation ``interpolated_mse`` too."""
        features: Features = self.backbone(views.x_blt)
        n_samples = views.x_blt.shape[2]
        totals: list[Tensor] = []
        parts: dict[str, Tensor] = {}
        for of_part, head in ((self._restoration, self.decoder), (self._naming, self.lead_head)):
            if head is not None:
                said = head(features, n_samples)
                with torch.autocast(said.device.type, enabled=False):
                    total, its_parts = of_part(said.float(), views)
                totals.append(total)
                parts |= its_parts
        return LossTerms(torch.stack(totals).sum(), parts, features.pooled_bd.detach()[None])

    def _restoration(self, said_blt: Tensor, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        errors = restoration_errors(said_blt, views.target_blt, views.hidden_blt, views.counts_blt)
        masked, visible = errors.masked_b.mean(), errors.visible_b.mean()
        total = self._settings.masked_weight * masked + self._settings.visible_weight * visible
        parts = {"visible_mse": visible.detach()}
        if self._settings.mask:
            parts |= {"masked_mse": masked.detach(), "masked_r2": 1 - masked.detach()}
            if not self.training:  # a tenth of the time of a small step
                parts["interpolated_mse"] = interpolated_mse(views)
        return total, parts

    def _naming(self, logits_bln: Tensor, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        nats = lead_nats(logits_bln, views.lead_bl, views.named_bl).mean()
        told_bl = logits_bln.detach().argmax(dim=2)
        moved_bl = views.lead_bl != torch.arange(views.lead_bl.shape[1], device=views.lead_bl.device)
        parts = {
            "lead_nats": nats.detach(),
            "lead_accuracy": accuracy(told_bl, views.lead_bl, views.named_bl),
            "moved_accuracy": accuracy(told_bl, views.lead_bl, views.named_bl & moved_bl),
        }
        return self._settings.lead_weight * nats / math.log(self.backbone.n_leads), parts


def interpolated_mse(views: Views) -> Tensor:
    """``masked_mse`` of straight lines across the hidden stretches of leads that are in order."""
    drawn_blt = interpolated(views.target_blt, views.counts_blt & ~views.hidden_blt)
    return restoration_errors(drawn_blt, views.target_blt, views.hidden_blt, views.counts_blt).masked_b.mean()


class TsReverse(Objective):
    """Tells four reversals apart by one linear map from a window's features."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.pooled_width, _REVERSALS)

    @property
    def chance(self) -> dict[str, float]:
        """Loss and accuracy of guessing among four."""
        return {"reversal_nats": math.log(_REVERSALS), "reversal_accuracy": 1 / _REVERSALS}

    def forward(self, views: Reversed) -> LossTerms:
        """Mean of the windows' cross-entropies, in nats; a window that doesn't count adds nothing."""
        pooled_bd: Tensor = self.backbone(views.x_blt).pooled_bd
        logits_bn = self.head(pooled_bd)
        with torch.autocast(logits_bn.device.type, enabled=False):
            nats_b = F.cross_entropy(logits_bn.float(), views.reversal_b, reduction="none")
            nats = (nats_b * views.counts_b).mean()
        told = accuracy(logits_bn.detach().argmax(dim=1), views.reversal_b, views.counts_b)
        return LossTerms(nats, {"reversal_nats": nats.detach(), "reversal_accuracy": told}, pooled_bd.detach()[None])


def build(settings: Settings, backbone: Backbone) -> Stj | TsReverse:
    """Make the objective; raises ConfigError if the backbone can't restore signals and name leads."""
    if settings.pretext == "ts_reverse":
        return TsReverse(backbone)
    if not (hasattr(backbone, "decoder") and hasattr(backbone, "lead_head")):
        raise ConfigError(
            "stj needs a backbone that restores signals and names leads",
            got=type(backbone).__name__,
            fix="use the backbone conv_reconstructor or lead_transformer",
        )
    return Stj(settings, backbone)


def _most_hidden(span: SpanMask, n_samples: int, fs_hz: float) -> int:
    """How many samples a mask can hide at most: the last stretch to be laid may go beyond what is wanted."""
    if span.unit == "patches":
        patch = max(1, round(span.patch_s * fs_hz))
        return patch * math.ceil(span.ratio[1] * -(-n_samples // patch))
    longest = max(1, round(span.span_s[1] * fs_hz))
    return math.ceil(span.ratio[1] * n_samples) - 1 + longest
