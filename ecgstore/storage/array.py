"""The one Zarr array of a store: how it is laid out, packed and opened.

Only this file imports zarr.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from ecgstore.errors import need
from ecgstore.storage import layout
from ecgstore.storage.place import Place


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
        # Level 2 packs ECGs as small as level 3 does, in three quarters of the time.
        blosc = BloscCodec(cname="zstd", clevel=2, shuffle="bitshuffle", typesize=2)
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


def open_array(root: Place, *, writable: bool = False) -> zarr.Array[Any]:
    """Open the array afresh: a handle that saw another grid of shards would write nonsense."""
    _pass_over_the_remark_on_pcodec()
    options = getattr(root, "storage_options", None)
    return zarr.open_array(str(root / layout.SIGNAL), mode="r+" if writable else "r", storage_options=options)


def _pass_over_the_remark_on_pcodec() -> None:
    """That PCodec is outside the Zarr specification is said in docs/format.md, not at every opening."""
    warnings.filterwarnings("ignore", message="Numcodecs codecs are not in the Zarr version 3", category=UserWarning)
