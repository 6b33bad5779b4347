"""Masked autoencoding as ST-MEM runs it: say what the hidden patches of each lead look like from those that are seen.

Source: Na et al., "Guiding Masked Representation Learning to Capture Spatio-Temporal Relationship of
Electrocardiogram" (ST-MEM), ICLR 2024, arXiv 2402.09450, after He et al. 2022 (MAE). Of the n patches of each lead,
``mask_ratio`` are hidden, drawn for each lead by itself; the backbone gets the others only. A narrow transformer, the
same for all leads, takes one lead at a time: tokens of what was seen, one learned token wherever something is hidden,
and a code of time. With p a hidden patch and q what is said of it, both of P samples::

    target = (p - mean(p)) / std(p)                        (mean and spread of that patch)
    loss   = mean over hidden patches of |q - target|^2 / P

Saying nothing (q = 0) costs 1. Patches that are flat, because a lead is absent or off, have no shape to be said and do
not count.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

import ecgstore
from ecgstore import ConfigError
from ecgtrain.backbones import Backbone
from ecgtrain.backbones.layers.transformer import RowDecoder, Shape, Split, divides, pick
from ecgtrain.backbones.vit1d import Vit1d
from ecgtrain.methods import LossTerms, Objective, WindowBatch
from ecgtrain.views.draw import Draw

DESCRIPTION = "masked autoencoding: say what hidden patches of each lead look like from a quarter that is seen"

#: A patch whose variance is below this is flat: a spread of 1 µV for signals in mV, of 0.001 for normalised ones.
_FLAT = 1e-6


class Decoder(ecgstore.Settings):
    """The transformer that says what is hidden; the defaults are the published ones.

    ``width``: features of a token. ``depth``: blocks. ``heads``: of each attention.
    """

    width: PositiveInt = 256
    depth: PositiveInt = 4
    heads: PositiveInt = 4

    @model_validator(mode="after")
    def _heads(self) -> Self:
        divides(self.width, self.heads)
        return self


class Settings(ecgstore.Settings):
    """The defaults are the published ones; ``mask_ratio`` is the share of each lead's patches that is hidden.

    What is seen is rounded down: of 30 patches at 0.75, 7 are seen and 23 hidden. ``decoder``: the network that
    restores.
    """

    name: Literal["mae"] = "mae"
    mask_ratio: float = Field(0.75, gt=0, lt=1)
    decoder: Decoder = Decoder()

    def n_hidden(self, n_patches: int) -> int:
        """How many of the patches of a lead are hidden."""
        return math.ceil(round(self.mask_ratio * n_patches, 9))


class Views(NamedTuple):
    """Normalised windows, what their masks are drawn by, and the masks once they are drawn."""

    x_blt: Tensor
    sample_numbers_b: Tensor
    draw: Draw
    split: Split | None = None


def views(settings: Settings, batch: WindowBatch) -> Views:
    """The normalised windows themselves: ST-MEM augments nothing in pretraining."""
    return Views(batch.normalise(batch.mv), batch.sample_numbers_b, batch.draw)


def draw_split(draw: Draw, sample_numbers_b: Tensor, n_rows: int, n_patches: int, n_hidden: int) -> Split:
    """Hide ``n_hidden`` patches of each row (lead), each row by itself; all choices alike likely."""
    sizes_b1 = torch.full((len(sample_numbers_b), 1), n_hidden, device=sample_numbers_b.device)
    rows = [draw.fork(row).subset(sample_numbers_b, n_patches, sizes_b1) for row in range(n_rows)]
    return Split.of(torch.stack(rows, dim=1), n_hidden)


def masked_mse(said_brsp: Tensor, patches_brsp: Tensor) -> Tensor:
    """The loss of each window, (batch,): mean over its patches that are not flat; 0 if all of them are.

    ``said_brsp`` and ``patches_brsp``: (batch, rows, hidden patches, samples of a patch).
    """
    centred = patches_brsp - patches_brsp.mean(dim=3, keepdim=True)
    variance = centred.square().mean(dim=3, keepdim=True)
    target = centred * variance.clamp_min(_FLAT).rsqrt()
    error_brs = (said_brsp - target).square().mean(dim=3)
    counts_brs = (variance > _FLAT).squeeze(3)
    return (error_brs * counts_brs).sum(dim=(1, 2)) / counts_brs.sum(dim=(1, 2)).clamp_min(1)


class Mae(Objective):
    """The loss of masked autoencoding over a backbone that takes patches away."""

    def __init__(self, settings: Settings, backbone: Vit1d) -> None:
        super().__init__()
        self.backbone: Vit1d = backbone
        self._settings = settings
        sizes = settings.decoder
        self.decoder = RowDecoder(
            Shape(sizes.width, sizes.depth, sizes.heads), n_in=backbone.width, n_out=backbone.patch_width
        )

    @property
    def chance(self) -> dict[str, float]:
        """What saying nothing costs."""
        return {"masked_mse": 1.0}

    def check(self, window_samples: int, batch_size: int, fs_hz: float) -> None:
        """Refuse windows whose last patch would be filled up with zeros, and those with nothing seen or hidden."""
        patch = self.backbone.patch_samples
        if window_samples % patch:
            raise ConfigError(
                "the window is not a whole number of patches: zeros would be learned",
                expected=f"a multiple of {patch} samples",
                got=window_samples,
                fix="change window_samples or backbone.patch_samples",
            )
        n_patches = self.backbone.n_patches(window_samples)
        if not 0 < self._settings.n_hidden(n_patches) < n_patches:
            raise ConfigError(
                "no patch of a lead would be seen, or none hidden",
                expected="at least one of each",
                got=f"{self._settings.n_hidden(n_patches)} of {n_patches} hidden",
                fix="raise window_samples, or change mask_ratio",
            )

    def networks(self) -> list[nn.Module]:
        """Of the decoder, too."""
        return [*super().networks(), self.decoder]

    def drawn(self, views: Views) -> Views:
        """With what is hidden of each lead."""
        n_patches = self.backbone.n_patches(views.x_blt.shape[2])
        n_hidden = self._settings.n_hidden(n_patches)
        split = draw_split(views.draw, views.sample_numbers_b, self.backbone.n_rows, n_patches, n_hidden)
        return views._replace(split=split)

    def forward(self, views: Views) -> LossTerms:
        """Mean of the windows' losses; features are the mean of the tokens that were seen."""
        split = (views if views.split else self.drawn(views)).split
        assert split is not None
        patches_brsp = self.backbone.patches(views.x_blt)
        seen_bkd = self.backbone.encode_tokens(self.backbone.embed_patches(views.x_blt), split.keep_bk())
        said_brsp = self.decoder(seen_bkd, split)
        with torch.autocast(said_brsp.device.type, enabled=False):
            loss = masked_mse(said_brsp.float(), pick(patches_brsp, split.hidden_brs).float()).mean()
        return LossTerms(loss, {"masked_mse": loss.detach()}, seen_bkd.detach().mean(dim=1)[None])


def build(settings: Settings, backbone: Backbone) -> Mae:
    """Make the objective; raises ConfigError if the backbone has no patches to take away."""
    if not isinstance(backbone, Vit1d):
        raise ConfigError(
            "mae needs a backbone whose patches can be left out",
            got=type(backbone).__name__,
            fix="use the backbone vit1d",
        )
    return Mae(settings, backbone)
