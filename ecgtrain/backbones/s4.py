"""An encoder per time step and diagonal state-space layers (S4D) over it: the network of CPC+S4 and of ECG-CPC.

Sources: Mehari & Strodthoff, IEEE J. Biomed. Health Inform. 27(11) (2023), arXiv 2308.15291: the encoder of their CPC,
4 state-space layers of 512 features and state 8, dropout 0.2, LayerNorm after the sum, gated linear units, mean
pooling. Al-Masud, Lopez Alcaraz & Strodthoff, arXiv 2509.25095 (ECG-CPC): kernels 3, 1, 1, 1 and strides 2, 1, 1, 1.
Both have S4, whose state matrix is diagonal plus low rank. This is **S4D (diagonal)** instead: Gu, Gupta, Goel & Ré,
"On the Parameterization and Initialization of Diagonal State Space Models", arXiv 2206.11893. Each feature u of a
layer goes through a linear system of its own, with one step dt, started at S4D-Lin: A[n] = -1/2 + i pi n, B = 1::

    x' = A x + B u                   held between samples:  x[t] = exp(dt A) x[t-1] + (exp(dt A) - 1) / A u[t]
    y[t] = 2 Re(sum over n of C[n] x[t, n]) + D u[t]
         = sum over s <= t of K[t-s] u[s] + D u[t],         K[l] = 2 Re(sum over n of C[n] (exp(dt A[n]) - 1) / A[n]
                                                                                                exp(dt A[n])**l)
"""

from __future__ import annotations

import math
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

import ecgstore
from ecgtrain.backbones import Backbone
from ecgtrain.backbones.layers.encoder import Encoder, EncoderLayers
from ecgtrain.backbones.layers.features import Features, pool
from ecgtrain.backbones.layers.sizes import Depth, Width

DESCRIPTION = "an encoder per time step under diagonal state-space layers (S4D), causal by default; features are means"

#: Steps that a fresh layer's features begin with, log-uniform between these; one unit is one token.
_DT = (0.001, 0.1)


class Settings(ecgstore.Settings):
    """The defaults are the published sizes, with a diagonal state matrix instead of the published S4's.

    ``encoder``: what turns samples into latents. ``width``: features of each layer. ``layers``: how many there are.
    ``state`` counts real numbers per feature: half as many complex pairs. ``dropout`` takes features away for all
    time steps alike. ``bidirectional`` lets a token see what comes after it, for supervised use; such a network has
    no contexts that CPC could predict from.
    """

    name: Literal["s4"] = "s4"
    encoder: Encoder = Encoder()
    width: Width = 512
    layers: Depth = 4
    state: Width = 8
    dropout: float = Field(0.2, ge=0, lt=1)
    bidirectional: bool = False

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        if self.state % 2:
            raise ValueError(f"state must be even (complex pairs), not {self.state}")
        return self


