"""What says who a patient is is found wherever it stands in a store; codes, terms and what is written here are not."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner

from ecgstore import cli, open_store
from ecgstore.errors import REASONS
from ecgstore.look.scrub import Finding, kind_of, scrub_check
from ecgstore.signals.quality import SIGNED_LEADS
from ecgstore.sources._challenge import DATABASES
from ecgstore.storage.store import Store
from ecgstore.vocabularies.names import holds_name
from ecgstore.vocabularies.packaged import rows
from ecgstore.vocabularies.vocabulary import is_snomed_ct

GOLDEN = Path(__file__).parents[3] / "golden"


@pytest.mark.parametrize(
    ("kind", "texts"),
    {
        "e-mail address": ["a.nurse@clinic.example", "seen by b+c@d-e.org"],
        "path": ["/home/u/x", "read C:\\data\\x", "\\\\server\\ecg", "~/ecg/", "file:/x", "in /mnt/ecg/1"],
        "date": [
            "1961-04-03",
            "19610403",
            "3.4.1961",
            "03/04/61",
            "4/23/1961",
            "3 Apr 1961",
            "r_2019-12-01_x",
            "23-APR-61",
        ],
        "long number": ["4711123", "MRN-00471112", "p10000032", "123-45-6789", "555 123 4567"],
        "name": [
            "Mueller",
            "schmidt_karl",
            "MARIA7",
            "Dr. GARCIA",
            "ward1/Müller/ecg",
            "LopezMaria",
            "karlschmidt",
            "wu_li",
            "Lee, Kim",
            "Zyxw^Abcd",
            "Mr Zyxw",
            "Łukasz",
            "Jürgen",
            "Juergen",
        ],
        "free text": ["the cat sat on the mat today", "x" * 61],
    }.items(),
)
def test_what_identifies_is_told_by_its_kind(kind, texts):
    assert [kind_of(text) for text in texts] == [kind] * len(texts)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "NORM",
            "1AVB",
            "JS10001",
            "A0001",
            "HR00001",
            "00001_lr",
            "records100/00000/00001_lr",
            "site-3",
            "sinus rhythm",
        ),
        *("100s", "mitdb/207", "1.0.3", "V1", "3.5 mV", "12345", "", "0.00001234567"),
    ],
)
def test_what_sets_call_their_records_and_codes_is_nobody(text):
    assert kind_of(text) is None


def test_no_code_or_place_of_this_package_is_a_person():
    for table in ("scored_2020", "scored_2021", "scp_snomed", "aami_beats"):
        for row in rows(table):
            assert not any(map(holds_name, row.values())), row
    assert not any(
        map(holds_name, (*DATABASES, *SIGNED_LEADS, *REASONS, *REASONS.values(), "WPW", "Wolff-Parkinson-White"))
    )


def test_what_is_written_as_a_name_is_one_in_ids_alone(mini_store):
    store = Edited(mini_store, record_id=["Zyxw_Abcd/1", "Ward_Three/1", "Stress-Test/a"], site=["Chapman_Shaoxing"])
    assert scrub_check(store) == (Finding("records.record_id", "name", 1, (0,)),)


def test_hashes_are_no_numbers_and_names_are_no_hashes(mini_store):
    digits = "1234567890123456"
    parent = {"parent": digits * 4}
    assert (
        scrub_check(Edited(mini_store, parent | {"record_ids": "hashed"}, record_id=[digits], patient_key=[digits]))
        == ()
    )
    found = scrub_check(Edited(mini_store, record_id=[digits], patient_key=["mueller"], source=["karl"]))
    assert {(one.where, one.kind) for one in found} == {
        ("records.record_id", "long number"),
        ("records.patient_key", "name"),
        ("records.source", "name"),
    }


def test_numbers_of_snomed_ct_have_a_check_digit():
    assert is_snomed_ct("426783006")
    assert not is_snomed_ct("426783005")
    assert not is_snomed_ct("426783")
    assert not is_snomed_ct("4711123")


@pytest.mark.parametrize("name", ["v1.ecg", "v2.ecg"])
def test_nothing_is_found_in_stores_of_open_sets(name, mini_store):
    for path in (mini_store, GOLDEN / name):
        if path.exists():
            assert scrub_check(open_store(path)) == ()


class Edited(Store):
    """A store as somebody else's ingest could have made it."""

    def __init__(self, path: Path, attributes: dict | None = None, **columns: list[str]) -> None:
        opened = open_store(path)
        self.__dict__.update(opened.__dict__)
        self._attributes = {**opened._attributes, **(attributes or {})}
        for name, texts in columns.items():
            filled = [*texts, *[None] * (self.n_records - len(texts))]
            at = self.records.column_names.index(name)
            self.records = self.records.set_column(at, name, pa.chunked_array([pa.array(filled, pa.string())]))


def test_each_place_is_named_and_counted_and_not_repeated(mini_store):
    store = Edited(
        mini_store,
        {
            "vocabulary": {"report": ["seen on 3.4.1961 by Dr. Mueller"]},
            "sources": [{"name": "x", "citation": "a@b.org"}],
        },
        record_id=["ok/1", "mueller_karl/2"],
        site=["a", "1961-04-03", "1961-04-03"],
    )
    assert set(scrub_check(store)) == {
        Finding("records.record_id", "name", 1, (1,)),
        Finding("records.site", "date", 2, (1, 2)),
        Finding("attributes.vocabulary.report", "date", 1, ()),
        Finding("attributes.sources.citation", "e-mail address", 1, ()),
    }


def test_the_command_says_what_and_where_and_not_whom(mini_store, tmp_path):
    clean = CliRunner().invoke(cli.main, ["scrub-check", str(mini_store)])
    assert clean.exit_code == 0
    assert "nothing found in 53 records" in clean.stdout
    answer = json.loads(CliRunner().invoke(cli.main, ["scrub-check", str(mini_store), "--json"]).stdout)
    assert (answer["ok"], answer["findings"]) == (True, [])


def test_the_command_fails_where_something_was_found(write_record, tmp_path):
    from ecgstore import IngestSettings, ingest_folder

    write_record(tmp_path / "in", "mueller_19610403")
    ingest_folder(tmp_path / "in", tmp_path / "out.ecg", IngestSettings(), workers=1)
    done = CliRunner().invoke(cli.main, ["scrub-check", str(tmp_path / "out.ecg")])
    assert done.exit_code == 1
    assert "records.record_id\tseems to hold: date\t1 times; rows 0" in done.stdout
    assert "mueller" not in done.output
