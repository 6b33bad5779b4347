from __future__ import annotations

import csv
import shutil

import pytest

from ecgstore import rooms
from ecgstore.build.settings import detect_source
from ecgstore.errors import ConfigError, SourceError
from ecgstore.sources import ptbxl, wfdb_folder


def test_ptbxl_lists_what_its_tables_say(mini):
    listing = ptbxl.list_records(mini, ptbxl.Settings())
    assert len(listing.records) == 53
    with (mini / "ptbxl_database.csv").open() as file:
        rows = {row["ecg_id"]: row for row in csv.DictReader(file)}
    for ref in listing.records:
        row = rows[ref.record_id]
        assert ref.fold == int(row["strat_fold"])
        assert ref.sex == ("female" if row["sex"] == "1" else "male")
        assert ref.patient_id == row["patient_id"].removesuffix(".0")
        for statement in ref.statements:
            stated = f"'{statement.code}': {statement.likelihood or 0.0}"
            assert stated in row["scp_codes"]
    assert len(listing.vocabulary["scp_ecg"]) == 71


def test_a_partial_ptbxl_says_row_by_row_what_is_absent(mini, tmp_path):
    shutil.copytree(mini, tmp_path / "part")
    gone = sorted((tmp_path / "part" / "records500").rglob("*.hea"))[:3]
    for hea in gone:
        hea.unlink()
    listing = ptbxl.list_records(tmp_path / "part", ptbxl.Settings())
    assert len(listing.records) == 50
    assert {one.reason for one in listing.rejected} == {"missing_header"}
    assert len(listing.rejected) == 3


def test_over_89_is_not_three_hundred_years(mini, tmp_path):
    shutil.copytree(mini, tmp_path / "old")
    table = tmp_path / "old" / "ptbxl_database.csv"
    lines = table.read_text().splitlines()
    fields = lines[1].split(",")
    fields[2] = "300.0"
    table.write_text("\n".join([lines[0], ",".join(fields)]) + "\n")
    (ref,) = ptbxl.list_records(tmp_path / "old", ptbxl.Settings()).records
    assert ref.age_years == 90.0


def test_ptbxl_without_its_tables_or_files_says_what_to_do(mini, tmp_path):
    with pytest.raises(SourceError, match=r"ptbxl_database\.csv is not there"):
        ptbxl.list_records(tmp_path, ptbxl.Settings())
    with pytest.raises(SourceError, match=r"has its 100 Hz files.*source\.rate_hz=500"):
        ptbxl.list_records(mini, ptbxl.Settings(rate_hz=100))
    (tmp_path / "ptbxl_database.csv").write_text("ecg_id,patient_id\n1,2\n")
    with pytest.raises(SourceError, match=r"columns are missing.*scp_codes"):
        ptbxl.list_records(tmp_path, ptbxl.Settings())


@pytest.mark.parametrize(
    ("codes", "said"),
    [
        ("{'NORM': 100.0, 'NORM': 0.0}", "no mapping of codes to percent"),
        ("[['NORM', 100.0]]", "no mapping of codes to percent"),
        ("{'NORM': {}}", "no mapping of codes to percent"),
        ("{'Doe^Jane born 1961-04-01': 100.0}", "holds other things than codes"),
    ],
)
def test_a_row_of_ptbxl_states_each_code_once_and_nothing_else(mini, tmp_path, codes, said):
    shutil.copytree(mini, tmp_path / "wrong")
    table = tmp_path / "wrong" / "ptbxl_database.csv"
    rows = list(csv.DictReader(table.read_text().splitlines()))
    rows[1]["scp_codes"] = codes
    with table.open("w", newline="") as file:
        out = csv.DictWriter(file, rows[0].keys())
        out.writeheader()
        out.writerows(rows)
    with pytest.raises(SourceError, match=rf"{said} \(line 3\)") as refused:
        ptbxl.list_records(tmp_path / "wrong", ptbxl.Settings())
    assert "Jane" not in str(refused.value)


def test_a_folder_is_searched_through_and_labelled_by_path_or_name(tmp_path, write_record):
    write_record(tmp_path / "a", "x1")
    write_record(tmp_path / "b" / "c", "x2")
    (tmp_path / "labels.csv").write_text(
        "record_id,patient_id,fold,age_years,sex,scp_ecg,snomed_ct\n"
        "a/x1,p1,3,61.5,F,NORM;SR,\n"
        "x2,p2,,,male,,426783006\n"
        "x9,p3,1,,,,\n"
    )
    listing = wfdb_folder.list_records(tmp_path, wfdb_folder.Settings(labels="labels.csv"))
    one, two = listing.records
    assert (one.record_id, one.patient_id, one.fold, one.age_years, one.sex) == (
        "a/x1",
        "p1",
        3,
        61.5,
        "female",
    )
    assert [(s.code, s.system) for s in one.statements] == [("NORM", "scp_ecg"), ("SR", "scp_ecg")]
    assert (two.record_id, two.fold, two.sex) == ("b/c/x2", None, "male")
    assert [one.record_id for one in listing.rejected] == ["x9"]
    assert listing.vocabulary == {"scp_ecg": ("NORM", "SR"), "snomed_ct": ("426783006",)}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("name,fold\nr1,1\n", "no column record_id"),
        ("record_id,fold\nr1,three\n", r"column fold is no whole number from 0 to 999 \(line 2\)"),
    ],
)
def test_labels_that_cannot_be_used_are_said(tmp_path, write_record, labels, message):
    write_record(tmp_path, "r1")
    (tmp_path / "labels.csv").write_text(labels)
    with pytest.raises(SourceError, match=message):
        wfdb_folder.list_records(tmp_path, wfdb_folder.Settings(labels="labels.csv"))
    with pytest.raises(SourceError, match="not there"):
        wfdb_folder.list_records(tmp_path, wfdb_folder.Settings(labels="none.csv"))


def test_a_folder_is_recognised_by_what_is_in_it(mini, tmp_path):
    assert detect_source(mini).name == "ptbxl"
    assert detect_source(tmp_path).name == "wfdb_folder"


def test_a_source_that_is_not_in_the_room_names_the_nearest():
    with pytest.raises(ConfigError, match="unknown source 'ptb-xl'; did you mean ptbxl"):
        rooms.occupant("ecgstore.sources", "ptb-xl")
