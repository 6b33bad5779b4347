"""What tasks said, put together a task at a time: rows are numbered through, and a commit can't change meanwhile."""

from __future__ import annotations

import pyarrow as pa
import pytest

from ecgstore.build import commits, seal
from ecgstore.build.commits import Commit
from ecgstore.build.plan import Task
from ecgstore.build.sums import Sums
from ecgstore.errors import IntegrityError
from ecgstore.storage import layout, tables

FACTS = pa.table(
    {
        "codes": pa.array([["NORM"], [], ["AFIB", "LBBB"]], pa.list_(pa.string())),
        "systems": pa.array([["scp"], [], ["scp", "scp"]], pa.list_(pa.string())),
        "likelihoods": pa.array([[100.0], [], [None, 50.0]], pa.list_(pa.float32())),
    }
)


def written(symbols, annotated):
    """Rows of a commit, of which only annotations matter here."""
    schema = tables.commit_schema(1, annotated=annotated)
    samples = [list(range(len(its))) for its in symbols]
    said = {"beats.sample": samples, "beats.symbol": symbols, "record_id": [f"r{i}" for i in range(len(symbols))]}
    said |= {f"beats.{name}": [[None] * len(its) for its in symbols] for name, _ in tables.ANNOTATION if annotated}
    columns = [pa.array(said.get(field.name, [None] * len(symbols)), field.type) for field in schema]
    return pa.table(columns, schema=schema)


def test_statements_are_numbered_from_the_first_record_of_their_task():
    assert seal.statements(FACTS, 0)["row"].to_pylist() == [0, 2, 2]
    assert seal.statements(FACTS, 5_000_000_000)["row"].to_pylist() == [5_000_000_000, 5_000_000_002, 5_000_000_002]


@pytest.mark.parametrize("annotated", [False, True])
def test_beats_of_tasks_without_annotations_stand_beside_others(annotated):
    schema = tables.BEATS_SCHEMA
    found = seal.beats(written([["N", "V"], [], ["N"]], annotated), schema, 7)
    assert found.schema == schema
    assert found["row"].to_pylist() == [7, 7, 9]
    assert found["symbol"].to_pylist() == ["N", "V", "N"]
    assert found["note"].null_count == 3


def test_a_commit_that_changes_before_it_is_sealed_is_refused(tmp_path):
    task = Task(0, 1, ())
    rows = written([["N"]], annotated=True)
    commits.write(tmp_path, 0, Commit({}, rows, (), {"": Sums([1], [2], [3])}), "of this task")

    class OfOne:
        first_shard, n_records = task.first_shard, 1

    found = commits.load(tmp_path, OfOne(), "of this task")
    assert found.written.equals(rows)
    assert "beats.note" in found.names
    path = tmp_path / layout.commit_object(0)
    for content in (path.read_bytes()[:-9], tables.to_arrow(rows, {"task_sha256": "of this task"})):
        path.write_bytes(content)
        with pytest.raises(IntegrityError, match="a commit has changed"):
            _ = found.written
    path.unlink()
    with pytest.raises(IntegrityError, match="a commit has changed"):
        _ = found.written
