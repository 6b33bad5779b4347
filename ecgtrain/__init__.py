"""ecgtrain: self-supervised learning from sealed ECG stores, and what the learned representation is worth.

The public names load on first use, so that ``import ecgtrain`` stays instant.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ecgstore import MissingExtra

if TYPE_CHECKING:
    from ecgtrain.backbones.layers.features import Features
    from ecgtrain.config import RunConfig
    from ecgtrain.data.feed import open_feed
    from ecgtrain.deployment.classifier import Classifier, load_classifier
    from ecgtrain.errors import CheckpointError, DivergedError, LeakageError, PassportError, ProtocolError
    from ecgtrain.representation.export import Trained, load_backbone
    from ecgtrain.representation.extract import window_features
    from ecgtrain.representation.nulls import random_backbone
    from ecgtrain.views.passport import Passport

__all__ = [
    "CheckpointError",
    "Classifier",
    "DivergedError",
    "Features",
    "LeakageError",
    "Passport",
    "PassportError",
    "ProtocolError",
    "RunConfig",
    "Trained",
    "load_backbone",
    "load_classifier",
    "open_feed",
    "random_backbone",
    "window_features",
]

_HOME = {
    "CheckpointError": "errors",
    "Classifier": "deployment.classifier",
    "DivergedError": "errors",
    "Features": "backbones.layers.features",
    "LeakageError": "errors",
    "Passport": "views.passport",
    "PassportError": "errors",
    "ProtocolError": "errors",
    "RunConfig": "config",
    "Trained": "representation.export",
    "load_backbone": "representation.export",
    "load_classifier": "deployment.classifier",
    "open_feed": "data.feed",
    "random_backbone": "representation.nulls",
    "window_features": "representation.extract",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        if find_spec("torch") is None:
            raise MissingExtra("torch is not installed", fix='pip install "ecgstore[train]"')
        return getattr(importlib.import_module(f"ecgtrain.{_HOME[name]}"), name)
    raise AttributeError(f"module 'ecgtrain' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
