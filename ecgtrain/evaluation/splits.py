"""The sides of a question: labelled records, who they are of, and their windows in whatever form is asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ecgstore import Store
from ecgtrain.data.changed import Change
from ecgtrain.data.feed import Feed, open_feed
from ecgtrain.data.settings import Feeding
from ecgtrain.errors import LeakageError, ProtocolError
from ecgtrain.representation.export import Trained
from ecgtrain.representation.extract import (
    Signals,
    TokenFeatures,
    WindowFeatures,
    pooled_of,
    signals,
    signals_of,
    tokens_of,
)
from ecgtrain.scoring import kinds
from ecgtrain.scoring.bootstrap import patient_numbers
from ecgtrain.tasks import TargetKind, Targets

Rows = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


class Windows(ABC):
    """The windows of some records; nothing is read or computed before it is asked for."""

    @abstractmethod
    def pooled(self) -> WindowFeatures:
        """Pooled features of the frozen backbone."""

    @abstractmethod
    def tokens(self, batch_size: int) -> Iterator[TokenFeatures]:
        """Token features of the frozen backbone, batch by batch."""

    @abstractmethod
    def signals(self, batch_size: int) -> Iterator[Signals]:
        """The windows themselves, normalised, as evaluation cuts them: for a network of the protocol's own."""

    @abstractmethod
    def feed(self, rows: Rows) -> Feed:
        """Windows at random from the records at ``rows``, to train on: plans of :mod:`ecgtrain.data.plan`."""

    def millivolts(self, batch_size: int) -> Iterator[Signals]:
        """The same windows as :meth:`signals`, in mV; what was not recorded is 0."""
        raise _unknown("signals")

    def column(self, name: str) -> npt.NDArray[Any]:
        """A column of the store's table of records, for every record of the store."""
        raise _unknown(f"the column {name} of the table of records")


@dataclass(frozen=True, eq=False)
class StoredWindows(Windows):
    """Windows of the records at ``rows`` of a store, cut every ``stride_samples``.

    ``change``: what is done to every record before it is cut to be judged; training windows are of records as they are.
    """

    store: Store
    rows: Rows
    trained: Trained
    window_samples: int
    stride_samples: int
    device: torch.device | str = "cpu"
    change: Change | None = None

    def pooled(self) -> WindowFeatures:
        return self._pooled

    @cached_property
    def _pooled(self) -> WindowFeatures:
        """Kept: splits of the same records ask for them again and again."""
        return pooled_of(self.trained.backbone, self.signals(256), self.device)

    def tokens(self, batch_size: int) -> Iterator[TokenFeatures]:
        return tokens_of(self.trained.backbone, self.signals(batch_size), self.device)

    def signals(self, batch_size: int) -> Iterator[Signals]:
        return self._cut(batch_size, normalised=True)

    def millivolts(self, batch_size: int) -> Iterator[Signals]:
        return self._cut(batch_size, normalised=False)

    def _cut(self, batch_size: int, *, normalised: bool) -> Iterator[Signals]:
        return signals(
            self.store,
            self.rows,
            passport=self.trained.passport,
            window_samples=self.window_samples,
            stride_samples=self.stride_samples,
            batch_size=batch_size,
            device=self.device,
            change=self.change,
            normalised=normalised,
        )

    def column(self, name: str) -> npt.NDArray[Any]:
        return self.store.column(name)

    def feed(self, rows: Rows) -> Feed:
        self.trained.passport.refuse_other(self.store)
        return open_feed(
            self.store,
            rows,
            window_samples=self.window_samples,
            leads=self.trained.passport.leads,
            short_records="pad",
            device=self.device,
            feeding=Feeding(strict=True),
        )


