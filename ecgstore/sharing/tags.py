"""Tags: each is a log to which entries are only added. The entry with the highest number says what the tag means.

An entry is created once and never changed, so two who move a tag at the same moment want the same number, and one of
them finds out. No clock is compared, no etag, and what a tag meant before stays known.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from ecgstore.errors import StoreError, StoreFormatError, StoreNotFound, TagMoved
from ecgstore.sharing import notes
from ecgstore.sharing.notes import TagEntry
from ecgstore.sharing.target import Listed, Target, Writable, at, create, read_note, refuse_no_share

log = logging.getLogger(__name__)

#: Entries that somebody who can't list walks through from the hint on.
MOST_WALKED = 10_000


@dataclass(frozen=True, slots=True)
class Numbered:
    """An entry of a tag with its number, and the server's time where it tells it."""

    number: int
    entry: TagEntry
    modified: datetime | None = None


def current(target: Target, tag: str) -> Numbered | None:
    """What a tag means now; None where there is none."""
    return next(history(target, tag), None)


def history(target: Target, tag: str) -> Iterator[Numbered]:
    """The entries of a tag, newest first; one that was torn while it was written counts as nothing."""
    if target.can_list:
        yield from _entries(target, tag, _numbers(target, tag))
    else:
        yield from _entries(target, tag, dict.fromkeys(range(_walked(target, tag) + 1)))


def _entries(target: Target, tag: str, numbers: Mapping[int, Listed | None]) -> Iterator[Numbered]:
    for number in sorted(numbers, reverse=True):
        with contextlib.suppress(FileNotFoundError):
            if (entry := _entry(target, tag, number)) is not None:
                listed = numbers[number]
                yield Numbered(number, entry, None if listed is None else listed.modified)


def resolve(target: Target, tag: str) -> str:
    """The fingerprint that a tag means; raises StoreNotFound."""
    found = current(target, tag)
    if found is None:
        refuse_no_share(target)
        known = ", ".join(target.folders(notes.TAGS)[:20])
        raise StoreNotFound(
            f"there is no tag {tag}", where=target.where, fix=f"there are {known}" if known else "name a tag: URL@TAG"
        )
    return found.entry.fingerprint


def move(target: Writable, tag: str, fingerprint: str, expected: str | None) -> bool:
    """Let a tag mean ``fingerprint``, if it still means ``expected``; False where it means it already.

    Raises TagMoved where it means something else by now: nothing of anybody is overwritten.
    """
    numbers = _numbers(target, tag)
    found = next(_entries(target, tag, numbers), None)
    is_now = None if found is None else found.entry.fingerprint
    if is_now == fingerprint:
        return False
    number = max(numbers, default=-1) + 1
    if number >= notes.MOST_ENTRIES:
        raise StoreError("the tag was moved too often", where=target.where, fix="begin another tag")
    entry = notes.tag_entry(TagEntry(fingerprint, is_now))
    if is_now != expected or not create(target, notes.entry_name(tag, number), entry):
        found = current(target, tag)
        if found is not None and found.entry.fingerprint == fingerprint:
            return False
        raise TagMoved(
            f"the tag {tag} was moved by somebody else meanwhile, and was left alone",
            where=target.where,
            expected=expected or "no such tag",
            got=None if found is None else found.entry.fingerprint,
            fix=f"look at `ecgstore log`; the version {fingerprint} is there, and `ecgstore tag` can name it",
        )
    # Only a hint, for those who can't list: it may lag, and nothing is lost if it can't be written.
    try:
        target.put(notes.hint_name(tag), notes.hint(number))
    except StoreError as error:
        log.warning("the hint at the tag %s was not written: %s", tag, error)
    return True


def _numbers(target: Target, tag: str) -> dict[int, Listed]:
    found = {}
    for name, one in target.listed(f"{notes.TAGS}/{tag}").items():
        number = notes.entry_number(name)
        if number is not None and number < notes.MOST_ENTRIES and name == notes.entry_name(tag, number):
            found[number] = one
    return found


def _entry(target: Target, tag: str, number: int) -> TagEntry | None:
    name = notes.entry_name(tag, number)
    content = read_note(target, name)
    if not content.endswith(b"}\n"):
        log.warning("%s was torn while it was written, and counts as nothing", at(target, name))
        return None
    return notes.parse_entry(content, at(target, name))


def _walked(target: Target, tag: str) -> int:
    """The highest number, where nothing can be listed; -1 where there is no entry."""
    begin = 0
    with contextlib.suppress(FileNotFoundError):
        begin = notes.parse_hint(read_note(target, notes.hint_name(tag)), at(target, notes.hint_name(tag)))
        if not _is_there(target, tag, begin):
            begin = 0
    for number in itertools.count(begin):
        if not _is_there(target, tag, number):
            return number - 1
        if number - begin > MOST_WALKED:
            raise StoreFormatError("the hint at a tag lags too far behind", where=at(target, notes.hint_name(tag)))
    raise AssertionError("numbers don't end")


def _is_there(target: Target, tag: str, number: int) -> bool:
    try:
        read_note(target, notes.entry_name(tag, number))  # whole: some servers know no parts
    except FileNotFoundError:
        return False
    return True
