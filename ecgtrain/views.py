"""From int16 windows to what a network eats: millivolts, normalised, cut; all batched, on the batch's device.

Random parameters are drawn by :class:`Draw`, a counter-based generator over global sample numbers: a window
gets the same draw whatever batch, rank or device it lands on, and a resumed run needs no generator state.
Augmentations are in :mod:`ecgtrain.augmentations`; here is what they stand on, and what a pretext task hides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from ecgstore import COUNTS_PER_MV, NOT_RECORDED, ConfigError, Settings
from ecgtrain.errors import PassportError

NormaliseMode = Literal["none", "record", "record_lead", "lead"]

#: Spreads below one count (1 µV) are no signal: dividing by them would only blow up rounding.
_MIN_STD_MV = 1.0 / COUNTS_PER_MV


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if not bounds[0] <= bounds[1]:
        raise ValueError("the lower bound must not be above the upper one")
    return bounds


#: Bounds (low, high) of a uniform draw; those of a share of something, and those of a length in seconds.
Bounds = Annotated[tuple[float, float], AfterValidator(_ordered)]
_Share = Annotated[float, Field(ge=0, le=1)]
Shares = Annotated[tuple[_Share, _Share], AfterValidator(_ordered)]
_Length = Annotated[float, Field(gt=0)]
Seconds = Annotated[tuple[_Length, _Length], AfterValidator(_ordered)]


class Millivolts(NamedTuple):
    """``x_blt``: float32 mV, 0 where nothing was recorded; ``recorded_blt``: bool."""

    x_blt: Tensor
    recorded_blt: Tensor


class Normalisation(Settings):
    """How millivolts are normalised, with the statistics it takes, by lead name, so that it can travel.

    ``none``: left in mV. ``record``: each window by one mean and one standard deviation over all its leads,
    which keeps the leads' relative size. ``record_lead``: each lead of each window by its own, which does not: limb
    leads no longer add up, and how large a lead is can't be seen. ``lead``: each lead by fixed statistics of the
    training folds.
    """

    mode: NormaliseMode = "none"
    mean_mv: dict[str, float] = Field(default_factory=dict)
    std_mv: dict[str, float] = Field(default_factory=dict)

    def vectors(self, leads: Sequence[str], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor] | None:
        """Mean and standard deviation in mV in the order of ``leads``, or None if the mode takes none."""
        if self.mode != "lead":
            return None
        missing = [lead for lead in leads if lead not in self.mean_mv or lead not in self.std_mv]
        if missing:
            raise PassportError(
                "no normalisation statistics for a lead",
                expected=f"one of {', '.join(self.mean_mv)}",
                got=", ".join(missing),
            )
        return (
            torch.tensor([self.mean_mv[lead] for lead in leads], dtype=torch.float32, device=device),
            torch.tensor([self.std_mv[lead] for lead in leads], dtype=torch.float32, device=device),
        )


def to_mv(counts_blt: Tensor) -> Millivolts:
    """Turn int16 counts (batch, leads, samples) into float32 millivolts and a mask of what was recorded."""
    recorded_blt = counts_blt > int(NOT_RECORDED)
    # "Not recorded" is the lowest count there is, so a threshold does what the mask would, in half the time.
    x_blt = torch.threshold_(counts_blt.to(torch.float32), float(NOT_RECORDED), 0.0).div_(COUNTS_PER_MV)
    return Millivolts(x_blt, recorded_blt)


def normalise(mv: Millivolts, mode: NormaliseMode, statistics: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Normalise (batch, leads, samples) as :class:`Normalisation` says; what was not recorded stays 0.

    ``statistics`` are the ``vectors`` of a :class:`Normalisation`; needed in mode ``lead``.
    """
    x_blt, recorded_blt = mv
    if mode == "none":
        return x_blt
    if mode in ("record", "record_lead"):
        over = (1, 2) if mode == "record" else (2,)
        n = recorded_blt.sum(dim=over, keepdim=True).clamp_min(1)
        mean = x_blt.sum(dim=over, keepdim=True) / n
        centred_blt = (x_blt - mean).masked_fill_(~recorded_blt, 0.0)
        std = (centred_blt.square().sum(dim=over, keepdim=True) / n).sqrt()
        return centred_blt / std.clamp_min(_MIN_STD_MV)
    if statistics is None:
        raise ValueError("mode 'lead' needs the leads' mean and standard deviation")
    mean_l, std_l = statistics
    scaled_blt = (x_blt - mean_l[:, None]) / std_l[:, None].clamp_min(_MIN_STD_MV)
    return scaled_blt.masked_fill_(~recorded_blt, 0.0)