@dataclass(frozen=True, eq=False)
class HeldWindows(Windows):
    """Windows of one record in memory, whose row is 0: int16 (leads, samples) in the order of the passport's leads.

    ``known``: what else is known of it, by the columns of a store's table of records.
    """

    counts_lt: npt.NDArray[np.int16]
    trained: Trained
    window_samples: int
    stride_samples: int
    device: torch.device | str = "cpu"
    known: Mapping[str, Any] = field(default_factory=dict)

    def pooled(self) -> WindowFeatures:
        return pooled_of(self.trained.backbone, self.signals(256), self.device)

    def tokens(self, batch_size: int) -> Iterator[TokenFeatures]:
        return tokens_of(self.trained.backbone, self.signals(batch_size), self.device)

    def signals(self, batch_size: int) -> Iterator[Signals]:
        return self._cut(batch_size, normalised=True)

    def millivolts(self, batch_size: int) -> Iterator[Signals]:
        return self._cut(batch_size, normalised=False)

    def _cut(self, batch_size: int, *, normalised: bool) -> Iterator[Signals]:
        return signals_of(
            self.counts_lt,
            passport=self.trained.passport,
            window_samples=self.window_samples,
            stride_samples=self.stride_samples,
            batch_size=batch_size,
            device=self.device,
            normalised=normalised,
        )

    def column(self, name: str) -> npt.NDArray[Any]:
        return np.array([self.known[name]], dtype=object) if name in self.known else super().column(name)

    def feed(self, rows: Rows) -> Feed:
        raise _unknown("windows to train on")


@dataclass(frozen=True, eq=False)
class GivenFeatures(Windows):
    """Windows of which nothing is known but their pooled features."""

    features: WindowFeatures

    def pooled(self) -> WindowFeatures:
        return self.features

    def tokens(self, batch_size: int) -> Iterator[TokenFeatures]:
        raise _unknown("token features")

    def signals(self, batch_size: int) -> Iterator[Signals]:
        raise _unknown("signals")

    def feed(self, rows: Rows) -> Feed:
        raise _unknown("signals")


@dataclass(frozen=True, eq=False)
class UnreadWindows(Windows):
    """Windows of a side of which labels alone are looked at, before there is anything to look at windows with."""

    def pooled(self) -> WindowFeatures:
        raise _unknown("features")

    def tokens(self, batch_size: int) -> Iterator[TokenFeatures]:
        raise _unknown("token features")

    def signals(self, batch_size: int) -> Iterator[Signals]:
        raise _unknown("signals")

    def feed(self, rows: Rows) -> Feed:
        raise _unknown("signals")


def _unknown(what: str) -> ProtocolError:
    return ProtocolError(f"the protocol asks for {what}, which are not given here")


