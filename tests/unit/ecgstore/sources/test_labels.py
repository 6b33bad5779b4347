"""Tables of labels: what is read is asked and not guessed, and what can't be is refused with its line."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile_values import text_bomb

from ecgstore.errors import ConfigError, SourceError
from ecgstore.settings import parse
from ecgstore.sources import _labels
from ecgstore.sources._labels import by_record, looks_like, read_labels, system_of
from ecgstore.sources.wfdb_folder import Settings


def table(tmp_path, text, name="labels.csv", encoding="utf-8"):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    return path


def said(path, *ids, **options):
    labels = read_labels(path, **options)
    return by_record(labels, ids or ("r1", "r2"))[0], labels.notes


# ── Which columns are read ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "header",
    [
        "record_id,patient_id,fold,age_years,sex,site,scp_ecg",
        "Record ID, Patient-ID ,FOLD,Age (years),Gender,Centre,SCP-ECG",
        "recordId,subject_id,strat_fold,age,SEX,Site,scp codes",
        "\ufeffrecord,patient,fold,AGE,sex,site,SCP_ECG_Statements",
    ],
)
def test_known_columns_are_known_by_any_spelling(tmp_path, header):
    found, notes = said(table(tmp_path, f"{header}\nr1, 7,3,61.5,F, north,NORM;SR\n"))
    one = found["r1"]
    assert (one.patient_id, one.fold, one.age_years, one.sex, one.site) == ("7", 3, 61.5, "female", "north")
    assert [(s.code, s.system) for s in one.statements] == [("NORM", "scp_ecg"), ("SR", "scp_ecg")]
    assert notes == ()


@pytest.mark.parametrize(
    ("name", "system"),
    [
        ("SNOMED-CT", "snomed_ct"),
        ("snomed_codes", "snomed_ct"),
        ("ICD-10 code", "icd10"),
        ("ICD9CM", "icd9"),
        ("Minnesota Code", "minnesota"),
        ("AHA_Code", "aha"),
        ("report", None),
        ("dx", None),
        ("birth_date", None),
        ("scpx", None),
    ],
)
def test_coding_systems_are_a_closed_list(name, system):
    assert system_of(name) == system


def test_other_columns_are_left_out_aloud_and_never_shown_from_inside(tmp_path):
    path = table(tmp_path, "record_id,scp_ecg,patient_name,,Bericht\nr1,NORM,Xq Zyx,1,free text\n")
    found, notes = said(path)
    assert [s.code for s in found["r1"].statements] == ["NORM"]
    assert "3 columns that nobody named: patient_name, (no name), Bericht" in notes[0]
    assert "no column patient_id" in notes[1]
    assert "Xq" not in "".join(notes)


def test_columns_of_statements_are_named_by_a_list_or_by_their_systems():
    assert Settings(labels="t.csv", statements=["diagnosis", "SCP codes", "local=dx"]).statements == {
        "diagnosis": "diagnosis",
        "scp_ecg": "SCP codes",
        "local": "dx",
    }
    for wrong in (["scp", "scp_ecg"], [""], ["=x"]):
        with pytest.raises(ValueError, match=r"are of the system|has no name"):
            Settings(labels="t.csv", statements=wrong)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("record_id,age,age_years\nr1,1,1\n", {}, r"2 columns of the labels could be age_years.*source\.columns"),
        ("record_id,Patient,Subject_ID\nr1,1,1\n", {}, "could be patient_id: Patient, Subject_ID"),
        ("record_id,icd10,ICD-10 codes\nr1,I48,I48\n", {}, "could be icd10"),
        ("record_id,patient_id\nr1,7\n", {"statements": {"a": "patient_id"}}, "can't hold statements"),
        ("record_id,pid\nr1,7\n", {"columns": {"patient_id": "pid"}, "statements": {"a": "pid"}}, "can't hold state"),
        (
            "record_id,patient_id\nr1,7\n",
            {"columns": {"site": "patient_id"}},
            "read as an identifier, so it can't hold sit",
        ),
        (
            "record_id,x\nr1,7\n",
            {"columns": {"patient_id": "x", "site": "x"}},
            "read as patient_id, so it can't hold sit",
        ),
        (
            "record_id,x\nr1,7\n",
            {"columns": {"site": "x"}, "statements": {"a": "x"}},
            "read as site, so it can't hold st",
        ),
        ("record_id,remark,remark\nr1,a,b\n", {}, "a column stands in the table twice.*remark"),
        ("", {}, "no column record_id.*an empty file"),
    ],
)
def test_columns_that_could_be_meant_twice_are_refused(tmp_path, text, options, message):
    with pytest.raises(SourceError, match=message):
        read_labels(table(tmp_path, text), **options)


def test_a_named_column_settles_which_of_two_is_meant(tmp_path):
    path = table(tmp_path, "record_id,patient,patient_id\nr1,Zyx,7\n")
    found, notes = said(path, columns={"patient_id": "PATIENT ID"})
    assert found["r1"].patient_id == "7"
    assert "a column that nobody named: patient " in notes[0]


# ── What cells may hold ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "word",
    ["", "NA", "n/a", "nan", "NaN", "NULL", "None", "-", "<NA>", "#N/A", " na ", "#REF!", "Unknown", "missing", "N.A"],
)
def test_missing_is_missing_in_every_spelling(tmp_path, word):
    head = "record_id,patient_id,fold,age,sex,site,scp_ecg\n"
    found, _ = said(table(tmp_path, f"{head}r1{f',{word}' * 6}\n{word}{f',{word}' * 6}\n"))
    assert found == {"r1": _labels.Label()}


def test_whole_numbers_that_became_fractions_are_whole_again(tmp_path):
    path = table(tmp_path, "record_id,patient_id,fold,snomed_ct,icd9\nr1,12345.0,2.0,426783006.0,427.0\nr2,12345,2,,\n")
    found, _ = said(path)
    assert found["r1"].patient_id == found["r2"].patient_id == "12345"
    assert found["r1"].fold == found["r2"].fold == 2
    assert [s.code for s in found["r1"].statements] == ["426783006", "427.0"]


@pytest.mark.parametrize("value", ["2.5", "-1", "20210401", "three", "1e9", "inf", "1_0", "0x1", "١"])
def test_a_fold_is_a_whole_number_within_bounds(tmp_path, value):
    with pytest.raises(SourceError, match=r"column Fold is no whole number from 0 to 999 \(lines 3, 4\)") as refused:
        read_labels(table(tmp_path, f"record_id,Fold\nr1,1\nr2,{value}\nr3,{value}\n"))
    assert repr(value) not in str(refused.value)


@pytest.mark.parametrize("value", ["-5", "inf", "300", "121", "old", "1e400"])
def test_an_age_is_within_bounds(tmp_path, value):
    with pytest.raises(SourceError, match=r"column age is no number from 0 to 120 \(line 2\)"):
        read_labels(table(tmp_path, f"record_id,age\nr1,{value}\n"))


def test_an_unknown_spelling_of_sex_is_said_by_its_line(tmp_path):
    path = table(tmp_path, "record_id,patient_id,sex\nr1,1,Weiblich\nr2,2,1\nr3,3,unknown\nr4,4,Zyx\n")
    found, notes = said(path, "r1", "r2", "r3", "r4")
    assert [one.sex for one in found.values()] == ["female", None, None, None]
    assert notes == ("column sex says neither female nor male, and is left empty (lines 3, 5)",)


def test_all_that_is_wrong_is_said_at_once(tmp_path):
    rows = "".join(f"r{k},x,-1\n" for k in range(9))
    with pytest.raises(SourceError, match=r"column fold .* \(lines 2, 3, 4, 5, 6 and 4 more\); column age .*"):
        read_labels(table(tmp_path, f"record_id,fold,age\n{rows}"))


@pytest.mark.parametrize("column", ["patient_id", "snomed_ct", "dx"])
@pytest.mark.parametrize("rounded", ["1.23457E+11", '"1,2e11"', "1e+16"])
def test_a_number_that_a_spreadsheet_rounded_is_no_identifier(tmp_path, column, rounded):
    path = table(tmp_path, f"record_id,{column}\nr1,{rounded}\n")
    with pytest.raises(SourceError, match=rf"column {column} holds a number that .* has rounded \(line 2\)"):
        read_labels(path, statements={"local": "dx"} if column == "dx" else None)


def test_hexadecimal_identifiers_are_not_taken_for_rounded_numbers(tmp_path):
    found, _ = said(table(tmp_path, "record_id,patient_id\n7e123456,1e234567\n"), "7e123456")
    assert found["7e123456"].patient_id == "1e234567"


@pytest.mark.parametrize(("bits", "least"), [(16, 2**11), (32, 2**24), (64, 2**53)])
def test_fractions_of_parquet_that_can_hold_no_identifier_are_no_patients(tmp_path, bits, least):
    kind = {16: pa.float16(), 32: pa.float32(), 64: pa.float64()}[bits]
    for value, is_exact in ((least - 1, True), (least, False)):
        path = parquet(tmp_path, record_id=["r1"], patient_id=pa.array([np.dtype(f"f{bits // 8}").type(value)], kind))
        if is_exact:
            assert said(path, "r1")[0]["r1"].patient_id == str(value)
        else:
            with pytest.raises(SourceError, match=r"column patient_id holds a number .* rounded \(row 1\)"):
                read_labels(path)


def test_one_name_in_the_two_forms_of_unicode_is_one(tmp_path):
    composed, apart = "M\u00fcller", "Mu\u0308ller"
    path = table(
        tmp_path, f"record_id,patient_id,site\nw/{composed}1,{composed},{apart}\n{composed}2,{apart},{composed}\n"
    )
    found, _ = said(path, f"w/{apart}1", f"w/{apart}2")
    one, other = found[f"w/{apart}1"], found[f"w/{apart}2"]
    assert one.patient_id == other.patient_id == one.site == other.site == composed
    assert _labels.names_patient(f"w/{apart}1_x", f"{composed}1")
    with pytest.raises(SourceError, match="names 2 records"):
        said(table(tmp_path, f"record_id,fold\n{composed},1\n"), f"a/{composed}", f"b/{apart}")


# ── Statements that are none ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["1961-04-01", "A"], "dates"),
        (["01.04.1961"], "dates"),
        (["19610401", "19620501"], "dates"),
        (["a" * 65], "texts"),
        (["one two three four five six seven eight nine"], "texts"),
        (["MRN-0001", "MRN-0002", "MRN-0003"], "identifiers"),
        ([f"Name{'x' * k}" for k in range(20)], "identifiers"),
    ],
)
def test_columns_that_hold_no_codes_are_refused_unless_text_is_allowed(tmp_path, cells, kind):
    rows = "".join(f"r{k},{cell}\n" for k, cell in enumerate(cells))
    path = table(tmp_path, f"record_id,diagnosis\n{rows}")
    with pytest.raises(SourceError, match=f"column diagnosis seems to hold {kind}.*--allow-text") as refused:
        read_labels(path, statements={"local": "diagnosis"})
    assert cells[0] not in str(refused.value)
    assert len(read_labels(path, statements={"local": "diagnosis"}, allow_text=True).rows) == len(cells)
    with pytest.raises(SourceError, match=f"column site seems to hold {kind}"):
        read_labels(table(tmp_path, f"record_id,site\n{rows}"))


@pytest.mark.parametrize("column", ["site", "dx"])
def test_no_text_is_longer_than_a_store_can_hold(tmp_path, column):
    path = table(tmp_path, f"record_id,{column}\nr1,{'x' * 10_001}\n")
    with pytest.raises(SourceError, match=rf"column {column} has more than 10000 letters \(line 2\)"):
        read_labels(path, statements={"dx": "dx"} if column == "dx" else None, allow_text=True)


def test_names_are_names_in_a_table_of_two_rows():
    assert looks_like(["Doe, Jane", "Smith John"]) == "names"
    assert looks_like(["LopezMaria", "NORM", "Kim_Lee"]) == "names"
    assert looks_like(["Martin", "Martin"]) is None


def test_codes_pass_for_codes():
    assert looks_like(["F1", "F2", "F3", "F4"]) is None
    assert looks_like(["NORM", "AFIB", "MI", "left bundle branch block"]) is None
    assert looks_like(["1AVB", "PRC(S)", "STD_", "LAO/LAE"], _labels.SYSTEMS["scp_ecg"][1]) is None
    assert looks_like(["NORM,AFIB"], _labels.SYSTEMS["scp_ecg"][1])
    assert looks_like(["I48.0", "i21", "Z95.0"], _labels.SYSTEMS["icd10"][1]) is None
    assert looks_like(["427.31", "V45.0", "42731"], _labels.SYSTEMS["icd9"][1]) is None
    assert looks_like(["1-1-2", "8.3.1", "911"], _labels.SYSTEMS["minnesota"][1]) is None
    assert looks_like(["Ann Zyx"], _labels.SYSTEMS["snomed_ct"][1])


@pytest.mark.parametrize(
    ("cell", "fix"),
    [
        ('"426783006, 164889003"', 'separator=","'),
        ("426783006|164889003", 'separator="|"'),
        ("426783006 164889003", 'separator=" "'),
        ("Jane 426783006", "--allow-text"),
        ('"Doe, Jane"', "--allow-text"),
    ],
)
def test_codes_that_something_else_stands_between_are_told_by_it(tmp_path, cell, fix):
    with pytest.raises(SourceError, match=re.escape(fix)):
        read_labels(table(tmp_path, f"record_id,snomed_ct\nr1,{cell}\n"))


# ── The form of the table ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_other_delimiters_are_understood(tmp_path, delimiter):
    text = 'record_id,age,scp_ecg\nr1,61.5,"NORM;SR"\n'.replace(",", delimiter).replace("61.5", "61,5")
    found, _ = said(table(tmp_path, text))
    assert found["r1"].age_years == 61.5
    assert [s.code for s in found["r1"].statements] == ["NORM", "SR"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("record_id,site\nr1,Köln\n".encode("latin-1"), "not in UTF-8.*save it as CSV UTF-8"),
        ("record_id\nr1\n".encode("utf-16"), "no CSV.*UTF-16"),
        (b"PK\x03\x04 and so on", "no CSV.*a spreadsheet or an archive"),
        (b"record_id\n\0\n", "no CSV.*bytes of 0"),
        (b"record_id,fold\nr1\n", "line 2 has not as many cells as the header.*expected 2, got 1"),
        (b"record_id,fold\n\nr1,1,NORM\n", "line 3 has not as many cells"),
        (b'record_id,fold\nr1,"1\nr2,2\n', "can't be read from line 2"),
        (b"record_id,site\nr1,a\x1b[31m\n", "a control character in line 2"),
        (b"record_id,fold\n,1\n", r"column record_id is empty \(line 2\)"),
    ],
)
def test_what_is_no_table_is_said_in_one_line(tmp_path, content, message):
    path = tmp_path / "labels.csv"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=message) as refused:
        read_labels(path)
    assert "\n" not in str(refused.value)
    assert "\x1b" not in str(refused.value)


def test_blank_rows_are_passed_over_and_lines_still_count(tmp_path):
    path = table(tmp_path, "\nrecord_id,fold\n,\n\n  \nr1,1\n , \nr2,x\n")
    with pytest.raises(SourceError, match=r"\(line 8\)"):
        read_labels(path)


# ── Rows and records ─────────────────────────────────────────────────────────────────────────────────────


def test_equal_rows_pass_and_contradicting_ones_name_both_lines(tmp_path):
    equal = table(tmp_path, "record_id,sex,scp_ecg\nr1,F,NORM\nw/r1,female,NORM\n", "equal.csv")
    assert list(said(equal, "w/r1")[0]) == ["w/r1"]
    other = table(tmp_path, "record_id,scp_ecg\nr1,NORM\nr1,NORM\nw/r1,AFIB\n", "other.csv")
    with pytest.raises(SourceError, match=r"lines 2 and 4 of the labels contradict.*record w/r1"):
        said(other, "w/r1")


def test_a_name_of_two_records_is_said_unless_one_is_the_path(tmp_path):
    path = table(tmp_path, "record_id,fold\nr1,1\n")
    with pytest.raises(SourceError, match=r"line 2 of the labels names 2 records: a/r1, b/r1"):
        said(path, "a/r1", "b/r1")
    assert list(said(path, "a/r1", "r1")[0]) == ["r1"]


@pytest.mark.parametrize("name", ["w/r1", "w/r1.hea", "./w/r1", "w\\r1.dat", "r1.HEA"])
def test_a_row_may_spell_a_path_as_programs_do(tmp_path, name):
    assert list(said(table(tmp_path, f"record_id,fold\n{name},1\n"), "w/r1")[0]) == ["w/r1"]


def test_a_table_of_other_records_is_refused_as_a_whole(tmp_path):
    with pytest.raises(SourceError, match=r"none of 2 rows of the labels names a record.*such as w/r1"):
        said(table(tmp_path, "record_id,fold\nx,1\ny,1\n"), "w/r1")


@pytest.mark.parametrize("named", [{"statements": ["dx"]}, {"columns": {"site": "ward"}}])
def test_columns_of_no_table_are_refused(named):
    with pytest.raises(ConfigError, match="columns are named, but no table of labels; give --labels"):
        parse(Settings, named)


# ── Parquet of elsewhere ─────────────────────────────────────────────────────────────────────────────────


def parquet(tmp_path, **columns):
    path = tmp_path / "labels.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def test_gigabytes_of_text_in_a_few_bytes_are_not_unpacked(tmp_path):
    path = tmp_path / "labels.parquet"
    path.write_bytes(text_bomb())
    assert path.stat().st_size < 100_000
    with pytest.raises(SourceError, match="too large.*bytes in memory"):
        read_labels(path)


def test_text_that_is_none_is_refused(tmp_path):
    wrong = pa.array([b"r1\xff"]).view(pa.string())
    with pytest.raises(SourceError, match="can't be read as Parquet.*UTF-?8"):
        read_labels(parquet(tmp_path, record_id=wrong))


def test_a_date_that_no_calendar_has_is_refused(tmp_path):
    far = pa.array([2**62], pa.timestamp("us"))
    with pytest.raises(SourceError, match="can't be read as Parquet"):
        read_labels(parquet(tmp_path, record_id=["r1"], seen=far))


def test_bytes_are_read_as_the_texts_that_they_are(tmp_path):
    path = parquet(tmp_path, record_id=[b"r1"], patient_id=["Müller".encode()], scp_ecg=[[b"NORM", b"SR"]])
    found, _ = said(path)
    assert (found["r1"].patient_id, [one.code for one in found["r1"].statements]) == ("Müller", ["NORM", "SR"])
    with pytest.raises(SourceError, match="can't be read as Parquet"):
        read_labels(parquet(tmp_path, record_id=[b"r1\xff"]))


def test_lists_of_codes_and_texts_are_read(tmp_path):
    path = parquet(tmp_path, record_id=["r1", "r2"], scp_ecg=[["NORM", "SR"], []], fold=[1, None])
    found, _ = said(path)
    assert [one.code for one in found["r1"].statements] == ["NORM", "SR"]
    assert found["r1"].fold == 1
    assert found["r2"].statements == ()
