"""Settings are frozen data: pydantic models that refuse unknown keys and name the nearest match.

Both houses use this file: an ingest has its settings, a training run has its recipe.
"""

from __future__ import annotations

import inspect
import json
import os
import stat
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from ecgstore.errors import ConfigError, nearest

M = TypeVar("M", bound=BaseModel)

#: Settings are written by hand: what is larger, or nested deeper, is none.
MAX_YAML_BYTES, MAX_YAML_DEPTH = 200_000, 50


class Settings(BaseModel):
    """Base of every settings model: frozen, without unknown keys or infinite numbers, defaults checked like all."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file that holds one mapping, as :func:`yaml_of` understands it; raises ConfigError in one line."""
    path = Path(path)
    try:
        content = yaml_of(_text(path), where=path)
    except FileNotFoundError:
        raise ConfigError("no such file", where=path) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("the file can't be read as text", where=path, got=str(error)) from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError("the file must hold a mapping", where=path, got=type(content).__name__)
    return content


def yaml_of(text: str, *, where: object = None) -> Any:
    """The one value that a YAML text holds, in plain mappings, lists, texts and numbers.

    Raises ConfigError, naming the line: where it doesn't parse, for a key that stands twice in a mapping, for anchors
    and aliases (a few lines of them can stand for thousands of millions of values), and for text that is too large or
    nested too deep to be settings.
    """
    if len(text) > MAX_YAML_BYTES:
        raise ConfigError("this is too large to be settings", where=where, expected=f"{MAX_YAML_BYTES} bytes at most")
    try:
        loader = _PlainYaml(text)  # which looks for control characters already
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # a date such as 2021-13-01 is a ValueError
        raise ConfigError("this is not valid YAML", where=where, got=_in_a_line(error)) from None


class _PlainYaml(yaml.SafeLoader):
    """YAML without anchors and aliases, in which each key stands once, nested to a bounded depth."""

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "anchor", None) is not None:
            said = "anchors (&) and aliases (*) are not understood here: write the value out"
            raise yaml.constructor.ConstructorError(None, None, said, event.start_mark)
        if self._depth == MAX_YAML_DEPTH:
            said = f"nested deeper than {MAX_YAML_DEPTH}"
            raise yaml.constructor.ConstructorError(None, None, said, event.start_mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        known: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool | None):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a word", key_node.start_mark)
            if key in known:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} stands twice", key_node.start_mark)
            known.add(key)
        return dict(super().construct_mapping(node, deep))

    def construct_yaml_int(self, node: Any) -> int:
        value = super().construct_yaml_int(node)
        if abs(value) >= 2**64:  # in other bases than ten it may be too long to be shown
            raise yaml.constructor.ConstructorError(None, None, "a number of more than 64 bits", node.start_mark)
        return value


_PlainYaml.add_constructor("tag:yaml.org,2002:int", _PlainYaml.construct_yaml_int)


def _text(path: Path) -> str:
    """A plain file's text: a pipe or a device may never end. Raises OSError and UnicodeDecodeError."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("not a plain file")
        return file.read(MAX_YAML_BYTES + 1).decode("utf-8")


def _in_a_line(error: Exception) -> str:
    """What the parser says and where, without the lines that it quotes."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    # What the reader of characters raises has neither of them.
    said = " ".join(str(problem or getattr(error, "reason", error)).split())[:200]
    return f"line {mark.line + 1}, column {mark.column + 1}: {said}" if mark is not None else said


