"""A learned query looks through all tokens of the frozen backbone; a linear map tells the classes from what it finds.

A pooled average can hide what a few tokens say. The attention is that of Lee et al. (ICML 2019, arXiv 1810.00825,
section 3.2) with one query by default, as probes of masked models of ECGs have it.
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

DESCRIPTION = "a learned query attends to the frozen backbone's tokens, a linear map tells the classes"

KINDS: tuple[TargetKind, ...] = ("multilabel", "exclusive", "regression")


class HeadOnly(Stage):
    """So many epochs of training the head; the backbone is frozen."""

    trains: Literal["head"] = "head"


class Attention(HeadSettings):
    """The head of an attention probe."""

    reads: Literal["attention"] = "attention"


class Settings(Learning):
    """Settings of the attention probe; see :class:`ecgtrain.evaluation.learning.Learning`."""

    name: Literal["attention_probe"] = "attention_probe"
    stages: Annotated[tuple[HeadOnly, ...], SOME_STAGES] = (
        HeadOnly(epochs=30, optimiser=Optimiser(lr=1e-3, weight_decay=1e-2)),
    )
    head: Attention = Attention()


check, load = learning.check, load_tuned


def fit(train: Split, validation: Split | None, settings: Settings, context: Context) -> Tuned:
    """Train the head on the frozen backbone's tokens; raises ProtocolError."""
    return learning.learn(context.network(), train, validation, settings, context)
