"""What a store is asked for, checked: what it can't mean is refused in one line, and never guessed at."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import numpy as np

from ecgstore.errors import ConfigError, nearest


class NoSuchRow(ConfigError, IndexError):
    """A number that no record has; as an IndexError it ends a loop over the records."""


def one_text(value: object, noun: str, where: object) -> str:
    """``value``, which is a text; ``noun`` is what it stands for."""
    if not isinstance(value, str):
        raise ConfigError(f"{noun} is a text", where=where, got=_shown(value), fix="write it in quotes")
    return value


def texts(values: Iterable[str], noun: str, where: object) -> tuple[str, ...]:
    """Several texts; one alone is refused, for Python would take it letter by letter. ``noun`` is a plural."""
    what = f"{noun} are a list of texts"
    if isinstance(values, str):
        raise ConfigError(what, where=where, got=_shown(values), fix=f"ask for [{_shown(values)}]")
    found = tuple(_each(values, what, where))
    for value in found:
        if not isinstance(value, str):
            raise ConfigError(what, where=where, got=_shown(value), fix="write each in quotes")
    return found


def known_texts(values: Iterable[str], noun: str, known: Iterable[str], where: object) -> tuple[str, ...]:
    """Several of the texts ``known``, or "" for what is not stated; any other can only be misspelt."""
    found, there = texts(values, f"{noun}s", where), {*known, ""}
    for value in found:
        if value not in there:
            near = nearest(value, there - {""})
            fix = f"did you mean {near}?" if near else f"there are {', '.join(sorted(there - {''})) or 'none'}"
            raise ConfigError(f"no {noun} {value!r}", where=where, fix=fix)
    return found


def whole_numbers(values: Iterable[int], noun: str, where: object) -> list[int]:
    """Several whole numbers; ``noun`` is a plural. A mask is none, nor is a text, even one of digits."""
    what = f"{noun} are a list of whole numbers"
    if isinstance(values, str | bytes):
        raise ConfigError(what, where=where, got=_shown(values), fix="such as [1, 2]")
    if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "iu":
        return list(values.tolist())
    found = _each(values, what, where)
    if any(map(_is_truth, found)):
        fix = "of a mask, give numpy.flatnonzero(mask)"
        raise ConfigError(what, where=where, got="a mask", fix=fix)
    return [_whole(value, what, where) for value in found]


def folds_of(values: Iterable[int], where: object) -> list[int]:
    """Numbers of folds, each once. A negative one is refused: in a column it stands for "no fold"."""
    found = list(dict.fromkeys(whole_numbers(values, "folds", where)))
    for fold in found:
        if fold < 0:
            fix = 'for records without a fold, see store.column("fold") < 0'
            raise ConfigError(f"no fold {fold}", where=where, expected="0 or more", fix=fix)
    return found


def rows_of(values: Iterable[int], n_records: int, where: object) -> list[int]:
    """Numbers of records, each below ``n_records``."""
    found = whole_numbers(values, "rows", where)
    if found and not 0 <= min(found) <= max(found) < n_records:
        _refuse_row(next(row for row in found if not 0 <= row < n_records), n_records, where)
    return found


def row_of(value: object, n_records: int, where: object, first: int = 0) -> int:
    """The number of a record; with a negative ``first`` those from the end count, too. Raises :class:`NoSuchRow`."""
    row = _whole(value, "a row is a whole number", where)
    if not first <= row < n_records:
        _refuse_row(row, n_records, where)
    return row % n_records


def shard_of(value: object, n_shards: int, where: object) -> int:
    """The number of a shard."""
    shard = _whole(value, "a shard is a whole number", where)
    if not 0 <= shard < n_shards:
        raise ConfigError(f"no shard {shard}", where=where, expected=f"0 to {n_shards - 1}")
    return shard


def leads_of(values: Iterable[str] | None, leads: Sequence[str], where: object) -> list[int]:
    """Places of the leads that are named, in that order; of all of ``leads`` for None."""
    if values is None:
        return list(range(len(leads)))
    named = texts(values, "leads", where)
    for lead in named:
        if lead not in leads:
            raise ConfigError(f"no lead {lead!r}", where=where, expected=", ".join(leads))
    return [leads.index(lead) for lead in named]


def part_of(
    record_id: str, n_samples: int, fs_hz: float, start_s: float, stop_s: float | None, where: object
) -> tuple[int, int]:
    """First sample of the part of a record that is asked for, and the one behind its last."""
    for seconds in (start_s, *(() if stop_s is None else (stop_s,))):
        _refuse_no_seconds(seconds, where)
    end_s = n_samples / fs_hz if stop_s is None else stop_s
    # False for what is no number; and what is far beyond the end is never turned into samples, which could overflow.
    is_part = 0 <= start_s <= end_s <= (n_samples + 1) / fs_hz
    first, last = (round(start_s * fs_hz), round(end_s * fs_hz)) if is_part else (0, 0)
    if not 0 <= first < last <= n_samples:
        raise ConfigError(
            f"no such part of record {record_id}",
            where=where,
            expected=f"within 0 to {n_samples / fs_hz:g} s",
            got=f"{start_s} to {end_s} s",
        )
    return first, last


def _refuse_no_seconds(value: Any, where: object) -> None:
    try:
        is_number = not isinstance(value, str | bytes | bool) and np.ndim(value) == 0
        _ = float(value)
    except OverflowError:  # a whole number beyond all seconds
        return
    except (TypeError, ValueError):
        is_number = False
    if not is_number:
        raise ConfigError("start_s and stop_s are seconds", where=where, got=_shown(value), fix="such as 2.5")


def _each(values: Iterable[Any], what: str, where: object) -> list[Any]:
    try:
        return list(values)
    except TypeError:
        fix = f"ask for [{_shown(values)}]" if isinstance(values, int | np.integer) else "give a list"
        raise ConfigError(what, where=where, got=_shown(values), fix=fix) from None


def _is_truth(value: object) -> bool:
    return isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool")


def _whole(value: Any, what: str, where: object) -> int:
    try:
        if not _is_truth(value):
            return operator.index(value)
    except TypeError:
        pass
    raise ConfigError(what, where=where, got=_shown(value), fix="such as 1")


def _refuse_row(row: int, n_records: int, where: object) -> NoReturn:
    expected = f"0 to {n_records - 1}" if n_records else "none: the store has no records"
    raise NoSuchRow(f"no row {row}", where=where, expected=expected)


def _shown(value: object) -> str:
    return repr(value)[:80]
