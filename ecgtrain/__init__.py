"""ecgtrain: self-supervised learning from sealed ECG stores, and what the learned representation is worth.

The public names load on first use, so that ``import ecgtrain`` stays instant.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ecgstore import MissingExtra

if find_spec("torch") is None:
    raise MissingExtra("torch is not installed", fix='pip install "ecgstore[train]"')

if TYPE_CHECKING:
    from ecgtrain.checkpoint import Passport
    from ecgtrain.config import RunConfig
    from ecgtrain.errors import CheckpointError, DivergedError, LeakageError, PassportError, ProtocolError
    from ecgtrain.features import Features
    from ecgtrain.pretrain import load_backbone, random_backbone, window_features

__all__ = [
    "CheckpointError",
    "DivergedError",
    "Features",
    "LeakageError",
    "Passport",
    "PassportError",
    "ProtocolError",
    "RunConfig",
    "load_backbone",
    "random_backbone",
    "window_features",
]

_HOME = {
    "CheckpointError": "errors",
    "DivergedError": "errors",
    "Features": "features",
    "LeakageError": "errors",
    "Passport": "checkpoint",
    "PassportError": "errors",
    "ProtocolError": "errors",
    "RunConfig": "config",
    "load_backbone": "pretrain",
    "random_backbone": "pretrain",
    "window_features": "pretrain",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"ecgtrain.{_HOME[name]}"), name)
    raise AttributeError(f"module 'ecgtrain' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
