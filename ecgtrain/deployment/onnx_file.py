"""A model as one ONNX file: windows of conditioned millivolts in, scores out, for programs without Python or torch.

What an ingest does to a recording (leads by name, filters, the new rate) is not in the file; normalisation is. A
record's score is the mean over its windows.
"""

from __future__ import annotations

import copy
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ecgstore import ConfigError
from ecgstore.inner import need
from ecgtrain.deployment.model import Ensemble, Model
from ecgtrain.views.normalise import Millivolts, Normaliser
from ecgtrain.views.passport import Passport

NAME = "model.onnx"
#: What writes the file, and what reads it once before it gets its name.
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
#: Whatever a runtime's kernels make of the last digits.
_TOLERANCE = 1e-4
#: They tell their own developers of every step, through the root of all logging too.
_TALKATIVE = ("torch.onnx", "onnxscript", "onnx_ir")
#: What the file calls what goes in and what comes out: float32 (batch, leads, samples), and (batch, classes).
INPUT, OUTPUT = "signal_mv", "score"


class OnMillivolts(nn.Module):
    """Windows of conditioned mV (batch, leads, samples), NaN where nothing was recorded → scores (batch, classes)."""

    def __init__(self, scorer: nn.Module, passport: Passport, window_samples: int) -> None:
        super().__init__()
        self.scorer = scorer
        self.window_shape = (len(passport.leads), window_samples)
        self.normaliser = Normaliser(passport.normalisation, passport.leads)

    def forward(self, signal_mv_blt: Tensor) -> Tensor:
        """The scores of each window."""
        recorded_blt = ~torch.isnan(signal_mv_blt)
        x_blt = torch.where(recorded_blt, signal_mv_blt, torch.zeros_like(signal_mv_blt))
        scores_bc: Tensor = self.scorer(self.normaliser(Millivolts(x_blt, recorded_blt)))
        return scores_bc


class MeanOf(nn.Module):
    """The mean of what several networks say of the same windows."""

    def __init__(self, networks: Sequence[OnMillivolts]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.window_shape = networks[0].window_shape

    def forward(self, signal_mv_blt: Tensor) -> Tensor:
        """The scores of each window."""
        return torch.stack([network(signal_mv_blt) for network in self.networks]).mean(dim=0)


#: What can be written: a network on millivolts that knows the shape of its windows.
Whole = OnMillivolts | MeanOf


def on_millivolts(model: Model | Ensemble) -> Whole:
    """The whole model as one network; raises MissingExtra, and ConfigError where its head is no network."""
    for package in PACKAGES:
        need(package, "onnx")
    networks = [as_network(one) for one in model.models]
    return networks[0] if len(networks) == 1 else MeanOf(networks).eval()


def as_network(model: Model) -> OnMillivolts:
    """The model as a network, in evaluation mode; raises ConfigError where its head is none, as that of knn."""
    scorer = model.fitted.scorer(model.trained)
    if scorer is None:
        raise ConfigError(
            f"a head of the protocol {model.head.protocol} can't be written as ONNX: it is no network",
            where=model.answer,
            fix="leave --onnx out, or ask the question by another protocol",
        )
    return OnMillivolts(scorer, model.passport, model.head.window_samples).eval()


class RecurrentOfOnnx(nn.Module):
    """An LSTM as ONNX's own operator: torch would write a copy of its weights' products for every time step.

    It can be exported and not be run. (batch, tokens, features) → the same, as the first of a pair.
    """

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        self.hidden, self.layers = lstm.hidden_size, lstm.num_layers
        for layer in range(self.layers):
            taken = {name: getattr(lstm, f"{name}_l{layer}").detach() for name in ("weight_ih", "weight_hh")}
            taken["bias"] = torch.cat(
                [_reordered(getattr(lstm, f"bias_{way}_l{layer}").detach()) for way in ("ih", "hh")]
            )
            for name, value in taken.items():
                self.register_buffer(f"{name}_{layer}", (value if name == "bias" else _reordered(value))[None])

    def forward(self, x_bsd: Tensor) -> tuple[Tensor, None]:
        """Contexts."""
        x_sbd = x_bsd.transpose(0, 1)
        for layer in range(self.layers):
            weights = [getattr(self, f"{name}_{layer}") for name in ("weight_ih", "weight_hh", "bias")]
            y_swbd = torch.onnx.ops.symbolic(
                "LSTM",
                [x_sbd, *weights],
                {"hidden_size": self.hidden},
                dtype=x_sbd.dtype,
                shape=[x_sbd.shape[0], 1, x_sbd.shape[1], self.hidden],
            )
            x_sbd = y_swbd[:, 0]
        return x_sbd.transpose(0, 1), None


def _reordered(gates: Tensor) -> Tensor:
    """Gates in, forget, cell, out, as torch has them, in ONNX's order: in, out, forget, cell."""
    enter, forget, cell, out = gates.chunk(4)
    return torch.cat([enter, out, forget, cell])


def exportable(network: nn.Module) -> nn.Module:
    """A copy of ``network`` with its recurrent layers as ONNX has them; itself is left alone."""
    network = copy.deepcopy(network)
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.LSTM):
                if not child.batch_first or child.bidirectional or child.proj_size or not child.bias:
                    raise ConfigError("an LSTM of this kind can't be written as ONNX", got=child)
                setattr(module, name, RecurrentOfOnnx(child))
    return network


def write_onnx(network: Whole, folder: Path) -> Path:
    """Write ``folder/model.onnx``, for any number of windows, and ask it once.

    Raises ConfigError where the network can't be told so, or where a runtime makes something else of the file.
    """
    path = folder / NAME
    try:
        with _in_silence():
            torch.onnx.export(
                exportable(network),
                (torch.zeros(2, *network.window_shape),),
                path,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes={"signal_mv_blt": {0: torch.export.Dim("batch")}},
                external_data=False,
                dynamo=True,
                verbose=False,
            )
            apart = _farthest(network, path)
    except Exception as error:  # exporter and runtime raise many kinds; each means that it can't be written
        raise ConfigError("the model can't be written as ONNX", where=path.name, got=_cause(error)) from error
    if not apart < _TOLERANCE:
        raise ConfigError(
            "the ONNX file says something else than the model",
            where=path.name,
            expected=f"the same scores to {_TOLERANCE:g}",
            got=f"{apart:g} apart",
            fix="leave --onnx out, or take the versions of constraints.txt",
        )
    return path


def _farthest(network: Whole, path: Path) -> float:
    """How far scores of the file are from the network's at most, of three windows that nobody recorded.

    Relative to the scores where these are large, as a regression's may be. Part of a lead is not recorded.
    """
    import onnxruntime

    windows_blt = torch.randn(3, *network.window_shape, generator=torch.Generator().manual_seed(0))
    windows_blt[0, 0, : network.window_shape[1] // 2] = torch.nan
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (said_bc,) = session.run([OUTPUT], {INPUT: windows_blt.numpy()})
    with torch.no_grad():
        expected_bc = network(windows_blt).numpy()
    return float((np.abs(said_bc - expected_bc) / np.maximum(np.abs(expected_bc), 1)).max())


@contextmanager
def _in_silence() -> Iterator[None]:
    """Let nothing be said that is meant for the exporter's own developers."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _cause(error: BaseException) -> str:
    """What stands at the root of an error, in one line: the exporter wraps it in advice on how to report it."""
    while error.__cause__ is not None:
        error = error.__cause__
    said = re.sub("\x1b\\[[0-9;]*m", "", f"{type(error).__name__}: {error}")
    return " ".join(said.split())[:200]
