"""LCD: what two leads of a record share is kept, what their codes repeat is taken out (Liu et al., 2025).

Source: Liu, Pan, Chang, Huang & Jiang, Applied Soft Computing 172, 112871 (2025), by its published code. f encodes one
lead, P projects, g predicts; f' and P' are moving averages of f and P that no gradient reaches. For three views v1, v2,
v3 of each of B windows, and two different leads a, b drawn once for the whole batch::

    h1 = P(f(v1[a]))      h2 = P(f(v2[b]))      z = P'(f'(v3[a]))
    intra = mean(2 - 2 cos(g(h1), z))           the same lead in another view
    inter = mean(2 - 2 cos(g(h2), z))           another lead of the same record
    H = [h1 | h2], each column to mean 0 and variance 1;      C = H^T H / B
    decorrelation = sum_i (C[i, i] - 1)^2 + 0.0051 sum_{i != j} C[i, j]^2
    loss = intra + inter + 0.005 decorrelation

The off-diagonal of C holds what the features of one lead repeat of each other, and of the other lead's.
"""

from __future__ import annotations

import copy
from typing import Literal, NamedTuple, Protocol, cast

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn

import ecgstore
from ecgstore import ConfigError
from ecgtrain import distributed
from ecgtrain.backbones import Backbone
from ecgtrain.methods import LossTerms, Moment, Objective, WindowBatch
from ecgtrain.views.augmentations import FOURIER_CROP_AND_TIME_OUT, Augmentation, chain

DESCRIPTION = "LCD: bring views and leads of a record together, and take out what their features repeat"

#: Stream of the draw of leads; those of the views are 0, 1 and 2.
_LEADS = 3
#: Added to variances, as BatchNorm does.
_EPSILON = 1e-5


class Settings(ecgstore.Settings):
    """The defaults are the published ones.

    ``width``: features of projector and predictor. ``momentum``: how much of the target is kept at each step.
    ``gamma``: weight of the decorrelation; ``off_diagonal_weight``: that of its off-diagonal. ``augmentations``: what
    the three views are made by, of windows that have been normalised, as published.

    ``control``: negative controls. ``no_stop_gradient`` compares with the network's own projections, and lets
    gradients flow into them; ``same_lead`` takes a for b.

    ``repo_compat``: C is divided by the batch size of the settings even where the last batch of a validation is
    smaller, which the published code does to the last batch of each epoch.
    """

    name: Literal["lcd"] = "lcd"
    width: PositiveInt = 512
    momentum: float = Field(0.996, ge=0, lt=1)
    gamma: NonNegativeFloat = 0.005
    off_diagonal_weight: NonNegativeFloat = 0.0051
    augmentations: tuple[Augmentation, ...] = FOURIER_CROP_AND_TIME_OUT
    control: Literal["none", "no_stop_gradient", "same_lead"] = "none"
    repo_compat: bool = False


class Views(NamedTuple):
    """Lead ``a`` of two views and lead ``b`` of another, each (batch, 1, samples)."""

    first_b1t: Tensor
    other_lead_b1t: Tensor
    target_b1t: Tensor
    a: int
    b: int


class LeadEncoder(Protocol):
    """What LCD asks of a backbone: the features of a single lead."""

    width: int
    tied: bool
    min_samples: int

    def encode_lead(self, x_bt: Tensor, lead: int) -> Tensor: ...


def draw_leads(batch: WindowBatch, n_leads: int) -> tuple[int, int]:
    """Two different leads, all pairs alike; the same for all windows of a step, and on all ranks."""
    # On the host: the leads say which network runs, and nobody should wait for the device to tell.
    step = torch.tensor([batch.step])
    a = int(batch.draw.fork(_LEADS).integers(step, 1, n_leads))
    b = int(batch.draw.fork(_LEADS + 1).integers(step, 1, n_leads - 1))
    return a, b + (b >= a)


def views(settings: Settings, batch: WindowBatch) -> Views:
    """Normalise whole windows, then make views of the leads that are looked at: one time map for each view."""
    x_blt = batch.normalise(batch.mv)
    a, b = draw_leads(batch, x_blt.shape[1])
    if settings.control == "same_lead":
        b = a

    def view(number: int, lead: int) -> Tensor:
        its = slice(lead, lead + 1)
        draw = batch.draw.fork(number)
        recorded_b1t = batch.mv.recorded_blt[:, its]
        made = chain(
            x_blt[:, its], recorded_b1t, draw, batch.sample_numbers_b, settings.augmentations, batch.fs_hz, batch.banks
        )
        return made.x_blt

    return Views(view(0, a), view(1, b), view(2, a), a, b)


def correlations(features_bd: Tensor, batch_size: int | None = None) -> Tensor:
    """C: correlations (features, features) over the batch; divided by ``batch_size`` in place of its true size."""
    centred_bd = features_bd - features_bd.mean(dim=0)
    scaled_bd = centred_bd * (centred_bd.square().mean(dim=0) + _EPSILON).rsqrt()
    return scaled_bd.T @ scaled_bd / (batch_size or len(features_bd))


