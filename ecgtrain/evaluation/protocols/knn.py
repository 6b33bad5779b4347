"""The nearest training windows vote on a class, or on a number; nothing is learned but how many of them.

Source: Wu, Xiong, Yu & Lin, arXiv 1805.01978 (2018), section 3.4, also for labels that don't exclude each other, and
for numbers. Features are standardised by the training windows and scaled to length 1. With N the k training windows i
most similar to a window f::

    score of a class = sum over N of w_i y_i / sum over N of w_i,   w_i = exp(f · f_i / temperature)

A record's score is the mean over its windows. The validation records choose k.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt

import ecgstore
from ecgtrain.data.values import EachOnce
from ecgtrain.errors import CheckpointError, ProtocolError
from ecgtrain.evaluation.protocols import Arrays, Context, Fitted, checked
from ecgtrain.evaluation.splits import Float32, Float64, Split, tile_average
from ecgtrain.scoring import kinds
from ecgtrain.tasks import TargetKind

DESCRIPTION = "the nearest training windows vote; how many of them is chosen on validation"

KINDS: tuple[TargetKind, ...] = ("multilabel", "exclusive", "regression")

#: Numbers that are compared at a time: 256 MB of similarities, however many training windows there are.
_BLOCK = 1 << 26


class Settings(ecgstore.Settings):
    """``neighbours``: numbers of windows to choose from. ``temperature``: the smaller, the more the nearest say.

    ``label_fraction``: use the labels of this share of the training and validation patients, drawn by the seed.
    """

    name: Literal["knn"] = "knn"
    neighbours: Annotated[tuple[PositiveInt, ...], Field(min_length=1), EachOnce] = (10, 30, 100, 300)
    temperature: PositiveFloat = 0.07
    label_fraction: float = Field(default=1.0, gt=0, le=1)


@dataclass(frozen=True, eq=False, kw_only=True)
class Knn(Fitted):
    """``bank_nd``: training windows, standardised and of length 1; ``y_nc``: what their records are stated to be."""

    bank_nd: Float32
    y_nc: Float32
    mean_d: Float32
    std_d: Float32
    neighbours: int
    temperature: float

    def predict(self, split: Split) -> Float64:
        """The mean vote over each record's windows."""
        bank, y = torch.from_numpy(self.bank_nd), torch.from_numpy(self.y_nc)
        unit_nd = torch.from_numpy(_unit(split.features_nd, self.mean_d, self.std_d))
        votes = []
        for block in unit_nd.split(max(1, _BLOCK // len(bank))):  # type: ignore[no-untyped-call]
            similar_bn = block @ bank.T
            nearest = similar_bn.topk(min(self.neighbours, len(bank)), dim=1)
            weight_bk = torch.softmax(nearest.values / self.temperature, dim=1)
            votes.append(similar_bn.zero_().scatter_(1, nearest.indices, weight_bk) @ y)
        return tile_average(torch.cat(votes).numpy(), split.record_row_n)[0]

    def arrays(self) -> Arrays:
        """The training windows' features and targets, and what standardised them."""
        return {"bank": self.bank_nd, "targets": self.y_nc, "mean": self.mean_d, "std": self.std_d}

    def about(self) -> Mapping[str, Any]:
        """How they vote."""
        return {"neighbours": self.neighbours, "temperature": self.temperature}


def fit(train: Split, validation: Split | None, settings: Settings, context: Context) -> Knn:
    """Remember the training windows, and choose on ``validation`` how many of them vote.

    Raises ProtocolError where no class can be told apart, or where there is nothing to choose by.
    """
    fittable_c = train.fittable_c()
    mean_d, std_d = train.features_nd.mean(axis=0), train.features_nd.std(axis=0)
    std_d = np.where(std_d > 1e-5 * np.abs(mean_d), std_d, np.inf).astype(np.float32)  # a dead feature has no say
    made = Knn(
        classes=context.classes,
        n_train=len(train.row_r),
        n_validation=0 if validation is None else len(validation.row_r),
        unfitted=tuple(name for name, fits in zip(context.classes, fittable_c, strict=True) if not fits),
        bank_nd=_unit(train.features_nd, mean_d, std_d),
        y_nc=train.y_nc.astype(np.float32),
        mean_d=mean_d,
        std_d=np.where(np.isfinite(std_d), std_d, np.float32(3e38)),
        neighbours=settings.neighbours[0],
        temperature=settings.temperature,
    )
    path = [[k, _validation_score(replace(made, neighbours=k), validation)] for k in settings.neighbours]
    if len(path) > 1 and not any(np.isfinite(score) for _, score in path):
        raise ProtocolError(
            "nothing to choose the number of neighbours by: no validation record tells one from the other",
            fix="add validation folds, or name a single number",
        )
    best = path[int(np.nanargmax([score for _, score in path]))][0] if len(path) > 1 else path[0][0]
    return replace(made, neighbours=int(best), chosen={"neighbours": int(best), "neighbours_path": path})


def load(arrays: Arrays, about: Mapping[str, Any], context: Context) -> Knn:
    """What :meth:`Knn.arrays` and ``about`` gave; raises CheckpointError."""
    n_features, n_classes = context.trained.backbone.pooled_width, len(context.classes)
    of_features = (n_features,)
    shapes = {"bank": (None, n_features), "targets": (None, n_classes), "mean": of_features, "std": of_features}
    found = checked(arrays, shapes)
    if len(found["bank"]) != len(found["targets"]) or not len(found["bank"]):
        raise CheckpointError("each window of the head needs its targets", got=len(found["targets"]))
    settings = Settings(neighbours=(about["neighbours"],), temperature=about["temperature"])
    return Knn(
        classes=context.classes,
        bank_nd=found["bank"].astype(np.float32),
        y_nc=found["targets"].astype(np.float32),
        mean_d=found["mean"].astype(np.float32),
        std_d=found["std"].astype(np.float32),
        neighbours=settings.neighbours[0],
        temperature=settings.temperature,
    )


def _unit(features_nd: Float32, mean_d: Float32, std_d: Float32) -> Float32:
    """Standardised, and scaled to length 1."""
    z_nd = (features_nd - mean_d) / std_d
    unit_nd: Float32 = z_nd / np.maximum(np.linalg.norm(z_nd, axis=1, keepdims=True), 1e-12)
    return unit_nd.astype(np.float32)


def _validation_score(made: Knn, validation: Split | None) -> float:
    if validation is None:
        return float("nan")
    return kinds.merit(validation.kind, validation.y_rc, made.predict(validation))
