"""One small network for every lead by itself, then a transformer that is told the time of a token but not its lead.

A reconstruction, inspired by Ran & Liu, "Joint spatio-temporal features constrained self-supervised
electrocardiogram representation learning", Biomed. Eng. Lett. 14(2):209-220 (2024): their network is not known to us,
and no number here is theirs. The transformer is that of :mod:`ecgtrain.backbones.vit1d`.

Leads that change their places change the places of their tokens, and nothing else (permutation equivariance). So any
number of leads can be taken, in any order, and what a lead is can be told from its signal only.

With the defaults: 4,064,064 parameters, whatever the leads; for 12 leads the decoder has 140,308, the lead head 3,084.
"""

from __future__ import annotations

import math
from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

import ecgstore
from ecgtrain.backbones import Backbone
from ecgtrain.backbones.layers.features import Features
from ecgtrain.backbones.layers.residual import ResidualBlock, filled, mean_and_max, stem
from ecgtrain.backbones.layers.sizes import Depth, Width
from ecgtrain.backbones.layers.transformer import Shape, Transformer, divides, fresh, time_code

DESCRIPTION = "a transformer over patches of each lead that doesn't know which lead is which; any leads in any order"


class Settings(ecgstore.Settings):
    """The defaults are a reconstruction, for 100 Hz.

    ``strides``: of the stem and of each residual block after it; together the samples of a patch, 20 (200 ms at
    100 Hz). Features double from layer to layer, up to ``width``. ``depth``: blocks of the transformer; ``heads``: of
    each attention.
    """

    name: Literal["lead_transformer"] = "lead_transformer"
    width: Width = 256
    depth: Depth = 4
    heads: Width = 8
    strides: tuple[PositiveInt, ...] = Field(default=(5, 2, 2), min_length=1)

    @model_validator(mode="after")
    def _widths(self) -> Self:
        divides(self.width, self.heads)
        if self.width % 2 ** (len(self.strides) - 1):
            raise ValueError(f"width {self.width} can't be halved {len(self.strides) - 1} times, once for each stride")
        return self