def decorrelation(c_dd: Tensor, off_diagonal_weight: float) -> Tensor:
    """How far C is from the identity: the sum of squares, those off the diagonal weighted."""
    diagonal_d = c_dd.diagonal()
    off_diagonal = c_dd.square().sum() - diagonal_d.square().sum()
    return (diagonal_d - 1.0).square().sum() + off_diagonal_weight * off_diagonal


class Lcd(Objective):
    """The LCD loss over a backbone that encodes single leads."""

    compares_windows = True
    wants_sync_batchnorm = True

    def __init__(self, settings: Settings, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self._settings = settings
        self._network = cast(LeadEncoder, backbone)
        self.projector = _head(self._network.width, settings.width)
        self.predictor = _head(settings.width, settings.width)
        self.target_backbone = copy.deepcopy(backbone).requires_grad_(False)
        self.target_projector = copy.deepcopy(self.projector).requires_grad_(False)
        # With encoders for each lead, all but two get no gradient in a step.
        self.leaves_parameters_out = not self._network.tied
        self._batch_size: int | None = None

    @property
    def chance(self) -> dict[str, float]:
        """Cosines of unrelated directions are 0."""
        return {"intra": 2.0, "inter": 2.0}

    def check(self, window_samples: int, batch_size: int, fs_hz: float) -> None:
        """Refuse a batch of one window, and windows that the encoder can't halve often enough."""
        if batch_size < 2:
            raise ConfigError(
                "lcd correlates features over the windows of a batch",
                expected="a batch of at least 2 windows",
                got=batch_size,
                fix="raise batch_size: 128 or more is usual",
            )
        if window_samples < self._network.min_samples:
            raise ConfigError(
                "the window is too short for the encoder",
                expected=f"{self._network.min_samples} samples or more",
                got=window_samples,
                fix="raise window_samples",
            )
        self._batch_size = batch_size if self._settings.repo_compat else None

    def forward(self, views: Views) -> LossTerms:
        """The loss; parts: intra, inter, decorrelation, and the mean of abs(C) off the diagonal."""
        f1_bd = self._network.encode_lead(views.first_b1t[:, 0], views.a)
        f2_bd = self._network.encode_lead(views.other_lead_b1t[:, 0], views.b)
        h1_bd, h2_bd = self.projector(f1_bd), self.projector(f2_bd)
        g1_bd, g2_bd = self.predictor(h1_bd), self.predictor(h2_bd)
        z_bd = self._target(views)
        with torch.autocast(h1_bd.device.type, enabled=False):
            intra, inter = (
                (2.0 - 2.0 * F.cosine_similarity(g_bd.float(), z_bd.float())).mean() for g_bd in (g1_bd, g2_bd)
            )
            both_bd = distributed.gather(torch.cat([h1_bd, h2_bd], dim=1).float())
            c_dd = correlations(both_bd, self._batch_size)
            spread = decorrelation(c_dd, self._settings.off_diagonal_weight)
            total = intra + inter + self._settings.gamma * spread
        n = len(c_dd)
        off_diagonal = (c_dd.abs().sum() - c_dd.diagonal().abs().sum()) / (n * (n - 1))
        parts = {"intra": intra, "inter": inter, "decorrelation": spread, "off_diagonal": off_diagonal}
        return LossTerms(
            total, {name: part.detach() for name, part in parts.items()}, torch.stack([f1_bd, f2_bd]).detach()
        )

    def _target(self, views: Views) -> Tensor:
        if self._settings.control == "no_stop_gradient":
            own: Tensor = self.projector(self._network.encode_lead(views.target_b1t[:, 0], views.a))
            return own
        with torch.no_grad():
            target = cast(LeadEncoder, self.target_backbone)
            made: Tensor = self.target_projector(target.encode_lead(views.target_b1t[:, 0], views.a))
            return made

    @torch.no_grad()
    def after_step(self, moment: Moment) -> None:
        """Move the target's parameters; what its BatchNorms remember they take from its own batches, as published."""
        mine: list[Tensor] = [*self.backbone.parameters(), *self.projector.parameters()]
        its: list[Tensor] = [*self.target_backbone.parameters(), *self.target_projector.parameters()]
        torch._foreach_lerp_(its, mine, 1.0 - self._settings.momentum)


def build(settings: Settings, backbone: Backbone) -> Lcd:
    """Make the objective; raises ConfigError if the backbone can't encode a single lead, or there is only one."""
    if not hasattr(backbone, "encode_lead"):
        raise ConfigError(
            "lcd needs a backbone that encodes one lead at a time",
            got=type(backbone).__name__,
            fix="use the backbone vgg1d",
        )
    if backbone.n_leads < 2:
        raise ConfigError(
            "lcd compares leads of a record", expected="two leads or more", got=backbone.n_leads, fix="set data.leads"
        )
    return Lcd(settings, backbone)


def _head(n_in: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, width), nn.BatchNorm1d(width), nn.ReLU(inplace=True), nn.Linear(width, width))
