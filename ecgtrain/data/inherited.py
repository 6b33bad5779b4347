"""What an exported backbone says of itself, for a recipe that begins with it: settings, before any weight is read.

An export may come from anywhere. Its settings are taken as a recipe's are; code of its own they can't name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, JsonValue, model_validator

from ecgstore import ConfigError, EcgError, Settings
from ecgstore.inner import open_plain
from ecgtrain import tasks

#: Where a run keeps its export, and which files of it are read here.
_EXPORT, _CONFIG, _PASSPORT = "export", "config.json", "preprocessing.json"
_MAX_BYTES = 16_000_000
#: How signals are normalised for several networks side by side: for each in its own way.
SEVERAL = "each"
#: So many may stand side by side: a page names them all.
MOST_NETWORKS = 4


def export_of(run_or_export: str | Path) -> Path:
    """The folder of an exported backbone: that of a run, or the one that is named."""
    path = Path(run_or_export).expanduser()
    return path / _EXPORT if (path / _EXPORT).exists() else path


class Joined(Settings):
    """What several networks side by side have learned, each by its own method; nothing is trained by it.

    ``name``: the names of the methods, joined. ``of``: their settings, in the order of the networks.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]{1,20}(-[A-Za-z0-9_]{1,20})+$")]
    of: Annotated[tuple[dict[str, JsonValue], ...], Field(min_length=2, max_length=MOST_NETWORKS)]

    @model_validator(mode="after")
    def _named_after_all(self) -> Self:
        if self.name != (its := _joined(self.of)):
            raise ValueError(f"methods that are joined are called {its}")
        return self


def _joined(methods: Sequence[Any]) -> str:
    return "-".join(str(one.get("name"))[:20] if isinstance(one, Mapping) else "" for one in methods)


def named_networks(named: Any) -> str | tuple[str, ...] | None:
    """What ``init_from`` names: a run, or several ones. Raises ValueError where it could name none."""
    if named is None or (isinstance(named, str) and named):
        return named
    is_list = isinstance(named, list | tuple) and 1 < len(named) <= MOST_NETWORKS
    if not is_list or not all(isinstance(one, str) and one for one in named):
        raise ValueError(f"init_from names a run, or a list of 2 to {MOST_NETWORKS} of them")
    if len(set(named)) < len(named):
        twice = next(one for one in named if list(named).count(one) > 1)
        raise ValueError(f"init_from: {twice} stands there more than once; name each network once")
    return tuple(named)


def inherited_by(named: str | Sequence[str]) -> dict[str, Any]:
    """What :func:`inherited` says of one export; or of several ones, what their networks are side by side.

    Raises ConfigError, also where one of several is itself several.
    """
    if isinstance(named, str):
        return inherited(named)
    each = [inherited(one) for one in named]
    for one, its in zip(named, each, strict=True):
        if its["normalise"] == SEVERAL:
            raise ConfigError(
                "this is several networks side by side already", where=one, fix="name those instead, one by one"
            )
    rows = [_n_rows(one) for one in named]
    starts = [sum(rows[:i]) for i in range(len(rows))]
    parts = [
        {"network": its["backbone"], "first_row": start, "n_rows": n}
        for its, start, n in zip(each, starts, rows, strict=True)
    ]
    methods, windows = ([its[name] for its in each] for name in ("method", "window_samples"))
    return {
        "backbone": {"name": "side_by_side", "parts": parts},
        "method": {"name": _joined(methods), "of": methods},
        "window_samples": min(windows, key=lambda n: (type(n) is not int, n if type(n) is int else 0)),
        "normalise": SEVERAL,
    }


def _n_rows(run_or_export: str) -> int:
    path = export_of(run_or_export) / _CONFIG
    n = _read(path).get("n_leads")
    if type(n) is not int or not 0 < n < 10_000:
        raise ConfigError("this isn't an exported backbone", where=path, got=f"n_leads: {n!r}"[:100])
    return n


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
