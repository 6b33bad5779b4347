"""Open sets that hold each other's records, often under other names: what a model must not be tested on."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

from ecgstore.vocabularies import packaged


class KnownOverlap(NamedTuple):
    """Two sets that share records, of one site each where ``site_a`` or ``site_b`` is not empty.

    ``records``: how many, where that is known. Sets go by the names of their sources in a store.
    """

    set_a: str
    site_a: str
    set_b: str
    site_b: str
    records: int | None
    note: str


class Origin(NamedTuple):
    """Where a record comes from: the columns ``source`` and ``site`` of a store; ``site`` is empty where none is."""

    source: str
    site: str


@cache
def known_overlaps() -> tuple[KnownOverlap, ...]:
    """All that are known; README.md says from where."""
    return tuple(
        KnownOverlap(**{**row, "records": int(row["records"]) if row["records"] else None})  # type: ignore[arg-type]
        for row in packaged.rows("known_overlaps")
    )


def overlaps_between(some: Iterable[Origin], others: Iterable[Origin]) -> tuple[KnownOverlap, ...]:
    """The known overlaps of records of ``some`` origins with records of ``others``, whichever holds the other.

    A record without a site may be of any.
    """
    some, others = set(some), set(others)

    def has(origins: set[Origin], name: str, site: str) -> bool:
        return any(
            _set(one.source) == _set(name) and (not site or not one.site or _plain(one.site) == _plain(site))
            for one in origins
        )

    return tuple(
        known
        for known in known_overlaps()
        if (has(some, known.set_a, known.site_a) and has(others, known.set_b, known.site_b))
        or (has(some, known.set_b, known.site_b) and has(others, known.set_a, known.site_a))
    )


#: What sets are also called: by their publishers, or for short.
_ALSO = {"challenge2020": "cinc2020", "challenge2021": "cinc2021", "ptb": "ptbdb", "incart": "incartdb"}


def _set(name: str) -> str:
    """The plain name of a set, by whichever it goes."""
    return _ALSO.get(_plain(name), _plain(name))


def _plain(name: str) -> str:
    """PTB-XL, ptb_xl and ptbxl are one name."""
    return re.sub(r"[^a-z0-9]", "", name.lower())
