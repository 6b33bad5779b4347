"""Who and what was seen: by a pretraining, or by a head; and what of it would be seen again in a test.

A record is known by more than its patient: by its name in its source, by checksums of its samples and of its source's
files, and by its signature, which survives filtering and resampling. Where patients are not known, or are hashed with
different keys, the others still tell.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ecgstore import Store
from ecgstore.inner import Withdrawn
from ecgtrain.data.parquet import read_table
from ecgtrain.errors import CheckpointError

#: What is kept of each record that was seen. ``role``: ``train``; ``selection``, something was chosen by it;
#: ``validation``, it was only watched. ``patients``: how its patient's key was made, equal for keys that compare.
COLUMNS: dict[str, pa.DataType] = {
    "record_id": pa.string(),
    "patient_key": pa.string(),
    "source": pa.string(),
    "site": pa.string(),
    "fold": pa.int16(),
    "role": pa.string(),
    "patients": pa.string(),
    "n_samples": pa.int64(),
    "crc32": pa.int64(),
    "source_crc32": pa.int64(),
    "signature": pa.uint64(),
}
_SCHEMA = pa.schema(list(COLUMNS.items()))
#: Stands in the metadata of a table that can't name all.
_MORE = b"more_than_is_known"
#: What tables of before don't have.
_LATER = frozenset({"site", "patients", "n_samples", "crc32", "source_crc32", "signature"})

#: Roles that a test must share nothing with.
LEARNED_FROM = ("train", "selection")

#: Signatures of one signal, filtered or resampled otherwise, differ in at most this many of 64 bits.
NEAR_BITS = 6
#: Of eight bytes, six wrong bits leave two untouched; pairs that agree in two bytes are compared so many at once.
_BYTES, _PAIRS_AT_ONCE = 8, 10_000_000
#: Values of a checksum of 32 bits.
_CHECKSUMS = 2.0**32

Bools = npt.NDArray[np.bool_]
Table = dict[str, npt.NDArray[np.generic]]


def seen_of(store: Store, rows: npt.NDArray[np.int64], role: str) -> pa.Table:
    """What is kept of the records at ``rows`` of ``store``, one row each."""
    records = store.records.take(pa.array(rows))
    n = len(rows)
    given = {
        "role": pa.array([role] * n, pa.string()),
        "patients": pa.array([_hashed_by(store, source) for source in records["source"].to_pylist()], pa.string()),
    }
    return pa.table(
        {
            name: given[name]
            if name in given
            else records[name].cast(kind)
            if name in records.column_names
            else pa.nulls(n, kind)
            for name, kind in COLUMNS.items()
        }
    )


def _hashed_by(store: Store, source: str) -> str:
    """How patients of this store were hashed: by a key of which a check value is known, or by a source's name."""
    check = store.attributes.get("patient_key_check")
    if isinstance(check, str) and check:
        return f"key {check[:100]}"
    return "a secret key" if "secret" in str(store.attributes.get("patients", "")) else f"the name {source}"


