"""The guard against leaks: what was learned from, or chosen by, is not tested on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa

from ecgstore.inner import Origin, overlaps_between
from ecgtrain.data.seen import Shared, learned_from, shared
from ecgtrain.errors import LeakageError

#: Of known overlaps and of keys, so many are named.
_NAMED = 3
_ALLOWED, _UNKNOWN = "allowed on request", "whether patients are on both sides is unknown"


def refuse_leaks(seen: Sequence[pa.Table], tested: pa.Table, *, between: str, allow: bool = False) -> tuple[str, ...]:
    """Compare what was seen with what is tested, by patient, name, checksum and signature, and by what sets are known.

    Tables are those of :mod:`ecgtrain.data.seen`. Returns what the result must be read with: what could not be told,
    and, where it is asked for by ``allow``, what is on both sides. Raises LeakageError for the latter otherwise.
    """
    before = learned_from(seen)
    known = [
        f"{one.set_a} and {one.set_b} hold the same records: {one.note}"
        for one in overlaps_between(_origins(before), _origins(tested))
    ]
    found = shared(before, tested)
    if not allow:
        _refuse(known, found, between)
    told = [f"{text} ({_ALLOWED})" for text in dict.fromkeys(known)]
    if found.any.any():
        told.append(
            f"{int(found.any.sum())} of {tested.num_rows} test records, {found.in_words()}, were seen in "
            f"{_first(between)} ({_ALLOWED})"
        )
    if (found.alike & ~found.any).any():
        told.append(
            f"{int((found.alike & ~found.any).sum())} test records look like records of {_first(between)} that are "
            "stated to be of other patients: see `ecgstore overlap`"
        )
    return (*told, *found.unknown)


def are_other_patients(told: Iterable[str]) -> bool:
    """Whether who was tested is known to be somebody else than who was seen, by what :func:`refuse_leaks` told."""
    return not any(_UNKNOWN in text or _ALLOWED in text for text in told)


def _refuse(known: Sequence[str], found: Shared, between: str) -> None:
    if found.any.any():
        keys = found.patient_keys
        some = ", ".join(keys[:_NAMED]) + (", …" if len(keys) > _NAMED else "")
        raise LeakageError(
            f"{found.in_words()} are on both sides of {between}",
            where=some or None,
            fix="use the store's patient-disjoint folds, or leave these records out of training",
        )
    if known:
        raise LeakageError(
            f"sets that are known to share records are on both sides of {between}",
            got="; ".join(dict.fromkeys(known[:_NAMED])),
            fix="leave that set out (data.exclude_sources, data.sites), or allow it on request (allow_overlap)",
        )


def _origins(table: pa.Table) -> Iterable[Origin]:
    pairs = table.select(["source", "site"]).group_by(["source", "site"], use_threads=False).aggregate([]).to_pylist()
    return [Origin(pair["source"] or "", pair["site"] or "") for pair in pairs]


def _first(between: str) -> str:
    return between.partition(" and ")[0].removeprefix("the run's ")
