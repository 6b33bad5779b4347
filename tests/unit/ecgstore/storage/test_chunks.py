"""Samples read directly are those that zarr reads, on every layout; what lies about itself is refused."""

from __future__ import annotations

import json
import shutil
import struct

import google_crc32c
import numpy as np
import pytest

from ecgstore import IntegrityError, open_store
from ecgstore.storage import layout
from ecgstore.storage.array import create_array, open_array
from ecgstore.storage.chunks import Chunks, create, is_packed_here, pack

CHUNK = layout.CHUNK_SAMPLES


class Made:
    """An array as ingest writes it, and what is read of it."""

    def __init__(self, root, n_chunks, total):
        self.root, self.asked = root, []
        create_array(root, "blosc", 2, total, n_chunks * CHUNK)
        self.array = open_array(root)
        self.metadata = json.loads((root / layout.SIGNAL_JSON).read_text())

    def write(self, begin, end):
        draw = np.random.default_rng(begin)
        self.array[:, begin:end] = draw.integers(-900, 900, (2, end - begin), dtype=np.int16)

    def read(self, name, begin, end):
        self.asked.append((begin, end))
        return (self.root / name).read_bytes()[begin:end]

    def chunks(self):
        sizes = {str(path.relative_to(self.root)): path.stat().st_size for path in self.root.rglob("c/*/*")}
        return Chunks(self.metadata, sizes, self.read)


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """Shards of one chunk; of three, with a chunk and a whole shard that have no sample."""
    root = tmp_path_factory.mktemp("arrays")
    single, several = Made(root / "single", 1, 2 * CHUNK + 101), Made(root / "several", 3, 9 * CHUNK - 7)
    single.write(0, 2 * CHUNK + 101)
    several.write(0, CHUNK)
    several.write(2 * CHUNK, 3 * CHUNK)
    several.write(6 * CHUNK, 9 * CHUNK - 7)
    return single, several


@pytest.fixture
def several(arrays):
    arrays[1].asked.clear()
    return arrays[1]


@pytest.mark.parametrize("which", [0, 1])
def test_what_is_read_is_what_zarr_reads(arrays, which):
    made = arrays[which]
    total = made.array.shape[1]
    edges = {at + d for at in range(0, total + 1, CHUNK) for d in (-1, 0, 1)} | {total}
    edges = sorted(edge for edge in edges if 0 <= edge <= total)
    whole = made.array[:]
    for begin in edges:
        for end in edges:
            if begin < end:
                found = made.chunks().counts(begin, end)
                assert found.dtype == np.int16
                assert np.array_equal(found, whole[:, begin:end]), (begin, end)
    assert (whole[:, CHUNK : 2 * CHUNK] == layout.NOT_RECORDED).all() == (which == 1)


def test_an_index_is_asked_for_once_and_a_chunk_that_was_just_read_not_again(several):
    chunks = several.chunks()
    first = chunks.counts(0, 500)
    assert len(several.asked) == 2  # the index, the chunk
    first[:] = 7  # who is given samples may write into them
    again = chunks.counts(0, 500)
    assert len(several.asked) == 2
    assert not (again == 7).all()
    chunks.counts(2 * CHUNK, 2 * CHUNK + 500)
    assert len(several.asked) == 3


def test_a_whole_shard_is_one_read_and_chunks_side_by_side_are_one(several):
    chunks = several.chunks()
    chunks.counts(6 * CHUNK, 9 * CHUNK - 7)
    assert len(several.asked) == 1
    several.chunks().counts(6 * CHUNK + 1, 8 * CHUNK - 1)
    assert len(several.asked) == 3  # the index, and both chunks at once


