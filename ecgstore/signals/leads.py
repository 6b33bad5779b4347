"""Leads by name, never by position: aliases, order, derivation of the limb leads, and the state of each.

Aliases and the order traps they answer: MIMIC-IV-ECG lists aVF before aVL; PTB-XL spells AVR, CinC aVR;
PTB writes lower case and adds the Frank leads; Cabrera layouts hold an inverted aVR.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from ecgstore.errors import RecordError
from ecgstore.record import LEADS_12, LeadState

#: What to do with a signal whose name is not known to be a lead: refuse the record, leave the signal out, or keep it.
ExtraLeads = Literal["refuse", "drop", "keep"]

#: Voltages of the heart that are none of the twelve: recognised, so that they can be left out by name.
OTHER_LEADS = frozenset({"VX", "VY", "VZ", "X", "Y", "Z", "V3R", "V4R", "V5R", "V6R", "V7", "V8", "V9"})
#: Modified leads look like a standard lead and are not one: MIT-BIH's MLII is not II.
MODIFIED_LEADS = frozenset({"MLI", "MLII", "MLIII", "MV1", "MV2", "MV5", "MCL1", "CM5", "CM2"})

_CANONICAL = {name.upper(): name for name in LEADS_12}
_ALIASES = {
    **{f"D{name}": name for name in ("I", "II", "III")},
    **{f"L{name}": name for name in ("I", "II", "III")},
    **{f"D{n}": name for n, name in enumerate(("I", "II", "III"), start=1)},
    **{f"C{n}": f"V{n}" for n in range(1, 7)},
}
_PREFIX = re.compile(r"^(?:MDC_ECG_LEAD_|ECG[ _]|LEAD[ _])+", re.IGNORECASE)

# Einthoven and Goldberger: each as weights of (I, II). Precordial leads can't be derived.
_FROM_I_II = {"III": (-1.0, 1.0), "aVR": (-0.5, -0.5), "aVL": (1.0, -0.5), "aVF": (-0.5, 1.0)}


@dataclass(frozen=True, slots=True)
class LeadName:
    """A recognised name: ``lead`` is canonical, ``sign`` −1 for an inverted lead, ``standard`` for the twelve."""

    lead: str
    sign: int = 1
    standard: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Harmonised:
    """``signal_mv_lt`` in the wanted order (NaN for an absent lead), one state per lead, what was done."""

    signal_mv_lt: npt.NDArray[np.float32]
    states: tuple[LeadState, ...]
    warnings: tuple[str, ...] = ()


def recognise(name: str) -> LeadName | None:
    """Tell which lead ``name`` means; None for a name that is not known to be a lead (never guessed)."""
    bare = _PREFIX.sub("", name.strip())
    sign = -1 if bare.startswith("-") else 1
    bare = re.sub(r"[\s_]", "", bare.strip("+-")).upper()
    lead = _CANONICAL.get(bare) or _ALIASES.get(bare)
    if lead is not None:
        return LeadName(lead, sign)
    if bare in OTHER_LEADS or bare in MODIFIED_LEADS:
        return LeadName(bare, sign, standard=False)
    return None


def used_rows(names: Sequence[str], wanted: Sequence[str], extra: ExtraLeads, record_id: str) -> tuple[int, ...]:
    """Numbers of the signals that :func:`harmonise` would use, from the header alone.

    Raises RecordError: unknown_lead, duplicate_lead, no_leads.
    """
    return _places(names, wanted, extra, record_id).used


def canonical(name: str) -> str:
    """The name under which a signal stands in a store: a recognised lead's own, any other as it is spelt."""
    known = recognise(name)
    return known.lead if known is not None else name.strip()


