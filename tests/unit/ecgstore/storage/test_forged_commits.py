"""Commits that are not those of the shards beside them: `verify` says so before somebody withdraws or merges."""

from __future__ import annotations

import json
import re
import shutil

import pyarrow as pa
import pytest
from hostile_stores import GOLDEN, reseal

from ecgstore import open_store
from ecgstore.storage import layout, tables

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
