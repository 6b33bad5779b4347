"""The exported network that a run begins with: loaded, and written down where it is not trained any further."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from ecgstore import ConfigError
from ecgstore.inner import occupant
from ecgtrain import distributed
from ecgtrain.backbones import Backbone, build_backbone
from ecgtrain.config import RunConfig, dump
from ecgtrain.data.inherited import export_of
from ecgtrain.data.seen import seen_by_all, seen_by_network, write_seen
from ecgtrain.errors import CheckpointError
from ecgtrain.representation.export import Trained, load_backbone
from ecgtrain.training import checkpoint
from ecgtrain.training.claim import looked_at
from ecgtrain.training.environment import environment
from ecgtrain.training.files import refuse_strange_files, write_json, write_text
from ecgtrain.training.initial import Initial, TakenOver
from ecgtrain.training.layout import CONFIG, ENVIRONMENT, EXPORT, METRICS, PASSPORT, SEEN
from ecgtrain.training.prepare import pretrain_of
from ecgtrain.training.pretrain import keep_splits
from ecgtrain.views.passport import side_by_side


def sha256_of(trained: Trained, *, weights: bool = True) -> str:
    """SHA-256 of a representation: its architecture, how its signals are prepared and, unless not, its weights."""
    backbone, passport = trained.backbone, trained.passport
    about = [type(backbone).__name__, backbone.settings.model_dump(mode="json"), passport.model_dump(mode="json")]
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    if weights:
        _add_weights(digest, backbone)
    return digest.hexdigest()


def _add_weights(digest: hashlib._Hash, backbone: Backbone) -> None:
    for name, value in backbone.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())


def _sha256_of_weights(backbone: Backbone) -> str:
    """By which a network is known whatever it is called, and wherever it was copied to."""
    digest = hashlib.sha256()
    _add_weights(digest, backbone)
    return digest.hexdigest()


def load_initial(config: RunConfig, run_dir: Path) -> Initial | None:
    """What ``pretrain.init_from`` names, with whom it has seen; None where a recipe begins with a fresh network.

    Raises ConfigError where it is ``run_dir`` itself or names a network twice, CheckpointError where it can't be read,
    ClaimedError where another process writes it, PassportError where several networks see signals that are prepared
    differently.
    """
    named = None if config.pretrain is None else config.pretrain.init_from
    if named is None:
        return None
    if isinstance(named, str):
        return _loaded(named, run_dir)
    return _joined([_loaded(one, run_dir) for one in named])


def _loaded(named: str, run_dir: Path) -> Initial:
    place = export_of(named)
    run = place.parent if place.name == EXPORT else None
    if run_dir.resolve() in (place.resolve(), place.resolve().parent):
        raise ConfigError("a run can't begin with itself", where=run_dir, fix="choose another directory (--out)")
    with nullcontext() if run is None else looked_at(run):
        if place.is_dir():
            refuse_strange_files(place)
        trained = load_backbone(place)
        seen = None if run is None else seen_by_network(run / SEEN)
    return Initial(named, *trained, sha256_of(trained), seen)


def _joined(each: Sequence[Initial]) -> Initial:
    """Several networks as one; raises ConfigError where two of them are the same: it would only count twice."""
    known: dict[str, str] = {}
    for one in each:
        sha256 = _sha256_of_weights(one.backbone)
        if sha256 in known:
            raise ConfigError(
                "two networks that should stand side by side are the same one",
                where="pretrain.init_from",
                expected="networks of different weights",
                got=f"{known[sha256]} and {one.place}",
                fix="name each once",
            )
        known[sha256] = one.place
    passport = side_by_side({f"{i}: {one.place}": one.passport for i, one in enumerate(each, start=1)})
    parts: list[dict[str, Any]] = []
    for one in each:
        above = sum(part["n_rows"] for part in parts)
        parts.append({"network": one.backbone.settings, "first_row": above, "n_rows": one.backbone.n_leads})
    backbone = build_backbone(
        occupant("ecgtrain.backbones", "side_by_side").Settings(parts=parts), passport.n_inputs, seed=0
    )
    for number, one in enumerate(each):
        backbone.get_submodule(f"parts.{number}").load_state_dict(one.backbone.state_dict())
    trained = Trained(backbone.eval(), passport)
    place = ", ".join(one.place for one in each)
    return Initial(place, *trained, sha256_of(trained), seen_by_all([one.seen for one in each]))


def write_taken_over(
    config: RunConfig, made: TakenOver, run_dir: Path, device: torch.device | str, resume: bool
) -> Trained:
    """Write a run that takes its network over: all that a pretraining would leave but its log and its checkpoints.

    Raises ConfigError where there is a run already and ``resume`` is not set, CheckpointError where it is one of
    another network.
    """
    trained = Trained(made.initial.backbone.to(device).eval(), made.passport)
    if distributed.rank() != 0:
        return trained
    if (run_dir / METRICS).exists() or (run_dir / EXPORT).exists():
        if not resume:
            raise ConfigError("there is already a run", where=run_dir, fix="resume it, or choose another directory")
        if (run_dir / METRICS).exists() or sha256_of(load_backbone(run_dir)) != made.initial.sha256:
            raise CheckpointError(
                "the run is one of another network", where=run_dir, fix="choose another directory, or its own recipe"
            )
    settings = pretrain_of(config)
    about = {
        "backbone": settings.backbone.model_dump(mode="json"),
        "method": settings.method.model_dump(mode="json"),
        "n_leads": made.passport.n_inputs,
        "init_from": made.initial.sha256,
    }
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        write_text(run_dir / CONFIG, dump(config))
        keep_splits(config, run_dir)
        write_json(run_dir / ENVIRONMENT, environment(device))
        write_json(run_dir / PASSPORT, made.passport.model_dump(mode="json"))
        fingerprint = made.passport.store_fingerprint
        write_seen(run_dir / SEEN, made.seen(), fingerprint, nobody_knows=made.initial.seen is None)
        checkpoint.write(run_dir / EXPORT, made.initial.backbone, about, made.passport)
    except OSError as error:
        raise CheckpointError("the backbone can't be exported", where=run_dir / EXPORT, got=str(error)) from error
    return load_backbone(run_dir, device=device)
