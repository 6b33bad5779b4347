"""The commands on stores that come from elsewhere: the one that was expected, and ids that a terminal would obey."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hostile_stores import forge, reseal

from ecgstore import cli, open_store
from ecgstore.storage import layout, tables

RAW = {"\x1b", "\x07", "\x9b", "\u202e", "\u200b"}


def here(*words):
    return CliRunner().invoke(cli.main, [str(word) for word in words])


@pytest.fixture
def root(tmp_path):
    return forge(2, tmp_path / "a.ecg", [])


def test_verify_knows_the_store_that_was_expected(root):
    fingerprint = open_store(root).fingerprint
    for given in (fingerprint, fingerprint[:32], f" {fingerprint.upper()} "):
        done = here("verify", root, "--deep", "--fingerprint", given)
        assert done.exit_code == 0
        assert "deep check passed" in done.output
    other = "0" * 64
    for given in (other, fingerprint[:40] + "0" * 24):
        done = here("verify", root, "--fingerprint", given)
        assert done.exit_code == 1
        assert "not the store that you expect" in done.output
        assert fingerprint in done.output
        assert done.output.count("\n") == 1
    for given in (fingerprint[:31], "", "x" * 64, fingerprint + "0"):
        done = here("verify", root, "--fingerprint", given)
        assert done.exit_code == 2
        assert "give 32 or more" in done.output


@pytest.mark.parametrize(
    "record_id", ["a\x1b]0;T\x07b", "$x$_$", "one\ntwo\tthree", "\u202eevil\u200b\x9b5m", "<b>&amp;"]
)
def test_any_id_is_shown_and_drawn(root, tmp_path, record_id):
    pytest.importorskip("matplotlib")
    table = tables.from_parquet((root / layout.RECORDS).read_bytes())
    ids = pa.array([record_id, "2", "3"])
    pq.write_table(table.set_column(0, "record_id", ids), root / layout.RECORDS)
    reseal(root)
    listed = here("records", root)
    assert listed.output.count("\n") == 4
    assert {line.count("\t") for line in listed.output.splitlines()} == {9}
    assert json.loads(here("records", root, "--json").output)[0]["record_id"] == record_id
    drawn = here("plot", root, record_id, "--out", tmp_path / "x.svg")
    assert drawn.exit_code == 0, drawn.output
    text = (tmp_path / "x.svg").read_text(encoding="utf-8")
    ET.fromstring(text)
    written = here("report", root, "--out", tmp_path / "x.html", "--pages", 1)
    assert written.exit_code == 0, written.output
    missing = here("plot", root, record_id + "x", "--out", tmp_path / "x.svg")
    assert missing.output.count("\n") == 1
    for output in (listed.output, missing.output, text):
        assert not RAW & set(output)


def test_records_of_the_first_format_are_listed(tmp_path):
    listed = here("records", forge(1, tmp_path / "a.ecg"))
    assert listed.exit_code == 0, listed.output
    assert "suspects" not in listed.output.splitlines()[0]
    assert listed.output.count("\n") == 4
