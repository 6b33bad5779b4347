from __future__ import annotations

import pytest

from ecgstore.build.settings import detect_source
from ecgstore.errors import SourceError
from ecgstore.record import RecordRef
from ecgstore.sources import mitdb


def write(root, *names, beats=True):
    root.mkdir(exist_ok=True)
    for name in names:
        (root / f"{name}.hea").write_text(f"{name} 2 360 650000\n")
        if beats:
            (root / f"{name}.atr").write_bytes(b"\0\0")


def described(*comments):
    return mitdb.describe(RecordRef("100", None), comments, mitdb.Settings())


def test_records_have_their_person_fold_and_beats(tmp_path):
    write(tmp_path, "202", "201", "102", "100")
    listing = mitdb.list_records(tmp_path, mitdb.Settings())
    assert [(ref.record_id, ref.patient_id, ref.fold, ref.annotators) for ref in listing.records] == [
        ("100", "100", 2, ("atr",)),
        ("102", "102", None, ("atr",)),
        ("201", "201", 1, ("atr",)),
        ("202", "201", 2, ("atr",)),
    ]
    assert listing.records[0].path == tmp_path / "100"
    assert (listing.terms.licence, listing.terms.doi) == ("ODC-By-1.0", "10.13026/C2F305")


def test_the_split_has_each_of_the_48_records_once():
    every = [*mitdb.DS1, *mitdb.DS2, *mitdb.PACED]
    assert (len(mitdb.DS1), len(mitdb.DS2), len(mitdb.PACED)) == (22, 22, 4)
    assert len(every) == len(set(every)) == len(mitdb.FOLDS) == 48
    crossing = {person for name, person in mitdb._SAME_PERSON.items() if mitdb.FOLDS[name] != mitdb.FOLDS[person]}
    assert crossing == {"201"}  # the one person in both halves


def test_a_record_without_beats_is_listed_without_annotator(tmp_path):
    write(tmp_path, "100", beats=False)
    (ref,) = mitdb.list_records(tmp_path, mitdb.Settings()).records
    assert ref.annotators == ()


@pytest.mark.parametrize(
    ("line", "age_years", "sex"),
    [
        ("69 M 1085 1629 x1", 69.0, "male"),
        ("23 F 2546 N/A x1", 23.0, "female"),
        ("-1 M 1085 1629 x1", None, "male"),
        ("? ? 1 2", None, None),
        ("Aldomet, Inderal", None, None),
        ("200 Mg of Digoxin", None, None),
    ],
)
def test_age_and_sex_stand_in_the_first_comment(line, age_years, sex):
    ref = described(line, "23 F in a remark", "Digoxin, Quinaglute")
    assert (ref.age_years, ref.sex, ref.statements) == (age_years, sex, ())
    assert described().age_years is None


def test_it_is_recognised_whole_or_in_part_but_not_among_others(tmp_path, write_record):
    write(tmp_path / "part", "100", "207")
    assert detect_source(tmp_path / "part").name == "mitdb"
    write(tmp_path / "silent", "100", beats=False)
    assert not mitdb.is_here(tmp_path / "silent")
    write(tmp_path / "more", "100", "118e06")  # the Noise Stress Test has such records
    assert not mitdb.is_here(tmp_path / "more")
    assert not mitdb.is_here(tmp_path)
    with pytest.raises(SourceError, match="none of the 48 records"):
        mitdb.list_records(tmp_path, mitdb.Settings())
