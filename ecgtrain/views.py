"""From int16 windows to what a network eats: millivolts, normalised, cut; all batched, on the batch's device.

Random parameters are drawn by :class:`Draw`, a counter-based generator over global sample numbers: a window
gets the same draw whatever batch, rank or device it lands on, and a resumed run needs no generator state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from ecgstore import COUNTS_PER_MV, NOT_RECORDED, Settings
from ecgtrain.errors import PassportError

NormaliseMode = Literal["none", "record", "lead"]

#: Spreads below one count (1 µV) are no signal: dividing by them would only blow up rounding.
_MIN_STD_MV = 1.0 / COUNTS_PER_MV


class Millivolts(NamedTuple):
    """``x_blt``: float32 mV, 0 where nothing was recorded; ``recorded_blt``: bool."""

    x_blt: Tensor
    recorded_blt: Tensor


class Normalisation(Settings):
    """How millivolts are normalised, with the statistics it takes, by lead name, so that it can travel.

    ``none``: left in mV. ``record``: each window by one mean and one standard deviation over all its leads,
    which keeps the leads' relative size. ``lead``: each lead by fixed statistics of the training folds.
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
    if mode == "record":
        n_b11 = recorded_blt.sum(dim=(1, 2), keepdim=True).clamp_min(1)
        mean = x_blt.sum(dim=(1, 2), keepdim=True) / n_b11
        centred_blt = (x_blt - mean).masked_fill_(~recorded_blt, 0.0)
        std = (centred_blt.square().sum(dim=(1, 2), keepdim=True) / n_b11).sqrt()
        return centred_blt / std.clamp_min(_MIN_STD_MV)
    if statistics is None:
        raise ValueError("mode 'lead' needs the leads' mean and standard deviation")
    mean_l, std_l = statistics
    scaled_blt = (x_blt - mean_l[:, None]) / std_l[:, None].clamp_min(_MIN_STD_MV)
    return scaled_blt.masked_fill_(~recorded_blt, 0.0)


def crop(x_blt: Tensor, offsets_b: Tensor, n_samples: int) -> Tensor:
    """Cut ``n_samples`` from each window, starting at its own offset: (batch, leads, n_samples)."""
    time_bt = offsets_b[:, None] + torch.arange(n_samples, device=x_blt.device)
    return x_blt.gather(2, time_bt[:, None, :].expand(-1, x_blt.shape[1], -1))


def shuffle_time(x_blt: Tensor, draw: Draw, sample_numbers_b: Tensor) -> Tensor:
    """Permute the samples of each window, all leads alike: a negative control without any temporal order."""
    keys_bt = draw.words(sample_numbers_b, x_blt.shape[2])
    order_bt = keys_bt.argsort(dim=1, stable=True)
    return x_blt.gather(2, order_bt[:, None, :].expand_as(x_blt))


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
        key = _mix(_mix(_as_int64(self.seed, sample_numbers_b)) + _as_int64(self.stream, sample_numbers_b))
        base_b = _mix(_mix(sample_numbers_b + key) + key)
        steps_n = torch.arange(1, n + 1, device=sample_numbers_b.device) * _GOLDEN
        return _mix(base_b[:, None] + steps_n)

    def integers(self, sample_numbers_b: Tensor, n: int, high: int) -> Tensor:
        """(batch, n) int64, uniform on ``0 … high-1`` to within ``high`` / 2**32; ``high`` < 2**31."""
        # Two draws out of each word: its upper and its lower half, scaled down by multiplication.
        words = self.words(sample_numbers_b, (n + 1) // 2)
        low = (words & 0xFFFFFFFF).mul_(high).bitwise_right_shift_(32)
        upper = _shift_right(words, 32).mul_(high).bitwise_right_shift_(32)
        return torch.cat([low, upper], dim=1)[:, :n]


_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_M1 = 0xBF58476D1CE4E5B9 - 2**64
_M2 = 0x94D049BB133111EB - 2**64


def _as_int64(value: int, like: Tensor) -> Tensor:
    wrapped = (value + 2**63) % 2**64 - 2**63
    return torch.tensor(wrapped, dtype=torch.int64, device=like.device)


def _shift_right(x: Tensor, n: int) -> Tensor:
    """Logical shift: int64's own carries the sign along."""
    return (x >> n).bitwise_and_((1 << (64 - n)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)).mul_(_M1)
    x = x.bitwise_xor_(_shift_right(x, 27)).mul_(_M2)
    return x.bitwise_xor_(_shift_right(x, 31))
