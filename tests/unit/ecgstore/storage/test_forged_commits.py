"""Commits that are not those of the shards beside them: `verify` says so before somebody withdraws or merges."""

from __future__ import annotations

import contextlib
import json
import re
import shutil

import numpy as np
import pyarrow as pa
import pytest
from hostile_stores import GOLDEN, reseal

from ecgstore import open_store
from ecgstore.errors import StoreFormatError
from ecgstore.lineage.parents import Parent
from ecgstore.storage import batches, layout, tables
from ecgstore.storage.limits import Limits

COMMIT = "commits/000000.arrow"


@pytest.fixture
def root(tmp_path):
    return shutil.copytree(GOLDEN / "v2.ecg", tmp_path / "a.ecg")


def told(root, change):
    """Another commit: ``change`` is shown what it says of itself."""
    written, about = tables.from_arrow((root / COMMIT).read_bytes())
    change(about)
    (root / COMMIT).write_bytes(tables.to_arrow(written, about))
    reseal(root)


def put(root, change):
    """Another commit: ``change`` makes other rows of those that it has."""
    written, about = tables.from_arrow((root / COMMIT).read_bytes())
    (root / COMMIT).write_bytes(tables.to_arrow(change(written), about))
    reseal(root)


def with_column(table, name, values):
    at = table.column_names.index(name)
    return table.set_column(at, table.schema.field(at), pa.chunked_array([values], table.schema.field(at).type))


def named(root, change):
    """Another manifest: ``change`` is shown what it names."""
    content = json.loads((root / layout.MANIFEST).read_text())
    change(content["objects"])
    (root / layout.MANIFEST).write_text(json.dumps(content))
    reseal(root)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda about: about.pop("task_sha256"), "doesn't say what it is of"),
        (
            lambda about: about["objects"].update({"signal/c/0/9": [1, "0" * 64]}),
            "names objects that the store",
        ),
        (lambda about: about["objects"]["signal/c/0/0"].__setitem__(0, 5), "names objects that the store doesn't hold"),
        (lambda about: about["objects"].update({"records.parquet": [1, "0" * 64]}), "names objects that the store"),
        (lambda about: about.update(objects=[]), "names objects that the store doesn't hold"),
        (lambda about: about.update(rejected=[["x", "no_samples"]]), "doesn't say what was left out"),
        (lambda about: about.update(sums={"1": [[1], [1], [1]]}), "has no sums of its samples"),
        (lambda about: about.pop("sums"), "has no sums of its samples"),
        (lambda about: about["objects"].clear(), "signal/c/0/0: no commit is of this shard"),
        (lambda about: about["sums"].pop("5"), "zarr.json: the statistics are not the sums that the commits state"),
        (lambda about: about["sums"]["5"][1].__setitem__(3, 7), "zarr.json: the statistics are not the sums that"),
    ],
)
def test_what_a_commit_says_of_itself_is_so(root, change, said):
    told(root, change)
    (problem,) = open_store(root).verify()
    assert said in problem


OTHER_RECORDS = "a commit is not of the records that begin in its shards"
OTHER_WORDS = "a commit doesn't say of its records what the tables say"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows.slice(1), OTHER_RECORDS),
        (lambda rows: pa.concat_tables([rows, rows]), OTHER_RECORDS),
        (lambda rows: with_column(rows, "record_id", rows["record_id"].to_pylist()[::-1]), OTHER_RECORDS),
        (lambda rows: rows.rename_columns({"signature": "record_id", "record_id": "x"}), "a commit has no ids"),
        (lambda rows: rows.append_column("crc32", rows["crc32"]), "a commit has a column twice"),
        (lambda rows: rows.append_column("record_id", rows["record_id"]), "a commit has a column twice"),
        (lambda rows: with_column(rows, "crc32", [7] * len(rows)), f"{OTHER_WORDS}.*got 'crc32'"),
        (lambda rows: with_column(rows, "warnings", ["who"] * len(rows)), f"{OTHER_WORDS}.*got 'warnings'"),
        (lambda rows: rows.drop_columns("crc32").append_column("crc32", rows["n_clipped"]), f"{OTHER_WORDS}.*crc32"),
        (lambda rows: with_column(rows, "leads.mains_mv", [[9.0] * 12] * len(rows)), f"{OTHER_WORDS}.*leads.mains_mv"),
        (lambda rows: with_column(rows, "beats.symbol", [["V"]] * len(rows)), f"{OTHER_WORDS}.*beats.symbol"),
        (lambda rows: with_column(rows, "beats.sample", [[5]] * len(rows)), f"{OTHER_WORDS}.*beats.sample"),
        (lambda rows: rows.append_column("x", pa.array(["x" * 2_000_000] * len(rows))), "too large in memory"),
        (lambda rows: rows.append_column("x", pa.array(["x"] * len(rows)).dictionary_encode()), "packed as indices"),
    ],
)
def test_the_rows_of_a_commit_are_those_of_the_tables(root, change, said):
    assert open_store(root).verify() == []
    put(root, change)
    (problem,) = open_store(root).verify()
    assert re.search(said, problem)
    assert problem.startswith(f"{COMMIT}: ")


