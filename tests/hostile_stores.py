"""Stores as anybody could forge them: a small good one, changed at random, and sealed again so that all hashes fit."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ecgstore.storage import layout, manifest, tables

GOLDEN = Path(__file__).parent / "golden"
JSON_FILES = (layout.ROOT, layout.ROOT, layout.SIGNAL_JSON, layout.MANIFEST)
TABLES = (layout.RECORDS, layout.RECORDS, layout.LEADS, layout.STATEMENTS, layout.BEATS, layout.REJECTED)
#: What may stand in the place of any value of a JSON text.
VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    3,
    1.5,
    2**31,
    2**63,
    10**400,
    -(10**15),
    1e308,
    "",
    "I",
    "../../x",
    "\x1b[2J\u202e$_$",
    "\ud800",
    "x" * 100_000,
    [],
    {},
    [[]],
    [None],
    {"name": "bytes"},
    [0, -1],
)
NUMBERS = (None, 0, 1, -1, 2, 999, 1000, 1001, 40_000, 2**15 - 1, 2**31 - 1, 2**40, 2**63 - 1, -(2**63))
REALS = (None, 0.0, -1.0, 1e308, float("nan"), float("inf"))
TEXTS = (None, "", "50", "a\x1b]0;T\x07\nb", "m" * 12, "x" * 12, "ß\u202e", "m" * 100_000, "NORM")


def forge(version: int, root: Path, seeds: list[int]) -> Path:
    """A copy of the golden store of a format version at ``root``, with one change per seed, sealed again."""
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(GOLDEN / f"v{version}.ecg", root)
    for seed in seeds:
        change(root, random.Random(seed))
    reseal(root)
    return root


def change(root: Path, rng: random.Random) -> None:
    """Change one thing of a store."""
    if rng.random() < 0.5:
        name = rng.choice(JSON_FILES)
        try:
            content = json.loads((root / name).read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            return  # an earlier change has broken it already
        if not isinstance(content, dict):
            return
        change_json(content, rng)
        text = json.dumps(content)
        if rng.random() < 0.05:
            text = rng.choice([text[:-1], "[" * 100_000, text.replace("1", "NaN", 1), '{"a": 1, "a": 2}', "\x00", "7"])
        (root / name).write_text(text, encoding="utf-8", errors="surrogatepass")
        return
    name = rng.choice([one for one in TABLES if (root / one).exists()])
    if rng.random() < 0.05:
        content = bytearray((root / name).read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        (root / name).write_bytes(content)
        return
    try:
        table = change_table(tables.from_parquet((root / name).read_bytes()), rng)
        pq.write_table(table, root / name, compression="zstd", use_dictionary=rng.random() < 0.5)
    except (pa.ArrowException, OSError, OverflowError, TypeError, ValueError):
        pass  # what can't be written can't be forged in this way


def change_json(content: Any, rng: random.Random) -> None:
    """Put another value in some place, or take one away, or add one."""
    while True:
        keys = list(content) if isinstance(content, dict) else list(range(len(content)))
        if not keys:
            return
        key = rng.choice(keys)
        if isinstance(content[key], dict | list) and content[key] and rng.random() < 0.7:
            content = content[key]
            continue
        action = rng.random()
        if action < 0.7:
            content[key] = rng.choice(VALUES)
        elif action < 0.85:
            del content[key]
        elif isinstance(content, dict):
            content["added"] = rng.choice(VALUES)
        else:
            content.append(rng.choice(VALUES))
        return


def change_table(table: pa.Table, rng: random.Random) -> pa.Table:
    """Change cells, a column or the rows of a table."""
    i = rng.randrange(table.num_columns)
    field = table.schema.field(i)
    ways: dict[str, Callable[[], pa.Table]] = {
        "cells": lambda: table.set_column(i, field, pa.array(_cells(table.column(i), field.type, rng), field.type)),
        "type": lambda: table.set_column(i, field.name, table.column(i).cast(rng.choice(OTHER_TYPES))),
        "drop": lambda: table.remove_column(i),
        "add": lambda: table.append_column("added", pa.nulls(len(table), pa.string())),
        "twice": lambda: table.append_column(field, table.column(i)),
        "fewer": lambda: table.slice(0, rng.randrange(len(table) + 1)),
        "more": lambda: pa.concat_tables([table] * rng.choice([2, 3])),
        "backwards": lambda: table.take(list(range(len(table) - 1, -1, -1))),
    }
    way = "cells" if rng.random() < 0.6 else rng.choice(list(ways))
    return ways[way]()


OTHER_TYPES = (pa.string(), pa.large_string(), pa.int64(), pa.float64(), pa.binary(), pa.bool_())


def _cells(column: pa.ChunkedArray, of_type: pa.DataType, rng: random.Random) -> list[Any]:
    if pa.types.is_fixed_size_list(of_type):
        pool: tuple[Any, ...] = (None, [0] * of_type.list_size, [None] * of_type.list_size)
    else:
        pool = TEXTS if of_type == pa.string() else REALS if pa.types.is_floating(of_type) else NUMBERS
    value, cells = rng.choice(pool), column.to_pylist()
    if rng.random() < 0.5:
        return [value] * len(cells)
    if cells:
        cells[rng.randrange(len(cells))] = value
    return cells


def reseal(root: Path) -> None:
    """Make the manifest fit the files, as anybody can; what else stands in it stays as it is."""
    path = root / layout.MANIFEST
    try:
        said = json.loads(path.read_text(encoding="utf-8", errors="surrogatepass"))
    except (ValueError, RecursionError):
        return
    if not isinstance(said, dict) or not isinstance(said.get("objects"), dict):
        return
    for name in said["objects"]:
        if name in (*TABLES, *JSON_FILES) and (root / name).is_file():
            found = manifest.hash_object(root / name)
            said["objects"][name] = [found.size, found.sha256]
    try:
        objects = {name: manifest.ObjectHash(*pair) for name, pair in said["objects"].items()}
        said["fingerprint"] = manifest.fingerprint(objects)
    except (TypeError, ValueError):
        pass
    path.write_text(json.dumps(said), encoding="utf-8")
