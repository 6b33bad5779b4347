"""The supervised control: the same network from fresh weights, trained end to end on the same labels.

What pretraining is worth for a network that may learn everything from labels: fine-tuned beside this, on the same
share of the labels, with the same windows, views and head.
"""

from __future__ import annotations

from typing import Annotated, Literal

from ecgtrain.config import Optimiser
from ecgtrain.evaluation import learning
from ecgtrain.evaluation.classifier import HeadSettings, Tuned, load_tuned
from ecgtrain.evaluation.learning import SOME_STAGES, Learning, Stage
from ecgtrain.evaluation.protocols import Context
from ecgtrain.evaluation.splits import Split
from ecgtrain.tasks import TargetKind

DESCRIPTION = "the supervised control: the same network from fresh weights, trained end to end on the same labels"
#: Nothing is used of the representation but its architecture and how its signals are prepared.
USES_PRETRAINING = False

KINDS: tuple[TargetKind, ...] = ("multilabel", "exclusive", "regression")


class Settings(Learning):
    """Settings of the supervised control; see :class:`ecgtrain.evaluation.learning.Learning`."""

    name: Literal["scratch"] = "scratch"
    stages: Annotated[tuple[Stage, ...], SOME_STAGES] = (Stage(trains="all", epochs=50, optimiser=Optimiser(lr=1e-3)),)
    head: HeadSettings = HeadSettings(hidden=512, dropout=(0.25, 0.5), batchnorm=True)


check, load = learning.check, load_tuned


def fit(train: Split, validation: Split | None, settings: Settings, context: Context) -> Tuned:
    """Train the network anew; raises ProtocolError."""
    return learning.learn(context.untrained(), train, validation, settings, context)
