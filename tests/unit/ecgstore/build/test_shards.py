"""A shard is read back from the disk before it counts."""

from __future__ import annotations

import numpy as np
import pytest

from ecgstore import IntegrityError
from ecgstore.build import shards
from ecgstore.storage import layout, publish
from ecgstore.storage.array import create_array, open_array
from ecgstore.storage.manifest import hash_object

CHUNK = layout.CHUNK_SAMPLES


@pytest.fixture
def root(tmp_path):
    """An array of two shards, the second of them cut short."""
    create_array(tmp_path, "blosc", 2, CHUNK + 9, CHUNK)
    return tmp_path


def test_a_shard_is_what_its_hash_says_and_zarr_reads_it(root):
    counts_lt = np.arange(18, dtype=np.int16).reshape(2, 9)
    name = layout.shard_object(1)
    assert shards.write_counts(root, 1, np.pad(counts_lt, ((0, 0), (0, 3))), CHUNK) == {name: hash_object(root / name)}
    assert np.array_equal(open_array(root)[:, CHUNK:], counts_lt)
    assert [path.name for path in (root / name).parent.iterdir()] == [(root / name).name]


def test_a_shard_without_a_sample_takes_away_what_a_killed_task_left(root):
    name = layout.shard_object(0)
    publish.write_bytes(root / name, b"torn")
    assert shards.write_counts(root, 0, np.full((2, CHUNK), layout.NOT_RECORDED, np.int16), CHUNK) == {}
    assert not (root / name).exists()


@pytest.mark.parametrize("at", [3, 40, -1])
def test_what_the_disk_did_not_keep_is_noticed(root, monkeypatch, at):
    def unsound(path, content, **how):
        changed = bytearray(content)
        changed[at] ^= 1
        return honest(path, bytes(changed), **how)

    honest = publish.write_bytes
    monkeypatch.setattr(publish, "write_bytes", unsound)
    with pytest.raises(IntegrityError, match="differs from what was written"):
        shards.write_counts(root, 0, np.arange(2 * CHUNK).reshape(2, -1).astype(np.int16), CHUNK)
