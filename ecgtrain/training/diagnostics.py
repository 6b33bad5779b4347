"""Is a representation alive? Figures on the features of one batch, cheap enough to be logged all along a run.

A network without labels can cheat by giving every window the same features (*collapse*), or features that differ in
few directions only (*dimensional collapse*). The loss of some methods does not show it. These figures do; what they
mean for a method stands on its page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from ecgtrain.scoring import metrics

#: Windows that are looked at: enough for these figures, and a singular value decomposition takes a millisecond.
MOST_WINDOWS = 512

#: Features have collapsed where they differ by less than half precision can tell (bfloat16 rounds to 2^-9), or by a
#: tenth of what the untrained network's did. Not at a fixed spread: what all features have in common, such as the
#: embedding of positions in an untrained transformer (0.012), is no collapse, and a head takes it away.
COLLAPSED_STD, COLLAPSED_SHARE = 2.0**-9, 0.1
#: Or where they differ in fewer directions than this, and in fewer than half of the untrained network's: some have few
#: to begin with. Only where the batch could show several times as many. Of b windows b - 1 directions are the most that
#: can be seen: of four windows, 2 of 3 are usual.
COLLAPSED_RANK, _SHARE_OF_RANK, _RANK_TO_JUDGE = 2.0, 0.5, 8
#: Of the steps of a run, so many are a beginning in which features may come together and part again.
_BEGINNING = 0.1

#: Strengths of the ridge that the online probe tries.
_RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)

#: One record in four of each part; and what a record's features are taken to add up to at least.
_FEWEST_RECORDS, _LEAST_POWER = 4, 1e-9


@torch.no_grad()
def watch(features_vbd: Tensor) -> dict[str, Tensor]:
    """How features (views, batch, features) lie, as scalars; at most :data:`MOST_WINDOWS` windows are looked at.

    ``feature_std``: features are scaled to unit length; the root of the mean variance over the batch, times the root
    of the number of features. 1 where directions are spread evenly, 0 where all are one.

    ``effective_rank``: e to the entropy of the shares of the centred features' singular values (Roy & Vetterli,
    EUSIPCO 2007): in how many directions they differ; of the first view.

    ``alignment`` and ``uniformity``, where there are two views or more (Wang & Isola, ICML 2020): the mean squared
    distance of a window's first two views, and the log of the mean of exp(-2 d²) over all pairs of windows, both at
    unit length. Both are better when lower; 0 alignment with 0 uniformity is collapse.

    Figures of features that are no numbers are NaN: a watch stops no run.
    """
    features_vbd = features_vbd.detach()[:, :MOST_WINDOWS].float()
    unit_vbd = F.normalize(features_vbd, dim=2)
    n_features = features_vbd.shape[2]
    found = {
        "feature_std": (unit_vbd[0].var(dim=0, correction=0).mean() * n_features).sqrt(),
        "effective_rank": _effective_rank(features_vbd[0]),
    }
    if len(unit_vbd) > 1 and features_vbd.shape[1] > 1:
        found["alignment"] = (unit_vbd[0] - unit_vbd[1]).square().sum(dim=1).mean()
        found["uniformity"] = torch.pdist(unit_vbd[0]).square().mul(-2).exp().mean().log()
    return found


def _effective_rank(features_bd: Tensor) -> Tensor:
    finite = features_bd.isfinite().all()
    # A decomposition raises for what is no number. Chosen on the device, so that the host need not wait.
    features_bd = torch.where(finite, features_bd, 0.0)
    values = torch.linalg.svdvals(features_bd - features_bd.mean(dim=0))
    shares = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny)
    rank: Tensor = torch.special.entr(shares).sum().exp()
    return torch.where(finite, rank, torch.nan)


def most_directions(features_vbd: Tensor) -> int:
    """In how many directions the windows that :func:`watch` looks at could differ at most."""
    return min(min(features_vbd.shape[1], MOST_WINDOWS) - 1, features_vbd.shape[2])


def settled(step: int, n_steps: int, warmup_steps: int) -> bool:
    """Whether features may be judged: behind the rise of the learning rate, and a tenth of a run of ``n_steps``."""
    return step > max(warmup_steps, _BEGINNING * n_steps)


def verdict(values: Mapping[str, float], untrained: Mapping[str, float], most: int) -> str | None:
    """One line where :func:`watch` found what looks like collapse, else None.

    ``untrained``: what it found before the first step; where that is not known, empty. ``most``: the
    :func:`most_directions` of such a batch.
    """
    std, rank = values.get("feature_std", 1.0), values.get("effective_rank", math.inf)
    std_before, rank_before = untrained.get("feature_std", 0.0), untrained.get("effective_rank", math.inf)
    if most >= 1 and std < max(COLLAPSED_STD, COLLAPSED_SHARE * std_before):
        known = f", {std_before:.2g} untrained" if untrained else ""
        return f"features are almost the same for all windows (feature_std {std:.2g}{known}): collapse"
    if most >= _RANK_TO_JUDGE and rank < min(COLLAPSED_RANK, _SHARE_OF_RANK * rank_before):
        known = f", {rank_before:.1f} untrained" if untrained else ""
        return f"features differ in {rank:.1f} of {most} directions only (effective_rank{known}): dimensional collapse"
    return None


def online_probe(features_nd: npt.NDArray[np.floating], y_nc: npt.NDArray[np.bool_]) -> float:
    """A rough macro AUROC of a ridge regression: fitted on every other record, judged on the rest.

    ``features_nd`` has a row per record, a few hundred of them; ``y_nc`` says which class each is of. The strength of
    the ridge is chosen on a quarter of the first half. It shows whether a representation gets better, not how
    good it is: that is for a protocol on other patients. 0.5 for features that are alike for all records; NaN where
    no class has positives and negatives, for fewer than four records, and for features that are no numbers.
    """
    if len(features_nd) < _FEWEST_RECORDS or not np.isfinite(features_nd).all():
        return math.nan
    fit, choose, judge = slice(0, None, 4), slice(2, None, 4), slice(1, None, 2)
    mean, std = features_nd[fit].mean(axis=0), features_nd[fit].std(axis=0)
    x_nd = np.asarray((features_nd - mean) / np.where(std > 1e-6, std, 1.0), dtype=np.float64)
    targets_nc = y_nc.astype(np.float64) - y_nc[fit].mean(axis=0)
    # In the space of records, of which there are fewer than features.
    gram = x_nd[fit] @ x_nd[fit].T

    def scores(ridge: float, part: slice) -> npt.NDArray[np.float64]:
        # Never 0, as it would be for dead features.
        strength = ridge * max(np.trace(gram) / len(gram), _LEAST_POWER)
        weights = np.linalg.solve(gram + strength * np.eye(len(gram)), targets_nc[fit])
        return np.asarray(x_nd[part] @ (x_nd[fit].T @ weights))

    def auroc(ridge: float, part: slice) -> float:
        return metrics.macro_auroc(y_nc[part], scores(ridge, part))

    best = max(_RIDGES, key=lambda ridge: np.nan_to_num(auroc(ridge, choose)))
    return auroc(best, judge)
