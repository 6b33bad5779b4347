"""Stores as anybody could forge them: a small good one, changed in one of many ways, and sealed again or not.

:data:`KINDS` are the ways, each a function of the folder of a store and of random numbers.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import struct
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import hostile_files
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
from google_crc32c import value as crc32c
from hostile_values import (
    VALUES,
    bomb,
    change_cells,
    change_columns,
    change_footer,
    change_json,
    change_rows,
    change_text,
    written,
)

from ecgstore.storage import layout, manifest, tables, validate

GOLDEN = Path(__file__).parent / "golden"
JSON_FILES = (layout.ROOT, layout.ROOT, layout.SIGNAL_JSON, layout.MANIFEST)
TABLES = (layout.RECORDS, layout.RECORDS, layout.LEADS, layout.STATEMENTS, layout.BEATS, layout.REJECTED)
#: What can't be written can't be forged in this way.
UNWRITABLE = (
    pa.ArrowException,
    OSError,
    ArithmeticError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)
#: A larger file is sealed by its size alone.
_MOST_HASHED = 50_000_000

Kind = Callable[[Path, random.Random], None]


def forge(version: int, root: Path, kinds: Iterable[str] = (), seed: int = 0, *, is_sealed: bool = True) -> Path:
    """A copy of the golden store of a format version at ``root``, changed in each of ``kinds``, and sealed again."""
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(GOLDEN / f"v{version}.ecg", root)
    rng = random.Random(seed)
    for kind in kinds:
        change(root, kind, rng)
    if is_sealed:
        reseal(root)
    return root


def change(root: Path, kind: str, rng: random.Random) -> None:
    """Change the store at ``root`` in one way, if it still can be changed in it."""
    with contextlib.suppress(*UNWRITABLE):
        KINDS[kind](root, rng)


def is_as_before(root: Path, good: Path) -> bool:
    """Whether every object but the manifest has the bytes that it had."""
    names = [one.relative_to(good) for one in good.rglob("*") if one.is_file() and one.name != layout.MANIFEST]
    return all(_is_plain(root / name) and (root / name).read_bytes() == (good / name).read_bytes() for name in names)


def _refuse_odd(path: Path) -> None:
    """What has become a pipe waits for ever, and what has become a hole fills the memory: neither is changed again."""
    if not _is_plain(path):
        raise OSError(f"{path} is no plain file any more")


def _is_plain(path: Path) -> bool:
    return not path.is_symlink() and path.is_file() and path.stat().st_size <= _MOST_HASHED


# --- files --------------------------------------------------------------------------------------------------------


def _any_file(root: Path, rng: random.Random) -> Path:
    found = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    return rng.choice(found)


def _to_any_file(do: hostile_files.Change) -> Kind:
    return lambda root, rng: do(_any_file(root, rng), rng)


# --- JSON ---------------------------------------------------------------------------------------------------------


def _read(path: Path) -> Any:
    _refuse_odd(path)
    return json.loads(path.read_text(encoding="utf-8", errors="surrogatepass"))


def _write(path: Path, content: Any) -> None:
    _refuse_odd(path)
    path.write_text(json.dumps(content), encoding="utf-8", errors="surrogatepass")


def json_value(root: Path, rng: random.Random) -> None:
    path = root / rng.choice(JSON_FILES)
    content = _read(path)
    change_json(content, rng)
    _write(path, content)


def json_text(root: Path, rng: random.Random) -> None:
    path = root / rng.choice(JSON_FILES)
    _refuse_odd(path)
    path.write_bytes(change_text(path.read_text(encoding="utf-8", errors="surrogatepass"), rng))


def names_in_manifest(root: Path, rng: random.Random) -> None:
    said = _read(root / layout.MANIFEST)
    names = said["objects"]
    old, new = rng.choice(sorted(names)), rng.choice(hostile_files.NAMES)
    match rng.randrange(4):
        case 0:
            names[new] = names.pop(old)
        case 1:
            names[new] = names[old]
        case 2:
            for i in range(20_000):
                names[f"{layout.SIGNAL}/c/0/{i}"] = names[old]
        case _:
            # A file of the store under a name of its own choice.
            target = root / new
            if "\x00" not in new and new and not target.exists() and target.resolve().is_relative_to(root):
                (root / old).rename(target)
            names[new] = names.pop(old)
    _write(root / layout.MANIFEST, said)


def sizes_in_manifest(root: Path, rng: random.Random) -> None:
    said = _read(root / layout.MANIFEST)
    name, k = rng.choice(sorted(said["objects"])), rng.randrange(2)
    said["objects"][name][k] = rng.choice([*VALUES, 2**50 - 1, 2**30 + 1, "0" * 64])
    _write(root / layout.MANIFEST, said)


# --- the array ----------------------------------------------------------------------------------------------------


def _array(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = _read(root / layout.SIGNAL_JSON)
    change(content)
    _write(root / layout.SIGNAL_JSON, content)


def zarr_version_2(root: Path, rng: random.Random) -> None:
    """Metadata of Zarr v2 beside those of v3 or in their place, with filters that unpickle."""
    about = {"zarr_format": 2, "shape": [12, 3000], "chunks": [12, 1000], "dtype": rng.choice(["<i2", "|O"])}
    about |= {"compressor": None, "fill_value": 0, "order": "C", "filters": [{"id": "pickle"}]}
    if rng.random() < 0.5:
        _write(root / layout.SIGNAL / ".zarray", about)
        _write(root / ".zgroup", {"zarr_format": 2})
        for name in rng.sample([layout.SIGNAL_JSON, layout.ROOT], rng.randrange(3)):
            (root / name).unlink()
    else:
        _array(root, lambda content: (content.clear(), content.update(about)))


_CODECS: tuple[dict[str, Any], ...] = (
    {"name": "gzip", "configuration": {"level": 5}},
    {"name": "numcodecs.pickle", "configuration": {}},
    {"name": "numcodecs.json2", "configuration": {}},
    {"name": "vlen-utf8"},
    {"name": "transpose", "configuration": {"order": [1, 0]}},
    {"name": "trap"},
    {"name": "../trap.py"},
    {"name": "blosc", "configuration": {"cname": "lz4", "clevel": 9, "shuffle": "shuffle", "typesize": 2}},
    {"name": "sharding_indexed", "configuration": {"chunk_shape": [1, 1], "codecs": []}},
    {"name": "zstd", "configuration": {"level": 10**6, "checksum": True}},
)


def codecs(root: Path, rng: random.Random) -> None:
    def other(content: dict[str, Any]) -> None:
        inner = content["codecs"][0]["configuration"]
        place = rng.choice([content["codecs"], inner["codecs"], inner["index_codecs"]])
        match rng.randrange(3):
            case 0:
                place.insert(rng.randrange(len(place) + 1), rng.choice(_CODECS))
            case 1:
                place[rng.randrange(len(place))] = rng.choice(_CODECS)
            case _:
                del place[rng.randrange(len(place))]

    _array(root, other)


def grid(root: Path, rng: random.Random) -> None:
    """Other shapes of the array, its shards and its chunks; other keys of chunks."""

    def other(content: dict[str, Any]) -> None:
        inner = content["codecs"][0]["configuration"]
        size = rng.choice([0, 1, -1, 7, 40_000, 2**31, 2**48, 2**62, 1e5, None, "1"])
        match rng.randrange(5):
            case 0:
                content["shape"][rng.randrange(2)] = size
            case 1:
                content["chunk_grid"]["configuration"]["chunk_shape"][rng.randrange(2)] = size
            case 2:
                inner["chunk_shape"][rng.randrange(2)] = size
            case 3:
                content["chunk_grid"] = {"name": "rectilinear", "configuration": {"chunk_shapes": [[12], [1, 999]]}}
            case _:
                content["chunk_key_encoding"] = {
                    "name": "v2",
                    "configuration": {"separator": rng.choice(["/", ".", ".."])},
                }

    _array(root, other)


def array_type(root: Path, rng: random.Random) -> None:
    words = ["float64", "uint16", "int64", "string", "bytes", "complex128", "r16", "numpy.datetime64", "object"]
    fills: list[Any] = [0, "NaN", "0xffff", -32767, None, [0], 10**30, "-32768", -32768.0]
    name, values = rng.choice(
        [("data_type", words), ("fill_value", fills), ("storage_transformers", [[{"name": "trap"}]])]
    )
    _array(root, lambda content: content.update({name: rng.choice(values)}))


def samples(root: Path, rng: random.Random) -> None:
    """Other samples in well-formed shards: only the CRC-32 of each record can tell."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that PCodec is not in the specification
        signal = zarr.open_array(root / layout.SIGNAL, mode="r+", zarr_format=3)
        n_leads, n_samples = signal.shape
        lead, at = rng.randrange(n_leads), rng.randrange(n_samples)
        signal[lead, at : at + rng.choice([1, 40])] = rng.choice([0, 1, -32768, 32767])


