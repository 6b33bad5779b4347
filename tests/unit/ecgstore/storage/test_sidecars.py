"""Tables beside a store: kept, read in the order of the records, and refused where they are not its own."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from ecgstore import (
    ConfigError,
    EcgError,
    Store,
    StoreExists,
    StoreFormatError,
    open_store,
    split_records,
    withdraw_records,
)
from ecgstore.cli import main
from ecgstore.storage.sidecar_tables import ABOUT
from ecgstore.storage.sidecars import add_sidecar, list_sidecars, passed_on, remove_sidecar


@pytest.fixture
def store(mini_store: Path, tmp_path: Path) -> Store:
    """The bundled records in a folder that may be written beside; the store itself is shared."""
    (tmp_path / "ptbxl.ecg").symlink_to(mini_store)
    return open_store(tmp_path / "ptbxl.ecg")


def test_columns_come_in_the_order_of_the_records(store: Store, tmp_path: Path) -> None:
    ids = store.column("record_id").tolist()
    lines = [f"{i / 2},{one},text {i}" for i, one in enumerate(ids[:10])][::-1]
    (tmp_path / "Troponin.csv").write_text("\n".join(["value,record_id,words", *lines]) + "\n")
    fingerprint = store.fingerprint
    added = add_sidecar(store, tmp_path / "Troponin.csv")
    assert (added.name, added.kind, added.columns, added.problem) == ("troponin", "columns", ("value", "words"), "")
    read = store.sidecar("troponin")
    assert read["record_id"].to_pylist() == ids
    assert read["value"].to_pylist() == [i / 2 for i in range(10)] + [None] * (len(ids) - 10)
    assert (open_store(store.path).fingerprint, store.verify()) == (fingerprint, [])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("record_id,a,a\n50,1,2\n", "a column stands in the table twice.*got a;"),
        ("record_id,record_id\n50,50\n", "a column stands in the table twice.*got record_id;"),
        ("record_id,a\n50,1,Jane Doe\n", "line 2 has not as many cells as the header.*expected 2, got 3"),
        ('record_id,a\n50,"Jane\n51,Doe\n', "can't be read from line 2"),
        ("record_id,a\n50,Jane\0\n", "no CSV.*bytes of 0"),
    ],
)
def test_csv_beside_a_store_is_read_as_tables_of_labels_are(
    store: Store, tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ConfigError, match=words) as refused:
        add_sidecar(store, tmp_path / "t.csv")
    assert "Jane" not in str(refused.value)
    assert not (tmp_path / "ptbxl.ecg.sidecars").exists()


def test_a_table_in_memory_with_a_column_twice_is_refused(store: Store) -> None:
    twice = pa.Table.from_arrays([pa.array(["50"])] * 3, names=["record_id", "a", "a"])
    with pytest.raises(ConfigError, match="a column stands in the table twice"):
        add_sidecar(store, twice, "twice")


@pytest.mark.parametrize("between", [",", ";", "\t", ", "])
def test_csv_of_spreadsheets_is_understood(store: Store, tmp_path: Path, between: str) -> None:
    one, other = store.column("record_id")[:2]
    lines = [
        ["value", "record_id", "note", "nothing"],
        ["1.5", one, '"two\nlines"', ""],
        ["", "", "", ""],
        ["2", other, "x", ""],
    ]
    (tmp_path / "t.csv").write_text("\ufeff" + "\n".join(map(between.join, lines)) + "\n\n", encoding="utf-8")
    add_sidecar(store, tmp_path / "t.csv")
    read = store.sidecar("t").slice(0, 2).to_pydict()
    assert read == {
        "record_id": [one, other],
        "value": [1.5, 2.0],
        "note": ["two\nlines", "x"],
        "nothing": [None, None],
    }


def test_annotations_have_their_record_s_number(store: Store) -> None:
    ids = store.column("record_id")
    table = pa.table(
        {"record_id": [ids[5], ids[2], ids[5]], "sample": [7, 1, 3], "when": pa.array([1, 2, 3], pa.date32())}
    )
    assert add_sidecar(store, table, "marks").kind == "annotations"
    read = store.sidecar("marks")
    assert read.select(["row", "sample"]).to_pydict() == {"row": [2, 5, 5], "sample": [1, 7, 3]}
    assert read["when"].to_pylist() == ["1970-01-03", "1970-01-02", "1970-01-04"]


def test_a_split_table_stays_one(store: Store, tmp_path: Path) -> None:
    split = split_records(store, folds=3)
    split.write(tmp_path / "three.parquet")
    assert add_sidecar(store, tmp_path / "three.parquet", "folds").kind == "split"
    assert (tmp_path / "ptbxl.ecg.sidecars" / "folds.parquet").read_bytes() == (tmp_path / "three.parquet").read_bytes()
    assert store.sidecar("folds")["fold"].to_pylist() == split.fold_n.tolist()


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"a": [1]}, "says of which record"),
        ({"record_id": ["nothing"], "a": [1]}, "records that the store doesn't hold"),
        ({"record_id": [None, "50"], "a": [1, 2]}, "names no record"),
        ({"record_id": ["50"]}, "number of columns"),
        ({"record_id": ["50"], "a": [[1, 2]]}, "type that a sidecar can't have"),
        ({"record_id": ["50"], "row": [1]}, "can't be called row"),
        ({"record_id": ["50"], "x" * 201: [1]}, "too long"),
        ({"record_id": [50], "a": [1]}, "says of which record"),
    ],
)
def test_a_table_that_can_t_be_kept_is_refused(store: Store, tmp_path: Path, table: dict, words: str) -> None:
    content = pa.table(
        {name: pa.array(value, pa.string() if value == [None, "50"] else None) for name, value in table.items()}
    )
    with pytest.raises(EcgError, match=words):
        add_sidecar(store, content, "table")
    assert not (tmp_path / "ptbxl.ecg.sidecars" / "table.parquet").exists()


def test_names_are_closed_and_nothing_is_replaced_unasked(store: Store) -> None:
    table = pa.table({"record_id": store.records["record_id"], "a": np.arange(store.n_records)})
    for name in ("../x", "A", "", ".x", "a.b", "x" * 65, None):
        with pytest.raises(ConfigError, match="can't be called so"):
            add_sidecar(store, table, name)
    add_sidecar(store, table, "a")
    with pytest.raises(StoreExists):
        add_sidecar(store, table, "a")
    add_sidecar(store, table, "a", overwrite=True)
    with pytest.raises(ConfigError, match="did you mean a"):
        store.sidecar("A")
    remove_sidecar(store, "a")
    with pytest.raises(ConfigError, match="no sidecar 'a'"):
        store.sidecar("a")


def test_a_table_of_the_version_before_is_not_this_one_s(mini_store: Path, tmp_path: Path) -> None:
    shutil.copytree(mini_store, tmp_path / "a.ecg")
    store = open_store(tmp_path / "a.ecg")
    table = pa.table({"record_id": store.records["record_id"], "a": np.arange(store.n_records)})
    add_sidecar(store, table, "old")
    withdraw_records(store, tmp_path / "a.ecg", records=[store.id_of(0)], overwrite=True)
    after = open_store(tmp_path / "a.ecg")
    add_sidecar(after, table.slice(1), "new")
    with pytest.raises(ConfigError, match="before it changed"):
        after.sidecar("old")
    assert [(one.name, bool(one.problem)) for one in list_sidecars(after)] == [("new", False), ("old", True)]
    assert [path.name for path in passed_on(after)] == ["new.parquet"]


def bent(path: Path, **about: object) -> None:
    """A sidecar whose metadata says something else."""
    table = pa.table({"record_id": ["50"], "a": [1]})
    said = {"format": "ecgstore sidecar", "version": 1, "store_fingerprint": "0" * 64} | about
    pq.write_table(table.replace_schema_metadata({ABOUT: json.dumps(said).encode()}), path)


def test_a_sidecar_from_a_stranger_is_input(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "ptbxl.ecg.sidecars"
    folder.mkdir()
    (folder / "junk.parquet").write_bytes(b"PAR1 is not enough PAR1")
    (folder / "text.parquet").write_bytes(b"record_id,a\n")
    bent(folder / "version.parquet", version=9)
    bent(folder / "extra.parquet", more=1)
    bent(folder / "other.parquet")
    pq.write_table(pa.table({"record_id": ["50"], "a": [1]}), folder / "bare.parquet")
    os.mkfifo(folder / "pipe.parquet")
    (folder / "link.parquet").symlink_to(folder / "junk.parquet")
    found = {one.name: one.problem for one in list_sidecars(store)}
    assert set(found) == {"junk", "text", "version", "extra", "other", "bare"}
    assert all(found.values())
    for name in ("junk", "text", "version", "extra", "bare"):
        with pytest.raises(StoreFormatError):
            store.sidecar(name)
    assert passed_on(store) == []


def test_the_commands_say_what_they_did(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"record_id,a\n{store.id_of(0)},1\n")
    run = CliRunner().invoke
    assert (
        run(main, ["sidecar", "add", store.path, str(tmp_path / "a.csv")]).stdout == "a: columns, 53 rows, columns a\n"
    )
    listed = json.loads(run(main, ["sidecar", "list", store.path, "--json"]).stdout)
    assert listed["sidecars"][0]["name"] == "a"
    assert run(main, ["sidecar", "remove", store.path, "a"]).exit_code == 0
    missing = run(main, ["sidecar", "add", store.path, str(tmp_path / "missing.csv")])
    assert (missing.exit_code, missing.stderr.count("\n")) == (1, 1)
