"""What signals are called: which names are leads, what a signal is called in a store, and how it is spoken of.

A header is text of somebody else's. The name of a signal may hold anything, a patient's name too, so that warnings and
reasons repeat only names that are known; any other signal is spoken of by its number, from 0 as WFDB counts them.
PTB-XL spells AVR, CinC aVR; PTB writes lower case and adds the Frank leads.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from ecgstore.record import LEADS_12

#: Voltages of the heart that are none of the twelve: recognised, so that they can be left out by name.
OTHER_LEADS = frozenset({"VX", "VY", "VZ", "X", "Y", "Z", "V3R", "V4R", "V5R", "V6R", "V7", "V8", "V9"})
#: Modified leads look like a standard lead and are not one: MIT-BIH's MLII is not II.
MODIFIED_LEADS = frozenset(
    {"MLI", "MLII", "MLIII", *(f"MV{n}" for n in range(1, 7)), "MCL1", "MCL6", "CM2", "CM5", "CC5", "CS5"}
)

_CANONICAL = {name.upper(): name for name in LEADS_12}
_LIMB_NUMBERS = {"1": "I", "2": "II", "3": "III"}
_ALIASES = {
    **{f"{letter}{name}": name for letter in "DL" for name in ("I", "II", "III")},
    **{f"D{n}": name for n, name in _LIMB_NUMBERS.items()},
}
_MODIFIED_ALIASES = {f"ML{n}": f"ML{name}" for n, name in _LIMB_NUMBERS.items()}
# L1 can be the first channel of a recorder, C3 an electrode on the head, VR an unaugmented lead of the 1930s. Beside a
# lead of an unmistakable name they are I, V3 and aVR.
_ALIASES_IN_COMPANY = {
    **{f"L{n}": name for n, name in _LIMB_NUMBERS.items()},
    **{f"C{n}": f"V{n}" for n in range(1, 7)},
    **{f"V{limb}": f"aV{limb}" for limb in "RLF"},
}
_WORD = re.compile(r"(?:MDC_ECG_LEAD|MDC_ECG_ELEC_POTL|LEAD|ECG|EKG)(?:[-:]|[\s_]*)", re.IGNORECASE)
# A sign stands right before the name; a plus may also stand right behind it, where a minus could be a hyphen as well.
_SIGNED = re.compile("([-+\u2212]?)([^-+\u2212]+)\\+?")

#: What else is recorded beside an ECG: known, so that it can be spoken of.
_OTHER_SIGNALS = re.compile(
    r"(?:ECG|EKG|V|MCL|CH|CHAN|CHANNEL|SIGNAL|ABP|ART|BP|NIBP|IBP|UAP|PAP|CVP|RAP|LAP|ICP|RESP|RESPIRATION|IMPEDANCE|"
    r"PLETH|PPG|SPO2|SAO2|SVO2|CO2|ETCO2|HR|PULSE|TEMP|EEG|EOG|EMG|PCG|BCG|SCG|GSR|EDA|ACC|FLOW|PRESSURE|SOUND|SV)"
    r"(?:[ _-]?[0-9]{1,2})?",
    re.IGNORECASE,
)
#: A name that a store takes over for a lead: short, and nothing in it but letters, digits and a few signs.
_STORABLE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 _+./()#-]{0,22}[A-Za-z0-9+)-])?")


@dataclass(frozen=True, slots=True)
class LeadName:
    """A recognised name: ``lead`` is canonical, ``sign`` −1 for an inverted lead, ``standard`` for the twelve."""

    lead: str
    sign: int = 1
    standard: bool = True


def recognise(name: str, in_company: bool = False) -> LeadName | None:
    """Tell which lead ``name`` means; None for a name that is not known to be a lead (never guessed).

    ``in_company`` is whether another signal of the record has the unmistakable name of one of the twelve.
    """
    bare, said_lead = name.strip(), False
    while word := _WORD.match(bare):
        bare, said_lead = bare[word.end() :], said_lead or "LEAD" in word[0].upper()
    match = _SIGNED.fullmatch(bare)
    if match is None:
        return None
    sign = -1 if match[1] not in ("", "+") else 1
    bare = re.sub(r"[\s_]", "", match[2]).upper()
    lead = _CANONICAL.get(bare) or _ALIASES.get(bare)
    if lead is None and in_company:
        lead = _ALIASES_IN_COMPANY.get(bare) or (_LIMB_NUMBERS.get(bare) if said_lead else None)
    if lead is not None:
        return LeadName(lead, sign)
    bare = _MODIFIED_ALIASES.get(bare, bare)
    return LeadName(bare, sign, standard=False) if bare in OTHER_LEADS | MODIFIED_LEADS else None


def recognise_all(names: Sequence[str]) -> tuple[LeadName | None, ...]:
    """:func:`recognise` for all signals of one record, which keep each other company."""
    return _recognise_all(tuple(names))


# Thousands of records share a handful of lead lists.
@lru_cache(maxsize=1024)
def _recognise_all(names: tuple[str, ...]) -> tuple[LeadName | None, ...]:
    alone = tuple(recognise(name) for name in names)
    in_company = any(known is not None and known.standard for known in alone)
    return tuple(recognise(name, in_company=True) for name in names) if in_company else alone


def canonical(names: Sequence[str]) -> tuple[str, ...]:
    """The signals' names as far as they are leads' own; any other as it is spelt."""
    return tuple(
        name.strip() if known is None else known.lead for name, known in zip(names, recognise_all(names), strict=True)
    )


def stored_names(names: Sequence[str]) -> tuple[str, ...]:
    """What the signals of one record are called in a store that keeps all of them.

    Of several signals of one name the second becomes ``ECG 2``, the third ``ECG 3``. Not so the twelve leads: which of
    two signals called II is II can't be told. A name that is no plain short word becomes ``signal`` and its number.
    """
    stored: list[str] = []
    for row, (name, known) in enumerate(zip(canonical(names), recognise_all(names), strict=True)):
        plain = name if known is not None or _STORABLE.fullmatch(name) else f"signal {row}"
        is_the_twelve = known is not None and known.standard
        lead, number = plain, 1
        while lead in stored and not is_the_twelve:
            number += 1
            lead = f"{plain} {number}"
        stored.append(lead)
    return tuple(stored)


def said(names: Sequence[str], row: int) -> str:
    """A signal in words that are no text of the header: a known name, else its number."""
    known, name = recognise_all(names)[row], names[row].strip()
    if known is not None:
        return known.lead if known.sign > 0 else f"-{known.lead}"
    return name if _OTHER_SIGNALS.fullmatch(name) else f"signal {row}"
