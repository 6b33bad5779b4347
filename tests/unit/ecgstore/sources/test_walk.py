from __future__ import annotations

import os

import pytest

from ecgstore.errors import SourceError
from ecgstore.sources import cinc2021, wfdb_folder
from ecgstore.sources._walk import is_litter, stems_in, walk
from ecgstore.wfdb_io.samples import read_counts


def touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")


def test_links_are_followed_and_each_folder_is_searched_once(tmp_path):
    root = tmp_path / "src"
    touch(root / "b", "r1.hea")
    touch(tmp_path / "elsewhere" / "deep", "r2.hea")
    (root / "a").symlink_to(root / "b")  # by name before b, yet b is the way without a link
    (root / "c").symlink_to(tmp_path / "elsewhere")
    (root / "d").symlink_to(tmp_path / "elsewhere" / "deep")
    (tmp_path / "elsewhere" / "back").symlink_to(root)
    found = walk(root)
    assert found.stems == ("b/r1", "c/deep/r2")
    assert (found.rejected, found.notes) == ((), ())


def test_a_link_to_a_folder_above_is_not_followed_and_said(tmp_path):
    root = tmp_path / "src"
    touch(root, "r1.hea")
    touch(tmp_path / "private", "secret.hea")
    (root / "up").symlink_to(tmp_path)
    found = walk(root)
    assert found.stems == ("r1",)
    assert found.notes == ("did not follow links to a folder that the source is in: up",)


def test_links_that_lead_nowhere_or_in_circles_are_rejected(tmp_path):
    touch(tmp_path / "ward", "r1.hea")
    (tmp_path / "ward" / "loop").symlink_to("loop")
    (tmp_path / "unmounted").symlink_to(tmp_path / "gone")
    (tmp_path / "notes.txt").symlink_to(tmp_path / "gone.txt")
    found = walk(tmp_path)
    assert found.stems == ("ward/r1",)
    assert sorted((one.record_id, one.reason) for one in found.rejected) == [
        ("unmounted/", "unreadable_folder"),
        ("ward/loop/", "unreadable_folder"),
    ]
    assert str(tmp_path) not in repr(found.rejected)


def test_a_root_that_is_no_folder_is_one_error(tmp_path):
    with pytest.raises(SourceError, match="the source folder can't be read"):
        walk(tmp_path / "gone")


def test_headers_are_found_in_any_case_and_twins_are_said(tmp_path):
    touch(tmp_path, "a.HEA", "b.Hea", "c.hea", "c.HEA", "d.header")
    found = walk(tmp_path)
    assert found.stems == ("a", "b", "c")
    assert [(one.record_id, one.reason, one.detail) for one in found.rejected] == [
        ("c.HEA", "duplicate_id", "kept c.hea")
    ]
    assert stems_in(tmp_path) == ["a", "b", "c"]
    assert stems_in(tmp_path / "gone") == []


def test_a_record_of_capitals_comes_in(tmp_path, write_record):
    write_record(tmp_path, "R1", file_name="R1.DAT")
    (tmp_path / "R1.hea").rename(tmp_path / "R1.HEA")
    (ref,) = wfdb_folder.list_records(tmp_path, wfdb_folder.Settings()).records
    assert read_counts(ref.path)[0].shape == (12, 5000)


def test_litter_is_passed_over_and_counted_where_it_held_headers(tmp_path):
    touch(tmp_path, "r1.hea", "._r1.hea", ".hea", ".DS_Store")
    touch(tmp_path / "__MACOSX" / "ward", "._r1.hea", "._r1.dat")
    touch(tmp_path / ".ipynb_checkpoints", "r1.hea")
    touch(tmp_path / "@eaDir" / "r1.dat", "thumbnail")
    found = walk(tmp_path)
    assert found.stems == ("r1",)
    assert found.rejected == ()
    assert found.notes == (
        "passed over 4 header files of hidden or foreign folders and names: ._r1.hea, .hea, .ipynb_checkpoints "
        "and 1 more",
    )
    assert not is_litter("lost")


def test_other_files_of_a_record_are_told_as_they_are_spelt(tmp_path):
    touch(tmp_path / "x", "r.1.hea", "r.1.dat", "r.1.ATR", "r.1.qrs", "other.atr")
    assert walk(tmp_path).beside == {"x/r.1": (".ATR", ".qrs")}


def test_a_name_that_is_no_text_is_rejected_by_a_name_that_is(tmp_path):
    try:
        (tmp_path / os.fsdecode(b"r\xff.hea")).write_bytes(b"")
    except OSError:
        pytest.skip("this file system takes no such name")
    (one,) = walk(tmp_path).rejected
    assert (one.record_id, one.reason) == ("r?.hea", "bad_header")


def test_a_challenge_says_which_headers_are_not_its_own(tmp_path):
    touch(tmp_path / "linked", "JS00001.hea")
    touch(tmp_path / "src", "A0001.hea", "patient.hea", "._A0001.hea")
    (tmp_path / "src" / "more").symlink_to(tmp_path / "linked")
    listing = cinc2021.list_records(tmp_path / "src", cinc2021.Settings())
    assert [ref.record_id for ref in listing.records] == ["A0001", "JS00001"]
    assert [note.partition(":")[0] for note in listing.notes] == [
        "passed over 1 header files of hidden or foreign folders and names",
        "passed over 1 headers that are not the challenge's",
    ]


def test_a_broken_link_with_a_dot_in_its_name_or_without_utf8_is_a_folder_too(tmp_path):
    (tmp_path / "a.hea").touch()
    for name in ("2021.03", "site.a", "a.atr", "a.xyz9", "gone.dat", os.fsdecode(b"bad\xff")):
        (tmp_path / name).symlink_to("/nowhere-at-all")
    found = walk(tmp_path)
    assert [(one.record_id, one.reason) for one in found.rejected] == [
        ("2021.03/", "unreadable_folder"),
        ("bad?/", "unreadable_folder"),
        ("site.a/", "unreadable_folder"),
    ]
