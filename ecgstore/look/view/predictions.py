"""What a model says of the records of a store: ``predictions.parquet`` as `ecgtrain predict` writes it.

It is input: bounded, and held to its form before it is used. Only its columns ``record_id`` and ``probability:CLASS``
are read. A class is the code of a statement, alone or behind its system (``scp_ecg:AFIB``); a class that is none of the
store's codes is shown, and compared with nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ecgstore.errors import ConfigError
from ecgstore.storage import validate_tables
from ecgstore.storage.sidecar_tables import content_of
from ecgstore.storage.store import Store
from ecgstore.storage.validate import refuse

_PREFIX = "probability:"
MOST_CLASSES, _MOST_NAME = 500, 200


class Predictions(NamedTuple):
    """``probability_rc`` float32 (records, classes) in the order of the store, NaN where nothing was predicted.

    ``code_c`` says which code each class is, "SYSTEM:CODE", empty for none of the store's. ``disagreement`` (records,)
    is the largest distance of a probability from what is stated (0 or 1), NaN where nothing can be compared;
    ``n_elsewhere`` counts predictions of records that are not in the store.
    """

    classes: tuple[str, ...]
    code_c: tuple[str, ...]
    probability_rc: npt.NDArray[np.float32]
    stated_rc: npt.NDArray[np.bool_]
    disagreement: npt.NDArray[np.float64]
    n_elsewhere: int

    def of(self, row: int) -> list[dict[str, object]]:
        """What is said of one record, the likeliest class first."""
        order = np.argsort(-np.nan_to_num(self.probability_rc[row], nan=-1.0), kind="stable")
        return [
            {
                "class": self.classes[c],
                "code": self.code_c[c],
                "probability": float(self.probability_rc[row, c]),
                "stated": bool(self.stated_rc[row, c]) if self.code_c[c] else None,
            }
            for c in order
            if np.isfinite(self.probability_rc[row, c])
        ]

    def worst(self, row: int) -> dict[str, object] | None:
        """The class on which model and statements disagree most; None where nothing can be compared."""
        compared = [one for one in self.of(row) if one["stated"] is not None]
        return max(compared, key=lambda one: abs(float(one["stated"]) - one["probability"]), default=None)  # type: ignore[arg-type, operator]


def read_predictions(store: Store, path: Path) -> Predictions:
    """Read ``path`` for the records of ``store``.

    Raises ConfigError where there is no such file, or it speaks of no record of the store; StoreFormatError where it is
    no such table.
    """
    content = content_of(path, follow_links=True)
    if content[:4] != b"PAR1":
        refuse("these are no predictions", path, "a Parquet file, as `ecgtrain predict` writes it")
    table = validate_tables.parse_bounded(content, lambda file: _check(file, path), path)
    table = validate_tables.plain_texts(table.select(["record_id", *_columns(table.column_names)]), path)
    row_of = pc.index_in(table["record_id"], value_set=store.records["record_id"].combine_chunks())
    is_here = row_of.is_valid().to_numpy()
    rows = row_of.drop_null().to_numpy().astype(np.int64)
    if len(np.unique(rows)) < len(rows):
        raise ConfigError("a record stands twice among the predictions", where=path)
    if not len(rows):
        raise ConfigError("none of these predictions is of a record of the store", where=f"{path}, for {store.path}")
    columns = _columns(table.column_names)
    probability_rc = np.full((store.n_records, len(columns)), np.nan, dtype=np.float32)
    for c, name in enumerate(columns):
        values = np.asarray(table[name].to_numpy(), dtype=np.float64)[is_here]
        if np.nanmin(values, initial=0.0) < 0 or np.nanmax(values, initial=1.0) > 1:
            refuse("a probability is none", f"{path}, column {name}", "0 to 1")
        probability_rc[rows, c] = values
    classes = tuple(name.removeprefix(_PREFIX) for name in columns)
    code_c, stated_rc = _stated(store, classes)
    disagreement = _disagreement(probability_rc, stated_rc, np.array([bool(code) for code in code_c]))
    return Predictions(classes, code_c, probability_rc, stated_rc, disagreement, int((~is_here).sum()))


def _columns(names: Sequence[str]) -> list[str]:
    return [name for name in names if name.startswith(_PREFIX)]


def _check(file: validate_tables.BoundedFile, path: Path) -> None:
    validate_tables.check_size(file, 1, path)
    schema = file.schema_arrow
    columns = _columns(schema.names)
    if "record_id" not in schema.names or schema.field("record_id").type != pa.string():
        refuse("predictions need a column of texts that says of which record each row is", path, "record_id")
    if not 1 <= len(columns) <= MOST_CLASSES:
        refuse("predictions have another number of classes", path, f"1 to {MOST_CLASSES}", len(columns))
    if len(schema) > 3 * MOST_CLASSES or any(len(name) > _MOST_NAME for name in schema.names):
        refuse("predictions have too many columns, or too long names", path)
    for name in columns:
        if schema.field(name).type not in (pa.float32(), pa.float64()):
            refuse(f"column {name} has a wrong type", path, "float", str(schema.field(name).type))
    for field in schema:
        if pa.types.is_nested(field.type) or pa.types.is_binary(field.type):
            refuse(f"column {field.name} has a wrong type", path, "numbers, texts, true or false", str(field.type))
    validate_tables.check_width(file, path)


def _stated(store: Store, classes: Sequence[str]) -> tuple[tuple[str, ...], npt.NDArray[np.bool_]]:
    """Of each class the code that it is, and which record states it."""
    vocabulary: Mapping[str, Sequence[str]] = store.attributes["vocabulary"]
    code_c = []
    stated_rc = np.zeros((store.n_records, len(classes)), dtype=np.bool_)
    for c, name in enumerate(classes):
        found = [
            f"{system}:{code}"
            for system, codes in sorted(vocabulary.items())
            for code in (name, name.removeprefix(f"{system}:"))
            if code in codes
        ]
        code_c.append(found[0] if found else "")
        if found:
            system, _, code = found[0].partition(":")
            stated_rc[:, c] = store.statement_matrix([code], system)[:, 0]
    return tuple(code_c), stated_rc


def _disagreement(
    probability_rc: npt.NDArray[np.float32], stated_rc: npt.NDArray[np.bool_], is_code_c: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    if not is_code_c.any():
        return np.full(len(probability_rc), np.nan)
    distance_rc = np.abs(probability_rc[:, is_code_c] - stated_rc[:, is_code_c])
    worst = np.fmax.reduce(distance_rc, axis=1)
    return np.asarray(worst, dtype=np.float64)
