"""The residual network of Mehari & Strodthoff (2022) for SimCLR, BYOL and SwAV: a narrow xresnet1d50.

Source: Computers in Biology and Medicine 141, 105114; arXiv 2103.12676, by its published code. The design is that of
He et al., arXiv 1812.01187 ("bag of tricks": stem of three convolutions, pooling in the shortcut), in one dimension.
With samples halved at each arrow, and c = 4 x ``width``::

    leads -> conv 5, 32 | conv 5, 32 | conv 5, 64 -> max pool 3 -> stage 1: 3 blocks, c
          -> stage 2: 4 blocks, c -> stage 3: 6 blocks, c -> stage 4: 3 blocks, c = tokens; [max, mean] = features

    block(x) = ReLU( shortcut(x) + BN(conv 1(ReLU BN conv 5(ReLU BN conv 1(x)))) )

A stage's first block halves the samples: its middle convolution by its stride, its shortcut by averaging pairs. The
last BatchNorm of a block begins with weight 0, so that the block begins as its shortcut. With the defaults and 12
leads: 886,432 parameters.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

import ecgstore
from ecgstore import ConfigError
from ecgtrain.backbones import Backbone
from ecgtrain.backbones.layers.channels_last import convolve, image, normalise, tokens
from ecgtrain.backbones.layers.features import Features, pool
from ecgtrain.backbones.layers.sizes import Depth, Width

DESCRIPTION = "narrow xresnet1d50: residual blocks of kernel 5; a token per 32 samples; features are max and mean"

_KERNEL = 5
#: Channels of a block over those inside it.
_EXPANSION = 4


class Settings(ecgstore.Settings):
    """The defaults are the published network. All sizes are numbers of channels.

    ``depths``: blocks of each stage; (3, 4, 23, 3) makes it an xresnet1d101. ``stem``: its three convolutions.
    ``width``: channels inside the blocks, a quarter of those between them; ``widen`` multiplies it, as in the
    published code. ``layout``: ``narrow``, the published one, has ``width`` in every stage; ``wide`` doubles it from
    stage to stage (64, 128, 256, 512), as xresnets usually have it.
    """

    name: Literal["xresnet1d"] = "xresnet1d"
    depths: tuple[Depth, ...] = Field(default=(3, 4, 6, 3), min_length=1)
    stem: tuple[Width, Width, Width] = (32, 32, 64)
    width: Width = 64
    widen: PositiveFloat = 1.0
    layout: Literal["narrow", "wide"] = "narrow"

    def widths(self) -> tuple[int, ...]:
        """Channels inside the blocks of each stage."""
        narrow = max(1, int(self.width * self.widen))
        return tuple(narrow << (stage if self.layout == "wide" else 0) for stage in range(len(self.depths)))


class _Layer(nn.Module):
    """Convolution that keeps the number of samples but for its stride, BatchNorm, and ReLU unless ``linear``.

    All layers take and give tokens (batch, samples, channels).
    """

    def __init__(
        self, n_in: int, n_out: int, kernel: int, stride: int = 1, *, linear: bool = False, bias: bool = False
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(n_in, n_out, kernel, stride, padding=kernel // 2, bias=bias)
        self.norm = nn.BatchNorm1d(n_out)
        self._linear = linear

    def forward(self, x_btc: Tensor) -> Tensor:
        return normalise(self.norm, convolve(self.conv, x_btc), rectify=not self._linear)


class _Block(nn.Module):
    """A bottleneck of three layers, and a shortcut past it."""

    def __init__(self, n_in: int, width: int, stride: int) -> None:
        super().__init__()
        n_out = width * _EXPANSION
        last = _Layer(width, n_out, 1, linear=True)
        nn.init.zeros_(last.norm.weight)
        self.layers = nn.Sequential(_Layer(n_in, width, 1), _Layer(width, width, _KERNEL, stride), last)
        self.shortcut = _Layer(n_in, n_out, 1, linear=True) if n_in != n_out else nn.Identity()
        self._halves = stride == 2

    def forward(self, x_btc: Tensor) -> Tensor:
        y_btc: Tensor = self.layers(x_btc)
        if self._halves:
            # An odd sample at the end is taken as it is.
            x_btc = tokens(F.avg_pool2d(image(x_btc), (1, 2), ceil_mode=True))
        return F.relu(y_btc + self.shortcut(x_btc), inplace=True)


class XResNet1d(Backbone):
    """Tokens are what the last stage makes of every 32 samples; features their maximum and mean."""

    def __init__(self, settings: Settings, n_leads: int) -> None:
        super().__init__()
        self.n_leads = n_leads
        widths = settings.widths()
        self.width = widths[-1] * _EXPANSION
        self.pooled_width = 2 * self.width
        one, two, three = settings.stem
        self.stem = nn.Sequential(
            _Layer(n_leads, one, _KERNEL, 2, bias=True), _Layer(one, two, _KERNEL), _Layer(two, three, _KERNEL)
        )
        ins = [three, *(width * _EXPANSION for width in widths)]
        self.stages = nn.ModuleList(
            _stage(n_in, width, depth, stride=1 if number == 0 else 2)
            for number, (n_in, width, depth) in enumerate(zip(ins, widths, settings.depths, strict=False))
        )
        self._min_samples = 4 << (len(widths) - 1)
        _initialise(self)

    def n_tokens(self, n_samples: int) -> int:
        """Tokens of a window of ``n_samples``."""
        return -(-n_samples // self._min_samples)

    def forward(self, x_blt: Tensor) -> Features:
        """Tokens of windows (batch, leads, samples), a 32nd of the samples, pooled as the paper pools them.

        Raises ConfigError for windows shorter than one token.
        """
        if x_blt.shape[2] < self._min_samples:
            raise ConfigError(
                "the window is too short for xresnet1d",
                expected=f"at least {self._min_samples} samples",
                got=x_blt.shape[2],
                fix="raise window_samples, or give the backbone fewer stages (depths)",
            )
        x_btc = self.stem(x_blt.transpose(1, 2))
        x_btc = tokens(F.max_pool2d(image(x_btc), (1, 3), (1, 2), (0, 1)))
        for stage in self.stages:
            x_btc = stage(x_btc)
        return Features(x_btc, torch.cat([pool(x_btc, "max"), pool(x_btc, "mean")], dim=1))

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """The stages from the last to the first, then the stem."""
        return [list(part.parameters()) for part in (*reversed(self.stages), self.stem)]


def build(settings: Settings, n_leads: int) -> XResNet1d:
    """Make the network with fresh weights from torch's generator."""
    return XResNet1d(settings, n_leads)


def _stage(n_in: int, width: int, depth: int, stride: int) -> nn.Sequential:
    first = _Block(n_in, width, stride)
    return nn.Sequential(first, *(_Block(width * _EXPANSION, width, 1) for _ in range(depth - 1)))


def _initialise(network: XResNet1d) -> None:
    """Kaiming's normal law for all convolutions but the first, which keeps torch's own, as published."""
    first = network.stem[0].conv
    for module in network.modules():
        if isinstance(module, nn.Conv1d) and module is not first:
            nn.init.kaiming_normal_(module.weight)