def _a_shard(root: Path, rng: random.Random) -> tuple[Path, bytearray, int]:
    """A shard, its bytes, and where its index begins."""
    path = rng.choice(sorted(path for path in (root / layout.SIGNAL / "c" / "0").iterdir() if path.is_file()))
    shard_samples = _read(root / layout.SIGNAL_JSON)["chunk_grid"]["configuration"]["chunk_shape"][1]
    content = bytearray(hostile_files.beginning(path))
    return path, content, len(content) - 4 - 16 * (shard_samples // layout.CHUNK_SAMPLES)


def shard_index(root: Path, rng: random.Random) -> None:
    """Places and lengths of chunks that lie; the checksum of the index is right."""
    path, content, index = _a_shard(root, rng)
    at = rng.randrange(index, len(content) - 4, 8)
    struct.pack_into("<Q", content, at, rng.choice([0, 1, 16, index, len(content), 2**31, 2**40, 2**63, 2**64 - 1]))
    struct.pack_into("<I", content, len(content) - 4, crc32c(bytes(content[index:-4])))
    path.write_bytes(content)


def chunk_head(root: Path, rng: random.Random) -> None:
    """A packed chunk that lies about its sizes, or whose packed bytes are others; its checksum is right."""
    path, content, index = _a_shard(root, rng)
    begin, length = struct.unpack_from("<QQ", content, index)
    if rng.random() < 0.6:
        at = begin + 4 * rng.randrange(4)
        struct.pack_into(
            "<I", content, at, rng.choice([0, 1, 15, 2**20, 2**30, 2**31 - 1, 2**32 - 1, rng.getrandbits(32)])
        )
    else:
        for _ in range(rng.choice([1, 3, 30])):
            content[rng.randrange(begin, begin + length - 4)] = rng.randrange(256)
    struct.pack_into("<I", content, begin + length - 4, crc32c(bytes(content[begin : begin + length - 4])))
    path.write_bytes(content)


# --- tables -------------------------------------------------------------------------------------------------------


def _in_table(do: Callable[[pa.Table, random.Random], bytes]) -> Kind:
    def made(root: Path, rng: random.Random) -> None:
        path = root / rng.choice(_tables_there(root))
        path.write_bytes(do(tables.from_parquet(path.read_bytes()), rng))

    return made


def _tables_there(root: Path) -> list[str]:
    """Tables that can still be read to be changed: they have not become a pipe, or a bomb."""
    there = [root / one for one in TABLES if _is_plain(root / one)]
    return [path.name for path in there if pq.read_metadata(path).num_rows < 10_000]


def footer(root: Path, rng: random.Random) -> None:
    path = root / rng.choice(_tables_there(root))
    path.write_bytes(change_footer(hostile_files.beginning(path), rng))


def row_groups(root: Path, rng: random.Random) -> None:
    """So many of them that reading their description takes longer than reading the rows."""
    import io

    made, n = io.BytesIO(), rng.choice([10_001, 20_000])
    rows = pa.table({name: pa.array(["missing_header"] * n) for name in ("record_id", "reason", "detail")})
    pq.write_table(rows, made, row_group_size=1)
    if _is_plain(root / layout.REJECTED):  # into a pipe nothing is written that nobody reads
        (root / layout.REJECTED).write_bytes(made.getvalue())


def commit(root: Path, rng: random.Random) -> None:
    path = rng.choice(sorted((root / layout.COMMITS).iterdir()))
    rng.choice([hostile_files.flip, hostile_files.garbage, hostile_files.rename, hostile_files.hole])(path, rng)


#: Name → the way in which a store is changed.
KINDS: dict[str, Kind] = {
    **{name: _to_any_file(do) for name, do in hostile_files.CHANGES.items()},
    "a JSON value": json_value,
    "JSON text": json_text,
    "names in the manifest": names_in_manifest,
    "sizes in the manifest": sizes_in_manifest,
    "Zarr version 2": zarr_version_2,
    "codecs": codecs,
    "shapes and keys": grid,
    "type and fill value": array_type,
    "samples": samples,
    "the index of a shard": shard_index,
    "the head of a chunk": chunk_head,
    "cells": _in_table(lambda table, rng: written(change_cells(table, rng), rng)),
    "columns": _in_table(lambda table, rng: written(change_columns(table, rng), rng)),
    "rows": _in_table(lambda table, rng: written(change_rows(table, rng), rng)),
    "the footer of a table": footer,
    "ten thousand row groups": row_groups,
    "a bomb of a table": _in_table(bomb),
    "a commit": commit,
}


# --- the seal -----------------------------------------------------------------------------------------------------


def reseal(root: Path) -> None:
    """Make the manifest fit what stands there, as anybody can; what else stands in it stays as it is."""
    path = root / layout.MANIFEST
    if not _is_plain(path):
        return
    try:
        said = _read(path)
    except (ValueError, OSError, RecursionError):
        return
    if not isinstance(said, dict) or not isinstance(said.get("objects"), dict):
        return
    for name, pair in said["objects"].items():
        try:
            # Hostile ones stay.
            is_sealed = type(pair[0]) is int and 0 <= pair[0] < 2**50 and validate.is_sha256(pair[1]) and len(pair) == 2
            if is_sealed and (root / name).is_file():
                size = (root / name).stat().st_size
                found = (
                    manifest.hash_object(root / name) if size < _MOST_HASHED else manifest.ObjectHash(size, "0" * 64)
                )
                said["objects"][name] = [found.size, found.sha256]
        except (OSError, ValueError, TypeError, LookupError):  # a name that no file can have
            pass
    try:
        objects = {name: manifest.ObjectHash(*pair) for name, pair in said["objects"].items()}
        said["fingerprint"] = manifest.fingerprint(objects)
    except (TypeError, ValueError):
        pass
    _write(path, said)
