"""What is predicted on records with codes of one's own, of any store and without code: who states which.

In a recipe::

    task: {kind: statements, system: diagnosis}                              # every code that the store's sources state
    task: {kind: statements, system: diagnosis, codes: [AFIB, LBBB]}         # these
    task: {kind: statements, system: diagnosis, codes: {block: [LBBB, RBBB], AF: [AFIB]}}       # classes of several
    task: {kind: statements, system: rhythm, codes: [SR, AFIB, AFLT], exclusive: true}          # one of them each

Name codes where heads are to be applied to other stores, whose sources may state others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

import ecgstore
from ecgstore import ConfigError, Store
from ecgstore.inner import nearest
from ecgtrain.errors import ProtocolError
from ecgtrain.tasks import Targets, from_statements, one_each

DESCRIPTION = "codes of one's own: {kind: statements, system: SYSTEM, codes: [CODE, CODE], exclusive: false}"

#: More classes than this are a catalogue and not a question.
MAX_CLASSES = 1000


def _codes(value: Any) -> Any:
    """Codes as text; one that is a number, such as SNOMED CT's, needs no quotes in YAML."""
    if isinstance(value, Mapping):
        return {_code(name): _several(codes) for name, codes in value.items()}
    return None if value is None else _several(value)


def _several(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not value:
        raise ValueError("codes are a list such as [AFIB, LBBB], or a mapping of names to such lists")
    codes = tuple(_code(one) for one in value)
    if len(set(codes)) < len(codes):
        raise ValueError("each code may stand there once")
    return codes


def _code(value: Any) -> str:
    if isinstance(value, bool):
        raise ValueError(
            f'a code must be text: YAML reads one of these as {value}, so write it in quotes, such as "NO"'
        )
    if not isinstance(value, str | int) or value == "":
        raise ValueError("a code must be text")
    return str(value)


class Settings(ecgstore.Settings):
    """``system``: of the codes, a column of the table of labels. ``codes``: a class for each; as a mapping, for each
    name a class of the codes behind it; by default all codes that the store's sources state.

    ``negative``: who is a "no" to all classes. ``stated``: a record that states another code of the system. ``any``:
    one that states nothing at all, too; right only where an empty cell means "none of them".

    ``vocabulary``: what an absent code means. ``site``: a "no" only at sites that state the code at all; records of
    other sites take no part. ``store``: a "no" everywhere; right where all sites had the same list to choose from, so
    that a rare code is absent by chance.

    ``exclusive``: each record is of exactly one class, and the classes compete. Records that state several of them, or
    none, take no part.
    """

    system: Annotated[str, Field(min_length=1)]
    codes: Annotated[tuple[str, ...] | dict[str, tuple[str, ...]] | None, BeforeValidator(_codes)] = None
    negative: Literal["stated", "any"] = "stated"
    exclusive: bool = False
    vocabulary: Literal["site", "store"] = "site"

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.exclusive and self.codes is not None and len(self.codes) < 2:
            raise ValueError("classes that exclude each other are at least two")
        if self.exclusive and self.negative == "any":
            raise ValueError(
                "where classes exclude each other, a record of none of them takes no part: leave negative out"
            )
        return self


def targets(store: Store, settings: Settings) -> Targets:
    """Targets for every record of ``store``: of each class, who states one of its codes.

    Raises ConfigError for more than MAX_CLASSES codes, ProtocolError where the store's sources state none of them.
    """
    codes_of = _classes_of(store, settings)
    vocabulary = store.vocabulary(settings.system)
    unknown = {} if settings.codes is None else _unknown(codes_of, vocabulary)
    if unknown and not any(code in vocabulary for of in codes_of.values() for code in of):
        raise _none_of_them(store, settings.system, unknown)
    negative: Literal["of_the_set", "stated", "any"] = "of_the_set" if settings.exclusive else settings.negative
    by_site = settings.vocabulary == "site"
    made = from_statements(store, "statements", settings.system, codes_of, {}, negative, by_site=by_site)
    # Where records were lost by that, how to keep them.
    said = tuple(
        f"{text} (vocabulary: store counts that as a no)" if "their site" in text else text for text in made.caveats
    )
    made = replace(made, caveats=said)
    made = replace(made, named=settings.codes is not None, unknown=unknown)
    return one_each(made) if settings.exclusive else made


def _classes_of(store: Store, settings: Settings) -> dict[str, Sequence[str]]:
    if isinstance(settings.codes, Mapping):
        return dict(settings.codes)
    codes = sorted(store.vocabulary(settings.system)) if settings.codes is None else settings.codes
    if len(codes) > MAX_CLASSES:
        raise ConfigError(
            f"the system {settings.system} has too many codes for one question",
            where=store.path,
            expected=f"at most {MAX_CLASSES}",
            got=len(codes),
            fix=f"name those that are asked for: {{kind: statements, system: {settings.system}, codes: [CODE, CODE]}}",
        )
    if not codes:
        raise _none_of_them(store, settings.system, {})
    return {code: [code] for code in codes}


def _unknown(codes_of: Mapping[str, Sequence[str]], vocabulary: frozenset[str]) -> dict[str, str]:
    """Codes that no record could state, each with what was probably meant."""
    missing = [code for of in codes_of.values() for code in of if code not in vocabulary]
    found = {}
    for code in missing:
        near = nearest(code, vocabulary)
        found[code] = f"did you mean {near}?" if near else f"there are {', '.join(sorted(vocabulary)[:20])}"
    return found


def _none_of_them(store: Store, system: str, unknown: Mapping[str, str]) -> ProtocolError:
    known = ", ".join(sorted(store.attributes["vocabulary"])) or "no system"
    if store.vocabulary(system):
        code, hint = next(iter(unknown.items()))
        return ProtocolError(f"no record could state the code {code!r} of {system}", where=store.path, fix=hint)
    if system in store.attributes["vocabulary"]:
        return ProtocolError(
            f"no record states a code of {system!r}",
            where=store.path,
            fix="fill its column in the table of labels, and ingest again",
        )
    near = nearest(system, store.attributes["vocabulary"])
    return ProtocolError(
        f"the sources of this store state no code of {system!r}",
        where=store.path,
        fix=f"did you mean {near}?" if near else f"it has codes of: {known}",
    )
