"""How a run writes and reads its files: whole or not at all, and in plain numbers."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from ecgtrain.errors import CheckpointError


def write_text(path: Path, text: str) -> None:
    """Write aside, flush, then rename: a reader finds the old file or the new one. Raises OSError."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` in plain numbers, keys in their order; what is not a number becomes null. Raises OSError."""
    write_text(path, json.dumps(plain(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The mapping that a file of a run holds; raises CheckpointError where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError("a file of the run can't be read", where=path, got=str(error)) from error
    if not isinstance(content, dict):
        raise CheckpointError("a file of the run must hold a mapping", where=path, got=type(content).__name__)
    return content


def plain(value: Any) -> Any:
    """Turn ``value`` into what JSON holds: NumPy and Python numbers alike, NaN and infinity to None."""
    match value:
        case None | bool() | str() | int():
            return value
        case np.generic():
            return plain(value.item())
        case float():
            return value if math.isfinite(value) else None
        case BaseModel():
            return plain(value.model_dump())
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case np.ndarray():
            return plain(value.tolist())
        case tuple() if hasattr(value, "_asdict"):
            return plain(value._asdict())
        case list() | tuple() | set() | frozenset():
            return [plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    return str(value)
