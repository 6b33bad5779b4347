"""What many records of a source have in common and whoever ingests it must know, in one line each."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from ecgstore.record import UNCALIBRATED

#: A suspicion that more than this share of the records are under, and at least two, is about the source.
SHARED, LEAST = 0.05, 2
_LEFT_OUT, _CLIPPED = "left out: ", "were clipped"
_NUMBER_MORE = re.compile(r" and \d+ more$", re.ASCII)
#: Leads that one line names.
_MOST = 8


def notes(suspects: Iterable[str], warnings: Iterable[str]) -> tuple[str, ...]:
    """Lines about records whose ``suspects`` and ``warnings`` these are, as ``records.parquet`` has them."""
    n_records, shared, left_out, n_clipped, n_bare = 0, Counter[str](), Counter[str](), 0, 0
    for suspicions, its_warnings in zip(suspects, warnings, strict=True):
        n_records += 1
        shared.update({kind_of(one) for one in suspicions.split("; ") if one})
        for one in its_warnings.split("; "):
            n_clipped += _CLIPPED in one
            n_bare += one.startswith(UNCALIBRATED)
            left_out.update(signals_left_out(one))
    lines = [
        f"{n} of {n_records} records are under one suspicion, so look at the source: {kind}"
        for kind, n in shared.most_common()
        if n >= LEAST and n > SHARED * n_records
    ]
    if n_clipped > SHARED * n_records:
        lines.append(
            f"{n_clipped} of {n_records} records have samples beyond the range of the store, which were clipped"
        )
    if n_bare:
        lines.append(
            f"{n_bare} of {n_records} records have leads that are not calibrated: their counts are kept, and no "
            "millivolts; --uncalibrated assume=N takes N counts per mV"
        )
    if left_out:
        named = ", ".join(f"{name} of {n}" for name, n in left_out.most_common(_MOST))
        more = "" if len(left_out) <= _MOST else f" and {len(left_out) - _MOST} more"
        lines.append(f"signals left out of {n_records} records: {named}{more}; --extra-leads keep stores them")
    return tuple(lines)


def signals_left_out(warning: str) -> tuple[str, ...]:
    """The signals that a record's warning says were left out, each name once; none if it says something else.

    A record may leave out several signals of one name, and of many says but how many more there are.
    """
    if not warning.startswith(_LEFT_OUT):
        return ()
    return tuple(dict.fromkeys(_NUMBER_MORE.sub("", warning.removeprefix(_LEFT_OUT)).split(", ")))


def kind_of(suspicion: str) -> str:
    """A suspicion without what differs from record to record: numbers, and the leads behind them."""
    return re.sub(r"\b\d[\d.e+-]*", "…", suspicion.partition(":")[0]).partition(" mV in ")[0]
