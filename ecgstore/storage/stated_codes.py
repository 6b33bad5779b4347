"""Statements as matrices: which record states which code, and where silence is a "no"."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ecgstore.errors import ConfigError, nearest
from ecgstore.storage import asked, tables

Bools = npt.NDArray[np.bool_]


class _Stating(Protocol):
    """What of a store is asked here."""

    @property
    def attributes(self) -> Mapping[str, Mapping[str, Sequence[str]]]: ...
    @property
    def path(self) -> str: ...
    def statement_matrix(self, codes: Sequence[str], system: str) -> Bools: ...


def stating(store: _Stating, listed: Sequence[str]) -> Bools:
    """Which records state one of the codes, bool (records,). Each text reads ``CODE,CODE`` or ``SYSTEM:CODE,CODE``.

    A code without a system is looked for in all of them. Raises ConfigError for one that no record could state.
    """
    return np.asarray(np.stack([_stating(store, text) for text in listed]).any(axis=0))


def _stating(store: _Stating, text: str) -> Bools:
    system, colon, rest = (part.strip() for part in text.partition(":"))
    codes = [code.strip() for code in (rest if colon else text).split(",") if code.strip()]
    if not codes:
        fix = "such as scp_ecg:NORM,AFIB"
        raise ConfigError("codes read CODE,CODE or SYSTEM:CODE,CODE", got=repr(text)[:80], fix=fix)
    known = store.attributes["vocabulary"]
    if colon:
        if system not in known:
            near = nearest(system, known)
            fix = f"did you mean {near}?" if near else f"there are {', '.join(sorted(known)) or 'none'}"
            raise ConfigError(f"no coding system {system!r}", where=store.path, fix=fix)
        return _any(store, codes, system)
    for code in codes:
        if not any(code in its for its in known.values()):
            near = nearest(code, {one for its in known.values() for one in its})
            fix = f"did you mean {near}?" if near else f"the store has codes of: {', '.join(sorted(known)) or 'none'}"
            raise ConfigError(f"no record could state the code {code!r}", where=store.path, fix=fix)
    of_systems = ([code for code in codes if code in its] for its in known.values())
    found = [_any(store, its, name) for name, its in zip(known, of_systems, strict=True) if its]
    return np.asarray(np.stack(found).any(axis=0))


def _any(store: _Stating, codes: Sequence[str], system: str) -> Bools:
    return np.asarray(store.statement_matrix(codes, system).any(axis=1))


def matrix(codes: Sequence[str], system: str, statements: pa.Table, n_records: int) -> Bools:
    """Which record states which code of ``system``, bool (records, codes)."""
    stated_nc = np.zeros((n_records, len(codes)), dtype=np.bool_)
    its = statements.filter(pc.equal(statements["system"], system))
    # Of a code that is asked for twice each column is filled.
    distinct = list(dict.fromkeys(codes))
    place = pc.index_in(its["code"], value_set=pa.array(distinct, pa.string()))
    known = pc.is_valid(place)
    rows, columns = tables.numbers(its["row"].filter(known)), tables.numbers(place.filter(known))
    stated_nc[:, : len(distinct)][rows, columns] = True
    return stated_nc if len(distinct) == len(codes) else stated_nc[:, [distinct.index(code) for code in codes]]


def mask(
    codes: Sequence[str],
    vocabulary: Collection[str],
    system: str,
    by_site: Mapping[str, Mapping[str, Sequence[str]]],
    site_n: npt.NDArray[np.object_],
) -> Bools:
    """Of which records the absence of a code is a "no", bool (records, codes)."""
    known_c = np.array([code in vocabulary for code in codes], dtype=np.bool_)
    known_nc = np.tile(known_c, (len(site_n), 1))
    if any(system in systems for systems in by_site.values()):
        for site in set(site_n.tolist()):
            its = frozenset(by_site.get(site, {}).get(system, ()))
            known_nc[site_n == site] = [code in its for code in codes]
    return known_nc


def known_codes(
    codes: Iterable[str], system: str, statements: pa.Table, vocabulary: Mapping[str, Sequence[str]], where: str
) -> tuple[str, ...]:
    """The ``codes``; raises ConfigError for one that the sources never state in ``system``, naming the nearest."""
    system, wanted = asked.one_text(system, "a coding system", where), asked.texts(codes, "codes", where)
    there = set(vocabulary.get(system, ()))
    if there.issuperset(wanted):
        return wanted
    there |= set(statements.filter(pc.equal(statements["system"], system))["code"].unique().to_pylist())
    unknown = next((code for code in wanted if code not in there), None)
    if unknown is None:
        return wanted
    near = nearest(unknown, there)
    systems = ", ".join(sorted(vocabulary)) or "none"
    listed = f"see store.vocabulary({system!r})" if there else f"the store has codes of: {systems}"
    fix = f"did you mean {near}?" if near else listed
    raise ConfigError(f"no record could state the code {unknown!r} of {system}", where=where, fix=fix)
