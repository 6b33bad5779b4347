"""A transformer over patches of single leads, or of all leads together, whose tokens can be left out.

Sources: Na et al., "Guiding Masked Representation Learning to Capture Spatio-Temporal Relationship of
Electrocardiogram" (ST-MEM), arXiv 2402.09450: patches of one lead, embedded by LayerNorm, Linear and LayerNorm; a
fixed code of time, a learned one per lead, a shared token at both ends of each lead; ViT-B over the tokens of all
leads. Kim, "Learning General Representation of 12-Lead Electrocardiogram with a Joint-Embedding Predictive
Architecture", arXiv 2410.08559: attention within a token's lead or instant only. Weimann & Conrad, arXiv 2410.13867:
patches of all leads together, a register, no biases. The transformer: Vaswani et al. 2017, with normalisation before
each part (Xiong et al. 2020); stochastic depth: Huang et al. 2016.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn

import ecgstore
from ecgtrain.backbones import Backbone
from ecgtrain.backbones.layers.features import Features, pool
from ecgtrain.backbones.layers.sizes import Depth, Width
from ecgtrain.backbones.layers.transformer import EPS, Shape, Transformer, divides, fresh, learned, time_code

DESCRIPTION = "a transformer over patches of each lead (or of all leads together); features are means of tokens"

_SIZES = {"tiny": Shape(192, 12, 3), "small": Shape(384, 12, 6), "base": Shape(768, 12, 12)}


class Settings(ecgstore.Settings):
    """The defaults are ST-MEM's; ``patch_samples`` 75 is 0.3 s at its 250 Hz.

    ``size`` gives ``width`` (features of a token), ``depth`` (blocks) and ``heads`` (of each attention); each can be
    set by itself. ``joint_leads``: a patch is of all leads (no
    code of leads then). ``patch_norm``: LayerNorm before and after the patch embedding. ``sep``: a token at both
    ends of each lead. ``registers``: tokens that stand for nothing. ``attention: cross``: a token sees its own lead
    and its own instant only. ``bias``: of all linear maps and normalisations; ``qkv_bias``: of attention's inputs.
    ``drop_path``: how often a window skips the last block in training; for blocks before it less, linearly.
    """

    name: Literal["vit1d"] = "vit1d"
    size: Literal["tiny", "small", "base"] = "base"
    width: Width | None = None
    depth: Depth | None = None
    heads: Width | None = None
    patch_samples: PositiveInt = 75
    joint_leads: bool = False
    patch_norm: bool = True
    sep: bool = True
    registers: NonNegativeInt = 0
    attention: Literal["all", "cross"] = "all"
    bias: bool = True
    qkv_bias: bool = True
    drop_path: float = Field(0.0, ge=0, lt=1)

    @property
    def shape(self) -> Shape:
        """Width, depth and heads, as set or as ``size`` has them."""
        preset = _SIZES[self.size]
        return Shape(self.width or preset.width, self.depth or preset.depth, self.heads or preset.heads)

    @model_validator(mode="after")
    def _heads(self) -> Self:
        divides(self.shape.width, self.shape.heads)
        return self


class Vit1d(Backbone):
    """Tokens stand row after row, a row being a lead (or all leads together), each in order of time.

    A window that isn't a whole number of patches is continued with zeros; a lead that was not recorded is a row of
    zeros like any other.
    """

    def __init__(self, settings: Settings, n_leads: int) -> None:
        super().__init__()
        shape = settings.shape
        self.n_leads = n_leads
        self.width = self.pooled_width = shape.width
        self.n_rows = 1 if settings.joint_leads else n_leads
        #: Numbers of a patch: samples, times leads if it is of all of them.
        self.patch_width = settings.patch_samples * (n_leads if settings.joint_leads else 1)
        self.patch_samples, self._cross = settings.patch_samples, settings.attention == "cross"
        linear = nn.Linear(self.patch_width, shape.width, bias=settings.bias)
        self.embedding: nn.Module = linear
        if settings.patch_norm:
            before, after = (nn.LayerNorm(n, EPS, bias=settings.bias) for n in (self.patch_width, shape.width))
            self.embedding = nn.Sequential(before, linear, after)
        fresh(linear)
        self.lead_code = None if settings.joint_leads else learned(n_leads, shape.width)
        self.sep = learned(1, shape.width) if settings.sep else None
        self.registers = learned(settings.registers, shape.width) if settings.registers else None
        self.transformer = Transformer(
            shape, bias=settings.bias, qkv_bias=settings.qkv_bias, drop_path=settings.drop_path
        )

    def n_patches(self, n_samples: int) -> int:
        """Patches of a row, of a window of ``n_samples``; the last may be filled up with zeros."""
        return -(-n_samples // self.patch_samples)

    def n_tokens(self, n_samples: int) -> int:
        """Tokens of a window of ``n_samples``."""
        return self.n_rows * self.n_patches(n_samples)

    def patches(self, x_blt: Tensor) -> Tensor:
        """Cut (batch, leads, samples) into (batch, rows, patches, ``patch_width``), all leads of a patch in turn."""
        n_windows, n_leads, n_samples = x_blt.shape
        n_patches = self.n_patches(n_samples)
        filled_blt = F.pad(x_blt, (0, n_patches * self.patch_samples - n_samples))
        cut = filled_blt.reshape(n_windows, n_leads, n_patches, self.patch_samples)
        if self.n_rows == n_leads:
            return cut
        return cut.transpose(1, 2).reshape(n_windows, 1, n_patches, self.patch_width)

    def embed_patches(self, x_blt: Tensor) -> Tensor:
        """Tokens (batch, tokens, width) that have not looked at each other, each knowing its time and its lead."""
        tokens_brsd: Tensor = self.embedding(self.patches(x_blt))
        places_s = torch.arange(1, tokens_brsd.shape[2] + 1, device=x_blt.device)
        tokens_brsd = tokens_brsd + time_code(places_s, self.width)
        if self.lead_code is not None:
            tokens_brsd = tokens_brsd + self.lead_code[:, None]
        return tokens_brsd.flatten(1, 2)

    def encode_tokens(self, tokens_bsd: Tensor, keep_bk: Tensor | None = None) -> Tensor:
        """Let tokens of :meth:`embed_patches` look at each other: (batch, tokens, width).

        ``keep_bk``: int64, numbers of the tokens that are there at all; all of them by default. What comes out are
        theirs, in that order.
        """
        n_windows, n_all, _ = tokens_bsd.shape
        n_patches = n_all // self.n_rows
        if keep_bk is None:
            numbers_bs = torch.arange(n_all, device=tokens_bsd.device)[None]
        else:
            numbers_bs = keep_bk
            tokens_bsd = tokens_bsd.take_along_dim(keep_bk[..., None], dim=1)
        added_sd, row_s, place_s = self._added(n_patches, tokens_bsd.device)
        joined = torch.cat([added_sd.to(tokens_bsd.dtype).expand(n_windows, -1, -1), tokens_bsd], dim=1)
        allowed = None
        if self._cross:
            allowed = _same_lead_or_instant(
                torch.cat([row_s.expand(len(numbers_bs), -1), numbers_bs // n_patches], dim=1),
                torch.cat([place_s.expand(len(numbers_bs), -1), numbers_bs % n_patches], dim=1),
            )
        encoded: Tensor = self.transformer(joined, allowed)
        return encoded[:, len(row_s) :, :]

    def _added(self, n_patches: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens that stand for no patch; the row (-1: all) and the place of each."""
        n_registers = 0 if self.registers is None else len(self.registers)
        tokens: list[Tensor] = [] if self.registers is None else [self.registers]
        rows = [torch.full((n_registers,), -1, device=device)]
        places = rows.copy()
        if self.sep is not None:
            for place in (-1, n_patches):
                place_s = torch.full((self.n_rows,), place, device=device)
                end_sd = self.sep + time_code(place_s + 1, self.width)
                tokens.append(end_sd if self.lead_code is None else end_sd + self.lead_code)
                rows.append(torch.arange(self.n_rows, device=device))
                places.append(place_s)
        added_sd = torch.cat(tokens) if tokens else torch.empty(0, self.width, device=device)
        return added_sd, torch.cat(rows), torch.cat(places)

    def forward(self, x_blt: Tensor) -> Features:
        """Tokens of all patches, and their mean."""
        tokens_bsd = self.encode_tokens(self.embed_patches(x_blt))
        return Features(tokens_bsd, pool(tokens_bsd, "mean"))

    def networks(self) -> list[nn.Module]:
        """The embedding of patches and the transformer: between the two, methods take tokens away."""
        return [self.embedding, self.transformer]

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Each block by itself from the last on (with the normalisation after it), then all that comes before."""
        blocks = [list(block.parameters()) for block in reversed(self.transformer.blocks)]
        blocks[0] += self.transformer.norm.parameters()
        above = {id(parameter) for block in blocks for parameter in block}
        return [*blocks, [parameter for parameter in self.parameters() if id(parameter) not in above]]


def _same_lead_or_instant(row_bs: Tensor, place_bs: Tensor) -> Tensor:
    """Who may look at whom: (batch, 1, tokens, tokens). A row of -1 looks at all, and is looked at by all."""
    same = (row_bs[:, :, None] == row_bs[:, None]) | (place_bs[:, :, None] == place_bs[:, None])
    whole = row_bs == -1
    return (same | whole[:, :, None] | whole[:, None])[:, None]


def build(settings: Settings, n_leads: int) -> Vit1d:
    """Make the network with fresh weights from torch's generator."""
    return Vit1d(settings, n_leads)
