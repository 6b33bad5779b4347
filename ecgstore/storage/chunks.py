"""Shards of packed chunks, written whole and read chunk by chunk: what docs/format.md says of a shard, done directly.

A shard is chunks, one behind the other, and at its end their index: of each offset and length as little-endian uint64,
and the CRC-32C of that. A chunk is one Blosc frame and its CRC-32C. zarr writes and reads the same; it takes
four milliseconds to set about it, and asks for the index each time.
"""

from __future__ import annotations

import json
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from ecgstore.storage import layout, publish

#: Name of an object, first byte, end.
ReadPart = Callable[[str, int, int], bytes]

#: Two blocks to a chunk: what Blosc would choose, a dozen, makes stores of ECGs larger, and both ways slower.
LEVEL, BLOCK_BYTES = 1, 1 << 19
#: In the index of a shard, offset and length of a chunk without a sample.
_ABSENT = 2**64 - 1
#: Bytes of a CRC-32C, of an entry of the index, and of the head of a Blosc frame.
_CRC, _ENTRY, _HEAD = 4, 16, 16
#: Blosc's numbers for what Zarr names.
_SHUFFLES = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}
#: Bytes of all indices that are kept: those of twenty thousand shards of six chunks.
_MOST_INDEX_BYTES = 2 << 20
#: Unpacked chunks that are kept, a megabyte each: who reads record after record, or part after part, needs one of them.
_MOST_CHUNKS = 2


def create(root: Path, n_leads: int, total_samples: int, shard_samples: int) -> None:
    """Write the metadata of an array whose shards :func:`pack` packs, byte by byte as zarr writes it."""
    crc32c = {"name": "crc32c"}
    little_endian = {"name": "bytes", "configuration": {"endian": "little"}}
    how = {"typesize": 2, "cname": "zstd", "clevel": LEVEL, "shuffle": "bitshuffle", "blocksize": BLOCK_BYTES}
    sharding = {
        "chunk_shape": [n_leads, layout.CHUNK_SAMPLES],
        "codecs": [little_endian, {"name": "blosc", "configuration": how}, crc32c],
        "index_codecs": [little_endian, crc32c],
        "index_location": "end",
    }
    metadata = {
        "shape": [n_leads, total_samples],
        "data_type": "int16",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [n_leads, shard_samples]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": int(layout.NOT_RECORDED),
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "attributes": {},
        "dimension_names": ["lead", "time"],
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }
    publish.write_bytes(root / layout.SIGNAL_JSON, json.dumps(metadata, indent=2).encode(), durable=False)


def is_packed_here(metadata: Mapping[str, Any]) -> bool:
    """Whether :func:`pack` writes shards of this array; zarr itself packs others."""
    return [codec["name"] for codec in metadata["codecs"][0]["configuration"]["codecs"]] == ["bytes", "blosc", "crc32c"]


def pack(metadata: Mapping[str, Any], counts_lt: npt.NDArray[np.int16]) -> bytes:
    """One shard of counts (leads, up to its samples), as zarr would write it; empty where no sample is recorded.

    Samples that are missing at its end are not recorded, and a chunk without a recorded sample is left out.
    """
    from numcodecs import blosc

    # As zarr does: threads of its own put the blocks of a frame in an order that is left to chance.
    blosc.use_threads = False
    sharding = metadata["codecs"][0]["configuration"]
    n_leads, size = sharding["chunk_shape"]
    settings = sharding["codecs"][1]["configuration"]
    how = (settings["cname"].encode(), settings["clevel"], _SHUFFLES[settings["shuffle"]], settings["blocksize"])
    n_chunks = metadata["chunk_grid"]["configuration"]["chunk_shape"][1] // size
    index = np.full((n_chunks, 2), _ABSENT, dtype="<u8")
    parts: list[bytes] = []
    offset = 0
    for chunk, begin in enumerate(range(0, counts_lt.shape[1], size)):
        its_lt = counts_lt[:, begin : begin + size]
        if (its_lt == layout.NOT_RECORDED).all():
            continue
        chunk_lt = np.full((n_leads, size), layout.NOT_RECORDED, dtype="<i2")
        chunk_lt[:, : its_lt.shape[1]] = its_lt
        frame = blosc.compress(chunk_lt, *how, typesize=settings["typesize"])
        parts += [frame, _crc32c(frame)]
        index[chunk] = offset, len(frame) + _CRC
        offset += len(frame) + _CRC
    said = index.tobytes()
    return b"".join((*parts, said, _crc32c(said))) if parts else b""


