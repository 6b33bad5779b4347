"""What is predicted on records with codes of one's own: each code of a coding system is a class.

``codes/diagnosis`` asks for every code of the system ``diagnosis`` that the store's sources ever state, and
``codes/diagnosis:AF,LBBB`` for these. Name them where heads are to be applied to other stores, whose sources may state
others.
"""

from __future__ import annotations

from ecgstore import ConfigError, Store
from ecgtrain.errors import ProtocolError
from ecgtrain.tasks import Targets, from_statements

DESCRIPTION = "codes of one's own: codes/SYSTEM for all of a coding system, or codes/SYSTEM:CODE,CODE"

#: There is no list of them: a label set is the name of a coding system, and maybe codes.
LABEL_SETS: dict[str, str] = {}

#: More classes than this are a catalogue and not a question.
MAX_CLASSES = 1000


def is_label_set(text: str) -> bool:
    """Whether ``text`` is SYSTEM or SYSTEM:CODE,CODE, with no code twice."""
    system, colon, codes = _parts(text)
    return bool(system) and (not colon or all(codes)) and len(set(codes)) == len(codes)


def targets(store: Store, label_set: str) -> Targets:
    """Targets for every record of ``store``: of each code, who states it. A record without a code takes no part.

    Raises ConfigError for what is no label set, and for more than MAX_CLASSES codes; ProtocolError where the store's
    sources state none of them.
    """
    if not is_label_set(label_set):
        raise ConfigError("a label set of codes is SYSTEM or SYSTEM:CODE,CODE", got=repr(label_set))
    system, colon, named = _parts(label_set)
    codes = named if colon else sorted(store.vocabulary(system))
    if len(codes) > MAX_CLASSES:
        raise ConfigError(
            f"the system {system} has too many codes for one question",
            where=store.path,
            expected=f"at most {MAX_CLASSES}",
            got=len(codes),
            fix=f"name those that are asked for: codes/{system}:CODE,CODE",
        )
    if not codes:
        raise ProtocolError(
            f"the sources of this store state no code of {system!r}",
            where=store.path,
            fix=f"it has codes of: {', '.join(sorted(store.attributes['vocabulary'])) or 'no system'}",
        )
    return from_statements(store, f"codes/{label_set}", system, {code: [code] for code in codes}, {})


def _parts(text: str) -> tuple[str, str, list[str]]:
    system, colon, rest = text.partition(":")
    return system.strip(), colon, [code.strip() for code in rest.split(",")] if colon else []
