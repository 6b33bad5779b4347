"""The card of a store: what stands in it, what people say of it, text that can't break out; Croissant that loads."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from click.testing import CliRunner

from ecgstore import ConfigError, open_store, subset_store
from ecgstore.cli import main
from ecgstore.look.card import card, plain, sentence
from ecgstore.look.croissant import CONTEXT, croissant
from ecgstore.storage.beside import CardSettings, card_of, files_beside, folder_beside, read_card, write_card

SAID = {
    "title": "Ward <b>A</b> | *ECGs* [x](javascript:alert)",
    "description": "# Not a heading\n\n- nor `a list`",
    "licence": "CC-BY-4.0",
    "licence_url": "https://creativecommons.org/licenses/by/4.0/",
    "contact": "data@ward.example",
    "citation": "Somebody: a data set, 2026",
    "creators": ["The ward"],
    "keywords": ["Holter"],
    "version": "1.2.0",
    "published": "2026-11-28",
    "limits": ["1. Only adults."],
}


def test_the_card_says_what_the_store_says(mini_store: Path, tmp_path: Path) -> None:
    parent = open_store(mini_store)
    subset_store(parent, tmp_path / "part.ecg", folds=[1, 2])
    store = open_store(tmp_path / "part.ecg")
    text = card(store, CardSettings(**SAID))
    for told in (
        store.fingerprint,
        parent.fingerprint,
        store.recipe_sha256,
        f"| records | {store.n_records} |",
        "I II III aVR aVL aVF V1 V2 V3 V4 V5 V6",
        "| rate | 100 Hz |",
        "10.13026/kfzx-aw45",
        "Wagner et al.",
        "1: 11, 2: 4",
        "NORM",
        "bandpass (low\\_hz 0.5",
        "hashed with the source's name as key",
        "data@ward.example",
        "Somebody: a data set, 2026",
        "1\\. Only adults.",
        "subset of",
        "withdrawn",
    ):
        assert told in text, told
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert [line.removeprefix("## ") for line in headings[1:]] == [
        "What it is",
        "Terms",
        "How it was made",
        "Who is in it",
        "Statements",
        "Quality",
        "What was left out",
        "Limits",
        "How to read it",
    ]
    assert card(store, CardSettings(**SAID)) == text
    assert "may not be passed on" not in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<script>", "\\<script\\>"),
        ("a|b", "a\\|b"),
        ("[x](y)", "\\[x\\](y)"),
        ("![x](y)", "\\!\\[x\\](y)"),
        ("two\nlines", "two lines"),
        ("a\x1b[31m", "a\\\\x1b\\[31m"),
        ("&lt;", "\\&lt;"),
        ("back\\", "back\\\\"),
    ],
)
def test_text_from_elsewhere_is_no_markdown(text: str, shown: str) -> None:
    assert plain(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"), [("- a", "\\- a"), ("1. a", "1\\. a"), ("# a", "\\# a"), ("1.5 mV", "1\\.5 mV")]
)
def test_a_line_begins_no_list(text: str, shown: str) -> None:
    assert sentence(text) == shown


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:rdflib")
def test_croissant_is_valid_and_loads_offline(mini_store: Path, tmp_path: Path, caplog) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    (tmp_path / "ptbxl.ecg").symlink_to(mini_store)
    (tmp_path / "card.yaml").write_text(json.dumps(SAID))
    store = ["card", str(tmp_path / "ptbxl.ecg"), "--from", str(tmp_path / "card.yaml")]
    done = CliRunner().invoke(main, [*store, "--croissant", str(tmp_path / "about.json")])
    assert done.exit_code == 0, done.output
    said = json.loads((tmp_path / "about.json").read_text())
    assert said["@context"] == CONTEXT
    with caplog.at_level(logging.WARNING):
        loaded = mlcroissant.Dataset(tmp_path / "about.json")
    assert (loaded.metadata.ctx.issues.errors, loaded.metadata.ctx.issues.warnings) == (set(), set())
    assert "not standard" not in caplog.text
    opened = open_store(mini_store)
    ids = [row["records/record_id"].decode() for row in loaded.records("records")]
    assert ids == opened.column("record_id").tolist()
    first = next(iter(loaded.records("statements")))
    assert (first["statements/row"], first["statements/code"].decode()) == (0, opened.statements["code"][0].as_py())
    files = {one["@id"]: one for one in said["distribution"]}
    assert files["records.parquet"]["sha256"] == opened.objects["records.parquet"].sha256
    assert files["shards"]["@type"] == "cr:FileSet"


def test_without_a_word_the_sources_speak(mini_store: Path) -> None:
    store = open_store(mini_store)
    assert "Nobody has said under which licence" in card(store)
    assert json.loads(croissant(store))["license"] == "CC-BY-4.0"


def test_an_ingest_keeps_the_card_beside_the_store(mini: Path, mini_store: Path, tmp_path: Path) -> None:
    (tmp_path / "card.yaml").write_text(json.dumps(SAID))
    settings = ["--bandpass", "0.5", "40", "--fs", "100"]
    command = ["ingest", str(mini), str(tmp_path / "a.ecg"), *settings, "--card", str(tmp_path / "card.yaml")]
    assert CliRunner().invoke(main, command).exit_code == 0
    assert open_store(tmp_path / "a.ecg").fingerprint == open_store(mini_store).fingerprint
    assert card_of(tmp_path / "a.ecg") == CardSettings(**SAID)
    assert files_beside(tmp_path / "a.ecg") == [tmp_path / "a.ecg.sidecars" / "card.yaml"]
    assert CliRunner().invoke(main, ["card", str(tmp_path / "a.ecg")]).exit_code == 0
    assert "data@ward.example" in (tmp_path / "a.ecg.card.md").read_text()
    assert open_store(tmp_path / "a.ecg").verify() == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("title: x\nlicense: y", "did you mean licence"),
        ("description: x", "title"),
        ("title: x\nlicence_url: 'javascript:alert(1)'", "begins with https"),
        ("title: x\nlicence_url: 'https://user:pass@host/'", "begins with https"),
        ("title: x\npublished: yesterday", "published"),
        ("title: ''", "title"),
        ("title: [1]", "title"),
        ("- x", "mapping"),
        ("title: x\nlimits: " + json.dumps(["x"] * 101), "limits"),
    ],
)
def test_a_card_that_is_none_is_refused_before_any_work(mini: Path, tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "card.yaml").write_text(content)
    with pytest.raises(ConfigError, match=words):
        read_card(tmp_path / "card.yaml")
    command = ["ingest", str(mini), str(tmp_path / "a.ecg"), "--card", str(tmp_path / "card.yaml")]
    refused = CliRunner().invoke(main, command)
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)
    assert not (tmp_path / "a.ecg").exists()


def test_what_stands_beside_a_store_and_what_does_not(tmp_path: Path) -> None:
    assert folder_beside(tmp_path / "a.ecg") == tmp_path / "a.ecg.sidecars"
    assert folder_beside(f"{tmp_path}/a.ecg/") == tmp_path / "a.ecg.sidecars"
    with pytest.raises(ConfigError, match="copy it first"):
        folder_beside("s3://bucket/a.ecg")
    write_card(tmp_path / "a.ecg", CardSettings(title="A"))
    folder = tmp_path / "a.ecg.sidecars"
    for name in ("notes.parquet", "UPPER.parquet", "other.txt", ".hidden.parquet"):
        (folder / name).write_bytes(b"")
    (folder / "link.parquet").symlink_to(folder / "notes.parquet")
    assert [path.name for path in files_beside(tmp_path / "a.ecg")] == ["card.yaml", "notes.parquet"]