class Chunks:
    """The signal of a sealed store, as it was sealed. May be used by several threads.

    ``metadata`` of the array must have been checked. ``sizes``: bytes of each shard's object by its name in the store;
    one that isn't there has no sample. ``read``: the bytes of an object from begin up to end, no fewer.
    """

    def __init__(self, metadata: Mapping[str, Any], sizes: Mapping[str, int], read: ReadPart) -> None:
        self._sizes, self._read = sizes, read
        self._n_leads, self._chunk_samples = metadata["codecs"][0]["configuration"]["chunk_shape"]
        self._shard_samples = metadata["chunk_grid"]["configuration"]["chunk_shape"][1]
        self._n_chunks = self._shard_samples // self._chunk_samples
        self._indices: OrderedDict[str, npt.NDArray[np.uint64]] = OrderedDict()
        self._unpacked_last: OrderedDict[int, npt.NDArray[np.int16]] = OrderedDict()
        self._lock = threading.Lock()
        from numcodecs import blosc  # takes a tenth of a second, and a look at the tables doesn't need it

        self._decompress = blosc.decompress

    def counts(self, begin: int, end: int) -> npt.NDArray[np.int16]:
        """Counts (leads, samples) from ``begin`` up to ``end``, -32768 where there is none.

        Raises ValueError where a checksum, an index or the head of a chunk is wrong, and what ``read`` raises.
        """
        size = self._chunk_samples
        chunks = range(begin // size, -(-end // size))
        if len(chunks) == 1:
            return self._one(chunks[0])[:, begin - chunks[0] * size : end - chunks[0] * size].copy()
        counts_lt = np.full((self._n_leads, end - begin), layout.NOT_RECORDED, dtype=np.int16)
        for shard in range(begin // self._shard_samples, -(-end // self._shard_samples)):
            first = shard * self._n_chunks
            its = [chunk for chunk in chunks if first <= chunk < first + self._n_chunks]
            for chunk, packed in self._packed(shard, [chunk - first for chunk in its]):
                start = (first + chunk) * size
                low, high = max(start, begin), min(start + size, end)
                counts_lt[:, low - begin : high - begin] = self._unpacked(packed)[:, low - start : high - start]
        return counts_lt

    def _one(self, chunk: int) -> npt.NDArray[np.int16]:
        with self._lock:
            if chunk in self._unpacked_last:
                return self._unpacked_last[chunk]
        shard, place = divmod(chunk, self._n_chunks)
        packed = self._packed(shard, [place])
        if not packed:
            return np.full((self._n_leads, self._chunk_samples), layout.NOT_RECORDED, dtype=np.int16)
        counts_lt = self._unpacked(packed[0][1])
        with self._lock:
            self._unpacked_last[chunk] = counts_lt
            while len(self._unpacked_last) > _MOST_CHUNKS:
                self._unpacked_last.popitem(last=False)
        return counts_lt

    def _packed(self, shard: int, wanted: Sequence[int]) -> list[tuple[int, memoryview]]:
        """Chunks of a shard that have samples, each with its frame and checksum, by as few reads as can be."""
        name = layout.shard_object(shard)
        if name not in self._sizes:
            return []
        if len(wanted) == self._n_chunks:  # all of them: the index comes with them
            whole = self._read(name, 0, self._sizes[name])
            index = self._index(name, whole)
            return [(at, memoryview(whole)[low:high]) for at, low, high in _spans(index, wanted)]
        spans = _spans(self._index(name), wanted)
        if all(one[2] == other[1] for one, other in pairwise(spans)):  # side by side, as they were written
            begin = spans[0][1] if spans else 0
            part = memoryview(self._read(name, begin, spans[-1][2])) if spans else memoryview(b"")
            return [(at, part[low - begin : high - begin]) for at, low, high in spans]
        return [(at, memoryview(self._read(name, low, high))) for at, low, high in spans]

    def _index(self, name: str, whole: bytes | None = None) -> npt.NDArray[np.uint64]:
        """Offset and length of each chunk of a shard, (chunks, 2); kept, as a sealed shard never changes."""
        with self._lock:
            if name in self._indices:
                self._indices.move_to_end(name)
                return self._indices[name]
        size, n_bytes = self._sizes[name], self._n_chunks * _ENTRY + _CRC
        if size < n_bytes:
            raise ValueError("a shard is too short for its index")
        said = self._read(name, size - n_bytes, size) if whole is None else whole[-n_bytes:]
        _check_crc32c(memoryview(said), "the index of a shard")
        index = np.frombuffer(said, "<u8", 2 * self._n_chunks).reshape(-1, 2)
        there = index[(index != _ABSENT).any(axis=1)]
        # Compared one by one: their sum could wrap.
        if (there[:, 0] > size).any() or (there[:, 1] > size - there[:, 0]).any():
            raise ValueError("the index of a shard points out of it")
        with self._lock:
            self._indices[name] = index
            while len(self._indices) * n_bytes > _MOST_INDEX_BYTES and len(self._indices) > 1:
                self._indices.popitem(last=False)
        return index

    def _unpacked(self, packed: memoryview) -> npt.NDArray[np.int16]:
        """One chunk: counts (leads, samples)."""
        unpacked, _, length = struct.unpack_from("<III", packed, 4) if len(packed) > _HEAD + _CRC else (0, 0, 0)
        # The codec would believe them.
        if unpacked != 2 * self._n_leads * self._chunk_samples or length != len(packed) - _CRC:
            raise ValueError("a chunk claims another size than it has")
        _check_crc32c(packed, "a chunk")
        counts_lt = np.empty((self._n_leads, self._chunk_samples), dtype="<i2")
        self._decompress(packed[:-_CRC], counts_lt)
        return counts_lt


def _spans(index: npt.NDArray[np.uint64], wanted: Sequence[int]) -> list[tuple[int, int, int]]:
    """Number, first byte and end of each wanted chunk that has samples."""
    its = ((chunk, *index[chunk].tolist()) for chunk in wanted)
    return [(chunk, offset, offset + length) for chunk, offset, length in its if (offset, length) != (_ABSENT, _ABSENT)]


def _crc32c(content: bytes) -> bytes:
    return struct.pack("<I", google_crc32c.value(content))


def _check_crc32c(content: memoryview, what: str) -> None:
    """Raise ValueError where the last four bytes are not the CRC-32C of those before."""
    (stated,) = struct.unpack("<I", content[-_CRC:])
    if google_crc32c.value(bytes(content[:-_CRC])) != stated:
        raise ValueError(f"the checksum of {what} is wrong")
