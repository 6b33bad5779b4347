"""What may stand in the place of a value: in JSON, as JSON's text, and in a Parquet table and its file."""

from __future__ import annotations

import functools
import io
import json
import random
import struct
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

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
    "NaN",
    "__import__('os').system('touch ran')",
    "trap.py",
    "../trap.py",
    "<script>alert(1)</script>",
    "{{ 7 * 7 }}",
    "%(x)s {0.__class__}",
    [1] * 5000,
    {str(i): i for i in range(5000)},
    float("nan"),
    float("inf"),
    -float("inf"),
    5e-324,
    -0.0,
)
NUMBERS = (None, 0, 1, -1, 2, 999, 1000, 1001, 40_000, 2**15 - 1, 2**31 - 1, 2**40, 2**63 - 1, -(2**63))
REALS = (None, 0.0, -1.0, 1e308, float("nan"), float("inf"), 5e-324, -0.0)
TEXTS = (None, "", "50", "a\x1b]0;T\x07\nb", "m" * 12, "x" * 12, "ß\u202e", "m" * 100_000, "NORM")
TEXTS += ("../../x", "<b>&amp;$_$", "a\tb", "\x00", "\u200b", "=1+1")

_NESTED = 100_000


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
            content[rng.choice(["added", "", "__class__", "name", "\x1b[2J"])] = rng.choice(VALUES)
        else:
            content.append(rng.choice(VALUES))
        return


def change_text(text: str, rng: random.Random) -> bytes:
    """Break JSON, or write it as it should not be written."""
    ways: tuple[Callable[[], str | bytes], ...] = (
        lambda: text[: rng.randrange(len(text) + 1)],
        lambda: text + rng.choice([",", "}", "\x00", " {}", "#"]),
        lambda: "[" * _NESTED,
        lambda: '{"a":' * _NESTED + "1" + "}" * _NESTED,
        lambda: text.replace("1", "NaN", 1),
        lambda: text.replace("1", "-Infinity", 1),
        lambda: text.replace("0", "9" * 5000, 1),
        lambda: text.replace("0", "1e999", 1),
        lambda: _doubled(text, rng),
        lambda: text.replace('"', "'"),
        lambda: text.replace(": ", ":\u00a0", 1),
        lambda: text.replace("e", "\\ud800", 1),
        lambda: text.replace("e", "\\u0065"),
        lambda: "\ufeff" + text,
        lambda: text.encode("utf-16"),
        lambda: text.encode().replace(b"e", b"\xe9", 1),
        lambda: " " * 2_000_000 + text,
        lambda: '{"a": "' + "x" * 17_000_000 + '"}',
        lambda: "[" + "0," * 1_100_000 + "0]",
        lambda: text.replace("\n", "\r").replace(" ", "\t"),
        lambda: "7",
        lambda: '"' + text.replace('"', "") + '"',
    )
    made = rng.choice(ways)()
    return made if isinstance(made, bytes) else made.encode("utf-8", "surrogatepass")


def _doubled(text: str, rng: random.Random) -> str:
    """One key of the outermost mapping stands there twice, the first time with another value."""
    try:
        keys = list(json.loads(text))
    except (ValueError, RecursionError):
        return text
    key = rng.choice(keys) if keys else "a"
    return text.replace("{", f"{{{json.dumps(key)}: {json.dumps(rng.choice(VALUES[:12]))}, ", 1)


# --- tables -------------------------------------------------------------------------------------------------------

OTHER_TYPES = (pa.string(), pa.large_string(), pa.int64(), pa.float64(), pa.binary(), pa.bool_())
_ODD_COLUMNS: tuple[Callable[[int], pa.Array], ...] = (
    lambda n: pa.array([{"a": 1}] * n),
    lambda n: pa.array([[["x"] * 3]] * n),
    lambda n: pa.array([[("k", 1)]] * n, pa.map_(pa.string(), pa.int8())),
    lambda n: pa.array([0] * n, pa.timestamp("us", "Europe/Berlin")),
    lambda n: pa.array([1] * n, pa.decimal256(70, 5)),
    lambda n: pa.nulls(n),
    lambda n: pa.array(["a"] * n).dictionary_encode(),
    lambda n: pa.array([b"\xff\xfe"] * n),
)


def change_cells(table: pa.Table, rng: random.Random) -> pa.Table:
    """One cell of a column, or all of them."""
    i = rng.randrange(table.num_columns)
    field, column = table.schema.field(i), table.column(i)
    if pa.types.is_fixed_size_list(field.type):
        size = field.type.list_size
        pool: tuple[Any, ...] = (None, [0] * size, [None] * size)
        if pa.types.is_floating(field.type.value_type):
            pool += ([float("nan")] * size, [1e308] * size, [-float("inf")] * size)
    else:
        pool = TEXTS if field.type == pa.string() else REALS if pa.types.is_floating(field.type) else NUMBERS
    value, cells = rng.choice(pool), column.to_pylist()
    if rng.random() < 0.5:
        cells = [value] * len(cells)
    elif cells:
        cells[rng.randrange(len(cells))] = value
    return table.set_column(i, field, pa.array(cells, field.type))


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """The column in another type; of nulls where its values can't be."""
    try:
        return column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return pa.chunked_array([pa.nulls(len(column), kind)])


