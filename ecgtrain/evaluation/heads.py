"""Heads on disk: what a protocol has fitted, as plain arrays and plain values; nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, NonNegativeInt
from safetensors import SafetensorError
from safetensors.numpy import save_file

from ecgstore import ConfigError, EcgError
from ecgstore.inner import named_by_name, named_by_sha256, occupant, occupants, own_file_sha256
from ecgtrain.config.names import Name
from ecgtrain.data.values import EachOnce, WindowSamples
from ecgtrain.errors import CheckpointError
from ecgtrain.evaluation import protocols
from ecgtrain.evaluation.protocols import Context, Fitted
from ecgtrain.evaluation.results import Value, read
from ecgtrain.representation.export import Trained
from ecgtrain.tasks import Asked, TargetKind, own_file_of, with_file
from ecgtrain.training.files import read_json, write_bytes, write_json
from ecgtrain.training.layout import HEAD, HEAD_ABOUT, OWN
from ecgtrain.training.weights import read_arrays

#: What a task may have of classes.
MAX_CLASSES = 10_000


def own_files(task: Asked) -> dict[str, str]:
    """The file that a task is, if it is one, by its name alone, with its SHA-256."""
    file = own_file_of(task)
    sha256 = None if file is None else own_file_sha256(file)
    return {} if file is None or sha256 is None else {Path(file).name: sha256}


def keep_own_files(tasks: Iterable[Asked], run_dir: Path) -> None:
    """Copy the files that tasks are into the run, so that its heads can be judged later. Raises OSError.

    Nobody runs them from there unless they are named on the command line.
    """
    for file in dict.fromkeys(own_file_of(task) for task in tasks):
        if file is not None:
            (run_dir / OWN).mkdir(parents=True, exist_ok=True)
            content = Path(file).expanduser().read_bytes()
            write_bytes(own_copy(run_dir, Path(file).name, hashlib.sha256(content).hexdigest()), content)


def own_copy(run_dir: Path, name: str, sha256: str) -> Path:
    """Where a run keeps a file of code: under its name, or with its SHA-256 where another has that name."""
    plain = run_dir / OWN / name
    if not plain.exists() or hashlib.sha256(plain.read_bytes()).hexdigest() == sha256:
        return plain
    return plain.with_name(f"{plain.stem}-{sha256[:12]}.py")


class Head(Value):
    """What is known of a head besides its weights.

    ``kind``: of its targets. ``thresholds``: what a class's score must reach to be said, where that was chosen.
    ``task``: a file of code by its name alone. ``patients``: whom it was fitted on, or chosen by; to evaluate on them
    would be to evaluate on training data. ``fitted``: what its protocol needs besides its arrays. ``own_files``:
    SHA-256 of code that was not of this package, by its name. ``seed``: of its run; intervals are drawn by it
    wherever the head is judged. ``test_folds``: None for all records. ``split``: SHA-256 of the table whose folds they
    are, where they are not the store's own; the run keeps a copy.
    """

    name: Name
    task: str | dict[str, Any]
    protocol: str
    pretraining: Name
    classes: Annotated[tuple[str, ...], Field(min_length=1, max_length=MAX_CLASSES), EachOnce]
    window_samples: WindowSamples
    stride_samples: WindowSamples
    test_folds: tuple[int, ...] | None
    n_train: NonNegativeInt
    patients: tuple[str, ...]
    own_files: dict[str, str] = Field(default_factory=dict)
    seed: NonNegativeInt = Field(default=0, lt=2**63)
    fitted: dict[str, Any] = Field(default_factory=dict)
    kind: TargetKind = "multilabel"
    thresholds: dict[str, float] = Field(default_factory=dict)
    split: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""


def save_head(folder: Path, head: Head, fitted: Fitted) -> None:
    """Write ``head.safetensors``, then ``head.json``, into ``folder``; each whole or not at all. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".{HEAD}.{os.getpid()}"
    try:
        save_file({name: np.asarray(array, order="C") for name, array in fitted.arrays().items()}, aside)
        aside.replace(folder / HEAD)
    finally:
        aside.unlink(missing_ok=True)
    about = head.model_dump(
        mode="json", exclude={"fitted", *(name for name in ("thresholds", "split") if not getattr(head, name))}
    )
    write_json(folder / HEAD_ABOUT, {**about, **({"fitted": dict(fitted.about())} if fitted.about() else {})})


def load_head(
    folder: Path, trained: Trained, device: torch.device | str = "cpu", *, asks: bool = True
) -> tuple[Head, Fitted]:
    """The head that stands in ``folder``, for the representation it was fitted on.

    ``asks``: the head's task will be asked for targets. Without that, a task that is a file of code needs no file.

    Raises CheckpointError in one line where it can't be read, or is not what its protocol has written.
    """
    try:
        head = read(Head, read_json(folder / HEAD_ABOUT), folder / HEAD_ABOUT)
    except ConfigError as error:
        raise CheckpointError("the head can't be loaded", where=folder / HEAD_ABOUT, got=str(error)) from error
    if asks:
        head = _with_named_code(head, folder)
    known = occupants(protocols.__name__)
    if head.protocol not in known:  # a name from the list, never the path of a file to run
        raise CheckpointError(
            f"the head is of an unknown protocol {head.protocol!r}",
            where=folder / HEAD_ABOUT,
            expected=f"one of: {', '.join(known)}",
        )
    context = Context(classes=head.classes, trained=trained, device=device, kind=head.kind)
    try:
        arrays = read_arrays(folder / HEAD)
        fitted: Fitted = occupant(protocols.__name__, head.protocol).load(arrays, head.fitted, context)
    except FileNotFoundError as error:
        raise CheckpointError(
            "a file of the head is missing",
            where=folder / HEAD,
            fix="go on with `ecgtrain run --resume`, or take the whole folder of the export",
        ) from error
    except (OSError, SafetensorError, EcgError, KeyError, ValueError, TypeError, RuntimeError) as error:
        said = " ".join(str(error).split())[:200]
        raise CheckpointError("the head can't be loaded", where=folder / HEAD, got=said) from error
    return head, fitted


def _with_named_code(head: Head, folder: Path) -> Head:
    """The head, with the file that the user has named in the place of the one its task is.

    A head names its task, never the path of a file to run: what is run is a file that was named, of the very content
    that the head was fitted with, wherever it stands.
    """
    where, file = folder / HEAD_ABOUT, own_file_of(head.task)
    if file is None:
        return head
    stated = head.own_files.get(Path(file).name, "")
    named = named_by_sha256(stated)
    if named is not None:
        return head.model_copy(update={"task": with_file(head.task, named)})
    other = named_by_name(Path(file).name)
    if other is not None:
        raise CheckpointError(
            "the task's file is not the one that the head was fitted with",
            where=other,
            expected=stated,
            got=own_file_sha256(other),
        )
    copy = own_copy(folder.parents[2], Path(file).name, stated)
    raise CheckpointError(
        "the head's task is a file of code, which is not run unless you name it yourself",
        where=where,
        got=file[:200],
        fix=f"if you trust it: --own-file {copy if copy.exists() else file[:200]}",
    )
