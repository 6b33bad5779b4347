"""A linear map of features of windows, fitted to its minimum along a path of penalties: what linear protocols share.

Of classes it is one logistic regression each, or one multinomial regression where they exclude each other; of numbers
it is a ridge regression. Validation records choose the penalty.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

import ecgstore
from ecgtrain.data.values import EachOnce
from ecgtrain.errors import ProtocolError
from ecgtrain.evaluation.protocols import Arrays, Context, Fitted, checked
from ecgtrain.evaluation.splits import Float32, Float64, Split, tile_average
from ecgtrain.representation.export import Trained
from ecgtrain.scoring import kinds
from ecgtrain.tasks import TargetKind

KINDS: tuple[TargetKind, ...] = ("multilabel", "exclusive", "regression")


class LinearSettings(ecgstore.Settings):
    """Settings of a linear map.

    ``penalties``: strengths λ of the L2 penalty, in: mean over windows of the cross-entropy, plus λ/2 Σ W², with W on
    standardised features; of numbers, half the squared error of the standardised number takes its place.
    ``label_fraction``: use the labels of this share of the training and validation patients, drawn by the seed.
    ``standardise``: bring each feature to mean 0 and spread 1 over the training windows first. ``max_iterations``: of
    the search for the minimum.
    """

    penalties: Annotated[tuple[PositiveFloat, ...], Field(min_length=1), EachOnce] = (
        10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001,
    )  # fmt: skip
    standardise: bool = True
    max_iterations: PositiveInt = 200
    label_fraction: float = Field(default=1.0, gt=0, le=1)


class PathPoint(NamedTuple):
    """A penalty and what it reached on the validation records, by :func:`ecgtrain.scoring.kinds.merit`."""

    penalty: float
    validation_merit: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Linear(Fitted):
    """A linear map from raw features to logits, or numbers: whatever standardised them is folded in.

    ``weight_cd`` and ``bias_c`` apply to raw features; ``mean_d`` and ``std_d`` are what they were standardised
    with. ``penalty`` and ``path``: what was chosen, and from what; of one that was loaded they are not known.
    """

    weight_cd: Float32
    bias_c: Float32
    mean_d: Float32
    std_d: Float32
    kind: TargetKind = "multilabel"
    penalty: float | None = None
    path: tuple[PathPoint, ...] = ()

    def predict(self, split: Split) -> Float64:
        """Probabilities of each record, or numbers, averaged over its windows."""
        return _of_records(self.weight_cd, self.bias_c, self.kind, split)

    def arrays(self) -> Arrays:
        """The map, and what standardised it."""
        return {"weight": self.weight_cd, "bias": self.bias_c, "mean": self.mean_d, "std": self.std_d}

    def scorer(self, trained: Trained) -> nn.Module | None:
        """The backbone with the map on it."""
        return _Mapped(trained.backbone, self.weight_cd, self.bias_c, self.kind)


class _Mapped(nn.Module):
    """Windows (batch, leads, samples) → scores (batch, classes)."""

    weight_cd: Tensor
    bias_c: Tensor

    def __init__(self, backbone: nn.Module, weight_cd: Float32, bias_c: Float32, kind: TargetKind) -> None:
        super().__init__()
        self.backbone, self.kind = backbone, kind
        self.register_buffer("weight_cd", torch.from_numpy(weight_cd))
        self.register_buffer("bias_c", torch.from_numpy(bias_c))

    def forward(self, x_blt: Tensor) -> Tensor:
        pooled_bd = self.backbone(x_blt).pooled_bd.float()
        return kinds.link(self.kind, functional.linear(pooled_bd, self.weight_cd, self.bias_c))


def check(train: Split, validation: Split | None, settings: LinearSettings, seed: int) -> None:
    """Raise ProtocolError where labels leave nothing to fit, or no penalty can be chosen by them."""
    train.fittable_c()
    if len(settings.penalties) > 1 and (validation is None or not _can_choose(validation)):
        raise _nothing_to_choose_by(train.kind)


def _can_choose(validation: Split) -> bool:
    """Whether a score on these records means anything; an error, or a likelihood, always does."""
    return validation.kind != "multilabel" or bool(validation.tells_apart_c().any())


def fit(train: Split, validation: Split | None, settings: LinearSettings, context: Context) -> Linear:
    """Fit on ``train``, choose the penalty on ``validation``.

    ``validation`` may be None where ``settings`` names a single penalty. The seed only draws the patients of
    ``label_fraction``; the fit needs none.

    Raises ProtocolError where there is nothing to fit or to choose by.
    """
    fittable_c = train.fittable_c()
    mean_d, std_d = _moments(train.features_nd, settings.standardise)
    fits = tuple(_fits(train, fittable_c, mean_d, std_d, settings, context.device))
    path = tuple(PathPoint(fit.penalty, _validation_score(fit, validation)) for fit in fits)
    best = fits[_choose(path, train.kind)]
    at_edge = len(path) > 1 and best.penalty in (path[0].penalty, path[-1].penalty)
    return Linear(
        classes=context.classes,
        n_train=len(train.row_r),
        n_validation=0 if validation is None else len(validation.row_r),
        unfitted=tuple(name for name, fitted in zip(context.classes, fittable_c.tolist(), strict=True) if not fitted),
        chosen={"penalty": best.penalty, "penalty_path": [list(point) for point in path]},
        caveats=("the best penalty is at the end of the path: a wider path might score better",) if at_edge else (),
        weight_cd=best.weight_cd,
        bias_c=best.bias_c,
        mean_d=mean_d.astype(np.float32),
        std_d=np.where(np.isfinite(std_d), std_d, 1).astype(np.float32),
        kind=train.kind,
        penalty=best.penalty,
        path=path,
    )


def load(arrays: Arrays, n_features: int, context: Context) -> Linear:
    """The map whose :meth:`Linear.arrays` these are; raises CheckpointError."""
    n_classes, of_features = len(context.classes), (n_features,)
    shapes = {"weight": (n_classes, n_features), "bias": (n_classes,), "mean": of_features, "std": of_features}
    found = {name: array.astype(np.float32) for name, array in checked(arrays, shapes).items()}
    return Linear(
        classes=context.classes,
        weight_cd=found["weight"],
        bias_c=found["bias"],
        mean_d=found["mean"],
        std_d=found["std"],
        kind=context.kind,
    )


def probabilities(
    weight_cd: Float32, bias_c: Float32, features_nd: Float32, kind: TargetKind = "multilabel"
) -> Float32:
    """What the map says of raw features: (windows, classes), probabilities or numbers."""
    weight, bias = torch.from_numpy(weight_cd), torch.from_numpy(bias_c)
    said_nc: Float32 = kinds.link(kind, functional.linear(torch.from_numpy(features_nd), weight, bias)).numpy()
    return said_nc


def _of_records(weight_cd: Float32, bias_c: Float32, kind: TargetKind, split: Split) -> Float64:
    return tile_average(probabilities(weight_cd, bias_c, split.features_nd, kind), split.record_row_n)[0]


class _Fit(NamedTuple):
    """One fit of the path; weights and bias apply to raw features."""

    penalty: float
    weight_cd: Float32
    bias_c: Float32


def _choose(path: Sequence[PathPoint], kind: TargetKind) -> int:
    """The best on validation; among equals the strongest penalty, which comes first."""
    if len(path) == 1:
        return 0
    scores = np.array([point.validation_merit for point in path])
    if not np.isfinite(scores).any():
        raise _nothing_to_choose_by(kind)
    return int(np.nanargmax(scores))


def _nothing_to_choose_by(kind: TargetKind) -> ProtocolError:
    lacking = "no validation record has a label"
    if kind == "multilabel":
        lacking = "no class has a positive and a negative validation record"
    return ProtocolError(
        f"nothing to choose the penalty by: {lacking}",
        fix="add validation folds, or name a single penalty",
    )


def _validation_score(fit: _Fit, validation: Split | None) -> float:
    if validation is None:
        return float("nan")
    score_rc = _of_records(fit.weight_cd, fit.bias_c, validation.kind, validation)
    return kinds.merit(validation.kind, validation.y_rc, score_rc)


def _moments(features_nd: Float32, standardise: bool) -> tuple[Float64, Float64]:
    """Mean and standard deviation per feature; infinite for one that doesn't vary beyond its rounding.

    Divided by that, a dead feature is 0 and so is its weight, whatever it does in other records.
    """
    n_features = features_nd.shape[1]
    if not standardise:
        return np.zeros(n_features), np.ones(n_features)
    mean_d = features_nd.mean(axis=0, dtype=np.float64)
    std_d = features_nd.std(axis=0, dtype=np.float64)
    return mean_d, np.where(std_d > 1e-5 * np.abs(mean_d), std_d, np.inf)


def _fits(
    train: Split,
    fittable_c: npt.NDArray[np.bool_],
    mean_d: Float64,
    std_d: Float64,
    settings: LinearSettings,
    device: torch.device | str,
) -> Iterator[_Fit]:
    """The path of fits on the training windows, told on raw features and for all classes."""
    x_nd = ((train.features_nd - mean_d) / std_d).astype(np.float32)
    y_nc = train.y_nc
    if train.kind == "regression":
        scale = kinds.scale_of(train.kind, y_nc)
        for penalty, fitted_cd, fitted_c in ridge_path(x_nd, scale.down(y_nc), settings.penalties, device=device):
            weight_cd = fitted_cd / std_d * scale.std_c[:, None]
            bias_c = fitted_c * scale.std_c + scale.mean_c - weight_cd @ mean_d
            yield _Fit(penalty, weight_cd.astype(np.float32), bias_c.astype(np.float32))
        return
    # A class that all records or none has is given that much, whatever the features say.
    share_c = np.clip(y_nc.mean(axis=0), 1e-6, 1 - 1e-6)
    for penalty, fitted_cd, fitted_c in logistic_path(
        x_nd,
        y_nc[:, fittable_c],
        settings.penalties,
        exclusive=train.kind == "exclusive",
        max_iterations=settings.max_iterations,
        device=device,
    ):
        weight_cd = np.zeros((len(fittable_c), x_nd.shape[1]))
        bias_c = np.log(share_c) if train.kind == "exclusive" else np.log(share_c / (1 - share_c))
        weight_cd[fittable_c] = fitted_cd / std_d
        bias_c[fittable_c] = fitted_c - weight_cd[fittable_c] @ mean_d
        yield _Fit(penalty, weight_cd.astype(np.float32), bias_c.astype(np.float32))


def ridge_path(
    x_nd: Float32, y_nc: Float32, penalties: Sequence[float], *, device: torch.device | str = "cpu"
) -> Iterator[tuple[float, Float64, Float64]]:
    """Ridge regressions of every column of numbers on ``x_nd``, from the strongest penalty to the weakest.

    Yields (λ, weights (columns, features), biases (columns,)) at the minimum of: half the mean over rows of the squared
    error, summed over columns, plus λ/2 Σ W². With the rows centred and X'X/n = U diag(s) U' that is W = U (s + λ)⁻¹ U'
    X'y/n: one decomposition serves all penalties.
    """
    x, y = (torch.from_numpy(part).to(device) for part in (x_nd, y_nc))
    mean_d, mean_c = x.mean(dim=0, dtype=torch.float64), y.mean(dim=0, dtype=torch.float64)
    x, y = x - mean_d.float(), y - mean_c.float()
    spread_d, axes_dd = torch.linalg.eigh((x.T @ x).double() / len(x))
    along_dc = axes_dd.T @ ((x.T @ y).double() / len(x))
    for penalty in sorted(penalties, reverse=True):
        weight_dc = axes_dd @ (along_dc / (spread_d.clamp(min=0)[:, None] + penalty))
        yield penalty, weight_dc.T.cpu().numpy(), (mean_c - mean_d @ weight_dc).cpu().numpy()


def logistic_path(
    x_nd: Float32,
    y_nc: npt.NDArray[np.bool_],
    penalties: Sequence[float],
    *,
    exclusive: bool = False,
    max_iterations: int = 200,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[float, Float64, Float64]]:
    """Logistic regressions of every class on ``x_nd``, from the strongest penalty to the weakest.

    Yields (λ, weights (classes, features), biases (classes,)) at the minimum of: mean over rows of the
    cross-entropy, summed over classes, plus λ/2 Σ W². Each class needs a positive and a negative row. Each
    fit starts where the last one ended. ``exclusive``: each row is of one class, and it is one multinomial regression.

    Full-batch L-BFGS over all classes at once. Scikit-learn's logistic regression, class by class, finds the
    same weights (a test) but takes five to twenty times as long: here one matrix product serves all classes.
    In the features' own coordinates the curvature spans many orders of magnitude; with X'X/n = U diag(s) U'
    and p the share of class c, the curvature of its weights along U is close to p(1-p) s + λ. Scaling by the
    inverse root of that takes four to eight times fewer steps. On one core, eleven penalties on 12,000 windows
    take 2 s for 384 features and 5 classes, 11 s for 1,536 and 5, 90 s for 1,536 and 71.
    """
    x, y = torch.from_numpy(x_nd).to(device), torch.from_numpy(y_nc.astype(np.float32)).to(device)
    curvature_d, axes_dd = torch.linalg.eigh((x.T @ x).double() / len(x))
    axes_dd = axes_dd.float()
    x = x @ axes_dd
    share_c = y.mean(dim=0)
    variance_c = share_c * (1 - share_c)
    curvature_dc = curvature_d.clamp(min=0).float()[:, None] * variance_c

    weight_dc = torch.zeros_like(curvature_dc)
    bias_c = share_c.log() if exclusive else torch.logit(share_c)
    for penalty in sorted(penalties, reverse=True):
        scale_dc, scale_c = (curvature_dc + penalty).rsqrt(), variance_c.rsqrt()
        v_dc, v_c = weight_dc / scale_dc, bias_c / scale_c
        _minimise(x, y, penalty, v_dc, v_c, scale_dc, scale_c, max_iterations, exclusive)
        weight_dc, bias_c = v_dc * scale_dc, v_c * scale_c
        yield penalty, (axes_dd @ weight_dc).T.double().cpu().numpy(), bias_c.double().cpu().numpy()


def _minimise(
    x_nd: Tensor,
    y_nc: Tensor,
    penalty: float,
    v_dc: Tensor,
    v_c: Tensor,
    scale_dc: Tensor,
    scale_c: Tensor,
    max_iterations: int,
    exclusive: bool,
) -> None:
    """Move the scaled weights ``v_dc`` and biases ``v_c`` to the minimum, in place."""
    optimiser = torch.optim.LBFGS(
        [v_dc, v_c], max_iter=max_iterations, line_search_fn="strong_wolfe", tolerance_grad=1e-4
    )

    def loss() -> Tensor:
        # The gradient of a logistic regression is one more product, told directly: no graph is kept.
        weight_dc = v_dc * scale_dc
        logits_nc = torch.addmm(v_c * scale_c, x_nd, weight_dc)
        if exclusive:
            misfit = functional.cross_entropy(logits_nc, y_nc)
            error_nc = (torch.softmax(logits_nc, dim=1) - y_nc) / len(y_nc)
        else:
            misfit = functional.binary_cross_entropy_with_logits(logits_nc, y_nc, reduction="sum") / len(y_nc)
            error_nc = (torch.sigmoid(logits_nc) - y_nc) / len(y_nc)
        # Transposed twice: the wide product is two to four times as fast as the tall one.
        v_dc.grad = torch.addcmul(penalty * weight_dc * scale_dc, (error_nc.T @ x_nd).T, scale_dc)
        v_c.grad = error_nc.sum(dim=0) * scale_c
        return misfit + penalty / 2 * weight_dc.square().sum()

    optimiser.step(loss)  # type: ignore[no-untyped-call]