def write_seen(path: Path, tables: Iterable[pa.Table], store_fingerprint: str, *, nobody_knows: bool = False) -> None:
    """Write down what was seen; the evaluation's guard against leaks reads this. Raises OSError.

    ``nobody_knows``: more was seen, by the network that training began with, than is written down anywhere.
    """
    tables = list(tables)
    unknown = nobody_knows or any(_MORE in (table.schema.metadata or {}) for table in tables)
    tables = [table.replace_schema_metadata() for table in tables] or [_SCHEMA.empty_table()]
    about = {b"store_fingerprint": store_fingerprint.encode(), **({_MORE: b"yes"} if unknown else {})}
    together = pa.concat_tables(tables).replace_schema_metadata(about)
    aside = path.with_name(f".{path.name}.partial")
    try:
        pq.write_table(together, aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def seen_by_all(tables: Sequence[pa.Table | None]) -> pa.Table | None:
    """What several networks have seen, as one table; None stands for what nobody wrote down."""
    known = [table for table in tables if table is not None]
    if not known:
        return None
    unknown = len(known) < len(tables) or any(_MORE in (table.schema.metadata or {}) for table in known)
    together = pa.concat_tables([table.replace_schema_metadata() for table in known])
    return together.replace_schema_metadata({_MORE: b"yes"} if unknown else None)


def read_seen(path: Path) -> pa.Table:
    """What was written down; raises CheckpointError in one line."""
    try:
        return read_table(path, COLUMNS, _LATER)
    except FileNotFoundError:
        raise CheckpointError("the run doesn't say whom it has seen", where=path, fix="pretrain it again") from None
    except (OSError, ValueError) as error:
        raise CheckpointError("what the run has seen can't be read", where=path, got=str(error)) from error


def seen_by_network(path: Path) -> pa.Table | None:
    """Whom an exported network has seen; None where that was not written down, or a table without a row says so.

    No network is exported that has seen nobody: such a table was emptied. Raises CheckpointError.
    """
    if not path.exists():
        return None
    seen = read_seen(path)
    return seen if seen.num_rows else None


def more_than_is_known(seen: pa.Table) -> tuple[str, ...]:
    """What a result must be read with, where nobody wrote down whom the network had seen before, or wrote nobody."""
    if seen.num_rows and _MORE not in (seen.schema.metadata or {}):
        return ()
    return ("whom the network had seen before this run began with it is not known: no seen.parquet came with it",)


def withdrawn_since(tables: Sequence[pa.Table], store: Store) -> str:
    """What of that which was seen has been withdrawn from ``store`` since, in words; empty where nothing has."""
    withdrawn = Withdrawn.of(store.attributes)
    if not withdrawn or not tables:
        return ""
    found: dict[tuple[str, str | None], set[str]] = {}
    for table in tables:
        said = (table[name].to_pylist() for name in ("record_id", "patient_key", "source", "role"))
        for record_id, patient, source, role in zip(*said, strict=True):
            if withdrawn.names(record_id or "", patient, source or ""):
                found.setdefault((record_id or "", patient), set()).add(role or "")
    if not found:
        return ""
    roles = Counter(role for its in found.values() for role in its)
    patients = {patient for _, patient in found if patient}
    shown = ", ".join(f"{role or 'no stated role'}: {n}" for role, n in sorted(roles.items()))
    return f"{len(found)} records of {len(patients)} named patients ({shown})"


def learned_from(tables: Sequence[pa.Table], roles: Sequence[str] = LEARNED_FROM) -> pa.Table:
    """The records of ``tables`` that something was learned from or chosen by."""
    together = pa.concat_tables(tables)
    kept = np.isin(together["role"].to_numpy(zero_copy_only=False).astype(str), roles)
    return together.filter(pa.array(kept))


def trained_on_before(tables: Sequence[pa.Table], held_out: pa.Table) -> int:
    """How many records of ``held_out``, which choose or only watch, are among those of ``tables`` that taught.

    Another choice by them before does no harm.
    """
    if not tables or not held_out.num_rows:
        return 0
    return int(shared(learned_from(tables, ("train",)), held_out).any.sum())


class Shared(NamedTuple):
    """What a test has in common with what was seen: bool, one for each record of the test, for each way of telling.

    ``alike``: a signal that is near one of a patient who is stated to be another: said, not refused.
    ``patient_keys``: who is on both sides. ``unknown``: what could not be told, in sentences.
    """

    patient: Bools
    name: Bools
    samples: Bools
    signal: Bools
    alike: Bools
    patient_keys: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def any(self) -> Bools:
        """Records of the test that were seen."""
        found: Bools = self.patient | self.name | self.samples | self.signal
        return found

    def in_words(self) -> str:
        """Like: 3 patients."""
        if self.patient_keys:
            return f"{len(self.patient_keys)} patients"
        for found, how in (
            (self.name, "by their names"),
            (self.samples, "by checksums of their samples or files"),
            (self.signal, "by their signatures"),
        ):
            if found.any():
                return f"{int(found.sum())} records (told {how})"
        return "no records"


def shared(seen: pa.Table, tested: pa.Table) -> Shared:
    """What of ``tested`` stands in ``seen`` too; both as :func:`seen_of` makes them."""
    old, new = _columns(seen), _columns(tested)
    # A hash is the same for two keys only by chance, so equal ones count whatever is known of the keys.
    is_patient = (new["patient_key"] != "") & np.isin(new["patient_key"], old["patient_key"])
    is_signal, alike = _signals(old, new)
    return Shared(
        patient=is_patient,
        name=_names(old, new),
        samples=_samples(old, new) | _files(old, new, is_signal | alike),
        signal=is_signal,
        alike=alike,
        patient_keys=tuple(sorted(set(new["patient_key"][is_patient].tolist()))),
        unknown=_unknown(old, new),
    )


def _columns(table: pa.Table) -> Table:
    """Columns as arrays: texts are empty and numbers 0 where they are not known."""
    found: Table = {}
    for name, kind in COLUMNS.items():
        column = table[name].combine_chunks()
        column = column.fill_null("" if pa.types.is_string(kind) else 0)
        found[name] = column.to_numpy(zero_copy_only=False)
        found[name] = found[name].astype(str if pa.types.is_string(kind) else kind.to_pandas_dtype())
    return found


def _samples(old: Table, new: Table) -> Bools:
    """The same samples, by checksum, length and signature. Without one a signal is flat, as others are."""

    def keys(of: Table) -> list[tuple[int, ...]]:
        return list(zip(*(of[name].tolist() for name in ("crc32", "n_samples", "signature")), strict=True))

    known = set(keys(old))
    same = np.fromiter((key in known for key in keys(new)), dtype=np.bool_, count=len(new["crc32"]))
    said: Bools = (new["signature"] != 0) & same
    return said


def _files(old: Table, new: Table, near: Bools) -> Bools:
    """The same file of the source, by a checksum that has 32 bits: told by it alone where chance gives none."""
    known = old["source_crc32"][(old["signature"] != 0) & (old["source_crc32"] != 0)]
    same = (new["signature"] != 0) & (new["source_crc32"] != 0) & np.isin(new["source_crc32"], known)
    by_chance = len(np.unique(known)) * len(new["source_crc32"]) / _CHECKSUMS
    is_more = same.sum() > by_chance + 4 * by_chance**0.5
    said: Bools = same if is_more else same & near
    return said


def _names(old: Table, new: Table) -> Bools:
    """The same name in the same source, unless the signals are evidently two: many folders have a record 00001."""
    signatures: dict[tuple[str, str], list[int]] = {}
    for source, name, signature in zip(old["source"], old["record_id"], old["signature"].tolist(), strict=True):
        signatures.setdefault((source, name), []).append(signature)

    def is_there(source: str, name: str, signature: int) -> bool:
        its = signatures.get((source, name), ())
        return any(not one or not signature or (one ^ signature).bit_count() <= NEAR_BITS for one in its)

    of_all = zip(new["source"], new["record_id"], new["signature"].tolist(), strict=True)
    return np.fromiter((is_there(*one) for one in of_all), dtype=np.bool_, count=len(new["source"]))


def _signals(old: Table, new: Table) -> tuple[Bools, Bools]:
    """Near signatures: where a patient is not known or can't be compared, and where two are stated to differ."""
    is_signal, alike = (np.zeros(len(new["signature"]), dtype=np.bool_) for _ in range(2))
    by = np.where(old["patient_key"] != "", old["patients"], "")
    for key in np.unique(by).tolist():
        near = _near(old["signature"][by == key], new["signature"])
        comparable = (new["patient_key"] != "") & (new["patients"] == key) & (key != "")
        is_signal |= near & ~comparable
        alike |= near & comparable
    return is_signal, alike & ~is_signal


def _near(some: npt.NDArray[np.generic], others: npt.NDArray[np.generic]) -> Bools:
    """Which of ``others`` differ in at most :data:`NEAR_BITS` bits from one of ``some``; 0 is near nothing.

    All such pairs agree in both bytes of one of 28 choices, and only those are compared (Manku, Jain and Das Sarma,
    WWW 2007).
    """
    values, places = np.unique(some[some != 0]).astype(np.uint64), np.flatnonzero(others)
    found = np.zeros(len(others), dtype=np.bool_)
    for first, second in itertools.combinations(range(_BYTES), 2):
        places = places[~found[places]]
        keys, its_keys = (_two_bytes(of, first, second) for of in (values, others[places].astype(np.uint64)))
        order = np.argsort(keys, kind="stable")
        begin, end = (np.searchsorted(keys[order], its_keys, side) for side in ("left", "right"))
        n_pairs = np.cumsum(end - begin)
        for part in np.split(np.arange(len(places)), np.searchsorted(n_pairs, _steps(n_pairs), side="right")):
            n = (end - begin)[part]
            tested = np.repeat(part, n)
            within = np.arange(len(tested)) - np.repeat(np.cumsum(n) - n, n)
            distance = values[order[begin[tested] + within]] ^ others[places[tested]].astype(np.uint64)
            found[places[tested[np.bitwise_count(distance) <= NEAR_BITS]]] = True
    return found


def _steps(n_pairs: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.arange(_PAIRS_AT_ONCE, n_pairs[-1] if len(n_pairs) else 0, _PAIRS_AT_ONCE)


def _two_bytes(values: npt.NDArray[np.uint64], first: int, second: int) -> npt.NDArray[np.uint64]:
    whole, eight = np.uint64(0xFF), np.uint64(8)
    high, low = ((values >> np.uint64(8 * place)) & whole for place in (first, second))
    return high << eight | low


def _unknown(old: Table, new: Table) -> tuple[str, ...]:
    told = []
    for of, whose in ((new, "test"), (old, "training")):
        nobody = int((of["patient_key"] == "").sum())
        if nobody:
            told.append(
                f"whether patients are on both sides is unknown: compared by signature only, and by name and checksum; "
                f"{nobody} of {len(of['patient_key'])} {whose} records name no patient"
            )
    keys = [set(of["patients"][of["patient_key"] != ""].tolist()) for of in (old, new)]
    if keys[0] and keys[1] - keys[0]:
        told.append(
            "whether patients are on both sides is unknown: different keys: patients can't be compared; records were, "
            "by signature, name and checksum only"
        )
    if len(old["n_samples"]) and not old["n_samples"].any():
        told.append("the run was trained by an older version: only patients and names of records were compared")
    return tuple(told)
