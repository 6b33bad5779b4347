"""Kinds of target: classes of which a record may be of several, classes of which it is of one, and numbers.

What is fitted, and how it is scored, differs with the kind alone; so its loss, its link from a network's outputs to
scores, and its metrics stand here, for every protocol::

    kind        targets (records, columns)   loss                            scores                  compared by
    multilabel  bool                         binary cross-entropy            sigmoid of the outputs  macro AUROC
    exclusive   bool, one of each row        cross-entropy                   softmax of the outputs  accuracy
    regression  float64, in a unit           squared error, standardised     numbers in the unit     MAE

Outputs of a regression are standardised: a protocol fits ``scale.down(targets)``, and :func:`link` undoes it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ecgtrain.errors import ProtocolError
from ecgtrain.scoring import exclusive, metrics, regression
from ecgtrain.tasks import TargetKind

if TYPE_CHECKING:
    from torch import Tensor

#: The names of the kinds.
Kind = TargetKind

#: What is reported, by kind; the first is what results are compared by.
METRICS: Mapping[TargetKind, tuple[str, ...]] = {
    "multilabel": ("macro_auroc", "macro_auprc", "f_max"),
    "exclusive": ("accuracy", "balanced_accuracy", "macro_f1", "macro_auroc", "macro_auprc", "brier"),
    "regression": ("mae", "r2"),
}
#: What is reported besides, where it is known which regions touch, where they lie, or that numbers are a place.
OF_REGIONS = ("adjacent_accuracy", "centroid_distance_mm")
OF_POINTS = ("distance_mm", "median_distance_mm", "geodesic_mm")
#: Metrics of which less is better.
LESS_IS_BETTER = frozenset({"mae", "brier", "centroid_distance_mm", *OF_POINTS})
#: Metrics of which no difference is taken.
_ALONE = frozenset({"f_max"})


def headline(kind: TargetKind, told: Collection[str] = ()) -> str:
    """The metric that results of this kind are compared by, of those that are ``told``: of places the distance."""
    return OF_POINTS[0] if OF_POINTS[0] in told else METRICS[kind][0]


def compared(kind: TargetKind) -> tuple[str, ...]:
    """The metrics whose differences between two answers are told."""
    return tuple(name for name in METRICS[kind] if name not in _ALONE)


@dataclass(frozen=True, eq=False)
class Scale:
    """Mean and standard deviation of the training targets, float64 (columns,): 0 and 1 for classes."""

    mean_c: npt.NDArray[np.float64]
    std_c: npt.NDArray[np.float64]

    def down(self, y_nc: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Targets as a network learns them, float32."""
        return ((y_nc - self.mean_c) / self.std_c).astype(np.float32)


def scale_of(kind: TargetKind, y_nc: npt.NDArray[Any]) -> Scale:
    """The scale of training targets; raises ProtocolError where a column of a regression doesn't vary."""
    n_columns = y_nc.shape[1]
    if kind != "regression":
        return Scale(np.zeros(n_columns), np.ones(n_columns))
    mean_c, std_c = y_nc.mean(axis=0), y_nc.std(axis=0)
    if not (std_c > 1e-9 * np.abs(mean_c)).all():
        raise ProtocolError(
            "all training records have the same value: nothing can be learned from it", got=f"{mean_c[0]:g}"
        )
    return Scale(mean_c, std_c)


def loss(kind: TargetKind, outputs_bc: Tensor, targets_bc: Tensor) -> Tensor:
    """The loss of a batch, a scalar: mean over rows and columns, of ``exclusive`` over rows.

    ``targets_bc``: float, as :meth:`Scale.down` gives them.
    """
    from torch.nn import functional

    match kind:
        case "multilabel":
            return functional.binary_cross_entropy_with_logits(outputs_bc, targets_bc)
        case "exclusive":
            return functional.cross_entropy(outputs_bc, targets_bc)
        case "regression":
            return functional.mse_loss(outputs_bc, targets_bc)


def link(kind: TargetKind, outputs_bc: Tensor, scale: Scale | None = None) -> Tensor:
    """Scores by a network's outputs: probabilities, or numbers in the unit of a regression's ``scale``."""
    import torch

    match kind:
        case "multilabel":
            return torch.sigmoid(outputs_bc)
        case "exclusive":
            return torch.softmax(outputs_bc, dim=-1)
        case "regression":
            if scale is None:
                return outputs_bc
            std_c, mean_c = (torch.as_tensor(part).to(outputs_bc) for part in (scale.std_c, scale.mean_c))
            return outputs_bc * std_c + mean_c


def merit(kind: TargetKind, y_rc: npt.NDArray[Any], score_rc: npt.NDArray[Any]) -> float:
    """What penalties, epochs and the like are chosen by on validation records: the higher the better; NaN for none.

    Macro AUROC; where classes exclude each other the mean log-likelihood of the right one, because accuracy steps from
    record to record and would choose by luck; of a regression the negative MAE.
    """
    match kind:
        case "regression":
            return -regression.mae(y_rc, score_rc)
        case "exclusive":
            return exclusive.log_likelihood(y_rc, score_rc)
    return metrics.macro_auroc(y_rc, score_rc)


def refuse_unfittable(kind: TargetKind, y_rc: npt.NDArray[Any]) -> None:
    """Raise ProtocolError where training targets leave nothing to learn."""
    if kind == "regression":
        scale_of(kind, y_rc)
    elif not (np.any(y_rc, axis=0) & ~np.all(y_rc, axis=0)).any():
        raise ProtocolError(
            "no class has both a positive and a negative among the training records",
            got=f"{len(y_rc)} records",
            fix="add training folds, or raise label_fraction",
        )
