"""Exact sums over recorded counts, from which a store's statistics come without reading a sample."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ecgstore import kernel


@dataclass(frozen=True, slots=True)
class Sums:
    """Recorded samples of some records, their sum and sum of squares, per lead; Python integers never overflow."""

    n: Sequence[int]
    total: Sequence[int]
    squares: Sequence[int]

    def __add__(self, other: Sums) -> Sums:
        pairs = ((self.n, other.n), (self.total, other.total), (self.squares, other.squares))
        return Sums(*([a + b for a, b in zip(mine, theirs, strict=True)] for mine, theirs in pairs))

    def __sub__(self, other: Sums) -> Sums:
        pairs = ((self.n, other.n), (self.total, other.total), (self.squares, other.squares))
        return Sums(*([a - b for a, b in zip(mine, theirs, strict=True)] for mine, theirs in pairs))


@dataclass(frozen=True, slots=True)
class Tally:
    """What the counts of some leads, or of a piece of them, tell; pieces of the same leads add up.

    ``lowest_l`` and ``highest_l`` are over recorded samples: of a lead without any, lowest is above highest.
    """

    sums: Sums
    lowest_l: Sequence[int]
    highest_l: Sequence[int]

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.sums + other.sums,
            [min(pair) for pair in zip(self.lowest_l, other.lowest_l, strict=True)],
            [max(pair) for pair in zip(self.highest_l, other.highest_l, strict=True)],
        )

    def split(self, n: int) -> list[Tally]:
        """The tallies of ``n`` records of as many leads, whose leads were counted one below the other."""
        size = len(self.lowest_l) // n
        its = [slice(i * size, (i + 1) * size) for i in range(n)]
        sums = self.sums
        return [
            Tally(Sums(sums.n[i], sums.total[i], sums.squares[i]), self.lowest_l[i], self.highest_l[i]) for i in its
        ]

    @property
    def is_flat_l(self) -> list[bool]:
        """Which leads never change, those without any sample among them."""
        return [low >= high for low, high in zip(self.lowest_l, self.highest_l, strict=True)]


def tally(counts_lt: npt.NDArray[np.int16]) -> Tally:
    """Count once through int16 (leads, samples)."""
    n_l, total_l, squares_l, lowest_l, highest_l = (of_leads.tolist() for of_leads in kernel.tally(counts_lt))
    return Tally(Sums(n_l, total_l, squares_l), lowest_l, highest_l)


def by_fold(parts: Iterable[tuple[str, Sums]]) -> dict[str, Sums]:
    """Sums of the same fold, added up; a record without a fold is in the fold ""."""
    of_folds: dict[str, list[Sums]] = {}
    for fold, part in parts:
        of_folds.setdefault(fold, []).append(part)
    return {fold: _added(its) for fold, its in of_folds.items()}


def _added(parts: Sequence[Sums]) -> Sums:
    of_all = ([one.n for one in parts], [one.total for one in parts], [one.squares for one in parts])
    return Sums(*([sum(values) for values in zip(*of_leads, strict=True)] for of_leads in of_all))


def fold_name(fold: int | None) -> str:
    """What a fold is called in commits and statistics."""
    return "" if fold is None else str(fold)


def statistics(sums: Mapping[str, Sums]) -> dict[str, Any]:
    """What the root of a store says of them."""
    return {
        fold: {"n": part.n, "sum_counts": part.total, "sum_squared_counts": part.squares}
        for fold, part in sorted(sums.items())
    }
