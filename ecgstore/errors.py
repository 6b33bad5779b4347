"""The error tree of the data house.

    EcgError                       what happened · where · expected · got · what to do
    ├── ConfigError (ValueError)   an unknown or contradictory setting
    ├── SourceError                a folder can't be listed as the source it is said to be
    ├── RecordError (ValueError)   one record can't be used; .record_id, .reason
    ├── RejectedError              more records were left out than allowed
    ├── StoreError                 something about a store
    │   ├── StoreNotFound          nothing there
    │   ├── StoreExists            there is already one
    │   ├── StoreIncomplete        never sealed
    │   ├── StoreFormatError       not a store, or one of another format version
    │   ├── IntegrityError         bytes are not those that were sealed
    │   │   └── StoreReplaced      another store has taken the place of the one that was opened
    │   ├── StoreUnreachable       on another machine that doesn't answer
    │   ├── StoreWithdrawn         this version was taken back; .successor
    │   └── TagMoved               somebody else moved the tag meanwhile
    └── MissingExtra (ImportError) names the extra to install

Every error is one readable line, and pickles, because it may cross process walls.
"""

from __future__ import annotations

import difflib
import heapq
import importlib
import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

#: Of what was expected, and of what was there.
MOST_CHARACTERS = 1000


class EcgError(Exception):
    """Base of all errors raised on purpose.

    ``what`` says what happened; the other parts are optional and joined into one line:
    ``what; where: …; expected …, got …; do this``.
    """

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        expected: object = None,
        got: object = None,
        fix: str | None = None,
    ) -> None:
        self.what, self.where, self.expected, self.got, self.fix = what, where, expected, got, fix
        parts = [what]
        if where is not None:
            parts.append(f"in {where}")
        if expected is not None and got is not None:
            parts.append(f"expected {_cut(expected)}, got {_cut(got)}")
        elif expected is not None:
            parts.append(f"expected {_cut(expected)}")
        elif got is not None:
            parts.append(f"got {_cut(got)}")
        if fix is not None:
            parts.append(fix)
        super().__init__(visible(without_secrets("; ".join(parts))))

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


def _cut(value: object) -> str:
    """A value out of somebody's file may be as long as the file."""
    text = str(value)
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 3]}..."


def _rebuild(kind: type[EcgError], args: tuple[Any, ...], state: dict[str, Any]) -> EcgError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(state)
    return error


