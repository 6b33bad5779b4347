"""ROOM of protocols: who may be seen when. A protocol fits on some patients, chooses on others, is judged on others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ecgstore import Settings
from ecgstore.inner import occupant, parse
from ecgtrain.errors import LeakageError, ProtocolError
from ecgtrain.tasks import Targets

Rows = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


def settings_of(protocol: str, content: Mapping[str, Any], where: object) -> Settings:
    """The settings of the protocol called ``protocol``; raises ConfigError for an unknown one or a wrong setting."""
    chosen: type[Settings] = occupant(__name__, protocol).Settings
    return parse(chosen, content, where=where)


@dataclass(frozen=True, eq=False, slots=True)
class Split:
    """One side of a protocol: windows with their features, and the records they were cut from.

    ``features_nd``: float32 (windows, features). ``record_row_n``: int64 (windows,), the store's row number
    of each window's record. ``row_r``: the distinct rows, ascending; ``y_rc``: bool (records, classes) and
    ``patient_r``: patient keys ("" or None where not known), both in the order of ``row_r``.
    """

    features_nd: Float32
    record_row_n: Rows
    row_r: Rows
    y_rc: npt.NDArray[np.bool_]
    patient_r: tuple[str | None, ...]

    @classmethod
    def of(
        cls,
        features_nd: Float32,
        record_row_n: Rows,
        targets: Targets,
        patient_keys: Sequence[str | None] | npt.NDArray[np.object_],
    ) -> Split:
        """Put features and targets together; windows of records without a label are left out.

        ``patient_keys`` has one entry per record of the store. Raises ProtocolError where nothing is left, or
        where a feature is not a number.
        """
        if features_nd.ndim != 2 or len(features_nd) != len(record_row_n):
            raise ProtocolError(
                "features and rows don't fit together",
                expected=f"{len(record_row_n)} windows",
                got=f"features of shape {features_nd.shape}",
            )
        kept_n = np.isin(record_row_n, targets.rows_with_label)
        features_nd, record_row_n = features_nd[kept_n], record_row_n[kept_n]
        row_r = np.unique(record_row_n)
        if not len(row_r):
            raise ProtocolError("no record of a split has a label", where=f"task {targets.task}")
        if not np.isfinite(features_nd).all():
            bad = np.unique(record_row_n[~np.isfinite(features_nd).all(axis=1)])
            raise ProtocolError("features must be numbers", where=f"{bad.size} records, the first at row {bad[0]}")
        patient_r = tuple(patient_keys[row] for row in row_r.tolist())
        return cls(features_nd, record_row_n, row_r, targets.y_nc[row_r], patient_r)

    @property
    def y_nc(self) -> npt.NDArray[np.bool_]:
        """Targets per window: those of its record."""
        return self.y_rc[np.searchsorted(self.row_r, self.record_row_n)]

    def only(self, rows: Rows) -> Split:
        """The part of this split that belongs to the records at ``rows``."""
        kept_r, kept_n = np.isin(self.row_r, rows), np.isin(self.record_row_n, rows)
        patient_r = tuple(key for key, kept in zip(self.patient_r, kept_r, strict=True) if kept)
        return Split(
            self.features_nd[kept_n],
            self.record_row_n[kept_n],
            self.row_r[kept_r],
            self.y_rc[kept_r],
            patient_r,
        )


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
