"""How much of a store is taken in before it is refused: a store may come from anybody.

The numbers stand in docs/format.md. A store that honestly needs more is opened with all of them multiplied: the
variable ECGSTORE_LIMITS_TIMES.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from ecgstore.errors import ConfigError

TIMES = "ECGSTORE_LIMITS_TIMES"
#: What to do about a store that is refused for its size.
FIX = f"if you trust the store, set {TIMES}=4, which makes all limits four times as large"
MOST_TIMES = 1_000_000

#: JSON nested deeper than this is refused at any rate.
JSON_DEPTH = 32


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes and numbers; a million records of twelve leads stay below all of them."""

    manifest_bytes: int = 16 << 20
    root_bytes: int = 16 << 20
    array_bytes: int = 64 << 10
    #: Values in one JSON text.
    json_values: int = 1_000_000
    #: One table in its file, and in memory.
    table_bytes: int = 1 << 30
    decoded_bytes: int = 1 << 30
    rows: int = 100_000_000
    row_groups: int = 10_000
    #: Columns in all of a table's row groups.
    chunks: int = 100_000
    #: One cell of text, and an id.
    text_bytes: int = 64 << 10
    id_bytes: int = 1 << 10
    leads: int = 256
    #: Decoded bytes of one shard, and of one record where it is read whole.
    shard_bytes: int = 1 << 30
    record_bytes: int = 16 << 30
    #: Shards without an object, beside each that has one.
    empty_shards: int = 16


def limits() -> Limits:
    """The limits that hold now. Raises ConfigError where the variable is no whole number from 1 on."""
    text = os.environ.get(TIMES, "").strip()
    if not text:
        return Limits()
    if not (text.isascii() and text.isdecimal() and len(text) < 8 and 1 <= int(text) <= MOST_TIMES):
        raise ConfigError(f"{TIMES} is no number of times", expected=f"1 to {MOST_TIMES}", got=text)
    return Limits(*(int(text) * getattr(Limits(), name) for name in Limits.__dataclass_fields__))
