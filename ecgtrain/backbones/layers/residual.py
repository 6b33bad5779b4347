"""Residual blocks of convolutions over time (He et al., CVPR 2016), and what stands before and behind them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_STEM_KERNEL, KERNEL = 15, 7


class ResidualBlock(nn.Module):
    """Two convolutions of kernel 7 beside a shortcut: (batch, ``n_in``, samples) to ``n_out`` at samples / stride."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(n_in, n_out, KERNEL, stride, KERNEL // 2, bias=False)
        self.norm1 = nn.BatchNorm1d(n_out)
        self.conv2 = nn.Conv1d(n_out, n_out, KERNEL, 1, KERNEL // 2, bias=False)
        self.norm2 = nn.BatchNorm1d(n_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or n_in != n_out:
            self.shortcut = nn.Sequential(nn.Conv1d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm1d(n_out))

    def forward(self, x_bct: Tensor) -> Tensor:
        """Features at every ``stride``-th sample; the first of them stands at the first sample."""
        inner = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x_bct)))))
        return F.relu(inner + self.shortcut(x_bct))


def stem(n_in: int, n_out: int, stride: int) -> nn.Sequential:
    """Convolution of kernel 15 without bias, BatchNorm, ReLU."""
    conv = nn.Conv1d(n_in, n_out, _STEM_KERNEL, stride, _STEM_KERNEL // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm1d(n_out), nn.ReLU())


def filled(x_blt: Tensor, unit: int) -> Tensor:
    """Windows continued with zeros to a whole number of ``unit`` samples."""
    return F.pad(x_blt, (0, -x_blt.shape[2] % unit))


def mean_and_max(tokens_bsd: Tensor) -> Tensor:
    """Mean and maximum over the tokens: (batch, 2 x features)."""
    return torch.cat([tokens_bsd.mean(dim=1), tokens_bsd.amax(dim=1)], dim=1)
