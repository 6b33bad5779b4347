"""Tags are logs: nothing is overwritten, the newest entry counts, and a hint may lag."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from ecgstore import StoreFormatError, StoreNotFound
from ecgstore.errors import TagMoved
from ecgstore.sharing import notes, tags, target
from ecgstore.sharing.folder import FolderTarget

A, B, C = "a" * 64, "b" * 64, "c" * 64


class Unlisted:
    """A folder as a web server shows it: nothing can be listed."""

    can_list = False

    def __init__(self, root: Path) -> None:
        self._folder, self.where, self.asked = FolderTarget(root), str(root), 0

    def read_part(self, name: str, begin: int, end: int) -> bytes:
        self.asked += 1
        return self._folder.read_part(name, begin, end)

    def listed(self, prefix: str) -> dict[str, Any]:
        return {}

    def folders(self, prefix: str) -> list[str]:
        return []


@pytest.fixture
def share(tmp_path: Path) -> FolderTarget:
    place = FolderTarget(tmp_path)
    target.prove(place)
    return place


def test_a_tag_moves_and_keeps_its_history(share: FolderTarget) -> None:
    assert tags.current(share, "t") is None
    assert tags.move(share, "t", A, None)
    assert tags.move(share, "t", B, A)
    assert tags.move(share, "t", A, B)
    assert not tags.move(share, "t", A, A)
    found = [(one.number, one.entry.fingerprint, one.entry.previous) for one in tags.history(share, "t")]
    assert found == [(2, A, B), (1, B, A), (0, A, None)]
    assert all(one.modified is not None for one in tags.history(share, "t"))
    assert tags.resolve(share, "t") == A


def test_a_tag_that_somebody_moved_is_left_alone(share: FolderTarget) -> None:
    tags.move(share, "t", A, None)
    tags.move(share, "t", B, A)
    for expected in (A, None, C):
        with pytest.raises(TagMoved, match="left alone"):
            tags.move(share, "t", C, expected)
    assert tags.resolve(share, "t") == B
    assert not tags.move(share, "t", B, A)  # somebody else pushed the same


@pytest.mark.parametrize("n", [2, 8])
def test_of_several_that_move_a_tag_one_wins(n: int, tmp_path: Path) -> None:
    for i in range(4):
        place = FolderTarget(tmp_path / str(i))
        tags.move(place, "t", A, None)
        barrier, won = threading.Barrier(n), []

        def run(j: int, place: Any = place, barrier: Any = barrier, won: list[str] = won) -> None:
            barrier.wait()
            try:
                if tags.move(place, "t", f"{j:064x}", A):
                    won.append(f"{j:064x}")
            except TagMoved:
                pass

        threads = [threading.Thread(target=run, args=(j,)) for j in range(n)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert won == [tags.resolve(place, "t")]
        assert len(list(tags.history(place, "t"))) == 2


def test_several_that_push_the_same_make_one_entry(share: FolderTarget) -> None:
    moved: list[bool] = []
    threads = [threading.Thread(target=lambda: moved.append(tags.move(share, "t", A, None))) for _ in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert sorted(moved) == [False] * 5 + [True]
    assert len(list(tags.history(share, "t"))) == 1


def test_a_torn_entry_counts_as_nothing_and_its_number_is_taken(share: FolderTarget) -> None:
    tags.move(share, "t", A, None)
    share.put(notes.entry_name("t", 1), b'{"format": "ecgst')
    share.put(notes.entry_name("t", 2), b"")
    assert tags.resolve(share, "t") == A
    assert tags.move(share, "t", B, A)
    assert tags.current(share, "t").number == 3
    assert tags.resolve(Unlisted(Path(share.where)), "t") == B


def test_an_entry_that_is_whole_and_wrong_is_refused(share: FolderTarget) -> None:
    tags.move(share, "t", A, None)
    for content in (b"{}\n", json.dumps({"format": "ecgstore-share", "fingerprint": "x"}).encode() + b"}\n", b"}\n"):
        share.put(notes.entry_name("t", 1), content)
        with pytest.raises(StoreFormatError):
            tags.resolve(share, "t")
    share.put(notes.entry_name("t", 1), b" " * notes.MOST_BYTES + b"{}\n")
    with pytest.raises(StoreFormatError, match="too large"):
        tags.resolve(share, "t")


@pytest.mark.parametrize("name", ["tags/t/99999999.json", "tags/t/1.json", "tags/t/x/00000009.json", "tags/t/a.json"])
def test_other_objects_in_a_tags_folder_are_passed_over(share: FolderTarget, name: str) -> None:
    tags.move(share, "t", A, None)
    share.put(name, notes.tag_entry(notes.TagEntry(B, None)))
    assert tags.resolve(share, "t") == A


@pytest.mark.parametrize("hint", [None, 0, 2, 4, 5, 900])
def test_without_listing_the_newest_is_found_from_any_hint(share: FolderTarget, hint: int | None) -> None:
    meant = None
    for fingerprint in (A, B, C, A, B):
        tags.move(share, "t", fingerprint, meant)
        meant = fingerprint
    if hint is None:
        share.delete([notes.hint_name("t")])
    else:
        share.put(notes.hint_name("t"), notes.hint(hint))
    unlisted = Unlisted(Path(share.where))
    assert tags.resolve(unlisted, "t") == B
    assert unlisted.asked <= 10
    assert len(list(tags.history(unlisted, "t"))) == 5


def test_a_hint_that_is_no_number_is_refused(share: FolderTarget) -> None:
    tags.move(share, "t", A, None)
    share.put(notes.hint_name("t"), b'{"number": "../../x"}\n')
    with pytest.raises(StoreFormatError):
        tags.resolve(Unlisted(Path(share.where)), "t")


def test_entries_without_end_are_given_up(share: FolderTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tags, "MOST_WALKED", 20)
    endless = Unlisted(Path(share.where))
    content = notes.tag_entry(notes.TagEntry(A, None))
    endless.read_part = lambda name, begin, end: notes.hint(0) if name.endswith("latest.json") else content
    with pytest.raises(StoreFormatError, match="lags"):
        tags.resolve(endless, "t")


def test_a_tag_that_is_not_there_is_said_so(share: FolderTarget, tmp_path: Path) -> None:
    tags.move(share, "t", A, None)
    with pytest.raises(StoreNotFound, match="there are t"):
        tags.resolve(share, "u")
    with pytest.raises(StoreNotFound, match="no share"):
        tags.resolve(FolderTarget(tmp_path / "nothing"), "t")


def test_a_hint_that_cannot_be_written_stops_nothing(share: FolderTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    from ecgstore import StoreError

    def refuse(*_: Any) -> None:
        raise StoreError("no right")

    monkeypatch.setattr(share, "put", refuse)
    assert tags.move(share, "t", A, None)
    assert tags.resolve(share, "t") == A
