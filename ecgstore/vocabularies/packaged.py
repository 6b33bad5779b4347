"""The tables of this folder, read from wherever the package was installed."""

from __future__ import annotations

import csv
import io
from importlib import resources


def rows(name: str) -> tuple[dict[str, str], ...]:
    """The rows of ``name`` (without ``.csv``) by the names of its columns; every cell is text."""
    text = resources.files(__package__).joinpath(f"{name}.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(io.StringIO(text)))
