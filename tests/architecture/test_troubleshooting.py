"""The page of errors is complete, and quotes what the code says."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import ecgstore.errors
import ecgtrain.errors
from ecgstore.errors import REASONS, EcgError

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")


def cells(heading: str) -> list[list[str]]:
    """The rows of the table below a heading, without its head."""
    below = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in below.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


@pytest.mark.parametrize("module", [ecgstore.errors, ecgtrain.errors])
def test_every_class_of_error_has_a_row_with_meaning_and_cure(module: object) -> None:
    rows = {row[0].strip("`"): row for row in cells("Kinds of error")}
    classes = [
        name
        for name, kind in vars(module).items()
        if inspect.isclass(kind) and issubclass(kind, EcgError) and kind.__module__ == module.__name__  # type: ignore[attr-defined]
    ]
    assert len(classes) >= 8
    for name in classes:
        assert name in rows, name
        assert rows[name][1], name
        assert rows[name][3], name


def test_every_reason_has_a_row_with_its_meaning_and_what_to_do() -> None:
    rows = cells("Why a record is left out")
    assert [row[0].strip("`") for row in rows] == list(REASONS)
    assert [row[1] for row in rows] == list(REASONS.values())
    assert all(row[2] for row in rows)


def test_every_message_is_one_that_the_code_says() -> None:
    paths = [*(ROOT / "ecgstore").rglob("*.py"), *(ROOT / "ecgtrain").rglob("*.py")]
    code = "\n".join(path.read_text(encoding="utf-8") for path in paths)
    rows = cells("Common messages")
    assert len(rows) > 10
    for message, *_ in rows:
        for part in filter(None, (part.strip() for part in message.split("…"))):
            assert part in code, message
