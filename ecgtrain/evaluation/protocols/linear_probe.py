"""A linear map of the frozen backbone's pooled features: one logistic regression per class in most cases.

Where classes exclude each other it is one multinomial logistic regression, and of numbers a ridge regression.

It is fitted on every window of the training records, each with its record's labels, and judged per record: the
probabilities of a record's windows are averaged (Mehari and Strodthoff, Comput. Biol. Med. 141:105114, 2022).
Fitting on windows rather than on the average feature of each record is worth .01 to .016 of macro AUROC, on
features of untrained convolutional networks.

The fit is convex and carried to its minimum along a path of penalties, one of which the validation records
choose. So there is no learning rate or number of epochs to tune, and no luck: two representations differ in
their probe's score because they differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from ecgtrain.evaluation import linear
from ecgtrain.evaluation.linear import Linear, LinearSettings
from ecgtrain.evaluation.protocols import Arrays, Context
from ecgtrain.evaluation.splits import Split

DESCRIPTION = "a logistic regression (of numbers, a ridge) on frozen pooled features, the penalty chosen on validation"
KINDS = linear.KINDS


class Settings(LinearSettings):
    """Settings of the linear probe; how features are pooled over time is the backbone's affair."""

    name: Literal["linear_probe"] = "linear_probe"


check = linear.check


def fit(train: Split, validation: Split | None, settings: Settings, context: Context) -> Linear:
    """Fit on ``train``, choose the penalty on ``validation``; see :func:`ecgtrain.evaluation.linear.fit`."""
    return linear.fit(train, validation, settings, context)


def load(arrays: Arrays, about: Mapping[str, Any], context: Context) -> Linear:
    """The probe whose arrays these are; raises CheckpointError."""
    return linear.load(arrays, context.trained.backbone.pooled_width, context)