class LeadTransformer(Backbone):
    """Tokens stand lead after lead, each in order of time; as many leads come out as go in.

    A window that isn't a whole number of patches is continued with zeros. ``n_leads`` is the number of leads that are
    told from each other; a window may have fewer or more.
    """

    #: Whatever stands at a place, a place has no meaning: nothing can be guessed from it.
    places_known = False

    def __init__(self, settings: Settings, n_leads: int) -> None:
        super().__init__()
        self.n_leads = n_leads
        self.width, self.pooled_width = settings.width, 2 * settings.width
        self._heads, self.patch_samples = settings.heads, math.prod(settings.strides)
        widths = [settings.width >> halvings for halvings in reversed(range(len(settings.strides)))]
        blocks = zip(widths, widths[1:], settings.strides[1:], strict=False)
        self.lead_network = nn.Sequential(
            stem(1, widths[0], settings.strides[0]), *(ResidualBlock(*sizes) for sizes in blocks)
        )
        self.transformer = Transformer(Shape(settings.width, settings.depth, settings.heads))

    def n_patches(self, n_samples: int) -> int:
        """Patches of a lead, of a window of ``n_samples``; the last may be filled up with zeros."""
        return -(-n_samples // self.patch_samples)

    def n_tokens(self, n_samples: int) -> int:
        """Tokens of a window of ``n_leads`` leads and ``n_samples``."""
        return self.n_leads * self.n_patches(n_samples)

    def forward(self, x_blt: Tensor) -> Features:
        """Tokens of all patches of all leads, and their mean and maximum."""
        rows_bl1t = filled(x_blt, self.patch_samples).flatten(0, 1)[:, None]
        patches_rsd = self.lead_network(rows_bl1t).transpose(1, 2)
        time_sd = time_code(torch.arange(patches_rsd.shape[1], device=x_blt.device), self.width)
        tokens_bsd = self.transformer((patches_rsd + time_sd).reshape(x_blt.shape[0], -1, self.width))
        return Features(tokens_bsd, mean_and_max(tokens_bsd))

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Each block by itself from the last on (with the normalisation after it), then the network of a lead."""
        blocks = [list(block.parameters()) for block in reversed(self.transformer.blocks)]
        blocks[0] += self.transformer.norm.parameters()
        return [*blocks, list(self.lead_network.parameters())]

    def decoder(self, *, original_order: bool) -> nn.Module:
        """From features and a number of samples to (batch, leads, samples); fresh, and no part of the backbone.

        With ``original_order`` lead j comes out at place j, wherever it stood; else each lead where it stands.
        """
        seeker = _Seeker(self.width, self._heads, self.n_leads) if original_order else nn.Identity()
        return _Decoder(self.width, self.patch_samples, seeker)

    def lead_head(self) -> nn.Module:
        """From features to logits (batch, places, leads); fresh, and no part of the backbone."""
        return _LeadHead(self.width, self.n_leads, self.patch_samples)


class _Decoder(nn.Module):
    """One linear map from a token to the samples of its patch, of tokens as they are or as ``seeker`` finds them."""

    def __init__(self, width: int, patch_samples: int, seeker: nn.Module) -> None:
        super().__init__()
        self.seeker = seeker
        self.exit = nn.Linear(width, patch_samples)
        self._patch_samples = patch_samples
        self.exit.apply(fresh)

    def forward(self, features: Features, n_samples: int) -> Tensor:
        tokens_blsd = self.seeker(_by_lead(features.tokens_bsd, n_samples, self._patch_samples))
        said_blt: Tensor = self.exit(tokens_blsd).flatten(2)
        return said_blt[..., :n_samples]


class _Seeker(nn.Module):
    """Tokens of all leads in the original order, from those of any leads in any order: (batch, leads, patches, width).

    A learned query for each lead looks for it among the tokens of an instant, and is added to what it finds.
    """

    def __init__(self, width: int, heads: int, n_leads: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(n_leads, width) / math.sqrt(width))
        self.keys_values = nn.Linear(width, 2 * width)
        self.norm = nn.LayerNorm(width)
        self._heads = heads

    def forward(self, tokens_blsd: Tensor) -> Tensor:
        n_windows, _, n_patches, _ = tokens_blsd.shape
        n_asked = len(self.queries)
        sought = self.keys_values(tokens_blsd.transpose(1, 2))
        # Rows are instants of windows: (rows, 2, heads, leads, features of a head).
        sought = sought.view(n_windows * n_patches, -1, 2, self._heads, sought.shape[3] // 2 // self._heads)
        keys, values = sought.permute(2, 0, 3, 1, 4)
        queries = self.queries.to(keys.dtype).view(n_asked, self._heads, -1).transpose(0, 1)
        found = F.scaled_dot_product_attention(queries.expand(len(keys), -1, -1, -1), keys, values)
        found = found.transpose(1, 2).reshape(n_windows, n_patches, n_asked, -1)
        out: Tensor = self.norm(found + self.queries)
        return out.transpose(1, 2)


class _LeadHead(nn.Module):
    """One linear map from the mean token of a lead to which lead it is."""

    def __init__(self, width: int, n_leads: int, patch_samples: int) -> None:
        super().__init__()
        self.exit = nn.Linear(width, n_leads)
        self._patch_samples = patch_samples

    def forward(self, features: Features, n_samples: int) -> Tensor:
        logits: Tensor = self.exit(_by_lead(features.tokens_bsd, n_samples, self._patch_samples).mean(dim=2))
        return logits


def _by_lead(tokens_bsd: Tensor, n_samples: int, patch_samples: int) -> Tensor:
    """(batch, leads, patches, width)"""
    n_windows, _, width = tokens_bsd.shape
    return tokens_bsd.view(n_windows, -1, -(-n_samples // patch_samples), width)


def build(settings: Settings, n_leads: int) -> LeadTransformer:
    """Make the network with fresh weights from torch's generator."""
    return LeadTransformer(settings, n_leads)
