"""What --append does where the source lost records, or says less of them than before."""

from __future__ import annotations

import pytest

import ecgstore
from ecgstore.build.ingest import ingest_folder
from ecgstore.build.settings import IngestSettings
from ecgstore.errors import SourceError

SETTINGS = IngestSettings(filters=(), max_rejected=1)


def ids(out):
    return ecgstore.open_store(out).column("record_id").tolist()


def test_a_folder_that_cannot_be_read_is_rejected_and_never_appended_over(tmp_path, write_record):
    write_record(tmp_path / "src", "r1")
    (tmp_path / "src" / "ward2").symlink_to("ward2")  # what an unreadable folder is to everybody, root included
    out = tmp_path / "out.ecg"
    report = ingest_folder(tmp_path / "src", out, SETTINGS)
    assert report.reasons == {"unreadable_folder": 1}
    with pytest.raises(SourceError, match=r"1 folders can't be read, so --append would drop.*got ward2/"):
        ingest_folder(tmp_path / "src", out, SETTINGS, append=True)
    assert ids(out) == ["r1"]


def test_records_that_are_gone_are_said(tmp_path, write_record):
    for name in ("r1", "r2"):
        write_record(tmp_path / "src", name)
    out = tmp_path / "out.ecg"
    ingest_folder(tmp_path / "src", out, SETTINGS)
    (tmp_path / "src" / "r2.hea").unlink()
    report = ingest_folder(tmp_path / "src", out, SETTINGS, append=True)
    assert report.notes == ("1 records of the version before are no longer in the source: r2",)
    assert ids(out) == ["r1"]
