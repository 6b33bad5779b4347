"""The network of LCD (Liu et al., 2025): VGG-16 in one dimension and an eighth of its width, on one lead at a time.

Source: Liu, Pan, Chang, Huang & Jiang, Applied Soft Computing 172, 112871 (2025), by its published code. Thirteen
convolutions of kernel 3 in five groups, each group followed by a pooling of 2, then the mean over time: 64 features of
a lead, 78,216 parameters. The features of a window are those of its leads, one after the other.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
import torch.nn.functional as F
from pydantic import PositiveFloat
from torch import Tensor, nn

import ecgstore
from ecgstore import ConfigError
from ecgtrain.backbones import Backbone
from ecgtrain.backbones.layers.channels_last import convolve, image, normalise, tokens
from ecgtrain.backbones.layers.features import Features

DESCRIPTION = "VGG-16 in one dimension on each lead by itself; features of the leads side by side"

#: Channels of the convolutions of each group, of VGG-16 at full width.
_GROUPS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
#: Samples that are halved five times and leave one.
MIN_SAMPLES = 32


class Settings(ecgstore.Settings):
    """The defaults are the published ones.

    ``alpha``: share of VGG-16's channels. ``tie_leads``: all leads pass through one encoder, as published; otherwise
    each lead has an encoder of its own, all with the same weights at first.
    """

    name: Literal["vgg1d"] = "vgg1d"
    alpha: PositiveFloat = 0.125
    tie_leads: bool = True


class Vgg1d(Backbone):
    """``encode_lead`` gives the features of one lead; tokens are the leads. ``tied``: all leads have one encoder."""

    min_samples = MIN_SAMPLES

    def __init__(self, settings: Settings, n_leads: int) -> None:
        super().__init__()
        channels = [[max(1, round(settings.alpha * one)) for one in group] for group in _GROUPS]
        self.n_leads = n_leads
        self.width = channels[-1][-1]
        self.pooled_width = n_leads * self.width
        self.tied = settings.tie_leads
        first = _encoder(channels)
        self.encoders = nn.ModuleList([first])
        for _ in range(0 if self.tied else n_leads - 1):
            its = _encoder(channels)
            its.load_state_dict(first.state_dict())
            self.encoders.append(its)

    def encode_lead(self, x_bt: Tensor, lead: int) -> Tensor:
        """Features (batch, ``width``) of lead number ``lead``, given as (batch, samples)."""
        _refuse_short(x_bt.shape[-1])
        encoder = self.encoders[0 if self.tied else lead]
        return cast(Tensor, encoder(x_bt[:, None]).mean(dim=2))

    def forward(self, x_blt: Tensor) -> Features:
        """A token for each lead, (batch, leads, ``width``); pooled, one after the other."""
        _refuse_short(x_blt.shape[2])
        if not self.tied:
            tokens_bld = torch.stack([self.encode_lead(x_blt[:, lead], lead) for lead in range(self.n_leads)], dim=1)
        else:
            each = self.encoders[0](x_blt.reshape(-1, 1, x_blt.shape[2])).mean(dim=2)
            tokens_bld = each.view(x_blt.shape[0], self.n_leads, self.width)
        return Features(tokens_bld, tokens_bld.flatten(1))

    def networks(self) -> list[nn.Module]:
        """The encoders: methods call them lead by lead."""
        return list(self.encoders)


def build(settings: Settings, n_leads: int) -> Vgg1d:
    """Make the network with fresh weights from torch's generator."""
    return Vgg1d(settings, n_leads)


class _Encoder(nn.Sequential):
    """Layers of one lead, (batch, 1, samples) to (batch, channels, samples / 32); inside, channels are last."""

    def forward(self, x_b1t: Tensor) -> Tensor:
        x_btc = x_b1t.transpose(1, 2)
        for layer in self:
            if isinstance(layer, nn.Conv1d):
                x_btc = convolve(layer, x_btc)
            elif isinstance(layer, nn.MaxPool1d):
                x_btc = tokens(F.max_pool2d(image(x_btc), (1, 2)))
            elif not isinstance(layer, nn.ReLU):  # one follows each BatchNorm
                x_btc = normalise(layer, x_btc, rectify=True)
        return x_btc.transpose(1, 2)


def _encoder(channels: list[list[int]]) -> _Encoder:
    layers: list[nn.Module] = []
    n_in = 1
    for group in channels:
        for n_out in group:
            layers += [nn.Conv1d(n_in, n_out, 3, padding=1), nn.BatchNorm1d(n_out), nn.ReLU(inplace=True)]
            n_in = n_out
        layers.append(nn.MaxPool1d(2, 2))
    return _Encoder(*layers)


def _refuse_short(n_samples: int) -> None:
    if n_samples < MIN_SAMPLES:
        raise ConfigError(
            "the window is too short for vgg1d, which halves it five times",
            expected=f"{MIN_SAMPLES} samples or more",
            got=n_samples,
            fix="raise window_samples",
        )
