"""What runs, questions and curves may be called."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator


def _is_name(value: str) -> str:
    if NAME.fullmatch(value) is None:
        raise ValueError(
            "a name has letters, digits, '.', '_' and '-', begins with a letter or digit, and has at most 100 of them"
        )
    return value


#: What runs and questions may be called: folders are named after them, and pages and terminals show them.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
Name = Annotated[str, AfterValidator(_is_name)]
