"""Random numbers that hang on the sample, not on who draws them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


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
