"""A backbone with a head of one's own on it, and what is kept of both: what several protocols train."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor, nn

from ecgstore import ConfigError, Settings
from ecgstore.inner import parse
from ecgtrain.backbones import Backbone, build_backbone
from ecgtrain.backbones.layers.features import Features
from ecgtrain.evaluation.protocols import Arrays, Context, Fitted, checked
from ecgtrain.evaluation.splits import Float64, Split, tile_average
from ecgtrain.representation.export import Trained
from ecgtrain.scoring import kinds
from ecgtrain.scoring.kinds import Scale
from ecgtrain.tasks import TargetKind

Share = Annotated[float, Field(ge=0, lt=1)]
#: Wider than any head: one from elsewhere is refused before it is built.
_MOST_UNITS, _MOST_QUERIES = 65_536, 256


class HeadSettings(Settings):
    """What stands on the backbone.

    ``reads``: ``pooled`` features as the backbone pools them, or all tokens by ``attention``: ``queries`` learned
    vectors look for what they need by so many ``attention_heads``, which must divide the width of the tokens where they
    are named; otherwise they are 4, or the most below that do. ``hidden``: units of a layer between; null for a linear
    head. ``dropout``: share of the features, and of the hidden units, that are left out in training.
    ``batchnorm``: scale features and hidden units by BatchNorm.
    """

    reads: Literal["pooled", "attention"] = "pooled"
    queries: int = Field(default=1, ge=1, le=_MOST_QUERIES)
    attention_heads: int = Field(default=4, ge=1, le=_MOST_QUERIES)
    hidden: int | None = Field(default=None, ge=1, le=_MOST_UNITS)
    dropout: tuple[Share, Share] = (0.0, 0.0)
    batchnorm: bool = False


def refuse_heads(settings: Settings, backbone: Backbone, where: object) -> None:
    """Raise ConfigError where a number of heads is named that the tokens of ``backbone`` can't be divided by."""
    head = getattr(settings, "head", None)
    if (
        not isinstance(head, HeadSettings)
        or head.reads != "attention"
        or "attention_heads" not in head.model_fields_set
    ):
        return
    width = backbone.width
    if width % head.attention_heads:
        divisors = [n for n in range(1, min(width, _MOST_QUERIES) + 1) if width % n == 0]
        raise ConfigError(
            f"the tokens' width of {width} can't be divided among the heads",
            where=f"{where}, settings.head.attention_heads",
            expected=f"one of {', '.join(map(str, divisors))}",
            got=head.attention_heads,
        )


class AttentionPool(nn.Module):
    """Learned queries attend to all tokens of a window (Lee et al., ICML 2019, arXiv 1810.00825, section 3.2).

    (batch, tokens, features) → (batch, queries × features).
    """

    def __init__(self, n_features: int, queries: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(n_features)
        self.queries_qd = nn.Parameter(torch.randn(queries, n_features) / n_features**0.5)
        self.attention = nn.MultiheadAttention(n_features, heads, batch_first=True)

    def forward(self, tokens_bsd: Tensor) -> Tensor:
        """What the queries find."""
        seen_bsd = self.norm(tokens_bsd)
        queries_bqd = self.queries_qd.expand(seen_bsd.shape[0], -1, -1)
        found_bqd, _ = self.attention(queries_bqd, seen_bsd, seen_bsd, need_weights=False)
        found_bd: Tensor = found_bqd.flatten(1)
        return found_bd


class Head(nn.Module):
    """From features to a number per class: (batch, classes)."""

    def __init__(self, settings: HeadSettings, backbone: Backbone, n_classes: int) -> None:
        super().__init__()
        attends = settings.reads == "attention"
        # A number that was named divides the features (refuse_heads); the default is lowered to one that does.
        heads = next(n for n in range(settings.attention_heads, 0, -1) if backbone.width % n == 0)
        self.pool = AttentionPool(backbone.width, settings.queries, heads) if attends else None
        n_features = settings.queries * backbone.width if attends else backbone.pooled_width
        before, between = settings.dropout
        layers = _scaled(n_features, before, settings.batchnorm)
        if settings.hidden is not None:
            layers += [nn.Linear(n_features, settings.hidden), nn.ReLU()]
            layers += _scaled(settings.hidden, between, settings.batchnorm)
        layers.append(nn.Linear(settings.hidden or n_features, n_classes))
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Features) -> Tensor:
        """A number per class, before any link function."""
        read_bd = features.pooled_bd if self.pool is None else self.pool(features.tokens_bsd)
        logits_bc: Tensor = self.layers(read_bd)
        return logits_bc


def _scaled(n_features: int, dropout: float, batchnorm: bool) -> list[nn.Module]:
    return [*([nn.BatchNorm1d(n_features)] if batchnorm else []), *([nn.Dropout(dropout)] if dropout else [])]


