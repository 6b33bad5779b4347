from __future__ import annotations

import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecgstore.errors import ConfigError, SourceError
from ecgstore.settings import parse
from ecgstore.sources.wfdb_folder import Settings, list_records

COLUMNS = {"record_id": "file", "patient_id": "pid", "age_years": "alter", "sex": "geschlecht", "site": "klinik"}


@pytest.fixture
def root(tmp_path, write_record):
    write_record(tmp_path, "x1")
    write_record(tmp_path, "x2")
    return tmp_path


def csv_table(root, *lines):
    (root / "labels.csv").write_text("\n".join(lines) + "\n")


def codes(ref):
    return [(statement.code, statement.system) for statement in ref.statements]


def test_declared_columns_are_read_under_their_own_names(root):
    csv_table(root, "file,pid,alter,geschlecht,klinik,dx,remark", "x1,p1,61.5,F,north,426783006|164889003,seen twice")
    settings = Settings(labels="labels.csv", columns=COLUMNS, statements={"snomed_ct": "dx"}, separator="|")
    one, two = list_records(root, settings).records
    assert (one.patient_id, one.age_years, one.sex, one.site) == ("p1", 61.5, "female", "north")
    assert codes(one) == [("426783006", "snomed_ct"), ("164889003", "snomed_ct")]
    assert (two.patient_id, two.site, two.statements) == (None, None, ())


def test_without_declared_statements_columns_called_like_coding_systems_are_read(root):
    csv_table(root, "file,pid,scp_ecg,snomed_ct", "x1,p1,NORM;SR,426783006")
    one = list_records(root, Settings(labels="labels.csv", columns={"record_id": "file", "patient_id": "pid"})).records[
        0
    ]
    assert codes(one) == [("NORM", "scp_ecg"), ("SR", "scp_ecg"), ("426783006", "snomed_ct")]
    bare = Settings(labels="labels.csv", columns={"record_id": "file"}, statements={})
    listing = list_records(root, bare)
    assert listing.vocabulary == {}
    assert listing.records[0].statements == ()


def test_our_own_names_need_no_declaration_and_others_may_be_declared_beside_them(root):
    csv_table(root, "record_id,fold,person", "x1,3,p7")
    one = list_records(root, Settings(labels="labels.csv", columns={"patient_id": "person"})).records[0]
    assert (one.fold, one.patient_id, one.statements) == (3, "p7", ())


def test_a_coding_system_may_be_called_like_one_of_our_columns(root):
    csv_table(root, "record_id,sex,finding", "x1,F,A;B")
    one = list_records(root, Settings(labels="labels.csv", statements={"sex": "finding"})).records[0]
    assert (one.sex, codes(one)) == ("female", [("A", "sex"), ("B", "sex")])


def test_a_parquet_table_says_the_same_as_a_csv_one(root):
    table = {
        "record_id": ["x1", "x2"],
        "patient_id": pa.array([15709.0, None]),
        "fold": pa.array([3, None], pa.int16()),
        "age_years": [61.5, math.nan],
        "sex": ["F", None],
        "scp_ecg": ["NORM;SR", None],
    }
    pq.write_table(pa.table(table), root / "labels.parquet")
    csv_table(root, ",".join(table), "x1,15709,3,61.5,F,NORM;SR", "x2,,,,,")
    assert list_records(root, Settings(labels="labels.parquet")) == list_records(root, Settings(labels="labels.csv"))


def test_lists_and_numbers_in_parquet_are_codes(root):
    pq.write_table(pa.table({"record_id": ["x1"], "scp_ecg": [["NORM", "SR"]], "one": [164889003]}), root / "l.parquet")
    one = list_records(root, Settings(labels="l.parquet", statements=["scp_ecg", "one"])).records[0]
    assert codes(one) == [("NORM", "scp_ecg"), ("SR", "scp_ecg"), ("164889003", "one")]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"columns": {"record_id": "file", "patient_id": "pidd"}},
            r"'pidd', which source\.columns\.patient_id names.*'pid'",
        ),
        ({"columns": {"record_id": "fil"}}, r"'fil', which source\.columns\.record_id names.*did you mean 'file'"),
        (
            {"columns": {"record_id": "file"}, "statements": {"snomed_ct": "dxx"}},
            r"source\.statements\.snomed_ct.*'dx'",
        ),
        ({"columns": {"record_id": "file"}, "statements": {"s": "zz9"}}, r"'zz9'.*it has: file, pid, dx"),
        ({}, r"no column record_id.*source\.columns\.record_id"),
    ],
)
def test_a_missing_column_is_named_with_its_nearest(root, settings, message):
    csv_table(root, "file,pid,dx", "x1,p1,426783006")
    with pytest.raises(SourceError, match=message):
        list_records(root, Settings(labels="labels.csv", **settings))


def test_a_name_that_is_not_ours_is_refused_before_anything_is_read():
    with pytest.raises(ConfigError, match="unknown column 'patient', did you mean patient_id"):
        parse(Settings, {"columns": {"patient": "pid"}})
    with pytest.raises(ConfigError, match="separator"):
        parse(Settings, {"separator": ""})


def test_a_table_that_is_not_parquet_is_said(root):
    (root / "labels.parquet").write_text("record_id\nx1\n")
    with pytest.raises(SourceError, match="can't be read as Parquet"):
        list_records(root, Settings(labels="labels.parquet"))
    with pytest.raises(SourceError, match="not there"):
        list_records(root, Settings(labels="none.parquet"))