@dataclass(frozen=True, eq=False)
class Split:
    """One side of a question: some labelled records.

    ``row_r``: int64, the store's row numbers, ascending, each once. ``y_rc``: (records, classes), bool or, of the
    ``kind`` regression, float64; and ``patient_r``: patient keys ("" or None where not known), both in the order of
    ``row_r``. ``windows`` are those of these records, and perhaps of others beside them.
    """

    row_r: Rows
    y_rc: npt.NDArray[Any]
    patient_r: tuple[str | None, ...]
    windows: Windows
    kind: TargetKind = "multilabel"

    @classmethod
    def of(
        cls,
        rows: Rows,
        targets: Targets,
        patient_keys: Sequence[str | None] | npt.NDArray[np.object_],
        windows: Windows,
    ) -> Split:
        """Those of ``rows`` that have a label; ``patient_keys`` has one entry per record of the store.

        Raises ProtocolError where nothing is left.
        """
        row_r = targets.labelled(rows)
        if not len(row_r):
            raise ProtocolError("no record of a split has a label", where=f"task {targets.task}")
        patient_r = tuple(patient_keys[row] for row in row_r.tolist())
        return cls(row_r, targets.y_nc[row_r], patient_r, windows, targets.kind)

    @classmethod
    def unlabelled(cls, rows: Rows, n_classes: int, windows: Windows, kind: TargetKind = "multilabel") -> Split:
        """Records of which nothing is known, to be scored: their targets say nothing."""
        return cls(rows, np.zeros((len(rows), n_classes), dtype=np.bool_), (None,) * len(rows), windows, kind)

    @classmethod
    def given(
        cls,
        features_nd: Float32,
        record_row_n: Rows,
        targets: Targets,
        patient_keys: Sequence[str | None] | npt.NDArray[np.object_],
    ) -> Split:
        """A split of which the pooled features are there already; raises the same."""
        given = GivenFeatures(WindowFeatures(features_nd, record_row_n))
        return cls.of(record_row_n, targets, patient_keys, given)

    @cached_property
    def pooled(self) -> WindowFeatures:
        """Pooled features of all windows of these records, computed when first asked for.

        Raises ProtocolError where a feature is not a number, and what :func:`window_features` raises.
        """
        features_nd, record_row_n = self.windows.pooled()
        if features_nd.ndim != 2 or len(features_nd) != len(record_row_n):
            raise ProtocolError(
                "features and rows don't fit together",
                expected=f"{len(record_row_n)} windows",
                got=f"features of shape {features_nd.shape}",
            )
        kept_n = np.isin(record_row_n, self.row_r)
        if not kept_n.all():
            features_nd, record_row_n = features_nd[kept_n], record_row_n[kept_n]
        if not np.isfinite(features_nd).all():
            bad = np.unique(record_row_n[~np.isfinite(features_nd).all(axis=1)])
            raise ProtocolError("features must be numbers", where=f"{bad.size} records, the first at row {bad[0]}")
        return WindowFeatures(features_nd, record_row_n)

    @property
    def features_nd(self) -> Float32:
        """Pooled features, float32 (windows, features)."""
        return self.pooled.features_nd

    @property
    def record_row_n(self) -> Rows:
        """The store's row of each window's record, int64 (windows,)."""
        return self.pooled.record_row_n

    @property
    def y_nc(self) -> npt.NDArray[Any]:
        """Targets per window: those of its record."""
        return self.targets_of(self.record_row_n)

    def targets_of(self, record_row_b: Rows) -> npt.NDArray[Any]:
        """Targets of windows by the rows of their records, (batch, classes), of the type of ``y_rc``."""
        return self.y_rc[np.searchsorted(self.row_r, record_row_b)]

    def tokens(self, batch_size: int = 256) -> Iterator[TokenFeatures]:
        """Token features of all windows of these records, batch by batch; computed anew each time."""
        for tokens_bsd, record_row_b in self.windows.tokens(batch_size):
            kept_b = np.isin(record_row_b, self.row_r)
            if kept_b.any():
                yield TokenFeatures(tokens_bsd[torch.from_numpy(kept_b)], record_row_b[kept_b])

    def signals(self, batch_size: int = 256) -> Iterator[Signals]:
        """All windows of these records, normalised, batch by batch: to be judged by a network of one's own."""
        return self._its(self.windows.signals(batch_size))

    def millivolts(self, batch_size: int = 256) -> Iterator[Signals]:
        """All windows of these records in mV, batch by batch; what was not recorded is 0."""
        return self._its(self.windows.millivolts(batch_size))

    def _its(self, batches: Iterator[Signals]) -> Iterator[Signals]:
        for x_blt, record_row_b in batches:
            kept_b = np.isin(record_row_b, self.row_r)
            if kept_b.any():
                yield Signals(x_blt[torch.from_numpy(kept_b)], record_row_b[kept_b])

    def column(self, name: str) -> npt.NDArray[Any]:
        """A column of the store's table of records, for the records of this split, (records,)."""
        return np.asarray(self.windows.column(name)[self.row_r])

    def with_features(self, features: WindowFeatures) -> Split:
        """The same records with other features of their windows than the backbone's."""
        return replace(self, windows=GivenFeatures(features))

    def feed(self) -> Feed:
        """Windows at random from these records: to train a network of one's own on."""
        return self.windows.feed(self.row_r)

    def only(self, rows: Rows) -> Split:
        """The part of this split that belongs to the records at ``rows``."""
        kept_r = np.isin(self.row_r, rows)
        patient_r = tuple(key for key, kept in zip(self.patient_r, kept_r, strict=True) if kept)
        return replace(self, row_r=self.row_r[kept_r], y_rc=self.y_rc[kept_r], patient_r=patient_r)

    def labelled_share(self, fraction: float, seed: int) -> Split:
        """The records of a share of the patients, as many of each class in proportion as there are.

        Patients stand in an order that the seed draws, in which those of each stratum are spread evenly; a stratum is
        the rarest class of a patient's records, of a regression a tenth of the patients by their number. A smaller
        share lies inside a larger one of the same seed.
        """
        if fraction == 1:
            return self
        patient_r = patient_numbers(self.patient_r)
        draw = np.random.Generator(np.random.Philox(seed))
        stratum_p = _strata(self.y_rc, patient_r, self.kind)
        place_p = np.empty(len(stratum_p))
        for stratum in np.unique(stratum_p):
            its = draw.permutation(np.flatnonzero(stratum_p == stratum))
            place_p[its] = (np.arange(len(its)) + draw.random()) / len(its)
        drawn = np.argsort(place_p, kind="stable")[: int(np.ceil(fraction * len(place_p)))]
        return self.only(self.row_r[np.isin(patient_r, drawn)])

    def tells_apart_c(self) -> Bools:
        """Which classes have a positive and a negative record here; of a regression, which numbers differ."""
        if self.kind == "regression":
            return np.asarray(np.ptp(self.y_rc, axis=0) > 0)
        told_c: Bools = np.any(self.y_rc, axis=0) & ~np.all(self.y_rc, axis=0)
        return told_c

    def fittable_c(self) -> Bools:
        """The same, to be learned from; raises ProtocolError where that is none."""
        kinds.refuse_unfittable(self.kind, self.y_rc)
        return self.tells_apart_c()


