"""Checkpoints: whole or not there at all, and safe to load.

    step-00001200/
      model.safetensors     every weight and buffer of the objective; the backbone's begin with "backbone."
      trainer.pt            step, optimiser, torch's generator: plain tensors, loaded with weights_only=True
      config.json           the resolved recipe
      preprocessing.json    the passport: how signals were prepared
      checkpoint.json       SHA-256 of the files above, written last

A checkpoint is written aside, flushed to the disk, and renamed. One whose hashes don't agree is passed over
for the one before it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from ecgstore import ConfigError
from ecgstore.inner import parse
from ecgtrain.errors import CheckpointError, PassportError
from ecgtrain.training.files import MAX_JSON_BYTES, open_plain, read_json, write_json
from ecgtrain.training.layout import PASSPORT
from ecgtrain.training.weights import MAX_BYTES, read_weights
from ecgtrain.views.passport import Passport

MODEL, TRAINER, CONFIG, SEAL = "model.safetensors", "trainer.pt", "config.json", "checkpoint.json"

#: What a trainer's state takes besides numbers for each weight.
_TRAINER_BYTES = 64_000_000

log = logging.getLogger(__name__)


def save(
    folder: Path,
    step: int,
    *,
    model: nn.Module,
    trainer: Mapping[str, Any],
    config: Mapping[str, Any],
    passport: Passport,
    keep: int = 2,
) -> Path:
    """Write ``folder/step-XXXXXXXX`` and remove all but the newest ``keep``; returns the new one's path.

    Raises CheckpointError if the disk refuses; the checkpoints before stay as they are.
    """
    target = folder / f"step-{step:08d}"
    try:
        write(target, model, config, passport, trainer)
        for old in (*_candidates(folder)[keep:], *folder.glob(".*.partial")):
            shutil.rmtree(old)
    except (
        OSError,
        RuntimeError,
        SafetensorError,
    ) as error:  # torch and safetensors have their own for a full disk
        raise CheckpointError(
            "a checkpoint can't be written", where=target, got=str(error), fix="make room and resume"
        ) from error
    return target


def write(
    target: Path,
    model: nn.Module,
    config: Mapping[str, Any],
    passport: Passport,
    trainer: Mapping[str, Any] | None = None,
) -> None:
    """Write one sealed directory ``target``, replacing what stands there; raises OSError."""
    aside = target.with_name(f".{target.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    # Cloned: parameters may be views of one buffer (LSTM weights on a GPU), which safetensors refuses.
    weights = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    save_file(weights, aside / MODEL)
    if trainer is not None:
        torch.save(dict(trainer), aside / TRAINER)
    write_json(aside / CONFIG, config)
    write_json(aside / PASSPORT, passport.model_dump(mode="json"))
    write_json(aside / SEAL, {"sha256": {path.name: _sha256(path) for path in sorted(aside.iterdir())}})
    for path in (*aside.iterdir(), aside):
        _flush(path)
    if target.exists():
        shutil.rmtree(target)
    aside.rename(target)
    _flush(target.parent)


def last(folder: Path) -> Path | None:
    """The newest whole checkpoint in ``folder``, or None; torn ones are logged and passed over."""
    for candidate in _candidates(folder):
        problem = torn(candidate)
        if problem is None:
            return candidate
        log.warning("checkpoint %s is passed over: %s", candidate, problem)
    return None


def torn(path: Path) -> str | None:
    """Why the sealed directory ``path`` is not whole, or None if it is."""
    try:
        if not (path / SEAL).exists():
            return f"{SEAL} is missing"
        stated = read_json(path / SEAL)["sha256"]
        if not {MODEL, CONFIG, PASSPORT} <= set(stated) <= {MODEL, CONFIG, PASSPORT, TRAINER}:
            return f"{SEAL} doesn't name all files, or others"
        # Before anything is hashed: a hole of terabytes would take hours.
        if swollen := _swollen(path, stated):
            return swollen
        for name, sha256 in stated.items():
            if _sha256(path / name) != sha256:
                return f"{name} is not what was written"
    except FileNotFoundError as error:
        return f"{Path(str(error.filename)).name} is missing"
    except (ValueError, OSError, TypeError, KeyError, AttributeError, CheckpointError) as error:
        return f"{SEAL} can't be read: {error}"
    return None


def _swollen(path: Path, names: Iterable[str]) -> str | None:
    """Which file is larger than it can be, in words."""
    sizes = {name: (path / name).stat().st_size for name in names}
    most = {MODEL: MAX_BYTES, TRAINER: 8 * sizes[MODEL] + _TRAINER_BYTES}
    for name, size in sizes.items():
        if size > most.get(name, MAX_JSON_BYTES):
            return f"{name} has {size} bytes, and {most.get(name, MAX_JSON_BYTES)} are the most"
    return None


def load_weights(path: Path, expected: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """All weights of a checkpoint, on the CPU, for a network whose state is ``expected``; raises CheckpointError."""
    return read_weights(path / MODEL, expected)


def load_trainer(path: Path) -> dict[str, Any]:
    """The trainer's state; nothing but tensors and plain values is ever unpickled. Raises CheckpointError.

    An optimiser keeps a few numbers for each weight: a file that is much larger than the weights is none of ours.
    """
    most_bytes = 8 * (path / MODEL).stat().st_size + _TRAINER_BYTES
    try:
        with zipfile.ZipFile(path / TRAINER) as file:  # as torch writes it: stored, not compressed
            parts = file.infolist()
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
            raise ValueError("it is compressed")
        if max((path / TRAINER).stat().st_size, sum(part.file_size for part in parts)) > most_bytes:
            raise ValueError(f"it has more than {most_bytes} bytes")
        state = torch.load(path / TRAINER, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling raises many kinds; each means that the file is unusable
        got = " ".join(str(error).split())[:200]
        raise CheckpointError("the trainer's state can't be read", where=path, got=got) from error
    if not isinstance(state, dict):
        raise CheckpointError("the trainer's state can't be read", where=path, got=type(state).__name__)
    return state


def load_config(path: Path) -> dict[str, Any]:
    """The ``config.json`` of a checkpoint."""
    return read_json(path / CONFIG)


def load_passport(path: Path) -> Passport:
    """The passport of a checkpoint."""
    try:
        return parse(Passport, read_json(path / PASSPORT), where=path / PASSPORT)
    except ConfigError as error:
        raise PassportError("the passport can't be understood", where=path, got=str(error)) from error


def _candidates(folder: Path) -> list[Path]:
    """Checkpoints of ``folder``, newest first."""
    return sorted((path for path in folder.glob("step-*") if path.is_dir()), reverse=True)


def _sha256(path: Path) -> str:
    with open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
