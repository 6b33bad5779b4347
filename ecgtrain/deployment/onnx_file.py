"""A model as one ONNX file: windows of conditioned millivolts in, scores out, for programs without Python or torch.

What an ingest does to a recording (leads by name, filters, the new rate) is not in the file; normalisation is. A
record's score is the mean over its windows.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from ecgstore import ConfigError
from ecgstore.inner import need
from ecgtrain.deployment.model import Model
from ecgtrain.views.normalise import Millivolts, NormaliseMode, normalise
from ecgtrain.views.passport import Passport

NAME = "model.onnx"
#: What the file calls what goes in and what comes out: float32 (batch, leads, samples), and (batch, classes).
INPUT, OUTPUT = "signal_mv", "score"


class OnMillivolts(nn.Module):
    """Windows of conditioned mV (batch, leads, samples), NaN where nothing was recorded → scores (batch, classes)."""

    mean_l: Tensor
    std_l: Tensor

    def __init__(self, scorer: nn.Module, passport: Passport) -> None:
        super().__init__()
        self.scorer = scorer
        self.mode: NormaliseMode = passport.normalisation.mode
        statistics = passport.normalisation.vectors(passport.leads)
        self.has_statistics = statistics is not None
        mean_l, std_l = statistics or (torch.zeros(0), torch.ones(0))
        self.register_buffer("mean_l", mean_l)
        self.register_buffer("std_l", std_l)

    def forward(self, signal_mv_blt: Tensor) -> Tensor:
        """The scores of each window."""
        recorded_blt = ~torch.isnan(signal_mv_blt)
        x_blt = torch.where(recorded_blt, signal_mv_blt, torch.zeros_like(signal_mv_blt))
        statistics = (self.mean_l, self.std_l) if self.has_statistics else None
        scores_bc: Tensor = self.scorer(normalise(Millivolts(x_blt, recorded_blt), self.mode, statistics))
        return scores_bc


def on_millivolts(model: Model) -> OnMillivolts:
    """The whole model as one network; raises MissingExtra, and ConfigError where its head is no network."""
    for package in ("onnx", "onnxscript"):
        need(package, "onnx")
    return as_network(model)


def as_network(model: Model) -> OnMillivolts:
    """The model as a network, in evaluation mode; raises ConfigError where its head is none, as that of knn."""
    scorer = model.fitted.scorer(model.trained)
    if scorer is None:
        raise ConfigError(
            f"a head of the protocol {model.head.protocol} can't be written as ONNX: it is no network",
            where=model.answer,
            fix="leave --onnx out, or ask the question by another protocol",
        )
    return OnMillivolts(scorer, model.passport).eval()


def example(model: Model) -> Tensor:
    """Two windows of nothing, float32 (2, leads, samples): what a graph is traced with."""
    return torch.zeros(2, len(model.passport.leads), model.head.window_samples)


def write_onnx(network: OnMillivolts, model: Model, folder: Path) -> Path:
    """Write ``folder/model.onnx``, for any number of windows; raises ConfigError where the network can't be told so."""
    path = folder / NAME
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network,
                (example(model),),
                path,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes={"signal_mv_blt": {0: torch.export.Dim("batch")}},
                external_data=False,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # the exporter raises many kinds; each means that it can't write this network
        got = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ConfigError("the model can't be written as ONNX", where=path.name, got=got) from error
    return path
