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
    │   └── StoreUnreachable       on another machine that doesn't answer
    └── MissingExtra (ImportError) names the extra to install

Every error is one readable line, and pickles, because it may cross process walls.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType
from typing import Any


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
            parts.append(f"expected {expected}, got {got}")
        elif expected is not None:
            parts.append(f"expected {expected}")
        elif got is not None:
            parts.append(f"got {got}")
        if fix is not None:
            parts.append(fix)
        super().__init__("; ".join(parts))

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[EcgError], args: tuple[Any, ...], state: dict[str, Any]) -> EcgError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(state)
    return error


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
    "too_large": "the header claims more samples or signals than the stated limit",
    "truncated": "a signal file is shorter than its header says",
    "bad_checksum": "the samples don't give the checksum in the header",
    "bad_initial_value": "the first sample is not the one stated in the header",
    "bad_signal": "the signal file can't be decoded",
    "bad_gain": "a gain is zero, negative or not a number, so millivolts can't be computed",
    "unknown_unit": "a physical unit that is not a voltage",
    "unknown_lead": "a signal name that is not a known lead",
    "duplicate_lead": "the same lead twice",
    "no_leads": "none of the wanted leads is in the record",
    "no_samples": "the record has no samples, or none that was recorded",
    "duplicate_id": "the record id stands in the source more than once",
    "unsafe_path": "a signal file outside the source folder",
    "not_16_bit": "the samples need more than 16 bits, which a raw store doesn't have",
    "bad_source_checksum": "a file is not the one that the source's own list of checksums states",
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


class StoreUnreachable(StoreError):
    """The store is on another machine, and that can't be reached now: its bytes may be well."""


class MissingExtra(EcgError, ImportError):
    """A package is not installed; the message names the extra that brings it."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that somebody who wrote ``word`` most likely meant; None where nothing is near."""
    known = sorted(known)
    longer = [name for name in known if len(word) > 1 and name.startswith(word)]
    return next(iter(longer or difflib.get_close_matches(word, known, n=1)), None)


def need(module: str, extra: str) -> ModuleType:
    """Import ``module``, or raise :class:`MissingExtra` naming the ``extra`` that brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"{module.partition('.')[0]} is not installed",
            fix=f'pip install "ecgstore[{extra}]"',
        ) from error
