"""What in a store seems to say who a patient is: dates, long numbers, names, paths, addresses, free text.

A search by patterns proves nothing: it finds what looks like the usual slips, and passes over what looks like a code.
So a store in which nothing is found may still hold a name, and what is found may be harmless.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ecgstore.rooms import occupant, occupants
from ecgstore.storage.beside import CARD
from ecgstore.storage.sidecar_tables import content_of, parse_sidecar
from ecgstore.storage.sidecars import passed_on
from ecgstore.storage.store import Store
from ecgstore.vocabularies.names import holds_name, holds_pair
from ecgstore.vocabularies.packaged import rows as packaged_rows
from ecgstore.vocabularies.vocabulary import is_snomed_ct

_MONTHS = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
_DAY, _MONTH, _YEAR = r"(?:0?[1-9]|[12]\d|3[01])", r"(?:0?[1-9]|1[0-2])", r"(?:1[89]|20)\d\d"
#: What is looked for, by kind; the first kind that fits a text is said of it.
PATTERNS = {
    "e-mail address": re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"),
    "path": re.compile(r"(?:^|[\s\"'=(])(?:~?/[\w.-]+/|[A-Za-z]:[\\/]|\\\\\w+\\|file:/)"),
    "date": re.compile(
        rf"(?<!\d)(?:{_YEAR}(?P<a>[-/._ ]?)(?:0[1-9]|1[0-2])(?P=a)(?:0[1-9]|[12]\d|3[01])"
        rf"|{_DAY}(?P<b>[-/. ]){_MONTH}(?P=b)(?:{_YEAR}|\d\d)|{_MONTH}/{_DAY}/(?:{_YEAR}|\d\d)"
        rf"|{_DAY}[-. ]?(?:{_MONTHS})[a-z]*[-., ]*(?:{_YEAR}|\d\d))(?!\d)",
        re.IGNORECASE,
    ),
    "long number": re.compile(r"(?<![\d.])\d{7,}(?![\d.])|(?<!\d)\d{3}[- ]\d{2,3}[- ]\d{4}(?!\d)"),
}
#: Text of more words than this, or longer, is somebody's sentence and no code.
_MOST_WORDS, _MOST_LETTERS = 5, 60
#: Sentences of ours: only what is in them counts.
_SENTENCES = {"records.warnings", "records.suspects", "rejected.detail", "rejected.reason", "lineage.where"}
#: Where two words with a capital each may be a person's folder; in codes and sites they are a finding, or a place.
_IDS = {"records.record_id", "rejected.record_id"}
#: Of patients and hashed ids; and of whole stores.
_HASH, _SHA256 = re.compile(r"[0-9a-f]{16}"), re.compile(r"[0-9a-f]{64}")
#: What a store says of how it was made, and of the terms of the sources that come with this package.
_OURS_TOO = {
    "format",
    "recipe_sha256",
    "plan_sha256",
    "software",
    "statistics",
    "recipe",
    "storage",
    "patients",
    "withdrawn",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found in one place: ``where`` (table.column, or attribute), ``kind``, and in how many rows.

    ``rows`` are the first few of them; empty for an attribute. What stands there is not repeated.
    """

    where: str
    kind: str
    n: int
    rows: tuple[int, ...]


def scrub_check(store: Store) -> tuple[Finding, ...]:
    """Look through every table, attribute and id of a store for what seems to identify somebody.

    The sidecars that would be passed on with it are looked through as well.
    """
    tables = {
        "records": store.records,
        "statements": store.statements,
        "rejected": store.rejected,
        "beats": store.beats,
        "leads": store.lead_quality,
    }
    beside = () if "://" in store.path else passed_on(store)
    return look_through(tables, store.attributes) + look_through_sidecars(store, beside)


def look_through(tables: Mapping[str, pa.Table], attributes: Mapping[str, Any]) -> tuple[Finding, ...]:
    """The same of tables and attributes as a store has them."""
    findings: list[Finding] = []
    hashed = {"records.patient_key"}
    if attributes.get("record_ids") == "hashed":
        hashed |= _IDS
    for name, table in tables.items():
        for column in table.column_names:
            if pa.types.is_string(table.schema.field(column).type):
                where = f"{name}.{column}"
                findings += _of_column(where, table[column], is_hashed=where in hashed)
    kinds: dict[tuple[str, str], int] = {}
    for where, text in _texts(attributes):
        is_ours = _is_code(text) or _HASH.fullmatch(text) or _SHA256.fullmatch(text)
        if not is_ours and (kind := kind_of(text)) and not (kind == "free text" and where in _SENTENCES):
            kinds[where, kind] = kinds.get((where, kind), 0) + 1
    findings += [Finding(f"attributes.{where}", kind, n, ()) for (where, kind), n in sorted(kinds.items())]
    return tuple(findings)