class Classifier(nn.Module):
    """A backbone and a head on it: windows (batch, leads, samples) → numbers per class (batch, classes)."""

    def __init__(self, backbone: Backbone, settings: HeadSettings, n_classes: int, seed: int) -> None:
        super().__init__()
        self.backbone = backbone
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = Head(settings, backbone, n_classes)

    def forward(self, x_blt: Tensor) -> Tensor:
        logits_bc: Tensor = self.head(self.backbone(x_blt))
        return logits_bc


def _of_windows(
    network: nn.Module, kind: TargetKind, scale: Scale, split: Split, device: torch.device | str
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Scores of every window by ``network``, float32 (windows, classes), and the store's row of each's record."""
    said, rows = [], []
    was_training = network.training
    network.to(device).eval()
    try:
        with torch.no_grad():
            for x_blt, record_row_b in split.signals():
                said.append(kinds.link(kind, network(x_blt).float(), scale).cpu().numpy())
                rows.append(record_row_b)
    finally:
        network.train(was_training)
    return np.concatenate(said), np.concatenate(rows)


@dataclass(frozen=True, eq=False, kw_only=True)
class Tuned(Fitted):
    """A network that was trained on labels, backbone and head.

    ``scale``: that of the numbers it was trained on. ``is_fitted_c``: which classes it could learn; the others get
    ``share_c``, except where classes exclude each other: there they are learned to be unlikely.
    """

    network: nn.Module
    head: HeadSettings
    scale: Scale
    is_fitted_c: npt.NDArray[np.bool_]
    share_c: npt.NDArray[np.float64]
    kind: TargetKind = "multilabel"
    device: torch.device | str = "cpu"

    def predict(self, split: Split) -> Float64:
        """Probabilities of each record, or numbers, averaged over its windows."""
        score_rc, _ = tile_average(*_of_windows(self.network, self.kind, self.scale, split, self.device))
        return np.where(self.is_fitted_c, score_rc, self.share_c) if self.kind == "multilabel" else score_rc

    def scorer(self, trained: Trained) -> nn.Module:
        """The network with its link, and a constant where a class could not be learned."""
        return _Scored(self)

    def arrays(self) -> Arrays:
        """All weights and statistics by their names in the network, the scale, and what classes without a fit get."""
        state = {name: value.detach().cpu().numpy() for name, value in self.network.state_dict().items()}
        of_columns = {"scale_mean": self.scale.mean_c, "scale_std": self.scale.std_c, "share": self.share_c}
        return {**state, **of_columns, "is_fitted": self.is_fitted_c.astype(np.uint8)}

    def about(self) -> Mapping[str, Any]:
        """What the head is built by."""
        return {"head": self.head.model_dump(mode="json")}


class _Scored(nn.Module):
    """Windows (batch, leads, samples) → scores (batch, classes)."""

    is_fitted_c: Tensor
    share_c: Tensor

    def __init__(self, tuned: Tuned) -> None:
        super().__init__()
        self.network, self.kind, self.scale = tuned.network, tuned.kind, tuned.scale
        self.register_buffer("is_fitted_c", torch.from_numpy(tuned.is_fitted_c))
        self.register_buffer("share_c", torch.from_numpy(tuned.share_c).float())

    def forward(self, x_blt: Tensor) -> Tensor:
        said_bc = kinds.link(self.kind, self.network(x_blt).float(), self.scale)
        return torch.where(self.is_fitted_c, said_bc, self.share_c) if self.kind == "multilabel" else said_bc


def load_tuned(arrays: Arrays, about: Mapping[str, Any], context: Context) -> Tuned:
    """The network whose :meth:`Tuned.arrays` and :meth:`Tuned.about` these are; raises CheckpointError."""
    backbone, n_classes = context.trained.backbone, len(context.classes)
    head = parse(HeadSettings, about["head"])

    def build() -> Classifier:
        return Classifier(build_backbone(backbone.settings, backbone.n_leads, seed=0), head, n_classes, seed=0)

    with torch.device("meta"):  # nothing is allocated before it is known to be what the file holds
        shapes = {name: tuple(value.shape) for name, value in build().state_dict().items()}
    checked(arrays, {**shapes, **dict.fromkeys(("is_fitted", "share", "scale_mean", "scale_std"), (n_classes,))})
    network = build()
    own = network.state_dict()
    state = {name: torch.from_numpy(np.array(arrays[name])).to(own[name].dtype) for name in own}
    network.load_state_dict(state)
    return Tuned(
        classes=context.classes,
        network=network.to(context.device).eval(),
        head=head,
        scale=Scale(arrays["scale_mean"].astype(np.float64), arrays["scale_std"].astype(np.float64)),
        is_fitted_c=arrays["is_fitted"] > 0,
        share_c=arrays["share"].astype(np.float64),
        kind=context.kind,
        device=context.device,
    )