def test_a_commit_that_is_a_bomb_is_not_unpacked(root, monkeypatch):
    """A text of 64 MiB takes a few kB in the file."""
    written, about = tables.from_arrow((root / COMMIT).read_bytes())
    bomb = pa.array(["x" * (1 << 26), *[""] * (len(written) - 1)])
    (root / COMMIT).write_bytes(tables.to_arrow(written.append_column("x", bomb), about))
    reseal(root)
    assert (root / COMMIT).stat().st_size < 100_000
    monkeypatch.setattr(tables, "from_arrow", lambda content: pytest.fail("it was unpacked"))
    (problem,) = open_store(root).verify()
    assert "a commit is too large in memory" in problem
    with pytest.raises(StoreFormatError, match="a commit is too large in memory"):
        Parent.of(open_store(root)).commit(COMMIT)


@pytest.mark.parametrize("packing", [None, "lz4", "zstd"])
def test_the_size_of_an_arrow_file_is_that_of_its_columns(packing):
    table = pa.table(
        {"a": ["b" * 1000, None, "c"], "d": [[1, 2], None, [3]], "e": pa.array([1.5, None, 2], pa.float32())}
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=packing)) as file:
        file.write_table(table)
        file.write_table(table.slice(1))
    content = sink.getvalue().to_pybytes()
    found = batches.size_of(content)
    assert found.n_rows == 5
    assert table.nbytes <= found.n_bytes < table.nbytes + 200
    rng = np.random.default_rng(0)
    for end in range(len(content)):
        with pytest.raises(ValueError, match="."):
            batches.size_of(content[:end])
    for _ in range(2000):  # whatever stands there, an answer or a ValueError comes of it
        other = bytearray(content)
        for at in rng.integers(len(content), size=3):
            other[at] = rng.integers(256)
        with contextlib.suppress(ValueError):
            batches.size_of(bytes(other))


def test_a_file_larger_than_the_limit_is_not_unpacked(monkeypatch):
    content = tables.to_arrow(pa.table({"record_id": ["x" * 4_000_000]}), {})
    assert tables.from_arrow(content)[0].num_rows == 1
    monkeypatch.setattr(tables, "limits", lambda: Limits(decoded_bytes=1_000_000))
    with pytest.raises(ValueError, match="bytes when unpacked, 1000000 at most"):
        tables.from_arrow(content)


@pytest.mark.parametrize("content", [b"", b"junk", b"ARROW1" * 10, (2**31 - 1).to_bytes(4, "little") + b"ARROW1"])
def test_a_commit_that_is_none_is_found(root, content):
    (root / COMMIT).write_bytes(content)
    reseal(root)
    (problem,) = open_store(root).verify()
    assert problem.startswith(f"{COMMIT}: ")
    assert "\n" not in problem


def test_a_commit_without_ids_is_found(root):
    written, about = tables.from_arrow((root / COMMIT).read_bytes())
    (root / COMMIT).write_bytes(tables.to_arrow(written.drop_columns(["record_id"]), about))
    reseal(root)
    assert "a commit has no ids" in open_store(root).verify()[0]
    with pa.ipc.new_file(root / COMMIT, written.schema) as file:
        file.write_table(written)
    reseal(root)
    assert "a commit says nothing of itself" in open_store(root).verify()[0]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("commits/000099.arrow", "of a shard that is not there; .*expected 0 to 0, got 99"),
        ("commits/0000000.arrow", "has another name than this version gives"),
        ("commits/000001.json", "has another name than this version gives"),
    ],
)
def test_a_commit_of_no_shard_is_found(root, name, said):
    shutil.copy(root / COMMIT, root / name)
    named(root, lambda objects: objects.update({name: objects[COMMIT]}))
    (problem,) = open_store(root).verify()
    assert re.search(said, problem)


def test_a_shard_without_a_commit_is_found(root):
    (root / COMMIT).unlink()
    named(root, lambda objects: objects.pop(COMMIT))
    assert open_store(root).verify() == ["signal/c/0/0: no commit is of this shard"]


def test_commits_of_version_1_are_read_as_they_were_written(tmp_path):
    root = shutil.copytree(GOLDEN / "v1.ecg", tmp_path / "a.ecg")
    path = root / "commits/000000.json"
    content = json.loads(path.read_text())
    for change, said in (
        ({"objects": {}}, "signal/c/0/0: no commit is of this shard"),
        ({"written": []}, "a commit lacks its rows"),
        ({"plan_sha256": 1}, "doesn't say what it is of"),
    ):
        path.write_text(json.dumps(content | change))
        reseal(root)
        (problem,) = open_store(root).verify()
        assert said in problem
