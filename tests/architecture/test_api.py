"""The pages of Python names have them all, and each is explained: its arguments, its fields, what it raises."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ecgstore
import ecgstore.sharing
import ecgtrain

API = Path(__file__).parents[2] / "docs" / "api"
NAMES = {
    f"{package.__name__}.{name}": getattr(package, name)
    for package in (ecgstore, ecgtrain, ecgstore.sharing)
    for name in package.__all__
}
FUNCTIONS = {name: thing for name, thing in NAMES.items() if inspect.isfunction(thing)}
CLASSES = {name: thing for name, thing in NAMES.items() if inspect.isclass(thing)}
#: What can't fail on purpose.
RAISES_NOTHING = {"ecgstore.is_shared"}


def text_of(page: str) -> str:
    return (API / page).read_text(encoding="utf-8")


def shown(page: str) -> list[str]:
    return re.findall(r"(?m)^::: (\S+)$", text_of(page))


def test_every_public_name_stands_on_its_page_once() -> None:
    assert sorted(shown("ecgstore.md")) == sorted(name for name in NAMES if name.startswith("ecgstore."))
    assert sorted(shown("ecgtrain.md")) == sorted(name for name in NAMES if name.startswith("ecgtrain."))


def explained_once() -> set[str]:
    """Arguments that the top of a page explains for all that take them."""
    return set(re.findall(r"(?m)^\| `(\w+)` \|", text_of("ecgstore.md"))) | {"device"}


def named(text: str | None) -> set[str]:
    return set(re.findall(r"``(\w+)``", text or ""))


def untold(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters) - {"self", "cls"} - named(function.__doc__) - explained_once()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_explains_its_arguments_and_says_what_it_raises(name: str) -> None:
    assert untold(FUNCTIONS[name]) == set()
    assert (re.search(r"\b[Rr]aises?\b", FUNCTIONS[name].__doc__) is not None) is (name not in RAISES_NOTHING)


@pytest.mark.parametrize("name", {**FUNCTIONS, **CLASSES})
def test_what_is_said_of_a_name_has_no_words_of_the_house(name: str) -> None:
    thing = NAMES[name]
    said = [thing, *(vars(thing).values() if inspect.isclass(thing) else ())]
    texts = [inspect.getdoc(one) or "" for one in said if not isinstance(one, str | int)]
    assert re.findall(r"(?i)\b(?:rooms?|wings?|occupants?|houses?|bears?)\b", "\n".join(texts)) == []


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_explains_its_fields_and_methods(name: str) -> None:
    kind = CLASSES[name]
    own = [base for base in kind.__mro__ if base.__module__.startswith(("ecgstore", "ecgtrain"))]
    told = set().union(*(named(base.__doc__) for base in own))
    assert kind.__doc__
    for base in own:
        assert {field for field, is_told in fields(base) if not (is_told or field in told)} == set(), base
        for word, thing in vars(base).items():
            if word.startswith("_") or (
                not isinstance(thing, property | classmethod) and not inspect.isfunction(thing)
            ):
                continue
            function = thing.fget if isinstance(thing, property) else inspect.unwrap(getattr(thing, "__func__", thing))
            assert function.__doc__, f"{base.__name__}.{word}"
            assert untold(function) == set(), f"{base.__name__}.{word}"


def fields(kind: type) -> Iterator[tuple[str, bool]]:
    """Public fields of a class, and whether ``#:`` lines above or a string below say what they are."""
    lines = textwrap.dedent(inspect.getsource(kind)).splitlines()
    (definition,) = ast.parse("\n".join(lines)).body
    assert isinstance(definition, ast.ClassDef)
    for node, behind in zip(definition.body, [*definition.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign | ast.Assign):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            is_told = lines[node.lineno - 2].strip().startswith("#:")
            is_told |= isinstance(behind, ast.Expr) and isinstance(behind.value, ast.Constant)
            if isinstance(target, ast.Name) and not target.id.startswith("_") and target.id != "model_config":
                yield target.id, is_told