@pytest.mark.parametrize(
    ("at", "value", "said"),
    [
        ("offset", 2**40, "points out of it"),
        ("offset", 2**64 - 2, "points out of it"),
        ("length", 2**63, "points out of it"),
        ("length", 5, "claims another size"),
        ("unpacked", 2**31 - 1, "claims another size"),
        ("packed", 17, "claims another size"),
        ("checksum", 1, "checksum of a chunk"),
        ("index", 1, "checksum of the index"),
        ("cut", 1, "too short for its index"),
    ],
)
def test_what_a_shard_claims_is_not_believed(several, tmp_path, at, value, said):
    forged = Made.__new__(Made)
    forged.root, forged.metadata, forged.asked = tmp_path / "forged", several.metadata, []
    shutil.copytree(several.root, forged.root)
    path = forged.root / layout.shard_object(2)
    content = bytearray(path.read_bytes())
    index = len(content) - 4 - 16 * 3
    offset, length = struct.unpack_from("<QQ", content, index)
    end = offset + length - 4
    match at:
        case "offset" | "length":
            struct.pack_into("<Q", content, index + 8 * (at == "length"), value)
            struct.pack_into("<I", content, len(content) - 4, google_crc32c.value(bytes(content[index:-4])))
        case "unpacked" | "packed":
            struct.pack_into("<I", content, offset + (4 if at == "unpacked" else 12), value)
            struct.pack_into("<I", content, end, google_crc32c.value(bytes(content[offset:end])))
        case "checksum":
            content[end] ^= value
        case "index":
            content[-1] ^= value
        case "cut":
            del content[20:]
    path.write_bytes(content)
    for begin, end in ((6 * CHUNK, 6 * CHUNK + 100), (6 * CHUNK, 9 * CHUNK - 7)):
        with pytest.raises(ValueError, match=said):
            forged.chunks().counts(begin, end)


def test_a_store_says_so_in_one_line(mini_store, tmp_path):
    root = shutil.copytree(mini_store, tmp_path / "forged.ecg")
    path = root / layout.shard_object(0)
    content = bytearray(path.read_bytes())
    content[30] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="a shard can't be decoded; .*the checksum of a chunk is wrong"):
        open_store(root).read_shard(0)


@pytest.mark.parametrize(
    ("n_leads", "n_chunks", "total", "recorded"),
    [
        (1, 1, 7, [(0, 7)]),
        (2, 1, CHUNK, [(0, CHUNK)]),
        (12, 2, 2 * CHUNK, [(5, 2 * CHUNK)]),
        (3, 2, 3 * CHUNK + 1, [(0, 3 * CHUNK + 1)]),
        (2, 6, 6 * CHUNK, [(0, CHUNK), (3 * CHUNK - 1, 3 * CHUNK), (5 * CHUNK, 5 * CHUNK + 1)]),
        (2, 3, 7 * CHUNK - 9, [(0, 10), (6 * CHUNK, 7 * CHUNK - 9)]),
    ],
)
def test_a_packed_shard_is_what_zarr_writes(tmp_path, n_leads, n_chunks, total, recorded):
    draw, size = np.random.default_rng(total), n_chunks * CHUNK
    counts_lt = np.full((n_leads, total), layout.NOT_RECORDED, dtype=np.int16)
    for begin, end in recorded:
        walk_lt = draw.integers(-9, 10, (n_leads, end - begin)).cumsum(axis=1)
        counts_lt[:, begin:end] = walk_lt.clip(-32767, 32767)
    roots = tmp_path / "zarr", tmp_path / "direct"
    create_array(roots[0], "blosc", n_leads, total, size)
    create(roots[1], n_leads, total, size)
    assert len({(root / layout.SIGNAL_JSON).read_bytes() for root in roots}) == 1
    metadata = json.loads((roots[0] / layout.SIGNAL_JSON).read_text())
    assert is_packed_here(metadata)
    for shard, begin in enumerate(range(0, total, size)):
        open_array(roots[0])[:, begin : begin + size] = counts_lt[:, begin : begin + size]
        by_zarr = roots[0] / layout.shard_object(shard)
        packed = pack(metadata, counts_lt[:, begin : begin + size])
        assert packed == (by_zarr.read_bytes() if by_zarr.exists() else b"")
        if packed:
            place = roots[1] / layout.shard_object(shard)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(packed)
    assert np.array_equal(open_array(roots[1])[:], counts_lt)


def test_only_what_blosc_packs_is_packed_here(tmp_path):
    pytest.importorskip("pcodec")
    create_array(tmp_path, "pcodec", 2, CHUNK, CHUNK)
    assert not is_packed_here(json.loads((tmp_path / layout.SIGNAL_JSON).read_text()))
