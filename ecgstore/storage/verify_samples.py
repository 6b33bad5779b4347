"""What a store says of its samples, held against the samples: states of leads, what is missing or clipped, sums."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ecgstore.errors import visible
from ecgstore.storage import layout
from ecgstore.storage.shard_signal import ShardSignal
from ecgstore.storage.validate_values import fold_name

_ABSENT = "a"
#: Columns of the table of records that tell of samples.
_TOLD = ["record_id", "n_samples", "fold", "lead_states", "n_clipped", "n_not_recorded"]


class Stating(Protocol):
    """What is asked of a :class:`ecgstore.storage.store.Store`."""

    @property
    def attributes(self) -> dict[str, Any]: ...
    @property
    def encoding(self) -> str: ...
    @property
    def records(self) -> pa.Table: ...
    @property
    def split_sha256(self) -> str | None: ...


class Counted:
    """Counts through the records of a store, shard after shard, and compares."""

    def __init__(self, store: Stating) -> None:
        # Who does not count loads no library that was compiled.
        from ecgstore.kernel import tally

        self._tally = tally
        self._about, self._is_raw = store.attributes, store.encoding == "adc"
        self._told = store.records.select(_TOLD)
        # Folds of a table beside the store are not those that it has sums of.
        self._has_folds = store.split_sha256 is None
        self._n_leads = len(self._about["leads"])
        #: (3, leads): recorded samples, their sum and sum of squares; integers of any size.
        self._of_folds: dict[str, npt.NDArray[np.object_]] = {}
        #: Of records that began in a shard before: recorded samples (leads,), and how many may have been clipped.
        self._begun: dict[int, tuple[npt.NDArray[np.int64], int]] = {}
        # What noise lifted from the limit is not there any more.
        self._has_noise = bool(self._about.get("noise") or self._about["recipe"].get("noise"))

    def problems_of(self, signal: ShardSignal) -> list[str]:
        """One line for each record that ends in this shard and is not what is said of it; shards come in order."""
        told = self._told.take(pa.array(signal.rows)).to_pylist()
        sums_p3l = np.zeros((len(told), 3, self._n_leads), dtype=np.int64)
        problems = []
        pieces = zip(signal.rows.tolist(), signal.starts, signal.lengths, signal.offsets, told, sums_p3l, strict=True)
        for row, start, length, offset, about, sums_3l in pieces:
            counts_lt = signal.counts_lt[:, start : start + length]
            sums_3l[:] = self._tally(counts_lt)[:3]
            n_l, n_at_limit = sums_3l[0], self._at_limit(counts_lt) if about["n_clipped"] else 0
            if offset:
                if row not in self._begun:  # it began in a shard of which a problem is known
                    continue
                before_l, n_before = self._begun.pop(row)
                n_l, n_at_limit = n_l + before_l, n_at_limit + n_before
            if offset + length < about["n_samples"]:
                self._begun[row] = n_l, n_at_limit
            else:
                odd = self._odd(about, n_l, n_at_limit)
                problems += [visible(f"record {about['record_id']}: {one}") for one in odd]
        folds = np.array([self._fold_name(about["fold"]) for about in told], dtype=object)
        for fold in set(folds.tolist()):
            # A shard is small enough for 64 bits, a fold is not.
            of_shard_3l = sums_p3l[folds == fold].sum(axis=0).astype(object)
            self._of_folds[fold] = self._of_folds.get(fold, 0) + of_shard_3l
        return problems

    def _fold_name(self, fold: int | None) -> str:
        return fold_name(fold) if self._has_folds else ""

    def _at_limit(self, counts_lt: npt.NDArray[np.int16]) -> int:
        """How many samples may have been clipped."""
        n = np.count_nonzero(counts_lt == layout.MAX_COUNT) + np.count_nonzero(counts_lt == -layout.MAX_COUNT)
        return 0 if self._is_raw else int(n)

    def _odd(self, about: dict[str, Any], n_l: npt.NDArray[np.int64], n_at_limit: int) -> list[str]:
        """What is said of a record and is not so; ``n_l``: its recorded samples."""
        is_absent_l = np.array([letter == _ABSENT for letter in about["lead_states"]])
        if (odd_l := is_absent_l & (n_l > 0)).any():
            return [f"lead {self._about['leads'][int(odd_l.argmax())]} has samples, and is said to be absent"]
        problems = []
        n_missing_l = about["n_samples"] - n_l
        right = [int(n_missing_l[~is_absent_l].sum())]
        if "beats" in self._about:  # there absent leads are counted as well
            right.append(int(n_missing_l.sum()))
        if about["n_not_recorded"] not in right:
            problems.append(f"n_not_recorded is {about['n_not_recorded']}, and of its samples {right[0]} are missing")
        if about["n_clipped"] > n_at_limit and not self._has_noise:
            problems.append(f"n_clipped is {about['n_clipped']}, and of its samples {n_at_limit} can have been clipped")
        return problems

    def problems_of_statistics(self) -> list[str]:
        """One line for each fold whose sums are not those of its samples; all shards have been there."""
        if self._is_raw:
            return []
        stated: dict[str, npt.NDArray[np.object_]] = {}
        for fold, said in self._about["statistics"].items():
            name = fold if self._has_folds else ""
            its_3l = np.array([said["n"], said["sum_counts"], said["sum_squared_counts"]], dtype=object)
            stated[name] = stated.get(name, 0) + its_3l
        return [
            f"{layout.ROOT}: the statistics of fold {fold!r} are not the sums of its samples"
            for fold, found_3l in sorted(self._of_folds.items())
            if fold not in stated or stated[fold].tolist() != found_3l.tolist()
        ]