def change_columns(table: pa.Table, rng: random.Random) -> pa.Table:
    """Another type, one less, one more, one twice, or others in their order."""
    i = rng.randrange(table.num_columns)
    field, n = table.schema.field(i), len(table)
    ways: tuple[Callable[[], pa.Table], ...] = (
        lambda: table.set_column(i, field.name, _cast(table.column(i), rng.choice(OTHER_TYPES))),
        lambda: table.set_column(i, field.name, rng.choice(_ODD_COLUMNS)(n)),
        lambda: table.remove_column(i),
        lambda: table.append_column("added", pa.nulls(n, pa.string())),
        lambda: table.append_column(field, table.column(i)),
        lambda: table.select(rng.sample(table.column_names, table.num_columns)),
        lambda: table.rename_columns([rng.choice([name, name.upper(), "", "\x1b"]) for name in table.column_names]),
        lambda: pa.table({f"{field.name}{k}": table.column(i) for k in range(200)}),
    )
    return rng.choice(ways)()


def change_rows(table: pa.Table, rng: random.Random) -> pa.Table:
    """Fewer, more, backwards, or in another order."""
    n = len(table)
    ways: tuple[Callable[[], pa.Table], ...] = (
        lambda: table.slice(0, rng.randrange(n + 1)),
        lambda: table.slice(rng.randrange(n + 1)),
        lambda: pa.concat_tables([table] * rng.choice([2, 3, 200])),
        lambda: table.take(list(range(n - 1, -1, -1))),
        lambda: table.take(rng.choices(range(n), k=n)) if n else table,
    )
    return rng.choice(ways)()


def change_table(table: pa.Table, rng: random.Random) -> pa.Table:
    """Change cells, a column or the rows of a table."""
    ways = (change_cells, change_cells, change_columns, change_rows)
    return rng.choice(ways)(table, rng)


def written(table: pa.Table, rng: random.Random) -> bytes:
    """The table as a file, in one of the ways in which Parquet may be written."""
    made = io.BytesIO()
    pq.write_table(
        table,
        made,
        compression=rng.choice(["zstd", "zstd", "none", "gzip", "snappy", "lz4", "brotli"]),
        use_dictionary=rng.random() < 0.5,
        data_page_version=rng.choice(["1.0", "2.0"]),
        write_statistics=rng.random() < 0.5,
        row_group_size=rng.choice([1, 2, 1 << 20]),
    )
    return made.getvalue()


def change_footer(content: bytes, rng: random.Random) -> bytes:
    """Change the description of a Parquet file, or the heads of its pages, and not what it holds."""
    made, n_footer = bytearray(content), int.from_bytes(content[-8:-4], "little")
    begin = max(len(made) - 8 - n_footer, 4)
    match rng.randrange(6):
        case 0:
            struct.pack_into("<I", made, len(made) - 8, rng.choice([0, 1, n_footer - 1, 2**31 - 1, 2**32 - 1]))
        case 1 if begin > 44:
            made[rng.randrange(4, 44)] = rng.randrange(256)
        case 2:
            at = rng.randrange(begin, len(made) - 8)
            made[at : at + 5] = b"\xff\xff\xff\xff\x0f"  # a number of 32 bits, as large as there is
        case _:
            for _ in range(rng.choice([1, 1, 2, 5])):
                made[rng.randrange(begin, len(made) - 8)] ^= 1 << rng.randrange(8)
    return bytes(made)


@functools.cache
def _tall(n: int, text: str) -> bytes:
    """Millions of rows in a few bytes."""
    rows = pa.DictionaryArray.from_arrays(pa.array([0] * n, pa.int8()), pa.array([text]))
    made = io.BytesIO()
    pq.write_table(pa.table({"record_id": rows, "reason": rows, "detail": rows}), made, compression="zstd")
    return made.getvalue()


def text_bomb() -> bytes:
    """Eighteen gigabytes of text in a few kilobytes."""
    return _tall(300_000, "x" * 60_000)


def bomb(table: pa.Table, rng: random.Random) -> bytes:
    """A small file that wants to be large in memory, of the columns of ``table`` or of a table of rejections."""
    match rng.randrange(5):
        case 0:
            return text_bomb()
        case 1:
            return _tall(3_000_000, "missing_header")
        case 2 if len(table):
            return _file(table.take([0] * 200_000))
        case 3:
            return _file(table.replace_schema_metadata({"x": "y" * 20_000_000}))
    i = next((i for i, field in enumerate(table.schema) if field.type == pa.string()), None)
    if i is None or not len(table):
        return _file(table)
    many = table.take([0] * 100_000)
    long = pa.DictionaryArray.from_arrays(pa.array([0] * len(many), pa.int8()), pa.array(["m" * 65_000]))
    return _file(many.set_column(i, table.schema.names[i], long))


def _file(table: pa.Table) -> bytes:
    made = io.BytesIO()
    pq.write_table(table, made, compression="zstd", store_schema=False)
    return made.getvalue()
