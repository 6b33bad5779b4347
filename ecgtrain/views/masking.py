"""Spans masked and leads permuted."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from ecgstore import ConfigError, Settings
from ecgtrain.views.draw import Draw
from ecgtrain.views.normalise import Seconds, Shares


class SpanMask(Settings):
    """Stretches of time to hide. The defaults are a reading of a paper that states no numbers.

    Source of the idea: Ran & Liu, Biomed. Eng. Lett. 14(2):209-220 (2024): the signal is masked at random, anew
    each time it is seen.
    """

    #: Share of the window that is hidden, at least: uniform between these.
    ratio: Shares = (0.15, 0.60)
    #: Length of a stretch in seconds: uniform between these. A stretch may be cut off by an end of the window.
    span_s: Seconds = (0.04, 0.40)
    #: The same stretches on all leads: III, aVR, aVL and aVF follow from I and II, so that masks of their own
    #: could be seen through by algebra.
    all_leads: bool = True
    #: ``spans``: anywhere. ``patches``: the window is divided into patches of ``patch_s``; some are hidden.
    unit: Literal["spans", "patches"] = "spans"
    #: Length of a patch.
    patch_s: float = Field(0.04, gt=0)
    #: What stands in hidden samples: 0, or N(0, 1) times ``noise_std``, in the unit of the signal.
    fill: Literal["zero", "noise"] = "zero"
    #: How strong that noise is.
    noise_std: float = Field(1.0, ge=0)


class Masked(NamedTuple):
    """``x_blt`` with what is hidden replaced; ``hidden_blt``: bool, where."""

    x_blt: Tensor
    hidden_blt: Tensor


def mask_spans(x_blt: Tensor, draw: Draw, sample_numbers_b: Tensor, settings: SpanMask, fs_hz: float) -> Masked:
    """Hide stretches of each window of (batch, leads, samples), as :class:`SpanMask` says."""
    n_windows, n_leads, n_samples = x_blt.shape
    n_sets = 1 if settings.all_leads else n_leads
    ratio_b1 = draw.fork(0).uniform(sample_numbers_b, 1, *settings.ratio)
    hide = _patches if settings.unit == "patches" else _spans
    hidden = hide(draw.fork(1), sample_numbers_b, ratio_b1, n_sets, n_samples, settings, fs_hz)
    hidden_blt = hidden.view(n_windows, n_sets, n_samples).expand(-1, n_leads, -1)
    if settings.fill == "zero":
        return Masked(x_blt.masked_fill(hidden_blt, 0.0), hidden_blt)
    noise_blt = draw.fork(2).normal(sample_numbers_b, n_leads * n_samples).view(x_blt.shape).mul_(settings.noise_std)
    return Masked(torch.where(hidden_blt, noise_blt, x_blt), hidden_blt)


def _spans(
    draw: Draw, numbers_b: Tensor, ratio_b1: Tensor, n_sets: int, n_samples: int, settings: SpanMask, fs_hz: float
) -> Tensor:
    """(batch x sets, samples): spans are laid one after the other until enough is covered."""
    shortest, longest = (max(1, round(seconds * fs_hz)) for seconds in settings.span_s)
    # Laid at random, n spans leave exp(-n x mean / samples) free: three times as many as that asks for, and some.
    share = min(settings.ratio[1], 0.999)
    n_spans = 16 + math.ceil(-3 * math.log(1 - share) * (n_samples + longest) / ((shortest + longest) / 2))
    shape = (len(numbers_b) * n_sets, n_spans)
    length = draw.fork(0).integers(numbers_b, n_sets * n_spans, longest - shortest + 1).add_(shortest)
    # From before the window's begin on: samples at its ends are hidden as often as those in its midst.
    start = draw.fork(1).uniform(numbers_b, n_sets * n_spans).mul(n_samples + length - 1).to(torch.int64) - length + 1
    begin, end = start.clamp_min(0).view(shape), (start + length).clamp_max(n_samples).view(shape)
    first = _first_cover(begin, end, n_samples)
    n_wanted = (ratio_b1 * n_samples).ceil().to(torch.int64).clamp(1, n_samples).repeat_interleave(n_sets, dim=0)
    last_needed = first.sort(dim=1).values.gather(1, n_wanted - 1)
    return (first <= last_needed) & (first < n_spans) & (ratio_b1.repeat_interleave(n_sets, dim=0) > 0)


def _first_cover(begin: Tensor, end: Tensor, n_samples: int) -> Tensor:
    """For each sample the number of the first span [begin, end) over it, or the number of spans: (rows, samples).

    A span is the union of two stretches whose length is a power of two. Each is noted where it begins, at the
    level of its length, and then handed down, level by level, to its two halves.
    """
    n_rows, n_spans = begin.shape
    n_levels = n_samples.bit_length()
    powers = 2 ** torch.arange(1, n_levels, device=begin.device)
    level = ((end - begin)[..., None] >= powers).sum(dim=-1)
    number = torch.arange(n_spans, device=begin.device).expand(n_rows, -1)
    noted = begin.new_full((n_rows, n_levels * n_samples), n_spans)
    for place in (begin, end - (1 << level)):
        noted.scatter_reduce_(1, level * n_samples + place, number, "amin")
    levels = noted.view(n_rows, n_levels, n_samples)
    for upper in range(n_levels - 1, 0, -1):
        half = 1 << (upper - 1)
        lower = levels[:, upper - 1]
        torch.minimum(lower, levels[:, upper], out=lower)
        torch.minimum(lower[:, half:], levels[:, upper, :-half], out=lower[:, half:])
    return levels[:, 0]


def _patches(
    draw: Draw, numbers_b: Tensor, ratio_b1: Tensor, n_sets: int, n_samples: int, settings: SpanMask, fs_hz: float
) -> Tensor:
    """(batch x sets, samples): as many whole patches as cover the ratio; the window's last may be shorter."""
    patch = max(1, round(settings.patch_s * fs_hz))
    n_patches = -(-n_samples // patch)
    sizes_b1 = (ratio_b1 * n_patches).ceil().to(torch.int64).clamp_max(n_patches)
    sets = [draw.fork(one).subset(numbers_b, n_patches, sizes_b1) for one in range(n_sets)]
    patch_of_t = torch.arange(n_samples, device=numbers_b.device) // patch
    return torch.stack(sets, dim=1).view(-1, n_patches)[:, patch_of_t]


class LeadPermutation(Settings):
    """How the order of leads is disturbed. The defaults are a reading of a paper that states no numbers.

    Source of the idea: Ran & Liu, Biomed. Eng. Lett. 14(2):209-220 (2024): the order of leads is disrupted, and
    the leads' numbers are to be told.
    """

    #: Share of windows whose order is disturbed.
    probability: float = Field(0.5, ge=0, le=1)
    #: ``some``: m leads, m uniform in 2 … all, are passed on in a random ring, so that none of them keeps its
    #: place. ``any``: any order of all leads, the true one included.
    order: Literal["some", "any"] = "some"


class Permuted(NamedTuple):
    """``x_blt`` in its new order; ``lead_bl`` int64: the number of the lead that stands at each place."""

    x_blt: Tensor
    lead_bl: Tensor


def permute_leads(x_blt: Tensor, draw: Draw, sample_numbers_b: Tensor, settings: LeadPermutation) -> Permuted:
    """Disturb the order of leads of each window of (batch, leads, samples), as :class:`LeadPermutation` says."""
    n_leads = x_blt.shape[1]
    if n_leads < 2:
        raise ConfigError("there is no order of leads to disturb", expected="two leads or more", got=n_leads)
    order_bl = draw.fork(0).words(sample_numbers_b, n_leads).argsort(dim=1, stable=True)
    place_l = torch.arange(n_leads, device=x_blt.device)
    if settings.order == "any":
        lead_bl = order_bl
    else:
        m_b1 = draw.fork(1).integers(sample_numbers_b, 1, n_leads - 1).add_(2)
        following = torch.where(place_l + 1 < m_b1, place_l + 1, 0)
        following = torch.where(place_l < m_b1, following, place_l)
        lead_bl = torch.empty_like(order_bl).scatter_(1, order_bl, order_bl.gather(1, following))
    disturbed_b1 = draw.fork(2).uniform(sample_numbers_b, 1) < settings.probability
    lead_bl = torch.where(disturbed_b1, lead_bl, place_l)
    return Permuted(x_blt.gather(1, lead_bl[:, :, None].expand_as(x_blt)), lead_bl)