class StateSpace(nn.Module):
    """A linear system per feature, as a convolution of (batch, features, tokens)."""

    def __init__(self, width: int, state: int, *, bidirectional: bool) -> None:
        super().__init__()
        n_pairs = state // 2
        low, high = (math.log(dt) for dt in _DT)
        self.log_dt = nn.Parameter(torch.empty(width).uniform_(low, high))
        self.log_decay = nn.Parameter(torch.full((width, n_pairs), math.log(0.5)))
        self.frequency = nn.Parameter((math.pi * torch.arange(n_pairs)).expand(width, -1).clone())
        # Complex, of unit variance; stored as pairs of real numbers, which every optimiser takes.
        n_ways = 2 if bidirectional else 1
        self.c = nn.Parameter(torch.randn(n_ways, width, n_pairs, 2) * math.sqrt(0.5))
        self.skip = nn.Parameter(torch.randn(width))

    def kernel(self, n_tokens: int) -> Tensor:
        """K of the formula: (ways, features, tokens)."""
        if torch.compiler.is_exporting():
            return self._kernel_in_real_numbers(n_tokens)
        a = torch.complex(-self.log_decay.exp(), self.frequency)
        dt_a = a * self.log_dt.exp()[:, None]
        held = torch.view_as_complex(self.c) * (dt_a.exp() - 1) / a
        # exp(dt A)**l, l = i n + j, as a product of two: far fewer powers than tokens.
        n = max(math.isqrt(n_tokens), 1)
        rows = -(-n_tokens // n)
        lags = torch.arange(max(n, rows), device=a.device, dtype=self.log_dt.dtype)
        coarse, fine = (dt_a[..., None] * (n * lags[:rows])).exp(), (dt_a[..., None] * lags[:n]).exp()
        sums = torch.einsum("wdni,dnj->wdij", held[..., None] * coarse, fine)
        k_wds: Tensor = 2 * sums.real.flatten(2)[..., :n_tokens]
        return k_wds

    def _kernel_in_real_numbers(self, n_tokens: int) -> Tensor:
        """The same, up to rounding, for ONNX, which has no functions of complex numbers."""
        dt = self.log_dt.exp()[:, None]
        decay, turn = -self.log_decay.exp() * dt, self.frequency * dt  # dt A
        above_re, above_im = decay.exp() * turn.cos() - 1, decay.exp() * turn.sin()  # exp(dt A) - 1
        size = (decay.square() + turn.square()) / dt
        held_re, held_im = (above_re * decay + above_im * turn) / size, (above_im * decay - above_re * turn) / size
        c_re, c_im = self.c.unbind(-1)
        re, im = c_re * held_re - c_im * held_im, c_re * held_im + c_im * held_re
        lags = torch.arange(n_tokens, device=dt.device, dtype=dt.dtype)
        size_s, turn_s = (decay[..., None] * lags).exp(), turn[..., None] * lags
        cosines = torch.einsum("wdn,dns->wds", re, size_s * turn_s.cos())
        return 2 * (cosines - torch.einsum("wdn,dns->wds", im, size_s * turn_s.sin()))

    def forward(self, u_bds: Tensor) -> Tensor:
        """y of the formula; both ways, the second kernel adds what comes after a token."""
        n_tokens = u_bds.shape[2]
        # In the weights' own precision: there is no transform in bfloat16, and the kernels need their digits.
        with torch.autocast(u_bds.device.type, enabled=False):
            u = u_bds.to(self.log_dt.dtype)
            ways = self.kernel(n_tokens)
            # A circle twice as long as the window: nothing comes round, so that no token sees a later one.
            kernel = F.pad(ways[0], (0, n_tokens))
            if len(ways) == 2:
                kernel = kernel + F.pad(ways[1].flip(-1), (n_tokens, 0))
            # A compiler makes the gradient itself, and takes no such function (torch 2.13).
            traced = torch.compiler.is_compiling() or torch.compiler.is_exporting()
            convolve = _convolved if traced else _Convolution.apply
            y: Tensor = convolve(u, kernel)
            return y + self.skip[:, None] * u


def _convolved(u_bds: Tensor, kernel_dr: Tensor) -> Tensor:
    """u with each feature's kernel around a circle of as many tokens as the kernel has: the first tokens of it."""
    spectrum = torch.fft.rfft(u_bds, n=kernel_dr.shape[1]) * torch.fft.rfft(kernel_dr)
    y: Tensor = torch.fft.irfft(spectrum, n=kernel_dr.shape[1])[..., : u_bds.shape[2]]
    return y


class _Convolution(torch.autograd.Function):
    """:func:`_convolved`, whose gradient is made of real transforms, too, and of one for the kernels of a batch.

    torch's own takes complex ones of all windows: a third more time for both.
    """

    @staticmethod
    def forward(ctx: Any, u_bds: Tensor, kernel_dr: Tensor) -> Tensor:
        n_round, n_tokens = kernel_dr.shape[1], u_bds.shape[2]
        of_u, of_kernel = torch.fft.rfft(u_bds, n=n_round), torch.fft.rfft(kernel_dr)
        ctx.save_for_backward(of_u, of_kernel)
        ctx.n_round = n_round
        y_bds: Tensor = torch.fft.irfft(of_u * of_kernel, n=n_round)[..., :n_tokens]
        return y_bds

    @staticmethod
    def backward(ctx: Any, gradient_bds: Tensor) -> tuple[Tensor, Tensor]:
        of_u, of_kernel = ctx.saved_tensors
        n_round, n_tokens = ctx.n_round, gradient_bds.shape[2]
        asked = torch.fft.rfft(gradient_bds, n=n_round)
        for_u = torch.fft.irfft(asked * of_kernel.conj(), n=n_round)[..., :n_tokens]
        return for_u, torch.fft.irfft((asked * of_u.conj()).sum(dim=0), n=n_round)


class StateLayer(nn.Module):
    """State space, GELU, gated mixing of features; added to the input and normalised."""

    def __init__(self, width: int, state: int, dropout: float, *, bidirectional: bool) -> None:
        super().__init__()
        self.states = StateSpace(width, state, bidirectional=bidirectional)
        self.mix = nn.Linear(width, 2 * width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout1d(dropout)

    def forward(self, x_bsd: Tensor) -> Tensor:
        """Tokens (batch, tokens, features) to as many tokens."""
        y_bds = self.dropout(F.gelu(self.states(x_bsd.transpose(1, 2))))
        z_bds = self.dropout(F.glu(self.mix(y_bds.transpose(1, 2)), dim=2).transpose(1, 2))
        out: Tensor = self.norm(x_bsd + z_bds.transpose(1, 2))
        return out


class S4(Backbone):
    """``encode`` gives latents; tokens are what the state-space layers make of them."""

    def __init__(self, settings: Settings, n_leads: int) -> None:
        super().__init__()
        self.n_leads = n_leads
        self.latent_width = settings.encoder.width
        self.width = self.pooled_width = settings.width
        self.encoder = EncoderLayers(settings.encoder, n_leads)
        same = settings.encoder.width == settings.width
        self.entry = nn.Identity() if same else nn.Linear(settings.encoder.width, settings.width)
        self.layers = nn.Sequential(
            *(
                StateLayer(settings.width, settings.state, settings.dropout, bidirectional=settings.bidirectional)
                for _ in range(settings.layers)
            )
        )

    def n_tokens(self, n_samples: int) -> int:
        """Latents of a window of ``n_samples``."""
        return self.encoder.n_latents(n_samples)

    def encode(self, x_blt: Tensor) -> Tensor:
        """Latents (batch, tokens, ``latent_width``) of windows (batch, leads, samples)."""
        return self.encoder.latents(x_blt)

    def forward(self, x_blt: Tensor) -> Features:
        """Tokens, and their mean."""
        tokens_bsd = self.layers(self.entry(self.encode(x_blt)))
        return Features(tokens_bsd, pool(tokens_bsd, "mean"))

    def networks(self) -> list[nn.Module]:
        """Encoder and state-space layers, which methods call one after the other."""
        return [self.encoder, self.layers]

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """The state-space layers, then the encoder."""
        return [[*self.layers.parameters(), *self.entry.parameters()], list(self.encoder.parameters())]


class CausalS4(S4):
    """``context`` summarises latents causally: context s has seen latents 0 … s."""

    def context(self, latents_bsd: Tensor) -> Tensor:
        """Contexts (batch, tokens, ``width``), each of its own and all earlier latents."""
        contexts: Tensor = self.layers(self.entry(latents_bsd))
        return contexts


def build(settings: Settings, n_leads: int) -> S4:
    """Make the network with fresh weights from torch's generator; one that sees both ways has no ``context``."""
    return S4(settings, n_leads) if settings.bidirectional else CausalS4(settings, n_leads)
