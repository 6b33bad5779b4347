"""ROOM of backbones: one network per file, and what they all promise."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, cast

import torch
from torch import Tensor, nn

from ecgstore import Settings
from ecgstore.inner import occupant
from ecgtrain.backbones.layers.features import Features


class Backbone(nn.Module):
    """A network from windows to features. Each file of this room has

    - ``DESCRIPTION``: one line;
    - ``Settings``: frozen settings, whose ``name`` is the file's name;
    - ``build(settings, n_leads) -> Backbone``, which draws its weights from torch's generator.

    ``n_leads`` is the number of leads it takes, ``width`` the number of features of a token, ``pooled_width``
    that of a window. ``settings`` are those that :func:`build_backbone` built it by.
    """

    settings: Settings
    n_leads: int
    width: int
    pooled_width: int

    @abstractmethod
    def forward(self, x_blt: Tensor) -> Features:
        """Turn normalised windows (batch, leads, samples) into features."""

    def networks(self) -> list[nn.Module]:
        """What ``torch.compile`` makes one graph of each, where asked to; the whole by default.

        Parts where a method calls more of a backbone than its ``forward``, or where a part can't be compiled.
        """
        return [self]

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """All parameters, from the layers next to the output down to those next to the input.

        Fine-tuning gives each group a learning rate of its own. One group by default.
        """
        return [list(self.parameters())]


def build_backbone(settings: Settings, n_leads: int, seed: int) -> Backbone:
    """A backbone with fresh weights: the same for the same settings and seed, whatever was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        room = occupant("ecgtrain.backbones", cast(Any, settings).name)
        backbone = cast(Backbone, room.build(settings, n_leads))
    backbone.settings = settings
    return backbone
