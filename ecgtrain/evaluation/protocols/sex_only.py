"""What sex alone tells: how common each class is, or what the mean number is, among women and among men.

No signal is looked at. Where sex and the target go together in a data set, a network that reads sex from an ECG has
this for nothing; so it belongs beside every score there. Whoever states no sex gets what all records have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field

import ecgstore
from ecgstore import Store
from ecgtrain.evaluation.protocols import Arrays, Context, Fitted, checked
from ecgtrain.evaluation.splits import Float64, Rows, Split
from ecgtrain.scoring import kinds
from ecgtrain.tasks import TargetKind

DESCRIPTION = "what sex alone tells: no signal is looked at"
USES_PRETRAINING = False
STANDS_ON = "the stated sex"
KINDS: tuple[TargetKind, ...] = ("multilabel", "exclusive", "regression")
_SEXES = ("female", "male")


class Settings(ecgstore.Settings):
    """``label_fraction``: use the labels of this share of the training patients, drawn by the seed."""

    name: Literal["sex_only"] = "sex_only"
    label_fraction: float = Field(default=1.0, gt=0, le=1)


@dataclass(frozen=True, eq=False, kw_only=True)
class OfSex(Fitted):
    """``mean_sc``: what is said of women, of men and of others, (3, classes)."""

    mean_sc: Float64

    def predict(self, split: Split) -> Float64:
        """The means of each record's sex."""
        said: Float64 = self.mean_sc[_sex_of(split)]
        return said

    def notes(self, store: Store, rows: Rows) -> tuple[str, ...]:
        """How many state no sex: nothing is known of them."""
        n_unknown = int((~np.isin(store.column("sex")[rows], _SEXES)).sum())
        if not n_unknown:
            return ()
        return (f"{n_unknown} of {len(rows)} records state no sex, and get what all records of the training have",)

    def arrays(self) -> Arrays:
        """The means."""
        return {"mean": self.mean_sc}


def check(train: Split, validation: Split | None, settings: Settings, seed: int) -> None:
    """Raise ProtocolError where labels leave nothing to fit."""
    kinds.refuse_unfittable(train.kind, train.y_rc)


def fit(train: Split, validation: Split | None, settings: Settings, context: Context) -> OfSex:
    """Means by sex, drawn towards the mean of all by one record's weight; nothing is chosen on ``validation``."""
    fittable_c = train.fittable_c()
    y_rc, sex_r = train.y_rc.astype(np.float64), _sex_of(train)
    all_c = y_rc.mean(axis=0)
    means = [(y_rc[sex_r == sex].sum(axis=0) + all_c) / (1 + np.count_nonzero(sex_r == sex)) for sex in range(2)]
    n_unknown = int(np.count_nonzero(sex_r == 2))
    said = (f"{n_unknown} of {len(sex_r)} training records state no sex",) if n_unknown else ()
    return OfSex(
        classes=context.classes,
        n_train=len(train.row_r),
        n_validation=0 if validation is None else len(validation.row_r),
        unfitted=tuple(name for name, fitted in zip(context.classes, fittable_c.tolist(), strict=True) if not fitted),
        caveats=said,
        mean_sc=np.stack([*means, all_c]),
    )


def load(arrays: Arrays, about: Mapping[str, Any], context: Context) -> OfSex:
    """What :meth:`OfSex.arrays` gave; raises CheckpointError."""
    mean_sc = checked(arrays, {"mean": (3, len(context.classes))})["mean"].astype(np.float64)
    return OfSex(classes=context.classes, mean_sc=mean_sc)


def _sex_of(split: Split) -> Any:
    """0 for women, 1 for men, 2 for others, (records,)."""
    sex_r = split.column("sex")
    return np.select([sex_r == sex for sex in _SEXES], [0, 1], 2)
