"""Heads on disk: what a protocol has fitted, as plain arrays and plain values; nothing is ever unpickled."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ecgstore import ConfigError, EcgError, occupants
from ecgstore.inner import occupant
from ecgtrain.errors import CheckpointError
from ecgtrain.evaluation import protocols
from ecgtrain.evaluation.protocols import Context, Fitted
from ecgtrain.evaluation.results import Value, read
from ecgtrain.representation.export import Trained
from ecgtrain.training.files import read_json, write_json
from ecgtrain.training.layout import HEAD, HEAD_ABOUT


def _each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError("each name may stand there once")
    return names


class Head(Value):
    """What is known of a head besides its weights.

    ``patients``: whom it was fitted on; to evaluate on them would be to evaluate on training data. ``fitted``: what
    its protocol needs besides its arrays.
    """

    name: str
    task: str
    protocol: str
    pretraining: str
    classes: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_each_once)]
    window_samples: PositiveInt
    stride_samples: PositiveInt
    test_folds: tuple[int, ...]
    n_train: NonNegativeInt
    patients: tuple[str, ...]
    fitted: dict[str, Any] = Field(default_factory=dict)


def save_head(folder: Path, head: Head, fitted: Fitted) -> None:
    """Write ``head.safetensors``, then ``head.json``, into ``folder``; each whole or not at all. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".{HEAD}.{os.getpid()}"
    try:
        save_file({name: np.ascontiguousarray(array) for name, array in fitted.arrays().items()}, aside)
        aside.replace(folder / HEAD)
    finally:
        aside.unlink(missing_ok=True)
    about = head.model_dump(mode="json", exclude={"fitted"})
    write_json(folder / HEAD_ABOUT, {**about, **({"fitted": dict(fitted.about())} if fitted.about() else {})})


def load_head(folder: Path, trained: Trained, device: torch.device | str = "cpu") -> tuple[Head, Fitted]:
    """The head that stands in ``folder``, for the representation it was fitted on.

    Raises CheckpointError in one line where it can't be read, or is not what its protocol has written.
    """
    try:
        head = read(Head, read_json(folder / HEAD_ABOUT), folder / HEAD_ABOUT)
    except ConfigError as error:
        raise CheckpointError("the head can't be loaded", where=folder / HEAD_ABOUT, got=str(error)) from error
    known = occupants(protocols.__name__)
    if head.protocol not in known:  # a name from the list, never the path of a file to run
        raise CheckpointError(
            f"the head is of an unknown protocol {head.protocol!r}",
            where=folder / HEAD_ABOUT,
            expected=f"one of: {', '.join(known)}",
        )
    context = Context(classes=head.classes, trained=trained, device=device)
    try:
        arrays = load_file(folder / HEAD)
        fitted: Fitted = occupant(protocols.__name__, head.protocol).load(arrays, head.fitted, context)
    except (OSError, SafetensorError, EcgError, KeyError, ValueError, TypeError, RuntimeError) as error:
        said = " ".join(str(error).split())[:200]
        raise CheckpointError("the head can't be loaded", where=folder / HEAD, got=said) from error
    return head, fitted
