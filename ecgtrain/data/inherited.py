"""What an exported backbone says of itself, for a recipe that begins with it: settings, before any weight is read.

An export may come from anywhere. Its settings are taken as a recipe's are; code of its own they can't name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ecgstore import ConfigError, EcgError
from ecgstore.inner import open_plain
from ecgtrain import tasks

#: Where a run keeps its export, and which files of it are read here.
_EXPORT, _CONFIG, _PASSPORT = "export", "config.json", "preprocessing.json"
_MAX_BYTES = 16_000_000


def export_of(run_or_export: str | Path) -> Path:
    """The folder of an exported backbone: that of a run, or the one that is named."""
    path = Path(run_or_export).expanduser()
    return path / _EXPORT if (path / _EXPORT).exists() else path


def inherited(run_or_export: str) -> dict[str, Any]:
    """Backbone, method, window and normalisation of an exported backbone, as a recipe would have them.

    Raises ConfigError where that is none, or where its method learns a task of a file of code.
    """
    path = export_of(run_or_export)
    about, passport = (_read(path / name) for name in (_CONFIG, _PASSPORT))
    normalisation, method = passport.get("normalisation"), about.get("method")
    found = {
        "backbone": about.get("backbone"),
        "method": method,
        "window_samples": passport.get("window_samples"),
        "normalise": normalisation.get("mode") if isinstance(normalisation, Mapping) else None,
    }
    missing = [name for name, value in found.items() if value is None]
    if missing:
        raise ConfigError("this isn't an exported backbone", where=path, got=f"no {', '.join(missing)}")
    if isinstance(method, Mapping) and "task" in method and _is_code(method["task"]):
        raise ConfigError(
            "the exported backbone learned a task that is a file of code",
            where=path,
            fix="say pretrain.method in the recipe",
        )
    return found


def _is_code(task: Any) -> bool:
    try:
        return tasks.own_file_of(task) is not None
    except (EcgError, TypeError, AttributeError, ValueError):
        return True  # whatever it is, it is none of the room


def _read(path: Path) -> dict[str, Any]:
    try:
        with open_plain(path, follow_links=False) as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ValueError(f"more than {_MAX_BYTES} bytes")
        said = json.loads(content)
        if not isinstance(said, dict):
            raise ValueError("no mapping")
    except FileNotFoundError:
        raise ConfigError(
            "there is no exported backbone to begin with", where=path.parent, fix="name a finished run, or its export"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        got = " ".join(str(error).split())[:200]
        raise ConfigError("the exported backbone can't be read", where=path, got=got) from None
    return said