def crop(x_blt: Tensor, offsets_b: Tensor, n_samples: int) -> Tensor:
    """Cut ``n_samples`` from each window, starting at its own offset: (batch, leads, n_samples)."""
    time_bt = offsets_b[:, None] + torch.arange(n_samples, device=x_blt.device)
    n_windows, n_leads, n_before = x_blt.shape
    x_btl = x_blt.transpose(1, 2)
    if not x_btl.is_contiguous():
        return x_blt.gather(2, time_bt[:, None, :].expand(-1, n_leads, -1))
    # As windows come from the feed, all leads of an instant side by side: moved at once, in a fifth of the time.
    row_bt = time_bt + torch.arange(n_windows, device=x_blt.device)[:, None] * n_before
    rows = x_btl.reshape(-1, n_leads).index_select(0, row_bt.view(-1))
    return rows.view(n_windows, n_samples, n_leads).transpose(1, 2)


def shuffle_time(x_blt: Tensor, draw: Draw, sample_numbers_b: Tensor) -> Tensor:
    """Permute the samples of each window, all leads alike: a negative control without any temporal order."""
    keys_bt = draw.words(sample_numbers_b, x_blt.shape[2])
    order_bt = keys_bt.argsort(dim=1, stable=True)
    return x_blt.gather(2, order_bt[:, None, :].expand_as(x_blt))


def at_times(mv: Millivolts, below_bt: Tensor, weight_bt: Tensor) -> Millivolts:
    """Each window at other times, all leads alike, by linear interpolation: (batch, leads, times).

    ``below_bt`` int64 are samples of the window, ``weight_bt`` float32 in [0, 1) how far it is from there to the
    next. What lies next to something not recorded is not recorded.
    """
    x_blt, recorded_blt = mv
    n_windows, n_leads, n_samples = x_blt.shape
    n_times = below_bt.shape[1]
    first = below_bt + torch.arange(n_windows, device=below_bt.device)[:, None] * n_samples
    second = (first + (weight_bt > 0)).view(-1)
    first = first.view(-1)
    # All leads of an instant are moved at once: rows of (instants, leads), in which the feed has them anyway.
    rows = x_blt.transpose(1, 2).reshape(-1, n_leads)
    below = rows.index_select(0, first)
    moved = rows.index_select(0, second).sub_(below).mul_(weight_bt.reshape(-1, 1)).add_(below)
    rows = recorded_blt.transpose(1, 2).reshape(-1, n_leads)
    known = rows.index_select(0, first).logical_and_(rows.index_select(0, second))
    moved.masked_fill_(~known, 0.0)
    shape = (n_windows, n_times, n_leads)
    return Millivolts(moved.view(shape).transpose(1, 2), known.view(shape).transpose(1, 2))


# --- what a pretext task hides or disorders -------------------------------------------------------------------


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
    patch_s: float = Field(0.04, gt=0)
    #: What stands in hidden samples: 0, or N(0, 1) times ``noise_std``, in the unit of the signal.
    fill: Literal["zero", "noise"] = "zero"
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