def look_through_sidecars(store: Store, paths: Sequence[Path]) -> tuple[Finding, ...]:
    """The same of sidecar tables; their names of columns, numbers and metadata can be anybody's, too."""
    findings: list[Finding] = []
    for path in paths:
        if path.name == CARD:  # whose contact is meant to be read
            continue
        where, table = f"sidecar {path.stem}", parse_sidecar(content_of(path, follow_links=False), path)
        for i, name in enumerate(table.column_names):
            if name != "record_id":
                findings += _of_name(f"{where}, name of column {i}", name)
                findings += _of_column(f"{where}, column {i}", _texts_of(table[name]), is_hashed=False)
        for value in (table.schema.metadata or {}).values():
            for text in _strings(value.decode("utf-8", "replace")):
                findings += _of_name(f"{where}, metadata", text)
    return tuple(dict.fromkeys(findings))


def _of_name(where: str, text: str) -> list[Finding]:
    kind = None if _is_code(text) or _SHA256.fullmatch(text) else kind_of(text)
    return [] if kind in (None, "free text") else [Finding(where, str(kind), 1, ())]


def _texts_of(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column as texts; of numbers those that could be somebody's: whole, of seven digits or more."""
    if pa.types.is_string(column.type):
        return column
    if pa.types.is_boolean(column.type):
        return pa.chunked_array([pa.nulls(len(column), pa.string())])
    if pa.types.is_floating(column.type):
        column = column.cast(pa.float64())
        is_whole = pc.and_(pc.equal(pc.floor(column), column), pc.less(pc.abs(column), 2.0**53))
        column = pc.if_else(is_whole, column, None).cast(pa.int64())
    texts = column.cast(pa.string())
    return pc.if_else(pc.greater_equal(pc.utf8_length(texts), 7), texts, None)


def _strings(text: str) -> Iterator[str]:
    """Whatever stands between quotation marks of a JSON text, or else the whole."""
    found = re.findall(r'"((?:[^"\\]|\\.)*)"', text)
    yield from found or [text]


def kind_of(text: str) -> str | None:
    """What a text seems to hold: a kind of :data:`PATTERNS`, "name" or "free text"; None for nothing."""
    for kind, pattern in PATTERNS.items():
        if pattern.search(text):
            return kind
    if holds_name(text):
        return "name"
    return "free text" if len(text.split()) > _MOST_WORDS or len(text) > _MOST_LETTERS else None


def _of_column(where: str, column: pa.ChunkedArray, *, is_hashed: bool) -> Iterator[Finding]:
    kinds: dict[str, list[str]] = {}
    for text in pc.unique(column).to_pylist():
        if not text or _is_code(text) or (is_hashed and _HASH.fullmatch(text)):
            continue
        kind = kind_of(text) or ("name" if where in _IDS and holds_pair(text) else None)
        if kind is not None and not (kind == "free text" and where in _SENTENCES):
            kinds.setdefault(kind, []).append(text)
    for kind, texts in sorted(kinds.items()):
        at = pc.indices_nonzero(pc.is_in(column, pa.array(texts)))
        yield Finding(where, kind, len(at), tuple(at[:5].to_pylist()))


def _texts(attributes: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every text of a store's attributes that is not made here, with its place."""
    shipped = _shipped_terms()
    for name, value in attributes.items():
        if name in _OURS_TOO:
            continue
        if name == "sources":
            value = [one for one in value if (one.get("name"), one.get("citation", "")) not in shipped]
        yield from _leaves(name, value)


def _leaves(where: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, Mapping):
        for name, one in value.items():
            yield where, str(name)
            yield from _leaves(f"{where}.{name}" if kind_of(str(name)) is None else where, one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _leaves(where, one)


def _is_code(text: str) -> bool:
    return is_snomed_ct(text) or text in _known_codes()


@functools.lru_cache(maxsize=1)
def _known_codes() -> frozenset[str]:
    """Codes, and names of codes, of the vocabularies that come with this package."""
    tables = ("scored_2020", "scored_2021", "scp_snomed")
    return frozenset(cell for table in tables for row in packaged_rows(table) for cell in row.values())


@functools.lru_cache(maxsize=1)
def _shipped_terms() -> frozenset[tuple[str, str]]:
    terms = [occupant("ecgstore.sources", name).TERMS for name in occupants("ecgstore.sources")]
    return frozenset((one.name, one.citation) for one in terms)
