"""Train the whole pretrained network further on labels: first a head alone, then everything, lower layers slower.

The defaults are the two stages of Mehari & Strodthoff (Comput. Biol. Med. 141:105114, 2022) for CPC: 50 epochs of the
head at 1e-3, then 20 of everything at 1e-4, each group of layers at a tenth of the rate of the one above it.
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

DESCRIPTION = "the whole network trained on labels: the head first, then all of it, lower layers slower"

KINDS: tuple[TargetKind, ...] = ("multilabel", "exclusive", "regression")


class Settings(Learning):
    """Settings of fine-tuning; see :class:`ecgtrain.evaluation.learning.Learning`."""

    name: Literal["fine_tune"] = "fine_tune"
    stages: Annotated[tuple[Stage, ...], SOME_STAGES] = (
        Stage(trains="head", epochs=50, optimiser=Optimiser(lr=1e-3)),
        Stage(trains="all", epochs=20, optimiser=Optimiser(lr=1e-4, layer_decay=0.1)),
    )
    head: HeadSettings = HeadSettings(hidden=512, dropout=(0.25, 0.5), batchnorm=True)


check, load = learning.check, load_tuned


def fit(train: Split, validation: Split | None, settings: Settings, context: Context) -> Tuned:
    """Train a copy of the backbone and a new head; raises ProtocolError."""
    return learning.learn(context.network(), train, validation, settings, context)