@dataclass(frozen=True, slots=True)
class Draw:
    """Counter-based random numbers: a pure function of (seed, stream, sample number, i).

    The mixing function is SplitMix64's finaliser (Steele, Lea & Flood, OOPSLA 2014) in int64 arithmetic,
    which wraps alike on every device. ``stream`` separates draws for different purposes.
    """

    seed: int
    stream: int = 0

    def fork(self, stream: int) -> Draw:
        """A generator for another purpose, independent of this one."""
        return Draw(self.seed, self.stream * 1_000_003 + stream + 1)

    def words(self, sample_numbers_b: Tensor, n: int) -> Tensor:
        """(batch, n) int64 words of 64 random bits."""
        # The seed and stream are mixed before the numbers are added: neighbours must not share draws.
        # On the host, so that no tensor of one number has to be sent to the device.
        key = _signed(_mix_int(_mix_int(self.seed) + self.stream))
        base_b = _mix(_mix(sample_numbers_b + key) + key)
        steps_n = torch.arange(1, n + 1, device=sample_numbers_b.device) * _GOLDEN
        return _mix(base_b[:, None] + steps_n)

    def integers(self, sample_numbers_b: Tensor, n: int, high: int | Tensor) -> Tensor:
        """(batch, n) int64, uniform on ``0 … high-1`` to within ``high`` / 2**32; ``high`` < 2**31.

        ``high`` is a number, or int64 of shape (batch, 1).
        """
        # Two draws out of each word: its upper and its lower half, scaled down by multiplication.
        words = self.words(sample_numbers_b, (n + 1) // 2)
        low = (words & 0xFFFFFFFF).mul_(high).bitwise_right_shift_(32)
        upper = _shift_right(words, 32).mul_(high).bitwise_right_shift_(32)
        return torch.cat([low, upper], dim=1)[:, :n]

    def uniform(self, sample_numbers_b: Tensor, n: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """(batch, n) float32, uniform between ``low`` and ``high`` in 2**24 steps, the first of them ``low``."""
        words = self.words(sample_numbers_b, (n + 1) // 2)
        steps = torch.cat([words & 0xFFFFFF, _shift_right(words, 40)], dim=1)[:, :n]
        unit = steps.to(torch.float32).mul_(2.0**-24)
        return unit if (low, high) == (0.0, 1.0) else unit.mul_(high - low).add_(low)

    def normal(self, sample_numbers_b: Tensor, n: int) -> Tensor:
        """(batch, n) float32, N(0, 1), by the transform of Box and Muller (Ann Math Stat 29:610, 1958)."""
        words = self.words(sample_numbers_b, (n + 1) // 2)
        # Half a step up, so that the logarithm never sees 0: the largest draw is 6.8.
        unit = (words & 0xFFFFFFFF).to(torch.float32).add_(0.5).mul_(2.0**-32)
        radius = unit.log_().mul_(-2.0).sqrt_()
        angle = _shift_right(words, 40).to(torch.float32).mul_(math.tau * 2.0**-24)
        return torch.cat([angle.cos().mul_(radius), angle.sin_().mul_(radius)], dim=1)[:, :n]

    def subset(self, sample_numbers_b: Tensor, n: int, sizes_b1: Tensor) -> Tensor:
        """(batch, n) bool: which ``sizes_b1`` of ``n`` things are drawn, without replacement, all subsets alike."""
        place_bits = (1 << n.bit_length()) - 1
        # The place in the lowest bits makes all keys different, so that exactly as many are below the threshold.
        keys = self.words(sample_numbers_b, n).bitwise_and_(~place_bits)
        keys.bitwise_or_(torch.arange(n, device=keys.device))
        thresholds = torch.cat([keys.sort(dim=1).values, keys.new_full((len(keys), 1), 2**63 - 1)], dim=1)
        return keys < thresholds.gather(1, sizes_b1)


_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_M1 = 0xBF58476D1CE4E5B9 - 2**64
_M2 = 0x94D049BB133111EB - 2**64


def _signed(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63


def _mix_int(value: int) -> int:
    """What :func:`_mix` does, to one number."""
    value %= 2**64
    value = (value ^ (value >> 30)) * _M1 % 2**64
    value = (value ^ (value >> 27)) * _M2 % 2**64
    return value ^ (value >> 31)


def _shift_right(x: Tensor, n: int) -> Tensor:
    """Logical shift: int64's own carries the sign along."""
    return (x >> n).bitwise_and_((1 << (64 - n)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)).mul_(_M1)
    x = x.bitwise_xor_(_shift_right(x, 27)).mul_(_M2)
    return x.bitwise_xor_(_shift_right(x, 31))
