"""Leads by name, never by position: order, derivation of the limb leads, and the state of each.

Order traps: MIMIC-IV-ECG lists aVF before aVL; Cabrera layouts hold an inverted aVR.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Literal

import numpy as np
import numpy.typing as npt

from ecgstore.errors import RecordError
from ecgstore.record import LEADS_12, LeadState
from ecgstore.signals.names import canonical, recognise_all, said, stored_names

#: What to do with a signal whose name is not known to be a lead: refuse the record, leave the signal out, or keep it.
ExtraLeads = Literal["refuse", "drop", "keep"]

#: Einthoven and Goldberger: every limb lead as a sum of I and II, by their weights. Precordial leads can't be derived.
LIMB_LEADS: Mapping[str, tuple[float, float]] = {
    "I": (1.0, 0.0),
    "II": (0.0, 1.0),
    "III": (-1.0, 1.0),
    "aVR": (-0.5, -0.5),
    "aVL": (1.0, -0.5),
    "aVF": (-0.5, 1.0),
}
#: A lead that spans less than this never changes: it is one count of a store.
LEAST_SPAN_MV = 1e-3
#: Signals that a warning names one by one.
MOST_SAID = 12

Signal = npt.NDArray[np.float32]
Pair = tuple[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class Harmonised:
    """``signal_mv_lt`` in the wanted order (NaN for an absent lead), one state per lead, what was done.

    ``derived_from`` are the two limb leads that the derived ones were made of, if any were.
    """

    signal_mv_lt: Signal
    states: tuple[LeadState, ...]
    warnings: tuple[str, ...] = ()
    derived_from: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Arranged:
    """Where the leads of a record stand among its signals, by its header alone.

    ``places`` has per lead its signal's number and its sign; ``pairs`` the pairs of limb leads that wanted ones can be
    derived from, the best first, none where nothing need be derived; ``used`` the numbers of the signals wanted.
    ``in_order``: the signals are the wanted leads, one after the other.
    """

    places: Mapping[str, tuple[int, int]]
    pairs: tuple[Pair, ...] = ()
    used: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()
    in_order: bool = False

    @property
    def sources(self) -> tuple[int, ...]:
        """Numbers of the signals that leads can be derived from."""
        return tuple(sorted({self.places[lead][0] for pair in self.pairs for lead in pair}))


def arrange(names: Sequence[str], wanted: Sequence[str], extra: ExtraLeads, record_id: str) -> Arranged:
    """Find the ``wanted`` leads among the signals called ``names``.

    Raises RecordError: unknown_lead, duplicate_lead, no_leads.
    """
    found = _arrange(tuple(names), tuple(wanted), extra)
    if not isinstance(found, Arranged):
        raise RecordError(record_id, *found)
    return found


def harmonise(
    signal_mv_lt: Signal,
    names: Sequence[str],
    *,
    record_id: str,
    wanted: Sequence[str] = LEADS_12,
    extra: ExtraLeads = "refuse",
    dead: Set[int] | None = None,
) -> Harmonised:
    """Put the leads of one record into the ``wanted`` order.

    ``signal_mv_lt`` is (signals, samples) in the order of ``names``. A missing limb lead is derived where any two
    others are there: from the first two that are alive, and where there are no such two it is bad. ``dead`` are the
    numbers of the signals that never change: of a piece only the whole record tells. Other missing leads become NaN.

    Raises RecordError: unknown_lead, duplicate_lead, no_leads.
    """
    found = arrange(names, wanted, extra, record_id)
    # Most files are in the wanted order already.
    if found.in_order:
        return Harmonised(signal_mv_lt, (LeadState.MEASURED,) * len(wanted), found.warnings)
    places = found.places
    out_lt = np.full((len(wanted), signal_mv_lt.shape[1]), np.nan, dtype=np.float32)
    states = [LeadState.ABSENT] * len(wanted)
    if dead is None:
        dead = {row for row in found.sources if is_dead(signal_mv_lt[row])}
    pair = _best_pair(found, dead)
    for j, lead in enumerate(wanted):
        if lead in places:
            row, sign = places[lead]
            out_lt[j] = signal_mv_lt[row] if sign > 0 else -signal_mv_lt[row]
            states[j] = LeadState.MEASURED
        elif pair is not None and lead in LIMB_LEADS:
            (row_a, sign_a), (row_b, sign_b) = places[pair[0]], places[pair[1]]
            of_a, of_b = weights_of(lead, pair)
            out_lt[j] = of_a * sign_a * signal_mv_lt[row_a] + of_b * sign_b * signal_mv_lt[row_b]
            states[j] = LeadState.BAD if not dead.isdisjoint((row_a, row_b)) else LeadState.DERIVED
    return Harmonised(out_lt, tuple(states), found.warnings, pair or ())


def _best_pair(found: Arranged, dead: Set[int]) -> Pair | None:
    """The first of the pairs with two leads that are alive; the first of all where there is none."""
    alive = (pair for pair in found.pairs if not any(found.places[lead][0] in dead for lead in pair))
    return next(alive, found.pairs[0] if found.pairs else None)


def is_dead(signal_mv_t: Signal) -> bool:
    """Whether a lead never changes, or has no sample."""
    highest_mv, lowest_mv = np.fmax.reduce(signal_mv_t), np.fmin.reduce(signal_mv_t)
    return not highest_mv - lowest_mv >= LEAST_SPAN_MV


def weights_of(lead: str, pair: Pair) -> tuple[float, float]:
    """A limb lead as a sum of two others: (a, b) for a · first + b · second."""
    (a_i, a_ii), (b_i, b_ii), (i, ii) = LIMB_LEADS[pair[0]], LIMB_LEADS[pair[1]], LIMB_LEADS[lead]
    area = a_i * b_ii - a_ii * b_i
    return (i * b_ii - ii * b_i) / area, (a_i * ii - a_ii * i) / area


# Thousands of records share a handful of lead lists.
@lru_cache(maxsize=1024)
def _arrange(names: tuple[str, ...], wanted: tuple[str, ...], extra: ExtraLeads) -> Arranged | tuple[str, str]:
    """Where the leads are, or why the record can't be used: reason and detail."""
    known = recognise_all(names)
    places: dict[str, tuple[int, int]] = {}
    left_out: list[int] = []
    keeps_all = extra == "keep"
    stored = stored_names(names) if keeps_all else canonical(names)
    for row, lead in enumerate(stored):
        its = known[row]
        if its is None and extra == "refuse":
            return "unknown_lead", f"{said(names, row)} is not a lead: --extra-leads drop leaves it out, keep stores it"
        if lead not in wanted and (its is None or not its.standard):
            left_out.append(row)
        elif lead in places:
            return "duplicate_lead", f"{lead} is the name of signals {places[lead][0]} and {row}"
        else:
            places[lead] = (row, its.sign if its is not None else 1)
    limb = [lead for lead in LIMB_LEADS if lead in places]
    lacks = any(lead in LIMB_LEADS and lead not in places for lead in wanted)
    pairs = tuple(combinations(limb, 2)) if lacks else ()
    if not pairs and not any(lead in places for lead in wanted):
        return "no_leads", f"{_all_said(names, range(len(names)))} and none of the leads wanted"
    of_pairs = {lead for pair in pairs for lead in pair}
    used = tuple(sorted(row for lead, (row, _) in places.items() if lead in wanted or lead in of_pairs))
    warnings = [f"left out: {_all_said(names, left_out)}"] if left_out else []
    inverted = [lead for lead in wanted if places.get(lead, (0, 1))[1] < 0]
    warnings += [f"sign turned: {', '.join(inverted)}"] if inverted else []
    renamed = [row for row, (own, lead) in enumerate(zip(canonical(names), stored, strict=True)) if own != lead]
    warnings += [f"named anew: {', '.join(_renamed(names, row, stored[row]) for row in renamed)}"] if renamed else []
    in_order = [places.get(lead) for lead in wanted] == [(row, 1) for row in range(len(names))]
    return Arranged(places, pairs, used, tuple(warnings), in_order)


def _renamed(names: Sequence[str], row: int, lead: str) -> str:
    # The new name holds the old one, which may be anybody's words.
    return f"signal {row}" if said(names, row) == f"signal {row}" else f"signal {row} as {lead}"


def _all_said(names: Sequence[str], rows: Sequence[int]) -> str:
    """Signals in words; of many the first few, for nobody reads hundreds."""
    some = ", ".join(said(names, row) for row in rows[:MOST_SAID])
    return some if len(rows) <= MOST_SAID else f"{some} and {len(rows) - MOST_SAID} more"