def override(content: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """Return ``content`` with ``assignments`` (``key.path=value``) applied; values are read as YAML.

    A number in the path is an index into a list: ``downstream.0.task=ptbxl/all``. Raises ConfigError for an assignment
    that can't be understood, or leads nowhere.
    """
    merged: dict[str, Any] = _copy(content)
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise ConfigError("an override must read key=value", got=repr(assignment))
        value = yaml_of(text, where=f"override {assignment[:100]!r}")
        _assign(merged, key.split("."), value, assignment)
    return merged


def parse(model: type[M], content: Mapping[str, Any], *, where: object = None) -> M:
    """Validate ``content`` as ``model``; raise one-line ConfigError that names the key and the nearest match."""
    try:
        return model.model_validate(dict(content))
    except ValidationError as error:
        first, others, n_more = _first_of(model, error.errors())
        key = ".".join(str(part) for part in _key_of(model, first))
        more = f" (and {n_more} more)" if n_more else ""
        if first["type"] == "extra_forbidden":
            known = _fields_at(model, first["loc"][:-1])
            near = _meant_by(model, str(first["loc"][-1]), known)
            hint = f"did you mean {near}?" if near else f"known here: {', '.join(sorted(known))}"
            raise ConfigError(f"unknown setting {key}{more}", where=where, fix=hint) from None
        messages = dict.fromkeys(_in_words(one) for one in (first, *others))
        message = f"{'; or '.join(messages)}{more}"
        given = None if first["type"] == "missing" or _may_be_secret(model, first) else repr(first["input"])
        if given is not None and len(given) > 120:
            given = given[:117] + "..."
        raise ConfigError(f"setting {key}: {message}" if key else message, where=where, got=given) from None


#: Kinds of values as those who write YAML call them.
_KINDS = {"tuple_type": "a list", "list_type": "a list", "dict_type": "a mapping", "model_type": "a mapping"}


def _in_words(error: Any) -> str:
    """What pydantic says of one value, without its own notions."""
    about = error.get("ctx", {})
    if error["type"] in _KINDS:
        return f"input should be {_KINDS[error['type']]}"
    if error["type"] in ("too_long", "too_short") and "actual_length" in about:
        bound = about.get("max_length", about.get("min_length"))
        size = "most" if error["type"] == "too_long" else "least"
        return f"should have at {size} {bound} item{'' if bound == 1 else 's'}, not {about['actual_length']}"
    if error["type"] == "union_tag_invalid":
        return f"unknown {about['discriminator']} {about['tag']!r}, expected one of {about['expected_tags']}"
    if error["type"] == "union_tag_not_found":
        return f"{about['discriminator']} is missing"
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{message[:1].lower()}{message[1:]}"


def _first_of(model: type[BaseModel], errors: list[Any]) -> tuple[Any, list[Any], int]:
    """The error to tell; those of other forms that the same value may have; and how many more there are.

    Where a value may have several forms, each complains of its own. That which found most right is told, or all are.
    """
    first = errors[0]
    is_said = _is_said(model, first)
    if all(is_said):
        return first, [], len(errors) - 1
    place = first["loc"][: is_said.index(False)]
    its = [one for one in errors if one["loc"][: len(place)] == place and len(one["loc"]) > len(place)]
    forms = {one["loc"][len(place)] for one in its}
    if len(forms) == 1:
        return first, [], len(errors) - 1
    deepest = max(len(one["loc"]) for one in its)
    closest = [one for one in its if len(one["loc"]) == deepest]
    if deepest > len(place) + 1:
        same_form = sum(one["loc"][len(place)] == closest[0]["loc"][len(place)] for one in its)
        return closest[0], [], len(errors) - len(its) + same_form - 1
    return first, closest[1:], len(errors) - len(its)


def _key_of(model: type[BaseModel], error: Any) -> list[str | int]:
    """Where a value stands as somebody wrote it: without the forms that pydantic names in between."""
    return [part for part, said in zip(error["loc"], _is_said(model, error), strict=True) if said]


def _is_said(model: type[BaseModel], error: Any) -> list[bool]:
    """Of each part of a place, whether it is a name or a number that somebody wrote."""
    candidates: list[Any] = [model]
    said = []
    for place, part in enumerate(error["loc"]):
        its = [option for candidate in candidates for option in _models_in(candidate)]
        fields = [option.model_fields[part].annotation for option in its if part in option.model_fields]
        if isinstance(part, int):
            said.append(True)
        elif fields:
            said.append(True)
            candidates = fields
        else:
            is_unknown = error["type"] == "extra_forbidden" and place == len(error["loc"]) - 1
            has_keys = any(_holds_mapping(candidate) for candidate in candidates)
            said.append(is_unknown or (has_keys and part.isidentifier() and part not in _FORMS))
    return said


#: What pydantic calls forms of plain values.
_FORMS = frozenset({"str", "int", "float", "bool", "none", "constrained-str", "constrained-int"})


def _holds_mapping(annotation: Any) -> bool:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return False
    origin = typing.get_origin(annotation) or annotation
    is_one = inspect.isclass(origin) and issubclass(origin, Mapping)
    return is_one or any(_holds_mapping(argument) for argument in typing.get_args(annotation))


def _meant_by(model: type[BaseModel], name: str, known: list[str]) -> str:
    """What somebody meant who wrote ``name`` where ``known`` settings are, in words; empty where nothing is near."""
    near, elsewhere = nearest(name, known), _at_home_elsewhere(model, name)
    if elsewhere and near and name not in near.split("_"):
        near = None  # the very word stands elsewhere
    return " or ".join(filter(None, (near, elsewhere)))


def _at_home_elsewhere(model: type[BaseModel], name: str) -> str | None:
    """Where a setting of exactly this name stands, in the first section of ``model`` that has one, or at its top."""
    if name in model.model_fields:
        return name
    for section, field in model.model_fields.items():
        if any(name in option.model_fields for option in _models_in(field.annotation)):
            return f"{section}.{name}"
    return None


class Difference(NamedTuple):
    """One setting by which two sets of settings differ, and what each has, in words: :data:`NOT_SAID` if nothing."""

    name: str
    one: str
    other: str


#: What is told of a setting that isn't there.
NOT_SAID = "nothing"


def first_difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> Difference | None:
    """The first setting that differs, by the alphabet; of lists of things with names, such as filters, a thing's."""
    for key in sorted({*one, *other}):
        mine, its = one.get(key), other.get(key)
        if mine == its and (key in one) == (key in other):
            continue
        if isinstance(mine, list) and isinstance(its, list) and _names(mine) and _names(mine) == _names(its):
            for item, beside in zip(mine, its, strict=True):
                if within := first_difference(item, beside):
                    return Difference(f"{key}: {within.name} of {item['name']}", within.one, within.other)
        return Difference(key, *(repr(side[key]) if key in side else NOT_SAID for side in (one, other)))
    return None


def innermost_difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> Difference | None:
    """The first setting that differs, by the alphabet; of sections within sections by its dotted name, as JSON."""
    for key in sorted({*one, *other}):
        if (key in one) == (key in other) and one.get(key) == other.get(key):
            continue
        mine, its = one.get(key), other.get(key)
        if isinstance(mine, Mapping) and isinstance(its, Mapping) and (within := innermost_difference(mine, its)):
            return Difference(f"{key}.{within.name}", within.one, within.other)
        return Difference(key, *(json.dumps(side[key]) if key in side else NOT_SAID for side in (one, other)))
    return None


def _names(items: list[Any]) -> list[Any] | None:
    """The names of things that all have one."""
    is_named = all(isinstance(item, Mapping) and "name" in item for item in items)
    return [item["name"] for item in items] if is_named else None


def _may_be_secret(model: type[BaseModel], error: Any) -> bool:
    """A whole section may hold a secret, and a field that is not shown is one: neither is told to a terminal."""
    field = model.model_fields.get(str(error["loc"][0])) if error["loc"] else None
    return isinstance(error["input"], Mapping | BaseModel) or (field is not None and not field.repr)


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copy(item) for item in value]
    return value


