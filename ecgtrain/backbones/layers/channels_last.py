"""Convolutions of tokens (batch, samples, channels): the channels of an instant stand side by side in memory.

On a processor BatchNorm, pooling and convolutions of few channels take half the time that way. torch brings
one-dimensional input back into channels by samples, so it is given images of one row.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def image(x_btc: Tensor) -> Tensor:
    """The same memory as an image of one row, (batch, channels, 1, samples), channels last."""
    return x_btc.transpose(1, 2).unsqueeze(2)


def tokens(x_bc1t: Tensor) -> Tensor:
    """An image of one row as tokens, without a copy where channels are last."""
    return x_bc1t.squeeze(2).transpose(1, 2)


def convolve(conv: nn.Conv1d, x_btc: Tensor) -> Tensor:
    """What ``conv`` makes of tokens."""
    kernel, stride, padding = conv.kernel_size[0], conv.stride[0], conv.padding[0]
    if kernel == stride == 1 and not padding:
        return F.linear(x_btc, conv.weight[:, :, 0], conv.bias)
    if conv.in_channels == 1:
        # Of one channel torch can't tell which way it lies, and would give channels first.
        seen_btk = F.pad(x_btc, (0, 0, int(padding), int(padding))).unfold(1, kernel, stride).flatten(2)
        return F.linear(seen_btk, conv.weight.flatten(1), conv.bias)
    return tokens(F.conv2d(image(x_btc), conv.weight[:, :, None], conv.bias, (1, stride), (0, int(padding))))


def normalise(norm: nn.Module, x_btc: Tensor, *, rectify: bool) -> Tensor:
    """What a BatchNorm of one dimension makes of tokens, and a ReLU behind it if they are to be rectified."""
    flat = norm(x_btc.flatten(0, 1))
    if rectify:
        # In place, and before anything looks at it in another shape: that would copy its gradient back and forth.
        flat = F.relu(flat, inplace=True)
    out: Tensor = flat.view(x_btc.shape)
    return out
