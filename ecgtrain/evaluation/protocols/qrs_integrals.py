"""A linear map of QRS integrals: what is done for the origin of ventricular beats without any network.

Of each lead the area under the first 120 ms of the QRS complex, in mV·ms; on these a ridge regression for coordinates,
a multinomial logistic regression for regions (after Sapp et al., JACC Clin. Electrophysiol. 3:687, 2017). The level is
that of the store, whose filter has taken the baseline. The complex is the steepest in each window: give it beats
(``ecgstore beats``), or it takes whichever beat it meets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from ecgstore.inner import steepest_complex
from ecgtrain.errors import CheckpointError
from ecgtrain.evaluation import linear
from ecgtrain.evaluation.linear import Linear, LinearSettings
from ecgtrain.evaluation.protocols import Arrays, Context
from ecgtrain.evaluation.splits import Float32, Float64, Split
from ecgtrain.representation.export import Trained
from ecgtrain.representation.extract import WindowFeatures

DESCRIPTION = "a linear map of QRS integrals: the clinical baseline for the origin of beats, without any network"
#: Nothing is used of the representation but which leads it has, and their rate.
USES_PRETRAINING = False
STANDS_ON = "the signals themselves"
KINDS = linear.KINDS


class Settings(LinearSettings):
    """Settings of the linear map; ``qrs_s``: how much of the complex is integrated, from its beginning."""

    name: Literal["qrs_integrals"] = "qrs_integrals"
    qrs_s: float = Field(default=0.12, gt=0.01, le=0.3)


@dataclass(frozen=True, eq=False, kw_only=True)
class QrsMap(Linear):
    """A linear map of the QRS integrals of a record's windows."""

    fs_hz: float
    qrs_s: float

    def predict(self, split: Split) -> Float64:
        """Probabilities of each record, or numbers, averaged over its windows."""
        return super().predict(_with_integrals(split, self.fs_hz, self.qrs_s))

    def about(self) -> Mapping[str, Any]:
        """How much of the complex is integrated."""
        return {"qrs_s": self.qrs_s}

    def scorer(self, trained: Trained) -> None:
        """No network: complexes are looked for."""


check = linear.check


def fit(train: Split, validation: Split | None, settings: Settings, context: Context) -> QrsMap:
    """Fit on ``train``, choose the penalty on ``validation``; raises ProtocolError."""
    fs_hz = context.trained.passport.fs_hz
    its_train, its_validation = (
        None if split is None else _with_integrals(split, fs_hz, settings.qrs_s) for split in (train, validation)
    )
    assert its_train is not None
    return _of(linear.fit(its_train, its_validation, settings, context), fs_hz, settings.qrs_s)


def load(arrays: Arrays, about: Mapping[str, Any], context: Context) -> QrsMap:
    """The map whose arrays these are; raises CheckpointError."""
    qrs_s = about.get("qrs_s")
    if not isinstance(qrs_s, int | float) or not 0 < qrs_s <= 1:
        raise CheckpointError("qrs_s of the head is wrong", expected="seconds", got=repr(qrs_s)[:40])
    passport = context.trained.passport
    return _of(linear.load(arrays, len(passport.leads), context), passport.fs_hz, float(qrs_s))


def _of(fitted: Linear, fs_hz: float, qrs_s: float) -> QrsMap:
    return QrsMap(**{one.name: getattr(fitted, one.name) for one in fields(Linear)}, fs_hz=fs_hz, qrs_s=qrs_s)


def _with_integrals(split: Split, fs_hz: float, qrs_s: float) -> Split:
    parts, rows = [], []
    for x_blt, record_row_b in split.millivolts():
        parts += [qrs_integrals(x_lt, fs_hz, qrs_s) for x_lt in x_blt.cpu().numpy()]
        rows.append(record_row_b)
    return split.with_features(WindowFeatures(np.stack(parts), np.concatenate(rows)))


def qrs_integrals(signal_mv_lt: npt.NDArray[np.floating[Any]], fs_hz: float, qrs_s: float = 0.12) -> Float32:
    """The area of each lead's QRS complex in mV·ms, float32 (leads,); 0 of a window in which all is flat."""
    middle_s, width_s = steepest_complex(signal_mv_lt, fs_hz)
    if not np.isfinite(middle_s):
        return np.zeros(len(signal_mv_lt), np.float32)
    onset = max(0, round((middle_s - width_s / 2) * fs_hz))
    complex_lt = signal_mv_lt[:, onset : onset + max(1, round(qrs_s * fs_hz))]
    areas: Float32 = (complex_lt.sum(axis=1) * 1000 / fs_hz).astype(np.float32)
    return areas
