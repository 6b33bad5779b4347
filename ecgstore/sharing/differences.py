"""Diff: what two stores, or two versions, have in common and what not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ecgstore.errors import StoreNotFound
from ecgstore.sharing import versions
from ecgstore.sharing.address import parse_address
from ecgstore.sharing.opening import open_target
from ecgstore.sharing.target import refuse_no_share
from ecgstore.storage import layout
from ecgstore.storage.store import Store, open_store

#: Where a record lies says nothing of it; its CRC-32 is told apart.
_PLACES = {"record_id", "start", "shard", "crc32"}
#: Attributes that follow from all others.
_FOLLOWS = {"statistics", "plan_sha256", "recipe_sha256"}


@dataclass(frozen=True, slots=True)
class Difference:
    """From ``a`` to ``b``. Of objects paths, of records ids.

    ``columns``: how many records that are in both state something else, by column of records.parquet.
    ``settings``: attributes of the root that differ, each with both values (None where there is none).
    ``counts``: numbers of both.
    """

    fingerprints: tuple[str, str]
    objects_equal: int
    bytes_equal: int
    objects_added: tuple[str, ...]
    objects_removed: tuple[str, ...]
    objects_changed: tuple[str, ...]
    records_added: tuple[str, ...]
    records_removed: tuple[str, ...]
    records_changed: tuple[str, ...]
    columns: Mapping[str, int]
    statements_changed: int
    settings: Mapping[str, tuple[Any, Any]]
    counts: Mapping[str, tuple[float, float]]

    @property
    def same(self) -> bool:
        """Whether it is one and the same store."""
        return self.fingerprints[0] == self.fingerprints[1]


def diff(a: str | Path, b: str | Path) -> Difference:
    """Compare the stores ``a`` and ``b``: folders, addresses, or versions of shares (``URL@TAG``, ``URL@FINGERPRINT``).

    A record has changed where its samples have (its CRC-32), and is counted by column where something else has. Raises
    what :func:`ecgstore.open_store` and :func:`pull` raise.
    """
    store_a, store_b = open_either(a), open_either(b)
    ids_a, ids_b = (store.records["record_id"].to_pylist() for store in (store_a, store_b))
    row_of = {record_id: row for row, record_id in enumerate(ids_b)}
    both = [(row, row_of[record_id]) for row, record_id in enumerate(ids_a) if record_id in row_of]
    rows_a, rows_b = np.array(both, dtype=np.int64).reshape(-1, 2).T
    crc32_a, crc32_b = store_a.column("crc32")[rows_a], store_b.column("crc32")[rows_b]
    in_a, objects_a, objects_b = set(ids_a), store_a.objects, store_b.objects
    equal = [name for name in objects_a if objects_b.get(name) == objects_a[name]]
    return Difference(
        fingerprints=(store_a.fingerprint, store_b.fingerprint),
        objects_equal=len(equal),
        bytes_equal=sum(objects_a[name].size for name in equal),
        objects_added=tuple(sorted(objects_b.keys() - objects_a.keys())),
        objects_removed=tuple(sorted(objects_a.keys() - objects_b.keys())),
        objects_changed=tuple(sorted((objects_a.keys() & objects_b.keys()) - set(equal))),
        records_added=tuple(record_id for record_id in ids_b if record_id not in in_a),
        records_removed=tuple(record_id for record_id in ids_a if record_id not in row_of),
        records_changed=tuple(ids_a[row] for row in rows_a[crc32_a != crc32_b]),
        columns=_columns(store_a.records, store_b.records, rows_a, rows_b),
        statements_changed=_statements_changed(store_a, store_b, rows_a, rows_b),
        settings=_settings(store_a.attributes, store_b.attributes),
        counts=_counts(store_a, store_b),
    )


def open_either(text: str | Path) -> Store:
    """A store, or a version of a share; without a version's name the share's tag ``main``."""
    address = parse_address(text)
    if address.tag is None and address.fingerprint is None:
        if address.kind == "folder" and (Path(address.place) / layout.MANIFEST).exists():
            return open_store(address.place)
        try:
            refuse_no_share(open_target(address))
        except StoreNotFound:
            return open_store(address.place)
    target = open_target(address)
    return versions.open_version(target, versions.fingerprint_at(target, address))


def _columns(
    table_a: pa.Table, table_b: pa.Table, rows_a: npt.NDArray[np.int64], rows_b: npt.NDArray[np.int64]
) -> dict[str, int]:
    found = {}
    for name in table_a.column_names:
        if name in _PLACES or name not in table_b.column_names:
            continue
        column_a, column_b = table_a[name].take(pa.array(rows_a)), table_b[name].take(pa.array(rows_b))
        if column_a.type != column_b.type:
            column_b = column_b.cast(column_a.type)
        one_is_null = pc.xor(pc.is_null(column_a, nan_is_null=True), pc.is_null(column_b, nan_is_null=True))
        differ = pc.and_(pc.not_equal(column_a, column_b), pc.invert(_are_nan(column_a, column_b)))
        n = pc.sum(pc.or_(one_is_null, pc.fill_null(differ, False))).as_py() or 0
        if n:
            found[name] = n
    return found


def _are_nan(column_a: Any, column_b: Any) -> Any:
    if not pa.types.is_floating(column_a.type):
        return pa.scalar(False)
    return pc.and_(pc.is_nan(column_a), pc.is_nan(column_b))


def _statements_changed(
    store_a: Store, store_b: Store, rows_a: npt.NDArray[np.int64], rows_b: npt.NDArray[np.int64]
) -> int:
    stated_a, stated_b = _stated(store_a), _stated(store_b)
    nothing: frozenset[Any] = frozenset()
    pairs = zip(rows_a.tolist(), rows_b.tolist(), strict=True)
    return sum(stated_a.get(row_a, nothing) != stated_b.get(row_b, nothing) for row_a, row_b in pairs)


def _stated(store: Store) -> dict[int, frozenset[Any]]:
    found: dict[int, set[Any]] = {}
    columns = (store.statements[name].to_pylist() for name in ("row", "system", "code", "likelihood"))
    for row, *statement in zip(*columns, strict=True):
        found.setdefault(row, set()).add(tuple(statement))
    return {row: frozenset(its) for row, its in found.items()}


def _settings(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    flat_a, flat_b = (dict(_leaves(its)) for its in (a, b))
    names = sorted(flat_a.keys() | flat_b.keys())
    return {name: (flat_a.get(name), flat_b.get(name)) for name in names if flat_a.get(name) != flat_b.get(name)}


def _leaves(value: Mapping[str, Any], above: str = "") -> Any:
    for name, one in value.items():
        if above or name not in _FOLLOWS:
            if isinstance(one, Mapping):
                yield from _leaves(one, f"{above}{name}.")
            else:
                yield f"{above}{name}", one


def _counts(*stores: Store) -> dict[str, tuple[float, float]]:
    found = []
    for store in stores:
        n_samples, fs_hz = store.column("n_samples"), store.attributes["fs_hz"]
        lasts_s = n_samples / (fs_hz if fs_hz else store.column("source_fs_hz"))
        found.append(
            {
                "records": store.n_records,
                "patients": len(set(store.column("patient_key")) - {""}),
                "hours": round(float(lasts_s.sum()) / 3600, 3),
                "statements": store.statements.num_rows,
                "rejected": store.rejected.num_rows,
                "objects": len(store.objects),
                "bytes": store.n_bytes,
            }
        )
    return {name: (found[0][name], found[1][name]) for name in found[0]}
