"""The one Zarr array of a store: how it is laid out, packed and opened.

Only this file imports zarr.
"""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.abc.store import Store as ZarrStore
from zarr.codecs import BloscCodec, Crc32cCodec

from ecgstore.errors import need
from ecgstore.storage import layout
from ecgstore.storage.chunks import BLOCK_BYTES, LEVEL, ReadPart

#: In the index of a shard, offset and length of a chunk without a sample.
_ABSENT = 2**64 - 1


def create_array(root: Path, codec: str, n_leads: int, total_samples: int, shard_samples: int) -> None:
    """Write the metadata of the signal array; its samples come shard by shard.

    ``codec`` is ``blosc`` (zstd, bitshuffle) or ``pcodec``; every chunk carries a CRC-32C.
    """
    if codec == "pcodec":
        _pass_over_the_remark_on_pcodec()
        need("pcodec", "pcodec")
        packing: dict[str, Any] = {"serializer": need("zarr.codecs.numcodecs", "pcodec").PCodec(level=8)}
        packing["compressors"] = (Crc32cCodec(),)
    else:
        blosc = BloscCodec(cname="zstd", clevel=LEVEL, shuffle="bitshuffle", typesize=2, blocksize=BLOCK_BYTES)
        packing = {"compressors": (blosc, Crc32cCodec())}
    zarr.create_array(
        store=str(root / layout.SIGNAL),
        shape=(n_leads, total_samples),
        chunks=(n_leads, layout.CHUNK_SAMPLES),
        shards=(n_leads, shard_samples),
        dtype=np.int16,
        fill_value=int(layout.NOT_RECORDED),
        dimension_names=("lead", "time"),
        overwrite=False,
        **packing,
    )


def open_array(root: Path) -> zarr.Array[Any]:
    """Open the array of a store that is being built here for writing.

    Afresh each time: a handle that saw another grid of shards would write nonsense.
    """
    _pass_over_the_remark_on_pcodec()
    return zarr.open_array(str(root / layout.SIGNAL), mode="r+", zarr_format=3)


def read_array(metadata: Mapping[str, Any], sizes: Mapping[str, int], read: ReadPart) -> zarr.Array[Any]:
    """The array of a sealed store that only zarr unpacks; others are read by :class:`ecgstore.storage.chunks.Chunks`.

    zarr sees the ``metadata`` that was checked, and shards as they were sealed. ``sizes``: bytes of each shard's object
    by its name in the store; ``read``: the bytes of one from begin up to end.
    """
    _pass_over_the_remark_on_pcodec()
    need("pcodec", "pcodec")
    sharding = metadata["codecs"][0]["configuration"]
    n_chunks = metadata["chunk_grid"]["configuration"]["chunk_shape"][1] // sharding["chunk_shape"][1]
    return zarr.open_array(_Sealed(json.dumps(metadata).encode(), sizes, read, n_chunks), mode="r", zarr_format=3)


def _refuse_outside(part: bytes, n_chunks: int, size: int) -> None:
    """Raise ValueError where the index of a shard, at the end of ``part``, points out of its ``size`` bytes.

    The codec would follow it.
    """
    index = np.frombuffer(part, "<u8", 2 * n_chunks, len(part) - 16 * n_chunks - 4)
    for offset, length in index.reshape(-1, 2).tolist():
        if (offset, length) != (_ABSENT, _ABSENT) and offset + length > size:
            raise ValueError("the index of a shard points out of it")


class _Sealed(ZarrStore):
    """What zarr may see of a store: metadata, and the shards that the manifest names. Nothing is written."""

    supports_writes = supports_deletes = supports_partial_writes = supports_listing = False

    def __init__(self, metadata: bytes, sizes: Mapping[str, int], read: ReadPart, n_chunks: int) -> None:
        super().__init__(read_only=True)
        self._metadata, self._sizes, self._read, self._n_chunks = metadata, sizes, read, n_chunks

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        if key == "zarr.json":
            return prototype.buffer.from_bytes(self._metadata)
        name = f"{layout.SIGNAL}/{key}"
        if name not in self._sizes:
            return None
        part = await asyncio.to_thread(self._read, name, *_span(byte_range, self._sizes[name]))
        if not isinstance(byte_range, RangeByteRequest):  # a whole shard, or its index at the end
            _refuse_outside(part, self._n_chunks, self._sizes[name])
        return prototype.buffer.from_bytes(part)

    async def get_partial_values(self, prototype: Any, key_ranges: Any) -> Any:
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def exists(self, key: str) -> bool:
        return key == "zarr.json" or f"{layout.SIGNAL}/{key}" in self._sizes

    async def set(self, key: str, value: Any) -> None:
        raise PermissionError("a sealed store is never written")

    async def set_partial_values(self, key_start_values: Any) -> None:
        raise PermissionError("a sealed store is never written")

    async def delete(self, key: str) -> None:
        raise PermissionError("a sealed store is never written")

    async def _nothing(self) -> AsyncIterator[str]:
        for name in list[str]():
            yield name

    def list(self) -> AsyncIterator[str]:
        return self._nothing()

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        return self._nothing()

    def list_dir(self, prefix: str) -> AsyncIterator[str]:
        return self._nothing()


def _span(byte_range: Any, size: int) -> tuple[int, int]:
    match byte_range:
        case RangeByteRequest(start=begin, end=end):
            return begin, min(end, size)
        case OffsetByteRequest(offset=begin):
            return begin, size
        case SuffixByteRequest(suffix=n_bytes):
            return max(size - n_bytes, 0), size
    return 0, size


def _pass_over_the_remark_on_pcodec() -> None:
    """That PCodec is outside the Zarr specification is said in docs/format.md, not at every opening."""
    warnings.filterwarnings("ignore", message="Numcodecs codecs are not in the Zarr version 3", category=UserWarning)
