"""The recipes that come with the package, and what each says of itself; nothing else is imported for that."""

from __future__ import annotations

import re
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

#: The recipes that come with the package: a file's path below this, without its ending, is its name.
RECIPES = Path(__file__).parent


class About(NamedTuple):
    """What the comment at the head of a shipped recipe says: in a sentence, where from, at what cost."""

    name: str
    line: str
    source: str
    cost: str


def shipped() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    paths = sorted(RECIPES.rglob("*.yaml"), key=lambda path: (len(path.parts), path))
    return {path.relative_to(RECIPES).with_suffix("").as_posix(): path for path in paths}


def about(name: str) -> About:
    """What a shipped recipe says of itself."""
    lines = shipped()[name].read_text(encoding="utf-8").splitlines()
    head = [line.removeprefix("#").strip() for line in takewhile(lambda line: line.startswith("#"), lines)]
    said = dict(re.findall(r"^(\w+): (.*?)(?=^\w+: |\Z)", "\n".join(head), re.M | re.S))
    source, cost = (" ".join(said.get(word, "").split()) for word in ("Source", "Cost"))
    # A reference ends with its year or its number.
    cited = re.match(r".*?(?:\(\d{4}\)|arXiv \d{4}\.\d{5})", source)
    source = cited[0] if cited else re.split("[;:.]", source)[0]
    return About(name, head[0].rstrip("."), source, cost.split(". ")[0].rstrip("."))
