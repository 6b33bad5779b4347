"""A number of the table of records is predicted, such as ``{kind: regression, column: age_years}``.

A record that doesn't state it takes no part, and neither does one outside ``lowest`` and ``highest``.
"""

from __future__ import annotations

import re
from typing import Annotated, Self

import numpy as np
from pydantic import Field, FiniteFloat, model_validator

import ecgstore
from ecgstore import ConfigError, Store
from ecgstore.inner import nearest
from ecgtrain.errors import ProtocolError
from ecgtrain.tasks import Targets

DESCRIPTION = "a number of the table of records: {kind: regression, column: age_years}"

#: What the end of a column's name says of its unit.
_UNITS = {"years": "years", "bpm": "bpm", "mv": "mV", "hz": "Hz", "s": "s", "ms": "ms", "mm": "mm", "db": "dB"}
#: Numbers that say where a record stands or how it was stored, and nothing of the heart.
_NOT_OF_THE_HEART = frozenset({"start", "shard", "fold", "signature", "source_crc32", "crc32", "source_fs_hz"})


class Settings(ecgstore.Settings):
    """``column``: of the store's table of records. ``lowest``, ``highest``: of the numbers that take part."""

    column: Annotated[str, Field(min_length=1)]
    lowest: FiniteFloat | None = None
    highest: FiniteFloat | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.lowest is not None and self.highest is not None and self.lowest >= self.highest:
            raise ValueError("lowest must be below highest")
        return self


def targets(store: Store, settings: Settings) -> Targets:
    """Targets for every record of ``store``.

    Raises ConfigError for a column that is no number, ProtocolError for one that no record states.
    """
    value_n = _numbers(store, settings.column)
    known_n = np.isfinite(value_n)
    if not known_n.any():
        raise ProtocolError(
            f"no record states {settings.column}", where=store.path, fix="choose another column, or ingest with it"
        )
    inside_n = known_n.copy()
    if settings.lowest is not None:
        inside_n &= value_n >= settings.lowest
    if settings.highest is not None:
        inside_n &= value_n <= settings.highest
    outside = int((known_n & ~inside_n).sum())
    ending = re.search("_([a-z]+)$", settings.column)
    return Targets(
        task="regression",
        classes=(settings.column,),
        y_nc=np.where(inside_n, value_n, np.nan)[:, None],
        rows_with_label=np.flatnonzero(inside_n),
        titles={settings.column: settings.column.replace("_", " ")},
        caveats=(f"{outside} records took no part: their {settings.column} is out of bounds",) if outside else (),
        kind="regression",
        unit=_UNITS.get(ending[1], "") if ending else "",
    )


def _numbers(store: Store, column: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """A column as float64, NaN where it states nothing."""
    import pyarrow as pa

    table = store.records
    numbers = [
        field.name
        for field in table.schema
        if (pa.types.is_floating(field.type) or pa.types.is_integer(field.type)) and field.name not in _NOT_OF_THE_HEART
    ]
    if column in store.attributes["vocabulary"]:
        raise ConfigError(
            f"{column!r} holds codes, and no numbers",
            where=store.path,
            fix=f"ask for them: {{kind: statements, system: {column}}}",
        )
    if column not in table.column_names:
        near = nearest(column, numbers)
        raise ConfigError(
            f"no column {column!r} in the table of records",
            where=store.path,
            fix=f"did you mean {near}?" if near else f"numbers are {', '.join(numbers)}",
        )
    if column not in numbers:
        kind = table.schema.field(column).type
        raise ConfigError(
            f"the column {column!r} can't be predicted as a number",
            where=store.path,
            got="where or how records are stored" if column in _NOT_OF_THE_HEART else str(kind),
            expected=f"one of {', '.join(numbers)}",
            fix="for text, ask for statements" if column not in _NOT_OF_THE_HEART else None,
        )
    return np.array([np.nan if one is None else one for one in table[column].to_pylist()], dtype=np.float64)
