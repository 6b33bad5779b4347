"""The network of Mehari & Strodthoff (2022) for CPC: an encoder per time step and a causal LSTM over it.

Source: Computers in Biology and Medicine 141, 105114; arXiv 2103.12676, "4FC+2LSTM".
With the defaults and 12 leads: encoder 796,672 parameters, LSTM 4,202,496.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

import ecgstore
from ecgtrain.backbones import Backbone
from ecgtrain.backbones.layers.encoder import Encoder, EncoderLayers
from ecgtrain.backbones.layers.features import Features, pool
from ecgtrain.backbones.layers.sizes import Depth, Width

DESCRIPTION = "four 1x1 convolutions (one latent per sample) under a two-layer LSTM; features are mean, max and last"


class Settings(ecgstore.Settings):
    """The defaults are the published network.

    ``encoder``: what turns samples into latents. ``lstm_width``: features of each layer of the LSTM. ``lstm_layers``:
    how many there are.
    """

    name: Literal["cpc_lstm"] = "cpc_lstm"
    encoder: Encoder = Encoder()
    lstm_width: Width = 512
    lstm_layers: Depth = 2


class CpcLstm(Backbone):
    """``encode`` gives latents, ``context`` summarises them causally: context s has seen latents 0 … s."""

    def __init__(self, settings: Settings, n_leads: int) -> None:
        super().__init__()
        self.n_leads = n_leads
        self.latent_width = settings.encoder.width
        self.width = settings.lstm_width
        self.pooled_width = 3 * settings.lstm_width
        self.encoder = EncoderLayers(settings.encoder, n_leads)
        self.lstm = nn.LSTM(settings.encoder.width, settings.lstm_width, settings.lstm_layers, batch_first=True)

    def n_tokens(self, n_samples: int) -> int:
        """Latents of a window of ``n_samples``."""
        return self.encoder.n_latents(n_samples)

    def encode(self, x_blt: Tensor) -> Tensor:
        """Latents (batch, tokens, ``latent_width``) of windows (batch, leads, samples)."""
        return self.encoder.latents(x_blt)

    def context(self, latents_bsd: Tensor) -> Tensor:
        """Contexts (batch, tokens, ``width``), each of its own and all earlier latents."""
        device = latents_bsd.device.type
        within = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        contexts: Tensor
        if within == torch.bfloat16:
            # Autocast would run it in float16 on a GPU, whatever was asked for, and nobody scales the loss of bfloat16.
            with torch.autocast(device, enabled=False):
                contexts = self.lstm(latents_bsd.float())[0]
        elif within == torch.float16 and device == "cuda":
            contexts = layer_by_layer(self.lstm, latents_bsd)
        else:
            contexts = self.lstm(latents_bsd)[0]
        return contexts

    def forward(self, x_blt: Tensor) -> Features:
        """Contexts as tokens, pooled by mean, max and last as the paper's classifiers do."""
        tokens_bsd = self.context(self.encode(x_blt))
        return Features(tokens_bsd, pool(tokens_bsd, "mean_max_last"))

    def networks(self) -> list[nn.Module]:
        """The encoder: a recurrent layer is one call into the GPU's own library, of which no graph is made."""
        return [self.encoder]

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """The LSTM, then the encoder, as the paper's second stage of fine-tuning has them."""
        return [list(self.lstm.parameters()), list(self.encoder.parameters())]


def layer_by_layer(lstm: nn.LSTM, x_bsd: Tensor) -> Tensor:
    """Outputs (batch, tokens, width) of a stack's top layer, as ``lstm`` itself gives them.

    A GPU's own library keeps the weights of a layer on the chip from one time step to the next, but only in float16,
    only in small batches, and only where it is asked for a single layer: at 32 windows of 1,000 samples an H200 takes
    20 ms for what takes it 79 ms as one call of two layers, and 92 ms in float32.
    """
    for layer in range(lstm.num_layers):
        weights = [getattr(lstm, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        nothing = x_bsd.new_zeros(1, len(x_bsd), lstm.hidden_size)
        x_bsd = torch.lstm(x_bsd, (nothing, nothing), weights, True, 1, 0.0, lstm.training, False, True)[0]
    return x_bsd


def build(settings: Settings, n_leads: int) -> CpcLstm:
    """Make the network with fresh weights from torch's generator."""
    return CpcLstm(settings, n_leads)
