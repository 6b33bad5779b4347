"""Features of every record, or of every window, of a store as one table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ecgstore import ConfigError, Store
from ecgtrain.data.plan import Int64, evaluation_tiles, in_pieces
from ecgtrain.data.values import MAX_WINDOW_SAMPLES
from ecgtrain.errors import ProtocolError
from ecgtrain.representation.export import Trained
from ecgtrain.representation.extract import window_features
from ecgtrain.training.files import TABLE, published

Per = Literal["record", "window"]


@dataclass(frozen=True, slots=True)
class Embedded:
    """``rows``: how many the table has. ``left_out``: ids of records that are shorter than a window."""

    rows: int
    n_features: int
    left_out: tuple[str, ...]


def embed(
    trained: Trained,
    store: Store,
    rows: Int64,
    out: str | Path,
    *,
    per: Per = "record",
    window_s: float | None = None,
    stride_s: float | None = None,
    device: torch.device | str = "cpu",
    tell: Callable[[int, int], None] = lambda done, total: None,
    overwrite: bool = False,
) -> Embedded:
    """Write what the network makes of the records at ``rows`` (ascending) into the Parquet file ``out``.

    Columns: ``record_id``, ``row`` (int64, of the store), of windows ``start_s`` (float64), and ``features``, a
    float32 list of fixed size: the network's pooled features, of a record the mean over its windows. Windows are as
    long as in pretraining, side by side, unless told otherwise. A record shorter than a window is left out.

    Raises PassportError where the store was prepared otherwise, ConfigError (``out`` is taken, or can't be written),
    ProtocolError where no record is left, IntegrityError.
    """
    trained.passport.refuse_other(store)
    window = _samples(window_s, store.fs_hz, "window") or trained.passport.window_samples
    stride = _samples(stride_s, store.fs_hz, "stride") or window
    is_short_n = store.column("n_samples")[rows] < window
    kept, n_features, n_written = rows[~is_short_n], trained.backbone.pooled_width, 0
    left_out = tuple(str(name) for name in store.column("record_id")[rows[is_short_n]])
    if not len(kept):
        what = f"all of {len(rows)} records are shorter than a window" if len(rows) else "no record is selected"
        raise ProtocolError(what, where=store.path, fix="choose other folds, or shorter windows")
    schema = pa.schema(
        [
            ("record_id", pa.string()),
            ("row", pa.int64()),
            *([("start_s", pa.float64())] if per == "window" else []),
            ("features", pa.list_(pa.float32(), n_features)),
        ]
    )
    with published(Path(out), overwrite=overwrite, suffix=TABLE) as aside, pq.ParquetWriter(aside, schema) as writer:
        done = 0
        for part in in_pieces(kept, store.column("n_samples")[kept]):
            table = _table(trained, store, part, schema, window, stride, device)
            writer.write_table(table)
            done, n_written = done + len(part), n_written + table.num_rows
            tell(done, len(kept))
    return Embedded(n_written, n_features, left_out)


def _samples(length_s: float | None, fs_hz: float, what: str) -> int | None:
    """Seconds in samples; raises ConfigError for a length that can't be."""
    if length_s is None:
        return None
    if not 1 <= length_s * fs_hz <= MAX_WINDOW_SAMPLES:
        bounds = f"{1 / fs_hz:g} to {MAX_WINDOW_SAMPLES / fs_hz:g} s"
        raise ConfigError(f"that is no length of a {what}", expected=bounds, got=f"{length_s:g} s")
    return round(length_s * fs_hz)


def _table(
    trained: Trained,
    store: Store,
    rows: Int64,
    schema: pa.Schema,
    window_samples: int,
    stride_samples: int,
    device: torch.device | str,
) -> pa.Table:
    features_nd, record_row_n = window_features(
        trained.backbone,
        store,
        rows,
        passport=trained.passport,
        window_samples=window_samples,
        stride_samples=stride_samples,
        device=device,
    )
    if not np.isfinite(features_nd).all():
        raise ProtocolError("features must be numbers", where=store.path, got="some that are none")
    columns: dict[str, pa.Array] = {}
    if "start_s" in schema.names:
        lengths = store.column("n_samples")[rows].tolist()
        starts = [evaluation_tiles(int(n), window_samples, stride_samples) for n in lengths]
        columns["start_s"] = pa.array(np.concatenate(starts) / store.fs_hz)
    else:
        record_row_n, first, n_windows = np.unique(record_row_n, return_index=True, return_counts=True)
        sums_nd = np.add.reduceat(features_nd, first, axis=0, dtype=np.float64)
        features_nd = (sums_nd / n_windows[:, None]).astype(np.float32)
    columns["record_id"] = pa.array([str(name) for name in store.column("record_id")[record_row_n]])
    columns["row"] = pa.array(record_row_n)
    flat = pa.array(np.ascontiguousarray(features_nd).reshape(-1))
    columns["features"] = pa.FixedSizeListArray.from_arrays(flat, features_nd.shape[1])
    return pa.table([columns[name] for name in schema.names], schema=schema)
