"""What the pages of the Python names need beyond mkdocstrings: fields are explained by the `#:` lines above them."""

from __future__ import annotations

import ast
from typing import Any

from griffe import Attribute, Docstring, Extension


class FieldComments(Extension):
    """Takes the ``#:`` lines above a field for its docstring, where it has none."""

    def on_attribute_instance(self, *, node: ast.AST | Any, attr: Attribute, **_: Any) -> None:
        """Called by griffe for each name that is assigned in a module or a class."""
        if attr.docstring is not None or attr.lineno is None or not isinstance(node, ast.AST):
            return
        lines = attr.lines_collection[attr.filepath]
        above: list[str] = []
        for number in range(attr.lineno - 2, -1, -1):
            text = lines[number].strip()
            if not text.startswith("#:"):
                break
            above.insert(0, text.removeprefix("#:").strip())
        if above:
            attr.docstring = Docstring("\n".join(above), parent=attr)
