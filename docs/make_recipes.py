"""Write docs/recipes.md from the settings themselves: ``python docs/make_recipes.py``.

A key's meaning is what the docstring of its settings says of it: the sentences that name it, and those that follow
in the same paragraph without naming another key.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from ecgstore import Settings
from ecgstore.inner import occupants
from ecgtrain import config
from ecgtrain.config import curves
from ecgtrain.data.settings import Data, MixedStore
from ecgtrain.recipes import about, shipped
from ecgtrain.views import augmentations

PAGE = Path(__file__).with_name("recipes.md")
HEAD = """# Recipes: every key

A recipe is a YAML file that says everything about a run. `ecgtrain show small/cpc` prints a shipped one with every key
that it sets or leaves at its default, `ecgtrain init my.yaml --from small/cpc` writes one to edit, and
[Training](train.md#a-recipe-of-your-own) tells how to write one. On the command line
`--set pretrain.optimiser.lr=3e-4` changes one key.

This page is made by `python docs/make_recipes.py` from the settings in the code; don't edit it. "Required" means that
the key has no default. A unit stands where the name of a key ends with one. `name` or `kind` says which one of its
kind a mapping is; where nothing else is set, the name alone will do.
"""
UNITS = {
    "hz": "Hz", "s": "s", "ms": "ms", "mv": "mV", "db": "dB", "mm": "mm", "years": "years", "samples": "samples",
    "steps": "steps", "epochs": "epochs", "folds": "", "deg": "degrees",
}  # fmt: skip
#: What a section is called whose content another one decides.
NAMED = {
    "MethodSettings": "a method's name, or a [mapping with its `name`](#methods)",
    "BackboneSettings": "a backbone's name, or a [mapping with its `name`](#backbones)",
    "TaskSettings": "a task's address, or a [mapping with its `kind`](#tasks)",
    "Augmentation": "an augmentation's name, or a [mapping with its `name`](#augmentations)",
    "LeadNames": "list of lead names, or 12, 6, 4, 3 or 2",
}
#: Keys that mean the same everywhere.
ALWAYS = {"name": "Which one it is.", "kind": "Which one it is."}
ROOMS = {
    "Methods": ("ecgtrain.methods", "pretrain.method.name"),
    "Backbones": ("ecgtrain.backbones", "pretrain.backbone.name"),
    "Tasks": ("ecgtrain.tasks", "task"),
    "Protocols": ("ecgtrain.evaluation.protocols", "downstream[].protocol"),
}


class Section(NamedTuple):
    """A group of keys: its heading, the level of that, and the settings that define them."""

    heading: str
    level: int
    settings: type[Settings]


def page() -> str:
    """The whole page."""
    parts = [HEAD, shipped_recipes(), "## The keys of a recipe\n"]
    for section in (
        Section("The recipe itself", 3, config.RunConfig),
        Section("data", 3, Data),
        Section("data.stores[]", 3, MixedStore),
        Section("pretrain", 3, config.Pretrain),
        Section("pretrain.optimiser", 3, config.Optimiser),
        Section("downstream[]", 3, config.Downstream),
    ):
        parts.append(table(section))
    parts.append(
        "## Curves\n\nEach entry of `curves` is a mapping whose `kind` is one of these. See [Curves](curves.md).\n"
    )
    kinds = (curves.LabelEfficiency, curves.NoiseRobustness, curves.LeadSubsets, curves.RateAndGain, curves.Transfer)
    parts += [table(Section(kind.model_fields["kind"].annotation.__args__[0], 3, kind)) for kind in kinds]
    for heading, (room, key) in ROOMS.items():
        parts.append(f"## {heading}\n\nNamed by `{key}`.\n")
        parts += list(of_room(room))
    parts.append(
        "## Augmentations\n\nNamed in lists of `augmentations`. Formulas and sources are in [Views](views.md).\n"
    )
    parts += [table(Section(name, 3, one)) for name, one in augmentation_classes().items()]
    return "\n".join(parts)


def shipped_recipes() -> str:
    """The table of the recipes that come with the package."""
    rows = [f"| `{one.name}` | {one.line}. | {one.cost or ''} |" for one in map(about, shipped())]
    return "\n".join(["## Shipped recipes\n", "| recipe | what it does | cost |", "|---|---|---|", *rows, ""])


def of_room(room: str) -> Iterator[str]:
    """A section for each file of a folder of the code, with the sections that lie below its settings."""
    for name in occupants(room):
        module = importlib.import_module(f"{room}.{name}")
        settings = getattr(module, "Settings", None)
        if settings is None:
            yield f"### {name}\n\n{sentence(module)}\n\n{label_sets(module)}"
            continue
        yield table(Section(name, 3, settings), sentence(module))
        for field, below in sorted(below_of(settings).items()):
            yield table(Section(f"{name}: {field}", 4, below))


def sentence(module: ModuleType) -> str:
    """What a file says of itself in ``DESCRIPTION``, as a sentence."""
    text = str(getattr(module, "DESCRIPTION", "")).rstrip(".")
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def label_sets(module: ModuleType) -> str:
    """The addresses of a task without settings."""
    name = module.__name__.rpartition(".")[2]
    rows = [f"| `{name}/{label_set}` | {said} |" for label_set, said in getattr(module, "LABEL_SETS", {}).items()]
    return "\n".join(["| address | what it holds |", "|---|---|", *rows, ""]) if rows else "It has no keys.\n"


def below_of(settings: type[Settings]) -> dict[str, type[Settings]]:
    """Settings that are the value of a key, by that key."""
    found = {}
    for name, field in settings.model_fields.items():
        for one in classes_in(field.annotation):
            found[name] = one
    return found


def classes_in(annotation: Any) -> Iterator[type[Settings]]:
    if isinstance(annotation, type) and issubclass(annotation, Settings) and annotation is not Settings:
        if annotation not in augmentation_classes().values():
            yield annotation
    else:
        for argument in getattr(annotation, "__args__", ()):
            yield from classes_in(argument)


def augmentation_classes() -> dict[str, type[Settings]]:
    """Every augmentation by its name."""
    union = augmentations.Augmentation.__args__[0]  # type: ignore[attr-defined]
    return {str(one.model_fields["name"].default): one for one in union.__args__}


def table(section: Section, first: str = "") -> str:
    """A heading, what the settings are, and a row for each key."""
    intro, said = told(section.settings)
    schema = section.settings.model_json_schema()
    lines = [f"{'#' * section.level} {section.heading}", ""]
    lines += [text + "\n" for text in (first, intro) if text]
    rows = [
        f"| `{name}` | {type_of(section.settings, name, schema)} | {default_of(schema, name)} | {unit_of(name)} "
        f"| {said.get(name, '')} |"
        for name in section.settings.model_fields
    ]
    return "\n".join([*lines, "| key | type | default | unit | meaning |", "|---|---|---|---|---|", *rows, ""])


def told(settings: type[Settings]) -> tuple[str, dict[str, str]]:
    """What docstrings say of the settings as a whole, and of each key; of keys those of the base classes, too."""
    intro = ""
    first: dict[str, list[str]] = {}
    besides: dict[str, list[str]] = {}
    for kind in reversed([one for one in settings.__mro__ if issubclass(one, Settings) and one is not Settings]):
        whole = []
        for name, one in comments(kind):
            first.setdefault(name, []).append(one)
        for paragraph in re.split(r"\n\s*\n", (kind.__doc__ or "").strip()):
            keys: list[str] = []
            for one in sentences(" ".join(paragraph.split())):
                leading = re.match(r"(?:``[^`]+``(?:, and |, | and )?)+", one)
                led, named = (keys_in(text, settings) for text in (leading[0] if leading else "", one))
                keys = led or named or keys
                for name in keys:
                    (first if led or not named else besides).setdefault(name, []).append(one)
                for name in set(named) - set(keys):
                    besides.setdefault(name, []).append(one)
                if not keys:
                    whole.append(one)
        intro = plain(" ".join(whole)) or intro
    meant = {
        name: meaning(name, first.get(name) or besides[name])
        for name in settings.model_fields
        if name in {*first, *besides}
    }
    return intro, ALWAYS | meant


def comments(settings: type[Settings]) -> Iterator[tuple[str, str]]:
    """What stands behind ``#:`` above a key, in the code of the settings themselves."""
    for block, name in re.findall(r"((?:^    #: ?.*\n(?:    # .*\n)*)+)^    (\w+):", inspect.getsource(settings), re.M):
        yield name, " ".join(re.sub(r"^    #:? ?", "", block, flags=re.M).split())


def keys_in(text: str, settings: type[Settings]) -> list[str]:
    """The keys that a text names in code."""
    return [name for name in settings.model_fields if re.search(rf"``{name}\b(?!\()", text)]


def meaning(name: str, told: list[str]) -> str:
    """Sentences on a key as the cell of a table, which needs not repeat its name."""
    text = plain(" ".join(told)).removeprefix(f"`{name}`: ").replace("|", r"\|")
    return text[:1].upper() + text[1:]


def sentences(text: str) -> list[str]:
    return re.split(r"(?<=[a-z)`\d\]][.!?])\s+(?=[A-Z`(0-9])", text)


def plain(text: str) -> str:
    """A docstring's words as Markdown."""
    text = re.sub(r":\w+:`~?([^`]*)`", r"`\1`", text)
    return re.sub(r"``([^`]*)``", r"`\1`", text)


def type_of(settings: type[Settings], name: str, schema: dict[str, Any]) -> str:
    """A key's type in words."""
    annotation = str(settings.__annotations__.get(name, "")) or next(
        (str(base.__annotations__[name]) for base in settings.__mro__ if name in getattr(base, "__annotations__", {})),
        "",
    )
    for alias, words in NAMED.items():
        if re.search(rf"\b{alias}\b", annotation):
            many = "list; each is " if annotation.startswith("tuple") else ""
            return many + words + (", or null" if "None" in annotation else "")
    return words_of(schema["properties"][name], schema.get("$defs", {}))


def words_of(node: dict[str, Any], known: dict[str, Any]) -> str:
    """A JSON schema in words."""
    if "$ref" in node:
        target = known[node["$ref"].rpartition("/")[2]]
        return words_of(target, known) if "enum" in target else "mapping, see below"
    if "const" in node:
        return f"`{node['const']}`"
    if "enum" in node:
        return ", ".join(f"`{one}`" for one in node["enum"])
    for key in ("anyOf", "oneOf"):
        if key in node:
            parts = list(dict.fromkeys(words_of(one, known) for one in node[key]))
            return ", or ".join(sorted(parts, key=lambda part: part == "null"))
    kind = node.get("type")
    if kind == "array":
        return array(node, known)
    if kind in {"integer", "number"}:
        bounds = [
            f"{sign} {node[key]:,}" if isinstance(node[key], int) else f"{sign} {node[key]:g}"
            for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
            if key in node and abs(node[key]) < 2**53
        ]
        return " ".join(["whole number" if kind == "integer" else "number", ", ".join(bounds)]).strip()
    return {"string": "text", "boolean": "true or false", "null": "null", "object": "mapping"}.get(str(kind), "any")


def array(node: dict[str, Any], known: dict[str, Any]) -> str:
    if "prefixItems" in node:
        return f"list of {len(node['prefixItems'])}: {words_of(node['prefixItems'][0], known)} each"
    inner = words_of(node.get("items", {}), known)
    few = "one or more: " if node.get("minItems") else ""
    return f"list, {few}{inner}"


def default_of(schema: dict[str, Any], name: str) -> str:
    """A key's default as YAML has it."""
    node = schema["properties"][name]
    if "default" not in node:
        return "{}" if name not in schema.get("required", ()) else "required"
    value = node["default"]
    if isinstance(value, dict):
        return "as below"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if value == "":
        return '`""`'
    if isinstance(value, list):
        return "[" + ", ".join("…" if isinstance(one, dict) else _listed(one) for one in value) + "]"
    return f"`{value}`"


def _listed(value: Any) -> str:
    return "[" + ", ".join(map(_listed, value)) + "]" if isinstance(value, list) else str(value)


def unit_of(name: str) -> str:
    return UNITS.get(name.rpartition("_")[2], "")


def untold() -> list[str]:
    """Keys of which the page says nothing."""
    heading, found = "", []
    for line in page().splitlines():
        heading = line.lstrip("# ") if line.startswith("#") else heading
        if re.fullmatch(r"\| `\w+` \|.*\|  \|", line):
            found.append(f"{heading}: {line.split('`')[1]}")
    return found


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
