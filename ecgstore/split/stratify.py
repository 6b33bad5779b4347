"""Iterative stratification (Sechidis, Tsoumakas & Vlahavas, ECML PKDD 2011) of groups: all that is of one patient.

Labels go by their rarity: of the label that the fewest groups still have, each group is put into the fold that lacks
most of it; of equals, into the one that lacks most records. Groups without a label come last. All numbers are whole,
so the folds are the same on any machine.

Two things are added for groups. The larger ones of a label come first, because the smaller can still even out. And a
fold that has its share of records takes no more, so that folds differ in size by no more than the largest group.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]


class Positives(NamedTuple):
    """How many records of a group have a label, for each pair of which any has: three arrays of one length."""

    group_p: Int64
    label_p: Int64
    n_p: Int64


def iterative_folds(n_folds: int, size_g: Int64, positives: Positives, n_labels: int, seed: int) -> Int64:
    """A fold out of 0 to ``n_folds`` - 1 for each group, int64 (groups,); ``size_g`` is how many records each has.

    With at least as many groups as folds no fold is empty. The same arguments give the same folds, anywhere.
    """
    generator = np.random.Generator(np.random.Philox(seed))
    rank_g, called_f = generator.permutation(len(size_g)), generator.permutation(n_folds)
    by_group = _Rows(positives.group_p, len(size_g))
    by_label = _Rows(positives.label_p, n_labels)
    # Room is counted in parts of a record, n_folds of which are one: a fair share is then a whole number.
    room_f = np.full(n_folds, int(size_g.sum()), dtype=np.int64)
    total_l = np.bincount(positives.label_p, positives.n_p, n_labels).astype(np.int64)
    room_lf = np.repeat(total_l[:, None], n_folds, axis=1)
    left_l = np.bincount(positives.label_p, minlength=n_labels)
    fold_g = np.full(len(size_g), -1, dtype=np.int64)

    def put(group: int, wanted_f: Int64) -> None:
        open_f = np.flatnonzero(room_f > 0)
        most_f = open_f[wanted_f[open_f] == wanted_f[open_f].max()]
        fold = int(most_f[room_f[most_f].argmax()])
        pairs = by_group[group]
        its_l = positives.label_p[pairs]
        fold_g[group] = fold
        room_f[fold] -= n_folds * size_g[group]
        room_lf[its_l, fold] -= n_folds * positives.n_p[pairs]
        left_l[its_l] -= 1

    while (left_l > 0).any():
        label = int(np.where(left_l > 0, left_l, np.iinfo(np.int64).max).argmin())
        pairs = by_label[label]
        pairs = pairs[fold_g[positives.group_p[pairs]] < 0]
        order = np.lexsort((rank_g[positives.group_p[pairs]], -positives.n_p[pairs]))
        for group in positives.group_p[pairs[order]].tolist():
            put(group, room_lf[label])
    rest = np.flatnonzero(fold_g < 0)
    for group in rest[np.lexsort((rank_g[rest], -size_g[rest]))].tolist():
        put(group, room_f)
    return np.asarray(called_f[fold_g], dtype=np.int64)


class _Rows:
    """Which places of an array hold each value."""

    def __init__(self, value_p: Int64, n_values: int) -> None:
        self._order = np.argsort(value_p, kind="stable")
        self._begin = np.searchsorted(value_p[self._order], np.arange(n_values + 1))

    def __getitem__(self, value: int) -> Int64:
        found: Int64 = self._order[self._begin[value] : self._begin[value + 1]]
        return found
