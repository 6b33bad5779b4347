"""What codes mean: the classes that two challenges score, SCP-ECG and SNOMED CT side by side, classes of beats.

The tables themselves are CSV files in ``ecgstore/vocabularies``, whose README says where they come from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Literal

import numpy as np
import numpy.typing as npt

from ecgstore.errors import ConfigError
from ecgstore.vocabularies import packaged

#: Challenges whose scored classes are known.
YEARS = (2020, 2021)

#: Weight of two different classes of the same p, and the pairs that the official matrix of 2021 sets otherwise.
_SAME_P_WEIGHT = 0.5
_EXCEPTIONS: Mapping[int, Mapping[frozenset[str], float]] = {
    2020: {},
    2021: {
        frozenset({"6374002", "164909002"}): 0.475,  # bundle branch block and left bundle branch block
        frozenset({"251146004", "365413008"}): 0.475,  # low QRS voltages and poor R wave progression
    },
}

AamiClass = Literal["N", "S", "V", "F", "Q"]
Relation = Literal["same", "broader", "synonym"]


@dataclass(frozen=True, slots=True)
class ScoredClass:
    """A SNOMED CT code that a challenge scores.

    ``p`` places it on the line from which the weights are computed; see :func:`challenge_weights`. ``equivalent``
    is the code that it is scored as, None for a class that stands for itself.
    """

    code: str
    abbreviation: str
    name: str
    p: float
    equivalent: str | None = None

    @property
    def scored_as(self) -> str:
        """The code of the class that this one counts as: its equivalent's, or its own."""
        return self.equivalent or self.code


@dataclass(frozen=True, slots=True)
class ScpSnomed:
    """An SCP-ECG statement of PTB-XL and a SNOMED CT code of the challenges that goes with it.

    ``relation``: ``same``, they mean the same; ``broader``, the SNOMED CT code says less than the statement;
    ``synonym``, another code for the same, which the challenges' form of PTB-XL doesn't use. ``checked`` is
    ``co_occurrence`` where records that are in both forms show it, else ``by_name``.
    """

    scp: str
    snomed: str
    snomed_name: str
    relation: Relation
    checked: Literal["co_occurrence", "by_name"]


@cache
def scored_classes(year: int) -> tuple[ScoredClass, ...]:
    """The classes that the PhysioNet/CinC challenge of ``year`` scores: 27 in 2020, 30 in 2021, ordered by p.

    Raises ConfigError for another year.
    """
    if year not in YEARS:
        raise ConfigError(
            "no scored classes are known for this challenge", expected=" or ".join(map(str, YEARS)), got=year
        )
    return tuple(
        ScoredClass(row["snomed"], row["abbreviation"], row["name"], float(row["p"]), row["equivalent"] or None)
        for row in packaged.rows(f"scored_{year}")
    )


@cache
def challenge_weights(year: int, *, merged: bool = False) -> npt.NDArray[np.float64]:
    """The challenge's reward w[i, j] for predicting class j where class i is true; symmetric, read-only.

    Shape (classes, classes) in the order of :func:`scored_classes`; ``merged`` keeps only those that stand for
    themselves: 24 in 2020, 26 in 2021. w is 1 for the same or an equivalent class and 0.5 − |p_i − p_j| for two
    others; that law, found by looking, gives the official matrices except for two pairs of 2021, at 0.475.

    Raises ConfigError for an unknown year.
    """
    classes = [one for one in scored_classes(year) if not (merged and one.equivalent)]
    p_c = np.array([one.p for one in classes])
    # Official weights are decimals of four places; so are these, to the bit.
    weights_cc: npt.NDArray[np.float64] = np.round(_SAME_P_WEIGHT - np.abs(p_c[:, None] - p_c[None, :]), 4)
    for i, one in enumerate(classes):
        for j, other in enumerate(classes):
            if one.scored_as == other.scored_as:
                weights_cc[i, j] = 1.0
            else:
                exception = _EXCEPTIONS[year].get(frozenset({one.scored_as, other.scored_as}))
                weights_cc[i, j] = weights_cc[i, j] if exception is None else exception
    weights_cc.setflags(write=False)
    return weights_cc


@cache
def scp_snomed_pairs() -> tuple[ScpSnomed, ...]:
    """Every known pair of an SCP-ECG statement and a SNOMED CT code, with how they relate and how sure that is."""
    return tuple(ScpSnomed(**row) for row in packaged.rows("scp_snomed"))  # type: ignore[arg-type]


@cache
def scp_to_snomed() -> Mapping[str, str]:
    """SCP-ECG statement → the SNOMED CT code that the challenges' form of PTB-XL states for it.

    The code may say less: eight kinds of infarction become "myocardial infarction". Statements without a code of
    their meaning are absent; so ask with ``get``.
    """
    return MappingProxyType({pair.scp: pair.snomed for pair in scp_snomed_pairs() if pair.relation != "synonym"})


@cache
def snomed_to_scp() -> Mapping[str, str]:
    """SNOMED CT code → the SCP-ECG statement that means the same.

    Codes that say less than any statement are absent: nobody knows which infarction it was.
    """
    return MappingProxyType({pair.snomed: pair.scp for pair in scp_snomed_pairs() if pair.relation != "broader"})


def aami_class(symbol: str) -> AamiClass | None:
    """Class of a beat after ANSI/AAMI EC57 by its WFDB annotation symbol; None for what is not a beat.

    N normal and conduction blocks, S supraventricular ectopic, V ventricular ectopic, F fusion of N and V,
    Q paced, fused with paced, or unclassifiable.
    """
    return _aami_classes().get(symbol)


@cache
def _aami_classes() -> Mapping[str, AamiClass]:
    return {row["symbol"]: row["aami"] for row in packaged.rows("aami_beats")}  # type: ignore[misc]


def is_snomed_ct(code: str) -> bool:
    """Whether a number can be a concept of SNOMED CT: 6 to 18 digits, its kind, and Verhoeff's check digit.

    SNOMED CT identifiers, release file specification, section 3.4: the third and second last digits are 00 or 10 for
    a concept; the last is Verhoeff's (1969), in the dihedral group
    of order 10. One number of 500 passes by chance.
    """
    if not (code.isascii() and code.isdigit() and 6 <= len(code) <= 18) or code[-3:-1] not in ("00", "10"):
        return False
    check, places = 0, [int(digit) for digit in reversed(code)]
    for place, digit in enumerate(places):
        for _ in range(place % 8):
            digit = _TURNS[digit]
        check = _of_dihedral_group(check, digit)
    return check == 0


#: Verhoeff's permutation, taken once more for each place to the left.
_TURNS = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)


def _of_dihedral_group(a: int, b: int) -> int:
    """The product in the group of symmetries of a pentagon: 0 to 4 are rotations, 5 to 9 reflections."""
    if a < 5:
        return (a + b) % 5 if b < 5 else 5 + (a + b) % 5
    return 5 + (a - b) % 5 if b < 5 else (a - b) % 5
