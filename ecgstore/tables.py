"""The tables of a store as Arrow, and their bytes as Parquet. Pure; column names are docs/format.md's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from ecgstore.record import Rejection

if TYPE_CHECKING:
    from ecgstore.plan import Plan, Planned
    from ecgstore.shards import Written

RECORDS_SCHEMA = pa.schema(
    [
        ("record_id", pa.string()),
        ("patient_key", pa.string()),
        ("source", pa.string()),
        ("start", pa.int64()),
        ("n_samples", pa.int64()),
        ("shard", pa.int32()),
        ("fold", pa.int16()),
        ("age_years", pa.float32()),
        ("sex", pa.string()),
        ("lead_states", pa.string()),
        ("n_clipped", pa.int64()),
        ("n_not_recorded", pa.int64()),
        ("source_fs_hz", pa.float64()),
        ("source_crc32", pa.int64()),
        ("crc32", pa.int64()),
        ("warnings", pa.string()),
    ]
)
STATEMENTS_SCHEMA = pa.schema(
    [("row", pa.int64()), ("code", pa.string()), ("system", pa.string()), ("likelihood", pa.float32())]
)
REJECTED_SCHEMA = pa.schema([("record_id", pa.string()), ("reason", pa.string()), ("detail", pa.string())])


def records(
    planned: Sequence[Planned], written: Mapping[str, Written], made: Plan, patient_keys: Mapping[str, str]
) -> pa.Table:
    """One row per record, in the plan's order; the row number is the record's number in the store."""
    outcomes = [written[record.ref.record_id] for record in planned]
    columns = {
        "record_id": [record.ref.record_id for record in planned],
        "patient_key": [patient_keys.get(record.ref.patient_id or "") for record in planned],
        "source": [made.listing.terms.name] * len(planned),
        "start": [record.start for record in planned],
        "n_samples": [record.n_samples for record in planned],
        "shard": [record.start // made.shard_samples for record in planned],
        "fold": [record.ref.fold for record in planned],
        "age_years": [record.ref.age_years for record in planned],
        "sex": [record.ref.sex for record in planned],
        "lead_states": [one.lead_states for one in outcomes],
        "n_clipped": [one.n_clipped for one in outcomes],
        "n_not_recorded": [one.n_not_recorded for one in outcomes],
        "source_fs_hz": [record.header.fs_hz for record in planned],
        "source_crc32": [one.source_crc32 for one in outcomes],
        "crc32": [one.crc32 for one in outcomes],
        "warnings": [one.warnings for one in outcomes],
    }
    return pa.table(columns, schema=RECORDS_SCHEMA)


def statements(planned: Sequence[Planned]) -> pa.Table:
    """One row per statement; ``likelihood`` in percent, null where the source states none."""
    stated = [(row, statement) for row, record in enumerate(planned) for statement in record.ref.statements]
    columns = {
        "row": [row for row, _ in stated],
        "code": [statement.code for _, statement in stated],
        "system": [statement.system for _, statement in stated],
        "likelihood": [statement.likelihood for _, statement in stated],
    }
    return pa.table(columns, schema=STATEMENTS_SCHEMA)


def rejected(rejections: Sequence[Rejection]) -> pa.Table:
    """One row per record that was left out, by record id."""
    ordered = sorted(rejections, key=lambda one: (one.record_id, one.reason))
    columns = {name: [getattr(one, name) for one in ordered] for name in REJECTED_SCHEMA.names}
    return pa.table(columns, schema=REJECTED_SCHEMA)


def to_parquet(table: pa.Table) -> bytes:
    """The table as one Parquet file, the same bytes for the same table."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())


def from_parquet(content: bytes) -> pa.Table:
    """Read such bytes back.

    Not by ``pyarrow.parquet.read_table``: the threads that it leaves behind abort the process at its end, half
    of the times, where torch was imported first (apache/arrow#34314).
    """
    return pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)
