from __future__ import annotations

import gc

import pytest

from ecgstore.build.settings import detect_source
from ecgstore.errors import SourceError
from ecgstore.sources import mimic_iv_ecg
from ecgstore.sources.mimic_iv_ecg import Settings, list_records

ROWS = (
    "10000032,40689238,40689238,2180-07-23 08:44:00,files/p1000/p10000032/s40689238/40689238",
    "10000032,44458630,44458630,2180-07-23 09:54:00,files/p1000/p10000032/s44458630/44458630",
    "10000117,49036311,49036311,2181-03-04 17:14:00,files/p1000/p10000117/s49036311/49036311",
)
REPORTS = (
    '10000032,40689238,6848296,2180-07-23 08:44:00,Sinus rhythm,"Possible LVH, by voltage ",,Borderline ECG,40 Hz',
    "10000032,44458630,6848296,2180-07-23 09:54:00,sinus rhythm,Sinus rhythm,,,40 Hz",
)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "record_list.csv").write_text("\n".join(["subject_id,study_id,file_name,ecg_time,path", *ROWS]) + "\n")
    columns = "subject_id,study_id,cart_id,ecg_time,report_0,report_1,report_2,report_17,filtering"
    (tmp_path / "machine_measurements.csv").write_text("\n".join([columns, *REPORTS]) + "\n")
    return tmp_path


def codes(ref):
    return [(statement.code, statement.system) for statement in ref.statements]


def test_rows_become_records_of_their_subject(root):
    listing = list_records(root, Settings())
    assert [(ref.record_id, ref.patient_id) for ref in listing.records] == [
        ("40689238", "10000032"),
        ("44458630", "10000032"),
        ("49036311", "10000117"),
    ]
    assert listing.records[0].path == root / "files" / "p1000" / "p10000032" / "s40689238" / "40689238"
    assert not listing.rejected
    assert (listing.terms.licence, listing.terms.redistributable) == ("ODbL-1.0", False)
    assert detect_source(root).name == "mimic_iv_ecg"


def test_the_machine_s_lines_and_times_are_not_kept_unless_asked_for(root):
    assert not any(ref.statements for ref in list_records(root, Settings()).records)
    one, two, three = list_records(root, Settings(machine_statements=True)).records
    system = "mimic_machine"
    assert codes(one) == [("sinus rhythm", system), ("possible lvh, by voltage", system), ("borderline ecg", system)]
    assert codes(two) == [("sinus rhythm", system)]
    assert codes(three) == []
    assert one.statements[0] is two.statements[0]  # 800,000 records share a few thousand lines
    assert "2180" not in repr([one, two, three])


def test_identifiers_that_a_spreadsheet_changed_are_mended_or_refused(root):
    listed, reports = root / "record_list.csv", root / "machine_measurements.csv"
    listed.write_text(listed.read_text().replace("10000032,40689238,", "10000032.0,40689238.0,"))
    reports.write_text(reports.read_text().replace("10000032,40689238,", "10000032.0,40689238.0,"))
    one, two, _ = list_records(root, Settings(machine_statements=True)).records
    assert (one.record_id, one.patient_id) == ("40689238", "10000032")
    assert one.patient_id == two.patient_id
    assert len(one.statements) == 3
    listed.write_text(listed.read_text().replace("10000032,44458630", "1.00E+07,44458630"))
    with pytest.raises(SourceError, match=r"column subject_id holds a number that .* has rounded \(line 3\)"):
        list_records(root, Settings())


def test_two_reports_of_one_study_that_contradict_each_other_are_refused(root):
    with (root / "machine_measurements.csv").open("a") as file:
        file.write("10000032,44458630,6848296,2180-07-23 09:54:00,Sinus rhythm,,,,40 Hz\n")
    assert len(list_records(root, Settings(machine_statements=True)).records) == 3
    with (root / "machine_measurements.csv").open("a") as file:
        file.write("10000032,44458630,6848296,2180-07-23 09:54:00,Atrial fibrillation,,,,40 Hz\n")
    with pytest.raises(SourceError, match=r"another report of a study that has one \(line 5\)"):
        list_records(root, Settings(machine_statements=True))


def test_files_are_looked_for_only_on_request(root):
    path = root / "files" / "p1000" / "p10000032" / "s40689238"
    path.mkdir(parents=True)
    (path / "40689238.hea").write_text("")
    assert len(list_records(root, Settings()).records) == 3
    listing = list_records(root, Settings(check_files=True))
    assert [ref.record_id for ref in listing.records] == ["40689238"]
    assert [(one.record_id, one.reason) for one in listing.rejected] == [
        ("44458630", "missing_header"),
        ("49036311", "missing_header"),
    ]
    (path / "40689238.hea").unlink()
    with pytest.raises(SourceError, match="none of the 3 records"):
        list_records(root, Settings(check_files=True))


@pytest.mark.parametrize("path", ["/etc/passwd", "files/../../secret", "\\\\server\\share"])
def test_a_path_out_of_the_folder_is_refused(root, path):
    with (root / "record_list.csv").open("a") as file:
        file.write(f"1,666,666,2180-01-01 00:00:00,{path}\n")
    listing = list_records(root, Settings())
    assert [(one.record_id, one.reason) for one in listing.rejected] == [("666", "unsafe_path")]
    assert len(listing.records) == 3


def test_broken_tables_are_said_in_one_line(root):
    (root / "machine_measurements.csv").unlink()
    with pytest.raises(SourceError, match=r"machine_measurements\.csv is not there"):
        list_records(root, Settings(machine_statements=True))
    (root / "machine_measurements.csv").write_text("subject_id,study_id\n")
    with pytest.raises(SourceError, match="no report"):
        list_records(root, Settings(machine_statements=True))
    with (root / "record_list.csv").open("a") as file:
        file.write("1,2\n")
    with pytest.raises(SourceError, match="line 5 has not as many cells"):
        list_records(root, Settings())
    assert gc.isenabled()
    (root / "record_list.csv").write_text("subject_id,study_id\n1,2\n")
    with pytest.raises(SourceError, match="columns are missing.*'path'"):
        list_records(root, Settings())
    assert not mimic_iv_ecg.is_here(root)
    (root / "record_list.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SourceError, match="no CSV.*UTF-16"):
        list_records(root, Settings())
    (root / "record_list.csv").unlink()
    with pytest.raises(SourceError, match=r"record_list\.csv is not there"):
        list_records(root, Settings())
    assert not mimic_iv_ecg.is_here(root)
