"""SimCLR as Mehari & Strodthoff (2022) run it: find the other view of the same window among all others of the batch.

Source: Chen, Kornblith, Norouzi & Hinton, arXiv 2002.05709; the variant and its constants from Mehari & Strodthoff,
Computers in Biology and Medicine 141, 105114, by its published code. Two views of each of N windows pass backbone and
projector; z are the 2N projections at unit length, p(i) is the other view of the window of i::

    s[i, j] = <z[i], z[j]>
    l[i]    = -log( exp(s[i, p(i)] / temperature) / sum over j != i of exp(s[i, j] / temperature) )
    loss    = mean of l over all 2N views                                                    (NT-Xent)

A network that makes the same of all windows scores ln(2N - 1) nats, and finds the other view once in 2N - 1.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

import ecgstore
from ecgstore import ConfigError
from ecgtrain import distributed
from ecgtrain.backbones import Backbone
from ecgtrain.methods import LossTerms, Objective, WindowBatch
from ecgtrain.views.augmentations import CROP_AND_TIME_OUT, Augmentation

DESCRIPTION = "SimCLR: find the other view of a window among all views of the batch (NT-Xent)"


class Settings(ecgstore.Settings):
    """The defaults are the published ones.

    ``temperature``: cosines are divided by it. ``hidden_width``, ``embedding_width``: features inside and at the end
    of the projector. ``augmentations``: what the two views are made by, each with draws of its own.

    ``repo_compat``: what the published code does with a view's similarity to itself. It stays in the sum over j, and
    the constant e is taken off; but at temperature 0.5 it is e squared, so that e² - e = 4.67 remain.
    """

    name: Literal["simclr"] = "simclr"
    temperature: PositiveFloat = 0.5
    hidden_width: PositiveInt = 512
    embedding_width: PositiveInt = 16
    augmentations: tuple[Augmentation, ...] = CROP_AND_TIME_OUT
    repo_compat: bool = False


class Views(NamedTuple):
    """Two views of each window, normalised."""

    one_blt: Tensor
    other_blt: Tensor


def views(settings: Settings, batch: WindowBatch) -> Views:
    """Both views are made of the same cut of the record."""
    return Views(batch.augmented(settings.augmentations, view=0), batch.augmented(settings.augmentations, view=1))


def nt_xent(
    one_bd: Tensor, other_bd: Tensor, temperature: float, *, repo_compat: bool = False
) -> tuple[Tensor, Tensor]:
    """Loss in nats and whether the most similar view is that of the same window, both (2 x batch).

    Rows of the same number, of any length but 0, are two views of a window. First come all of ``one_bd``.
    """
    n = len(one_bd)
    z_nd = F.normalize(torch.cat([one_bd, other_bd]), dim=1)
    logits_nn = z_nd @ z_nd.T / temperature
    positive_n = torch.arange(2 * n, device=z_nd.device).roll(n)
    positive_logit_n = logits_nn.gather(1, positive_n[:, None])[:, 0]
    if repo_compat:
        # No cosine is above 1: taken off before exp, 1 / temperature keeps small temperatures from overflowing.
        most = 1.0 / temperature
        total_n = (logits_nn - most).exp().sum(dim=1) - math.exp(1.0 - most)
        log_total_n = total_n.log() + most
    itself_nn = torch.eye(2 * n, dtype=torch.bool, device=z_nd.device)
    logits_nn = logits_nn.masked_fill(itself_nn, -math.inf)
    if not repo_compat:
        log_total_n = torch.logsumexp(logits_nn, dim=1)
    return log_total_n - positive_logit_n, logits_nn.detach().argmax(dim=1) == positive_n


class SimClr(Objective):
    """NT-Xent over a backbone's features."""

    compares_windows = True
    #: Else both views of a window would share their rank's statistics, which gives them away.
    wants_sync_batchnorm = True

    def __init__(self, settings: Settings, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = nn.Sequential(
            nn.Linear(backbone.pooled_width, settings.hidden_width),
            nn.ReLU(inplace=True),
            nn.Linear(settings.hidden_width, settings.embedding_width),
        )
        self._settings = settings
        self._batch_size: int | None = None

    @property
    def chance(self) -> dict[str, float]:
        """Loss and retrieval of a network that makes the same of all windows.

        They hang on the size of the batch: nothing is told before :meth:`check` was.
        """
        if self._batch_size is None:
            return {}
        n_views = 2 * self._batch_size
        # What is in the sum besides the views that the right one is to be told from.
        rest = math.exp(1.0 - 1.0 / self._settings.temperature) if self._settings.repo_compat else 1.0
        return {"nt_xent": math.log(n_views - rest), "retrieval": 1.0 / (n_views - 1)}

    def check(self, window_samples: int, batch_size: int, fs_hz: float) -> None:
        """Refuse a batch of one window, which has no other to be told from."""
        if batch_size < 2:
            raise ConfigError(
                "simclr compares the windows of a batch with each other",
                expected="a batch of at least 2 windows",
                got=batch_size,
                fix="raise batch_size: 128 or more is usual",
            )
        self._batch_size = batch_size

    def forward(self, views: Views) -> LossTerms:
        """NT-Xent of the global batch; parts: itself, and how often the other view of a window was the nearest."""
        # One after the other, as published: BatchNorm takes the statistics of each set of views by itself.
        pooled = [self.backbone(x_blt).pooled_bd for x_blt in views]
        one_bd, other_bd = (distributed.gather(self.projector(pooled_bd).float()) for pooled_bd in pooled)
        # bfloat16 would round similarities by hundredths, and the temperature makes that larger.
        with torch.autocast(one_bd.device.type, enabled=False):
            loss_n, found_n = nt_xent(
                one_bd, other_bd, self._settings.temperature, repo_compat=self._settings.repo_compat
            )
        loss = loss_n.mean()
        parts = {"nt_xent": loss.detach(), "retrieval": found_n.float().mean()}
        return LossTerms(loss, parts, torch.stack(pooled).detach())


def build(settings: Settings, backbone: Backbone) -> SimClr:
    """Make the objective, for any backbone."""
    return SimClr(settings, backbone)
