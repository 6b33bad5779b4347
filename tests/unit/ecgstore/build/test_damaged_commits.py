"""Commits that are not what was written: of a store that is being built, and of one that grows."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from ecgstore import open_store
from ecgstore.build import commits
from ecgstore.build.ingest import ingest_folder
from ecgstore.build.parts import seal_store
from ecgstore.build.settings import IngestSettings
from ecgstore.errors import IntegrityError
from ecgstore.storage import layout, tables
from ecgstore.storage.manifest import hash_bytes

SETTINGS = IngestSettings(source={"name": "wfdb_folder"})


@pytest.fixture
def source(tmp_path, write_record):
    for number in range(3):
        write_record(tmp_path / "src", f"r{number}")
    return tmp_path / "src"


def places(n_bytes, n):
    return [int(at) for at in np.random.default_rng(n_bytes).choice(n_bytes, n, replace=False)]


def change(path, at):
    """As a disk forgets: one bit, in a file that shares nothing with another."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << at % 8
    path.unlink()
    path.write_bytes(content)


def test_a_changed_bit_in_a_commit_or_its_note_is_done_again(source, tmp_path):
    whole = ingest_folder(source, tmp_path / "whole.ecg", SETTINGS)
    begun = tmp_path / "begun.ecg"
    ingest_folder(source, begun, SETTINGS, part=(1, 1))
    for name, n in ((layout.commit_object(0), 12), (layout.note_of_commit(0), 3)):
        for at in places((begun / name).stat().st_size, n):
            out = shutil.copytree(begun, tmp_path / f"{n}-{at}.ecg")
            change(out / name, at)
            report = ingest_folder(source, out, SETTINGS)
            assert (report.fingerprint, report.n_shards_resumed) == (whole.fingerprint, 0)
    assert seal_store(begun).fingerprint == whole.fingerprint
    assert not list(begun.glob("building*"))


def test_a_store_that_grows_takes_no_damaged_commit_over(source, tmp_path, write_record):
    before = tmp_path / "before.ecg"
    ingest_folder(source, before, SETTINGS)
    grown = shutil.copytree(before, tmp_path / "grown.ecg")
    whole = ingest_folder(source, grown, SETTINGS, append=True)
    assert whole.n_shards_resumed == 1
    for at in places((before / layout.commit_object(0)).stat().st_size, 6):
        out = shutil.copytree(before, tmp_path / f"{at}.ecg")
        change(out / layout.commit_object(0), at)
        report = ingest_folder(source, out, SETTINGS, append=True)
        assert (report.fingerprint, report.n_shards_resumed) == (whole.fingerprint, 0)
        assert open_store(out).verify(deep=True) == []


@pytest.mark.parametrize("lacks", ["n_clipped", "leads.flat_fraction", "beats.sample"])
def test_a_commit_from_elsewhere_that_lacks_a_column_is_refused(source, tmp_path, lacks):
    out = tmp_path / "out.ecg"
    ingest_folder(source, out, SETTINGS, part=(1, 1))
    path = out / layout.commit_object(0)
    written, about = tables.from_arrow(path.read_bytes())
    path.write_bytes(tables.to_arrow(written.drop_columns([lacks]), about))
    commits.note(out, 0, hash_bytes(path.read_bytes()))
    with pytest.raises(IntegrityError, match=r"a commit of the store doesn't hold what one must.*000000\.arrow"):
        seal_store(out)
    path.unlink()
    assert ingest_folder(source, out, SETTINGS).records == 3
