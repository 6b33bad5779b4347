"""A residual network over time that takes all leads together, and what reconstructs the signal from its tokens.

A reconstruction, inspired by Ran & Liu, "Joint spatio-temporal features constrained self-supervised
electrocardiogram representation learning", Biomed. Eng. Lett. 14(2):209-220 (2024): their network is not known to us,
and no number here is theirs. Residual blocks: He et al., CVPR 2016::

    stem      convolution of 15, stride 2, to w features                                (w = width, 64)
    stages    of two residual blocks of kernel 7 each, w / 2w / 4w / 8w features, stride 1 / 2 / 2 / 2
    tokens    one per 16 samples, of 8w features; a window's features are their mean and their maximum

With the defaults and 12 leads: encoder 8,737,408 parameters, decoder 710,924, lead head 598,672.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

import ecgstore
from ecgtrain.backbones import Backbone
from ecgtrain.backbones.layers.features import Features
from ecgtrain.backbones.layers.residual import KERNEL, ResidualBlock, filled, mean_and_max, stem
from ecgtrain.backbones.layers.sizes import Width

DESCRIPTION = "a residual network over all leads, one token per 16 samples; features are mean and maximum"
_STRIDES = (1, 2, 2, 2)
_TOTAL_STRIDE = 16


class Settings(ecgstore.Settings):
    """``width``: features after the stem; the last stage has eight times as many. The default is a reconstruction."""

    name: Literal["conv_reconstructor"] = "conv_reconstructor"
    width: Width = 64


class ConvReconstructor(Backbone):
    """A window of any length is continued with zeros to a multiple of 16 samples. Leads have fixed places."""

    #: A place is known by its weights: what stands there can be guessed without looking.
    places_known = True

    def __init__(self, settings: Settings, n_leads: int) -> None:
        super().__init__()
        self.n_leads = n_leads
        self._stem_width = settings.width
        widths = [settings.width * 2**stage for stage in range(len(_STRIDES))]
        self.width, self.pooled_width = widths[-1], 2 * widths[-1]
        self.stem = stem(n_leads, settings.width, 2)
        self.stages = nn.ModuleList(
            nn.Sequential(ResidualBlock(n_in, n_out, stride), ResidualBlock(n_out, n_out, 1))
            for n_in, n_out, stride in zip([settings.width, *widths], widths, _STRIDES, strict=False)
        )

    def n_tokens(self, n_samples: int) -> int:
        """Tokens of a window of ``n_samples``."""
        return -(-n_samples // _TOTAL_STRIDE)

    def forward(self, x_blt: Tensor) -> Features:
        """One token per 16 samples, and their mean and maximum."""
        x_bct = self.stem(filled(x_blt, _TOTAL_STRIDE))
        for stage in self.stages:
            x_bct = stage(x_bct)
        tokens_bsd = x_bct.transpose(1, 2)
        return Features(tokens_bsd, mean_and_max(tokens_bsd))

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Each stage by itself from the last on, then the stem."""
        return [*(list(stage.parameters()) for stage in reversed(self.stages)), list(self.stem.parameters())]

    def decoder(self, *, original_order: bool) -> nn.Module:
        """From features and a number of samples to (batch, leads, samples); fresh, and no part of the backbone.

        It learns whatever order it is asked for, so ``original_order`` makes no difference to it.
        """
        return _Decoder(self._stem_width, self.n_leads)

    def lead_head(self) -> nn.Module:
        """From features to logits (batch, places, leads); fresh, and no part of the backbone."""
        return _LeadHead(self.pooled_width, self.width, self.n_leads)


class _Decoder(nn.Module):
    """Four transposed convolutions, each twice as many samples, then a convolution to leads."""

    def __init__(self, width: int, n_leads: int) -> None:
        super().__init__()
        widths = [8 * width, 4 * width, 2 * width, width, width]
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(widths):
            up = nn.ConvTranspose1d(n_in, n_out, 4, 2, 1, bias=False)
            layers += [up, nn.BatchNorm1d(n_out), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv1d(width, n_leads, KERNEL, padding=KERNEL // 2))

    def forward(self, features: Features, n_samples: int) -> Tensor:
        said_blt: Tensor = self.layers(features.tokens_bsd.transpose(1, 2))
        return said_blt[..., :n_samples]


class _LeadHead(nn.Module):
    """One hidden layer between a window's features and the numbers of all its leads."""

    def __init__(self, n_in: int, n_hidden: int, n_leads: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(n_in, n_hidden), nn.ReLU(), nn.Linear(n_hidden, n_leads**2))
        self._n_leads = n_leads

    def forward(self, features: Features, n_samples: int) -> Tensor:
        logits: Tensor = self.layers(features.pooled_bd)
        return logits.view(-1, self._n_leads, self._n_leads)


def build(settings: Settings, n_leads: int) -> ConvReconstructor:
    """Make the network with fresh weights from torch's generator."""
    return ConvReconstructor(settings, n_leads)