def visible(text: object) -> str:
    """``text`` as one line that does nothing but stand there: what a terminal would obey or hide becomes ``\\x1b``.

    That is control characters (C0 and C1), line ends, characters that turn the direction of writing or have no width,
    halves of surrogate pairs, and whatever has no meaning yet. All other text stays as it is.
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or unicodedata.category(one) == "Zs" else _escape(one) for one in text)


def visible_on_page(value: Any) -> Any:
    """A value as it may stand on a page: of a text, what would be obeyed or hide is an escape, and lines stay lines.

    What is a page's own already, such as a drawing, stays as it is.
    """
    if not isinstance(value, str) or value.isprintable() or hasattr(value, "__html__"):
        return value
    return "\n".join(map(visible, value.split("\n")))


def _escape(character: str) -> str:
    code = ord(character)
    if character in "\t\n\r":
        return {"\t": "\\t", "\n": "\\n", "\r": "\\r"}[character]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


_QUERY = re.compile(r"""([A-Za-z][A-Za-z0-9+.-]*://[^\s?#"'<>]*)\?[^\s"'<>;,)]+""")
#: In s3://bucket@v1 stands a tag, and no user.
_USER = re.compile(r"""(https?://|[A-Za-z][A-Za-z0-9+.-]*://(?=[^\s/?#"'<>@]*:))[^\s/?#"'<>]*@""")


def without_secrets(text: object) -> str:
    """``text`` without what lets others in: of each address in it the user with the password, and the query."""
    return _USER.sub(r"\1…@", _QUERY.sub(r"\1?…", str(text)))


def without_links(path: object) -> str:
    """What to do about a link at ``path``: in what comes from elsewhere none is followed, for it may lead anywhere."""
    copy = "copy it with its links resolved, as `cp -rL` does"
    # <cache>/models--owner--name/snapshots/<revision>/file is a link to ../../blobs/<sha>.
    is_cache = re.search(r"(?:models|datasets|spaces)--[^/\\]+[/\\]snapshots[/\\]", str(path))
    return f"fetch it by `hf download NAME --local-dir FOLDER` and name FOLDER, or {copy}" if is_cache else copy


class ConfigError(EcgError, ValueError):
    """An unknown or contradictory setting."""


class SourceError(EcgError):
    """A folder can't be listed as the source it is said to be."""


#: Why a record may be left out. Closed: ``rejected.parquet`` holds these words and no others.
REASONS: dict[str, str] = {
    "missing_header": "the header file is not there",
    "unreadable_folder": "a folder of the source can't be read",
    "missing_signal": "a signal file is not there",
    "bad_header": "the header can't be understood",
    "too_large": "more samples, signals or bytes of its id than the stated limit, in the header or after resampling",
    "truncated": "a signal file is shorter than its header says",
    "bad_checksum": "the samples don't give the checksum in the header",
    "bad_initial_value": "the first sample is not the one stated in the header; only in stores of before 0.1.0",
    "bad_signal": "the signal file can't be decoded",
    "bad_gain": "a gain is zero, negative or not a number, so millivolts can't be computed",
    "unknown_unit": "a physical unit that is not a voltage",
    "unknown_lead": "a signal name that is not a known lead",
    "duplicate_lead": "the same lead twice",
    "no_leads": "none of the wanted leads is in the record",
    "no_samples": "the record has no samples, or none that was recorded",
    "duplicate_id": "the record id stands in the source more than once",
    "unsafe_path": "a signal file outside the source folder",
    "mixed_rates": "leads of different rates, which a raw store can't keep in one record",
    "not_16_bit": "the samples need more than 16 bits, which a raw store doesn't have",
    "bad_source_checksum": "a file is not the one that the source's own list of checksums states",
    "no_ectopic_beat": "no ectopic beat was found in the record, or annotated; only in stores of beats",
}


class RecordError(EcgError, ValueError):
    """One record can't be used. ``reason`` is a key of :data:`REASONS`."""

    def __init__(self, record_id: str, reason: str, detail: str = "") -> None:
        if reason not in REASONS:
            raise ValueError(f"unknown reason {reason!r}: one of {', '.join(REASONS)}")
        self.record_id, self.reason, self.detail = record_id, reason, detail
        super().__init__(f"record {record_id}: {reason}", got=detail or None)


class RejectedError(EcgError):
    """More records were left out than allowed; the others are safely in the store."""


class StoreError(EcgError):
    """Something about a store."""


class StoreNotFound(StoreError):
    """There is no store at this place."""


class StoreExists(StoreError):
    """There is already a store at this place."""


class StoreIncomplete(StoreError):
    """The store was never sealed, so it must not be read as whole."""


class StoreFormatError(StoreError):
    """Not a store, or one of a format version that this release can't read."""


class IntegrityError(StoreError):
    """Bytes are missing, or not those that were sealed."""


class StoreReplaced(IntegrityError):
    """Another store has taken the place of the one that was opened: open it again."""


class StoreUnreachable(StoreError):
    """The store is on another machine, and that can't be reached now: its bytes may be well."""


class StoreWithdrawn(StoreError):
    """This version was taken back; ``successor`` is the fingerprint of the one in its place, if there is one."""

    successor: str | None = None


class TagMoved(StoreError):
    """Somebody else moved the tag meanwhile; nothing was overwritten."""


class MissingExtra(EcgError, ImportError):
    """A package is not installed; the message names the extra that brings it."""


#: So many words are compared letter by letter, and of each so many letters: a store may hold a million ids.
_MOST_COMPARED, _MOST_LETTERS = 300, 200


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that somebody who wrote ``word`` most likely meant, in any case; None where nothing is near."""
    meant, spelt = word[:_MOST_LETTERS].casefold(), list(known)
    folded = [name[:_MOST_LETTERS].casefold() for name in spelt]
    longer = [name for name in folded if len(meant) > 1 and name.startswith(meant)]
    with_it = [name for name in folded if len(meant) > 2 and meant in name.split("_")[1:]]
    if longer:
        found: str | None = min(longer)
    elif with_it:
        found = min(with_it)
    else:
        close = difflib.get_close_matches(meant, _worth_comparing(meant, folded), n=8)
        # Of several words that are equally near, the one that begins alike: AFBI is AFIB and not LAFB.
        found = max(close, key=lambda name: (_likeness(meant, name), _n_first(meant, name)), default=None)
    return min((name for name, its in zip(spelt, folded, strict=True) if its == found), default=None)


def _worth_comparing(word: str, known: list[str]) -> list[str]:
    """Of very many words those that share most of their beginning or of their end with ``word``, sorted."""
    if len(known) <= _MOST_COMPARED:
        return sorted(set(known))
    n = len(word)
    begins = _narrowed(known, [word[: i + 1] for i in range(n)], str.startswith)
    ends = _narrowed(known, [word[n - 1 - i :] for i in range(n)], str.endswith)
    return sorted({*begins, *ends})


def _narrowed(known: list[str], parts: list[str], has: Callable[[str, str], bool]) -> list[str]:
    """The words that share the shortest of ``parts`` that few share, or else the longest that any shares."""
    few: list[str] = []
    low, high = 0, len(parts)
    while low < high:
        middle = (low + high) // 2
        nearer = [name for name in known if has(name, parts[middle])]
        if len(nearer) > _MOST_COMPARED:
            known, low = nearer, middle + 1
        else:
            few, high = nearer, middle
    return few or heapq.nsmallest(_MOST_COMPARED, known)


def _n_first(word: str, name: str) -> int:
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(word, name, strict=False)))


def _likeness(word: str, name: str) -> float:
    return difflib.SequenceMatcher(None, name, word).ratio()


def need(module: str, extra: str) -> ModuleType:
    """Import ``module``, or raise :class:`MissingExtra` naming the ``extra`` that brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"{module.partition('.')[0]} is not installed",
            fix=f'pip install "ecgstore[{extra}]"',
        ) from error
