"""A transformer over tokens, some of which can be left out; a decoder over rows of them.

Sources: Vaswani et al. 2017, with normalisation before each part (Xiong et al. 2020); stochastic depth: Huang et al.
2016; tokens left out: He et al., CVPR 2022.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6
#: Spread of fresh weights.
_STD = 0.02


class Shape(NamedTuple):
    """The size of a transformer: features of a token, blocks, heads of each attention."""

    width: int
    depth: int
    heads: int


def divides(width: int, heads: int) -> None:
    """Raise ValueError if a transformer can't be that wide with so many heads."""
    if width % heads or width % 2:
        raise ValueError(f"width must be even and a multiple of heads, not {width} of {heads}")


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, *, bias: bool, qkv_bias: bool, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, EPS, bias=bias)
        self.qkv = nn.Linear(width, 3 * width, bias=bias and qkv_bias)
        self.out = nn.Linear(width, width, bias=bias)
        self.norm2 = nn.LayerNorm(width, EPS, bias=bias)
        self.widen = nn.Linear(width, 4 * width, bias=bias)
        self.narrow = nn.Linear(4 * width, width, bias=bias)
        self._heads, self._drop_path = heads, drop_path

    def forward(self, x_bsd: Tensor, allowed: Tensor | None) -> Tensor:
        x_bsd = x_bsd + self._sometimes(self._attend(self.norm1(x_bsd), allowed))
        return x_bsd + self._sometimes(self.narrow(F.gelu(self.widen(self.norm2(x_bsd)))))

    def _attend(self, x_bsd: Tensor, allowed: Tensor | None) -> Tensor:
        n_windows, n_tokens, width = x_bsd.shape
        heads = self.qkv(x_bsd).view(n_windows, n_tokens, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], attn_mask=allowed)
        mixed: Tensor = self.out(seen.transpose(1, 2).reshape(n_windows, n_tokens, width))
        return mixed

    def _sometimes(self, x_bsd: Tensor) -> Tensor:
        if not self.training or self._drop_path == 0:
            return x_bsd
        stays_b = torch.rand(len(x_bsd), device=x_bsd.device) >= self._drop_path
        return x_bsd * (stays_b / (1 - self._drop_path)).to(x_bsd.dtype)[:, None, None]


class Transformer(nn.Module):
    """Blocks of attention and feed-forward, normalised at the end: (batch, tokens, width) to the same shape.

    ``allowed``: bool, (batch or 1, 1, tokens, tokens), which token may look (third axis) at which (fourth).
    """

    def __init__(self, shape: Shape, *, bias: bool = True, qkv_bias: bool = True, drop_path: float = 0.0) -> None:
        super().__init__()
        width, depth, heads = shape
        self.blocks = nn.ModuleList(
            _Block(width, heads, bias=bias, qkv_bias=qkv_bias, drop_path=drop_path * i / max(depth - 1, 1))
            for i in range(depth)
        )
        self.norm = nn.LayerNorm(width, EPS, bias=bias)
        self.apply(fresh)
        # Each block adds to the sum of those before it: what they add is scaled so that it stays of one size.
        for name, weight in self.named_parameters():
            if name.endswith(("out.weight", "narrow.weight")):
                weight.data.div_(math.sqrt(2 * depth))

    def forward(self, x_bsd: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Tokens that have looked at each other."""
        for block in self.blocks:
            x_bsd = block(x_bsd, allowed)
        out: Tensor = self.norm(x_bsd)
        return out


def fresh(module: nn.Module) -> None:
    """Draw the weights of a linear map anew: normal of spread 0.02, cut off at two; biases 0."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=_STD, a=-2 * _STD, b=2 * _STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def time_code(places_s: Tensor, width: int) -> Tensor:
    """Sines and cosines of ``places_s`` at wavelengths from 2 pi to 10,000 x 2 pi: (places, width), fixed."""
    steps = torch.arange(width // 2, device=places_s.device, dtype=torch.float32)
    angle_sd = places_s.to(torch.float32)[:, None] * torch.exp(steps * (-math.log(10_000.0) / (width // 2)))
    return torch.cat([angle_sd.sin(), angle_sd.cos()], dim=1)


class Split(NamedTuple):
    """Which patches of each row are seen and which are hidden: int64 (batch, rows, patches), in order of time.

    A row is a lead, or all leads together. All rows have as many patches seen.
    """

    seen_brs: Tensor
    hidden_brs: Tensor

    @classmethod
    def of(cls, hidden_brs: Tensor, n_hidden: int) -> Split:
        """From a mask, bool (batch, rows, patches), that is true ``n_hidden`` times in each row."""
        order_brs = hidden_brs.to(torch.uint8).argsort(dim=2, stable=True)
        n_seen = hidden_brs.shape[2] - n_hidden
        return cls(order_brs[..., :n_seen], order_brs[..., n_seen:])

    @property
    def n_patches(self) -> int:
        """Patches of a row."""
        return self.seen_brs.shape[2] + self.hidden_brs.shape[2]

    def keep_bk(self) -> Tensor:
        """Numbers of the tokens that are seen, as :meth:`Vit1d.encode_tokens` takes them."""
        rows = torch.arange(self.seen_brs.shape[1], device=self.seen_brs.device)
        return (self.seen_brs + (rows * self.n_patches)[:, None]).flatten(1)


def pick(x_brsd: Tensor, places_brs: Tensor) -> Tensor:
    """Of each row of (batch, rows, patches, features), the patches at ``places_brs``."""
    return x_brsd.take_along_dim(places_brs[..., None], dim=2)


class RowDecoder(nn.Module):
    """Says what is hidden from what is seen, one row (lead) at a time, by one narrow transformer for all of them."""

    def __init__(self, shape: Shape, n_in: int, n_out: int) -> None:
        super().__init__()
        self.entry = nn.Linear(n_in, shape.width)
        self.hidden = nn.Parameter(torch.empty(shape.width).normal_(std=_STD))
        self.transformer = Transformer(shape)
        self.exit = nn.Linear(shape.width, n_out)
        self._width = shape.width
        self.entry.apply(fresh)
        self.exit.apply(fresh)

    def forward(self, tokens_bkd: Tensor, split: Split) -> Tensor:
        """From tokens of what is seen, row after row, to (batch, rows, hidden patches, ``n_out``)."""
        n_windows, n_rows, n_seen = split.seen_brs.shape
        seen_brsd = self.entry(tokens_bkd).view(n_windows, n_rows, n_seen, self._width)
        all_brsd = self.hidden.to(seen_brsd.dtype).expand(n_windows, n_rows, split.n_patches, -1)
        all_brsd = all_brsd.scatter(2, split.seen_brs[..., None].expand_as(seen_brsd), seen_brsd)
        time_sd = time_code(torch.arange(1, split.n_patches + 1, device=tokens_bkd.device), self._width)
        decoded = self.transformer((all_brsd + time_sd).flatten(0, 1)).view(all_brsd.shape)
        out: Tensor = self.exit(pick(decoded, split.hidden_brs))
        return out


def learned(n: int, width: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(n, width).normal_(std=_STD))