def harmonise(
    signal_mv_lt: npt.NDArray[np.float32],
    names: Sequence[str],
    *,
    record_id: str,
    wanted: Sequence[str] = LEADS_12,
    extra: ExtraLeads = "refuse",
) -> Harmonised:
    """Put the leads of one record into the ``wanted`` order.

    ``signal_mv_lt`` is (signals, samples) in the order of ``names``. III, aVR, aVL and aVF are derived
    where they are missing and I and II are both there; other missing leads become NaN.

    Raises RecordError: unknown_lead, duplicate_lead, no_leads.
    """
    found = _places(names, wanted, extra, record_id)
    places = found.of
    # Most files are in the wanted order already; the loop then only names the states.
    in_order = [places.get(lead) for lead in wanted] == [(row, 1) for row in range(signal_mv_lt.shape[0])]
    out_lt = signal_mv_lt if in_order else np.full((len(wanted), signal_mv_lt.shape[1]), np.nan, dtype=np.float32)
    states = [LeadState.ABSENT] * len(wanted)
    for j, lead in enumerate(wanted):
        if lead in places:
            row, sign = places[lead]
            if not in_order:
                out_lt[j] = signal_mv_lt[row] if sign > 0 else -signal_mv_lt[row]
            states[j] = LeadState.MEASURED
        elif lead in _FROM_I_II and "I" in places and "II" in places:
            of_i, of_ii = _FROM_I_II[lead]
            (i, sign_i), (ii, sign_ii) = places["I"], places["II"]
            out_lt[j] = of_i * sign_i * signal_mv_lt[i] + of_ii * sign_ii * signal_mv_lt[ii]
            states[j] = LeadState.DERIVED
    warnings = [f"left out: {', '.join(found.left_out)}"] if found.left_out else []
    inverted = [lead for lead in wanted if places.get(lead, (0, 1))[1] < 0]
    warnings += [f"sign turned: {', '.join(inverted)}"] if inverted else []
    return Harmonised(out_lt, tuple(states), tuple(warnings))


def places_of(names: Sequence[str], wanted: Sequence[str], extra: ExtraLeads, record_id: str) -> list[tuple[int, int]]:
    """Per wanted lead its signal number and sign, (-1, 1) where it is absent; nothing is derived.

    Raises RecordError: unknown_lead, duplicate_lead, no_leads.
    """
    places = _places(names, wanted, extra, record_id).of
    if not any(lead in places for lead in wanted):
        raise RecordError(record_id, "no_leads", f"the record has {', '.join(names)}")
    return [places.get(lead, (-1, 1)) for lead in wanted]


@dataclass(frozen=True, slots=True)
class _Places:
    """Where each lead stands, (signal number, sign); signals that are not used; or why the record isn't."""

    of: Mapping[str, tuple[int, int]]
    #: Numbers of the signals that are used, those that others are derived from among them.
    used: tuple[int, ...] = ()
    left_out: tuple[str, ...] = ()
    refusal: tuple[str, str] | None = None


def _places(names: Sequence[str], wanted: Sequence[str], extra: ExtraLeads, record_id: str) -> _Places:
    places = _find_places(tuple(names), tuple(wanted), extra)
    if places.refusal is not None:
        raise RecordError(record_id, *places.refusal)
    return places


# Thousands of records share a handful of lead lists.
@lru_cache(maxsize=1024)
def _find_places(names: tuple[str, ...], wanted: tuple[str, ...], extra: ExtraLeads) -> _Places:
    places: dict[str, tuple[int, int]] = {}
    left_out: list[str] = []
    for row, name in enumerate(names):
        known = recognise(name)
        if known is None and extra == "refuse":
            return _Places({}, refusal=("unknown_lead", repr(name)))
        lead = canonical(name)
        if lead not in wanted and (known is None or not known.standard):
            left_out.append(name)
        elif lead in places:
            return _Places({}, refusal=("duplicate_lead", f"{lead} as {name!r} too"))
        else:
            places[lead] = (row, known.sign if known is not None else 1)
    derivable = places.keys() >= {"I", "II"}
    if not any(lead in places or (derivable and lead in _FROM_I_II) for lead in wanted):
        return _Places({}, refusal=("no_leads", f"the record has {', '.join(names)}"))
    derived = any(lead in _FROM_I_II and lead not in places for lead in wanted)
    needed = (lead for lead in places if lead in wanted or (derived and lead in ("I", "II")))
    return _Places(places, tuple(sorted(places[lead][0] for lead in needed)), tuple(left_out))