def _strata(y_rc: npt.NDArray[Any], patient_r: Rows, kind: TargetKind) -> Rows:
    """The stratum of each patient, (patients,): the rarest class of theirs, or the tenth that their number is in."""
    n_patients, n_columns = int(patient_r.max()) + 1, y_rc.shape[1]
    if kind == "regression":
        mean_p = np.bincount(patient_r, y_rc[:, 0], n_patients) / np.bincount(patient_r, minlength=n_patients)
        return np.argsort(np.argsort(mean_p, kind="stable"), kind="stable") * 10 // n_patients
    has_pc = np.zeros((n_patients, n_columns), dtype=np.bool_)
    np.logical_or.at(has_pc, patient_r, y_rc)
    by_rarity_c = np.argsort(has_pc.sum(axis=0), kind="stable")
    first_p = np.argmax(has_pc[:, by_rarity_c], axis=1)
    stratum_p: Rows = np.where(has_pc.any(axis=1), first_p, n_columns)
    return stratum_p


def refuse_overlap(
    seen: Sequence[str | None], judged: Sequence[str | None], *, between: str = "training and test"
) -> None:
    """Raise LeakageError where a patient is on both sides, naming how many and some (keys are hashes).

    Records without a patient key can't be compared and pass: each counts as a patient of its own.
    """
    shared = sorted(({key for key in seen if key}) & {key for key in judged if key})
    if shared:
        some = ", ".join(shared[:3]) + (", …" if len(shared) > 3 else "")
        raise LeakageError(
            f"{len(shared)} patients are on both sides of {between}",
            where=some,
            fix="use the store's patient-disjoint folds",
        )


def tile_average(score_nc: npt.NDArray[np.floating], record_row_n: Rows) -> tuple[Float64, Rows]:
    """Average the scores of each record's windows: (records, classes), and the rows, ascending."""
    row_r, record_n, n_r = np.unique(record_row_n, return_inverse=True, return_counts=True)
    sum_rc = np.zeros((len(row_r), score_nc.shape[1]))
    np.add.at(sum_rc, record_n, score_nc)
    return sum_rc / n_r[:, None], row_r