def _assign(content: Any, path: list[str], value: Any, assignment: str) -> None:
    for depth, part in enumerate(path):
        last = depth == len(path) - 1
        if isinstance(content, list):
            if not part.isdigit() or int(part) >= len(content):
                raise ConfigError(f"no item {part} in a list of {len(content)}", where=f"override {assignment}")
            if last:
                content[int(part)] = value
            else:
                content = content[int(part)]
        elif isinstance(content, dict):
            if last:
                content[part] = value
            else:
                if content.get(part) is None:
                    content[part] = {}
                content = content[part]
        else:
            raise ConfigError(f"{'.'.join(path[:depth])} holds a plain value", where=f"override {assignment}")


def _fields_at(model: Any, loc: tuple[Any, ...]) -> list[str]:
    """Names of the fields that the model nested at ``loc`` knows (of every candidate, for a union)."""
    candidates = [model]
    for part in loc:
        step: list[Any] = []
        for candidate in candidates:
            for option in _models_in(candidate):
                if isinstance(part, str) and part in option.model_fields:
                    step.append(option.model_fields[part].annotation)
        # A list index or a union's tag keeps the candidates; a field name descends.
        candidates = step or candidates
    return sorted(
        {name for candidate in candidates for option in _models_in(candidate) for name in option.model_fields}
    )


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in typing.get_args(annotation) for model in _models_in(argument)]
