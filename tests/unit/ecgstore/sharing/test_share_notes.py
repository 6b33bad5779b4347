"""The small objects of a share come from elsewhere: they are as they should be, or refused."""

from __future__ import annotations

import json

import pytest

from ecgstore import StoreFormatError
from ecgstore.sharing import notes
from ecgstore.sharing.notes import TagEntry, Tombstone

A, B = "a" * 64, "b" * 64


def test_what_is_written_is_read_again() -> None:
    assert notes.parse_entry(notes.tag_entry(TagEntry(A, None)), "x") == TagEntry(A, None)
    assert notes.parse_tombstone(notes.tombstone(Tombstone(A, B)), A, "x") == Tombstone(A, B)
    assert notes.parse_hint(notes.hint(7), "x") == 7
    notes.parse_marker(notes.marker(), "x")
    assert notes.marker() != notes.marker()
    assert notes.tag_entry(TagEntry(A, B)) != notes.tag_entry(TagEntry(A, B))


GOOD = {"format": "ecgstore-share", "fingerprint": A, "previous": None, "nonce": "0" * 32}


@pytest.mark.parametrize(
    "bent",
    [
        {"fingerprint": "../../etc"},
        {"fingerprint": A.upper()},
        {"fingerprint": 3},
        {"previous": "x"},
        {"nonce": "0" * 31},
        {"nonce": None},
        {"format": "other"},
        {"more": 1},
    ],
)
def test_an_entry_that_is_bent_is_refused(bent: dict[str, object]) -> None:
    notes.parse_entry(json.dumps(GOOD).encode(), "x")
    with pytest.raises(StoreFormatError):
        notes.parse_entry(json.dumps(GOOD | bent).encode(), "x")


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"a": 1, "a": 2}', b"\xff", b"[" * 2000, b" " * 5000])
def test_what_is_no_note_is_refused(content: bytes) -> None:
    for parse in (notes.parse_entry, notes.parse_hint, notes.parse_marker):
        with pytest.raises(StoreFormatError):
            parse(content, "x")


@pytest.mark.parametrize("number", [-1, notes.MOST_ENTRIES, 1.0, True, "1"])
def test_a_hint_is_a_number_within_bounds(number: object) -> None:
    with pytest.raises(StoreFormatError):
        notes.parse_hint(json.dumps({"format": "ecgstore-share", "number": number}).encode(), "x")


def test_a_share_of_a_later_release_is_refused() -> None:
    with pytest.raises(StoreFormatError, match="newer ecgstore"):
        notes.parse_marker(json.dumps({"format": "ecgstore-share", "version": 2, "more": 1}).encode(), "x")


def test_a_tombstone_belongs_to_its_name() -> None:
    with pytest.raises(StoreFormatError, match="another version"):
        notes.parse_tombstone(notes.tombstone(Tombstone(A, None)), B, "x")


@pytest.mark.parametrize(
    "name", ["tags/a/0.json", "tags/a/000000001.json", "tags/a/latest.json", "tags/a/x0000001.json"]
)
def test_only_eight_digits_are_an_entry(name: str) -> None:
    assert notes.entry_number(name) is None
    assert notes.entry_number(notes.entry_name("a", 12)) == 12
